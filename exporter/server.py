"""The HTTP side: what is served where, and the server that serves it.

`create_app` is plain WSGI; `Server` alone knows the library behind it.
"""

import gzip
import os
import re
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import choose_encoder
from waitress import wasyncore
from waitress.server import create_server

from exporter.errors import InputError
from exporter.page import POLICY

log = structlog.get_logger("server")

_HTML = "text/html; charset=utf-8"
_TEXT = "text/plain; charset=utf-8"

_JSON = "application/json"

# Nothing but the status page has anything to load or to run.
_POLICY = "default-src 'none'; frame-ancestors 'none'"

_HEADERS = (
    ("Cache-Control", "no-store"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
)

# Higher levels cost ten times as long for a tenth less.
_GZIP_LEVEL = 1
_GZIP_FROM = 1024

_LIMITS: Mapping[str, Any] = {
    "threads": 4,
    # Under 1024, the usual limit of open files, so that the state file can still be opened.
    "connection_limit": 800,
    "channel_timeout": 60,
    "cleanup_interval": 10,
    "asyncore_use_poll": True,
    "backlog": 256,
    "max_request_header_size": 16 * 1024,
    "max_request_body_size": 16 * 1024,
    # Answers wait in memory, never in a temporary file: the file system can be read-only.
    "outbuf_overflow": 1 << 30,
    "ident": None,
    "expose_tracebacks": False,
}

# The server's thread looks after idle connections at least this often (seconds).
_LOOP_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class _Reply:
    status: HTTPStatus
    body: bytes
    content_type: str = _TEXT
    headers: tuple[tuple[str, str], ...] = ()
    policy: str = _POLICY


_Route = Callable[[WSGIEnvironment], _Reply]


def create_app(
    registry: CollectorRegistry,
    *,
    healthy: Callable[[], str | None],
    ready: Callable[[], str | None],
    page: Callable[[str], str | None],
    status_json: Callable[[str], str | None],
    config_text: Callable[[], str],
    docs: Callable[[], str],
) -> WSGIApplication:
    """The whole HTTP interface.

    Args:
        registry: What `/metrics` shows.
        healthy: Why the process does not work, or None where it does.
        ready: Why it is not ready, or None where it is.
        page: The HTML at `/`, which may load and run what `page.POLICY` says: of a merchant by its id, of all for "";
            None where there is no such merchant.
        status_json: The JSON at `/api/v1/status`, likewise.
        config_text: The configuration in force, without secrets.
        docs: What there is to read about the exporter.
    """
    routes: dict[str, _Route] = {
        "/": _of_merchant(page, _HTML, POLICY),
        "/api/v1/status": _of_merchant(status_json, _JSON),
        "/config": lambda _: _Reply(HTTPStatus.OK, config_text().encode("utf-8", "replace")),
        "/docs": lambda _: _Reply(HTTPStatus.OK, docs().encode("utf-8", "replace")),
        "/metrics": _metrics(registry),
        "/-/healthy": lambda _: _probe(healthy(), "healthy"),
        "/-/ready": lambda _: _probe(ready(), "ready"),
    }

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        reply = _answer(routes, environ)
        body, encoding = _compressed(reply.body, environ.get("HTTP_ACCEPT_ENCODING", ""))
        headers = [
            ("Content-Type", reply.content_type),
            ("Content-Length", str(len(body))),
            *encoding,
            *reply.headers,
            ("Content-Security-Policy", reply.policy),
            *_HEADERS,
        ]
        start_response(f"{reply.status.value} {reply.status.phrase}", headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    return app


def _answer(routes: Mapping[str, _Route], environ: WSGIEnvironment) -> _Reply:
    route = routes.get(environ["PATH_INFO"])
    if route is None:
        return _Reply(HTTPStatus.NOT_FOUND, b"not found\n")
    if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
        return _Reply(HTTPStatus.METHOD_NOT_ALLOWED, b"use GET or HEAD\n", headers=(("Allow", "GET, HEAD"),))
    try:
        return route(environ)
    except Exception:
        log.exception("a request failed", path=environ["PATH_INFO"])
        return _Reply(HTTPStatus.INTERNAL_SERVER_ERROR, b"internal error; the log says more\n")


def _of_merchant(render: Callable[[str], str | None], content_type: str, policy: str = _POLICY) -> _Route:
    def route(environ: WSGIEnvironment) -> _Reply:
        text = render(parse_qs(environ.get("QUERY_STRING", "")).get("merchant", [""])[0])
        if text is None:
            return _Reply(HTTPStatus.NOT_FOUND, b"no such merchant\n")
        return _Reply(HTTPStatus.OK, text.encode("utf-8", "replace"), content_type, policy=policy)

    return route


def _probe(fault: str | None, word: str) -> _Reply:
    if fault is None:
        return _Reply(HTTPStatus.OK, f"{word}\n".encode())
    return _Reply(HTTPStatus.SERVICE_UNAVAILABLE, f"not {word}: {fault}\n".encode("utf-8", "replace"))


def _metrics(registry: CollectorRegistry) -> _Route:
    # It would compress at the highest level, which takes as long as the rendering.
    render = make_wsgi_app(registry, disable_compression=True)

    def route(environ: WSGIEnvironment) -> _Reply:
        head: dict[str, str] = {}

        def start_response(_status: str, headers: list[tuple[str, str]]) -> None:
            head.update(headers)

        request = {
            **environ,
            "REQUEST_METHOD": "GET",
            "HTTP_ACCEPT": _readable(environ.get("HTTP_ACCEPT", "")),
        }
        body = b"".join(render(request, start_response))
        return _Reply(HTTPStatus.OK, body, head["Content-Type"])

    return route


def _readable(accept: str) -> str:
    """The Accept header, or "" where it names a version that prometheus_client fails on."""
    try:
        choose_encoder(accept)
    except (TypeError, ValueError):
        return ""
    return accept


def _compressed(body: bytes, accepted: str) -> tuple[bytes, tuple[tuple[str, str], ...]]:
    if len(body) < _GZIP_FROM or not _takes_gzip(accepted):
        return body, ()
    return gzip.compress(body, _GZIP_LEVEL), (("Content-Encoding", "gzip"),)


def _takes_gzip(accepted: str) -> bool:
    for each in accepted.lower().split(","):
        coding, _, weight = each.partition(";")
        if coding.strip() == "gzip":
            return re.fullmatch(r"q=0(\.0*)?", weight.strip()) is None
    return False


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen.

    Attributes:
        host: A name or an address; "" for all interfaces.
        port: 0 for any free one.
    """

    host: str
    port: int

    def __str__(self) -> str:
        """As Prometheus writes it: `host:port`, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read an address as Prometheus writes it: `:10077`, `0.0.0.0:9000`, `[::1]:9000`, `localhost:0`.

    Raises:
        InputError: It is none.
    """
    found = re.fullmatch(r"(?:\[([^\s\[\]]*:[^\s\[\]]*)\]|([^\s:\[\]]*)):([0-9]{1,5})", text)
    if found is None or int(found[3]) > 65535:
        raise InputError(f"{text!r} is not an address; write HOST:PORT, for example 127.0.0.1:9000 or :10077")
    return Address(found[1] or found[2], int(found[3]))


class Server:
    """A WSGI server on a thread of its own. It listens from the start, so that a fault shows at once.

    Idle and slow peers cost a file descriptor each, not a thread.

    Raises:
        InputError: The address cannot be listened on.
    """

    def __init__(self, app: WSGIApplication, address: Address) -> None:
        self._app = app
        self._socket = _listen(address)
        host, port = self._socket.getsockname()[:2]
        self._address = Address("localhost" if ip_address(host).is_unspecified else host, port)
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._wake: Callable[[], None] = lambda: None

    @property
    def address(self) -> Address:
        """Where a client on this machine reaches it; the port is the real one."""
        return self._address

    def start(self) -> None:
        """Serve."""
        channels: dict[int, Any] = {}
        server: Any = create_server(self._app, channels, sockets=[self._socket], **_LIMITS)
        self._wake = server.pull_trigger
        self._thread = threading.Thread(target=self._serve, args=(server, channels), name="server", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Stop; answers under way are cut off. Waits at most `timeout` seconds. May be called twice."""
        self._stopping.set()
        if self._thread is None:
            self._socket.close()
        elif self._thread.is_alive():
            self._wake()
            self._thread.join(timeout)

    def _serve(self, server: Any, channels: dict[int, Any]) -> None:
        # The library's own loop has no way to end it from another thread.
        while not self._stopping.is_set():
            wasyncore.loop(_LOOP_TIMEOUT, use_poll=True, map=channels, count=1)
        server.task_dispatcher.shutdown(timeout=1)
        wasyncore.close_all(channels)


def _listen(address: Address) -> socket.socket:
    """A bound socket; IPv4 before IPv6 where a name means both, both where it means every interface."""
    try:
        if address.host in ("", "::") and socket.has_dualstack_ipv6():
            everywhere = ("::", address.port)
            return socket.create_server(everywhere, family=socket.AF_INET6, dualstack_ipv6=True)
        found = socket.getaddrinfo(address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, where = min(found, key=lambda each: each[0] != socket.AF_INET)
        return socket.create_server(where[:2], family=family)
    except (OSError, UnicodeError) as error:
        raise InputError(f"{address}: cannot listen there: {_reason(error)}; choose another address") from error


def _reason(error: OSError | UnicodeError) -> str:
    """What the system says; `socket.create_server` repeats the address in its own text."""
    number = error.errno if isinstance(error, OSError) else None
    if number is not None and number > 0:
        return os.strerror(number)
    return getattr(error, "strerror", None) or str(error)
