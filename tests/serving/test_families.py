import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Metric, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.model import Group, Stream, Target, end_of, minute_of
from exporter.serving.families import FAMILIES, UP, Family, SnapshotCollector, build_registry, duplicates, families
from exporter.serving.instruments import Instruments
from exporter.views import (
    DropView,
    LinkView,
    MediaView,
    MerchantView,
    SeriesView,
    Snapshot,
    StreamView,
    Thresholds,
)

NOW = 1_800_000_000.0
THROUGH = minute_of(NOW) - 3
MAX_STALENESS = 1800.0

Samples = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]


@dataclass(frozen=True)
class Poll:
    """The settings that matter here."""

    max_staleness: float = MAX_STALENESS


def stream_view(
    target: Target,
    group: Group,
    *series: SeriesView,
    media_id: str = "m1",
    merchant_id: str = "acme",
    through: int | None = THROUGH,
) -> StreamView:
    return StreamView(Stream(merchant_id, media_id, target, group), through, series)


def merchant_view(*views: StreamView, merchant_id: str = "acme", media: tuple[MediaView, ...] = ()) -> MerchantView:
    return MerchantView(
        merchant_id,
        streams=MappingProxyType({view.stream: view for view in views}),
        media=MappingProxyType({each.media_id: each for each in media}),
    )


def snapshot_of(*merchants: MerchantView) -> Snapshot:
    return Snapshot(MappingProxyType({merchant.merchant_id: merchant for merchant in merchants}))


def sample_map(metrics: list[Metric]) -> Samples:
    """Name and sorted labels of every sample -> its value."""
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for metric in metrics for s in metric.samples}


def shown(snapshot: Snapshot, *links: LinkView, now: float = NOW) -> dict[str, float]:
    """Every sample as Prometheus writes it -> its value."""
    samples = sample_map(list(families(snapshot, {each.merchant_id: each for each in links}, Poll(), now)))
    return {
        name + "{" + ",".join(f'{key}="{value}"' for key, value in labels) + "}": value
        for (name, labels), value in samples.items()
    }


def of_streams(*views: StreamView, now: float = NOW) -> dict[str, float]:
    """The samples that streams alone make, timestamps left out."""
    return {
        series: value
        for series, value in shown(snapshot_of(merchant_view(*views)), now=now).items()
        if not any(word in series for word in ("timestamp", "revisions", "lost", "resets", "held"))
    }


def everything() -> tuple[Snapshot, dict[str, LinkView]]:
    """A snapshot in which every family has samples, with odd label values."""
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
                drop=DropView(THROUGH, 0.8, 12.5, 40.0),
                thresholds=Thresholds(0.4, 0.6),
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
                drop=DropView(THROUGH, 0.5, 30.0, 400.0),
            )
        )
    links = {m.merchant_id: LinkView(m.merchant_id, True, 45, 6, 1.5, 1.25, NOW, round_ended=NOW) for m in merchants}
    return snapshot_of(*merchants), links


def whole_registry() -> CollectorRegistry:
    telemetry = Instruments()
    telemetry.observe_request("acme", "aggregations", "200", 0.2)
    telemetry.observe_request("acme", "aggregations", "error", 12)
    telemetry.observe_revision(200)
    telemetry.reloaded(ok=True, at=NOW)
    snapshot, links = everything()
    return build_registry(telemetry, SnapshotCollector(lambda: snapshot, lambda: links, Poll(), lambda: NOW))


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
    """A target is shown in the families that the documentation names, and in no other; for the merchant too."""
    series = SeriesView("", 5, 2)
    expected: dict[str, float] = {}
    for scope, labels in (("", 'media_id="m1",merchant_id="acme"'), ("merchant_", 'merchant_id="acme"')):
        expected |= {f"smartstream_{scope}{counter}{{{labels}}}": 5} if counter else {}
        expected |= {f"smartstream_{scope}{gauge}{{{labels}}}": 2} if gauge else {}
    of_media = stream_view(target, Group.ALL, series)
    of_whole = stream_view(target, Group.ALL, series, media_id="")
    assert of_streams(of_media, of_whole) == expected


@pytest.mark.parametrize("group", [group for group in Group if group is not Group.ALL])
def test_a_group_has_families_of_its_own(group: Group) -> None:
    """A group's values are not in the family of the total, so that a sum over a family counts nothing twice."""
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


