"""What rests after a failure, for how long, and what the failure says of the API."""

import pytest

from exporter.api.catalog import Lookup
from exporter.drops.warmup import WarmupRequest
from exporter.errors import (
    ApiError,
    BadRequest,
    MalformedAnswer,
    NoAnswer,
    NotFound,
    RateLimited,
    RefusedError,
    ServerError,
    SignInFailed,
    Unauthorized,
)
from exporter.model import Group, MinuteRange, Stream, Target
from exporter.polling.backoff import RELEASED, STRIKES, Backoff, Failure, Task


def stream(media_id: str, target: Target = Target.PLAY_COUNT) -> Stream:
    return Stream("m", media_id, target, Group.ALL)


ALL, A, B = stream(""), stream("a"), stream("b")
A_TIME = stream("a", Target.PLAY_TIME)
LOOKUP = Lookup("a")
EVENT = Lookup("a", "ev")
BAD = BadRequest("no such target", status=400)
GONE = NotFound("no such media", status=404)
DOWN = NoAnswer("timed out")
REFUSED = Unauthorized("no permission", status=401)
FORBIDDEN = RefusedError("no permission", status=403)
BUSY = ServerError("busy", status=503, retry_after=600)
NO_TOKEN = SignInFailed("check the password", code="401", refused=True)


def past(first: int) -> WarmupRequest:
    return WarmupRequest(A, MinuteRange(first, 1000), hourly=False)


def rest_of(rests: Backoff, task: Stream, error: ApiError, now: float) -> float:
    """How long a stream that fails at a moment is left alone, in whole 15 seconds."""
    rests.failed(task, error, now)
    seconds = 0.0
    while rests.rests(task, now + seconds):
        seconds += 15
    return seconds


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (BAD, [60, 120, 240, 480, 960, 1800, 1800]),
        (MalformedAnswer("not JSON"), [60, 120, 240, 480, 960, 1800, 1800]),
        (GONE, [900, 1800, 3600, 7200, 14400, 21600, 21600]),
        (DOWN, [45, 90, 180, 360, 720, 900, 900]),
        (ServerError("internal", status=500), [45, 90, 180, 360, 720, 900, 900]),
        (FORBIDDEN, [60, 120, 240, 480, 960, 1800, 1800]),
        (REFUSED, [60, 120, 240, 480, 960, 1800, 1800]),
    ],
)
def test_a_rest_is_twice_as_long_each_time(error: ApiError, expected: list[float]) -> None:
    """Each failure doubles a stream's rest up to the longest of its kind, and other streams do not rest."""
    rests = Backoff(ALL)
    now, seen = 1000.0, []
    for _ in expected:
        seen.append(rest_of(rests, A, error, now))
        now += seen[-1]
    assert seen == expected
    assert not rests.rests(B, 1000)


@pytest.mark.parametrize(("retry_after", "expected"), [(0.0, 45), (30.0, 45), (600.0, 600), (1e9, 3600)])
def test_a_rest_is_as_long_as_the_answer_asks(retry_after: float, expected: float) -> None:
    """A stream whose own answer asks to be left alone is, for an hour at most."""
    assert rest_of(Backoff(ALL), A, ServerError("busy", status=503, retry_after=retry_after), 0) == expected


def test_many_that_fail_take_a_request_a_minute_together() -> None:
    """Where 90 streams fail for ever, their rests grow until one of them is asked for in a minute."""
    rests = Backoff(ALL)
    streams = [stream(f"m{number}") for number in range(90)]
    asked = 0
    for minute in range(24 * 60):
        for each in streams:
            if not rests.rests(each, minute * 60):
                asked += minute >= 12 * 60
                rests.failed(each, FORBIDDEN, minute * 60)
    assert asked <= 12 * 60 * 1.1


