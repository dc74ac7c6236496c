"""Repeated faults told seldom: a line when one begins, a reminder ever more rarely, a line when it is resolved.

Pure: the time is an argument, and what is to be logged is returned. Without this an API that is down, or that
fails every other request, would fill the log with the same line, and so would many media that fail alike.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Literal

from exporter.wording import some

# A reminder comes when a fault is twice as old as at the line before, but not sooner and not later than this.
REMIND_FIRST, REMIND_LAST = 15 * 60.0, 6 * 3600.0

# A fault that comes and goes within this time is one fault.
QUIET_FOR = 3 * 60.0

# Of many that fail alike, so many are named.
NAMED = 3


@dataclass(frozen=True, slots=True)
class IncidentEvent:
    """Something to log about a fault, or about all that are alike.

    Attributes:
        kind: Whether it begins, goes on, or is resolved.
        key: Which kind of fault.
        message: What the newest report said, and what it is about.
        since: When it began (Unix seconds), the first of them.
        count: How often it has been reported since.
    """

    kind: Literal["begin", "remind", "end"]
    key: str
    message: str
    since: float
    count: int

    @property
    def line(self) -> str:
        """The message as it is logged."""
        return {"begin": "", "remind": "still failing: ", "end": "resolved: "}[self.kind] + self.message


@dataclass(slots=True)
class _Incident:
    name: str
    message: str
    since: float
    newest: float
    count: int = 1


@dataclass(slots=True)
class _Kind:
    """The faults that are alike, by name, and when something of them was last told (Unix seconds)."""

    since: float
    told: float
    faults: dict[str, _Incident]


class Incidents:
    """The faults that go on now. For one thread at a time.

    A clock that was set back counts as time that has passed: better a line too many than an hour of silence.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}

    def report(self, key: str, message: str, now: float, *, name: str = "") -> IncidentEvent | None:
        """Note that a fault has happened (again).

        Args:
            key: What kind of fault it is. Those of one kind share their reminders.
            message: What happened this time.
            now: When, Unix seconds.
            name: What it is about, where many can fail alike; with the kind it makes it the same fault.

        Returns:
            What to log where it begins, else None.
        """
        kind = self._kinds.setdefault(key, _Kind(now, now, {}))
        fault = kind.faults.get(name)
        if fault is not None:
            fault.message, fault.newest = message, now
            fault.count += 1
            return None
        kind.faults[name] = fault = _Incident(name, message, since=now, newest=now)
        return _event("begin", key, [fault])

    def settle(self, now: float, going_on: Container[tuple[str, str]] = ()) -> list[IncidentEvent]:
        """What to log at the end of a round: for each kind what is resolved, and a reminder where it is time.

        Args:
            now: When, Unix seconds.
            going_on: Kind and name of faults that go on, though nothing may be reported: nobody looks at what fails
                for long.
        """
        events = []
        for key, kind in list(self._kinds.items()):
            ended = [
                fault
                for name, fault in kind.faults.items()
                if (key, name) not in going_on and not 0 <= now - fault.newest < QUIET_FOR
            ]
            for fault in ended:
                del kind.faults[fault.name]
            if ended:
                events.append(_event("end", key, ended))
            if not kind.faults:
                del self._kinds[key]
            elif not 0 <= now - kind.told < min(max(kind.told - kind.since, REMIND_FIRST), REMIND_LAST):
                kind.told = now
                events.append(_event("remind", key, list(kind.faults.values())))
        return events


def _event(kind: Literal["begin", "remind", "end"], key: str, faults: Sequence[_Incident]) -> IncidentEvent:
    """What to log of faults of one kind, the oldest first."""
    message, names = faults[0].message, [fault.name for fault in faults]
    if len(names) > 1:
        message = f"{len(names)} streams or media ({some(names, NAMED)}): {message}"
    elif names[0]:
        message = f"{names[0]}: {message}"
    return IncidentEvent(kind, key, message, faults[0].since, sum(fault.count for fault in faults))
