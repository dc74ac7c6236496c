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
# A request with the long timeout waits even for a slow machine; one with the short timeout ends soon.
PATIENT, HASTY = 60.0, 0.2


def at(*when: int) -> Minute:
    return minute_of(datetime(*when, tzinfo=TOKYO).timestamp())  # type: ignore[misc, arg-type]


AT = at(2018, 12, 1, 14, 34)
ASKED = MinuteRange(AT, AT + 1)
ROWS = reply(200, [{"date": "2018/12/01 14:34", "all": 10}])


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment's proxies and passwords do not apply."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "requests_ca_bundle", "curl_ca_bundle"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


class FakeSlot:
    """A slot of the budget that counts how often it was released."""

    def __init__(self) -> None:
        self.ended = 0

    def done(self) -> None:
        self.ended += 1


class FakeBudget:
    """A budget that counts its use.

    Attributes:
        left: Requests that may still leave.
        slots: The taken slots.
        refusals: The Retry-After of each 429, or None.
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
    """A server that issues tokens and responds to everything else as a test defines.

    Attributes:
        answer: The response to a call.
        token: The response to a request for a token, with `{n}` for its number.
        lifetime: Seconds for which a token is valid.
        clock: The time of both sides.
        budget: The budget of the client.
        exchanges: The exchanges that the client reported.
    """

    def __init__(self, *, tls: bool = False) -> None:
        self.answer: Callable[[Request], Answer] = lambda _: ROWS
        self.token: Callable[[int], Answer] = lambda n: reply(
            200, {"token": f"t0ken-{n}-0123456789", "expiration": self.expiration()}
        )
        self.lifetime = 3600.0
        self.clock = FakeClock()
        self.budget = FakeBudget()
        self.exchanges: list[Exchange] = []
        self.tokens = 0
        self.peer = Peer(self._answer, tls=tls)

    def expiration(self) -> str:
        return datetime.fromtimestamp(self.clock.wall + self.lifetime, UTC).isoformat()

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
        """A client whose waits between requests for tokens advance the clock of both sides."""
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
        """The endpoint and the code of each exchange that the client reported."""
        return [(exchange.endpoint, exchange.code) for exchange in self.exchanges]


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()
    with made.peer:
        yield made


def everything_logged(error: BaseException) -> str:
    """Everything that a log could show of an error."""
    return "".join(traceback.format_exception(error)) + repr(error) + repr(error.__context__)


def fails(client: Client, kind: type[ApiError] = ApiError) -> str:
    with pytest.raises(kind) as caught:
        client.aggregations(PLAYS, ASKED)
    assert type(caught.value) is kind or kind is ApiError
    return str(caught.value)


# ---- requests ----


def test_a_request_is_as_in_the_manual(api: Api) -> None:
    """Path, headers and query of the requests for the token and for data, and the rows of the answer."""
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


def test_a_media_and_a_group_are_sent(api: Api) -> None:
    """A media's stream sends its id; the group is always sent."""
    api.answer = lambda _: reply(200, [{"date": "2018/12/01 14:34", "jp": 10}])
    with api.client() as client:
        stream = Stream("m1", "7f8d&x", Target.DEVICE_COUNT, Group.COUNTRY)
        assert client.aggregations(stream, ASKED).rows == {AT: {"jp": 10}}
    query = api.calls[0].query
    assert (query["media_id"], query["target"], query["group"]) == ("7f8d&x", "device_count", "country")


def test_whole_days_are_requested(api: Api) -> None:
    """The query of a target by day is from the local midnight of the first day to the last second of the last."""
    api.answer = lambda _: reply(200, [{"date": "2018/12/01", "all": 3}])
    with api.client() as client:
        stream = Stream("m1", "x", Target.KEY_DELIVERY_COUNT, Group.ALL)
        asked = MinuteRange(at(2018, 11, 30, 14, 34), at(2018, 12, 1, 0, 0))
        assert client.aggregations(stream, asked).rows == {at(2018, 12, 1, 0, 0): {"": 3}}
    query = api.calls[0].query
    assert (query["interval"], query["from"], query["to"]) == ("day", "20181130000000", "20181201235959")


def test_hours_are_requested_as_hours(api: Api) -> None:
    """A range can be requested by hour."""
    api.answer = lambda _: reply(200, [{"date": "2018/12/01 14", "all": 3}])
    with api.client() as client:
        asked = MinuteRange(at(2018, 11, 30, 14, 0), at(2018, 12, 1, 14, 59))
        assert client.aggregations(PLAYS, asked, hourly=True).rows == {at(2018, 12, 1, 14, 0): {"": 3}}
    query = api.calls[0].query
    assert (query["interval"], query["from"], query["to"]) == ("hour", "20181130140000", "20181201145959")


