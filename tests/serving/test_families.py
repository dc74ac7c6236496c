import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample

from exporter.model import Group, Stream, Target, end_of, minute_of, start_of
from exporter.serving.collector import SnapshotCollector
from exporter.serving.families import FAMILIES, Family
from exporter.serving.instruments import Instruments
from exporter.views import (
    EndpointView,
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

NOW = 1_800_000_000.0
THROUGH = minute_of(NOW) - 3
MAX_STALENESS = 1800.0
OLDEST = NOW - 2 * MAX_STALENESS

Samples = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]


def stream_view(
    target: Target,
    group: Group,
    *series: SeriesView,
    media_id: str = "m1",
    merchant_id: str = "acme",
    through: int | None = THROUGH,
) -> StreamView:
    return StreamView(Stream(merchant_id, media_id, target, group), through, Series.of(series))


def merchant_view(*views: StreamView, merchant_id: str = "acme", media: tuple[MediaView, ...] = ()) -> MerchantView:
    return MerchantView(
        merchant_id,
        streams=MappingProxyType({view.stream: view for view in views}),
        media=MappingProxyType({each.media_id: each for each in media}),
    )


def snapshot_of(*merchants: MerchantView) -> Snapshot:
    return Snapshot(MappingProxyType({merchant.merchant_id: merchant for merchant in merchants}))


def families(snapshot: Snapshot, oldest: float) -> Iterator[Metric]:
    """What prometheus_client collects of a snapshot."""
    return SnapshotCollector(lambda: snapshot, lambda: oldest).collect()


def sample_map(metrics: list[Metric]) -> Samples:
    """Name and sorted labels of every sample -> its value."""
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for metric in metrics for s in metric.samples}


def shown(snapshot: Snapshot, now: float = NOW) -> dict[str, float]:
    """Every sample as Prometheus writes it -> its value."""
    samples = sample_map(list(families(snapshot, oldest=now - 2 * MAX_STALENESS)))
    return {
        name + "{" + ",".join(f'{key}="{value}"' for key, value in labels) + "}": value
        for (name, labels), value in samples.items()
    }


def of_streams(*views: StreamView, now: float = NOW) -> dict[str, float]:
    """The samples that come from streams alone, without timestamps."""
    return {
        series: value
        for series, value in shown(snapshot_of(merchant_view(*views)), now=now).items()
        if not any(
            word in series for word in ("timestamp", "revisions", "lost", "resets", "held", "pending", "threshold")
        )
    }


def of_links(*links: LinkView) -> dict[str, float]:
    """The samples that come from the connections of merchants."""
    merchants = [MerchantView(each.merchant_id) for each in links]
    connected = [replace(merchant, link=link) for merchant, link in zip(merchants, links, strict=True)]
    of_merchants = shown(snapshot_of(*merchants))
    return {key: value for key, value in shown(snapshot_of(*connected)).items() if key not in of_merchants}


def incident(media_id: str, ratio: float, expected: float, lost: float) -> Incident:
    """An open drop that began 40 minutes before its newest minute."""
    return Incident(
        media_id,
        onset=THROUGH - 40,
        state=IncidentState.OPEN,
        severity=Severity.CRITICAL,
        minute=THROUGH,
        ratio=ratio,
        worst=0.95,
        expected=expected,
        plays=expected * (1 - ratio),
        lost=lost,
        accept_at=THROUGH - 40 + 1440,
    )


