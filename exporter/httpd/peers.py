"""The peers of the HTTP server: what each may hold, and for how long.

A `Peer` stands between a connection and the protocol of the library that serves it. It notes what the connection waits
for; `Peers` ends those that wait too long, and the idlest ones where there are too many.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import cast

from exporter.httpd.descriptors import MOST_PEERS

# What is read at once. One buffer serves all peers: the library takes what is in it before the next read.
_CHUNK = 16 * 1024


class Phase(IntEnum):
    """What a peer is doing. The lower the value, the less is lost where its connection ends."""

    IDLE = 0
    """Nothing: the server waits for its next request."""
    ASKING = 1
    """It sends a request."""
    TAKING = 2
    """It reads an answer."""
    WAITING = 3
    """It waits for an answer."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What peers may use.

    Attributes:
        peers: Connections at once. At the limit a new one ends the idlest.
        request_bytes: A request's line and headers, and its body, at most so many each.
        unread_bytes: Answers that are not read yet, all peers together; one that several read counts once. Beyond that
            the slowest are cut.
        idle: Seconds that a connection may be idle.
        asking: Seconds from a request's first byte until it is whole.
        taking: Seconds from an answer's first byte until all of it is read.
    """

    peers: int = MOST_PEERS
    request_bytes: int = 16 * 1024
    unread_bytes: int = 64 * 1024 * 1024
    idle: float = 120.0
    asking: float = 10.0
    taking: float = 60.0

    def patience(self, phase: Phase) -> float:
        """Seconds that a peer may be in a phase."""
        match phase:
            case Phase.IDLE:
                return self.idle
            case Phase.ASKING:
                return self.asking
            case Phase.TAKING:
                return self.taking
            case Phase.WAITING:
                # The peer is not to blame.
                return float("inf")


class Peer(asyncio.BufferedProtocol):
    """One connection.

    Attributes:
        phase: What it is doing.
        since: Since when, by the loop's clock (seconds).
        answer: What it reads, while it does.
        half_closed: Whether it has said that it sends no more.
        lost: Done when the connection has ended.
    """

    def __init__(self, peers: "Peers", inner: asyncio.Protocol, loop: asyncio.AbstractEventLoop) -> None:
        self.phase = Phase.IDLE
        self.since = loop.time()
        self.answer = b""
        self.lost: asyncio.Future[None] = loop.create_future()
        self._peers = peers
        self._inner = inner
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self.half_closed = False

    def enter(self, phase: Phase, answer: bytes = b"") -> None:
        """Note what it does from now on."""
        self.phase, self.since, self.answer = phase, self._loop.time(), answer

    @property
    def buffered(self) -> int:
        """Bytes of its answer that the connection has copied, and that have not left yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    async def taken(self) -> None:
        """Wait until all that was written has left."""
        await self._writable.wait()

    def abort(self) -> None:
        """End the connection now, whatever is under way."""
        self._peers.forget(self)
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """End the connection once all that was written has left."""
        if self._transport is not None:
            self._transport.close()

    # ---- what asyncio calls ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport = cast("asyncio.Transport", transport)
        # A write is reported as finished only when nothing of it is left.
        transport.set_write_buffer_limits(high=0)
        self._peers.add(self)
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._peers.forget(self)
        self._writable.set()
        if not self.lost.done():
            self.lost.set_result(None)
        self._inner.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Where to read to."""
        return self._peers.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Hand on what was read."""
        if self.phase is Phase.IDLE:
            self.enter(Phase.ASKING)
        self._inner.data_received(bytes(self._peers.buffer[:nbytes]))

    def eof_received(self) -> bool:
        """Whether the connection stays: a request that is whole is answered, and the answer sent to its end.

        A peer that has given up looks the same until something is sent to it.
        """
        self.half_closed = True
        return self.phase in (Phase.WAITING, Phase.TAKING)

    def pause_writing(self) -> None:
        """Something written has not left yet."""
        self._writable.clear()
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """All that was written has left."""
        self._writable.set()
        self._inner.resume_writing()

    # ---- what the server calls ----

    async def finished(self) -> None:
        """Wait until the peer has read its answer, or is lost; then it is idle."""
        await self.taken()
        if self.phase is Phase.TAKING:
            self.enter(Phase.IDLE)
        if self.half_closed:
            # It may have sent its next request before. The library has scheduled that by now, so it is looked at first.
            self._loop.call_soon(self._close_idle)

    def _close_idle(self) -> None:
        if self.phase is Phase.IDLE:
            self.close()


class Peers:
    """All peers. For the loop's thread only.

    Attributes:
        limits: What they may use.
        buffer: What is read goes here first.
    """

    def __init__(self, limits: Limits, now: Callable[[], float]) -> None:
        self.limits = limits
        self.buffer = memoryview(bytearray(_CHUNK))
        self._now = now
        # In the order in which they came.
        self._all: dict[Peer, None] = {}

    def __iter__(self) -> Iterator[Peer]:
        return iter(list(self._all))

    def __len__(self) -> int:
        return len(self._all)

    def add(self, peer: Peer) -> None:
        """Count a peer, and end the idlest others where there are too many."""
        while len(self._all) >= self.limits.peers:
            self.end_idlest()
        self._all[peer] = None

    def forget(self, peer: Peer) -> None:
        """Count a peer no more."""
        self._all.pop(peer, None)

    def end_idlest(self) -> None:
        """End the one whose loss matters least, and of those the one that has been so for longest."""
        # One that sends no more has most likely given up.
        min(self._all, key=lambda each: (Phase.IDLE if each.half_closed else each.phase, each.since)).abort()

    def end_idle(self) -> None:
        """End all that wait for nothing, to have their descriptors."""
        for peer in self:
            if peer.phase in (Phase.IDLE, Phase.ASKING):
                peer.abort()

    def end_overdue(self) -> None:
        """End those that have been in their phase for too long."""
        now = self._now()
        for peer in self:
            if now - peer.since > self.limits.patience(peer.phase):
                peer.abort()

    def make_room(self, answer: bytes) -> None:
        """End those that have been reading their answers for longest, until one more has room."""
        while taking := [each for each in self._all if each.phase is Phase.TAKING]:
            # Several may read the same one.
            held = {id(each): len(each) for each in (answer, *(peer.answer for peer in taking))}
            if sum(held.values()) + sum(peer.buffered for peer in taking) <= self.limits.unread_bytes:
                break
            min(taking, key=lambda each: each.since).abort()
