import gzip
import json
import logging
import re
import socket
import threading
import time
import traceback
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import requests
from pydantic import SecretStr
from requests.adapters import BaseAdapter, HTTPAdapter

from exporter import __version__
from exporter.api import answers, transport, unpacking
from exporter.api.client import Client
from exporter.api.headers import retry_after
from exporter.api.limits import Limit, rows_limit
from exporter.api.request_log import Exchange
from exporter.clock import SystemClock
from exporter.config.settings import ApiSettings, MerchantSettings
from exporter.errors import (
    ApiError,
    BadRequest,
    BudgetSpent,
    MalformedAnswer,
    NoAnswer,
    NotFound,
    RateLimited,
    RefusedError,
    ServerError,
    SignInFailed,
    TooLarge,
    Unauthorized,
    Unhandled,
)
from exporter.model import Group, Minute, MinuteRange, Reading, Stream, Target, minute_of
from tests.support.fakes import FakeClock
from tests.support.peer import CERTIFICATE, Peer, Request, Script, drip, reply

TOKYO = ZoneInfo("Asia/Tokyo")
API_KEY = "k3y-0123456789"
PASSWORD = 'p4ss "w\\rd" 0123456789'
PLAYS = Stream("m1", "", Target.PLAY_COUNT, Group.ALL)

Answer = bytes | Script
# A request with it waits for as long as a slow machine needs, and one that is to time out does so soon.
PATIENT, HASTY = 60.0, 0.2


def at(*when: int) -> Minute:
    return minute_of(datetime(*when, tzinfo=TOKYO).timestamp())  # type: ignore[misc, arg-type]


AT = at(2018, 12, 1, 14, 34)
ASKED = MinuteRange(AT, AT + 1)
ROWS = reply(200, [{"date": "2018/12/01 14:34", "all": 10}])


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the environment of the machine says of proxies and passwords does not matter."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "requests_ca_bundle", "curl_ca_bundle"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


class FakeSlot:
    """A place in a budget that counts how often it was given back."""

    def __init__(self) -> None:
        self.ended = 0

    def done(self) -> None:
        self.ended += 1


class FakeBudget:
    """A budget that counts.

    Attributes:
        left: Requests that may still leave.
        slots: What was taken.
        refusals: What the API wanted to wait at each 429.
    """

    def __init__(self, left: int = 1000) -> None:
        self.left = left
        self.slots: list[FakeSlot] = []
        self.refusals: list[float | None] = []

    def take(self) -> FakeSlot:
        if self.left == len(self.slots):
            raise BudgetSpent(7.0)
        slot = FakeSlot()
        self.slots.append(slot)
        return slot

    def refused(self, retry_after: float | None) -> None:
        self.refusals.append(retry_after)


class HastyClock(SystemClock):
    """A clock with the wall time of another one, whose waits are real."""

    def __init__(self, wall: FakeClock) -> None:
        super().__init__()
        self.now = wall.now  # type: ignore[method-assign]  # of the other clock


class Api:
    """A peer that gives out tokens and answers everything else as a test says.

    Attributes:
        answer: What the calls answer.
        token: What a request for a token answers, with `{n}` for its number.
        life: Seconds that tokens are good for.
        clock: The time of both sides.
        budget: The client's.
        exchanges: What the client told of its exchanges.
    """

    def __init__(self, *, tls: bool = False) -> None:
        self.answer: Callable[[Request], Answer] = lambda _: ROWS
        self.token: Callable[[int], Answer] = lambda n: reply(
            200, {"token": f"t0ken-{n}-0123456789", "expiration": self.expiration()}
        )
        self.life = 3600.0
        self.clock = FakeClock()
        self.budget = FakeBudget()
        self.exchanges: list[Exchange] = []
        self.tokens = 0
        self.peer = Peer(self._answer, tls=tls)

    def expiration(self) -> str:
        return datetime.fromtimestamp(self.clock.wall + self.life, UTC).isoformat()

    def _answer(self, request: Request) -> Answer:
        if request.path.endswith("/auth-token/"):
            self.tokens += 1
            return self.token(self.tokens)
        return self.answer(request)

    @property
    def calls(self) -> list[Request]:
        """The requests other than those for tokens."""
        return [request for request in self.peer.requests if not request.path.endswith("/auth-token/")]

    def patient_client(self) -> AbstractContextManager[Client]:
        """A client whose waits between requests for tokens pass by the clock of both sides."""
        return self.client(clock=self.clock)

    @contextmanager
    def client(self, timeout: float = PATIENT, merchant_id: str = "m1", **options: Any) -> Iterator[Client]:
        settings = ApiSettings(
            url=options.pop("url", f"{self.peer.url}/v1"), timezone=options.pop("timezone", TOKYO), timeout=timeout
        )
        merchant = MerchantSettings(
            id=merchant_id,
            api_key=SecretStr(options.pop("api_key", API_KEY)),
            mail_address="ops@example.com",
            password=SecretStr(PASSWORD),
        )
        options.setdefault("clock", HastyClock(self.clock))
        client = Client(settings, merchant, self.budget, observe=self.exchanges.append, **options)
        try:
            yield client
        finally:
            client.close()
            assert all(slot.ended == 1 for slot in self.budget.slots), "every slot is given back once"

    @property
    def observed(self) -> list[tuple[str, str]]:
        """The endpoint and the code of each exchange that the client told of."""
        return [(exchange.endpoint, exchange.code) for exchange in self.exchanges]


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()
    with made.peer:
        yield made


def everything_told(error: BaseException) -> str:
    """All that a log could show of an error."""
    return "".join(traceback.format_exception(error)) + repr(error) + repr(error.__context__)


def fails(client: Client, kind: type[ApiError] = ApiError) -> str:
    with pytest.raises(kind) as caught:
        client.aggregations(PLAYS, ASKED)
    assert type(caught.value) is kind or kind is ApiError
    return str(caught.value)


# ---- what is sent ----


def test_a_request_is_what_the_manual_says(api: Api) -> None:
    """Path, headers and query of the token's and the data's requests, and the rows of the answer."""
    with api.client() as client:
        assert client.aggregations(PLAYS, ASKED).rows == {AT: {"": 10}}
    login, call = api.peer.requests
    assert (login.method, login.target) == ("POST", "/v1/merchants/m1/auth-token/")
    assert json.loads(login.body) == {"mail_address": "ops@example.com", "password": PASSWORD}
    assert "authorization" not in login.headers
    assert (call.method, call.path) == ("GET", "/v1/merchants/m1/aggregations")
    assert call.query == {
        "target": "play_count",
        "interval": "minute",
        "group": "all",
        "from": "20181201143400",
        "to": "20181201143559",
    }
    assert call.headers["authorization"] == "Bearer t0ken-1-0123456789"
    for request in (login, call):
        assert request.headers["x-streaks-api-key"] == API_KEY
        assert request.headers["content-type"] == "application/json"
        assert request.headers["user-agent"] == f"smartstream-exporter/{__version__}"


def test_a_media_and_a_group_are_named(api: Api) -> None:
    """A media's stream sends its id; the group is always sent."""
    api.answer = lambda _: reply(200, [{"date": "2018/12/01 14:34", "jp": 10}])
    with api.client() as client:
        stream = Stream("m1", "7f8d&x", Target.DEVICE_COUNT, Group.COUNTRY)
        assert client.aggregations(stream, ASKED).rows == {AT: {"jp": 10}}
    query = api.calls[0].query
    assert (query["media_id"], query["target"], query["group"]) == ("7f8d&x", "device_count", "country")


