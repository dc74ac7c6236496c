"""Counters with their past, as the text that `promtool tsdb create-blocks-from openmetrics` reads. Pure.

prometheus_client writes one value of each series; here a series has hundreds of thousands, so they are written one
by one, as they come.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from exporter.model import Minute, end_of, start_of
from exporter.serving.families import Family
from exporter.units import UNIT, from_units, to_units

END = "# EOF\n"


@dataclass(frozen=True, slots=True)
class Series:
    """What one counter counted.

    Attributes:
        labels: Its labels.
        increases: Each minute from its first on, and what was counted in it.
    """

    labels: Mapping[str, str]
    increases: Iterable[tuple[Minute, float]]


def write_family(family: Family, series: Iterable[Series]) -> Iterator[str]:
    """The lines of a counter: for each series a 0 at its start, and the sum so far at the end of each minute."""
    name = family.name.removesuffix("_total")
    yield f"# HELP {name} {_escape(family.help)}\n# TYPE {name} counter\n"
    for each in series:
        yield from _samples(family.name, each)


def _samples(name: str, series: Series) -> Iterator[str]:
    labels = ",".join(f'{label}="{_escape(value)}"' for label, value in series.labels.items())
    start = f"{name}{{{labels}}}"
    total = None
    for minute, increase in series.increases:
        if total is None:
            total = 0
            yield f"{start} 0 {int(start_of(minute))}\n"
        total += to_units(increase) or 0
        yield f"{start} {total // UNIT if total % UNIT == 0 else from_units(total)!r} {int(end_of(minute))}\n"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