def everything() -> Snapshot:
    """A snapshot in which every family has samples, with unusual label values."""
    merchants = []
    for merchant_id in ("acme", "büro"):
        views = []
        for media_id in ("", "m1", "m2"):
            for target in Target:
                for group in Group:
                    if target.by_day and group is not Group.ALL:
                        continue
                    labels = [""] if group is Group.ALL else ['a "quoted"', "back\\slash", "two\nlines", "日本"]
                    series = [
                        SeriesView(label, 7.5 if target.summable else None, None if target.by_day else 3)
                        for label in labels
                    ]
                    views.append(stream_view(target, group, *series, media_id=media_id, merchant_id=merchant_id))
        media = (
            MediaView(
                "m1",
                'News "at" 7',
                "ref",
                "live",
                MappingProxyType({"channel": "a\\b"}),
                live_event_running=True,
                verdict=Verdict(THROUGH, 0.8, 12.5, 40.0),
                thresholds=Thresholds(0.4, 0.6),
                incident=incident("m1", 0.8, 40.0, 1280.5),
            ),
            MediaView("m2", failing_streams=1, gone=True),
        )
        merchants.append(
            replace(
                merchant_view(*views, merchant_id=merchant_id, media=media),
                horizon=THROUGH,
                lost_minutes=4,
                revisions_up=2,
                revisions_down=1,
                verdict=Verdict(THROUGH, 0.5, 30.0, 400.0),
                incident=incident("", 0.5, 400.0, 8000.0),
                timezone_offset=0.0,
                learning_seconds=90.0,
                link=LinkView(
                    merchant_id,
                    True,
                    45,
                    6,
                    1.5,
                    1.25,
                    NOW,
                    round_timestamp=NOW,
                    requests=(EndpointView("medias", {"200": 7, "error": 0}),),
                ),
            )
        )
    return snapshot_of(*merchants)


def duplicates(metrics: Iterable[Metric]) -> list[str]:
    """The families and the series that occur more than once, which prometheus_client does not notice."""
    seen: Counter[str] = Counter()
    for metric in metrics:
        seen[f"family {metric.name}"] += 1
        seen.update(f"{sample.name}{sorted(sample.labels.items())}" for sample in metric.samples)
    return [what for what, times in seen.items() if times > 1]


def whole_registry() -> CollectorRegistry:
    telemetry = Instruments()
    telemetry.observe_request("aggregations", 0.2)
    telemetry.observe_revision(200)
    telemetry.reloaded(ok=True, at=NOW)
    snapshot = everything()
    telemetry.registry.register(SnapshotCollector(lambda: snapshot, lambda: OLDEST))
    return telemetry.registry


@pytest.mark.parametrize(
    ("target", "counter", "gauge"),
    [
        (Target.PLAY_COUNT, "plays_total", "last_minute_plays"),
        (Target.PLAY_TIME, "play_time_seconds_total", "last_minute_play_time_seconds"),
        (Target.PLAYER_COUNT, "player_displays_total", "last_minute_player_displays"),
        (Target.DEVICE_COUNT, None, "last_minute_devices"),
        (Target.SESSION_COUNT, None, "last_minute_sessions"),
        (Target.AVERAGE_PLAY_TIME, None, "last_minute_average_play_time_seconds"),
        (Target.KEY_DELIVERY_COUNT, "key_deliveries_total", None),
    ],
)
def test_each_target_has_its_counter_and_gauge(target: Target, counter: str | None, gauge: str | None) -> None:
    """A target is in exactly the families that the documentation names, for the merchant, too."""
    series = SeriesView("", 5, 2)
    expected: dict[str, float] = {}
    for scope, labels in (("", 'media_id="m1",merchant_id="acme"'), ("merchant_", 'merchant_id="acme"')):
        expected |= {f"smartstream_{scope}{counter}{{{labels}}}": 5} if counter else {}
        expected |= {f"smartstream_{scope}{gauge}{{{labels}}}": 2} if gauge else {}
    of_media = stream_view(target, Group.ALL, series)
    of_whole = stream_view(target, Group.ALL, series, media_id="")
    assert of_streams(of_media, of_whole) == expected


