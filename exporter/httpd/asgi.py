"""The application as the library calls it (ASGI): from its scope to a request, and from a response to its messages."""

import re
from collections.abc import Callable, Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from exporter.httpd.connections import Connection, Connections, Phase
from exporter.httpd.messages import Request, Response, error_response
from exporter.httpd.passwords import PasswordChecker, Verdict
from exporter.httpd.tls import PIECE as TLS_PIECE
from exporter.httpd.web_config import WebConfig
from exporter.httpd.workers import WorkerPool

# A body is handed to the connection in pieces, each after the one before has left: it is in memory once. Between two of
# them other threads run, so a usual page is one piece.
_PIECE = 1024 * 1024

# A body that is too large is read up to here before it is refused: a client that still sends would miss the response.
_DISCARDED = 1024 * 1024

_CLOSE = ("Connection", "close")
_CHALLENGE = ("WWW-Authenticate", "Basic")


class AsgiApp:
    """The application: one response at a time for each connection."""

    def __init__(
        self,
        connections: Connections,
        pools: Mapping[str, WorkerPool],
        pool_of: Mapping[str, str],
        passwords: PasswordChecker,
        web: Callable[[], WebConfig],
    ) -> None:
        """Make one.

        Args:
            connections: All of them.
            pools: By name; "" for paths that are not in `pool_of`.
            pool_of: Path to the name of its pool.
            passwords: Checks the clients' passwords.
            web: The web configuration in force.
        """
        self._connections = connections
        self._pools = pools
        self._pool_of = pool_of
        self._passwords = passwords
        self._web = web

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
        headers = response_headers(response, self._web())
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        piece = TLS_PIECE if connection.encrypted else _PIECE
        await _send_body(response, send, piece, head=scope["method"] == "HEAD")
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
        if connection.needs_tls:
            return error_response(HTTPStatus.BAD_REQUEST, "this is an HTTPS server, use https://", _CLOSE)
        refusal = await self._authenticate(headers, scope["client"], connection)
        if refusal is not None:
            return refusal
        path, query = _path(scope), scope["query_string"].decode("latin-1")
        pool = self._pools[self._pool_of.get(path, "")]
        return await pool.respond(Request(scope["method"], path, query, headers, body), connection)

    async def _authenticate(self, headers: dict[str, str], client: Any, connection: Connection) -> Response | None:
        """Check the password of a request, if one is needed, and take it from the headers.

        Returns:
            The response if it is not right.
        """
        users = self._web().users
        if not users:
            return None
        # Whatever the handler does with a request, it cannot disclose what it does not have.
        given = headers.pop("authorization", "")
        verdict = await self._passwords.check(given, users, client[0] if client else "", connection)
        if verdict is Verdict.RIGHT:
            return None
        if verdict is Verdict.BUSY:
            text = "too many passwords are being checked, try again"
            return error_response(HTTPStatus.TOO_MANY_REQUESTS, text, ("Retry-After", "1"))
        return error_response(HTTPStatus.UNAUTHORIZED, "user or password missing or wrong", _CHALLENGE)


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


def response_headers(response: Response, web: WebConfig) -> list[tuple[bytes, bytes]]:
    """All headers of a response, as the library takes them: the configured ones win."""
    added = {"Content-Length": str(len(response.body)), "Date": formatdate(usegmt=True)}
    headers: dict[str, tuple[str, str]] = {}
    for name, value in (*added.items(), *response.headers, *web.headers.items()):
        headers[name.lower()] = (name.lower(), value)
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.values()]


async def _send_body(response: Response, send: Callable[[Any], Any], piece_size: int, *, head: bool) -> None:
    size = 0 if head else len(response.body)
    end = size // 2 if response.truncated else size
    for start in range(0, end, piece_size):
        piece = response.body[start : min(start + piece_size, end)]
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    if not response.truncated:
        await send({"type": "http.response.body", "body": b""})
