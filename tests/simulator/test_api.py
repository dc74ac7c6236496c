"""The simulated API over real HTTP: calls, refusals, faults, forms of answers, and the control path."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import requests
from structlog.testing import capture_logs

from exporter.errors import InputError
from exporter.model import Group, MinuteRange, Target, minute_of
from exporter.simulator.app import SimulatorApp
from exporter.simulator.faults import Faults, FaultSwitch
from exporter.simulator.gate import Credentials, RateLimit
from exporter.simulator.journal import Journal, Request
from exporter.simulator.series import World
from exporter.simulator.server import SimulatorServer
from tests.support.busiest import busiest
from tests.support.processes import PATIENCE, get
from tests.support.world import final_sums, final_values

NOW = datetime(2026, 11, 18, 20, 0, tzinfo=ZoneInfo("Asia/Tokyo")).timestamp()
LAST_HALF_HOUR = {"interval": "minute", "from": "20261118193000", "to": "20261118195959"}
HEADERS = {"X-Streaks-Api-Key": "key", "Content-Type": "application/json"}
ACCOUNT = {"mail_address": "ops@example.com", "password": "hidden-word"}


class Api:
    """A running simulated API, and a client of it.

    Attributes:
        now: The clock, Unix seconds.
        slept: The seconds that each hanging answer waited.
    """

    def __init__(self, credentials: Credentials | None = None) -> None:
        self.now = NOW
        self.slept: list[float] = []
        self.world = World()
        self.faults = FaultSwitch(self.world, lambda: self.now)
        self.app = SimulatorApp(self.world, self.faults, lambda: self.now, self.slept.append, credentials)
        self.server = SimulatorServer(self.app)
        self.session = requests.Session()
        self.token = ""

    def login(self, merchant_id: str = "demo", **account: str) -> requests.Response:
        """Request a token, and use it from now on if there is one."""
        url = f"{self.server.url}/merchants/{merchant_id}/auth-token/"
        answer = self.session.post(url, json=ACCOUNT | account, headers=HEADERS, timeout=PATIENCE)
        if answer.ok:
            self.token = answer.json()["token"]
        return answer

    def get(self, path: str, headers: dict[str, str] | None = None, **query: str) -> requests.Response:
        """Call the API for the merchant."""
        sent = HEADERS | {"Authorization": f"Bearer {self.token}"} | (headers or {})
        url = f"{self.server.url}/merchants/demo/{path}"
        return self.session.get(url, params=query, headers=sent, timeout=PATIENCE)

    def rows(self, **query: str) -> requests.Response:
        """Rows of the last half hour, unless the query has another range."""
        return self.get("aggregations", None, **(LAST_HALF_HOUR | query))

    def control(self, path: str, body: object = None) -> requests.Response:
        """Call the control path."""
        url = f"{self.server.url.removesuffix('/v1')}/control/{path}"
        if body is None:
            return self.session.get(url, timeout=PATIENCE)
        return self.session.post(url, data=body if isinstance(body, str) else json.dumps(body), timeout=PATIENCE)

    def media_id(self, ref_id: str) -> str:
        """The id of a media of the merchant."""
        return next(media.id for media in self.world.catalog("demo").values() if media.ref_id == ref_id)


@pytest.fixture
def api() -> Iterator[Api]:
    served = Api()
    with served.server, served.session:
        assert served.login().status_code == 200
        yield served


@pytest.fixture
def strict_api() -> Iterator[Api]:
    served = Api(Credentials("key", "ops@example.com", "hidden-word"))
    with served.server, served.session:
        yield served


# Token and headers


def test_token_names_its_expiry(api: Api) -> None:
    """A token comes with its expiry, as the API writes it, under either name."""
    assert api.login().json()["expiration"] == "2026-11-18T12:00:00.000Z"
    api.faults.set(expiry_field="expired_at", token_life=90)
    assert api.login().json()["expired_at"] == "2026-11-18T11:01:30.000Z"


def test_token_expires(api: Api) -> None:
    """A token is valid until its expiry, and not after."""
    api.now += 3599
    assert api.rows().status_code == 200
    api.now += 1
    assert (api.rows().status_code, api.rows().json()["code"]) == (401, "UNAUTHORIZED")
    api.login()
    assert api.rows().status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": ""},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"X-Streaks-Api-Key": ""},
    ],
)
def test_headers_are_checked(api: Api, headers: dict[str, str]) -> None:
    """Without a valid token and an API key every call is refused with 401."""
    for path in ("aggregations", "medias/x", "live_events/x"):
        answer = api.get(path, headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHORIZED")
        assert answer.headers["Content-Type"] == "application/json"


def test_content_type_is_checked(api: Api) -> None:
    """A call that is not declared as JSON is refused with 400; a charset is accepted."""
    assert api.get("aggregations", {"Content-Type": "text/plain"}).json()["code"] == "BAD_REQUEST"
    assert api.get("aggregations", {"Content-Type": "application/json; charset=utf-8"}).status_code == 200


def test_token_of_another_merchant(api: Api) -> None:
    """A token is valid for its own merchant only."""
    api.login("other")
    assert api.rows().status_code == 401


def test_expected_credentials(strict_api: Api) -> None:
    """If credentials are configured, each wrong one is refused with 401."""
    assert strict_api.login().status_code == 200
    assert strict_api.login(mail_address="someone@example.com").status_code == 401
    assert strict_api.login(password="wrong").status_code == 401
    assert strict_api.get("aggregations", {"X-Streaks-Api-Key": "wrong"}).status_code == 401


@pytest.mark.parametrize("account", [{"mail_address": ""}, {"password": ""}])
def test_empty_credentials(api: Api, account: dict[str, str]) -> None:
    """Any credential is accepted, except an empty one."""
    assert api.login(**account).status_code == 401


@pytest.mark.parametrize("body", ["", "{", "[]", '"text"'])
def test_token_needs_an_object(api: Api, body: str) -> None:
    """A body that is not a JSON object is refused with 400."""
    url = f"{api.server.url}/merchants/demo/auth-token/"
    answer = api.session.post(url, data=body, headers=HEADERS, timeout=PATIENCE)
    assert (answer.status_code, answer.json()["code"]) == (400, "BAD_REQUEST")


# Parameters


@pytest.mark.parametrize("target", [target for target in Target if not target.by_day])
@pytest.mark.parametrize("group", Group)
def test_minutes_are_the_final_values(api: Api, target: Target, group: Group) -> None:
    """Every target with every group returns the final values of exactly the requested minutes."""
    rows = api.rows(target=target, group=group).json()
    first = minute_of(NOW) - 30
    assert [row["date"] for row in rows] == [f"2026/11/18 19:{minute}" for minute in range(30, 59)]
    for offset, row in enumerate(rows):
        values = final_values(api.world, "demo", "", target, group, first + offset)
        shown = {("" if group is Group.ALL else name): value for name, value in row.items() if name != "date"}
        assert shown == {label: value for label, value in values.items() if value}


def test_default_is_the_plays_of_today(api: Api) -> None:
    """Without parameters the answer is the plays of today, of the whole merchant, by day."""
    midnight = minute_of(NOW) - 20 * 60
    plays = final_sums(api.world, "demo", "", Target.PLAY_COUNT, Group.ALL, MinuteRange(midnight, minute_of(NOW) - 2))
    assert api.get("aggregations").json() == [{"date": "2026/11/18", "all": plays[""]}]


@pytest.mark.parametrize(
    ("interval", "dates"),
    [("hour", ["2026/11/18 18", "2026/11/18 19"]), ("day", ["2026/11/18"]), ("month", ["2026/11"])],
)
def test_longer_intervals(api: Api, interval: str, dates: list[str]) -> None:
    """Hours, days and months are dated as the API writes them, and are the sums of the requested minutes."""
    asked = {"from": "20261118180000", "to": "20261118195759"}
    rows = api.rows(interval=interval, **asked).json()
    minutes = api.rows(interval="minute", **asked).json()
    assert [row["date"] for row in rows] == dates
    assert sum(row["all"] for row in rows) == sum(row["all"] for row in minutes)


def test_one_media(api: Api) -> None:
    """With media_id the answer is that media's."""
    media_id = api.media_id("channel-1")
    (row,) = api.rows(media_id=media_id, **{"from": "20261118195000", "to": "20261118195059"}).json()
    final = final_values(api.world, "demo", media_id, Target.PLAY_COUNT, Group.ALL, minute_of(NOW) - 10)
    assert row == {"date": "2026/11/18 19:50", "all": final[""]}


