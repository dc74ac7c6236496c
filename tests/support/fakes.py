"""A clock that tests turn by hand."""

import threading


class FakeClock:
    """Time that passes only when it is told to, or slept away.

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