def test_no_content_is_no_rows(api: Api) -> None:
    """204 means that there are no rows; for a lookup or a token it is no answer, like an empty 200."""
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


def test_an_unusable_value_is_reported_without_secrets(api: Api) -> None:
    """An unusable value is returned as a problem whose text contains no secret."""
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
def test_a_repeated_local_time_is_requested_as_a_whole(
    api: Api, zone: str, first: tuple[int, ...], last: tuple[int, ...], sent: tuple[str, str]
) -> None:
    """If a range begins or ends in a repeated local time, the query begins before it and ends after it."""
    asked = MinuteRange(*(minute_of(datetime(*each, tzinfo=UTC).timestamp()) for each in (first, last)))  # type: ignore[misc, arg-type]
    with api.client(timezone=ZoneInfo(zone)) as client:
        client.aggregations(PLAYS, asked)
    assert (api.calls[0].query["from"], api.calls[0].query["to"]) == sent


def test_days_without_a_midnight_are_requested_from_their_first_minute(api: Api) -> None:
    """A local time that does not exist is never sent; the query of a day whose last hour is repeated ends after the
    day.
    """
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
    """A media and a live event are requested by their ids, with special characters quoted."""
    api.answer = lambda _: reply(200, {"id": "a b", "name": "News", "encode_status": "encode_status_running"})
    with api.client(merchant_id="m?1") as client:
        assert client.media("a b").name == "News"
        assert client.live_event("e/1").running
    media, event = api.calls
    assert media.target == "/v1/merchants/m%3F1/medias/a%20b"
    assert event.target == "/v1/merchants/m%3F1/live_events/e%2F1"
    assert api.observed == [("auth-token", "200"), ("medias", "200"), ("live_events", "200")]


def test_a_media_is_found_by_its_reference_id(api: Api) -> None:
    """It is quoted, and the answer tells the media's id; an answer without one is unusable."""
    api.answer = lambda _: reply(200, {"id": "7f", "ref_id": "a b/ナイター", "tags": ["news"]})
    with api.client() as client:
        found = client.media_by_ref("a b/ナイター")
        assert (found.media_id, found.ref_id, found.tags) == ("7f", "a b/ナイター", ("news",))
        assert api.calls[0].target.endswith("/medias/ref:a%20b%2F%E3%83%8A%E3%82%A4%E3%82%BF%E3%83%BC")
        api.answer = lambda _: reply(200, {"id": None, "name": "x"})
        with pytest.raises(MalformedAnswer, match="the media with ref_id r has no id"):
            client.media_by_ref("r")


def test_a_missing_reference_id_is_no_failure_to_show(api: Api) -> None:
    """It is asked for each minute: the list of failed requests would have nothing else. A media's 404 is in it."""
    api.answer = lambda _: reply(404, {"code": "MEDIA_NOT_FOUND"})
    with api.client() as client:
        for look_up in (client.media_by_ref, client.media):
            with pytest.raises(NotFound, match="404 MEDIA_NOT_FOUND"):
                look_up("r")
    assert api.observed[1:] == [("medias", "404"), ("medias", "404")]
    assert [bool(each.error) for each in api.exchanges[1:]] == [False, True]


