"""Simulated plays of a merchant, by minute, for the drop detector; and plays made from real counts.

The simulation makes detection hard: evening peaks, weekends, plays that vary more than those of independent viewers,
slow changes of each media and of all, growth, bursts, a holiday, old outages and spikes, missing minutes. Drops are
made by thinning: each play is removed with the same probability.
"""

import csv
import gzip
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from exporter.model import DAY_MINUTES, Minute

WEEK = 7 * DAY_MINUTES
STEP = 5

# A Monday, 00:00 in Japan.
START = int(datetime(2026, 3, 1, 15, tzinfo=UTC).timestamp()) // 60

# Weeks of hours before the first minute.
HISTORY_WEEKS = 3

LENGTHS = (15, 30, 60)

REAL = Path(__file__).with_name("data") / "nab"
REAL_NAMES = tuple(sorted(path.name.removesuffix(".csv.gz") for path in REAL.glob("Twitter_*.csv.gz")))


@dataclass(frozen=True, slots=True)
class Drop:
    """A drop: plays that were removed.

    Attributes:
        first: Its first minute.
        length: Its length in minutes.
        depth: The share of the plays that is removed.
        rate: The plays a minute without the drop.
    """

    first: Minute
    length: int
    depth: float
    rate: float


@dataclass(frozen=True, slots=True)
class Drops:
    """Which drops a simulated media gets.

    Attributes:
        lengths: The lengths, in minutes.
        depths: The shares of the plays that are removed.
        apart: The least distance between the beginnings of two drops, in minutes.
        outage: The length of an outage of all media, in minutes.
    """

    lengths: Sequence[int]
    depths: Sequence[float]
    apart: int
    outage: int


SHORT = Drops(LENGTHS, (0.5, 0.8, 1.0), apart=360, outage=30)
# After the longest, the season and the level get some hours.
LONG = Drops((60, 120, 240, 480), (0.8, 1.0), apart=1200, outage=240)
# The plays stay low for two days, which is longer than it takes to accept them as the new level.
LASTING = Drops((2 * DAY_MINUTES,), (0.7, 0.8), apart=4 * DAY_MINUTES, outage=30)


@dataclass(frozen=True, slots=True)
class Series:
    """The plays of one media.

    Attributes:
        first: The first minute.
        live: Whether it is a live media.
        hours: First minute of an hour before the first minute -> plays.
        plays: From the first minute on; None where missing.
        drops: The drops, in order of time.
        events: First minute, and minute after the last, of each live event.
    """

    first: Minute
    live: bool
    hours: dict[Minute, float]
    plays: list[float | None]
    drops: list[Drop]
    events: list[tuple[Minute, Minute]]


@dataclass(frozen=True, slots=True)
class Merchant:
    """All media of one merchant.

    Attributes:
        series: The series of each media, all for the same minutes.
        whole: Their sum, and the drops of all media at once.
    """

    series: list[Series]
    whole: Series


