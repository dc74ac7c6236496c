"""Metadata of the media: names from the API's catalog, ids of reference ids, and whether live events are running.

A media that is configured by its `ref_id` is looked up by it, at first and later: each answer tells its id, too. Until
the catalog has one, the reference id is pending.
"""

import threading
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from exporter.api.answers import LiveEvent, Media
from exporter.api.catalog_rows import Row, refs_in, store, stored_rows
from exporter.config.settings import MediaSettings, MerchantSettings
from exporter.config.types import CatalogField
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

# Seconds between two lookups of a reference id that the catalog does not have: a live event is created minutes before
# its start. All of these together get at most one in so many requests of the budget, and streams the rest.
PENDING_EVERY = 60.0
REQUESTS_PER_PENDING = 15


@dataclass(frozen=True, slots=True)
class Lookup:
    """One request to the catalog.

    Attributes:
        media_id: The media; "" for a reference id whose media is not known yet.
        live_event_id: The live event whose state is requested, or "" for the media itself.
        ref_id: The reference id that the media is requested by, or "".
    """

    media_id: str
    live_event_id: str = ""
    ref_id: str = ""

    def __str__(self) -> str:
        """The request, as shown in log lines."""
        if self.live_event_id:
            return f"live event {self.live_event_id}"
        return f"media ref:{self.ref_id}" if self.ref_id else f"media {self.media_id}"


