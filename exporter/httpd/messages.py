"""What a handler takes and gives: requests and responses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Request:
    """A request.

    Attributes:
        method: As it was sent.
        path: Without the query, percent-decoded.
        query: What follows the question mark, as it was sent.
        headers: By name in lower case. They may contain a password, so no text shows them.
        body: The body.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Response:
    """A response. Where the request is HEAD, its body is not sent.

    Attributes:
        status: The HTTP status.
        headers: The headers; `Content-Length` and `Date` are added where they are missing.
        body: The body.
        truncated: Whether the connection ends after half of the body.
    """

    status: int
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    truncated: bool = False


Handler = Callable[[Request], Response]


def error_response(status: int, text: str, *headers: tuple[str, str]) -> Response:
    """A response of plain text that says what is wrong."""
    body = f"{text}\n".encode("utf-8", "replace")
    return Response(status, (("Content-Type", "text/plain; charset=utf-8"), *headers), body)
