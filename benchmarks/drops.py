"""How well drops of plays are detected: of those put into simulated and real plays, and how many alarms are false."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks.plays import WEEK, Drop, Merchant, Series
from exporter.forecast import KEPT, Alarm, Together, broad, judge, judge_live
from exporter.model import DAY_MINUTES, Minute
from exporter.track import Look, Track

# Chosen on the one, reported on the other.
TUNING_SEEDS = range(1, 5)
SEEDS = range(101, 109)

WARNING, CRITICAL, WHOLE = 0.4, 0.6, 0.35

# A live event is judged once it has run for so long; its state is fetched so often, in minutes.
LIVE_AFTER = 12
LIVE_STATE = 2

# After a drop, an alarm is its echo for so long.
ECHO = KEPT


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one rule made of one series.

    Attributes:
        kind: "media", "live", "merchant" or "real".
        rule: The rule's name.
        weeks: How long the series is.
        drops: Each drop with the minutes until the alarm began; None if it was missed.
        false: The minutes of alarms without a drop.
        missing: How many of these followed within an hour of missing data.
    """

    kind: str
    rule: str
    weeks: float
    drops: tuple[tuple[Drop, int | None], ...]
    false: tuple[Minute, ...]
    missing: int


@dataclass(slots=True)
class Watched:
    """One series under the rules: the alarms of each and where they began."""

    series: Series
    first: Minute
    kind: str
    rules: dict[str, Alarm]
    begun: dict[str, list[Minute]] = field(default_factory=dict)

    def step(self, rule: str, minute: Minute, ratio: float | None) -> None:
        """Take one minute's ratio."""
        change = self.rules[rule].step(minute, ratio)
        if change and change.firing:
            self.begun.setdefault(rule, []).append(change.minute)

    def outcomes(self, drops: Sequence[Drop], ignored: Sequence[Drop] = ()) -> list[Outcome]:
        """What each rule made of it.

        Args:
            drops: What is to be found.
            ignored: In these an alarm is neither right nor wrong.
        """
        found = []
        for rule in self.rules:
            begun = self.begun.get(rule, [])
            delays = tuple(
                (drop, next((at - drop.first for at in begun if drop.first <= at < drop.first + drop.length), None))
                for drop in drops
            )
            known = [(drop.first, drop.first + drop.length + ECHO) for drop in (*drops, *ignored)]
            wrong = tuple(at for at in begun if not any(first <= at <= last for first, last in known))
            plays = self.series.plays
            missing = sum(None in plays[max(0, at - self.first - 60) : at - self.first] for at in wrong)
            found.append(Outcome(self.kind, rule, len(plays) / WEEK, delays, wrong, missing))
        return found


class _Naive:
    """The rules that people write first, over running sums."""

    def __init__(self, series: Series, first: Minute) -> None:
        known = [0]
        sums = [0.0]
        for value in series.plays:
            known.append(known[-1] + (value is not None))
            sums.append(sums[-1] + (value or 0.0))
        self._known, self._sums, self._hours, self._first = known, sums, series.hours, first

    def rate(self, at: int) -> float | None:
        """Of the five minutes that end with the minute `at` of the series; before it, from the hours."""
        if at < 4:
            hour = self._first + at - (self._first + at) % 60
            return self._hours[hour] / 60 if hour in self._hours else None
        known = self._known[at + 1] - self._known[at - 4]
        return (self._sums[at + 1] - self._sums[at - 4]) / known if known else None

    def hour_ago(self, at: int) -> float | None:
        """1 where the rate is below half of that an hour ago."""
        return self._below(at, 60)

    def days_ago(self, at: int) -> float | None:
        """1 where the rate is below half of yesterday's and last week's."""
        yesterday, last_week = self._below(at, DAY_MINUTES), self._below(at, WEEK)
        return None if yesterday is None or last_week is None else min(yesterday, last_week)

    def _below(self, at: int, ago: int) -> float | None:
        now, then = self.rate(at), self.rate(at - ago)
        return None if now is None or then is None else float(now < then / 2)


HOUR_AGO, DAYS_AGO = "rate < half of an hour ago, 5m", "half of yesterday and last week, 5m"
DETECTOR, DETECTOR_CRITICAL = "warning", "critical"
RULES = (HOUR_AGO, DAYS_AGO, DETECTOR, DETECTOR_CRITICAL)


def watch(series: Series, first: Minute, kind: str, threshold: float = WARNING) -> Watched:
    """The detector's alarms, and those of the naive rules."""
    watched = Watched(
        series,
        first,
        kind,
        {
            HOUR_AGO: Alarm(0.5, pending=5),
            DAYS_AGO: Alarm(0.5, pending=5),
            DETECTOR: Alarm(threshold),
            DETECTOR_CRITICAL: Alarm(CRITICAL),
        },
    )
    naive = _Naive(series, first)
    for at in range(len(series.plays)):
        watched.step(HOUR_AGO, first + at, naive.hour_ago(at))
        watched.step(DAYS_AGO, first + at, naive.days_ago(at))
    return watched


def judge_merchant(merchant: Merchant) -> list[Outcome]:
    """All series of a merchant, each asked for as often as its plays are worth."""
    first = merchant.first
    watched = [watch(each, first, "live" if each.live else "media") for each in merchant.series]
    whole = watch(merchant.whole, first, "merchant", WHOLE)
    tracks = [_track(each) for each in merchant.series]
    track = _track(merchant.whole)
    together = Together()
    looks: dict[int, Look] = {}
    for at in range(len(merchant.whole.plays)):
        minute = first + at
        for number, each in enumerate(watched):
            every = 1 + number % 4
            if minute % every:
                continue
            start = max(0, at - every + 1)
            if each.series.live:
                _live_step(each, tracks[number].take(first + start, each.series.plays[start : at + 1]))
                continue
            for look in tracks[number].take(first + start, each.series.plays[start : at + 1]):
                together.add(look)
                verdict = judge(look, together.factor(look))
                _both(each, look.minute, verdict and verdict.ratio)
                looks[number] = look
        for look in track.take(minute, [merchant.whole.plays[at]]):
            verdict = judge(look)
            ratio = verdict and verdict.ratio
            if ratio and not broad(each for each in looks.values() if each.minute > minute - 5):
                ratio = 0.0
            _both(whole, minute, ratio)
    outages = merchant.whole.drops
    outcomes = [
        outcome for each in watched for outcome in each.outcomes(each.series.drops, () if each.series.live else outages)
    ]
    return outcomes + whole.outcomes(outages)


def _track(series: Series) -> Track:
    track = Track()
    track.fill(series.hours)
    return track


def _both(watched: Watched, minute: Minute, ratio: float | None) -> None:
    watched.step(DETECTOR, minute, ratio)
    watched.step(DETECTOR_CRITICAL, minute, ratio)


def _live_step(watched: Watched, looks: Iterable[Look]) -> None:
    for look in looks:
        ratio: float | None = 0.0
        # The state of the event is fetched now and then: its end is noticed late.
        seen = look.minute - look.minute % LIVE_STATE
        if any(begin + LIVE_AFTER <= look.minute and begin <= seen < end for begin, end in watched.series.events):
            verdict = judge_live(look)
            ratio = verdict and verdict.ratio
        _both(watched, look.minute, ratio)


def judge_real(series: Series, first: Minute, kind: str) -> list[Outcome]:
    """A real series, which has no others beside it."""
    watched = watch(series, first, kind)
    track = _track(series)
    for look in track.take(first, series.plays):
        verdict = judge(look)
        _both(watched, look.minute, verdict and verdict.ratio)
    return watched.outcomes(series.drops)
