"""An API that echoes everything it receives puts no secret into a log, a page or an error."""

import html
import itertools
import json
import re
import sqlite3
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from exporter.api.client import Client
from exporter.clock import SystemClock
from exporter.config.settings import Settings
from exporter.errors import ApiError
from exporter.model import Group, MinuteRange, Stream, Target
from tests.support.peer import Peer, Request, reply
from tests.support.processes import Daemon, configuration, wait_until
from tests.support.spellings import SPELLINGS

# Characters that URLs, JSON and Python's repr escape; none of the values occurs by chance.
API_KEY = 'K9x/api+key="Zq7&1'
PASSWORD = "P4s\\wörd '\"%V<x3>& ß"
TOKEN = "t0KEN-7f/3+a==Qy8"

# Part of each secret that every encoding leaves unchanged.
CORES = ("K9x", "Zq7", "P4s", "Vx3", "t0KEN", "Qy8")

Echo = tuple[int, dict[str, str], bytes]


def _page(text: str) -> Echo:
    return 200, {"Content-Type": "text/html"}, f"<html><title>{text}</title>{text}</html>".encode()


# The ways in which the API echoes what it received: response formats, by merchant.
ECHOES: dict[str, Callable[[str], Echo]] = {
    "redirect-to-it": lambda text: (307, {"Location": f"http://{quote(text, safe='')}/"}, b""),
    "refusal": lambda text: (401, {}, json.dumps({"code": "UNAUTHORIZED", "message": text}).encode()),
    "forbidden": lambda text: (403, {}, text.encode()),
    "bad-request": lambda text: (400, {}, json.dumps({"errors": [{"code": text, "message": text}]}).encode()),
    "not-found": lambda text: (404, {}, json.dumps(text, ensure_ascii=False).encode()),
    "redirect": lambda text: (302, {"Location": f"http://{quote(text, safe='')}@other/{quote_plus(text)}"}, b""),
    "limit": lambda text: (429, {"Retry-After": quote(text)}, text.encode()),
    "server-error": lambda text: (500, {"X-Debug": quote(text)}, repr(text).encode()),
    "page": _page,
    "broken": lambda text: (200, {}, f"[{{{text}".encode()),
    "odd-date": lambda text: (200, {}, json.dumps([{"date": text, "value": 1}]).encode()),
    "odd-value": lambda text: (200, {}, json.dumps([{"date": "2026-11-23T21:00:00+09:00", "value": text}]).encode()),
    "odd-key": lambda text: (200, {}, json.dumps([{text: text}]).encode()),
    "not-utf-8": lambda text: (200, {}, text.encode("latin-1", "replace") + b"\xff\xfe"),
    "cut": lambda text: (200, {"Content-Length": "100000"}, text.encode()),
    "no-http": lambda text: (0, {}, text.encode()),
}


