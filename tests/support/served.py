"""A server in this process, with all its connections in view."""

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import requests

from exporter.httpd import server as http_server
from exporter.httpd.address import Address, listen
from exporter.httpd.connections import Connections, Limits
from exporter.httpd.messages import Request, Response
from exporter.httpd.server import Server
from exporter.httpd.web_config import WebConfig
from exporter.httpd.workers import CoalesceKey
from tests.support.processes import PATIENCE, get

MEGABYTE = 1024 * 1024

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Served:
    """A server and its connections.

    Attributes:
        server: The server.
        calls: The paths of the handler's calls, in order.
        requests: The requests of the handler's calls, in order.
        connections: Its connections.
    """

    server: Server
    connections: Connections

    def __init__(self, answer: Callable[[Request], bytes]) -> None:
        self.calls: list[str] = []
        self.requests: list[Request] = []
        self._answer = answer

    def handle(self, request: Request) -> Response:
        """Respond to a request."""
        self.calls.append(request.path)
        self.requests.append(request)
        return Response(200, (), self._answer(request))

    @property
    def connected(self) -> int:
        """The number of connections."""
        return len(self.connections)

    def get(self, path: str = "/") -> requests.Response:
        """The response to a GET."""
        return get(f"http://{self.server.address}{path}")

    def connect(self, sent: bytes = b"", tls: ssl.SSLContext | None = None) -> socket.socket:
        """A client that has sent something, with receive buffers as small as possible."""
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.settimeout(PATIENCE)
        peer.connect((self.server.address.host, self.server.address.port))
        if tls is not None:
            peer = tls.wrap_socket(peer, server_hostname="127.0.0.1")
        peer.sendall(sent)
        return peer

    def talk(self, sent: bytes, tls: ssl.SSLContext | None = None) -> bytes:
        """Everything that the server sends to a client until it closes the connection."""
        with self.connect(sent, tls) as peer, peer.makefile("rb") as stream:
            return stream.read()


@contextlib.contextmanager
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Served]]:
    """Starts servers, and stops them at the end."""
    with contextlib.ExitStack() as stack:

        def start(
            answer: Callable[[Request], bytes] = lambda _: b"fine\n",
            pools: Mapping[str, str] | None = None,
            coalesce_key: CoalesceKey = lambda _: None,
            web: WebConfig | None = None,
            **limits: Any,
        ) -> Served:
            served = Served(answer)

            class Watched(Connections):
                def __init__(self, *args: Any) -> None:
                    super().__init__(*args)
                    served.connections = self

            monkeypatch.setattr(http_server, "Connections", Watched)
            listener = listen(Address("127.0.0.1", 0), "--flag")
            served.server = Server(
                served.handle, [listener], limits=Limits(**limits), pools=pools, coalesce_key=coalesce_key
            )
            served.server.start()
            stack.callback(served.server.stop)
            assert served.get("/first").ok
            if web is not None:
                served.server.configure(web)
            served.calls.clear()
            served.requests.clear()
            return served

        yield start
