"""The scheduler: a round of each merchant after each minute's settling, and a heartbeat."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import structlog
from apscheduler.events import (
    EVENT_JOB_ERROR,
    EVENT_JOB_MAX_INSTANCES,
    EVENT_JOB_MISSED,
    JobEvent,
)
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from exporter.clock import Clock

log = structlog.get_logger("schedule")

# How often, in seconds, counters that may show what they have counted are looked for.
BEAT = 5

# Many merchants begin their rounds one after the other. Were it all at once, each answer would take as long as all take
# together, and the budgets count from an answer. Where this would take longer than so many seconds, more begin in each.
ROUNDS_A_SECOND = 6
SPREAD = 45

# Without a beat for so long, the process does not work.
LONGEST_PAUSE = 120.0

# By so much wall and monotonic time may come apart before the clock is taken to have been set.
JUMP = 2.0


class Schedule:
    """Runs jobs each minute on threads of their own, so that one that hangs delays no other.

    Attributes:
        last_beat: When the heartbeat last ran (monotonic seconds).
    """

    def __init__(self, clock: Clock, beat: Callable[[], None], rounds: Mapping[str, Callable[[], None]]) -> None:
        """Plan the jobs; `start` begins them.

        Args:
            clock: The clock.
            beat: Called every few seconds.
            rounds: By merchant, what is called each minute.
        """
        self._clock = clock
        self._beat = beat
        self._rounds = rounds
        self._offset = self._drift()
        self._scheduler: BackgroundScheduler | None = None
        self.last_beat = clock.monotonic()

    def start(self, second: int) -> None:
        """Begin a first round of each merchant now, and from then on one each minute, at this second or soon after."""
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(len(self._rounds) + 1)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        self._scheduler.add_listener(_log_event, EVENT_JOB_ERROR | EVENT_JOB_MISSED | EVENT_JOB_MAX_INSTANCES)
        self._scheduler.add_job(self._run_beat, CronTrigger(second=f"*/{BEAT}", timezone=UTC), id="heartbeat")
        for place, (merchant_id, job) in enumerate(self._rounds.items()):
            later = place * SPREAD // max(len(self._rounds), SPREAD * ROUNDS_A_SECOND)
            self._scheduler.add_job(
                job,
                CronTrigger(second=(second + later) % 60, timezone=UTC),
                id=f"round {merchant_id}",
                next_run_time=datetime.now(UTC),
            )
        self._scheduler.start()

    def stop(self) -> None:
        """Begin no more jobs; those that run are not waited for."""
        if self._scheduler is not None:
            self._scheduler.shutdown(wait=False)

    def watch_clock(self) -> None:
        """Plan anew after the clock was set: the scheduler sleeps until a time that may now be far away."""
        offset = self._drift()
        if abs(offset - self._offset) > JUMP and self._scheduler is not None:
            log.warning("the clock was set", seconds=round(offset - self._offset, 1))
            for job in self._scheduler.get_jobs():
                job.reschedule(job.trigger)
        self._offset = offset

    def pause(self) -> float:
        """Seconds since the last heartbeat."""
        return self._clock.monotonic() - self.last_beat

    def _drift(self) -> float:
        return self._clock.now() - self._clock.monotonic()

    def _run_beat(self) -> None:
        self.last_beat = self._clock.monotonic()
        self._beat()


def _log_event(event: JobEvent) -> None:
    if event.code == EVENT_JOB_ERROR:
        # A round catches what it expects. This is a defect; the next round is tried all the same.
        log.error("a job failed", job=event.job_id, exc_info=event.exception)
    elif event.code == EVENT_JOB_MISSED:
        log.warning("a job was missed", job=event.job_id)
    else:
        log.debug("a job goes on past its next start", job=event.job_id)
