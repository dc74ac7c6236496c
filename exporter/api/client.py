"""Requests to the API for one merchant: its budget, its token, its errors.

Nothing is retried here, but for one request with a new token after a 401: the caller decides when to ask again. Tokens
are asked for sparingly, for too many attempts can lock an account.
"""

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Generic, Protocol, TypeVar
from urllib.parse import quote, urlsplit

import requests
from requests.adapters import BaseAdapter
from requests.auth import AuthBase

from exporter import __version__
from exporter.api import answers
from exporter.api.json_body import Limit, clean
from exporter.api.request_log import Exchange
from exporter.api.transport import Answer, exchange, open_session, unpacked, unpacked_error
from exporter.config.settings import ApiSettings, MerchantSettings
from exporter.errors import (
    ApiError,
    BadRequest,
    MalformedAnswer,
    NoAnswer,
    NotFound,
    RateLimited,
    RefusedError,
    ServerError,
    SignInFailed,
    Unauthorized,
    Unhandled,
)
from exporter.localtime import local, whole_days, without_doubt
from exporter.model import DAY_MINUTES, Group, MinuteRange, Reading, Stream
from exporter.redact import Redactor
from exporter.times import format_instant, parse_http_date

# A token is renewed so long before it expires, or a tenth of its life where that is less.
RENEW_BEFORE = 60.0

# After a failed request for a token the next waits so many seconds, twice as long after each further failure, up to the
# longest: where the account is refused, which can lock it, and where the API fails.
REFUSED_WAIT, LONGEST_REFUSED_WAIT = 60.0, 900.0
FAILED_WAIT, LONGEST_FAILED_WAIT = 15.0, 240.0

# How large an answer may be follows from what was asked for. A row has a number, and perhaps some beside it; split by a
# group, one for each label value: there are 250 countries, and as many players and sites as the merchant has. Those may
# be as many as below, in each row that was asked for and some beside them. A label value takes one of JSON's values, or
# three where it is an object with its count. Together there may not be more than what Python makes 100 MiB of: what
# holds more is asked for in shorter ranges.
VALUES_A_ROW, GROUP_VALUES_A_ROW = 100, 10_000
ROWS_BESIDE = 10
MOST_VALUES = 250_000
BYTES_A_VALUE = 64
BYTES_BESIDE = 64 * 1024

# The same of a media or a live event, and of a token.
_OF_CATALOG = (1024 * 1024, 10_000)
_OF_TOKEN = (64 * 1024, 100)

# Tokens whose echo is hidden: the one in use and those that requests on the way may still carry.
_TOKENS_HIDDEN = 4

_HEADERS = {
    "Accept": "application/json",
    "Content-Type": "application/json",
    "User-Agent": f"smartstream-exporter/{__version__}",
}

_KINDS: Mapping[int, type[RefusedError]] = {400: BadRequest, 401: Unauthorized, 404: NotFound}

_MENDS = {
    401: "check the account's permissions, api_key, mail_address and password",
    403: "check that the account has the permissions for media and analytics",
    404: "check the ids of the merchant and the media",
    429: "other tools of the merchant share the limit; lower requests_per_minute if this goes on",
}

# Where a token is asked for, these mean that the account is not accepted.
_ACCOUNT_REFUSED = ("400", "401", "403", "404")
_ACCOUNT_MEND = "check the merchant's id, api_key, mail_address and password"

_T = TypeVar("_T")


class Slot(Protocol):
    """One request's place in the budget."""

    def done(self) -> None:
        """Say that the request has ended, whichever way."""
        ...


class Budget(Protocol):
    """What says whether a request may leave."""

    def take(self) -> Slot:
        """Take a place for a request that leaves now. Raises BudgetSpent where there is none."""
        ...

    def refused(self, retry_after: float | None) -> None:
        """Say that the API answered 429, and how many seconds it wants to be left alone."""
        ...


