"""Which streams to request next, and how fresh any choice could keep them. Pure.

The streams compete for the requests of a minute. A stream's claim is `weight * s * (s + 1) / 2`, s the settled
minutes that it has not counted yet. That is Whittle's index for the age of information where every request succeeds:
Kadota, Sinha, Uysal-Biyikoglu, Singh and Modiano, "Scheduling Policies for Minimizing Age of Information in Broadcast
Wireless Networks", IEEE/ACM Transactions on Networking 26 (2018). A heavy stream is requested often; a light one waits
until its claim, which grows with the square of its wait, has caught up.
"""

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter
from typing import Generic, TypeVar

Key = TypeVar("Key")

# Halvings of an interval after which what it brackets is known to nine digits.
BISECTIONS = 40

# A backlog that so many minutes can clear, as after a few failed requests, is cleared before anything else.
CATCH_UP_MINUTES = 2


@dataclass(frozen=True, slots=True)
class Candidate(Generic[Key]):
    """A stream that may be requested.

    Attributes:
        key: Which one.
        weight: What a minute of its staleness costs, more than 0.
        staleness: How many settled minutes it has not counted yet.
    """

    key: Key
    weight: float
    staleness: int


def choose(candidates: Sequence[Candidate[Key]], room: int, streams: int, max_staleness: int) -> list[Key]:
    """The streams to request in this minute: those that must not wait any longer, then the ones most worth having.

    Args:
        candidates: The streams that are due.
        room: How many requests may leave in a minute, at least 1.
        streams: How many streams there are, due or not.
        max_staleness: Minutes that no stream is to wait longer than, where the room can hold that.
    """
    ranked = [(each.weight * each.staleness * (each.staleness + 1), each) for each in candidates]
    best = heapq.nlargest(room, ranked, key=itemgetter(0))
    if len(best) < room or not can_hold(streams, room, max_staleness):
        return [each.key for _, each in best]
    # Even after the longest wait these have a smaller claim, so their claim alone never gets them a request.
    price = best[-1][0] / (max_staleness * (max_staleness + 1))
    light = [each for each in candidates if each.weight < price]
    number = min(room, _urgent(candidates, light, room, streams, max_staleness))
    urgent = heapq.nlargest(number, ranked, key=lambda claim: (claim[1].staleness, claim[0]))
    if urgent:
        taken = {each.key for _, each in urgent}
        best = heapq.nlargest(
            room - number, (claim for claim in ranked if claim[1].key not in taken), key=itemgetter(0)
        )
    # The urgent first: something else may take a part of the room before the last of these is sent.
    return [each.key for _, each in (*urgent, *best)]


def can_hold(streams: int, room: float, max_staleness: int) -> bool:
    """Whether so many streams can each be requested every `max_staleness` minutes."""
    return streams <= room * max_staleness


def _urgent(
    candidates: Iterable[Candidate[Key]],
    light: Iterable[Candidate[Key]],
    room: int,
    streams: int,
    max_staleness: int,
) -> int:
    """How many of the stalest streams must be requested now, so that none will have to wait too long.

    A stream that can wait for k more minutes must be requested within k + 1 minutes. All streams are in time if for
    every k those that can wait for no more than k minutes fit into the room of k + 1; what exceeds the room of the
    last k minutes must be done now. (It is the test of "earliest deadline first".) So that it does not come to that,
    the light streams are begun at an even pace.
    """
    due = _due(candidates, max_staleness)
    must = max(count - room * minutes for minutes, count in enumerate(due))
    if must > CATCH_UP_MINUTES * room:
        # After an outage all are late at once. The heavy ones need not wait behind them.
        return max(1, room // 2)
    pace = max(math.ceil(count / (minutes + 1)) for minutes, count in enumerate(_due(light, max_staleness)))
    return max(0, must, min(pace, math.ceil(streams / max_staleness)))


def _due(candidates: Iterable[Candidate[Key]], max_staleness: int) -> list[int]:
    """How many streams can wait for no more than 0, 1, 2, … minutes."""
    waiting = [0] * max_staleness
    for each in candidates:
        waiting[min(max_staleness - 1, max(0, max_staleness - each.staleness))] += 1
    return list(accumulate(waiting))


def lower_bound(weights: Sequence[float], room: float, max_staleness: int | None = None) -> float:
    """The weighted mean staleness, in minutes, below which no schedule can stay.

    It is that of a relaxed problem, in which the room need be kept only on average: then each stream is requested at
    an interval of its own, whole minutes and at least one, about in proportion to 1 / sqrt(weight). Right after a
    request the staleness is 0 and it rises by one a minute, so over an interval T its mean is (T - 1) / 2. To go from
    T + 1 to T takes 1 / (T (T + 1)) requests a minute more and saves weight / 2: a request saves the stream's claim,
    weight * T (T + 1) / 2. So the best intervals are those at which a request saves as much everywhere.

    Args:
        weights: Of each stream, more than 0.
        room: Requests a minute, more than 0.
        max_staleness: The longest interval, where one is to be held and can be.
    """
    if len(weights) <= room:
        return 0.0
    longest = max_staleness if max_staleness and can_hold(len(weights), room, max_staleness) else math.inf

    def intervals(saving: float) -> list[float]:
        """The shortest intervals at which a request saves at least so much."""
        return [min(longest, max(1.0, math.ceil((math.sqrt(1 + 8 * saving / each) - 1) / 2))) for each in weights]

    low, high = 0.0, max(weights)
    while sum(1 / interval for interval in intervals(high)) > room * (1 + 1e-9):
        low, high = high, high * 2
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if sum(1 / interval for interval in intervals(middle)) > room:
            low = middle
        else:
            high = middle
    chosen = intervals(high)
    cost = sum(weight * (interval - 1) / 2 for weight, interval in zip(weights, chosen, strict=True))
    # What room is left goes to streams between two intervals, and saves as much there as anywhere.
    cost -= high * max(0.0, room - sum(1 / interval for interval in chosen))
    return cost / sum(weights)


@dataclass(frozen=True, slots=True)
class FreshnessEstimate:
    """The staleness that a schedule leads to, in minutes, measured each minute right after its requests.

    Attributes:
        mean: The weighted mean.
        slowest: The longest time between two requests for any stream.
    """

    mean: float
    slowest: int


def estimate_freshness(
    weights: Sequence[float], room: int, max_staleness: int, minutes: int = 240
) -> FreshnessEstimate:
    """Simulate the schedule with constant weights, after a start in which each stream was requested."""
    requested_at = [0] * len(weights)
    total, slowest = 0.0, 0
    cycle = math.ceil(len(weights) / room)
    warm = 2 * cycle + min(cycle, max_staleness)
    for minute in range(1, warm + minutes + 1):
        candidates = [Candidate(place, weight, minute - requested_at[place]) for place, weight in enumerate(weights)]
        for place in choose(candidates, room, len(weights), max_staleness):
            if minute > warm:
                slowest = max(slowest, minute - requested_at[place])
            requested_at[place] = minute
        if minute > warm:
            total += sum(weight * (minute - asked) for weight, asked in zip(weights, requested_at, strict=True))
    slowest = max([slowest, *(warm + minutes - asked for asked in requested_at)])
    return FreshnessEstimate(total / sum(weights) / minutes if weights else 0.0, slowest)
