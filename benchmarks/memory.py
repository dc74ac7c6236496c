"""The memory that a daemon and its series take."""

import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.prepared import Prepared, prepare
from benchmarks.process import PROMETHEUS_ACCEPTS, running
from benchmarks.report import Cell, Figures, Table, figures

SCRAPES = 5
_FORMATS = ("text/plain;version=0.0.4", PROMETHEUS_ACCEPTS)


def run(folder: Path, *, series: Sequence[int] = (10_000, 100_000), repeats: int = 3) -> Table:
    """Measure daemons with this number of series, and without any, this number of times each."""
    empty = _measure(prepare(folder, 0, time.time()), repeats)
    rows = [_row(prepare(folder, count, time.time()), empty, repeats) for count in series]
    return Table(
        "memory",
        f"MiB of resident memory of a whole daemon: after its start, after {SCRAPES} scrapes in each format with gzip "
        "and without, and at its most; and what it takes after them for 10,000 series more than without any",
        ("series on the page", "started", "scraped", "most", "per 10,000 series"),
        ((0, *empty, ""), *rows),
    )


def _row(prepared: Prepared, empty: Sequence[Figures], repeats: int) -> tuple[Cell, ...]:
    measured = _measure(prepared, repeats)
    growth = (value - empty[1].median for value in measured[1].values)
    return (prepared.series, *measured, figures(each / (prepared.series / 10_000) for each in growth))


def _measure(prepared: Prepared, repeats: int) -> list[Figures]:
    return [figures(values) for values in zip(*(_memory(prepared) for _ in range(repeats)), strict=True)]


def _memory(prepared: Prepared) -> tuple[float, float, float]:
    """MiB after the start, after some scrapes, and the maximum."""
    with running(prepared) as daemon:
        started = daemon.memory("VmRSS")
        for encoding in ("gzip", "identity"):
            for accept in _FORMATS * SCRAPES:
                daemon.get(accept, encoding)
        return started, daemon.memory("VmRSS"), daemon.memory("VmHWM")
