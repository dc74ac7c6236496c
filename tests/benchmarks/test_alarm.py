"""The alerts on a ratio alone, which the drop detector is compared with."""

from collections.abc import Sequence

from benchmarks.alarm import Alarm, Change


def changes(ratios: Sequence[float | None], alarm: Alarm | None = None) -> list[Change]:
    alarm = alarm or Alarm(0.4)
    found = (alarm.step(minute, ratio) for minute, ratio in enumerate(ratios))
    return [change for change in found if change]


def test_an_alarm_begins_with_the_third_minute() -> None:
    """A wait of two minutes means three minutes above the threshold in a row; a ratio equal to it is not above it."""
    assert changes([0.5, 0.5, 0.0, 0.5, 0.4, 0.5, 0.5]) == []
    assert changes([0.0, 0.5, 0.5, 0.5]) == [Change(3, firing=True)]
    assert changes([0.5] * 9, Alarm(0.4, pending=5)) == [Change(5, firing=True)]


def test_a_missing_minute_restarts_the_wait() -> None:
    """That holds whether the minute is passed as missing or left out."""
    assert changes([0.5, 0.5, None, 0.5, 0.5]) == []
    alarm = Alarm(0.4)
    assert [alarm.step(minute, 0.5) for minute in (1, 2, 4, 5)] == [None] * 4
    assert alarm.step(6, 0.5) == Change(6, firing=True)


def test_an_alarm_ends_after_ten_minutes_below_the_threshold() -> None:
    """It continues through shorter phases below the threshold, and through shorter gaps in the data."""
    assert changes([0.5] * 3 + [0.0] * 10 + [0.5] + [None] * 20) == [Change(2, firing=True), Change(24, firing=False)]
    assert changes([0.5] * 3 + [0.0] * 11) == [Change(2, firing=True), Change(13, firing=False)]


def test_an_alarm_ends_within_a_gap() -> None:
    """After a long gap the end is where it would have been noticed, and a new alarm waits again."""
    alarm = Alarm(0.4)
    for minute in range(3):
        alarm.step(minute, 0.5)
    assert alarm.firing
    assert alarm.step(500, 0.5) == Change(13, firing=False)
    assert not alarm.firing
    assert [alarm.step(501, 0.5), alarm.step(502, 0.5)] == [None, Change(502, firing=True)]
