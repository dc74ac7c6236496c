"""Serves the simulated API over HTTP."""

import socket
from threading import Event, Thread
from typing import Any, Self, cast

from waitress import wasyncore
from waitress.server import BaseWSGIServer, create_server

from exporter.simulator.app import SimulatorApp

THREADS = 16

# So many seconds the server's thread has to end; it needs a fraction of one.
LONGEST_STOP = 10.0


class SimulatorServer:
    """An HTTP server on a thread of its own; also a context manager that starts and stops it.

    Opening the port raises OSError where that is not possible.

    Attributes:
        address: Host and port it listens on.
        url: The base URL of the API, for a client's configuration.
    """

    def __init__(self, app: SimulatorApp, host: str = "127.0.0.1", port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family)
        self.address: tuple[str, int] = (host, self._socket.getsockname()[1])
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.address[1]}/v1"
        self._app = app
        self._stopping = Event()
        self._sockets: dict[int, Any] = {}
        # A cut answer ends with an OSError on purpose: that is not worth a traceback in the log.
        options: dict[str, Any] = {
            "threads": THREADS,
            "sockets": [self._socket],
            "log_socket_errors": False,
            "connection_limit": 1000,
            "channel_timeout": 60,
            "ident": None,
        }
        # One socket makes one server.
        self._server = cast("BaseWSGIServer", create_server(app, self._sockets, **options))
        self._thread = Thread(target=self._serve, name="simulator", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._app.open()
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and close every connection; answers that hang go on at once. Again is no harm.

        Raises:
            TimeoutError: The thread does not end, which would be a defect.
        """
        self._stopping.set()
        self._app.close()
        if self._thread.is_alive():
            self._server.pull_trigger()
            self._thread.join(LONGEST_STOP)
            if self._thread.is_alive():
                raise TimeoutError(f"the simulated API did not stop within {LONGEST_STOP:g} s")
        self._server.task_dispatcher.shutdown()
        wasyncore.close_all(self._sockets)
        self._socket.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            # The library's own loop has no way to end it from another thread.
            wasyncore.loop(timeout=0.5, map=self._sockets, count=1)
