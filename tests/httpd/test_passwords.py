"""Basic authentication, over real sockets."""

import base64
import contextlib
import http.client
import itertools
import select
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator

import bcrypt
import pytest

from exporter.httpd import passwords
from exporter.httpd.connections import Phase
from exporter.httpd.messages import Request
from exporter.httpd.web_config import WebConfig
from tests.support.certificates import PASSWORD, USER, hash_of
from tests.support.processes import PATIENCE, wait_until
from tests.support.served import Served

USERS = WebConfig(users={USER: hash_of(PASSWORD)})


def request(credentials: bytes | None = f"{USER}:{PASSWORD}".encode(), path: str = "/") -> bytes:
    """A request with these credentials on a connection of its own."""
    header = b"" if credentials is None else b"Authorization: Basic " + base64.b64encode(credentials) + b"\r\n"
    return b"GET " + path.encode() + b" HTTP/1.0\r\n" + header + b"\r\n"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The passwords whose hashes are calculated, in order."""
    found: list[bytes] = []
    check = bcrypt.checkpw

    def checkpw(password: bytes, against: bytes) -> bool:
        found.append(password)
        return check(password, against)

    monkeypatch.setattr(bcrypt, "checkpw", checkpw)
    return found


class Held:
    """Hashes that a test holds back.

    Attributes:
        begun: The passwords whose hashes have been begun, in order.
    """

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self._turns = threading.Semaphore(0)
        self._check = bcrypt.checkpw

    def checkpw(self, password: bytes, against: bytes) -> bool:
        """In place of bcrypt's function."""
        self.begun.append(password)
        self._turns.acquire(timeout=PATIENCE)
        return self._check(password, against)

    def finish(self, count: int = 1) -> None:
        """Let some be finished."""
        self._turns.release(count)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """No hash is finished before the test says so."""
    hashes = Held()
    monkeypatch.setattr(bcrypt, "checkpw", hashes.checkpw)
    yield hashes
    hashes.finish(1000)


