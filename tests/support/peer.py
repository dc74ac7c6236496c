"""An HTTP server on loopback that responds as a test defines, byte by byte if needed."""

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.support.processes import PATIENCE

# A key and a certificate for 127.0.0.1, which a client must trust explicitly.
CERTIFICATE = Path(__file__).with_name("loopback.pem")

Script = Callable[[socket.socket], None]


@dataclass(frozen=True, slots=True)
class Request:
    """A received request.

    Attributes:
        connection: The number of the connection.
        method: The HTTP method.
        target: The path and the query as received.
        headers: The headers by lower-case name.
        body: The body.
    """

    connection: int
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))


def reply(status: int = 200, answer: object = None, **headers: str) -> bytes:
    """A whole response; `_` in a header's name stands for `-`."""
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def drip(start: bytes, again: bytes = b"x") -> Script:
    """Send a start, and then a little at intervals, until the other side closes the connection."""

    def send(connection: socket.socket) -> None:
        connection.sendall(start)
        connection.settimeout(0.02)
        while True:
            try:
                if not connection.recv(1):
                    return
            except TimeoutError:
                connection.sendall(again)

    return send


class Peer:
    """Listens on loopback and gives each request to `answer`, which returns bytes, or a script that writes them.

    After a script, or a response with `Connection: close`, the connection ends.

    Attributes:
        requests: The requests received so far.
        connections: The number of connections so far.
        url: The address on which it listens.
    """

    def __init__(self, answer: Callable[[Request], bytes | Script], *, tls: bool = False) -> None:
        self.answer = answer
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if tls else None
        if self._context:
            self._context.load_cert_chain(CERTIFICATE)
        self.requests: list[Request] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http{'s' * tls}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._talks: list[tuple[socket.socket, threading.Thread]] = []
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closing alone does not wake a thread that waits for a connection.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listening.join(PATIENCE)
        self._listener.close()
        for handle, thread in self._talks:
            with contextlib.suppress(OSError):
                handle.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a connection goes on after it was hung up"

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                # A second handle for closing, as TLS takes over the first.
                handle = connection.dup()
                thread = threading.Thread(target=self._talk, args=(connection, handle, self.connections), daemon=True)
                self._talks.append((handle, thread))
                thread.start()

    def _talk(self, connection: socket.socket, handle: socket.socket, number: int) -> None:
        with handle, contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            if self._context:
                connection = self._context.wrap_socket(connection, server_side=True)
            stack.enter_context(connection)
            stream = stack.enter_context(connection.makefile("rb"))
            while request := _read(stream.readline, stream.read, number):
                self.requests.append(request)
                answer = self.answer(request)
                if callable(answer):
                    answer(connection)
                    break
                connection.sendall(answer)
                if b"Connection: close" in answer:
                    break


def _read(readline: Callable[[], bytes], read: Callable[[int], bytes], number: int) -> Request | None:
    first = readline().decode("latin-1").split()
    if len(first) != 3:
        return None
    headers: dict[str, str] = {}
    while line := readline().decode("latin-1").strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return Request(number, first[0], first[1], headers, read(int(headers.get("content-length", "0"))))
