"""The HTTP server with clients that misbehave, over real sockets."""

import contextlib
import functools
import itertools
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from exporter.httpd import acceptor
from exporter.httpd.address import Address, listen
from exporter.httpd.connections import Phase
from exporter.httpd.messages import Handler, Request, Response
from exporter.httpd.server import Server
from tests.support.processes import PATIENCE, Program, closed_by_server, get, python, wait_until
from tests.support.served import MEGABYTE, REQUEST, Served


@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n"]
)
def test_a_request_has_a_deadline(serve: Callable[..., Served], sent: bytes) -> None:
    """The connection of a client that sends its headers or its body a byte at a time is closed, however often a byte
    comes.
    """
    served = serve(request_timeout=0.5)
    with served.connect(sent) as peer:
        deadline = time.monotonic() + PATIENCE
        with contextlib.suppress(ConnectionError):
            while not select.select([peer], [], [], 0.1)[0]:
                assert time.monotonic() < deadline
                peer.sendall(b"a")
        assert closed_by_server(peer)
    assert served.calls == []


@pytest.mark.parametrize("sent", [b"", REQUEST])
def test_an_idle_connection_has_a_deadline(serve: Callable[..., Served], sent: bytes) -> None:
    """An idle connection is closed, at its start and after a request."""
    served = serve(idle_timeout=0.5)
    with served.connect(sent) as peer:
        with peer.makefile("rb") as stream:
            answer = stream.read()
        assert answer.endswith(b"fine\n" if sent else b"")


def test_an_unread_response_has_a_deadline(serve: Callable[..., Served]) -> None:
    """The connection of a client that does not read is closed, and its response is dropped."""
    served = serve(lambda request: b"x" * (20 * MEGABYTE if request.path == "/" else 1), response_timeout=0.5)
    with served.connect(REQUEST) as peer:
        wait_until("the handler is called", lambda: "/" in served.calls)
        wait_until("the connection is closed", lambda: served.connected == 0)
        with contextlib.suppress(ConnectionError), peer.makefile("rb") as stream:
            assert len(stream.read()) < 20 * MEGABYTE


def test_a_slow_handler_has_no_deadline(serve: Callable[..., Served]) -> None:
    """The deadlines are those of the client: a handler may be slower than all of them."""

    def slow(_: Request) -> bytes:
        time.sleep(3)
        return b"late\n"

    served = serve(
        lambda request: slow(request) if request.path == "/" else b"",
        idle_timeout=0.5,
        request_timeout=0.5,
        response_timeout=0.5,
    )
    assert served.get().text == "late\n"


def test_pipelined_requests_get_responses_in_order(serve: Callable[..., Served]) -> None:
    """No request is handled before the response to the one before is read; then all get responses."""
    answer = b"x" * MEGABYTE * 8
    served = serve(lambda request: answer if request.path == "/" else b"fine\n")
    with served.connect(REQUEST * 5) as peer:
        wait_until("the first is answered", lambda: "/" in served.calls)
        for _ in range(20):
            assert served.get("/metrics").text == "fine\n"
        assert served.calls.count("/") == 1
        with peer.makefile("rb") as stream:
            for _ in range(5):
                assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
                while stream.readline() != b"\r\n":
                    pass
                assert stream.read(len(answer)) == answer
    assert served.calls.count("/") == 5


def test_unread_responses_are_limited_in_total(serve: Callable[..., Served]) -> None:
    """Above the limit, the connections that have been reading longest are closed, and a client that reads gets its
    response.
    """
    served = serve(lambda _: b"x" * MEGABYTE * 8, unsent_bytes=20 * MEGABYTE)
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(served.connect(REQUEST)) for _ in range(8)]
        wait_until("all have been handled", lambda: len(served.calls) == len(peers))
        wait_until("most are closed", lambda: served.connected <= 2)
        assert served.get().content == b"x" * MEGABYTE * 8


def test_a_shared_response_counts_once(serve: Callable[..., Served]) -> None:
    """It is in memory once, so no connection is closed for it."""
    answer = b"x" * MEGABYTE * 8
    served = serve(lambda _: answer, unsent_bytes=20 * MEGABYTE)
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(served.connect(REQUEST.replace(b"1.1", b"1.0"))) for _ in range(8)]
        wait_until("all have been handled", lambda: len(served.calls) == len(peers))
        for peer in peers:
            with peer.makefile("rb") as stream:
                assert stream.read().endswith(answer)