def test_an_answer_ends_the_rest() -> None:
    """After an answer nothing rests, no fault goes on, and the next failure is the first again."""
    rests = Backoff(ALL)
    for error in (BAD, BAD, DOWN):
        rests.failed(A, error, 0)
    assert rests.faults
    rests.answered(A)
    assert not rests.rests(A, 1)
    assert rests.faults == set()
    assert rest_of(rests, A, BAD, 10) == 60


def test_an_answer_lets_others_that_failed_alike_be_asked_for() -> None:
    """What ended for one stream has often ended for all: two others of its kind are asked for at once, and two more
    when those are answered. If it has not ended for them, they rest for as long as they would have.
    """
    rests = Backoff(ALL)
    alike = [stream(f"m{number}") for number in range(9)]
    for time in range(3):
        for each in alike:
            rests.failed(each, FORBIDDEN, 1000 + time)
    rests.failed(B, BAD, 1000)
    rests.answered(alike[0])
    asked = [each for each in alike[1:] if not rests.rests(each, 1003)]
    assert len(asked) == RELEASED == 2
    rests.answered(asked[0])
    assert sum(not rests.rests(each, 1003) for each in alike[1:]) == 4
    assert rests.rests(B, 1003)
    assert rest_of(rests, asked[1], FORBIDDEN, 1003) == 480


def test_a_media_that_is_gone_is_gone_for_all_its_streams() -> None:
    """A 404 lets all streams of the media rest, is one fault, and an answer for any of them ends that."""
    rests = Backoff(ALL)
    failure = rests.failed(A, GONE, 0)
    assert failure == Failure("NotFound", "media a", "no such media")
    assert (rests.rests(A_TIME, 899), rests.rests(A_TIME, 900), rests.rests(B, 0)) == (True, False, False)
    assert rests.failed(A_TIME, GONE, 900) == failure
    rests.answered(A_TIME)
    assert not rests.rests(A, 901)
    assert rests.faults == set()


@pytest.mark.parametrize("error", [BAD, MalformedAnswer("not JSON"), GONE, DOWN, REFUSED])
def test_the_pace_maker_never_rests(error: ApiError) -> None:
    """Whatever the whole merchant's plays are answered with, they are asked for again."""
    rests = Backoff(ALL)
    for _ in range(5):
        rests.failed(ALL, error, 0)
        rests.api_failed([(ALL, error)])
        assert rests.pace_maker_fails
    assert not rests.rests(ALL, 0)
    rests.answered(ALL)
    assert rests.faults == set()
    assert not rests.pace_maker_fails


@pytest.mark.parametrize("error", [DOWN, FORBIDDEN, REFUSED, BAD, GONE, MalformedAnswer("not JSON")])
def test_every_failure_is_a_strike_against_the_api(error: ApiError) -> None:
    """No status tells whether the API is down: each is a strike, answered before or not, but for a stream, or one of
    a media, that rests already, while others are answered.
    """
    rests = Backoff(ALL)
    assert [rests.strikes(A, error, answered=answered) for answered in (False, True)] == [1, 1]
    rests.failed(A, error, 0)
    assert [rests.strikes(A, error, answered=answered) for answered in (False, True)] == [1, 0]
    assert rests.strikes(A_TIME, error, answered=True) == (0 if error is GONE else 1)


def test_some_failures_raise_the_question_at_once() -> None:
    """One answer with Retry-After is enough, and so is a request for a token that failed. But where the pace maker
    fails in any case, such an answer is one strike.
    """
    rests = Backoff(ALL)
    assert rests.strikes(A, BUSY, answered=False) == rests.strikes(A, BUSY, answered=True) == STRIKES
    assert rests.strikes(A, NO_TOKEN, answered=False) == rests.strikes(LOOKUP, NO_TOKEN, answered=True) == STRIKES
    rests.api_failed([(ALL, DOWN)])
    assert rests.strikes(A, BUSY, answered=False) == 1


