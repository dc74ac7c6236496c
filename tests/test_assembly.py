"""The object graph, where no other test reaches it: what is read of it, and another configuration in its place."""

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest.mock import Mock
from zoneinfo import ZoneInfo

import pytest

from exporter.api.request_log import RequestLog
from exporter.api.zone_check import ZoneFinding
from exporter.assembly import Polling
from exporter.config.settings import Settings
from exporter.drops.monitor import NO_DROP, Drop, DropMonitor
from exporter.errors import StateWriteFailed
from exporter.merchant_views import MerchantViews
from exporter.serving.instruments import Instruments
from exporter.storage.state import State, open_state
from exporter.views import Day, Hour, Judgement, LinkView, MediaView, MerchantView, Thresholds, Verdict
from tests.support.fakes import FakeClock
from tests.support.processes import PATIENCE, wait_until
from tests.support.statuses import NOW, THROUGH, incident


def settings_of(merchants: Mapping[str, Any], **sections: Any) -> Settings:
    """Settings with these merchants, each with its media or with all that differs from the usual."""
    listed = [
        {
            "id": merchant_id,
            "api_key": "k",
            "mail_address": "ops@example.com",
            "password": "p",
            **({"media": [{"id": media_id} for media_id in given]} if isinstance(given, str) else given),
        }
        for merchant_id, given in merchants.items()
    ]
    return Settings.model_validate({"merchants": listed, **sections})


class World:
    """The parts that poll and count, on a fake clock, without an API."""

    def __init__(self, state: State, clock: FakeClock) -> None:
        self.state, self.clock, self.telemetry = state, clock, Instruments()
        self.polling: Polling

    def begin(self, settings: Settings) -> Polling:
        self.polling = Polling(settings, self.state, self.telemetry, self.clock)
        return self.polling


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    clock = FakeClock(1_780_000_000.0)
    state = open_state(tmp_path / "state.db", clock.now)
    yield World(state, clock)
    state.close()


