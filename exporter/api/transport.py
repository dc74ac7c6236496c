"""One HTTP exchange: a whole answer before a deadline, or `NoAnswer`. The only module that knows `requests`' errors.

The timeouts of `requests` are for each read and each address, so a peer that sends a byte now and then could hold a
thread for ever. Here one deadline is for everything together: to find the addresses of the name, to connect to one of
them, to get through a proxy, the TLS handshake, to send, and to read the whole answer. A watchdog hangs up then.
"""

import contextlib
import heapq
import http.client
import ipaddress
import itertools
import os
import re
import socket
import ssl
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Self
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.connection import allowed_gai_family, create_connection

from exporter.api.json_body import Limit, excerpt
from exporter.config.environment import Proxy, Route, find_route
from exporter.errors import MalformedAnswer, NoAnswer, TooLarge

# Of the body of an error no more is read.
LARGEST_ERROR = 64 * 1024

# Larger answers are unpacked and read one at a time: what Python makes of them takes many times their memory.
LARGE = 256 * 1024

# So the answer may be packed. What was not asked for is not unpacked.
_ACCEPTED = "gzip, deflate"

_CHUNK = 16 * 1024

# For `zlib`: gzip or zlib, whichever it is; and deflate without the header that it should have.
_ANY_HEADER, _NO_HEADER = 32 + zlib.MAX_WBITS, -zlib.MAX_WBITS