@pytest.mark.parametrize("group", [group for group in Group if group is not Group.ALL])
def test_a_group_has_its_own_families(group: Group) -> None:
    """A group's values are not in the family of the total, so a sum over a family counts nothing twice."""
    series = (SeriesView("x", 5, 2), SeriesView("other", 1, 0))
    assert of_streams(
        stream_view(Target.PLAY_COUNT, group, *series),
        stream_view(Target.AVERAGE_PLAY_TIME, group, SeriesView("x", None, 9), media_id=""),
    ) == {
        f"smartstream_plays_by_{group}_total{labels(group, 'x')}": 5,
        f"smartstream_plays_by_{group}_total{labels(group, 'other')}": 1,
        f"smartstream_last_minute_plays_by_{group}{labels(group, 'x')}": 2,
        f"smartstream_last_minute_plays_by_{group}{labels(group, 'other')}": 0,
        f"smartstream_merchant_last_minute_average_play_time_by_{group}_seconds{labels(group, 'x', '')}": 9,
    }


def labels(group: Group, value: str, media_id: str = "m1") -> str:
    pairs = {group.value: value, "merchant_id": "acme"} | ({"media_id": media_id} if media_id else {})
    return "{" + ",".join(f'{key}="{pairs[key]}"' for key in sorted(pairs)) + "}"


def test_unknown_values_are_not_exported() -> None:
    """A series without a total has no counter, one without a newest value no gauge; neither exports an invented 0."""
    bare = SeriesView("", None, None)
    assert of_streams(stream_view(Target.PLAY_COUNT, Group.ALL, bare)) == {}


def test_gauges_disappear_when_their_minute_is_old_and_counters_stay() -> None:
    """A gauge is exported until its minute ended 2 × max_staleness ago, and not a moment longer."""
    view = stream_view(Target.PLAY_COUNT, Group.ALL, SeriesView("", 5, 2))
    at_the_limit = end_of(THROUGH) + 2 * MAX_STALENESS
    counter, gauge = [
        f'smartstream_{name}{{media_id="m1",merchant_id="acme"}}' for name in ("plays_total", "last_minute_plays")
    ]
    assert of_streams(view, now=at_the_limit) == {counter: 5, gauge: 2}
    assert of_streams(view, now=at_the_limit + 1) == {counter: 5}


def test_a_stream_without_an_answer_has_no_timestamp_and_no_gauge() -> None:
    """Before the first answer there is no data timestamp and no gauge; an existing counter is exported."""
    series = SeriesView("", 0, 2)
    waiting = stream_view(Target.PLAY_COUNT, Group.ALL, series, through=None)
    whole = stream_view(Target.PLAY_COUNT, Group.ALL, series, media_id="", through=None)
    assert shown(snapshot_of(merchant_view(waiting, whole))) == {
        'smartstream_plays_total{media_id="m1",merchant_id="acme"}': 0,
        'smartstream_merchant_plays_total{merchant_id="acme"}': 0,
        'smartstream_revisions_total{direction="up",merchant_id="acme"}': 0,
        'smartstream_revisions_total{direction="down",merchant_id="acme"}': 0,
        'smartstream_lost_seconds_total{merchant_id="acme"}': 0,
        'smartstream_series_resets_total{merchant_id="acme"}': 0,
        'smartstream_held_values{merchant_id="acme"}': 0,
        'smartstream_media_pending{merchant_id="acme"}': 0,
        'smartstream_merchant_drop_threshold_ratio{merchant_id="acme",severity="critical"}': 0.35,
    }


