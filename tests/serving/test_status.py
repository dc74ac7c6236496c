import json
import re
from dataclasses import fields, is_dataclass
from types import MappingProxyType
from typing import Any

import pytest

from exporter.api.request_log import Exchange, RequestsView
from exporter.model import Target, end_of, start_of
from exporter.serving.schema import Drop, DropState, MediaStatus, MerchantStatus, Status
from exporter.serving.status import as_json, build, only
from exporter.views import (
    Day,
    Hour,
    IncidentState,
    Judgement,
    LinkView,
    MediaView,
    MerchantView,
    Snapshot,
    StreamView,
    Thresholds,
    Verdict,
)
from tests.support.statuses import LIMITS, NOW, THROUGH, day_of, incident, status_with_media, stream_view


def built(
    *views: StreamView,
    media: tuple[MediaView, ...] = (),
    link: LinkView | None = None,
    hours: dict[str, Hour] | None = None,
    days: dict[str, Day] | None = None,
    requests: RequestsView | None = None,
    started: float | None = None,
    **given: Any,
) -> Status:
    """The status of one merchant."""
    merchant = MerchantView(
        "acme",
        streams=MappingProxyType({view.stream: view for view in views}),
        media=MappingProxyType({each.media_id: each for each in media}),
        link=link,
        **given,
    )
    snapshot = Snapshot(MappingProxyType({"acme": merchant}), started=started)
    return build(
        snapshot, {"acme": hours or {}}, {"acme": days or {}}, requests or RequestsView(), NOW, "1.2.3", LIMITS
    )


def only_media(status: Status) -> MediaStatus:
    """The media of a status that has only one."""
    [merchant] = status.merchants
    [media] = merchant.media
    return media


def test_a_merchant_has_the_data_of_its_link_and_its_ledger() -> None:
    """Up, budget, staleness, token, horizon, lost minutes, held values, last success and error are
    passed on unchanged.
    """
    link = LinkView(
        "acme",
        up=True,
        budget=22.5,
        streams=7,
        staleness_minutes=1.5,
        staleness_bound_minutes=1.2,
        token_expiry=NOW + 60,
        last_success=NOW - 1,
        last_error="503",
        last_error_at=NOW - 9,
        unusable='row 3: "N/A" is not a number',
    )
    [merchant] = built(link=link, horizon=THROUGH, lost_minutes=12, held_values=3).merchants
    assert isinstance(merchant, MerchantStatus)
    assert (merchant.merchant_id, merchant.up, merchant.budget, merchant.streams) == ("acme", True, 22.5, 7)
    assert (merchant.staleness_minutes, merchant.staleness_bound_minutes) == (1.5, 1.2)
    assert (merchant.token_expiry, merchant.horizon, merchant.lost_minutes) == (NOW + 60, end_of(THROUGH), 12)
    assert (merchant.held_values, merchant.unusable) == (3, 'row 3: "N/A" is not a number')
    assert (merchant.last_success, merchant.last_error, merchant.last_error_at) == (NOW - 1, "503", NOW - 9)


def test_unknown_values_are_none() -> None:
    """A merchant and a media before their first answer have neither zeros nor times."""
    status = built(
        stream_view("m1", Target.PLAY_COUNT, None), media=(MediaView("m1", thresholds=Thresholds(0.4, 0.6)),)
    )
    [merchant] = status.merchants
    assert [merchant.up, merchant.horizon, merchant.staleness_minutes, merchant.token_expiry] == [None] * 4
    media = only_media(status)
    assert [media.last_minute_plays, media.staleness_minutes, media.data_timestamp, media.live, media.hour] == [
        None
    ] * 5
    assert (media.drop.state, media.last_error, media.last_error_at) == ("unknown", "", None)


