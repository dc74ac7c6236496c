"""The problems of the process itself: the state file, the configuration, the scheduler, the clock, the log."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from types import MappingProxyType

import structlog

from exporter import logs
from exporter.assembly import Polling
from exporter.polling.incidents import Incidents
from exporter.polling.scheduler import Scheduler
from exporter.serving.health import clock_problem
from exporter.storage.state import State
from exporter.views import ProblemView, Snapshot, Subject

log = structlog.get_logger("daemon")


# What logs these logs each error.
_LOGGED = (Subject.CONFIGURATION, Subject.MEDIA_FILES)


class ProcessHealth:
    """Reports problems of the process, and logs when they begin and when they are resolved."""

    def __init__(
        self,
        polling: Polling,
        state: State,
        schedule: Scheduler,
        configuration: Callable[[], Iterable[ProblemView]],
    ) -> None:
        self._configuration = configuration
        self._polling = polling
        self._state = state
        self._schedule = schedule
        self._incidents = Incidents()

    def snapshot(self) -> Snapshot:
        """The snapshot of the polling, with the problems of the process."""
        snapshot = replace(self._polling.snapshot(), problems=tuple(self._problems()))
        if self._state.problem is None:
            return snapshot
        # No request is sent while the state file cannot be written.
        merchants = {
            each.merchant_id: each if each.link is None else replace(each, link=replace(each.link, up=False))
            for each in snapshot.merchants.values()
        }
        return replace(snapshot, merchants=MappingProxyType(merchants))

    def beat(self) -> None:
        """Check the state file and log changes; called every few seconds."""
        self._state.probe()
        now = self._polling.clock.monotonic()
        problems = [each for each in self._problems() if each.subject not in _LOGGED]
        events = [self._incidents.report(problem.subject, problem.message, now) for problem in problems]
        events += self._incidents.settle(now, {(problem.subject, "") for problem in problems})
        for event in filter(None, events):
            (log.info if event.kind == "end" else log.warning)(event.line)

    def _problems(self) -> Iterator[ProblemView]:
        """The current problems, the worst first."""
        writing = self._state.problem
        if writing is not None:
            yield writing
        stopped = self._schedule.problem()
        if stopped is not None:
            yield ProblemView(Subject.POLLING, stopped, bad=True)
        yield from self._configuration()
        offset = self._polling.clock.offset
        if offset:
            yield ProblemView(Subject.CLOCK, clock_problem(offset))
        unread = logs.problem()
        if unread is not None:
            yield ProblemView(Subject.LOG, unread)