def _by_path(request: Request) -> str:
    return request.path


def _read(peer: socket.socket) -> bytes:
    with peer.makefile("rb") as stream:
        return stream.read()


def _hold_both_threads(served: Served, stack: contextlib.ExitStack) -> None:
    """Send a request to each thread that it holds until the test releases it."""
    for path in (b"/held/1", b"/held/2"):
        stack.enter_context(served.connect(REQUEST.replace(b" / ", b" " + path + b" ")))
    wait_until("both threads are busy", lambda: len(served.calls) == 2)


def _holding(release: threading.Event, answer: Callable[[Request], bytes]) -> Callable[[Request], bytes]:
    def hold(request: Request) -> bytes:
        if request.path.startswith("/held/"):
            release.wait(PATIENCE)
            return b""
        return answer(request)

    return hold


def test_waiting_requests_with_the_same_key_share_a_response(serve: Callable[..., Served]) -> None:
    """The response is created once, after the last of the requests came; a request with another key gets its own."""
    release, number = threading.Event(), itertools.count(1)
    served = serve(_holding(release, lambda _: b"number %d\n" % next(number)), coalesce_key=_by_path)
    with contextlib.ExitStack() as stack:
        stack.callback(release.set)
        _hold_both_threads(served, stack)
        next(number)
        sent = [REQUEST.replace(b"1.1", b"1.0")] * 20 + [b"GET /other HTTP/1.0\r\n\r\n"]
        peers = [stack.enter_context(served.connect(each)) for each in sent]
        wait_until("all wait", lambda: _waiting(served) == 21)
        release.set()
        answers = [_read(peer).rpartition(b"\r\n\r\n")[2] for peer in peers]
    assert sorted(served.calls[2:]) == ["/", "/other"]
    assert len(set(answers[:20])) == 1
    assert answers[20] != answers[0]
    assert b"number 1\n" not in answers


def test_a_response_is_never_older_than_its_request(serve: Callable[..., Served]) -> None:
    """A request that comes while a response is being created gets a newer one."""
    begun, release = threading.Event(), threading.Event()
    number = itertools.count(1)

    def count(request: Request) -> bytes:
        mine = next(number)
        if request.path == "/" and not begun.is_set():
            begun.set()
            release.wait(PATIENCE)
        return b"number %d\n" % mine

    served = serve(lambda request: b"" if request.path == "/first" else count(request), coalesce_key=_by_path)
    with served.connect(REQUEST.replace(b"1.1", b"1.0")) as peer:
        assert begun.wait(PATIENCE)
        assert served.get().text == "number 2\n"
        release.set()
        assert _read(peer).endswith(b"number 1\n")


def test_a_failure_is_not_shared(serve: Callable[..., Served]) -> None:
    """If it fails for one request, the other waiting ones are tried again."""
    release, number = threading.Event(), itertools.count()

    def fail_first(_: Request) -> bytes:
        if next(number) == 0:
            raise RuntimeError("only once")
        return b"fine\n"

    served = serve(
        _holding(release, lambda request: b"" if request.path == "/first" else fail_first(request)),
        coalesce_key=_by_path,
    )
    with contextlib.ExitStack() as stack:
        stack.callback(release.set)
        _hold_both_threads(served, stack)
        peers = [stack.enter_context(served.connect(REQUEST.replace(b"1.1", b"1.0"))) for _ in range(10)]
        wait_until("all wait", lambda: _waiting(served) == 10)
        release.set()
        statuses = sorted(_read(peer)[:12] for peer in peers)
    assert statuses == [b"HTTP/1.1 200"] * 9 + [b"HTTP/1.1 500"]


def _waiting(served: Served) -> int:
    """The number of requests that wait for a response, apart from those that hold the threads."""
    return sum(each.phase is Phase.HANDLING for each in served.connections) - 2