@dataclass(frozen=True, slots=True)
class _Request(Generic[_T]):
    """A request before it is signed.

    Attributes:
        endpoint: Which part of the API.
        path: Its path below the merchant's.
        read: Reads the body of a good answer. Raises MalformedAnswer.
        limit: How large that may be.
        query: The parameters.
        account: What a request for a token sends, else None.
        asked: What it asks for, in words.
        media_id: The media that it is about, or "".
        nothing: What 204, an answer without a body, says; None where it says nothing that can be used.
    """

    endpoint: str
    path: str
    read: Callable[[bytes], _T]
    limit: Limit
    query: Mapping[str, str] | None = None
    account: Mapping[str, str] | None = field(default=None, repr=False)
    asked: str = ""
    media_id: str = ""
    nothing: _T | None = None


@dataclass(frozen=True, slots=True)
class _Token:
    """An access token.

    Attributes:
        value: What the API knows it by.
        expiry: When it expires (Unix seconds), or None where that is not known.
        renew_at: When to get another (Unix seconds), or None for the first 401.
    """

    value: str = field(repr=False)
    expiry: float | None
    renew_at: float | None


@dataclass(frozen=True, slots=True)
class _SignInFailure:
    """Why there is no token.

    Attributes:
        message: What the newest failed request said.
        code: Its code.
        refused: Whether the account was refused.
        failures: How many such there were in a row.
        until: Until when there is no other request (monotonic seconds).
    """

    message: str
    code: str
    refused: bool
    failures: int
    until: float


class _Standing:
    """How the newest token stands: what is answered with it, and what is refused all the same. Safe for threads."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._token = ""
        self._got_at = 0.0
        # How many tokens were got since one was answered.
        self._unproven = 0
        # What the newest has been answered for, and what has been refused with a new one, too.
        self._answered: set[str] = set()
        self._refused: set[str] = set()

    def got(self, token: str, now: float) -> None:
        """Note a new token, got at a moment (monotonic seconds)."""
        with self._mutex:
            self._token, self._got_at = token, now
            self._unproven += 1
            self._answered.clear()

    def answered(self, what: str, token: str) -> None:
        """Note what was answered with a token."""
        with self._mutex:
            self._refused.discard(what)
            if token == self._token:
                self._unproven = 0
                self._answered.add(what)

    def refused(self, what: str) -> None:
        """Note what was refused with a new token, too."""
        with self._mutex:
            self._refused.add(what)

    def worth_renewing(self, what: str, token: str, now: float) -> bool:
        """Whether what was refused with a token is worth another try with another one.

        Args:
            what: What was refused.
            token: With which token.
            now: Monotonic seconds.
        """
        with self._mutex:
            if token != self._token:
                # Another thread has got the other one.
                return True
            if self._answered:
                # It was good for this a moment ago; or nothing is known yet that the account may not see.
                return what in self._answered or not self._refused
            # A token can be revoked before its first use. Where one after the other is refused, it is not the token.
            wait = _wait(self._unproven, REFUSED_WAIT, LONGEST_REFUSED_WAIT)
            return (self._unproven <= 1 and not self._refused) or now >= self._got_at + wait


class _Credentials(AuthBase):
    """What a request is signed with. As `auth`, so that `requests` looks for no other in ~/.netrc."""

    def __init__(self, api_key: str, token: str | None) -> None:
        self._api_key = api_key
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["X-Streaks-Api-Key"] = self._api_key
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _ignore_date(*_: float) -> None:
    """Nobody asks what the API's time is."""


