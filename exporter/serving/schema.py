"""The tree behind the pages and the JSON at `/api/v1/status`: field names are the keys of the JSON.

Instants are Unix seconds; what is not known is None.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from exporter.api.request_log import Exchange
from exporter.model import Group, Target
from exporter.views import Connection, Day, Hour, IncidentState, Judgement, ProblemView, Severity, Thresholds


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


class MediaState(StrEnum):
    """What there is to say about a media, the worst first."""

    CRITICAL = "critical"
    WARNING = "warning"
    GONE = "gone"
    FAILING = "failing"
    STALE = "stale"
    LEARNING = "learning"
    JUDGED = "judged"
    OFF = "off"


class CauseKind(StrEnum):
    """What keeps the health from being good, in the order in which it is told."""

    STATE_FILE = "state file"
    PROCESS = "process"
    CONFIGURATION = "configuration not accepted"
    CREDENTIALS = "credentials refused"
    TIMEZONE = "time zone"
    MERCHANT_DROP = "drop of a merchant"
    CRITICAL_DROP = "critical drop"
    API_DOWN = "API down"
    NO_ROWS = "no rows"
    OLD_ROWS = "old rows"
    WARNING_DROP = "warning drop"
    WAITING = "waiting"
    MEDIA_FILES = "media files"
    GONE = "media gone"
    PENDING = "media pending"
    FAILING = "failing streams"
    STALE = "stale media"
    LEARNING = "learning"
    RATE_LIMITED = "rate limited"
    BUDGET = "budget too small"
    HELD_VALUES = "held values"


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that keeps the health from being good.

    Attributes:
        health: `warning` or `bad`.
        kind: What it is: `state file`, `process`, `configuration not accepted`, `credentials refused`, `time zone`,
            `drop of a merchant`, `critical drop`, `API down`, `no rows`, `old rows`, `warning drop`, `waiting`,
            `media files`, `media gone`, `media pending`, `failing streams`, `stale media`, `learning`, `rate limited`,
            `budget too small` or `held values`.
        subject: What it concerns: the name of a media, the id of a merchant, or a part of the process.
        number: How much: of a drop the share of the expected plays that is missing, of old rows their age in seconds,
            else how many media, streams or values; null where there is nothing to count.
        since: When it began, or null where that is not known.
        message: The problem in plain words, without a time.
        merchant_id: The merchant, or "".
        media_id: The media, or "".
    """

    health: Health
    kind: CauseKind
    subject: str
    number: float | None
    since: float | None
    message: str
    merchant_id: str = ""
    media_id: str = ""


@dataclass(frozen=True, slots=True)
class Drop:
    """A drop of plays, as the drop detector sees it.

    Attributes:
        state: `warning` or `critical` above that threshold, and at least `warning` during an incident, else `none`;
            `off` where the configuration excludes the media, `unknown` while the detector has no verdict.
        ratio: The share of the expected plays that is missing, 0 if the shortfall can be random.
        evidence: Log-likelihood ratio that the shortfall is not random.
        expected: The plays expected in the minute of the verdict.
        timestamp: The end of that minute.
        onset: The start of the first minute of its open incident; null without one.
        lost: The plays that were expected since then, minus those counted.
        recovering: Whether the plays are back, but not yet for long enough to end the incident.
    """

    state: DropState
    ratio: float | None = None
    evidence: float | None = None
    expected: float | None = None
    timestamp: float | None = None
    onset: float | None = None
    lost: float | None = None
    recovering: bool = False