def test_a_media_is_as_stale_as_its_stalest_stream() -> None:
    """Its staleness is counted in minutes from the newest settled one, which the whole merchant's plays have."""
    streams = (
        stream_view("", Target.PLAY_COUNT, THROUGH, 50),
        stream_view("m1", Target.PLAY_COUNT, THROUGH - 1, 12),
        stream_view("m1", Target.PLAY_TIME, THROUGH - 4, 9),
        stream_view("m1", Target.DEVICE_COUNT, None),
    )
    status = built(*streams, media=(MediaView("m1", name="News", labels=MappingProxyType({"channel": "a"})),))
    media = only_media(status)
    assert (media.name, media.labels, media.streams) == ("News", {"channel": "a"}, 3)
    assert (media.last_minute_plays, media.staleness_minutes) == (12, 4)
    assert media.data_timestamp == end_of(THROUGH - 4)
    assert status.merchants[0].whole.last_minute_plays == 50


def test_a_media_ahead_of_the_merchant_is_not_stale() -> None:
    """A media with newer data than the whole merchant, as after a clock step, is 0 minutes stale."""
    streams = (stream_view("", Target.PLAY_COUNT, THROUGH), stream_view("m1", Target.PLAY_COUNT, THROUGH + 5, 1))
    assert only_media(built(*streams, media=(MediaView("m1"),))).staleness_minutes == 0


@pytest.mark.parametrize(
    ("ratio", "state"),
    [(0.0, "none"), (0.4, "none"), (0.41, "warning"), (0.6, "warning"), (0.61, "critical")],
)
def test_a_drop_is_shown_above_its_threshold(ratio: float, state: str) -> None:
    """The state is that of the alerts: above a threshold, not at it."""
    view = Verdict(THROUGH, ratio, 12.0, 30.0)
    media = only_media(built(media=(MediaView("m1", verdict=view, thresholds=Thresholds(0.4, 0.6)),)))
    assert media.drop.state == state
    assert media.drop == Drop(media.drop.state, ratio, 12.0, 30.0, end_of(THROUGH))


def test_a_media_without_drop_alerts_has_no_drop() -> None:
    """Without thresholds no drop is shown, whatever the detector's verdict is."""
    assert only_media(built(media=(MediaView("m1", verdict=Verdict(THROUGH, 1, 99, 9)),))).drop == Drop("off")  # type: ignore[arg-type]


def test_the_whole_merchant_has_its_own_threshold() -> None:
    """A drop of all plays above 35 % is critical, like its alert."""
    states = [
        built(verdict=Verdict(THROUGH, ratio, 50, 100)).merchants[0].whole.drop.state for ratio in (0.35, 0.36, 1)
    ]
    assert states == ["none", "critical", "critical"]


def test_hours_belong_to_their_media() -> None:
    """Each media has its own hour, and the whole merchant the one without a media."""
    hours = {"": Hour(start_of(THROUGH), (5.0,), (6.0,)), "m1": Hour(start_of(THROUGH), (1.0, None), (None, 2.0))}
    status = built(media=(MediaView("m1"),), hours=hours)
    hour = only_media(status).hour
    assert hour is not None
    assert (hour.start, hour.plays, hour.expected) == (start_of(THROUGH), (1.0, None), (None, 2.0))
    whole = status.merchants[0].whole.hour
    assert whole is not None
    assert whole.plays == (5.0,)


def test_errors_belong_to_their_media() -> None:
    """A media has its own newest failure only; all requests are listed in their order."""
    failure = Exchange(NOW - 5, "acme", "medias", "404", 0.1, "m1", "m1", "medias: 404 gone")
    requests = RequestsView((failure,), MappingProxyType({("acme", "m1"): failure, ("other", "m2"): failure}))
    status = built(media=(MediaView("m1"), MediaView("m2")), requests=requests)
    errors = [(media.last_error, media.last_error_at) for media in status.merchants[0].media]
    assert errors == [("medias: 404 gone", NOW - 5), ("", None)]
    assert status.requests == (failure,)


