"""The detector on small simulated merchants: its quality stays, and its benchmark measures it."""

from collections.abc import Sequence

import pytest

from benchmarks import drops, plays
from benchmarks.alarm import Alarm
from benchmarks.drops import Outcome
from benchmarks.plays import Drop, Series
from exporter.model import DAY_MINUTES


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    """The outcomes of three merchants with six always-on media and one live media, for a week each."""
    merchants = (plays.simulate(seed, always_on=6, live=1, weeks=1) for seed in (31, 32, 33))
    return [outcome for merchant in merchants for outcome in drops.judge_merchant(merchant)]


def measured(outcomes: Sequence[Outcome], name: str, rule: str = drops.DETECTOR) -> float:
    """A figure of the benchmark's table."""
    value = drops.MEASURES[name]([each for each in outcomes if each.rule == rule])
    assert isinstance(value, float | int)
    return value


def test_deep_drops_are_found_within_minutes(outcomes: list[Outcome]) -> None:
    """Of drops of 80% and more at 5 plays a minute, all but one in twenty are found, nine tenths within 8 minutes."""
    assert measured(outcomes, "80% and more, at 5 and more: found") >= 0.95
    assert measured(outcomes, "… minutes, p90") <= 8


def test_nearly_no_alarm_is_false(outcomes: list[Outcome]) -> None:
    """In 18 media-weeks at most one alarm is false, where the rule of an hour ago has more than one a week."""
    assert measured(outcomes, "false alarms per media-week") <= 1 / 18
    assert measured(outcomes, "false alarms per media-week", drops.HOUR_AGO) > 1


@pytest.fixture(scope="module")
def long_outcomes() -> list[Outcome]:
    """The outcomes of a merchant with six media and drops of hours, for two weeks."""
    merchant = plays.simulate(41, always_on=6, live=0, weeks=2, kind=plays.LONG)
    return [each for each in drops.judge_merchant(merchant) if each.kind == "media"]


def test_an_alarm_lasts_as_long_as_its_drop(long_outcomes: list[Outcome]) -> None:
    """In drops of one to eight hours the alarm fires for at least 98% of the time, where the detector alone forgets."""
    mine, sunk = (
        drops.coverage("media")([each for each in long_outcomes if each.rule == rule])
        for rule in (drops.DETECTOR, drops.SUNK)
    )
    assert isinstance(mine, float)
    assert isinstance(sunk, float)
    assert mine >= 0.98
    assert sunk < 0.5


def test_an_alarm_ends_soon_after_its_drop(long_outcomes: list[Outcome]) -> None:
    """Nine of ten within 15 minutes of data; and its end begins no other."""
    mine = [each for each in long_outcomes if each.rule == drops.DETECTOR]
    ended = drops.end_of(0.9, "media")(mine)
    assert isinstance(ended, int)
    assert ended <= 15
    assert not any(each.false for each in mine)


def test_the_simulation_is_the_same_for_the_same_seed() -> None:
    """A reported result can be measured again; another seed is another merchant."""
    one, same, other = (plays.simulate(seed, always_on=1, live=1, weeks=1) for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_real_series_get_thinned_drops() -> None:
    """In a drop of 80% about a fifth of the real counts is left; outside the drops nothing changes."""
    name = "Twitter_volume_AMZN"
    plain, thinned = (plays.real(name, 1, drops=drops) for drops in (False, True))
    assert (plain.first, len(plain.plays), plain.hours) == (thinned.first, len(thinned.plays), thinned.hours)
    inside = {minute for drop in thinned.drops for minute in range(drop.first, drop.first + drop.length)}
    before, after = 0.0, 0.0
    for minute, (whole, left) in enumerate(zip(plain.plays, thinned.plays, strict=True), plain.first):
        if minute in inside:
            before, after = before + (whole or 0), after + (left or 0)
        else:
            assert whole == left
    assert after / before == pytest.approx(0.2, abs=0.05)


def test_rides_keep_their_number() -> None:
    """Interpolation between half hours changes no day, and a share of the rides is that share of each hour."""
    whole, part = (plays.rides(share, 1, drops=False, days=7) for share in (1.0, 0.1))
    assert (whole.first, len(whole.plays)) == (part.first, len(part.plays))
    hours = [sum(value or 0 for value in whole.plays[at : at + 60]) for at in range(0, DAY_MINUTES, 60)]
    shares = [sum(value or 0 for value in part.plays[at : at + 60]) for at in range(0, DAY_MINUTES, 60)]
    # As counted on 22 July 2014, with which the fourth week begins.
    assert sum(hours) == pytest.approx(747_934, rel=0.01)
    assert shares == pytest.approx([hour / 10 for hour in hours], rel=0.1)


def test_an_alarm_is_right_false_or_an_echo() -> None:
    """An alarm that begins in a drop finds it; one shortly after is its echo; another is false, and
    may follow a gap.
    """
    series = Series(
        first=1000,
        live=False,
        hours={},
        plays=[1.0] * 600 + [None] + [1.0] * 399,
        drops=[Drop(1100, 15, 1.0, 9.0)],
        events=[],
    )
    scanned = drops.Scanned(series, "media", {drops.SUNK: Alarm(0.4)})
    for minute in range(1000, 2000):
        firing = 1104 <= minute < 1110 or 1123 <= minute < 1130 or 1620 <= minute < 1630 or 1800 <= minute < 1810
        scanned.step(drops.SUNK, minute, float(firing))
    (outcome,) = (each for each in scanned.outcomes(series.drops) if each.rule == drops.SUNK)
    (found,) = outcome.drops
    assert (found.delay, found.covered, found.ended) == (6, 9, 5)
    assert (outcome.false, outcome.missing, outcome.false_minutes) == ((1622, 1802), 1, 36)
    outcomes = scanned.outcomes(series.drops, [Drop(1600, 30, 0.8, 0.0)])
    (outcome,) = (each for each in outcomes if each.rule == drops.SUNK)
    assert outcome.false == (1802,)
