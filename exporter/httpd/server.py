"""The HTTP server, for the exporter and for the simulated API. The only module that knows the library behind it.

The application is a plain function from a request to a response. It runs on a few threads; connections are the business
of one more thread, so that a peer that is slow to ask or to read holds a file descriptor and no thread.
"""

import asyncio
import contextlib
import errno
import re
import socket
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any
from urllib.parse import unquote

import structlog
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from exporter.httpd.address import Address
from exporter.httpd.peers import Limits, Peer, Peers, Phase

log = structlog.get_logger("server")

# An answer is handed to the connection in pieces, each after the one before has left: it is in memory once.
_PIECE = 256 * 1024

# A body that is too large is read up to here before it is refused: a client that still sends would miss the answer.
_DISCARDED = 1024 * 1024

# Seconds between looks at what is overdue.
_LOOK = 1.0

# Seconds without accepting after that failed.
_REST = 0.2

# Accepting has to work for so many seconds before a problem with it counts as resolved.
_RESOLVED_AFTER = 60.0

_TEXT = ("Content-Type", "text/plain; charset=utf-8")
_CLOSE = ("Connection", "close")


@dataclass(frozen=True, slots=True)
class Request:
    """A request.

    Attributes:
        method: As it was sent.
        path: Without the query, percent-decoded.
        query: What follows the question mark, as it was sent.
        headers: By name in lower case.
        body: The body.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Response:
    """A response. Where the request is HEAD, its body is not sent.

    Attributes:
        status: The HTTP status.
        headers: The headers; `Content-Length` and `Date` are added where they are missing.
        body: The body.
        cut: Whether the connection ends after half of the body.
    """

    status: int
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    cut: bool = False


Handler = Callable[[Request], Response]

# What requests have in common that get the same answer, or None where a request is like no other.
Alike = Callable[[Request], Hashable | None]


class Server:
    """Serves a handler on threads of its own.

    The sockets listen from the start, so what cannot be listened on is known before.
    """

    def __init__(
        self,
        handler: Handler,
        sockets: Sequence[socket.socket],
        *,
        limits: Limits | None = None,
        lanes: Mapping[str, str] | None = None,
        alike: Alike = lambda _: None,
        threads: int = 2,
    ) -> None:
        """Prepare; `start` begins.

        Args:
            handler: Answers the requests, several at once.
            sockets: Where it listens. They are closed at the end.
            limits: What peers may use.
            lanes: Path to the name of its lane. Requests in different lanes do not wait for each other; paths that
                are not named share one more lane.
            alike: Requests of one lane for which this is the same, and not None, get one answer where they wait
                together. The handler is called when all of them are there, so it is as new as one of their own.
            threads: How many requests of one lane are answered at once.
        """
        self._handler = handler
        self._sockets = sockets
        self._limits = limits or Limits()
        self._lanes = lanes or {}
        self._alike = alike
        self._threads = threads
        host, port = sockets[0].getsockname()[:2]
        self._address = Address("localhost" if ip_address(host).is_unspecified else host, port)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop = asyncio.Event()

    @property
    def address(self) -> Address:
        """Where a client on this machine reaches it; the port is the real one."""
        return self._address

    def start(self) -> None:
        """Serve."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(self._loop,), name="server", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Stop; answers under way are cut off. Waits at most `timeout` seconds. May be called twice."""
        if self._loop is None or self._thread is None:
            for each in self._sockets:
                each.close()
            return
        # A loop that has ended cannot be woken.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(self._serve(loop))

    async def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.set_exception_handler(_report)
        peers = Peers(self._limits, loop.time)
        names = {*self._lanes.values(), ""}
        lanes = {name: _Lane(self._handler, self._alike, self._threads, name) for name in names}
        state, config = ServerState(), _configure(_Bridge(peers, lanes, self._lanes), self._limits)

        def connect() -> Peer:
            shared: dict[str, Any] = {}
            inner = H11Protocol(config=config, server_state=state, app_state=shared, _loop=loop)
            # The library hands this on to the application with each request of the connection.
            shared["peer"] = peer = Peer(peers, inner, loop)
            return peer

        acceptor = _Acceptor(peers, connect, loop)
        tasks = [loop.create_task(acceptor.accept(each)) for each in self._sockets]
        tasks += [loop.create_task(acceptor.look_after()), loop.create_task(_until(self._stop))]
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for each in self._sockets:
                each.close()
            for peer in peers:
                peer.abort()
            for lane in lanes.values():
                lane.stop()
            if state.tasks:
                await asyncio.wait(set(state.tasks), timeout=1.0)