def test_key_deliveries_by_day_and_month(api: Api) -> None:
    """DRM keys have days and months."""
    days = api.rows(target="key_delivery_count", interval="day", **{"from": "20261117000000"}).json()
    assert [row["date"] for row in days] == ["2026/11/17", "2026/11/18"]
    months = api.rows(target="key_delivery_count", interval="month", **{"from": "20261117000000"}).json()
    assert months == [{"date": "2026/11", "all": sum(row["all"] for row in days)}]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"target": "plays"}, "unknown target 'plays'"),
        ({"group": "city"}, "unknown group 'city'"),
        ({"interval": "second"}, "unknown interval 'second'"),
        ({"media": "x"}, "unknown parameter media"),
        ({"target": "key_delivery_count"}, "key_delivery_count has interval day or month and group all only"),
        (
            {"target": "key_delivery_count", "interval": "hour"},
            "key_delivery_count has interval day or month and group all only",
        ),
        (
            {"target": "key_delivery_count", "interval": "day", "group": "os"},
            "key_delivery_count has interval day or month and group all only",
        ),
        ({"from": "20261118200000"}, "from is after to"),
        ({"from": "20261301000000"}, "from is not a date like 20181231235959"),
        ({"to": "2026111819"}, "to is not a date like 20181231235959"),
        ({"to": ""}, "to is not a date like 20181231235959"),
        ({"from": "00010101000000"}, "from is not a date like 20181231235959"),
        ({"from": "20200101000000"}, "the range is longer than 400 days"),
    ],
)
def test_unsupported_requests(api: Api, query: dict[str, str], message: str) -> None:
    """A request that the API does not support is refused with 400, a code and a reason."""
    answer = api.rows(**query)
    assert answer.status_code == 400
    assert answer.json() == {"code": "BAD_REQUEST", "message": message}


