"""An alert on a ratio alone, as Prometheus evaluates it: the rules that the drop detector is compared with."""

from typing import NamedTuple

from exporter.model import Minute

# Of an alert, in minutes, as alerting rules have it: `for` and `keep_firing_for`.
PENDING, KEPT = 2, 10


class Change(NamedTuple):
    """An alert begins or ends.

    Attributes:
        minute: The minute of data in which it does.
        firing: Whether it begins.
    """

    minute: Minute
    firing: bool


class Alarm:
    """An alert of the drop ratio, as Prometheus would have it that evaluates once in each minute of data."""

    __slots__ = ("_above", "_newest", "_pending", "_since", "_threshold", "firing")

    def __init__(self, threshold: float, pending: int = PENDING) -> None:
        """Make one that does not fire.

        Args:
            threshold: What the ratio must exceed.
            pending: For how many minutes before the alert begins.
        """
        self._pending = pending
        self._threshold = threshold
        self._newest: Minute | None = None
        # The first minute in a row above the threshold, and the newest above it.
        self._since: Minute | None = None
        self._above = 0
        self.firing = False

    def step(self, minute: Minute, ratio: float | None) -> Change | None:
        """Take the next minute; those left out are missing.

        Args:
            minute: Later than the one before.
            ratio: None if it is missing.

        Returns:
            What has changed. After a long gap the end lies in it.
        """
        if self._newest is not None and minute > self._newest + 1:
            self._since = None
        self._newest = minute
        high = ratio is not None and ratio > self._threshold
        change = None
        # The first minute that is not above it begins the wait.
        end = self._above + 1 + KEPT
        if self.firing and (minute > end or (minute == end and not high)):
            self.firing = False
            change = Change(end, firing=False)
        if not high:
            self._since = None
            return change
        self._above = minute
        if self._since is None:
            self._since = minute
        if not self.firing and minute >= self._since + self._pending:
            self.firing = True
            change = Change(minute, firing=True)
        return change