async def _until(event: asyncio.Event) -> None:
    await event.wait()


def _configure(app: Callable[..., Any], limits: Limits) -> Config:
    config = Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        interface="asgi3",
        # It would set up logging, and read the environment.
        log_config=None,
        access_log=False,
        workers=1,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        h11_max_incomplete_event_size=limits.request_bytes,
        # `Peers` ends idle connections.
        timeout_keep_alive=int(limits.idle + limits.taking) + 60,
    )
    config.load()
    return config


def _report(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What asyncio has to say: a connection that breaks is nothing to log."""
    error = context.get("exception")
    if not isinstance(error, OSError):
        log.error("an error in the HTTP server; please report it", detail=context.get("message"), exc_info=error)


class _Acceptor:
    """Accepts connections, and looks after those there are."""

    def __init__(self, peers: Peers, connect: Callable[[], Peer], loop: asyncio.AbstractEventLoop) -> None:
        self._peers = peers
        self._connect = connect
        self._loop = loop
        self._failed_at: float | None = None

    async def accept(self, listener: socket.socket) -> None:
        """Accept until cancelled."""
        listener.settimeout(0)
        while True:
            try:
                connection, _ = await self._loop.sock_accept(listener)
            except OSError as error:
                if error.errno != errno.ECONNABORTED:
                    self._failed(error)
                    # Those that were just accepted ask meanwhile; the others' descriptors are for the next ones.
                    await asyncio.sleep(_REST)
                    self._peers.end_idle()
                continue
            try:
                await self._loop.connect_accepted_socket(self._connect, connection)
            except OSError:
                connection.close()

    def _failed(self, error: OSError) -> None:
        if self._failed_at is None:
            log.warning(
                f"cannot accept connections: {error.strerror}; raise the limit of open files (ulimit -n, LimitNOFILE)"
                if error.errno in (errno.EMFILE, errno.ENFILE)
                else f"cannot accept connections: {error.strerror}",
                peers=len(self._peers),
            )
        self._failed_at = self._loop.time()

    async def look_after(self) -> None:
        """End what is overdue, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK)
            self._peers.end_overdue()
            if self._failed_at is not None and self._loop.time() - self._failed_at > _RESOLVED_AFTER:
                self._failed_at = None
                log.info("resolved: connections are accepted again")


@dataclass(frozen=True, slots=True)
class _Job:
    """A request that waits for its answer."""

    request: Request
    peer: Peer
    done: asyncio.Future[Response]


class _Lane:
    """A few threads that answer requests of one kind. Requests that are alike and wait together get one answer."""

    def __init__(self, handler: Handler, alike: Alike, threads: int, name: str) -> None:
        self._handler = handler
        self._alike = alike
        # What waits, the oldest first: the jobs by what they have in common.
        self._waiting: dict[Hashable, list[_Job]] = {}
        self._changed = threading.Condition()
        self._stopped = False
        for _ in range(threads):
            # Not a ThreadPoolExecutor: Python would wait for its threads at the end, and they for what hangs.
            threading.Thread(target=self._work, name=f"answers {name}".strip(), daemon=True).start()

    async def answer(self, request: Request, peer: Peer) -> Response | None:
        """The response, or None where the peer has gone meanwhile."""
        job = _Job(request, peer, asyncio.get_running_loop().create_future())
        self._add([job])
        await asyncio.wait((job.done, peer.lost), return_when=asyncio.FIRST_COMPLETED)
        return job.done.result() if job.done.done() and not peer.lost.done() else None

    def stop(self) -> None:
        """End the threads, each after what it does now."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _add(self, jobs: Sequence[_Job]) -> None:
        with self._changed:
            for job in jobs:
                # Nothing else is equal to a new object.
                key = self._alike(job.request)
                self._waiting.setdefault(object() if key is None else key, []).append(job)
                self._changed.notify()

    def _take(self) -> list[_Job]:
        """The oldest job, and those that are alike; empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopped)
            return [] if self._stopped else self._waiting.pop(next(iter(self._waiting)))

    def _work(self) -> None:
        while jobs := self._take():
            self._do(jobs)
            # An answer can be large. The thread would keep it until the next one.
            del jobs

    def _do(self, jobs: list[_Job]) -> None:
        # Nobody may wait for it any more.
        jobs = [job for job in jobs if not job.peer.lost.done()]
        if not jobs:
            return
        response = _respond(self._handler, jobs[0].request)
        if response.status == HTTPStatus.INTERNAL_SERVER_ERROR:
            # What failed for one may work for the next.
            self._add(jobs[1:])
            del jobs[1:]
        # The server may have stopped meanwhile.
        with contextlib.suppress(RuntimeError):
            for job in jobs:
                job.done.get_loop().call_soon_threadsafe(job.done.set_result, response)