class Client:
    """One merchant's requests. Safe for use by several threads."""

    def __init__(
        self,
        api: ApiSettings,
        merchant: MerchantSettings,
        budget: Budget,
        *,
        observe: Callable[[Exchange], None],
        on_date: Callable[[float, float], None] = _ignore_date,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        adapter: BaseAdapter | None = None,
    ) -> None:
        """Get ready; nothing is sent yet.

        Args:
            api: Where the API is.
            merchant: Whose requests these are.
            budget: Asked before every request.
            observe: Told of every exchange.
            on_date: Told the `Date` of each answer that can be used (Unix seconds), and how many seconds it took.
            clock: Unix seconds, for the token's life.
            monotonic: Seconds that never go back, for the waits between requests for tokens.
            adapter: The transport, where it is not to be the usual one.
        """
        self._api = api
        self._merchant = merchant
        self._budget = budget
        self._observe = observe
        self._on_date = on_date
        self._clock = clock
        self._monotonic = monotonic
        self._session = open_session(api.url, adapter)
        self._base = f"{api.url}/merchants/{quote(merchant.id, safe='')}"
        self._renewing = threading.Lock()
        self._token: _Token | None = None
        self._tokens = deque[str](maxlen=_TOKENS_HIDDEN)
        self._redactor = self._new_redactor()
        self._standing = _Standing()
        self._sign_in_failure: _SignInFailure | None = None
        self._renewals = 0

    @property
    def renewals(self) -> int:
        """How many tokens have been given up because they were refused."""
        return self._renewals

    @property
    def token_expiry(self) -> float | None:
        """When the token expires (Unix seconds), None without a token or where that is not known."""
        token = self._token
        return token.expiry if token else None

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def aggregations(self, stream: Stream, asked: MinuteRange, *, hourly: bool = False) -> Reading:
        """The rows of a stream.

        Args:
            stream: Which one.
            asked: The minutes; for a target that is by day, all of the local days that they are in.
            hourly: Whether a row is to be an hour of these minutes, instead of one of them.

        Raises:
            BudgetSpent: The request may not leave yet.
            ApiError: There is no answer that can be used.
        """
        by_day, zone = stream.target.by_day, self._api.timezone
        sent = without_doubt(whole_days(asked, zone) if by_day else asked, zone)
        query = {
            "target": str(stream.target),
            "interval": "day" if by_day else "hour" if hourly else "minute",
            "group": str(stream.group),
            "from": local(sent.first, zone).strftime("%Y%m%d%H%M00"),
            "to": local(sent.last, zone).strftime("%Y%m%d%H%M59"),
        }
        if stream.media_id:
            query["media_id"] = stream.media_id
        reading = self._get(
            _Request(
                "aggregations",
                "aggregations",
                lambda body: answers.rows(body, stream, zone, hourly=hourly, hide=self._hide),
                rows_limit(stream, len(sent), hourly=hourly),
                query,
                asked=f"{stream} by hour" if hourly else str(stream),
                media_id=stream.media_id,
                nothing=Reading({}),
            )
        )
        return replace(reading, problems=tuple(self._hide(problem) for problem in reading.problems))

    def media(self, media_id: str) -> answers.Media:
        """What the catalog knows of a media. Raises as `aggregations` does."""
        path = f"medias/{quote(media_id, safe='')}"
        return self._get(
            _Request(
                "medias",
                path,
                lambda body: answers.media(body, hide=self._hide),
                Limit(*_OF_CATALOG, f"media {media_id}"),
                asked=media_id,
                media_id=media_id,
            )
        )

    def live_event(self, live_event_id: str) -> answers.LiveEvent:
        """Whether a live event runs. Raises as `aggregations` does."""
        path = f"live_events/{quote(live_event_id, safe='')}"
        limit = Limit(*_OF_CATALOG, f"live event {live_event_id}")
        return self._get(_Request("live_events", path, answers.live_event, limit, asked=live_event_id))

    def _get(self, request: _Request[_T]) -> _T:
        what = f"{request.endpoint} {request.media_id or request.asked}"
        token = self._valid_token()
        try:
            return self._send_signed(request, what, token)
        except Unauthorized:
            if not self._standing.worth_renewing(what, token, self._monotonic()):
                raise
        token = self._valid_token(refused=token)
        try:
            return self._send_signed(request, what, token)
        except Unauthorized:
            self._standing.refused(what)
            raise

    def _send_signed(self, request: _Request[_T], what: str, token: str) -> _T:
        said = self._send(request, token)
        self._standing.answered(what, token)
        return said

    # ---- tokens ----

    def _valid_token(self, refused: str | None = None) -> str:
        """A token that is not the refused one, nor about to expire."""
        # Of several threads the first renews it, and the others wait for that.
        with self._renewing:
            token = self._token
            if token and (token.value == refused or (token.renew_at is not None and self._clock() >= token.renew_at)):
                self._renewals += token.value == refused
                token = self._token = None
            if token is None:
                token = self._token = self._new_token()
            return token.value

    def _new_token(self) -> _Token:
        account = {
            "mail_address": self._merchant.mail_address,
            "password": self._merchant.password.get_secret_value(),
        }
        self._await_sign_in()
        try:
            limit = Limit(*_OF_TOKEN, "a token")
            value, expiry = self._send(
                _Request("auth-token", "auth-token/", answers.token, limit, account=account), None
            )
        except RateLimited:
            raise
        except ApiError as error:
            raise self._sign_in_failed(error) from error.__cause__
        self._sign_in_failure = None
        self._tokens.append(value)
        self._redactor = self._new_redactor()
        self._standing.got(value, self._monotonic())
        life = expiry - self._clock() if expiry is not None else 0.0
        if expiry is None or life <= 0:
            # A token that is new has not expired: the two clocks differ, so its expiry tells nothing.
            return _Token(value, None, None)
        return _Token(value, expiry, expiry - min(RENEW_BEFORE, life / 10))

    def _await_sign_in(self) -> None:
        """Raise what the newest request for a token failed with, while another may not leave."""
        failure = self._sign_in_failure
        wait = failure.until - self._monotonic() if failure is not None else 0.0
        if failure is not None and wait > 0:
            at = format_instant(self._clock() + wait)
            message = f"{failure.message}; next attempt at {at}"
            raise SignInFailed(message, code=failure.code, refused=failure.refused, wait=wait)

    def _sign_in_failed(self, error: ApiError) -> SignInFailed:
        """Note a failed request for a token."""
        refused = error.code in _ACCOUNT_REFUSED
        before = self._sign_in_failure
        failures = before.failures + 1 if before is not None and before.refused == refused else 1
        first, longest = (REFUSED_WAIT, LONGEST_REFUSED_WAIT) if refused else (FAILED_WAIT, LONGEST_FAILED_WAIT)
        wait, message = _wait(failures, first, longest), str(error)
        self._sign_in_failure = _SignInFailure(message, error.code, refused, failures, self._monotonic() + wait)
        asked = error.retry_after if isinstance(error, RefusedError) else None
        return SignInFailed(message, code=error.code, refused=refused, retry_after=asked, wait=wait)

    # ---- one exchange ----

    def _send(self, request: _Request[_T], token: str | None) -> _T:
        """What a good answer says. Raises what another one means."""
        credentials = _Credentials(self._merchant.api_key.get_secret_value(), token)
        slot = self._budget.take()
        began = time.monotonic()
        try:
            answer = exchange(
                self._session,
                "GET" if request.account is None else "POST",
                f"{self._base}/{request.path}",
                timeout=self._api.timeout,
                limit=request.limit,
                hide=self._hide,
                headers=_HEADERS,
                auth=credentials,
                params=request.query,
                json=request.account,
            )
        except ApiError as error:
            problem = f"{request.endpoint}: {error}"
            self._tell(request, error.code, time.monotonic() - began, problem)
            raise type(error)(problem) from error.__cause__
        except Exception as error:
            raise self._unhandled(request, error, ApiError.code, time.monotonic() - began) from error
        finally:
            slot.done()
        seconds = time.monotonic() - began
        try:
            said = self._read(request, answer)
        except ApiError as error:
            self._tell(request, error.code if isinstance(error, NoAnswer) else str(answer.status), seconds, str(error))
            raise
        except Exception as error:
            raise self._unhandled(request, error, str(answer.status), seconds) from error
        self._tell(request, str(answer.status), seconds)
        date = answer_date(answer.headers)
        if date is not None:
            self._on_date(date, seconds)
        return said

    def _unhandled(self, request: _Request[_T], error: Exception, code: str, seconds: float) -> Unhandled:
        """Note an error that nobody foresaw: a request that was sent has its code all the same."""
        raised = Unhandled.by(error, request.endpoint)
        self._tell(request, code, seconds, str(raised))
        return raised

    def _tell(self, request: _Request[_T], code: str, seconds: float, error: str = "") -> None:
        exchange = Exchange(
            self._clock(),
            self._merchant.id,
            request.endpoint,
            code,
            seconds,
            asked=request.asked,
            media_id=request.media_id,
            error=error,
        )
        self._observe(exchange)

    def _read(self, request: _Request[_T], answer: Answer) -> _T:
        """What a good answer says. Raises what another one means."""
        status = answer.status
        if not 200 <= status < 300:
            raise self._refused(request, answer)
        if status == HTTPStatus.NO_CONTENT and request.nothing is not None:
            return request.nothing
        try:
            with unpacked(answer, request.limit) as body:
                request.limit.check(body)
                return request.read(body)
        except (MalformedAnswer, NoAnswer) as error:
            kind, problem = type(error), str(error)
        # Outside of the `except`: what it held may quote a secret.
        raise kind(self._hide(f"{request.endpoint}: {problem}"))

    def _refused(self, request: _Request[_T], answer: Answer) -> RefusedError:
        """What a status other than 2xx means."""
        status = answer.status
        problem = self._refusal(request.endpoint, answer)
        if request.account is not None and str(status) in _ACCOUNT_REFUSED:
            problem += f"; {_ACCOUNT_MEND}"
        elif status in _MENDS:
            problem += f"; {_MENDS[status]}"
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            wait = retry_after(answer.headers.get("Retry-After"), self._clock())
            self._budget.refused(wait)
            return RateLimited(problem, retry_after=wait)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            wait = retry_after(answer.headers.get("Retry-After"), self._clock())
            return ServerError(problem, status=status, retry_after=wait)
        return _KINDS.get(status, RefusedError)(problem, status=status)

    def _refusal(self, endpoint: str, answer: Answer) -> str:
        """What the API says of its refusal."""
        if 300 <= answer.status < 400:
            place = _host(self._hide(answer.headers.get("Location", "")))
            return self._hide(f"{endpoint}: {answer.status}, a redirect to {place}, not followed; check api.url")
        # Hidden before it is read, too: what is left out of a text for reading could leave the rest of a secret.
        body = self._hide(unpacked_error(answer).decode(errors="replace"))
        said = answers.error_text(body.encode())
        return self._hide(f"{endpoint}: {answer.status} {said}".rstrip())

    def _hide(self, text: str) -> str:
        """A text in which this merchant's secrets are unreadable."""
        return self._redactor.hide(text)

    def _new_redactor(self) -> Redactor:
        merchant = self._merchant
        fixed = (merchant.api_key.get_secret_value(), merchant.password.get_secret_value())
        return Redactor((*fixed, *self._session.secrets, *self._tokens))


