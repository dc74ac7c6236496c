"""What is left alone for a while after it has failed, and what each failure says of the API. Pure: time is an argument.

A failure can be the fault of what was asked for, or of the whole API. What fails by itself rests for longer and longer,
so that it takes nothing from the others; what can be the whole API's fault is a strike against it.
"""

from dataclasses import dataclass

from exporter.catalog import Lookup
from exporter.errors import ApiError, BadRequest, MalformedAnswer, NotFound, RateLimited, Unauthorized
from exporter.history import History
from exporter.model import Stream

# What one request asks for.
Task = Stream | Lookup | History

# So many failures without an answer end the round: the API is down. So many for the catalog or the past end those of
# the round: the catalog can be down, or closed to the account, while the counting goes on.
STRIKES = 3

# Seconds until what failed by itself is asked for again; twice as long after each further failure.
FIRST_REST = {BadRequest: 60.0, MalformedAnswer: 60.0, NotFound: 900.0}
LONGEST_REST = {BadRequest: 1800.0, MalformedAnswer: 1800.0, NotFound: 6 * 3600.0}

# The same for any other failure of a stream while the API answers for others. At first it is over by the next minute.
FIRST_PAUSE, LONGEST_PAUSE = 45.0, 900.0


@dataclass(frozen=True, slots=True)
class Failure:
    """What a failed request says.

    Attributes:
        fault: Which fault it is, the same for all requests that suffer from it.
        message: What to tell of it.
        strikes: How much it says against the API, or for a lookup or the past against all of those.
    """

    fault: str
    message: str
    strikes: int = 0


@dataclass(frozen=True, slots=True)
class _Rest:
    """How what failed by itself is left alone.

    Attributes:
        failures: How often it has failed.
        until: Until when it rests (monotonic seconds).
    """

    failures: int
    until: float


class Rests:
    """What one merchant's failures leave alone. For one thread at a time."""

    def __init__(self, pace_maker: Stream) -> None:
        """Nothing has failed.

        Args:
            pace_maker: The stream that never rests for a failure of its own: without its answers nothing is settled.
        """
        self._pace_maker = pace_maker
        # By stream, or for media that are gone by media id.
        self._rests: dict[Stream | str, _Rest] = {}
        # The fault of each stream, media, lookup or past that fails by itself, until it is answered.
        self._faulty: dict[Stream | Lookup | str, str] = {}

    @property
    def faults(self) -> set[str]:
        """The faults that have not ended, though what they concern may be asked for seldom."""
        return set(self._faulty.values())

    def rests(self, stream: Stream, now: float) -> bool:
        """Whether a stream is to be left alone at a moment (monotonic seconds)."""
        if not self._rests:
            return False
        rests = (self._rests.get(stream), self._rests.get(stream.media_id))
        return any(rest is not None and now < rest.until for rest in rests)

    def answered(self, task: Task) -> None:
        """What was asked for has come: nothing is wrong with it any more."""
        if isinstance(task, Lookup):
            # A media's answer tells which live event it has now: one that it had before is not asked for again.
            of_media = [each for each in self._faulty if isinstance(each, Lookup) and each.media_id == task.media_id]
            for each in of_media:
                if each == task or not task.live_event_id:
                    del self._faulty[each]
        elif isinstance(task, History):
            self._faulty.pop(_key(task), None)
        else:
            for what in (task, task.media_id):
                self._rests.pop(what, None)
                self._faulty.pop(what, None)

    def failed(self, task: Task, error: ApiError, now: float, *, api_works: bool) -> Failure:
        """Leave alone what has failed by itself.

        Args:
            task: What was asked for.
            error: What came instead.
            now: When, monotonic seconds.
            api_works: Whether anything else has been answered in this round.
        """
        kind = next((kind for kind in FIRST_REST if isinstance(error, kind)), None)
        if kind is None:
            return self._struck(task, error, now, api_works=api_works)
        # The whole merchant is no media: what is not found of it is one stream's fault.
        gone = isinstance(error, NotFound) and bool(task.media_id)
        fault = f"{kind.__name__} {task.media_id if gone else task}"
        if not isinstance(task, Stream):
            self._faulty[_key(task)] = fault
        elif task != self._pace_maker:
            # A media that is gone is gone for all its streams: one of them asks now and then.
            what = task.media_id if gone else task
            self._faulty[what] = fault
            self._leave_alone(what, FIRST_REST[kind], LONGEST_REST[kind], now)
        return Failure(fault, f"{f'media {task.media_id}' if gone else task}: {error}")

    def _struck(self, task: Task, error: ApiError, now: float, *, api_works: bool) -> Failure:
        """What a failure says that can be the whole API's."""
        fault = f"{'' if isinstance(task, Stream) else type(task).__name__} {type(error).__name__}"
        if isinstance(error, RateLimited):
            # It is waited for.
            return Failure(fault, str(error))
        # A refused password is not accepted a second later.
        strikes = STRIKES if isinstance(error, Unauthorized) else 1
        if not isinstance(task, Stream):
            self._faulty[_key(task)] = fault
        elif api_works:
            if task != self._pace_maker and self._leave_alone(task, FIRST_PAUSE, LONGEST_PAUSE, now) > 1:
                # Once alone can be the beginning of an outage.
                self._faulty[task] = fault
            strikes = strikes if strikes == STRIKES else 0
        return Failure(fault, str(error), strikes)

    def _leave_alone(self, what: Stream | str, first: float, longest: float, now: float) -> int:
        """Let a stream or a media rest, twice as long after each failure; how often it has failed."""
        failures = self._rests[what].failures + 1 if what in self._rests else 1
        self._rests[what] = _Rest(failures, now + min(first * 2 ** (failures - 1), longest))
        return failures


def _key(task: Lookup | History) -> Lookup | str:
    # The same past is asked for by another range each time.
    return task if isinstance(task, Lookup) else str(task)
