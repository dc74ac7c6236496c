"""The observations that a baseline makes of its minutes."""

import math
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.drops.baseline import REVISABLE, Baseline, Observation
from exporter.drops.packed import HELD
from exporter.drops.seasonal import HISTORY_DAYS, STEP, SeasonalProfile
from exporter.model import DAY_MINUTES, Minute
from tests.support.steps import known_share

DAY = 20_000
MIDNIGHT = DAY * DAY_MINUTES


def filled(plays: float = 10.0, days: int = 21) -> Baseline:
    """A baseline with a number of known days by the hour, each minute with the same plays."""
    baseline = Baseline()
    baseline.fill({MIDNIGHT - hour * 60: plays * 60 for hour in range(1, days * 24 + 1)})
    return baseline


def fed(plays: Sequence[float | None], baseline: Baseline | None = None) -> tuple[Baseline, list[Observation]]:
    """A baseline that has taken the plays, from midnight on."""
    baseline = baseline or filled()
    return baseline, baseline.take(MIDNIGHT, plays)


def recent(baseline: Baseline, minutes: int) -> list[tuple[Minute, float | None, float | None]]:
    """The newest minutes, with plays and forecast."""
    shown = baseline.recent_minutes()
    return shown.last(minutes) if shown else []


def test_the_windows_hold_the_minutes_that_arrived() -> None:
    """A window is the minutes that end with the observed one; a missing minute is left out, not zero."""
    plays: list[float | None] = [float(minute) for minute in range(100)]
    plays[97] = None
    _, observations = fed(plays)
    observation = observations[-1]
    assert observation.windows == (
        (95 + 96 + 98 + 99, 4),
        (sum(range(90, 100)) - 97, 9),
        (sum(range(70, 100)) - 97, 29),
    )
    assert observation.r5 == (95 + 96 + 98 + 99) / 4
    assert observation.live == (
        (98 + 99, 2, sum(range(87, 97)), 10),
        (sum(range(94, 100)) - 97, 5, sum(range(84, 94)), 10),
    )


def test_a_missing_minute_has_no_verdict() -> None:
    """A minute without data has no observation; one that is alone in five minutes has no forecast."""
    baseline, observations = fed([10.0] * 100 + [None] * 4 + [10.0, 10.0])
    assert [(observation.minute - MIDNIGHT, observation.forecast is None) for observation in observations[99:]] == [
        (99, False),
        (104, True),
        (105, False),
    ]
    assert baseline.newest == MIDNIGHT + 105
    assert baseline.take(MIDNIGHT + 106, [None]) == []
    assert baseline.newest == MIDNIGHT + 106


def test_the_first_hour_has_no_verdict() -> None:
    """There is no forecast until there are twelve samples of the noise."""
    _, observations = fed([10.0] * 120)
    known = [observation.minute - MIDNIGHT for observation in observations if observation.forecast is not None]
    # The first sample's five minutes end 13 minutes before it is taken; the twelfth is taken 55 minutes later.
    assert known == list(range(70, 120))


def test_after_a_long_gap_there_is_no_verdict() -> None:
    """While neither the half hour nor the hour before is known, there is no forecast, whatever the season is."""
    baseline, _ = fed([10.0] * 100)
    observations = baseline.take(MIDNIGHT + 300, [10.0] * 30)
    known = [observation.minute - MIDNIGHT - 300 for observation in observations if observation.forecast is not None]
    assert known == list(range(14, 30))


def test_without_a_season_the_recent_plays_are_the_forecast() -> None:
    """On the first day there is no history; its term is left out."""
    _, observations = fed([10.0] * 120, Baseline())
    assert observations[-1].forecast == 10.0


def test_the_season_lowers_the_forecast() -> None:
    """The forecast of plays that fall each evening falls."""
    baseline = Baseline()
    baseline.fill({MIDNIGHT - hour * 60: 600.0 if hour % 24 != 21 else 60.0 for hour in range(1, 21 * 24)})
    observations = baseline.take(MIDNIGHT, [10.0] * 240)
    # From 03:00 on, an hour with a tenth of the plays; between the centers of the hours they change gradually.
    assert observations[119].forecast == pytest.approx(10.0, rel=0.01)
    assert observations[210].forecast == pytest.approx(1 + 9 * 7.5 / 60, rel=0.02)


@pytest.mark.parametrize(
    ("plays", "level"), [(10.0, 1.0), (12.0, 1.2), (30.0, 1.0), (18.0, 1.5), (6.0, 0.6), (1.0, 0.5)]
)
def test_the_level_is_limited(plays: float, level: float) -> None:
    """The level follows the last hours, between a half and one and a half; above 2.5 it is a burst, which counts as 1
    at most.
    """
    # The season is 10 plays a minute; after a burst, only the level and the season are known.
    baseline, _ = fed([plays] * 300)
    assert baseline._level.value == pytest.approx(level, rel=0.01)


