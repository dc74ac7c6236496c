"""The backoff of streams that fail, and what each failure shows about the API. Pure: the time is an argument.

Either the requested thing fails, or the whole API. A stream that fails alone is requested less and less often, so that
it takes no requests from the others. No status shows which case it is: a proxy without its API answers 404, too. The
other answers of the same round show it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from exporter.api.budget import LONGEST_WAIT
from exporter.api.catalog import Lookup
from exporter.api.zone_check import ZoneCheck
from exporter.drops.warmup import WarmupRequest
from exporter.errors import (
    ApiError,
    BadRequest,
    MalformedAnswer,
    NoAnswer,
    NotFound,
    RateLimited,
    RefusedError,
    ServerError,
    SignInFailed,
    Unauthorized,
)
from exporter.model import Stream

# What one request is for.
Task = Stream | Lookup | WarmupRequest | ZoneCheck

# What has failed: a stream, a lookup, a part of a stream's history, a media (its id) that is gone, or the check of the
# time zone ("").
_Key = Stream | Lookup | tuple[Stream, bool] | str

# After so many failures without an answer between them the API may be down. After so many for the catalog or the
# warm-up, the round requests no more of these: they can be down, or closed to the account, while the counting works.
SUSPICION_LIMIT = 3

# By error: seconds of the first backoff, and of the longest one. Each further failure doubles it. A server error is
# often resolved by the next minute.
BACKOFFS: Sequence[tuple[type[ApiError], float, float]] = (
    (NotFound, 900.0, 6 * 3600.0),
    (ServerError, 45.0, 900.0),
    (NoAnswer, 45.0, 900.0),
    (ApiError, 60.0, 1800.0),
)

# However many streams fail, together they get one request in so many seconds.
SHARED_INTERVAL = 60.0

# When one of them is answered again, so many others with the same error leave their backoff.
RELEASED = 2

# The end of the backoff of what may be requested now.
_NOW = float("-inf")


@dataclass(frozen=True, slots=True)
class Failure:
    """What a failed request shows.

    Attributes:
        key: The kind of incident.
        name: What it concerns, "" for the whole API or the catalog.
        message: The message to log.
        suspicion: How much it counts against the whole catalog, or against the whole warm-up.
    """

    key: str
    name: str
    message: str
    suspicion: int = 0


@dataclass(frozen=True, slots=True)
class _Entry:
    """The backoff of a stream or a media.

    Attributes:
        kind: The kind of its newest error.
        failures: How often it has failed.
        until: The end of the backoff (monotonic seconds).
        since: When it first failed (monotonic seconds).
    """

    kind: str
    failures: int
    until: float
    since: float


class Configured(Protocol):
    """The streams and the media of a configuration."""

    def __contains__(self, what: Stream | str) -> bool:
        """Whether it has a stream, or a media by its id, "" for the whole merchant."""
        ...


class Backoff:
    """The streams of one merchant that are in backoff. For one thread at a time.

    Each round requests the pace maker, the whole merchant's plays. If it fails and is answered later, the API was down.
    So the backoffs that began since its last answer end.
    """

    def __init__(self, pace_maker: Stream) -> None:
        """Nothing has failed.

        Args:
            pace_maker: The stream that is never in backoff: without its answers no minute is settled.
        """
        self._pace_maker = pace_maker
        self._pace_maker_fails = False
        # By stream; by media id for media that are gone.
        self._entries: dict[Stream | str, _Entry] = {}
        # Those that began since the pace maker's last answer.
        self._recent: set[Stream | str] = set()
        # What failed in rounds without an answer: the others come first, or one that always fails could block them.
        self._deferred: set[Task] = set()
        # Kind and name of the incident of each stream, media or task that fails alone, until it is answered.
        self._failing: dict[_Key, tuple[str, str]] = {}
        # The same of the whole API, until any stream is answered.
        self._failing_api: set[tuple[str, str]] = set()

    @property
    def pace_maker_fails(self) -> bool:
        """Whether the pace maker's last request failed."""
        return self._pace_maker_fails

    @property
    def unresolved(self) -> set[tuple[str, str]]:
        """Kind and name of the incidents that are not resolved, though their streams may be in backoff."""
        return {*self._failing.values(), *self._failing_api}

    def in_backoff(self, stream: Stream, now: float) -> bool:
        """Whether a stream must not be requested at this time (monotonic seconds)."""
        if stream in self._deferred:
            return True
        if not self._entries:
            return False
        entries = (self._entries.get(stream), self._entries.get(stream.media_id))
        return any(entry is not None and now < entry.until for entry in entries)

    def failing(self, stream: Stream) -> bool:
        """Whether the last request for a stream failed alone, or its media is gone."""
        return stream in self._entries or stream.media_id in self._entries

    @property
    def failing_streams(self) -> Mapping[str, int]:
        """By media id, "" for the whole merchant, the number of streams whose last request failed alone."""
        return Counter(what.media_id for what in self._entries if isinstance(what, Stream))

    @property
    def gone(self) -> frozenset[str]:
        """The media that the API answers with 404."""
        return frozenset(what for what in self._entries if isinstance(what, str))

    @property
    def failing_since(self) -> Mapping[str, float]:
        """By media id, "" for the whole merchant, when its requests began to fail (monotonic seconds)."""
        since: dict[str, float] = {}
        for what, entry in self._entries.items():
            media_id = what.media_id if isinstance(what, Stream) else what
            since[media_id] = min(since.get(media_id, entry.since), entry.since)
        return since

    @property
    def failing_lookups(self) -> int:
        """The number of requests for the catalog, the history and the time zone that failed last."""
        return sum(not isinstance(what, Stream) and what not in self._entries for what in self._failing)

    def forget_removed(self, configured: Configured) -> set[tuple[str, str]]:
        """Forget what the configuration does not have any more.

        Args:
            configured: The streams and the media that it has.

        Returns:
            Kind and name of the incidents that are forgotten.
        """
        before = self.unresolved
        self._forget([what for what in self._entries if _concerned(what) not in configured])
        self._failing = {what: each for what, each in self._failing.items() if _concerned(what) in configured}
        self._recent = {what for what in self._recent if what in configured}
        self._deferred = {
            task for task in self._deferred if (task if isinstance(task, Stream) else task.media_id) in configured
        }
        return {(kind, name) for kind, name in before - self.unresolved if name}

    def retry_deferred(self) -> bool:
        """Request again what was deferred, if nothing else is left; whether there was anything."""
        found = bool(self._deferred)
        self._deferred.clear()
        return found

    def answered(self, task: Task) -> None:
        """Note an answer: the task does not fail any more."""
        if isinstance(task, Lookup):
            # A media's answer names its live event: one that it had before is not requested again.
            of_media = [each for each in self._failing if isinstance(each, Lookup) and each.media_id == task.media_id]
            for each in of_media:
                if each == task or (task.media_id and not task.live_event_id):
                    del self._failing[each]
            return
        if not isinstance(task, Stream):
            self._failing.pop(_key(task), None)
            return
        self._failing_api.clear()
        self._deferred.clear()
        for what in (task, task.media_id):
            entry = self._entries.get(what)
            self._forget([what])
            if entry is not None:
                self._release(entry.kind)
        if task == self._pace_maker:
            if self._pace_maker_fails:
                self._forget(self._recent)
            self._recent.clear()
            self._pace_maker_fails = False

    def token_renewed(self) -> None:
        """End the backoffs for a refused token: a new token may get an answer."""
        kind = Unauthorized.__name__
        self._forget([what for what in self._recent if what in self._entries and self._entries[what].kind == kind])

    def suspicion(self, task: Task, error: ApiError, *, answered: bool) -> int:
        """How much a failure counts against the whole API; 0 if only the requested thing fails.

        Args:
            task: The request.
            error: Its error.
            answered: Whether a stream has been answered in this round.
        """
        if isinstance(error, SignInFailed):
            return SUSPICION_LIMIT
        # One answer shows an overload, unless the pace maker fails in any case.
        urgent = retry_after(error) is not None and not self._pace_maker_fails
        if not isinstance(task, Stream):
            # A refused range can shorten the history for good.
            urgent |= isinstance(task, WarmupRequest | ZoneCheck) and isinstance(error, BadRequest)
            if not answered or (_key(task) in self._failing and not urgent):
                return 0
        elif answered and self.failing(task):
            return 0
        return SUSPICION_LIMIT if urgent else 1

    def api_failed(self, failed: Iterable[tuple[Task, ApiError]]) -> list[Failure]:
        """Note that the whole API fails: that begins no backoff.

        Args:
            failed: The requests and their errors.

        Returns:
            One failure of each kind.
        """
        failures = {}
        for task, error in failed:
            if task == self._pace_maker:
                self._pace_maker_fails = True
            else:
                self._deferred.add(task)
            failures[f"API {_kind(error)}"] = str(error)
        self._failing_api.update((key, "") for key in failures)
        return [Failure(key, "", message) for key, message in failures.items()]

    def failed(self, task: Task, error: ApiError, now: float) -> Failure:
        """Note a task that fails alone: a stream goes into backoff.

        Args:
            task: The request.
            error: Its error.
            now: When, monotonic seconds.
        """
        kind = _kind(error)
        if not isinstance(task, Stream):
            if isinstance(error, BadRequest | MalformedAnswer | NotFound):
                failure = Failure(kind, f"media {task.media_id}" if _gone(task, error) else str(task), str(error))
            else:
                failure = Failure(f"{type(task).__name__} {kind}", "", str(error), suspicion=1)
            self._failing[_key(task)] = (failure.key, failure.name)
            return failure
        # A 404 concerns all streams of the media: one of them is requested from time to time.
        gone = _gone(task, error)
        what = task.media_id if gone else task
        passing = isinstance(error, ServerError | NoAnswer)
        failure = (
            Failure(kind, "", f"{task}: {error}")
            if passing
            else Failure(kind, f"media {task.media_id}" if gone else str(task), str(error))
        )
        if task == self._pace_maker:
            self._pace_maker_fails = True
        elif self._back_off(what, kind, error, now) > 1 or not passing:
            # A server error is often resolved by the next minute.
            self._failing[what] = (failure.key, failure.name)
        return failure

    def rate_limited(self, error: RateLimited) -> Failure:
        """Note that the API answered 429: the budget waits for it."""
        failure = Failure(_kind(error), "", str(error))
        self._failing_api.add((failure.key, ""))
        return failure

    def _back_off(self, what: Stream | str, kind: str, error: ApiError, now: float) -> int:
        """Begin or double the backoff of a stream or a media; returns how often it has failed."""
        first, longest = next((first, longest) for each, first, longest in BACKOFFS if isinstance(error, each))
        entry = self._entries.get(what)
        failures = 1 if entry is None else entry.failures + 1
        if entry is not None and isinstance(what, str) and now < entry.until:
            # Several streams of a media that is gone were requested at once: that is one failure.
            failures = entry.failures
        if failures == 1:
            self._recent.add(what)
        # A bounded exponent: the number of failures grows without limit.
        wait = min(first * 2.0 ** min(failures - 1, 20), max(longest, SHARED_INTERVAL * len(self._entries)))
        asked = min(retry_after(error) or 0.0, LONGEST_WAIT)
        self._entries[what] = _Entry(kind, failures, now + max(wait, asked), now if entry is None else entry.since)
        return failures

    def _release(self, kind: str) -> None:
        """End the backoff of some with the same error: what is resolved for one is often resolved for all."""
        alike = [what for what, entry in self._entries.items() if entry.kind == kind and entry.until > _NOW]
        for what in sorted(alike, key=lambda what: self._entries[what].until)[:RELEASED]:
            self._entries[what] = replace(self._entries[what], until=_NOW)

    def _forget(self, whats: Iterable[Stream | str]) -> None:
        for what in whats:
            self._entries.pop(what, None)
            self._failing.pop(what, None)


def retry_after(error: ApiError) -> float | None:
    """The seconds of the Retry-After header, None without one."""
    return error.retry_after if isinstance(error, RefusedError | SignInFailed) else None


def _kind(error: ApiError) -> str:
    name = type(error).__name__
    return f"{name} {error.code}" if type(error) is RefusedError else name


def _gone(task: Task, error: ApiError) -> bool:
    # The whole merchant is no media: a 404 concerns one stream of it.
    return isinstance(error, NotFound) and bool(task.media_id)


def _concerned(what: _Key) -> Stream | str:
    """The stream, or the media, without which nobody wants to know."""
    match what:
        case (stream, _):
            return stream
        case Lookup():
            return f"ref:{what.ref_id}" if what.ref_id else what.media_id
        case _:
            return what


def _key(task: Lookup | WarmupRequest | ZoneCheck) -> _Key:
    # Each request for the same history can have another range.
    match task:
        case Lookup():
            return task
        case WarmupRequest():
            return task.stream, task.hourly
        case ZoneCheck():
            return ""
