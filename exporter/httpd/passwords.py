"""Checks the users and passwords of basic authentication, without ever making a scrape wait for a hash.

A bcrypt hash takes a processor for a tenth of a second or more. One thread calculates them, one at a time. A password
that was right once is right at once from then on. Each client and user has a queue of its own, and they take turns:
whoever guesses passwords waits for himself.
"""

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import secrets
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

import bcrypt

from exporter.httpd.connections import Connection

# Passwords that wait to be checked. At the limit the longest queue loses its newest.
MOST_WAITING = 64

# What bcrypt uses of a password; the library refuses more, others ignore it.
_BCRYPT_BYTES = 72

# The client's address, and the user if there is one of that name.
_Queue = tuple[str, str]


class Verdict(Enum):
    """The result of a check."""

    RIGHT = auto()
    WRONG = auto()
    BUSY = auto()
    """Too many others wait to be checked."""


@dataclass(slots=True, eq=False, repr=False)
class _Attempt:
    """A password that waits to be checked.

    Attributes:
        user: The user.
        password: The password.
        hashed: The user's hash; a fake one if there is no such user, so that the answer takes as long.
        exists: Whether there is such a user.
        connection: The client's connection.
        verdict: The result, once it is known.
    """

    user: str
    password: bytes
    hashed: str
    exists: bool
    connection: Connection
    verdict: asyncio.Future[Verdict]


class PasswordChecker:
    """Checks passwords. `check` is for the loop's thread only."""

    def __init__(self) -> None:
        # A digest of what was right last for each user. The key is random, so it is of no use outside of this process.
        self._key = secrets.token_bytes(32)
        self._right: dict[str, bytes] = {}
        # The one whose turn it is first.
        self._waiting: dict[_Queue, deque[_Attempt]] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self._thread: threading.Thread | None = None

    async def check(self, authorization: str, users: Mapping[str, str], client: str, by: Connection) -> Verdict:
        """Check the header of a request.

        Args:
            authorization: The header; "" where it is missing.
            users: User to bcrypt hash; not empty.
            client: The client's address.
            by: The client's connection.
        """
        credentials = _parse(authorization)
        if credentials is None:
            return Verdict.WRONG
        user, password = credentials
        hashed = users.get(user)
        if hashed is not None and self._was_right(user, self._digest(user, hashed, password)):
            return Verdict.RIGHT
        verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        attempt = _Attempt(user, password, hashed or _fake(users), hashed is not None, by, verdict)
        refused = self._add((client, user if hashed is not None else ""), attempt)
        if refused is not None and not refused.verdict.done():
            refused.verdict.set_result(Verdict.BUSY)
        await asyncio.wait((verdict, by.closed), return_when=asyncio.FIRST_COMPLETED)
        return verdict.result() if verdict.done() else Verdict.WRONG

    def stop(self) -> None:
        """End the thread after its current check."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _digest(self, user: str, hashed: str, password: bytes) -> bytes:
        known = b"\0".join((user.encode("utf-8", "surrogateescape"), hashed.encode(), password))
        return hmac.digest(self._key, known, hashlib.sha256)

    def _was_right(self, user: str, digest: bytes) -> bool:
        return hmac.compare_digest(self._right.get(user, b""), digest)

    def _add(self, queue: _Queue, attempt: _Attempt) -> _Attempt | None:
        """Add an attempt, and return the one that has to go for it, if any."""
        refused = None
        with self._changed:
            self._waiting.setdefault(queue, deque()).append(attempt)
            if sum(map(len, self._waiting.values())) > MOST_WAITING:
                longest = max(self._waiting, key=lambda each: len(self._waiting[each]))
                refused = self._waiting[longest].pop()
            if self._thread is None:
                # Not before it is needed. A daemon thread, as a hash may take longer than the stop of the process.
                self._thread = threading.Thread(target=self._work, name="passwords", daemon=True)
                self._thread.start()
            self._changed.notify()
        return refused

    def _take(self) -> _Attempt | None:
        """The next attempt; None once stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopped)
            if self._stopped:
                return None
            queue = next(iter(self._waiting))
            attempts = self._waiting.pop(queue)
            attempt = attempts.popleft()
            if attempts:
                self._waiting[queue] = attempts
            return attempt

    def _work(self) -> None:
        while attempt := self._take():
            if attempt.connection.closed.done():
                continue
            verdict = self._judge(attempt)
            # The server may have stopped meanwhile.
            with contextlib.suppress(RuntimeError):
                attempt.verdict.get_loop().call_soon_threadsafe(_settle, attempt.verdict, verdict)

    def _judge(self, attempt: _Attempt) -> Verdict:
        digest = self._digest(attempt.user, attempt.hashed, attempt.password)
        if attempt.exists and self._was_right(attempt.user, digest):
            return Verdict.RIGHT
        if not _matches(attempt.password, attempt.hashed) or not attempt.exists:
            return Verdict.WRONG
        self._right[attempt.user] = digest
        return Verdict.RIGHT


def _settle(future: asyncio.Future[Verdict], verdict: Verdict) -> None:
    if not future.done():
        future.set_result(verdict)


def _parse(authorization: str) -> tuple[str, bytes] | None:
    """The user and the password in a header, or None."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except binascii.Error:
        return None
    return (user.decode("utf-8", "surrogateescape"), password) if colon else None


def _matches(password: bytes, hashed: str) -> bool:
    try:
        return bcrypt.checkpw(password[:_BCRYPT_BYTES], hashed.encode())
    except ValueError:
        # A password that no hash can be of.
        return False


def _fake(users: Mapping[str, str]) -> str:
    """A hash that takes as long as the slowest of the users' and that nothing has."""
    cost = max(hashed.split("$")[2] for hashed in users.values())
    return f"$2b${cost}${'.' * 53}"