def test_days_are_asked_for_whole(api: Api) -> None:
    """A target that is by day asks from the local midnight of the first day to the last second of the last."""
    api.answer = lambda _: reply(200, [{"date": "2018/12/01", "all": 3}])
    with api.client() as client:
        stream = Stream("m1", "x", Target.KEY_DELIVERY_COUNT, Group.ALL)
        asked = MinuteRange(at(2018, 11, 30, 14, 34), at(2018, 12, 1, 0, 0))
        assert client.aggregations(stream, asked).rows == {at(2018, 12, 1, 0, 0): {"": 3}}
    query = api.calls[0].query
    assert (query["interval"], query["from"], query["to"]) == ("day", "20181130000000", "20181201235959")


def test_hours_are_asked_for_by_name(api: Api) -> None:
    """A range can be asked for by hour."""
    api.answer = lambda _: reply(200, [{"date": "2018/12/01 14", "all": 3}])
    with api.client() as client:
        asked = MinuteRange(at(2018, 11, 30, 14, 0), at(2018, 12, 1, 14, 59))
        assert client.aggregations(PLAYS, asked, hourly=True).rows == {at(2018, 12, 1, 14, 0): {"": 3}}
    query = api.calls[0].query
    assert (query["interval"], query["from"], query["to"]) == ("hour", "20181130140000", "20181201145959")


def test_no_content_is_no_rows(api: Api) -> None:
    """204 says that there are no rows; to a lookup or a request for a token it says nothing, as an empty 200 does."""
    api.answer = lambda _: b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"
    with api.client() as client:
        assert client.aggregations(PLAYS, ASKED) == Reading({})
        for lookup in (client.media, client.live_event):
            with pytest.raises(MalformedAnswer, match="empty"):
                lookup("x")
        api.answer = lambda _: reply(200, b"")
        assert fails(client, MalformedAnswer) == "aggregations: empty"
    assert api.observed[:2] == [("auth-token", "200"), ("aggregations", "204")]
    api.token = lambda _: b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"
    with api.client() as client:
        assert fails(client, SignInFailed).startswith("auth-token: no token")


def test_what_cannot_be_used_is_told_without_secrets(api: Api) -> None:
    """A value that cannot be used comes back as a problem, in which no secret can be read."""
    api.answer = lambda _: reply(200, [{"date": "2018/12/01 14:34", "all": API_KEY}])
    with api.client() as client:
        reading = client.aggregations(PLAYS, ASKED)
    assert reading.rows == {AT: {"": None}}
    assert reading.problems == (
        'row 1: "<secret>" is not a number, in {"date": "2018/12/01 14:34", "all": "<secret>"}',
    )


@pytest.mark.parametrize(
    ("zone", "first", "last", "sent"),
    [
        # From the first pass of the hour to the second, whose local times are in the other order.
        ("America/New_York", (2026, 11, 1, 5, 50), (2026, 11, 1, 6, 10), ("20261101005900", "20261101020059")),
        ("America/New_York", (2026, 11, 1, 4, 50), (2026, 11, 1, 5, 10), ("20261101005000", "20261101020059")),
        ("America/New_York", (2026, 11, 1, 6, 50), (2026, 11, 1, 7, 10), ("20261101005900", "20261101021059")),
        ("America/New_York", (2026, 11, 1, 4, 50), (2026, 11, 1, 7, 10), ("20261101005000", "20261101021059")),
        ("America/New_York", (2026, 3, 8, 6, 50), (2026, 3, 8, 7, 10), ("20260308015000", "20260308031059")),
        ("Australia/Lord_Howe", (2026, 4, 4, 14, 40), (2026, 4, 4, 15, 10), ("20260405012900", "20260405020059")),
    ],
)
def test_local_time_that_is_there_twice_is_asked_for_whole(
    api: Api, zone: str, first: tuple[int, ...], last: tuple[int, ...], sent: tuple[str, str]
) -> None:
    """Where a range begins or ends in such a time, the request begins before it and ends after it."""
    asked = MinuteRange(*(minute_of(datetime(*each, tzinfo=UTC).timestamp()) for each in (first, last)))  # type: ignore[misc, arg-type]
    with api.client(timezone=ZoneInfo(zone)) as client:
        client.aggregations(PLAYS, asked)
    assert (api.calls[0].query["from"], api.calls[0].query["to"]) == sent


def test_days_without_a_midnight_are_asked_for_from_their_first_minute(api: Api) -> None:
    """A time that no clock shows is never sent; a day whose last hour is there twice is asked for past its end."""
    api.answer = lambda _: reply(200, [])
    with api.client(timezone=ZoneInfo("Asia/Beirut")) as client:
        for day in (datetime(2026, 3, 29, 12, tzinfo=UTC), datetime(2026, 10, 24, 12, tzinfo=UTC)):
            noon = minute_of(day.timestamp())
            client.aggregations(Stream("m1", "x", Target.KEY_DELIVERY_COUNT, Group.ALL), MinuteRange(noon, noon))
    assert [(call.query["from"], call.query["to"]) for call in api.calls] == [
        ("20260329010000", "20260329235959"),
        ("20261024000000", "20261025000059"),
    ]


def test_the_catalog_and_live_events(api: Api) -> None:
    """A media and a live event are asked for by their ids, odd ones quoted."""
    api.answer = lambda _: reply(200, {"id": "a b", "name": "News", "encode_status": "encode_status_running"})
    with api.client(merchant_id="m?1") as client:
        assert client.media("a b").name == "News"
        assert client.live_event("e/1").running
    media, event = api.calls
    assert media.target == "/v1/merchants/m%3F1/medias/a%20b"
    assert event.target == "/v1/merchants/m%3F1/live_events/e%2F1"
    assert api.observed == [("auth-token", "200"), ("medias", "200"), ("live_events", "200")]


