"""The CPU time of a scrape of `/metrics`, and its duration while merchants poll."""

import contextlib
import gc
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from benchmarks import fleet, go_client
from benchmarks.prepared import prepare, revise
from benchmarks.process import PROMETHEUS_ACCEPTS
from benchmarks.report import Cell, Figures, Table, figures
from exporter.assembly import Polling
from exporter.clock import SystemClock
from exporter.httpd.messages import Handler, Request
from exporter.serving.collector import SnapshotCollector
from exporter.serving.exposition import Exposition
from exporter.serving.instruments import Instruments
from exporter.serving.routes import create_app
from exporter.storage.state import open_state

PLAIN = "prometheus_client, families ready-made"
GO = "Go's client"
OURS = "exporter"

# The formats that Prometheus requests: the oldest, and the newest by its own header.
_FORMATS = {"text": "text/plain;version=0.0.4", "OpenMetrics": PROMETHEUS_ACCEPTS}


def run(
    folder: Path, *, series: Sequence[int] = (10_000, 100_000), changed: int = 300, repeats: int = 5, go: bool = True
) -> Table:
    """Measure `/metrics` with this number of series, this number of times each.

    Args:
        folder: For files.
        series: The numbers of series.
        changed: The number of streams that have another value at each scrape.
        repeats: How often each is measured.
        go: Whether to compare with Go's client where that is installed.
    """
    compiler = go_client.compiler() if go else ""
    missing = "" if compiler or not go else f"; Go's client is missing ({go_client.HOW_TO_INSTALL})"
    return Table(
        "scrape",
        f"CPU seconds of /metrics with {changed} streams changed since the scrape before, as a ratio to "
        f"prometheus_client's text of the same families ready-made, and to Go's client with the same series{missing}",
        ("page", "series", "CPU seconds", "ratio", *(("Go's, times as long",) if compiler else ())),
        tuple(row for count in series for row in _rows(folder, count, changed, repeats, compiler)),
    )


def _rows(folder: Path, series: int, changed: int, repeats: int, compiler: str) -> Iterator[tuple[Cell, ...]]:
    prepared = prepare(folder, series, time.time())
    clock = SystemClock()
    state = open_state(prepared.settings.storage.path, clock.now)
    telemetry = Instruments()
    polling = Polling(prepared.settings, state, telemetry, clock)
    longest = prepared.settings.poll.max_staleness
    exposition = Exposition(telemetry.registry, polling.snapshot, lambda: longest, clock.now)
    app = _app(exposition)
    ready_made = CollectorRegistry()
    counted = SnapshotCollector(polling.snapshot, lambda: clock.now() - 2 * longest)
    ready_made.register(_Prepared([*telemetry.registry.collect(), *counted.collect()]))
    streams = itertools.cycle([stream for merchant in prepared.settings.merchants for stream in merchant.streams()])
    numbers = itertools.count(1)

    def change() -> None:
        number = next(numbers)
        for stream in itertools.islice(streams, changed):
            revise(polling.ledger, stream, number, clock.now())

    with contextlib.ExitStack() as stack:
        stack.callback(state.close)
        stack.callback(polling.close)
        calls: dict[str, Callable[[], float]] = {
            f"{PLAIN}, text": _cpu_seconds(lambda: generate_latest(ready_made)),
            f"{PLAIN}, OpenMetrics": _cpu_seconds(lambda: generate_openmetrics(ready_made)),  # type: ignore[no-untyped-call]  # the library's gap
        }
        pages = [
            (f"{name}{', gzip' if encoding == 'gzip' else ''}", accept, encoding)
            for encoding in ("identity", "gzip")
            for name, accept in _FORMATS.items()
        ]
        if compiler:
            scrape = stack.enter_context(
                go_client.serving(compiler, b"".join(exposition.render(generate_latest)), folder)
            )
            for name, accept, encoding in pages:
                calls[f"{GO}, {name}"] = partial(scrape, accept, encoding)
        for name, accept, encoding in pages:
            get = _cpu_seconds(partial(_get, app, accept, encoding))
            calls[f"{OURS}, {name}"] = _after(change, get)
        # Renders all lines, as the first scrape after a start does.
        _get(app, _FORMATS["text"], "identity")
        measured = _measure(calls, repeats)
    for what, seconds in measured.items():
        row: tuple[Cell, ...] = what, series, seconds, seconds.per(measured[f"{PLAIN}, text"])
        if compiler:
            of_go = measured.get(what.replace(OURS, GO)) if what.startswith(OURS) else None
            row += (of_go.per(seconds) if of_go else "",)
        yield row


def _app(exposition: Exposition) -> Handler:
    return create_app(
        exposition.render,
        healthy=lambda: None,
        ready=lambda: None,
        page=lambda _: "",
        media_page=lambda *_: None,
        status_json=lambda _: "",
        config_text=lambda: "",
        docs=lambda: "",
        reload=lambda: (),
    )


class _Prepared(Collector):
    """Families that cost nothing to collect."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


def _cpu_seconds(call: Callable[[], object]) -> Callable[[], float]:
    def measured() -> float:
        # Otherwise a call would pay for the garbage of another.
        gc.collect()
        began = time.process_time()
        call()
        return time.process_time() - began

    return measured


def _after(first: Callable[[], None], then: Callable[[], float]) -> Callable[[], float]:
    def both() -> float:
        first()
        return then()

    return both


def _measure(calls: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, Figures]:
    """The seconds of each call, called alternately, so that other load on the machine is spread over all."""
    seconds: dict[str, list[float]] = {what: [] for what in calls}
    for _ in range(repeats):
        for what, call in calls.items():
            seconds[what].append(call())
    return {what: figures(values) for what, values in seconds.items()}


def _get(app: Handler, accept: str, encoding: str) -> bytes:
    """The page, as long as it takes to have its bytes."""
    return bytes(app(Request("GET", "/metrics", headers={"accept": accept, "accept-encoding": encoding})).body)


def run_polling(
    folder: Path,
    *,
    fleets: Sequence[tuple[int, int]] = ((300, 25), (300, 50)),
    scrapes: int = 120,
    interval: float = 1.0,
    warm_up: float = 1.0,
) -> Table:
    """Measure scrapes of daemons that poll so many merchants of so many media each, after so many minutes."""
    return Table(
        "scrape while polling",
        f"seconds of {scrapes} scrapes of Prometheus over HTTP, from the request to the last byte, {interval:g} s "
        "apart, of a daemon that polls merchants as in the benchmark fleet; the first scrape renders all media",
        ("merchants", "media each", "series", "MiB", "gzip MiB", "median", "90 %", "99 %", "longest"),
        tuple(_polling_row(folder, count, media, scrapes, interval, warm_up) for count, media in fleets),
    )


def _polling_row(
    folder: Path, merchants: int, media: int, scrapes: int, interval: float, warm_up: float
) -> tuple[Cell, ...]:
    durations = []
    with fleet.polling(folder / f"scraped-{merchants}-{media}", merchants, media, warm_up) as (daemon, _):
        for _ in range(scrapes):
            began = time.perf_counter()
            compressed = daemon.get()
            durations.append(time.perf_counter() - began)
            time.sleep(interval)
        page = daemon.scrape()
    durations.sort()
    quantiles = [durations[math.ceil(part * scrapes) - 1] for part in (0.5, 0.9, 0.99, 1)]
    return merchants, media, page.count(b"\nsmartstream_"), len(page) / 2**20, len(compressed) / 2**20, *quantiles
