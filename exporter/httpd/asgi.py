"""The application as the library calls it (ASGI): from its scope to a request, and from a response to its messages."""

import re
from collections.abc import Callable, Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from exporter.httpd.connections import Connection, Connections, Phase
from exporter.httpd.messages import Request, Response, error_response
from exporter.httpd.workers import WorkerPool

# A body is handed to the connection in pieces, each after the one before has left: it is in memory once.
_PIECE = 256 * 1024

# A body that is too large is read up to here before it is refused: a client that still sends would miss the response.
_DISCARDED = 1024 * 1024

_CLOSE = ("Connection", "close")


class AsgiApp:
    """The application: one response at a time for each connection."""

    def __init__(self, connections: Connections, pools: Mapping[str, WorkerPool], pool_of: Mapping[str, str]) -> None:
        """Make one.

        Args:
            connections: All of them.
            pools: By name; "" for paths that are not in `pool_of`.
            pool_of: Path to the name of its pool.
        """
        self._connections = connections
        self._pools = pools
        self._pool_of = pool_of

    async def __call__(self, scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        """Serve one request."""
        connection: Connection = scope["state"]["connection"]
        # A client may pipeline its requests. Each is looked at once the response before has been read.
        await connection.drained()
        response = await self._respond(scope, receive, connection)
        if response is None:
            return
        self._connections.make_room(response.body)
        connection.enter(Phase.SENDING, body=response.body)
        await send({"type": "http.response.start", "status": response.status, "headers": _response_headers(response)})
        await _send_body(response, send, head=scope["method"] == "HEAD")
        if response.truncated:
            connection.close()
            await connection.closed
        await connection.response_sent()

    async def _respond(self, scope: Any, receive: Callable[[], Any], connection: Connection) -> Response | None:
        limit = self._connections.limits.request_bytes
        if _head_size(scope) > limit:
            return error_response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "request header fields too large", _CLOSE)
        headers = _request_headers(scope)
        # Such a client has not sent the body yet; the library asks for it once the body is read.
        expects_continue = headers.get("expect", "").lower() == "100-continue"
        too_large = expects_continue and int(headers.get("content-length", "0")) > limit
        body = None if too_large else await _body(receive, limit)
        connection.enter(Phase.HANDLING)
        if body is None:
            return error_response(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "request body too large", _CLOSE)
        path, query = _path(scope), scope["query_string"].decode("latin-1")
        pool = self._pools[self._pool_of.get(path, "")]
        return await pool.respond(Request(scope["method"], path, query, headers, body), connection)


def _head_size(scope: Any) -> int:
    """Bytes of the request line and the headers. The library checks its own limit only when it needs more bytes."""
    line = len(scope["method"]) + len(scope["raw_path"]) + len(scope["query_string"]) + len(" ? HTTP/1.1\r\n")
    return line + sum(len(name) + len(value) + len(": \r\n") for name, value in scope["headers"])


def _path(scope: Any) -> str:
    """The path of the target, percent-decoded. A client may put scheme and host before it, as it does to a proxy."""
    target: str = scope["raw_path"].decode("ascii")
    absolute = re.match(r"https?://[^/]*", target, re.IGNORECASE)
    return scope["path"] if absolute is None else unquote(target[absolute.end() :]) or "/"


def _request_headers(scope: Any) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


async def _body(receive: Callable[[], Any], limit: int) -> bytes | None:
    """The body of a request, or None where it is too large."""
    body, size, more = bytearray(), 0, True
    while more and size <= _DISCARDED:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        piece, more = message.get("body", b""), message.get("more_body", False)
        size += len(piece)
        if size <= limit:
            body += piece
    return bytes(body) if size <= limit else None


def _response_headers(response: Response) -> list[tuple[bytes, bytes]]:
    given = {name.lower() for name, _ in response.headers}
    added = [("Content-Length", str(len(response.body))), ("Date", formatdate(usegmt=True))]
    headers = [*response.headers, *(each for each in added if each[0].lower() not in given)]
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]


async def _send_body(response: Response, send: Callable[[Any], Any], *, head: bool) -> None:
    size = 0 if head else len(response.body)
    end = size // 2 if response.truncated else size
    for start in range(0, end, _PIECE):
        piece = response.body[start : min(start + _PIECE, end)]
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    if not response.truncated:
        await send({"type": "http.response.body", "body": b""})
