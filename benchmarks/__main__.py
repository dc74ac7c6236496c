"""`python -m benchmarks`: run all benchmarks, or the named ones."""

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import (
    answers,
    connections,
    delay,
    drops,
    fleet,
    freshness,
    memory,
    replaying,
    scrape,
    simulation,
    startup,
)
from benchmarks.report import Table
from exporter import __version__, logs

# Each makes some tables, and gets a folder for its files, which it shares with the others.
BENCHMARKS: Mapping[str, Sequence[Callable[..., Table]]] = {
    "scrape": (scrape.run, scrape.run_polling),
    "connections": (connections.run,),
    "answers": (answers.run,),
    "memory": (memory.run,),
    "startup": (startup.run,),
    "freshness": (freshness.run,),
    "simulation": (simulation.run,),
    "planning": (simulation.run_planning,),
    "fleet": (fleet.run,),
    "replay": (replaying.run,),
    "drops": (drops.run,),
    "drops-long": (drops.run_long,),
    "drops-cost": (drops.run_cost,),
    "delay": (delay.run,),
}

# These run for minutes of real time; an argument sets the number.
TIMED = ("freshness", "fleet")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks and print a table of each.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all if none is given")
    parser.add_argument("--minutes", type=float, help=f"how long to measure; for {', '.join(TIMED)} alone")
    options = parser.parse_args(arguments)
    names, more = options.names, {} if options.minutes is None else {"minutes": options.minutes}
    if more and not set(names or BENCHMARKS) <= set(TIMED):
        parser.error(f"--minutes is for {', '.join(TIMED)}")
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    # As in the daemon, an event that is not logged costs nearly nothing.
    logs.setup("error")
    print(
        f"smartstream-exporter {__version__}, Python {platform.python_version()}, {os.cpu_count()} CPUs; "
        "medians, and in brackets the lowest and the highest",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        for name in names or BENCHMARKS:
            for run in BENCHMARKS[name]:
                print(f"\n{run(Path(folder), **more)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
