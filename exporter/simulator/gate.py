"""Rate limit, tokens and credentials of the simulated API. Thread-safe; time is an argument."""

from collections import defaultdict, deque
from dataclasses import dataclass, field
from threading import Lock
from typing import Literal

from exporter.simulator.catalog import hexadecimal

WINDOW = 60.0


class RateLimit:
    """Counts the requests of each merchant in 60 seconds. A refused request does not count."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._taken: defaultdict[str, deque[float]] = defaultdict(deque)

    def take(self, merchant_id: str, now: float, limit: int, window: Literal["sliding", "fixed"]) -> float | None:
        """Accept a request (None), or return the seconds until the next one is accepted."""
        sliding = window == "sliding"
        start = now - WINDOW if sliding else now // WINDOW * WINDOW
        with self._lock:
            taken = self._taken[merchant_id]
            while taken and (taken[0] < start or (sliding and taken[0] == start)):
                taken.popleft()
            if len(taken) < limit:
                taken.append(now)
                return None
            first = taken[len(taken) - limit] if sliding else start
            return first + WINDOW - now


@dataclass(frozen=True, slots=True)
class Credentials:
    """The accepted credentials; "" accepts any value that is not empty.

    Attributes:
        api_key: The API key.
        mail_address: The account.
        password: The account's password.
    """

    api_key: str = field(default="", repr=False)
    mail_address: str = ""
    password: str = field(default="", repr=False)


def accepts(expected: str, given: object) -> bool:
    """Whether a credential is accepted."""
    return isinstance(given, str) and bool(given) and expected in {"", given}


class Tokens:
    """The valid access tokens, each for one merchant and until its expiry."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._lock = Lock()
        self._issued = 0
        self._good: dict[str, tuple[str, float]] = {}

    def issue(self, merchant_id: str, now: float, life: float) -> tuple[str, float]:
        """Issue a token; returns it with its expiry (Unix seconds)."""
        with self._lock:
            self._good = {token: good for token, good in self._good.items() if good[1] > now}
            self._issued += 1
            token = hexadecimal(self._seed, "token", self._issued, now)
            self._good[token] = (merchant_id, now + life)
            return token, now + life

    def good(self, token: str, merchant_id: str, now: float) -> bool:
        """Whether a token is valid."""
        with self._lock:
            owner, end = self._good.get(token, ("", 0.0))
        return owner == merchant_id and now < end

    def revoke(self, token: str) -> None:
        """Revoke a token."""
        with self._lock:
            self._good.pop(token, None)