def test_a_short_burst_does_not_raise_the_forecast() -> None:
    """Ten minutes with a hundred times the plays are not in the forecast, though they are in the means."""
    _, observations = fed([10.0] * 120 + [1000.0] * 10 + [10.0] * 40, Baseline())
    assert max(observation.forecast or 0 for observation in observations) == pytest.approx(11.0)


def test_a_sustained_drop_is_compared_with_plays_above_the_season() -> None:
    """Its windows are compared with the plays before them, up to a little more than the season."""
    _, observations = fed([20.0] * 240 + [3.0] * 13)
    assert not observations[239].sustained
    assert [(plays, minutes) for plays, minutes, _ in observations[-1].sustained] == [(30, 10), (39, 13), (79, 15)]
    # The level is 1.5 at most, of a season of 10.
    assert [forecast for *_, forecast in observations[-1].sustained] == pytest.approx([16.5] * 3)
    _, observations = fed([10.0] * 110 + [1.0] * 13)
    # Three minutes of the half hour before the shortest window are part of the drop.
    assert [forecast for *_, forecast in observations[-1].sustained] == pytest.approx([9.1, 10, 10])


def test_noise_is_that_of_the_plays() -> None:
    """Plays that vary like those of independent viewers have about 1; with three times the variance about 3."""
    dice = random.Random(1)
    for factor in (1.0, 3.0):
        plays = [max(0.0, dice.gauss(100, math.sqrt(100 * factor))) for _ in range(DAY_MINUTES)]
        _, observations = fed(plays)
        # The mean of the half hour includes the five minutes themselves: a sixth less.
        assert observations[-1].dispersion == pytest.approx(max(1.0, factor * 5 / 6), rel=0.3)


def test_a_revision_is_as_if_it_had_come_in_time() -> None:
    """A late or changed minute of the last hour gives the same observations as if it had been right at first."""
    dice = random.Random(2)
    right: list[float | None] = [float(dice.randrange(5, 15)) for _ in range(400)]
    late = list(right)
    for minute in (341, 350, 361, 362, 363, 380, 399):
        late[minute] = None if minute % 2 else 0.0
    one, _ = fed(right)
    other, _ = fed(late)
    assert other.take(MIDNIGHT + 340, right[340:]) == []
    later = [float(dice.randrange(5, 15)) for _ in range(100)]
    assert one.take(MIDNIGHT + 400, later) == other.take(MIDNIGHT + 400, later)
    assert one.pack().days == other.pack().days


def test_too_old_or_unknown_minutes_revise_nothing() -> None:
    """A minute more than an hour old stays unchanged; a missing one does not remove a known value."""
    baseline, _ = fed([10.0] * 200)
    before = baseline.pack()
    baseline.take(MIDNIGHT + 200 - REVISABLE - 5, [99.0] * 5 + [None] * REVISABLE)
    assert baseline.pack() == before


def test_a_minute_may_revise_and_continue_at_once() -> None:
    """An answer has the revision window and the new minutes: only these are observed."""
    baseline, _ = fed([10.0] * 100)
    observations = baseline.take(MIDNIGHT + 70, [20.0] * 32)
    assert [observation.minute for observation in observations] == [MIDNIGHT + 100, MIDNIGHT + 101]
    assert observations[-1].windows[2] == (600.0, 30)


OFFSETS = st.integers(-30, 4000) | st.integers(-30, 5)
PLAYS = st.lists(st.none() | st.integers(0, 1000), min_size=1, max_size=99)
MINUTES = st.lists(st.tuples(OFFSETS, PLAYS), max_size=8)


@pytest.mark.unmeasured
@settings(max_examples=60)
@given(MINUTES, MINUTES, st.booleans())
def test_unpacking_changes_nothing(before: Any, after: Any, known: bool) -> None:
    """A packed and unpacked baseline has the same observations, steps and sparkline, whatever its state."""
    baseline = filled() if known else Baseline()
    for offset, plays in before:
        baseline.take((baseline.newest or MIDNIGHT) + offset, plays)
    other = Baseline.unpack(baseline.pack())
    assert recent(other, HELD) == recent(baseline, HELD)
    for offset, plays in after:
        first = (baseline.newest or MIDNIGHT) + offset
        assert other.take(first, plays) == baseline.take(first, plays)
    assert other.pack() == baseline.pack()


def test_unpacking_at_midnight_loses_no_day() -> None:
    """The data for the level of the last hours reaches one day further back than the season does."""
    dice = random.Random(3)
    baseline = Baseline()
    hours = (HISTORY_DAYS + 1) * 24
    baseline.fill({MIDNIGHT - hour * 60: float(dice.randrange(300, 900)) for hour in range(1, hours)})
    baseline.take(MIDNIGHT - 300, [float(dice.randrange(5, 15)) for _ in range(310)])
    other = Baseline.unpack(baseline.pack())
    plays = [float(dice.randrange(5, 15)) for _ in range(300)]
    assert other.take(MIDNIGHT + 10, plays) == baseline.take(MIDNIGHT + 10, plays)