@pytest.mark.parametrize(
    ("task", "error", "answered", "strikes"),
    [
        (LOOKUP, DOWN, True, 1),
        (LOOKUP, DOWN, False, 0),
        (LOOKUP, GONE, True, 1),
        (LOOKUP, BUSY, True, STRIKES),
        (LOOKUP, BUSY, False, 0),
        (past(1), DOWN, True, 1),
        (past(1), BAD, True, STRIKES),
        (past(1), BAD, False, 0),
    ],
)
def test_a_lookup_and_the_past_are_on_their_own(task: Task, error: ApiError, answered: bool, strikes: int) -> None:
    """The catalog and the past can be closed to the account while the counting goes on: they say something only while
    streams are answered, and only the first time. Retry-After, and a 400 by which the past would be given up, raise the
    question at once.
    """
    rests = Backoff(ALL)
    assert rests.strikes(task, error, answered=answered) == strikes
    rests.failed(task, error, 0)
    assert rests.strikes(task, error, answered=answered) == (strikes if strikes == STRIKES else 0)


@pytest.mark.parametrize("task", [LOOKUP, past(1)])
@pytest.mark.parametrize(("error", "strikes"), [(DOWN, 1), (REFUSED, 1), (FORBIDDEN, 1), (GONE, 0)])
def test_a_lookup_and_the_past_strike_against_their_kind(task: Task, error: ApiError, strikes: int) -> None:
    """What can be the fault of the whole catalog, or of all of the past, counts; what is not found does not."""
    assert Backoff(ALL).failed(task, error, 0).strikes == strikes


def test_while_the_api_is_down_nothing_begins_to_rest() -> None:
    """A failure of the whole API is one fault for each kind, whatever was asked for, until any stream is answered."""
    rests = Backoff(ALL)
    failures = rests.api_failed([(ALL, GONE), (A, GONE), (B, DOWN)])
    assert failures == [Failure("API NotFound", "", "no such media"), Failure("API NoAnswer", "", "timed out")]
    assert rests.faults == {("API NotFound", ""), ("API NoAnswer", "")}
    rests.answered(LOOKUP)
    assert rests.faults
    rests.answered(ALL)
    assert rests.faults == set()
    assert not rests.rests(A, 0)


def test_what_failed_while_nothing_was_answered_waits_for_the_others() -> None:
    """It is set aside until a stream is answered, or until nothing else is left to ask for."""
    rests = Backoff(ALL)
    assert not rests.take_back()
    rests.api_failed([(ALL, DOWN), (A, DOWN)])
    assert (rests.rests(A, 0), rests.rests(B, 0)) == (True, False)
    assert rests.take_back()
    assert not rests.rests(A, 0)
    rests.api_failed([(A, DOWN)])
    rests.answered(B)
    assert not rests.rests(A, 0)


def test_an_outage_of_the_pace_maker_forgives_what_began_in_it() -> None:
    """When the pace maker has failed and is answered again, that was the API: what began to rest since its last answer
    is forgotten. What rested before goes on.
    """
    rests = Backoff(ALL)
    rests.failed(A, GONE, 0)
    rests.answered(ALL)
    rests.failed(B, GONE, 60)
    rests.api_failed([(ALL, GONE)])
    rests.failed(stream("c"), BAD, 61)
    rests.answered(ALL)
    assert [rests.rests(stream(media_id), 62) for media_id in "abc"] == [True, False, False]
    assert rests.faults == {("NotFound", "media a")}


def test_a_pace_maker_that_is_answered_all_the_time_forgives_nothing() -> None:
    """Where it has not failed, what failed did so by itself."""
    rests = Backoff(ALL)
    rests.answered(ALL)
    rests.failed(A, GONE, 0)
    rests.answered(ALL)
    rests.api_failed([(ALL, DOWN)])
    rests.answered(ALL)
    assert rests.rests(A, 1)


