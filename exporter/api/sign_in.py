"""Access tokens: when to ask for one, when to renew it, and how long to wait after a refusal.

Tokens are asked for sparingly: too many attempts can lock an account.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from exporter.clock import Clock
from exporter.errors import ApiError, RateLimited, RefusedError, SignInFailed, Unauthorized
from exporter.times import format_instant

# A token is renewed this many seconds before it expires, or a tenth of its life if that is less.
RENEW_BEFORE = 60.0

# Seconds to wait after a failed request for a token, doubled after each further failure up to the longest: if the
# account is refused (which can lock it), and if the API fails.
REFUSED_WAIT, LONGEST_REFUSED_WAIT = 60.0, 900.0
FAILED_WAIT, LONGEST_FAILED_WAIT = 15.0, 240.0

# Statuses that refuse the account, if a token is asked for.
ACCOUNT_REFUSED = ("400", "401", "403", "404")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Token:
    """An access token.

    Attributes:
        value: The token itself.
        expiry: When it expires (Unix seconds), or None if unknown.
        renew_at: When to renew it (Unix seconds), or None to renew it after the first 401.
    """

    value: str = field(repr=False)
    expiry: float | None
    renew_at: float | None


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why there is no token.

    Attributes:
        message: The message of the last failed request.
        code: Its status code.
        refused: Whether the account was refused.
        count: Number of such failures in a row.
        until: No other request before this instant (monotonic seconds).
    """

    message: str
    code: str
    refused: bool
    count: int
    until: float


class _TokenUse:
    """What the newest token was accepted for, and what is refused with any token. Thread-safe."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._token = ""
        self._got_at = 0.0
        # Number of tokens since the last one that was accepted.
        self._unproven = 0
        # What the newest token was accepted for, and what was refused with a new token, too.
        self._accepted: set[str] = set()
        self._refused: set[str] = set()

    def got(self, token: str, now: float) -> None:
        """Note a new token (monotonic seconds)."""
        with self._mutex:
            self._token, self._got_at = token, now
            self._unproven += 1
            self._accepted.clear()

    def accepted(self, what: str, token: str) -> None:
        """Note that a request with this token was accepted."""
        with self._mutex:
            self._refused.discard(what)
            if token == self._token:
                self._unproven = 0
                self._accepted.add(what)

    def refused(self, what: str) -> None:
        """Note that a request was refused with a new token, too."""
        with self._mutex:
            self._refused.add(what)

    def worth_renewing(self, what: str, token: str, now: float) -> bool:
        """Whether a new token may help after a request was refused with this one.

        Args:
            what: What was refused.
            token: The token of the refused request.
            now: Monotonic seconds.
        """
        with self._mutex:
            if token != self._token:
                # Another thread has renewed it.
                return True
            if self._accepted:
                # It was accepted for this request before, or nothing is known that the account may not see.
                return what in self._accepted or not self._refused
            # A token can be revoked before its first use. If each new one is refused, the token is not the cause.
            wait = _wait(self._unproven, REFUSED_WAIT, LONGEST_REFUSED_WAIT)
            return (self._unproven <= 1 and not self._refused) or now >= self._got_at + wait


class SignIn:
    """The access token of one merchant. Thread-safe."""

    def __init__(
        self,
        request: Callable[[], tuple[str, float | None]],
        on_token: Callable[[str], None],
        clock: Clock,
    ) -> None:
        """Ask for no token yet.

        Args:
            request: Asks the API for a token; returns it and its expiry (Unix seconds). Raises ApiError.
            on_token: Called with each new token.
            clock: The time of the API, for the life of a token and the waits between requests.
        """
        self._request = request
        self._on_token = on_token
        self._clock = clock
        self._renewing = threading.Lock()
        self._token: _Token | None = None
        self._use = _TokenUse()
        self._failure: _Failure | None = None
        self._renewals = 0

    @property
    def renewals(self) -> int:
        """Number of tokens that were replaced because they were refused."""
        return self._renewals

    @property
    def expiry(self) -> float | None:
        """When the token expires (Unix seconds), None without a token or if unknown."""
        token = self._token
        return token.expiry if token else None

    def token(self, refused: str | None = None) -> str:
        """A token that is not the refused one and does not expire soon.

        Raises:
            BudgetSpent: A request for a token may not be sent yet.
            ApiError: There is no token.
        """
        # The first of several threads renews it, and the others wait.
        with self._renewing:
            token, now = self._token, self._clock.now()
            if token and (token.value == refused or (token.renew_at is not None and now >= token.renew_at)):
                self._renewals += token.value == refused
                token = self._token = None
            if token is None:
                token = self._token = self._new_token()
            return token.value

    def send_signed(self, what: str, send: Callable[[str], _T]) -> _T:
        """Send a request with a token, and once more with a new one if that may help after a 401.

        Args:
            what: What the request asks for.
            send: Sends it with a token; returns what it brought.

        Raises:
            BudgetSpent: A request may not be sent yet.
            ApiError: There is no token, or what `send` raises.
        """
        token = self.token()
        try:
            return self._accepted(what, send, token)
        except Unauthorized:
            if not self._use.worth_renewing(what, token, self._clock.monotonic()):
                raise
        try:
            return self._accepted(what, send, self.token(refused=token))
        except Unauthorized:
            self._use.refused(what)
            raise

    def _accepted(self, what: str, send: Callable[[str], _T], token: str) -> _T:
        value = send(token)
        self._use.accepted(what, token)
        return value

    def _new_token(self) -> _Token:
        self._raise_while_waiting()
        try:
            value, expiry = self._request()
        except RateLimited:
            raise
        except ApiError as error:
            raise self._failed(error) from error.__cause__
        self._failure = None
        self._on_token(value)
        self._use.got(value, self._clock.monotonic())
        life = expiry - self._clock.now() if expiry is not None else 0.0
        if expiry is None or life <= 0:
            # A new token has not expired: the two clocks differ, so its expiry is useless.
            return _Token(value, None, None)
        return _Token(value, expiry, expiry - min(RENEW_BEFORE, life / 10))

    def _raise_while_waiting(self) -> None:
        failure = self._failure
        wait = failure.until - self._clock.monotonic() if failure is not None else 0.0
        if failure is not None and wait > 0:
            at = format_instant(self._clock.now() + wait)
            message = f"{failure.message}; next attempt at {at}"
            raise SignInFailed(message, code=failure.code, refused=failure.refused, wait=wait)

    def _failed(self, error: ApiError) -> SignInFailed:
        refused = error.code in ACCOUNT_REFUSED
        before = self._failure
        count = before.count + 1 if before is not None and before.refused == refused else 1
        first, longest = (REFUSED_WAIT, LONGEST_REFUSED_WAIT) if refused else (FAILED_WAIT, LONGEST_FAILED_WAIT)
        wait, message = _wait(count, first, longest), str(error)
        self._failure = _Failure(message, error.code, refused, count, self._clock.monotonic() + wait)
        retry_after = error.retry_after if isinstance(error, RefusedError) else None
        return SignInFailed(message, code=error.code, refused=refused, retry_after=retry_after, wait=wait)


def _wait(failures: int, first: float, longest: float) -> float:
    """Seconds to wait after so many failures in a row."""
    # The exponent is bounded, because failures can go on for ever.
    return min(first * 2.0 ** min(failures - 1, 20), longest)