def test_a_part_contains_one_merchant() -> None:
    """It has the merchant, its health and its requests, and nothing of the others; an unknown merchant has no part."""
    merchants = {name: MerchantView(name, THROUGH, link=LinkView(name, up=name == "b")) for name in ("a", "b")}
    requests = RequestsView(tuple(Exchange(NOW, name, "medias", "200", 0.1) for name in ("a", "b", "a")))
    snapshot = Snapshot(MappingProxyType(merchants))
    of_one = only(snapshot, "b")
    assert of_one is not None
    whole, part = (build(each, {}, {}, requests, NOW, "1.2.3", LIMITS) for each in (snapshot, of_one))
    assert (whole.health, part.health, part.summary) == (
        "bad",
        "good",
        "No drops. 0 of 1 merchants are judged. The newest row is 2 min old.",
    )
    assert [each.merchant_id for each in part.merchants] == [each.merchant_id for each in part.requests] == ["b"]
    assert only(snapshot, "") is snapshot
    assert only(snapshot, "c") is None


def test_an_open_incident_is_the_drop() -> None:
    """The ratio, the expected plays and the minute are those of the incident, against its frozen baseline; the
    evidence is the verdict's.
    """
    drop = incident("m1", THROUGH - 14, 0.8)
    view = MediaView("m1", verdict=Verdict(THROUGH, 0.1, 12.0, 30.0), incident=drop, thresholds=Thresholds(0.4, 0.6))
    shown = only_media(built(media=(view,))).drop
    assert shown == Drop(
        DropState.CRITICAL, 0.8, 12.0, 60.0, end_of(THROUGH), onset=start_of(THROUGH - 14), lost=drop.lost
    )


@pytest.mark.parametrize(("ratio", "state"), [(0.0, "warning"), (0.4, "warning"), (0.6, "warning"), (0.61, "critical")])
def test_an_open_incident_is_at_least_a_warning(ratio: float, state: str) -> None:
    """Its ratio says how bad it is now; until it has ended it is not shown as no drop."""
    view = MediaView("m1", incident=incident("m1", THROUGH, 0.9, ratio=ratio), thresholds=Thresholds(0.4, 0.6))
    assert only_media(built(media=(view,))).drop.state == state


def test_incidents_are_ordered_and_named() -> None:
    """The open ones first, then the newest onset; times are Unix seconds, and an open one has no end."""
    views = (
        incident("m1", THROUGH - 50, 0.5, state=IncidentState.ENDED, minute=THROUGH - 30, ratio=0.0),
        incident("", THROUGH - 90, 0.9, state=IncidentState.ACCEPTED, minute=THROUGH - 10),
        incident("m1", THROUGH - 200, 0.8),
        incident("gone", THROUGH - 100, 0.8, state=IncidentState.ENDED, with_merchant=True),
    )
    [merchant] = built(media=(MediaView("m1", name="News"),), incidents=views).merchants
    found = merchant.incidents
    assert [(each.media_id, each.name, each.state, each.with_merchant) for each in found] == [
        ("m1", "News", "open", False),
        ("m1", "News", "ended", False),
        ("", "", "accepted", False),
        ("gone", "", "ended", True),
    ]
    assert [each.end for each in found[:3]] == [None, end_of(THROUGH - 30), end_of(THROUGH - 10)]
    first = found[0]
    assert (first.onset, first.accept_at) == (start_of(THROUGH - 200), start_of(THROUGH - 200 + 1440))
    assert (first.severity, first.ratio, first.worst, first.lost) == ("critical", 0.8, 0.8, views[2].lost)


FRESH = (stream_view("m1", Target.PLAY_COUNT, THROUGH),)
# Ten minutes of lag and half an hour of staleness are not too old.
OLD = (stream_view("m1", Target.PLAY_COUNT, THROUGH), stream_view("m1", Target.PLAY_TIME, THROUGH - 39))


