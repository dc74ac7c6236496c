"""A drop of one media's plays that the demo stages a few minutes after its start, and ends by itself."""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self
from urllib.parse import urlencode

import structlog

from exporter.model import MINUTE
from exporter.simulator.catalog import Media
from exporter.simulator.faults import FaultSwitch
from exporter.simulator.series import World

log = structlog.get_logger("demo")

# The drop begins with the first minute that starts so many seconds after the start, lasts so long, and leaves so many
# of the plays.
BEGINS_AFTER = 2 * MINUTE
LASTS = 15 * MINUTE
SHARE_LEFT = 0.1

# The media with about so many plays a minute: a drop is certain after a few minutes, and is not most of the merchant's.
PLAYS = 90.0

# The fault switch thins whole minutes, so it is used shortly before they begin (seconds).
BEFORE = 1.0


@dataclass(frozen=True, slots=True)
class Drop:
    """The staged drop.

    Attributes:
        merchant_id: The merchant.
        media: The media.
        begins: The start of its first minute (Unix seconds).
        ends: The end of its last minute (Unix seconds).
    """

    merchant_id: str
    media: Media
    begins: float
    ends: float

    def page(self, exporter: str) -> str:
        """The page of the media on the exporter at this URL, which ends with a slash."""
        return f"{exporter}media?{urlencode({'merchant': self.merchant_id, 'media': self.media.id})}"


def plan_drop(world: World, merchant_id: str, now: float) -> Drop:
    """The drop after a start at a moment (Unix seconds), of a file: live events may be about to end."""
    begins = math.ceil((now + BEGINS_AFTER) / MINUTE) * MINUTE
    local = datetime.fromtimestamp(begins, world.zone)
    files = [media for media in world.catalog(merchant_id).values() if media.schedule is None]
    mean = {media.id: media.mean_plays(local.weekday(), local.hour * 60 + local.minute) for media in files}
    media = min(files, key=lambda media: abs(mean[media.id] - PLAYS))
    return Drop(merchant_id, media, begins, begins + LASTS)


class Stage:
    """Stages a drop on a thread of its own; as a context manager, it ends with the context.

    Attributes:
        drop: The planned drop; None before `begin`.
    """

    def __init__(self, world: World, switch: FaultSwitch, merchant_id: str, clock: Callable[[], float]) -> None:
        """Plan nothing before `begin`.

        Args:
            world: The simulated plays.
            switch: The faults.
            merchant_id: Of whose media one drops.
            clock: Returns Unix seconds.
        """
        self.drop: Drop | None = None
        self._world = world
        self._switch = switch
        self._merchant_id = merchant_id
        self._clock = clock
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, exporter: str) -> Drop:
        """Plan the drop, and stage it when it is time, for an exporter at this URL, which ends with a slash."""
        self.drop = drop = plan_drop(self._world, self._merchant_id, self._clock())
        self._thread = threading.Thread(target=self._play, args=(drop, exporter), name="stage", daemon=True)
        self._thread.start()
        return drop

    def _play(self, drop: Drop, exporter: str) -> None:
        if self._wait_until(drop.begins):
            self._switch.set(drop={**self._switch.now.drop, drop.media.id: SHARE_LEFT})
            log.info(
                f"staged: the plays of a media drop by {1 - SHARE_LEFT:.0%} now, for {LASTS / MINUTE:.0f} minutes",
                name=drop.media.name,
                until=f"{clock_time(drop.ends)} UTC",
                open=drop.page(exporter),
            )
        if self._wait_until(drop.ends):
            left = {media_id: share for media_id, share in self._switch.now.drop.items() if media_id != drop.media.id}
            self._switch.set(drop=left)
            log.info("staged: the plays of the media are back", name=drop.media.name, open=drop.page(exporter))

    def _wait_until(self, instant: float) -> bool:
        """Wait until shortly before an instant (Unix seconds); False if the context ends before."""
        return not self._closing.wait(max(0.0, instant - BEFORE - self._clock()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        if self._thread is not None:
            self._thread.join()


def clock_time(instant: float) -> str:
    """Hours and minutes of an instant (Unix seconds), in UTC as the log has it."""
    return datetime.fromtimestamp(instant, UTC).strftime("%H:%M")
