"""Requests to the API for one merchant: budget, token, errors.

Nothing is retried here, except one request with a new token after a 401: the caller decides when to ask again.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Generic, Protocol, TypeVar
from urllib.parse import quote, urlsplit

from requests.adapters import BaseAdapter

from exporter import __version__
from exporter.api import answers
from exporter.api.connections import Session
from exporter.api.headers import answer_date, retry_after
from exporter.api.json_body import clean
from exporter.api.limits import TOKEN_LIMIT, Limit, catalog_limit, rows_limit
from exporter.api.request_log import Exchange
from exporter.api.sign_in import ACCOUNT_REFUSED, SignIn
from exporter.api.transport import Answer, exchange
from exporter.api.unpacking import unpacked, unpacked_error
from exporter.clock import Clock
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
    Unauthorized,
    Unhandled,
)
from exporter.localtime import local, whole_days, without_doubt
from exporter.model import MinuteRange, Reading, Stream
from exporter.redact import Redactor

# Tokens to redact: the current one, and those that requests in flight may still carry.
_TOKENS_REDACTED = 4

_HEADERS = {
    "Accept": "application/json",
    "Content-Type": "application/json",
    "User-Agent": f"smartstream-exporter/{__version__}",
}

_KINDS: Mapping[int, type[RefusedError]] = {400: BadRequest, 401: Unauthorized, 404: NotFound}

_FIXES = {
    401: "check the account's permissions, api_key, mail_address and password",
    403: "check that the account has the permissions for media and analytics",
    404: "check the ids of the merchant and the media",
    429: "other tools of the merchant share the limit; lower requests_per_minute if this continues",
}
_ACCOUNT_FIX = "check the merchant's id, api_key, mail_address and password"

_T = TypeVar("_T")


class Slot(Protocol):
    """One request's slot in the budget."""

    def done(self) -> None:
        """Report the end of the request, successful or not."""
        ...


class Budget(Protocol):
    """The request budget."""

    def take(self) -> Slot:
        """Take a slot for a request that is sent now. Raises BudgetSpent if none is free."""
        ...

    def refused(self, retry_after: float | None) -> None:
        """Report a 429 of the API, and the seconds that it asks to wait."""
        ...


@dataclass(frozen=True, slots=True)
class _Request(Generic[_T]):
    """A request before it is signed.

    Attributes:
        endpoint: The endpoint, for metrics and messages.
        path: The path below the merchant's.
        read: Parses the body of a successful answer. Raises MalformedAnswer.
        limit: The largest answer to accept.
        query: The parameters.
        account: The body of a request for a token, else None.
        asked: What it asks for, for messages.
        media_id: The media that it is about, or "".
        may_be_missing: Whether a 404 is an answer, and no failure to show.
        empty: What 204, an answer without a body, means; None if it is unusable.
    """

    endpoint: str
    path: str
    read: Callable[[bytes], _T]
    limit: Limit
    query: Mapping[str, str] | None = None
    account: Mapping[str, str] | None = field(default=None, repr=False)
    asked: str = ""
    media_id: str = ""
    may_be_missing: bool = False
    empty: _T | None = None


def _ignore_date(*_: float) -> None:
    """Ignore the API's time."""