_one_large = threading.Lock()


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer.

    Attributes:
        status: The HTTP status.
        headers: By name, in any case.
        packed: The body as it was sent; `unpacked` reads it.
    """

    status: int
    headers: Mapping[str, str]
    packed: bytes


# ---- the deadline --------------------------------------------------------------------------------------------

_watching = threading.local()


class Watchdog:
    """Hangs up on a peer that has not answered within so many seconds.

    Attributes:
        bitten: Whether it has.
        deadline: When it does (monotonic seconds), from the beginning of the block on.
    """

    def __init__(self, seconds: float) -> None:
        self.bitten = False
        self.deadline = time.monotonic() + seconds
        self._seconds = seconds
        self._lock = threading.Lock()
        self._ended = False
        self._sock: Any = None
        # While a connection is made: TLS takes the socket over before its handshake.
        self._handle: socket.socket | None = None

    def __enter__(self) -> Self:
        self.deadline = time.monotonic() + self._seconds
        _deadlines.add(self)
        _watching.watchdog = self
        return self

    def __exit__(self, *_: object) -> None:
        _watching.watchdog = None
        with self._lock:
            # From here on the connection may be another exchange's.
            self._ended = True
            self._sock = None
            self._drop_handle()

    @property
    def left(self) -> float:
        """The seconds that are left, more than 0. Raises TimeoutError where there are none."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def watch_new(self, sock: socket.socket) -> None:
        """Say that this connection has just been made; from `watch` on it can be used."""
        with self._lock:
            self._sock = None
            self._drop_handle()
            if self.bitten:
                raise TimeoutError
            self._handle = sock.dup()

    def watch(self, sock: Any) -> None:
        """Say which connection to hang up on."""
        with self._lock:
            self._sock = sock
            self._drop_handle()
            if self.bitten:
                raise TimeoutError

    def bite(self) -> None:
        """Hang up, unless the exchange has ended."""
        with self._lock:
            if not self._ended:
                self.bitten = True
                for sock in (self._sock, self._handle):
                    if sock is not None:
                        _hang_up(sock)

    def _drop_handle(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None


def _hang_up(sock: Any) -> None:
    # Not `SSLSocket.shutdown`, which pulls the TLS state from under the thread that reads. TLS within TLS has its
    # socket inside.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(getattr(sock, "socket", sock), socket.SHUT_RDWR)


class _Deadlines:
    """One thread that lets each watchdog bite when its time is over."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._waiting: list[tuple[float, int, Watchdog]] = []
        self._running = False

    def add(self, watchdog: Watchdog) -> None:
        """Let it bite at its deadline."""
        with self._changed:
            if not self._running:
                threading.Thread(target=self._run, name="deadlines", daemon=True).start()
                self._running = True
            heapq.heappush(self._waiting, (watchdog.deadline, next(self._numbers), watchdog))
            if self._waiting[0][2] is watchdog:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            # Whatever happens to one, the others have their deadlines.
            with contextlib.suppress(Exception):
                self._next().bite()

    def _next(self) -> Watchdog:
        """The next whose time is over, when it is."""
        with self._changed:
            while not self._waiting or self._waiting[0][0] > time.monotonic():
                self._changed.wait(self._waiting[0][0] - time.monotonic() if self._waiting else None)
            return heapq.heappop(self._waiting)[2]


_deadlines = _Deadlines()


# ---- connections ---------------------------------------------------------------------------------------------


class _Names:
    """The addresses of names. Nothing interrupts the system that looks them up, so a thread waits for it.

    All that want the same name wait for the same thread: where the system hangs for hours, there is one for each name.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._asked: dict[tuple[str, int], Future[list[str]]] = {}

    def addresses(self, host: str, port: int, seconds: float) -> list[str]:
        """The addresses of a host.

        Args:
            host: Its name.
            port: The port that is wanted there.
            seconds: How long to wait for them.

        Raises:
            OSError: There are none; as a `gaierror`, too, where the system does not answer in time.
        """
        if _is_address(host):
            return [host]
        with self._mutex:
            found = self._asked.get((host, port))
            if found is None:
                found = Future()
                threading.Thread(
                    target=self._look_up, args=(host, port, found), name=f"resolve {host}", daemon=True
                ).start()
                self._asked[host, port] = found
        try:
            return found.result(seconds)
        except TimeoutError:
            raise socket.gaierror(socket.EAI_AGAIN, f"no answer within {seconds:.1f} s") from None

    def _look_up(self, host: str, port: int, found: Future[list[str]]) -> None:
        try:
            infos = socket.getaddrinfo(host, port, allowed_gai_family(), socket.SOCK_STREAM)
            addresses, problem = list(dict.fromkeys(str(info[4][0]) for info in infos)), None
        except Exception as error:  # noqa: BLE001 - it is raised where the addresses are waited for
            addresses, problem = [], error
        with self._mutex:
            # Not before this thread has put itself there.
            self._asked.pop((host, port), None)
        if problem is not None:
            found.set_exception(problem)
        else:
            found.set_result(addresses)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


_names = _Names()


class _Watched(HTTPConnection):
    """A connection that the thread's watchdog hangs up on."""

    def _new_conn(self) -> socket.socket:
        watchdog = _watchdog()
        if watchdog is None:
            return super()._new_conn()
        host = self._dns_host.strip("[]")
        addresses = _names.addresses(host, self.port, watchdog.left)
        failure: OSError = socket.gaierror(socket.EAI_NONAME, "no address")
        for place, address in enumerate(addresses):
            # Those that follow have their share of the time, too.
            seconds = watchdog.left / (len(addresses) - place)
            try:
                sock = create_connection((address, self.port), seconds, socket_options=self.socket_options)
            except OSError as error:
                failure = error
            else:
                return self._begin_watch(sock, watchdog)
        raise failure

    def _begin_watch(self, sock: socket.socket, watchdog: Watchdog) -> socket.socket:
        try:
            sock.settimeout(watchdog.left)
            watchdog.watch_new(sock)
        except BaseException:
            sock.close()
            raise
        return sock

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:
            _watch(self.sock)
        super().request(*args, **kwargs)

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as urllib3 itself
        _watch(self.sock)
        return super().getresponse()


class _WatchedTls(_Watched, HTTPSConnection):
    """The same with TLS."""

    def _tunnel(self) -> None:
        try:
            super()._tunnel()
        except (OSError, http.client.HTTPException) as error:
            # Until the tunnel is open, only the proxy has answered.
            raise urllib3.exceptions.ProxyError("no tunnel", error) from error


def _watchdog() -> Watchdog | None:
    return getattr(_watching, "watchdog", None)


def _watch(sock: Any) -> None:
    watchdog = _watchdog()
    if watchdog is not None:
        watchdog.watch(sock)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Watched


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _WatchedTls


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
    session.headers["Accept-Encoding"] = _ACCEPTED
    adapter = adapter or WatchedAdapter()
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


# ---- one exchange --------------------------------------------------------------------------------------------


def exchange(
    session: Session,
    method: str,
    url: str,
    *,
    timeout: float,
    limit: Limit,
    hide: Callable[[str], str],
    **options: Any,
) -> Answer:
    """Send a request and read the whole answer.

    Args:
        session: From `open_session`.
        method: The HTTP method.
        url: The address.
        timeout: Seconds until the answer must be whole.
        limit: How large it may be.
        hide: Makes secrets in a text unreadable.
        options: What else `requests` takes.

    Raises:
        NoAnswer: No whole answer came in time.
        TooLarge: A good answer is larger than an answer to this can be.
    """
    watchdog = Watchdog(timeout)
    failure: Exception
    try:
        with (
            watchdog,
            session.request(method, url, timeout=timeout, allow_redirects=False, stream=True, **options) as response,
        ):
            packed = _read(response, watchdog, limit)
            if response.status_code == _PROXY_WANTS_ACCOUNT and session.route.proxy:
                raise NoAnswer(_refused_by(session.route.proxy, response.status_code, url))
            if not watchdog.bitten:
                return Answer(response.status_code, response.headers, packed)
        failure = TimeoutError()
    except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException) as error:
        failure = error
    except (OSError, ValueError) as error:
        failure = error
    told = "".join(traceback.format_exception(failure))
    # That no address was found in time says more than that the time is over.
    late = watchdog.bitten and not any(isinstance(cause, socket.gaierror) for cause in _causes(failure))
    reason = _reason(TimeoutError() if late else failure, url, timeout, session.route)
    # Outside of the `except`, so that a library's error that quotes a secret is not in any traceback.
    raise NoAnswer(reason) from (failure if hide(told) == told else None)


