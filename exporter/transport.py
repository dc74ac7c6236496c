"""One HTTP exchange: a whole answer before a deadline, or `NoAnswer`. The only module that knows `requests`' errors.

The timeouts of `requests` are for each read, so a peer that sends a byte now and then could hold a thread for ever.
Here a watchdog hangs up at the deadline, whatever stage the exchange is in.
"""

import contextlib
import http.client
import os
import re
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Self
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from exporter.errors import MalformedAnswer, NoAnswer
from exporter.route import Proxy, Route, find_route

# Days of minutes with every label value fit in.
LARGEST_BODY = 64 * 1024 * 1024

# Of the body of an error no more is read.
LARGEST_ERROR = 64 * 1024

_CHUNK = 16 * 1024

_watching = threading.local()


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer.

    Attributes:
        status: The HTTP status.
        headers: By name, in any case.
        body: The body, decompressed.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class Watchdog:
    """Hangs up on a peer that has not answered within so many seconds.

    Attributes:
        bitten: Whether it has.
    """

    def __init__(self, seconds: float) -> None:
        self.bitten = False
        self._lock = threading.Lock()
        self._sock: Any = None
        self._timer = threading.Timer(seconds, self._bite)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        _watching.watchdog = self
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        _watching.watchdog = None
        self._timer.cancel()
        with self._lock:
            # From here on the connection may be another exchange's.
            self._sock = None

    def watch(self, sock: Any) -> None:
        """Say which connection to hang up on."""
        with self._lock:
            self._sock = sock
            if self.bitten:
                raise TimeoutError

    def _bite(self) -> None:
        with self._lock:
            self.bitten = True
            if self._sock is not None:
                _hang_up(self._sock)


def _hang_up(sock: Any) -> None:
    # Not `SSLSocket.shutdown`, which pulls the TLS state from under the thread that reads. TLS within TLS has its
    # socket inside.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(getattr(sock, "socket", sock), socket.SHUT_RDWR)


class _Connection(HTTPConnection):
    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as urllib3 itself
        _watch(self.sock)
        return super().getresponse()


class _TlsConnection(HTTPSConnection):
    def _tunnel(self) -> None:
        try:
            super()._tunnel()
        except (OSError, http.client.HTTPException) as error:
            # Until the tunnel is open, only the proxy has answered.
            raise urllib3.exceptions.ProxyError("no tunnel", error) from error

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as urllib3 itself
        _watch(self.sock)
        return super().getresponse()


def _watch(sock: Any) -> None:
    watchdog: Watchdog | None = getattr(_watching, "watchdog", None)
    if watchdog is not None:
        watchdog.watch(sock)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class WatchedAdapter(HTTPAdapter):
    """Connections that a watchdog can hang up on. It retries nothing."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools of connections."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        """The pools of connections through a proxy."""
        manager = super().proxy_manager_for(proxy, **proxy_kwargs)
        if isinstance(manager, urllib3.ProxyManager):
            manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
        return manager


class Session(requests.Session):
    """Connections to one host, without redirects, cookies and retries.

    Attributes:
        route: How they reach it.
    """

    def __init__(self, route: Route) -> None:
        super().__init__()
        self.route = route
        self.trust_env = False
        self.proxies = dict.fromkeys(("http", "https"), route.proxy.url) if route.proxy else {}
        self.verify = str(route.ca_path) if route.ca_path else True
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no message may hold: the password of the proxy."""
        return self.route.proxy.secrets if self.route.proxy else ()

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002 - of the base class
        """Nowhere. Else the body of a redirect, which nothing bounds, is read only to tell where it points."""
        return None


def open_session(url: str, adapter: BaseAdapter | None = None) -> Session:
    """A session for requests to one host.

    Args:
        url: Where they go. The proxy and the certificates that the environment names for it are read now, and not
            again for each request.
        adapter: The transport, where it is not to be the usual one.

    Raises:
        ConfigError: The environment names a proxy or certificates that can never work.
    """
    session = Session(find_route(url, os.environ))
    adapter = adapter or WatchedAdapter()
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def exchange(
    session: Session,
    method: str,
    url: str,
    *,
    timeout: float,
    hide: Callable[[str], str],
    **options: Any,
) -> Answer:
    """Send a request and read the whole answer.

    Args:
        session: From `open_session`.
        method: The HTTP method.
        url: The address.
        timeout: Seconds until the answer must be whole.
        hide: Makes secrets in a text unreadable.
        options: What else `requests` takes.

    Raises:
        NoAnswer: No whole answer came in time.
        MalformedAnswer: A good answer is larger than an answer can be.
    """
    deadline = time.monotonic() + timeout
    watchdog = Watchdog(timeout)
    failure: Exception
    try:
        with (
            watchdog,
            session.request(method, url, timeout=timeout, allow_redirects=False, stream=True, **options) as response,
        ):
            body = _read(response, deadline)
            if response.status_code == _PROXY_WANTS_ACCOUNT and session.route.proxy:
                raise NoAnswer(_refused_by(session.route.proxy, response.status_code, url))
            if not watchdog.bitten:
                return Answer(response.status_code, response.headers, body)
        failure = TimeoutError()
    except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException) as error:
        failure = error
    except (OSError, ValueError) as error:
        failure = error
    told = "".join(traceback.format_exception(failure))
    reason = _reason(TimeoutError() if watchdog.bitten else failure, url, timeout, session.route)
    # Outside of the `except`, so that a library's error that quotes a secret is not in any traceback.
    raise NoAnswer(reason) from (failure if hide(told) == told else None)


