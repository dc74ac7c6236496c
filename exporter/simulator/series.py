"""The final values of the simulated API: what every minute of every stream ends up as. Fixed by the seed.

Plays are drawn for each media and minute; everything else follows from the plays, so that targets and groups
agree: groups add up to `all`, and media to the whole merchant. Values are made an hour at a time and kept in
caches of bounded size.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from itertools import accumulate
from random import Random
from threading import Lock
from zoneinfo import ZoneInfo

from exporter.model import MINUTE, Group, Minute, Stream, Target, start_of
from exporter.simulator.arithmetic import (
    Values,
    combine_sum,
    combine_unique,
    derived_total,
    draw_count,
    first_value,
    ratio,
    split,
    spread,
)
from exporter.simulator.catalog import Media, make_catalog, number

# The values of the 60 minutes of an hour.
Block = tuple[Values, ...]

# The label values of each group and their usual shares.
LABELS: Mapping[Group, Mapping[str, float]] = {
    Group.ALL: {"": 1.0},
    Group.COUNTRY: {"jp": 88, "us": 4, "tw": 2.5, "kr": 2, "hk": 1.5, "th": 1, "sg": 0.7, "de": 0.3},
    Group.PLAYER: {"web-main": 50, "app-ios": 22, "app-android": 20, "app-tv": 8},
    Group.SITE: {"www.example.jp": 62, "app.example.jp": 28, "m.example.jp": 8, "partner.example.com": 2},
    Group.DEVICE: {"smartphone": 55, "pc": 28, "tablet": 9, "tv": 8},
    Group.OS: {"iOS": 34, "Android": 28, "Windows": 22, "macOS": 8, "tvOS": 5, "Linux": 3},
    Group.PERCENTAGE: {"25": 40, "50": 25, "75": 15, "100": 20},
}


@dataclass(frozen=True, slots=True)
class Revision:
    """How the first value of a minute differs from its final one.

    Attributes:
        up: Share of (media, minute) pairs whose plays are too low at first, and grow.
        down: Share of those whose plays are too high at first, and shrink.
    """

    up: float = 0.0
    down: float = 0.0


FINAL = Revision()


@dataclass(frozen=True, slots=True)
class Thinning:
    """From a minute on, only a share of the plays happens.

    Attributes:
        since: The first minute.
        factors: Media id, or "" for all others -> share of the plays that is left, 0 to 1.
    """

    since: Minute
    factors: Mapping[str, float]

    def factor(self, media_id: str) -> float:
        """The share of one media."""
        return self.factors.get(media_id, self.factors.get("", 1.0))


class World:
    """Every merchant, its catalog and its final values. Thread-safe.

    Attributes:
        seed: The same seed makes the same world.
        zone: The local time in which the day has its evening.
    """

    def __init__(self, seed: int = 1, media: int = 12, zone: ZoneInfo | None = None) -> None:
        self.seed = seed
        self.zone = zone or ZoneInfo("Asia/Tokyo")
        self._size = media
        self._thinnings: tuple[Thinning, ...] = ()
        self._lock = Lock()
        self._catalog = lru_cache(maxsize=64)(self._make_catalog)
        self._block = lru_cache(maxsize=8192)(self._make_block)
        self._hour_sum = lru_cache(maxsize=16384)(self._make_hour_sum)
        self._mean = lru_cache(maxsize=1024)(self._make_mean)
        self._cuts = lru_cache(maxsize=4096)(self._make_cuts)
        self._noise = lru_cache(maxsize=2048)(self._make_noise)

    def catalog(self, merchant_id: str) -> Mapping[str, Media]:
        """The media of a merchant by id, the same order at every call; any merchant id has a catalog."""
        return self._catalog(merchant_id)

    def hour(self, stream: Stream, hour: int, revision: Revision = FINAL) -> Block:
        """The 60 minutes of an hour (Unix time // 3600), final or as they are at first.

        Each has a value for each label of the group. DRM keys have minutes here, though the API has only their days.
        Raises KeyError for an unknown media.
        """
        return self._block(stream, hour, revision, self._thinnings_of(hour))

    def hour_sum(self, stream: Stream, hour: int) -> tuple[Values, Values]:
        """The sum and the largest of an hour's final values, label by label."""
        return self._hour_sum(stream, hour, self._thinnings_of(hour))

    def noise(self, key: str, purpose: str, minute: Minute) -> float:
        """A number between 0 and 1, always the same for the same minute."""
        return self._noise(key, purpose, minute // 60)[minute % 60]

    def thin(self, since: float, factors: Mapping[str, float]) -> None:
        """From an instant (Unix seconds) on, thin the plays; what was before it stays as it was."""
        with self._lock:
            first = math.ceil(since / MINUTE)
            if self._thinnings:
                first = max(first, self._thinnings[-1].since)
            self._thinnings = (*self._thinnings, Thinning(first, dict(factors)))

    def _thinnings_of(self, hour: int) -> int:
        """How many thinnings began before the end of an hour: part of a cache's key, as they change it."""
        return sum(each.since < (hour + 1) * 60 for each in self._thinnings)

    def _make_catalog(self, merchant_id: str) -> Mapping[str, Media]:
        return {media.id: media for media in make_catalog(self.seed, merchant_id, self._size)}

    def _make_noise(self, key: str, purpose: str, hour: int) -> tuple[float, ...]:
        draw = Random(number(self.seed, key, purpose, hour)).random  # noqa: S311 - no secret
        return tuple(draw() for _ in range(60))

    def _make_mean(self, merchant_id: str, media_id: str, hour: int) -> tuple[float, ...]:
        """The expected plays of an hour's minutes."""
        media = self._catalog(merchant_id)[media_id]
        local = datetime.fromtimestamp(start_of(hour * 60), self.zone)
        first = local.hour * 60 + local.minute
        days = (divmod(first + minute, 24 * 60) for minute in range(60))
        return tuple(media.mean_plays((local.weekday() + day) % 7, minute) for day, minute in days)

    def _make_cuts(self, media_id: str, group: Group) -> tuple[float, ...]:
        """Where the labels' shares end on a line from 0 to 1, a little different for each media."""
        draw = Random(number(self.seed, media_id, group)).random  # noqa: S311 - no secret
        edges = list(accumulate(share * (0.6 + 0.8 * draw()) for share in LABELS[group].values()))
        return (*(edge / edges[-1] for edge in edges[:-1]), 1.0)

    def _make_hour_sum(self, stream: Stream, hour: int, thinnings: int) -> tuple[Values, Values]:
        columns = list(zip(*self._block(stream, hour, FINAL, thinnings), strict=True))
        return tuple(map(sum, columns)), tuple(map(max, columns))

    def _make_block(self, stream: Stream, hour: int, revision: Revision, thinnings: int) -> Block:
        def block(of: Stream) -> Block:
            return self._block(of, hour, revision, thinnings)

        plays = replace(stream, target=Target.PLAY_COUNT)
        if stream.target is Target.AVERAGE_PLAY_TIME:
            return tuple(map(ratio, block(replace(stream, target=Target.PLAY_TIME)), block(plays)))
        if not stream.media_id:
            parts = [block(replace(stream, media_id=each)) for each in self._catalog(stream.merchant_id)]
            combine = combine_sum if stream.target.summable else combine_unique
            return tuple(combine(minute) for minute in zip(*parts, strict=True))
        if stream != plays:
            return self._derive(stream, hour, block(plays))
        if stream.group is Group.ALL:
            return tuple((count,) for count in self._plays(stream, hour, revision, thinnings))
        counts = (values[0] for values in block(replace(stream, group=Group.ALL)))
        return self._split(stream, hour, counts)

    def _plays(self, stream: Stream, hour: int, revision: Revision, thinnings: int) -> list[int]:
        """The plays of one media in an hour's minutes."""
        media_id = stream.media_id
        means = self._mean(stream.merchant_id, media_id, hour)
        draws = self._noise(media_id, "plays", hour)
        counts = [draw_count(mean, draw) for mean, draw in zip(means, draws, strict=True)]
        history = self._thinnings[:thinnings]
        if history:
            chances = self._noise(media_id, "thinning", hour)
            counts = [
                _thinned(history, media_id, hour * 60 + index, count, chances[index])
                for index, count in enumerate(counts)
            ]
        if revision == FINAL:
            return counts
        fates, sizes = self._noise(media_id, "revision", hour), self._noise(media_id, "size", hour)
        values = zip(counts, fates, sizes, strict=True)
        return [first_value(count, revision.up, revision.down, fate, size) for count, fate, size in values]

    def _split(self, stream: Stream, hour: int, counts: Iterable[int]) -> Block:
        cuts = self._cuts(stream.media_id, stream.group)
        draws = self._noise(stream.media_id, stream.group, hour)
        return tuple(split(count, cuts, draw) for count, draw in zip(counts, draws, strict=True))

    def _derive(self, stream: Stream, hour: int, plays: Block) -> Block:
        """A target of one media that follows from its plays."""
        media = self._catalog(stream.merchant_id)[stream.media_id]
        draws = self._noise(media.id, stream.target, hour)
        counts = [(sum(values), draw) for values, draw in zip(plays, draws, strict=True)]
        if stream.target is Target.PLAYER_COUNT:
            # Some players are displayed and never played.
            idle = self._split(stream, hour, (int(count * 0.25 + 1.2 * draw) for count, draw in counts))
            return tuple(combine_sum(rows) for rows in zip(plays, idle, strict=True))
        totals = (derived_total(stream.target, media, count, draw) for count, draw in counts)
        return tuple(map(spread, totals, plays))


def _thinned(history: Sequence[Thinning], media_id: str, minute: Minute, count: int, chance: float) -> int:
    """The plays that the newest thinning before a minute leaves."""
    newest = next((each for each in reversed(history) if each.since <= minute), None)
    return count if newest is None else int(count * newest.factor(media_id) + chance)
