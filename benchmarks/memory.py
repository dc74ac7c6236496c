"""The memory that the series take."""

import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.prepared import Prepared, prepare
from benchmarks.process import running
from benchmarks.report import Cell, Figures, Table, figures

SCRAPES = 5


def run(folder: Path, *, series: Sequence[int] = (10_000, 100_000), repeats: int = 3) -> Table:
    """Measure daemons with this number of series, this number of times each."""
    empty = _measure(prepare(folder, 0, time.time()), repeats)
    rows = [_row(prepare(folder, count, time.time()), empty, repeats) for count in series]
    return Table(
        "memory",
        f"MiB of resident memory per 10,000 series that a daemon takes more than one without any: after its start, "
        f"after {SCRAPES} scrapes, and at its most",
        ("series on the page", "started", "scraped", "most"),
        tuple(rows),
    )


def _row(prepared: Prepared, empty: Sequence[Figures], repeats: int) -> tuple[Cell, ...]:
    unit = prepared.series / 10_000
    measured = _measure(prepared, repeats)
    growth = (
        figures((value - without.median) / unit for value in taken.values)
        for taken, without in zip(measured, empty, strict=True)
    )
    return (prepared.series, *growth)


def _measure(prepared: Prepared, repeats: int) -> list[Figures]:
    return [figures(values) for values in zip(*(_memory(prepared) for _ in range(repeats)), strict=True)]


def _memory(prepared: Prepared) -> tuple[float, float, float]:
    """MiB after the start, after some scrapes, and the maximum."""
    with running(prepared) as daemon:
        started = daemon.memory("VmRSS")
        for _ in range(SCRAPES):
            daemon.scrape()
        return started, daemon.memory("VmRSS"), daemon.memory("VmHWM")