class Catalog:
    """The catalog of one merchant's media, stored in the state file. Thread-safe."""

    def __init__(self, state: State, merchant: MerchantSettings) -> None:
        self._state = state
        self._merchant_id = merchant.id
        self._mutex = threading.Lock()
        self._settings: Mapping[str, MediaSettings] = {}
        self._media: dict[str, Media] = {}
        # What is exposed of them but for the live events. Scrapes read it far more often than it changes.
        self._views: dict[str, MediaView] = {}
        self._events: dict[str, LiveState] = {}
        # Those whose first lookup has not ended.
        self._unknown: set[str] = set()
        self._due: dict[Lookup, float] = {}
        # Media id by reference id.
        self._refs: dict[str, str] = {}
        # The reference ids of the configuration.
        self._ref_ids: frozenset[str] = frozenset()
        # The reference ids whose first lookup has not ended.
        self._unasked: set[str] = set()
        # The reference ids that the catalog does not have, and since when that is known (Unix seconds).
        self._pending: dict[str, float] = {}
        self._with_tags = False
        self._spacing = 0.0
        self.configure(merchant)

    def configure(self, merchant: MerchantSettings) -> None:
        """Replace the configured media.

        Those that stay keep all that is known of them, and when they are due. New ones are looked up, unless the state
        file knows them. What is known of removed ones is forgotten, and answers that are under way for them are
        ignored; their rows stay in the state file.

        Args:
            merchant: The same merchant. Its reference ids may be resolved (`MerchantSettings.identified`) or not.

        Raises:
            StateError: The state file cannot be read.
        """
        stored = stored_rows(self._state, self._merchant_id)
        with self._mutex:
            before, self._settings = self._settings, {media.id: media for media in merchant.media}
            self._with_tags = CatalogField.TAGS in merchant.catalog_labels
            self._spacing = REQUESTS_PER_PENDING * 60.0 / merchant.requests_per_minute
            unresolved = [Lookup("", ref_id=ref_id) for ref_id in sorted(self._follow_refs(merchant, stored))]
            self._forget(before.keys() - self._settings.keys())
            # An entry may name the same media in another way, by its id or its reference id.
            due = {lookup.media_id: at for lookup, at in self._due.items() if not lookup.live_event_id}
            wanted = {_lookup_of(media): due.get(media.id, 0.0) for media in self._settings.values()}
            wanted |= {lookup: self._due.get(lookup, 0.0) for lookup in unresolved}
            self._due = {**wanted, **{lookup: at for lookup, at in self._due.items() if lookup.live_event_id}}
            added = self._settings.keys() - before.keys()
            self._unknown |= added
            for row in stored:
                if row.media_id in added:
                    self._remember(row)
            self._views = {media_id: self._view(media_id) for media_id in self._settings}

    @property
    def refs(self) -> Mapping[str, str]:
        """The ids of the media that are configured by their reference ids, as far as they are known."""
        with self._mutex:
            return MappingProxyType(dict(self._refs))

    @property
    def pending(self) -> Mapping[str, float | None]:
        """The reference ids whose media is not known, and since when it is known that the catalog does not have it.

        Unix seconds; None before the catalog was asked.
        """
        with self._mutex:
            unknown = sorted(self._ref_ids - self._refs.keys())
            return MappingProxyType({ref_id: self._pending.get(ref_id) for ref_id in unknown})

    @property
    def unknown(self) -> int:
        """How many media wait for the end of their first lookup: whether they are live is not known."""
        with self._mutex:
            return len(self._unknown) + len(self._unasked)

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

    def enter_media(self, lookup: Lookup, media: Media, now: float) -> bool:
        """Store the catalog's entry of a media.

        Returns:
            Whether its reference id was not known before, or named another media: `refs` has changed.

        Raises:
            StateWriteFailed: It could not be stored.
        """
        with self._mutex:
            # It may have left the configuration while the request was under way.
            if lookup not in self._due:
                return False
        media_id = media.media_id if lookup.ref_id else lookup.media_id
        if lookup.ref_id:
            # What is asked for is what is found after a restart, however the catalog writes it.
            media = replace(media, ref_id=lookup.ref_id)
        row = Row(media_id, media, now)
        store(self._state, self._merchant_id, row)
        with self._mutex:
            if lookup not in self._due:
                return False
            found = bool(lookup.ref_id) and self._refs.get(lookup.ref_id) != media_id
            if found:
                self._refs[lookup.ref_id] = media_id
                self._pending.pop(lookup.ref_id, None)
                self._unasked.discard(lookup.ref_id)
            if media_id == lookup.media_id:
                self._remember(row)
            else:
                # Until that media is configured, nothing is due for it.
                del self._due[lookup]
            return found

    def enter_missing(self, lookup: Lookup, now: float) -> bool:
        """Note that the catalog has no media with the reference id of a lookup. One that is known stays as it is.

        Returns:
            Whether that is new: the reference id is pending from now on.
        """
        with self._mutex:
            if lookup not in self._due:
                return False
            if lookup.media_id:
                self._due[lookup] = now + RETRY_EVERY
                return False
            begins = lookup.ref_id not in self._pending
            self._pending.setdefault(lookup.ref_id, now)
            self._unasked.discard(lookup.ref_id)
            self._due[lookup] = now + max(PENDING_EVERY, self._spacing * len(self._pending))
            return begins

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
            return self._name(media_id) if media_id in self._settings else ""

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
                self._unasked.discard(lookup.ref_id)

    def views(self, now: float) -> Mapping[str, MediaView]:
        """All configured media as they are exposed at a time (Unix seconds)."""
        with self._mutex:
            views = dict(self._views)
            for media_id, event in self._events.items():
                if 0 <= now - event.at <= LIVE_STALE_AFTER:
                    views[media_id] = replace(views[media_id], live_event_running=event.running)
        return MappingProxyType(views)

    def _name(self, media_id: str) -> str:
        media = self._media.get(media_id)
        return self._settings[media_id].name or (media.name if media else "")

    def _view(self, media_id: str) -> MediaView:
        view = MediaView(media_id, name=self._name(media_id), labels=self._settings[media_id].labels)
        media = self._media.get(media_id)
        if self._with_tags:
            tags = _tags_label(media.tags if media else ())
            view = replace(view, labels=MappingProxyType({**view.labels, CatalogField.TAGS.value: tags}))
        return view if media is None else replace(view, ref_id=media.ref_id, encode_type=media.encode_type)

    def _running(self, lookup: Lookup, now: float) -> bool:
        """Whether a lookup is of a live event that was running recently."""
        event = self._events.get(lookup.media_id) if lookup.live_event_id else None
        return event is not None and event.running and 0 <= now - event.at <= LIVE_STALE_AFTER

    def _is_new(self, lookup: Lookup) -> bool:
        """Whether a lookup is of a live event of which nothing is known since the start."""
        known = self._due[lookup] > 0 or lookup.media_id in self._events
        return bool(lookup.live_event_id) and not known

    def _follow_refs(self, merchant: MerchantSettings, stored: list[Row]) -> frozenset[str]:
        """Follow the configured reference ids; those whose media is not known."""
        ref_ids = self._ref_ids = merchant.ref_ids
        given = {media.ref_id: media.id for media in merchant.media if media.ref_id is not None}
        known = {**refs_in(stored, ref_ids), **given, **self._refs}
        self._refs = {ref_id: known[ref_id] for ref_id in ref_ids & known.keys()}
        unresolved = ref_ids - known.keys()
        # A first lookup that failed has ended, too.
        asked = {lookup.ref_id for lookup in self._due if not lookup.media_id} - self._unasked
        self._unasked = set(unresolved - asked)
        self._pending = {ref_id: at for ref_id, at in self._pending.items() if ref_id in unresolved}
        return unresolved

    def _forget(self, removed: Container[str]) -> None:
        for lookup in [known for known in self._due if known.media_id in removed]:
            del self._due[lookup]
        self._media = {media_id: media for media_id, media in self._media.items() if media_id not in removed}
        self._events = {media_id: event for media_id, event in self._events.items() if media_id not in removed}
        self._unknown = {media_id for media_id in self._unknown if media_id not in removed}

    def _remember(self, row: Row) -> None:
        media_id, event = row.media_id, row.media.live_event_id
        before = self._media.get(media_id)
        if before is not None and before.live_event_id not in ("", event):
            self._due.pop(Lookup(media_id, before.live_event_id), None)
            self._events.pop(media_id, None)
        self._media[media_id] = row.media
        self._views[media_id] = self._view(media_id)
        self._unknown.discard(media_id)
        self._due[_lookup_of(self._settings[media_id])] = row.at + MEDIA_EVERY
        if event:
            self._due.setdefault(Lookup(media_id, event), 0.0)


def _lookup_of(media: MediaSettings) -> Lookup:
    return Lookup(media.id, ref_id=media.ref_id or "")


def _tags_label(tags: tuple[str, ...]) -> str:
    """The value of a label with tags: a comma around each, as in Prometheus' service discovery; "" without any."""
    return f",{','.join(tags)}," if tags else ""
