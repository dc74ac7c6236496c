"""The connections of the HTTP server: what each may hold, and for how long.

A `Connection` stands between a socket and the protocol of the library that serves it, and notes what the client and the
server do. `Connections` closes those that take too long, and the idlest ones where there are too many.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import cast

from exporter.httpd.descriptors import MAX_CONNECTIONS
from exporter.httpd.messages import Body
from exporter.httpd.tls import has_allowed_san, limit_buffers
from exporter.httpd.web_config import WebConfig

# What is read at once. One buffer serves all connections: the library takes what is in it before the next read.
_CHUNK = 16 * 1024


class Phase(IntEnum):
    """What happens on a connection. The lower the value, the less is lost when it is closed."""

    IDLE = 0
    """Nothing: the server waits for the next request."""
    RECEIVING = 1
    """The client sends a request, or what it has to send before: its part of a TLS handshake."""
    SENDING = 2
    """The client reads a response."""
    HANDLING = 3
    """The client waits for a response."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What connections may use.

    Attributes:
        connections: How many at once. At the limit a new one closes the idlest.
        request_bytes: A request's line and headers, and its body, at most so many each.
        unsent_bytes: Responses that are not read yet, all connections together; one that several read counts once.
            Beyond that the slowest are closed.
        idle_timeout: Seconds that a connection may be idle.
        request_timeout: Seconds from a request's first byte to its last, and for a TLS handshake.
        response_timeout: Seconds from a response's first byte until all of it is read.
    """

    connections: int = MAX_CONNECTIONS
    request_bytes: int = 16 * 1024
    unsent_bytes: int = 64 * 1024 * 1024
    idle_timeout: float = 120.0
    request_timeout: float = 10.0
    response_timeout: float = 60.0

    def timeout(self, phase: Phase) -> float:
        """Seconds that a connection may be in a phase."""
        timeouts = {
            Phase.IDLE: self.idle_timeout,
            Phase.RECEIVING: self.request_timeout,
            Phase.SENDING: self.response_timeout,
        }
        # While the request is handled, the client is not to blame.
        return timeouts.get(phase, float("inf"))


class Connection(asyncio.BufferedProtocol):
    """One connection.

    Attributes:
        phase: What happens on it.
        since: Since when, by the loop's clock (seconds).
        body: The body of the response that is being sent.
        half_closed: Whether the client has shut down its side.
        closed: Done when the connection has ended.
        encrypted: Whether it is a TLS connection.
        needs_tls: Whether it is not, and should be.
        opening: The task that opens it, until it is open.
    """

    def __init__(
        self,
        connections: "Connections",
        protocol: asyncio.Protocol,
        loop: asyncio.AbstractEventLoop,
        web: WebConfig,
    ) -> None:
        self.phase = Phase.IDLE
        self.since = loop.time()
        self.body: Body = b""
        self.half_closed = False
        self.closed: asyncio.Future[None] = loop.create_future()
        self.encrypted = False
        self.needs_tls = False
        self.opening: asyncio.Task[None] | None = None
        self._web = web
        self._connections = connections
        self._protocol = protocol
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def enter(self, phase: Phase, body: Body = b"") -> None:
        """Begin a phase."""
        self.phase, self.since, self.body = phase, self._loop.time(), body

    @property
    def buffered(self) -> int:
        """Bytes of its response that have been copied, and that have not left yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    async def drained(self) -> None:
        """Wait until all that was written has left."""
        await self._writable.wait()

    async def response_sent(self) -> None:
        """Wait until the client has read its response, or has gone; then the connection is idle."""
        await self.drained()
        if self.phase is Phase.SENDING:
            self.enter(Phase.IDLE)
        if self.half_closed:
            # The next request may have come before. The library has scheduled it by now, so it is looked at first.
            self._loop.call_soon(self._close_if_idle)

    def abort(self) -> None:
        """End the connection now, whatever is under way."""
        self._connections.remove(self)
        if self._transport is not None:
            self._transport.abort()
        elif self.opening is not None:
            self.opening.cancel()

    def close(self) -> None:
        """End the connection once all that was written has left."""
        if self._transport is not None:
            self._transport.close()

    def _close_if_idle(self) -> None:
        if self.phase is Phase.IDLE:
            self.close()

    # ---- called by asyncio ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport = cast("asyncio.Transport", transport)
        self.encrypted = transport.get_extra_info("sslcontext") is not None
        self.enter(Phase.IDLE)
        self._protocol.connection_made(transport)
        if self.encrypted:
            # What is left of the handshake may be waiting now.
            limit_buffers(transport)
        else:
            # A write is reported as finished only when nothing of it is left.
            transport.set_write_buffer_limits(high=0)
        allowed = self._web.allowed_sans
        if self.encrypted and allowed and not has_allowed_san(transport.get_extra_info("peercert"), allowed):
            # Nothing that was read with the handshake is handed on after this.
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._connections.remove(self)
        self._writable.set()
        if not self.closed.done():
            self.closed.set_result(None)
        self._protocol.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Where to read to."""
        return self._connections.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Hand on what was read."""
        if self.phase is Phase.IDLE:
            self.enter(Phase.RECEIVING)
        self._protocol.data_received(bytes(self._connections.buffer[:nbytes]))

    def eof_received(self) -> bool:
        """Whether the connection stays: a complete request is answered, and its response sent to the end.

        A client that has gone looks the same until something is sent to it. asyncio ends a TLS connection anyway.
        """
        self.half_closed = True
        return not self.encrypted and self.phase in (Phase.HANDLING, Phase.SENDING)

    def pause_writing(self) -> None:
        """Something written has not left yet."""
        self._writable.clear()
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """All that was written has left."""
        self._writable.set()
        self._protocol.resume_writing()


