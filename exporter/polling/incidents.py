"""Incidents: one log line when an error begins, reminders at growing intervals, one line when it is resolved.

Pure: the time is an argument, and the events to log are returned. Without this, an API that is down or that fails
every other request would fill the log with the same line. So would many media with the same error.
"""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from exporter.wording import some

# A reminder comes when an incident is twice as old as at the line before, within these limits (seconds).
REMIND_FIRST, REMIND_LAST = 15 * 60.0, 6 * 3600.0

# Errors that come back within this time (seconds) belong to one incident.
QUIET_FOR = 3 * 60.0

# Of many incidents of one kind, so many are named.
NAMED = 3


@dataclass(frozen=True, slots=True)
class IncidentEvent:
    """Something to log about one incident, or about all of one kind.

    Attributes:
        kind: Whether it begins, continues, or is resolved.
        key: The kind of incident.
        message: The newest error, and what it concerns.
        since: When the first of them began (Unix seconds).
        count: How many errors have been reported since.
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
    """The incidents of one kind, by name, and when they were last logged (Unix seconds)."""

    since: float
    logged: float
    incidents: dict[str, _Incident]


class Incidents:
    """The open incidents. For one thread at a time.

    A clock that was set back counts as time that has passed: better a line too many than an hour of silence.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}

    def report(self, key: str, message: str, now: float, *, name: str = "") -> IncidentEvent | None:
        """Note an error: it opens an incident, or belongs to an open one.

        Args:
            key: The kind of incident. Those of one kind share their reminders.
            message: The error.
            now: When, Unix seconds.
            name: What it concerns, if many can fail in the same way. Kind and name identify an incident.

        Returns:
            The event to log if an incident begins, else None.
        """
        kind = self._kinds.setdefault(key, _Kind(now, now, {}))
        incident = kind.incidents.get(name)
        if incident is not None:
            incident.message, incident.newest = message, now
            incident.count += 1
            return None
        kind.incidents[name] = incident = _Incident(name, message, since=now, newest=now)
        return _event("begin", key, [incident])

    def forget(self, names: Iterable[tuple[str, str]]) -> None:
        """Forget incidents by kind and name, without an event: the configuration does not have what they concern."""
        for key, name in names:
            kind = self._kinds.get(key)
            if kind is not None and name in kind.incidents:
                del kind.incidents[name]
                if not kind.incidents:
                    del self._kinds[key]

    def settle(self, now: float, still_open: Container[tuple[str, str]] = ()) -> list[IncidentEvent]:
        """The events to log at the end of a round: for each kind what is resolved, and a reminder if it is time.

        Args:
            now: When, Unix seconds.
            still_open: Kind and name of incidents that are open though no error is reported: in backoff, nothing is
                requested.
        """
        events = []
        for key, kind in list(self._kinds.items()):
            ended = [
                incident
                for name, incident in kind.incidents.items()
                if (key, name) not in still_open and not 0 <= now - incident.newest < QUIET_FOR
            ]
            for incident in ended:
                del kind.incidents[incident.name]
            if ended:
                events.append(_event("end", key, ended))
            if not kind.incidents:
                del self._kinds[key]
            elif not 0 <= now - kind.logged < min(max(kind.logged - kind.since, REMIND_FIRST), REMIND_LAST):
                kind.logged = now
                events.append(_event("remind", key, list(kind.incidents.values())))
        return events


def _event(kind: Literal["begin", "remind", "end"], key: str, incidents: Sequence[_Incident]) -> IncidentEvent:
    """The event for incidents of one kind, the oldest first."""
    message, names = incidents[0].message, [incident.name for incident in incidents]
    if len(names) > 1:
        message = f"{len(names)} streams or media ({some(names, NAMED)}): {message}"
    elif names[0]:
        message = f"{names[0]}: {message}"
    return IncidentEvent(kind, key, message, incidents[0].since, sum(incident.count for incident in incidents))
