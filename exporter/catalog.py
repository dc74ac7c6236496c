"""What is known of the media beside their numbers: names from the catalog, and whether live events run."""

import threading
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from exporter.config import MediaSettings, MerchantSettings
from exporter.parse import Media
from exporter.snapshot import MediaView
from exporter.state import State

# Names change rarely; the state of a live event is worth a request every few minutes.
MEDIA_EVERY = 6 * 3600.0
LIVE_EVERY = 180.0

# A live event's state that is older tells nothing.
LIVE_BELIEVED = 5 * LIVE_EVERY

RETRY_EVERY = 600.0


@dataclass(frozen=True, slots=True)
class Lookup:
    """One request of the catalog.

    Attributes:
        media_id: The media that it is about.
        live_event_id: The live event whose state is asked for, or "" where the media itself is.
    """

    media_id: str
    live_event_id: str = ""


class Catalog:
    """The catalog of one merchant's media, kept in the state file. Safe for use by several threads."""

    def __init__(self, state: State, merchant: MerchantSettings) -> None:
        self._state = state
        self._merchant_id = merchant.id
        self._mutex = threading.Lock()
        self._settings: Mapping[str, MediaSettings] = {media.id: media for media in merchant.media}
        self._media: dict[str, Media] = {}
        self._running: dict[str, tuple[bool, float]] = {}
        self._due: dict[Lookup, float] = {Lookup(media_id): 0.0 for media_id in self._settings}
        self._load()

    def next_lookup(self, now: float, under_way: Container[object] = ()) -> Lookup | None:
        """The lookup that has been due for longest at a moment (Unix seconds), if any is that is not under way."""
        with self._mutex:
            # One that is far ahead was entered before the clock was set back.
            due = (
                (at, lookup)
                for lookup, at in self._due.items()
                if not now < at <= now + MEDIA_EVERY and lookup not in under_way
            )
            _, lookup = min(due, key=lambda entry: entry[0], default=(now, None))
            return lookup

    def enter_media(self, lookup: Lookup, media: Media, now: float) -> None:
        """Remember what the catalog says of a media.

        Raises:
            StateWriteFailed: It could not be written.
        """
        with self._state.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO media "
                "(merchant_id, media_id, ref_id, name, live_event_id, encode_type, fetched_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    self._merchant_id,
                    lookup.media_id,
                    media.ref_id,
                    media.name,
                    media.live_event_id,
                    media.encode_type,
                    now,
                ),
            )
        with self._mutex:
            self._know(lookup.media_id, media, now)

    def enter_live(self, lookup: Lookup, now: float, *, running: bool) -> None:
        """Remember whether a live event runs."""
        with self._mutex:
            # The media can have been given another live event meanwhile.
            if lookup in self._due:
                self._running[lookup.media_id] = (running, now)
                self._due[lookup] = now + LIVE_EVERY

    def failed(self, lookup: Lookup, now: float) -> None:
        """Ask again, but not soon."""
        with self._mutex:
            if lookup in self._due:
                self._due[lookup] = now + RETRY_EVERY

    def views(self, now: float) -> Mapping[str, MediaView]:
        """All media of the configuration as they are to be shown at a moment (Unix seconds)."""
        with self._mutex:
            return MappingProxyType({media_id: self._view(media_id, now) for media_id in self._settings})

    def _view(self, media_id: str, now: float) -> MediaView:
        settings = self._settings[media_id]
        view = MediaView(media_id, name=settings.name or "", labels=settings.labels)
        media = self._media.get(media_id)
        if media is not None:
            name = settings.name or media.name
            view = replace(view, name=name, ref_id=media.ref_id, encode_type=media.encode_type)
        running, at = self._running.get(media_id, (None, now))
        return replace(view, live_event_running=running if 0 <= now - at <= LIVE_BELIEVED else None)

    def _know(self, media_id: str, media: Media, now: float) -> None:
        self._media[media_id] = media
        for lookup in [known for known in self._due if known.media_id == media_id]:
            if lookup.live_event_id not in ("", media.live_event_id):
                del self._due[lookup]
                self._running.pop(media_id, None)
        self._due[Lookup(media_id)] = now + MEDIA_EVERY
        if media.live_event_id:
            self._due.setdefault(Lookup(media_id, media.live_event_id), 0.0)

    def _load(self) -> None:
        with self._state.read() as db:
            rows = db.execute(
                "SELECT media_id, ref_id, name, live_event_id, encode_type, fetched_at FROM media "
                "WHERE merchant_id = ?",
                (self._merchant_id,),
            ).fetchall()
        for media_id, ref_id, name, live_event_id, encode_type, fetched_at in rows:
            if media_id in self._settings:
                media = Media(
                    media_id=media_id,
                    ref_id=ref_id,
                    name=name,
                    live_event_id=live_event_id,
                    encode_type=encode_type,
                )
                self._know(media_id, media, fetched_at)