def test_charts_are_made_for_the_wanted_merchants_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page of one merchant takes no time for the hours and days of the others."""
    polling = world.begin(settings_of({"a": "m", "b": "m"}))
    asked: list[DropMonitor] = []

    def hours(monitor: DropMonitor) -> Mapping[str, Hour]:
        asked.append(monitor)
        return {}

    def days(monitor: DropMonitor, _now: float) -> Mapping[str, Day]:
        asked.append(monitor)
        return {}

    monkeypatch.setattr(DropMonitor, "hours", hours)
    monkeypatch.setattr(DropMonitor, "days", days)
    assert (polling.hours(["b"]), polling.days(["b"])) == ({"b": {}}, {"b": {}})
    assert asked == [polling.parts["b"].monitor] * 2


def test_a_media_that_is_gone_is_not_judged() -> None:
    """The last verdict before the 404 says nothing of now. An open drop stands: nobody may say that it has ended."""
    verdict, drop = Verdict(THROUGH, 0.0, 0.0, 9.0), incident("open", THROUGH - 9, 0.8)
    good, dropping = (Drop(verdict, Judgement.JUDGED, each) for each in (None, drop))
    parts = Mock(zone=ZoneInfo("UTC"))
    parts.monitor.drops.return_value = {"": NO_DROP, "here": good, "gone": good, "open": dropping}
    parts.monitor.thresholds = dict.fromkeys(("here", "gone", "open"))
    parts.catalog.views.return_value = {media_id: MediaView(media_id) for media_id in ("here", "gone", "open")}
    since = MappingProxyType({"gone": NOW - 900, "open": NOW - 60})
    link = LinkView("m", up=True, gone=frozenset(("gone", "open")), failing_since=since)
    poller = Mock(link=link, zone=ZoneFinding(0.0), learning=0.0)
    media = MerchantViews(RequestLog()).complete(MerchantView("m"), parts, poller, NOW).media
    assert {key: (each.judgement, each.verdict, each.incident, each.failing_since) for key, each in media.items()} == {
        "here": (Judgement.JUDGED, verdict, None, None),
        "gone": (Judgement.NO_DATA, None, None, NOW - 900),
        "open": (Judgement.NO_DATA, verdict, drop, NOW - 60),
    }


def test_the_view_of_a_media_is_the_same_object_until_something_changes() -> None:
    """Whatever it is made of: the catalog, the drop, the thresholds, the failures. Of the others nothing is new."""
    verdict = Verdict(THROUGH, 0.0, 0.0, 9.0)
    parts, views = Mock(zone=ZoneInfo("UTC")), MerchantViews(RequestLog())
    parts.monitor.drops.return_value = {"": NO_DROP, "a": Drop(verdict, Judgement.JUDGED, None)}
    parts.monitor.thresholds = {"a": Thresholds(0.4, 0.6), "b": None}
    parts.catalog.views.return_value = {"a": MediaView("a"), "b": MediaView("b")}
    poller = Mock(link=LinkView("m"), zone=ZoneFinding(0.0), learning=0.0)
    before: list[Mapping[str, MediaView]] = []

    def changed() -> str:
        before.append(views.complete(MerchantView("m"), parts, poller, NOW).media)
        old, new = before[-2:] if len(before) > 1 else ({}, before[-1])
        return "".join(media_id for media_id, view in new.items() if old.get(media_id) is not view)

    assert (changed(), changed()) == ("ab", "")
    # An equal one is no change.
    parts.monitor.drops.return_value = {"": NO_DROP, "a": Drop(verdict._replace(), Judgement.JUDGED, None)}
    assert changed() == ""
    parts.monitor.drops.return_value = {"": NO_DROP, "a": Drop(verdict._replace(ratio=0.5), Judgement.JUDGED, None)}
    assert changed() == "a"
    parts.catalog.views.return_value = {"a": MediaView("a"), "b": MediaView("b", name="B")}
    assert changed() == "b"
    parts.monitor.thresholds = {"a": Thresholds(0.3, 0.6), "b": None}
    assert changed() == "a"
    changes: tuple[dict[str, Any], ...] = (
        {"failing": {"b": 1}},
        {"failing_since": {"b": NOW}},
        {"gone": frozenset("b")},
    )
    for change in changes:
        poller.link = replace(poller.link, **change)
        assert changed() == "b"
    views.forget_others(())
    assert changed() == "ab"


def shown(polling: Polling) -> dict[str, set[str]]:
    """The media that a snapshot shows, by merchant, and that streams are counted of; both must agree."""
    snapshot = polling.snapshot()
    media = {merchant_id: set(each.media) for merchant_id, each in snapshot.merchants.items()}
    counted = {
        merchant_id: {stream.media_id for stream in each.streams} - {""}
        for merchant_id, each in snapshot.merchants.items()
    }
    assert media == counted
    return media


def test_merchants_and_media_come_and_go(world: World) -> None:
    """Whatever is added, changed or removed is there, or not, in the next snapshot, and in the request counters."""
    polling = world.begin(settings_of({"a": "mn", "b": "m"}))
    assert shown(polling) == {"a": {"m", "n"}, "b": {"m"}}
    for merchants in ({"a": "no", "b": "m"}, {"b": "m"}, {"c": "xy", "b": "m"}, {"b": "", "a": "mno"}):
        polling.configure(settings_of(merchants))
        assert shown(polling) == {merchant_id: set(media) for merchant_id, media in merchants.items()}
        assert list(polling.snapshot().merchants) == list(merchants)
        links = [each.link for each in polling.snapshot().merchants.values()]
        assert [len(link.requests) for link in links if link] == [4] * len(merchants)


def test_what_does_not_change_is_not_touched(world: World) -> None:
    """Of a merchant that stays as it was, every part stays; where media are added, budget, client and poller do."""
    polling = world.begin(settings_of({"a": "m", "b": "m"}))
    before, pollers = dict(polling.parts), dict(polling.pollers)
    clients = {merchant_id: each.client for merchant_id, each in before.items()}
    polling.configure(settings_of({"a": "mn", "b": "m", "c": "m"}))
    for merchant_id in ("a", "b"):
        assert polling.parts[merchant_id] is before[merchant_id]
        assert polling.pollers[merchant_id] is pollers[merchant_id]
        assert polling.parts[merchant_id].client is clients[merchant_id]


@pytest.mark.parametrize("secret", ["api_key", "password", "mail_address"])
def test_other_credentials_sign_in_again(world: World, secret: str) -> None:
    """A merchant with another key, account or password has a new client, and no other merchant has."""
    polling = world.begin(settings_of({"a": "m", "b": "m"}))
    clients = {merchant_id: each.client for merchant_id, each in polling.parts.items()}
    media = [{"id": "m"}]
    polling.configure(settings_of({"a": {"media": media, secret: "new@example.com"}, "b": "m"}))
    assert polling.parts["a"].client is not clients["a"]
    assert polling.parts["b"].client is clients["b"]


def test_a_merchant_that_comes_back_keeps_its_budget(world: World) -> None:
    """Requests that left before the merchant was removed still count against its limit."""
    polling = world.begin(settings_of({"a": {"requests_per_minute": 2}}))
    for _ in range(2):
        polling.parts["a"].budget.take().done()
    polling.configure(settings_of({"b": ""}))
    polling.configure(settings_of({"a": {"requests_per_minute": 2}}))
    assert polling.parts["a"].budget.wait() > 59
    polling.configure(settings_of({"a": {"requests_per_minute": 3}}))
    assert polling.parts["a"].budget.wait() == 0


def test_a_configuration_that_cannot_be_written_changes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the state file cannot be written, the configuration before stays in force as a whole."""
    polling = world.begin(settings_of({"a": "m"}))
    with world.state.read() as db:
        db.execute("PRAGMA query_only = ON")
    with pytest.raises(StateWriteFailed):
        polling.configure(settings_of({"b": "m"}))
    assert shown(polling) == {"a": {"m"}}
    assert [merchant.id for merchant in polling.settings.merchants] == ["a"]
    with world.state.read() as db:
        db.execute("PRAGMA query_only = OFF")
    polling.configure(settings_of({"b": "m"}))
    assert shown(polling) == {"b": {"m"}}


