"""The views of merchants: the counted values, with the catalog, the drops and the connection to the API."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType

from exporter.api.request_log import RequestLog
from exporter.api.zone_check import zone_error
from exporter.drops.monitor import BLIND, NO_DROP, Drop
from exporter.polling.parts import MerchantParts
from exporter.polling.poller import MerchantPoller
from exporter.views import Judgement, LinkView, MediaView, MerchantView


class MerchantViews:
    """Makes the views. That of a media is the same object as before if nothing of it has changed, so that `/metrics`
    renders it once. For one thread at a time.
    """

    def __init__(self, requests: RequestLog) -> None:
        self._requests = requests
        # By merchant and media, what the view was made of, and the view.
        self._media: dict[str, dict[str, tuple[object, MediaView]]] = {}

    def forget_others(self, merchant_ids: Collection[str]) -> None:
        """Forget all other merchants than these."""
        for merchant_id in self._media.keys() - merchant_ids:
            del self._media[merchant_id]

    def complete(
        self, merchant: MerchantView, parts: MerchantParts, poller: MerchantPoller, now: float
    ) -> MerchantView:
        """Add the catalog, the drops and the connection to the counted values of a merchant (Unix seconds)."""
        link, zone = poller.link, poller.zone
        # Without rows, or with rows of other times, nobody knows when that will be.
        learning = None if zone.offset or merchant.horizon is None else poller.learning
        drops, incidents = parts.monitor.drops(now), parts.monitor.incidents(now)
        if zone.offset:
            # What the detector says is about other times of the day.
            drops = {
                media_id: BLIND if drop.judgement is not Judgement.OFF else drop for media_id, drop in drops.items()
            }
        drops = {**drops, **{media_id: _of_gone(drops[media_id]) for media_id in link.gone & drops.keys()}}
        return replace(
            merchant,
            media=MappingProxyType(self._of_media(parts, link, drops, now)),
            pending=parts.catalog.pending,
            **drops[""]._asdict(),
            incidents=incidents,
            learning_seconds=learning,
            learning_until=now + learning if learning else None,
            timezone_offset=zone.offset,
            timezone_error=zone_error(zone.offset, now, parts.zone),
            timezone_since=zone.since,
            link=replace(link, requests=self._requests.counted(merchant.merchant_id)),
        )

    def _of_media(
        self, parts: MerchantParts, link: LinkView, drops: Mapping[str, Drop], now: float
    ) -> Mapping[str, MediaView]:
        before, thresholds = self._media.get(link.merchant_id, {}), parts.monitor.thresholds
        kept: dict[str, tuple[object, MediaView]] = {}
        for media_id, view in parts.catalog.views(now).items():
            drop, failing = drops.get(media_id, NO_DROP), link.failing.get(media_id, 0)
            gone, since = media_id in link.gone, link.failing_since.get(media_id)
            made_of = view, drop, thresholds[media_id], failing, gone, since
            known = before.get(media_id)
            if known is None or known[0] != made_of:
                verdict, judgement, incident = drop
                new = replace(
                    view,
                    verdict=verdict,
                    judgement=judgement,
                    incident=incident,
                    thresholds=thresholds[media_id],
                    failing_streams=failing,
                    gone=gone,
                    failing_since=since,
                )
                known = made_of, new
            kept[media_id] = known
        self._media[link.merchant_id] = kept
        return {media_id: view for media_id, (_, view) in kept.items()}


def _of_gone(drop: Drop) -> Drop:
    """What is said of a media that the API answers with 404: what its plays were shows no drop of now."""
    if drop.judgement is not Judgement.JUDGED:
        return drop
    return drop._replace(verdict=drop.verdict if drop.incident else None, judgement=Judgement.NO_DATA)
