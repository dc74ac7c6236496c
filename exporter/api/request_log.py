"""The requests to the API: the newest, for the status page, and how many there were.

Failed requests are kept longer than successful ones.
"""

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from exporter.views import EndpointView

# Number of requests that are kept, and of failed requests.
KEPT = 50

# The API's endpoints, and the status codes of its manual and of proxies. They are counted as 0 before the first such
# response, so that `increase()` sees it.
ENDPOINTS = ("aggregations", "auth-token", "live_events", "medias")
CODES = ("200", "400", "401", "403", "404", "429", "500", "502", "503", "504", "error")


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request to the API that has ended.

    Attributes:
        at: When it ended (Unix seconds).
        merchant_id: The merchant.
        endpoint: The endpoint of the API.
        code: The HTTP status, or `error` without a complete response.
        seconds: Its duration.
        asked: What was requested: a stream, a media, a live event; "" for a token.
        media_id: The media, or "".
        error: The error, without secrets, or "".
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
    """What the log holds at a moment.

    Attributes:
        newest: The newest requests and the newest failures, the newest first.
        of_media: By merchant and media id, the newest failure of a request about the media.
    """

    newest: tuple[Exchange, ...] = ()
    of_media: Mapping[tuple[str, str], Exchange] = field(default_factory=lambda: MappingProxyType({}))


class RequestLog:
    """Remembers requests, and counts those of the configured merchants. Safe for use by several threads."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._count = 0
        # Numbered, so that what is in both is shown once and in order, however the clock was set.
        self._newest = deque[tuple[int, Exchange]](maxlen=KEPT)
        self._failures = deque[tuple[int, Exchange]](maxlen=KEPT)
        # As many at most as there are media.
        self._of_media: dict[tuple[str, str], Exchange] = {}
        # By merchant and endpoint.
        self._endpoints: dict[str, dict[str, EndpointView]] = {}

    def expect(self, merchant_ids: Iterable[str]) -> None:
        """Count the requests of these merchants, from 0 if they were not counted before, and of no others."""
        none = MappingProxyType(dict.fromkeys(CODES, 0))
        with self._mutex:
            self._endpoints = {
                each: self._endpoints.get(each) or {endpoint: EndpointView(endpoint, none) for endpoint in ENDPOINTS}
                for each in merchant_ids
            }

    def note(self, exchange: Exchange) -> None:
        """Remember a request that has ended."""
        with self._mutex:
            endpoints = self._endpoints.get(exchange.merchant_id)
            if endpoints is not None:
                endpoint = exchange.endpoint
                counted = dict(endpoints[endpoint].requests) if endpoint in endpoints else {}
                counted[exchange.code] = counted.get(exchange.code, 0) + 1
                endpoints[endpoint] = EndpointView(endpoint, MappingProxyType(counted))
            self._count += 1
            self._newest.append((self._count, exchange))
            if exchange.error:
                self._failures.append((self._count, exchange))
                if exchange.media_id:
                    self._of_media[exchange.merchant_id, exchange.media_id] = exchange

    def counted(self, merchant_id: str) -> tuple[EndpointView, ...]:
        """The requests of a merchant; nothing if it is not counted."""
        with self._mutex:
            return tuple(self._endpoints.get(merchant_id, {}).values())

    def view(self) -> RequestsView:
        """What is remembered now."""
        with self._mutex:
            kept = {**dict(self._failures), **dict(self._newest)}
            of_media = MappingProxyType(dict(self._of_media))
        return RequestsView(tuple(kept[number] for number in sorted(kept, reverse=True)), of_media)
