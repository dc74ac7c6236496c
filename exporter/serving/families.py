"""The families of `/metrics` that show a snapshot: names, HELP, labels, and where each value is read from. Pure.

A new metric of a merchant, of its connection or of a media is one entry in one of the tables below. What the exporter
measures of itself is in `instruments`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from prometheus_client import Metric
from prometheus_client.samples import Sample

from exporter.model import MINUTE, Group, Minute, Stream, Target, end_of
from exporter.views import LinkView, MediaView, MerchantView

_TYPE_SUFFIXES = {"counter": "_total", "info": "_info"}

_MERCHANT_LABELS = ("merchant_id",)
_MEDIA_LABELS = ("merchant_id", "media_id")


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

    def metric(self, samples: Iterable[Sample] = ()) -> Metric:
        """The family with these samples, as prometheus_client renders it."""
        metric = Metric(self.name.removesuffix(_TYPE_SUFFIXES.get(self.type, "")), self.help, self.type)
        metric.samples.extend(samples)
        return metric


# ---- streams ----

# The name of each target in metric names, its unit there, and its name in HELP.
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
class StreamFamilies:
    """The families that show a stream: a counter where its target adds up, a gauge where it has minutes."""

    counter: Family | None
    gauge: Family | None


def _stream_families(target: Target, group: Group, *, whole: bool) -> StreamFamilies:
    noun, unit, words = _WORDS[target]
    scope, of_whole = ("merchant_", " of the whole merchant") if whole else ("", "")
    by_group = "" if group is Group.ALL else f"_by_{group}"
    source = f"(API target {target})" + ("" if group is Group.ALL else f", by {group}")
    labels: tuple[str, ...] = _MERCHANT_LABELS if whole else _MEDIA_LABELS
    if group is not Group.ALL:
        labels += (group.value,)
    name = f"smartstream_{scope}{{}}{noun}{by_group}{unit}"
    counter = Family(f"{name.format('')}_total", "counter", f"{words}{of_whole} {source}, cached from the API.", labels)
    gauge = Family(
        name.format("last_minute_"),
        "gauge",
        f"{words}{of_whole} in the newest settled minute {source}, cached from the API.",
        labels,
    )
    return StreamFamilies(counter if target.summable else None, None if target.by_day else gauge)


# Whether it is a stream of the whole merchant, its target, its group.
StreamKind = tuple[bool, Target, Group]

STREAMS: Mapping[StreamKind, StreamFamilies] = {
    (whole, target, group): _stream_families(target, group, whole=whole)
    for whole in (False, True)
    for target in Target
    for group in Group
    if group is Group.ALL or not target.by_day
}


def counter_of(stream: Stream) -> Family | None:
    """The counter that shows a stream, or None where its target does not add up."""
    return STREAMS[not stream.media_id, stream.target, stream.group].counter


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


# ---- merchants, connections, media ----

# The configured labels come after these.
MEDIA_INFO = Family(
    "smartstream_media_info",
    "info",
    "Name, ref_id and encode_type of a media, cached from the API, and its configured labels.",
    ("merchant_id", "media_id", "name", "ref_id", "encode_type"),
)

View = TypeVar("View", MerchantView, LinkView, MediaView)


@dataclass(frozen=True, slots=True)
class ViewFamily(Family, Generic[View]):
    """A family with a few samples for each merchant, connection or media.

    Attributes:
        read: The value of the one sample, None where there is none; or those of several by the family's last label.
    """

    read: Callable[[View], float | dict[str, float] | None]


def _end(minute: Minute | None) -> float | None:
    return None if minute is None else end_of(minute)


def _seconds(minutes: float | None) -> float | None:
    return None if minutes is None else minutes * MINUTE


def _thresholds(media: MediaView) -> dict[str, float] | None:
    thresholds = media.thresholds
    return None if thresholds is None else {"warning": thresholds.warning, "critical": thresholds.critical}


MERCHANT: Sequence[ViewFamily[MerchantView]] = (
    ViewFamily(
        "smartstream_merchant_horizon_timestamp_seconds",
        "gauge",
        "End of the newest minute with a row in the API, in Unix seconds, cached from the API.",
        ("merchant_id",),
        lambda merchant: _end(merchant.horizon),
    ),
    ViewFamily(
        "smartstream_revisions_total",
        "counter",
        "Values changed by the API after they were counted.",
        ("merchant_id", "direction"),
        lambda merchant: {"up": merchant.revisions_up, "down": merchant.revisions_down},
    ),
    ViewFamily(
        "smartstream_lost_seconds_total",
        "counter",
        "Seconds of data, summed over streams, that were too old to fetch or had no usable value.",
        ("merchant_id",),
        lambda merchant: merchant.lost_minutes * MINUTE,
    ),
    ViewFamily(
        "smartstream_series_resets_total",
        "counter",
        "Counter series reset to 0 because later plays did not offset a downward revision within one day.",
        ("merchant_id",),
        lambda merchant: merchant.series_resets,
    ),
    ViewFamily(
        "smartstream_held_values",
        "gauge",
        "API values not counted yet because they are invalid or implausible.",
        ("merchant_id",),
        lambda merchant: merchant.held_values,
    ),
    ViewFamily(
        "smartstream_merchant_plays_drop_ratio",
        "gauge",
        "Share of the whole merchant's expected plays that is missing while most of its media miss some "
        "(API target play_count).",
        ("merchant_id",),
        lambda merchant: merchant.verdict and merchant.verdict.ratio,
    ),
    ViewFamily(
        "smartstream_merchant_last_minute_expected_plays",
        "gauge",
        "Expected plays of the whole merchant in the newest settled minute (API target play_count).",
        ("merchant_id",),
        lambda merchant: merchant.verdict and merchant.verdict.expected,
    ),
)

CONNECTION: Sequence[ViewFamily[LinkView]] = (
    ViewFamily(
        "smartstream_merchant_failing_streams",
        "gauge",
        "Streams of the whole merchant whose last request failed while other requests succeeded.",
        ("merchant_id",),
        lambda link: link.failing.get("", 0),
    ),
    ViewFamily(
        "smartstream_failing_lookups",
        "gauge",
        "Requests for the catalog, live events and the history that failed when they were sent last.",
        ("merchant_id",),
        lambda link: link.failing_lookups,
    ),
    ViewFamily(
        "smartstream_round_timestamp_seconds",
        "gauge",
        "Unix time of the end of the last polling round, in seconds. A round runs every minute.",
        ("merchant_id",),
        lambda link: link.round_timestamp,
    ),
    ViewFamily(
        "smartstream_up",
        "gauge",
        "Whether the API responds. 0 also during a backoff or when no request can be sent.",
        ("merchant_id",),
        lambda link: link.up,
    ),
    ViewFamily(
        "smartstream_api_budget_requests_per_minute",
        "gauge",
        "Maximum requests per minute that the exporter currently sends.",
        ("merchant_id",),
        lambda link: link.budget,
    ),
    ViewFamily(
        "smartstream_streams",
        "gauge",
        "Streams that share the merchant's request budget.",
        ("merchant_id",),
        lambda link: link.streams,
    ),
    ViewFamily(
        "smartstream_staleness_seconds",
        "gauge",
        "Mean settled time not yet counted per stream, weighted by plays, in seconds.",
        ("merchant_id",),
        lambda link: _seconds(link.staleness_minutes),
    ),
    ViewFamily(
        "smartstream_staleness_bound_seconds",
        "gauge",
        "Lower bound of the staleness for these streams and this request budget, in seconds.",
        ("merchant_id",),
        lambda link: _seconds(link.staleness_bound_minutes),
    ),
    ViewFamily(
        "smartstream_api_token_expiry_timestamp_seconds",
        "gauge",
        "Unix time at which the access token expires, in seconds, cached from the API.",
        ("merchant_id",),
        lambda link: link.token_expiry,
    ),
)

MEDIA: Sequence[ViewFamily[MediaView]] = (
    ViewFamily(
        "smartstream_live_event_running",
        "gauge",
        "Whether the live event of the media is running (API encode_status), cached from the API.",
        ("merchant_id", "media_id"),
        lambda media: media.live_event_running,
    ),
    ViewFamily(
        "smartstream_plays_drop_ratio",
        "gauge",
        "Ratio of missing plays to expected plays, 0 if the shortfall can be random (API target play_count).",
        ("merchant_id", "media_id"),
        lambda media: media.verdict and media.verdict.ratio,
    ),
    ViewFamily(
        "smartstream_plays_drop_evidence",
        "gauge",
        "Log-likelihood ratio that the shortfall is not random (API target play_count).",
        ("merchant_id", "media_id"),
        lambda media: media.verdict and media.verdict.evidence,
    ),
    ViewFamily(
        "smartstream_last_minute_expected_plays",
        "gauge",
        "Expected plays in the newest settled minute (API target play_count).",
        ("merchant_id", "media_id"),
        lambda media: media.verdict and media.verdict.expected,
    ),
    ViewFamily(
        "smartstream_drop_threshold_ratio",
        "gauge",
        "Configured smartstream_plays_drop_ratio above which an alert fires.",
        ("merchant_id", "media_id", "severity"),
        _thresholds,
    ),
    ViewFamily(
        "smartstream_failing_streams",
        "gauge",
        "Streams of a media whose last request failed while other requests succeeded.",
        ("merchant_id", "media_id"),
        lambda media: media.failing_streams,
    ),
    ViewFamily(
        "smartstream_media_gone",
        "gauge",
        "Whether the API returns 404 for a media.",
        ("merchant_id", "media_id"),
        lambda media: media.gone,
    ),
)

# All families, in the order of the page.
FAMILIES: tuple[Family, ...] = (
    *(family for shown in STREAMS.values() for family in (shown.counter, shown.gauge) if family),
    DATA_TIMESTAMP,
    MERCHANT_DATA_TIMESTAMP,
    *MERCHANT,
    *CONNECTION,
    MEDIA_INFO,
    *MEDIA,
)
