"""What prometheus_client collects at a scrape: the families with the samples of one snapshot."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from exporter.model import Group, end_of
from exporter.serving.families import (
    CONNECTION,
    DATA_TIMESTAMP,
    FAMILIES,
    MEDIA,
    MEDIA_INFO,
    MERCHANT,
    MERCHANT_DATA_TIMESTAMP,
    STREAMS,
    Family,
    StreamFamilies,
    StreamKind,
    View,
    ViewFamily,
)
from exporter.serving.instruments import Instruments
from exporter.views import MediaView, Snapshot, StreamView

_Labels = dict[str, str]
_FamilySamples = Iterator[tuple[Family, Sequence[Sample]]]


class SnapshotCollector(Collector):
    """Gives prometheus_client the families of the newest snapshot. Safe to collect on many threads."""

    def __init__(
        self, snapshot: Callable[[], Snapshot], max_staleness: Callable[[], float], now: Callable[[], float]
    ) -> None:
        """Make one.

        Args:
            snapshot: What has been counted; called once a scrape, so that all families agree with each other.
            max_staleness: The setting in force, in seconds; gauges of minutes older than twice as long are left out.
            now: Unix seconds.
        """
        self._snapshot = snapshot
        self._max_staleness = max_staleness
        self._now = now

    def collect(self) -> Iterator[Metric]:
        """The families that have samples."""
        return families(self._snapshot(), oldest=self._now() - 2 * self._max_staleness())

    def describe(self) -> Iterator[Metric]:
        """All families, without samples."""
        return (family.metric() for family in FAMILIES)


def build_registry(telemetry: Instruments, collector: SnapshotCollector) -> CollectorRegistry:
    """Add what has been counted to the exporter's own instruments, in their registry: all of `/metrics`."""
    telemetry.registry.register(collector)
    return telemetry.registry


def families(snapshot: Snapshot, oldest: float) -> Iterator[Metric]:
    """The families that have samples.

    Args:
        snapshot: What has been counted.
        oldest: Gauges of minutes that ended before it (Unix seconds) are left out.
    """
    # One family after the other, so that the samples of few are in memory at a time.
    for family, samples in chain(_of_streams(snapshot, oldest), _of_merchants(snapshot), _of_media(snapshot)):
        if samples:
            yield family.metric(samples)


def _of_streams(snapshot: Snapshot, oldest: float) -> _FamilySamples:
    views: dict[StreamKind, list[StreamView]] = {kind: [] for kind in STREAMS}
    for merchant in snapshot.merchants.values():
        for stream, view in merchant.streams.items():
            views[not stream.media_id, stream.target, stream.group].append(view)
    for kind, shown in STREAMS.items():
        totals, lasts = _values(shown, views[kind], oldest)
        if shown.counter:
            yield shown.counter, totals
        if shown.gauge:
            yield shown.gauge, lasts
    every = list(chain.from_iterable(views.values()))
    yield DATA_TIMESTAMP, _timestamps(DATA_TIMESTAMP, (view for view in every if view.stream.media_id))
    yield MERCHANT_DATA_TIMESTAMP, _timestamps(MERCHANT_DATA_TIMESTAMP, (v for v in every if not v.stream.media_id))


def _values(
    shown: StreamFamilies, views: Iterable[StreamView], oldest: float
) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """The samples of the counter and of the gauge: nearly all there are, so they are made in a plain loop."""
    totals: list[Sample] = []
    lasts: list[Sample] = []
    counter = shown.counter.name if shown.counter else None
    for view in views:
        stream = view.stream
        fresh = view.through is not None and end_of(view.through) >= oldest
        gauge = shown.gauge.name if shown.gauge and fresh else None
        fixed = _labels(stream.merchant_id, stream.media_id)
        by = None if stream.group is Group.ALL else stream.group.value
        for series in view.series:
            labels = fixed if by is None else {**fixed, by: series.label}
            if counter and series.total is not None:
                totals.append(Sample(counter, labels, series.total))
            if gauge and series.last is not None:
                lasts.append(Sample(gauge, labels, series.last))
    return totals, lasts


def _timestamps(family: Family, views: Iterable[StreamView]) -> Sequence[Sample]:
    return [
        Sample(
            family.name,
            {
                **_labels(view.stream.merchant_id, view.stream.media_id),
                "target": view.stream.target.value,
                "group": view.stream.group.value,
            },
            end_of(view.through),
        )
        for view in views
        if view.through is not None
    ]


def _of_merchants(snapshot: Snapshot) -> _FamilySamples:
    merchants = [(_labels(each.merchant_id), each) for each in snapshot.merchants.values()]
    for of_merchant in MERCHANT:
        yield of_merchant, _samples(of_merchant, merchants)
    links = [(labels, each.link) for labels, each in merchants if each.link is not None]
    for of_link in CONNECTION:
        yield of_link, _samples(of_link, links)


def _of_media(snapshot: Snapshot) -> _FamilySamples:
    every = [
        (_labels(merchant.merchant_id, media.media_id), media)
        for merchant in snapshot.merchants.values()
        for media in merchant.media.values()
    ]
    # All have the same labels, "" where one has not been given a value, as a family must.
    configured = sorted({name for _, media in every for name in media.labels} - {*MEDIA_INFO.labels})
    yield MEDIA_INFO, [Sample(MEDIA_INFO.name, _info(labels, media, configured), 1) for labels, media in every]
    for family in MEDIA:
        yield family, _samples(family, every)


def _info(labels: _Labels, media: MediaView, configured: Iterable[str]) -> _Labels:
    catalog = {"name": media.name, "ref_id": media.ref_id, "encode_type": media.encode_type}
    return {
        **labels,
        **{name: _encodable(text) for name, text in catalog.items()},
        **{name: media.labels.get(name, "") for name in configured},
    }


def _encodable(text: str) -> str:
    # JSON can name half a character ("\ud800"), which has no UTF-8: one would fail the whole scrape.
    return text.encode("utf-8", "replace").decode("utf-8")


def _labels(merchant_id: str, media_id: str = "") -> _Labels:
    return {"merchant_id": merchant_id, "media_id": media_id} if media_id else {"merchant_id": merchant_id}


def _samples(family: ViewFamily[View], views: Iterable[tuple[_Labels, View]]) -> Sequence[Sample]:
    samples: list[Sample] = []
    name, by, read = family.name, family.labels[-1], family.read
    for labels, view in views:
        value = read(view)
        if isinstance(value, dict):
            samples += [Sample(name, {**labels, by: word}, each) for word, each in value.items()]
        elif value is not None:
            samples.append(Sample(name, labels, value))
    return samples
