"""The arithmetic of the simulated values: counts drawn, dealt out by shares, and put together. Pure."""

import math
from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate, pairwise

from exporter.model import Target
from exporter.simulator.catalog import Media

# One value for each label of a group.
Values = tuple[int, ...]


def draw_count(mean: float, draw: float) -> int:
    """A count with this mean, picked by a number between 0 and 1; like Poisson's, coarser for large means."""
    if mean >= 8:
        # A logistic variable close enough to the normal one, scaled to the deviation of a count.
        clipped = min(max(draw, 1e-4), 1 - 1e-4)
        return max(0, round(mean + math.sqrt(mean) * math.log(clipped / (1 - clipped)) * 0.55))
    chance = below = math.exp(-mean)
    count = 0
    while draw > below and count < 40:
        count += 1
        chance *= mean / count
        below += chance
    return count


def first_value(plays: int, up: float, down: float, fate: float, size: float) -> int:
    """The plays that are shown at first; `up` and `down` are the shares of the minutes that grow and shrink.

    Where plays shrink, some are left in the end: a row never vanishes.
    """
    if fate < up:
        return int(plays * size)
    if plays and fate < up + down:
        return plays + 1 + int(plays * size / 2)
    return plays


def split(count: int, cuts: Sequence[float], draw: float) -> Values:
    """Deal a count out by shares; the parts add up to it exactly."""
    if count <= 0:
        return (0,) * len(cuts)
    if count == 1:
        lucky = min(bisect(cuts, draw), len(cuts) - 1)
        return tuple(int(index == lucky) for index in range(len(cuts)))
    edges = [0, *(int(cut * count + draw) for cut in cuts[:-1]), count]
    return tuple(right - left for left, right in pairwise(edges))


def spread(total: int, parts: Values) -> Values:
    """Deal a total out in proportion to the parts, to none where the part is 0; it adds up exactly."""
    whole = sum(parts)
    if not whole:
        return (0,) * len(parts)
    edges = (0, *(total * edge // whole for edge in accumulate(parts)))
    return tuple(right - left for left, right in pairwise(edges))


def derived_total(target: Target, media: Media, plays: int, draw: float) -> int:
    """The value of a target for a minute with so many plays of one media."""
    if target is Target.PLAY_TIME:
        return int(plays * media.watched * (0.7 + 0.6 * draw))
    if target is Target.KEY_DELIVERY_COUNT:
        return plays + int(plays * 0.1 + draw) if media.drm and plays else 0
    repeated = 0.12 if target is Target.DEVICE_COUNT else 0.05
    return plays - int(plays * repeated + draw / 2)


def ratio(seconds: Values, plays: Values) -> Values:
    """Mean seconds for each play, rounded; 0 where nothing played."""
    return tuple(round(time / count) if count else 0 for time, count in zip(seconds, plays, strict=True))


def combine_sum(rows: Sequence[Values]) -> Values:
    """The sum of rows, label by label."""
    return tuple(map(sum, zip(*rows, strict=True)))


def combine_max(rows: Sequence[Values]) -> Values:
    """The largest of rows, label by label."""
    return tuple(map(max, zip(*rows, strict=True)))


def combine_unique(rows: Sequence[Values]) -> Values:
    """Unique counts of media that share some of their devices: between the largest and the sum."""
    sums, peaks = combine_sum(rows), combine_max(rows)
    return tuple(peak + (total - peak) * 2 // 3 for total, peak in zip(sums, peaks, strict=True))


def unique_over_time(sums: Values, peaks: Values) -> Values:
    """Unique counts of a longer time, of whom some come back: between the largest minute and the sum."""
    return tuple(peak + (total - peak) * 2 // 5 for total, peak in zip(sums, peaks, strict=True))
