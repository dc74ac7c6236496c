"""How fresh the plays of many media are with 50 requests a minute, simulated.

The real poller, ledger and budget poll a merchant's audience; only the network and the time are simulated (`audience`).
The state file is on a disk in memory if there is one.

Staleness is measured each minute right after the round: the settled minutes of each media that are not counted yet,
with the mean weighted by the media's true plays. The bound is that of the same weights and requests, and of a longest
wait if it can be kept. One of the 50 requests is for the whole merchant, in the schedule, the bound and the rotation.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from unittest import mock

from benchmarks.picture import Line, draw
from benchmarks.report import Cell, Table, figures
from exporter.model import MINUTE, Minute
from exporter.planning.index import Candidate, choose, lower_bound
from exporter.polling.queue import RequestQueue
from exporter.polling.round import Plan, Round
from exporter.polling.staleness import Moment
from exporter.storage.state import State, open_state
from tests.support.audience import (
    MERCHANT,
    Audience,
    Process,
    folder_in_memory,
    media_ids,
    settings_for,
    store_catalog,
    stream_of,
    zipf,
)
from tests.support.fakes import FakeClock

REQUESTS = 50

# For the media; one request a minute is for the whole merchant.
ROOM = REQUESTS - 1

LONGEST_WAIT = 30

SETTLE = 120.0

# Plays a minute of the media with most plays.
MOST_PLAYS = 1000.0

# An answer takes 0.2 s, with four requests at once.
ANSWER_SECONDS = 0.05

START = 1_780_000_000.0

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "staleness.svg"


def run(
    folder: Path,
    *,
    media: Sequence[int] = (100, 500, 1000, 5000),
    exponents: Sequence[float] = (1.0, 0.8),
    minutes: int = 120,
    picture: Path = PICTURE,
) -> Table:
    """Measure merchants with this number of media and this Zipf exponent of their plays, for at least this number of
    minutes each.
    """
    results = [_measure(folder, count, exponent, minutes) for exponent in exponents for count in media]
    shown = [result for result in results if result.exponent == exponents[0]]
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(_picture(shown), encoding="utf-8")
    return Table(
        "simulation",
        "simulated, one request after the other: minutes of staleness, weighted by plays, with "
        f"{REQUESTS} requests a minute, as a ratio to the bound of any schedule: with known weights, with an empty "
        "state file from its first minute on (no weight, name or history is known), and in a fixed rotation. Beside "
        "the empty state, the ratio to the same minutes with these known",
        (
            "Zipf",
            "media",
            "staleness",
            "bound",
            "ratio",
            "empty state",
            "to known",
            "rotation",
            "minutes till seen",
            "% seen in 2",
            "slowest",
        ),
        tuple(_row(result) for result in results),
    )


def run_planning(folder: Path, *, streams: Sequence[int] = (500, 5000), rounds: int = 40) -> Table:
    """Measure the cost of planning this number of rounds of this number of streams."""
    costs = [figures(_planning(folder, count, rounds)) for count in streams]
    return Table(
        "planning",
        "CPU milliseconds to plan a round (staleness, weights, order), as a ratio to the least streams",
        ("streams", "ms", "ratio"),
        tuple((count, cost, cost.median / costs[0].median) for count, cost in zip(streams, costs, strict=True)),
    )


@dataclass(slots=True)
class _Observed:
    """The freshness of a merchant's plays in some minutes.

    Attributes:
        staleness: The weighted mean of each minute.
        plays: The number of settled plays.
        at_once: The number of plays that were counted within 2 minutes of their settling.
        counted: The number of counted plays.
        waited: The sum of their waits, in minutes.
        slowest: The largest staleness of an answer, in minutes.
    """

    staleness: list[float] = field(default_factory=list)
    plays: float = 0.0
    at_once: float = 0.0
    counted: float = 0.0
    waited: float = 0.0
    slowest: int = 0


@dataclass(frozen=True, slots=True)
class _Result:
    """How fresh a merchant's plays are.

    Attributes:
        media: The number of media.
        exponent: The Zipf exponent of their plays.
        bound: The lower bound of any schedule, in minutes.
        rotation: The staleness of a fixed rotation.
        empty: The freshness from the first minute of an empty state on.
        empty_known: The mean staleness of the same minutes with known weights, names and history.
        warm: The freshness after a warm-up.
    """

    media: int
    exponent: float
    bound: float
    rotation: float
    empty: _Observed
    empty_known: float
    warm: _Observed


def _row(result: _Result) -> tuple[Cell, ...]:
    warm, empty = fmean(result.warm.staleness), fmean(result.empty.staleness)
    return (
        result.exponent,
        result.media,
        warm,
        result.bound,
        warm / result.bound,
        empty / result.bound,
        empty / result.empty_known,
        result.rotation / result.bound,
        result.warm.waited / result.warm.counted,
        100 * result.warm.at_once / result.warm.plays,
        result.warm.slowest,
    )


def _measure(folder: Path, count: int, exponent: float, minutes: int) -> _Result:
    media = media_ids(count)
    rates = zipf(media, exponent, MOST_PLAYS)
    weights = list(rates.values())
    # Enough for two requests of each stream, and for as many again after the warm-up.
    minutes = max(minutes, 2 * math.ceil(count / ROOM))
    clock = FakeClock(START - START % MINUTE - 1)
    with folder_in_memory(folder) as place:
        state = open_state(Path(place) / "state.db", clock.now)
        try:
            empty = _observe(state, clock, Audience(rates), minutes)
            store_catalog(state, media, clock)
            warm = _observe(state, clock, Audience(rates), minutes, warm_up=minutes)
        finally:
            state.close()
    return _Result(
        media=count,
        exponent=exponent,
        bound=lower_bound(weights, ROOM, LONGEST_WAIT),
        rotation=rotation(count, ROOM),
        empty=empty,
        empty_known=_from_the_start(weights, minutes),
        warm=warm,
    )


def _observe(state: State, clock: FakeClock, audience: Audience, minutes: int, warm_up: int = 0) -> _Observed:
    """Start a process, and record when it counts which minutes, in this number of minutes after the warm-up."""
    process = Process(state, settings_for(list(audience.rates), REQUESTS), clock, audience, seconds=ANSWER_SECONDS)
    streams = {media_id: stream_of(media_id) for media_id in audience.rates}
    through = {media_id: process.ledger.through(stream) for media_id, stream in streams.items()}
    every = sum(audience.rates.values())
    observed = _Observed()
    for minute in range(warm_up + minutes):
        if minute == warm_up:
            observed = _Observed()
        clock.to_next_minute()
        process.client.answers.clear()
        process.poller.round()
        for stream, at, last in process.client.answers:
            if stream.media_id:
                _record(observed, audience.rates[stream.media_id], range(through[stream.media_id] + 1, last + 1), at)
                through[stream.media_id] = last
        settled = process.ledger.settled(MERCHANT, clock.now())
        behind = sum(rate * (settled - through[media_id]) for media_id, rate in audience.rates.items())
        observed.staleness.append(behind / every)
        observed.plays += every
    observed.slowest = max(observed.slowest, *(settled - minute for minute in through.values()))
    return observed


def _record(observed: _Observed, rate: float, counted: range, at: float) -> None:
    """Record that a media's minutes were counted at a time (Unix seconds)."""
    waits = [at - (minute + 1) * MINUTE - SETTLE for minute in counted]
    observed.counted += rate * len(waits)
    observed.waited += rate * sum(waits) / MINUTE
    observed.at_once += rate * sum(wait <= 2 * MINUTE for wait in waits)
    observed.slowest = max(observed.slowest, len(waits))


