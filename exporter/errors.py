"""Every error that the exporter raises on purpose.

    ExporterError
    ├── ConfigError            the configuration cannot be used
    ├── StateError             the state file cannot be used
    │   ├── StateLocked        another process holds it
    │   ├── NotAStateFile      it is something else, and is left as it is
    │   ├── StateTooNew        a newer release wrote it
    │   ├── StateDamaged       it is not whole
    │   └── StateWriteFailed   a transaction failed (full disk, read-only file system)
    ├── InputError             what a command was given cannot be used
    ├── HistoryError           the history could not be fetched
    ├── BudgetSpent            the request may not leave yet
    └── ApiError               a request did not bring an answer that can be used
        ├── NoAnswer           DNS, connection, timeout, cut body
        ├── MalformedAnswer    an answer that does not read as what was asked for
        │   ├── TooLarge       it is larger than an answer to that can be
        │   └── Unhandled      reading it failed in a way that nobody foresaw
        ├── SignInFailed       no token, whatever the reason
        └── RefusedError       a status other than 2xx
            ├── BadRequest     400
            ├── Unauthorized   401
            ├── NotFound       404
            ├── RateLimited    429
            └── ServerError    5xx

A library's errors are mapped to these once, at the boundary where the library is called. A message says
where, what, and how to mend it; none ever holds a secret.
"""

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Self


class ExporterError(Exception):
    """The root of the tree."""


class ConfigError(ExporterError):
    """The configuration cannot be used.

    Attributes:
        errors: One line for each error: `place: what is wrong; how to fix it`.
    """

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = tuple(errors)


class StateError(ExporterError):
    """The state file cannot be used."""


class StateLocked(StateError):
    """Another process holds the state file."""


class NotAStateFile(StateError):
    """Something else is where the state file should be; it is left as it is."""


class StateDamaged(StateError):
    """The state file is not whole."""


class StateTooNew(StateError):
    """A newer release wrote the state file."""


class StateWriteFailed(StateError):
    """A transaction failed and was rolled back: nothing of it is in the file."""


class InputError(ExporterError):
    """What a command was given cannot be used: a flag's value, or a file."""


class HistoryError(ExporterError):
    """The history could not be fetched: the API failed for too long, or does not let the account in."""


class BudgetSpent(ExporterError):
    """The request may not leave yet.

    Attributes:
        wait: Seconds until it may.
    """

    def __init__(self, wait: float) -> None:
        super().__init__(f"the budget allows the next request in {wait:.1f} s")
        self.wait = wait


class ApiError(ExporterError):
    """A request did not bring an answer that can be used.

    Attributes:
        code: The label value of `smartstream_api_requests_total`: the HTTP status, or `error` when no
            answer came.
    """

    code = "error"


class NoAnswer(ApiError):
    """No whole answer came: DNS, connection, timeout, cut body."""


class MalformedAnswer(ApiError):
    """The answer does not read as what was asked for; nothing of it is used."""

    code = "200"


class TooLarge(MalformedAnswer):
    """The answer is larger than an answer to what was asked can be; it is not read."""


class Unhandled(MalformedAnswer):
    """What was asked for failed in a way that nobody foresaw: a defect of the exporter, or no memory left.

    Its cause is the error.
    """

    @classmethod
    def by(cls, error: Exception, what: str = "") -> Self:
        """Make one.

        Args:
            error: What happened. Its text may quote what is secret, so only its kind is told, and where it was raised.
            what: What failed, for the message.
        """
        frames = traceback.extract_tb(error.__traceback__)
        at = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        raised = cls(f"{what}{': ' if what else ''}unexpected {type(error).__name__}{at}")
        raised.__cause__ = error
        return raised


class SignInFailed(ApiError):
    """No token: the request for one failed, or a new one may not leave yet after that. Nothing else can be asked for.

    Attributes:
        refused: Whether the API refuses the account, as opposed to an API that fails.
        retry_after: As of a `RefusedError`.
        wait: Seconds until the next request for a token may leave.
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
    """The API answered with a status other than 2xx.

    Attributes:
        retry_after: Seconds to wait as a 429 or a 5xx says, or None where it does not.
    """

    def __init__(self, message: str, *, status: int, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = str(status)
        self.retry_after = retry_after


class BadRequest(RefusedError):
    """400: the API cannot do what was asked."""


class Unauthorized(RefusedError):
    """401: the token is not accepted, or not for this."""


class NotFound(RefusedError):
    """404: no such merchant, media or live event."""


class RateLimited(RefusedError):
    """429."""

    def __init__(self, message: str, *, status: int = 429, retry_after: float | None = None) -> None:
        super().__init__(message, status=status, retry_after=retry_after)


class ServerError(RefusedError):
    """5xx: a fault on the other side."""
