"""The scheduler: a round of each merchant after each minute's settling, and a heartbeat."""

import contextlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import structlog
from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MAX_INSTANCES, JobEvent
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from exporter.clock import Clock
from exporter.wording import some

log = structlog.get_logger("schedule")

# How often, in seconds, counters that may show what they have counted are looked for.
BEAT = 5

# Many merchants begin their rounds one after the other. Were it all at once, each answer would take as long as all take
# together, and the budgets count from an answer. Where this would take longer than so many seconds, more begin in each.
ROUNDS_A_SECOND = 6
SPREAD = 55

# The job threads, far more than merchants. They begin as they are needed.
MOST_THREADS = 10_000

# Without a beat for so long, the process does not work.
LONGEST_PAUSE = 120.0

# A round ends after a minute at the latest, except for requests under way. The remaining time is a margin for a slow
# machine.
LONGEST_ROUND = 240.0

# Of many merchants, so many are named.
NAMED = 3

# By so much wall and monotonic time may come apart before the clock is taken to have been set.
JUMP = 2.0


class Scheduler:
    """Runs jobs each minute on threads of their own, so that one that hangs delays no other.

    Attributes:
        last_beat: When the heartbeat last ran (monotonic seconds).
    """

    def __init__(self, clock: Clock) -> None:
        """Begin nothing yet."""
        self._clock = clock
        self._offset = self._drift()
        # By merchant: what is called each minute, and at which second.
        self._rounds: Mapping[str, tuple[Callable[[], None], int]] = {}
        # Heartbeats since a round of each merchant ended well. Not seconds: while the process is frozen, none passes.
        self._beats: dict[str, int] = {}
        self._scheduler: BackgroundScheduler | None = None
        self.last_beat = clock.monotonic()

    def start(self, beat: Callable[[], None], *others: Callable[[], None], hourly: Callable[[], None]) -> None:
        """Begin to call what is due.

        Args:
            beat: Called every few seconds. It must not wait for what can hang.
            others: Called as often, each by itself.
            hourly: Called every hour.
        """
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(MOST_THREADS)},
            # Without a grace time no run is skipped for being late.
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        self._scheduler.add_listener(_log_event, EVENT_JOB_ERROR | EVENT_JOB_MAX_INSTANCES)
        self._scheduler.add_job(
            self._run_beat, CronTrigger(second=f"*/{BEAT}", timezone=UTC), args=(beat,), id="heartbeat"
        )
        for place, other in enumerate(others):
            self._scheduler.add_job(
                other, CronTrigger(second=f"*/{BEAT}", timezone=UTC), id=f"every few seconds {place}"
            )
        self._scheduler.add_job(hourly, IntervalTrigger(hours=1, timezone=UTC), id="hourly")
        self._scheduler.start()

    def plan(self, second: int, rounds: Mapping[str, Callable[[], None]]) -> None:
        """Begin a round of each of these merchants every minute, and of no others; of new ones also one now.

        For one thread at a time.

        Args:
            second: Of each minute; the rounds begin then or soon after.
            rounds: By merchant, what is called.
        """
        if self._scheduler is None:
            raise RuntimeError("plan before start")
        before = self._rounds
        planned: dict[str, tuple[Callable[[], None], int]] = {}
        for place, (merchant_id, job) in enumerate(rounds.items()):
            later = place * SPREAD // max(len(rounds), SPREAD * ROUNDS_A_SECOND)
            planned[merchant_id] = job, (second + later) % 60
        self._rounds = planned
        self._beats = {merchant_id: self._beats.get(merchant_id, 0) for merchant_id in rounds}
        for merchant_id in before.keys() - rounds.keys():
            self._scheduler.remove_job(f"round {merchant_id}")
        for merchant_id, (job, at) in planned.items():
            if before.get(merchant_id) == (job, at):
                continue
            trigger, now = CronTrigger(second=at, timezone=UTC), datetime.now(UTC)
            self._scheduler.add_job(
                self._run_round,
                trigger,
                args=(merchant_id, job),
                id=f"round {merchant_id}",
                replace_existing=True,
                next_run_time=now if merchant_id not in before else trigger.get_next_fire_time(None, now),
            )

    def stop(self) -> None:
        """Begin no more jobs; those that run are not waited for."""
        if self._scheduler is not None:
            self._scheduler.shutdown(wait=False)

    def watch_clock(self) -> None:
        """Plan again after the clock was set: the scheduler may sleep until a time that is now far away."""
        offset = self._drift()
        if abs(offset - self._offset) > JUMP and self._scheduler is not None:
            log.warning("the clock was set", seconds=round(offset - self._offset, 1))
            for job in self._scheduler.get_jobs():
                # A reload may have removed it meanwhile.
                with contextlib.suppress(JobLookupError):
                    job.reschedule(job.trigger)
        self._offset = offset

    def problem(self) -> str | None:
        """Why nothing is polled, or of which merchants no round has ended well for too long; None where all is well."""
        pause = self._clock.monotonic() - self.last_beat
        if pause > LONGEST_PAUSE:
            return f"no heartbeat for {pause:.0f} s; restart the exporter if this continues"
        stuck = [merchant_id for merchant_id, beats in self._beats.copy().items() if beats * BEAT > LONGEST_ROUND]
        if not stuck:
            return None
        return (
            f"no round of requests has ended for {LONGEST_ROUND / 60:g} minutes for {some(stuck, NAMED)}; "
            "the log shows why; restart the exporter if this continues"
        )

    def _drift(self) -> float:
        return self._clock.now() - self._clock.monotonic()

    def _run_beat(self, beat: Callable[[], None]) -> None:
        self.last_beat = self._clock.monotonic()
        for merchant_id in self._beats:
            self._beats[merchant_id] += 1
        beat()

    def _run_round(self, merchant_id: str, job: Callable[[], None]) -> None:
        job()
        if merchant_id in self._beats:
            self._beats[merchant_id] = 0


def _log_event(event: JobEvent) -> None:
    if event.code == EVENT_JOB_ERROR:
        # A round catches what it expects. This is a defect; the next round is tried all the same.
        log.error("a job failed", job=event.job_id, exc_info=event.exception)
    else:
        log.debug("a job still runs at its next start", job=event.job_id)
