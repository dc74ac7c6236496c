"""What is known of the media beside their numbers: names from the catalog, and whether live events run."""

import threading
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from exporter.api.answers import LiveEvent, Media
from exporter.config.settings import MediaSettings, MerchantSettings
from exporter.model import LiveState
from exporter.storage.state import State
from exporter.views import MediaView

# Names change rarely; the state of a live event is worth a request every few minutes. While it runs, it is looked at
# in every round: its end would else be taken for a drop of the plays.
MEDIA_EVERY = 6 * 3600.0
LIVE_EVERY = 180.0
RUNNING_EVERY = 50.0

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

    def __str__(self) -> str:
        """The request in a log line."""
        return f"live event {self.live_event_id}" if self.live_event_id else f"media {self.media_id}"


class Catalog:
    """The catalog of one merchant's media, kept in the state file. Safe for use by several threads."""

    def __init__(self, state: State, merchant: MerchantSettings) -> None:
        self._state = state
        self._merchant_id = merchant.id
        self._mutex = threading.Lock()
        self._settings: Mapping[str, MediaSettings] = {media.id: media for media in merchant.media}
        self._media: dict[str, Media] = {}
        self._events: dict[str, LiveState] = {}
        self._failed: set[str] = set()
        self._due: dict[Lookup, float] = {Lookup(media_id): 0.0 for media_id in self._settings}
        self._load()

    def next_lookup(
        self, now: float, under_way: Container[object] = (), *, running_only: bool = False
    ) -> Lookup | None:
        """The lookup that has been due for longest at a moment (Unix seconds), if any is that is not under way.

        Args:
            now: The moment.
            under_way: Lookups not to be made again.
            running_only: Whether only live events that ran a short while ago are meant.
        """
        with self._mutex:
            # One that is far ahead was entered before the clock was set back.
            due = (
                (at, lookup)
                for lookup, at in self._due.items()
                if not now < at <= now + MEDIA_EVERY
                and lookup not in under_way
                and (not running_only or self._runs(lookup, now))
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

    def enter_live(self, lookup: Lookup, event: LiveEvent, now: float) -> None:
        """Remember whether a live event runs."""
        with self._mutex:
            # The media can have been given another live event meanwhile.
            if lookup not in self._due:
                return
            before = self._events.get(lookup.media_id)
            since = before.since if before is not None and before.running else now
            if event.started is not None and event.started <= now:
                since = event.started
            self._events[lookup.media_id] = LiveState(event.running, since, now)
            self._due[lookup] = now + (RUNNING_EVERY if event.running else LIVE_EVERY)

    def is_live(self, media_id: str) -> bool | None:
        """Whether a media shows live events, None while nobody has told. Where nobody tells, it is taken for a file."""
        with self._mutex:
            media = self._media.get(media_id)
            if media is None:
                return False if media_id in self._failed else None
            return bool(media.live_event_id) or "live" in media.encode_type.lower()

    def live_state(self, media_id: str) -> LiveState | None:
        """What was seen last of the live event of a media."""
        with self._mutex:
            return self._events.get(media_id)

    def failed(self, lookup: Lookup, now: float) -> None:
        """Ask again, but not soon."""
        with self._mutex:
            if lookup in self._due:
                self._due[lookup] = now + (RUNNING_EVERY if self._runs(lookup, now) else RETRY_EVERY)
            if not lookup.live_event_id:
                self._failed.add(lookup.media_id)

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
        event = self._events.get(media_id)
        believed = event is not None and 0 <= now - event.at <= LIVE_BELIEVED
        return replace(view, live_event_running=event.running if event and believed else None)

    def _runs(self, lookup: Lookup, now: float) -> bool:
        """Whether a lookup is that of an event which ran a short while ago."""
        event = self._events.get(lookup.media_id) if lookup.live_event_id else None
        return event is not None and event.running and 0 <= now - event.at <= LIVE_BELIEVED

    def _know(self, media_id: str, media: Media, now: float) -> None:
        self._media[media_id] = media
        for lookup in [known for known in self._due if known.media_id == media_id]:
            if lookup.live_event_id not in ("", media.live_event_id):
                del self._due[lookup]
                self._events.pop(media_id, None)
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
