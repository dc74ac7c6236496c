"""The backoff after a failure, and what the failure shows about the API."""

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
from exporter.polling.backoff import RELEASED, SUSPICION_LIMIT, Backoff, Failure, Task


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


def history(first: int) -> WarmupRequest:
    return WarmupRequest(A, MinuteRange(first, 1000), hourly=False)


def backoff_of(backoff: Backoff, task: Stream, error: ApiError, now: float) -> float:
    """The backoff of a stream that fails now, in whole 15 seconds."""
    backoff.failed(task, error, now)
    seconds = 0.0
    while backoff.in_backoff(task, now + seconds):
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
def test_each_failure_doubles_the_backoff(error: ApiError, expected: list[float]) -> None:
    """Each failure doubles a stream's backoff up to the longest of its kind; other streams have none."""
    backoff = Backoff(ALL)
    now, seen = 1000.0, []
    for _ in expected:
        seen.append(backoff_of(backoff, A, error, now))
        now += seen[-1]
    assert seen == expected
    assert not backoff.in_backoff(B, 1000)


@pytest.mark.parametrize(("retry_after", "expected"), [(0.0, 45), (30.0, 45), (600.0, 600), (1e9, 3600)])
def test_the_backoff_follows_retry_after(retry_after: float, expected: float) -> None:
    """Retry-After in a stream's answer is followed, for an hour at most."""
    assert backoff_of(Backoff(ALL), A, ServerError("busy", status=503, retry_after=retry_after), 0) == expected


def test_many_failing_streams_share_one_request_a_minute() -> None:
    """If 90 streams always fail, their backoffs grow until one request a minute goes to all of them together."""
    backoff = Backoff(ALL)
    streams = [stream(f"m{number}") for number in range(90)]
    requested = 0
    for minute in range(24 * 60):
        for each in streams:
            if not backoff.in_backoff(each, minute * 60):
                requested += minute >= 12 * 60
                backoff.failed(each, FORBIDDEN, minute * 60)
    assert requested <= 12 * 60 * 1.1


def test_an_answer_ends_the_backoff() -> None:
    """An answer ends the backoff and resolves the incidents; the next failure is the first again."""
    backoff = Backoff(ALL)
    for error in (BAD, BAD, DOWN):
        backoff.failed(A, error, 0)
    assert backoff.unresolved
    backoff.answered(A)
    assert not backoff.in_backoff(A, 1)
    assert backoff.unresolved == set()
    assert backoff_of(backoff, A, BAD, 10) == 60


def test_an_answer_ends_the_backoff_of_others_with_the_same_error() -> None:
    """An error that has ended for one stream has often ended for all. So two other streams with the same error are
    requested at once, and two more when those are answered. If it has not ended for them, their backoff grows as usual.
    """
    backoff = Backoff(ALL)
    alike = [stream(f"m{number}") for number in range(9)]
    for time in range(3):
        for each in alike:
            backoff.failed(each, FORBIDDEN, 1000 + time)
    backoff.failed(B, BAD, 1000)
    backoff.answered(alike[0])
    requested = [each for each in alike[1:] if not backoff.in_backoff(each, 1003)]
    assert len(requested) == RELEASED == 2
    backoff.answered(requested[0])
    assert sum(not backoff.in_backoff(each, 1003) for each in alike[1:]) == 4
    assert backoff.in_backoff(B, 1003)
    assert backoff_of(backoff, requested[1], FORBIDDEN, 1003) == 480


def test_a_missing_media_is_in_backoff_with_all_its_streams() -> None:
    """A 404 starts the backoff of all streams of the media and is one incident; an answer for any of them ends both."""
    backoff = Backoff(ALL)
    failure = backoff.failed(A, GONE, 0)
    assert failure == Failure("NotFound", "media a", "no such media")
    assert (backoff.in_backoff(A_TIME, 899), backoff.in_backoff(A_TIME, 900), backoff.in_backoff(B, 0)) == (
        True,
        False,
        False,
    )
    assert backoff.failed(A_TIME, GONE, 900) == failure
    backoff.answered(A_TIME)
    assert not backoff.in_backoff(A, 901)
    assert backoff.unresolved == set()


def test_streams_of_a_missing_media_requested_at_once_fail_once() -> None:
    """Their answers come one after the other, but the media was missing once: its backoff is not doubled."""
    backoff = Backoff(ALL)
    gone = NotFound("no such media", status=404)
    streams = [stream("a"), stream("a", Target.PLAY_TIME), stream("a", Target.DEVICE_COUNT)]
    for place, each in enumerate(streams):
        backoff.failed(each, gone, 1000.0 + place)
    assert backoff.in_backoff(streams[0], 999.0 + 15 * 60)
    assert not backoff.in_backoff(streams[0], 1010.0 + 15 * 60)


