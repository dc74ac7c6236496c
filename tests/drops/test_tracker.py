"""The tracker: an incident from its onset to its end, against the baseline that was frozen at the onset."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from pydantic import TypeAdapter

from exporter.drops.baseline import REVISABLE, Baseline
from exporter.drops.detector import judge_live
from exporter.drops.tracker import AFTERWARDS, Tracker, TrackerState
from exporter.model import DAY_MINUTES, Minute
from exporter.views import Incident, IncidentState, Severity, Thresholds

MIDNIGHT: Minute = 20_000 * DAY_MINUTES

# Minutes after midnight.
NOON, EVENING = 720, 1200

THRESHOLDS = Thresholds(0.4, 0.6)


def steady(_: int) -> float:
    """100 plays in each minute."""
    return 100.0


def day_and_night(minute: int) -> float:
    """Between 20 plays a minute at midnight and 180 at noon."""
    return float(round(100 - 80 * math.cos(2 * math.pi * minute / DAY_MINUTES)))


@dataclass
class Run:
    """A media under the tracker.

    Attributes:
        plays: Its usual plays by minute after midnight.
        changes: The incidents as they began and ended.
        shown: By minute after midnight, the open incident.
    """

    plays: Callable[[int], float] = steady
    thresholds: Thresholds = THRESHOLDS
    season: bool = True
    media_id: str = "a"
    changes: list[Incident] = field(default_factory=list)
    shown: dict[int, Incident | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.baseline = Baseline()
        self.tracker = Tracker(self.media_id, self.thresholds)
        if self.season:
            hours = range(-21 * 24, 0)
            self.baseline.fill({MIDNIGHT + hour * 60: self.plays(hour * 60 + 30) * 60 for hour in hours})
        self.at = 0

    def until(self, minute: int, share: float = 1.0, *, missing: bool = False) -> "Run":
        """Let minutes pass with a share of the usual plays."""
        while self.at < minute:
            value = None if missing else round(self.plays(self.at) * share)
            self.take([value])
        return self

    def take(self, plays: Sequence[float | None]) -> None:
        """Take minutes at once."""
        if self.baseline.newest is not None:
            self.tracker.settle(self.baseline.newest - REVISABLE, self.baseline)
        for observation in self.baseline.take(MIDNIGHT + self.at, plays):
            verdict = self.tracker.judge(observation, 1.0, self.baseline)
            changed = self.tracker.step(observation, verdict, self.baseline)
            self.changes += [changed] if changed else []
            self.shown[observation.minute - MIDNIGHT] = self.tracker.incident(self.baseline)
        self.at += len(plays)

    @property
    def states(self) -> list[IncidentState]:
        """The states of the changes."""
        return [each.state for each in self.changes]


def test_an_incident_lasts_as_long_as_the_drop() -> None:
    """After six hours without plays the ratio is what it was; it ends ten minutes after the plays are back."""
    run = Run().until(NOON).until(NOON + 360, 0.0).until(NOON + 360 + 60)
    begun, ended = run.changes
    assert begun.onset - MIDNIGHT == NOON
    assert begun.opened - MIDNIGHT <= NOON + 5
    assert {incident.ratio for at, incident in run.shown.items() if incident and NOON + 5 < at < NOON + 360} == {1.0}
    assert ended.state is IncidentState.ENDED
    assert NOON + 370 <= ended.minute - MIDNIGHT <= NOON + 375
    assert ended.severity is Severity.CRITICAL
    # What came after the drop's end is not lost.
    assert ended.lost == pytest.approx(360 * 100, rel=0.02)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.45])
def test_the_baseline_follows_the_season(share: float) -> None:
    """In a drop from noon into the night the expected plays fall with the season, and the ratio stays."""
    run = Run(day_and_night).until(NOON).until(DAY_MINUTES - 60, share)
    ratios = [incident.ratio for at, incident in run.shown.items() if incident and at > NOON + 10]
    assert len(ratios) > 600
    assert all(each == pytest.approx(1 - share, abs=0.06) for each in ratios)
    last = run.shown[DAY_MINUTES - 61]
    assert last is not None
    assert last.expected == pytest.approx(day_and_night(DAY_MINUTES - 61), rel=0.1)


def test_without_a_season_the_level_is_expected() -> None:
    """On the first day nothing is known of the season."""
    run = Run(season=False).until(NOON).until(NOON + 200, 0.1)
    incident = run.shown[NOON + 199]
    assert incident is not None
    assert incident.expected == pytest.approx(100, rel=0.05)
    assert incident.ratio == pytest.approx(0.9, abs=0.05)


def test_the_end_of_an_incident_is_no_new_one() -> None:
    """The windows of the detector still contain the drop for half an hour, its forecast for more than an hour."""
    run = Run().until(NOON).until(NOON + 120, 0.0).until(NOON + 400)
    assert run.states == [IncidentState.OPEN, IncidentState.ENDED]


def test_a_relapse_is_a_new_incident() -> None:
    """Shortly after an incident the forecast is still low; the frozen baseline finds the next drop."""
    back = NOON + 120
    run = Run().until(NOON).until(back, 0.0).until(back + 30).until(back + 60, 0.0).until(back + 120)
    assert run.states == [IncidentState.OPEN, IncidentState.ENDED] * 2
    relapse = run.changes[2]
    assert relapse.onset - MIDNIGHT == back + 30
    assert relapse.opened - MIDNIGHT <= back + 30 + 6
    assert relapse.expected == pytest.approx(100, rel=0.05)


def test_plays_that_come_back_lower_are_the_level_of_a_relapse() -> None:
    """After an outage the plays may come back lower; the detector does not find the old level missing for ever."""
    run = Run().until(NOON).until(NOON + 120, 0.0).until(NOON + 600, 0.65)
    assert run.states == [IncidentState.OPEN, IncidentState.ENDED]


def test_it_does_not_end_while_plays_come_back_for_a_moment() -> None:
    """Nine minutes are no recovery."""
    run = Run().until(NOON).until(NOON + 60, 0.0).until(NOON + 68).until(NOON + 120, 0.0)
    assert run.states == [IncidentState.OPEN]
    assert run.shown[NOON + 67] is not None


def test_missing_minutes_neither_begin_nor_end_it() -> None:
    """An API that is down during the drop leaves it as it was."""
    run = Run().until(NOON).until(NOON + 30, 0.0).until(NOON + 150, missing=True).until(NOON + 200, 0.0)
    assert run.states == [IncidentState.OPEN]
    run.until(NOON + 260)
    assert run.states == [IncidentState.OPEN, IncidentState.ENDED]
    # Of the missing minutes nobody knows.
    assert run.changes[1].lost == pytest.approx(80 * 100, rel=0.03)


def test_a_permanent_change_is_accepted_in_time_and_not_before() -> None:
    """It is the new baseline then: the same plays are no new drop, a further fall is one."""
    thresholds = Thresholds(0.4, 0.6, accept_after=6 * 3600.0)
    run = Run(thresholds=thresholds).until(NOON).until(NOON + 359, 0.3)
    assert run.states == [IncidentState.OPEN]
    run.until(NOON + 900, 0.3)
    assert run.states == [IncidentState.OPEN, IncidentState.ACCEPTED]
    accepted = run.changes[1]
    assert accepted.minute == accepted.accept_at == accepted.onset + 360
    run.until(NOON + 930, 0.03)
    assert run.states[2:] == [IncidentState.OPEN]


def test_a_night_with_next_to_no_plays_decides_nothing() -> None:
    """Nobody could tell whether plays are back while less than one in ten minutes is expected."""

    def quiet_night(minute: int) -> float:
        return 60.0 if 360 <= minute % DAY_MINUTES < 1380 else 0.1

    run = Run(quiet_night).until(1320).until(1380, 0.0)
    assert run.states == [IncidentState.OPEN]
    # A few plays in the night.
    for minute in range(1380, DAY_MINUTES + 360):
        run.take([1.0 if minute % 25 == 0 else 0.0])
    assert run.states == [IncidentState.OPEN]
    run.until(DAY_MINUTES + 420)
    assert run.states == [IncidentState.OPEN, IncidentState.ENDED]


def test_severity_is_the_worst_so_far() -> None:
    """A drop that becomes smaller stays critical until its end, one that never was deep stays a warning."""
    deep = Run().until(NOON).until(NOON + 30, 0.1).until(NOON + 90, 0.5).until(NOON + 150)
    assert [each.severity for each in deep.changes] == [Severity.CRITICAL] * 2
    assert deep.changes[1].worst == pytest.approx(0.9, abs=0.02)
    half = Run().until(NOON).until(NOON + 90, 0.5).until(NOON + 150)
    assert [each.severity for each in half.changes] == [Severity.WARNING] * 2
    assert half.changes[1].critical_at is None


def test_revised_minutes_change_what_is_lost() -> None:
    """Rows that come late count: what an incident lost is what is missing after the last revision."""
    run = Run().until(NOON).until(NOON + 40, 0.0)
    run.baseline.take(MIDNIGHT + NOON + 10, [50.0] * 20)
    run.until(NOON + 120, 0.0)
    incident = run.shown[NOON + 119]
    assert incident is not None
    assert incident.lost == pytest.approx(120 * 100 - 20 * 50, rel=0.02)


def test_plays_above_the_expected_do_not_make_up_for_a_drop() -> None:
    """What was lost stays lost when twice as many plays come after the drop."""
    run = Run().until(NOON).until(NOON + 30, 0.1).until(NOON + 60, 2.0)
    ended = run.changes[1]
    assert ended.state is IncidentState.ENDED
    assert ended.lost == pytest.approx(27 * 100, rel=0.15)


def test_a_live_event_has_its_onset_in_the_event() -> None:
    """The minutes before the event have no plays, and are none of the drop's."""
    run = Run(season=False)
    run.take([0.0] * 60)
    run.take([100.0] * 15)
    for _ in range(8):
        for observation in run.baseline.take(MIDNIGHT + run.at, [5.0]):
            change = run.tracker.step(observation, judge_live(observation), run.baseline, flat=True)
            run.changes += [change] if change else []
        run.at += 1
    assert [each.onset - MIDNIGHT for each in run.changes] == [75]
    assert run.changes[0].expected == pytest.approx(100, rel=0.1)


