"""The main thread waits for signals, whichever thread they interrupt."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from exporter.signals import Signals
from tests.support.processes import PATIENCE, Program, python


@pytest.fixture(autouse=True)
def _undo() -> None:
    """Each test restores the handlers; none of these signals may end the tests."""
    assert signal.getsignal(signal.SIGUSR1) == signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL


def test_signals_come_one_by_one() -> None:
    """Each signal is returned once, in order; without one, the wait ends in time with None."""
    with Signals([signal.SIGUSR1, signal.SIGUSR2]) as signals:
        assert signals.wait(0.01) is None
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            os.kill(os.getpid(), number)
        assert [signals.wait(PATIENCE), signals.wait(PATIENCE)] == [signal.SIGUSR1, signal.SIGUSR2]
        assert signals.wait(0.01) is None
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_a_signal_ends_the_wait_at_once() -> None:
    """The wait ends before its timeout, whichever thread the signal interrupts."""
    with Signals([signal.SIGUSR1]) as signals:
        thread = threading.Thread(target=lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR1))
        threading.Timer(0.1, thread.start).start()
        began = time.monotonic()
        assert signals.wait(2 * PATIENCE) == signal.SIGUSR1
        assert time.monotonic() - began < PATIENCE
        thread.join()


def test_other_signals_are_left_alone() -> None:
    """A signal that another handler catches is not returned."""
    before = signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        with Signals([signal.SIGUSR1]) as signals:
            os.kill(os.getpid(), signal.SIGUSR2)
            os.kill(os.getpid(), signal.SIGUSR1)
            assert signals.wait(PATIENCE) == signal.SIGUSR1
            assert signals.wait(0.01) is None
    finally:
        signal.signal(signal.SIGUSR2, before)


CLEANS_UP = """
import time
from exporter import signals
signals.interrupt_on_stop()
print("ready", flush=True)
try:
    time.sleep(600)
except KeyboardInterrupt:
    print("cleaning up", flush=True)
    time.sleep(600)
"""


@pytest.mark.unmeasured
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_a_command_that_cleans_up(number: signal.Signals, tmp_path: Path) -> None:
    """The first signal interrupts it; if its cleanup blocks, the second ends it."""
    with Program(python("-c", CLEANS_UP), tmp_path, {"PYTHONPATH": str(Path.cwd())}) as program:
        program.line("ready")
        program.send(number)
        program.line("cleaning up")
        program.send(number)
        assert program.ended() == -number
