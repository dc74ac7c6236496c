import contextlib
import errno
import gzip
import re
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.errors import InputError
from exporter.httpd.address import Address, listen, parse_address
from exporter.httpd.messages import Handler, Request
from exporter.httpd.server import Server
from exporter.serving.exposition import Exposition
from exporter.serving.instruments import Instruments
from exporter.serving.paths import METRICS
from exporter.serving.routes import create_app, make_server
from exporter.views import Snapshot
from tests.support import processes
from tests.support.processes import PATIENCE


@dataclass
class Parts:
    """The content of the application; tests change it."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    healthy: Callable[[], str | None] = lambda: None
    ready: Callable[[], str | None] = lambda: None
    page: Callable[[str], str | None] = lambda _: "<p>grüezi</p>"
    media_page: Callable[[str, str], str | None] = lambda *_: "<p>one</p>"
    status_json: Callable[[str], str | None] = lambda _: "{}"
    config_text: Callable[[], str] = lambda: "merchants: []\n"
    docs: Callable[[], str] = lambda: "# How to\n"
    reload: Callable[[], Sequence[str]] = lambda: ()
    telemetry_path: str = METRICS

    def app(self) -> Handler:
        return create_app(
            Exposition(self.registry, Snapshot, lambda: 0.0, lambda: 0.0).render,
            healthy=self.healthy,
            ready=self.ready,
            page=self.page,
            media_page=self.media_page,
            status_json=self.status_json,
            config_text=self.config_text,
            docs=self.docs,
            reload=self.reload,
            telemetry_path=self.telemetry_path,
        )


@dataclass
class Reply:
    """A response of the application."""

    status: int
    headers: dict[str, str]
    body: bytes


MEDIA = "/media?merchant=a&media=m"


def request(app: Handler, path: str, method: str = "GET", **headers: str) -> Reply:
    """Call the application as the server does."""
    path, _, query = path.partition("?")
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = app(Request(method, path, query, named))
    return Reply(response.status, dict(response.headers), bytes(response.body))


@pytest.mark.parametrize(
    ("path", "content_type", "body"),
    [
        ("/", "text/html; charset=utf-8", "<p>grüezi</p>"),
        (MEDIA, "text/html; charset=utf-8", "<p>one</p>"),
        ("/api/v1/status", "application/json", "{}"),
        ("/config", "text/plain; charset=utf-8", "merchants: []\n"),
        ("/docs", "text/plain; charset=utf-8", "# How to\n"),
        ("/-/healthy", "text/plain; charset=utf-8", "healthy\n"),
        ("/-/ready", "text/plain; charset=utf-8", "ready\n"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8", ""),
    ],
)
def test_each_path_has_its_page(path: str, content_type: str, body: str) -> None:
    """Every path responds 200 with its own text, content type and length."""
    reply = request(Parts().app(), path)
    assert (reply.status, reply.body.decode()) == (200, body)
    assert reply.headers["Content-Type"] == content_type
    assert reply.headers["Content-Length"] == str(len(body.encode()))


@pytest.mark.parametrize(
    "path", ["/", MEDIA, "/api/v1/status", "/config", "/docs", "/metrics", "/-/ready", "/no-such-page"]
)
def test_every_response_has_security_headers(path: str) -> None:
    """No response is cached, sniffed or framed; only the pages can run or load anything, and only their own."""
    headers = request(Parts().app(), path).headers
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    policy = dict(each.split(" ", 1) for each in headers["Content-Security-Policy"].split("; "))
    assert (policy["default-src"], policy["frame-ancestors"]) == ("'none'", "'none'")
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert ("script-src" in policy) == (path in ("/", MEDIA))
    if path in ("/", MEDIA):
        assert policy["connect-src"] == "'self'"


@pytest.mark.parametrize("path", ["/", "/api/v1/status"])
def test_a_merchant_can_be_selected(path: str) -> None:
    """The page and the JSON show only the merchant in the query; an unknown one is a 404."""

    def render(merchant_id: str) -> str | None:
        return None if merchant_id == "unknown" else f"<{merchant_id}>"

    app = Parts(page=render, status_json=render).app()
    assert request(app, path).body == b"<>"
    assert request(app, f"{path}?merchant=a%20b%26").body == b"<a b&>"
    assert request(app, f"{path}?merchant=unknown").status == 404


def test_a_media_has_an_address() -> None:
    """The ids of the merchant and the media are in the query; an unknown media is a 404, half of an address a 400."""

    def render(merchant_id: str, media_id: str) -> str | None:
        return None if media_id == "no" else f"<{merchant_id}/{media_id}>"

    app = Parts(media_page=render).app()
    assert request(app, "/media?merchant=a%20b%26&media=m%3F1").body == b"<a b&/m?1>"
    reply = request(app, "/media?merchant=a&media=no")
    assert (reply.status, reply.body) == (404, b"media not found\n")
    for query in ("", "?merchant=a", "?media=m", "?merchant=a&media="):
        reply = request(app, f"/media{query}")
        assert (reply.status, reply.body) == (400, b"use /media?merchant=ID&media=ID\n")


@pytest.mark.parametrize("path", ["/metric", "/metrics/", "/-/", "//", "", "/favicon.ico"])
def test_other_paths_are_not_found(path: str) -> None:
    """Only the documented paths respond; /metrics is at one place only."""
    assert request(Parts().app(), path).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/metrics", "/-/healthy"])
def test_pages_are_read_only(path: str, method: str) -> None:
    """A method other than GET and HEAD is refused, with the allowed methods."""
    reply = request(Parts().app(), path, method)
    assert reply.status == 405
    assert reply.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_reload_is_requested_by_post(method: str) -> None:
    """The response is 200, or 500 with every error as text; a link or a prefetch, which is a GET, reloads nothing."""
    asked: list[str] = []

    def reload() -> Sequence[str]:
        asked.append(method)
        return ()

    good = Parts(reload=reload)
    assert request(good.app(), "/-/reload", method).status == 200
    bad = request(Parts(reload=lambda: ["one: wrong", "two: wrong"]).app(), "/-/reload", method)
    assert (bad.status, bad.headers["Content-Type"]) == (500, "text/plain; charset=utf-8")
    assert bad.body.decode() == "one: wrong\ntwo: wrong\nThe previous configuration stays in force.\n"
    for refused in ("GET", "HEAD"):
        reply = request(good.app(), "/-/reload", refused)
        assert (reply.status, reply.headers["Allow"]) == (405, "POST, PUT")
    assert len(asked) == 1


@pytest.mark.parametrize("path", ["/", "/metrics", "/-/healthy", "/no-such-page"])
def test_head_has_the_headers_of_get(path: str) -> None:
    """HEAD responds with the status, the type and the length of a GET."""
    parts = Parts()
    Gauge("some", "Some.", registry=parts.registry)
    get, head = request(parts.app(), path), request(parts.app(), path, "HEAD")
    assert (head.status, head.headers) == (get.status, get.headers)
    assert int(head.headers["Content-Length"]) == len(get.body) > 0


@pytest.mark.parametrize(("path", "word"), [("/-/healthy", "healthy"), ("/-/ready", "ready")])
def test_a_problem_makes_a_probe_fail(path: str, word: str) -> None:
    """A probe responds 503 with the reason while there is a problem."""
    parts = Parts()
    setattr(parts, word, lambda: "the loop has stopped")
    reply = request(parts.app(), path)
    assert reply.status == 503
    assert reply.body.decode() == f"not {word}: the loop has stopped\n"


@pytest.mark.parametrize("part", ["healthy", "ready", "page", "config_text"])
def test_a_failing_page_is_one_log_line(part: str) -> None:
    """An exception becomes a 500 without details, and one log line with them."""

    def fail() -> str:
        raise RuntimeError("the inside of the program")

    path = {"healthy": "/-/healthy", "ready": "/-/ready", "page": "/", "config_text": "/config"}[part]
    parts = Parts()
    setattr(parts, part, fail)
    with structlog.testing.capture_logs() as lines:
        reply = request(parts.app(), path)
    assert reply.status == 500
    assert reply.body == b"internal server error, see the log\n"
    assert [(line["event"], line["path"], line["log_level"]) for line in lines] == [
        ("HTTP request failed", path, "error")
    ]


def test_a_failing_collector_is_a_500_too() -> None:
    """An exception during the rendering of metrics does not reach the client either."""

    class Broken:
        def collect(self) -> Iterator[Any]:
            raise RuntimeError("the inside of the program")

    parts = Parts()
    parts.registry.register(Broken())
    with structlog.testing.capture_logs() as lines:
        reply = request(parts.app(), "/metrics")
    assert reply.status == 500
    assert b"inside" not in reply.body
    assert len(lines) == 1


def test_a_page_that_is_invalid_in_utf8_is_sent() -> None:
    """Half a surrogate pair in a page is sent as a question mark."""
    assert request(Parts(page=lambda _: "a\ud83db").app(), "/").body == b"a?b"


TEXT_0 = "text/plain; version=0.0.4; charset=utf-8"
TEXT_1 = "text/plain; version=1.0.0; charset=utf-8; escaping="
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping="

AS_TEXT = b"# HELP plays_total Plays.\n# TYPE plays_total counter\nplays_total 4.0\n"
AS_OPENMETRICS = b"# HELP plays Plays.\n# TYPE plays counter\nplays_total 4.0\n# EOF\n"

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_3_TEXT = (
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.5,"
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.4,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", TEXT_0),
        ("*/*", TEXT_0),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", TEXT_0),
        ("text/plain", TEXT_0),
        ("text/plain;version=0.0.4", TEXT_0),
        ("text/plain;version=1.0.0", TEXT_1 + "underscores"),
        ("text/plain;version=1.0.0;escaping=allow-utf-8", TEXT_1 + "allow-utf-8"),
        ("text/plain;version=1.0.0;escaping=dots", TEXT_1 + "underscores"),
        ("application/openmetrics-text", OPENMETRICS + "underscores"),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", OPENMETRICS + "underscores"),
        ("application/openmetrics-text; version=2.0.0", OPENMETRICS + "underscores"),
        (
            "application/openmetrics-text;version=2.0.0;escaping=allow-utf-8;q=0.7," + PROMETHEUS_3,
            OPENMETRICS + "allow-utf-8",
        ),
        ("application/openmetrics-text;version=7.9", OPENMETRICS + "underscores"),
        ('application/openmetrics-text;version="1.0.0"', OPENMETRICS + "underscores"),
        ("Application/OpenMetrics-Text;Version=1.0.0", OPENMETRICS + "underscores"),
        (PROMETHEUS_2, OPENMETRICS + "underscores"),
        (PROMETHEUS_3, OPENMETRICS + "allow-utf-8"),
        (PROMETHEUS_3_TEXT, TEXT_1 + "allow-utf-8"),
        (
            "text/plain;version=0.0.4;q=0.3,application/openmetrics-text;version=1.0.0;q=0.5",
            OPENMETRICS + "underscores",
        ),
        ("application/openmetrics-text;version=1.0.0;q=0,text/plain", TEXT_0),
        ("application/openmetrics-text;version=0.0.1", TEXT_0),
        ("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited", TEXT_0),
        ("application/openmetrics-text;version=x.y", TEXT_0),
        ("application/openmetrics-text;version=1.0.0;q=much", TEXT_0),
        ("text/plain;version=1.x;", TEXT_0),
        (",;=,;q,", TEXT_0),
    ],
)
def test_metrics_come_in_the_accepted_format(accept: str, content_type: str) -> None:
    """The best accepted format is used, and the content type names it, also for an invalid Accept header."""
    parts = Parts()
    Counter("plays", "Plays.", registry=parts.registry).inc(4)
    reply = request(parts.app(), "/metrics", accept=accept)
    assert (reply.status, reply.headers["Content-Type"]) == (200, content_type)
    shown = b"".join(line for line in reply.body.splitlines(keepends=True) if b"_created" not in line)
    assert shown == (AS_OPENMETRICS if content_type.startswith(OPENMETRICS) else AS_TEXT)
    parse: Any = parse_openmetrics if content_type.startswith(OPENMETRICS) else parse_text
    assert next(sample.value for family in parse(reply.body.decode()) for sample in family.samples) == 4


def test_metrics_can_be_restricted_by_name() -> None:
    """`name[]` in the query selects families."""
    parts = Parts()
    for name in ("one", "two"):
        Gauge(name, "Some.", registry=parts.registry)
    assert b"one" not in request(parts.app(), "/metrics?name[]=two").body
    assert b"two" in request(parts.app(), "/metrics?name[]=two").body


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text"])
def test_every_name_on_the_page_can_be_selected(accept: str) -> None:
    """The name of each sample and of each family selects only what it names, from any collector."""
    telemetry = Instruments()
    telemetry.observe_request("medias", 0.1)
    app = Parts(registry=telemetry.registry).app()
    page = request(app, "/metrics", accept=accept).body.decode()
    parse: Any = parse_openmetrics if accept.startswith("application") else parse_text
    families = {family.name: {sample.name for sample in family.samples} for family in parse(page)}
    assert {"process_open_fds", "python_info"} <= {name for names in families.values() for name in names}
    families = {family: names for family, names in families.items() if names}
    for name in {*families, *(name for names in families.values() for name in names)}:
        lines = request(app, f"/metrics?name[]={name}", accept=accept).body.decode().splitlines()
        found = {re.split("[{ ]", line)[0] for line in lines if not line.startswith("#")}
        assert found in ({name}, families.get(name))
    assert request(app, "/metrics?name[]=nothing", accept="text/plain").body == b""


@pytest.mark.parametrize(
    ("accept_encoding", "compressed"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5, br", True),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip; q=0.0, identity", False),
    ],
)
def test_large_responses_are_compressed_if_accepted(accept_encoding: str, compressed: bool) -> None:
    """If gzip is accepted, the page is sent compressed with the same content; otherwise uncompressed."""
    parts = Parts(page=lambda _: "plays " * 1000)
    reply = request(parts.app(), "/", accept_encoding=accept_encoding)
    assert ("Content-Encoding" in reply.headers) == compressed
    assert reply.headers["Content-Length"] == str(len(reply.body))
    assert (gzip.decompress(reply.body) if compressed else reply.body) == b"plays " * 1000


@contextlib.contextmanager
def serving(parts: Parts | None = None, address: str = "127.0.0.1:0") -> Iterator[Server]:
    app = (parts or Parts()).app()
    server = make_server(app, [parse_address(address)])
    try:
        server.start()
        yield server
    finally:
        server.stop()


def connect(server: Server) -> socket.socket:
    return socket.create_connection((server.address.host, server.address.port), timeout=PATIENCE)


def get(server: Server, path: str) -> requests.Response:
    return processes.get(f"http://{server.address}{path}")


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", ":0", "0.0.0.0:0"])
def test_the_server_listens_on_its_address(address: str) -> None:
    """Port 0 takes a free port, and the server names the address on which it responds."""
    with serving(address=address) as server:
        assert server.address.port > 0
        assert get(server, "/-/healthy").text == "healthy\n"


def test_an_ipv6_host_is_accepted() -> None:
    """The server listens on an address in brackets if the machine has IPv6."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        with pytest.raises(InputError, match=r"cannot listen on \[::1\]:0"):
            make_server(Parts().app(), [parse_address("[::1]:0")])
        return
    with serving(address="[::1]:0") as server:
        assert get(server, "/-/healthy").text == "healthy\n"


def test_without_ipv6_the_server_listens_on_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address without a host falls back to all of IPv4."""
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with serving(address=":0") as server:
        response = processes.get(f"http://127.0.0.1:{server.address.port}/-/healthy")
        assert response.text == "healthy\n"


def test_a_port_in_use_is_one_line() -> None:
    """A port in use is an InputError that names the address, before anything is started."""
    with serving() as server:
        with pytest.raises(InputError) as caught:
            make_server(Parts().app(), [server.address])
        message = str(caught.value)
        assert message == (
            f"--web.listen-address: cannot listen on {server.address}: Address already in use; "
            "another process listens there: stop it, or choose another port"
        )


def test_an_address_that_is_refused_frees_the_others() -> None:
    """If the second of two addresses cannot be listened on, nothing listens on the first."""
    with serving() as server:
        with listen(Address("127.0.0.1", 0), "--flag") as free:
            port = free.getsockname()[1]
        with pytest.raises(InputError, match=f":{server.address.port}: Address already in use"):
            make_server(Parts().app(), [Address("127.0.0.1", port), server.address])
        listen(Address("127.0.0.1", port), "--flag").close()


def test_the_metrics_are_at_their_path_only() -> None:
    """With another path, /metrics is not found."""
    app = Parts(telemetry_path="/stats/plays").app()
    assert request(app, "/stats/plays").headers["Content-Type"] == TEXT_0
    assert request(app, "/metrics").status == 404


@pytest.mark.parametrize("host", ["a" * 70 + ".invalid", "203.0.113.1"])
def test_a_host_that_is_not_this_machine_is_one_line(host: str) -> None:
    """An invalid name, and an address of another machine, are InputErrors, too."""
    with pytest.raises(InputError) as caught:
        make_server(Parts().app(), [Address(host, 0)])
    message = str(caught.value)
    assert message.startswith(f"--web.listen-address: cannot listen on {host}:0: ")
    assert "\n" not in message


def test_an_unknown_host_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing DNS lookup is an InputError with the resolver's message."""

    def unknown(*_args: object, **_keywords: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(InputError) as caught:
        make_server(Parts().app(), [Address("nowhere", 9000)])
    assert str(caught.value) == (
        "--web.listen-address: cannot listen on nowhere:9000: Name or service not known; "
        "use an address of this machine, or :PORT for all of them"
    )


def test_idle_and_slow_clients_do_not_block_a_scrape() -> None:
    """With 100 silent connections and 100 that have sent half a header, the next scrape gets its response."""
    with serving() as server, contextlib.ExitStack() as peers:
        for number in range(200):
            peer = peers.enter_context(connect(server))
            if number % 2:
                peer.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        assert get(server, "/metrics").status_code == 200


def test_the_server_does_not_name_its_software() -> None:
    """Neither a normal response nor one to an invalid request names the software or shows a traceback."""
    with serving() as server:
        assert "Server" not in get(server, "/").headers
        with connect(server) as peer:
            peer.sendall(b"NONSENSE\r\n\r\n")
            peer.shutdown(socket.SHUT_WR)
            answer = peer.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"uvicorn" not in answer.lower()
    assert b"Traceback" not in answer


def test_waiting_scrapes_share_one_rendering() -> None:
    """Any number of equal requests is collected once; another format is another response."""
    begun, release = threading.Semaphore(0), threading.Event()
    parts, calls = Parts(), []

    class Slow:
        def collect(self) -> Iterator[Any]:
            calls.append(1)
            begun.release()
            assert release.wait(60)
            return iter(())

    parts.registry.register(Slow())
    with serving(parts) as server, contextlib.ExitStack() as stack:
        stack.callback(release.set)

        def scrape(accept: bytes, method: bytes = b"GET") -> None:
            peer = stack.enter_context(connect(server))
            peer.sendall(method + b" /metrics HTTP/1.0\r\nAccept: " + accept + b"\r\n\r\n")
            peers.append(peer)

        peers: list[socket.socket] = []
        for _ in range(2):
            scrape(b"*/*")
            assert begun.acquire(timeout=PATIENCE)
        for _ in range(20):
            scrape(b"text/plain")
            scrape(b"text/plain", b"HEAD")
            scrape(b"application/openmetrics-text")
        # The response to a probe that is sent after the scrapes comes after the server has read them.
        for _ in range(3):
            assert get(server, "/-/healthy").ok
        release.set()
        answers = [peer.makefile("rb").read() for peer in peers]
    assert all(answer.startswith(b"HTTP/1.1 200 OK") for answer in answers)
    assert [b"# EOF" in answer for answer in answers[2:]] == [False, False, True] * 20
    # Four, unless the machine is so slow that some requests came late.
    assert len(calls) <= 10


def test_a_large_body_is_refused() -> None:
    """No client can fill the memory with a request."""
    with serving() as server:
        response = requests.post(f"http://{server.address}/", data=b"x" * 20_000, timeout=PATIENCE)
    assert response.status_code == 413


def test_a_large_response_needs_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A response of 20 MB to a slow client waits in memory, so the file system can be read-only."""

    def read_only(*_args: object, **_keywords: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    with serving(Parts(page=lambda _: "plays " * 3_500_000)) as server, connect(server) as peer:
        peer.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = peer.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(b"plays " * 1000)
    assert len(answer) > 21_000_000


def test_head_over_the_wire_leaves_the_connection_usable() -> None:
    """After HEAD the same connection responds to GET: no body was sent that would be read as the next response."""
    with serving() as server, requests.Session() as session:
        for method in ("HEAD", "GET", "HEAD", "GET"):
            with session.request(method, f"http://{server.address}/config", timeout=PATIENCE) as response:
                assert response.status_code == 200
                assert response.text == ("merchants: []\n" if method == "GET" else "")


def test_a_stopped_server_releases_its_port_and_its_threads() -> None:
    """After `stop` nothing listens, the port can be used again, and the server's thread has ended."""
    with serving() as server:
        peer = connect(server)
        peer.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
        assert peer.recv(1) == b"H"
    with peer:
        while peer.recv(1024):
            pass
    assert "server" not in {thread.name for thread in threading.enumerate()}
    make_server(Parts().app(), [server.address]).stop()


def test_stop_can_be_called_twice_and_before_start() -> None:
    """Stopping a server that does not run has no effect."""
    server = make_server(Parts().app(), [Address("127.0.0.1", 0)])
    server.stop()
    server.stop()
    with serving() as started:
        started.stop()


def test_a_hanging_page_does_not_block_the_stop() -> None:
    """`stop` returns although a response is never finished."""
    begun, release = threading.Event(), threading.Event()

    def hang(_: str) -> str:
        begun.set()
        release.wait(60)
        return ""

    with serving(Parts(page=hang)) as server, connect(server) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert begun.wait(30)
        server.stop()
        assert not release.is_set()
        release.set()