def test_at_the_limit_the_longest_idle_connections_are_closed(serve: Callable[..., Served]) -> None:
    """Any number of clients that send nothing or half a header do not block a scrape; a connection with a request in
    progress stays.
    """
    begun, go_on = threading.Event(), threading.Event()

    def wait(request: Request) -> bytes:
        if request.path == "/slow":
            begun.set()
            go_on.wait(PATIENCE)
        return b"fine\n"

    served = serve(wait, connections=10)
    with contextlib.ExitStack() as stack:
        slow = stack.enter_context(served.connect(b"GET /slow HTTP/1.0\r\n\r\n"))
        assert begun.wait(PATIENCE)
        peers = [stack.enter_context(served.connect(b"GET / HTTP" * (number % 2))) for number in range(50)]
        for _ in range(3):
            assert served.get("/metrics").text == "fine\n"
        assert served.connected <= 10
        assert closed_by_server(peers[0])
        go_on.set()
        with slow.makefile("rb") as stream:
            assert stream.read().endswith(b"fine\n")


def test_one_pool_does_not_wait_for_another(serve: Callable[..., Served]) -> None:
    """While every thread for pages hangs, probes and metrics respond."""
    release = threading.Event()

    def hang(request: Request) -> bytes:
        if request.path == "/":
            release.wait(PATIENCE)
        return b"fine\n"

    served = serve(hang, pools={"/-/healthy": "probes", "/metrics": "metrics"})
    with contextlib.ExitStack() as stack:
        stack.callback(release.set)
        for _ in range(5):
            stack.enter_context(served.connect(REQUEST))
        wait_until("the pages hang", lambda: served.calls.count("/") == 2)
        assert served.get("/-/healthy").ok
        assert served.get("/metrics").ok


def test_nothing_is_rendered_for_disconnected_clients(serve: Callable[..., Served]) -> None:
    """A request whose client disconnects while it waits is not rendered."""
    release = threading.Event()

    def hang(request: Request) -> bytes:
        if request.path == "/":
            release.wait(PATIENCE)
        return b"fine\n"

    served = serve(hang, pools={"/metrics": "metrics"})
    with contextlib.ExitStack() as stack:
        stack.callback(release.set)
        for _ in range(2):
            stack.enter_context(served.connect(REQUEST))
        wait_until("both threads hang", lambda: served.calls.count("/") == 2)
        for _ in range(5):
            gone = stack.enter_context(served.connect(REQUEST.replace(b" / ", b" /gone ")))
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.close()
        assert served.get("/metrics").ok
        wait_until("the clients have disconnected", lambda: served.connected <= 2)
        release.set()
        assert served.get("/other").ok
    assert "/gone" not in served.calls


def test_a_client_may_half_close_and_read_on(serve: Callable[..., Served]) -> None:
    """A response under way is sent completely; then the connection is closed."""
    served = serve(lambda _: b"x" * MEGABYTE * 8)
    with served.connect(REQUEST) as peer, peer.makefile("rb") as stream:
        assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
        peer.shutdown(socket.SHUT_WR)
        assert stream.read().endswith(b"x" * MEGABYTE * 8)


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("requests", [1, 3])
def test_a_half_closed_client_gets_responses(serve: Callable[..., Served], version: bytes, requests: int) -> None:
    """As with `nc -N`, all requests get their responses, then the connection is closed."""
    served = serve(lambda _: b"fine\n")
    with served.connect(REQUEST.replace(b"1.1", version) * requests) as peer:
        peer.shutdown(socket.SHUT_WR)
        assert _read(peer).count(b"\r\n\r\nfine\n") == (1 if version == b"1.0" else requests)
        wait_until("it is dropped", lambda: served.connected == 0)