def test_only_changed_days_are_named() -> None:
    """The state file gets the days that changed since it was last written."""
    baseline, _ = fed([10.0] * 10)
    assert len(baseline.changed_days) == 22
    baseline.changed_days.clear()
    baseline.take(MIDNIGHT + 10, [10.0] * 5)
    assert set(baseline.changed_days) == {DAY}
    assert set(baseline.pack(baseline.changed_days).days) == {DAY}


@pytest.mark.parametrize("damage", ["recent", "noise", "day"])
def test_damaged_bytes_are_refused(damage: str) -> None:
    """Bytes of the wrong size are no baseline."""
    packed = fed([10.0] * 10)[0].pack()
    assert packed.recent is not None
    cut = packed.recent._replace(content=packed.recent.content[:-8])
    broken = {
        "recent": replace(packed, recent=cut),
        "noise": replace(packed, dispersion=packed.dispersion[:-8]),
        "day": replace(packed, days={DAY: b"12"}),
    }
    with pytest.raises(ValueError, match="not the bytes"):
        Baseline.unpack(broken[damage])


def test_history_of_the_current_hour_is_left_out() -> None:
    """The API's row of the current hour has only a part of it."""
    baseline = Baseline()
    baseline.take(MIDNIGHT, [None] * 70)
    baseline.fill({MIDNIGHT: 60.0, MIDNIGHT + 60: 10.0})
    assert known_share(baseline.pack().days) == pytest.approx(12 / (HISTORY_DAYS * 288))
    baseline.fill({MIDNIGHT + 60: 10.0})
    assert known_share(baseline.pack().days) == pytest.approx(12 / (HISTORY_DAYS * 288))


def test_the_newest_minutes_are_shown() -> None:
    """A sparkline has the plays and the forecast; a value is missing if it is not known."""
    assert Baseline().recent_minutes() is None
    baseline, observations = fed([10.0] * 98 + [None, 10.0])
    assert recent(baseline, 3) == [
        (MIDNIGHT + 97, 10.0, observations[97].forecast),
        (MIDNIGHT + 98, None, None),
        (MIDNIGHT + 99, 10.0, observations[98].forecast),
    ]
    assert len(recent(baseline, 1000)) == HELD


def test_a_jump_costs_no_more_than_the_kept_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """After ten years without data the next minute is taken, without a step for each minute between."""
    baseline, _ = fed([10.0] * 200)
    appended = []
    real = Baseline._append

    def append(self: Baseline, plays: float | None) -> Observation | None:
        appended.append(plays)
        return real(self, plays)

    monkeypatch.setattr(Baseline, "_append", append)
    (observation,) = baseline.take(MIDNIGHT + 3650 * DAY_MINUTES, [10.0])
    assert (observation.forecast, len(appended)) == (None, 1)
    assert baseline.pack().days == {}


def test_a_minute_costs_the_same_after_weeks() -> None:
    """A day of minutes executes as many lines with four weeks of history as with one."""
    assert _lines(filled(days=7)) == pytest.approx(_lines(filled(days=28)), rel=0.15)


def _lines(baseline: Baseline) -> int:
    """The number of Python lines that a day of minutes executes."""
    baseline.take(MIDNIGHT, [10.0] * 300)
    count = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        baseline.take(MIDNIGHT + 300, [10.0] * 600)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.unmeasured
def test_memory_is_bounded() -> None:
    """A baseline with all of its history takes less than 64 KiB, packed form included, and does not grow."""
    baseline = filled(days=60)
    sizes = []
    for week in range(2):
        baseline.take(MIDNIGHT + week * 7 * DAY_MINUTES, [float(minute % 50) for minute in range(7 * DAY_MINUTES)])
        packed = baseline.pack()
        sizes.append(_size(baseline) + _size(packed.recent) + _size(packed.dispersion) + _size(packed.days))
    assert known_share(baseline.pack().days) == 1.0
    assert max(sizes) < 64 * 1024
    assert sizes[1] <= sizes[0] * 1.05


def _size(item: Any) -> int:
    size = sys.getsizeof(item)
    if isinstance(item, dict):
        return size + sum(_size(key) + _size(value) for key, value in item.items())
    if isinstance(item, set):
        return size + sum(map(_size, item))
    if hasattr(item, "__slots__"):
        return size + sum(_size(getattr(item, name)) for name in item.__slots__)
    return size


def test_steps_follow_the_clock() -> None:
    """A baseline that begins within five minutes makes its first step of its existing minutes."""
    baseline = Baseline()
    baseline.take(MIDNIGHT + 3, [10.0, 20.0])
    steps = SeasonalProfile(baseline.pack().days)
    assert steps.half_hour(MIDNIGHT // STEP) == pytest.approx(15.0, rel=0.001)
