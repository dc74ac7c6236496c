"""What a person asks first, as one tree: the page at `/` and the JSON at `/api/v1/status` are made from it. Pure.

Instants are Unix seconds; what is not known is None. The names are the keys of the JSON.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

from exporter.api.request_log import Exchange, RequestsView
from exporter.model import Group, Minute, Stream, Target, end_of
from exporter.times import format_duration, round_duration
from exporter.views import (
    MERCHANT_THRESHOLD,
    Connection,
    Hour,
    LinkView,
    MediaView,
    MerchantView,
    ProblemView,
    Snapshot,
    StreamView,
    Thresholds,
    Verdict,
)
from exporter.wording import some

# Of many merchants or media, so many are named.
NAMED = 5

# The alert on the whole merchant has one severity, and a threshold that is not configured.
WHOLE_MERCHANT = Thresholds(warning=MERCHANT_THRESHOLD, critical=MERCHANT_THRESHOLD)


class Health(StrEnum):
    """How all is, in a word."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


class DropState(StrEnum):
    """What there is to say of a drop of plays."""

    NONE = "none"
    WARNING = "warning"
    CRITICAL = "critical"
    OFF = "off"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Drop:
    """A drop of plays, as the drop detector sees it.

    Attributes:
        state: `warning` or `critical` above that threshold, else `none`; `off` where the configuration leaves the
            media out, `unknown` while the detector says nothing.
        ratio: Which share of the expected plays is missing, 0 where that can be chance.
        evidence: How little it can be chance: a log likelihood ratio.
        expected: The plays that were expected in the minute that was judged.
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
        media_id: Which one; "" for the whole merchant.
        name: What it is called, or "".
        labels: The configured labels.
        streams: How many streams it has.
        last_minute_plays: Its plays in the newest minute that is counted.
        staleness_minutes: By how many minutes the stream of it that is furthest behind is behind the newest settled
            minute of the merchant.
        data_timestamp: The end of the newest minute that all of its streams have counted.
        live: Whether its live event runs; null where it has none or that is not known.
        drop: What the drop detector says.
        hour: The newest hour of its plays.
        last_error: Why the newest request about it that failed did so, or "".
        last_error_at: When that was.
        failing_streams: How many of its streams fail while the API answers others.
        gone: Whether the API does not know it any more (404).
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
        horizon: The end of the newest minute of which the API has shown a row.
        lost_minutes: Minutes, summed over the streams, that were too old to be caught up, or without a value that could
            be used.
        held_values: Values of the API that cannot be used, or are not plausible, and are not counted yet.
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
    """All of it.

    Attributes:
        version: The release.
        now: When it was so.
        health: `good`, `warning` or `bad`.
        summary: Why, in a sentence or two.
        clock_offset_seconds: By how much this machine's clock is ahead of the API's, 0 where they agree.
        merchants: The merchants, in the order of the configuration.
        requests: The newest requests to the API, and the newest that failed; the newest first.
        problems: What is wrong with the process itself: its state file, its log, its clock, its polling.
    """

    version: str
    now: float
    health: Health
    summary: str
    clock_offset_seconds: float = 0.0
    merchants: tuple[MerchantStatus, ...] = ()
    requests: tuple[Exchange, ...] = ()
    problems: tuple[ProblemView, ...] = ()


def build(
    snapshot: Snapshot,
    hours: Mapping[str, Mapping[str, Hour]],
    requests: RequestsView,
    now: float,
    version: str,
) -> Status:
    """Make the tree.

    Args:
        snapshot: What has been counted.
        hours: The newest hour of plays, by merchant id and media id, "" for the whole merchant.
        requests: The newest requests.
        now: Unix seconds.
        version: The release.
    """
    merchants = tuple(
        _merchant(merchant, hours.get(merchant_id, {}), requests)
        for merchant_id, merchant in snapshot.merchants.items()
    )
    health, summary = _health(merchants, snapshot.problems)
    return Status(version, now, health, summary, snapshot.clock_offset, merchants, requests.newest, snapshot.problems)


def only(status: Status, merchant_id: str) -> Status | None:
    """The part that is about one merchant, or for "" all of it; None where there is no such merchant."""
    if not merchant_id:
        return status
    merchants = tuple(each for each in status.merchants if each.merchant_id == merchant_id)
    if not merchants:
        return None
    health, summary = _health(merchants, status.problems)
    requests = tuple(each for each in status.requests if each.merchant_id == merchant_id)
    return replace(status, health=health, summary=summary, merchants=merchants, requests=requests)


def as_json(status: Status) -> str:
    """The tree as JSON."""
    # `asdict` would copy every minute of every media first, which takes many times as long.
    return json.dumps(status, default=_fields, allow_nan=False)


def _fields(node: Any) -> dict[str, object]:
    return {field.name: getattr(node, field.name) for field in fields(node)}


def _health(merchants: Iterable[MerchantStatus], problems: Sequence[ProblemView]) -> tuple[Health, str]:
    """The worst that there is to say, and how much there is of what."""
    merchants = list(merchants)
    media = sum(len(each.media) for each in merchants)
    streams = sum(each.streams for each in merchants)
    good = f"The API answers. Merchants: {len(merchants)}, media: {media}, streams: {streams}."
    return next(_causes(merchants, problems), (Health.GOOD, good))


def _causes(merchants: Sequence[MerchantStatus], problems: Sequence[ProblemView]) -> Iterator[tuple[Health, str]]:
    """What keeps all from being good, the worst first."""
    worst = [each.message for each in problems if each.bad]
    if worst:
        yield Health.BAD, _sentences(worst)
    failing = [each.merchant_id for each in merchants if each.up is False]
    if failing:
        yield Health.BAD, f"The API fails for {some(failing, NAMED)}."
    waiting = [each.merchant_id for each in merchants if each.up is None]
    if waiting:
        yield Health.WARNING, f"Waiting for the first answer of the API for {some(waiting, NAMED)}."
    media = [each for merchant in merchants for each in merchant.media]
    fallen = [_name(each) for each in media if each.drop.state in (DropState.WARNING, DropState.CRITICAL)]
    if fallen:
        yield Health.WARNING, f"The API answers. Plays have dropped: {some(fallen, NAMED)}."
    if problems:
        yield Health.WARNING, _sentences(each.message for each in problems)
    sick = [_name(each) for each in media if each.failing_streams and not each.gone]
    sick += [f"all media of {each.merchant_id}" for each in merchants if each.whole.failing_streams]
    gone = [_name(each) for each in media if each.gone]
    if sick or gone:
        causes = [f"Requests fail for {some(sick, NAMED)}."] if sick else []
        causes += [f"The API does not know {some(gone, NAMED)} (404)."] if gone else []
        yield Health.WARNING, f"The API answers. {' '.join(causes)}"
    holding = [
        f"{each.merchant_id} ({each.held_values or each.unusable})"
        for each in merchants
        if each.held_values or each.unusable
    ]
    if holding:
        yield (
            Health.WARNING,
            f"The API answers. Values that cannot be used are not counted yet: {some(holding, NAMED)}.",
        )


def _name(media: MediaStatus) -> str:
    return media.name or media.media_id


def clock_problem(offset: float) -> str:
    """What is wrong with this machine's clock, which is so many seconds ahead of the API's."""
    wrong = format_duration(round_duration(abs(offset)))
    return (
        f"The clock of this machine is {wrong} {'ahead of' if offset > 0 else 'behind'} the API's (Date header). "
        "Minutes are counted by the API's clock. Set this machine's clock, for example with NTP."
    )


def _sentences(messages: Iterable[str]) -> str:
    return " ".join(f"{message[0].upper()}{message[1:].rstrip('.')}." for message in messages)


def _merchant(merchant: MerchantView, hours: Mapping[str, Hour], requests: RequestsView) -> MerchantStatus:
    streams: dict[str, list[StreamView]] = {}
    for each in merchant.streams.values():
        streams.setdefault(each.stream.media_id, []).append(each)
    pace = merchant.streams.get(_plays(merchant.merchant_id, ""))
    settled = pace.through if pace else None
    link = merchant.link or LinkView(merchant.merchant_id)

    def media_status(media: MediaView) -> MediaStatus:
        failure = requests.of_media.get((merchant.merchant_id, media.media_id))
        own = streams.get(media.media_id, [])
        return _media(merchant, media, own, settled, hours.get(media.media_id), failure)

    whole = MediaView(
        "",
        name="All media",
        verdict=merchant.verdict,
        thresholds=WHOLE_MERCHANT,
        failing_streams=link.failing.get("", 0),
    )
    return MerchantStatus(
        **{each.name: getattr(link, each.name) for each in fields(Connection)},
        horizon=None if merchant.horizon is None else end_of(merchant.horizon),
        lost_minutes=merchant.lost_minutes,
        held_values=merchant.held_values,
        whole=media_status(whole),
        media=tuple(media_status(media) for media in merchant.media.values()),
    )


def _media(
    merchant: MerchantView,
    media: MediaView,
    streams: Iterable[StreamView],
    settled: Minute | None,
    hour: Hour | None,
    failure: Exchange | None,
) -> MediaStatus:
    streams = list(streams)
    plays = merchant.streams.get(_plays(merchant.merchant_id, media.media_id))
    lasts = [series.last for series in plays.series if series.last is not None] if plays else []
    throughs = [each.through for each in streams if each.through is not None]
    behind = min(throughs, default=None)
    return MediaStatus(
        media.media_id,
        media.name,
        dict(media.labels),
        len(streams),
        last_minute_plays=lasts[0] if lasts else None,
        staleness_minutes=None if behind is None or settled is None else max(0, settled - behind),
        data_timestamp=None if behind is None else end_of(behind),
        live=media.live_event_running,
        drop=_drop(media.verdict, media.thresholds),
        hour=hour,
        last_error=failure.error if failure else "",
        last_error_at=failure.at if failure else None,
        failing_streams=media.failing_streams,
        gone=media.gone,
    )


def _drop(verdict: Verdict | None, thresholds: Thresholds | None) -> Drop:
    if thresholds is None:
        return Drop(DropState.OFF)
    if verdict is None:
        return Drop(DropState.UNKNOWN)
    if verdict.ratio > thresholds.critical:
        state = DropState.CRITICAL
    elif verdict.ratio > thresholds.warning:
        state = DropState.WARNING
    else:
        state = DropState.NONE
    return Drop(state, verdict.ratio, verdict.evidence, verdict.expected, end_of(verdict.minute))


def _plays(merchant_id: str, media_id: str) -> Stream:
    return Stream(merchant_id, media_id, Target.PLAY_COUNT, Group.ALL)
