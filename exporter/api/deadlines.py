"""One deadline for a whole exchange.

The timeouts of `requests` apply to each read and each address, so a peer that sends one byte now and then could block
a thread for ever. A deadline covers everything: resolving the name, connecting, the proxy, the TLS handshake, sending,
and reading the whole answer. When it expires, the connection is closed under the thread that waits.
"""

import contextlib
import heapq
import itertools
import socket
import threading
import time
from typing import Any, Self

_current = threading.local()


class Deadline:
    """Closes the connection of an exchange that is not complete in time.

    Attributes:
        expired: Whether the time is up and the connection was closed.
        at: When the time is up (monotonic seconds); set when the block begins.
    """

    def __init__(self, seconds: float) -> None:
        self.expired = False
        self.at = time.monotonic() + seconds
        self._seconds = seconds
        self._lock = threading.Lock()
        self._ended = False
        self._sock: Any = None
        # While connecting: TLS takes over the socket before its handshake.
        self._handle: socket.socket | None = None

    def __enter__(self) -> Self:
        self.at = time.monotonic() + self._seconds
        _scheduler.add(self)
        _current.deadline = self
        return self

    def __exit__(self, *_: object) -> None:
        _current.deadline = None
        with self._lock:
            # From here on the connection may belong to another exchange.
            self._ended = True
            self._sock = None
            self._drop_handle()

    @property
    def left(self) -> float:
        """The seconds left, more than 0. Raises TimeoutError if the time is up."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def guard_new(self, sock: socket.socket) -> None:
        """Guard a new connection, until `guard` is called for it."""
        with self._lock:
            self._sock = None
            self._drop_handle()
            if self.expired:
                raise TimeoutError
            self._handle = sock.dup()

    def guard(self, sock: Any) -> None:
        """Guard a connection: close it when the time is up."""
        with self._lock:
            self._sock = sock
            self._drop_handle()
            if self.expired:
                raise TimeoutError

    def expire(self) -> None:
        """Close the connection, unless the exchange has ended."""
        with self._lock:
            if not self._ended:
                self.expired = True
                for sock in (self._sock, self._handle):
                    if sock is not None:
                        _hang_up(sock)

    def _drop_handle(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None


def _hang_up(sock: Any) -> None:
    # Not `SSLSocket.shutdown`, which drops the TLS state while another thread reads. With TLS in TLS the socket is
    # inside.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(getattr(sock, "socket", sock), socket.SHUT_RDWR)


class _Scheduler:
    """One thread for all deadlines."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._waiting: list[tuple[float, int, Deadline]] = []
        self._running = False

    def add(self, deadline: Deadline) -> None:
        """Expire it when its time is up."""
        with self._changed:
            if not self._running:
                threading.Thread(target=self._run, name="deadlines", daemon=True).start()
                self._running = True
            heapq.heappush(self._waiting, (deadline.at, next(self._numbers), deadline))
            if self._waiting[0][2] is deadline:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            # A defect in one must not keep the others from expiring.
            with contextlib.suppress(Exception):
                self._next().expire()

    def _next(self) -> Deadline:
        """Wait for the next deadline whose time is up."""
        with self._changed:
            while not self._waiting or self._waiting[0][0] > time.monotonic():
                self._changed.wait(self._waiting[0][0] - time.monotonic() if self._waiting else None)
            return heapq.heappop(self._waiting)[2]


_scheduler = _Scheduler()


def current() -> Deadline | None:
    """The deadline of the exchange that this thread runs, None outside of one."""
    return getattr(_current, "deadline", None)


def guard(sock: Any) -> None:
    """Guard a connection by the deadline of this thread's exchange."""
    deadline = current()
    if deadline is not None:
        deadline.guard(sock)