def test_longest_range(api: Api) -> None:
    """With max_range, longer ranges by minute are refused with 400; those by day are not."""
    api.faults.set(max_range=29)
    assert api.rows().json() == {"code": "BAD_REQUEST", "message": "the range is longer than 29 minutes"}
    assert api.rows(interval="hour").status_code == 200
    api.faults.set(max_range=30)
    assert api.rows().status_code == 200


# Catalog and live


def test_media_by_id_and_reference(api: Api) -> None:
    """A media is found by its id and by its ref_id, with all fields of the catalog."""
    media_id = api.media_id("anime-003")
    answer = api.get(f"medias/{media_id}").json()
    assert api.get("medias/ref:anime-003").json() == answer
    assert answer == {
        "id": media_id,
        "ref_id": "anime-003",
        "name": "アニメ劇場 第3話",
        "live_event_id": None,
        "encode_type": "file",
        "duration": 2750000,
        "tags": ["anime"],
        "created_at": "2025-04-01T00:00:00.000Z",
        "updated_at": "2025-04-01T00:00:00.000Z",
    }


def test_live_event(api: Api) -> None:
    """The event of a live media shows whether it runs."""
    media = api.get("medias/ref:baseball").json()
    event = api.get(f"live_events/{media['live_event_id']}").json()
    assert (event["media_id"], event["encode_status"]) == (media["id"], "encode_status_running")
    api.now += 1800 * 3.5
    api.login()
    assert api.get(f"live_events/{media['live_event_id']}").json()["encode_status"] == "encode_status_stopped"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("medias/00000000000000000000000000000000", "MEDIA_NOT_FOUND"),
        ("medias/ref:nothing", "MEDIA_NOT_FOUND"),
        ("aggregations?media_id=nothing", "MEDIA_NOT_FOUND"),
        ("live_events/nothing", "LIVE_EVENT_NOT_FOUND"),
        ("medias", "PATH_NOT_FOUND"),
        ("videos/x", "PATH_NOT_FOUND"),
    ],
)
def test_not_found(api: Api, path: str, code: str) -> None:
    """An unknown media or event is a 404 with a code that names the kind."""
    answer = api.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, code)