def _read(response: requests.Response, deadline: float) -> bytes:
    good = 200 <= response.status_code < 300
    body = bytearray()
    for chunk in response.iter_content(_CHUNK):
        body += chunk
        if time.monotonic() > deadline:
            raise TimeoutError
        if good and len(body) > LARGEST_BODY:
            raise MalformedAnswer(f"the answer is larger than {LARGEST_BODY // 1024 // 1024} MiB")
        if not good and len(body) > LARGEST_ERROR:
            break
    return bytes(body)


# ---- what is told of a library's error -----------------------------------------------------------------------

# The first that is among the causes of an error tells what went wrong.
_REASONS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (socket.gaierror, "cannot resolve {peer}"),
    (ssl.SSLCertVerificationError, "the TLS certificate of {peer} is not valid: {error.verify_message}; {trust}"),
    (ssl.SSLError, "TLS with {peer} failed: {error.reason}"),
    (TimeoutError, "timed out after {timeout:g} s"),
    (ConnectionRefusedError, "{peer} refused the connection"),
    (ConnectionError, "{peer} ended the connection"),
    (OSError, "cannot reach {peer}: {error.strerror}"),
    # For urllib3 a connection that fails is one that times out, so this comes after the errors that say more.
    ((requests.Timeout, urllib3.exceptions.TimeoutError), "timed out after {timeout:g} s"),
    ((requests.exceptions.ContentDecodingError, urllib3.exceptions.DecodeError), "the answer cannot be unpacked"),
    ((http.client.IncompleteRead, urllib3.exceptions.InvalidChunkLength), "the answer was cut"),
    (http.client.HTTPException, "{peer} does not speak HTTP"),
    (requests.exceptions.ProxyError, "{peer} does not let it through"),
)


# What a proxy says of a tunnel that it does not open. The standard library has only a text for it.
_NO_TUNNEL = re.compile(r"Tunnel connection failed: ([0-9]{3})")

_PROXY_WANTS_ACCOUNT = 407


def _reason(error: Exception, url: str, timeout: float, route: Route) -> str:
    if problem := route.ca_problem():
        return f"cannot check TLS certificates: {problem}"
    causes = list(_causes(error))
    proxy = route.proxy
    if proxy is None:
        return _told(causes, urlsplit(url).netloc, timeout, route)
    for cause in causes:
        if isinstance(cause, OSError) and (refusal := _NO_TUNNEL.match(str(cause))):
            return _refused_by(proxy, int(refusal[1]), url)
    # Without TLS there is only the connection to the proxy.
    to_proxy = urlsplit(url).scheme == "http" or any(isinstance(each, urllib3.exceptions.ProxyError) for each in causes)
    told = _told(causes, str(proxy) if to_proxy else urlsplit(url).netloc, timeout, route)
    return f"{told}; check the proxy and the variable" if str(proxy) in told else f"{told}, through {proxy}"


def _told(causes: Sequence[BaseException], peer: str, timeout: float, route: Route) -> str:
    trust = "to trust another CA, name its file in REQUESTS_CA_BUNDLE"
    if route.ca_path:
        trust = f"its CA is not in {route.ca_path} of {route.ca_variable}"
    for kinds, told in _REASONS:
        for cause in causes:
            # The errors of `requests` are OSErrors, too, but empty ones.
            if isinstance(cause, kinds) and (kinds is not OSError or getattr(cause, "strerror", None)):
                return told.format(peer=peer, error=cause, timeout=timeout, trust=trust)
    return f"the request to {peer} failed ({type(causes[0]).__name__})"


def _refused_by(proxy: Proxy, status: int, url: str) -> str:
    host = urlsplit(url).netloc
    if status == _PROXY_WANTS_ACCOUNT:
        fix = f"write both into {proxy.variable}, as http://user:password@host:port"
        return f"{proxy} refuses the request (407): its user or password is missing or wrong; {fix}"
    if status == http.HTTPStatus.FORBIDDEN:
        return f"{proxy} does not allow connections to {host} (403); allow them in the proxy"
    return f"{proxy} does not connect to {host} ({status}); check the proxy and the variable"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and all that led to it, wherever the libraries keep those."""
    found, waiting = set[int](), [error]
    while waiting:
        cause = waiting.pop(0)
        if id(cause) not in found:
            found.add(id(cause))
            yield cause
            inner = (cause.__cause__, getattr(cause, "reason", None), *cause.args)
            waiting += [each for each in inner if isinstance(each, BaseException)]
