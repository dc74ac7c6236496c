"""Time as an argument: the system's, or a test's."""

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """What the parts with side effects ask for the time."""

    def now(self) -> float:
        """Unix seconds; they jump when somebody sets the clock."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait; less long when the process is to end."""
        ...


class SystemClock:
    """The computer's clock."""

    def __init__(self) -> None:
        self._stopped = threading.Event()

    def now(self) -> float:
        """Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait until the time is over or `stop` is called."""
        self._stopped.wait(max(0.0, seconds))

    def stop(self) -> None:
        """End every sleep, now and later."""
        self._stopped.set()
