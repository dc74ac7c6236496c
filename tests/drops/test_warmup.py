"""Which history the warm-up requests, in which order, and the plays of an answer."""

import pytest

from exporter.api.ranges import half
from exporter.drops.warmup import (
    HOURS_BACK,
    MINUTES_BACK,
    PACE_WINDOW,
    RETRY_EVERY,
    SHORTEST_HOURS,
    SHORTEST_MINUTES,
    Pace,
    Warmup,
    WarmupRequest,
    past_hours,
    past_minutes,
)
from exporter.model import Group, MinuteRange, Rows, Stream, Target

NOW = 1_780_000_000.0
SETTLED = 29_666_650  # not the last of an hour
HOUR = SETTLED // 60 * 60

ONE, TWO = (Stream("m", media_id, Target.PLAY_COUNT, Group.ALL) for media_id in ("", "a"))


def requests_of(warmup: Warmup, most: int = 1000) -> list[WarmupRequest]:
    """All requests until no more are needed, each answered at once."""
    asked = []
    while (history := warmup.next(NOW, SETTLED, ())) is not None:
        asked.append(history)
        warmup.done(history)
        assert len(asked) <= most
    return asked


def test_minutes_of_all_come_before_hours() -> None:
    """Each stream has one request for the last day by minute, then one for three weeks of whole hours."""
    warmup = Warmup([ONE, TWO])
    minutes = MinuteRange(SETTLED - MINUTES_BACK + 1, SETTLED)
    hours = MinuteRange(HOUR - HOURS_BACK, HOUR - 1)
    assert requests_of(warmup) == [
        WarmupRequest(ONE, minutes, hourly=False),
        WarmupRequest(TWO, minutes, hourly=False),
        WarmupRequest(ONE, hours, hourly=True),
        WarmupRequest(TWO, hours, hourly=True),
    ]
    assert warmup.complete(ONE)


def test_the_busiest_media_come_first() -> None:
    """The whole merchant first of all, then by plays; those without come last, in the order of the configuration."""
    plays = {"": 5.0, "a": 1.0, "b": 90.0, "c": 7.0}
    streams = [Stream("m", media_id, Target.PLAY_COUNT, Group.ALL) for media_id in ("e", "a", "d", "b", "", "c")]
    warmup = Warmup(streams)
    order = []
    while (history := warmup.next(NOW, SETTLED, (), plays)) is not None:
        order.append((history.hourly, history.media_id))
        warmup.done(history)
    expected = ["", "b", "c", "a", "e", "d"]
    assert order == [(hourly, media_id) for hourly in (False, True) for media_id in expected]


