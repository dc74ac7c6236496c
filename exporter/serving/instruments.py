"""The metrics of the exporter itself: durations of requests, revisions, reloads, the process."""

import platform
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime, timedelta, tzinfo

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    Metric,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from exporter import __version__
from exporter.api.request_log import ENDPOINTS

REQUEST_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

# From 1 minute to 8 hours: finer where `settle` is likely to be, coarser around the revision window.
REVISION_AGES = (60, 120, 180, 240, 300, 450, 600, 900, 1200, 1800, 3600, 7200, 14400, 28800)


def _utc_offset(zone: tzinfo, now: float) -> float:
    return (datetime.fromtimestamp(now, zone).utcoffset() or timedelta()).total_seconds()


class _DroppedLogLines(Collector):
    """A counter whose value the log keeps."""

    def __init__(self) -> None:
        self.count: Callable[[], int] = lambda: 0

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "smartstream_log_lines_dropped",
            "Log lines that were dropped because the log output was blocked or not writable.",
            value=self.count(),
        )


class Instruments:
    """Instruments that live as long as the process. Safe to use from many threads.

    Attributes:
        registry: Holds them. It is not global, so that one process can have two of them.
    """

    def __init__(self, version: str = __version__, external_url: str = "") -> None:
        """Make them.

        Args:
            version: The running release.
            external_url: The address at which people reach the exporter's pages, without a final slash; "" if unknown.
        """
        # Prometheus does not need creation times; their samples would double the size of histograms.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library's gap
        self.registry = registry = CollectorRegistry()
        self._seconds = Histogram(
            "smartstream_api_request_duration_seconds",
            "Duration of API requests in seconds.",
            ["endpoint"],
            buckets=REQUEST_SECONDS,
            registry=registry,
        )
        for endpoint in ENDPOINTS:
            # Exported before the first request.
            self._seconds.labels(endpoint)
        self._ages = Histogram(
            "smartstream_revision_age_seconds",
            "Age of a counted minute when the API changed its value, in seconds.",
            buckets=REVISION_AGES,
            registry=registry,
        )
        self._reload_ok = Gauge(
            "smartstream_config_last_reload_successful",
            "Whether the last configuration reload attempt was successful.",
            registry=registry,
        )
        self._reload_at = Gauge(
            "smartstream_config_last_reload_success_timestamp_seconds",
            "Timestamp of the last successful configuration reload.",
            registry=registry,
        )
        self._media_files = Gauge(
            "smartstream_media_files_last_read_successful",
            "Whether the last read of the merchant's media files was successful.",
            ["merchant_id"],
            registry=registry,
        )
        # The merchants that have media files.
        self._with_media_files: frozenset[str] = frozenset()
        self._clock_offset = Gauge(
            "smartstream_clock_offset_seconds",
            "Seconds by which the clock of the exporter's machine is ahead of the API's (Date header), 0 within 30 s.",
            registry=registry,
        )
        self._state_writable = Gauge(
            "smartstream_state_writable",
            "Whether the state file is writable. If 0, the exporter sends no requests.",
            registry=registry,
        )
        self._state_writable.set(1)
        self._dropped = _DroppedLogLines()
        registry.register(self._dropped)
        build = Info("smartstream_build", "The running release.", registry=registry)
        build.info({"version": version, "python": platform.python_version()})
        web = Info("smartstream_web", "The address of the exporter's pages (--web.external-url).", registry=registry)
        web.info({"external_url": external_url})
        self._max_staleness = Gauge(
            "smartstream_max_staleness_seconds",
            "Configured poll.max_staleness in seconds.",
            registry=registry,
        )
        self._utc_offset = Gauge(
            "smartstream_api_utc_offset_seconds",
            "Seconds by which the configured api.timezone is ahead of UTC now.",
            ["timezone"],
            registry=registry,
        )
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

    def configured(self, max_staleness: float, zone: tzinfo, now: Callable[[], float]) -> None:
        """Show what the rules need to know of the configuration.

        Args:
            max_staleness: `poll.max_staleness`, in seconds.
            zone: `api.timezone`.
            now: Unix seconds; called at each scrape, as the clocks of the zone can change.
        """
        self._max_staleness.set(max_staleness)
        self._utc_offset.clear()
        self._utc_offset.labels(str(zone)).set_function(lambda: _utc_offset(zone, now()))

    def observe_request(self, endpoint: str, seconds: float) -> None:
        """Record that a request to an endpoint of the API has ended after so many seconds."""
        self._seconds.labels(endpoint).observe(seconds)

    def observe_revision(self, age_seconds: float) -> None:
        """Count a change of a counted value, so many seconds after the end of its minute."""
        self._ages.observe(age_seconds)

    def watch_clock(self, offset: Callable[[], float]) -> None:
        """Call this function at each scrape: by how many seconds the clock is ahead of the API's."""
        self._clock_offset.set_function(offset)

    def watch_process(self, *, state_writable: Callable[[], bool], dropped_log_lines: Callable[[], int]) -> None:
        """Call these functions at each scrape.

        Args:
            state_writable: Whether the state file can be written.
            dropped_log_lines: Log lines dropped since the start.
        """
        self._state_writable.set_function(lambda: float(state_writable()))
        self._dropped.count = dropped_log_lines

    def media_files_read(self, errors: Mapping[str, Collection[str]]) -> None:
        """Record that the media files were read.

        Args:
            errors: The errors of each merchant with media files; of other merchants nothing is exported.
        """
        for merchant_id, lines in errors.items():
            self._media_files.labels(merchant_id).set(not lines)
        for merchant_id in self._with_media_files - errors.keys():
            self._media_files.remove(merchant_id)
        self._with_media_files = frozenset(errors)

    def reloaded(self, ok: bool, at: float) -> None:  # noqa: FBT001 - called by the reloader
        """Record that the configuration was read, at start or later, at `at` (Unix seconds)."""
        self._reload_ok.set(ok)
        if ok:
            self._reload_at.set(at)
