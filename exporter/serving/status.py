"""Makes the status, behind the page at `/` and the JSON at `/api/v1/status`, from what was counted. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from exporter.api.request_log import Exchange, RequestsView
from exporter.model import Group, Minute, Stream, Target, end_of
from exporter.serving.health import health_of
from exporter.serving.schema import Drop, DropState, MediaStatus, MerchantStatus, Status
from exporter.views import (
    MERCHANT_THRESHOLD,
    Connection,
    Hour,
    LinkView,
    MediaView,
    MerchantView,
    Snapshot,
    StreamView,
    Thresholds,
    Verdict,
)

# The alert on the whole merchant has one severity, and a threshold that is not configured.
WHOLE_MERCHANT = Thresholds(warning=MERCHANT_THRESHOLD, critical=MERCHANT_THRESHOLD)


def build(
    snapshot: Snapshot,
    hours: Mapping[str, Mapping[str, Hour]],
    requests: RequestsView,
    now: float,
    version: str,
) -> Status:
    """Make the status.

    Args:
        snapshot: What has been counted.
        hours: The newest hour of plays, by merchant id and media id, "" for the whole merchant.
        requests: The newest requests; those of other merchants are left out.
        now: Unix seconds.
        version: The release.
    """
    merchants = tuple(
        _merchant(merchant, hours.get(merchant_id, {}), requests)
        for merchant_id, merchant in snapshot.merchants.items()
    )
    health, summary = health_of(merchants, snapshot.problems)
    newest = tuple(each for each in requests.newest if each.merchant_id in snapshot.merchants)
    return Status(version, now, health, summary, snapshot.clock_offset, merchants, newest, snapshot.problems)


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
    streams: Sequence[StreamView],
    settled: Minute | None,
    hour: Hour | None,
    failure: Exchange | None,
) -> MediaStatus:
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
