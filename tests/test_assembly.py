"""The object graph, where no other test reaches it."""

from types import MappingProxyType
from typing import Any
from unittest.mock import Mock
from zoneinfo import ZoneInfo

from exporter.api.zone_check import ZoneFinding
from exporter.assembly import Polling
from exporter.drops.monitor import NO_DROP, Drop
from exporter.views import Judgement, LinkView, MediaView, MerchantView, Snapshot, Verdict
from tests.support.statuses import NOW, THROUGH, incident


def test_charts_are_made_for_the_wanted_merchants_only() -> None:
    """The page of one merchant takes no time for the hours and days of the others."""
    parts: dict[str, Any] = {merchant_id: Mock() for merchant_id in ("a", "b")}
    polling = Polling(Mock(), parts, {}, Mock(), Mock(), 0.0)
    assert polling.hours(["b"]) == {"b": parts["b"].monitor.hours.return_value}
    assert polling.days(["b"]) == {"b": parts["b"].monitor.days.return_value}
    parts["a"].monitor.hours.assert_not_called()
    parts["a"].monitor.days.assert_not_called()


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
    ledger = Mock(snapshot=Snapshot(MappingProxyType({"m": MerchantView("m")})))
    clock = Mock(**{"now.return_value": NOW}, offset=0.0)
    polling = Polling(ledger, {"m": parts}, {"m": poller}, Mock(), clock, NOW - 3600)
    snapshot = polling.snapshot()
    media = snapshot.merchants["m"].media
    assert snapshot.started == NOW - 3600
    assert {key: (each.judgement, each.verdict, each.incident, each.failing_since) for key, each in media.items()} == {
        "here": (Judgement.JUDGED, verdict, None, None),
        "gone": (Judgement.NO_DATA, None, None, NOW - 900),
        "open": (Judgement.NO_DATA, verdict, drop, NOW - 60),
    }
