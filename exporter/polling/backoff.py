"""What is left alone for a while after it has failed, and what each failure says of the API. Pure: time is an argument.

A failure can be that of what was asked for, or of the whole API. What fails by itself rests for longer and longer,
so that it takes nothing from the others. No status tells which of both it is: a proxy without its API answers 404, too.
What else is answered in the same round does.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from exporter.api.budget import LONGEST_WAIT
from exporter.api.catalog import Lookup
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

# What one request asks for.
Task = Stream | Lookup | WarmupRequest

# So many failures without an answer between them raise the question whether the API is down. So many for the catalog
# or the past end those of the round: the catalog can be down, or closed to the account, while the counting goes on.
STRIKES = 3

# Seconds until what failed by itself is asked for again, and the longest such wait; twice as long after each further
# failure. A failure on the other side is at first over by the next minute.
RESTS: Sequence[tuple[type[ApiError], float, float]] = (
    (NotFound, 900.0, 6 * 3600.0),
    (ServerError, 45.0, 900.0),
    (NoAnswer, 45.0, 900.0),
    (ApiError, 60.0, 1800.0),
)

# However many fail, together they are asked for so often: one in so many seconds.
TOGETHER = 60.0

# When one of them is answered again, so many others that failed alike are asked for at once.
RELEASED = 2

# Until when rests what may be asked for.
_NOW = float("-inf")


@dataclass(frozen=True, slots=True)
class Failure:
    """What a failed request says.

    Attributes:
        key: Which kind of fault it is.
        name: What it is about, or "" where that is the whole API or the catalog.
        message: What to tell of it.
        strikes: How much it says against the whole catalog, or against all of the past.
    """

    key: str
    name: str
    message: str
    strikes: int = 0


@dataclass(frozen=True, slots=True)
class _Rest:
    """How what failed by itself is left alone.

    Attributes:
        kind: The kind of its newest failure.
        failures: How often it has failed.
        until: Until when it rests (monotonic seconds).
    """

    kind: str
    failures: int
    until: float


class Backoff:
    """What one merchant's failures leave alone. For one thread at a time.

    The pace maker, the whole merchant's plays, is asked for in each round: while it fails and is then answered, that
    was the API. So what began to rest since its last answer is forgiven.
    """

    def __init__(self, pace_maker: Stream) -> None:
        """Nothing has failed.

        Args:
            pace_maker: The stream that never rests for a failure of its own: without its answers nothing is settled.
        """
        self._pace_maker = pace_maker
        self._pace_maker_fails = False
        # By stream, or for media that are gone by media id.
        self._rests: dict[Stream | str, _Rest] = {}
        # Those that began since the pace maker's last answer.
        self._begun: set[Stream | str] = set()
        # What failed in rounds without an answer: the others are asked for first, or one that always fails could keep
        # all others from being asked for.
        self._set_aside: set[Task] = set()
        # Kind and name of the fault of each stream, media, lookup or past that fails by itself, until it is answered.
        self._faulty: dict[Stream | Lookup | str, tuple[str, str]] = {}
        # The same of the whole API, until any stream is answered.
        self._faulty_api: set[tuple[str, str]] = set()

    @property
    def pace_maker_fails(self) -> bool:
        """Whether the pace maker's last request failed."""
        return self._pace_maker_fails

    @property
    def faults(self) -> set[tuple[str, str]]:
        """Kind and name of the faults that have not ended, though what they concern may be asked for seldom."""
        return {*self._faulty.values(), *self._faulty_api}

    def rests(self, stream: Stream, now: float) -> bool:
        """Whether a stream is to be left alone at a moment (monotonic seconds)."""
        if stream in self._set_aside:
            return True
        if not self._rests:
            return False
        rests = (self._rests.get(stream), self._rests.get(stream.media_id))
        return any(rest is not None and now < rest.until for rest in rests)

    def failing(self, stream: Stream) -> bool:
        """Whether a stream has failed by itself when it was asked for last, or its media is gone."""
        return stream in self._rests or stream.media_id in self._rests

    @property
    def failing_streams(self) -> Mapping[str, int]:
        """By media id, "" for the whole merchant, how many streams have failed by themselves when asked for last."""
        return Counter(what.media_id for what in self._rests if isinstance(what, Stream))

    @property
    def gone(self) -> frozenset[str]:
        """The media that the API does not know any more."""
        return frozenset(what for what in self._rests if isinstance(what, str))

    @property
    def failing_lookups(self) -> int:
        """How many requests for the catalog and the past have failed when sent last."""
        return sum(not isinstance(what, Stream) and what not in self._rests for what in self._faulty)

    def take_back(self) -> bool:
        """Ask again for what was set aside, when nothing else is left; whether that was anything."""
        found = bool(self._set_aside)
        self._set_aside.clear()
        return found

    def answered(self, task: Task) -> None:
        """What was asked for has come: nothing is wrong with it any more."""
        if isinstance(task, Lookup):
            # A media's answer tells which live event it has now: one that it had before is not asked for again.
            of_media = [each for each in self._faulty if isinstance(each, Lookup) and each.media_id == task.media_id]
            for each in of_media:
                if each == task or not task.live_event_id:
                    del self._faulty[each]
            return
        if isinstance(task, WarmupRequest):
            self._faulty.pop(_key(task), None)
            return
        self._faulty_api.clear()
        self._set_aside.clear()
        for what in (task, task.media_id):
            rest = self._rests.get(what)
            self._forget([what])
            if rest is not None:
                self._release(rest.kind)
        if task == self._pace_maker:
            if self._pace_maker_fails:
                self._forget(self._begun)
            self._begun.clear()
            self._pace_maker_fails = False

    def token_renewed(self) -> None:
        """The token had been refused: so had streams that would be answered with the new one."""
        kind = Unauthorized.__name__
        self._forget([what for what in self._begun if what in self._rests and self._rests[what].kind == kind])

    def strikes(self, task: Task, error: ApiError, *, answered: bool) -> int:
        """How much a failure says against the whole API; 0 where it is surely that of what was asked for.

        Args:
            task: What was asked for.
            error: What came instead.
            answered: Whether a stream has been answered in this round.
        """
        if isinstance(error, SignInFailed):
            return STRIKES
        # An overload is told by one answer, but for a pace maker that fails in any case.
        urgent = retry_after(error) is not None and not self._pace_maker_fails
        if not isinstance(task, Stream):
            # A refused range can change for good what is known of the past.
            urgent |= isinstance(task, WarmupRequest) and isinstance(error, BadRequest)
            if not answered or (_key(task) in self._faulty and not urgent):
                return 0
        elif answered and self.failing(task):
            return 0
        return STRIKES if urgent else 1

    def api_failed(self, failed: Iterable[tuple[Task, ApiError]]) -> list[Failure]:
        """Note that the whole API fails: nothing rests for that.

        Args:
            failed: What was asked for, and what came instead.

        Returns:
            One failure of each kind.
        """
        failures = {}
        for task, error in failed:
            if task == self._pace_maker:
                self._pace_maker_fails = True
            else:
                self._set_aside.add(task)
            failures[f"API {_kind(error)}"] = str(error)
        self._faulty_api.update((key, "") for key in failures)
        return [Failure(key, "", message) for key, message in failures.items()]

    def failed(self, task: Task, error: ApiError, now: float) -> Failure:
        """Leave alone what has failed by itself.

        Args:
            task: What was asked for.
            error: What came instead.
            now: When, monotonic seconds.
        """
        kind = _kind(error)
        if not isinstance(task, Stream):
            if isinstance(error, BadRequest | MalformedAnswer | NotFound):
                failure = Failure(kind, f"media {task.media_id}" if _gone(task, error) else str(task), str(error))
            else:
                failure = Failure(f"{type(task).__name__} {kind}", "", str(error), strikes=1)
            self._faulty[_key(task)] = (failure.key, failure.name)
            return failure
        # A media that is gone is gone for all its streams: one of them asks now and then.
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
        elif self._leave_alone(what, kind, error, now) > 1 or not passing:
            # What passes is often over by the next minute.
            self._faulty[what] = (failure.key, failure.name)
        return failure

    def limited(self, error: RateLimited) -> Failure:
        """Note that the API answered 429: the budget waits for it."""
        failure = Failure(_kind(error), "", str(error))
        self._faulty_api.add((failure.key, ""))
        return failure

    def _leave_alone(self, what: Stream | str, kind: str, error: ApiError, now: float) -> int:
        """Let a stream or a media rest, twice as long after each failure; how often it has failed."""
        first, longest = next((first, longest) for each, first, longest in RESTS if isinstance(error, each))
        failures = self._rests[what].failures + 1 if what in self._rests else 1
        if failures == 1:
            self._begun.add(what)
        # The exponent is bounded, for it grows for ever.
        wait = min(first * 2.0 ** min(failures - 1, 20), max(longest, TOGETHER * len(self._rests)))
        asked = min(retry_after(error) or 0.0, LONGEST_WAIT)
        self._rests[what] = _Rest(kind, failures, now + max(wait, asked))
        return failures

    def _release(self, kind: str) -> None:
        """Let some of those that failed alike be asked for now: what ended for one has often ended for all."""
        alike = [what for what, rest in self._rests.items() if rest.kind == kind and rest.until > _NOW]
        for what in sorted(alike, key=lambda what: self._rests[what].until)[:RELEASED]:
            self._rests[what] = replace(self._rests[what], until=_NOW)

    def _forget(self, whats: Iterable[Stream | str]) -> None:
        for what in whats:
            self._rests.pop(what, None)
            self._faulty.pop(what, None)


def retry_after(error: ApiError) -> float | None:
    """The seconds that an answer asks to be left alone for, None where it does not."""
    return error.retry_after if isinstance(error, RefusedError | SignInFailed) else None


def _kind(error: ApiError) -> str:
    name = type(error).__name__
    return f"{name} {error.code}" if type(error) is RefusedError else name


def _gone(task: Task, error: ApiError) -> bool:
    # The whole merchant is no media: what is not found of it is one stream's failure.
    return isinstance(error, NotFound) and bool(task.media_id)


def _key(task: Lookup | WarmupRequest) -> Lookup | str:
    # The same past is asked for by another range each time.
    return task if isinstance(task, Lookup) else str(task)