@pytest.mark.parametrize("error", [BAD, MalformedAnswer("not JSON"), GONE, DOWN, REFUSED])
def test_the_pace_maker_is_never_in_backoff(error: ApiError) -> None:
    """The whole merchant's plays are requested again after any error."""
    backoff = Backoff(ALL)
    for _ in range(5):
        backoff.failed(ALL, error, 0)
        backoff.api_failed([(ALL, error)])
        assert backoff.pace_maker_fails
    assert not backoff.in_backoff(ALL, 0)
    backoff.answered(ALL)
    assert backoff.unresolved == set()
    assert not backoff.pace_maker_fails


@pytest.mark.parametrize("error", [DOWN, FORBIDDEN, REFUSED, BAD, GONE, MalformedAnswer("not JSON")])
def test_every_failure_counts_against_the_api(error: ApiError) -> None:
    """No status code shows whether the API is down. So each failure counts, also of streams that never had an answer,
    except for a stream or a media that is already in backoff while others are answered.
    """
    backoff = Backoff(ALL)
    assert [backoff.suspicion(A, error, answered=answered) for answered in (False, True)] == [1, 1]
    backoff.failed(A, error, 0)
    assert [backoff.suspicion(A, error, answered=answered) for answered in (False, True)] == [1, 0]
    assert backoff.suspicion(A_TIME, error, answered=True) == (0 if error is GONE else 1)


def test_some_failures_raise_the_question_at_once() -> None:
    """A single answer with Retry-After is enough, and so is a failed request for a token. If the pace maker always
    fails, such an answer counts once.
    """
    backoff = Backoff(ALL)
    assert backoff.suspicion(A, BUSY, answered=False) == backoff.suspicion(A, BUSY, answered=True) == SUSPICION_LIMIT
    assert (
        backoff.suspicion(A, NO_TOKEN, answered=False)
        == backoff.suspicion(LOOKUP, NO_TOKEN, answered=True)
        == SUSPICION_LIMIT
    )
    backoff.api_failed([(ALL, DOWN)])
    assert backoff.suspicion(A, BUSY, answered=False) == 1


@pytest.mark.parametrize(
    ("task", "error", "answered", "suspicion"),
    [
        (LOOKUP, DOWN, True, 1),
        (LOOKUP, DOWN, False, 0),
        (LOOKUP, GONE, True, 1),
        (LOOKUP, BUSY, True, SUSPICION_LIMIT),
        (LOOKUP, BUSY, False, 0),
        (history(1), DOWN, True, 1),
        (history(1), BAD, True, SUSPICION_LIMIT),
        (history(1), BAD, False, 0),
    ],
)
def test_lookups_and_warmup_count_only_while_streams_are_answered(
    task: Task, error: ApiError, answered: bool, suspicion: int
) -> None:
    """An account may have no access to the catalog or the history although its streams work. So their failures count
    only while streams are answered, and only the first time. Retry-After, and a 400 after which the exporter would give
    up the history, raise the question at once.
    """
    backoff = Backoff(ALL)
    assert backoff.suspicion(task, error, answered=answered) == suspicion
    backoff.failed(task, error, 0)
    assert backoff.suspicion(task, error, answered=answered) == (suspicion if suspicion == SUSPICION_LIMIT else 0)


@pytest.mark.parametrize("task", [LOOKUP, history(1)])
@pytest.mark.parametrize(("error", "suspicion"), [(DOWN, 1), (REFUSED, 1), (FORBIDDEN, 1), (GONE, 0)])
def test_lookups_and_warmup_count_against_their_kind(task: Task, error: ApiError, suspicion: int) -> None:
    """An error that can concern the whole catalog or the whole warm-up counts; a 404 does not."""
    assert Backoff(ALL).failed(task, error, 0).suspicion == suspicion


def test_an_outage_starts_no_backoff() -> None:
    """A failure of the whole API is one incident for each kind of error, whatever was requested, until any stream is
    answered.
    """
    backoff = Backoff(ALL)
    failures = backoff.api_failed([(ALL, GONE), (A, GONE), (B, DOWN)])
    assert failures == [Failure("API NotFound", "", "no such media"), Failure("API NoAnswer", "", "timed out")]
    assert backoff.unresolved == {("API NotFound", ""), ("API NoAnswer", "")}
    backoff.answered(LOOKUP)
    assert backoff.unresolved
    backoff.answered(ALL)
    assert backoff.unresolved == set()
    assert not backoff.in_backoff(A, 0)


def test_failures_during_an_outage_wait_for_other_streams() -> None:
    """They are deferred until a stream is answered, or until nothing else is left to request."""
    backoff = Backoff(ALL)
    assert not backoff.retry_deferred()
    backoff.api_failed([(ALL, DOWN), (A, DOWN)])
    assert (backoff.in_backoff(A, 0), backoff.in_backoff(B, 0)) == (True, False)
    assert backoff.retry_deferred()
    assert not backoff.in_backoff(A, 0)
    backoff.api_failed([(A, DOWN)])
    backoff.answered(B)
    assert not backoff.in_backoff(A, 0)


