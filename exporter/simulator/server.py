"""Serves the simulated API over HTTP."""

from typing import Self

from exporter.httpd.address import Address, listen
from exporter.httpd.connections import Limits
from exporter.httpd.server import Server
from exporter.simulator.app import SimulatorApp

# Concurrent requests. A hanging request keeps its thread.
THREADS = 16

LIMITS = Limits(connections=1000, request_bytes=64 * 1024)


class SimulatorServer:
    """An HTTP server with its own threads; as a context manager, it starts and stops.

    Attributes:
        address: Host and port of the listener.
        url: Base URL of the API, for the configuration of a client.

    Raises:
        InputError: Cannot listen on the address.
    """

    def __init__(self, app: SimulatorApp, host: str = "127.0.0.1", port: int = 0) -> None:
        listener = listen(Address(host, port), "--listen-address")
        self.address: tuple[str, int] = (host, listener.getsockname()[1])
        self.url = f"http://{Address(*self.address)}/v1"
        self._app = app
        self._server = Server(app, [listener], limits=LIMITS, threads=THREADS)

    def start(self) -> None:
        """Start to serve."""
        self._app.open()
        self._server.start()

    def stop(self) -> None:
        """Stop serving and close every connection; hanging answers are sent at once. Idempotent."""
        self._app.close()
        self._server.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
