"""The real programs, as tests start them. Each is a context manager: what was started is gone at its end."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import requests
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

MERCHANT = "broadcaster"

# How long a test waits for what is going to happen on any machine. Nothing takes as long.
PATIENCE = 180.0


def wait_until(fact: str, holds: Callable[[], bool]) -> None:
    """Wait until something holds; `fact` says what, where it never does."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"never came true: {fact}"
        time.sleep(0.1)


class Program:
    """A process, and what it writes to standard output and standard error.

    Attributes:
        lines: The lines so far.
        pid: Its number.
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
    def output(self) -> str:
        """All that it has written."""
        return "\n".join(self.lines)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def line(self, pattern: str) -> re.Match[str]:
        """The first line in which a pattern is found; waits for it while the process runs."""
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
        """Wait for its end; the exit code."""
        code = self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def kill(self) -> None:
        """End it as a power cut would."""
        self._process.kill()
        self.ended()


class Daemon(Program):
    """The exporter with a configuration of its own, and its state beside it in the folder."""

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        *flags: str,
        listen: str = "127.0.0.1:0",
        under: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Start it, `under` another program where one is given."""
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(dict(config)))
        files = (f"--config.file={path}", f"--storage.path={folder / 'state.db'}")
        command = [*under, *python("-m", "exporter"), *files, f"--web.listen-address={listen}", *flags]
        super().__init__(command, folder, environ)

    def get(self, path: str) -> requests.Response:
        """What it answers."""
        return get(self.line(r"\bmsg=started\b.* open=(\S+?)/( |$)")[1] + path)

    def families(self) -> list[Metric]:
        """What /metrics shows."""
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
        """Wait until each merchant has answered or failed once."""
        wait_until("the exporter is ready", lambda: self.get("/-/ready").status_code == 200)


def python(*arguments: str) -> list[str]:
    """A command of the Python that runs the tests."""
    return [sys.executable, *arguments]


def get(url: str) -> requests.Response:
    """What a server on this machine answers, whatever proxy the environment names."""
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, timeout=PATIENCE)


def configuration(url: str, *merchants: Mapping[str, Any], **sections: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration for an API: one merchant unless some are given, other sections as given."""
    return {
        **sections,
        "api": {"url": url, **sections.get("api", {})},
        "merchants": [merchant(**given) for given in merchants or [{}]],
    }


def merchant(**given: Any) -> dict[str, Any]:
    """The configuration of one merchant."""
    account = {"api_key": "k3y-for-tests", "mail_address": "ops@example.com", "password": "pa55-for-tests"}
    return {"id": MERCHANT, **account, "collect": [{"target": "play_count"}], **given}


def soon(seconds: float) -> str:
    """A `settle` with which a round begins in so many seconds from now, and again each minute."""
    return f"{int(time.time() + seconds) % 60}s"


def silent_peer() -> socket.socket:
    """A server that takes connections and never says a word; its name is `http://127.0.0.1:<port>`."""
    return socket.create_server(("127.0.0.1", 0))


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A port of 127.0.0.1 that nobody is given meanwhile, and on which a server that names it can listen."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        yield port