def test_the_onset_is_found_when_the_detector_is_late() -> None:
    """Few plays take longer to be missed; the incident still begins where they began to be."""
    run = Run(lambda minute: 3.0 if minute % 2 else 2.0).until(NOON).until(NOON + 60, 0.0)
    begun = run.changes[0]
    assert begun.opened - MIDNIGHT > NOON + 5
    assert begun.onset - MIDNIGHT == pytest.approx(NOON, abs=1)
    assert begun.expected == pytest.approx(2.5, rel=0.2)


def test_a_state_goes_on_as_if_nothing_had_happened() -> None:
    """What a tracker remembers survives the state file at each moment of a drop."""
    adapter = TypeAdapter(TrackerState)
    plain, stored = Run(), Run()
    for run in (plain, stored):
        run.until(NOON)
    for minute in range(NOON, NOON + 120 + AFTERWARDS + 20):
        share = 0.1 if minute < NOON + 90 else 1.0
        plain.until(minute + 1, share)
        stored.until(minute + 1, share)
        state = adapter.validate_json(adapter.dump_json(stored.tracker.state))
        stored.tracker = Tracker("a", THRESHOLDS, state)
    assert stored.changes == plain.changes
    assert stored.shown == plain.shown
    assert len(plain.changes) == 2


def test_a_long_gap_loses_nothing_of_what_was_missing() -> None:
    """Before minutes come that are days later, what the last hour was missing is counted."""
    run = Run().until(NOON).until(NOON + 50, 0.0)
    run.tracker.settle(MIDNIGHT + NOON + 49, run.baseline)
    run.at += 1000
    run.take([0.0] * 5)
    incident = run.shown[run.at - 1]
    assert incident is not None
    assert incident.lost >= 50 * 100 * 0.98


def test_the_whole_merchant_is_always_critical() -> None:
    """Its alert has one severity."""
    run = Run(media_id="", thresholds=Thresholds(0.35, 0.35)).until(NOON).until(NOON + 30, 0.5)
    assert run.changes[0].severity is Severity.CRITICAL
