"""The threads that call the handler."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from http import HTTPStatus

import structlog

from exporter.httpd.connections import Connection
from exporter.httpd.messages import Handler, Request, Response, error_response

log = structlog.get_logger("server")

# What requests have in common that may share one response, or None where a request shares with no other.
CoalesceKey = Callable[[Request], Hashable | None]


@dataclass(frozen=True, slots=True)
class _Job:
    """A request that waits for its response."""

    request: Request
    connection: Connection
    done: asyncio.Future[Response]


class WorkerPool:
    """A few threads that answer requests. Requests with the same key that wait together share one response."""

    def __init__(self, handler: Handler, coalesce_key: CoalesceKey, threads: int, name: str) -> None:
        """Start the threads.

        Args:
            handler: Answers the requests, several at once.
            coalesce_key: See `Server`.
            threads: How many requests are answered at once.
            name: Part of the threads' names.
        """
        self._handler = handler
        self._coalesce_key = coalesce_key
        # The waiting jobs by their key, the oldest first.
        self._waiting: dict[Hashable, list[_Job]] = {}
        self._changed = threading.Condition()
        self._stopped = False
        for _ in range(threads):
            # Not a ThreadPoolExecutor: at exit Python would wait for its threads, and they for a handler that hangs.
            threading.Thread(target=self._work, name=f"http {name}".strip(), daemon=True).start()

    async def respond(self, request: Request, connection: Connection) -> Response | None:
        """The response, or None where the connection has been closed meanwhile."""
        job = _Job(request, connection, asyncio.get_running_loop().create_future())
        self._add([job])
        await asyncio.wait((job.done, connection.closed), return_when=asyncio.FIRST_COMPLETED)
        return job.done.result() if job.done.done() and not connection.closed.done() else None

    def stop(self) -> None:
        """End the threads, each after its current request."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _add(self, jobs: Sequence[_Job]) -> None:
        with self._changed:
            for job in jobs:
                key = self._coalesce_key(job.request)
                # Nothing else is equal to a new object.
                self._waiting.setdefault(object() if key is None else key, []).append(job)
                self._changed.notify()

    def _take(self) -> list[_Job]:
        """The oldest job and those with its key; empty once the pool is stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopped)
            return [] if self._stopped else self._waiting.pop(next(iter(self._waiting)))

    def _work(self) -> None:
        while jobs := self._take():
            self._do(jobs)
            # A response can be large, and the thread would hold it until the next one.
            del jobs

    def _do(self, jobs: list[_Job]) -> None:
        jobs = [job for job in jobs if not job.connection.closed.done()]
        if not jobs:
            return
        response = self._call(jobs[0].request)
        if response.status == HTTPStatus.INTERNAL_SERVER_ERROR:
            # What failed for one may work for the next.
            self._add(jobs[1:])
            del jobs[1:]
        # The server may have stopped meanwhile.
        with contextlib.suppress(RuntimeError):
            for job in jobs:
                job.done.get_loop().call_soon_threadsafe(job.done.set_result, response)

    def _call(self, request: Request) -> Response:
        try:
            return self._handler(request)
        except Exception:
            log.exception("HTTP request failed", path=request.path)
            return error_response(HTTPStatus.INTERNAL_SERVER_ERROR, "internal server error, see the log")
