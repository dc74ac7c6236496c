"""The tree behind the page at `/` and the JSON at `/api/v1/status`: field names are the keys of the JSON.

Instants are Unix seconds; what is not known is None.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from exporter.api.request_log import Exchange
from exporter.views import Connection, Hour, ProblemView


class Health(StrEnum):
    """The overall state."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


class DropState(StrEnum):
    """The severity of a drop of plays, or why there is none."""

    NONE = "none"
    WARNING = "warning"
    CRITICAL = "critical"
    OFF = "off"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Drop:
    """A drop of plays, as the drop detector sees it.

    Attributes:
        state: `warning` or `critical` above that threshold, else `none`; `off` where the configuration excludes the
            media, `unknown` while the detector has no verdict.
        ratio: The share of the expected plays that is missing, 0 if the shortfall can be random.
        evidence: Log-likelihood ratio that the shortfall is not random.
        expected: The plays expected in the minute of the verdict.
        timestamp: The end of that minute.
    """

    state: DropState
    ratio: float | None = None
    evidence: float | None = None
    expected: float | None = None
    timestamp: float | None = None


@dataclass(frozen=True, slots=True)
class MediaStatus:
    """One media, or the whole merchant.

    Attributes:
        media_id: The id; "" for the whole merchant.
        name: The name, or "".
        labels: The configured labels.
        streams: The number of its streams.
        last_minute_plays: The plays in the newest minute that is counted.
        staleness_minutes: By how many minutes its oldest stream is behind the newest settled minute of the merchant.
        data_timestamp: The end of the newest minute that all of its streams have counted.
        live: Whether its live event is running; null without an event or if that is not known.
        drop: The verdict of the drop detector.
        hour: The newest hour of plays.
        last_error: The error of the newest request for it that failed, or "".
        last_error_at: When that was.
        failing_streams: The number of its streams that fail while other requests succeed.
        gone: Whether the API returns 404 for it.
    """

    media_id: str
    name: str
    labels: Mapping[str, str]
    streams: int
    last_minute_plays: float | None
    staleness_minutes: int | None
    data_timestamp: float | None
    live: bool | None
    drop: Drop
    hour: Hour | None
    last_error: str
    last_error_at: float | None
    failing_streams: int = 0
    gone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MerchantStatus(Connection):
    """One merchant, and its connection to the API.

    Attributes:
        horizon: The end of the newest minute with a row in the API.
        lost_minutes: Minutes, summed over the streams, that were too old to be fetched, or had no usable value.
        held_values: Values of the API that are unusable or implausible, and are not counted yet.
        whole: All media together.
        media: The media, in the order of the configuration.
    """

    horizon: float | None
    lost_minutes: int
    held_values: int
    whole: MediaStatus
    media: tuple[MediaStatus, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """The whole status.

    Attributes:
        version: The version of the exporter.
        now: When the status was made.
        health: `good`, `warning` or `bad`.
        summary: The reason, in one or two sentences.
        clock_offset_seconds: By how much this machine's clock is ahead of the API's, 0 within 30 s.
        merchants: The merchants, in the order of the configuration.
        requests: The newest requests to the API, and the newest that failed; the newest first.
        problems: Problems of the process itself: its state file, its log, its clock, its polling.
    """

    version: str
    now: float
    health: Health
    summary: str
    clock_offset_seconds: float = 0.0
    merchants: tuple[MerchantStatus, ...] = ()
    requests: tuple[Exchange, ...] = ()
    problems: tuple[ProblemView, ...] = ()
