"""The daemon as a separate process, and its use of resources."""

import contextlib
import gzip
import http.client
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.prepared import Prepared

STOP_SECONDS = 60.0

# What Prometheus 2 and 3 send as their Accept header, but for the names that are not ASCII.
PROMETHEUS_ACCEPTS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


@dataclass(frozen=True, slots=True)
class Running:
    """A running daemon.

    Attributes:
        port: The port on which it listens.
        pid: Its process id.
        listens_after: Seconds from its start until it listened.
    """

    port: int
    pid: int
    listens_after: float

    def scrape(self) -> bytes:
        """The page `/metrics`, requested with the headers of Prometheus."""
        return gzip.decompress(self.get())

    def get(self, accept: str = PROMETHEUS_ACCEPTS, encoding: str = "gzip") -> bytes:
        """The page `/metrics` as it is sent in this format and encoding."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics", headers={"Accept": accept, "Accept-Encoding": encoding})
            return connection.getresponse().read()

    def memory(self, field: str) -> float:
        """`VmRSS`, the resident memory, or `VmHWM`, its maximum so far, in MiB."""
        # Not getrusage: there, a child begins with its parent's maximum.
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith(f"{field}:"))
        return int(line.split()[1]) / 1024


@contextlib.contextmanager
def running(prepared: Prepared) -> Iterator[Running]:
    """A daemon with this configuration and state, from its start until the block ends."""
    port = _free_port()
    began = time.perf_counter()
    command = [
        *(sys.executable, "-m", "exporter", "--log.level=error"),
        *(f"--config.file={prepared.config}", f"--web.listen-address=127.0.0.1:{port}"),
    ]
    with subprocess.Popen(command) as process:
        try:
            while not _listens(port):
                if process.poll() is not None:
                    raise RuntimeError(f"the daemon ended with {process.returncode}")
                time.sleep(0.005)
            yield Running(port, process.pid, time.perf_counter() - began)
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_SECONDS)
        finally:
            process.kill()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
