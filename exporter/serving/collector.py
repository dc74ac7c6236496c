"""What prometheus_client collects at a scrape: the families with the samples of one snapshot."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from exporter.serving import samples
from exporter.serving.families import Family, Value
from exporter.serving.samples import Samples, by_family
from exporter.views import LinkView, MerchantView, Snapshot, StreamPart


class SnapshotCollector(Collector):
    """Gives prometheus_client the families of the newest snapshot. Safe to collect on many threads."""

    def __init__(self, snapshot: Callable[[], Snapshot], oldest: Callable[[], float]) -> None:
        """Make one.

        Args:
            snapshot: What has been counted; called once a scrape, so that all families agree with each other.
            oldest: Gauges of minutes that ended before it (Unix seconds) are left out.
        """
        self._snapshot = snapshot
        self._oldest = oldest

    def collect(self) -> Iterator[Metric]:
        """The families that have samples."""
        # One family after the other, so that the samples of few are in memory at a time.
        for family, parts in by_family(self._snapshot(), self._oldest(), _AsSamples()):
            found = [sample for part in parts for sample in _samples(family.name, part)]
            if found:
                yield family.metric(found)


class _AsSamples:
    def streams(self, merchant: MerchantView) -> Iterable[StreamPart[Samples]]:
        return map(samples.of_stream, merchant.streams.values())

    def value(self, merchant_id: str, family: Family, value: Value) -> Samples:
        return samples.of_value(merchant_id, family, value)

    def endpoints(self, link: LinkView) -> Iterable[Samples]:
        return [samples.of_endpoint(link.merchant_id, each) for each in link.requests]

    def media(self, merchant: MerchantView, configured: Sequence[str]) -> Iterable[Sequence[Samples]]:
        return [samples.of_media(merchant.merchant_id, each, configured) for each in merchant.media.values()]


def _samples(name: str, part: Samples) -> Iterator[Sample]:
    fixed = {label: _encodable(text) for label, text in part.labels.items()}
    for text, value in part.values:
        yield Sample(name, {**fixed, part.by: _encodable(text)} if part.by else fixed, value)


def _encodable(text: str) -> str:
    # JSON can name half a character ("\ud800"), which has no UTF-8: one would fail the whole scrape.
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