@pytest.mark.parametrize(
    "credentials",
    [
        None,
        b"",
        USER.encode(),
        f"{USER}:".encode(),
        f"{USER}:wrong".encode(),
        f"nobody:{PASSWORD}".encode(),
        f":{PASSWORD}".encode(),
        b"\xff\xfe:\xff",
        f"{USER}:a\0b".encode(),
        USER.encode() + b":" + b"x" * 5000,
    ],
)
def test_without_the_right_password_nothing_is_served(serve: Callable[..., Served], credentials: bytes | None) -> None:
    """Every path asks for it, with the challenge that browsers and Prometheus understand."""
    served = serve(web=USERS)
    for path in ("/", "/-/healthy", "/no-such-page"):
        head, _, body = served.talk(request(credentials, path)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
        assert b"\r\nwww-authenticate: Basic" in head
        assert body == b"user or password missing or wrong\n"
    assert served.calls == []


@pytest.mark.parametrize("header", [b"Basic", b"Basic !!!", b"Bearer abc", b"Basic YQ", b"Digest a=b"])
def test_another_header_is_no_password(serve: Callable[..., Served], header: bytes) -> None:
    """Headers of other schemes, and ones that are not Base64, are refused."""
    answer = serve(web=USERS).talk(b"GET / HTTP/1.0\r\nAuthorization: " + header + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 401 ")


def test_the_right_password_is_hashed_once(serve: Callable[..., Served], hashed: list[bytes]) -> None:
    """Every later request with it is answered without a hash. The handler does not get the header."""
    served = serve(web=USERS)
    for _ in range(5):
        assert served.talk(request()).endswith(b"fine\n")
    assert hashed == [PASSWORD.encode()]
    assert all("authorization" not in each.headers for each in served.requests)


def test_a_long_password_counts_as_far_as_bcrypt_reads_it(serve: Callable[..., Served]) -> None:
    """That is 72 bytes, as in other exporters."""
    served = serve(web=WebConfig(users={USER: hash_of("x" * 72)}))
    assert served.talk(request(USER.encode() + b":" + b"x" * 80)).endswith(b"fine\n")


@pytest.mark.parametrize("prefix", ["2a", "2b", "2y"])
def test_hashes_of_every_tool_are_understood(serve: Callable[..., Served], prefix: str) -> None:
    """Htpasswd writes 2y, others 2a and 2b."""
    served = serve(web=WebConfig(users={USER: hash_of(PASSWORD).replace("$2b$", f"${prefix}$")}))
    assert served.talk(request()).endswith(b"fine\n")


def test_an_unknown_user_takes_as_long_as_a_known_one(serve: Callable[..., Served], hashed: list[bytes]) -> None:
    """The names of users cannot be found by timing: a hash of the same cost is calculated, and never matches."""
    served = serve(web=USERS)
    for user in ("nobody", USER):
        assert served.talk(request(f"{user}:guess".encode())).startswith(b"HTTP/1.1 401 ")
    assert hashed == [b"guess", b"guess"]
    costs = {"a": "$2b$04$" + "." * 53, "b": "$2b$11$" + "." * 53}
    assert passwords._fake(costs).startswith("$2b$11$")


def test_changed_users_count_at_once(serve: Callable[..., Served]) -> None:
    """A new password replaces the old one also on open connections; a removed user is refused."""
    served = serve(web=USERS)
    connection = http.client.HTTPConnection(served.server.address.host, served.server.address.port, timeout=PATIENCE)

    def status() -> int:
        encoded = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        connection.request("GET", "/", headers={"Authorization": f"Basic {encoded}"})
        response = connection.getresponse()
        response.read()
        return response.status

    with contextlib.closing(connection):
        assert status() == 200
        served.server.configure(WebConfig(users={USER: hash_of("another")}))
        assert status() == 401
        assert served.talk(request(f"{USER}:another".encode())).endswith(b"fine\n")
        served.server.configure(WebConfig(users={"other": hash_of(PASSWORD)}))
        assert status() == 401
        served.server.configure(WebConfig())
        assert status() == 200


def test_wrong_passwords_do_not_delay_a_right_one(serve: Callable[..., Served], held: Held) -> None:
    """While a hash takes for ever and others wait, a password that was right before is right at once."""
    served = serve(web=USERS)
    held.finish()
    assert served.talk(request()).endswith(b"fine\n")
    with contextlib.ExitStack() as stack:
        for number in range(20):
            stack.enter_context(served.connect(request(f"{USER}:{number}".encode())))
        wait_until("one is being hashed", lambda: len(held.begun) == 2)
        for _ in range(5):
            assert served.talk(request()).endswith(b"fine\n")
        assert len(held.begun) == 2


def test_waiting_passwords_are_limited(serve: Callable[..., Served], held: Held) -> None:
    """Above the limit the newest of the longest queue is told to try again: whoever guesses is in his own way, and one
    who signs in as another user gets his turn.
    """
    served = serve(web=WebConfig(users={USER: hash_of(PASSWORD), "guest": hash_of("guest")}))
    with contextlib.ExitStack() as stack:
        stack.enter_context(served.connect(request(f"{USER}:first".encode())))
        wait_until("the first is being hashed", lambda: bool(held.begun))
        peers = [
            stack.enter_context(served.connect(request(f"{USER}:{number}".encode())))
            for number in range(passwords.MOST_WAITING)
        ]
        waiting = passwords.MOST_WAITING + 1
        wait_until("all wait", lambda: sum(each.phase is Phase.HANDLING for each in served.connections) == waiting)
        refused = served.talk(request(f"{USER}:more".encode()))
        assert refused.startswith(b"HTTP/1.1 429 ")
        assert b"\r\nretry-after: 1\r\n" in refused
        guest = stack.enter_context(served.connect(request(b"guest:guest")))
        [evicted], _, _ = select.select(peers, [], [], PATIENCE)
        assert evicted.recv(12) == b"HTTP/1.1 429"
        # The first, one that came before the guest, and the guest's.
        held.finish(3)
        with guest.makefile("rb") as stream:
            assert stream.read().endswith(b"fine\n")


def test_a_client_that_has_gone_is_not_checked(serve: Callable[..., Served], held: Held) -> None:
    """No hash is calculated for a connection that has ended meanwhile."""
    served = serve(web=USERS)
    with served.connect(request(f"{USER}:first".encode())) as first, served.connect() as last:
        wait_until("the first is being hashed", lambda: bool(held.begun))
        for number in range(5):
            gone = served.connect(request(f"{USER}:{number}".encode()))
            wait_until("it has been accepted", lambda: served.connected == 3)
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.close()
            wait_until("it has gone", lambda: served.connected == 2)
        last.sendall(request(f"{USER}:last".encode()))
        held.finish(2)
        for peer in (first, last):
            with peer.makefile("rb") as stream:
                assert stream.readline().startswith(b"HTTP/1.1 401 ")
    assert held.begun == [b"first", b"last"]


def test_one_thread_calculates_hashes_and_only_if_needed(serve: Callable[..., Served]) -> None:
    """Without users there is no such thread, and with many passwords there is one."""

    def threads() -> int:
        return sum(thread.name == "passwords" for thread in threading.enumerate())

    wait_until("those of other tests have ended", lambda: threads() == 0)
    served = serve()
    served.talk(request())
    assert threads() == 0
    served.server.configure(USERS)
    for number in range(5):
        served.talk(request(f"{USER}:{number}".encode()))
    assert threads() == 1


def test_no_text_shows_a_password() -> None:
    """Neither a request nor a configuration shows its secrets when it is printed."""
    printed = repr(Request("GET", "/", headers={"authorization": f"Basic {PASSWORD}"})) + repr(USERS)
    assert PASSWORD not in printed
    assert hash_of(PASSWORD) not in printed


def test_the_checker_keeps_no_password() -> None:
    """What it remembers of a right password is a keyed digest, one for each user."""
    checker = passwords.PasswordChecker()
    digests = [checker._digest(USER, hash_of(word), word.encode()) for word in (PASSWORD, "other")]
    assert len(set(digests)) == len(digests)
    assert all(len(digest) == 32 for digest in digests)
    assert passwords.PasswordChecker()._digest(USER, hash_of(PASSWORD), PASSWORD.encode()) not in digests


def test_the_queues_take_turns() -> None:
    """Of three clients with 1, 2 and 3 waiting passwords, each has its first checked before any has its second."""
    checker = passwords.PasswordChecker()
    queues = {name: [f"{name}{number}" for number in range(count)] for name, count in (("a", 3), ("b", 1), ("c", 2))}
    checker._waiting = {(name, ""): deque(attempts) for name, attempts in queues.items()}  # type: ignore[arg-type]
    taken = [str(checker._take()) for _ in itertools.chain(*queues.values())]
    assert taken == ["a0", "b0", "c0", "a1", "c1", "a2"]
