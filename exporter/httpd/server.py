"""The HTTP server, for the exporter and for the simulated API.

The application is a plain function from a request to a response. It runs on a few threads; connections are the business
of one more thread, so that a client that is slow to send or to read holds a file descriptor and no thread.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any

import h11
import structlog
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from exporter.httpd.acceptor import Acceptor
from exporter.httpd.address import Address
from exporter.httpd.asgi import AsgiApp, response_headers
from exporter.httpd.connections import Connection, Connections, Limits
from exporter.httpd.messages import Handler, error_response
from exporter.httpd.passwords import PasswordChecker
from exporter.httpd.web_config import WebConfig
from exporter.httpd.workers import CoalesceKey, WorkerPool

log = structlog.get_logger("server")


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
        pools: Mapping[str, str] | None = None,
        coalesce_key: CoalesceKey = lambda _: None,
        threads: int = 2,
        web: WebConfig = WebConfig(),  # noqa: B008 - immutable
    ) -> None:
        """Prepare; `start` begins.

        Args:
            handler: Answers the requests, several at once.
            sockets: Where it listens. They are closed at the end.
            limits: What connections may use.
            pools: Path to the name of its thread pool. Requests in different pools do not wait for each other; paths
                that are not named share one more pool.
            coalesce_key: Requests of one pool with the same key, unless it is None, share one response where they wait
                together. The handler is called after all of them came, so that no response is older than its request.
            threads: How many requests of one pool are answered at once.
            web: TLS, users and headers.
        """
        self._handler = handler
        self._sockets = sockets
        self._limits = limits or Limits()
        self._pools = pools or {}
        self._coalesce_key = coalesce_key
        self._threads = threads
        self._web = web
        host, port = sockets[0].getsockname()[:2]
        self._address = Address("localhost" if ip_address(host).is_unspecified else host, port)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop = asyncio.Event()

    @property
    def address(self) -> Address:
        """Where a client on this machine reaches it; the port is the real one."""
        return self._address

    @property
    def url(self) -> str:
        """Its root, with a final slash, for a client on this machine."""
        return f"http{'s' if self._web.tls else ''}://{self._address}/"

    def configure(self, web: WebConfig) -> None:
        """Use another web configuration from now on. Open connections stay as they are; their requests use the new one.

        For any thread.
        """
        self._web = web

    def start(self) -> None:
        """Serve."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(self._loop,), name="server", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Stop, and abort responses on their way. Waits at most `timeout` seconds. May be called twice."""
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
        connections = Connections(self._limits, loop.time)
        names = {*self._pools.values(), ""}
        pools = {name: WorkerPool(self._handler, self._coalesce_key, self._threads, name) for name in names}
        passwords = PasswordChecker()
        app = AsgiApp(connections, pools, self._pools, passwords, lambda: self._web)
        state, config = ServerState(), _configure(app, self._limits)

        def connect(web: WebConfig) -> Connection:
            shared: dict[str, Any] = {}
            protocol = _Protocol(config=config, server_state=state, app_state=shared, _loop=loop)
            protocol.web = lambda: self._web
            # The library hands this on to the application with each request of the connection.
            shared["connection"] = connection = Connection(connections, protocol, loop, web)
            return connection

        try:
            await self._accept(Acceptor(connections, connect, lambda: self._web, loop))
        finally:
            for each in self._sockets:
                each.close()
            for connection in connections:
                connection.abort()
            for pool in pools.values():
                pool.stop()
            passwords.stop()
            if state.tasks:
                await asyncio.wait(set(state.tasks), timeout=1.0)

    async def _accept(self, acceptor: Acceptor) -> None:
        """Accept connections until `stop` is called, or a task fails, which is raised."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(acceptor.accept(each)) for each in self._sockets]
            tasks.append(group.create_task(acceptor.close_overdue()))
            await self._stop.wait()
            for task in tasks:
                task.cancel()


class _Protocol(H11Protocol):
    """The protocol of the library, with the configured headers on the response to a request that cannot be parsed."""

    web: Callable[[], WebConfig]

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that cannot be parsed."""
        response = error_response(HTTPStatus.BAD_REQUEST, msg, ("Connection", "close"))
        headers = response_headers(response, self.web())
        events = (
            h11.Response(status_code=400, headers=headers),
            h11.Data(data=bytes(response.body)),
            h11.EndOfMessage(),
        )
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()


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
        # `Connections` closes idle connections.
        timeout_keep_alive=int(limits.idle_timeout + limits.response_timeout) + 60,
    )
    config.load()
    return config


def _report(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error that asyncio reports, unless it is only a broken connection."""
    error = context.get("exception")
    if not isinstance(error, OSError):
        log.error(
            "unexpected error in the HTTP server; please report it", detail=context.get("message"), exc_info=error
        )
