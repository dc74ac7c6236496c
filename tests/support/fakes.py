"""A clock that tests advance."""

import threading

from exporter.model import MINUTE


class FakeClock:
    """Time that passes only when a test advances it or code sleeps; safe for use by several threads.

    Attributes:
        wall: Unix seconds.
        ticks: Monotonic seconds.
    """

    def __init__(self, wall: float = 1_750_000_000.0) -> None:
        self.wall = wall
        self.ticks = 1000.0
        self._mutex = threading.Lock()

    def now(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.ticks

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        with self._mutex:
            self.wall += seconds
            self.ticks += seconds

    def to_next_minute(self) -> None:
        """Let time pass until the next minute begins."""
        self.advance(MINUTE - self.wall % MINUTE)