def test_netrc_is_ignored(api: Api, tmp_path: Path) -> None:
    """A password for the host in ~/.netrc, which `requests` would send, is not used."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login l password n3trc\n")
    with api.client() as client:
        client.aggregations(PLAYS, ASKED)
    login, call = api.peer.requests
    assert "authorization" not in login.headers
    assert call.headers["authorization"] == "Bearer t0ken-1-0123456789"


def test_connections_are_kept_and_cookies_are_not(api: Api) -> None:
    """Successive requests use one connection; a cookie of the API is not sent back."""
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
    """The usual variables define a proxy, whose refusal is reported as such."""
    api.token = lambda _: reply(407, "no")
    api.answer = lambda _: reply(407, "no")
    monkeypatch.setenv(f"{scheme}_proxy", api.peer.url)
    with api.client(url=f"{scheme}://api.invalid/v1") as client:
        assert fails(client).startswith(
            f"auth-token: the proxy {api.peer.url} of {scheme}_proxy refuses the request (407)"
        )
    assert [request.target for request in api.peer.requests] == [target]


def test_no_proxy_blocks_a_thread(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection to a proxy that sends bytes for ever is closed like any other."""
    api.token = lambda _: drip(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n")
    monkeypatch.setenv("http_proxy", api.peer.url)
    with api.client(timeout=HASTY, url="http://api.invalid/v1") as client:
        assert fails(client, SignInFailed).startswith("auth-token: timed out after 0.2 s, through the proxy")


def test_the_password_of_a_proxy_is_hidden(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a proxy echoes its credentials, they are in no message."""
    api.token = lambda _: reply(403, api.peer.requests[-1].headers["proxy-authorization"] + " pr%40xy pr@xy")
    monkeypatch.setenv("http_proxy", api.peer.url.replace("://", "://user:pr%40xy@"))
    with api.client(url="http://api.invalid/v1") as client:
        assert fails(client).startswith("auth-token: 403 Basic <secret> <secret> <secret>; ")


# ---- tokens ----


@pytest.mark.parametrize(("lifetime", "margin"), [(3600.0, 60.0), (100.0, 10.0)])
def test_a_token_is_renewed_before_it_expires(api: Api, lifetime: float, margin: float) -> None:
    """A token is used until a minute before its expiry, or until a tenth of its lifetime is left."""
    api.lifetime = lifetime
    with api.client() as client:
        assert client.token_expiry is None
        client.aggregations(PLAYS, ASKED)
        assert client.token_expiry == api.clock.wall + lifetime
        api.clock.advance(lifetime - margin - 1)
        client.aggregations(PLAYS, ASKED)
        assert api.tokens == 1
        api.clock.advance(2)
        client.aggregations(PLAYS, ASKED)
        assert api.tokens == 2
        assert client.token_expiry == api.clock.wall + lifetime
    assert api.calls[-1].headers["authorization"] == "Bearer t0ken-2-0123456789"


@pytest.mark.parametrize("lifetime", [-1e6, 0.0, None])
def test_an_impossible_expiry_is_unknown(api: Api, lifetime: float | None) -> None:
    """A token is used even if it has no expiry, or if it had expired before it was issued because the clocks differ."""
    api.lifetime = lifetime or 0.0
    if lifetime is None:
        api.token = lambda n: reply(200, {"token": f"t{n}"})
    with api.client() as client:
        for _ in range(3):
            client.aggregations(PLAYS, ASKED)
            api.clock.advance(1e6)
            assert client.token_expiry is None
    assert api.tokens == 1


def valid_tokens(*good: str) -> Callable[[Request], Answer]:
    def answer(request: Request) -> Answer:
        if request.headers["authorization"].removeprefix("Bearer ") in good:
            return ROWS
        return reply(401, {"code": "UNAUTHORIZED", "message": "the token is not good"})

    return answer


def test_a_refused_token_is_renewed_once(api: Api) -> None:
    """After a 401 the request is sent again with a new token, and takes another slot."""
    api.answer = valid_tokens("t0ken-2-0123456789")
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


def test_a_second_refusal_is_reported(api: Api) -> None:
    """If the new token is refused, too, the call fails. If each token is refused from its first use on, new ones are
    requested less and less often, and each call is sent once meanwhile.
    """
    api.answer = valid_tokens()
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
    """Answer the whole merchant and these media, with any token; respond 401 to all others."""

    def answer(request: Request) -> Answer:
        asked = request.query.get("media_id", "") if request.query else request.path
        return ROWS if asked in ("", *allowed) else reply(401, {"code": "NO"})

    return answer


def test_refused_media_cost_one_token(api: Api) -> None:
    """A valid token is renewed once for the first media for which it is refused, and not for the next 89; nor for the
    same media again, nor for a lookup of the catalog.
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


def test_a_refused_whole_merchant_costs_one_token(api: Api) -> None:
    """If the account has no permission for the whole merchant, that is no reason to renew the token each minute."""
    api.answer = lambda request: ROWS if "media_id" in request.query else reply(401, {"code": "NO"})
    with api.patient_client() as client:
        for _ in range(60):
            fails(client, Unauthorized)
            assert client.aggregations(ALLOWED, ASKED).rows
            api.clock.advance(30)
    assert api.tokens == 2


def test_a_revoked_token_is_noticed_by_a_request_it_was_accepted_for(api: Api) -> None:
    """While some media are known to be refused, a token is renewed when it is refused for a request that it was
    accepted for before.
    """
    api.answer = only("allowed")
    with api.patient_client() as client:
        client.aggregations(PLAYS, ASKED)
        with pytest.raises(Unauthorized):
            client.aggregations(REFUSED, ASKED)
        client.aggregations(ALLOWED, ASKED)
        assert api.tokens == 2
        api.answer = valid_tokens("t0ken-3-0123456789")
        with pytest.raises(Unauthorized):
            client.aggregations(REFUSED, ASKED)
        assert (api.tokens, client.renewals) == (2, 1)
        assert client.aggregations(ALLOWED, ASKED).rows
        assert (api.tokens, client.renewals) == (3, 2)
        assert client.aggregations(REFUSED, ASKED).rows


def test_threads_renew_a_revoked_token_once(api: Api) -> None:
    """If the token is revoked while threads request different media, there is one new token, whether or not some media
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


# ---- failed sign-in ----


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refused_password(api: Api, status: int) -> None:
    """When a request for a token is refused, the error says what to check, and no other request is sent. The next
    attempts come 1, 2, 4, 8 and then every 15 minutes later, as too many could lock the account. Meanwhile the error is
    the same, with the time of the next attempt.
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
    ("answer", "code", "message"),
    [
        (reply(200, {"tokens": "t0ken-1-0123456789"}), "200", "no token that is valid in an HTTP header"),
        (reply(200, {"token": "t0ken-1\r\nX: y"}), "200", "no token that is valid in an HTTP header"),
        (reply(200, b"<html>Please wait"), "200", "an HTML page instead of JSON; check api.url"),
        (reply(503, "later"), "503", "503 later"),
        (reply(302, "", Location="http://other.invalid/"), "302", "302, a redirect to other.invalid"),
        (b"", "error", "127.0.0.1:"),
    ],
)
def test_a_failed_sign_in(api: Api, answer: bytes, code: str, message: str) -> None:
    """Any other response to a request for a token means that there is no token and no other request is sent. The next
    attempt waits for 15 seconds, then twice as long each time, up to 4 minutes.
    """
    api.token = lambda _: answer or (lambda connection: connection.sendall(b""))
    sent = []
    with api.patient_client() as client:
        for second in range(0, 1200, 5):
            before = api.tokens
            with pytest.raises(SignInFailed, match=f"^auth-token: {message}") as caught:
                client.aggregations(PLAYS, ASKED)
            assert (caught.value.code, caught.value.refused) == (code, False)
            sent += [second] * (api.tokens - before)
            api.clock.advance(5)
        assert client.token_expiry is None
    assert sent == [0, 15, 45, 105, 225, 465, 705, 945, 1185]
    assert api.calls == []


def test_a_sign_in_resets_the_backoff(api: Api) -> None:
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
def test_threads_share_a_failed_sign_in(api: Api, threads: int) -> None:
    """If several threads need a token and it is refused, there was one request."""
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
    """A 429 for a token is like any other 429: the budget waits, and nothing else does."""
    api.token = lambda _: reply(429, "slow down", Retry_After="9")
    with api.client() as client:
        for _ in range(2):
            assert fails(client, RateLimited).startswith("auth-token: 429 slow down; other tools")
    assert api.budget.refusals == [9.0, 9.0]


def test_threads_renew_once(api: Api) -> None:
    """When all of a merchant's threads get a 401 for the same token, one of them renews it for all."""
    threads = 8
    together = threading.Barrier(threads, timeout=PATIENT)
    good = valid_tokens("t0ken-2-0123456789")

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
    """Requests for tokens, calls and repetitions take a slot each; without one nothing is sent, and a token already
    received is kept.
    """
    api.budget.left = left
    api.answer = valid_tokens("t0ken-2-0123456789")
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
    """A Retry-After is a number of seconds or a date in the future; anything else is ignored."""
    assert retry_after(header, datetime(2026, 5, 15, 9, tzinfo=UTC).timestamp()) == wait


@pytest.mark.parametrize(("headers", "wait"), [({"Retry_After": "30"}, 30.0), ({}, None)])
def test_a_429_is_reported_to_the_budget(api: Api, headers: dict[str, str], wait: float | None) -> None:
    """The budget gets each 429, with or without Retry-After, and the caller gets an error."""
    api.answer = lambda _: reply(429, {"code": "TOO_MANY"}, **headers)
    with api.client() as client, pytest.raises(RateLimited) as caught:
        client.aggregations(PLAYS, ASKED)
    assert caught.value.retry_after == wait
    assert (caught.value.code, api.budget.refusals) == ("429", [wait])


@pytest.mark.parametrize("status", [500, 502, 503, 504])
@pytest.mark.parametrize(
    ("headers", "wait"), [({"Retry_After": "30"}, 30.0), ({"Retry_After": "soon"}, None), ({}, None)]
)
def test_the_retry_after_of_a_5xx_is_reported_to_the_caller(
    api: Api, status: int, headers: dict[str, str], wait: float | None
) -> None:
    """The caller gets the API's Retry-After, for a token, too; the budget does not."""
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
    ("status", "kind", "message"),
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
def test_statuses(api: Api, status: int, kind: type[RefusedError], message: str) -> None:
    """Each status has its error, with the API's message and what to check."""
    body = b"" if status == 304 else {"code": "CODE", "message": "text"}
    api.answer = lambda _: reply(status, body)
    with api.client() as client:
        assert fails(client, kind) == f"aggregations: {message}"
        assert api.observed[-1] == ("aggregations", str(status))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(api: Api, status: int) -> None:
    """The API key goes to no other host or path; the body of a redirect may never end."""
    with Peer(lambda _: ROWS) as other:
        head = f"HTTP/1.1 {status} Moved\r\nLocation: http://u:pw@{other.url[7:]}/x\r\n\r\n"
        api.answer = lambda _: drip(head.encode(), b"x" * 70_000)
        with api.client() as client:
            message = fails(client, RefusedError)
        assert message == f"aggregations: {status}, a redirect to {other.url[7:]}, not followed; check api.url"
        assert other.requests == []


@pytest.mark.parametrize("location", ["http://[::1", "http://\xff/", "//"])
def test_redirects_to_nowhere(api: Api, location: str) -> None:
    """A redirect to an invalid address is a refusal like any other."""
    api.answer = lambda _: reply(302, "", Location=location)
    with api.client() as client:
        assert fails(client, RefusedError).startswith("aggregations: 302, a redirect to ")


# ---- unusable answers ----


def test_a_malformed_answer_counts_as_a_200(api: Api) -> None:
    """A 200 that cannot be read as rows is counted as a 200; the error names the call and the reason."""
    api.answer = lambda _: reply(200, b"<html>Please wait")
    with api.client() as client:
        message = fails(client, MalformedAnswer)
    assert message == "aggregations: not JSON (Expecting value, character 0): <html>Please wait"
    assert api.observed[-1] == ("aggregations", "200")


def test_an_exchange_has_the_request_and_its_error(api: Api) -> None:
    """Exchanges for a token, a stream, a media and a live event have their description, and a failed one has the
    error's text.
    """
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
    exchanges = [(each.endpoint, each.code, each.asked, each.media_id, each.error) for each in api.exchanges]
    assert exchanges == [
        ("auth-token", "200", "", "", ""),
        ("aggregations", "200", "whole merchant/play_count/all", "", ""),
        ("aggregations", "200", "abc/play_time/os by hour", "abc", str(unreadable.value)),
        ("medias", "404", "abc", "abc", str(gone.value)),
        ("live_events", "error", "e1", "", str(silent.value)),
    ]
    assert all(each.merchant_id == "m1" and each.at == api.clock.wall for each in api.exchanges)
    assert all(each.seconds >= 0 for each in api.exchanges)


def test_the_content_type_does_not_matter(api: Api) -> None:
    """JSON with another content type is still JSON, and may be compressed."""
    body = gzip.compress(b'[{"date": "2018/12/01 14:34", "all": 10}]', mtime=0)
    api.answer = lambda _: reply(200, body, Content_Type="text/html; charset=x", Content_Encoding="gzip")
    with api.client() as client:
        assert client.aggregations(PLAYS, ASKED).rows == {AT: {"": 10}}


# ---- the maximum size of an answer ----


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
def test_the_maximum_size_follows_from_the_request(
    stream: Stream, minutes: int, hourly: bool, values: int, asked: str
) -> None:
    """The limit is the number of requested rows and some more, each with a number of values, but never more than the
    memory of a small machine.
    """
    limit = rows_limit(stream, minutes, hourly=hourly)
    assert limit == Limit(65536 + 64 * values, values, asked)


LIMIT = "the limit is 142336 bytes and 1200 values"


def test_an_endless_answer(api: Api) -> None:
    """An answer larger than any valid one is not read to its end, compressed or not."""
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
def test_values_are_counted_before_objects_are_created(api: Api, monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    """An answer with too many values is rejected with the requested range, the size of the answer and the limit."""
    api.answer = lambda _: reply(200, body)
    with api.client() as client:
        client._sign_in.token()
        monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("it was read"))
        message = fails(client, TooLarge)
    came = message.partition("got ")[2].split()[0]
    assert message == (
        "aggregations: the answer is too large: asked for 2 minutes of whole merchant/play_count/all, "
        f"got {came} values, {LIMIT}"
    )
    assert 1_200 < int(came) < 4_900
    assert api.observed[-1] == ("aggregations", "200")


def bomb(start: bytes, again: bytes, end: bytes, size: int) -> bytes:
    """A small answer that is large when decompressed."""
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
    """100 KiB that would be gigabytes of Python objects take only a few times the memory of the
    largest valid answer.
    """
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


def test_large_answers_are_parsed_one_at_a_time() -> None:
    """A second large answer waits until the first is parsed; a small one does not. An unreadable answer lets the next
    go.
    """
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
def test_answers_may_be_compressed(api: Api, packing: str, packed: bytes) -> None:
    """Gzip, and deflate in both of its usual forms, are requested and decompressed."""
    api.answer = lambda _: reply(200, packed, Content_Encoding=packing)
    with api.client() as client:
        assert client.aggregations(PLAYS, ASKED) == Reading({})
    assert api.calls[0].headers["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize("packing", ["br", "zstd", "gzip, gzip", "compress"])
def test_other_compressions_are_rejected(api: Api, packing: str) -> None:
    """An encoding that was not requested is not decompressed; the status of an error counts all the same."""
    with api.client() as client:
        api.answer = lambda _: reply(200, b"[]", Content_Encoding=packing)
        message = fails(client, MalformedAnswer)
        assert message == f'aggregations: the answer is packed as "{packing}", which was not asked for'
        api.answer = lambda _: reply(500, b"[]", Content_Encoding=packing)
        assert fails(client, ServerError) == "aggregations: 500"


def test_a_large_token_is_rejected(api: Api) -> None:
    """The answer to a request for a token has the size limit of a token."""
    api.token = lambda _: reply(200, {"token": "t" * 70_000})
    with api.client() as client:
        assert fails(client, SignInFailed) == (
            "auth-token: the answer is too large: asked for a token, got more than 65536 bytes, "
            "the limit is 65536 bytes and 100 values"
        )


@pytest.mark.parametrize(
    ("pack", "shown"),
    [
        pytest.param(lambda: bomb(b"", b"no ", b"", 60 * 2**20), " no no", id="a bomb"),
        pytest.param(lambda: gzip.compress(b"no " * 30_000, mtime=0)[:-9], " no no", id="cut off"),
        pytest.param(lambda: b"no gzip", "", id="no gzip"),
    ],
)
def test_a_compressed_error(api: Api, pack: Callable[[], bytes], shown: str) -> None:
    """Only the shown part of an error is decompressed, and one that cannot be decompressed is an error."""
    body = pack()
    api.answer = lambda _: reply(500, body, Content_Encoding="gzip")
    with api.client() as client:
        assert fails(client, ServerError).startswith("aggregations: 500" + shown)


def test_an_endless_error(api: Api) -> None:
    """Only the shown part of an error is read."""
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
def test_no_peer_blocks_a_thread(api: Api, script: Script) -> None:
    """The connection to a server that is silent, or sends bytes for ever, is closed at the deadline, at every stage."""
    api.token = lambda _: script
    with api.client(timeout=HASTY) as client:
        assert fails(client, SignInFailed) == "auth-token: timed out after 0.2 s"
    assert api.observed == [("auth-token", "error")]


@pytest.mark.parametrize(
    ("answer", "message"),
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
def test_incomplete_answers(api: Api, answer: bytes, message: str) -> None:
    """An answer that ends early, or is not HTTP, is no answer; the message is short."""
    api.answer = lambda _: send(answer)
    with api.client() as client:
        assert fails(client, NoAnswer) == "aggregations: " + message.format(peer=api.peer.url[7:])
        assert api.observed[-1] == ("aggregations", "error")
        api.answer = lambda _: ROWS
        assert client.aggregations(PLAYS, ASKED).rows, "the next request works"


def test_a_refused_connection(api: Api, free_port: int) -> None:
    """A refused connection is no answer."""
    with api.client(url=f"http://127.0.0.1:{free_port}/v1") as client:
        assert fails(client, SignInFailed) == f"auth-token: 127.0.0.1:{free_port} refused the connection"


def test_a_name_that_does_not_resolve(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing DNS lookup is no answer."""

    def getaddrinfo(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with api.client(url="http://api.invalid/v1") as client:
        assert fails(client, SignInFailed) == "auth-token: cannot resolve api.invalid"


class Resolver:
    """A replacement for `socket.getaddrinfo`: `hangs.invalid` hangs until `release`, `many.invalid` has the addresses.

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
        """Let the hanging lookups return 127.0.0.1."""
        self._released.set()

    def _look_up(self, host: str, port: int, *args: Any, **options: Any) -> list[Any]:
        if not host.endswith(".invalid"):
            return self._original(host, port, *args, **options)
        self.asked.append(host)
        if host == "hangs.invalid":
            self._released.wait(PATIENT)
        addresses = self._addresses or ("127.0.0.1",)
        return [each for address in addresses for each in self._original(address, port, *args, **options)]


def resolver_threads() -> list[threading.Thread]:
    """The threads of DNS lookups."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("resolve ")]


def test_a_hanging_dns_lookup_blocks_one_thread(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of requests may need its addresses: each ends in time, and the addresses are used
    once they are known.
    """
    resolver = Resolver(monkeypatch)
    url = api.peer.url.replace("127.0.0.1", "hangs.invalid")
    messages: list[str] = []
    with api.client(url=f"{url}/v1", timeout=HASTY) as client:
        work = [threading.Thread(target=lambda: messages.append(fails(client)), daemon=True) for _ in range(4)]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join(PATIENT)
        with api.client(url=f"{url}/v1", timeout=HASTY) as another:
            messages.append(fails(another))
    assert {each.partition(";")[0] for each in messages} == {
        f"auth-token: cannot resolve hangs.invalid:{url.rpartition(':')[2]}"
    }
    assert len(messages) == 5
    assert resolver.asked == ["hangs.invalid"]
    [thread] = resolver_threads()
    resolver.release()
    thread.join(PATIENT)
    assert not resolver_threads()
    with api.client(url=f"{url}/v1") as client:
        assert client.aggregations(PLAYS, ASKED).rows
    assert resolver.asked == ["hangs.invalid"] * 2
    assert {request.headers["host"] for request in api.peer.requests} == {url[7:]}


def test_a_hanging_dns_lookup_of_a_proxy(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of a proxy is handled like that of the API."""
    resolver = Resolver(monkeypatch)
    monkeypatch.setenv("https_proxy", "http://hangs.invalid:3128")
    with api.client(url="https://api.invalid/v1", timeout=HASTY) as client:
        assert fails(client).startswith("auth-token: ")
    assert resolver.asked == ["hangs.invalid"]
    resolver.release()
    for thread in resolver_threads():
        thread.join(PATIENT)


@contextmanager
def black_hole(address: str, port: int) -> Iterator[None]:
    """An address whose connections are never accepted: the queue of its listener is full."""
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


def test_a_working_address_is_found(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an address that does not answer and one that refuses, the working one still gets its share of the time."""
    Resolver(monkeypatch, "127.0.0.2", "127.0.0.3", "127.0.0.1")
    port = int(api.peer.url.rpartition(":")[2])
    with black_hole("127.0.0.2", port), api.client(url=f"http://many.invalid:{port}/v1", timeout=3.0) as client:
        for _ in range(2):
            assert client.aggregations(PLAYS, ASKED).rows
    assert {request.connection for request in api.peer.requests} == {1}


# The start of a TLS record of 16 KiB with a ServerHello.
HELLO = b"\x16\x03\x03\x40\x00\x02\x00\x3f\xf0"


def begin_handshake(connection: socket.socket) -> None:
    """Act as a proxy connected to a server whose handshake does not end."""
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
def test_no_proxy_of_https_blocks_a_thread(api: Api, monkeypatch: pytest.MonkeyPatch, script: Script) -> None:
    """The connection to a proxy that never connects, or connects to a server that never answers, is closed."""
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
def test_no_handshake_blocks_a_thread(api: Api, start: bytes) -> None:
    """The connection to a server that never ends the TLS handshake is closed, though it sends a byte now and then."""
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
    """Many requests under way need no additional thread each."""
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
    # The threads of the server have no names of their own.
    assert not {name for name in new if "_talk" not in name}


def test_an_untrusted_certificate() -> None:
    """A server whose certificate is not trusted receives nothing, and the message names the reason."""
    api = Api(tls=True)
    with api.peer, api.client() as client:
        message = fails(client, SignInFailed)
    host = api.peer.url[8:]
    fix = "to trust another CA, name its file in api.tls_config.ca_file or REQUESTS_CA_BUNDLE"
    assert message == f"auth-token: the TLS certificate of {host} is not valid: self-signed certificate; {fix}"
    assert api.peer.requests == []


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(drip(b"", b""), id="silence"),
        pytest.param(drip(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), id="headers without end"),
        pytest.param(drip(b"HTTP/1.1 200 OK\r\n\r\n"), id="a body without a length"),
    ],
)
def test_no_peer_with_tls_blocks_a_thread(monkeypatch: pytest.MonkeyPatch, script: Script) -> None:
    """With TLS, too, the connection to a server that is silent or sends bytes for ever is closed, and that to one that
    answers is not.
    """
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
    api = Api(tls=True)
    with api.peer:
        with api.client() as client:
            assert client.aggregations(PLAYS, ASKED).rows
        api.token = lambda _: script
        with api.client(timeout=1.0) as client:
            assert fails(client, SignInFailed) == "auth-token: timed out after 1 s"


def test_a_peer_without_tls(api: Api) -> None:
    """HTTPS to a server without TLS is no answer."""

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
    ("error", "message"),
    [
        (requests.ConnectTimeout(), "timed out after 60 s"),
        (OSError(113, "No route to host"), "cannot reach a.invalid: No route to host"),
        (requests.ConnectionError(OSError(113, "No route to host")), "cannot reach a.invalid: No route to host"),
        (requests.exceptions.InvalidURL("?"), "the request to a.invalid failed (InvalidURL)"),
        (ValueError(), "the request to a.invalid failed (ValueError)"),
    ],
)
def test_errors_of_the_libraries(api: Api, error: Exception, message: str) -> None:
    """Every error of the libraries is mapped to one of the tree, with a short message of our own, and is its cause."""
    with api.client(url="https://a.invalid/v1", adapter=FailingAdapter(error)) as client:
        with pytest.raises(SignInFailed) as caught:
            client.aggregations(PLAYS, ASKED)
        assert str(caught.value) == f"auth-token: {message}"
        assert caught.value.__cause__ is error


def test_an_adapter_without_a_deadline(api: Api) -> None:
    """A transport that is passed in keeps the deadline, too, while the body arrives."""
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
    """Whatever the API does with a secret, no usable part of it is in an error, its causes or a log."""
    caplog.set_level(logging.DEBUG)
    api.answer = lambda _: echo(secret)
    with api.client() as client:
        try:
            problem = str(client.aggregations(PLAYS, ASKED).problems)
        except ApiError as error:
            problem = everything_logged(error)
        message = problem + repr(client) + repr(vars(client._sign_in)["_token"]) + caplog.text
    for hidden in (API_KEY, PASSWORD, "t0ken-1-0123456789"):
        assert hidden not in message
        assert json.dumps(hidden)[1:-1] not in message
        assert hidden[:6] not in message


def test_an_api_key_that_no_header_can_contain(api: Api) -> None:
    """The library quotes such a key in its error; ours does not contain it."""
    for key in (f"{API_KEY}\n", f"{API_KEY}☃"):
        with api.client(api_key=key) as client:
            with pytest.raises(SignInFailed) as caught:
                client.aggregations(PLAYS, ASKED)
            assert API_KEY not in everything_logged(caught.value)
    assert api.peer.requests == []


def test_a_killed_call_releases_its_slot(api: Api) -> None:
    """A call that ends with an unexpected exception still releases its slot."""
    adapter = FailingAdapter(ValueError())
    adapter.error = KeyboardInterrupt()  # type: ignore[assignment]
    with api.client(adapter=adapter) as client, pytest.raises(KeyboardInterrupt):
        client.aggregations(PLAYS, ASKED)
    assert [slot.ended for slot in api.budget.slots] == [1]


# ---- unexpected exceptions ----


@pytest.mark.parametrize("error", [MemoryError(), RecursionError(), KeyError("x"), OverflowError(API_KEY)])
def test_a_defect_after_the_answer(api: Api, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """A defect in reading an answer is an error of the tree that names the place; the exchange has the status code of
    the answer.
    """

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(answers, "rows", fail)
    with api.client() as client:
        message = fails(client, Unhandled)
    assert re.fullmatch(rf"aggregations: unexpected {type(error).__name__} at test_client.py:\d+", message)
    assert api.observed[-1] == ("aggregations", "200")
    assert api.exchanges[-1].error == message


def test_a_defect_before_the_answer(api: Api) -> None:
    """A defect before an answer is reported as no answer; for a token it is a failed sign-in."""
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
    """Whatever the API answers, a call raises only errors of the tree."""
    answers = [reply(200, answer) for answer in (None, [], {}, [1], "x", b"", b"\xff", {"id": "x"})]
    with api.client() as client:
        for answer in answers:
            api.answer = partial(lambda answer, _: answer, answer)
            try:
                call(client)
            except MalformedAnswer as error:
                assert str(error).isprintable()  # noqa: PT017 - an answer that reads is as good