def test_wrong_method(api: Api) -> None:
    """A call with the wrong method is a 405."""
    assert api.get("auth-token/").status_code == 405


def test_missing_media(api: Api) -> None:
    """A media that is gone is a 404 everywhere, and the others are not."""
    media_id = api.media_id("weather")
    api.faults.set(gone=[media_id])
    for path in (f"medias/{media_id}", "medias/ref:weather", f"aggregations?media_id={media_id}"):
        assert api.get(path).json()["code"] == "MEDIA_NOT_FOUND"
    assert api.get("medias/ref:anime-003").status_code == 200


# Faults of the answer


@pytest.mark.parametrize("status", [500, 502, 503, 504, 599])
def test_server_errors(api: Api, status: int) -> None:
    """Each status from 500 on is possible, with a JSON error."""
    api.faults.set(error_rate=1, error_status=status)
    answer = api.rows()
    assert (answer.status_code, answer.json()["code"]) == (status, "SERVER_ERROR")


def test_rates_repeat() -> None:
    """The requests that a rate selects are the same in every run, and about as many as the rate says."""

    def run() -> list[int]:
        served = Api()
        served.faults.set(error_rate=0.3, rate_limit=1000)
        with served.server, served.session:
            return [served.login().status_code for _ in range(100)]

    first = run()
    assert first == run()
    assert 15 < first.count(500) < 45


def test_answers_hang(api: Api) -> None:
    """A hanging answer waits as long as configured, and then comes."""
    api.faults.set(hang_rate=1, hang_seconds=12)
    assert api.rows().status_code == 200
    assert api.slept == [12]


def test_cut_answers(api: Api) -> None:
    """A cut answer ends before its Content-Length, and the next one is complete."""
    api.faults.set(cut_rate=1)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        api.rows()
    api.faults.set(cut_rate=0)
    assert api.rows().status_code == 200


@pytest.mark.parametrize("form", ["array", "object", "braced"])
def test_malformed_answers(api: Api, form: str) -> None:
    """A malformed answer has status 200 and the content type of JSON, but is not JSON."""
    api.faults.set(malformed_rate=1, form=form)
    answer = api.rows()
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    with pytest.raises(requests.exceptions.JSONDecodeError):
        answer.json()
    assert "]" not in answer.text


def test_html_instead(api: Api) -> None:
    """An HTML page replaces the answer, with status 200."""
    api.faults.set(html_rate=1)
    answer = api.rows()
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert answer.text.startswith("<!DOCTYPE html>")


def test_wrong_content_type(api: Api) -> None:
    """A complete answer comes as text/plain."""
    rows = api.rows().json()
    api.faults.set(text_rate=1)
    answer = api.rows()
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert answer.json() == rows


def test_faults_touch_the_token_too(api: Api) -> None:
    """Token calls fail like all others."""
    api.faults.set(malformed_rate=1)
    with pytest.raises(requests.exceptions.JSONDecodeError):
        api.login()


def test_no_token(api: Api) -> None:
    """With token_refused no new token is issued; the old one stays valid."""
    api.faults.set(token_refused=True)
    assert api.login().status_code == 401
    assert api.rows().status_code == 200


def test_revoked_token(api: Api) -> None:
    """A valid token can be revoked at once; then only a new one is valid."""
    api.faults.set(token_refusal_rate=1)
    assert api.rows().status_code == 401
    api.faults.set(token_refusal_rate=0)
    assert api.rows().status_code == 401
    api.login()
    assert api.rows().status_code == 200


# Forms of the answer


