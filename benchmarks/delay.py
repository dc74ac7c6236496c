"""How long it takes from the first missing play to the notification, by part, on a simulated clock.

The real poller, ledger, budget and drop monitor poll a merchant with the demo's lag; only the network and the time are
simulated (`audience`). Prometheus and Alertmanager are replaced by their waits, which are read from the example files:
a scrape and an evaluation at their intervals, `for`, and `group_wait` of the receiver of critical alerts.
"""

import contextlib
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import yaml

from benchmarks.report import Cell, Table
from exporter.config.settings import Settings
from exporter.model import MINUTE, Group, Minute, MinuteRange, Reading, Stream, end_of, minute_of, start_of
from exporter.storage.state import State, open_state
from exporter.times import parse_duration
from tests.support.audience import (
    Audience,
    Process,
    StandIn,
    folder_in_memory,
    media_ids,
    merchant_for,
    store_catalog,
    zipf,
)
from tests.support.fakes import FakeClock

EXAMPLES = Path(__file__).parent.parent / "prometheus"

START = 1_780_000_000.0

# Of the demo: minutes until a row appears after the end of its minute, and at most so much more.
LAG, JITTER = 1.0, 0.5

REQUESTS = 45

SETTLE = 120.0

# Plays a minute of the media that drops, and the share that is left.
RATE, LEFT = 90.0, 0.1

