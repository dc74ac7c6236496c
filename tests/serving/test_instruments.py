from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from prometheus_client import REGISTRY, generate_latest

from exporter.serving.instruments import Instruments


def test_durations_are_shown_before_the_first_request() -> None:
    """The histogram of each endpoint is there from the start."""
    telemetry = Instruments()
    for endpoint in ("aggregations", "auth-token", "live_events", "medias"):
        name, names = "smartstream_api_request_duration_seconds_count", {"endpoint": endpoint}
        assert telemetry.registry.get_sample_value(name, names) == 0


def test_the_state_file_and_the_log_are_read_at_each_scrape() -> None:
    """Until the sources are set, both are fine."""
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


def test_the_duration_of_requests_is_observed() -> None:
    """A request is in the bucket of its duration, by endpoint."""
    telemetry = Instruments()
    telemetry.observe_request("aggregations", 0.2)
    telemetry.observe_request("aggregations", 12)
    value = telemetry.registry.get_sample_value
    assert value("smartstream_api_request_duration_seconds_sum", {"endpoint": "aggregations"}) == 12.2
    bucket = {"endpoint": "aggregations", "le": "0.25"}
    assert value("smartstream_api_request_duration_seconds_bucket", bucket) == 1


def test_the_age_of_revisions_is_observed() -> None:
    """A revision is in the bucket of its age, in seconds."""
    telemetry = Instruments()
    telemetry.observe_revision(119)
    value = telemetry.registry.get_sample_value
    assert value("smartstream_revision_age_seconds_bucket", {"le": "60.0"}) == 0
    assert value("smartstream_revision_age_seconds_bucket", {"le": "120.0"}) == 1


def test_a_failed_reload_keeps_the_last_success_timestamp() -> None:
    """The success timestamp changes only with a success."""
    telemetry = Instruments()
    value = telemetry.registry.get_sample_value
    for ok, at, good in ((True, 10.0, 10.0), (False, 20.0, 10.0), (True, 30.0, 30.0)):
        telemetry.reloaded(ok=ok, at=at)
        assert value("smartstream_config_last_reload_successful") == ok
        assert value("smartstream_config_last_reload_success_timestamp_seconds") == good


def test_only_merchants_with_media_files_have_their_metric() -> None:
    """1 if the last read had no error, else 0; a merchant that has none any more has no sample."""
    telemetry = Instruments()

    def value(merchant_id: str) -> float | None:
        names = {"merchant_id": merchant_id}
        return telemetry.registry.get_sample_value("smartstream_media_files_last_read_successful", names)

    telemetry.media_files_read({"m": (), "n": ("a.csv: no such file",)})
    assert (value("m"), value("n"), value("o")) == (1, 0, None)
    telemetry.media_files_read({"n": ()})
    assert (value("m"), value("n"), value("o")) == (None, 1, None)


def test_the_build_and_the_process_are_exported() -> None:
    """The release, the Python and the process are on the page; creation times are not."""
    telemetry = Instruments("1.2.3")
    telemetry.observe_request("aggregations", 0.2)
    page = generate_latest(telemetry.registry).decode()
    assert 'smartstream_build_info{python="3.' in page
    assert 'version="1.2.3"} 1.0' in page
    assert "process_resident_memory_bytes" in page
    assert "python_gc_collections_total" in page
    assert "_created" not in page


def test_the_configuration_that_rules_need_is_exported() -> None:
    """The staleness and the zone are exported, the offset as it is at the scrape; a new configuration replaces both."""
    telemetry = Instruments()
    value = telemetry.registry.get_sample_value
    now = [datetime(2026, 1, 15, tzinfo=UTC).timestamp()]
    telemetry.configured(1800, ZoneInfo("Europe/Berlin"), lambda: now[0])
    assert value("smartstream_max_staleness_seconds") == 1800
    assert value("smartstream_api_utc_offset_seconds", {"timezone": "Europe/Berlin"}) == 3600
    now[0] = datetime(2026, 7, 15, tzinfo=UTC).timestamp()
    assert value("smartstream_api_utc_offset_seconds", {"timezone": "Europe/Berlin"}) == 7200
    telemetry.configured(600, ZoneInfo("America/New_York"), lambda: now[0])
    assert value("smartstream_max_staleness_seconds") == 600
    assert value("smartstream_api_utc_offset_seconds", {"timezone": "America/New_York"}) == -14400
    assert value("smartstream_api_utc_offset_seconds", {"timezone": "Europe/Berlin"}) is None


def test_the_external_url_is_exported() -> None:
    """The rules build their links from it; without one it is empty."""
    for url in ("", "https://example.com/smartstream"):
        value = Instruments(external_url=url).registry.get_sample_value
        assert value("smartstream_web_info", {"external_url": url}) == 1


def test_nothing_is_registered_globally() -> None:
    """Two exporters in one process do not share metrics."""
    one, two = Instruments(), Instruments()
    one.observe_revision(60)
    assert two.registry.get_sample_value("smartstream_revision_age_seconds_count") == 0
    assert not [metric.name for metric in REGISTRY.collect() if metric.name.startswith("smartstream")]
