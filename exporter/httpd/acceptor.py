"""Accepts connections, and closes those that are overdue."""

import asyncio
import errno
import socket
from collections.abc import Callable

import structlog

from exporter.httpd.connections import Connection, Connections

log = structlog.get_logger("server")

# Seconds between checks for connections that are overdue.
CHECK_EVERY = 1.0

# Seconds without accepting after that failed.
BACKOFF = 0.2

# Accepting has to work for so many seconds before a problem with it counts as resolved.
RESOLVED_AFTER = 60.0


class Acceptor:
    """Accepts connections, and closes those that are overdue. For the loop's thread only."""

    def __init__(
        self, connections: Connections, connect: Callable[[], Connection], loop: asyncio.AbstractEventLoop
    ) -> None:
        """Make one.

        Args:
            connections: All of them.
            connect: Makes the protocol of a new one.
            loop: Serves them.
        """
        self._connections = connections
        self._connect = connect
        self._loop = loop
        self._failed_at: float | None = None

    async def accept(self, listener: socket.socket) -> None:
        """Accept until cancelled."""
        listener.settimeout(0)
        while True:
            await self._readable(listener)
            # Not the loop's `sock_accept`: cancelled at the wrong moment, it loses the socket that it has accepted.
            try:
                accepted, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                continue
            except OSError as error:
                self._failed(error)
                # The newest connections send their requests meanwhile; the idle ones free their descriptors.
                await asyncio.sleep(BACKOFF)
                self._connections.close_idle()
                continue
            accepted.settimeout(0)
            try:
                await self._loop.connect_accepted_socket(self._connect, accepted)
            except OSError:
                accepted.close()

    async def close_overdue(self) -> None:
        """Close connections that are overdue, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_EVERY)
            self._connections.close_overdue()
            if self._failed_at is not None and self._loop.time() - self._failed_at > RESOLVED_AFTER:
                self._failed_at = None
                log.info("resolved: accepting connections again")

    async def _readable(self, listener: socket.socket) -> None:
        readable = asyncio.Event()
        self._loop.add_reader(listener, readable.set)
        try:
            await readable.wait()
        finally:
            self._loop.remove_reader(listener)

    def _failed(self, error: OSError) -> None:
        if self._failed_at is None:
            message = f"cannot accept connections: {error.strerror}"
            if error.errno in (errno.EMFILE, errno.ENFILE):
                message += "; raise the limit of open files (ulimit -n, LimitNOFILE)"
            log.warning(message, connections=len(self._connections))
        self._failed_at = self._loop.time()
