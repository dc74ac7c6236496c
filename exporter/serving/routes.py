"""The HTTP side: what is served where. Pure: a function from a request to a response."""

import contextlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from http import HTTPStatus
from urllib.parse import parse_qs

import structlog
from isal import isal_zlib

from exporter.httpd.address import Address, listen
from exporter.httpd.connections import Limits
from exporter.httpd.descriptors import MAX_CONNECTIONS
from exporter.httpd.messages import Body, Handler, Pieces, Request, Response, error_response
from exporter.httpd.server import Server
from exporter.httpd.web_config import WebConfig
from exporter.serving import paths
from exporter.serving.negotiation import Renderer, accepts_gzip, metrics_format
from exporter.serving.page import POLICY

log = structlog.get_logger("server")

LISTEN_FLAG = "--web.listen-address"

_HTML = "text/html; charset=utf-8"
_TEXT = "text/plain; charset=utf-8"
_JSON = "application/json"

# Of each response that has no other. Only the status pages load or run anything, and have a policy of their own.
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

# Level 2 is no smaller here, and level 3 takes seven times as long. zlib's level 1 takes five times as long as this.
_GZIP_LEVEL = 1
# The window of 32 KiB, with the header of gzip.
_GZIP_WINDOW = 16 + 15
_GZIP_FROM = 1024
# A body is compressed in so many parts. Meanwhile other threads run, and after each it waits for its turn.
_GZIP_PARTS = 64
_ENCODING = "Content-Encoding"

# A probe does not wait for metrics, metrics do not wait for pages, and nothing waits for a reload.
_PROBES, _METRICS, _RELOAD = "probes", "metrics", "reload"


# Renders the metrics with a renderer of prometheus_client, in pieces: all, or those with one of some names.
RenderMetrics = Callable[[Renderer, Sequence[str]], Sequence[bytes]]


def create_app(
    metrics: RenderMetrics,
    *,
    healthy: Callable[[], str | None],
    ready: Callable[[], str | None],
    page: Callable[[str], str | None],
    media_page: Callable[[str, str], str | None],
    status_json: Callable[[str], str | None],
    config_text: Callable[[], str],
    docs: Callable[[], str],
    reload: Callable[[], Sequence[str]],
    telemetry_path: str = paths.METRICS,
) -> Handler:
    """The whole HTTP interface.

    Args:
        metrics: Renders the metrics.
        healthy: Why the process is not healthy, or None.
        ready: Why it is not ready, or None.
        page: The HTML at `/`, which may load and run what `page.POLICY` says: of a merchant by its id, of all for "";
            None where there is no such merchant.
        media_page: The HTML at `/media`, likewise, of a media by the ids of its merchant and its own; None where there
            is no such media.
        status_json: The JSON at `/api/v1/status`, likewise.
        config_text: The configuration in force, without secrets.
        docs: The documentation at `/docs`.
        reload: Reloads the configuration on `POST /-/reload`; returns its errors, one line each.
        telemetry_path: Where the metrics are; no other path of `exporter.serving.paths`.
    """
    policy = ("Content-Security-Policy", POLICY)
    routes: dict[str, Handler] = {
        paths.HOME: _of_merchant(page, _HTML, policy),
        paths.MEDIA: _of_media(media_page, _HTML, policy),
        paths.STATUS: _of_merchant(status_json, _JSON),
        paths.CONFIG: lambda _: _content(config_text()),
        paths.DOCS: lambda _: _content(docs()),
        paths.HEALTHY: lambda _: _probe(healthy(), "healthy"),
        paths.READY: lambda _: _probe(ready(), "ready"),
        paths.RELOAD: lambda _: _reloaded(reload()),
        telemetry_path: _metrics(metrics),
    }

    def app(request: Request) -> Response:
        response = _route(routes, request)
        body, headers = response.body, {**_HEADERS, **dict(response.headers)}
        if len(body) >= _GZIP_FROM and _ENCODING not in headers and _wants_gzip(request):
            body, headers = _compressed([bytes(body)]), {**headers, _ENCODING: "gzip"}
        headers["Content-Length"] = str(len(body))
        return Response(response.status, tuple(headers.items()), body)

    return app