# A drop lasts so many minutes. Before it a process runs for so many minutes at least, and for so many at most: the drop
# begins somewhere between two turns of the media.
LASTS = 40
BEFORE = (10, 30)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A merchant.

    Attributes:
        media: How many media it has. Their plays follow Zipf's law, and one of them has 90 plays a minute.
        groups: By what their plays are collected; the demo has more than one, and the play time.
        max_staleness: The setting.
    """

    media: int
    groups: Sequence[str] = ("all",)
    max_staleness: str = "30m"

    def rates(self) -> dict[str, float]:
        """Plays a minute by media; the first is the one that drops."""
        first, *others = media_ids(self.media)
        return {first: RATE, **zipf(others, 1.0, 500.0)}

    def settings(self) -> Settings:
        """The configuration."""
        plays: dict[str, object] = {"target": "play_count", "groups": self.groups}
        collect = [plays, *([{"target": "play_time"}] if len(self.groups) > 1 else [])]
        merchant = merchant_for(self.rates(), REQUESTS, collect=collect)
        poll = {"concurrency": 1, "max_staleness": self.max_staleness}
        return Settings.model_validate({"merchants": [merchant], "poll": poll})


DEMO = ("all", "country", "device")

SCENARIOS = (Scenario(12, DEMO), Scenario(300), Scenario(300, DEMO), Scenario(300, DEMO, "1h"))


@dataclass(frozen=True, slots=True)
class Waits:
    """What the example files of Prometheus and Alertmanager wait, in seconds."""

    scrape: float
    evaluation: float
    pending: float
    group: float


@dataclass(frozen=True, slots=True)
class Delay:
    """The parts of one notification's delay, in seconds.

    Attributes:
        data: From the start of the first missing minute to the end of the minute that showed the drop.
        settle: Until this minute was settled; the lag of the API is a part of it.
        turn: Until the media was requested, and the result published.
        scrape: Until a scrape.
        evaluation: Until the alert fired, but for `for`.
        pending: `for`.
        group: `group_wait`.
    """

    data: float
    settle: float
    turn: float
    scrape: float
    evaluation: float
    pending: float
    group: float

    @property
    def total(self) -> float:
        """All parts together."""
        return self.data + self.settle + self.turn + self.scrape + self.evaluation + self.pending + self.group


PARTS = ("data", "settle", "turn", "scrape", "evaluation", "pending", "group", "total")


class LateApi(StandIn):
    """Rows that appear as late as those of the demo, of plays that can drop."""

    dropped: range = range(0)

    def aggregations(self, stream: Stream, requested: MinuteRange, *, hourly: bool = False) -> Reading:
        """The rows that have appeared."""
        self.send()
        if hourly:
            return Reading({})
        now, label = self._clock.now(), "" if stream.group is Group.ALL else "one"
        rows = {
            minute: {label: self._plays(stream.media_id, minute)}
            for minute in range(requested.first, requested.last + 1)
            if end_of(minute) + MINUTE * (LAG + JITTER * random.Random(minute).random()) <= now  # noqa: S311
        }
        return Reading(rows)

    def _plays(self, media_id: str, minute: Minute) -> float:
        plays = self.audience.plays(media_id, minute)
        first = next(iter(self.audience.rates))
        if minute in self.dropped and media_id in ("", first):
            plays -= round((1 - LEFT) * self.audience.plays(first, minute))
        return plays


def run(
    folder: Path, *, scenarios: Sequence[Scenario] = SCENARIOS, drops: int = 40, warm_up: int = 300, seed: int = 1
) -> Table:
    """Measure these merchants over this number of drops, after a warm-up in minutes."""
    waits = waits_of(EXAMPLES)
    rows: list[tuple[Cell, ...]] = []
    for scenario in scenarios:
        with folder_in_memory(folder) as memory:
            dice = random.Random(seed)  # noqa: S311 - a simulation
            delays = measure(scenario, Path(memory) / "state.db", waits, drops, warm_up, dice)
        streams = scenario.settings().merchants[0].streams()
        of = scenario.media, len(streams), scenario.max_staleness
        rows += [
            (*of, f"p{share * 100:.0f}", *(_quantile(delays, part, share) for part in PARTS)) for share in (0.5, 0.9)
        ]
    return Table(
        "delay",
        f"seconds from the first missing play of a media with {RATE:g} plays a minute, of which {1 - LEFT:.0%} drop, "
        f"to the notification of the critical alert, with {REQUESTS} requests a minute; settle 120 s, rows "
        f"{LAG * 60:g} to {(LAG + JITTER) * 60:g} s late; each part's quantile is its own",
        ("media", "streams", "max_staleness", "", *PARTS),
        tuple(rows),
    )


def waits_of(examples: Path) -> Waits:
    """The waits of the example files."""
    prometheus: Any = yaml.safe_load((examples / "prometheus.yml").read_text())
    rules: Any = yaml.safe_load((examples / "rules" / "smartstream.yml").read_text())
    alertmanager: Any = yaml.safe_load((examples / "alertmanager.yml").read_text())
    group = next(each for each in rules["groups"] if each["name"] == "smartstream-drops")
    rule = next(each for each in group["rules"] if each["alert"] == "SmartstreamPlaysDropCritical")
    route = next(each for each in alertmanager["route"]["routes"] if 'severity="critical"' in each["matchers"])
    return Waits(
        parse_duration(prometheus["global"]["scrape_interval"]),
        parse_duration(group["interval"]),
        parse_duration(rule["for"]),
        parse_duration(route["group_wait"]),
    )


def measure(scenario: Scenario, path: Path, waits: Waits, drops: int, warm_up: int, dice: random.Random) -> list[Delay]:
    """The delay of each of some drops of one media.

    Each is found by a process of its own, which begins with the same state file: a media with a drop every hour or two
    would have plays that vary far more than usual.
    """
    clock = FakeClock(START)
    with contextlib.closing(open_state(path, clock.now)) as state:
        store_catalog(state, list(scenario.rates()), clock)
        world = _Stepping(scenario, state, clock)
        world.minutes(warm_up)
        world.save()
    delays = []
    for number in range(drops):
        later = FakeClock(clock.now())
        copy = path.with_name(f"{number}.db")
        shutil.copy(path, copy)
        with contextlib.closing(open_state(copy, later.now)) as state:
            world = _Stepping(scenario, state, later)
            world.minutes(dice.randrange(*BEFORE))
            delays.append(world.notified(waits, dice))
    return delays


class _Stepping:
    """Lets a process pass minutes, with a round in each."""

    def __init__(self, scenario: Scenario, state: State, clock: FakeClock) -> None:
        rates = scenario.rates()
        self._process = Process(state, scenario.settings(), clock, Audience(rates), client=LateApi)
        self._clock, self._monitor, self._media_id = clock, self._process.monitor, next(iter(rates))

    def save(self) -> None:
        """Write everything to the state file."""
        self._monitor.save(self._clock.now())

    def minutes(self, count: int) -> None:
        """Run a round in each of the next minutes, right at its start, when another one has settled."""
        for _ in range(count):
            self._clock.to_next_minute()
            self._process.poller.round()

    def notified(self, waits: Waits, dice: random.Random) -> Delay:
        """Begin a drop, and let minutes pass until an alert is notified."""
        first = minute_of(self._clock.now())
        cast("LateApi", self._process.client).dropped = range(first, first + LASTS)
        prometheus = _Prometheus(self._clock.now(), waits, dice)
        known: tuple[float, Minute] | None = None
        for _ in range(LASTS):
            start = self._clock.now() + MINUTE - self._clock.now() % MINUTE
            prometheus.until(start, self._critical)
            for at, critical, minute in self._round(start):
                # What is scraped until then is from before it.
                prometheus.until(at, partial(_constant, known is not None))
                known = (known or (at, minute)) if critical else None
            if prometheus.fired is not None and known is not None:
                at, minute = known
                return Delay(
                    end_of(minute) - start_of(first),
                    SETTLE,
                    at - end_of(minute) - SETTLE,
                    prometheus.scraped - at,
                    prometheus.fired - waits.pending - prometheus.scraped,
                    waits.pending,
                    waits.group,
                )
        raise AssertionError("no alert fired while the drop lasted")

    def _round(self, start: float) -> list[tuple[float, bool, Minute]]:
        """Run a round.

        Returns:
            Each time at which something was published in it, whether the alert's threshold was exceeded then, and the
            newest minute.
        """
        published = []
        judge = self._monitor.judge

        def judging() -> Mapping[str, Exception]:
            failed = judge()
            now = self._clock.now()
            verdict = self._monitor.drops(now)[self._media_id].verdict
            published.append((max(start, now), self._critical(now), verdict.minute if verdict else 0))
            return failed

        self._monitor.judge = judging  # type: ignore[method-assign]
        self.minutes(1)
        self._monitor.judge = judge  # type: ignore[method-assign]
        return published

    def _critical(self, now: float) -> bool:
        """Whether the ratio that is shown at a moment is above the threshold."""
        verdict, thresholds = self._monitor.drops(now)[self._media_id].verdict, self._monitor.thresholds[self._media_id]
        return verdict is not None and thresholds is not None and verdict.ratio > thresholds.critical


class _Prometheus:
    """The scrapes and evaluations of Prometheus.

    Attributes:
        scraped: The first scrape in a row that shows a drop.
        fired: When the alert began to fire.
    """

    def __init__(self, now: float, waits: Waits, dice: random.Random) -> None:
        self._waits = waits
        self._scrape, self._evaluate = now + dice.uniform(0, waits.scrape), now + dice.uniform(0, waits.evaluation)
        self._shown = False
        self._since: float | None = None
        self.scraped = 0.0
        self.fired: float | None = None

    def until(self, end: float, shown: Callable[[float], bool]) -> None:
        """Scrape and evaluate until a moment; `shown` returns whether a scrape shows a drop."""
        while (at := min(self._scrape, self._evaluate)) < end:
            if at == self._scrape:
                self._scrape += self._waits.scrape
                now = shown(at)
                if now and not self._shown:
                    self.scraped = at
                self._shown = now
            else:
                self._evaluate += self._waits.evaluation
                self._since = (at if self._since is None else self._since) if self._shown else None
                if self.fired is None and self._since is not None and at >= self._since + self._waits.pending:
                    self.fired = at


def _constant(shown: bool, _now: float) -> bool:  # noqa: FBT001 - an argument of `partial`
    return shown


def _quantile(delays: Sequence[Delay], part: str, share: float) -> float:
    values = sorted(getattr(delay, part) for delay in delays)
    return float(values[min(len(values) - 1, int(share * len(values)))])