class EchoApi(BaseHTTPRequestHandler):
    """Responds with what it received: path, headers, body, password and token."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        merchant_id = self.path.split("/")[3]
        name, _, stage = merchant_id.rpartition("-at-")
        if "auth-token" in self.path and stage != "token":
            self._send(200, {}, json.dumps({"token": TOKEN, "expiration": "2099-01-01T00:00:00+09:00"}).encode())
            return
        token = "" if stage == "token" else TOKEN
        received = f"{PASSWORD} {API_KEY} {token} {' '.join(self.headers.values())} {self.path} {body.decode()}"
        self._send(*ECHOES[name](received))

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.close_connection = True
        if status:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def echo_api() -> Iterator[str]:
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), EchoApi)) as url:
        yield url


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def merchant(merchant_id: str) -> dict[str, Any]:
    return {"id": merchant_id, "api_key": API_KEY, "password": PASSWORD, "media": [{"id": "media"}]}


MERCHANTS = [f"{name}-at-{stage}" for name, stage in itertools.product(ECHOES, ("token", "answer"))]


def secrets_in(text: str) -> list[str]:
    """The parts of secrets in a text."""
    return [core for core in CORES if core in text]


def test_the_daemon_leaks_no_secret(echo_api: str, tmp_path: Path) -> None:
    """At debug level, with every kind of failure at every stage, neither the log nor a page contains a secret."""
    config = configuration(echo_api, *map(merchant, MERCHANTS))
    with Daemon(tmp_path, config, "--log.level=debug") as daemon:
        daemon.wait_ready()
        # An unusable value is no failure of its request.
        down = {(merchant_id,): 0.0 for merchant_id in MERCHANTS if merchant_id != "odd-value-at-answer"}
        wait_until("every request has failed", lambda: down.items() <= daemon.values("smartstream_up").items())
        # Failures are judged at the end of the round.
        wait_until("it is logged", lambda: all(f"merchant={each}" in daemon.output for each in MERCHANTS))
        pages = {
            path: daemon.get(path).text
            for path in (
                "/",
                "/api/v1/status",
                "/config",
                "/metrics",
                "/-/healthy",
                "/-/ready",
                f"/{quote(PASSWORD)}",
                "/?x=" + TOKEN,
            )
        }
        daemon.kill()
    assert "".join(pages.values()).count("<secret>") >= 2 * len(MERCHANTS)
    assert {path: secrets_in(text) for path, text in pages.items()} == {path: [] for path in pages}
    for merchant_id in MERCHANTS:
        assert re.search(f"level=warn .*merchant={merchant_id}", daemon.output), merchant_id
    assert [line for line in daemon.lines if secrets_in(line)] == []


class NoBudget:
    """A budget that lets every request pass."""

    def take(self) -> "NoBudget":
        return self

    def done(self) -> None:
        pass

    def refused(self, retry_after: float | None) -> None:
        pass


@pytest.mark.parametrize("merchant_id", MERCHANTS)
def test_an_error_leaks_no_secret(merchant_id: str, echo_api: str) -> None:
    """The errors of the client contain no secret, nor do their tracebacks with all causes.

    This test does not use the redaction of the log.
    """
    settings = Settings.model_validate(configuration(echo_api, merchant(merchant_id)))
    client = Client(settings.api, settings.merchants[0], NoBudget(), observe=lambda *_: None, clock=SystemClock())
    stream = Stream(merchant_id, "", Target.PLAY_COUNT, Group.ALL)
    requests: tuple[Callable[[], object], ...] = (
        lambda: client.aggregations(stream, MinuteRange(29_000_000, 29_000_009)),
        lambda: client.media("media"),
        lambda: client.live_event("event"),
    )
    failures = 0
    for request in requests:
        try:
            request()
        except ApiError as error:
            failures += 1
            texts = [str(error), repr(error), "".join(traceback.format_exception(error))]
            texts += [f"{link!r} {link} {vars(link)}" for link in _chain(error)]
            assert [text for text in texts if secrets_in(text)] == []
    client.close()
    assert failures > 0


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def test_the_settings_leak_no_secret() -> None:
    """Neither `str` nor `repr` of the settings, of their parts or of the client contains a secret."""
    settings = Settings.model_validate(configuration("http://127.0.0.1:9/v1", merchant("m")))
    client = Client(settings.api, settings.merchants[0], NoBudget(), observe=lambda *_: None, clock=SystemClock())
    for what in (
        settings,
        *settings.merchants,
        settings.merchants[0].password,
        client,
        vars(client),
        vars(client._sign_in),
    ):
        assert secrets_in(f"{what} {what!r}") == []
    client.close()


# All secrets that an API could receive, in all encodings.
SPELT = [spell(secret, 0) for secret in (API_KEY, PASSWORD, TOKEN) for spell in SPELLINGS.values()]


def leaking_api(request: Request) -> bytes:
    """A working API with secrets in its names, ids and label values."""
    if "auth-token" in request.path:
        return reply(200, {"token": TOKEN, "expiration": "2099-01-01T00:00:00+09:00"})
    if "medias" in request.path:
        spelt = SPELT[int(request.path.rpartition("-")[2])]
        return reply(
            200, {"name": f"News {spelt}", "ref_id": spelt, "live_event_id": None, "encode_type": f"({spelt})"}
        )
    first, last = (datetime.strptime(request.query[name] + "Z", "%Y%m%d%H%M%S%z") for name in ("from", "to"))
    labels = {"all": 10} if request.query["group"] == "all" else {"jp": 2} | {f"<{spelt}>": 3 for spelt in SPELT}
    minutes = range(int((last - first).total_seconds()) // 60 + 1)
    rows = [{"date": f"{first + timedelta(minutes=minute):%Y/%m/%d %H:%M}", **labels} for minute in minutes]
    return reply(200, rows)


def test_names_and_label_values_leak_no_secret(tmp_path: Path) -> None:
    """Whatever the encoding of a secret in a name, an id or a label value, no secret is shown, and no play is lost."""
    media = [{"id": f"media-{number}"} for number in range(len(SPELT))]
    settings = {"collect": [{"target": "play_count", "groups": ["all", "country"]}], "requests_per_minute": 200}
    account = {"api_key": API_KEY, "password": PASSWORD}
    with Peer(leaking_api) as api:
        config = configuration(f"{api.url}/v1", {"media": media, **account, **settings})
        with Daemon(tmp_path, config, "--log.level=debug") as daemon:
            daemon.wait_ready()
            wait_until("names are known", lambda: len(_names(daemon)) == len(media))
            plays = "smartstream_merchant_last_minute_plays_by_country"
            wait_until("label values are shown", lambda: bool(daemon.values(plays)))
            by_country = {labels[0]: value for labels, value in daemon.values(plays).items()}
            pages = {path: daemon.get(path).text for path in ("/", "/api/v1/status", "/config", "/metrics")}
            daemon.kill()
        names = _texts(tmp_path / "state.db")
    assert by_country["jp"] == 2
    assert sum(by_country.values()) == 2 + 3 * len(set(SPELT))
    assert "<<secret>>" in by_country
    for shown in (*pages.values(), daemon.output, *names):
        assert secrets_in(html.unescape(shown)) == []
        assert [spelt for spelt in SPELT if spelt in shown] == []


def _names(daemon: Daemon) -> set[str]:
    samples = [sample for family in daemon.families() for sample in family.samples]
    known = [sample.labels for sample in samples if sample.name == "smartstream_media_info"]
    return {labels["media_id"] for labels in known if "secret" in labels["name"]}


def _texts(state: Path) -> list[str]:
    """The names and label values in a state file."""
    with closing(sqlite3.connect(state)) as db:
        found = db.execute("SELECT name || ref_id || encode_type FROM media UNION SELECT label FROM series").fetchall()
    return [text for (text,) in found]