def test_what_is_not_known_is_not_shown() -> None:
    """A series without a total has no counter, one without a newest value no gauge; neither shows a made-up 0."""
    bare = SeriesView("", None, None)
    assert of_streams(stream_view(Target.PLAY_COUNT, Group.ALL, bare)) == {}


def test_gauges_go_away_when_their_minute_is_old_and_counters_stay() -> None:
    """A gauge is shown until its minute ended 2 × max_staleness ago, and not a moment longer."""
    view = stream_view(Target.PLAY_COUNT, Group.ALL, SeriesView("", 5, 2))
    at_the_limit = end_of(THROUGH) + 2 * MAX_STALENESS
    counter, gauge = [
        f'smartstream_{name}{{media_id="m1",merchant_id="acme"}}' for name in ("plays_total", "last_minute_plays")
    ]
    assert of_streams(view, now=at_the_limit) == {counter: 5, gauge: 2}
    assert of_streams(view, now=at_the_limit + 1) == {counter: 5}


def test_a_stream_without_an_answer_has_no_time_and_no_gauge() -> None:
    """Before the first answer there is no data timestamp and no gauge; a counter that is there is shown."""
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
    }


def test_what_is_said_about_the_data() -> None:
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
    }


def media_samples(*merchants: MerchantView) -> list[tuple[str, dict[str, str], float]]:
    return [
        (sample.name, sample.labels, sample.value)
        for metric in families(snapshot_of(*merchants), {}, Poll(), NOW)
        if metric.name in ("smartstream_media", "smartstream_live_event_running")
        for sample in metric.samples
    ]


def test_media_info_has_the_same_labels_for_every_media() -> None:
    """A configured label of one media, of whichever merchant, is "" where another has none."""
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
    """Whatever a configuration calls its labels, media_id stays the media's."""
    media = MediaView("m1", "News", labels=MappingProxyType({"media_id": "x", "name": "y"}))
    [(_, labels_, _)] = media_samples(merchant_view(media=(media,)))
    assert (labels_["media_id"], labels_["name"]) == ("m1", "News")


def test_a_name_that_has_no_utf8_does_not_fail_the_scrape() -> None:
    """Half a surrogate pair, which JSON can carry, is shown as a question mark."""
    snapshot = snapshot_of(merchant_view(media=(MediaView("m1", "News \ud83d"),)))
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(lambda: snapshot, dict, Poll(), lambda: NOW))
    assert b'name="News ?"' in generate_latest(registry)


def test_what_is_said_about_the_connection() -> None:
    """`up`, the token's expiry and the staleness are shown once they are known; the budget and the streams always."""
    fresh = LinkView("acme", budget=45, streams=6)
    known = LinkView(
        "büro",
        up=False,
        budget=22.5,
        streams=90,
        staleness=1.5,
        staleness_bound=1.25,
        token_expiry=NOW + 60,
        failing=MappingProxyType({"": 2, "m1": 1}),
        failing_lookups=3,
        round_ended=NOW - 7,
    )
    assert shown(Snapshot(), fresh, known) == {
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
    assert shown(Snapshot(), replace(known, up=True))['smartstream_up{merchant_id="büro"}'] == 1


def test_media_that_fail_or_are_gone_are_shown() -> None:
    """Every media has both, so that an alert sees them end."""
    media = (MediaView("m1", failing_streams=2), MediaView("m2", failing_streams=1, gone=True), MediaView("m3"))
    found = shown(snapshot_of(merchant_view(media=media)))
    for media_id, failing, gone in (("m1", 2, 0), ("m2", 1, 1), ("m3", 0, 0)):
        labels = f'{{media_id="{media_id}",merchant_id="acme"}}'
        assert found[f"smartstream_failing_streams{labels}"] == failing
        assert found[f"smartstream_media_gone{labels}"] == gone


def test_requests_are_shown_before_the_first() -> None:
    """Each known code of each endpoint is 0 at the start, so that `increase()` sees the first answer of its kind."""
    telemetry = Instruments()
    telemetry.expect(["acme"])
    for endpoint in ("aggregations", "auth-token", "live_events", "medias"):
        for code in ("200", "400", "401", "404", "429", "500", "error"):
            names = {"merchant_id": "acme", "endpoint": endpoint, "code": code}
            assert telemetry.registry.get_sample_value("smartstream_api_requests_total", names) == 0


def test_the_state_file_and_the_log_are_asked_at_each_scrape() -> None:
    """Until somebody says how they do, nothing is wrong with them."""
    telemetry = Instruments()
    value = telemetry.registry.get_sample_value
    assert value("smartstream_state_writable") == 1
    assert value("smartstream_log_lines_dropped_total") == 0
    lines = [7]
    telemetry.watch_process(state_writable=lambda: False, dropped_log_lines=lambda: lines[0])
    assert value("smartstream_state_writable") == 0
    assert value("smartstream_log_lines_dropped_total") == 7
    lines[0] = 9
    assert value("smartstream_log_lines_dropped_total") == 9


def test_drops_are_shown_with_their_thresholds() -> None:
    """What the detector says of a media and of the whole merchant; a media that is left out has no threshold."""
    media = (
        MediaView("m1", drop=DropView(THROUGH, 0.8, 12.5, 40.0), thresholds=Thresholds(0.4, 0.6)),
        MediaView("m2", thresholds=Thresholds(0.5, 0.5)),
        MediaView("m3"),
    )
    merchant = replace(merchant_view(media=media), drop=DropView(THROUGH, 0.5, 30.0, 400.0))
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
        "merchant_plays_drop_ratio{…}": 0.5,
        "merchant_last_minute_expected_plays{…}": 400.0,
    }


