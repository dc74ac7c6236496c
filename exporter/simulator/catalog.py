"""The media of a simulated merchant: names, volumes, and when live events run. Pure, fixed by the seed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from random import Random

DAY = 24 * 60
EVERY_DAY = frozenset(range(7))
WEEKDAYS = frozenset(range(5))
WEEKEND = frozenset({5, 6})

# Plays at each hour of the local day, relative to the peak.
SHAPES: Mapping[str, tuple[float, ...]] = {
    "evening": (
        *(0.34, 0.20, 0.11, 0.07, 0.06, 0.08, 0.16, 0.27, 0.30, 0.26, 0.25, 0.28),
        *(0.38, 0.34, 0.29, 0.28, 0.32, 0.42, 0.56, 0.74, 0.92, 1.00, 0.86, 0.58),
    ),
    "morning": (
        *(0.05, 0.03, 0.02, 0.03, 0.12, 0.45, 0.86, 1.00, 0.72, 0.45, 0.30, 0.25),
        *(0.30, 0.22, 0.18, 0.17, 0.19, 0.22, 0.22, 0.19, 0.16, 0.13, 0.10, 0.07),
    ),
    "channel": (
        *(0.52, 0.41, 0.33, 0.29, 0.29, 0.35, 0.49, 0.61, 0.60, 0.55, 0.54, 0.58),
        *(0.68, 0.62, 0.57, 0.56, 0.60, 0.67, 0.77, 0.88, 0.97, 1.00, 0.87, 0.68),
    ),
}


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a live event runs, in local time. An event does not reach over midnight.

    Attributes:
        weekdays: Days it runs, Monday is 0.
        starts: Minutes of the day at which it starts, ascending.
        length: Minutes it runs.
    """

    weekdays: frozenset[int]
    starts: tuple[int, ...]
    length: int

    def since_start(self, weekday: int, minute_of_day: int) -> int | None:
        """Minutes since the running event started, or None where none runs."""
        if weekday not in self.weekdays:
            return None
        for start in self.starts:
            if start <= minute_of_day < start + self.length:
                return minute_of_day - start
        return None


@dataclass(frozen=True, slots=True)
class Media:
    """One media as the catalog knows it.

    Attributes:
        id: 32 hexadecimal digits.
        ref_id: The merchant's own name for it.
        name: The name for people.
        encode_type: `file`, `live` or `scheduled_live`.
        peak: Plays a minute at the daily peak, or at the height of an event.
        shape: A key of `SHAPES`; a scheduled event has its own shape.
        drm: Whether its players fetch DRM keys.
        watched: Mean seconds played for each play.
        live_event_id: 32 hexadecimal digits, or None for a file.
        schedule: When its event runs, or None for a file.
        tags: Words of the merchant.
    """

    id: str
    ref_id: str
    name: str
    encode_type: str
    peak: float
    shape: str = "evening"
    drm: bool = False
    watched: int = 300
    live_event_id: str | None = None
    schedule: Schedule | None = None
    tags: tuple[str, ...] = ()

    @property
    def duration(self) -> int | None:
        """Milliseconds of a file; live media have none."""
        return None if self.schedule else self.watched * 2500

    def mean_plays(self, weekday: int, minute_of_day: int) -> float:
        """The expected plays of a minute in local time."""
        lift = 1.25 if weekday in WEEKEND else 1.0
        if self.encode_type != "scheduled_live" or self.schedule is None:
            return self.peak * lift * _daily(self.shape, minute_of_day)
        since = self.schedule.since_start(weekday, minute_of_day)
        if since is None:
            return min(0.05, self.peak / 1000)
        left = self.schedule.length - since
        # Viewers come in at the start, stay for the whole, and a few leave before the end.
        return self.peak * lift * min(1.0, 0.3 + since / 8, 0.4 + left / 12)