class Client:
    """One merchant's requests. Thread-safe."""

    def __init__(
        self,
        api: ApiSettings,
        merchant: MerchantSettings,
        budget: Budget,
        *,
        observe: Callable[[Exchange], None],
        clock: Clock,
        on_date: Callable[[float, float], None] = _ignore_date,
        adapter: BaseAdapter | None = None,
    ) -> None:
        """Send nothing yet.

        Args:
            api: URL, timeout, time zone, proxy and certificates of the API.
            merchant: The merchant.
            budget: Gives a slot for each request.
            observe: Called after every exchange.
            clock: The time of the API, for the life of a token and the waits between requests for one.
            on_date: Called with the `Date` of each usable answer (Unix seconds) and the duration of its exchange.
            adapter: Another transport than the usual one.
        """
        self._api = api
        self._merchant = merchant
        self._budget = budget
        self._observe = observe
        self._on_date = on_date
        self._clock = clock
        self._session = Session(api, adapter)
        self._base = f"{api.url}/merchants/{quote(merchant.id, safe='')}"
        self._sign_in = SignIn(self._request_token, self._redact_token, clock)
        self._tokens = deque[str](maxlen=_TOKENS_REDACTED)
        self._redactor = self._new_redactor()

    @property
    def renewals(self) -> int:
        """Number of tokens that were replaced because they were refused."""
        return self._sign_in.renewals

    @property
    def token_expiry(self) -> float | None:
        """When the token expires (Unix seconds), None without a token or if unknown."""
        return self._sign_in.expiry

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def aggregations(self, stream: Stream, asked: MinuteRange, *, hourly: bool = False) -> Reading:
        """The rows of a stream.

        Args:
            stream: The stream.
            asked: The minutes; for a target by day, all local days that they are in.
            hourly: Whether to ask for one row an hour instead of one a minute.

        Raises:
            BudgetSpent: The request may not be sent yet.
            ApiError: There is no usable answer.
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
        return self._get(
            _Request(
                "aggregations",
                "aggregations",
                lambda body: answers.rows(body, stream, zone, hourly=hourly, hide=self._hide),
                rows_limit(stream, len(sent), hourly=hourly),
                query,
                asked=f"{stream} by hour" if hourly else str(stream),
                media_id=stream.media_id,
                empty=Reading({}),
            )
        )

    def media(self, media_id: str) -> answers.Media:
        """The catalog entry of a media. Raises as `aggregations` does."""
        return self._media(quote(media_id, safe=""), media_id, media_id)

    def media_by_ref(self, ref_id: str, media_id: str = "") -> answers.Media:
        """The catalog entry of the media with a reference id, its media id included. Raises as `aggregations` does.

        Args:
            ref_id: The reference id.
            media_id: The media that it named before, for messages; "" if unknown.

        Raises:
            NotFound: No media has it.
            MalformedAnswer: The answer does not tell the media's id.
        """
        media = self._media(f"ref:{quote(ref_id, safe='')}", f"ref:{ref_id}", media_id, may_be_missing=True)
        if not media.media_id:
            raise MalformedAnswer(f"medias: the media with ref_id {ref_id} has no id")
        return media

    def _media(self, reference: str, asked: str, media_id: str, *, may_be_missing: bool = False) -> answers.Media:
        return self._get(
            _Request(
                "medias",
                f"medias/{reference}",
                lambda body: answers.media(body, hide=self._hide),
                catalog_limit(f"media {asked}"),
                asked=asked,
                media_id=media_id,
                may_be_missing=may_be_missing,
            )
        )

    def live_event(self, live_event_id: str) -> answers.LiveEvent:
        """The state of a live event. Raises as `aggregations` does."""
        path = f"live_events/{quote(live_event_id, safe='')}"
        limit = catalog_limit(f"live event {live_event_id}")
        return self._get(_Request("live_events", path, answers.live_event, limit, asked=live_event_id))

    def _get(self, request: _Request[_T]) -> _T:
        what = f"{request.endpoint} {request.media_id or request.asked}"
        return self._sign_in.send_signed(what, lambda token: self._send(request, token))

    def _request_token(self) -> tuple[str, float | None]:
        account = {
            "mail_address": self._merchant.mail_address,
            "password": self._merchant.password.get_secret_value(),
        }
        return self._send(_Request("auth-token", "auth-token/", answers.token, TOKEN_LIMIT, account=account), None)

    def _redact_token(self, token: str) -> None:
        self._tokens.append(token)
        self._redactor = self._new_redactor()

    def _send(self, request: _Request[_T], token: str | None) -> _T:
        """What a successful answer says. Raises what another one means."""
        headers = {**_HEADERS, "X-Streaks-Api-Key": self._merchant.api_key.get_secret_value()}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
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
                headers=headers,
                params=request.query,
                json=request.account,
            )
        except ApiError as error:
            problem = f"{request.endpoint}: {error}"
            self._report(request, error.code, time.monotonic() - began, problem)
            raise type(error)(problem) from error.__cause__
        except Exception as error:
            raise self._unhandled(request, error, ApiError.code, time.monotonic() - began) from error
        finally:
            slot.done()
        seconds = time.monotonic() - began
        try:
            value = self._read(request, answer)
        except ApiError as error:
            code = error.code if isinstance(error, NoAnswer) else str(answer.status)
            missing = request.may_be_missing and isinstance(error, NotFound)
            self._report(request, code, seconds, "" if missing else str(error))
            raise
        except Exception as error:
            raise self._unhandled(request, error, str(answer.status), seconds) from error
        self._report(request, str(answer.status), seconds)
        date = answer_date(answer.headers)
        if date is not None:
            self._on_date(date, seconds)
        return value

    def _unhandled(self, request: _Request[_T], error: Exception, code: str, seconds: float) -> Unhandled:
        """Report a defect: the request was sent, so it has its code all the same."""
        raised = Unhandled.by(error, request.endpoint)
        self._report(request, code, seconds, str(raised))
        return raised

    def _report(self, request: _Request[_T], code: str, seconds: float, error: str = "") -> None:
        exchange = Exchange(
            self._clock.now(),
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
        """What a successful answer says. Raises what another one means."""
        status = answer.status
        if not 200 <= status < 300:
            raise self._refused(request, answer)
        if status == HTTPStatus.NO_CONTENT and request.empty is not None:
            return request.empty
        try:
            with unpacked(answer, request.limit) as body:
                request.limit.check(body)
                return request.read(body)
        except (MalformedAnswer, NoAnswer) as error:
            kind, problem = type(error), str(error)
        # Outside of the `except`: its error may quote a secret.
        raise kind(self._hide(f"{request.endpoint}: {problem}"))

    def _refused(self, request: _Request[_T], answer: Answer) -> RefusedError:
        """What a status other than 2xx means."""
        status = answer.status
        problem = self._refusal(request.endpoint, answer)
        if request.account is not None and str(status) in ACCOUNT_REFUSED:
            problem += f"; {_ACCOUNT_FIX}"
        elif status in _FIXES:
            problem += f"; {_FIXES[status]}"
        wait = retry_after(answer.headers.get("Retry-After"), self._clock.now())
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            self._budget.refused(wait)
            return RateLimited(problem, status=status, retry_after=wait)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return ServerError(problem, status=status, retry_after=wait)
        return _KINDS.get(status, RefusedError)(problem, status=status)

    def _refusal(self, endpoint: str, answer: Answer) -> str:
        """The API's message for a refusal."""
        if 300 <= answer.status < 400:
            place = _host(self._hide(answer.headers.get("Location", "")))
            return self._hide(f"{endpoint}: {answer.status}, a redirect to {place}, not followed; check api.url")
        # Redacted before parsing, too: a cut text could contain a part of a secret.
        body = self._hide(unpacked_error(answer).decode(errors="replace"))
        message = answers.error_text(body.encode())
        return self._hide(f"{endpoint}: {answer.status} {message}".rstrip())

    def _hide(self, text: str) -> str:
        """A text without this merchant's secrets."""
        return self._redactor.hide(text)

    def _new_redactor(self) -> Redactor:
        merchant = self._merchant
        fixed = (merchant.api_key.get_secret_value(), merchant.password.get_secret_value())
        return Redactor((*fixed, *self._session.secrets, *self._tokens))


def _host(location: str) -> str:
    try:
        return clean(urlsplit(location).netloc.rpartition("@")[2], 80) or "another path"
    except ValueError:
        return "an address that cannot be read"
