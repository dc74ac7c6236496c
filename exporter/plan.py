"""Which stream to ask for next. Pure: what is known of each stream comes in, the choice comes out."""

from collections.abc import Iterable
from dataclasses import dataclass

from exporter.model import Minute, Stream


@dataclass(frozen=True, slots=True)
class Candidate:
    """A stream that may be asked for.

    Attributes:
        stream: Which one.
        staleness: How many settled minutes it has not counted yet.
        attempts: How often it has been asked for in this round without success.
    """

    stream: Stream
    staleness: Minute
    attempts: int = 0


def choose(candidates: Iterable[Candidate]) -> Stream | None:
    """The stalest stream of those that failed least in this round; of equals the first."""
    best = max(candidates, key=lambda candidate: (-candidate.attempts, candidate.staleness), default=None)
    return None if best is None else best.stream