def _daily(shape: str, minute_of_day: int) -> float:
    """The relative volume of a minute of the day, between the values of its hours."""
    hours = SHAPES[shape]
    hour, minute = divmod(minute_of_day, 60)
    here, there = hours[hour], hours[(hour + 1) % 24]
    return here + (there - here) * minute / 60


def _live(
    name: str,
    ref_id: str,
    peak: float,
    schedule: Schedule,
    *,
    kind: str = "scheduled_live",
    watched: int = 900,
) -> Media:
    return Media("", ref_id, name, kind, peak, "channel", watched=watched, schedule=schedule, tags=("live",))


_ALWAYS = Schedule(EVERY_DAY, (0,), DAY)
_EVERY_TWO_HOURS = Schedule(EVERY_DAY, tuple(range(0, DAY, 120)), 45)

# The first of them are the most different, so that a small catalog has a bit of everything.
_TEMPLATES = (
    Media("", "drama-012", "Evening drama ep. 12", "file", 420.0, drm=True, watched=1500, tags=("drama",)),
    _live("Live channel 24h", "channel-1", 160.0, _ALWAYS, kind="live", watched=1200),
    Media("", "archive-2014-07", "Archive: studio tour 2014", "file", 0.4, watched=240, tags=("archive",)),
    _live("Bulletin live, every two hours", "bulletin", 45.0, _EVERY_TWO_HOURS, watched=400),
    Media("", "news-am", "Morning news", "file", 95.0, "morning", watched=420, tags=("news",)),
    _live("ナイター中継", "baseball", 310.0, Schedule(EVERY_DAY, (18 * 60,), 210), watched=1800),
    Media("", "anime-003", "アニメ劇場 第3話", "file", 70.0, drm=True, watched=1100, tags=("anime",)),
    Media("", "weather", "天気予報", "file", 14.0, "morning", watched=90, tags=("news",)),
    _live("Press conference", "press", 60.0, Schedule(WEEKDAYS, (11 * 60, 16 * 60), 45), watched=700),
    Media("", "cooking-204", "Cooking show ep. 204", "file", 22.0, watched=600, tags=("food",)),
    _live("将棋 生中継", "shogi", 18.0, Schedule(WEEKEND, (10 * 60,), 420), watched=2400),
    Media("", "documentary-31", "Documentary: the last lighthouse", "file", 3.0, drm=True, watched=1900),
)


def make_catalog(seed: int, merchant_id: str, size: int) -> tuple[Media, ...]:
    """The media of a merchant, `size` of them; those beyond the first dozen have volumes by Zipf's law."""
    return tuple(_make(seed, merchant_id, index) for index in range(size))


def _make(seed: int, merchant_id: str, index: int) -> Media:
    media = _TEMPLATES[index] if index < len(_TEMPLATES) else _catch_up(index)
    draw = Random(number(seed, merchant_id, "peak", index))  # noqa: S311 - no secret
    return replace(
        media,
        id=hexadecimal(seed, merchant_id, "media", index),
        peak=media.peak * draw.uniform(0.8, 1.25),
        live_event_id=hexadecimal(seed, merchant_id, "event", index) if media.schedule else None,
    )


def _catch_up(index: int) -> Media:
    rank = index - len(_TEMPLATES) + 1
    name = f"Catch-up no. {rank}"
    return Media("", f"catch-up-{rank:04}", name, "file", 40.0 / rank, drm=rank % 3 == 0, tags=("catch-up",))


def number(*parts: object) -> int:
    """A number of 64 bits that looks random and is always the same for the same parts."""
    return int.from_bytes(blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest())


def hexadecimal(*parts: object) -> str:
    """32 hexadecimal digits that look random and are always the same for the same parts; the first is no decimal one.

    So no id looks like a number (`12e34`), which YAML would read it as.
    """
    digits = blake2b("/".join(map(str, parts)).encode(), digest_size=16).hexdigest()
    return "abcdef"[int(digits[0], 16) % 6] + digits[1:]
