"""Metadata of the media: names from the API's catalog, and whether their live events are running."""

import threading
from collections.abc import Container, Mapping
from dataclasses import astuple, dataclass, replace
from types import MappingProxyType

from exporter.api.answers import LiveEvent, Media
from exporter.config.settings import MediaSettings, MerchantSettings
from exporter.model import NO_PLAYS, LiveState
from exporter.storage.state import State
from exporter.views import MediaView

# Seconds. Names change rarely, the state of a live event more often. A running one is requested in every round,
# because its end would otherwise look like a drop in plays.
MEDIA_EVERY = 6 * 3600.0
LIVE_EVERY = 180.0
RUNNING_EVERY = 50.0

# Seconds after which a live event's state is stale.
LIVE_STALE_AFTER = 5 * LIVE_EVERY

RETRY_EVERY = 600.0


@dataclass(frozen=True, slots=True)
class Lookup:
    """One request to the catalog.

    Attributes:
        media_id: The media.
        live_event_id: The live event whose state is requested, or "" for the media itself.
    """

    media_id: str
    live_event_id: str = ""

    def __str__(self) -> str:
        """The request, as shown in log lines."""
        return f"live event {self.live_event_id}" if self.live_event_id else f"media {self.media_id}"


class Catalog:
    """The catalog of one merchant's media, stored in the state file. Thread-safe."""

    def __init__(self, state: State, merchant: MerchantSettings) -> None:
        self._state = state
        self._merchant_id = merchant.id
        self._mutex = threading.Lock()
        self._settings: Mapping[str, MediaSettings] = {media.id: media for media in merchant.media}
        self._media: dict[str, Media] = {}
        self._events: dict[str, LiveState] = {}
        # Those whose first lookup has not ended.
        self._unknown = set(self._settings)
        self._due: dict[Lookup, float] = {Lookup(media_id): 0.0 for media_id in self._settings}
        self._load()

    @property
    def unknown(self) -> int:
        """How many media wait for the end of their first lookup: whether they are live is not known."""
        with self._mutex:
            return len(self._unknown)

    def configure(self, merchant: MerchantSettings) -> None:
        """Take other media; what is known of those that stay stays."""
        with self._mutex:
            before, self._settings = self._settings, {media.id: media for media in merchant.media}
            self._unknown &= self._settings.keys()
            self._due = {lookup: at for lookup, at in self._due.items() if lookup.media_id in self._settings}
            for known in (self._media, self._events):
                for media_id in known.keys() - self._settings.keys():
                    del known[media_id]
            for media_id in self._settings.keys() - before.keys():
                self._unknown.add(media_id)
                self._due[Lookup(media_id)] = 0.0

    def next_lookup(
        self,
        now: float,
        under_way: Container[object] = (),
        plays: Mapping[str, float] = NO_PLAYS,
        *,
        running_only: bool = False,
    ) -> Lookup | None:
        """The lookup that has been due the longest, or None.

        Args:
            now: Unix seconds.
            under_way: Lookups in flight, which are skipped.
            plays: The plays a minute to expect of each media: of lookups that are equally due, the busiest media's
                comes first.
            running_only: Whether to consider only live events that are running, or of which that is not known yet.
        """
        with self._mutex:
            # A time far in the future was stored before the clock was set back.
            due = (
                (at, -plays.get(lookup.media_id, 0.0), lookup)
                for lookup, at in self._due.items()
                if not now < at <= now + MEDIA_EVERY
                and lookup not in under_way
                and (not running_only or self._running(lookup, now) or self._is_new(lookup))
            )
            *_, lookup = min(due, key=lambda entry: entry[:2], default=(None,))
            return lookup

    def enter_media(self, lookup: Lookup, media: Media, now: float) -> None:
        """Store the catalog's entry of a media.

        Raises:
            StateWriteFailed: It could not be stored.
        """
        with self._state.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO media "
                "(merchant_id, media_id, ref_id, name, live_event_id, encode_type, fetched_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (self._merchant_id, lookup.media_id, *astuple(media), now),
            )
        with self._mutex:
            self._remember(lookup.media_id, media, now)

    def enter_live(self, lookup: Lookup, event: LiveEvent, now: float) -> None:
        """Store whether a live event is running; in memory only."""
        with self._mutex:
            # The media may have another live event by now.
            if lookup not in self._due:
                return
            before = self._events.get(lookup.media_id)
            since = before.since if before is not None and before.running else now
            if event.started is not None and event.started <= now:
                since = event.started
            self._events[lookup.media_id] = LiveState(event.running, since, now)
            self._due[lookup] = now + (RUNNING_EVERY if event.running else LIVE_EVERY)

    def is_live(self, media_id: str) -> bool | None:
        """Whether a media is live; None until its first lookup ends. If that fails, the media counts as a file."""
        with self._mutex:
            media = self._media.get(media_id)
            if media is None:
                return None if media_id in self._unknown else False
            return bool(media.live_event_id) or "live" in media.encode_type.lower()

    def name_of(self, media_id: str) -> str:
        """The name of a media, or ""."""
        with self._mutex:
            return self._name(media_id)

    def live_state(self, media_id: str) -> LiveState | None:
        """The last known state of a media's live event."""
        with self._mutex:
            return self._events.get(media_id)

    def failed(self, lookup: Lookup, now: float) -> None:
        """Retry a failed lookup later."""
        with self._mutex:
            if lookup in self._due:
                self._due[lookup] = now + (RUNNING_EVERY if self._running(lookup, now) else RETRY_EVERY)
            if not lookup.live_event_id:
                self._unknown.discard(lookup.media_id)

    def views(self, now: float) -> Mapping[str, MediaView]:
        """All configured media as they are exposed at a time (Unix seconds)."""
        with self._mutex:
            return MappingProxyType({media_id: self._view(media_id, now) for media_id in self._settings})

    def _name(self, media_id: str) -> str:
        media = self._media.get(media_id)
        return self._settings[media_id].name or (media.name if media else "")

    def _view(self, media_id: str, now: float) -> MediaView:
        view = MediaView(media_id, name=self._name(media_id), labels=self._settings[media_id].labels)
        media = self._media.get(media_id)
        if media is not None:
            view = replace(view, ref_id=media.ref_id, encode_type=media.encode_type)
        event = self._events.get(media_id)
        fresh = event is not None and 0 <= now - event.at <= LIVE_STALE_AFTER
        return replace(view, live_event_running=event.running if event and fresh else None)

    def _running(self, lookup: Lookup, now: float) -> bool:
        """Whether a lookup is of a live event that was running recently."""
        event = self._events.get(lookup.media_id) if lookup.live_event_id else None
        return event is not None and event.running and 0 <= now - event.at <= LIVE_STALE_AFTER

    def _is_new(self, lookup: Lookup) -> bool:
        """Whether a lookup is of a live event of which nothing is known since the start."""
        known = self._due[lookup] > 0 or lookup.media_id in self._events
        return bool(lookup.live_event_id) and not known

    def _remember(self, media_id: str, media: Media, now: float) -> None:
        self._media[media_id] = media
        self._unknown.discard(media_id)
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
        for media_id, *fields, fetched_at in rows:
            if media_id in self._settings:
                self._remember(media_id, Media(*fields), fetched_at)
