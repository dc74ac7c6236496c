"""What to expect of a configuration before it runs: requests wanted and allowed, staleness, advice. Pure."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from exporter.config.settings import MerchantSettings, PollSettings
from exporter.model import MINUTE, Group, Target
from exporter.planning.index import can_hold, estimate_freshness, lower_bound
from exporter.planning.priorities import FLOOR, Plays, plays_weights, stream_factors
from exporter.times import format_duration

# Each media is looked up in the catalog four times a day.
CATALOG_REQUESTS = 1 / 360


@dataclass(frozen=True, slots=True)
class Capacity:
    """What to expect for one merchant.

    Attributes:
        merchant_id: Which one.
        streams: How many streams, by target and group.
        catalog: Requests a minute for the catalog.
        allowed: Requests a minute that may leave.
        known: How many media have weights from a state file.
        media: How many media there are.
        staleness: The expected mean staleness weighted by what it costs, in minutes.
        bound: What no schedule could be below, in minutes.
        slowest: How many minutes the slowest stream waits for its turn.
        max_staleness: What the configuration asks for, in minutes.
        advice: One line where something does not fit, else "".
    """

    merchant_id: str
    streams: Mapping[tuple[Target, Group], int]
    catalog: float
    allowed: int
    known: int
    media: int
    staleness: float
    bound: float
    slowest: int
    max_staleness: int
    advice: str


def look_ahead(merchant: MerchantSettings, poll: PollSettings, rates: Mapping[str, float]) -> Capacity:
    """Play the schedule of a merchant through.

    Args:
        merchant: Its configuration.
        poll: When and how much is polled.
        rates: Plays a minute by media id, "" for the whole merchant, as far as they are known.
    """
    factors = stream_factors(merchant, poll)
    known = {media.id: Plays(rates.get(media.id)) for media in merchant.media}
    plays = plays_weights(Plays(rates.get("")), known, settled=0)
    plays[""] = max(FLOOR, rates.get("", sum(plays.values())))
    weights = [plays[stream.media_id] * factor for stream, factor in factors.items()]
    streams = Counter((stream.target, stream.group) for stream in factors)
    catalog = len(merchant.media) * CATALOG_REQUESTS
    room = max(1, math.floor(merchant.requests_per_minute - catalog))
    longest = int(poll.max_staleness // MINUTE)
    expected = estimate_freshness(weights, room, longest)
    return Capacity(
        merchant_id=merchant.id,
        streams=streams,
        catalog=catalog,
        allowed=merchant.requests_per_minute,
        known=sum(media.id in rates for media in merchant.media),
        media=len(merchant.media),
        staleness=expected.mean,
        bound=lower_bound(weights, room, longest),
        slowest=expected.slowest,
        max_staleness=longest,
        advice="" if can_hold(len(weights), room, longest) else _advice(streams, poll, room, longest),
    )


def _advice(streams: Mapping[tuple[Target, Group], int], poll: PollSettings, room: int, longest: int) -> str:
    total = sum(streams.values())
    need = math.ceil(total / longest)
    # What matters least goes first, until the rest fits.
    dropped, left = [], total
    for (target, group), count in sorted(
        streams.items(), key=lambda item: poll.weights[item[0][0]] * poll.weights[item[0][1]]
    ):
        if left <= room * longest:
            break
        dropped.append(f"{target}/{group} ({count} streams)")
        left -= count
    wait = format_duration(math.ceil(total / room) * MINUTE)
    return (
        f"max_staleness {format_duration(longest * MINUTE)} does not fit: ask the vendor for a limit of at least "
        f"{need + 1} requests a minute, or raise max_staleness to {wait}, or drop {', '.join(dropped)}"
    )


def describe(outlook: Capacity) -> Iterator[str]:
    """An outlook as lines for a person."""
    total = sum(outlook.streams.values())
    yield f"merchant {outlook.merchant_id}: {_count(total, 'stream')}, {_count(outlook.media, 'media', 'media')}"
    yield ""
    yield f"  {'target':<20}{'group':<12}{'streams':>8}"
    for (target, group), count in outlook.streams.items():
        yield f"  {target:<20}{group:<12}{count:>8}"
    yield ""
    yield f"  requests a minute: {total + outlook.catalog:.1f} wanted, {outlook.allowed} allowed"
    yield (
        f"  expected staleness: {outlook.staleness:.1f} minutes, weighted by plays; "
        f"no schedule could be below {outlook.bound:.1f}"
    )
    slowest = _count(outlook.slowest, "minute")
    yield f"  the slowest stream is fetched every {slowest} (max_staleness: {outlook.max_staleness})"
    if outlook.known:
        yield f"  weights: plays of {outlook.known} of {outlook.media} media are known from the state file"
    else:
        yield "  weights: no plays are known yet, so all media are taken as equally busy"
    if outlook.advice:
        yield f"  advice: {outlook.advice}"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