@pytest.mark.parametrize(
    ("streams", "changes", "states"),
    [
        (FRESH, {"judgement": Judgement.JUDGED}, ["judged"]),
        (FRESH, {}, ["learning"]),
        (FRESH, {"judgement": Judgement.OFF}, ["off"]),
        (FRESH, {"judgement": Judgement.JUDGED, "thresholds": None}, ["off"]),
        (FRESH, {"judgement": Judgement.NO_DATA}, ["stale"]),
        (FRESH, {"judgement": Judgement.JUDGED, "gone": True, "failing_streams": 1}, ["gone", "judged"]),
        (FRESH, {"judgement": Judgement.JUDGED, "failing_streams": 1}, ["failing", "judged"]),
        (
            FRESH,
            {"judgement": Judgement.JUDGED, "failing_streams": 1, "incident": incident("m1", THROUGH, 0.8)},
            ["critical", "failing", "judged"],
        ),
        (OLD, {"judgement": Judgement.JUDGED}, ["stale", "judged"]),
        ((stream_view("m1", Target.PLAY_TIME, THROUGH - 39),), {}, ["stale", "learning"]),
        ((stream_view("m1", Target.PLAY_TIME, THROUGH - 38),), {}, ["learning"]),
        ((stream_view("m1", Target.PLAY_COUNT, None),), {}, ["stale", "learning"]),
        ((*FRESH, stream_view("m1", Target.PLAY_TIME, None)), {}, ["learning"]),
        ((*FRESH, stream_view("m1", Target.KEY_DELIVERY_COUNT, THROUGH - 900)), {}, ["learning"]),
    ],
)
def test_a_media_has_all_states_that_apply(
    streams: tuple[StreamView, ...], changes: dict[str, Any], states: list[str]
) -> None:
    """The worst first. Data is stale when a stream waits longer than the configuration allows, but not by-day data."""
    view = MediaView("m1", **{"thresholds": Thresholds(0.4, 0.6), **changes})
    assert list(only_media(built(*streams, media=(view,))).states) == states


def test_nothing_is_stale_shortly_after_the_first_start() -> None:
    """Until a media's data would be too old, it may wait for its first response; old data is stale at once."""
    views = [stream_view("m1", Target.PLAY_COUNT, through, 1) for through in (None, THROUGH - 60)]
    media = (MediaView("m1", thresholds=Thresholds(0.4, 0.6)),)
    longest = LIMITS.max_lag + LIMITS.max_staleness
    for age, states in (
        (longest - 1, (["learning"], ["stale", "learning"])),
        (longest + 1, [["stale", "learning"]] * 2),
    ):
        found = [only_media(built(view, media=media, started=NOW - age)).states for view in views]
        assert [list(each) for each in found] == list(states)


def test_a_media_has_its_day_its_streams_and_its_thresholds() -> None:
    """Each stream has the end of its newest minute, or null before its first response."""
    streams = (stream_view("m1", Target.PLAY_COUNT, THROUGH, 1), stream_view("m1", Target.PLAY_TIME, None))
    day = day_of()
    view = MediaView("m1", thresholds=Thresholds(0.4, 0.6), judgement=Judgement.JUDGED)
    media = only_media(built(*streams, media=(view,), days={"m1": day, "": day_of()}))
    assert (media.day, media.thresholds, media.judgement) == (day, Thresholds(0.4, 0.6), Judgement.JUDGED)
    assert [(each.target, each.group, each.data_timestamp) for each in media.data] == [
        ("play_count", "all", end_of(THROUGH)),
        ("play_time", "all", None),
    ]


def test_the_time_zone_and_the_end_of_the_learning_are_passed_on() -> None:
    """The page shows times in the zone of the API, and when the rest will be judged."""
    status = built(learning_until=NOW + 3600, timezone_error="rows are in the future")
    assert status.timezone == "Asia/Tokyo"
    assert (status.merchants[0].learning_until, status.merchants[0].timezone_error) == (
        NOW + 3600,
        "rows are in the future",
    )


def test_the_json_has_the_fields_of_the_status() -> None:
    """The JSON has a key for each field, at each level, and the same values."""
    status = status_with_media(5)

    def plain(value: Any) -> Any:
        if is_dataclass(value):
            return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
        return [plain(each) for each in value] if isinstance(value, tuple) else value

    assert json.loads(as_json(status)) == plain(status)


def test_the_json_is_always_readable() -> None:
    """Half a surrogate pair, which JSON from the API can contain, is written so that any parser accepts it."""
    text = as_json(built(media=(MediaView("m1", name="\ud83d"),)))
    assert re.search(r'"name": "\\ud83d"', text)
    text.encode("ascii")
