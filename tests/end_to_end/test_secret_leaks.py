"""Secrets stay secret: an API that repeats everything it is told gets none of them into a log, a page or an error."""

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

# Letters that are written in another way in a URL, in JSON and by Python's repr; none of it occurs by chance.
API_KEY = 'K9x/api+key="Zq7&1'
PASSWORD = "P4s\\wörd '\"%V<x3>& ß"
TOKEN = "t0KEN-7f/3+a==Qy8"

# What is in each secret and survives every way of writing it.
CORES = ("K9x", "Zq7", "P4s", "Vx3", "t0KEN", "Qy8")

Echo = tuple[int, dict[str, str], bytes]


def _page(told: str) -> Echo:
    return 200, {"Content-Type": "text/html"}, f"<html><title>{told}</title>{told}</html>".encode()


# What the API does with all that it was told: its answers' forms, by merchant.
ECHOES: dict[str, Callable[[str], Echo]] = {
    "redirect-to-it": lambda told: (307, {"Location": f"http://{quote(told, safe='')}/"}, b""),
    "refusal": lambda told: (401, {}, json.dumps({"code": "UNAUTHORIZED", "message": told}).encode()),
    "forbidden": lambda told: (403, {}, told.encode()),
    "bad-request": lambda told: (400, {}, json.dumps({"errors": [{"code": told, "message": told}]}).encode()),
    "not-found": lambda told: (404, {}, json.dumps(told, ensure_ascii=False).encode()),
    "redirect": lambda told: (302, {"Location": f"http://{quote(told, safe='')}@other/{quote_plus(told)}"}, b""),
    "limit": lambda told: (429, {"Retry-After": quote(told)}, told.encode()),
    "fault": lambda told: (500, {"X-Debug": quote(told)}, repr(told).encode()),
    "page": _page,
    "broken": lambda told: (200, {}, f"[{{{told}".encode()),
    "odd-date": lambda told: (200, {}, json.dumps([{"date": told, "value": 1}]).encode()),
    "odd-value": lambda told: (200, {}, json.dumps([{"date": "2026-11-23T21:00:00+09:00", "value": told}]).encode()),
    "odd-key": lambda told: (200, {}, json.dumps([{told: told}]).encode()),
    "not-utf-8": lambda told: (200, {}, told.encode("latin-1", "replace") + b"\xff\xfe"),
    "cut": lambda told: (200, {"Content-Length": "100000"}, told.encode()),
    "no-http": lambda told: (0, {}, told.encode()),
}


class EchoApi(BaseHTTPRequestHandler):
    """Answers with what it was told: path, headers, body, password and token."""

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
        told = f"{PASSWORD} {API_KEY} {token} {' '.join(self.headers.values())} {self.path} {body.decode()}"
        self._send(*ECHOES[name](told))

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


def told_in(text: str) -> list[str]:
    """The parts of secrets that a text holds."""
    return [core for core in CORES if core in text]


def test_the_daemon_tells_no_secret(echo_api: str, tmp_path: Path) -> None:
    """At debug level, with every kind of failure at every stage, neither the log nor a page holds a secret."""
    config = configuration(echo_api, *map(merchant, MERCHANTS))
    with Daemon(tmp_path, config, "--log.level=debug") as daemon:
        daemon.wait_ready()
        # A value that cannot be used is no failure of its request.
        down = {(merchant_id,): 0.0 for merchant_id in MERCHANTS if merchant_id != "odd-value-at-answer"}
        wait_until("every request has failed", lambda: down.items() <= daemon.values("smartstream_up").items())
        # What failed is judged at the end of the round.
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
    assert {path: told_in(text) for path, text in pages.items()} == {path: [] for path in pages}
    for merchant_id in MERCHANTS:
        assert re.search(f"level=warn .*merchant={merchant_id}", daemon.output), merchant_id
    assert [line for line in daemon.lines if told_in(line)] == []


class NoBudget:
    """Lets every request pass."""

    def take(self) -> "NoBudget":
        return self

    def done(self) -> None:
        pass

    def refused(self, retry_after: float | None) -> None:
        pass


@pytest.mark.parametrize("merchant_id", MERCHANTS)
def test_an_error_tells_no_secret(merchant_id: str, echo_api: str) -> None:
    """What the client raises holds no secret, nor does its traceback with all that led to it.

    Here nothing is replaced afterwards, as the log does.
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
            assert [text for text in texts if told_in(text)] == []
    client.close()
    assert failures > 0


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def test_the_settings_tell_no_secret() -> None:
    """Neither `str` nor `repr` of the settings, as a whole or in parts, nor of the client, holds a secret."""
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
        assert told_in(f"{what} {what!r}") == []
    client.close()


# All that an API could have been told, in all spellings.
SPELT = [spell(secret, 0) for secret in (API_KEY, PASSWORD, TOKEN) for spell in SPELLINGS.values()]


def telling_api(request: Request) -> bytes:
    """An API that works, and has secrets in its names, ids and label values."""
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


def test_names_and_label_values_tell_no_secret(tmp_path: Path) -> None:
    """In whatever spelling a name, an id or a label value has it, no secret is shown; and no play is lost by that."""
    media = [{"id": f"media-{number}"} for number in range(len(SPELT))]
    settings = {"collect": [{"target": "play_count", "groups": ["all", "country"]}], "requests_per_minute": 200}
    account = {"api_key": API_KEY, "password": PASSWORD}
    with Peer(telling_api) as api:
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
        assert told_in(html.unescape(shown)) == []
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
