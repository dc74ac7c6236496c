"""Baselines and drops in the state file. Each function runs in its caller's transaction.

A baseline's numbers are bytes, which the schema cannot check. So each has a checksum: the detector does not use what a
failing disk has changed; it is fetched again.
"""

import sqlite3
import zlib
from dataclasses import dataclass

from pydantic import TypeAdapter

from exporter.drops.judging import Kept
from exporter.drops.packed import Packed, RecentMinutes
from exporter.drops.seasonal import HISTORY_DAYS
from exporter.model import DAY_MINUTES

_KEPT = TypeAdapter(Kept)


@dataclass(frozen=True, slots=True)
class BaselineRow:
    """A baseline as it was written.

    Attributes:
        packed: The baseline, or None where nothing was taken yet.
        past_known: Whether the time before the first start was asked for, and all that came is there.
        damaged: Whether something of it is not as it was written; that is left out.
    """

    packed: Packed | None
    past_known: bool
    damaged: bool = False


def read_baselines(db: sqlite3.Connection, merchant_id: str) -> dict[str, BaselineRow]:
    """The baselines of a merchant, by media id, "" for the whole merchant."""
    days: dict[str, dict[int, bytes]] = {}
    damaged: set[str] = set()
    for media_id, day, sealed in db.execute(
        "SELECT media_id, day, steps FROM track_days WHERE merchant_id = ?", (merchant_id,)
    ):
        steps = _unsealed(sealed)
        if steps is None:
            damaged.add(media_id)
        else:
            days.setdefault(media_id, {})[day] = steps
    rows = {}
    for media_id, newest, sealed_recent, sealed_noise, past_known in db.execute(
        "SELECT media_id, newest, recent, noise, past_known FROM tracks WHERE merchant_id = ?", (merchant_id,)
    ):
        packed = None
        if newest is not None:
            recent, noise = _unsealed(sealed_recent), _unsealed(sealed_noise)
            if recent is None or noise is None:
                damaged.add(media_id)
            else:
                packed = Packed(RecentMinutes(newest, recent), noise, days.get(media_id, {}))
        whole = media_id not in damaged
        rows[media_id] = BaselineRow(packed, past_known=bool(past_known) and whole, damaged=not whole)
    return rows


def read_drop_states(db: sqlite3.Connection, merchant_id: str) -> dict[str, Kept | None]:
    """What is kept of each media's drops, by media id, "" for the whole merchant; None where it is damaged."""
    rows = db.execute("SELECT media_id, content FROM drop_states WHERE merchant_id = ?", (merchant_id,))
    return {media_id: _kept(sealed) for media_id, sealed in rows}


def write_drop_state(db: sqlite3.Connection, merchant_id: str, media_id: str, kept: Kept) -> None:
    """Write what is kept of a media's drops."""
    db.execute(
        "INSERT OR REPLACE INTO drop_states (merchant_id, media_id, content) VALUES (?, ?, ?)",
        (merchant_id, media_id, _sealed(_KEPT.dump_json(kept))),
    )


def _kept(sealed: bytes) -> Kept | None:
    content = _unsealed(sealed)
    try:
        return None if content is None else _KEPT.validate_json(content)
    except ValueError:
        # Another release has written it.
        return None


def write_baseline(
    db: sqlite3.Connection, merchant_id: str, media_id: str, packed: Packed, *, past_known: bool
) -> None:
    """Write a baseline and those of its days that were packed; delete the days that are too old to matter."""
    newest, recent = packed.recent or (None, b"")
    db.execute(
        "INSERT OR REPLACE INTO tracks (merchant_id, media_id, newest, recent, noise, past_known) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (merchant_id, media_id, newest, _sealed(recent), _sealed(packed.dispersion), past_known),
    )
    db.executemany(
        "INSERT OR REPLACE INTO track_days (merchant_id, media_id, day, steps) VALUES (?, ?, ?, ?)",
        [(merchant_id, media_id, day, _sealed(steps)) for day, steps in packed.days.items()],
    )
    db.execute(
        "DELETE FROM track_days WHERE merchant_id = ? AND media_id = ? AND day < ?",
        (merchant_id, media_id, (newest or 0) // DAY_MINUTES - HISTORY_DAYS),
    )


def _sealed(content: bytes) -> bytes:
    return content + zlib.crc32(content).to_bytes(4, "big")


def _unsealed(sealed: bytes) -> bytes | None:
    """What was sealed, or None where it is not that any more."""
    content = sealed[:-4]
    return content if sealed == _sealed(content) else None
