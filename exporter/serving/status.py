"""Makes the status, behind the pages and the JSON at `/api/v1/status`, from what was counted. Pure."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from exporter.api.request_log import RequestsView
from exporter.model import MINUTE, Group, Minute, Stream, Target, end_of, start_of
from exporter.serving.health import health_of, summary_of
from exporter.serving.schema import (
    Drop,
    DropState,
    IncidentStatus,
    MediaState,
    MediaStatus,
    MerchantStatus,
    Status,
    StreamStatus,
)
from exporter.views import (
    MERCHANT_THRESHOLD,
    Connection,
    Day,
    Hour,
    Incident,
    Judgement,
    LinkView,
    MediaView,
    MerchantView,
    Snapshot,
    StreamView,
    Thresholds,
)

# The alert on the whole merchant has one severity, and a threshold that is not configured.
WHOLE_MERCHANT = Thresholds(warning=MERCHANT_THRESHOLD, critical=MERCHANT_THRESHOLD)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the configuration says about times.

    Attributes:
        timezone: The time zone of the API, such as `Asia/Tokyo`.
        max_staleness: Seconds that no stream should wait longer than.
        max_lag: Seconds after which a minute is settled without a row.
    """

    timezone: str = "UTC"
    max_staleness: float = 30 * MINUTE
    max_lag: float = 10 * MINUTE


@dataclass(frozen=True, slots=True)
class Plays:
    """The plays of one merchant for the charts, by media id, "" for the whole merchant.

    Attributes:
        hours: The newest hour.
        days: The last 24 hours.
    """

    hours: Mapping[str, Hour]
    days: Mapping[str, Day]


def build(
    snapshot: Snapshot,
    hours: Mapping[str, Mapping[str, Hour]],
    days: Mapping[str, Mapping[str, Day]],
    requests: RequestsView,
    now: float,
    version: str,
    limits: Limits,
) -> Status:
    """Make the status.

    Args:
        snapshot: What has been counted.
        hours: The newest hour of plays, by merchant id and media id, "" for the whole merchant.
        days: The last 24 hours, likewise.
        requests: The newest requests; those of other merchants are left out.
        now: Unix seconds.
        version: The release.
        limits: What the configuration says about times.
    """
    merchants = tuple(
        _Builder(
            merchant,
            Plays(hours.get(merchant_id, {}), days.get(merchant_id, {})),
            requests,
            now,
            limits,
            snapshot.started,
        ).status()
        for merchant_id, merchant in snapshot.merchants.items()
    )
    health, causes = health_of(merchants, snapshot.problems, now, limits.max_staleness, snapshot.started)
    return Status(
        version,
        now,
        health,
        summary_of(causes, merchants, now),
        causes,
        limits.timezone,
        snapshot.clock_offset,
        merchants,
        requests=tuple(each for each in requests.newest if each.merchant_id in snapshot.merchants),
        problems=snapshot.problems,
        started=snapshot.started,
    )


def only(snapshot: Snapshot, merchant_id: str) -> Snapshot | None:
    """The part of a snapshot about one merchant, all of it for ""; None where there is no such merchant."""
    if not merchant_id:
        return snapshot
    merchant = snapshot.merchants.get(merchant_id)
    return None if merchant is None else replace(snapshot, merchants={merchant_id: merchant})


def as_json(status: Status) -> str:
    """The status as JSON."""
    # `asdict` would copy every minute of every media first, which takes many times as long.
    return json.dumps(status, default=_fields, allow_nan=False)


def _fields(node: Any) -> dict[str, object]:
    return {field.name: getattr(node, field.name) for field in fields(node)}


