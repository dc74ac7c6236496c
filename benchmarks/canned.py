"""An API in a separate process that answers with very little work, so that a benchmark measures the exporter.

Every minute of every stream has the same plays, every media the same name, every token is valid. With one thread and no
checks, it takes a tenth of the CPU time of the simulator.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import lru_cache
from multiprocessing import get_context
from multiprocessing.connection import Connection

_PROCESSES = get_context("spawn")

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RANGE = re.compile(rb"from=(\d{12})\d\d&to=(\d{12})\d\d")

_TOKEN = b'{"token": "token", "expiration": "2100-01-01T00:00:00.000Z"}'
_MEDIA = b'{"id": "%s", "ref_id": "", "name": "name", "live_event_id": null, "encode_type": "file"}'


@contextlib.contextmanager
def canned_api() -> Iterator[tuple[str, int]]:
    """Run the API while the block runs; yields its URL and its process."""
    ours, theirs = _PROCESSES.Pipe()
    process = _PROCESSES.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    # With this end closed here, the other end shows when the process has died.
    theirs.close()
    try:
        yield f"http://127.0.0.1:{ours.recv()}/v1", process.pid or 0
    finally:
        process.terminate()
        process.join()
        process.close()
        ours.close()


def _serve(connection: Connection) -> None:
    asyncio.run(_listen(connection))


async def _listen(connection: Connection) -> None:
    server = await listen(_answer)
    connection.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


async def listen(answer: Callable[[bytes], bytes], seconds: float = 0.0) -> asyncio.Server:
    """Answer on a port of 127.0.0.1.

    Args:
        answer: Makes a body of a request's path and query.
        seconds: How long each answer takes.
    """
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: _Peer(answer, seconds), "127.0.0.1", 0, backlog=4096)


class _Peer(asyncio.Protocol):
    """One connection for many requests, one at a time."""

    def __init__(self, answer: Callable[[bytes], bytes], seconds: float) -> None:
        self._answer = answer
        self._seconds = seconds
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("a TCP connection can be written to")
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        while (end := self._read.find(b"\r\n\r\n")) >= 0:
            head = self._read[:end]
            length = _LENGTH.search(head)
            end += 4 + (int(length[1]) if length else 0)
            if len(self._read) < end:
                return
            self._read = self._read[end:]
            body = self._answer(head.split(b" ", 2)[1])
            answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
                len(body),
                body,
            )
            if self._seconds:
                asyncio.get_running_loop().call_later(self._seconds, self._transport.write, answer)
            else:
                self._transport.write(answer)


def _answer(target: bytes) -> bytes:
    if requested := _RANGE.search(target):
        return _rows(requested[1].decode(), requested[2].decode(), hourly=b"interval=hour" in target)
    return other_than_rows(target)


def other_than_rows(target: bytes) -> bytes:
    """A media of the catalog, or a token."""
    if b"/medias/" in target:
        return _MEDIA % target.rpartition(b"/")[2]
    return _TOKEN


@lru_cache(maxsize=1024)
def _rows(first: str, last: str, *, hourly: bool) -> bytes:
    """A row for each minute or hour from one minute to another, as in the query."""
    # Local times as the API writes them; minutes can be counted without a zone.
    minute = datetime.strptime(first, "%Y%m%d%H%M")  # noqa: DTZ007
    end = datetime.strptime(last, "%Y%m%d%H%M")  # noqa: DTZ007
    form, plays, step = (
        ("%Y/%m/%d %H", 360, timedelta(hours=1)) if hourly else ("%Y/%m/%d %H:%M", 3, timedelta(minutes=1))
    )
    rows = []
    while minute <= end:
        rows.append(f'{{"date": "{minute:{form}}", "all": {plays + minute.minute % 7}}}')
        minute += step
    return f"[{', '.join(rows)}]".encode()
