import json
import re
from dataclasses import fields, is_dataclass
from types import MappingProxyType
from typing import Any

import pytest

from exporter.api.request_log import Exchange, RequestsView
from exporter.model import Target, end_of, start_of
from exporter.serving.health import clock_problem
from exporter.serving.schema import Drop, Health, MediaStatus, MerchantStatus, Status
from exporter.serving.status import as_json, build, only
from exporter.views import (
    Hour,
    LinkView,
    MediaView,
    MerchantView,
    ProblemView,
    Snapshot,
    StreamView,
    Subject,
    Thresholds,
    Verdict,
)
from tests.support.statuses import NOW, THROUGH, status_with_media, stream_view


def built(
    *views: StreamView,
    media: tuple[MediaView, ...] = (),
    link: LinkView | None = None,
    hours: dict[str, Hour] | None = None,
    requests: RequestsView | None = None,
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
    snapshot = Snapshot(MappingProxyType({"acme": merchant}))
    return build(snapshot, {"acme": hours or {}}, requests or RequestsView(), NOW, "1.2.3")


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


@pytest.mark.parametrize(
    ("up", "ratio", "held", "health", "summary"),
    [
        (True, 0.0, 0, Health.GOOD, "The API is up. Merchants: 1, media: 1, streams: 4."),
        (
            True,
            0.0,
            2,
            Health.WARNING,
            "The API is up. Unusable values are not counted yet: acme (2).",
        ),
        (True, 0.9, 2, Health.WARNING, "The API is up. Plays are dropping: News."),
        (None, 0.9, 2, Health.WARNING, "Waiting for the first API response for acme."),
        (False, 0.9, 2, Health.BAD, "The API is down for acme."),
    ],
)
def test_the_health_is_the_worst_of_all(up: bool | None, ratio: float, held: int, health: Health, summary: str) -> None:
    """In this order: a failing API, a missing first answer, a drop, values that are not counted yet."""
    media = MediaView("m1", name="News", verdict=Verdict(THROUGH, ratio, 40, 9), thresholds=Thresholds(0.4, 0.6))
    status = built(media=(media,), link=LinkView("acme", up=up, streams=4), held_values=held)
    assert (status.health, status.summary) == (health, summary)


def test_a_wrong_clock_and_unusable_answers_are_warnings() -> None:
    """Each is a warning that names the problem; the clock comes first. The same holds for one merchant's part."""
    link = LinkView("acme", up=True, unusable='row 3: "N/A" is not a number')
    merchants = MappingProxyType({"acme": MerchantView("acme", link=link)})
    for offset, said in [
        (0.0, 'not counted yet: acme (row 3: "N/A" is not a number).'),
        (10_803.0, "This machine's clock is 3h ahead of the API's clock (Date header)."),
        (-95.0, "This machine's clock is 1m35s behind the API's clock (Date header)."),
    ]:
        problems = (ProblemView(Subject.CLOCK, clock_problem(offset)),) if offset else ()
        snapshot = Snapshot(merchants, offset, problems)
        part = only(snapshot, "acme")
        assert part is not None
        for each in (build(of, {}, RequestsView(), NOW, "1.2.3") for of in (snapshot, part)):
            assert each.health is Health.WARNING
            assert said in each.summary
            assert each.clock_offset_seconds == offset


def test_problems_of_the_process_come_first() -> None:
    """If nothing is counted, that is worse than any problem of the API. All problems are named, one sentence each."""
    problems = (
        ProblemView(Subject.STATE_FILE, "state.db: the disk is full; free some space", NOW - 60, bad=True),
        ProblemView(Subject.POLLING, "no heartbeat for 130 s", bad=True),
        ProblemView(Subject.LOG, "the log has not taken a line for 90 s"),
    )
    for up in (False, True):
        merchants = MappingProxyType({"acme": MerchantView("acme", link=LinkView("acme", up=up))})
        status = build(Snapshot(merchants, problems=problems), {}, RequestsView(), NOW, "1.2.3")
        assert (status.health, status.summary) == (
            Health.BAD,
            "State.db: the disk is full; free some space. No heartbeat for 130 s.",
        )
        assert status.problems == problems
    log_only = Snapshot(merchants, problems=problems[2:])
    status = build(log_only, {}, RequestsView(), NOW, "1.2.3")
    assert (status.health, status.summary) == (Health.WARNING, "The log has not taken a line for 90 s.")


def test_failing_media_are_named() -> None:
    """While the API answers others, the status names the failing media, the missing ones, and the whole merchant's
    streams.
    """
    media = (
        MediaView("m1", "News", failing_streams=2),
        MediaView("m2", failing_streams=1, gone=True),
        MediaView("m3"),
    )
    status = built(media=media, link=LinkView("acme", up=True, streams=4, failing=MappingProxyType({"": 1})))
    assert (status.health, status.summary) == (
        Health.WARNING,
        "The API is up. Requests fail for News, all media of acme. Media not found (404): m2.",
    )
    [merchant] = status.merchants
    assert [(each.failing_streams, each.gone) for each in merchant.media] == [(2, False), (1, True), (0, False)]
    assert merchant.whole.failing_streams == 1


def test_the_summary_stays_short() -> None:
    """Of many merchants it names five, and the number of the others."""
    merchants = {f"m{n}": MerchantView(f"m{n}", link=LinkView(f"m{n}", up=False)) for n in range(8)}
    status = build(Snapshot(MappingProxyType(merchants)), {}, RequestsView(), NOW, "1.2.3")
    assert status.summary == "The API is down for m0, m1, m2, m3, m4 and 3 more."


def test_a_part_contains_one_merchant() -> None:
    """It has the merchant, its health and its requests, and nothing of the others; an unknown merchant has no part."""
    merchants = {name: MerchantView(name, link=LinkView(name, up=name == "b")) for name in ("a", "b")}
    requests = RequestsView(tuple(Exchange(NOW, name, "medias", "200", 0.1) for name in ("a", "b", "a")))
    snapshot = Snapshot(MappingProxyType(merchants))
    of_one = only(snapshot, "b")
    assert of_one is not None
    whole, part = (build(each, {}, requests, NOW, "1.2.3") for each in (snapshot, of_one))
    assert (whole.health, part.health, part.summary) == (
        "bad",
        "good",
        "The API is up. Merchants: 1, media: 0, streams: 0.",
    )
    assert [each.merchant_id for each in part.merchants] == [each.merchant_id for each in part.requests] == ["b"]
    assert only(snapshot, "") is snapshot
    assert only(snapshot, "c") is None


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