def test_a_half_closed_client_gets_a_late_response(serve: Callable[..., Served]) -> None:
    """A client may half-close while it waits, and waits as long as the response takes."""
    release = threading.Event()
    served = serve(_holding(release, lambda _: b"fine\n"))
    with contextlib.ExitStack() as stack:
        stack.callback(release.set)
        _hold_both_threads(served, stack)
        peer = stack.enter_context(served.connect(REQUEST))
        wait_until("it waits", lambda: _waiting(served) == 1)
        peer.shutdown(socket.SHUT_WR)
        wait_until("the end is read", lambda: any(each.half_closed for each in served.connections))
        release.set()
        assert _read(peer).endswith(b"fine\n")


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", REQUEST[:-2], b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"]
)
def test_half_a_request_closes_the_connection(serve: Callable[..., Served], sent: bytes) -> None:
    """If the rest cannot come any more, the server does not wait for it."""
    served = serve(lambda _: b"fine\n")
    with served.connect(sent) as peer:
        peer.shutdown(socket.SHUT_WR)
        assert closed_by_server(peer)
    assert served.calls == []


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"http://127.0.0.1:10077/-/healthy", "/-/healthy", ""),
        (b"HTTPS://example.com/a%20b?c=%20d", "/a b", "c=%20d"),
        (b"http://example.com", "/", ""),
        (b"http://example.com?a=/b", "/", "a=/b"),
        (b"//example.com/x", "//example.com/x", ""),
    ],
)
def test_a_target_may_contain_the_server(serve: Callable[..., Served], target: bytes, path: str, query: str) -> None:
    """Scheme and host before the path are ignored."""
    seen: list[Request] = []

    def record(request: Request) -> bytes:
        seen.append(request)
        return b"fine\n"

    served = serve(record)
    with served.connect(REQUEST.replace(b" / ", b" " + target + b" ").replace(b"1.1", b"1.0")) as peer:
        assert _read(peer).endswith(b"fine\n")
    assert (seen[-1].path, seen[-1].query) == (path, query)


@pytest.mark.parametrize(("size", "answer"), [(20_000, b"HTTP/1.1 413 "), (5, b"HTTP/1.1 100 ")])
def test_expect_continue_is_answered_at_once(serve: Callable[..., Served], size: int, answer: bytes) -> None:
    """A body that is too large is refused before it is sent; for any other the client gets 100 Continue."""
    served = serve()
    head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % size
    with served.connect(head) as peer, peer.makefile("rb") as stream:
        assert stream.readline().startswith(answer)
        if size == 5:
            peer.sendall(b"12345")
            assert stream.readline() == b"\r\n"
            assert stream.readline().startswith(b"HTTP/1.1 200 ")
        else:
            assert stream.read().endswith(b"request body too large\n")
    assert served.calls == (["/"] if size == 5 else [])


@pytest.mark.parametrize(
    ("size", "status"), [(16 * 1024, b"200"), (16 * 1024 + 1, b"431"), (32_000, b"431"), (70_000, b"400")]
)
@pytest.mark.parametrize("where", ["header", "target"])
def test_headers_have_a_limit(serve: Callable[..., Served], size: int, status: bytes, where: str) -> None:
    """The limit holds wherever the bytes are, and however they arrive."""
    served = serve()
    filler = b"GET /?%b HTTP/1.0\r\nX: %b\r\n"
    left = b"x" * (size - len(filler % (b"", b"")))
    sent = (filler % ((b"", left) if where == "header" else (left, b""))) + b"\r\n"
    with served.connect() as peer:
        # The server may refuse before it has read everything.
        with contextlib.suppress(ConnectionError):
            peer.sendall(sent)
        if status != b"400":
            assert _read(peer).startswith(b"HTTP/1.1 " + status)
        else:
            with contextlib.suppress(ConnectionError):
                assert _read(peer).startswith(b"HTTP/1.1 400")
    assert served.calls == (["/"] if status == b"200" else [])


def test_several_sockets_are_served() -> None:
    """One server listens on several sockets, and closes them all."""
    sockets = [listen(Address("127.0.0.1", 0), "--flag") for _ in range(2)]
    ports = [each.getsockname()[1] for each in sockets]
    server = Server(lambda _: Response(200, (), b"fine"), sockets)
    server.start()
    try:
        assert [get(f"http://127.0.0.1:{port}/").text for port in ports] == ["fine", "fine"]
    finally:
        server.stop()
    for port in ports:
        listen(Address("127.0.0.1", port), "--flag").close()


def test_a_failing_handler_is_one_line(serve: Callable[..., Served]) -> None:
    """An exception is a 500 without details, and a log line."""

    def fail(request: Request) -> bytes:
        if request.path == "/":
            raise RuntimeError("the inside of the program")
        return b""

    served = serve(fail)
    with structlog.testing.capture_logs() as lines:
        answer = served.get()
    assert (answer.status_code, answer.text) == (500, "internal server error, see the log\n")
    assert [(line["event"], line["path"]) for line in lines] == [("HTTP request failed", "/")]