def _respond(handler: Handler, request: Request) -> Response:
    try:
        return handler(request)
    except Exception:
        log.exception("a request failed", path=request.path)
        return Response(500, (_TEXT,), b"internal error; the log says more\n")


class _Bridge:
    """The application as the library calls it (ASGI): one answer at a time for each peer."""

    def __init__(self, peers: Peers, lanes: Mapping[str, _Lane], names: Mapping[str, str]) -> None:
        self._peers = peers
        self._lanes = lanes
        self._names = names

    async def __call__(self, scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        peer: Peer = scope["state"]["peer"]
        # A peer may send its next requests at once. They are looked at when it has read the answer before.
        await peer.taken()
        response = await self._respond(scope, receive, peer)
        if response is None:
            return
        self._peers.make_room(response.body)
        peer.enter(Phase.TAKING, answer=response.body)
        await send({"type": "http.response.start", "status": response.status, "headers": _headers(response)})
        await _send_body(response, send, head=scope["method"] == "HEAD")
        if response.cut:
            peer.close()
            await peer.lost
        await peer.finished()

    async def _respond(self, scope: Any, receive: Callable[[], Any], peer: Peer) -> Response | None:
        limit = self._peers.limits.request_bytes
        if _head_size(scope) > limit:
            return Response(431, (_TEXT, _CLOSE), b"the headers are too large\n")
        headers = _request_headers(scope)
        # Who expects to be asked for the body has not sent it. The library asks once the body is read.
        asks_first = headers.get("expect", "").lower() == "100-continue"
        too_large = asks_first and int(headers.get("content-length", "0")) > limit
        body = None if too_large else await _body(receive, limit)
        peer.enter(Phase.WAITING)
        if body is None:
            return Response(413, (_TEXT, _CLOSE), b"the body is too large\n")
        path, query = _path(scope), scope["query_string"].decode("latin-1")
        lane = self._lanes[self._names.get(path, "")]
        return await lane.answer(Request(scope["method"], path, query, headers, body), peer)


def _head_size(scope: Any) -> int:
    """Bytes of the request line and the headers. The library has a limit, too, but looks only where it needs more."""
    line = len(scope["method"]) + len(scope["raw_path"]) + len(scope["query_string"]) + len(" ? HTTP/1.1\r\n")
    return line + sum(len(name) + len(value) + len(": \r\n") for name, value in scope["headers"])


def _path(scope: Any) -> str:
    """The path of the target, percent-decoded. A client may put scheme and host before it, as it does to a proxy."""
    target: str = scope["raw_path"].decode("ascii")
    absolute = re.match(r"https?://[^/]*", target, re.IGNORECASE)
    return scope["path"] if absolute is None else unquote(target[absolute.end() :]) or "/"


def _request_headers(scope: Any) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


async def _body(receive: Callable[[], Any], limit: int) -> bytes | None:
    """The body of a request, or None where it is too large."""
    body, size, more = bytearray(), 0, True
    while more and size <= _DISCARDED:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        piece, more = message.get("body", b""), message.get("more_body", False)
        size += len(piece)
        if size <= limit:
            body += piece
    return bytes(body) if size <= limit else None


def _headers(response: Response) -> list[tuple[bytes, bytes]]:
    given = {name.lower() for name, _ in response.headers}
    added = [("Content-Length", str(len(response.body))), ("Date", formatdate(usegmt=True))]
    headers = [*response.headers, *(each for each in added if each[0].lower() not in given)]
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]


async def _send_body(response: Response, send: Callable[[Any], Any], *, head: bool) -> None:
    size = 0 if head else len(response.body)
    end = size // 2 if response.cut else size
    for start in range(0, end, _PIECE):
        piece = response.body[start : min(start + _PIECE, end)]
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    if not response.cut:
        await send({"type": "http.response.body", "body": b""})