def test_an_outage_of_the_pace_maker_cancels_backoffs_that_began_in_it() -> None:
    """If the pace maker fails and is then answered again, the API was down: each backoff that began since its last
    answer is cancelled. Older backoffs continue.
    """
    backoff = Backoff(ALL)
    backoff.failed(A, GONE, 0)
    backoff.answered(ALL)
    backoff.failed(B, GONE, 60)
    backoff.api_failed([(ALL, GONE)])
    backoff.failed(stream("c"), BAD, 61)
    backoff.answered(ALL)
    assert [backoff.in_backoff(stream(media_id), 62) for media_id in "abc"] == [True, False, False]
    assert backoff.unresolved == {("NotFound", "media a")}


def test_without_an_outage_of_the_pace_maker_no_backoff_is_cancelled() -> None:
    """If the pace maker has not failed, the other streams failed by themselves."""
    backoff = Backoff(ALL)
    backoff.answered(ALL)
    backoff.failed(A, GONE, 0)
    backoff.answered(ALL)
    backoff.api_failed([(ALL, DOWN)])
    backoff.answered(ALL)
    assert backoff.in_backoff(A, 1)


def test_a_renewed_token_cancels_backoffs_for_refusals() -> None:
    """Only backoffs for refusals end, and only those that began since the pace maker's last answer."""
    backoff = Backoff(ALL)
    backoff.failed(A, REFUSED, 0)
    backoff.answered(ALL)
    backoff.failed(B, REFUSED, 0)
    backoff.failed(stream("c"), BAD, 0)
    backoff.token_renewed()
    assert [backoff.in_backoff(stream(media_id), 1) for media_id in "abc"] == [True, False, True]


def test_a_server_error_is_an_incident_from_the_second_failure_on() -> None:
    """A single failure can be the start of an outage. The incident of a stream that fails again while others work stays
    open until the stream is answered.
    """
    backoff = Backoff(ALL)
    failure = backoff.failed(A, DOWN, 0)
    assert failure == Failure("NoAnswer", "", "a/play_count/all: timed out")
    assert backoff.unresolved == set()
    backoff.failed(A, DOWN, 60)
    assert backoff.unresolved == {("NoAnswer", "")}
    backoff.answered(B)
    assert backoff.unresolved == {("NoAnswer", "")}
    backoff.answered(A)
    assert backoff.unresolved == set()


@pytest.mark.parametrize(("error", "key"), [(FORBIDDEN, "RefusedError 403"), (REFUSED, "Unauthorized")])
def test_a_refused_stream_is_reported_by_name(error: ApiError, key: str) -> None:
    """Missing permission is reported for each stream, from the first failure on."""
    backoff = Backoff(ALL)
    assert backoff.failed(A, error, 0) == Failure(key, "a/play_count/all", "no permission")
    assert backoff.unresolved == {(key, "a/play_count/all")}


def test_too_many_requests_are_an_incident_until_an_answer() -> None:
    """During the wait after a 429 nothing is reported, and the incident is not resolved."""
    backoff = Backoff(ALL)
    assert backoff.rate_limited(RateLimited("slow down", status=429)) == Failure("RateLimited", "", "slow down")
    assert backoff.unresolved == {("RateLimited", "")}
    backoff.answered(A)
    assert backoff.unresolved == set()


def test_a_medias_answer_resolves_the_incidents_of_its_live_events() -> None:
    """An answer for a live event resolves only its own incident. One for the media resolves those of all its live
    events, as the media may have another one now.
    """
    no_answer, internal = ("Lookup NoAnswer", ""), ("Lookup ServerError", "")
    for answered, left in ((EVENT, {no_answer}), (LOOKUP, set())):
        backoff = Backoff(ALL)
        backoff.failed(LOOKUP, DOWN, 0)
        backoff.failed(EVENT, ServerError("internal", status=500), 0)
        assert backoff.unresolved == {no_answer, internal}
        backoff.answered(answered)
        assert backoff.unresolved == left


def test_the_same_history_may_be_requested_by_another_range() -> None:
    """An answer for any range of the history resolves its incident; one for the stream itself does not."""
    backoff = Backoff(ALL)
    backoff.failed(history(1), DOWN, 0)
    backoff.answered(A)
    assert backoff.unresolved == {("WarmupRequest NoAnswer", "")}
    backoff.answered(history(500))
    assert backoff.unresolved == set()


def test_a_404_for_the_whole_merchant_concerns_one_stream() -> None:
    """The whole merchant is not a media that can be missing: its other streams continue, above all its plays."""
    backoff = Backoff(ALL)
    time_of_all = stream("", Target.PLAY_TIME)
    failure = backoff.failed(time_of_all, GONE, 0.0)
    assert failure == Failure("NotFound", str(time_of_all), "no such media")
    assert backoff.in_backoff(time_of_all, 1.0)
    assert not backoff.in_backoff(ALL, 1.0)
    assert not backoff.in_backoff(stream("", Target.DEVICE_COUNT), 1.0)


def test_a_log_line_names_the_lookup() -> None:
    """A log line names the media or the live event whose lookup failed."""
    backoff = Backoff(ALL)
    assert backoff.failed(LOOKUP, BAD, 0.0) == Failure("BadRequest", "media a", "no such target")
    assert backoff.failed(EVENT, BAD, 0.0) == Failure("BadRequest", "live event ev", "no such target")
