"""What the server says on a connection: it reads requests by HTTP's rules, and writes the response to each."""

import re
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from http import HTTPStatus
from http.client import responses
from typing import Any
from urllib.parse import unquote

import h11

from exporter.httpd.connections import Connection, Connections, Phase
from exporter.httpd.messages import Request, Response, error_response

# A body is handed to the connection in pieces, each after the one before has left: it is in memory once.
_PIECE = 256 * 1024

# A body that is too large is read up to here before it is refused: a client that still sends would miss the response.
_DISCARDED = 1024 * 1024

_CLOSE = ("Connection", "close")


class Conversation:
    """The requests of one connection, one after the other. A client may pipeline them."""

    def __init__(
        self, connections: Connections, connection: Connection, respond: Callable[[Request], Awaitable[Response]]
    ) -> None:
        """Make one.

        Args:
            connections: All of them.
            connection: This one.
            respond: Answers a request.
        """
        self._connections = connections
        self._connection = connection
        self._respond_to = respond
        self._limit = connections.limits.request_bytes
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=self._limit)

    async def run(self) -> None:
        """Answer requests until the client or the server ends the connection."""
        try:
            while isinstance(head := await self._next_event(), h11.Request):
                await self._send(await self._respond(head), with_body=head.method != b"HEAD")
                if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                    return
                self._http.start_next_cycle()
                self._connection.enter(Phase.IDLE)
        except h11.RemoteProtocolError:
            await self._send(error_response(HTTPStatus.BAD_REQUEST, "invalid HTTP request", _CLOSE), with_body=True)

    async def _next_event(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._connection.receive())
        return event

    async def _respond(self, head: h11.Request) -> Response:
        if _size(head) > self._limit:
            return error_response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "request header fields too large", _CLOSE)
        headers: dict[str, str] = {}
        for raw_name, raw_value in head.headers:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]},{value}" if name in headers else value
        body = await self._body(int(headers.get("content-length", "0")))
        self._connection.enter(Phase.HANDLING)
        if body is None:
            return error_response(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "request body too large", _CLOSE)
        # A client may put scheme and host before the path, as it does to a proxy.
        target = re.sub(r"^https?://[^/?]*", "", head.target.decode("ascii"), flags=re.IGNORECASE)
        path, _, query = target.partition("?")
        return await self._respond_to(Request(head.method.decode("ascii"), unquote(path) or "/", query, headers, body))

    async def _body(self, announced: int) -> bytes | None:
        """The body of a request, or None where it is too large."""
        if self._http.they_are_waiting_for_100_continue:
            # Such a client has not sent the body yet.
            if announced > self._limit:
                return None
            self._write(h11.InformationalResponse(status_code=HTTPStatus.CONTINUE, headers=[], reason="Continue"))
        body, size = bytearray(), 0
        while size <= _DISCARDED and isinstance(event := await self._next_event(), h11.Data):
            size += len(event.data)
            if size <= self._limit:
                body += event.data
        return bytes(body) if size <= self._limit else None

    async def _send(self, response: Response, *, with_body: bool) -> None:
        """Send a response, and wait until the client has read it."""
        self._connections.make_room(response.body)
        self._connection.enter(Phase.SENDING, body=response.body)
        reason = responses.get(response.status, "")
        self._write(h11.Response(status_code=response.status, headers=_headers(response), reason=reason))
        size = len(response.body) if with_body else 0
        end = size // 2 if response.truncated else size
        for start in range(0, end, _PIECE):
            self._write(h11.Data(data=response.body[start : min(start + _PIECE, end)]))
            await self._connection.drained()
        if not response.truncated:
            self._write(h11.EndOfMessage())
            await self._connection.drained()

    def _write(self, event: h11.Event) -> None:
        self._connection.write(self._http.send(event) or b"")


def _size(head: h11.Request) -> int:
    """Bytes of the request line and the headers. The library checks its own limit only when it needs more bytes."""
    line = len(head.method) + len(head.target) + len("  HTTP/1.1\r\n")
    return line + sum(len(name) + len(value) + len(": \r\n") for name, value in head.headers)


def _headers(response: Response) -> list[tuple[bytes, bytes]]:
    given = {name.lower() for name, _ in response.headers}
    added = [("Content-Length", str(len(response.body))), ("Date", formatdate(usegmt=True))]
    headers = [*response.headers, *(each for each in added if each[0].lower() not in given)]
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