def test_metrics_about_the_data() -> None:
    """Timestamps are the ends of their minutes; revisions and lost minutes are the merchant's."""
    merchant = replace(
        merchant_view(
            stream_view(Target.DEVICE_COUNT, Group.OS),
            stream_view(Target.PLAY_COUNT, Group.ALL, media_id="", through=THROUGH - 1),
        ),
        horizon=THROUGH + 1,
        lost_minutes=3,
        revisions_up=2,
        revisions_down=1,
        series_resets=4,
        held_values=5,
        pending=MappingProxyType({"cup": 1.0, "news": 2.0}),
    )
    assert shown(snapshot_of(merchant)) == {
        'smartstream_data_timestamp_seconds{group="os",media_id="m1",merchant_id="acme",target="device_count"}': end_of(
            THROUGH
        ),
        'smartstream_merchant_data_timestamp_seconds{group="all",merchant_id="acme",target="play_count"}': end_of(
            THROUGH - 1
        ),
        'smartstream_merchant_horizon_timestamp_seconds{merchant_id="acme"}': end_of(THROUGH + 1),
        'smartstream_revisions_total{direction="up",merchant_id="acme"}': 2,
        'smartstream_revisions_total{direction="down",merchant_id="acme"}': 1,
        'smartstream_lost_seconds_total{merchant_id="acme"}': 180,
        'smartstream_series_resets_total{merchant_id="acme"}': 4,
        'smartstream_held_values{merchant_id="acme"}': 5,
        'smartstream_media_pending{merchant_id="acme"}': 2,
        'smartstream_merchant_drop_threshold_ratio{merchant_id="acme",severity="critical"}': 0.35,
    }


def media_samples(*merchants: MerchantView) -> list[tuple[str, dict[str, str], float]]:
    return [
        (sample.name, sample.labels, sample.value)
        for metric in families(snapshot_of(*merchants), OLDEST)
        if metric.name in ("smartstream_media", "smartstream_live_event_running")
        for sample in metric.samples
    ]


def test_media_info_has_the_same_labels_for_every_media() -> None:
    """A configured label of one media, of any merchant, is "" for media without it."""
    news = MediaView("m1", "News", "r1", "live", MappingProxyType({"channel": "7"}), live_event_running=False)
    film = MediaView("m2", labels=MappingProxyType({"genre": "noir"}), live_event_running=True)
    one, two = merchant_view(media=(news,)), merchant_view(media=(film,), merchant_id="büro")
    fixed = {"merchant_id": "acme", "media_id": "m1", "name": "News", "ref_id": "r1", "encode_type": "live"}
    blank = {"merchant_id": "büro", "media_id": "m2", "name": "", "ref_id": "", "encode_type": ""}
    assert media_samples(one, two) == [
        ("smartstream_media_info", fixed | {"channel": "7", "genre": ""}, 1),
        ("smartstream_media_info", blank | {"channel": "", "genre": "noir"}, 1),
        ("smartstream_live_event_running", {"merchant_id": "acme", "media_id": "m1"}, 0),
        ("smartstream_live_event_running", {"merchant_id": "büro", "media_id": "m2"}, 1),
    ]


def test_a_configured_label_does_not_replace_a_fixed_one() -> None:
    """Whatever the labels in a configuration are called, media_id stays the media's."""
    media = MediaView("m1", "News", labels=MappingProxyType({"media_id": "x", "name": "y"}))
    [(_, labels_, _)] = media_samples(merchant_view(media=(media,)))
    assert (labels_["media_id"], labels_["name"]) == ("m1", "News")


def test_a_name_that_is_invalid_in_utf8_does_not_fail_the_scrape() -> None:
    """Half a surrogate pair, which JSON can contain, is exported as a question mark."""
    snapshot = snapshot_of(merchant_view(media=(MediaView("m1", "News \ud83d"),)))
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(lambda: snapshot, lambda: OLDEST))
    assert b'name="News ?"' in generate_latest(registry)


