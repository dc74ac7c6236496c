"""What a scrape takes while other clients misbehave, without TLS and with it."""

import contextlib
import http.client
import select
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import trustme

from benchmarks.report import Cell, Table, figures

# Serves a page as large as that of some hundred media, and one like that of thousands of media at /large.
_SERVER = """
import sys, time
from pathlib import Path
from exporter import logs
from exporter.config.web_file import load_web_config
from exporter.httpd.address import Address, listen
from exporter.httpd.messages import Response
from exporter.httpd.server import Server
from exporter.httpd.web_config import WebConfig
logs.setup("error")
web = load_web_config(Path(sys.argv[1])) if sys.argv[1:] else WebConfig()
pages = {"/": b"x" * 60_000, "/large": b"x" * 11_000_000}
server = Server(lambda request: Response(200, (), pages[request.path]), [listen(Address("127.0.0.1", 0), "")], web=web)
server.start()
print(server.address.port, flush=True)
time.sleep(10_000)
"""

_UNFINISHED = b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "
_LARGE = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Peers:
    """Clients that misbehave.

    Attributes:
        name: What they do.
        count: How many.
        sent: What each sends once it is connected.
        shakes: Whether they finish the handshake of TLS.
    """

    name: str
    count: int
    sent: bytes = b""
    shakes: bool = True


def situations(size: float = 1.0) -> tuple[Peers, ...]:
    """The situations that are measured; `size` scales the numbers of clients."""
    return (
        Peers("no other clients", 0),
        Peers("idle", round(500 * size)),
        Peers("slow headers", round(500 * size), _UNFINISHED),
        Peers("stalled handshakes", round(500 * size), b"\x16\x03\x01", shakes=False),
        Peers("slow readers", round(50 * size), _LARGE),
    )


def run(folder: Path, *, size: float = 1.0, scrapes: int = 20) -> Table:
    """Measure this number of scrapes in each situation, without TLS and with it."""
    authority = trustme.CA()
    rows: list[tuple[Cell, ...]] = []
    for tls in (False, True):
        web = _write(folder, authority) if tls else None
        with server([sys.executable, "-c", _SERVER, *([web] if web else [])]) as (port, pid):
            rows += measure(port, pid, authority if tls else None, situations(size), scrapes)
    return Table(
        "connections",
        "milliseconds of a scrape of 60 kB on a new connection while other clients misbehave, MiB that they take, "
        "and the server's threads",
        ("other clients", "number", "TLS", "milliseconds", "MiB", "threads"),
        tuple(rows),
    )


def measure(
    port: int, pid: int, authority: trustme.CA | None, cases: tuple[Peers, ...], scrapes: int
) -> Iterator[tuple[Cell, ...]]:
    """Measure one server in each situation; with TLS if there is a CA."""
    context = _client(authority)
    # Threads and buffers that are there from the first requests on.
    for _ in range(5):
        _scrape(port, context)
    for peers in cases:
        if context is None and not peers.shakes:
            continue
        before = _status(pid, "VmRSS") / 1024
        with contextlib.ExitStack() as stack:
            for _ in range(peers.count):
                stack.enter_context(_connect(port, peers, context))
            time.sleep(1.0 if peers.count else 0.0)
            taken = figures(_timed(lambda: _scrape(port, context)) for _ in range(scrapes))
            memory, threads = _status(pid, "VmRSS") / 1024 - before, _status(pid, "Threads")
        yield peers.name, peers.count, "yes" if context else "no", taken, memory, threads
        # Their ends are noticed.
        time.sleep(0.5)


@contextlib.contextmanager
def server(command: list[str | Path]) -> Iterator[tuple[int, int]]:
    """The port and the process id of a server that writes its port first."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield int(process.stdout.readline() if process.stdout else ""), process.pid
        finally:
            process.kill()


def _write(folder: Path, authority: trustme.CA) -> Path:
    """A web configuration with a certificate."""
    made = authority.issue_cert("127.0.0.1")
    made.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    made.private_key_pem.write_to_path(folder / "key.pem")
    path = folder / "web.yml"
    path.write_text("tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n", encoding="utf-8")
    return path


def _client(authority: trustme.CA | None) -> ssl.SSLContext | None:
    if authority is None:
        return None
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def _connect(port: int, peers: Peers, context: ssl.SSLContext | None) -> socket.socket:
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.settimeout(30)
    peer.connect(("127.0.0.1", port))
    if context is not None and peers.shakes:
        peer = context.wrap_socket(peer, server_hostname="127.0.0.1")
    peer.sendall(peers.sent)
    if peers.sent == _LARGE:
        # Only the start of the response.
        select.select([peer], [], [], 30)
    return peer


def _scrape(port: int, context: ssl.SSLContext | None) -> None:
    connection = (
        http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        if context is None
        else http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=context)
    )
    with contextlib.closing(connection):
        connection.request("GET", "/")
        if len(connection.getresponse().read()) != 60_000:
            raise RuntimeError("the response is not complete")


def _timed(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def _status(pid: int, field: str) -> int:
    """A number in the status of a process: kB of memory, or threads."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{field}:"))
