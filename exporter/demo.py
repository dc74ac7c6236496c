"""The demo: a simulated API on a local port, and the settings of a broadcaster for it."""

import contextlib
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from exporter.config.settings import Settings
from exporter.simulator.app import SimulatorApp
from exporter.simulator.command import config_for
from exporter.simulator.faults import Faults, FaultSwitch
from exporter.simulator.gate import Credentials
from exporter.simulator.series import World
from exporter.simulator.server import SimulatorServer


@contextlib.contextmanager
def simulated() -> Iterator[Settings]:
    """Run a simulated API; yield settings for it, with a temporary state file."""
    # The log of every request would hide the log of the exporter.
    logging.getLogger("exporter.simulator").setLevel(logging.WARNING)
    world = World(seed=1)
    faults = Faults(late_jitter=0.5, revise_up=0.2)
    app = SimulatorApp(world, FaultSwitch(world, time.time, faults), time.time)
    with SimulatorServer(app) as server, tempfile.TemporaryDirectory() as folder:
        settings = config_for(world, server.url, Credentials())
        yield Settings.model_validate(settings | {"storage": {"path": Path(folder) / "state.db"}})
