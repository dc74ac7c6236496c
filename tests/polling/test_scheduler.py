"""The schedule, with the real scheduler: when jobs run, and that no job delays another."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog
from apscheduler.events import EVENT_JOB_MAX_INSTANCES, JobEvent
from apscheduler.job import Job

from exporter.clock import SystemClock
from exporter.polling.scheduler import BEAT, LONGEST_PAUSE, LONGEST_ROUND, SPREAD, Scheduler, _log_event
from tests.support.fakes import FakeClock
from tests.support.processes import PATIENCE

Start = Callable[..., Scheduler]


def nothing() -> None:
    """Do nothing."""


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts schedules, and stops them after the test."""
    started = []

    def begin(
        rounds: dict[str, Callable[[], None]],
        beat: Callable[[], None] = nothing,
        clock: Any = None,
        second: int = 30,
        hourly: Callable[[], None] = nothing,
    ) -> Scheduler:
        schedule = Scheduler(clock or SystemClock())
        started.append(schedule)
        schedule.start(beat, hourly=hourly)
        schedule.plan(second, rounds)
        return schedule

    yield begin
    for schedule in started:
        if schedule._scheduler is not None and schedule._scheduler.running:
            schedule.stop()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """An event on which jobs hang; it is set at the end of the test at the latest."""
    event = threading.Event()
    yield event
    event.set()


def jobs(schedule: Scheduler) -> dict[str, Job]:
    assert schedule._scheduler is not None
    return {job.id: job for job in schedule._scheduler.get_jobs()}


def next_runs(schedule: Scheduler) -> dict[str, datetime]:
    return {name: job.next_run_time for name, job in jobs(schedule).items()}


def test_a_round_begins_at_once_and_then_at_its_second(start: Start) -> None:
    """Each merchant's first round runs at once, and the next one begins at the given second within a minute."""
    ran = {name: threading.Event() for name in ("one", "two")}
    schedule = start({name: event.set for name, event in ran.items()}, second=17)
    assert all(event.wait(PATIENCE) for event in ran.values())
    runs = next_runs(schedule)
    for name in ran:
        following = runs[f"round {name}"]
        assert (following.second, following.microsecond) == (17, 0)
        assert following - datetime.now(UTC) <= timedelta(minutes=1)


def test_what_is_hourly_runs_each_hour(start: Start) -> None:
    """For the first time after an hour."""

    def search() -> None:
        """Do nothing."""

    schedule = start({}, hourly=search)
    job = jobs(schedule)["hourly"]
    now = datetime.now(UTC)
    assert job.func is search
    assert timedelta(minutes=59) < job.next_run_time - now <= timedelta(hours=1)
    assert job.trigger.get_next_fire_time(job.next_run_time, job.next_run_time) - job.next_run_time == timedelta(
        hours=1
    )


def test_a_round_is_due_every_minute(start: Start) -> None:
    """From one run to the next there is exactly a minute."""
    schedule = start({"one": nothing}, second=0)
    trigger = jobs(schedule)["round one"].trigger
    first = datetime(2026, 11, 23, 23, 58, 30, tzinfo=UTC)
    second = trigger.get_next_fire_time(first, first)
    third = trigger.get_next_fire_time(second, second)
    assert [second, third] == [datetime(2026, 11, 23, 23, 59, tzinfo=UTC), datetime(2026, 11, 24, tzinfo=UTC)]


@pytest.mark.parametrize(("merchants", "together"), [(1, 1), (6, 6), (100, 6), (500, 10)])
def test_the_rounds_of_many_merchants_begin_one_after_another(start: Start, merchants: int, together: int) -> None:
    """The first begins at the given second and the others soon after. Only a limited number begins in the same second,
    and none so late that its round could not end before the next minute's.
    """
    schedule = start({f"merchant-{number}": nothing for number in range(merchants)}, second=50)
    planned = jobs(schedule)
    moment = datetime(2026, 11, 23, 23, 58, 50, tzinfo=UTC)
    delays = [
        int((planned[f"round merchant-{number}"].trigger.get_next_fire_time(None, moment) - moment).total_seconds())
        for number in range(merchants)
    ]
    assert delays[0] == 0
    assert delays == sorted(delays)
    assert max(Counter(delays).values()) == together
    assert set(delays) == set(range(max(delays) + 1))
    assert max(delays) < SPREAD


