"""Real TLS on loopback: a private CA, a server in front of another, and a proxy that opens tunnels."""

import base64
import contextlib
import datetime as dt
import select
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import trustme

from tests.support.processes import PATIENCE


def _yesterday() -> dt.datetime:
    return dt.datetime.now(dt.UTC) - dt.timedelta(days=1)


class Authority:
    """A private CA whose certificates are written to files.

    Attributes:
        ca: The CA.
        ca_file: Its certificate.
    """

    def __init__(self, folder: Path, name: str = "private") -> None:
        self.ca = trustme.CA(organization_name=f"The {name} CA")
        self._folder = folder
        self._name = name
        self.ca_file = folder / f"{name}-ca.pem"
        self.ca.cert_pem.write_to_path(self.ca_file)

    def client(self, name: str = "client", *, expired: bool = False) -> tuple[Path, Path]:
        """The files of a new client certificate and its key."""
        made = self.ca.issue_cert(f"{name}@example.com", not_after=_yesterday() if expired else None)
        certificate, key = (self._folder / f"{self._name}-{name}.{kind}" for kind in ("pem", "key"))
        made.cert_chain_pems[0].write_to_path(certificate)
        made.private_key_pem.write_to_path(key)
        return certificate, key

    def server(self, *names: str, clients: "Authority | None" = None, expired: bool = False) -> ssl.SSLContext:
        """TLS of a server with these names, which requires a client certificate of a CA if given."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(*names, not_after=_yesterday() if expired else None).configure_cert(context)
        if clients:
            clients.ca.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class _Listener:
    """Accepts connections on loopback, each in a thread of its own, as a context manager."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._listen, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closing alone does not wake a thread that waits for a connection.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(PATIENCE)
        self._listener.close()
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a connection goes on after it was hung up"
        for each in self._open:
            each.close()

    def serve(self, connection: socket.socket) -> None:
        """Serve one connection until it ends."""
        raise NotImplementedError

    def reach(self, host: str, port: int) -> socket.socket:
        """A connection to another server, which ends with this one at the latest."""
        found = socket.create_connection((host, port), PATIENCE)
        found.settimeout(None)
        self._open.append(found.dup())
        return found

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                # A second handle for closing, as TLS takes over the first.
                self._open.append(connection.dup())
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            self.serve(connection)


def _join(one: socket.socket, other: socket.socket) -> None:
    """Pass bytes on in both directions until one side ends. In one thread, as TLS is not for two at a time."""
    while True:
        decrypted = [each for each in (one, other) if isinstance(each, ssl.SSLSocket) and each.pending()]
        for source in decrypted or select.select([one, other], [], [])[0]:
            data = source.recv(65536)
            if not data:
                return
            (other if source is one else one).sendall(data)


class TlsFront(_Listener):
    """Terminates TLS in front of a server without it.

    Attributes:
        context: TLS of new connections; can be replaced.
        peers: The client certificate of each connection, as its subject's mail addresses; empty without one.
    """

    def __init__(self, context: ssl.SSLContext, port: int) -> None:
        self.context = context
        self.peers: list[list[str]] = []
        self._behind = port
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        """Pass the connection on to the server."""
        try:
            tls = self.context.wrap_socket(connection, server_side=True)
        except ssl.SSLError:
            return
        with tls, self.reach("127.0.0.1", self._behind) as behind:
            certificate = tls.getpeercert() or {}
            self.peers.append([str(name[1]) for name in certificate.get("subjectAltName", ())])
            _join(tls, behind)


class ConnectProxy(_Listener):
    """A proxy that opens tunnels to loopback for whoever knows its account.

    Attributes:
        tunnels: The targets of the CONNECT requests with the right account, as host:port.
        refused: Number of requests without it.
    """

    def __init__(
        self, account: str = "", *, context: ssl.SSLContext | None = None, where: Callable[[str], int] | None = None
    ) -> None:
        """Listen.

        Args:
            account: `user:password`, or "" for everybody.
            context: TLS between client and proxy.
            where: The port of 127.0.0.1 for a target; the port that the target has without it.
        """
        self._credentials = f"Basic {base64.b64encode(account.encode()).decode()}" if account else ""
        self._context = context
        self._where = where or (lambda target: int(target.rpartition(":")[2]))
        self.tunnels: list[str] = []
        self.refused = 0
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        """Open a tunnel."""
        if self._context:
            try:
                connection = self._context.wrap_socket(connection, server_side=True)
            except ssl.SSLError:
                return
        with connection:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                byte = connection.recv(1)
                if not byte:
                    return
                head += byte
            method, target, *_ = head.decode("latin-1").split()
            assert method == "CONNECT"
            if (
                self._credentials
                and f"proxy-authorization: {self._credentials}\r\n".lower().encode() not in head.lower()
            ):
                self.refused += 1
                connection.sendall(b"HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n")
                return
            self.tunnels.append(target)
            with self.reach("127.0.0.1", self._where(target)) as behind:
                connection.sendall(b"HTTP/1.1 200 Open\r\n\r\n")
                _join(connection, behind)