def make_server(
    app: Handler,
    addresses: Sequence[Address],
    connections: int = MAX_CONNECTIONS,
    *,
    web: WebConfig = WebConfig(),  # noqa: B008 - immutable
    telemetry_path: str = paths.METRICS,
) -> Server:
    """A server for the app. It listens, and serves once it is started.

    Args:
        app: From `create_app`.
        addresses: Where to listen; at least one. The first is the one that is shown.
        connections: How many at once; at the limit a new one closes the idlest.
        web: TLS, users and headers.
        telemetry_path: Where the metrics are.

    Raises:
        InputError: An address cannot be listened on.
    """
    pools = {paths.HEALTHY: _PROBES, paths.READY: _PROBES, paths.RELOAD: _RELOAD, telemetry_path: _METRICS}
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(listen(each, LISTEN_FLAG)) for each in addresses]
        opened.pop_all()
    limits = Limits(connections=connections)
    return Server(app, sockets, limits=limits, pools=pools, coalesce_key=_coalesce_key, web=web)


def _coalesce_key(request: Request) -> Hashable | None:
    """Everything that a response depends on. HEAD shares the response of GET, as its body is not sent."""
    if request.method not in ("GET", "HEAD"):
        return None
    headers = request.headers
    return request.path, request.query, headers.get("accept", ""), headers.get("accept-encoding", "")


def _route(routes: Mapping[str, Handler], request: Request) -> Response:
    route = routes.get(request.path)
    if route is None:
        return error_response(HTTPStatus.NOT_FOUND, "page not found")
    allowed = ("POST", "PUT") if request.path == paths.RELOAD else ("GET", "HEAD")
    if request.method not in allowed:
        use, allow = " or ".join(allowed), ", ".join(allowed)
        return error_response(HTTPStatus.METHOD_NOT_ALLOWED, f"method not allowed, use {use}", ("Allow", allow))
    try:
        return route(request)
    except Exception:
        log.exception("HTTP request failed", path=request.path)
        return error_response(HTTPStatus.INTERNAL_SERVER_ERROR, "internal server error, see the log")


def _reloaded(errors: Sequence[str]) -> Response:
    if not errors:
        return _content("configuration reloaded\n")
    text = "".join(f"{error}\n" for error in (*errors, "The previous configuration stays in force."))
    return Response(HTTPStatus.INTERNAL_SERVER_ERROR, (("Content-Type", _TEXT),), text.encode("utf-8", "replace"))


def _content(text: str | Body, content_type: str = _TEXT, *headers: tuple[str, str]) -> Response:
    body = text.encode("utf-8", "replace") if isinstance(text, str) else text
    return Response(HTTPStatus.OK, (("Content-Type", content_type), *headers), body)


def _of_media(render: Callable[[str, str], str | None], content_type: str, *headers: tuple[str, str]) -> Handler:
    def route(request: Request) -> Response:
        query = parse_qs(request.query)
        merchant_id, media_id = query.get("merchant", [""])[0], query.get("media", [""])[0]
        if not merchant_id or not media_id:
            return error_response(HTTPStatus.BAD_REQUEST, "use /media?merchant=ID&media=ID")
        text = render(merchant_id, media_id)
        if text is None:
            return error_response(HTTPStatus.NOT_FOUND, "media not found")
        return _content(text, content_type, *headers)

    return route


def _of_merchant(render: Callable[[str], str | None], content_type: str, *headers: tuple[str, str]) -> Handler:
    def route(request: Request) -> Response:
        text = render(parse_qs(request.query).get("merchant", [""])[0])
        if text is None:
            return error_response(HTTPStatus.NOT_FOUND, "merchant not found")
        return _content(text, content_type, *headers)

    return route


def _probe(problem: str | None, word: str) -> Response:
    if problem is None:
        return _content(f"{word}\n")
    return error_response(HTTPStatus.SERVICE_UNAVAILABLE, f"not {word}: {problem}")


def _metrics(metrics: RenderMetrics) -> Handler:
    def route(request: Request) -> Response:
        names = parse_qs(request.query).get("name[]", ())
        renderer, content_type = metrics_format(request.headers.get("accept", ""))
        pieces = metrics(renderer, names)
        if _wants_gzip(request):
            return _content(_compressed(pieces), content_type, (_ENCODING, "gzip"))
        return _content(Pieces(pieces), content_type)

    return route


def _wants_gzip(request: Request) -> bool:
    return accepts_gzip(request.headers.get("accept-encoding", ""))


def _compressed(pieces: Sequence[bytes]) -> bytes:
    compressor = isal_zlib.compressobj(_GZIP_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW)
    size = -(-len(pieces) // _GZIP_PARTS)
    parts = (pieces[start : start + size] for start in range(0, len(pieces), size or 1))
    compressed = [compressor.compress(b"".join(part)) for part in parts]
    return b"".join((*compressed, compressor.flush()))
