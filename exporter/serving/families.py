"""The families of `/metrics` that show a snapshot: names, HELP, labels, and where each value is read from. Pure.

A new metric of a merchant, of its connection or of a media is one entry in one of the tables below. What the exporter
measures of itself is in `instruments`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from prometheus_client import Metric
from prometheus_client.samples import Sample

from exporter.model import MINUTE, Group, Minute, Stream, Target, end_of, start_of
from exporter.views import (
    MERCHANT_THRESHOLD,
    EndpointView,
    Incident,
    Judgement,
    LinkView,
    MediaView,
    MerchantView,
    Severity,
)

# The type by the last word of the name; all others are gauges.
_TYPES = {"total": "counter", "info": "info"}

_MERCHANT_LABELS = ("merchant_id",)
_MEDIA_LABELS = ("merchant_id", "media_id")


@dataclass(frozen=True, slots=True)
class Family:
    """A family of samples.

    Attributes:
        name: The name of its samples, `_total` or `_info` included.
        help: One sentence.
        labels: The names of the labels that each of its samples has.
    """

    name: str
    help: str
    labels: tuple[str, ...]

    @property
    def type(self) -> str:
        """`counter`, `gauge` or `info`."""
        return _TYPES.get(self.name.rpartition("_")[2], "gauge")

    def metric(self, samples: Iterable[Sample] = ()) -> Metric:
        """The family with these samples, as prometheus_client renders it."""
        metric = Metric(self.name.removesuffix("_total").removesuffix("_info"), self.help, self.type)
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
    counter = Family(f"{name.format('')}_total", f"{words}{of_whole} {source}, cached from the API.", labels)
    gauge = Family(
        name.format("last_minute_"),
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
    _DATA_HELP.format(""),
    ("merchant_id", "media_id", "target", "group"),
)
MERCHANT_DATA_TIMESTAMP = Family(
    "smartstream_merchant_data_timestamp_seconds",
    _DATA_HELP.format(" of the whole merchant"),
    ("merchant_id", "target", "group"),
)


# ---- merchants, connections, media ----

# The configured labels come after these.
MEDIA_INFO = Family(
    "smartstream_media_info",
    "Name, ref_id and encode_type of a media, cached from the API, its configured labels, and its catalog_labels.",
    ("merchant_id", "media_id", "name", "ref_id", "encode_type"),
)

View = TypeVar("View", MerchantView, LinkView, EndpointView, MediaView)

# The value of the one sample, None where there is none; or those of several by the family's last label.
Value = float | Mapping[str, float] | None


@dataclass(frozen=True, slots=True)
class ViewFamily(Family, Generic[View]):
    """A family with a few samples for each merchant, connection, endpoint of the API or media.

    Attributes:
        read: Reads the values from a view.
    """

    read: Callable[[View], Value]


def _end(minute: Minute | None) -> float | None:
    return None if minute is None else end_of(minute)


def _seconds(minutes: float | None) -> float | None:
    return None if minutes is None else minutes * MINUTE


def _thresholds(media: MediaView) -> dict[str, float] | None:
    thresholds = media.thresholds
    return None if thresholds is None else {"warning": thresholds.warning, "critical": thresholds.critical}


def _judged(media: MediaView) -> float | None:
    return None if media.judgement is Judgement.OFF else media.judgement is Judgement.JUDGED


def _ratio(view: MerchantView | MediaView) -> float | None:
    # The baseline of an incident is frozen, so the ratio of a drop that lasts does not sink.
    shown = view.incident or view.verdict
    return None if shown is None else shown.ratio


def _expected(view: MerchantView | MediaView) -> float | None:
    shown = view.incident or view.verdict
    return None if shown is None else shown.expected


def _of_incident(read: Callable[[Incident], float]) -> Callable[[MerchantView | MediaView], float | None]:
    """What a value of the open incident is; None without one."""
    return lambda view: None if view.incident is None else read(view.incident)


_onset = _of_incident(lambda incident: start_of(incident.onset))
_lost = _of_incident(lambda incident: incident.lost)
_accepted_at = _of_incident(lambda incident: start_of(incident.accept_at))


def _of_merchant(name: str, help_text: str, read: Callable[[View], Value], *by: str) -> ViewFamily[View]:
    return ViewFamily(name, help_text, (*_MERCHANT_LABELS, *by), read)


def _of_media(name: str, help_text: str, read: Callable[[MediaView], Value], *by: str) -> ViewFamily[MediaView]:
    return ViewFamily(name, help_text, (*_MEDIA_LABELS, *by), read)


MERCHANT: Sequence[ViewFamily[MerchantView]] = (
    _of_merchant(
        "smartstream_merchant_horizon_timestamp_seconds",
        "End of the newest minute with a row in the API, in Unix seconds, cached from the API.",
        lambda merchant: _end(merchant.horizon),
    ),
    _of_merchant(
        "smartstream_revisions_total",
        "Values changed by the API after they were counted.",
        lambda merchant: {"up": merchant.revisions_up, "down": merchant.revisions_down},
        "direction",
    ),
    _of_merchant(
        "smartstream_lost_seconds_total",
        "Seconds of data, summed over streams, that were too old to fetch or had no usable value.",
        lambda merchant: merchant.lost_minutes * MINUTE,
    ),
    _of_merchant(
        "smartstream_series_resets_total",
        "Counter series reset to 0 because later plays did not offset a downward revision within one day.",
        lambda merchant: merchant.series_resets,
    ),
    _of_merchant(
        "smartstream_held_values",
        "API values not counted yet because they are invalid or implausible.",
        lambda merchant: merchant.held_values,
    ),
    _of_merchant(
        "smartstream_media_pending",
        "Media configured by their ref_id that the API's catalog does not have yet.",
        lambda merchant: len(merchant.pending),
    ),
    _of_merchant(
        "smartstream_merchant_plays_drop_ratio",
        "Share of the whole merchant's expected plays that is missing while most of its media miss some "
        "(API target play_count).",
        _ratio,
    ),
    _of_merchant(
        "smartstream_merchant_plays_drop_onset_timestamp_seconds",
        "Start of the first minute of the open drop of the whole merchant, in Unix seconds (API target play_count).",
        _onset,
    ),
    _of_merchant(
        "smartstream_merchant_plays_lost",
        "Expected minus counted plays of the whole merchant since its open drop began (API target play_count).",
        _lost,
    ),
    _of_merchant(
        "smartstream_merchant_plays_drop_accept_timestamp_seconds",
        "Unix time at which the open drop of the whole merchant becomes its new baseline if it lasts, in seconds.",
        _accepted_at,
    ),
    _of_merchant(
        "smartstream_merchant_last_minute_expected_plays",
        "Expected plays of the whole merchant in the newest settled minute (API target play_count).",
        _expected,
    ),
    _of_merchant(
        "smartstream_merchant_drop_threshold_ratio",
        "smartstream_merchant_plays_drop_ratio above which an alert fires.",
        lambda _: {Severity.CRITICAL.value: MERCHANT_THRESHOLD},
        "severity",
    ),
    _of_merchant(
        "smartstream_timezone_offset_seconds",
        "Seconds by which the API's rows are ahead of the time because api.timezone is wrong, negative if behind.",
        lambda merchant: merchant.timezone_offset,
    ),
    _of_merchant(
        "smartstream_learning_remaining_seconds",
        "Estimated seconds until all media can be judged for drops, 0 when they can.",
        lambda merchant: merchant.learning_seconds,
    ),
)

CONNECTION: Sequence[ViewFamily[LinkView]] = (
    _of_merchant(
        "smartstream_merchant_failing_streams",
        "Streams of the whole merchant whose last request failed while other requests succeeded.",
        lambda link: link.failing.get("", 0),
    ),
    _of_merchant(
        "smartstream_failing_lookups",
        "Requests for the catalog, live events and the history that failed when they were sent last.",
        lambda link: link.failing_lookups,
    ),
    _of_merchant(
        "smartstream_round_timestamp_seconds",
        "Unix time of the end of the last polling round, in seconds. A round runs every minute.",
        lambda link: link.round_timestamp,
    ),
    _of_merchant(
        "smartstream_up",
        "Whether the API responds. 0 also during a backoff or when no request can be sent.",
        lambda link: link.up,
    ),
    _of_merchant(
        "smartstream_api_budget_requests_per_minute",
        "Maximum requests per minute that the exporter currently sends.",
        lambda link: link.budget,
    ),
    _of_merchant(
        "smartstream_streams",
        "Streams that share the merchant's request budget.",
        lambda link: link.streams,
    ),
    _of_merchant(
        "smartstream_staleness_seconds",
        "Mean settled time not yet counted per stream, weighted by plays, in seconds.",
        lambda link: _seconds(link.staleness_minutes),
    ),
    _of_merchant(
        "smartstream_staleness_bound_seconds",
        "Lower bound of the staleness for these streams and this request budget, in seconds.",
        lambda link: _seconds(link.staleness_bound_minutes),
    ),
    _of_merchant(
        "smartstream_api_token_expiry_timestamp_seconds",
        "Unix time at which the access token expires, in seconds, cached from the API.",
        lambda link: link.token_expiry,
    ),
)

REQUESTS: ViewFamily[EndpointView] = ViewFamily(
    "smartstream_api_requests_total",
    "Requests to the API by HTTP status code. Code is error if no response was received.",
    ("merchant_id", "endpoint", "code"),
    lambda endpoint: endpoint.requests,
)

MEDIA: Sequence[ViewFamily[MediaView]] = (
    _of_media(
        "smartstream_live_event_running",
        "Whether the live event of the media is running (API encode_status), cached from the API.",
        lambda media: media.live_event_running,
    ),
    _of_media(
        "smartstream_plays_drop_ratio",
        "Ratio of missing plays to expected plays, 0 if the shortfall can be random (API target play_count).",
        _ratio,
    ),
    _of_media(
        "smartstream_plays_drop_evidence",
        "Log-likelihood ratio that the shortfall is not random (API target play_count).",
        lambda media: media.verdict and media.verdict.evidence,
    ),
    _of_media(
        "smartstream_last_minute_expected_plays",
        "Expected plays in the newest settled minute (API target play_count).",
        _expected,
    ),
    _of_media(
        "smartstream_plays_drop_onset_timestamp_seconds",
        "Start of the first minute of the open drop, in Unix seconds (API target play_count).",
        _onset,
    ),
    _of_media(
        "smartstream_plays_lost",
        "Expected minus counted plays since the open drop began (API target play_count).",
        _lost,
    ),
    _of_media(
        "smartstream_plays_drop_accept_timestamp_seconds",
        "Unix time at which the open drop becomes the new baseline if it lasts, in seconds.",
        _accepted_at,
    ),
    _of_media(
        "smartstream_plays_drop_judged",
        "Whether the drop detector can judge the media; 0 while it learns or lacks data.",
        _judged,
    ),
    _of_media(
        "smartstream_drop_threshold_ratio",
        "Configured smartstream_plays_drop_ratio above which an alert fires.",
        _thresholds,
        "severity",
    ),
    _of_media(
        "smartstream_failing_streams",
        "Streams of a media whose last request failed while other requests succeeded.",
        lambda media: media.failing_streams,
    ),
    _of_media(
        "smartstream_media_gone",
        "Whether the API returns 404 for a media.",
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
    REQUESTS,
    MEDIA_INFO,
    *MEDIA,
)
