"""Tracks in the state file. Each function runs in its caller's transaction."""

import sqlite3
from dataclasses import dataclass

from exporter.model import DAY_MINUTES
from exporter.steps import HISTORY_DAYS
from exporter.track import Packed


@dataclass(frozen=True, slots=True)
class TrackRow:
    """A track as it was written.

    Attributes:
        packed: The track, or None where nothing was taken yet.
        past_known: Whether the time before the first start was asked for.
    """

    packed: Packed | None
    past_known: bool


def read_tracks(db: sqlite3.Connection, merchant_id: str) -> dict[str, TrackRow]:
    """The tracks of a merchant, by media id, "" for the whole merchant."""
    days: dict[str, dict[int, bytes]] = {}
    for media_id, day, steps in db.execute(
        "SELECT media_id, day, steps FROM track_days WHERE merchant_id = ?", (merchant_id,)
    ):
        days.setdefault(media_id, {})[day] = steps
    rows = db.execute(
        "SELECT media_id, newest, recent, noise, past_known FROM tracks WHERE merchant_id = ?", (merchant_id,)
    )
    return {
        media_id: TrackRow(
            None if newest is None else Packed(newest, recent, noise, days.get(media_id, {})), bool(past_known)
        )
        for media_id, newest, recent, noise, past_known in rows
    }


def write_track(db: sqlite3.Connection, merchant_id: str, media_id: str, packed: Packed, *, past_known: bool) -> None:
    """Write a track and those of its days that were packed; delete the days that are too old to matter."""
    db.execute(
        "INSERT OR REPLACE INTO tracks (merchant_id, media_id, newest, recent, noise, past_known) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (merchant_id, media_id, packed.newest, packed.recent, packed.noise, past_known),
    )
    db.executemany(
        "INSERT OR REPLACE INTO track_days (merchant_id, media_id, day, steps) VALUES (?, ?, ?, ?)",
        [(merchant_id, media_id, day, steps) for day, steps in packed.days.items()],
    )
    db.execute(
        "DELETE FROM track_days WHERE merchant_id = ? AND media_id = ? AND day < ?",
        (merchant_id, media_id, (packed.newest or 0) // DAY_MINUTES - HISTORY_DAYS),
    )
