"""What rests after a failure, for how long, and what the failure says of the API."""

import pytest

from exporter.catalog import Lookup
from exporter.errors import (
    ApiError,
    BadRequest,
    MalformedAnswer,
    NoAnswer,
    NotFound,
    RateLimited,
    RefusedError,
    ServerError,
    Unauthorized,
)
from exporter.history import History
from exporter.model import Group, MinuteRange, Stream, Target
from exporter.rests import STRIKES, Failure, Rests, Task


def stream(media_id: str, target: Target = Target.PLAY_COUNT) -> Stream:
    return Stream("m", media_id, target, Group.ALL)


ALL, A, B = stream(""), stream("a"), stream("b")
A_TIME = stream("a", Target.PLAY_TIME)
LOOKUP = Lookup("a")
EVENT = Lookup("a", "ev")
BAD = BadRequest("no such target", status=400)
GONE = NotFound("no such media", status=404)
DOWN = NoAnswer("timed out")
REFUSED = Unauthorized("check the password", status=401)


def past(first: int) -> History:
    return History(A, MinuteRange(first, 1000), hourly=False)


def rest_of(rests: Rests, task: Stream, error: ApiError, now: float) -> float:
    """How long a stream that fails at a moment is left alone, in whole 15 seconds."""
    rests.failed(task, error, now, api_works=True)
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
        (RefusedError("no permission", status=403), [45, 90, 180, 360, 720, 900, 900]),
    ],
)
def test_a_rest_is_twice_as_long_each_time(error: ApiError, expected: list[float]) -> None:
    """Each failure doubles a stream's rest up to the longest of its kind, and other streams do not rest."""
    rests = Rests(ALL)
    now, seen = 1000.0, []
    for _ in expected:
        seen.append(rest_of(rests, A, error, now))
        now += seen[-1]
    assert seen == expected
    assert not rests.rests(B, 1000)


def test_an_answer_ends_the_rest() -> None:
    """After an answer nothing rests, no fault goes on, and the next failure is the first again."""
    rests = Rests(ALL)
    for error in (BAD, BAD, DOWN):
        rests.failed(A, error, 0, api_works=True)
    assert rests.faults
    rests.answered(A)
    assert not rests.rests(A, 1)
    assert rests.faults == set()
    assert rest_of(rests, A, BAD, 10) == 60


def test_a_media_that_is_gone_is_gone_for_all_its_streams() -> None:
    """A 404 lets all streams of the media rest, is one fault, and an answer for any of them ends that."""
    rests = Rests(ALL)
    failure = rests.failed(A, GONE, 0, api_works=True)
    assert failure == Failure("NotFound a", "media a: no such media")
    assert (rests.rests(A_TIME, 899), rests.rests(A_TIME, 900), rests.rests(B, 0)) == (True, False, False)
    assert rests.failed(A_TIME, GONE, 900, api_works=True).fault == failure.fault
    rests.answered(A_TIME)
    assert not rests.rests(A, 901)
    assert rests.faults == set()


@pytest.mark.parametrize("error", [BAD, MalformedAnswer("not JSON"), GONE, DOWN, REFUSED, RateLimited("slow down")])
def test_the_pace_maker_never_rests(error: ApiError) -> None:
    """Whatever the whole merchant's plays are answered with, they are asked for again."""
    rests = Rests(ALL)
    for _ in range(5):
        rests.failed(ALL, error, 0, api_works=True)
    assert not rests.rests(ALL, 0)
    assert rests.faults == set()


@pytest.mark.parametrize(
    ("error", "before", "after"),
    [
        (DOWN, 1, 0),
        (RefusedError("no permission", status=403), 1, 0),
        (REFUSED, STRIKES, STRIKES),
        (RateLimited("slow down"), 0, 0),
        (BAD, 0, 0),
        (GONE, 0, 0),
    ],
)
def test_a_strike_is_against_an_api_that_has_not_answered(error: ApiError, before: int, after: int) -> None:
    """Before any answer a failure that can be the whole API's counts against it, and no stream rests for it; after one
    only a refused password does.
    """
    rests = Rests(ALL)
    assert rests.failed(A, error, 0, api_works=False).strikes == before
    assert rests.rests(A, 0) is isinstance(error, BadRequest | NotFound)
    assert rests.failed(A, error, 0, api_works=True).strikes == after


@pytest.mark.parametrize("task", [LOOKUP, past(1)])
@pytest.mark.parametrize(("error", "strikes"), [(DOWN, 1), (REFUSED, STRIKES), (RateLimited("slow down"), 0)])
def test_a_lookup_and_the_past_strike_also_while_the_api_answers(task: Task, error: ApiError, strikes: int) -> None:
    """These can be closed to the account while the counting goes on: their strikes count all the same."""
    assert Rests(ALL).failed(task, error, 0, api_works=True).strikes == strikes


def test_a_pause_is_a_fault_from_the_second_failure_on() -> None:
    """One failure can be the beginning of an outage; a stream that fails again by itself goes on failing until it is
    answered.
    """
    rests = Rests(ALL)
    failure = rests.failed(A, DOWN, 0, api_works=True)
    assert rests.faults == set()
    rests.failed(A, DOWN, 60, api_works=True)
    assert rests.faults == {failure.fault}
    rests.answered(B)
    assert rests.faults == {failure.fault}
    rests.answered(A)
    assert rests.faults == set()


def test_a_medias_answer_ends_the_faults_of_its_live_events() -> None:
    """An answer for the live event ends only its own fault; one for the media those of all its live events, for it may
    have another now.
    """
    for answered, left in ((EVENT, {"Lookup NoAnswer"}), (LOOKUP, set())):
        rests = Rests(ALL)
        rests.failed(LOOKUP, DOWN, 0, api_works=True)
        rests.failed(EVENT, ServerError("internal", status=500), 0, api_works=True)
        assert rests.faults == {"Lookup NoAnswer", "Lookup ServerError"}
        rests.answered(answered)
        assert rests.faults == left


def test_the_same_past_may_be_asked_for_by_another_range() -> None:
    """A fault of the past ends with an answer for any range of it, and not with one for the stream itself."""
    rests = Rests(ALL)
    rests.failed(past(1), DOWN, 0, api_works=True)
    rests.answered(A)
    assert rests.faults == {"History NoAnswer"}
    rests.answered(past(500))
    assert rests.faults == set()


def test_what_is_not_found_of_the_whole_merchant_is_one_streams_fault() -> None:
    """The whole merchant is no media that can be gone: its other streams go on, and its plays above all."""
    rests = Rests(ALL)
    time_of_all = stream("", Target.PLAY_TIME)
    failure = rests.failed(time_of_all, GONE, 0.0, api_works=True)
    assert failure == Failure(f"NotFound {time_of_all}", f"{time_of_all}: no such media")
    assert rests.rests(time_of_all, 1.0)
    assert not rests.rests(ALL, 1.0)
    assert not rests.rests(stream("", Target.DEVICE_COUNT), 1.0)


def test_a_lookup_is_told_in_words() -> None:
    """A log line names the media or the live event that could not be looked up."""
    rests = Rests(ALL)
    assert rests.failed(LOOKUP, BAD, 0.0, api_works=True).message == "media a: no such target"
    assert rests.failed(EVENT, BAD, 0.0, api_works=True).message == "live event ev: no such target"