def test_metrics_about_the_connection() -> None:
    """`up`, the token's expiry and the staleness are exported once they are known; the budget and
    the streams always.
    """
    fresh = LinkView("acme", budget=45, streams=6)
    known = LinkView(
        "büro",
        up=False,
        budget=22.5,
        streams=90,
        staleness_minutes=1.5,
        staleness_bound_minutes=1.25,
        token_expiry=NOW + 60,
        failing=MappingProxyType({"": 2, "m1": 1}),
        failing_lookups=3,
        round_timestamp=NOW - 7,
    )
    assert of_links(fresh, known) == {
        'smartstream_api_budget_requests_per_minute{merchant_id="acme"}': 45,
        'smartstream_streams{merchant_id="acme"}': 6,
        'smartstream_merchant_failing_streams{merchant_id="acme"}': 0,
        'smartstream_failing_lookups{merchant_id="acme"}': 0,
        'smartstream_merchant_failing_streams{merchant_id="büro"}': 2,
        'smartstream_failing_lookups{merchant_id="büro"}': 3,
        'smartstream_round_timestamp_seconds{merchant_id="büro"}': NOW - 7,
        'smartstream_streams{merchant_id="büro"}': 90,
        'smartstream_staleness_seconds{merchant_id="büro"}': 90,
        'smartstream_staleness_bound_seconds{merchant_id="büro"}': 75,
        'smartstream_up{merchant_id="büro"}': 0,
        'smartstream_api_budget_requests_per_minute{merchant_id="büro"}': 22.5,
        'smartstream_api_token_expiry_timestamp_seconds{merchant_id="büro"}': NOW + 60,
    }
    assert of_links(replace(known, up=True))['smartstream_up{merchant_id="büro"}'] == 1


def test_requests_are_exported_by_endpoint_and_code() -> None:
    """A counter for each code of each endpoint, those without a request included."""
    requests = (EndpointView("medias", {"200": 7, "error": 0}), EndpointView("auth-token", {"200": 1}))
    exported = of_links(LinkView("acme", requests=requests))
    assert {key: value for key, value in exported.items() if "requests_total" in key} == {
        'smartstream_api_requests_total{code="200",endpoint="medias",merchant_id="acme"}': 7,
        'smartstream_api_requests_total{code="error",endpoint="medias",merchant_id="acme"}': 0,
        'smartstream_api_requests_total{code="200",endpoint="auth-token",merchant_id="acme"}': 1,
    }


def test_failing_and_missing_media_are_exported() -> None:
    """Every media has both metrics, so that an alert sees the end of the problem."""
    media = (MediaView("m1", failing_streams=2), MediaView("m2", failing_streams=1, gone=True), MediaView("m3"))
    found = shown(snapshot_of(merchant_view(media=media)))
    for media_id, failing, gone in (("m1", 2, 0), ("m2", 1, 1), ("m3", 0, 0)):
        labels = f'{{media_id="{media_id}",merchant_id="acme"}}'
        assert found[f"smartstream_failing_streams{labels}"] == failing
        assert found[f"smartstream_media_gone{labels}"] == gone


def test_drops_are_exported_with_their_thresholds() -> None:
    """The detector's verdicts on a media and on the whole merchant are exported; a media without drop alerts has no
    threshold.
    """
    media = (
        MediaView(
            "m1",
            verdict=Verdict(THROUGH, 0.8, 12.5, 40.0),
            thresholds=Thresholds(0.4, 0.6),
            judgement=Judgement.JUDGED,
        ),
        MediaView("m2", thresholds=Thresholds(0.5, 0.5), judgement=Judgement.LEARNING),
        MediaView("m3", judgement=Judgement.OFF),
        MediaView("m4", thresholds=Thresholds(0.5, 0.5), judgement=Judgement.NO_DATA),
    )
    merchant = replace(merchant_view(media=media), verdict=Verdict(THROUGH, 0.5, 30.0, 400.0))
    found = {
        series.replace('merchant_id="acme"', "…").replace("smartstream_", ""): value
        for series, value in shown(snapshot_of(merchant)).items()
        if "drop" in series or "expected" in series
    }
    assert found == {
        'plays_drop_ratio{media_id="m1",…}': 0.8,
        'plays_drop_evidence{media_id="m1",…}': 12.5,
        'last_minute_expected_plays{media_id="m1",…}': 40.0,
        'drop_threshold_ratio{media_id="m1",…,severity="warning"}': 0.4,
        'drop_threshold_ratio{media_id="m1",…,severity="critical"}': 0.6,
        'drop_threshold_ratio{media_id="m2",…,severity="warning"}': 0.5,
        'drop_threshold_ratio{media_id="m2",…,severity="critical"}': 0.5,
        'drop_threshold_ratio{media_id="m4",…,severity="warning"}': 0.5,
        'drop_threshold_ratio{media_id="m4",…,severity="critical"}': 0.5,
        'plays_drop_judged{media_id="m1",…}': 1,
        'plays_drop_judged{media_id="m2",…}': 0,
        'plays_drop_judged{media_id="m4",…}': 0,
        "merchant_plays_drop_ratio{…}": 0.5,
        "merchant_last_minute_expected_plays{…}": 400.0,
        'merchant_drop_threshold_ratio{…,severity="critical"}': 0.35,
    }