def test_netrc_has_no_say(api: Api, tmp_path: Path) -> None:
    """A password for the host in ~/.netrc, which `requests` would send, replaces nothing."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login l password n3trc\n")
    with api.client() as client:
        client.aggregations(PLAYS, ASKED)
    login, call = api.peer.requests
    assert "authorization" not in login.headers
    assert call.headers["authorization"] == "Bearer t0ken-1-0123456789"


def test_connections_are_kept_and_cookies_are_not(api: Api) -> None:
    """Requests that follow each other use one connection; a cookie of the API is not sent back."""
    api.answer = lambda _: reply(200, [], Set_Cookie="a=b; Path=/")
    with api.client() as client:
        for _ in range(3):
            client.aggregations(PLAYS, ASKED)
    assert {request.connection for request in api.peer.requests} == {1}
    assert not any("cookie" in request.headers for request in api.peer.requests)


@pytest.mark.parametrize(
    ("scheme", "target"),
    [("http", "http://api.invalid/v1/merchants/m1/auth-token/"), ("https", "api.invalid:443")],
)
def test_proxies_of_the_environment_are_used(
    api: Api, monkeypatch: pytest.MonkeyPatch, scheme: str, target: str
) -> None:
    """The usual variables name a proxy, whose refusal is told as such."""
    api.token = lambda _: reply(407, "no")
    api.answer = lambda _: reply(407, "no")
    monkeypatch.setenv(f"{scheme}_proxy", api.peer.url)
    with api.client(url=f"{scheme}://api.invalid/v1") as client:
        assert fails(client).startswith(
            f"auth-token: the proxy {api.peer.url} of {scheme}_proxy refuses the request (407)"
        )
    assert [request.target for request in api.peer.requests] == [target]


def test_no_proxy_holds_a_thread(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that drips for ever is hung up on like any other peer."""
    api.token = lambda _: drip(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n")
    monkeypatch.setenv("http_proxy", api.peer.url)
    with api.client(timeout=HASTY, url="http://api.invalid/v1") as client:
        assert fails(client, SignInFailed).startswith("auth-token: timed out after 0.2 s, through the proxy")


def test_the_password_of_a_proxy_is_hidden(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that repeats its account gets it into no message."""
    api.token = lambda _: reply(403, api.peer.requests[-1].headers["proxy-authorization"] + " pr%40xy pr@xy")
    monkeypatch.setenv("http_proxy", api.peer.url.replace("://", "://user:pr%40xy@"))
    with api.client(url="http://api.invalid/v1") as client:
        assert fails(client).startswith("auth-token: 403 Basic <secret> <secret> <secret>; ")


# ---- tokens ----


@pytest.mark.parametrize(("life", "margin"), [(3600.0, 60.0), (100.0, 10.0)])
def test_a_token_is_renewed_before_it_expires(api: Api, life: float, margin: float) -> None:
    """A token serves until a minute before its expiry, or until a tenth of its life is left."""
    api.life = life
    with api.client() as client:
        assert client.token_expiry is None
        client.aggregations(PLAYS, ASKED)
        assert client.token_expiry == api.clock.wall + life
        api.clock.advance(life - margin - 1)
        client.aggregations(PLAYS, ASKED)
        assert api.tokens == 1
        api.clock.advance(2)
        client.aggregations(PLAYS, ASKED)
        assert api.tokens == 2
        assert client.token_expiry == api.clock.wall + life
    assert api.calls[-1].headers["authorization"] == "Bearer t0ken-2-0123456789"


@pytest.mark.parametrize("life", [-1e6, 0.0, None])
def test_an_expiry_that_cannot_be_is_unknown(api: Api, life: float | None) -> None:
    """A token that expired before it was given out, by a clock that differs, or that names no expiry serves."""
    api.life = life or 0.0
    if life is None:
        api.token = lambda n: reply(200, {"token": f"t{n}"})
    with api.client() as client:
        for _ in range(3):
            client.aggregations(PLAYS, ASKED)
            api.clock.advance(1e6)
            assert client.token_expiry is None
    assert api.tokens == 1


def good_tokens(*good: str) -> Callable[[Request], Answer]:
    def answer(request: Request) -> Answer:
        if request.headers["authorization"].removeprefix("Bearer ") in good:
            return ROWS
        return reply(401, {"code": "UNAUTHORIZED", "message": "the token is not good"})

    return answer


def test_a_refused_token_is_renewed_once(api: Api) -> None:
    """After a 401 the request is sent again with a new token, and with a slot of its own."""
    api.answer = good_tokens("t0ken-2-0123456789")
    with api.client() as client:
        assert client.aggregations(PLAYS, ASKED).rows
    assert api.observed == [
        ("auth-token", "200"),
        ("aggregations", "401"),
        ("auth-token", "200"),
        ("aggregations", "200"),
    ]
    assert api.calls[0].query == api.calls[1].query
    assert len(api.budget.slots) == 4


def test_a_second_refusal_is_told(api: Api) -> None:
    """When the new token is refused, too, that is the end of it. Where one token after the other is refused from the
    first use on, the next is asked for ever more rarely, and each request is made once meanwhile.
    """
    api.answer = good_tokens()
    with api.patient_client() as client:
        assert fails(client, Unauthorized) == (
            "aggregations: 401 UNAUTHORIZED: the token is not good; "
            "check the account's permissions, api_key, mail_address and password"
        )
        assert [code for _, code in api.observed] == ["200", "401", "200", "401"]
        for _ in range(3):
            fails(client, Unauthorized)
        assert [code for _, code in api.observed[4:]] == ["401"] * 3
        bought = []
        for minute in range(120):
            tokens = api.tokens
            fails(client, Unauthorized)
            bought += [minute] * (api.tokens - tokens)
            api.clock.advance(60)
    assert bought == [2, 6, 14, 29, 44, 59, 74, 89, 104, 119]


ALLOWED, REFUSED = (Stream("m1", media_id, Target.PLAY_COUNT, Group.ALL) for media_id in ("allowed", "refused-0"))


def only(*allowed: str) -> Callable[[Request], Answer]:
    """The whole merchant's and these media's rows, with any token; 401 for all others."""

    def answer(request: Request) -> Answer:
        asked = request.query.get("media_id", "") if request.query else request.path
        return ROWS if asked in ("", *allowed) else reply(401, {"code": "NO"})

    return answer


def test_media_that_the_account_may_not_see_cost_one_token(api: Api) -> None:
    """A token that is good for others is renewed once for the first media that it is refused for, and not for the next
    89; nor for the same media again, nor for a lookup of the catalog.
    """
    api.answer = only("allowed")
    refused = [Stream("m1", f"refused-{number}", Target.PLAY_COUNT, Group.ALL) for number in range(90)]
    with api.patient_client() as client:
        for _ in range(3):
            client.aggregations(PLAYS, ASKED)
            client.aggregations(ALLOWED, ASKED)
            for stream in refused:
                with pytest.raises(Unauthorized):
                    client.aggregations(stream, ASKED)
            with pytest.raises(Unauthorized):
                client.media("x")
            api.clock.advance(60)
        assert api.tokens == 2
        assert len(api.calls) == 3 * 93 + 1
        assert client.renewals == 1


def test_a_whole_merchant_that_is_refused_costs_one_token(api: Api) -> None:
    """Where the account sees its media but not the whole merchant, that is no reason to renew the token each minute."""
    api.answer = lambda request: ROWS if "media_id" in request.query else reply(401, {"code": "NO"})
    with api.patient_client() as client:
        for _ in range(60):
            fails(client, Unauthorized)
            assert client.aggregations(ALLOWED, ASKED).rows
            api.clock.advance(30)
    assert api.tokens == 2


def test_a_revoked_token_is_found_by_what_it_was_good_for(api: Api) -> None:
    """While some media are known to be refused, a token is renewed when it is refused for what it was good for."""
    api.answer = only("allowed")
    with api.patient_client() as client:
        client.aggregations(PLAYS, ASKED)
        with pytest.raises(Unauthorized):
            client.aggregations(REFUSED, ASKED)
        client.aggregations(ALLOWED, ASKED)
        assert api.tokens == 2
        api.answer = good_tokens("t0ken-3-0123456789")
        with pytest.raises(Unauthorized):
            client.aggregations(REFUSED, ASKED)
        assert (api.tokens, client.renewals) == (2, 1)
        assert client.aggregations(ALLOWED, ASKED).rows
        assert (api.tokens, client.renewals) == (3, 2)
        assert client.aggregations(REFUSED, ASKED).rows


def test_threads_renew_a_revoked_token_once(api: Api) -> None:
    """When threads ask for different media and the token is revoked, that is one new token, whether or not some media
    are known to be refused.
    """
    threads = 8
    streams = [Stream("m1", f"allowed-{number}", Target.PLAY_COUNT, Group.ALL) for number in range(threads)]
    together = threading.Barrier(threads, timeout=PATIENT)
    allowed = only(*(stream.media_id for stream in streams))

    def revoked(request: Request) -> Answer:
        if not request.headers["authorization"].endswith(last):
            together.wait()
            return reply(401, {"code": "NO"})
        return allowed(request)

    with api.client() as client:
        for refused in ([], [REFUSED]):
            api.answer = allowed
            client.aggregations(PLAYS, ASKED)
            for stream in refused:
                with pytest.raises(Unauthorized):
                    client.aggregations(stream, ASKED)
            for stream in streams:
                client.aggregations(stream, ASKED)
            before, last = client.renewals, f"t0ken-{api.tokens + 1}-0123456789"
            api.answer = revoked
            with ThreadPoolExecutor(threads) as pool:
                readings = list(pool.map(lambda stream: client.aggregations(stream, ASKED), streams))
            assert all(reading.rows for reading in readings)
            assert client.renewals == before + 1


# ---- a token that does not come ----


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_password_that_is_refused(api: Api, status: int) -> None:
    """A request for a token that is refused says what to check, and sends nothing else. The next is sent 1, 2, 4, 8
    and then every 15 minutes later: too many could lock the account. Meanwhile the error tells the same, and when.
    """
    api.token = lambda _: reply(status, {"code": "NO", "message": "no"})
    message = f"auth-token: {status} NO: no; check the merchant's id, api_key, mail_address and password"
    sent = []
    with api.patient_client() as client:
        assert fails(client, SignInFailed) == message
        assert fails(client, SignInFailed) == f"{message}; next attempt at 2025-06-15T15:07:40Z"
        for minute in range(61):
            before = api.tokens
            with pytest.raises(SignInFailed) as caught:
                client.media("x")
            assert (caught.value.code, caught.value.refused) == (str(status), True)
            assert 0 < caught.value.wait <= 900
            sent += [minute] * (api.tokens - before)
            api.clock.advance(60)
    assert sent == [1, 3, 7, 15, 30, 45, 60]
    assert api.observed == [("auth-token", str(status))] * 8
    assert api.calls == []


@pytest.mark.parametrize(
    ("answer", "code", "told"),
    [
        (reply(200, {"tokens": "t0ken-1-0123456789"}), "200", "no token that is valid in an HTTP header"),
        (reply(200, {"token": "t0ken-1\r\nX: y"}), "200", "no token that is valid in an HTTP header"),
        (reply(200, b"<html>Please wait"), "200", "no token that is valid in an HTTP header"),
        (reply(503, "later"), "503", "503 later"),
        (reply(302, "", Location="http://other.invalid/"), "302", "302, a redirect to other.invalid"),
        (b"", "error", "127.0.0.1:"),
    ],
)
def test_a_token_that_does_not_come(api: Api, answer: bytes, code: str, told: str) -> None:
    """Whatever else comes in its place, there is no token, nothing else is sent, and the next request for one waits: 15
    seconds, then twice as long each time, up to 4 minutes.
    """
    api.token = lambda _: answer or (lambda connection: connection.sendall(b""))
    sent = []
    with api.patient_client() as client:
        for second in range(0, 1200, 5):
            before = api.tokens
            with pytest.raises(SignInFailed, match=f"^auth-token: {told}") as caught:
                client.aggregations(PLAYS, ASKED)
            assert (caught.value.code, caught.value.refused) == (code, False)
            sent += [second] * (api.tokens - before)
            api.clock.advance(5)
        assert client.token_expiry is None
    assert sent == [0, 15, 45, 105, 225, 465, 705, 945, 1185]
    assert api.calls == []


def test_a_token_that_comes_forgets_that_it_did_not(api: Api) -> None:
    """After a success the next failure waits as long as the first."""
    waits = []
    with api.patient_client() as client:
        for failures in (3, 1):
            good, api.token = api.token, lambda _: reply(500, "no")
            for _ in range(failures):
                with pytest.raises(SignInFailed) as caught:
                    client.aggregations(PLAYS, ASKED)
                api.clock.advance(caught.value.wait)
            waits.append(caught.value.wait)
            api.token = good
            assert client.aggregations(PLAYS, ASKED).rows
            api.clock.advance(4000)
    assert waits == [60, 15]


@pytest.mark.parametrize("threads", [8])
def test_threads_do_not_ask_for_a_token_that_does_not_come(api: Api, threads: int) -> None:
    """When several threads want a token and it is refused, that was one request."""
    api.token = lambda _: reply(401, "no")
    errors: list[str] = []
    with api.client() as client:
        work = [
            threading.Thread(target=lambda: errors.append(fails(client, SignInFailed)), daemon=True)
            for _ in range(threads)
        ]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join(PATIENT)
    assert len(errors) == threads
    assert api.observed == [("auth-token", "401")]


def test_too_many_requests_for_a_token(api: Api) -> None:
    """A 429 for a token is what it is with every request: the budget waits for it, and nothing else."""
    api.token = lambda _: reply(429, "slow down", Retry_After="9")
    with api.client() as client:
        for _ in range(2):
            assert fails(client, RateLimited).startswith("auth-token: 429 slow down; other tools")
    assert api.budget.refusals == [9.0, 9.0]


def test_threads_renew_once(api: Api) -> None:
    """When all of a merchant's threads are refused the same token, one of them gets another for all."""
    threads = 8
    together = threading.Barrier(threads, timeout=PATIENT)
    good = good_tokens("t0ken-2-0123456789")

    def answer(request: Request) -> Answer:
        if request.headers["authorization"].endswith("t0ken-1-0123456789"):
            together.wait()
        return good(request)

    api.answer = answer
    results: list[object] = []
    with api.client() as client:
        work = [
            threading.Thread(target=lambda: results.append(client.aggregations(PLAYS, ASKED).rows), daemon=True)
            for _ in range(threads)
        ]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join(PATIENT)
    assert results == [{AT: {"": 10}}] * threads
    assert Counter(api.observed) == {
        ("auth-token", "200"): 2,
        ("aggregations", "401"): threads,
        ("aggregations", "200"): threads,
    }


# ---- the budget ----


@pytest.mark.parametrize("left", [0, 1, 2, 3])
def test_nothing_leaves_without_a_slot(api: Api, left: int) -> None:
    """Tokens, calls and repetitions take a slot each; without one nothing is sent, and what was got is kept."""
    api.budget.left = left
    api.answer = good_tokens("t0ken-2-0123456789")
    with api.client() as client:
        with pytest.raises(BudgetSpent):
            client.aggregations(PLAYS, ASKED)
        assert len(api.peer.requests) == left
        api.budget.left = 4 + (left == 2)
        assert client.aggregations(PLAYS, ASKED).rows
    assert len(api.peer.requests) == 4


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("30", 30.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("Fri, 15 May 2026 09:00:30 GMT", 30.0),
        ("Fri, 15 May 2026 09:00:30 -0000", 30.0),
        ("Friday, 15-May-26 09:00:30 GMT", 30.0),
        ("Fri, 15 May 2026 18:00:30 +0900", 30.0),
        ("Fri, 15 May 2026 09:00:00 GMT", None),
        ("Fri, 15 May 2026 08:00:00 GMT", None),
        ("Fri, 99 May 2026 08:00:00 GMT", None),
        ("-1", None),
        ("NaN", None),
        ("1e5", None),
        ("9" * 400, None),
        ("٣٠", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after(header: str | None, wait: float | None) -> None:
    """A Retry-After is seconds or a date to come; anything else says nothing."""
    assert retry_after(header, datetime(2026, 5, 15, 9, tzinfo=UTC).timestamp()) == wait


@pytest.mark.parametrize(("headers", "wait"), [({"Retry_After": "30"}, 30.0), ({}, None)])
def test_a_429_is_told_to_the_budget(api: Api, headers: dict[str, str], wait: float | None) -> None:
    """The budget learns of each 429, with the API's wish or without, and the caller gets it as an error."""
    api.answer = lambda _: reply(429, {"code": "TOO_MANY"}, **headers)
    with api.client() as client, pytest.raises(RateLimited) as caught:
        client.aggregations(PLAYS, ASKED)
    assert caught.value.retry_after == wait
    assert (caught.value.code, api.budget.refusals) == ("429", [wait])


@pytest.mark.parametrize("status", [500, 502, 503, 504])
@pytest.mark.parametrize(
    ("headers", "wait"), [({"Retry_After": "30"}, 30.0), ({"Retry_After": "soon"}, None), ({}, None)]
)
def test_the_wait_of_a_5xx_is_told(api: Api, status: int, headers: dict[str, str], wait: float | None) -> None:
    """The caller learns how long the API wants to be left alone, for a token, too; the budget does not."""
    busy = reply(status, {"code": "BUSY"}, **headers)
    api.answer = lambda _: busy
    with api.client() as client:
        with pytest.raises(ServerError) as caught:
            client.aggregations(PLAYS, ASKED)
        assert caught.value.retry_after == wait
    api.token = lambda _: busy
    with api.client() as client:
        with pytest.raises(SignInFailed) as failed:
            client.aggregations(PLAYS, ASKED)
        assert failed.value.retry_after == wait
    assert api.budget.refusals == []


# ---- refusals ----


@pytest.mark.parametrize(
    ("status", "kind", "told"),
    [
        (400, BadRequest, "400 CODE: text"),
        (403, RefusedError, "403 CODE: text; check that the account has the permissions for media and analytics"),
        (404, NotFound, "404 CODE: text; check the ids of the merchant and the media"),
        (405, RefusedError, "405 CODE: text"),
        (500, ServerError, "500 CODE: text"),
        (599, ServerError, "599 CODE: text"),
        (304, RefusedError, "304, a redirect to another path, not followed; check api.url"),
    ],
)
def test_statuses(api: Api, status: int, kind: type[RefusedError], told: str) -> None:
    """Each status is its error, with the API's own words and what to check."""
    body = b"" if status == 304 else {"code": "CODE", "message": "text"}
    api.answer = lambda _: reply(status, body)
    with api.client() as client:
        assert fails(client, kind) == f"aggregations: {told}"
        assert api.observed[-1] == ("aggregations", str(status))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(api: Api, status: int) -> None:
    """An API key does not travel to another host, nor anywhere else; the body of a redirect may never end."""
    with Peer(lambda _: ROWS) as other:
        head = f"HTTP/1.1 {status} Moved\r\nLocation: http://u:pw@{other.url[7:]}/x\r\n\r\n"
        api.answer = lambda _: drip(head.encode(), b"x" * 70_000)
        with api.client() as client:
            told = fails(client, RefusedError)
        assert told == f"aggregations: {status}, a redirect to {other.url[7:]}, not followed; check api.url"
        assert other.requests == []


@pytest.mark.parametrize("location", ["http://[::1", "http://\xff/", "//"])
def test_redirects_to_nowhere(api: Api, location: str) -> None:
    """A redirect whose target is no address is a refusal like any other."""
    api.answer = lambda _: reply(302, "", Location=location)
    with api.client() as client:
        assert fails(client, RefusedError).startswith("aggregations: 302, a redirect to ")


# ---- answers that cannot be used ----


def test_a_malformed_answer_was_an_answer(api: Api) -> None:
    """A 200 that does not read as rows is counted as a 200; the error says which call and why."""
    api.answer = lambda _: reply(200, b"<html>Please wait")
    with api.client() as client:
        told = fails(client, MalformedAnswer)
    assert told == "aggregations: not JSON (Expecting value, character 0): <html>Please wait"
    assert api.observed[-1] == ("aggregations", "200")


def test_an_exchange_tells_what_was_asked_and_why_it_failed(api: Api) -> None:
    """A token, a stream, a media, a live event: each is told with its words, and a failure with the error's text."""
    stream = Stream("m1", "abc", Target.PLAY_TIME, Group.OS)
    with api.client() as client:
        api.answer = lambda _: ROWS
        client.aggregations(PLAYS, ASKED)
        api.answer = lambda _: reply(200, "no rows")
        with pytest.raises(MalformedAnswer) as unreadable:
            client.aggregations(stream, ASKED, hourly=True)
        api.answer = lambda _: reply(404, {"code": "MEDIA_NOT_FOUND"})
        with pytest.raises(NotFound) as gone:
            client.media("abc")
        api.answer = lambda _: b"SSH-2.0-OpenSSH_9.2\r\n"
        with pytest.raises(NoAnswer) as silent:
            client.live_event("e1")
    told = [(each.endpoint, each.code, each.asked, each.media_id, each.error) for each in api.exchanges]
    assert told == [
        ("auth-token", "200", "", "", ""),
        ("aggregations", "200", "whole merchant/play_count/all", "", ""),
        ("aggregations", "200", "abc/play_time/os by hour", "abc", str(unreadable.value)),
        ("medias", "404", "abc", "abc", str(gone.value)),
        ("live_events", "error", "e1", "", str(silent.value)),
    ]
    assert all(each.merchant_id == "m1" and each.at == api.clock.wall for each in api.exchanges)
    assert all(each.seconds >= 0 for each in api.exchanges)


def test_the_content_type_does_not_matter(api: Api) -> None:
    """JSON that is sent as something else is still JSON, and may be compressed."""
    body = gzip.compress(b'[{"date": "2018/12/01 14:34", "all": 10}]', mtime=0)
    api.answer = lambda _: reply(200, body, Content_Type="text/html; charset=x", Content_Encoding="gzip")
    with api.client() as client:
        assert client.aggregations(PLAYS, ASKED).rows == {AT: {"": 10}}


# ---- how large an answer may be ----


COUNTRIES = Stream("m1", "", Target.PLAY_COUNT, Group.COUNTRY)
KEYS = Stream("m1", "x", Target.KEY_DELIVERY_COUNT, Group.ALL)


@pytest.mark.parametrize(
    ("stream", "minutes", "hourly", "values", "asked"),
    [
        (PLAYS, 1, False, 1_100, "1 minute of whole merchant/play_count/all"),
        (PLAYS, 30, False, 4_000, "30 minutes of whole merchant/play_count/all"),
        (PLAYS, 90, True, 1_200, "2 hours of whole merchant/play_count/all"),
        (
            Stream("m1", "x", Target.KEY_DELIVERY_COUNT, Group.ALL),
            2880,
            False,
            1_200,
            "2 days of x/key_delivery_count/all",
        ),
        (COUNTRIES, 5, False, 150_000, "5 minutes of whole merchant/play_count/country"),
        (COUNTRIES, 1440, False, 250_000, "1440 minutes of whole merchant/play_count/country"),
    ],
)
def test_how_large_an_answer_may_be_follows_from_what_is_asked(
    stream: Stream, minutes: int, hourly: bool, values: int, asked: str
) -> None:
    """So many rows and some, each with so many values, but not more than the memory of a small machine."""
    limit = rows_limit(stream, minutes, hourly=hourly)
    assert limit == Limit(65536 + 64 * values, values, asked)


LIMIT = "the limit is 142336 bytes and 1200 values"


def test_an_answer_without_end(api: Api) -> None:
    """An answer that is larger than any to this can be is not read to its end, packed or not."""
    for body, headers in (
        (b" " * 2**18, ""),
        (gzip.compress(b" " * 2**24, mtime=0), "Content-Encoding: gzip\r\nContent-Length: 16314\r\n"),
        (gzip.compress(b"", mtime=0) * 2**14, "Content-Encoding: gzip\r\n"),
    ):
        head = f"HTTP/1.1 200 OK\r\n{headers}\r\n".encode()
        api.answer = lambda _, start=head + body: drip(start)  # type: ignore[misc]
        with api.client() as client:
            assert fails(client, TooLarge) == (
                "aggregations: the answer is too large: asked for 2 minutes of whole merchant/play_count/all, "
                f"got more than 142336 bytes, {LIMIT}"
            )
    assert api.observed[-1] == ("aggregations", "200")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[" + b"{}," * 1_200 + b"{}]", id="objects"),
        pytest.param(b"[" + b"[]," * 1_200 + b"[]]", id="lists"),
        pytest.param(b"[" + b"1," * 1_200 + b"1]", id="numbers"),
        pytest.param(b"[" * 1_300, id="depth"),
        pytest.param(b"[{" + b'"a":1,' * 1_200 + b'"a":1}]', id="members"),
        pytest.param(b"[" + b'{"date":"2018/12/01 14:34","all":10},' * 1_200 + b"1]", id="rows"),
    ],
)
def test_values_are_counted_before_anything_is_made_of_them(
    api: Api, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    """An answer with too many values is refused with a line that says what was asked for, what came, and the limit."""
    api.answer = lambda _: reply(200, body)
    with api.client() as client:
        client._sign_in.token()
        monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("it was read"))
        told = fails(client, TooLarge)
    came = told.partition("got ")[2].split()[0]
    assert told == (
        "aggregations: the answer is too large: asked for 2 minutes of whole merchant/play_count/all, "
        f"got {came} values, {LIMIT}"
    )
    assert 1_200 < int(came) < 4_900
    assert api.observed[-1] == ("aggregations", "200")


def bomb(start: bytes, again: bytes, end: bytes, size: int) -> bytes:
    """A small answer that is large when it is unpacked."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = again * (2**20 // len(again))
    parts = [packer.compress(start), *(packer.compress(block) for _ in range(size // 2**20)), packer.compress(end)]
    return b"".join([*parts, packer.flush()])


@pytest.mark.parametrize(
    ("parts", "size"),
    [
        pytest.param((b"[", b"{},", b"{}]"), 60 * 2**20, id="objects"),
        pytest.param((b"[", b"[", b""), 60 * 2**20, id="depth"),
        pytest.param((b"[{", b'"a":1,', b'"a":1}]'), 60 * 2**20, id="members"),
        pytest.param((b'["', b"x", b'"]'), 60 * 2**20, id="a text"),
        pytest.param((b'[{"date":"2018/12/01 14:34","a":1', b"1", b"}]"), 10 * 2**20, id="digits"),
        pytest.param((b"[{", b'"' + b"k" * (2**20 - 4) + b'":1,', b'"a":1}]'), 60 * 2**20, id="keys"),
    ],
)
def test_a_bomb_takes_little_memory(api: Api, parts: tuple[bytes, bytes, bytes], size: int) -> None:
    """100 KiB that were gigabytes as objects of Python take a few times what an answer may have."""
    body = bomb(*parts, size)
    assert len(body) < 150_000
    api.answer = lambda _: reply(200, body, Content_Encoding="gzip")
    with api.client() as client:
        client._sign_in.token()
        tracemalloc.start()
        try:
            with suppress(MalformedAnswer):
                client.aggregations(COUNTRIES, MinuteRange(AT, AT + 29))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 60 * 2**20


def test_large_answers_are_read_one_at_a_time() -> None:
    """Another large one waits until the first is done; a small one does not. What cannot be read lets the next go."""
    limit = Limit(2**20, 1, "rows")
    large, small = (transport.Answer(200, {}, b" " * size) for size in (unpacking.LARGE + 1, unpacking.LARGE))
    packed = transport.Answer(200, {"Content-Encoding": "gzip"}, gzip.compress(large.packed, mtime=0))
    entered = threading.Event()

    def enter() -> None:
        with unpacking.unpacked(packed, limit) as body:
            assert body == large.packed
            entered.set()

    other = threading.Thread(target=enter, daemon=True)
    with suppress(KeyError), unpacking.unpacked(large, limit):
        other.start()
        with unpacking.unpacked(small, limit):
            assert not entered.wait(0.1)
        raise KeyError
    assert entered.wait(PATIENT)
    other.join(PATIENT)


@pytest.mark.parametrize(
    ("packing", "packed"),
    [
        ("gzip", gzip.compress(b"[]", mtime=0)),
        ("X-GZIP", gzip.compress(b"[]", mtime=0) + b"\0" * 9),
        ("deflate", zlib.compress(b"[]")),
        ("deflate", zlib.compress(b"[]")[2:-4]),
        ("identity", b"[]"),
        ("gzip", gzip.compress(b"[" + b" " * 100_000 + b"]", mtime=0)),
    ],
)
def test_answers_may_be_packed(api: Api, packing: str, packed: bytes) -> None:
    """Gzip, and deflate in both ways in which it is sent, are asked for and read."""
    api.answer = lambda _: reply(200, packed, Content_Encoding=packing)
    with api.client() as client:
        assert client.aggregations(PLAYS, ASKED) == Reading({})
    assert api.calls[0].headers["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize("packing", ["br", "zstd", "gzip, gzip", "compress"])
def test_answers_that_are_packed_otherwise(api: Api, packing: str) -> None:
    """What was not asked for is not unpacked; of an error the status counts all the same."""
    with api.client() as client:
        api.answer = lambda _: reply(200, b"[]", Content_Encoding=packing)
        told = fails(client, MalformedAnswer)
        assert told == f'aggregations: the answer is packed as "{packing}", which was not asked for'
        api.answer = lambda _: reply(500, b"[]", Content_Encoding=packing)
        assert fails(client, ServerError) == "aggregations: 500"


def test_a_large_token_is_none(api: Api) -> None:
    """The answer to a request for a token may be as large as one, and no larger."""
    api.token = lambda _: reply(200, {"token": "t" * 70_000})
    with api.client() as client:
        assert fails(client, SignInFailed) == (
            "auth-token: the answer is too large: asked for a token, got more than 65536 bytes, "
            "the limit is 65536 bytes and 100 values"
        )


@pytest.mark.parametrize(
    "body", [bomb(b"", b"no ", b"", 60 * 2**20), gzip.compress(b"no " * 30_000, mtime=0)[:-9], b"no gzip"]
)
def test_an_error_that_is_packed(api: Api, body: bytes) -> None:
    """Of an error no more is unpacked than is told, and one that cannot be unpacked is an error."""
    api.answer = lambda _: reply(500, body, Content_Encoding="gzip")
    with api.client() as client:
        assert fails(client, ServerError).startswith("aggregations: 500" + " no no" * (body != b"no gzip"))


def test_an_error_without_end(api: Api) -> None:
    """Of an error no more is read than is told."""
    api.answer = lambda _: drip(b"HTTP/1.1 500 No\r\n\r\n" + b"no " * 30_000)
    with api.client() as client:
        assert fails(client, ServerError).startswith("aggregations: 500 no no no")


# ---- no answer ----


def send(data: bytes) -> Script:
    return lambda connection: connection.sendall(data)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(drip(b"", b""), id="silence"),
        pytest.param(drip(b"HTTP/1.1 200", b"0"), id="a status line without end"),
        pytest.param(drip(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), id="headers without end"),
        pytest.param(drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"), id="a body with a length"),
        pytest.param(drip(b"HTTP/1.1 200 OK\r\n\r\n"), id="a body without a length"),
        pytest.param(drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"), id="small chunks"),
        pytest.param(drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n"), id="a large chunk"),
        pytest.param(
            drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"), id="a chunk's length without end"
        ),
        pytest.param(drip(b"HTTP/1.1 500 No\r\n\r\n"), id="an error without end"),
    ],
)
def test_no_peer_holds_a_thread(api: Api, script: Script) -> None:
    """A peer that is silent, or drips for ever, is hung up on when the time is over, at whatever stage."""
    api.token = lambda _: script
    with api.client(timeout=HASTY) as client:
        assert fails(client, SignInFailed) == "auth-token: timed out after 0.2 s"
    assert api.observed == [("auth-token", "error")]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"", "{peer} ended the connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[", "the answer was cut"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n[", "the answer was cut"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "the answer was cut"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "{peer} does not speak HTTP"),
        (b"HTTP/1.1 " + b"2" * 70_000, "{peer} does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nno gzip", "the answer cannot be unpacked"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"[]", mtime=0)[:-4],
            "the answer was cut",
        ),
    ],
)
def test_answers_that_are_not_whole(api: Api, answer: bytes, told: str) -> None:
    """An answer that ends early, or is no HTTP, is no answer; a short message says so."""
    api.answer = lambda _: send(answer)
    with api.client() as client:
        assert fails(client, NoAnswer) == "aggregations: " + told.format(peer=api.peer.url[7:])
        assert api.observed[-1] == ("aggregations", "error")
        api.answer = lambda _: ROWS
        assert client.aggregations(PLAYS, ASKED).rows, "the next request works"


def test_nobody_listens(api: Api, free_port: int) -> None:
    """A connection that is refused is no answer."""
    with api.client(url=f"http://127.0.0.1:{free_port}/v1") as client:
        assert fails(client, SignInFailed) == f"auth-token: 127.0.0.1:{free_port} refused the connection"


def test_a_name_that_does_not_resolve(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing DNS is no answer."""

    def getaddrinfo(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with api.client(url="http://api.invalid/v1") as client:
        assert fails(client, SignInFailed) == "auth-token: cannot resolve api.invalid"


class Resolver:
    """Names for `socket.getaddrinfo`: `hangs.invalid` is looked up until `release`, `many.invalid` has the addresses.

    Attributes:
        asked: The names that were looked up, in order.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
        self.asked: list[str] = []
        self._addresses = addresses
        self._released = threading.Event()
        self._original = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)

    def release(self) -> None:
        """Let what hangs be found on 127.0.0.1."""
        self._released.set()

    def _look_up(self, host: str, port: int, *args: Any, **options: Any) -> list[Any]:
        if not host.endswith(".invalid"):
            return self._original(host, port, *args, **options)
        self.asked.append(host)
        if host == "hangs.invalid":
            self._released.wait(PATIENT)
        addresses = self._addresses or ("127.0.0.1",)
        return [each for address in addresses for each in self._original(address, port, *args, **options)]


def resolving() -> list[threading.Thread]:
    """The threads that look up names."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("resolve ")]


def test_a_name_that_is_looked_up_for_ever_holds_one_thread(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many requests want its addresses: each ends in time, and they are used once they are known."""
    resolver = Resolver(monkeypatch)
    url = api.peer.url.replace("127.0.0.1", "hangs.invalid")
    told: list[str] = []
    with api.client(url=f"{url}/v1", timeout=HASTY) as client:
        work = [threading.Thread(target=lambda: told.append(fails(client)), daemon=True) for _ in range(4)]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join(PATIENT)
        with api.client(url=f"{url}/v1", timeout=HASTY) as another:
            told.append(fails(another))
    assert {each.partition(";")[0] for each in told} == {
        f"auth-token: cannot resolve hangs.invalid:{url.rpartition(':')[2]}"
    }
    assert len(told) == 5
    assert resolver.asked == ["hangs.invalid"]
    [thread] = resolving()
    resolver.release()
    thread.join(PATIENT)
    assert not resolving()
    with api.client(url=f"{url}/v1") as client:
        assert client.aggregations(PLAYS, ASKED).rows
    assert resolver.asked == ["hangs.invalid"] * 2
    assert {request.headers["host"] for request in api.peer.requests} == {url[7:]}


def test_the_name_of_a_proxy_that_is_looked_up_for_ever(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy's name is no other than the API's."""
    resolver = Resolver(monkeypatch)
    monkeypatch.setenv("https_proxy", "http://hangs.invalid:3128")
    with api.client(url="https://api.invalid/v1", timeout=HASTY) as client:
        assert fails(client).startswith("auth-token: ")
    assert resolver.asked == ["hangs.invalid"]
    resolver.release()
    for thread in resolving():
        thread.join(PATIENT)


@contextmanager
def black_hole(address: str, port: int) -> Iterator[None]:
    """An address whose connections are never made: its listener's queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with suppress(BlockingIOError):
                waiting.connect((address, port))
        yield


def test_dead_addresses_share_the_time(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with five addresses that do not answer takes as long as one."""
    addresses = [f"127.0.0.{number}" for number in range(2, 7)]
    Resolver(monkeypatch, *addresses)
    port = int(api.peer.url.rpartition(":")[2])
    with ExitStack() as stack:
        for address in addresses:
            stack.enter_context(black_hole(address, port))
        began = time.monotonic()
        with api.client(url=f"http://many.invalid:{port}/v1", timeout=1.0) as client:
            assert fails(client, SignInFailed) == "auth-token: timed out after 1 s"
        assert time.monotonic() - began < 4


def test_an_address_that_works_is_found(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind an address that does not answer, and one that refuses, the one that works has its share of the time."""
    Resolver(monkeypatch, "127.0.0.2", "127.0.0.3", "127.0.0.1")
    port = int(api.peer.url.rpartition(":")[2])
    with black_hole("127.0.0.2", port), api.client(url=f"http://many.invalid:{port}/v1", timeout=3.0) as client:
        for _ in range(2):
            assert client.aggregations(PLAYS, ASKED).rows
    assert {request.connection for request in api.peer.requests} == {1}


# The beginning of a TLS record of 16 KiB with a ServerHello.
HELLO = b"\x16\x03\x03\x40\x00\x02\x00\x3f\xf0"


def begin_handshake(connection: socket.socket) -> None:
    """As a proxy that has connected to a peer whose handshake does not end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    connection.recv(1)
    drip(HELLO)(connection)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(drip(b"", b""), id="silence"),
        pytest.param(drip(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), id="headers without end"),
        pytest.param(drip(b"HTTP/1.1 200 OK\r\n\r\n", b""), id="no handshake"),
        pytest.param(begin_handshake, id="a handshake without end"),
    ],
)
def test_no_proxy_of_https_holds_a_thread(api: Api, monkeypatch: pytest.MonkeyPatch, script: Script) -> None:
    """A proxy that never connects, or connects to nothing that answers, is hung up on."""
    api.answer = lambda _: script
    monkeypatch.setenv("https_proxy", api.peer.url)
    with api.client(timeout=1.0, url="https://api.invalid/v1") as client:
        way = f"through the proxy {api.peer.url} of https_proxy"
        assert fails(client, SignInFailed) == f"auth-token: timed out after 1 s, {way}"
    assert [request.method for request in api.peer.requests] == ["CONNECT"]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(drip(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), id="headers without end"),
        pytest.param(begin_handshake, id="a handshake in TLS without end"),
    ],
)
def test_no_proxy_with_tls_holds_a_thread(monkeypatch: pytest.MonkeyPatch, script: Script) -> None:
    """The same with a proxy that speaks TLS itself."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
    api = Api(tls=True)
    api.answer = lambda _: script
    with api.peer:
        monkeypatch.setenv("https_proxy", api.peer.url)
        with api.client(timeout=1.0, url="https://api.invalid/v1") as client:
            assert fails(client, SignInFailed).startswith("auth-token: timed out after 1 s, through the proxy https:")


@pytest.mark.parametrize("start", [b"", HELLO])
def test_no_handshake_holds_a_thread(api: Api, start: bytes) -> None:
    """A peer that never ends the TLS handshake is hung up on, though it sends a byte now and then."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk() -> None:
            connection, _ = listener.accept()
            with connection, suppress(ConnectionError):
                drip(start, b"x" if start else b"")(connection)

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        with api.client(url=f"https://127.0.0.1:{listener.getsockname()[1]}/v1", timeout=1.0) as client:
            assert fails(client, SignInFailed) == "auth-token: timed out after 1 s"
        thread.join(PATIENT)
        assert not thread.is_alive()


def test_requests_share_one_thread_for_their_deadlines(api: Api) -> None:
    """Many requests on their way take no thread each beside their own."""
    threads = 12
    together = threading.Barrier(threads + 1, timeout=PATIENT)

    def answer(_: Request) -> Answer:
        together.wait()
        together.wait()
        return ROWS

    api.answer = answer
    with api.client() as client:
        client._sign_in.token()
        before = set(threading.enumerate())
        work = [
            threading.Thread(target=client.aggregations, args=(PLAYS, ASKED), name="asks", daemon=True)
            for _ in range(threads)
        ]
        for thread in work:
            thread.start()
        together.wait()
        new = {thread.name for thread in set(threading.enumerate()) - before - set(work)}
        together.wait()
        for thread in work:
            thread.join(PATIENT)
    # Those of the peer have no names of their own.
    assert not {name for name in new if "_talk" not in name}


def test_a_certificate_that_nobody_vouches_for() -> None:
    """A peer whose certificate is not trusted learns nothing, and what is wrong with it is told."""
    api = Api(tls=True)
    with api.peer, api.client() as client:
        told = fails(client, SignInFailed)
    host = api.peer.url[8:]
    fix = "to trust another CA, name its file in REQUESTS_CA_BUNDLE"
    assert told == f"auth-token: the TLS certificate of {host} is not valid: self-signed certificate; {fix}"
    assert api.peer.requests == []


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(drip(b"", b""), id="silence"),
        pytest.param(drip(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), id="headers without end"),
        pytest.param(drip(b"HTTP/1.1 200 OK\r\n\r\n"), id="a body without a length"),
    ],
)
def test_no_peer_with_tls_holds_a_thread(monkeypatch: pytest.MonkeyPatch, script: Script) -> None:
    """With TLS, too, a peer that is silent or drips is hung up on, and one that answers is not."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
    api = Api(tls=True)
    with api.peer:
        with api.client() as client:
            assert client.aggregations(PLAYS, ASKED).rows
        api.token = lambda _: script
        with api.client(timeout=1.0) as client:
            assert fails(client, SignInFailed) == "auth-token: timed out after 1 s"


def test_a_peer_without_tls(api: Api) -> None:
    """HTTPS to a peer that does not speak it is no answer."""

    def talk(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1)
            connection.sendall(b"HTTP/1.1 400 This is plain HTTP\r\n\r\n")
            with suppress(ConnectionError):
                while connection.recv(65536):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=talk, args=(listener,), daemon=True)
        thread.start()
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        with api.client(url=f"https://{host}/v1") as client:
            assert fails(client, SignInFailed).startswith(f"auth-token: TLS with {host} failed: ")
        thread.join(PATIENT)
        assert not thread.is_alive()


class FailingAdapter(BaseAdapter):
    """A transport that fails."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def send(self, *_: object, **__: object) -> requests.Response:
        raise self.error

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (requests.ConnectTimeout(), "timed out after 60 s"),
        (OSError(113, "No route to host"), "cannot reach a.invalid: No route to host"),
        (requests.ConnectionError(OSError(113, "No route to host")), "cannot reach a.invalid: No route to host"),
        (requests.exceptions.InvalidURL("?"), "the request to a.invalid failed (InvalidURL)"),
        (ValueError(), "the request to a.invalid failed (ValueError)"),
    ],
)
def test_errors_of_the_libraries(api: Api, error: Exception, told: str) -> None:
    """Every error of the libraries below is one of the tree with a short message of our own, and is its cause."""
    with api.client(url="https://a.invalid/v1", adapter=FailingAdapter(error)) as client:
        with pytest.raises(SignInFailed) as caught:
            client.aggregations(PLAYS, ASKED)
        assert str(caught.value) == f"auth-token: {told}"
        assert caught.value.__cause__ is error


