"""Capacity estimate of a configuration before it runs: requests needed and allowed, staleness, advice. Pure."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from exporter.config.settings import MerchantSettings, PollSettings
from exporter.model import MINUTE, Group, Target
from exporter.planning.index import FreshnessEstimate, can_hold, estimate_freshness, lower_bound
from exporter.planning.priorities import FLOOR, Plays, plays_weights, stream_factors
from exporter.times import format_duration

# If the budget is short, one request in so many is for the catalog and the history, so that they make progress.
BACKGROUND_SHARE = 10

# While media that were never known cannot be judged, one in so many: their drops are not seen.
LEARNING_SHARE = 3

# From this share of the streams on that the budget can fetch within `max_staleness`, few requests are left for what
# matters most.
TIGHT = 0.75

# The requests for the history of one media, or of the whole merchant: by minute and by hour.
HISTORY_REQUESTS = 2

# Minutes after a start without a backlog in which the catalog and the history come before the streams: nothing is stale
# yet, and each media that is known is judged from then on.
EARLY_MINUTES = 2


@dataclass(frozen=True, slots=True)
class Capacity:
    """The capacity estimate of one merchant.

    Attributes:
        streams: The number of streams, by target and group.
        freshness: The expected staleness.
        bound: The lower bound of the mean staleness with any schedule, in minutes.
        learning: Minutes from the first start until all media can be judged.
        advice: One line where something does not fit, else "".
    """

    streams: Mapping[tuple[Target, Group], int]
    freshness: FreshnessEstimate
    bound: float
    learning: int
    advice: str


def estimate_capacity(merchant: MerchantSettings, poll: PollSettings, rates: Mapping[str, float]) -> Capacity:
    """Estimate by a simulation of the merchant's schedule.

    Args:
        merchant: Its configuration.
        poll: When and how much is polled.
        rates: Plays a minute by media id, "" for the whole merchant, as far as known.
    """
    factors = stream_factors(merchant, poll)
    known = {media.id: Plays(rates.get(media.id)) for media in merchant.media}
    plays = plays_weights(Plays(rates.get("")), known, settled=0)
    plays[""] = max(FLOOR, rates.get("", sum(plays.values())))
    weights = [plays[stream.media_id] * factor for stream, factor in factors.items()]
    streams = Counter((stream.target, stream.group) for stream in factors)
    room = max(1, math.floor(merchant.requests_per_minute - _catalog_requests(merchant)))
    longest = int(poll.max_staleness // MINUTE)
    return Capacity(
        streams=streams,
        freshness=estimate_freshness(weights, room, longest),
        bound=lower_bound(weights, room, longest),
        learning=_learning_minutes(len(merchant.media), len(weights), merchant.requests_per_minute),
        advice=_tight(len(weights), room, longest)
        if can_hold(len(weights), room, longest)
        else _advice(streams, poll, room, longest),
    )


def learning_rate(streams: int, requests_per_minute: float) -> float:
    """The requests a minute for the catalog and the history beside so many streams, until all media can be judged."""
    return max(requests_per_minute / LEARNING_SHARE, requests_per_minute - streams)


def history_requests(media: int) -> int:
    """The requests for the history of so many media and of the whole merchant."""
    return HISTORY_REQUESTS * (media + 1)


def _learning_minutes(media: int, streams: int, requests_per_minute: int) -> int:
    """From the first start: each media takes its lookup and its newest day by minute."""
    # In the first minute a token, the time zone and the whole merchant's plays come first.
    left = 2 * media + 1 + 3
    early = EARLY_MINUTES * requests_per_minute
    if left <= early:
        return math.ceil(left / requests_per_minute)
    return math.ceil(EARLY_MINUTES + (left - early) / learning_rate(streams, requests_per_minute))


def _catalog_requests(merchant: MerchantSettings) -> float:
    """Requests a minute for the catalog: each media is looked up four times a day."""
    return len(merchant.media) / 360


def _tight(streams: int, room: int, longest: int) -> str:
    if streams <= TIGHT * room * longest:
        return ""
    held, twice = format_duration(longest * MINUTE), format_duration(2 * longest * MINUTE)
    return (
        f"{streams / longest:.0f} of {room} requests a minute keep all streams within max_staleness {held}, whatever "
        f"their plays; with {twice}, drops of busy media are found sooner"
    )


def _advice(streams: Mapping[tuple[Target, Group], int], poll: PollSettings, room: int, longest: int) -> str:
    total = sum(streams.values())
    need = math.ceil(total / longest)
    # The streams of the lowest weight are dropped first, until the others fit.
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


def describe(merchant: MerchantSettings, poll: PollSettings, rates: Mapping[str, float]) -> Iterator[str]:
    """The capacity estimate of a merchant as lines of text; arguments as for `estimate_capacity`.

    A media counts whose reference id is not looked up yet, too.
    """
    merchant = merchant.assumed()
    capacity = estimate_capacity(merchant, poll, rates)
    total, media = sum(capacity.streams.values()), len(merchant.media)
    yield f"merchant {merchant.id}: {_count(total, 'stream')}, {_count(media, 'media', 'media')}"
    yield ""
    yield f"  {'target':<20}{'group':<12}{'streams':>8}"
    for (target, group), count in capacity.streams.items():
        yield f"  {target:<20}{group:<12}{count:>8}"
    yield ""
    wanted = total + _catalog_requests(merchant)
    yield f"  requests a minute: {wanted:.1f} wanted, {merchant.requests_per_minute} allowed"
    yield (
        f"  expected staleness: {capacity.freshness.mean:.1f} minutes, weighted by plays; "
        f"no schedule could be below {capacity.bound:.1f}"
    )
    slowest = _count(capacity.freshness.slowest, "minute")
    yield f"  the slowest stream is fetched every {slowest} (max_staleness: {int(poll.max_staleness // MINUTE)})"
    if known := sum(each.id in rates for each in merchant.media):
        yield f"  weights: plays of {known} of {media} media are known from the state file"
    else:
        yield "  weights: no plays are known yet, so all media are taken as equally busy"
    history, minutes = history_requests(media), capacity.learning
    yield (
        f"  drop detection: needs {history:,} requests for history; the busiest media are judged first, "
        f"all within {format_duration(minutes * MINUTE)} of the first start"
    )
    if capacity.advice:
        yield f"  advice: {capacity.advice}"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