def test_the_number_of_requests_left() -> None:
    """Each answer leaves one less; a shorter range for the hours makes more of them."""
    warmup = Warmup([ONE, TWO])
    left = [warmup.left]
    while (history := warmup.next(NOW, SETTLED, ())) is not None:
        warmup.done(history)
        left.append(warmup.left)
    assert left == [4, 3, 2, 1, 0]
    warmup.restart(ONE)
    hours = WarmupRequest(ONE, MinuteRange(HOUR - HOURS_BACK, HOUR - 1), hourly=True)
    warmup.shorten(hours, HOURS_BACK // 2)
    assert warmup.left == 3


def test_the_time_that_is_left() -> None:
    """As planned, or as measured if that is slower; unknown if nothing comes any more, 0 when nothing is missing."""
    pace = Pace()
    assert pace.remaining(0.0, 0, 4.5) == 0.0
    assert pace.remaining(0.0, 90, 4.5) == 20 * 60
    # A burst of 30 in two minutes is no promise.
    for second in range(0, 120, 4):
        pace.note(float(second), 90 - second // 4)
    assert pace.remaining(200.0, 60, 4.5) == pytest.approx(60 / 4.5 * 60)
    # One a minute from then on.
    for minute in range(2, 15):
        pace.note(minute * 60.0, 62 - minute)
    assert pace.remaining(14 * 60.0, 48, 4.5) == pytest.approx(48 * 60)
    assert pace.remaining(14 * 60.0 + PACE_WINDOW + 1, 48, 4.5) is None


def test_an_hour_that_has_just_settled_is_whole() -> None:
    """If the newest settled minute is the last of its hour, that hour is requested, too."""
    warmup = Warmup([ONE])
    first = warmup.next(NOW, HOUR - 1, ())
    assert first is not None
    warmup.done(first)
    history = warmup.next(NOW, HOUR - 1, ())
    assert history is not None
    assert history.asked == MinuteRange(HOUR - HOURS_BACK, HOUR - 1)


@pytest.mark.parametrize("longest", [7 * 1440, 2000, 1440])
def test_a_refused_range_is_requested_in_pieces(longest: int) -> None:
    """If the API limits the length of a range, the hours come in pieces, without a gap or an overlap."""
    warmup = Warmup([ONE])
    covered = []
    for _ in range(100):
        history = warmup.next(NOW, SETTLED, ())
        if history is None:
            break
        if len(history.asked) > longest:
            warmup.shorten(history, half(len(history.asked), history.shortest))
            continue
        warmup.done(history)
        if history.hourly:
            covered += list(range(history.asked.first, history.asked.last + 1))
    assert sorted(covered) == list(range(HOUR - HOURS_BACK, HOUR))
    assert warmup.complete(ONE)


def test_history_that_the_api_always_refuses_is_given_up() -> None:
    """Ranges are halved down to the shortest one; if that is refused, too, nothing more is requested."""
    warmup = Warmup([ONE])
    lengths = {True: set[int](), False: set[int]()}
    while (history := warmup.next(NOW, SETTLED, ())) is not None:
        lengths[history.hourly].add(len(history.asked))
        warmup.shorten(history, half(len(history.asked), history.shortest))
    assert (min(lengths[True]), max(lengths[True])) == (SHORTEST_HOURS, HOURS_BACK)
    assert (min(lengths[False]), max(lengths[False])) == (SHORTEST_MINUTES, MINUTES_BACK)
    assert warmup.complete(ONE)


def test_failed_requests_wait_and_pending_ones_are_not_repeated() -> None:
    """A failure delays only its own stream; a clock that is set back does not delay it for longer."""
    warmup = Warmup([ONE, TWO])
    history = warmup.next(NOW, SETTLED, ())
    assert history is not None
    warmup.failed(history, NOW)
    following = warmup.next(NOW, SETTLED, ())
    assert following is not None
    assert following.stream == TWO
    assert warmup.next(NOW, SETTLED, {TWO}) is None
    assert warmup.next(NOW + RETRY_EVERY, SETTLED, {TWO}) == history
    assert warmup.next(NOW - 86400, SETTLED, {TWO}) == history


def test_a_stream_can_be_requested_again() -> None:
    """After a long gap all history is requested again; a complete one is not."""
    warmup = Warmup([ONE])
    warmup.skip(ONE)
    warmup.skip(ONE)
    assert requests_of(warmup) == []
    warmup.restart(ONE)
    assert len(requests_of(warmup)) == 2


def test_late_answers_have_no_effect() -> None:
    """An answer or a failure for history that is no longer needed changes nothing."""
    warmup = Warmup([ONE])
    history = warmup.next(NOW, SETTLED, ())
    assert history is not None
    warmup.skip(ONE)
    warmup.done(history)
    warmup.failed(history, NOW)
    assert warmup.complete(ONE)


def test_minutes_without_a_row_are_zeros_after_the_first_row() -> None:
    """Before its first row a media perhaps did not exist: those minutes are unknown, and not zero."""
    history = WarmupRequest(TWO, MinuteRange(100, 105), hourly=False)
    assert past_minutes(history, {102: {"": 5.0}, 104: {}, 90: {"": 7.0}}) == [None, None, 5.0, 0.0, 0.0, 0.0]


def test_unusable_values_are_unknown() -> None:
    """A minute or an hour with an unusable value is neither a zero nor the sum of the others."""
    minutes: Rows = {101: {"": None}, 102: {"": 5.0}, 103: {"jp": 1.0, "us": None}}
    history = WarmupRequest(TWO, MinuteRange(100, 105), hourly=False)
    assert past_minutes(history, minutes) == [None, None, 5.0, None, 0.0, 0.0]
    hours: Rows = {600: {"": 9.0}, 660: {"": None}, 780: {"jp": 1.0, "us": 2.0}}
    assert past_hours(WarmupRequest(TWO, MinuteRange(600, 839), hourly=True), hours) == {600: 9.0, 720: 0.0, 780: 3.0}


def test_incomplete_hours_are_left_out() -> None:
    """Only hours inside the range count; after the first row, an hour without one is zero."""
    history = WarmupRequest(TWO, MinuteRange(600, 899), hourly=True)
    rows = {540: {"": 9.0}, 660: {"": 60.0}, 780: {"": 6.0}, 900: {"": 9.0}}
    assert past_hours(history, rows) == {660: 60.0, 720: 0.0, 780: 6.0, 840: 0.0}
    assert past_hours(history, {540: {"": 9.0}}) == {}


def test_hours_of_a_zone_that_is_half_an_hour_off() -> None:
    """Rows between UTC hours keep their times."""
    history = WarmupRequest(TWO, MinuteRange(600, 899), hourly=True)
    assert past_hours(history, {570: {"": 1.0}, 630: {"": 2.0}, 870: {"": 3.0}}) == {
        630: 2.0,
        690: 0.0,
        750: 0.0,
        810: 0.0,
    }


def test_a_request_has_a_description() -> None:
    """A log line names the stream and the kind of rows."""
    assert str(WarmupRequest(TWO, MinuteRange(0, 59), hourly=True)) == "a/play_count/all by hour"
    assert str(WarmupRequest(ONE, MinuteRange(0, 59), hourly=False)) == "whole merchant/play_count/all by minute"