def rows_limit(stream: Stream, minutes: int, *, hourly: bool = False) -> Limit:
    """How large an answer with rows of a stream may be.

    Args:
        stream: What is asked for.
        minutes: Of how many minutes.
        hourly: Whether a row is an hour of them.
    """
    unit, length = ("day", DAY_MINUTES) if stream.target.by_day else ("hour", 60) if hourly else ("minute", 1)
    rows = -(-minutes // length)
    a_row = VALUES_A_ROW if stream.group is Group.ALL else GROUP_VALUES_A_ROW
    values = min((rows + ROWS_BESIDE) * a_row, MOST_VALUES)
    asked = f"{rows} {unit}{'s' * (rows != 1)} of {stream}"
    return Limit(BYTES_BESIDE + values * BYTES_A_VALUE, values, asked)


def retry_after(written: str | None, now: float) -> float | None:
    """The seconds that a Retry-After header asks for, None where it does not tell.

    Args:
        written: The header: seconds, or a date.
        now: Unix seconds.
    """
    written = (written or "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", written, re.ASCII):
        return float(written)
    moment = parse_http_date(written)
    # A date that has passed is a clock that differs.
    return moment - now if moment is not None and moment > now else None


def answer_date(headers: Mapping[str, str]) -> float | None:
    """The API's time when it answered (Unix seconds), None where the headers do not say."""
    made = parse_http_date(headers.get("Date", ""))
    # A cache sends the Date of when it got the answer, and how many seconds ago that was.
    age = headers.get("Age", "0").strip()
    return made + int(age) if made is not None and re.fullmatch(r"\d{1,9}", age, re.ASCII) else made


def _wait(failures: int, first: float, longest: float) -> float:
    """Seconds to wait after so many failures in a row."""
    # The exponent is bounded, for they go on for ever.
    return min(first * 2.0 ** min(failures - 1, 20), longest)


def _host(location: str) -> str:
    try:
        return clean(urlsplit(location).netloc.rpartition("@")[2], 80) or "another path"
    except ValueError:
        return "an address that cannot be read"
