"""Clocks, passed as arguments: the system's, a test's, and the API's in case this machine's clock is wrong."""

import threading
import time
from collections.abc import Callable
from typing import Protocol

# Seconds. If the clocks differ by more, the API's is used. Its Date has whole seconds, and answers take time.
CLOCKS_AGREE = 30.0


class Clock(Protocol):
    """The source of time for all code with side effects."""

    def now(self) -> float:
        """Unix seconds; they jump when the clock is set."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait; return early when the process is shutting down."""
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
        """Wait for some seconds, or until `stop` is called."""
        self._stopped.wait(max(0.0, seconds))

    def stop(self) -> None:
        """End every sleep, now and later."""
        self._stopped.set()


class ApiClock:
    """The API's time, which dates the API's minutes. Thread-safe.

    If the machine's clock were hours ahead, minutes in the future would be counted as empty. So the `Date` header of
    each answer is compared with this clock, and corrects it if they differ. After the first answer the time advances
    with the monotonic clock, so that setting the wall clock has no effect. Before it, and if the API sends no Date,
    this is the machine's wall clock.
    """

    def __init__(self, clock: Clock, on_correction: Callable[[float, float], None]) -> None:
        """Create a clock that shows the machine's time until the API's is known.

        Args:
            clock: The clock of the machine.
            on_correction: Called if the first Date shows that the time was wrong, with the seconds to add and the
                correct time.
        """
        self._clock = clock
        self._on_correction = on_correction
        self._mutex = threading.Lock()
        # The API's time minus the monotonic time; None until it is known. Read without the lock, which is atomic.
        self._ahead: float | None = None

    def now(self) -> float:
        """Unix seconds by the API's clock."""
        ahead = self._ahead
        return self._clock.now() if ahead is None else self._clock.monotonic() + ahead

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return self._clock.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait; return early when the process is shutting down."""
        self._clock.sleep(seconds)

    @property
    def offset(self) -> float:
        """Seconds that the machine's clock is ahead of the API's; 0 if they agree or the API's is unknown."""
        offset = 0.0 if self._ahead is None else self._clock.now() - self.now()
        return offset if abs(offset) > CLOCKS_AGREE else 0.0

    def answered(self, date: float, seconds: float) -> None:
        """Compare with the `Date` of an answer that has just arrived.

        Args:
            date: The API's time of the answer (whole Unix seconds).
            seconds: How long ago the request was sent.
        """
        with self._mutex:
            before = self._ahead
            received = self._clock.monotonic()
            sent = received - seconds
            wall = self._clock.now() - received
            for ahead in (wall, before):
                if ahead is not None and sent + ahead - 1 - CLOCKS_AGREE <= date <= received + ahead + CLOCKS_AGREE:
                    self._ahead = ahead
                    return
            self._ahead = date + 0.5 - received
            if before is None:
                self._on_correction(self._ahead - wall, received + self._ahead)