@dataclass(frozen=True, slots=True)
class _Builder:
    """Makes the status of one merchant."""

    merchant: MerchantView
    plays: Plays
    requests: RequestsView
    now: float
    limits: Limits
    started: float | None

    def status(self) -> MerchantStatus:
        merchant = self.merchant
        streams: dict[str, list[StreamView]] = {}
        for each in merchant.streams.values():
            streams.setdefault(each.stream.media_id, []).append(each)
        pace = merchant.streams.get(_plays(merchant.merchant_id, ""))
        settled = pace.through if pace else None
        link = merchant.link or LinkView(merchant.merchant_id)
        whole = MediaView(
            "",
            name="All media",
            verdict=merchant.verdict,
            judgement=merchant.judgement,
            incident=merchant.incident,
            thresholds=WHOLE_MERCHANT,
            failing_streams=link.failing.get("", 0),
            failing_since=link.failing_since.get(""),
        )
        return MerchantStatus(
            **{each.name: getattr(link, each.name) for each in fields(Connection)},
            horizon=None if merchant.horizon is None else end_of(merchant.horizon),
            lost_minutes=merchant.lost_minutes,
            held_values=merchant.held_values,
            whole=self._media(whole, streams.get("", ()), settled),
            media=tuple(self._media(each, streams.get(each.media_id, ()), settled) for each in merchant.media.values()),
            pending=dict(merchant.pending),
            incidents=_incidents(merchant),
            timezone_error=merchant.timezone_error,
            timezone_since=merchant.timezone_since,
            learning_until=merchant.learning_until,
        )

    def _media(self, media: MediaView, streams: Sequence[StreamView], settled: Minute | None) -> MediaStatus:
        plays = self.merchant.streams.get(_plays(self.merchant.merchant_id, media.media_id))
        lasts = [series.last for series in plays.series if series.last is not None] if plays else []
        behind = min((each.through for each in streams if each.through is not None), default=None)
        failure = self.requests.of_media.get((self.merchant.merchant_id, media.media_id))
        drop = _drop(media)
        return MediaStatus(
            media.media_id,
            media.name,
            dict(media.labels),
            len(streams),
            last_minute_plays=lasts[0] if lasts else None,
            staleness_minutes=None if behind is None or settled is None else max(0, settled - behind),
            data_timestamp=None if behind is None else end_of(behind),
            live=media.live_event_running,
            drop=drop,
            hour=self.plays.hours.get(media.media_id),
            last_error=failure.error if failure else "",
            last_error_at=failure.at if failure else None,
            failing_streams=media.failing_streams,
            gone=media.gone,
            failing_since=media.failing_since,
            states=tuple(_states(media, drop, stale=self._stale(streams))),
            judgement=media.judgement,
            thresholds=media.thresholds,
            day=self.plays.days.get(media.media_id),
            data=tuple(
                StreamStatus(
                    each.stream.target, each.stream.group, None if each.through is None else end_of(each.through)
                )
                for each in streams
            ),
        )

    def _stale(self, streams: Collection[StreamView]) -> bool:
        """Whether there is no data at all, or a stream waits too long for its own.

        Streams that the API has by day only do not count, nor do those that wait for their first response while others
        have data: after a start that takes some minutes. Shortly after the first start nothing has data yet.
        """
        of_minutes = [each.through for each in streams if not each.stream.target.by_day]
        known = [through for through in of_minutes if through is not None]
        longest = self.limits.max_lag + self.limits.max_staleness
        if not known:
            return bool(of_minutes) and (self.started is None or self.now - self.started > longest)
        return self.now - end_of(min(known)) > longest


def _incidents(merchant: MerchantView) -> tuple[IncidentStatus, ...]:
    """The open ones first, then by onset, the newest first."""
    incidents = sorted(merchant.incidents, key=lambda each: (not each.lasts, -each.onset))
    return tuple(_incident(merchant, each) for each in incidents)


def _incident(merchant: MerchantView, incident: Incident) -> IncidentStatus:
    media = merchant.media.get(incident.media_id)
    return IncidentStatus(
        incident.media_id,
        media.name if media else "",
        incident.state,
        incident.severity,
        start_of(incident.onset),
        None if incident.lasts else end_of(incident.minute),
        incident.ratio,
        incident.worst,
        incident.expected,
        incident.plays,
        incident.lost,
        start_of(incident.accept_at),
        incident.with_merchant,
    )


def _states(media: MediaView, drop: Drop, *, stale: bool) -> list[MediaState]:
    """All that applies to a media, the worst first."""
    judged = {Judgement.JUDGED: MediaState.JUDGED, Judgement.OFF: MediaState.OFF, Judgement.NO_DATA: MediaState.STALE}
    states = {judged.get(media.judgement, MediaState.LEARNING) if media.thresholds else MediaState.OFF}
    if drop.state in (DropState.WARNING, DropState.CRITICAL):
        states.add(MediaState(drop.state))
    if media.gone:
        states.add(MediaState.GONE)
    elif media.failing_streams:
        states.add(MediaState.FAILING)
    if stale:
        states.add(MediaState.STALE)
    return [each for each in MediaState if each in states]


def _drop(media: MediaView) -> Drop:
    verdict, incident, thresholds = media.verdict, media.incident, media.thresholds
    if thresholds is None:
        return Drop(DropState.OFF)
    if incident is not None:
        evidence = verdict.evidence if verdict else None
        state = DropState.CRITICAL if incident.ratio > thresholds.critical else DropState.WARNING
        end = end_of(incident.minute)
        onset = start_of(incident.onset)
        recovering = incident.ratio <= thresholds.warning
        return Drop(state, incident.ratio, evidence, incident.expected, end, onset, incident.lost, recovering)
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
