"""The duration of a scrape of `/metrics`."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from benchmarks.prepared import Prepared, prepare
from benchmarks.report import Cell, Figures, Table, figures
from exporter.assembly import Polling
from exporter.clock import SystemClock
from exporter.httpd.messages import Handler, Request
from exporter.serving.collector import SnapshotCollector, build_registry
from exporter.serving.instruments import Instruments
from exporter.serving.routes import create_app
from exporter.storage.state import open_state

PLAIN = "plain generate_latest"

# The formats that Prometheus requests, the oldest and the newest.
_TEXT = "text/plain;version=0.0.4"
_OPENMETRICS = "application/openmetrics-text;version=1.0.0"


def run(folder: Path, *, series: Sequence[int] = (10_000, 100_000), repeats: int = 5) -> Table:
    """Measure `/metrics` with this number of series, this number of times each."""
    return Table(
        "scrape",
        "CPU seconds of /metrics, as a ratio to prometheus_client's plain rendering of the same families ready-made",
        ("page", "series", "CPU seconds", "ratio"),
        tuple(row for count in series for row in _rows(prepare(folder, count, time.time()), repeats)),
    )


def _rows(prepared: Prepared, repeats: int) -> Iterator[tuple[Cell, ...]]:
    clock = SystemClock()
    state = open_state(prepared.settings.storage.path, clock.now)
    telemetry = Instruments()
    polling = Polling(prepared.settings, state, telemetry, clock)
    try:
        longest = prepared.settings.poll.max_staleness
        collector = SnapshotCollector(polling.snapshot, lambda: longest, clock.now)
        registry = build_registry(telemetry, collector)
        app = create_app(
            registry,
            healthy=lambda: None,
            ready=lambda: None,
            page=lambda _: "",
            media_page=lambda *_: None,
            status_json=lambda _: "",
            config_text=lambda: "",
            docs=lambda: "",
            reload=lambda: (),
        )
        ready_made = CollectorRegistry()
        ready_made.register(_Prepared(list(registry.collect())))
        measured = _measure(
            {
                PLAIN: lambda: generate_latest(ready_made),
                f"{PLAIN}, OpenMetrics": lambda: generate_openmetrics(ready_made),  # type: ignore[no-untyped-call]  # the library's gap
                "text": lambda: _get(app, _TEXT),
                "text, gzip": lambda: _get(app, _TEXT, "gzip"),
                "OpenMetrics": lambda: _get(app, _OPENMETRICS),
                "OpenMetrics, gzip": lambda: _get(app, _OPENMETRICS, "gzip"),
            },
            repeats,
        )
    finally:
        polling.close()
        state.close()
    for what, seconds in measured.items():
        yield what, prepared.series, seconds, seconds.per(measured[PLAIN])


class _Prepared(Collector):
    """Families that cost nothing to collect."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


def _measure(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, Figures]:
    """The CPU seconds of each call, called alternately, so that other load on the machine is spread over all."""
    seconds: dict[str, list[float]] = {what: [] for what in calls}
    for _ in range(repeats):
        for what, call in calls.items():
            # Otherwise a call would pay for the garbage of another.
            gc.collect()
            began = time.process_time()
            call()
            seconds[what].append(time.process_time() - began)
    return {what: figures(values) for what, values in seconds.items()}


def _get(app: Handler, accept: str, encoding: str = "identity") -> bytes:
    return app(Request("GET", "/metrics", headers={"accept": accept, "accept-encoding": encoding})).body
