"""The families of `/metrics` that say what has been counted, made from one snapshot.

Pure but for the collector. Process-life instruments are in `telemetry`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from exporter.model import MINUTE, Group, Stream, Target, end_of
from exporter.serving.instruments import Instruments
from exporter.views import LinkView, MediaView, MerchantView, Snapshot, StreamView

_TYPE_SUFFIXES = {"counter": "_total", "info": "_info"}


@dataclass(frozen=True, slots=True)
class Family:
    """A family of samples.

    Attributes:
        name: The name of its samples, `_total` or `_info` included.
        type: `counter`, `gauge` or `info`.
        help: One sentence.
        labels: The names of the labels that each of its samples has.
    """

    name: str
    type: str
    help: str
    labels: tuple[str, ...]

    def sample(self, value: float, *labels: str) -> Sample:
        """A sample. Raises ValueError where the label values are too few or too many."""
        return Sample(self.name, dict(zip(self.labels, labels, strict=True)), value)

    def metric(self, samples: Iterable[Sample] = ()) -> Metric:
        """The family with these samples, as prometheus_client renders it."""
        metric = Metric(self.name.removesuffix(_TYPE_SUFFIXES.get(self.type, "")), self.help, self.type)
        metric.samples.extend(samples)
        return metric


class HasStaleness(Protocol):
    """The part of the configuration that is needed here; `PollSettings` has it."""

    @property
    def max_staleness(self) -> float:
        """Seconds that a stream may wait for its turn."""


# The words of each target in metric names, its unit there, and its words in HELP.
_WORDS = {
    Target.PLAY_COUNT: ("plays", "", "Plays"),
    Target.PLAY_TIME: ("play_time", "_seconds", "Seconds played"),
    Target.PLAYER_COUNT: ("player_displays", "", "Player displays"),
    Target.DEVICE_COUNT: ("devices", "", "Devices"),
    Target.SESSION_COUNT: ("sessions", "", "Sessions"),
    Target.AVERAGE_PLAY_TIME: ("average_play_time", "_seconds", "Average seconds played"),
    Target.KEY_DELIVERY_COUNT: ("key_deliveries", "", "DRM keys fetched"),
}


@dataclass(frozen=True, slots=True)
class _Shown:
    """Where a stream is shown: in a counter where its target adds up, in a gauge where it has minutes."""

    counter: Family | None
    gauge: Family | None


def _shown(target: Target, group: Group, *, whole: bool) -> _Shown:
    noun, unit, words = _WORDS[target]
    scope, of_whole = ("merchant_", " of the whole merchant") if whole else ("", "")
    by_group = "" if group is Group.ALL else f"_by_{group}"
    source = f"(API target {target})" + ("" if group is Group.ALL else f", by {group}")
    labels: tuple[str, ...] = ("merchant_id",) if whole else ("merchant_id", "media_id")
    if group is not Group.ALL:
        labels += (group.value,)
    name = f"{noun}{by_group}{unit}"
    counter = Family(
        f"smartstream_{scope}{name}_total", "counter", f"{words}{of_whole} {source}, cached from the API.", labels
    )
    gauge = Family(
        f"smartstream_{scope}last_minute_{name}",
        "gauge",
        f"{words}{of_whole} in the newest settled minute {source}, cached from the API.",
        labels,
    )
    return _Shown(counter if target.summable else None, None if target.by_day else gauge)


# Whether it is the whole merchant's, what it counts, how it is split.
_Kind = tuple[bool, Target, Group]

_STREAMS: Mapping[_Kind, _Shown] = {
    (whole, target, group): _shown(target, group, whole=whole)
    for whole in (False, True)
    for target in Target
    for group in Group
    if group is Group.ALL or not target.by_day
}


def counter_of(stream: Stream) -> Family | None:
    """The counter that shows a stream, or None where its target does not add up."""
    return _STREAMS[not stream.media_id, stream.target, stream.group].counter


_DATA_HELP = "End of the newest settled minute counted for a stream{}, in Unix seconds."
DATA_TIMESTAMP = Family(
    "smartstream_data_timestamp_seconds",
    "gauge",
    _DATA_HELP.format(""),
    ("merchant_id", "media_id", "target", "group"),
)
MERCHANT_DATA_TIMESTAMP = Family(
    "smartstream_merchant_data_timestamp_seconds",
    "gauge",
    _DATA_HELP.format(" of the whole merchant"),
    ("merchant_id", "target", "group"),
)
HORIZON = Family(
    "smartstream_merchant_horizon_timestamp_seconds",
    "gauge",
    "End of the newest minute with a row in the API, in Unix seconds, cached from the API.",
    ("merchant_id",),
)
REVISIONS = Family(
    "smartstream_revisions_total",
    "counter",
    "Values changed by the API after they were counted.",
    ("merchant_id", "direction"),
)
LOST_SECONDS = Family(
    "smartstream_lost_seconds_total",
    "counter",
    "Seconds of data, summed over streams, that were too old to fetch or had no usable value.",
    ("merchant_id",),
)
SERIES_RESETS = Family(
    "smartstream_series_resets_total",
    "counter",
    "Counter series reset to 0 because later plays did not offset a downward revision within one day.",
    ("merchant_id",),
)
HELD_VALUES = Family(
    "smartstream_held_values",
    "gauge",
    "API values not counted yet because they are invalid or implausible.",
    ("merchant_id",),
)
# The configured labels come after these.
MEDIA_INFO = Family(
    "smartstream_media_info",
    "info",
    "Name, ref_id and encode_type of a media, cached from the API, and its configured labels.",
    ("merchant_id", "media_id", "name", "ref_id", "encode_type"),
)
LIVE_EVENT_RUNNING = Family(
    "smartstream_live_event_running",
    "gauge",
    "Whether the live event of the media is running (API encode_status), cached from the API.",
    ("merchant_id", "media_id"),
)
DROP_RATIO = Family(
    "smartstream_plays_drop_ratio",
    "gauge",
    "Ratio of missing plays to expected plays, 0 if the shortfall can be random (API target play_count).",
    ("merchant_id", "media_id"),
)
DROP_EVIDENCE = Family(
    "smartstream_plays_drop_evidence",
    "gauge",
    "Log-likelihood ratio that the shortfall is not random (API target play_count).",
    ("merchant_id", "media_id"),
)
EXPECTED = Family(
    "smartstream_last_minute_expected_plays",
    "gauge",
    "Expected plays in the newest settled minute (API target play_count).",
    ("merchant_id", "media_id"),
)
DROP_THRESHOLD = Family(
    "smartstream_drop_threshold_ratio",
    "gauge",
    "Configured smartstream_plays_drop_ratio above which an alert fires.",
    ("merchant_id", "media_id", "severity"),
)
MERCHANT_DROP_RATIO = Family(
    "smartstream_merchant_plays_drop_ratio",
    "gauge",
    "Share of the whole merchant's expected plays that is missing while most of its media miss some "
    "(API target play_count).",
    ("merchant_id",),
)
MERCHANT_EXPECTED = Family(
    "smartstream_merchant_last_minute_expected_plays",
    "gauge",
    "Expected plays of the whole merchant in the newest settled minute (API target play_count).",
    ("merchant_id",),
)
FAILING_STREAMS = Family(
    "smartstream_failing_streams",
    "gauge",
    "Streams of a media whose last request failed while other requests succeeded.",
    ("merchant_id", "media_id"),
)
MERCHANT_FAILING_STREAMS = Family(
    "smartstream_merchant_failing_streams",
    "gauge",
    "Streams of the whole merchant whose last request failed while other requests succeeded.",
    ("merchant_id",),
)
MEDIA_GONE = Family(
    "smartstream_media_gone",
    "gauge",
    "Whether the API returns 404 for a media.",
    ("merchant_id", "media_id"),
)
FAILING_LOOKUPS = Family(
    "smartstream_failing_lookups",
    "gauge",
    "Requests for the catalog, live events and the history that failed when they were sent last.",
    ("merchant_id",),
)
ROUND_TIMESTAMP = Family(
    "smartstream_round_timestamp_seconds",
    "gauge",
    "Unix time of the end of the last polling round, in seconds. A round runs every minute.",
    ("merchant_id",),
)
UP = Family(
    "smartstream_up",
    "gauge",
    "Whether the API responds. 0 also during a backoff or when no request can be sent.",
    ("merchant_id",),
)
BUDGET = Family(
    "smartstream_api_budget_requests_per_minute",
    "gauge",
    "Maximum requests per minute that the exporter currently sends.",
    ("merchant_id",),
)
STREAMS = Family("smartstream_streams", "gauge", "Streams that share the merchant's request budget.", ("merchant_id",))
STALENESS = Family(
    "smartstream_staleness_seconds",
    "gauge",
    "Mean settled time not yet counted per stream, weighted by plays, in seconds.",
    ("merchant_id",),
)
STALENESS_BOUND = Family(
    "smartstream_staleness_bound_seconds",
    "gauge",
    "Lower bound of the staleness for these streams and this request budget, in seconds.",
    ("merchant_id",),
)
TOKEN_EXPIRY = Family(
    "smartstream_api_token_expiry_timestamp_seconds",
    "gauge",
    "Unix time at which the access token expires, in seconds, cached from the API.",
    ("merchant_id",),
)

_OTHERS: tuple[Family, ...] = (
    DATA_TIMESTAMP,
    MERCHANT_DATA_TIMESTAMP,
    HORIZON,
    REVISIONS,
    LOST_SECONDS,
    SERIES_RESETS,
    HELD_VALUES,
    MEDIA_INFO,
    LIVE_EVENT_RUNNING,
    DROP_RATIO,
    DROP_EVIDENCE,
    EXPECTED,
    DROP_THRESHOLD,
    MERCHANT_DROP_RATIO,
    MERCHANT_EXPECTED,
    FAILING_STREAMS,
    MERCHANT_FAILING_STREAMS,
    MEDIA_GONE,
    FAILING_LOOKUPS,
    ROUND_TIMESTAMP,
    UP,
    BUDGET,
    STREAMS,
    STALENESS,
    STALENESS_BOUND,
    TOKEN_EXPIRY,
)

# All families, in the order of the page.
FAMILIES: tuple[Family, ...] = (
    *(family for shown in _STREAMS.values() for family in (shown.counter, shown.gauge) if family),
    *_OTHERS,
)

_Samples = dict[Family, list[Sample]]


def families(snapshot: Snapshot, links: Mapping[str, LinkView], poll: HasStaleness, now: float) -> Iterator[Metric]:
    """The families that have samples.

    Args:
        snapshot: What has been counted.
        links: How the connections to the API do, by merchant id.
        poll: The settings; gauges of minutes older than twice `max_staleness` are left out.
        now: Unix seconds.
    """
    # One family after the other, so that the samples of few are in memory at a time.
    for family, samples in chain(_of_streams(snapshot, now - 2 * poll.max_staleness), _of_others(snapshot, links)):
        metric = family.metric(samples)
        if metric.samples:
            yield metric


def _of_streams(snapshot: Snapshot, oldest: float) -> Iterator[tuple[Family, Iterable[Sample]]]:
    """The counters, and the gauges of minutes that ended at `oldest` or later."""
    views: dict[_Kind, list[StreamView]] = {kind: [] for kind in _STREAMS}
    for merchant in snapshot.merchants.values():
        for stream, view in merchant.streams.items():
            views[not stream.media_id, stream.target, stream.group].append(view)
    for kind, shown in _STREAMS.items():
        totals, lasts = _values(shown, views[kind], oldest)
        if shown.counter:
            yield shown.counter, totals
        if shown.gauge:
            yield shown.gauge, lasts


def _values(shown: _Shown, views: Iterable[StreamView], oldest: float) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """The samples of the counter and of the gauge: nearly all there are, so they are made in a plain loop."""
    totals: list[Sample] = []
    lasts: list[Sample] = []
    counter = shown.counter.name if shown.counter else None
    for view in views:
        stream = view.stream
        fresh = view.through is not None and end_of(view.through) >= oldest
        gauge = shown.gauge.name if shown.gauge and fresh else None
        fixed = {"merchant_id": stream.merchant_id}
        if stream.media_id:
            fixed["media_id"] = stream.media_id
        by = None if stream.group is Group.ALL else stream.group.value
        for series in view.series:
            labels = fixed if by is None else {**fixed, by: series.label}
            if counter and series.total is not None:
                totals.append(Sample(counter, labels, series.total))
            if gauge and series.last is not None:
                lasts.append(Sample(gauge, labels, series.last))
    return totals, lasts


def _of_others(snapshot: Snapshot, links: Mapping[str, LinkView]) -> Iterator[tuple[Family, Iterable[Sample]]]:
    samples: _Samples = {family: [] for family in _OTHERS}
    for merchant in snapshot.merchants.values():
        _add_merchant(samples, merchant)
        for view in merchant.streams.values():
            _add_timestamp(samples, view)
        _add_drops(samples, merchant)
    _add_media(samples, snapshot)
    for link in links.values():
        _add_link(samples, link)
    yield from samples.items()


def _add_timestamp(samples: _Samples, view: StreamView) -> None:
    if view.through is None:
        return
    stream, end = view.stream, end_of(view.through)
    split = (stream.target.value, stream.group.value)
    if stream.media_id:
        sample = DATA_TIMESTAMP.sample(end, stream.merchant_id, stream.media_id, *split)
        samples[DATA_TIMESTAMP].append(sample)
    else:
        samples[MERCHANT_DATA_TIMESTAMP].append(MERCHANT_DATA_TIMESTAMP.sample(end, stream.merchant_id, *split))


def _add_merchant(samples: _Samples, merchant: MerchantView) -> None:
    merchant_id = merchant.merchant_id
    if merchant.horizon is not None:
        samples[HORIZON].append(HORIZON.sample(end_of(merchant.horizon), merchant_id))
    samples[REVISIONS].append(REVISIONS.sample(merchant.revisions_up, merchant_id, "up"))
    samples[REVISIONS].append(REVISIONS.sample(merchant.revisions_down, merchant_id, "down"))
    samples[LOST_SECONDS].append(LOST_SECONDS.sample(merchant.lost_minutes * MINUTE, merchant_id))
    samples[SERIES_RESETS].append(SERIES_RESETS.sample(merchant.series_resets, merchant_id))
    samples[HELD_VALUES].append(HELD_VALUES.sample(merchant.held_values, merchant_id))


def _add_drops(samples: _Samples, merchant: MerchantView) -> None:
    merchant_id = merchant.merchant_id
    if merchant.drop is not None:
        samples[MERCHANT_DROP_RATIO].append(MERCHANT_DROP_RATIO.sample(merchant.drop.ratio, merchant_id))
        samples[MERCHANT_EXPECTED].append(MERCHANT_EXPECTED.sample(merchant.drop.expected, merchant_id))
    for media in merchant.media.values():
        which = (merchant_id, media.media_id)
        samples[FAILING_STREAMS].append(FAILING_STREAMS.sample(media.failing_streams, *which))
        samples[MEDIA_GONE].append(MEDIA_GONE.sample(float(media.gone), *which))
        if media.drop is not None:
            samples[DROP_RATIO].append(DROP_RATIO.sample(media.drop.ratio, *which))
            samples[DROP_EVIDENCE].append(DROP_EVIDENCE.sample(media.drop.evidence, *which))
            samples[EXPECTED].append(EXPECTED.sample(media.drop.expected, *which))
        if media.thresholds is not None:
            samples[DROP_THRESHOLD].append(DROP_THRESHOLD.sample(media.thresholds.warning, *which, "warning"))
            samples[DROP_THRESHOLD].append(DROP_THRESHOLD.sample(media.thresholds.critical, *which, "critical"))


def _add_media(samples: _Samples, snapshot: Snapshot) -> None:
    """Add the media. All have the same labels, "" where one has not been given a value, as a family must."""
    every = [(m.merchant_id, media) for m in snapshot.merchants.values() for media in m.media.values()]
    configured = sorted({name for _, media in every for name in media.labels} - {*MEDIA_INFO.labels})
    for merchant_id, media in every:
        samples[MEDIA_INFO].append(_media_info(merchant_id, media, configured))
        if media.live_event_running is not None:
            running = LIVE_EVENT_RUNNING.sample(float(media.live_event_running), merchant_id, media.media_id)
            samples[LIVE_EVENT_RUNNING].append(running)


def _media_info(merchant_id: str, media: MediaView, configured: Iterable[str]) -> Sample:
    known = (_encodable(text) for text in (media.name, media.ref_id, media.encode_type))
    sample = MEDIA_INFO.sample(1, merchant_id, media.media_id, *known)
    sample.labels.update({name: media.labels.get(name, "") for name in configured})
    return sample


def _encodable(text: str) -> str:
    # JSON can name half a character ("\ud800"), which has no UTF-8: one would fail the whole scrape.
    return text.encode("utf-8", "replace").decode("utf-8")


def _add_link(samples: _Samples, link: LinkView) -> None:
    if link.up is not None:
        samples[UP].append(UP.sample(float(link.up), link.merchant_id))
    samples[BUDGET].append(BUDGET.sample(link.budget, link.merchant_id))
    samples[STREAMS].append(STREAMS.sample(link.streams, link.merchant_id))
    if link.staleness is not None:
        samples[STALENESS].append(STALENESS.sample(link.staleness * MINUTE, link.merchant_id))
    if link.staleness_bound is not None:
        samples[STALENESS_BOUND].append(STALENESS_BOUND.sample(link.staleness_bound * MINUTE, link.merchant_id))
    merchant_failing = link.failing.get("", 0)
    samples[MERCHANT_FAILING_STREAMS].append(MERCHANT_FAILING_STREAMS.sample(merchant_failing, link.merchant_id))
    samples[FAILING_LOOKUPS].append(FAILING_LOOKUPS.sample(link.failing_lookups, link.merchant_id))
    if link.round_ended is not None:
        samples[ROUND_TIMESTAMP].append(ROUND_TIMESTAMP.sample(link.round_ended, link.merchant_id))
    if link.token_expiry is not None:
        samples[TOKEN_EXPIRY].append(TOKEN_EXPIRY.sample(link.token_expiry, link.merchant_id))


def duplicates(metrics: Iterable[Metric]) -> list[str]:
    """The families and the series that are there more than once, which prometheus_client does not notice."""
    seen: Counter[str] = Counter()
    for metric in metrics:
        seen[f"family {metric.name}"] += 1
        seen.update(f"{sample.name}{sorted(sample.labels.items())}" for sample in metric.samples)
    return [what for what, times in seen.items() if times > 1]


class SnapshotCollector(Collector):
    """Gives prometheus_client the families of the newest snapshot. Safe to collect on many threads."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        links: Callable[[], Mapping[str, LinkView]],
        poll: HasStaleness,
        now: Callable[[], float],
    ) -> None:
        self._snapshot = snapshot
        self._links = links
        self._poll = poll
        self._now = now

    def collect(self) -> Iterator[Metric]:
        """The families that have samples; each source is asked once, so that they agree with each other."""
        return families(self._snapshot(), self._links(), self._poll, self._now())

    def describe(self) -> Iterator[Metric]:
        """All families, without samples."""
        return (family.metric() for family in FAMILIES)


def build_registry(telemetry: Instruments, collector: SnapshotCollector) -> CollectorRegistry:
    """Add what has been counted to the exporter's own instruments, in their registry: all of `/metrics`."""
    telemetry.registry.register(collector)
    return telemetry.registry
