"""What the pages and `/metrics` are made from: one immutable snapshot of everything counted so far.

The ledger replaces the snapshot after each commit; readers on other threads take the reference once and see one
consistent state.
"""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import chain, islice
from math import isnan, nan
from types import MappingProxyType
from typing import Generic, NamedTuple, Self, TypeVar, overload

from exporter.model import Minute, Stream


@dataclass(frozen=True, slots=True)
class SeriesView:
    """One label value of a stream.

    Attributes:
        label: The label value; "" where the stream's group is `all`.
        total: What the counter shows, or None where the target does not add up.
        last: The value in the stream's newest settled minute, or None where it is not known or no gauge is to be shown.
    """

    label: str
    total: float | None
    last: float | None


Part_co = TypeVar("Part_co", covariant=True)


@dataclass(frozen=True, slots=True)
class StreamPart(Generic[Part_co]):
    """What is shown of a stream on `/metrics`: its samples, or its lines.

    Attributes:
        kind: Which families they are in: the place of its kind in `serving.families.STREAMS`.
        end: The end of its newest settled minute (Unix seconds); minus infinity without one.
        counter: Those of its counter.
        gauge: Those of its gauge, however old that is.
        timestamp: The one with `end`.
    """

    kind: int
    end: float
    counter: Part_co
    gauge: Part_co
    timestamp: Part_co


class Series(Sequence[SeriesView]):
    """The label values of a stream, in the order in which they were first seen. Never changed.

    There can be a hundred thousand, so they are packed: two objects for each would take five times the memory.
    """

    __slots__ = ("_labels", "_values")

    def __init__(self, labels: Iterable[str], totals: Iterable[float | None], lasts: Iterable[float | None]) -> None:
        """Pack the columns of the label values, each in the same order."""
        self._labels = tuple(labels)
        # First all totals, then all last values. None is not a number.
        self._values = array("d", (nan if value is None else value for value in chain(totals, lasts)))

    @classmethod
    def of(cls, views: Iterable[SeriesView]) -> Self:
        """Pack these."""
        views = tuple(views)
        return cls((each.label for each in views), (each.total for each in views), (each.last for each in views))

    @property
    def totals(self) -> list[tuple[str, float]]:
        """The label values that have a total, with it."""
        return [(label, value) for label, value in zip(self._labels, self._values, strict=False) if not isnan(value)]

    @property
    def lasts(self) -> list[tuple[str, float]]:
        """The label values that have a value in the newest settled minute, with it."""
        lasts = islice(self._values, len(self._labels), None)
        return [(label, value) for label, value in zip(self._labels, lasts, strict=True) if not isnan(value)]

    def __len__(self) -> int:
        return len(self._labels)

    @overload
    def __getitem__(self, place: int) -> SeriesView: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[SeriesView]: ...

    def __getitem__(self, place: int | slice) -> SeriesView | Sequence[SeriesView]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        total, last = self._values[range(len(self))[place]], self._values[len(self) + range(len(self))[place]]
        return SeriesView(self._labels[place], None if isnan(total) else total, None if isnan(last) else last)

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(tuple(self))


