"""A round of requests: its plan, its progress, and what its failures show about the API."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from exporter.errors import ApiError, SignInFailed
from exporter.model import Minute, Stream
from exporter.polling.backoff import SUSPICION_LIMIT, Task


@dataclass(slots=True)
class Plan:
    """The streams that a round still requests in one minute.

    Attributes:
        minute: The newest complete minute when they were chosen; None before the first plan.
        streams: The streams, the first last.
        urgent: Those of media that may have begun to drop.
    """

    minute: Minute | None = None
    streams: list[Stream] = field(default_factory=list)
    urgent: frozenset[Stream] = frozenset()

    @property
    def is_urgent(self) -> bool:
        """Whether the next of them is."""
        return bool(self.streams) and self.streams[-1] in self.urgent

    def outdated(self, minute: Minute) -> bool:
        """Whether nothing of it is left, or a newer minute is complete."""
        return not self.streams or self.minute != minute


@dataclass(slots=True)
class Evidence:
    """What a round's failures show about the whole API, until an answer clears it or it is found to be down.

    Attributes:
        witness: The stream that was answered first, so the API worked; None before that.
        suspects: The failures since a stream was answered. It is unknown whether they are the API's.
        suspicion: How much they count against the API.
        sent_before: What was under way at the newest of them: its answer says nothing about that failure.
        down: Whether the API has been found to be down.
    """

    witness: Stream | None = None
    suspects: list[tuple[Task, ApiError]] = field(default_factory=list)
    suspicion: int = 0
    sent_before: set[Task] = field(default_factory=set)
    down: bool = False

    @property
    def in_doubt(self) -> bool:
        """Whether so much has failed that the API may be down: then the witness is requested once more."""
        return self.suspicion >= SUSPICION_LIMIT

    @property
    def streams_suspected(self) -> bool:
        """Whether the catalog and the warm-up have to wait for the answer of a stream."""
        return any(isinstance(task, Stream) for task, _ in self.suspects)

    def answered(self, stream: Stream) -> None:
        """The first stream that is answered is the witness."""
        self.witness = self.witness or stream

    def add(self, task: Task, error: ApiError, suspicion: int, under_way: Collection[Task]) -> bool:
        """Note a failure that may be the API's; whether it shows that the API is down."""
        decides = self.in_doubt and task == self.witness
        self.suspects.append((task, error))
        self.suspicion += suspicion
        self.sent_before = {*under_way} - {task}
        return decides or isinstance(error, SignInFailed) or (self.witness is None and self.in_doubt)

    def drop(self, kind: type[ApiError]) -> None:
        """Forget the failures of one kind."""
        self.suspects = [(task, error) for task, error in self.suspects if not isinstance(error, kind)]

    def clear(self) -> list[tuple[Task, ApiError]]:
        """Forget all failures; returns them."""
        suspects, self.suspects, self.suspicion = self.suspects, [], 0
        return suspects


@dataclass(slots=True)
class Round:
    """One round.

    Attributes:
        started: When it began (monotonic seconds).
        live_left: Requests that are left for running live events.
        plan: The streams to request.
        under_way: The requests under way, and when each was taken (monotonic seconds): it left then, if it was sent.
        failures: How often each request has failed.
        evidence: What the failures show about the whole API.
        failed_again: How many streams failed that had failed before this round, too.
        failed_background: Failed requests for the catalog and the warm-up that count towards their end in this round.
        sent: How many requests have been sent.
        spare: How many places of the budget it leaves free for the beginning of the next round.
        waited: Whether it had to wait for the budget.
        ended: Whether nothing more is to be requested.
        unwritable: Whether the state file could not be written.
    """

    started: float
    live_left: int = 0
    plan: Plan = field(default_factory=Plan)
    under_way: dict[Task, float] = field(default_factory=dict)
    failures: Counter[Task] = field(default_factory=Counter)
    evidence: Evidence = field(default_factory=Evidence)
    failed_again: int = 0
    failed_background: int = 0
    sent: int = 0
    spare: int = 0
    waited: bool = False
    ended: bool = False
    unwritable: bool = False

    @property
    def unanswered(self) -> set[Task]:
        """What is under way, or has failed without a verdict on the API."""
        return self.under_way.keys() | {task for task, _ in self.evidence.suspects}