def test_a_renewed_token_forgives_what_the_old_one_was_refused() -> None:
    """Only refusals are forgiven, and only those that began since the pace maker's last answer."""
    rests = Backoff(ALL)
    rests.failed(A, REFUSED, 0)
    rests.answered(ALL)
    rests.failed(B, REFUSED, 0)
    rests.failed(stream("c"), BAD, 0)
    rests.token_renewed()
    assert [rests.rests(stream(media_id), 1) for media_id in "abc"] == [True, False, True]


def test_a_pause_is_a_fault_from_the_second_failure_on() -> None:
    """One failure can be the beginning of an outage; a stream that fails again by itself goes on failing until it is
    answered.
    """
    rests = Backoff(ALL)
    failure = rests.failed(A, DOWN, 0)
    assert failure == Failure("NoAnswer", "", "a/play_count/all: timed out")
    assert rests.faults == set()
    rests.failed(A, DOWN, 60)
    assert rests.faults == {("NoAnswer", "")}
    rests.answered(B)
    assert rests.faults == {("NoAnswer", "")}
    rests.answered(A)
    assert rests.faults == set()


@pytest.mark.parametrize(("error", "key"), [(FORBIDDEN, "RefusedError 403"), (REFUSED, "Unauthorized")])
def test_a_refused_stream_is_told_by_name(error: ApiError, key: str) -> None:
    """What an account may not see is told for each stream from the first failure on."""
    rests = Backoff(ALL)
    assert rests.failed(A, error, 0) == Failure(key, "a/play_count/all", "no permission")
    assert rests.faults == {(key, "a/play_count/all")}


def test_too_many_requests_are_a_fault_until_an_answer() -> None:
    """While a 429 is waited for, nothing is reported, and it is not over."""
    rests = Backoff(ALL)
    assert rests.limited(RateLimited("slow down")) == Failure("RateLimited", "", "slow down")
    assert rests.faults == {("RateLimited", "")}
    rests.answered(A)
    assert rests.faults == set()


def test_a_medias_answer_ends_the_faults_of_its_live_events() -> None:
    """An answer for the live event ends only its own fault; one for the media those of all its live events, for it may
    have another now.
    """
    no_answer, internal = ("Lookup NoAnswer", ""), ("Lookup ServerError", "")
    for answered, left in ((EVENT, {no_answer}), (LOOKUP, set())):
        rests = Backoff(ALL)
        rests.failed(LOOKUP, DOWN, 0)
        rests.failed(EVENT, ServerError("internal", status=500), 0)
        assert rests.faults == {no_answer, internal}
        rests.answered(answered)
        assert rests.faults == left


def test_the_same_past_may_be_asked_for_by_another_range() -> None:
    """A fault of the past ends with an answer for any range of it, and not with one for the stream itself."""
    rests = Backoff(ALL)
    rests.failed(past(1), DOWN, 0)
    rests.answered(A)
    assert rests.faults == {("WarmupRequest NoAnswer", "")}
    rests.answered(past(500))
    assert rests.faults == set()


def test_what_is_not_found_of_the_whole_merchant_is_one_streams_fault() -> None:
    """The whole merchant is no media that can be gone: its other streams go on, and its plays above all."""
    rests = Backoff(ALL)
    time_of_all = stream("", Target.PLAY_TIME)
    failure = rests.failed(time_of_all, GONE, 0.0)
    assert failure == Failure("NotFound", str(time_of_all), "no such media")
    assert rests.rests(time_of_all, 1.0)
    assert not rests.rests(ALL, 1.0)
    assert not rests.rests(stream("", Target.DEVICE_COUNT), 1.0)


def test_a_lookup_is_told_in_words() -> None:
    """A log line names the media or the live event that could not be looked up."""
    rests = Backoff(ALL)
    assert rests.failed(LOOKUP, BAD, 0.0) == Failure("BadRequest", "media a", "no such target")
    assert rests.failed(EVENT, BAD, 0.0) == Failure("BadRequest", "live event ev", "no such target")
