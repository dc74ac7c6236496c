"""The duration of `replay`."""

import os
import random
import time
from collections.abc import Callable, Iterator
from math import pi, sin, sqrt
from pathlib import Path

from benchmarks.report import Cell, Table, figures
from exporter.backtest import plays_csv
from exporter.backtest.parallel import backtest
from exporter.config.settings import DEFAULT_THRESHOLDS
from exporter.model import DAY_MINUTES

# 2026-08-31T15:00:00Z.
_FIRST = 29_803_140


def run(folder: Path, *, media: int = 40, days: int = 28, repeats: int = 3) -> Table:
    """Measure a recording with this number of media and days, this number of times."""
    path = folder / f"replay-{media}-{days}.csv"
    _record(path, media, days)
    return Table(
        "replay",
        f"{media} media and {days} days: seconds on {len(os.sched_getaffinity(0))} CPUs, per reading the CSV alone",
        ("what", "seconds", "ratio"),
        tuple(_rows(path, repeats)),
    )


def _rows(path: Path, repeats: int) -> Iterator[tuple[Cell, ...]]:
    seconds: dict[str, list[float]] = {"reading the CSV": [], "replay": []}
    for _ in range(repeats):
        for what, call in (("reading the CSV", plays_csv.read), ("replay", _replay)):
            seconds[what].append(_seconds(call, path))
    reading = figures(seconds["reading the CSV"])
    for what, values in seconds.items():
        yield what, figures(values), figures(values).per(reading)


def _replay(path: Path) -> None:
    recordings = plays_csv.read(path)
    thresholds = dict.fromkeys(["", *(each.media_id for each in recordings)], DEFAULT_THRESHOLDS)
    backtest(recordings, thresholds, processes=len(os.sched_getaffinity(0)), progress=lambda _: None)


def _seconds(call: Callable[[Path], object], path: Path) -> float:
    began = time.perf_counter()
    call(path)
    return time.perf_counter() - began


def _record(path: Path, media: int, days: int) -> None:
    """Write plays with a daily rhythm, and an hour in which all of them fall."""
    draw = random.Random(1)  # noqa: S311 - no secret
    with path.open("w") as file:
        file.write("minute,media_id,plays\n")
        for number in range(media):
            peak = draw.uniform(2, 60)
            for at in range(days * DAY_MINUTES):
                mean = peak * (0.55 + 0.45 * sin(2 * pi * at / DAY_MINUTES))
                if 0 <= at - (days * DAY_MINUTES - 1500) < 60:
                    mean *= 0.2
                plays = max(0, round(draw.gauss(mean, sqrt(mean))))
                file.write(f"{(_FIRST + at) * 60},media-{number},{plays}\n")
