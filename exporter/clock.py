"""Time as an argument: the system's, or a test's; and the API's, where this machine's clock is wrong."""

import threading
import time
from collections.abc import Callable
from typing import Protocol

# By so many seconds the clocks may differ before the API's counts: its Date has whole seconds, and answers take time.
CLOCKS_AGREE = 30.0


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


class ApiClock:
    """A clock that shows the API's time, for all that is about minutes of the API. Safe for use by several threads.

    The API's rows are dated by the API's clock. A machine whose clock is hours ahead would take minutes as empty that
    have not been yet. So the `Date` header of each answer is compared with this clock, and counts where they differ.
    After the first answer the time goes on by the monotonic clock: a wall clock that is set then moves nothing. Until
    then, and where the API sends no Date, it is the machine's wall clock.

    Attributes:
        on_correction: Called when the first Date shows that the time until then was wrong, with the seconds to add and
            the time as it is.
    """

    def __init__(self, clock: Clock) -> None:
        """Show the time of the machine's clock, until the API's is known."""
        self.on_correction: Callable[[float, float], None] = _ignore
        self._clock = clock
        self._mutex = threading.Lock()
        # The API's time less the monotonic time, once it is known. One reference: it is read without the lock.
        self._ahead: float | None = None

    def now(self) -> float:
        """Unix seconds by the API's clock."""
        ahead = self._ahead
        return self._clock.now() if ahead is None else self._clock.monotonic() + ahead

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return self._clock.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait; less long when the process is to end."""
        self._clock.sleep(seconds)

    @property
    def offset(self) -> float:
        """Seconds by which the machine's clock is ahead of the API's; 0 where they agree, or nothing is known."""
        offset = 0.0 if self._ahead is None else self._clock.now() - self.now()
        return offset if abs(offset) > CLOCKS_AGREE else 0.0

    def answered(self, date: float, seconds: float) -> None:
        """Compare with the `Date` of an answer that has just come.

        Args:
            date: The API's time when it answered (Unix seconds, whole ones).
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
                self.on_correction(self._ahead - wall, received + self._ahead)


def _ignore(*_: float) -> None:
    """Nobody depends on the time yet."""
