"""The lines that are kept, compared with what prometheus_client renders."""

import threading
from collections.abc import Iterable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, Metric, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.samples import Sample

from exporter.model import Group, Stream, Target, end_of, minute_of
from exporter.serving import lines, samples
from exporter.serving.collector import SnapshotCollector
from exporter.serving.exposition import Exposition
from exporter.serving.families import Family
from exporter.serving.negotiation import Renderer, metrics_format
from exporter.serving.samples import Labels, Samples
from exporter.views import (
    EndpointView,
    Judgement,
    LinkView,
    MediaView,
    MerchantView,
    Series,
    SeriesView,
    Snapshot,
    StreamView,
    Thresholds,
    Verdict,
)
from tests.support.processes import PATIENCE

NOW = 1_800_000_000.0
THROUGH = minute_of(NOW) - 3
MAX_STALENESS = 1800.0

FORMATS = {
    "text": metrics_format("text/plain")[0],
    "OpenMetrics": metrics_format("application/openmetrics-text")[0],
}

# All that is special in the formats, text of two and four bytes, and half a character.
NASTY = st.text(st.sampled_from('a" \\\n\r,={}#é日𝄞\ud800\udc00'), max_size=6) | st.text(max_size=6)
NAMES = st.from_regex(r"\A[a-zA-Z_][a-zA-Z0-9_]{0,5}\Z")
VALUES = (
    st.floats()
    | st.integers(-(2**70), 2**70)
    | st.booleans()
    | st.sampled_from([0.0, -0.0, 0.1, 1e-7, 999_999, 999_999.5, 1e6, 1e6 + 0.25, 123_456_789, 1e15, 1e16, 1e22, 1e300])
)