def test_an_adapter_without_a_deadline(api: Api) -> None:
    """A transport that is handed in keeps the deadline, too, while the body comes."""
    api.token = lambda _: drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n")
    with api.client(timeout=HASTY, adapter=HTTPAdapter()) as client:
        assert fails(client, SignInFailed) == "auth-token: timed out after 0.2 s"


# ---- secrets ----


ECHOES: list[Callable[[str], Answer]] = [
    lambda secret: reply(400, {"code": "NO", "message": f"bad: {secret}"}),
    lambda secret: reply(400, {"code": "NO", "message": "x" * 180 + secret}),
    lambda secret: reply(400, f"<p>{secret}".encode()),
    lambda secret: reply(500, {"headers": {"X": secret}}),
    lambda secret: reply(200, {"code": "NO", "message": secret}),
    lambda secret: reply(200, [{"date": "2018/12/01 14:34", "all": secret}]),
    lambda secret: reply(200, [{"date": secret, "all": 1}]),
    lambda secret: reply(200, secret.encode()),
    lambda secret: reply(200, b"x" * 68 + secret.encode()),
    lambda secret: reply(302, "", Location=f"http://{secret}.invalid/"),
    lambda secret: send(f"{secret}\r\n".encode()),
    lambda secret: send(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{secret}\r\n".encode()),
]


@pytest.mark.parametrize("secret", [API_KEY, PASSWORD, "t0ken-1-0123456789"])
@pytest.mark.parametrize("echo", ECHOES)
def test_an_echoed_secret_is_hidden(
    api: Api, caplog: pytest.LogCaptureFixture, secret: str, echo: Callable[[str], Answer]
) -> None:
    """Whatever the API does with a secret, no part of it that is of use is in an error, its causes or a log."""
    caplog.set_level(logging.DEBUG)
    api.answer = lambda _: echo(secret)
    with api.client() as client:
        try:
            problem = str(client.aggregations(PLAYS, ASKED).problems)
        except ApiError as error:
            problem = everything_told(error)
        told = problem + repr(client) + repr(vars(client._sign_in)["_token"]) + caplog.text
    for hidden in (API_KEY, PASSWORD, "t0ken-1-0123456789"):
        assert hidden not in told
        assert json.dumps(hidden)[1:-1] not in told
        assert hidden[:6] not in told


def test_an_api_key_that_no_header_can_carry(api: Api) -> None:
    """The library that refuses such a key quotes it; that does not come through."""
    for key in (f"{API_KEY}\n", f"{API_KEY}☃"):
        with api.client(api_key=key) as client:
            with pytest.raises(SignInFailed) as caught:
                client.aggregations(PLAYS, ASKED)
            assert API_KEY not in everything_told(caught.value)
    assert api.peer.requests == []


def test_a_call_that_is_killed_gives_its_slot_back(api: Api) -> None:
    """An exchange that ends in a way that nobody foresaw gives its slot back all the same."""
    adapter = FailingAdapter(ValueError())
    adapter.error = KeyboardInterrupt()  # type: ignore[assignment]
    with api.client(adapter=adapter) as client, pytest.raises(KeyboardInterrupt):
        client.aggregations(PLAYS, ASKED)
    assert [slot.ended for slot in api.budget.slots] == [1]


# ---- what nobody foresaw ----


@pytest.mark.parametrize("error", [MemoryError(), RecursionError(), KeyError("x"), OverflowError(API_KEY)])
def test_an_answer_that_cannot_be_handled(api: Api, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """A defect in reading an answer is an error of the tree that says where; the request has the code of its answer."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(answers, "rows", fail)
    with api.client() as client:
        told = fails(client, Unhandled)
    assert re.fullmatch(rf"aggregations: unexpected {type(error).__name__} at test_client.py:\d+", told)
    assert api.observed[-1] == ("aggregations", "200")
    assert api.exchanges[-1].error == told


def test_a_request_that_cannot_be_handled(api: Api) -> None:
    """A defect before an answer has come is told as no answer; for a token it is a sign-in that failed."""
    with api.client(adapter=FailingAdapter(RuntimeError("can't start new thread"))) as client:
        assert "auth-token: unexpected RuntimeError at test_client.py:" in fails(client, SignInFailed)
        assert "; next attempt at " in fails(client, SignInFailed)
    assert api.observed == [("auth-token", "error")]


EVERY_CALL: list[Callable[[Client], object]] = [
    lambda client: client.aggregations(PLAYS, ASKED),
    lambda client: client.media("x"),
    lambda client: client.live_event("x"),
]


@pytest.mark.parametrize("call", EVERY_CALL)
def test_every_call_raises_from_the_tree(api: Api, call: Callable[[Client], object]) -> None:
    """Nothing but the errors of the tree comes out of any call, whatever the API answers."""
    answers = [reply(200, answer) for answer in (None, [], {}, [1], "x", b"", b"\xff", {"id": "x"})]
    with api.client() as client:
        for answer in answers:
            api.answer = partial(lambda answer, _: answer, answer)
            try:
                call(client)
            except MalformedAnswer as error:
                assert str(error).isprintable()  # noqa: PT017 - an answer that reads is as good
