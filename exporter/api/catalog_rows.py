"""The media of the catalog as they are in the state file."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from exporter.api.answers import Media
from exporter.config.settings import MerchantSettings
from exporter.storage.state import State


@dataclass(frozen=True, slots=True)
class Row:
    """A stored media.

    Attributes:
        media_id: Its id.
        media: Its entry in the catalog.
        at: When that was fetched (Unix seconds).
    """

    media_id: str
    media: Media
    at: float


def stored_rows(state: State, merchant_id: str) -> list[Row]:
    """All media of a merchant, also those that left the configuration, the oldest entry first.

    Raises:
        StateError: The state file cannot be read.
    """
    with state.read() as db:
        rows = db.execute(
            "SELECT media_id, ref_id, name, live_event_id, encode_type, tags, fetched_at "
            "FROM media LEFT JOIN media_tags USING (merchant_id, media_id) WHERE merchant_id = ? ORDER BY fetched_at",
            (merchant_id,),
        ).fetchall()
    return [
        Row(media_id, Media(ref_id, name, event, encode_type, media_id, tuple(tags.split("\n")) if tags else ()), at)
        for media_id, ref_id, name, event, encode_type, tags, at in rows
    ]


def refs_in(rows: Iterable[Row], ref_ids: Container[str]) -> dict[str, str]:
    """The media id of each of these reference ids that has a row."""
    # If a reference id moved from one media to another, the newest row has it.
    return {row.media.ref_id: row.media_id for row in rows if row.media.ref_id in ref_ids}


def read_refs(state: State, merchant: MerchantSettings) -> Mapping[str, str]:
    """The media ids of a merchant's reference ids, as far as the state file knows them.

    Raises:
        StateError: The state file cannot be read.
    """
    return refs_in(stored_rows(state, merchant.id), merchant.ref_ids)


def store(state: State, merchant_id: str, row: Row) -> None:
    """Store a media.

    Raises:
        StateWriteFailed: It could not be stored.
    """
    key, media = (merchant_id, row.media_id), row.media
    with state.transaction() as db:
        db.execute(
            "INSERT OR REPLACE INTO media "
            "(merchant_id, media_id, ref_id, name, live_event_id, encode_type, fetched_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*key, media.ref_id, media.name, media.live_event_id, media.encode_type, row.at),
        )
        if media.tags:
            db.execute("INSERT OR REPLACE INTO media_tags VALUES (?, ?, ?)", (*key, "\n".join(media.tags)))
        else:
            db.execute("DELETE FROM media_tags WHERE merchant_id = ? AND media_id = ?", key)
