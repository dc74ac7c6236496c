"""What the simulated API ends up with: the values that a counter must reach."""

from collections import Counter

from exporter.model import Group, Minute, MinuteRange, Stream, Target
from exporter.simulator.series import LABELS, World


def final_values(
    world: World, merchant_id: str, media_id: str, target: Target, group: Group, minute: Minute
) -> dict[str, int]:
    """Label value -> value in a minute, zeros included; the label of `all` is ""."""
    values = world.hour(Stream(merchant_id, media_id, target, group), minute // 60)[minute % 60]
    return dict(zip(LABELS[group], values, strict=True))


def final_sums(
    world: World, merchant_id: str, media_id: str, target: Target, group: Group, minutes: MinuteRange
) -> dict[str, int]:
    """The sum over some minutes, of a summable target; labels as in `final_values`."""
    sums = Counter(dict.fromkeys(LABELS[group], 0))
    for minute in range(minutes.first, minutes.last + 1):
        sums.update(final_values(world, merchant_id, media_id, target, group, minute))
    return dict(sums)