def test_an_open_drop_is_exported_against_its_frozen_baseline() -> None:
    """The ratio and the expected plays are those of the incident and not of the newest verdict, with the start of the
    onset minute, the plays lost and the time at which the drop is accepted. Without an incident there is none of them.
    """
    dropped = MediaView("m1", verdict=Verdict(THROUGH, 0.1, 1.0, 9.0), incident=incident("m1", 0.8, 40.0, 1280.5))
    fine = MediaView("m2", verdict=Verdict(THROUGH, 0.0, 0.0, 30.0))
    merchant = replace(
        merchant_view(media=(dropped, fine)),
        verdict=Verdict(THROUGH, 0.0, 0.0, 70.0),
        incident=incident("", 0.6, 400.0, 9000.0),
    )
    found = shown(snapshot_of(merchant))
    onset, accepted = start_of(THROUGH - 40), start_of(THROUGH - 40 + 1440)
    for labels_, name, ratio, expected, lost in (
        ('{media_id="m1",merchant_id="acme"}', "", 0.8, 40.0, 1280.5),
        ('{merchant_id="acme"}', "merchant_", 0.6, 400.0, 9000.0),
    ):
        assert found[f"smartstream_{name}plays_drop_ratio{labels_}"] == ratio
        assert found[f"smartstream_{name}last_minute_expected_plays{labels_}"] == expected
        assert found[f"smartstream_{name}plays_lost{labels_}"] == lost
        assert found[f"smartstream_{name}plays_drop_onset_timestamp_seconds{labels_}"] == onset
        assert found[f"smartstream_{name}plays_drop_accept_timestamp_seconds{labels_}"] == accepted
    assert {name: value for name, value in found.items() if 'media_id="m2"' in name} == {
        'smartstream_media_info{encode_type="",media_id="m2",merchant_id="acme",name="",ref_id=""}': 1,
        'smartstream_plays_drop_ratio{media_id="m2",merchant_id="acme"}': 0.0,
        'smartstream_plays_drop_evidence{media_id="m2",merchant_id="acme"}': 0.0,
        'smartstream_last_minute_expected_plays{media_id="m2",merchant_id="acme"}': 30.0,
        'smartstream_plays_drop_judged{media_id="m2",merchant_id="acme"}': 0,
        'smartstream_failing_streams{media_id="m2",merchant_id="acme"}': 0,
        'smartstream_media_gone{media_id="m2",merchant_id="acme"}': 0,
    }


@pytest.mark.parametrize("offset", [0.0, 32400.0, -32400.0])
def test_a_wrong_time_zone_is_exported(offset: float) -> None:
    """Positive is ahead; 0 says that the zone fits, and nothing is exported before that is known."""
    name = 'smartstream_timezone_offset_seconds{merchant_id="acme"}'
    merchant = MerchantView("acme")
    assert name not in shown(snapshot_of(merchant))
    assert shown(snapshot_of(replace(merchant, timezone_offset=offset)))[name] == offset


