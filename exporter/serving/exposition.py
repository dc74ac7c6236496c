"""All of `/metrics`: the instruments of the exporter itself, and what has been counted."""

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

from exporter.serving.collector import SnapshotCollector
from exporter.serving.families import Family
from exporter.serving.lines import LineRenderer
from exporter.serving.negotiation import Renderer
from exporter.serving.samples import by_family
from exporter.views import Snapshot

# At the end of a page in OpenMetrics.
_EOF = b"# EOF\n"


class Exposition:
    """Renders `/metrics`. Safe to use on many threads."""

    def __init__(
        self,
        instruments: CollectorRegistry,
        snapshot: Callable[[], Snapshot],
        max_staleness: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        """Make one.

        Args:
            instruments: The instruments of the exporter itself.
            snapshot: What has been counted; called once a scrape, so that all families agree with each other.
            max_staleness: The setting in force, in seconds; gauges of minutes older than twice as long are left out.
            now: Unix seconds.
        """
        self._instruments = instruments
        self._snapshot = snapshot
        self._max_staleness = max_staleness
        self._now = now
        self._collector = SnapshotCollector(snapshot, self._oldest)
        self._lines = LineRenderer()
        # One scrape at a time uses the lines that are kept.
        self._mutex = threading.Lock()

    def render(self, library: Renderer, names: Collection[str] = ()) -> Sequence[bytes]:
        """The page in a format, in pieces that are kept in any case: the whole can take as much memory once more.

        Args:
            library: How prometheus_client renders the format.
            names: The names of families or samples to which the page is restricted, unless it is empty.
        """
        if names:
            every = chain(self._instruments.collect(), self._collector.collect())
            return [library(_Ready(_restricted(every, frozenset(names))))]
        own = library(self._instruments)
        pieces = [own.removesuffix(_EOF)]
        for family, parts in self._counted():
            pieces.append(_header(library, family))
            pieces += parts
        return [*pieces, _EOF] if own.endswith(_EOF) else pieces

    def _oldest(self) -> float:
        return self._now() - 2 * self._max_staleness()

    def _counted(self) -> Sequence[tuple[Family, Sequence[bytes]]]:
        """The families that have samples, with their lines."""
        snapshot = self._snapshot()
        with self._mutex:
            families = list(by_family(snapshot, self._oldest(), self._lines))
            self._lines.forget_others(snapshot)
        return [(family, parts) for family, parts in families if any(parts)]


@cache
def _header(library: Renderer, family: Family) -> bytes:
    """The lines before the samples of a family."""
    return library(_Ready([family.metric()])).removesuffix(_EOF)


@dataclass(frozen=True, slots=True)
class _Ready(Collector):
    """Families that need not be collected first."""

    metrics: Iterator[Metric] | Sequence[Metric]

    def collect(self) -> Iterator[Metric] | Sequence[Metric]:
        return self.metrics


def _restricted(families: Iterator[Metric], names: frozenset[str]) -> Iterator[Metric]:
    # The library can do so only for collectors that describe their families.
    for family in families:
        kept = Metric(family.name, family.documentation, family.type, family.unit)
        kept.samples = [each for each in family.samples if not names.isdisjoint((family.name, each.name))]
        if kept.samples:
            yield kept