def by_device(api: Api) -> Any:
    """One minute by device, of a media with few plays."""
    minute = {"from": "20261118195000", "to": "20261118195059"}
    return api.rows(media_id=api.media_id("weather"), group="device", **minute).json()


def test_forms_of_the_list(api: Api) -> None:
    """The list is bare, in an object, or in braces that are not JSON, with the same rows."""
    rows = api.rows().json()
    api.faults.set(form="object")
    assert api.rows().json() == {"results": rows}
    api.faults.set(form="braced")
    text = api.rows().text
    with pytest.raises(ValueError, match="Expecting property name"):
        json.loads(text)
    assert text.startswith("{\n  [\n    {")
    assert json.loads(text[1:-1]) == rows


def test_empty_answers_keep_the_form(api: Api) -> None:
    """An answer without rows is an empty list in its form."""
    future = {"from": "20261118210000", "to": "20261118220000"}
    for form, text in {"array": "[]", "object": '{"results": []}', "braced": "{\n  [\n\n  ]\n}"}.items():
        api.faults.set(form=form)
        assert api.rows(**future).text == text


def test_forms_of_the_values(api: Api) -> None:
    """A group's values are beside the date, in an object, or pairs; all of them also as text."""
    (flat,) = by_device(api)
    date = flat.pop("date")
    assert flat
    api.faults.set(values="nested")
    assert by_device(api) == [{"date": date, "device": flat}]
    api.faults.set(values="pairs", strings=True)
    pairs = [{"value": name, "count": str(count)} for name, count in flat.items()]
    assert by_device(api) == [{"date": date, "device": pairs}]


def test_zeros(api: Api) -> None:
    """A label's 0 is left out, 0, or null."""
    (row,) = by_device(api)
    zeros = {"smartphone", "pc", "tablet", "tv"} - row.keys()
    assert zeros
    api.faults.set(omit_zero=False)
    assert by_device(api) == [row | dict.fromkeys(zeros, 0)]
    api.faults.set(nulls=True)
    assert by_device(api) == [row | dict.fromkeys(zeros)]
    api.faults.set(omit_zero=True)
    assert by_device(api) == [row | dict.fromkeys(zeros)]


def test_seconds_with_decimals(api: Api) -> None:
    """Seconds played are a thousandth more, to the thousandth; nothing else is."""
    seconds, plays = ([row["all"] for row in api.rows(target=each).json()] for each in ("play_time", "play_count"))
    api.faults.set(decimals=True)
    assert [row["all"] for row in api.rows(target="play_time").json()] == [
        round(value + value / 1000, 3) for value in seconds
    ]
    assert [row["all"] for row in api.rows(target="play_count").json()] == plays


def test_bad_values(api: Api) -> None:
    """Some values are no numbers, different ones in each minute; the rest is unchanged."""
    spoilt = []
    for _ in range(2):
        api.faults.set(bad_rate=0.0)
        good = api.rows(group="device").json()
        api.faults.set(bad_rate=0.2)
        rows = api.rows(group="device").json()
        cells = {(row["date"], name): value for row in rows for name, value in row.items() if name != "date"}
        expected = {(row["date"], name): value for row in good for name, value in row.items() if name != "date"}
        assert cells.keys() == expected.keys()
        bad = {cell: value for cell, value in cells.items() if value != expected[cell]}
        assert set(bad.values()) == {-1, "N/A"}
        assert len(bad) < len(cells) / 2
        spoilt.append(bad.keys())
        api.now += 60
    assert spoilt[0] != spoilt[1]


def test_rows_of_zero(api: Api) -> None:
    """A minute without plays has no row, or one of 0."""
    quiet = api.media_id("shogi")
    few = api.rows(media_id=quiet).json()
    assert len(few) < 10
    api.faults.set(omit_zero=False)
    every = api.rows(media_id=quiet).json()
    assert len(every) == 29
    assert [row for row in every if row["all"]] == few