def test_only_families_with_samples_are_shown() -> None:
    """An empty snapshot makes an empty page; `describe` names all families all the same, and without samples."""
    collector = SnapshotCollector(Snapshot, dict, Poll(), lambda: NOW)
    assert list(collector.collect()) == []
    described = list(collector.describe())
    assert len(described) == len(FAMILIES)
    assert all(metric.samples == [] for metric in described)


def test_everything_together_shows_each_family_once() -> None:
    """With all targets, groups and facts, every family has samples, and no family and no series is there twice."""
    snapshot, links = everything()
    metrics = list(families(snapshot, links, Poll(), NOW))
    assert {metric.name for metric in metrics} == {family.metric().name for family in FAMILIES}
    assert duplicates(metrics) == []


def test_every_sample_has_the_labels_of_its_family() -> None:
    """No label is missing or added, and every value is text; media_info alone has configured labels beside."""
    snapshot, links = everything()
    known = {family.name: set(family.labels) for family in FAMILIES}
    known["smartstream_media_info"] |= {"channel"}
    for metric in families(snapshot, links, Poll(), NOW):
        for sample in metric.samples:
            assert set(sample.labels) == known[sample.name]
            assert {type(value) for value in sample.labels.values()} == {str}
            assert sample.timestamp is None


def test_duplicates_are_found() -> None:
    """The check that other tests rely on sees a series twice in a family, and a family twice."""
    twice = UP.metric([UP.sample(1, "acme"), UP.sample(0, "acme"), UP.sample(1, "büro")])
    assert duplicates([twice]) == ["smartstream_up[('merchant_id', 'acme')]"]
    assert duplicates([UP.metric(), UP.metric()]) == ["family smartstream_up"]


def test_a_forgotten_label_is_an_error() -> None:
    """Too few or too many label values raise, rather than make a series with a label missing."""
    family = Family("smartstream_test", "gauge", "Test.", ("merchant_id", "media_id"))
    for values in (("acme",), ("acme", "m1", "all")):
        with pytest.raises(ValueError, match="zip"):
            family.sample(1, *values)


def test_help_names_the_field_of_the_api() -> None:
    """HELP says which target a number comes from, and by what it is split."""
    helps = {family.name: family.help for family in FAMILIES}
    assert (
        helps["smartstream_plays_by_country_total"] == "Plays (API target play_count), by country, cached from the API."
    )
    assert helps["smartstream_merchant_last_minute_devices"] == (
        "Devices of the whole merchant in the newest settled minute (API target device_count), cached from the API."
    )


def test_a_scrape_asks_for_the_snapshot_once() -> None:
    """All families of one scrape are of the same snapshot, although it is replaced while they are rendered."""
    asked: list[int] = []

    def newest() -> Snapshot:
        asked.append(len(asked))
        total = SeriesView("", float(len(asked)), 1)
        return snapshot_of(merchant_view(*(stream_view(target, Group.ALL, total) for target in Target)))

    collector = SnapshotCollector(newest, dict, Poll(), lambda: NOW)
    totals = [s.value for metric in collector.collect() for s in metric.samples if s.name.endswith("s_total")]
    assert asked == [0]
    assert set(totals) == {0.0, 1.0}  # revisions, lost minutes and resets are 0


