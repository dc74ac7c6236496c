"""The journal of the requests to the simulated API. Thread-safe, bounded."""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock

from exporter.simulator.gate import WINDOW


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

    def newest(self, limit: int | None = None) -> tuple[Request, ...]:
        """The newest requests, oldest first; without a limit, all recorded ones."""
        with self._lock:
            kept = tuple(self._newest)
        return kept if limit is None else kept[max(0, len(kept) - limit) :]

    def counts(self) -> Mapping[tuple[str, int], int]:
        """The number of requests by (endpoint, status) since the start."""
        with self._lock:
            return dict(self._counts)

    def busiest(self, merchant_id: str, window: float = WINDOW) -> int:
        """The maximum number of requests of a merchant in any window (seconds, end exclusive)."""
        arrivals = sorted(request.at for request in self.newest() if request.merchant_id == merchant_id)
        most = first = 0
        for last, arrival in enumerate(arrivals):
            while arrivals[first] <= arrival - window:
                first += 1
            most = max(most, last - first + 1)
        return most
