"""The real programs, as tests start them. Each is a context manager that ends its process on exit."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import requests
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

MERCHANT = "broadcaster"

# Maximum seconds that a test waits for something that happens on any machine.
PATIENCE = 180.0


def wait_until(fact: str, holds: Callable[[], bool]) -> None:
    """Wait until `holds` returns true; `fact` describes it in the error message."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"never came true: {fact}"
        time.sleep(0.2)


class Program:
    """A process and its standard output and standard error.

    Attributes:
        lines: The output so far, as lines.
        pid: Its process id.
    """

    def __init__(self, command: Sequence[str | Path], folder: Path, environ: Mapping[str, str] | None = None) -> None:
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                self.lines.append(line.rstrip("\n"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    @property
    def events(self) -> list[str]:
        """The lines without those that report the steps of a start."""
        return [line for line in self.lines if " component=start " not in line]

    @property
    def output(self) -> str:
        """All output so far."""
        return "\n".join(self.lines)

    @property
    def running(self) -> bool:
        """Whether the process is still running."""
        return self._process.poll() is None

    def line(self, pattern: str) -> re.Match[str]:
        """Wait for the first line that matches a pattern, while the process runs."""
        deadline = time.monotonic() + PATIENCE
        while True:
            running = self.running
            if not running:
                self._reader.join(PATIENCE)
            found = next(filter(None, (re.search(pattern, line) for line in list(self.lines))), None)
            if found is not None:
                return found
            assert running, f"ended without {pattern!r}:\n{self.output}"
            assert time.monotonic() < deadline, f"never wrote {pattern!r}:\n{self.output}"
            time.sleep(0.05)

    def send(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def ended(self) -> int:
        """Wait for the process to end; return the exit code."""
        code = self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def kill(self) -> None:
        """Kill the process, as a power cut would end it."""
        self._process.kill()
        self.ended()


class Daemon(Program):
    """The exporter with its own configuration, and its state file in the same folder."""

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        *flags: str,
        listen: str = "127.0.0.1:0",
        under: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Start it, as an argument of the command `under` if given."""
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(dict(config)))
        files = (f"--config.file={path}", f"--storage.path={folder / 'state.db'}")
        command = [*under, *python("-m", "exporter"), *files, f"--web.listen-address={listen}", *flags]
        super().__init__(command, folder, environ)

    def get(self, path: str) -> requests.Response:
        """Get one of its pages."""
        return get(self.line(r"\bmsg=started\b.* open=(\S+?)/( |$)")[1] + path)

    def families(self) -> list[Metric]:
        """The metric families on /metrics."""
        return list(text_string_to_metric_families(self.get("/metrics").text))

    def values(self, name: str) -> dict[tuple[str, ...], float]:
        """The samples of a name on /metrics: the values of their labels, by the labels' order -> value."""
        return {
            tuple(sample.labels[label] for label in sorted(sample.labels)): sample.value
            for family in self.families()
            for sample in family.samples
            if sample.name == name
        }

    def wait_ready(self) -> None:
        """Wait until each merchant has had a response or a failure."""
        wait_until("the exporter is ready", lambda: self.get("/-/ready").status_code == 200)


class Prometheus(Program):
    """Prometheus with its own configuration, and its data in the same folder.

    Attributes:
        url: The address on which it listens.
    """

    def __init__(self, program: Path, folder: Path, port: int, config: Mapping[str, Any], *flags: str) -> None:
        (folder / "prometheus.yml").write_text(yaml.safe_dump(dict(config)))
        self.url = f"http://127.0.0.1:{port}"
        files = ("--config.file=prometheus.yml", "--storage.tsdb.path=tsdb")
        super().__init__([program, *files, f"--web.listen-address=127.0.0.1:{port}", *flags], folder)
        self.line("Server is ready to receive web requests")

    def api(self, path: str, **parameters: object) -> Any:
        """The answer of its HTTP API."""
        answer = get(f"{self.url}/api/v1/{path}?{urlencode(parameters)}").json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def health(self) -> list[str]:
        """The health of its targets."""
        return [target["health"] for target in self.api("targets")["activeTargets"]]

    def query(self, expression: str, at: float | None = None) -> list[Any]:
        """The result of an expression at an instant, or now."""
        when = {} if at is None else {"time": f"{at:.3f}"}
        result: list[Any] = self.api("query", query=expression, **when)["result"]
        return result


class Alertmanager(Program):
    """Alertmanager with its own configuration, without a cluster.

    Attributes:
        url: The address on which it listens.
    """

    def __init__(self, program: Path, folder: Path, port: int, config: Mapping[str, Any]) -> None:
        (folder / "alertmanager.yml").write_text(yaml.safe_dump(dict(config)))
        self.url = f"http://127.0.0.1:{port}"
        files = ("--config.file=alertmanager.yml", "--storage.path=alerts", "--cluster.listen-address=")
        super().__init__([program, *files, f"--web.listen-address=127.0.0.1:{port}"], folder)
        self.line("Listening on|Completed loading of configuration file")
        wait_until("Alertmanager is ready", self._ready)

    def _ready(self) -> bool:
        try:
            return get(f"{self.url}/-/ready").ok
        except requests.ConnectionError:
            return False

    def post(self, alerts: Sequence[Mapping[str, Any]]) -> None:
        """Post alerts, as Prometheus does."""
        with requests.Session() as session:
            session.trust_env = False
            session.post(f"{self.url}/api/v2/alerts", json=list(alerts), timeout=PATIENCE).raise_for_status()

    def alerts(self) -> list[Any]:
        """Its current alerts."""
        found: list[Any] = get(f"{self.url}/api/v2/alerts").json()
        return found


class Webhook:
    """A receiver of notifications, as a context manager.

    Attributes:
        url: The address on which it listens.
        received: The path and the body of each notification, in the order of arrival.
    """

    def __init__(self) -> None:
        self.received: list[tuple[str, Any]] = []
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def python(*arguments: str) -> list[str]:
    """A command of the Python that runs the tests."""
    return [sys.executable, *arguments]


def get(url: str) -> requests.Response:
    """Get a page of a server on this machine, without the proxies of the environment."""
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, timeout=PATIENCE)


def configuration(url: str, *merchants: Mapping[str, Any], **sections: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration for an API: the given merchants or a default one, and the given sections."""
    return {
        **sections,
        "api": {"url": url, **sections.get("api", {})},
        "merchants": [merchant(**given) for given in merchants or [{}]],
    }


def merchant(**given: Any) -> dict[str, Any]:
    """The configuration of one merchant."""
    account = {"api_key": "k3y-for-tests", "mail_address": "ops@example.com", "password": "pa55-for-tests"}
    return {"id": MERCHANT, **account, "collect": [{"target": "play_count"}], **given}


def settle_in(seconds: float) -> str:
    """A `settle` with which a round begins in this number of seconds, and again each minute."""
    return f"{int(time.time() + seconds) % 60}s"


def closed_by_server(peer: socket.socket) -> bool:
    """Whether the server has closed a connection without sending anything else."""
    try:
        return peer.recv(1) == b""
    except ConnectionError:
        return True


def silent_peer() -> socket.socket:
    """A server that accepts connections and sends nothing; its address is `http://127.0.0.1:<port>`."""
    return socket.create_server(("127.0.0.1", 0))


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A port of 127.0.0.1 that the system gives to no other program, and on which a server can listen."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        yield port
