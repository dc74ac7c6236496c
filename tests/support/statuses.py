"""Statuses for tests and screenshots, without an API."""

import math
from types import MappingProxyType

from exporter.api.request_log import Exchange, RequestsView
from exporter.model import Group, Stream, Target, minute_of, start_of
from exporter.serving import status
from exporter.serving.schema import Status
from exporter.views import (
    Hour,
    LinkView,
    MediaView,
    MerchantView,
    SeriesView,
    Snapshot,
    StreamView,
    Thresholds,
    Verdict,
)

NOW = 1_800_000_000.0  # 2027-01-15 08:00:00 UTC
THROUGH = minute_of(NOW) - 3


def stream_view(media_id: str, target: Target, through: int | None, *last: float | None) -> StreamView:
    """A stream of merchant acme whose series have these last values."""
    series = tuple(SeriesView("", None, value) for value in last)
    return StreamView(Stream("acme", media_id, target, Group.ALL), through, series)


def hour_of_plays(level: float, *, fallen: float = 0.0, gap: int | None = None) -> Hour:
    """An hour of plays around a level; in the last 15 minutes they fall by a share; one minute may be unknown."""
    expected = tuple(level * (1 + 0.2 * math.sin(place / 15)) for place in range(60))
    plays = tuple(
        None if place == gap else round(value * (1.1 if place % 3 else 0.85) * (1 - fallen if place >= 45 else 1))
        for place, value in enumerate(expected)
    )
    return Hour(start_of(THROUGH - 59), plays, expected)


def status_with_media(count: int, name: str = "Media") -> Status:
    """A merchant with this number of media: the third has a drop, the fourth is live, the fifth fails."""
    streams = [stream_view("", Target.PLAY_COUNT, THROUGH, 100 * count)]
    media, hours = {}, {"": hour_of_plays(100.0 * count)}
    for place in range(count):
        media_id = f"m{place}"
        level = 5.0 * (place + 1)
        fallen = 0.8 if place == 2 else 0.0
        media[media_id] = MediaView(
            media_id,
            name=f"{name} {place}",
            live_event_running=True if place == 3 else None,
            verdict=Verdict(THROUGH, fallen, 40.0 * fallen, level),
            thresholds=Thresholds(0.4, 0.6),
        )
        hours[media_id] = hour_of_plays(level, fallen=fallen, gap=20 if place == 1 else None)
        streams.append(stream_view(media_id, Target.PLAY_COUNT, THROUGH - place % 7, round(level * (1 - fallen))))
    link = LinkView(
        "acme",
        up=True,
        budget=45,
        streams=len(streams),
        staleness_minutes=1.52,
        staleness_bound_minutes=1.47,
        token_expiry=NOW + 1800,
        last_success=NOW - 2,
    )
    merchant = MerchantView(
        "acme",
        THROUGH,
        streams=MappingProxyType({each.stream: each for each in streams}),
        media=MappingProxyType(media),
        verdict=Verdict(THROUGH, 0.0, 0.0, 100.0 * count),
        link=link,
    )
    failure = Exchange(NOW - 70, "acme", "aggregations", "503", 0.25, "m4/play_count/all", "m4", "503 SERVER_ERROR")
    good = Exchange(NOW - 2, "acme", "aggregations", "200", 0.05, "m1/play_count/all", "m1")
    requests = RequestsView((good, failure), MappingProxyType({("acme", "m4"): failure}))
    return status.build(Snapshot(MappingProxyType({"acme": merchant})), {"acme": hours}, requests, NOW, "1.2.3")
