"""One deadline for a whole exchange.

The timeouts of `requests` apply to each read and each address, so a peer that sends one byte now and then could block
a thread for ever. So each wait of a socket here gets only the seconds that are left of the exchange: for connecting,
the proxy, the TLS handshake, sending, and reading the whole answer.
"""

import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, Self

_thread = threading.local()


class Deadline:
    """The deadline of the exchange that a thread runs in this context.

    Attributes:
        at: When the time is up (monotonic seconds).
    """

    def __init__(self, seconds: float) -> None:
        self.at = time.monotonic() + seconds

    def __enter__(self) -> Self:
        _thread.at = self.at
        return self

    def __exit__(self, *_: object) -> None:
        del _thread.at

    @property
    def expired(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self.at


def seconds_left() -> float:
    """The seconds left of this thread's exchange, more than 0. Raises TimeoutError if the time is up."""
    left: float = _thread.at - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _timed(method: Callable[..., Any]) -> Any:
    """A method of a socket that waits no longer than until the deadline. It raises TimeoutError."""

    def within_deadline(sock: socket.socket, *args: Any) -> Any:
        sock.settimeout(seconds_left())
        return method(sock, *args)

    return within_deadline


class TimedSocket(socket.socket):
    """A connection whose waits end at the deadline of the exchange that uses it."""

    __slots__ = ()
    recv = _timed(socket.socket.recv)
    recv_into = _timed(socket.socket.recv_into)
    sendall = _timed(socket.socket.sendall)


class TimedTlsSocket(ssl.SSLSocket):
    """The same with TLS."""

    recv = _timed(ssl.SSLSocket.recv)
    recv_into = _timed(ssl.SSLSocket.recv_into)
    sendall = _timed(ssl.SSLSocket.sendall)
