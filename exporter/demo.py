"""The demo: a simulated API on a local port, the settings of a broadcaster for it, and a drop to look at."""

import contextlib
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from exporter.config.settings import Settings
from exporter.simulator.app import SimulatorApp
from exporter.simulator.command import config_for
from exporter.simulator.control import DEFAULT_MERCHANT
from exporter.simulator.faults import Faults, FaultSwitch
from exporter.simulator.gate import Credentials
from exporter.simulator.series import World
from exporter.simulator.server import SimulatorServer
from exporter.simulator.stage import LASTS, SHARE_LEFT, Drop, Stage, clock_time


@contextlib.contextmanager
def simulated() -> Iterator[tuple[Settings, Callable[[str], None]]]:
    """Run a simulated API.

    Yields:
        Settings for it, with a temporary state file; and what to call with the exporter's URL once it has started: it
        prints what there is to see, and stages a drop.
    """
    # The log of every request would hide the log of the exporter.
    logging.getLogger("exporter.simulator").setLevel(logging.WARNING)
    world = World(seed=1)
    switch = FaultSwitch(world, time.time, Faults(late_jitter=0.5, revise_up=0.05))
    app = SimulatorApp(world, switch, time.time)
    with (
        SimulatorServer(app) as server,
        Stage(world, switch, DEFAULT_MERCHANT, time.time) as stage,
        tempfile.TemporaryDirectory() as folder,
    ):
        settings = config_for(world, server.url, Credentials())
        # To make up weeks of history takes a while where the processor is busy.
        settings["api"]["timeout"] = "1m"
        control = server.url.removesuffix("/v1") + "/control/faults"

        def started(exporter: str) -> None:
            # After damage of the state file the exporter starts once more.
            if stage.drop is None:
                _welcome(stage.begin(exporter), exporter, control)

        yield Settings.model_validate(settings | {"storage": {"path": Path(folder) / "state.db"}}), started


def _welcome(drop: Drop, exporter: str, control: str) -> None:
    lines = (
        f"Status page:                {exporter}",
        f"A drop, from {clock_time(drop.begins)} UTC on:  {drop.page(exporter)}",
        f"  {1 - SHARE_LEFT:.0%} of the plays of {drop.media.name!r} will be missing for {LASTS / 60:.0f} minutes.",
        f"""Make every request fail:    curl -d '{{"error_rate": 1}}' {control}""",
        f"""End the errors:             curl -d '{{"error_rate": 0}}' {control}""",
    )
    # A closed standard output is no reason to stop.
    with contextlib.suppress(OSError):
        # One write: the log may be in the same terminal.
        print("".join(f"{line}\n" for line in lines), end="", flush=True)