def test_total_beside_the_parts(api: Api) -> None:
    """The value of `all` is beside the parts."""
    (row,) = by_device(api)
    api.faults.set(total=True)
    whole = sum(value for name, value in row.items() if name != "date")
    assert by_device(api) == [row | {"all": whole}]
    api.faults.set(values="nested")
    assert by_device(api)[0]["all"] == whole


# Rate limit


def test_rate_limit_slides(api: Api) -> None:
    """No more than the limit pass in any 60 seconds. The refusal names the time when the next may pass, and that is
    correct.
    """
    api.faults.set(rate_limit=3)
    api.now += 10
    assert [api.rows().status_code for _ in range(3)] == [200, 200, 429]
    refused = api.login()
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "50")
    api.now += 49.9
    assert api.rows().status_code == 429
    api.now += 0.1
    assert [api.rows().status_code for _ in range(2)] == [200, 429]
    api.now += 10
    assert [api.rows().status_code for _ in range(3)] == [200, 200, 429]


def test_rate_limit_of_each_minute(api: Api) -> None:
    """In a fixed window the count starts again with each minute."""
    api.faults.set(rate_limit=2, rate_window="fixed")
    api.now += 59
    assert [api.rows().status_code for _ in range(2)] == [200, 429]
    assert api.rows().headers["Retry-After"] == "1"
    api.now += 1
    assert [api.rows().status_code for _ in range(3)] == [200, 200, 429]


def test_refusal_without_retry_after(api: Api) -> None:
    """A 429 can come without Retry-After."""
    api.faults.set(rate_limit=1, retry_after=False)
    answer = api.rows()
    assert answer.status_code == 429
    assert "Retry-After" not in answer.headers


def test_merchants_have_separate_limits(api: Api) -> None:
    """The requests of one merchant do not count for another; the control path is not counted."""
    api.faults.set(rate_limit=1)
    assert api.rows().status_code == 429
    assert api.control("faults").status_code == 200
    assert api.login("other").status_code == 200


def test_lower_limit_applies_at_once() -> None:
    """After the limit was lowered, the wait is that of the lower limit."""
    limit = RateLimit()
    for second in range(5):
        assert limit.take("m", float(second), 5, "sliding") is None
    assert limit.take("m", 10.0, 2, "sliding") == 53.0
    assert limit.take("m", 63.0, 2, "sliding") is None


# Control path and journal


def test_control_of_faults(api: Api) -> None:
    """The faults can be read, and changed in part, at once."""
    assert Faults.model_validate(api.control("faults").json()) == Faults()
    answer = api.control("faults", {"error_rate": 1, "drop": {"": 0.5}})
    assert answer.json() == Faults(error_rate=1.0, drop={"": 0.5}).model_dump(mode="json")
    assert api.rows().status_code == 500


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{", "the body is not JSON"),
        ("[]", 'the body is not a JSON object like {"late_minutes": 3}'),
        ('{"late_minutes": "soon"}', "late_minutes: input should be a valid number"),
        ('{"error_rate": 2, "nulls": 1}', None),
        ('{"self": 2}', None),
        ("[" * 60_000, "the body is not JSON"),
    ],
)
def test_control_refuses(api: Api, body: str, message: str | None) -> None:
    """A bad setting is refused with 400 and one line, and nothing changes."""
    answer = api.control("faults", body)
    assert answer.status_code == 400
    assert "\n" not in answer.json()["error"]
    assert message in (None, answer.json()["error"])
    assert api.faults.now == Faults()


def test_control_catalog(api: Api) -> None:
    """The control path lists the media of a merchant, which the API itself does not offer."""
    catalog = api.control("catalog").json()
    assert catalog["merchant"] == "demo"
    assert [media["id"] for media in catalog["media"]] == list(api.world.catalog("demo"))
    other = api.control("catalog?merchant=other").json()
    assert (other["merchant"], other["media"][0]["name"]) == ("other", "Evening drama ep. 12")
    assert other["media"][0]["id"] != catalog["media"][0]["id"]


