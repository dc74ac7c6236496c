"""The samples of each view of a snapshot, and the families in the order of the page. Pure.

Two renderers share this: `collector` hands the samples to prometheus_client, `lines` writes them itself and keeps what
it has written.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple, Protocol

from exporter.model import Group, end_of
from exporter.serving.families import (
    CONNECTION,
    DATA_TIMESTAMP,
    MEDIA,
    MEDIA_INFO,
    MERCHANT,
    MERCHANT_DATA_TIMESTAMP,
    REQUESTS,
    STREAMS,
    Family,
    Value,
)
from exporter.views import (
    EndpointView,
    LinkView,
    MediaView,
    MerchantView,
    Part_co,
    Snapshot,
    StreamPart,
    StreamView,
)


class Labels(dict[str, str]):
    """Labels that many samples have, in many families."""

    @cached_property
    def text(self) -> str:
        """The labels as on `/metrics`, without the brackets."""
        return ",".join([f'{name}="{escaped(value)}"' for name, value in sorted(self.items())])


def escaped(value: str) -> str:
    """The value of a label as on `/metrics`."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


class Samples(NamedTuple):
    """Samples of one family that have the same labels but for one.

    Attributes:
        labels: The labels that all have.
        by: The name of the label that differs; "" where there is no such label, and one sample at most.
        values: The values with the value of that label.
    """

    labels: Labels
    by: str
    values: Sequence[tuple[str, float]]


class Renderer(Protocol[Part_co]):
    """Makes the parts that views have in families."""

    def streams(self, merchant: MerchantView) -> Iterable[StreamPart[Part_co]]:
        """Those of the streams of a merchant."""

    def value(self, merchant_id: str, family: Family, value: Value) -> Part_co:
        """That of a merchant, or of its connection, in one of `MERCHANT` or `CONNECTION`."""

    def endpoints(self, link: LinkView) -> Iterable[Part_co]:
        """Those of the endpoints of a connection, in the family `REQUESTS`."""

    def media(self, merchant: MerchantView, configured: Sequence[str]) -> Iterable[Sequence[Part_co]]:
        """Those of the media of a merchant, for `MEDIA_INFO` with these configured labels, and for each of `MEDIA`."""


def by_family(
    snapshot: Snapshot, oldest: float, renderer: Renderer[Part_co]
) -> Iterator[tuple[Family, Sequence[Part_co]]]:
    """The families of the page, each with the parts of all views. Parts, and families, can be empty.

    Args:
        snapshot: What has been counted.
        oldest: Gauges of minutes that ended before it (Unix seconds) are left out.
        renderer: Makes the parts.
    """
    merchants = snapshot.merchants.values()
    links = [each.link for each in merchants if each.link is not None]
    streams: list[list[StreamPart[Part_co]]] = [[] for _ in STREAMS]
    for merchant in merchants:
        for part in renderer.streams(merchant):
            streams[part.kind].append(part)
    for shown, parts in zip(STREAMS.values(), streams, strict=True):
        if shown.counter:
            yield shown.counter, [part.counter for part in parts]
        if shown.gauge:
            yield shown.gauge, [part.gauge for part in parts if part.end >= oldest]
    for family, of_whole in ((DATA_TIMESTAMP, False), (MERCHANT_DATA_TIMESTAMP, True)):
        kinds = zip(STREAMS, streams, strict=True)
        yield family, [part.timestamp for (whole, *_), parts in kinds if whole == of_whole for part in parts]
    for of_merchant in MERCHANT:
        yield of_merchant, [renderer.value(each.merchant_id, of_merchant, of_merchant.read(each)) for each in merchants]
    for of_link in CONNECTION:
        yield of_link, [renderer.value(each.merchant_id, of_link, of_link.read(each)) for each in links]
    yield REQUESTS, [part for link in links for part in renderer.endpoints(link)]
    configured = _configured(merchants)
    media = [parts for merchant in merchants for parts in renderer.media(merchant, configured)]
    # Without media, there is nothing of these.
    yield from zip((MEDIA_INFO, *MEDIA), zip(*media, strict=True), strict=False)


def _configured(merchants: Iterable[MerchantView]) -> Sequence[str]:
    """The names of the labels that are configured for any media. All have them, as a family must."""
    labelled = (media.labels for merchant in merchants for media in merchant.media.values() if media.labels)
    names = {name for labels in labelled for name in labels}
    return sorted(names - {*MEDIA_INFO.labels})


# ---- one view ----

_KINDS = {kind: place for place, kind in enumerate(STREAMS)}


def of_stream(view: StreamView) -> StreamPart[Samples]:
    """The samples of a stream."""
    stream, series = view.stream, view.series
    kind = not stream.media_id, stream.target, stream.group
    labels = _labels(stream.merchant_id, stream.media_id)
    by = "" if stream.group is Group.ALL else stream.group.value
    counter = series.totals if STREAMS[kind].counter else ()
    gauge = series.lasts if STREAMS[kind].gauge and view.through is not None else ()
    end = float("-inf") if view.through is None else end_of(view.through)
    timestamp = [] if view.through is None else [("", end)]
    which = Labels(labels, target=stream.target.value, group=stream.group.value)
    return StreamPart(
        _KINDS[kind], end, Samples(labels, by, counter), Samples(labels, by, gauge), Samples(which, "", timestamp)
    )


def of_value(merchant_id: str, family: Family, value: Value) -> Samples:
    """The samples of a merchant, or of its connection, in one of `MERCHANT` or `CONNECTION`."""
    return _of_value(family, _labels(merchant_id), value)


def of_endpoint(merchant_id: str, view: EndpointView) -> Samples:
    """The samples of an endpoint of the API, in the family `REQUESTS`."""
    return _of_value(REQUESTS, Labels(merchant_id=merchant_id, endpoint=view.endpoint), REQUESTS.read(view))


def of_media(merchant_id: str, view: MediaView, configured: Iterable[str]) -> Sequence[Samples]:
    """The samples of a media, for `MEDIA_INFO` and for each of `MEDIA`."""
    labels = _labels(merchant_id, view.media_id)
    # "" where a label has not been given a value.
    info = Labels(labels, name=view.name, ref_id=view.ref_id, encode_type=view.encode_type)
    info.update((name, view.labels.get(name, "")) for name in configured)
    return [Samples(info, "", [("", 1)]), *(_of_value(family, labels, family.read(view)) for family in MEDIA)]


def _of_value(family: Family, labels: Labels, value: Value) -> Samples:
    if isinstance(value, Mapping):
        return Samples(labels, family.labels[-1], list(value.items()))
    return Samples(labels, "", () if value is None else [("", value)])


def _labels(merchant_id: str, media_id: str = "") -> Labels:
    return Labels(merchant_id=merchant_id, media_id=media_id) if media_id else Labels(merchant_id=merchant_id)
