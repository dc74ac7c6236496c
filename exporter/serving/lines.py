"""The lines of views in the text format and in OpenMetrics, which are the same in both.

They are rendered when a view is new and kept while it is shown: between two scrapes few views change, and a line takes
a hundred times as long to render as to copy. What prometheus_client renders is the reference.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Generic, TypeVar

from prometheus_client.utils import floatToGoString

from exporter.serving import samples
from exporter.serving.families import (
    DATA_TIMESTAMP,
    MEDIA,
    MEDIA_INFO,
    MERCHANT_DATA_TIMESTAMP,
    REQUESTS,
    STREAMS,
    Family,
    Value,
)
from exporter.serving.samples import Labels, Samples, escaped
from exporter.views import EndpointView, LinkView, MediaView, MerchantView, Snapshot, StreamPart, StreamView

View = TypeVar("View")
Part = TypeVar("Part")

_COUNTERS = [shown.counter for shown in STREAMS.values()]
_GAUGES = [shown.gauge for shown in STREAMS.values()]
_TIMESTAMPS = [MERCHANT_DATA_TIMESTAMP if whole else DATA_TIMESTAMP for whole, *_ in STREAMS]


class LineRenderer:
    """Renders views. Keeps the lines of merchants, endpoints and media while they are shown; a stream keeps its own.

    For one thread at a time.
    """

    def __init__(self) -> None:
        self._endpoints = _Kept[EndpointView, bytes](_of_endpoint)
        self._media = _Kept[MediaView, Sequence[bytes]](self._of_media)
        self._configured: Sequence[str] = ()
        # By merchant and name of a family: a value, and its lines.
        self._values: defaultdict[str, dict[str, tuple[Value, bytes]]] = defaultdict(dict)

    def forget_others(self, snapshot: Snapshot) -> None:
        """Forget the lines of merchants that are not in a snapshot."""
        for kept in (self._endpoints, self._media):
            kept.forget_others(snapshot.merchants)
        for merchant_id in self._values.keys() - snapshot.merchants:
            del self._values[merchant_id]

    def streams(self, merchant: MerchantView) -> Iterable[StreamPart[bytes]]:
        """The lines of the streams of a merchant."""
        return [view.lines or render_stream(view) for view in merchant.streams.values()]

    def value(self, merchant_id: str, family: Family, value: Value) -> bytes:
        """The lines of a merchant, or of its connection, in one of `MERCHANT` or `CONNECTION`."""
        # The view is new at each scrape, but few of its values are.
        known = self._values[merchant_id].get(family.name)
        if known is None or known[0] != value:
            known = value, render(family.name, samples.of_value(merchant_id, family, value))
            self._values[merchant_id][family.name] = known
        return known[1]

    def endpoints(self, link: LinkView) -> Iterable[bytes]:
        """The lines of the endpoints of a connection."""
        return self._endpoints.parts(link.merchant_id, link.requests)

    def media(self, merchant: MerchantView, configured: Sequence[str]) -> Iterable[Sequence[bytes]]:
        """The lines of the media of a merchant, for `MEDIA_INFO` and for each of `MEDIA`."""
        if configured != self._configured:
            # Each media has all of these labels.
            self._media.forget_others(())
            self._configured = configured
        return self._media.parts(merchant.merchant_id, merchant.media.values())

    def _of_media(self, merchant_id: str, view: MediaView) -> Sequence[bytes]:
        return _in_families((MEDIA_INFO, *MEDIA), samples.of_media(merchant_id, view, self._configured))


class _Kept(Generic[View, Part]):
    """The lines of views of one kind.

    A view is never changed: another one takes its place. So the same object has the same lines, and the comparison of
    two takes no time.
    """

    def __init__(self, render: Callable[[str, View], Part]) -> None:
        self._render = render
        # By merchant and the identity of the view, which is kept too, so that no other object can have it.
        self._known: dict[str, dict[int, tuple[View, Part]]] = {}

    def parts(self, merchant_id: str, views: Collection[View]) -> list[Part]:
        """The lines of all views of a merchant. Those of others that it had before are forgotten."""
        before, render = self._known.get(merchant_id, {}), self._render
        known = {id(view): before.get(id(view)) or (view, render(merchant_id, view)) for view in views}
        self._known[merchant_id] = known
        return [part for _, part in known.values()]

    def forget_others(self, merchant_ids: Collection[str]) -> None:
        """Forget the lines of other merchants than these."""
        for merchant_id in self._known.keys() - merchant_ids:
            del self._known[merchant_id]


def render_stream(view: StreamView) -> StreamPart[bytes]:
    """Render the lines of a stream, which its view keeps. For any thread."""
    part = samples.of_stream(view)
    lines = StreamPart(
        part.kind,
        part.end,
        counter=_of_family(_COUNTERS[part.kind], part.counter),
        gauge=_of_family(_GAUGES[part.kind], part.gauge),
        timestamp=_of_family(_TIMESTAMPS[part.kind], part.timestamp),
    )
    return view.keep(lines)


def _of_endpoint(merchant_id: str, view: EndpointView) -> bytes:
    return render(REQUESTS.name, samples.of_endpoint(merchant_id, view))


def _in_families(families: Iterable[Family], parts: Iterable[Samples]) -> Sequence[bytes]:
    return [render(family.name, part) for family, part in zip(families, parts, strict=True)]


def _of_family(family: Family | None, part: Samples) -> bytes:
    return render(family.name, part) if family else b""


def render(name: str, part: Samples) -> bytes:
    """The lines of samples of a family, as prometheus_client writes them. What has no UTF-8 becomes a question mark."""
    if not part.values:
        return b""
    labels, by = part.labels, part.by
    if not by:
        head = f"{name}{{{labels.text}}} " if labels else f"{name} "
        return "".join([f"{head}{_number(value)}\n" for _, value in part.values]).encode("utf-8", "replace")
    before = Labels((label, text) for label, text in labels.items() if label < by).text
    after = Labels((label, text) for label, text in labels.items() if label > by).text
    head, tail = f'{name}{{{before and before + ","}{by}="', f'"{after and "," + after}}} '
    lines = [f"{head}{escaped(text)}{tail}{_number(value)}\n" for text, value in part.values]
    return "".join(lines).encode("utf-8", "replace")


def _number(value: float) -> str:
    # Below a million the library, too, writes what Python does; its function takes four times as long.
    if 0 <= value < 1e6:
        return repr(float(value))
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]  # the library's gap
    return text
