"""The object graph, where no other test reaches it."""

from typing import Any
from unittest.mock import Mock

from exporter.assembly import Polling


def test_charts_are_made_for_the_wanted_merchants_only() -> None:
    """The page of one merchant takes no time for the hours and days of the others."""
    parts: dict[str, Any] = {merchant_id: Mock() for merchant_id in ("a", "b")}
    polling = Polling(Mock(), parts, {}, Mock(), Mock())
    assert polling.hours(["b"]) == {"b": parts["b"].monitor.hours.return_value}
    assert polling.days(["b"]) == {"b": parts["b"].monitor.days.return_value}
    parts["a"].monitor.hours.assert_not_called()
    parts["a"].monitor.days.assert_not_called()