def test_only_families_with_samples_are_exported() -> None:
    """An empty snapshot gives an empty page."""
    assert list(families(Snapshot(), OLDEST)) == []


def test_everything_together_exports_each_family_once() -> None:
    """With all targets, groups and other data, every family has samples, and no family and no series occurs twice."""
    snapshot = everything()
    metrics = list(families(snapshot, OLDEST))
    assert {metric.name for metric in metrics} == {family.metric().name for family in FAMILIES}
    assert duplicates(metrics) == []


def test_every_sample_has_the_labels_of_its_family() -> None:
    """No label is missing or added, and every value is text; only media_info has configured labels, too."""
    snapshot = everything()
    known = {family.name: set(family.labels) for family in FAMILIES}
    known["smartstream_media_info"] |= {"channel"}
    for metric in families(snapshot, OLDEST):
        for sample in metric.samples:
            assert set(sample.labels) == known[sample.name]
            assert {type(value) for value in sample.labels.values()} == {str}
            assert sample.timestamp is None


def test_duplicates_are_found() -> None:
    """The check that other tests use finds a series twice in a family, and a family twice."""
    up = Family("smartstream_up", "Up.", ("merchant_id",))
    samples = [Sample(up.name, {"merchant_id": merchant_id}, 1) for merchant_id in ("acme", "acme", "büro")]
    assert duplicates([up.metric(samples)]) == ["smartstream_up[('merchant_id', 'acme')]"]
    assert duplicates([up.metric(), up.metric()]) == ["family smartstream_up"]


def test_help_names_the_field_of_the_api() -> None:
    """HELP names the target of the API and the group by which it is split."""
    helps = {family.name: family.help for family in FAMILIES}
    assert (
        helps["smartstream_plays_by_country_total"] == "Plays (API target play_count), by country, cached from the API."
    )
    assert helps["smartstream_merchant_last_minute_devices"] == (
        "Devices of the whole merchant in the newest settled minute (API target device_count), cached from the API."
    )


def test_a_scrape_reads_the_snapshot_once() -> None:
    """All families of one scrape are from the same snapshot, although it is replaced during the scrape."""
    reads: list[int] = []

    def newest() -> Snapshot:
        reads.append(len(reads))
        total = SeriesView("", float(len(reads)), 1)
        return snapshot_of(merchant_view(*(stream_view(target, Group.ALL, total) for target in Target)))

    collector = SnapshotCollector(newest, lambda: OLDEST)
    totals = [s.value for metric in collector.collect() for s in metric.samples if s.name.endswith("s_total")]
    assert reads == [0]
    assert set(totals) == {0.0, 1.0}  # revisions, lost minutes and resets are 0


def test_promtool_accepts_the_whole_page(promtool_bin: Path) -> None:
    """`promtool check metrics` finds no problem in the page."""
    page = generate_latest(whole_registry())
    checked = subprocess.run([promtool_bin, "check", "metrics"], input=page, capture_output=True, check=False)
    assert (checked.stdout + checked.stderr).decode() == ""
    assert checked.returncode == 0


def test_both_formats_have_the_same_samples() -> None:
    """The text and the OpenMetrics page, read by a parser, contain exactly the collected samples."""
    registry = whole_registry()
    registry.unregister(next(c for c in registry._collector_to_names if type(c).__name__ == "ProcessCollector"))
    registry.unregister(next(c for c in registry._collector_to_names if type(c).__name__ == "GCCollector"))
    collected = sample_map(list(registry.collect()))
    assert sample_map(list(parse_text(generate_latest(registry).decode()))) == collected
    openmetrics = generate_openmetrics(registry)  # type: ignore[no-untyped-call]  # the library's gap
    parsed = parse_openmetrics(openmetrics.decode())  # type: ignore[no-untyped-call]  # the library's gap
    assert sample_map(list(parsed)) == collected
    assert len(collected) > 500
    assert not [name for name, _ in collected if name.endswith("_created")]