def _read(response: requests.Response, watchdog: Watchdog, limit: Limit) -> bytes:
    """The body as it comes. It is unpacked later: what is packed can neither grow, nor take much time."""
    good = 200 <= response.status_code < 300
    most = limit.size if good else LARGEST_ERROR
    parts, size = list[bytes](), 0
    for chunk in response.raw.stream(_CHUNK, decode_content=False):
        parts.append(chunk)
        size += len(chunk)
        if time.monotonic() > watchdog.deadline:
            raise TimeoutError
        if size > most:
            if good:
                raise TooLarge(limit.exceeded(f"more than {limit.size} bytes"))
            break
    return b"".join(parts)


@contextlib.contextmanager
def unpacked(answer: Answer, limit: Limit) -> Iterator[bytes]:
    """The body of a good answer. Of all large ones in this process one at a time is used, in the block.

    Raises:
        NoAnswer: It cannot be unpacked, or was cut.
        TooLarge: It is larger than an answer can be.
        MalformedAnswer: It is packed in a way that was not asked for.
    """
    with contextlib.ExitStack() as stack:
        parts, size, alone = list[bytes](), 0, False
        for chunk in _unpack(answer):
            size += len(chunk)
            if size > limit.size:
                raise TooLarge(limit.exceeded(f"more than {limit.size} bytes"))
            if size > LARGE and not alone:
                stack.enter_context(_one_large)
                alone = True
            parts.append(chunk)
        body = b"".join(parts)
        parts.clear()
        yield body


def unpacked_error(answer: Answer) -> bytes:
    """The beginning of the body of an answer that is not good; nothing where it cannot be unpacked."""
    body = b""
    with contextlib.suppress(NoAnswer, MalformedAnswer):
        for chunk in _unpack(answer):
            body += chunk
            if len(body) >= LARGEST_ERROR:
                break
    return body[:LARGEST_ERROR]


def _unpack(answer: Answer) -> Iterator[bytes]:
    """A body, of which at most a little is unpacked at a time."""
    packing, packed = answer.headers.get("Content-Encoding", "").strip().lower(), answer.packed
    if packing in ("", "identity") or not packed:
        yield packed
        return
    if packing not in ("gzip", "x-gzip", "deflate"):
        raise MalformedAnswer(f"the answer is packed as {excerpt(packing)}, which was not asked for")
    # Some send deflate without its header, which begins with an 8, and as a number can be divided by 31.
    bare = packing == "deflate" and (packed[0] & 15 != 8 or int.from_bytes(packed[:2], "big") % 31 != 0)
    unpacker = zlib.decompressobj(_NO_HEADER if bare else _ANY_HEADER)
    try:
        # In pieces, for what is left of one is copied each time.
        for start in range(0, len(packed), _CHUNK):
            piece, more = packed[start : start + _CHUNK], True
            while more:
                chunk = unpacker.decompress(piece, _CHUNK)
                yield chunk
                if unpacker.eof:
                    return
                piece = unpacker.unconsumed_tail
                more = bool(piece) or len(chunk) == _CHUNK
    except zlib.error:
        raise NoAnswer("the answer cannot be unpacked") from None
    raise NoAnswer("the answer was cut")


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
