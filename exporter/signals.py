"""The signals that a long-running command waits for."""

import contextlib
import os
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import NoReturn, Self

from exporter import logs

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})


class Signals:
    """Catches signals and returns them in order; a context manager for the main thread.

    `sigtimedwait` fails when the process is stopped and continued. So the interpreter writes the number of each signal
    into a pipe, whichever thread it interrupts, and `wait` reads the pipe.
    """

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        """Prepare to catch these signals in the context."""
        self._numbers = frozenset(numbers)
        self._stack = contextlib.ExitStack()
        # A pipe holds 65,536 signals before one is lost.
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._received: deque[signal.Signals] = deque()
        self._ending = False

    def __enter__(self) -> Self:
        before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._stack.callback(signal.set_wakeup_fd, before)
        for number in self._numbers:
            self._stack.callback(signal.signal, number, signal.signal(number, _caught))
        return self

    def __exit__(self, *exception: object) -> None:
        # The thread of `end_within` still needs the pipe, in case the interpreter hangs at exit.
        if not self._ending:
            self._stack.close()
            os.close(self._reader)
            os.close(self._writer)

    def wait(self, seconds: float) -> signal.Signals | None:
        """The next signal, or None if none arrives within some seconds."""
        deadline = time.monotonic() + seconds
        while not self._received and (left := deadline - time.monotonic()) > 0:
            if select.select([self._reader], [], [], left)[0]:
                for number in os.read(self._reader, 4096):
                    # Other signals that Python handles are written there too. A pending signal is kept once.
                    if number in self._numbers and number not in self._received:
                        self._received.append(signal.Signals(number))
        return self._received.popleft() if self._received else None

    @contextlib.contextmanager
    def ending_at_once(self, report: Callable[[], object]) -> Iterator[None]:
        """Let SIGTERM or SIGINT end the process with 0 at once meanwhile, even if a disk blocks the main thread.

        Args:
            report: Logs that the process ends.
        """
        finished = threading.Event()

        def watch() -> None:
            while not finished.is_set():
                if self.wait(0.05) in STOP_SIGNALS:
                    _end(report)

        watching = threading.Thread(target=watch, name="start", daemon=True)
        watching.start()
        try:
            yield
        finally:
            finished.set()
            watching.join()

    def end_within(self, seconds: float, report: Callable[[], object]) -> None:
        """Make sure that the process ends after a stop signal, even if other threads are blocked.

        Another SIGTERM or SIGINT ends it at once with 128 plus the signal's number.

        Args:
            seconds: The time allowed for the shutdown.
            report: Logs that the time is up; the process then ends with 0.
        """

        def watch() -> None:
            deadline = time.monotonic() + seconds
            while (left := deadline - time.monotonic()) > 0:
                number = self.wait(left)
                if number in STOP_SIGNALS:
                    os._exit(128 + number)
            _end(report)

        self._ending = True
        threading.Thread(target=watch, name="end", daemon=True).start()


def interrupt_on_stop() -> None:
    """Let the first SIGTERM or SIGINT raise KeyboardInterrupt in the main thread, and the next end the process."""
    for number in STOP_SIGNALS:
        signal.signal(number, _interrupt)


def _end(report: Callable[[], object]) -> NoReturn:
    try:
        report()
        logs.flush()
    finally:
        os._exit(0)


def _caught(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the number is in the pipe."""


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    # The cleanup can block too, so the next signal ends the process.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt
