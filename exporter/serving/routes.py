"""The HTTP side: what is served where. Pure: a function from a request to a response."""

import gzip
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qs

import structlog
from prometheus_client import CollectorRegistry, Metric
from prometheus_client import exposition as text_format
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from exporter.httpd.address import Address, listen
from exporter.httpd.descriptors import MOST_PEERS
from exporter.httpd.peers import Limits
from exporter.httpd.server import Handler, Request, Response, Server
from exporter.serving.page import POLICY

log = structlog.get_logger("server")

LISTEN_FLAG = "--web.listen-address"

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

# A probe does not wait for metrics, and metrics do not wait for pages.
_LANES = {"/-/healthy": "probes", "/-/ready": "probes", "/metrics": "metrics"}


@dataclass(frozen=True, slots=True)
class _Reply:
    status: HTTPStatus
    body: bytes
    content_type: str = _TEXT
    headers: tuple[tuple[str, str], ...] = ()
    policy: str = _POLICY


_Route = Callable[[Request], _Reply]


def create_app(
    registry: CollectorRegistry,
    *,
    healthy: Callable[[], str | None],
    ready: Callable[[], str | None],
    page: Callable[[str], str | None],
    status_json: Callable[[str], str | None],
    config_text: Callable[[], str],
    docs: Callable[[], str],
) -> Handler:
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

    def app(request: Request) -> Response:
        reply = _answer(routes, request)
        body, encoding = _compressed(reply.body, request.headers.get("accept-encoding", ""))
        headers = (
            ("Content-Type", reply.content_type),
            ("Content-Length", str(len(body))),
            *encoding,
            *reply.headers,
            ("Content-Security-Policy", reply.policy),
            *_HEADERS,
        )
        return Response(reply.status, headers, body)

    return app


def make_server(app: Handler, address: Address, peers: int = MOST_PEERS) -> Server:
    """A server for the app. It listens, and serves once it is started.

    Args:
        app: From `create_app`.
        address: Where to listen.
        peers: Connections at once; at the limit a new one ends the idlest.

    Raises:
        InputError: The address cannot be listened on.
    """
    return Server(app, [listen(address, LISTEN_FLAG)], limits=Limits(peers=peers), lanes=_LANES, alike=_alike)


def _alike(request: Request) -> Hashable | None:
    """All that an answer depends on. The body of HEAD is not sent, so it gets what GET gets."""
    if request.method not in ("GET", "HEAD"):
        return None
    headers = request.headers
    return request.path, request.query, headers.get("accept", ""), headers.get("accept-encoding", "")


def _answer(routes: Mapping[str, _Route], request: Request) -> _Reply:
    route = routes.get(request.path)
    if route is None:
        return _Reply(HTTPStatus.NOT_FOUND, b"not found\n")
    if request.method not in ("GET", "HEAD"):
        return _Reply(HTTPStatus.METHOD_NOT_ALLOWED, b"use GET or HEAD\n", headers=(("Allow", "GET, HEAD"),))
    try:
        return route(request)
    except Exception:
        log.exception("a request failed", path=request.path)
        return _Reply(HTTPStatus.INTERNAL_SERVER_ERROR, b"internal error; the log says more\n")


def _of_merchant(render: Callable[[str], str | None], content_type: str, policy: str = _POLICY) -> _Route:
    def route(request: Request) -> _Reply:
        text = render(parse_qs(request.query).get("merchant", [""])[0])
        if text is None:
            return _Reply(HTTPStatus.NOT_FOUND, b"no such merchant\n")
        return _Reply(HTTPStatus.OK, text.encode("utf-8", "replace"), content_type, policy=policy)

    return route


def _probe(fault: str | None, word: str) -> _Reply:
    if fault is None:
        return _Reply(HTTPStatus.OK, f"{word}\n".encode())
    return _Reply(HTTPStatus.SERVICE_UNAVAILABLE, f"not {word}: {fault}\n".encode("utf-8", "replace"))


@dataclass(frozen=True, slots=True)
class _Named(Collector):
    """Families and samples by name. A registry can do that only for collectors that say beforehand what they have."""

    collector: Collector
    names: frozenset[str]

    def collect(self) -> Iterator[Metric]:
        for family in self.collector.collect():
            named = Metric(family.name, family.documentation, family.type, family.unit)
            named.samples = [each for each in family.samples if not self.names.isdisjoint((family.name, each.name))]
            if named.samples:
                yield named


def _metrics(registry: CollectorRegistry) -> _Route:
    def route(request: Request) -> _Reply:
        names = parse_qs(request.query).get("name[]")
        shown: Collector = _Named(registry, frozenset(names)) if names else registry
        render, content_type = _format(request.headers.get("accept", ""))
        return _Reply(HTTPStatus.OK, render(shown), content_type)

    return route


@dataclass(frozen=True, slots=True)
class _Accepted:
    """One format of an Accept header."""

    media_type: str
    parameters: Mapping[str, str]
    weight: float


def _format(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    """How metrics are rendered for an Accept header, and what that is called: exactly what is sent.

    prometheus_client has such a function, too. It takes the first format in place of the best, fails on a version that
    is no number, and calls its answer by the version that was asked for, whatever that is.
    """
    best_first = sorted(_accepted(accept), key=lambda each: -each.weight)
    for each in best_first:
        version = _version(each.parameters.get("version", ""))
        # All names are plain ones, so these two look alike. The others would be longer.
        escaping = "allow-utf-8" if each.parameters.get("escaping") == "allow-utf-8" else "underscores"
        match each.media_type:
            case "application/openmetrics-text" if version is None or version >= (1,):
                # There is a 2.0.0, which the library does not render. Who reads it reads this, too.
                kind = f"application/openmetrics-text; version=1.0.0; charset=utf-8; escaping={escaping}"
                return _openmetrics, kind
            case "text/plain" if version is not None and version >= (1,):
                return text_format.generate_latest, f"text/plain; version=1.0.0; charset=utf-8; escaping={escaping}"
            case "text/plain" | "text/*" | "*/*":
                break
    return text_format.generate_latest, text_format.CONTENT_TYPE_PLAIN_0_0_4


def _openmetrics(registry: Collector) -> bytes:
    body: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]  # the library's gap
    return body


def _accepted(accept: str) -> Iterator[_Accepted]:
    """The formats of an Accept header that are not excluded."""
    for each in accept.lower().split(","):
        media_type, *rest = (part.strip() for part in each.split(";"))
        pairs = (part.partition("=") for part in rest)
        parameters = {name.strip(): value.strip().strip('"') for name, _, value in pairs}
        weight = _weight(parameters.pop("q", "1"))
        if weight > 0:
            yield _Accepted(media_type, parameters, weight)


def _weight(text: str) -> float:
    return float(text) if re.fullmatch(r"[01](\.[0-9]{0,3})?", text) else 0.0


def _version(text: str) -> tuple[int, ...] | None:
    """A version as numbers; None for none, and (0,) for what is none."""
    if not text:
        return None
    return tuple(map(int, text.split("."))) if re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,4}){0,2}", text) else (0,)


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
