"""The acceptor of the HTTP server."""

import asyncio
import gc
import socket

import pytest

from exporter.httpd.acceptor import Acceptor
from exporter.httpd.connections import Connection, Connections, Limits
from exporter.httpd.web_config import WebConfig
from tests.support.processes import closed_by_server

WEB = WebConfig()


@pytest.mark.parametrize("turns", range(8))
def test_a_connection_that_comes_at_the_stop_is_closed(turns: int) -> None:
    """Whatever the loop has done with it when accepting is cancelled: the client sees the end, no socket stays open."""

    async def scenario(listener: socket.socket, peer: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        connections = Connections(Limits(), loop.time)
        acceptor = Acceptor(
            connections, lambda web: Connection(connections, asyncio.Protocol(), loop, web), lambda: WEB, loop
        )
        accepting = loop.create_task(acceptor.accept(listener))
        await asyncio.sleep(0)
        peer.connect(listener.getsockname())
        for _ in range(turns):
            await asyncio.sleep(0)
        accepting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await accepting
        listener.close()
        for connection in connections:
            connection.abort()

    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as peer:
        asyncio.run(scenario(listener, peer))
        # An open socket would be reported here, which fails the test.
        gc.collect()
        peer.settimeout(10)
        assert closed_by_server(peer)
