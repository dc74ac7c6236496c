"""One HTTP exchange: a complete answer before the deadline, or `NoAnswer`."""

import http.client
import socket
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import requests
import urllib3

from exporter.api.connections import Session
from exporter.api.deadlines import Deadline
from exporter.api.limits import LARGEST_ERROR, Limit
from exporter.api.network_errors import PROXY_AUTH_REQUIRED, causes_of, describe, proxy_refusal
from exporter.errors import NoAnswer, TooLarge

_CHUNK = 16 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer.

    Attributes:
        status: The HTTP status.
        headers: By name, case-insensitive.
        packed: The body as it was sent; `unpacking` decompresses it.
    """

    status: int
    headers: Mapping[str, str]
    packed: bytes


def exchange(
    session: Session,
    method: str,
    url: str,
    *,
    timeout: float,
    limit: Limit,
    hide: Callable[[str], str],
    **options: Any,
) -> Answer:
    """Send a request and read the whole answer.

    Args:
        session: The connections.
        method: The HTTP method.
        url: The address.
        timeout: Seconds until the answer must be complete.
        limit: The largest answer to accept.
        hide: Redacts secrets in a text.
        options: Further arguments for `requests`.

    Raises:
        NoAnswer: No complete answer came in time.
        TooLarge: A successful answer is larger than the limit.
    """
    deadline = Deadline(timeout)
    failure: Exception
    try:
        with (
            deadline,
            session.request(method, url, timeout=timeout, allow_redirects=False, stream=True, **options) as response,
        ):
            packed = _read(response, deadline, limit)
            if response.status_code == PROXY_AUTH_REQUIRED and session.route.proxy:
                raise NoAnswer(proxy_refusal(session.route.proxy, response.status_code, url))
            return Answer(response.status_code, response.headers, packed)
    except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
        # Those of `requests` are OSErrors.
        failure = error
    written = "".join(traceback.format_exception(failure))
    # "No address found" says more than "timed out".
    late = deadline.expired and not any(isinstance(cause, socket.gaierror) for cause in causes_of(failure))
    reason = describe(TimeoutError() if late else failure, url, timeout, session.route)
    # Outside of the `except`, so that an error that quotes a secret is in no traceback.
    raise NoAnswer(reason) from (failure if hide(written) == written else None)


def _read(response: requests.Response, deadline: Deadline, limit: Limit) -> bytes:
    """The body as it was sent. It is decompressed later, within its own limits."""
    good = 200 <= response.status_code < 300
    most = limit.size if good else LARGEST_ERROR
    parts, size = list[bytes](), 0
    for chunk in response.raw.stream(_CHUNK, decode_content=False):
        parts.append(chunk)
        size += len(chunk)
        if deadline.expired:
            raise TimeoutError
        if size > most:
            if good:
                raise TooLarge(limit.exceeded(f"more than {limit.size} bytes"))
            break
    return b"".join(parts)