def test_the_pause_grows_until_a_heartbeat(start: Start) -> None:
    """Without a heartbeat for too long there is a problem, and a heartbeat ends it; a heartbeat that is only a little
    late is no problem.
    """
    clock = FakeClock()
    silent = Scheduler(clock)
    schedule = start({}, clock=clock)
    clock.advance(10 * BEAT)
    assert silent.problem() is None
    clock.advance(LONGEST_PAUSE)
    assert str(silent.problem()).startswith(f"no heartbeat for {10 * BEAT + LONGEST_PAUSE:.0f} s; ")
    wait_until(lambda: schedule.problem() is None)


@pytest.mark.parametrize("way", ["hangs", "fails"])
def test_a_round_that_does_not_end_is_a_problem(
    start: Start, gate: threading.Event, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """A round that hangs, or that ends with an error each time, is named after some time. If one has ended well, or
    while another merchant's rounds end well, there is no problem.
    """
    monkeypatch.setattr("exporter.polling.scheduler.LONGEST_ROUND", 3.0 * BEAT)
    begun = threading.Event()

    def sick() -> None:
        begun.set()
        if way == "fails" and not gate.is_set():
            raise RuntimeError("a defect")
        assert gate.wait(PATIENCE)

    with structlog.testing.capture_logs() as logs:
        schedule = start({"sick": sick, "well": nothing})
        assert begun.wait(PATIENCE)
        if way == "fails":
            wait_for_log(logs, "a job failed")
    for _ in range(4):
        schedule._run_round("well", nothing)
        schedule._run_beat(nothing)
    problem = schedule.problem()
    assert problem is not None
    assert problem.startswith("no round of requests has ended for 0.25 minutes for sick; ")
    gate.set()
    if way == "fails":
        schedule._run_round("sick", sick)
    wait_until(lambda: schedule.problem() is None)


def test_a_heartbeat_that_fails_is_a_heartbeat(start: Start) -> None:
    """The scheduler works even if the heartbeat's callback fails; the failure is logged."""
    beaten = threading.Event()

    def fail() -> None:
        beaten.set()
        raise RuntimeError("a defect")

    with structlog.testing.capture_logs() as logs:
        schedule = start({}, beat=fail)
        assert beaten.wait(PATIENCE)
        line = wait_for_log(logs, "a job failed")
    assert line["job"] == "heartbeat"
    assert schedule.problem() is None


def test_a_failing_job_is_logged_and_tried_again(start: Start) -> None:
    """A merchant's defect is logged as an error with the exception; the others run, and the job runs again at its next
    time.
    """
    ran = threading.Event()

    def fail() -> None:
        raise RuntimeError("a defect")

    with structlog.testing.capture_logs() as logs:
        schedule = start({"bad": fail, "good": ran.set})
        assert ran.wait(PATIENCE)
        line = wait_for_log(logs, "a job failed")
    assert (line["log_level"], line["job"], str(line["exc_info"])) == ("error", "round bad", "a defect")
    assert next_runs(schedule)["round bad"].second == 30


def test_a_hanging_job_delays_no_other(start: Start, gate: threading.Event) -> None:
    """While all merchants but one hang, that one runs, and so does the heartbeat."""
    ran, beaten = threading.Event(), threading.Event()

    def hang() -> None:
        gate.wait(PATIENCE)

    start({"one": hang, "two": hang, "three": ran.set}, beat=beaten.set)
    assert ran.wait(PATIENCE)
    assert beaten.wait(PATIENCE)
    assert not gate.is_set()


def test_a_hanging_job_is_not_started_again(start: Start, gate: threading.Event) -> None:
    """A round that is still under way at its next time continues alone."""
    begun = []
    running = threading.Event()

    def hang() -> None:
        begun.append(1)
        running.set()
        gate.wait(PATIENCE)

    with structlog.testing.capture_logs() as logs:
        schedule = start({"one": hang})
        assert running.wait(PATIENCE)
        jobs(schedule)["round one"].modify(next_run_time=datetime.now(UTC))
        line = wait_for_log(logs, "a job still runs at its next start")
    assert (line["log_level"], line["job"]) == ("debug", "round one")
    assert begun == [1]


def test_a_late_job_is_run(start: Start) -> None:
    """A job that was due hours ago, as after a suspend, runs once."""
    ran: list[int] = []
    twice = threading.Event()

    def run() -> None:
        ran.append(1)
        if len(ran) == 2:
            twice.set()

    schedule = start({"one": run})
    wait_until(lambda: len(ran) == 1)
    jobs(schedule)["round one"].modify(next_run_time=datetime.now(UTC) - timedelta(hours=3))
    assert twice.wait(PATIENCE)
    assert next_runs(schedule)["round one"].second == 30
    assert len(ran) <= 3


@pytest.mark.parametrize("step", [-3600.0, 3600.0, 3.0])
def test_a_changed_clock_is_noticed(start: Start, step: float) -> None:
    """After the clock was set, every job is scheduled again: its next run can have been an hour away."""
    clock = FakeClock()
    schedule = start({"one": nothing}, clock=clock)
    far = datetime.now(UTC) + timedelta(hours=1)
    for job in jobs(schedule).values():
        job.modify(next_run_time=far)
    clock.wall += step
    with structlog.testing.capture_logs() as logs:
        schedule.watch_clock()
        schedule.watch_clock()
    runs = next_runs(schedule)
    assert runs.pop("hourly") <= far + timedelta(minutes=1)
    assert all(run < far - timedelta(minutes=50) for run in runs.values())
    assert [(each["event"], each["seconds"]) for each in logs] == [("the clock was set", step)]


def test_passing_time_is_no_changed_clock(start: Start) -> None:
    """Neither an hour of sleep nor a slewed clock makes the scheduler schedule again."""
    clock = FakeClock()
    schedule = start({"one": nothing}, clock=clock)
    far = datetime.now(UTC) + timedelta(hours=1)
    for job in jobs(schedule).values():
        job.modify(next_run_time=far)
    clock.advance(3600)
    schedule.watch_clock()
    for _ in range(100):
        clock.advance(1)
        clock.wall += 0.5
        schedule.watch_clock()
    assert set(next_runs(schedule).values()) == {far}


def test_a_stop_does_not_wait(start: Start, gate: threading.Event) -> None:
    """A hanging round is left alone, and no other begins."""
    hanging = threading.Event()

    def hang() -> None:
        hanging.set()
        gate.wait(PATIENCE)

    schedule = start({"one": hang})
    assert hanging.wait(PATIENCE)
    schedule.stop()
    assert not gate.is_set()
    assert schedule._scheduler is not None
    assert not schedule._scheduler.running


def test_a_schedule_that_was_not_started_can_be_stopped_and_watched() -> None:
    """Neither call needs a scheduler."""
    clock = FakeClock()
    schedule = Scheduler(clock)
    clock.wall += 3600
    schedule.watch_clock()
    schedule.stop()


def test_skipped_runs_are_logged() -> None:
    """They are no warning: a round that takes longer than a minute is usual where the budget is short."""
    with structlog.testing.capture_logs() as logs:
        _log_event(JobEvent(EVENT_JOB_MAX_INSTANCES, "round one", "default"))
    assert logs == [{"event": "a job still runs at its next start", "log_level": "debug", "job": "round one"}]


def wait_until(holds: Callable[[], bool]) -> None:
    waited = threading.Event()
    for _ in range(int(PATIENCE / 0.01)):
        if holds():
            return
        waited.wait(0.01)
    pytest.fail("it never came true")


def wait_for_log(logs: list[Any], event: str) -> dict[str, Any]:
    """The first log entry about an event, once there is one."""
    wait_until(lambda: any(entry["event"] == event for entry in logs))
    return next(entry for entry in logs if entry["event"] == event)


def test_merchants_come_and_go(start: Start) -> None:
    """A new merchant's first round begins at once and a removed one has no more; the others' times do not move. One
    whose last round still runs can be removed, and is no problem then.
    """
    one, ran, gate = threading.Event(), threading.Event(), threading.Event()
    schedule = start({"one": one.set, "two": gate.wait}, second=17)
    assert one.wait(PATIENCE)
    wait_until(lambda: next_runs(schedule)["round one"].second == 17)
    trigger = jobs(schedule)["round one"].trigger
    schedule.plan(17, {"one": one.set, "three": ran.set})
    assert ran.wait(PATIENCE)
    runs = next_runs(schedule)
    assert {name for name in runs if name.startswith("round")} == {"round one", "round three"}
    assert jobs(schedule)["round one"].trigger is trigger
    for _ in range(int(LONGEST_ROUND // BEAT) + 2):
        schedule._run_round("one", nothing)
        schedule._run_round("three", nothing)
        schedule._run_beat(nothing)
    assert schedule.problem() is None
    schedule.plan(40, {"one": one.set})
    assert next_runs(schedule)["round one"].second == 40
    gate.set()


def test_a_round_of_a_removed_merchant_that_ends_later_is_no_problem(start: Start, gate: threading.Event) -> None:
    """Nobody counts heartbeats for it any more."""
    schedule = start({"one": gate.wait})
    schedule.plan(0, {})
    gate.set()
    wait_until(lambda: not schedule._beats)
    schedule._run_round("one", nothing)
    assert schedule._beats == {}