def valid(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def reference(snapshot: Snapshot, now: float, own: CollectorRegistry, renderer: Renderer) -> bytes:
    """What the library renders of the same."""
    collector = SnapshotCollector(lambda: snapshot, lambda: now - 2 * MAX_STALENESS)
    return renderer(Given([*own.collect(), *collector.collect()]))


class Given:
    """A collector of these families."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self.metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self.metrics


@given(
    kind=st.sampled_from(["total", "info", "seconds"]),
    labels=st.dictionaries(NAMES, NASTY, max_size=4),
    by=NAMES | st.just(""),
    values=st.lists(st.tuples(NASTY, VALUES), max_size=4),
)
def test_lines_are_those_of_the_library(
    kind: str, labels: dict[str, str], by: str, values: list[tuple[str, float]]
) -> None:
    """Byte for byte, in both formats: any labels, any numbers. What has no UTF-8 is a question mark."""
    labels.pop(by, None)
    if not by:
        values = values[:1]
    family = Family(f"some_{kind}", "Some.", (*labels, *([by] if by else [])))
    fixed = {name: valid(text) for name, text in labels.items()}
    expected = [Sample(family.name, fixed | ({by: valid(text)} if by else {}), value) for text, value in values]
    page = lines.render(family.name, Samples(Labels(labels), by, values))
    for render in (generate_latest, generate_openmetrics):
        header: bytes = render(Given([family.metric()])).removesuffix(b"# EOF\n")
        whole: bytes = render(Given([family.metric(expected)])).removesuffix(b"# EOF\n")
        assert header + page == whole


# ---- snapshots ----

FLOATS = st.sampled_from([0.0, 1.0, 2.5, 1e6, 1e17])
LABELS = st.lists(NASTY, min_size=1, max_size=3, unique=True)


@st.composite
def stream_views(draw: Any, merchant_id: str, media_id: str) -> StreamView:
    target = draw(st.sampled_from(list(Target)))
    group = Group.ALL if target.by_day else draw(st.sampled_from([Group.ALL, Group.COUNTRY, Group.OS]))
    labels = [""] if group is Group.ALL else draw(LABELS)
    series = [SeriesView(each, draw(FLOATS | st.none()), draw(FLOATS | st.none())) for each in labels]
    through = draw(st.none() | st.integers(THROUGH - 120, THROUGH))
    return StreamView(Stream(merchant_id, media_id, target, group), through, Series.of(series))


@st.composite
def media_views(draw: Any, media_id: str) -> MediaView:
    return MediaView(
        media_id,
        name=draw(NASTY),
        labels=MappingProxyType(draw(st.dictionaries(st.sampled_from(["channel", "genre", "name"]), NASTY))),
        live_event_running=draw(st.none() | st.booleans()),
        verdict=draw(st.none() | st.builds(Verdict, st.just(THROUGH), FLOATS, FLOATS, FLOATS)),
        judgement=draw(st.sampled_from(list(Judgement))),
        thresholds=draw(st.none() | st.just(Thresholds(0.4, 0.6))),
        failing_streams=draw(st.integers(0, 2)),
    )


@st.composite
def merchant_views(draw: Any, merchant_id: str) -> MerchantView:
    media_ids = draw(st.lists(st.sampled_from(["m1", "m2", "日本"]), unique=True))
    views = [draw(stream_views(merchant_id, each)) for each in ("", *media_ids) for _ in range(2)]
    requests = tuple(EndpointView(name, {"200": draw(st.integers(0, 9))}) for name in ("medias", "auth-token"))
    return MerchantView(
        merchant_id,
        horizon=draw(st.none() | st.just(THROUGH)),
        streams=MappingProxyType({view.stream: view for view in views}),
        media=MappingProxyType({each: draw(media_views(each)) for each in media_ids}),
        link=draw(st.none() | st.just(LinkView(merchant_id, up=True, requests=requests))),
    )


@st.composite
def changes(draw: Any) -> list[tuple[float, Snapshot]]:
    """Snapshots that follow each other, with the same views where nothing has changed, and when they are shown."""
    merchants: dict[str, MerchantView] = {}
    shown: list[tuple[float, Snapshot]] = []
    for _ in range(draw(st.integers(1, 4))):
        for merchant_id in ("acme", "büro"):
            change = draw(st.sampled_from(["keep", "replace", "remove", "streams", "media"]))
            new, old = draw(merchant_views(merchant_id)), merchants.get(merchant_id)
            if change == "remove":
                merchants.pop(merchant_id, None)
            elif old is None or change == "replace":
                merchants[merchant_id] = new
            elif change == "streams":
                merchants[merchant_id] = replace(old, streams=MappingProxyType({**old.streams, **new.streams}))
            elif change == "media":
                merchants[merchant_id] = replace(old, media=MappingProxyType({**new.media, **old.media}))
        now = NOW + draw(st.sampled_from([0.0, 1800.0, 7200.0]))
        shown.append((now, Snapshot(MappingProxyType(dict(merchants)))))
    return shown


@given(changes())
def test_pages_are_those_of_the_library(shown: list[tuple[float, Snapshot]]) -> None:
    """After each change, whatever was rendered before: the page in both formats is what the library renders."""
    own = CollectorRegistry()
    Gauge("own", "Own.", registry=own).set(1)
    newest: list[tuple[float, Snapshot]] = []
    exposition = Exposition(own, lambda: newest[-1][1], lambda: MAX_STALENESS, lambda: newest[-1][0])
    for now, snapshot in shown:
        newest.append((now, snapshot))
        for renderer in FORMATS.values():
            assert b"".join(exposition.render(renderer)) == reference(snapshot, now, own, renderer)


# ---- what is kept ----


def stream_view(media_id: str, total: float, through: int = THROUGH) -> StreamView:
    stream = Stream("acme", media_id, Target.PLAY_COUNT, Group.ALL)
    return StreamView(stream, through, Series.of([SeriesView("", total, 2.0)]))


def snapshot_of(*views: StreamView, media: Iterable[MediaView] = ()) -> Snapshot:
    merchant = MerchantView(
        "acme",
        streams=MappingProxyType({view.stream: view for view in views}),
        media=MappingProxyType({each.media_id: each for each in media}),
    )
    return Snapshot(MappingProxyType({"acme": merchant}))


class Page:
    """A page of one merchant, and the streams and media that were rendered.

    Attributes:
        snapshot: What it shows.
        now: Unix seconds.
        rendered: The ids of media whose stream, or whose media, was rendered since the last look.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.snapshot, self.now = Snapshot(), NOW
        self.rendered: list[tuple[str, str]] = []
        self.exposition = Exposition(
            CollectorRegistry(), lambda: self.snapshot, lambda: MAX_STALENESS, lambda: self.now
        )
        of_stream, of_media = samples.of_stream, samples.of_media

        def stream(view: StreamView) -> Any:
            self.rendered.append(("stream", view.stream.media_id))
            return of_stream(view)

        def media(merchant_id: str, view: MediaView, configured: Iterable[str]) -> Any:
            self.rendered.append(("media", view.media_id))
            return of_media(merchant_id, view, configured)

        monkeypatch.setattr(samples, "of_stream", stream)
        monkeypatch.setattr(samples, "of_media", media)

    def text(self) -> str:
        return b"".join(self.exposition.render(FORMATS["text"])).decode()

    def look(self) -> list[tuple[str, str]]:
        """Render in both formats; what had to be rendered for it."""
        self.rendered = []
        for renderer in FORMATS.values():
            self.exposition.render(renderer)
        return sorted(self.rendered)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Page:
    return Page(monkeypatch)


def test_a_view_is_rendered_once(page: Page) -> None:
    """Of what is shown again nothing is rendered again, in neither format; of what has changed only that."""
    streams, media = [stream_view(each, 1) for each in "ab"], [MediaView(each) for each in "ab"]
    page.snapshot = snapshot_of(*streams, media=media)
    assert page.look() == [("media", "a"), ("media", "b"), ("stream", "a"), ("stream", "b")]
    page.snapshot = snapshot_of(*streams, media=media)
    assert page.look() == []
    page.snapshot = snapshot_of(streams[0], stream_view("b", 2), media=[replace(media[0], name="A"), media[1]])
    assert page.look() == [("media", "a"), ("stream", "b")]
    assert 'smartstream_plays_total{media_id="b",merchant_id="acme"} 2.0\n' in page.text()
    # Between others, and in another order.
    page.snapshot = snapshot_of(stream_view("new", 3), streams[0], media=[media[1]])
    assert page.look() == [("stream", "new")]


def test_another_configured_label_is_rendered_for_all_media(page: Page) -> None:
    """A family has the same labels everywhere: when one media gets a new label, the others get it too."""
    media = [MediaView(each) for each in "ab"]
    page.snapshot = snapshot_of(media=media)
    page.look()
    page.snapshot = snapshot_of(media=[media[0], replace(media[1], labels=MappingProxyType({"genre": "noir"}))])
    assert page.look() == [("media", "a"), ("media", "b")]
    assert page.text().count('genre="') == 2


def test_a_gauge_that_is_too_old_goes_although_nothing_changes(page: Page) -> None:
    """At twice max_staleness after the end of its minute it is on the page for the last time; its counter stays."""
    page.snapshot = snapshot_of(stream_view("a", 5))
    page.now = end_of(THROUGH) + 2 * MAX_STALENESS
    assert "smartstream_last_minute_plays{" in page.text()
    page.now += 1
    gone = page.text()
    assert "smartstream_last_minute_plays" not in gone
    assert "smartstream_plays_total{" in gone
    assert len(page.rendered) == 1


def test_lines_of_what_has_gone_are_forgotten(page: Page) -> None:
    """A media or a merchant that is not shown any more takes no memory. The lines of a stream go with its view."""
    kept = page.exposition._lines
    page.snapshot = snapshot_of(media=[MediaView("a")])
    page.look()
    assert len(kept._media._known["acme"]) == 1
    page.snapshot = snapshot_of()
    page.look()
    assert len(kept._media._known["acme"]) == 0
    page.snapshot = Snapshot()
    page.look()
    assert (kept._media._known, kept._endpoints._known) == ({}, {})


def test_another_view_does_not_take_over_the_lines() -> None:
    """A view that is made from another one has lines of its own."""
    view = stream_view("a", 5)
    first = lines.render_stream(view)
    assert view.lines is first
    other = replace(view, series=Series.of([SeriesView("", 6.0, None)]))
    assert other.lines is None
    assert lines.render_stream(other).counter == first.counter.replace(b" 5.0", b" 6.0")
    assert view == replace(view)


@pytest.mark.parametrize("renderer", FORMATS.values(), ids=FORMATS.keys())
def test_names_select_among_all_families(page: Page, renderer: Renderer) -> None:
    """`name[]` selects families and samples of the snapshot as of the instruments, rendered by the library."""
    own = CollectorRegistry()
    Gauge("own", "Own.", registry=own)
    page.snapshot = snapshot_of(stream_view("a", 5))
    exposition = Exposition(own, lambda: page.snapshot, lambda: MAX_STALENESS, lambda: NOW)
    selected = b"".join(exposition.render(renderer, ["own", "smartstream_plays_total"])).decode().splitlines()
    found = [line for line in selected if not line.startswith("#")]
    assert found == ["own 0.0", 'smartstream_plays_total{media_id="a",merchant_id="acme"} 5.0']
    of_family = b"".join(exposition.render(renderer, ["smartstream_plays"])).decode()
    assert found[1] in of_family
    assert "own" not in of_family


def test_scrapes_at_the_same_time_are_whole() -> None:
    """Many scrapes while snapshots are replaced: each page is one snapshot, in which all totals are the same."""
    newest = [snapshot_of(*(stream_view(str(each), 0) for each in range(50)))]
    exposition = Exposition(CollectorRegistry(), lambda: newest[0], lambda: MAX_STALENESS, lambda: NOW)
    ended = threading.Event()
    wrong: list[set[str]] = []

    def scrape(renderer: Renderer) -> None:
        while not ended.is_set():
            text = b"".join(exposition.render(renderer)).decode()
            found = [
                line.rpartition(" ")[2] for line in text.splitlines() if line.startswith("smartstream_plays_total{")
            ]
            if len(set(found)) != 1 or len(found) != 50:
                wrong.append(set(found))

    threads = [threading.Thread(target=scrape, args=(each,)) for each in FORMATS.values() for _ in range(2)]
    for thread in threads:
        thread.start()
    for total in range(1, 200):
        newest[0] = snapshot_of(*(stream_view(str(each), total) for each in range(50)))
    ended.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert wrong == []


def test_a_failing_view_fails_the_scrape_and_not_the_next(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect in one view is a failed scrape; the lock is free again, and the next scrape works."""
    page.snapshot = snapshot_of(stream_view("a", 5))

    def fail(_: object) -> None:
        raise RuntimeError("a defect")

    with monkeypatch.context() as broken:
        broken.setattr(samples, "of_stream", fail)
        with pytest.raises(RuntimeError, match="a defect"):
            page.exposition.render(FORMATS["text"])
    assert "smartstream_plays_total{" in page.text()