def _from_the_start(weights: Sequence[float], minutes: int) -> float:
    """The mean staleness of the first minutes after a start in which none is stale, with known weights."""
    requested_at: list[Minute] = [0] * len(weights)
    total = 0.0
    for minute in range(1, minutes + 1):
        candidates = [Candidate(place, weight, minute - requested_at[place]) for place, weight in enumerate(weights)]
        for place in choose(candidates, ROOM, len(weights), LONGEST_WAIT):
            requested_at[place] = minute
        total += sum(weight * (minute - requested) for weight, requested in zip(weights, requested_at, strict=True))
    return total / sum(weights) / minutes


def rotation(streams: int, room: int) -> float:
    """The mean staleness in minutes if all streams are requested in rotation, whatever their weights."""
    if streams <= room:
        return 0.0
    turn = streams / room
    # A stream waits for whole minutes, one more or one less each time.
    short = math.floor(turn)
    share = turn - short
    return ((1 - share) * short**2 + share * (short + 1) ** 2) / turn / 2 - 0.5


@contextmanager
def _timed_plannings() -> Iterator[list[float]]:
    """Collect the CPU seconds of each planning while the block runs."""
    plan = RequestQueue.plan
    seconds: list[float] = []

    def timed(queue: RequestQueue, current: Round, moment: Moment) -> Plan:
        began = time.process_time()
        try:
            return plan(queue, current, moment)
        finally:
            seconds.append(time.process_time() - began)

    with mock.patch.object(RequestQueue, "plan", timed):
        yield seconds


def _planning(folder: Path, count: int, rounds: int) -> Iterator[float]:
    """CPU milliseconds for all planning of each round, for a merchant with this number of streams."""
    media = media_ids(count - 1)
    audience = Audience(zipf(media, 1.0, MOST_PLAYS))
    clock = FakeClock(START - START % MINUTE - 1)
    with folder_in_memory(folder) as place, _timed_plannings() as plannings:
        state = open_state(Path(place) / "state.db", clock.now)
        try:
            store_catalog(state, media, clock)
            process = Process(state, settings_for(media, REQUESTS), clock, audience, seconds=ANSWER_SECONDS)
            for warm_up in (True, False):
                for _ in range(rounds):
                    plannings.clear()
                    clock.to_next_minute()
                    process.poller.round()
                    if not warm_up:
                        yield sum(plannings) * 1000
        finally:
            state.close()


def _picture(results: Sequence[_Result]) -> str:
    """Staleness by the number of media."""
    most = max(result.media for result in results)
    counts = [round(60 * (most / 60) ** (step / 40)) for step in range(41)]
    exponent = results[0].exponent
    bounds = [
        (count, lower_bound(list(zipf(media_ids(count), exponent, MOST_PLAYS).values()), ROOM, LONGEST_WAIT))
        for count in counts
    ]
    return draw(
        title=f"Mean staleness of a play with {REQUESTS} requests a minute",
        across="media",
        up="minutes",
        lines=(
            Line("fixed rotation", [(count, rotation(count, ROOM)) for count in counts], "#b4690e", "6 4"),
            Line(
                "smartstream-exporter, measured",
                [(result.media, fmean(result.warm.staleness)) for result in results],
                "#0b62c4",
                marks=True,
            ),
            Line("bound of any schedule", bounds, "#555555", "2 3"),
        ),
    )
