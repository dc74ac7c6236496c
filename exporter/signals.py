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
from typing import Self

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})


class Signals:
    """Some signals, caught and waited for in turn; a context manager for the main thread.

    The C library's wait for a signal does not survive a process that is stopped and continued. So the interpreter's
    handler writes the number of each signal into a pipe, whichever thread it interrupts, and that is waited for.
    """

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        """Get ready to catch these signals from the start of the context on."""
        self._numbers = frozenset(numbers)
        self._stack = contextlib.ExitStack()
        # A pipe takes 65,536 signals before one is lost.
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
        # What ends the process still listens, should the interpreter hang on its way out.
        if not self._ending:
            self._stack.close()
            os.close(self._reader)
            os.close(self._writer)

    def wait(self, seconds: float) -> signal.Signals | None:
        """The next signal, or None where none comes within so many seconds."""
        deadline = time.monotonic() + seconds
        while not self._received and (left := deadline - time.monotonic()) > 0:
            if select.select([self._reader], [], [], left)[0]:
                for number in os.read(self._reader, 4096):
                    # Other signals that Python handles are written there, too. One that waits already is one.
                    if number in self._numbers and number not in self._received:
                        self._received.append(signal.Signals(number))
        return self._received.popleft() if self._received else None

    @contextlib.contextmanager
    def ending_at_once(self, before: Callable[[], object]) -> Iterator[None]:
        """Meanwhile SIGTERM or SIGINT ends the process with 0 at once, even where the main thread hangs, on a disk for
        example.

        Args:
            before: Called before that.
        """
        over = threading.Event()

        def watch() -> None:
            while not over.is_set():
                if self.wait(0.05) in STOP_SIGNALS:
                    try:
                        before()
                    finally:
                        os._exit(0)

        watching = threading.Thread(target=watch, name="start", daemon=True)
        watching.start()
        try:
            yield
        finally:
            over.set()
            watching.join()

    def end_within(self, seconds: float, too_late: Callable[[], object]) -> None:
        """Make sure that the process ends, now that it has been told to, whatever its other threads wait for.

        A further SIGTERM or SIGINT ends it at once, with 128 and the signal's number.

        Args:
            seconds: How long it may take.
            too_late: Called when that was not enough; the process then ends with 0.
        """

        def watch() -> None:
            deadline = time.monotonic() + seconds
            while (left := deadline - time.monotonic()) > 0:
                number = self.wait(left)
                if number in STOP_SIGNALS:
                    os._exit(128 + number)
            try:
                too_late()
            finally:
                os._exit(0)

        self._ending = True
        threading.Thread(target=watch, name="end", daemon=True).start()


def interrupt_on_stop() -> None:
    """Let the first SIGTERM or SIGINT raise KeyboardInterrupt in the main thread, and the next end the process."""
    for number in STOP_SIGNALS:
        signal.signal(number, _interrupt)


def _caught(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the number is in the pipe."""


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    # What is being cleaned up can hang, too.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt
