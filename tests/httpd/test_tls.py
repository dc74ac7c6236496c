"""TLS with real clients, and with clients that misbehave."""

import asyncio.sslproto
import base64
import contextlib
import random
import select
import socket
import ssl
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
import trustme

from exporter.httpd.web_config import WebConfig
from tests.support.certificates import PASSWORD, USER, Site
from tests.support.processes import PATIENCE, closed_by_server, wait_until
from tests.support.served import MEGABYTE, REQUEST, Served

LAST = REQUEST.replace(b"1.1", b"1.0")

HEADERS = {
    "Strict-Transport-Security": "max-age=31536000",
    "X-Frame-Options": "deny",
    "Content-Security-Policy": "default-src 'self'",
}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_response_comes_over_tls(serve: Callable[..., Served], site: Site) -> None:
    """A client that trusts the CA gets its response, over the newest TLS and HTTP/1.1."""
    served = serve(web=site.load())
    context = site.client()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with served.connect(LAST, context) as peer, peer.makefile("rb") as stream:
        assert stream.read().endswith(b"fine\n")
        assert isinstance(peer, ssl.SSLSocket)
        assert (peer.version(), peer.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")
    assert served.server.url == f"https://{served.server.address}/"


@pytest.mark.parametrize(
    ("settings", "newest", "works"),
    [
        ({}, ssl.TLSVersion.TLSv1_2, True),
        ({"min_version": "TLS13"}, ssl.TLSVersion.TLSv1_2, False),
        ({"min_version": "TLS13"}, ssl.TLSVersion.TLSv1_3, True),
        ({"cipher_suites": ["TLS_AES_128_GCM_SHA256"]}, ssl.TLSVersion.TLSv1_2, False),
    ],
)
def test_the_oldest_version_is_configured(
    serve: Callable[..., Served], site: Site, settings: dict[str, object], newest: ssl.TLSVersion, works: bool
) -> None:
    """A client that knows only an older TLS than `min_version` is refused; suites of TLS 1.3 alone exclude TLS 1.2."""
    served, context = serve(web=site.load(**settings)), site.client()
    context.maximum_version = newest
    if works:
        assert served.talk(LAST, context).endswith(b"fine\n")
    else:
        with pytest.raises(OSError, match=r"alert|reset|EOF|closed"):
            served.talk(LAST, context)


def test_cipher_suites_are_configured(serve: Callable[..., Served], site: Site) -> None:
    """With TLS 1.2 only the suites in the list are used."""
    served, context = serve(web=site.load(cipher_suites=["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"])), site.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with served.connect(b"", context) as peer:
        assert isinstance(peer, ssl.SSLSocket)
        assert (peer.cipher() or ("",))[0] == "ECDHE-ECDSA-AES256-GCM-SHA384"


@pytest.mark.parametrize(
    ("settings", "names", "known", "works"),
    [
        ({"client_auth_type": "RequireAndVerifyClientCert"}, (), True, False),
        ({"client_auth_type": "RequireAndVerifyClientCert"}, ("a.example",), False, False),
        ({"client_auth_type": "RequireAndVerifyClientCert"}, ("a.example",), True, True),
        ({"client_auth_type": "VerifyClientCertIfGiven"}, (), True, True),
        ({"client_auth_type": "VerifyClientCertIfGiven"}, ("a.example",), False, False),
        ({"client_allowed_sans": ["a.example"]}, ("b.example",), True, False),
        ({"client_allowed_sans": ["a.example", "b.example"]}, ("b.example",), True, True),
        ({"client_allowed_sans": ["0::1"]}, ("::1",), True, True),
        ({"client_allowed_sans": ["10.0.0.1"]}, ("10.0.0.2",), True, False),
    ],
)
def test_certificates_of_clients_are_checked(
    serve: Callable[..., Served],
    site: Site,
    settings: dict[str, object],
    names: tuple[str, ...],
    known: bool,
    works: bool,
) -> None:
    """A client needs a certificate of a known CA, and an allowed name, where that is configured. No request of a
    client without them is handled.
    """
    required = {"client_ca_file": "ca.pem", "client_auth_type": "RequireAndVerifyClientCert", **settings}
    served = serve(web=site.load(**required))
    context = site.client(*names, authority=None if known else trustme.CA())
    if works:
        assert served.talk(LAST, context).endswith(b"fine\n")
    else:
        # With TLS 1.3 the client has finished the handshake before the server checks its certificate.
        with contextlib.suppress(OSError):
            assert served.talk(LAST, context) == b""
        wait_until("the connection is closed", lambda: served.connected == 0)
        assert served.calls == []


@pytest.mark.parametrize(
    ("sent", "status"),
    [(REQUEST, b"HTTP/1.1 400 Bad Request\r\n"), (b"nonsense\r\n\r\n", b"HTTP/1.1 400 "), (b"\x00", b""), (b"", b"")],
)
def test_http_on_the_tls_port_gets_a_clean_end(
    serve: Callable[..., Served], site: Site, sent: bytes, status: bytes
) -> None:
    """Plain HTTP is refused with a response that says why; anything else is closed. Nothing is logged or handled."""
    with structlog.testing.capture_logs() as lines:
        served = serve(web=site.load(), request_timeout=0.5)
        answer = served.talk(sent)
        assert answer.startswith(status)
        if sent == REQUEST:
            assert answer.endswith(b"\r\n\r\nthis is an HTTPS server, use https://\n")
        wait_until("the connection is closed", lambda: served.connected == 0)
    assert served.calls == []
    assert [line for line in lines if line["log_level"] != "debug"] == []


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00"])
def test_a_handshake_has_a_deadline(serve: Callable[..., Served], site: Site, sent: bytes) -> None:
    """The connection of a client that sends nothing, or a part of its hello, is closed."""
    served = serve(web=site.load(), request_timeout=0.5)
    with served.connect(sent) as peer:
        assert closed_by_server(peer)
    wait_until("nothing is left of it", lambda: served.connected == 0)


def test_stalled_handshakes_are_limited_in_number(serve: Callable[..., Served], site: Site) -> None:
    """Any number of clients that never finish their handshakes do not keep a scrape out, and nothing is logged."""
    with structlog.testing.capture_logs() as lines, contextlib.ExitStack() as stack:
        served, context = serve(web=site.load(), connections=10), site.client()
        for number in range(60):
            stack.enter_context(served.connect(b"\x16\x03\x01" * (number % 2)))
        for _ in range(3):
            assert served.talk(LAST, context).endswith(b"fine\n")
        assert served.connected <= 10
    assert [line for line in lines if line["log_level"] != "debug"] == []


def test_slow_headers_have_a_deadline(serve: Callable[..., Served], site: Site) -> None:
    """Over TLS, too, a client that sends a byte of its headers at a time is closed."""
    served = serve(web=site.load(), request_timeout=0.5)
    with served.connect(b"GET / HTTP/1.1\r\nX-Slow: ", site.client()) as peer:
        deadline = time.monotonic() + PATIENCE
        with contextlib.suppress(OSError):
            while not select.select([peer], [], [], 0.1)[0]:
                assert time.monotonic() < deadline
                peer.sendall(b"a")
            # What the handshake left: tickets for the next one.
            peer.settimeout(PATIENCE)
            assert peer.recv(1) == b""
        wait_until("the connection is closed", lambda: served.connected == 0)
    assert served.calls == []


def test_an_idle_connection_has_a_deadline(serve: Callable[..., Served], site: Site) -> None:
    """Over TLS, too, a connection without a request is closed, but not as soon as one with half of a handshake."""
    served = serve(web=site.load(), idle_timeout=2, request_timeout=0.5)
    with served.connect(b"", site.client()) as peer:
        began = time.monotonic()
        assert closed_by_server(peer)
        assert time.monotonic() - began > 1.5


def test_an_unread_response_has_a_deadline(serve: Callable[..., Served], site: Site) -> None:
    """Over TLS, too, the connection of a client that does not read is closed, and its response is dropped."""
    served = serve(lambda _: b"x" * 20 * MEGABYTE, web=site.load(), response_timeout=0.5)
    with served.connect(REQUEST, site.client()):
        wait_until("the handler is called", lambda: served.calls == ["/"])
        wait_until("the connection is closed", lambda: served.connected == 0)


def test_unread_responses_are_limited_in_total(serve: Callable[..., Served], site: Site) -> None:
    """Over TLS, too, the slowest readers are closed above the limit, and a client that reads gets its response."""
    served, context = serve(lambda _: b"x" * MEGABYTE * 8, web=site.load(), unsent_bytes=20 * MEGABYTE), site.client()
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(served.connect(REQUEST, context))
        wait_until("all have been handled", lambda: len(served.calls) == 8)
        wait_until("most are closed", lambda: served.connected <= 2)
        assert served.talk(LAST, context).endswith(b"x" * MEGABYTE * 8)


def test_a_slow_reader_gets_all_of_a_large_response(serve: Callable[..., Served], site: Site) -> None:
    """11 MB in small pieces, with pauses, on a connection that stays for the next request."""
    body = random.Random(1).randbytes(11 * MEGABYTE)
    served = serve(lambda request: body if request.path == "/" else b"fine\n", web=site.load())
    with served.connect(REQUEST, site.client()) as peer:
        got = bytearray()
        while b"\r\n\r\n" not in got or len(got.split(b"\r\n\r\n", 1)[1]) < len(body):
            got += peer.recv(256 * 1024)
            if len(got) % 7 == 0:
                time.sleep(0.001)
        assert bytes(got).split(b"\r\n\r\n", 1)[1] == body
        peer.sendall(REQUEST.replace(b" / ", b" /next ").replace(b"1.1", b"1.0"))
        with peer.makefile("rb") as stream:
            assert stream.read().endswith(b"fine\n")


def test_pipelined_requests_get_responses_in_order(serve: Callable[..., Served], site: Site) -> None:
    """Over TLS, too: no request is handled before the response to the one before is read."""
    answer = b"x" * MEGABYTE * 8
    served, context = (
        serve(lambda request: answer if request.path == "/" else b"fine\n", web=site.load()),
        site.client(),
    )
    with served.connect(REQUEST * 3, context) as peer, peer.makefile("rb") as stream:
        wait_until("the first is answered", lambda: bool(served.calls))
        for _ in range(20):
            assert served.talk(LAST.replace(b" / ", b" /other "), context).endswith(b"fine\n")
        assert served.calls.count("/") == 1
        for _ in range(3):
            assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
            while stream.readline() != b"\r\n":
                pass
            assert stream.read(len(answer)) == answer


def test_an_idle_connection_takes_little_memory(serve: Callable[..., Served], site: Site) -> None:
    """Not the 256 KiB of asyncio's own buffer."""
    assert asyncio.sslproto.SSLProtocol.max_size <= 16 * 1024
    served, context = serve(web=site.load()), site.client()
    tracemalloc.start()
    with contextlib.ExitStack() as stack:
        stack.callback(tracemalloc.stop)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(40):
            stack.enter_context(served.connect(b"", context))
        assert tracemalloc.get_traced_memory()[0] - before < 40 * 100 * 1024


def test_another_configuration_is_for_new_connections(serve: Callable[..., Served], site: Site) -> None:
    """After `configure`, a new connection sees the new certificate; one that is open goes on, also where TLS ends."""
    served, context = serve(web=site.load()), site.client()

    def certificate() -> bytes | None:
        with served.connect(b"", context) as peer:
            assert isinstance(peer, ssl.SSLSocket)
            return peer.getpeercert(binary_form=True)

    with served.connect(REQUEST, context) as old, old.makefile("rb") as stream:
        assert stream.readline().startswith(b"HTTP/1.1 200")
        first = certificate()
        site.renew()
        served.server.configure(site.load())
        assert certificate() != first
        served.server.configure(WebConfig())
        assert served.get().text == "fine\n"
        assert served.server.url.startswith("http://")
        old.sendall(LAST)
        assert stream.read().endswith(b"fine\n")


def test_configured_headers_are_on_every_response(serve: Callable[..., Served], site: Site) -> None:
    """Those of the handler, and those of errors that it never sees; a header of the same name is replaced."""
    served = serve(web=site.load(headers=HEADERS, password=PASSWORD))
    context = site.client()
    authorization = b"Authorization: Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()) + b"\r\n"
    sent = {
        200: b"GET / HTTP/1.0\r\n" + authorization + b"\r\n",
        400: b"nonsense\r\n\r\n",
        401: LAST,
        413: b"POST / HTTP/1.0\r\nContent-Length: 20000\r\n\r\n" + b"x" * 20_000,
        431: b"GET / HTTP/1.0\r\nX: " + b"x" * 17_000 + b"\r\n\r\n",
    }
    for status, text in sent.items():
        head = served.talk(text, context).partition(b"\r\n\r\n")[0].decode()
        assert head.startswith(f"HTTP/1.1 {status} ")
        headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:])
        assert {name: headers[name.lower()] for name in HEADERS} == HEADERS
        assert "date" in headers
    assert b"x-frame-options: deny" in served.talk(LAST)


def _shut_down(peer: ssl.SSLSocket) -> None:
    peer.shutdown(socket.SHUT_WR)


def _read_a_part(peer: ssl.SSLSocket) -> None:
    peer.recv(100_000)


def _send_in_plain(peer: ssl.SSLSocket) -> None:
    with socket.socket(fileno=peer.detach()) as plain:
        plain.send(b"nonsense")


def test_clients_that_end_anywhere_leave_no_trace(serve: Callable[..., Served], site: Site) -> None:
    """A client may end a TLS connection at any point, cleanly or not, or send nonsense: no line in the log, no
    connection stays.
    """
    choose, context = random.Random(7), site.client()
    with structlog.testing.capture_logs() as lines:
        served = serve(lambda _: b"x" * MEGABYTE, web=site.load())
        for number in range(60):
            if number % 3 == 0:
                with served.connect(b"\x16\x03\x01\x00\x05" + choose.randbytes(choose.randrange(200))) as peer:
                    peer.setblocking(False)
                continue
            peer = served.connect(choose.choice([b"", REQUEST[:9], REQUEST, REQUEST * 3]), context)
            assert isinstance(peer, ssl.SSLSocket)
            with contextlib.suppress(OSError), contextlib.closing(peer):
                peer.settimeout(0.05)
                choose.choice([ssl.SSLSocket.unwrap, _shut_down, _read_a_part, _send_in_plain])(peer)
        wait_until("all are closed", lambda: served.connected == 0)
        assert served.talk(LAST, context).endswith(b"x" * MEGABYTE)
    assert [line for line in lines if line["log_level"] != "debug"] == []


def test_stop_is_quick_whatever_clients_do(serve: Callable[..., Served], site: Site) -> None:
    """Clients in the middle of a handshake, or that do not read, do not delay the stop."""
    served, context = serve(lambda _: b"x" * 8 * MEGABYTE, web=site.load()), site.client()
    with contextlib.ExitStack() as stack:
        for sent in (b"", b"\x16\x03\x01"):
            stack.enter_context(served.connect(sent))
        for sent in (b"", b"GET / HT", REQUEST * 20):
            stack.enter_context(served.connect(sent, context))
        wait_until("one is answered", lambda: served.calls == ["/"])
        with structlog.testing.capture_logs() as lines:
            served.server.stop(timeout=PATIENCE)
        assert "server" not in {thread.name for thread in threading.enumerate()}
        assert lines == []
