"""The newest requests to the API, for the status page.

Failures are kept longer, so that successful requests do not push them out.
"""

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

# Number of requests kept, and of failures.
KEPT = 50


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request to the API that has ended.

    Attributes:
        at: When it ended (Unix seconds).
        merchant_id: The merchant.
        endpoint: The endpoint of the API.
        code: The HTTP status, or `error` without a complete answer.
        seconds: Its duration.
        asked: The stream, media or live event that was requested; "" for a token.
        media_id: The media, or "".
        error: Why there is no usable answer, redacted; "" on success.
    """

    at: float
    merchant_id: str
    endpoint: str
    code: str
    seconds: float
    asked: str = ""
    media_id: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class RequestsView:
    """The content of the log at one time.

    Attributes:
        newest: The newest requests and the newest failures, newest first.
        of_media: The newest failed request about each media, by merchant and media id.
    """

    newest: tuple[Exchange, ...] = ()
    of_media: Mapping[tuple[str, str], Exchange] = field(default_factory=lambda: MappingProxyType({}))


class RequestLog:
    """Keeps the newest requests. Thread-safe."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._count = 0
        # Numbered, so that a request in both is listed once, and the order does not depend on the clock.
        self._newest = deque[tuple[int, Exchange]](maxlen=KEPT)
        self._failures = deque[tuple[int, Exchange]](maxlen=KEPT)
        # At most one entry per media.
        self._of_media: dict[tuple[str, str], Exchange] = {}

    def note(self, exchange: Exchange) -> None:
        """Add a request that has ended."""
        with self._mutex:
            self._count += 1
            self._newest.append((self._count, exchange))
            if exchange.error:
                self._failures.append((self._count, exchange))
                if exchange.media_id:
                    self._of_media[exchange.merchant_id, exchange.media_id] = exchange

    def view(self) -> RequestsView:
        """The current content."""
        with self._mutex:
            kept = {**dict(self._failures), **dict(self._newest)}
            of_media = MappingProxyType(dict(self._of_media))
        return RequestsView(tuple(kept[number] for number in sorted(kept, reverse=True)), of_media)
