"""The simulated API in a separate process, on a manual clock."""

import contextlib
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection

from exporter import logs
from exporter.simulator.app import SimulatorApp
from exporter.simulator.faults import Faults, FaultSwitch
from exporter.simulator.series import World
from exporter.simulator.server import SimulatorServer

_PROCESSES = get_context("spawn")


class ManualClock:
    """A clock that advances only by `advance` and `sleep`; shared with the processes that get it."""

    def __init__(self, now: float) -> None:
        self._now = _PROCESSES.RawValue("d", now)

    def now(self) -> float:
        """Unix seconds."""
        return float(self._now.value)

    def monotonic(self) -> float:
        """The same, as this clock is never set."""
        return self.now()

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self._now.value += seconds


@contextlib.contextmanager
def simulated_api(clock: ManualClock, media: int) -> Iterator[str]:
    """A simulated API without faults, with a very high limit and this number of media; yields its URL."""
    ours, theirs = _PROCESSES.Pipe()
    process = _PROCESSES.Process(target=_serve, args=(theirs, clock, media), daemon=True)
    process.start()
    # With this end closed here, the other end shows when the process has died.
    theirs.close()
    try:
        yield ours.recv()
    finally:
        ours.close()
        process.join()
        process.close()


def _serve(connection: Connection, clock: ManualClock, media: int) -> None:
    logs.setup("error")
    world = World(media=media)
    faults = Faults(rate_limit=1_000_000, token_life=1_000_000)
    with SimulatorServer(SimulatorApp(world, FaultSwitch(world, clock.now, faults), clock.now)) as server:
        connection.send(server.url)
        # Until the other end is closed.
        connection.poll(None)
