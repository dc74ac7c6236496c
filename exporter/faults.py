"""Repeated faults told seldom: a line when one begins, a reminder while it goes on, a line when it has ended.

Pure: the time is an argument, and what is to be logged is returned. Without this an API that is down, or that
fails every other request, would fill the log with the same line.
"""

from collections.abc import Container
from dataclasses import dataclass
from typing import Literal

REMIND_EVERY = 15 * 60.0

# A fault that comes and goes within this time is one fault.
QUIET_FOR = 3 * 60.0


@dataclass(frozen=True, slots=True)
class FaultEvent:
    """Something to log about a fault.

    Attributes:
        kind: Whether it begins, goes on, or has ended.
        key: Which fault.
        message: What the newest report said.
        since: When it began (Unix seconds).
        count: How often it has been reported since.
    """

    kind: Literal["begin", "remind", "end"]
    key: str
    message: str
    since: float
    count: int


@dataclass(slots=True)
class _Fault:
    message: str
    since: float
    told: float
    newest: float
    count: int


class Faults:
    """The faults that go on now. For one thread at a time.

    A clock that was set back counts as time that has passed: better a line too many than an hour of silence.
    """

    def __init__(self, *, remind_every: float = REMIND_EVERY, quiet_for: float = QUIET_FOR) -> None:
        self._remind_every = remind_every
        self._quiet_for = quiet_for
        self._faults: dict[str, _Fault] = {}

    def report(self, key: str, message: str, now: float) -> FaultEvent | None:
        """Note that a fault has happened (again).

        Args:
            key: What makes it the same fault.
            message: What happened this time.
            now: When, Unix seconds.

        Returns:
            What to log, or None where enough has been said.
        """
        fault = self._faults.get(key)
        if fault is None:
            self._faults[key] = fault = _Fault(message, since=now, told=now, newest=now, count=1)
            return _event("begin", key, fault)
        fault.message, fault.newest = message, now
        fault.count += 1
        if 0 <= now - fault.told < self._remind_every:
            return None
        fault.told = now
        return _event("remind", key, fault)

    def settle(self, now: float, going_on: Container[str] = ()) -> list[FaultEvent]:
        """The faults that have ended, oldest first: those not reported for a while. Ends a round.

        Args:
            now: When, Unix seconds.
            going_on: Faults that have not ended, though nothing may be reported: nobody looks at what fails for long.
        """
        ended = [
            key
            for key, fault in self._faults.items()
            if key not in going_on and not 0 <= now - fault.newest < self._quiet_for
        ]
        return [_event("end", key, self._faults.pop(key)) for key in ended]


def _event(kind: Literal["begin", "remind", "end"], key: str, fault: _Fault) -> FaultEvent:
    return FaultEvent(kind, key, fault.message, fault.since, fault.count)
