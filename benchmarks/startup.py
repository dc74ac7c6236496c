"""The time from the start to the first scrape.

A series of the state file is one of Prometheus if it has only a gauge, and two if it has a counter, too.
"""

import contextlib
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.prepared import Prepared, prepare
from benchmarks.process import running
from benchmarks.report import Cell, Figures, Table, figures


def run(folder: Path, *, series: Sequence[int] = (0, 10_000, 100_000, 212_800), repeats: int = 5) -> Table:
    """Measure the start with this number of series in the state file, this number of times each."""
    started = [prepare(folder, count, time.time()) for count in series]
    # Alternately, so that other load on the machine is spread over all.
    runs = [(_imports(), [_start(prepared) for prepared in started]) for _ in range(repeats)]
    imports = figures(seconds for seconds, _ in runs)
    rows = [_row(prepared, [times[place] for _, times in runs], imports) for place, prepared in enumerate(started)]
    return Table(
        "startup",
        "a daemon's start until it listens and until its first scrape is whole, with a dead API, "
        "as a ratio to starting Python with the same imports",
        ("started", "series in the file", "on the page", "file MiB", "seconds to listen", "to first scrape", "ratio"),
        (("Python, same imports", "", "", "", imports, "", ""), *rows),
    )


def _row(prepared: Prepared, times: Sequence[tuple[float, float]], imports: Figures) -> tuple[Cell, ...]:
    listens, scraped = (figures(values) for values in zip(*times, strict=True))
    path = prepared.settings.storage.path
    with contextlib.closing(sqlite3.connect(path)) as db:
        (kept,) = db.execute("SELECT count(*) FROM series").fetchone()
    return "daemon", kept, prepared.series, path.stat().st_size / 2**20, listens, scraped, scraped.per(imports)


def _start(prepared: Prepared) -> tuple[float, float]:
    """Seconds until a daemon listens, and until its first scrape is complete."""
    began = time.perf_counter()
    with running(prepared) as daemon:
        page = daemon.scrape()
        seconds = time.perf_counter() - began
    if page.count(b'media_id="') != prepared.series:
        raise RuntimeError("the first scrape does not show every series")
    return daemon.listens_after, seconds


def _imports() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import exporter.daemon"], check=True)
    return time.perf_counter() - began