@dataclass(frozen=True, slots=True)
class IncidentStatus:
    """One drop from its onset to its end.

    Attributes:
        media_id: The media, "" for the whole merchant.
        name: The name of the media, or "".
        state: `beginning` until two more minutes have confirmed it, `open`, `ended` because the plays are back, or
            `accepted` as the new baseline.
        severity: The worst so far.
        onset: The start of its first minute.
        end: When it ended: about ten minutes of data after the plays were back; null while it lasts.
        ratio: The share of the expected plays that is missing now.
        worst: The largest share so far.
        expected: The plays a minute expected now.
        plays: The plays a minute counted now.
        lost: The plays that were expected from the onset until the plays were back, minus those counted.
        accept_at: When it is accepted as the new baseline, if it lasts until then.
        with_merchant: Whether it belongs to a drop of the whole merchant.
    """

    media_id: str
    name: str
    state: IncidentState
    severity: Severity
    onset: float
    end: float | None
    ratio: float
    worst: float
    expected: float
    plays: float
    lost: float
    accept_at: float
    with_merchant: bool


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One stream of a media.

    Attributes:
        target: What is counted.
        group: How it is split.
        data_timestamp: The end of the newest minute that it has counted, or null before its first response.
    """

    target: Target
    group: Group
    data_timestamp: float | None


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
        failing_since: Since when requests for it fail or get 404; null while none does.
        states: All that applies, the worst first: `critical` and `warning` (a drop), `gone` (404), `failing` (some
            streams), `stale` (no data, or old data), `learning` or `judged` or `off` (the drop detector).
        judgement: Whether the drop detector can give a verdict, and why not.
        thresholds: The drop ratios above which its alerts fire, or null without alerts.
        day: The last 24 hours, or null where nothing is known of them.
        data: Its streams.
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
    failing_since: float | None = None
    states: tuple[MediaState, ...] = ()
    judgement: Judgement = Judgement.LEARNING
    thresholds: Thresholds | None = None
    day: Day | None = None
    data: tuple[StreamStatus, ...] = ()

    @property
    def failing(self) -> bool:
        """Whether its newest error is not resolved."""
        return self.gone or self.failing_streams > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MerchantStatus(Connection):
    """One merchant, and its connection to the API.

    Attributes:
        horizon: The end of the newest minute with a row in the API.
        lost_minutes: Minutes, summed over the streams, that were too old to be fetched, or had no usable value.
        held_values: Values of the API that are unusable or implausible, and are not counted yet.
        whole: All media together.
        media: The media, in the order of the configuration.
        pending: Reference ids of configured media that are not found in the catalog yet, and since when that is known;
            null before the catalog was asked.
        incidents: Drops of the media and of the whole merchant: the open ones, then the others, the newest onset first.
        timezone_error: How the rows show that `api.timezone` is wrong, or "".
        timezone_since: When that was found, or null.
        learning_until: When the rest of the media will be judged, or null where that is not known.
    """

    horizon: float | None
    lost_minutes: int
    held_values: int
    whole: MediaStatus
    media: tuple[MediaStatus, ...]
    pending: Mapping[str, float | None] = field(default_factory=dict)
    incidents: tuple[IncidentStatus, ...] = ()
    timezone_error: str = ""
    timezone_since: float | None = None
    learning_until: float | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """The whole status.

    Attributes:
        version: The version of the exporter.
        now: When the status was made.
        health: `good`, `warning` or `bad`.
        summary: The reason, in one or two sentences.
        causes: All reasons why the health is not good, the worst first.
        timezone: The time zone of the API, in which the page shows times.
        clock_offset_seconds: By how much this machine's clock is ahead of the API's, 0 within 30 s.
        merchants: The merchants, in the order of the configuration.
        requests: The newest requests to the API, and the newest that failed; the newest first.
        problems: Problems of the process itself: its state file, its log, its clock, its polling, its media files.
        started: When the process began to poll.
    """

    version: str
    now: float
    health: Health
    summary: str
    causes: tuple[Cause, ...] = ()
    timezone: str = "UTC"
    clock_offset_seconds: float = 0.0
    merchants: tuple[MerchantStatus, ...] = ()
    requests: tuple[Exchange, ...] = ()
    problems: tuple[ProblemView, ...] = ()
    started: float | None = None