@dataclass(frozen=True, slots=True)
class StreamView:
    """One stream. Another one takes its place when anything changes.

    Attributes:
        stream: The stream.
        through: The newest settled minute that it has counted, or None before its first response.
        series: Its label values.
        lines: Its lines on `/metrics`, None until `serving` has rendered them.
    """

    stream: Stream
    through: Minute | None
    series: Series
    lines: StreamPart[bytes] | None = field(default=None, init=False, compare=False, repr=False)

    def keep(self, lines: StreamPart[bytes]) -> StreamPart[bytes]:
        """Keep the lines, which depend on nothing else."""
        object.__setattr__(self, "lines", lines)
        return lines


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Drop ratios above which the alerts of a media fire, and for how long.

    Attributes:
        warning: 0 to 1.
        critical: 0 to 1.
        accept_after: Seconds after which a drop that lasts is accepted as the new level.
    """

    warning: float
    critical: float
    accept_after: float = 86400.0


# Drop ratio above which the alert of a whole merchant fires. /metrics has it, too: the rule reads it there.
MERCHANT_THRESHOLD = 0.35


def of_whole_merchant(configured: Thresholds) -> Thresholds:
    """The thresholds of a whole merchant: its alert has one severity, and a ratio that is not configured."""
    return replace(configured, warning=MERCHANT_THRESHOLD, critical=MERCHANT_THRESHOLD)


class Verdict(NamedTuple):
    """The result of the drop detector for a minute of a media, or of the whole merchant.

    Attributes:
        minute: The minute.
        ratio: The share of the expected plays that is missing, 0 to 1; 0 if that can be chance.
        evidence: How unlikely it is that this is chance: a log-likelihood ratio, 0 and more.
        expected: The plays expected in the minute.
    """

    minute: Minute
    ratio: float
    evidence: float
    expected: float


class Judgement(StrEnum):
    """Whether the drop detector can say anything about a media now."""

    JUDGED = "judged"
    LEARNING = "learning"
    NO_DATA = "no data"
    OFF = "off"


class Severity(StrEnum):
    """How deep a drop is, by the thresholds of its media."""

    WARNING = "warning"
    CRITICAL = "critical"


class IncidentState(StrEnum):
    """Whether a drop begins, lasts, has ended because the plays are back, or was accepted as the new level."""

    BEGINNING = "beginning"
    OPEN = "open"
    ENDED = "ended"
    ACCEPTED = "accepted"


@dataclass(frozen=True, slots=True)
class Incident:
    """One drop of the plays of a media, or of the whole merchant, from its onset to its end.

    Attributes:
        media_id: The media, "" for the whole merchant.
        onset: The first minute of the drop.
        state: Whether it lasts.
        severity: The worst so far.
        minute: The newest minute that it knows; of an incident that has ended, its last.
        ratio: The share of the expected plays that is missing now, against the baseline frozen at the onset.
        worst: The largest ratio so far.
        expected: The plays a minute expected now.
        plays: The plays a minute counted now.
        lost: The plays that were expected since the onset, minus those counted.
        accept_at: The minute in which it is accepted as the new level, if it lasts until then.
        opened: The minute in which its alert begins: the drop has lasted for 2 minutes.
        critical_at: The minute in which its critical alert begins, or None.
        worst_minute: The minute with the largest ratio.
        worst_expected: The plays a minute expected in that minute.
        with_merchant: Whether it belongs to a drop of the whole merchant.
    """

    media_id: str
    onset: Minute
    state: IncidentState
    severity: Severity
    minute: Minute
    ratio: float
    worst: float
    expected: float
    plays: float
    lost: float
    accept_at: Minute
    opened: Minute = 0
    critical_at: Minute | None = None
    worst_minute: Minute = 0
    worst_expected: float = 0.0
    with_merchant: bool = False

    @property
    def lasts(self) -> bool:
        """Whether it has neither ended nor been accepted."""
        return self.state in (IncidentState.BEGINNING, IncidentState.OPEN)


# The minutes of one part of a day's bar.
DAY_STEP = 15


class DayState(StrEnum):
    """The worst that the drop detector said in one part of a day."""

    NO_DATA = "no data"
    JUDGED = "judged"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Day:
    """The last 24 hours of a media, or of the whole merchant.

    Attributes:
        start: The start of the first part (Unix seconds).
        states: The worst state in each part of 15 minutes, oldest first.
    """

    start: float
    states: tuple[DayState, ...]


@dataclass(frozen=True, slots=True)
class Hour:
    """The newest hour of plays of a media, or of the whole merchant.

    Attributes:
        start: The start of its first minute.
        plays: The plays of each minute.
        expected: The plays that were expected in each minute.
    """

    start: float
    plays: tuple[float | None, ...]
    expected: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class MediaView:
    """A media, without its counted values.

    Attributes:
        media_id: The id.
        name: The configured name, else the catalog's, else "".
        ref_id: The catalog's, or "".
        encode_type: The catalog's, or "".
        labels: The configured labels.
        live_event_running: Whether its live event runs, or None where it has none or that is not known.
        verdict: The newest verdict of the drop detector, or None where it has none.
        judgement: Whether there is one, and why not.
        incident: Its open drop, or None.
        thresholds: The thresholds of its alerts, or None where the configuration excludes it from drop alerts.
        failing_streams: The number of its streams that fail while other requests succeed.
        gone: Whether the API answers 404 for it.
        failing_since: Since when requests for it fail or get 404 (Unix seconds), or None.
    """

    media_id: str
    name: str = ""
    ref_id: str = ""
    encode_type: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    live_event_running: bool | None = None
    verdict: Verdict | None = None
    judgement: Judgement = Judgement.LEARNING
    incident: Incident | None = None
    thresholds: Thresholds | None = None
    failing_streams: int = 0
    gone: bool = False
    failing_since: float | None = None


@dataclass(frozen=True, slots=True)
class Connection:
    """The connection of one merchant to the API.

    Attributes:
        merchant_id: The id of the merchant.
        up: Whether the API is up; false while all requests fail, are rate limited, or cannot be sent; null before the
            first response.
        budget: The current request budget: requests per minute.
        streams: The number of streams that share the budget.
        staleness_minutes: Settled minutes not fetched yet: the mean over the streams, weighted by plays; null before
            the first round of requests.
        staleness_bound_minutes: The lowest staleness that any schedule could reach.
        token_expiry: When the access token expires; null without a token or a known expiry.
        last_success: When the last request succeeded.
        last_error: The error of the newest request that failed, or "".
        last_error_at: When that was.
        refused: Whether the API refuses the credentials.
        rate_limited: Whether the API answers 429, so that requests wait.
        blocked: Whether no request has left since the state file could not be written.
        unusable: The part of the newest responses that cannot be used, or "".
        failing_lookups: The number of requests for the catalog, live events and the history that fail.
        round_timestamp: When the last round of requests ended.
    """

    merchant_id: str
    up: bool | None = None
    budget: float = 0.0
    streams: int = 0
    staleness_minutes: float | None = None
    staleness_bound_minutes: float | None = None
    token_expiry: float | None = None
    last_success: float | None = None
    last_error: str = ""
    last_error_at: float | None = None
    refused: bool = False
    rate_limited: bool = False
    blocked: bool = False
    unusable: str = ""
    failing_lookups: int = 0
    round_timestamp: float | None = None


@dataclass(frozen=True, slots=True)
class EndpointView:
    """The requests to one endpoint of the API.

    Attributes:
        endpoint: The endpoint.
        requests: The number of requests that have ended, by the HTTP status, or `error` without a response.
    """

    endpoint: str
    requests: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class LinkView(Connection):
    """The connection of one merchant to the API, its requests, and what fails while other requests succeed.

    Attributes:
        requests: The requests by endpoint, since the start.
        failing: The number of failing streams by media id, "" for the whole merchant.
        gone: The media for which the API answers 404.
        failing_since: When the requests began to fail, by media id, "" for the whole merchant (Unix seconds).
    """

    requests: tuple[EndpointView, ...] = ()
    failing: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    gone: frozenset[str] = frozenset()
    failing_since: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class MerchantView:
    """One merchant.

    Attributes:
        merchant_id: The id.
        horizon: The newest minute of which a response has shown a row, or None.
        lost_minutes: Minutes, summed over the streams, that were too old to be fetched, or had no usable value.
        revisions_up: How often a later response raised a value that had been counted.
        revisions_down: How often it lowered one.
        series_resets: Counters that were reset to 0 because a correction was not compensated within a day.
        held_values: Values that are unusable or implausible, and are not counted yet.
        streams: Its streams, in the order of the configuration.
        media: Its media, in the order of the configuration.
        pending: Reference ids of configured media that are not found in the catalog, and since when that is known (Unix
            seconds); None before that was asked.
        verdict: The newest verdict on all plays together, or None where there is none.
        judgement: Whether there is one, and why not.
        incident: The open drop of the whole merchant, or None.
        incidents: The drops of its media and of the whole merchant, open or not, the newest onset first.
        learning_seconds: Seconds until all media can be judged for drops at the present pace; 0 where they can, None
            where that is not known.
        learning_until: When that will be (Unix seconds); None where nothing is missing or that is not known.
        timezone_offset: Seconds that the rows of the API are ahead of what `api.timezone` says; 0 where it fits, None
            while that is not known.
        timezone_error: What is wrong with `api.timezone` and how to fix it, or "".
        timezone_since: When that was found, or None.
        link: The connection to the API, or None where it is unknown.
    """

    merchant_id: str
    horizon: Minute | None = None
    lost_minutes: int = 0
    revisions_up: int = 0
    revisions_down: int = 0
    series_resets: int = 0
    held_values: int = 0
    streams: Mapping[Stream, StreamView] = field(default_factory=lambda: MappingProxyType({}))
    media: Mapping[str, MediaView] = field(default_factory=lambda: MappingProxyType({}))
    pending: Mapping[str, float | None] = field(default_factory=lambda: MappingProxyType({}))
    verdict: Verdict | None = None
    judgement: Judgement = Judgement.LEARNING
    incident: Incident | None = None
    incidents: tuple[Incident, ...] = ()
    learning_seconds: float | None = None
    learning_until: float | None = None
    timezone_offset: float | None = None
    timezone_error: str = ""
    timezone_since: float | None = None
    link: LinkView | None = None


class Subject(StrEnum):
    """The part of the process that has a problem."""

    STATE_FILE = "state file"
    CONFIGURATION = "configuration"
    POLLING = "polling"
    MEDIA_FILES = "media files"
    CLOCK = "clock"
    LOG = "log"


@dataclass(frozen=True, slots=True)
class ProblemView:
    """A problem of the process itself.

    Attributes:
        subject: The part that has the problem.
        message: The problem and how to fix it, in one or two sentences.
        since: When it began (Unix seconds), or null where that is not known.
        bad: Whether nothing is counted, or data can be lost, while it lasts.
    """

    subject: Subject
    message: str
    since: float | None = None
    bad: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything counted so far.

    Attributes:
        merchants: By merchant id.
        clock_offset: Seconds by which this machine's clock is ahead of the API's, 0 where they agree.
        problems: Problems of the process itself.
        started: When the process began to poll (Unix seconds), or None.
    """

    merchants: Mapping[str, MerchantView] = field(default_factory=lambda: MappingProxyType({}))
    clock_offset: float = 0.0
    problems: tuple[ProblemView, ...] = ()
    started: float | None = None