def test_promtool_accepts_the_whole_page(promtool_bin: Path) -> None:
    """`promtool check metrics` finds nothing in the page."""
    page = generate_latest(whole_registry())
    checked = subprocess.run([promtool_bin, "check", "metrics"], input=page, capture_output=True, check=False)
    assert (checked.stdout + checked.stderr).decode() == ""
    assert checked.returncode == 0


def test_both_formats_say_the_same() -> None:
    """The text and the OpenMetrics page, read back by a parser, hold exactly the samples that were collected."""
    registry = whole_registry()
    registry.unregister(next(c for c in registry._collector_to_names if type(c).__name__ == "ProcessCollector"))
    registry.unregister(next(c for c in registry._collector_to_names if type(c).__name__ == "GCCollector"))
    collected = sample_map(list(registry.collect()))
    assert sample_map(list(parse_text(generate_latest(registry).decode()))) == collected
    openmetrics = generate_openmetrics(registry)  # type: ignore[no-untyped-call]  # the library's gap
    parsed = parse_openmetrics(openmetrics.decode())  # type: ignore[no-untyped-call]  # the library's gap
    assert sample_map(list(parsed)) == collected
    assert len(collected) > 500


def test_a_page_can_be_restricted_to_some_names() -> None:
    """A scrape with `name[]` gets these families only."""
    restricted = whole_registry().restricted_registry(["smartstream_up", "smartstream_plays_total"])
    names = {sample.name for metric in restricted.collect() for sample in metric.samples}
    assert names == {"smartstream_up", "smartstream_plays_total"}


def test_telemetry_counts_requests() -> None:
    """A request is counted by merchant, endpoint and code; its duration by endpoint."""
    telemetry = Instruments()
    telemetry.observe_request("acme", "aggregations", "200", 0.2)
    telemetry.observe_request("acme", "aggregations", "error", 12)
    value = telemetry.registry.get_sample_value
    for code in ("200", "error"):
        names = {"merchant_id": "acme", "endpoint": "aggregations", "code": code}
        assert value("smartstream_api_requests_total", names) == 1
    assert value("smartstream_api_request_duration_seconds_sum", {"endpoint": "aggregations"}) == 12.2
    bucket = {"endpoint": "aggregations", "le": "0.25"}
    assert value("smartstream_api_request_duration_seconds_bucket", bucket) == 1


def test_telemetry_keeps_the_age_of_revisions() -> None:
    """A revision falls in the bucket of its age, in seconds."""
    telemetry = Instruments()
    telemetry.observe_revision(119)
    value = telemetry.registry.get_sample_value
    assert value("smartstream_revision_age_seconds_bucket", {"le": "60.0"}) == 0
    assert value("smartstream_revision_age_seconds_bucket", {"le": "120.0"}) == 1


def test_a_failed_reload_leaves_the_time_of_the_last_good_one() -> None:
    """The success timestamp moves with successes only."""
    telemetry = Instruments()
    value = telemetry.registry.get_sample_value
    for ok, at, good in ((True, 10.0, 10.0), (False, 20.0, 10.0), (True, 30.0, 30.0)):
        telemetry.reloaded(ok=ok, at=at)
        assert value("smartstream_config_last_reload_successful") == ok
        assert value("smartstream_config_last_reload_success_timestamp_seconds") == good


def test_telemetry_shows_the_build_and_the_process() -> None:
    """The release, the Python and the process are on the page; creation times are not."""
    page = generate_latest(Instruments("1.2.3").registry).decode()
    assert 'smartstream_build_info{python="3.' in page
    assert 'version="1.2.3"} 1.0' in page
    assert "process_resident_memory_bytes" in page
    assert "python_gc_collections_total" in page
    assert "_created" not in generate_latest(whole_registry()).decode()


def test_nothing_is_registered_globally() -> None:
    """Two exporters in one process do not see each other's numbers."""
    one, two = Instruments(), Instruments()
    one.observe_revision(60)
    assert two.registry.get_sample_value("smartstream_revision_age_seconds_count") == 0
    assert not [metric.name for metric in REGISTRY.collect() if metric.name.startswith("smartstream")]
