"""Every error that the exporter raises on purpose.

    ExporterError
    ├── ConfigError            the configuration is invalid
    ├── StateError             the state file cannot be used
    │   ├── StateLocked        another process has locked it
    │   ├── StateDamaged       it is damaged
    │   └── StateWriteFailed   a transaction failed (full disk, read-only file system)
    ├── InputError             a command's flag or input file is invalid
    ├── HistoryError           the history could not be fetched
    ├── BudgetSpent            no request may be sent yet
    ├── Removed                the configuration does not have it any more
    └── ApiError               a request brought no usable answer
        ├── NoAnswer           DNS, connection, timeout, truncated body
        ├── MalformedAnswer    the answer has an unexpected form
        │   ├── TooLarge       it exceeds the size limit
        │   └── Unhandled      unexpected exception while it was read
        ├── SignInFailed       no token
        └── RefusedError       an HTTP status other than 2xx
            ├── BadRequest     400
            ├── Unauthorized   401
            ├── NotFound       404
            ├── RateLimited    429
            └── ServerError    5xx

Errors of libraries are mapped to these once, where the library is called. A message says where, what, and how
to fix it. No message contains a secret.
"""

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Self


def raised_at(error: BaseException) -> str:
    """Where an exception was raised, such as `poller.py:120`; "" for one that was not raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


class ExporterError(Exception):
    """The base class."""


class ConfigError(ExporterError):
    """The configuration is invalid.

    Attributes:
        errors: One line per error: `path: what is wrong; how to fix it`.
    """

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = tuple(errors)


class StateError(ExporterError):
    """The state file cannot be used."""


class StateLocked(StateError):
    """Another process has locked the state file."""


class StateDamaged(StateError):
    """The state file is damaged."""


class StateWriteFailed(StateError):
    """A transaction failed and was rolled back; the file is unchanged."""


class InputError(ExporterError):
    """A flag's value or an input file of a command is invalid."""


class HistoryError(ExporterError):
    """The history could not be fetched: the API failed for too long, or rejects the account."""


class Removed(ExporterError):
    """The configuration does not have a stream, a media or a merchant any more; what was under way for it is void."""


class BudgetSpent(ExporterError):
    """The request may not be sent yet.

    Attributes:
        wait: Seconds until it may be sent.
    """

    def __init__(self, wait: float) -> None:
        super().__init__(f"the budget allows the next request in {wait:.1f} s")
        self.wait = wait


class ApiError(ExporterError):
    """A request brought no usable answer.

    Attributes:
        code: The label value of `smartstream_api_requests_total`: the HTTP status, or `error` without
            an answer.
    """

    code = "error"


class NoAnswer(ApiError):
    """No complete answer: DNS, connection, timeout, truncated body."""


class MalformedAnswer(ApiError):
    """The answer has an unexpected form; none of it is used."""

    code = "200"


class TooLarge(MalformedAnswer):
    """The answer exceeds the size limit for what was asked; it is not read."""


class Unhandled(MalformedAnswer):
    """An unexpected exception: a bug in the exporter, or out of memory. `__cause__` is the exception."""

    @classmethod
    def by(cls, error: Exception, what: str = "") -> Self:
        """Wrap an unexpected exception.

        Args:
            error: The exception. Its text may quote a secret, so the message has only its type and where it was raised.
            what: What failed, for the message.
        """
        place = raised_at(error)
        at = f" at {place}" if place else ""
        raised = cls(f"{what}{': ' if what else ''}unexpected {type(error).__name__}{at}")
        raised.__cause__ = error
        return raised


class SignInFailed(ApiError):
    """No token: the sign-in failed, or its backoff has not ended. Without a token no other request is possible.

    Attributes:
        refused: Whether the API rejected the account, rather than failed.
        retry_after: As in `RefusedError`.
        wait: Seconds until the next sign-in may be sent.
    """

    def __init__(
        self, message: str, *, code: str, refused: bool, retry_after: float | None = None, wait: float = 0.0
    ) -> None:
        super().__init__(message)
        self.code = code
        self.refused = refused
        self.retry_after = retry_after
        self.wait = wait


class RefusedError(ApiError):
    """The API answered with an HTTP status other than 2xx.

    Attributes:
        retry_after: Seconds from the `Retry-After` header of a 429 or 5xx, or None without one.
    """

    def __init__(self, message: str, *, status: int, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = str(status)
        self.retry_after = retry_after


class BadRequest(RefusedError):
    """400: the API does not accept the request."""


class Unauthorized(RefusedError):
    """401: the API does not accept the token, or not for this request."""


class NotFound(RefusedError):
    """404: no such merchant, media or live event."""


class RateLimited(RefusedError):
    """429."""


class ServerError(RefusedError):
    """5xx: the API failed."""