class Connections:
    """All connections. For the loop's thread only.

    Attributes:
        limits: What they may use.
        buffer: What is read goes here first.
    """

    def __init__(self, limits: Limits, now: Callable[[], float]) -> None:
        self.limits = limits
        self.buffer = memoryview(bytearray(_CHUNK))
        self._now = now
        # In the order in which they came.
        self._all: dict[Connection, None] = {}

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._all))

    def __len__(self) -> int:
        return len(self._all)

    def add(self, connection: Connection) -> None:
        """Add a connection, and close the idlest others where there are too many."""
        while len(self._all) >= self.limits.connections:
            self._close_idlest()
        self._all[connection] = None

    def remove(self, connection: Connection) -> None:
        """Remove a connection, if it is there."""
        self._all.pop(connection, None)

    def close_idle(self) -> None:
        """Close all that wait for no response, to free their descriptors."""
        for connection in self:
            if connection.phase in (Phase.IDLE, Phase.RECEIVING):
                connection.abort()

    def close_overdue(self) -> None:
        """Close those that have been in their phase for too long."""
        now = self._now()
        for connection in self:
            if now - connection.since > self.limits.timeout(connection.phase):
                connection.abort()

    def make_room(self, body: Body) -> None:
        """Close those that have been reading their responses for longest, until this body fits the limit, too."""
        while sending := [each for each in self._all if each.phase is Phase.SENDING]:
            # Several may read the same one.
            held = {id(each): len(each) for each in (body, *(connection.body for connection in sending))}
            if sum(held.values()) + sum(each.buffered for each in sending) <= self.limits.unsent_bytes:
                break
            min(sending, key=lambda each: each.since).abort()

    def _close_idlest(self) -> None:
        """Close the one whose loss matters least, and of those the one that has been so for longest."""

        def cost(each: Connection) -> tuple[Phase, float]:
            # A client that has shut down its side has most likely gone.
            return (Phase.IDLE if each.half_closed else each.phase, each.since)

        min(self._all, key=cost).abort()
