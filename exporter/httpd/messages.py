"""What a handler takes and gives: requests and responses."""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate


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


class Pieces:
    """A large body in pieces, which others may hold, too: it needs no memory for the whole. It reads as bytes do."""

    __slots__ = ("_pieces", "_starts")

    def __init__(self, pieces: Sequence[bytes]) -> None:
        """Make one of pieces that are not changed any more."""
        self._pieces = pieces
        # Where each begins, and the end.
        self._starts = array("Q", accumulate(map(len, pieces), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, part: slice) -> bytes:
        start, end, _ = part.indices(len(self))
        first, last = bisect_right(self._starts, start) - 1, bisect_left(self._starts, end)
        before = self._starts[first]
        return b"".join(self._pieces[first:last])[start - before : end - before]

    def __bytes__(self) -> bytes:
        return self[:]


Body = bytes | Pieces


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
    body: Body = b""
    truncated: bool = False


Handler = Callable[[Request], Response]


def error_response(status: int, text: str, *headers: tuple[str, str]) -> Response:
    """A response of plain text that says what is wrong."""
    body = f"{text}\n".encode("utf-8", "replace")
    return Response(status, (("Content-Type", "text/plain; charset=utf-8"), *headers), body)
