"""The views of one merchant: the counted values, with the catalog, the drops and the connection to the API."""

from dataclasses import replace
from types import MappingProxyType

from exporter.api.zone_check import zone_error
from exporter.drops.monitor import BLIND, NO_DROP, Drop
from exporter.polling.parts import MerchantParts
from exporter.polling.poller import MerchantPoller
from exporter.views import Judgement, MerchantView


def complete(merchant: MerchantView, parts: MerchantParts, poller: MerchantPoller, now: float) -> MerchantView:
    """Add the catalog, the drops and the connection to the counted values of a merchant (Unix seconds)."""
    link, zone = poller.link, poller.zone
    # Without rows, or with rows of other times, nobody knows when that will be.
    learning = None if zone.offset or merchant.horizon is None else poller.learning
    drops, incidents = parts.monitor.drops(now), parts.monitor.incidents(now)
    if zone.offset:
        # What the detector says is about other times of the day.
        drops = {media_id: BLIND if drop.judgement is not Judgement.OFF else drop for media_id, drop in drops.items()}
    drops = {media_id: _of_gone(drop) if media_id in link.gone else drop for media_id, drop in drops.items()}
    media = {
        media_id: replace(
            view,
            **drops.get(media_id, NO_DROP)._asdict(),
            thresholds=parts.monitor.thresholds[media_id],
            failing_streams=link.failing.get(media_id, 0),
            gone=media_id in link.gone,
            failing_since=link.failing_since.get(media_id),
        )
        for media_id, view in parts.catalog.views(now).items()
    }
    return replace(
        merchant,
        media=MappingProxyType(media),
        pending=parts.catalog.pending,
        **drops[""]._asdict(),
        incidents=incidents,
        learning_seconds=learning,
        learning_until=now + learning if learning else None,
        timezone_offset=zone.offset,
        timezone_error=zone_error(zone.offset, now, parts.zone),
        timezone_since=zone.since,
        link=link,
    )


def _of_gone(drop: Drop) -> Drop:
    """What is said of a media that the API answers with 404: what its plays were shows no drop of now."""
    if drop.judgement is not Judgement.JUDGED:
        return drop
    return drop._replace(verdict=drop.verdict if drop.incident else None, judgement=Judgement.NO_DATA)
