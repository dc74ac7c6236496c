"""Statuses for tests and screenshots, without an API."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from exporter.api.request_log import Exchange, RequestsView
from exporter.model import MINUTE, Group, Minute, Stream, Target, minute_of, start_of
from exporter.serving import status
from exporter.serving.schema import Status
from exporter.serving.status import Limits
from exporter.views import (
    DAY_STEP,
    Day,
    DayState,
    Hour,
    Incident,
    IncidentState,
    Judgement,
    LinkView,
    MediaView,
    MerchantView,
    Series,
    SeriesView,
    Severity,
    Snapshot,
    StreamView,
    Thresholds,
    Verdict,
)

NOW = 1_800_000_000.0  # 2027-01-15 08:00:00 UTC, 17:00:00 in Tokyo
THROUGH = minute_of(NOW) - 3
LIMITS = Limits("Asia/Tokyo")
PARTS = 96


def stream_view(media_id: str, target: Target, through: int | None, *last: float | None) -> StreamView:
    """A stream of merchant acme whose series have these last values."""
    series = Series.of(SeriesView("", None, value) for value in last)
    return StreamView(Stream("acme", media_id, target, Group.ALL), through, series)


def hour_of_plays(level: float, *, fallen: float = 0.0, gap: int | None = None) -> Hour:
    """An hour of plays around a level; in the last 15 minutes they fall by a share; one minute may be unknown."""
    expected = tuple(level * (1 + 0.2 * math.sin(place / 15)) for place in range(60))
    plays = tuple(
        None if place == gap else round(value * (1.1 if place % 3 else 0.85) * (1 - fallen if place >= 45 else 1))
        for place, value in enumerate(expected)
    )
    return Hour(start_of(THROUGH - 59), plays, expected)


def day_of(*changes: tuple[int, int, DayState], start: float = NOW - PARTS * DAY_STEP * MINUTE) -> Day:
    """A day that is judged, but for some parts: first, behind the last, state."""
    states = [DayState.JUDGED] * PARTS
    for first, end, state in changes:
        states[first:end] = [state] * (end - first)
    return Day(start, tuple(states))


def incident(media_id: str, onset: Minute, worst: float, **changes: Any) -> Incident:
    """A drop of 60 expected plays a minute, open by default."""
    ratio = changes.pop("ratio", worst)
    lasts = THROUGH - onset + 1
    state = changes.pop("state", IncidentState.OPEN)
    severity = Severity.CRITICAL if worst > 0.6 else Severity.WARNING
    return Incident(
        media_id,
        onset,
        state,
        severity,
        changes.pop("minute", THROUGH),
        ratio,
        worst,
        expected=60.0,
        plays=round(60 * (1 - ratio)),
        lost=60.0 * ratio * lasts,
        accept_at=onset + 1440,
        **changes,
    )


def link(streams: int, **changes: Any) -> LinkView:
    """A connection without problems."""
    given = {
        "up": True,
        "budget": 45,
        "streams": streams,
        "staleness_minutes": 1.52,
        "staleness_bound_minutes": 1.47,
        "token_expiry": NOW + 1800,
        "last_success": NOW - 2,
        "round_timestamp": NOW - 12,
    }
    return LinkView("acme", **{**given, **changes})


def built(
    merchant: MerchantView,
    hours: Mapping[str, Hour] | None = None,
    days: Mapping[str, Day] | None = None,
    requests: RequestsView | None = None,
    *others: MerchantView,
    **of_snapshot: Any,
) -> Status:
    """The status of some merchants; hours and days are of the first."""
    merchants = {each.merchant_id: each for each in (merchant, *others)}
    snapshot = Snapshot(MappingProxyType(merchants), **of_snapshot)
    first = merchant.merchant_id
    return status.build(
        snapshot, {first: hours or {}}, {first: days or {}}, requests or RequestsView(), NOW, "1.2.3", LIMITS
    )


def status_with_media(count: int, name: str = "Media") -> Status:
    """A merchant with this number of media: the third has a drop, the fourth is live, the fifth fails."""
    streams = [stream_view("", Target.PLAY_COUNT, THROUGH, 100 * count)]
    media, hours, days = {}, {"": hour_of_plays(100.0 * count)}, {"": day_of()}
    drop = incident("m2", THROUGH - 14, 0.8)
    for place in range(count):
        media_id = f"m{place}"
        level = 5.0 * (place + 1)
        fallen = 0.8 if place == 2 else 0.0
        media[media_id] = MediaView(
            media_id,
            name=f"{name} {place}",
            live_event_running=True if place == 3 else None,
            verdict=Verdict(THROUGH, fallen, 40.0 * fallen, level),
            judgement=Judgement.JUDGED,
            incident=drop if place == 2 else None,
            thresholds=Thresholds(0.4, 0.6),
            failing_streams=int(place == 4),
        )
        hours[media_id] = hour_of_plays(level, fallen=fallen, gap=20 if place == 1 else None)
        days[media_id] = day_of(*[(94, 96, DayState.CRITICAL), (40, 44, DayState.WARNING)][: 2 * (place == 2)])
        streams.append(stream_view(media_id, Target.PLAY_COUNT, THROUGH - place % 7, round(level * (1 - fallen))))
    ended = incident("m0", THROUGH - 900, 0.5, ratio=0.0, state=IncidentState.ENDED, minute=THROUGH - 860)
    merchant = MerchantView(
        "acme",
        THROUGH,
        streams=MappingProxyType({each.stream: each for each in streams}),
        media=MappingProxyType(media),
        verdict=Verdict(THROUGH, 0.0, 0.0, 100.0 * count),
        judgement=Judgement.JUDGED,
        incidents=(drop, ended) if count > 2 else (),
        link=link(len(streams)),
    )
    failure = Exchange(NOW - 70, "acme", "aggregations", "503", 0.25, "m4/play_count/all", "m4", "503 SERVER_ERROR")
    good = Exchange(NOW - 2, "acme", "aggregations", "200", 0.05, "m1/play_count/all", "m1")
    requests = RequestsView((good, failure), MappingProxyType({("acme", "m4"): failure}))
    return built(merchant, hours, days, requests)