def test_a_reader_sees_one_configuration_or_the_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a configuration takes effect, for example while the disk is slow, snapshots are of the one before."""
    polling = world.begin(settings_of({"a": "m"}))
    seen = []
    configure = polling.ledger.configure

    def slow(*arguments: Any) -> None:
        seen.append(shown(polling))
        configure(*arguments)
        seen.append(shown(polling))

    monkeypatch.setattr(polling.ledger, "configure", slow)
    polling.configure(settings_of({"a": "n", "b": "m"}))
    assert seen == [{"a": {"m"}}] * 2
    assert shown(polling) == {"a": {"n"}, "b": {"m"}}


def test_a_snapshot_does_not_wait_for_the_disk(world: World) -> None:
    """While a write hangs, with requests that wait to be noted behind it, a scrape shows what is counted."""
    polling = world.begin(settings_of({"a": "m", "b": "m"}))
    writing, end = threading.Event(), threading.Event()

    def hang() -> None:
        with world.state.transaction():
            writing.set()
            end.wait(PATIENCE)

    threads = [threading.Thread(target=hang)]
    threads += [threading.Thread(target=parts.budget.take) for parts in polling.parts.values()]
    with ThreadPoolExecutor(1) as pool:
        for thread in threads:
            thread.start()
            assert writing.wait(PATIENCE)
        wait_until("the requests wait", lambda: all(each.budget._mutex.locked() for each in polling.parts.values()))
        try:
            assert set(pool.submit(polling.snapshot).result(PATIENCE).merchants) == {"a", "b"}
        finally:
            end.set()
    for thread in threads:
        thread.join(PATIENCE)
