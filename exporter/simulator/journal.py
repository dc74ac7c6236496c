"""The journal of the requests to the simulated API. Thread-safe, bounded."""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
        at: The instant of its arrival, Unix seconds.
        merchant_id: The merchant of its path.
        endpoint: `auth-token`, `aggregations`, `medias`, `live_events`, or `other`.
        method: The HTTP method.
        path: The path.
        query: The query string.
        status: The HTTP status of the answer.
        rows: The rows of the answer, or None where it has none.
    """

    at: float
    merchant_id: str
    endpoint: str
    method: str
    path: str
    query: str
    status: int
    rows: int | None


class Journal:
    """The newest requests, and counts of all."""

    def __init__(self, size: int = 50_000) -> None:
        self._lock = Lock()
        self._newest: deque[Request] = deque(maxlen=size)
        self._counts: Counter[tuple[str, int]] = Counter()

    def add(self, request: Request) -> None:
        """Record an answered request."""
        with self._lock:
            self._newest.append(request)
            self._counts[request.endpoint, request.status] += 1

    def newest(self) -> tuple[Request, ...]:
        """The newest requests, oldest first."""
        with self._lock:
            return tuple(self._newest)

    def counts(self) -> Mapping[tuple[str, int], int]:
        """The number of requests by (endpoint, status) since the start."""
        with self._lock:
            return dict(self._counts)
