"""Accepts connections, opens them, and closes those that are overdue."""

import asyncio
import errno
import socket
from collections.abc import Callable

import structlog

from exporter.httpd.connections import Connection, Connections, Phase
from exporter.httpd.tls import HANDSHAKE
from exporter.httpd.web_config import WebConfig

log = structlog.get_logger("server")

# Seconds between checks for connections that are overdue.
CHECK_EVERY = 1.0

# Seconds without accepting after that failed.
BACKOFF = 0.2

# Accepting has to work for so many seconds before a problem with it counts as resolved.
RESOLVED_AFTER = 60.0


class Acceptor:
    """Accepts connections, opens them, and closes those that are overdue. For the loop's thread only."""

    def __init__(
        self,
        connections: Connections,
        connect: Callable[[WebConfig], Connection],
        web: Callable[[], WebConfig],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Make one.

        Args:
            connections: All of them.
            connect: Makes the protocol of a new one.
            web: The web configuration in force.
            loop: Serves them.
        """
        self._connections = connections
        self._connect = connect
        self._web = web
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
            web = self._web()
            connection = self._connect(web)
            # From here on it is bound like any other, however long its client takes for the handshake.
            self._connections.add(connection)
            connection.opening = self._loop.create_task(self._open(connection, accepted, web))

    async def close_overdue(self) -> None:
        """Close connections that are overdue, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_EVERY)
            self._connections.close_overdue()
            if self._failed_at is not None and self._loop.time() - self._failed_at > RESOLVED_AFTER:
                self._failed_at = None
                log.info("resolved: accepting connections again")

    async def _open(self, connection: Connection, accepted: socket.socket, web: WebConfig) -> None:
        """Open a connection: with TLS where that is configured and the client begins with it."""
        tls = web.tls
        try:
            if tls is not None:
                connection.enter(Phase.RECEIVING)
                await self._readable(accepted)
                if accepted.recv(1, socket.MSG_PEEK) != HANDSHAKE:
                    connection.needs_tls, tls = True, None
            await self._loop.connect_accepted_socket(lambda: connection, accepted, ssl=tls)
        except OSError as error:
            log.debug("TLS handshake failed", reason=getattr(error, "reason", None) or error.strerror)
            self._discard(connection, accepted)
        except asyncio.CancelledError:
            self._discard(connection, accepted)
            raise

    def _discard(self, connection: Connection, accepted: socket.socket) -> None:
        self._connections.remove(connection)
        accepted.close()

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