def test_control_requests(api: Api) -> None:
    """The control path returns the requests: counts by endpoint and status, and the newest with their arrival."""
    api.rows()
    api.now += 5
    api.get("medias/nothing")
    record = api.control("requests").json()
    assert record["counts"] == [
        {"endpoint": "aggregations", "status": 200, "count": 1},
        {"endpoint": "auth-token", "status": 200, "count": 1},
        {"endpoint": "medias", "status": 404, "count": 1},
    ]
    assert [(each["endpoint"], each["at"], each["rows"]) for each in record["newest"]] == [
        ("auth-token", NOW, None),
        ("aggregations", NOW, 29),
        ("medias", NOW + 5, None),
    ]


def test_unknown_control_path(api: Api) -> None:
    """An unknown control path is a 404 that names the existing ones."""
    answer = api.control("nothing")
    assert (answer.status_code, "/control/faults" in answer.json()["error"]) == (404, True)


def test_journal_finds_the_busiest_window() -> None:
    """By merchant, the most requests in any 60 seconds, without the end of the window."""
    journal = Journal()
    for at in (0, 30, 59.9, 60, 89, 200):
        journal.add(Request(at, "m", "medias", "GET", "/", "", 200, None))
    journal.add(Request(1, "other", "medias", "GET", "/", "", 200, None))
    assert busiest(journal, "m") == 4
    assert busiest(journal, "nobody") == 0
    assert journal.counts() == {("medias", 200): 7}


def test_each_request_is_logged_without_secrets(api: Api) -> None:
    """One line for each request has path, query, status and rows, and no secret."""
    with capture_logs() as lines:
        api.rows(group="os")
        api.login()
        api.control("faults")
    assert [line["status"] for line in lines] == [200, 200, 200]
    assert dict(lines[0]) | {"query": ""} == {
        "event": "request",
        "log_level": "info",
        "method": "GET",
        "path": "/v1/merchants/demo/aggregations",
        "query": "",
        "status": 200,
        "rows": 29,
    }
    assert "group=os" in lines[0]["query"]
    text = str(lines) + repr(Credentials("key-word", "", "hidden-word"))
    for secret in (api.token, "hidden-word", "key-word"):
        assert secret not in text


# Server


def test_many_clients_at_once(api: Api) -> None:
    """Many threads get the same answers as one."""
    api.faults.set(rate_limit=1000, late_jitter=2, revise_up=0.5)
    expected = api.rows(group="os").text
    headers = HEADERS | {"Authorization": f"Bearer {api.token}"}
    texts: list[str] = []

    def ask() -> None:
        query = LAST_HALF_HOUR | {"group": "os"}
        url = f"{api.server.url}/merchants/demo/aggregations"
        texts.extend(requests.get(url, query, headers=headers, timeout=PATIENCE).text for _ in range(5))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == [expected] * 40


def test_server_stops_while_an_answer_hangs() -> None:
    """A server that stops does not wait for hanging answers, and another can start at once."""
    world = World()
    switch = FaultSwitch(world, time.time, Faults(hang_rate=1, hang_seconds=3600))
    app = SimulatorApp(world, switch, time.time)
    server = SimulatorServer(app)
    with server, socket.create_connection(server.address) as client:
        client.sendall(b"GET /v1/merchants/demo/aggregations HTTP/1.1\r\nHost: x\r\n\r\n")
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(1)
    server.stop()
    switch.set(hang_rate=0)
    with SimulatorServer(app, port=server.address[1]) as again:
        assert again.url == server.url
        assert get(f"{again.url}/merchants/demo/aggregations").status_code == 401


def test_port_in_use(api: Api) -> None:
    """A second server on the same port is an error that names the flag, and leaves nothing open."""
    with pytest.raises(InputError, match=r"--listen-address: .*Address already in use"):
        SimulatorServer(api.app, port=api.server.address[1])


def test_ipv6() -> None:
    """The server also listens on IPv6, and the URL has brackets."""
    world = World()
    with SimulatorServer(SimulatorApp(world, FaultSwitch(world, time.time), time.time), "::1") as server:
        assert server.url == f"http://[::1]:{server.address[1]}/v1"
        assert get(server.url).status_code == 404