def test_every_response_has_a_date(serve: Callable[..., Served]) -> None:
    """That includes responses that do not come from the application."""
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", serve().get().headers["Date"])


def test_stop_is_quick_whatever_clients_do(serve: Callable[..., Served]) -> None:
    """Clients that read nothing, send half a request, or wait for a hanging response do not delay the stop."""
    release = threading.Event()

    def hang(request: Request) -> bytes:
        if request.path == "/":
            release.wait(PATIENCE)
        return b"x" * 8 * MEGABYTE

    served = serve(hang)
    with contextlib.ExitStack() as stack:
        stack.callback(release.set)
        for sent in (b"", b"GET / HT", REQUEST, REQUEST.replace(b" / ", b" /large ") * 20):
            stack.enter_context(served.connect(sent))
        wait_until("they are there", lambda: {"/", "/large"} <= set(served.calls))
        with structlog.testing.capture_logs() as lines:
            served.server.stop(timeout=PATIENCE)
        assert "server" not in {thread.name for thread in threading.enumerate()}
        assert not release.is_set()
        assert lines == []


def test_connections_send_at_once_and_buffer_little() -> None:
    """The parts of a response do not wait for each other on the wire, and the system buffers little for a client."""
    with listen(Address("127.0.0.1", 0), "--flag") as listener:
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        # Linux doubles the requested size.
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= MEGABYTE


FEW_DESCRIPTORS = """
import os, resource, sys, time
from exporter import logs
from exporter.httpd.address import Address, listen
from exporter.httpd.messages import Response
from exporter.httpd.server import Server
logs.setup()
server = Server(lambda _: Response(200, (), b"fine"), [listen(Address("127.0.0.1", 0), "--flag")])
server.start()
print(f"port {server.address.port}", flush=True)
time.sleep(1)
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 10, hard))
print("limited", flush=True)
sys.stdin.read()
time.sleep(1000)
"""


def test_without_descriptors_it_backs_off_and_closes_idle_connections(tmp_path: Path) -> None:
    """If no file descriptor is left, a scrape still succeeds; that is one log line, and nearly no CPU time."""
    with Program(python("-c", FEW_DESCRIPTORS), tmp_path) as program, contextlib.ExitStack() as stack:
        port = int(program.line(r"port (\d+)")[1])
        program.line("limited")
        address = ("127.0.0.1", port)
        for _ in range(100):
            stack.enter_context(socket.create_connection(address, PATIENCE))
        for _ in range(3):
            assert get(f"http://127.0.0.1:{port}/").text == "fine"
        before = _cpu(program.pid)
        time.sleep(2)
        assert _cpu(program.pid) - before < 1.0
        assert len(program.lines) == 3
        assert "cannot accept connections: Too many open files; raise the limit" in program.lines[-1]


def _cpu(pid: int) -> float:
    """The CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_accepting_again_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A problem with accepting is resolved after some time without it; the start and the end are logged once each."""
    monkeypatch.setattr(acceptor, "BACKOFF", 0.0)
    monkeypatch.setattr(acceptor, "CHECK_EVERY", 0.05)
    monkeypatch.setattr(acceptor, "RESOLVED_AFTER", 0.2)
    left = [OSError(24, "Too many open files")] * 5

    class Failing(socket.socket):
        def accept(self) -> Any:
            if left:
                raise left.pop()
            return super().accept()

    real = listen(Address("127.0.0.1", 0), "--flag")
    listener = Failing(real.family, real.type, real.proto, real.detach())
    handler: Handler = functools.partial(lambda response, _: response, Response(200, (), b"fine"))
    server = Server(handler, [listener])
    with structlog.testing.capture_logs() as lines:
        server.start()
        try:
            assert get(f"http://{server.address}/").text == "fine"
            wait_until("it is resolved", lambda: len(lines) == 2)
        finally:
            server.stop()
    assert [line["event"] for line in lines] == [
        "cannot accept connections: Too many open files; raise the limit of open files (ulimit -n, LimitNOFILE)",
        "resolved: accepting connections again",
    ]