def simulate(seed: int, *, always_on: int = 40, live: int = 10, weeks: int = 4, kind: Drops = SHORT) -> Merchant:
    """A merchant's plays; the same for the same seed."""
    dice = random.Random(seed)  # noqa: S311 - a simulation
    minutes = weeks * WEEK
    steps = minutes // STEP
    history = HISTORY_WEEKS * WEEK // STEP
    gaps = [_gap(dice, minutes) for _ in range(weeks // 2)]
    together = _wander(dice, history + steps, sigma=0.04, hours=3)
    # A holiday of one day in the second half, from an hour before midnight to the same time of the next day.
    holiday = history + (dice.randrange(weeks * 7 // 2, weeks * 7 - 1) * DAY_MINUTES - 60) // STEP
    for step in range(max(0, holiday), min(len(together), holiday + DAY_MINUTES // STEP)):
        edge = min(step - holiday, holiday + DAY_MINUTES // STEP - step) / 36
        together[step] *= 1 - 0.3 * min(1.0, edge)
    outages = [Drop(dice.randrange(minutes), kind.outage, 0.8, 0.0) for _ in range(weeks // 2)]
    series = [_always_on(dice, together, minutes, gaps, outages, kind) for _ in range(always_on)]
    series += [_live(dice, minutes, gaps) for _ in range(live)]
    plays = [_sum(values) for values in zip(*(each.plays for each in series), strict=True)]
    hours = {hour: sum(each.hours.get(hour, 0.0) for each in series) for hour in series[0].hours}
    whole = Series(
        first=START, live=False, hours=hours, plays=plays, drops=[_shifted(drop) for drop in outages], events=[]
    )
    return Merchant(series, whole)


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _shifted(drop: Drop) -> Drop:
    return Drop(START + drop.first, drop.length, drop.depth, drop.rate)


def _gap(dice: random.Random, minutes: int) -> tuple[int, int]:
    first = dice.randrange(minutes)
    return first, first + dice.choice((5, 20, 60, 180))


def _wander(dice: random.Random, steps: int, sigma: float, hours: float) -> list[float]:
    """A factor around 1 that changes slowly."""
    keep = math.exp(-STEP / 60 / hours)
    push = sigma * math.sqrt(1 - keep**2)
    at, factors = dice.gauss(0, sigma), []
    for _ in range(steps):
        factors.append(math.exp(at))
        at = keep * at + dice.gauss(0, push)
    return factors


def _always_on(
    dice: random.Random,
    together: Sequence[float],
    minutes: int,
    gaps: Sequence[tuple[int, int]],
    outages: Sequence[Drop],
    kind: Drops,
) -> Series:
    history = HISTORY_WEEKS * WEEK // STEP
    rates = _rates(dice, together)
    rates_by_minute = [rates[history + minute // STEP] for minute in range(minutes)]
    for first, factors in _bursts(dice, minutes):
        for minute, factor in enumerate(factors, first):
            if minute < minutes:
                rates_by_minute[minute] *= factor
    drops = _drops(dice, rates_by_minute, outages, gaps, kind)
    for drop in (*drops, *outages):
        for minute in range(drop.first, min(minutes, drop.first + drop.length)):
            rates_by_minute[minute] *= 1 - drop.depth
    noise = 1 + dice.random() * 2
    plays: list[float | None] = [_count(dice, rate, noise) for rate in rates_by_minute]
    _lose(dice, plays, gaps)
    hours = {
        START - HISTORY_WEEKS * WEEK + hour * 60: _count(dice, sum(rates[hour * 12 : hour * 12 + 12]) * STEP, noise)
        for hour in range(history // 12)
    }
    return Series(
        first=START, live=False, hours=hours, plays=plays, drops=[_shifted(drop) for drop in drops], events=[]
    )


def _rates(dice: random.Random, together: Sequence[float]) -> list[float]:
    """Plays a minute of each step: of the history, and of the minutes after it."""
    volume = math.exp(dice.uniform(0, math.log(500)))
    evening, width, weekend = dice.gauss(21, 0.7), dice.uniform(2, 3.5), dice.uniform(1.0, 1.5)
    lunch, night = dice.uniform(0.1, 0.6), dice.uniform(0.08, 0.3)
    growth = math.exp(dice.choice((0.0, 0.0, 0.0, 0.3, -0.3)) * dice.random() / (WEEK / STEP))
    own = _wander(dice, len(together), sigma=dice.uniform(0.03, 0.1), hours=dice.uniform(1, 4))
    day = [
        night
        + math.exp(-(((hour - evening + 12) % 24 - 12) ** 2) / 2 / width**2)
        + lunch * math.exp(-((hour - 12.5) ** 2) / 2)
        + 0.3 * math.exp(-((hour - 15) ** 2) / 2 / 4**2)
        for hour in (step * STEP / 60 for step in range(DAY_MINUTES // STEP))
    ]
    scale = volume / (sum(day) / len(day))
    rates = [
        scale
        * day[step % len(day)]
        * (weekend if step // len(day) % 7 >= 5 else 1.0)
        * growth**step
        * together[step]
        * own[step]
        for step in range(len(together))
    ]
    for _ in range(dice.randrange(4)):
        # Old outages and spikes, which must not affect the season.
        first, length = dice.randrange(HISTORY_WEEKS * WEEK // STEP), dice.randrange(6, 72)
        factor = dice.choice((0.0, 0.1, 3.0, 5.0))
        for step in range(first, min(HISTORY_WEEKS * WEEK // STEP, first + length)):
            rates[step] *= factor
    return rates


def _bursts(dice: random.Random, minutes: int) -> Iterator[tuple[int, list[float]]]:
    """Sudden attention, as after a link from a popular page: plays rise within minutes and fade."""
    at = dice.expovariate(1 / WEEK)
    while at < minutes:
        height, fading, rise = dice.uniform(1, 8), dice.uniform(10, 60), dice.randrange(1, 10)
        yield (
            int(at),
            [
                1 + height * min(1.0, (minute + 1) / rise) * math.exp(-max(0, minute - rise) / fading)
                for minute in range(int(fading * 6))
            ],
        )
        at += dice.expovariate(1 / WEEK)


def _drops(
    dice: random.Random,
    rates: Sequence[float],
    taken: Sequence[Drop],
    gaps: Sequence[tuple[int, int]],
    kind: Drops,
) -> list[Drop]:
    """About two a week, at any time of the day, none near another or near missing minutes."""
    drops: list[Drop] = []
    for _ in range(2 * len(rates) // WEEK):
        first, length = dice.randrange(len(rates) - max(kind.lengths)), dice.choice(kind.lengths)
        if any(abs(first - other.first) < kind.apart for other in (*drops, *taken)):
            continue
        if any(start - 120 < first < last + 120 for start, last in gaps):
            continue
        rate = sum(rates[first : first + length]) / length
        drops.append(Drop(first, length, dice.choice(kind.depths), rate))
    return sorted(drops, key=lambda drop: drop.first)


def _live(dice: random.Random, minutes: int, gaps: Sequence[tuple[int, int]]) -> Series:
    """Events in the evening: many come at the start, fewer later, none after the end."""
    rates = [0.0] * minutes
    drops, events = [], []
    for day in range(minutes // DAY_MINUTES):
        if dice.random() > 0.4:
            continue
        first, length = day * DAY_MINUTES + dice.choice((18, 19, 20, 21)) * 60, dice.randrange(45, 150)
        height, fading = math.exp(dice.uniform(math.log(5), math.log(300))), dice.uniform(20, 120)
        for minute in range(length):
            if first + minute < minutes:
                rates[first + minute] = height * min(1, (minute + 1) / 5) * (0.3 + 0.7 * math.exp(-minute / fading))
        events.append((START + first, START + first + length))
        if dice.random() < 0.5:
            start = first + dice.randrange(15, length - 20)
            drop = Drop(start, 15, dice.choice((0.8, 1.0)), sum(rates[start : start + 15]) / 15)
            for minute in range(start, start + 15):
                rates[minute] *= 1 - drop.depth
            drops.append(_shifted(drop))
    noise = 1 + dice.random()
    plays: list[float | None] = [_count(dice, rate, noise) for rate in rates]
    _lose(dice, plays, gaps)
    hours = {START - HISTORY_WEEKS * WEEK + hour * 60: 0.0 for hour in range(HISTORY_WEEKS * WEEK // 60)}
    return Series(first=START, live=True, hours=hours, plays=plays, drops=drops, events=events)


def _lose(dice: random.Random, plays: list[float | None], gaps: Sequence[tuple[int, int]]) -> None:
    for first, last in gaps:
        for minute in range(first, min(len(plays), last + 1)):
            plays[minute] = None
    for _ in range(len(plays) // 5000):
        plays[dice.randrange(len(plays))] = None


def _count(dice: random.Random, rate: float, noise: float) -> float:
    """A count with the mean `rate` and `noise` times its variance: negative binomial."""
    if rate <= 0:
        return 0.0
    if noise > 1:
        shape = rate / (noise - 1)
        rate = dice.gammavariate(shape, rate / shape)
    if rate > 30:
        return float(max(0, round(dice.gauss(rate, math.sqrt(rate)))))
    limit, count, product = math.exp(-rate), 0, dice.random()
    while product > limit:
        count += 1
        product *= dice.random()
    return float(count)


def real(name: str, seed: int, *, drops: bool, days: int | None = None) -> Series:
    """A real series of counts, spread over the minutes at random, with or without drops of 80% thinned in.

    The first three weeks are history by the hour, the rest are minutes.

    Args:
        name: The name of the file, without its extensions.
        seed: The seed for the spreading and the drops.
        drops: Add drops by thinning, one in about two days.
        days: The number of days after the history; None for all.
    """
    dice = random.Random(seed)  # noqa: S311 - a simulation
    rows = _rows(name)
    origin, step = rows[0][0], rows[1][0] - rows[0][0]
    plays: list[float | None] = [None] * (rows[-1][0] - origin + step)
    for minute, count in rows:
        spread = [0.0] * step
        for _ in range(count):
            spread[int(dice.random() * step)] += 1
        plays[minute - origin : minute - origin + step] = spread
    return _recorded(dice, origin, plays[: _end(days)], drops=drops)


def rides(share: float, seed: int, *, drops: bool, days: int | None = None) -> Series:
    """The taxi rides of New York over seven months, a share of them, interpolated between half hours.

    Args:
        share: The share of all rides, which are some 500 a minute.
        seed: The seed for the minutes and the drops.
        drops: As for `real`.
        days: As for `real`.
    """
    dice = random.Random(seed)  # noqa: S311 - a simulation
    rows = _rows("nyc_taxi")
    origin, step = rows[0][0], rows[1][0] - rows[0][0]
    counts = [count for _, count in rows]
    plays: list[float | None] = []
    for at, count in enumerate(counts):
        for minute in range(step):
            # From the half hour's center, towards the neighbor on that side.
            away = (minute + 0.5) / step - 0.5
            neighbour = counts[min(len(counts) - 1, max(0, at + (1 if away > 0 else -1)))]
            plays.append(_count(dice, share * (count + abs(away) * (neighbour - count)) / step, 1.0))
    return _recorded(dice, origin, plays[: _end(days)], drops=drops)


def _rows(name: str) -> list[tuple[Minute, int]]:
    with gzip.open(REAL / f"{name}.csv.gz", "rt") as text:
        return [
            (int(datetime.fromisoformat(row["timestamp"]).replace(tzinfo=UTC).timestamp()) // 60, int(row["value"]))
            for row in csv.DictReader(text)
        ]


def _end(days: int | None) -> int | None:
    """The number of minutes of the history and this number of days."""
    return None if days is None else HISTORY_WEEKS * WEEK + days * DAY_MINUTES


def _recorded(dice: random.Random, origin: Minute, plays: list[float | None], *, drops: bool) -> Series:
    begin = HISTORY_WEEKS * WEEK
    hours: dict[Minute, float] = {}
    for hour in range(0, begin, 60):
        known = [value for value in plays[hour : hour + 60] if value is not None]
        if len(known) > 30:
            hours[origin + hour] = sum(known) * 60 / len(known)
    thinned = _thin(dice, plays, begin) if drops else []
    return Series(
        first=origin + begin,
        live=False,
        hours=hours,
        plays=plays[begin:],
        drops=[Drop(origin + drop.first, drop.length, drop.depth, drop.rate) for drop in thinned],
        events=[],
    )


def _thin(dice: random.Random, plays: list[float | None], begin: int) -> list[Drop]:
    drops = []
    for window in range(begin, len(plays) - 2 * DAY_MINUTES, 2 * DAY_MINUTES):
        first, length = window + dice.randrange(120, 2 * DAY_MINUTES - 360), dice.choice(LENGTHS)
        before = [value for value in plays[first - 120 : first] if value is not None]
        inside = [value for value in plays[first : first + length] if value is not None]
        if len(before) < 120 or len(inside) < length:
            continue
        # A burst before it or in it does not make a quiet media a busy one.
        usual = median(sum(before[at : at + STEP]) / STEP for at in range(0, 120, STEP))
        for minute in range(first, first + length):
            value = plays[minute]
            if value is not None:
                plays[minute] = float(sum(dice.random() > 0.8 for _ in range(int(value))))
        drops.append(Drop(first, length, 0.8, min(usual, sum(inside) / length)))
    return drops
