"""The API's time when this machine's clock is wrong: at the first start, as a step at run time, after a restart.

The real client, ledger and poller run against the simulated API. The machine has its own clock.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from exporter.assembly import Polling
from exporter.clock import CLOCKS_AGREE, ApiClock
from exporter.config.settings import Settings
from exporter.counting.windows import ended_before
from exporter.model import Group, Minute, Stream, Target
from exporter.polling.scheduler import Scheduler
from exporter.process_health import ProcessHealth
from exporter.serving.health import clock_problem
from exporter.serving.instruments import Instruments
from exporter.simulator.app import SimulatorApp
from exporter.simulator.faults import FaultSwitch
from exporter.simulator.series import World
from exporter.storage.state import State, open_state
from tests.support.audience import folder_in_memory, mark_history_known
from tests.support.direct import URL, DirectAdapter
from tests.support.fakes import FakeClock
from tests.support.world import final_values

pytestmark = pytest.mark.unmeasured

HOUR = 3600.0
DAY = 24 * HOUR
MERCHANT = "broadcaster"
WHOLE = Stream(MERCHANT, "", Target.PLAY_COUNT, Group.ALL)
KEYS = Stream(MERCHANT, "", Target.KEY_DELIVERY_COUNT, Group.ALL)
WRONG = [3 * HOUR, 3 * DAY, -3 * HOUR, -3 * DAY]


# All tests use its cache.
WORLD = World(seed=3, media=4)


class Machine:
    """A machine that runs the exporter, and an API whose clock is right.

    Attributes:
        true: The API's clock.
        wall: The clock of this machine, which can be set.
    """

    def __init__(self, path: Path, wrong: float) -> None:
        self.path = path
        self.true = FakeClock(1_780_000_000.0)
        self.wall = FakeClock(self.true.wall + wrong)
        self.world = WORLD
        self.switch = FaultSwitch(self.world, self.true.now)
        self.adapter = DirectAdapter(SimulatorApp(self.world, self.switch, self.true.now))
        self.media = min(self.world.catalog(MERCHANT))
        self.state: State
        self.polling: Polling
        self.first_start = self.true.wall
        self.lines: list[str] = []
        self.open()

    def open(self) -> None:
        """Start the exporter."""
        settings = Settings.model_validate(
            {
                "api": {"url": URL},
                "merchants": [
                    {
                        "id": MERCHANT,
                        "api_key": "k",
                        "mail_address": "ops@example.com",
                        "password": "p",
                        "collect": [{"target": "play_count"}, {"target": "key_delivery_count"}],
                        "media": [{"id": self.media}],
                    }
                ],
                "poll": {"concurrency": 1},
            }
        )
        self.state = open_state(self.path, self.wall.now)
        # The drop detector is not the subject, and its history of weeks takes longer than the tests.
        mark_history_known(self.state, MERCHANT, ["", self.media])
        self.polling = Polling(settings, self.state, Instruments(), self.wall, lambda: self.adapter)

    def close(self) -> None:
        """End the exporter."""
        self.polling.close()
        self.state.close()

    def restart(self) -> None:
        """End the exporter and start it again."""
        self.close()
        self.open()

    def run_minutes(self, minutes: int) -> None:
        """Run this number of minutes, each with a round and a scrape."""
        for _ in range(minutes):
            self.pass_time(60 - self.true.wall % 60 + 0.5)
            with capture_logs() as logs:
                self.polling.pollers[MERCHANT].round()
            self.polling.ledger.show_counted(self.polling.clock.now())
            self.lines += [f"{line['log_level']}: {line['event']}" for line in logs]

    def pass_time(self, seconds: float) -> None:
        """Advance both clocks."""
        self.true.advance(seconds)
        self.wall.advance(seconds)

    def through(self, stream: Stream = WHOLE) -> Minute:
        """The newest counted minute."""
        return self.polling.ledger.through(stream)

    def counted(self, stream: Stream = WHOLE) -> float:
        """The value of a counter without a label."""
        (series,) = self.polling.ledger.snapshot.merchants[MERCHANT].streams[stream].series
        assert series.total is not None
        return series.total

    def played(self, first: Minute, last: Minute) -> float:
        """The plays of the whole merchant in these minutes."""
        return sum(
            sum(final_values(self.world, MERCHANT, "", Target.PLAY_COUNT, Group.ALL, minute).values())
            for minute in range(first, last + 1)
        )

    @property
    def complete(self) -> Minute:
        """The newest minute that ended 2 minutes ago by the right clock."""
        return ended_before(self.true.wall, 120)

    @property
    def lost(self) -> int:
        """The number of lost minutes."""
        return self.polling.ledger.snapshot.merchants[MERCHANT].lost_minutes


@pytest.fixture
def machine(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Machine]:
    # Thousands of transactions do not wait for a disk.
    with folder_in_memory(tmp_path) as folder:
        made = Machine(Path(folder) / "state.db", getattr(request, "param", 0.0))
        yield made
        made.close()


@pytest.mark.parametrize("machine", WRONG, indirect=True)
def test_at_the_first_start_counting_begins_by_the_clock_of_the_api(machine: Machine) -> None:
    """However wrong this machine's clock is, exactly the plays since the start are counted, at once."""
    start = ended_before(machine.first_start, 120)
    machine.run_minutes(40)
    assert machine.through() == machine.complete
    assert machine.counted() == machine.played(start + 1, machine.complete)
    assert machine.lost == 0


@pytest.mark.parametrize("machine", [3 * HOUR, 3 * DAY, -3 * DAY], indirect=True)
def test_counting_continues_after_the_clock_was_corrected(machine: Machine) -> None:
    """The clock is corrected at run time, and again with a restart in between: no play is lost,
    none is counted twice.
    """
    start = ended_before(machine.first_start, 120)
    machine.run_minutes(20)
    machine.wall.wall = machine.true.wall
    machine.run_minutes(20)
    machine.restart()
    machine.run_minutes(20)
    assert machine.counted() == machine.played(start + 1, machine.complete)
    assert machine.lost == 0


@pytest.mark.parametrize("step", [26 * HOUR, -26 * HOUR, 3 * HOUR])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_clock_that_becomes_wrong_changes_nothing(machine: Machine, step: float, restarted: bool) -> None:
    """The wall clock steps by hours or days, and back: each minute is counted once, at its time, and none is lost."""
    start = ended_before(machine.first_start, 120)
    machine.run_minutes(15)
    machine.wall.wall += step
    if restarted:
        machine.restart()
    machine.run_minutes(15)
    assert machine.through() == machine.complete
    machine.wall.wall -= step
    if restarted:
        machine.restart()
    machine.run_minutes(15)
    assert machine.through() == machine.complete
    assert machine.counted() == machine.played(start + 1, machine.complete)
    assert machine.lost == 0
    assert machine.through(KEYS) <= machine.complete + 1


@pytest.mark.parametrize("ahead", [3 * HOUR, 26 * HOUR])
def test_a_state_file_that_is_ahead_is_rebased(machine: Machine, ahead: float) -> None:
    """A wrong clock has let empty minutes be counted. Counting continues at the right time, with a warning, and the
    plays before the error and since are counted once.
    """
    start = ended_before(machine.first_start, 120)
    machine.run_minutes(15)
    before = machine.counted(KEYS)
    with machine.state.transaction() as db:
        db.execute("UPDATE streams SET through = through + ?", (round(ahead / 60),))
    machine.restart()
    machine.run_minutes(31)
    assert machine.through() == machine.complete
    assert machine.counted() == machine.played(start + 1, machine.complete)
    assert machine.lost == 0
    assert [line for line in machine.lines if "ahead of the API's time" in line and "warning" in line]
    assert machine.counted(KEYS) >= before


@pytest.mark.parametrize("ahead", [3 * HOUR, 3 * DAY])
def test_a_stream_that_begins_in_the_future_begins_now(machine: Machine, ahead: float) -> None:
    """In a state file that began with a clock that was ahead, the plays from now on are counted, none of before."""
    with machine.state.transaction() as db:
        minutes = round(ahead / 60)
        db.execute(
            "UPDATE streams SET start = start + ?, through = through + ?, seen = seen + ?, kept_from = kept_from + ?, "
            "answered = 1",
            (minutes,) * 4,
        )
    machine.restart()
    machine.run_minutes(1)
    begun = machine.through()
    assert begun == machine.complete
    machine.run_minutes(30)
    assert machine.counted() == machine.played(begun + 1, machine.complete)


@pytest.mark.parametrize("machine", [3 * HOUR, -3 * HOUR], indirect=True)
def test_a_wrong_clock_is_reported(machine: Machine) -> None:
    """The snapshot has the difference, and the problem has the direction and the fix; both disappear when the clock is
    corrected.
    """
    assert machine.polling.snapshot().clock_offset == 0
    machine.run_minutes(2)
    wrong = machine.wall.wall - machine.true.wall
    assert machine.polling.snapshot().clock_offset == pytest.approx(wrong, abs=2)
    problem = clock_problem(machine.polling.snapshot().clock_offset)
    assert f"is 3h {'ahead of' if wrong > 0 else 'behind'} the API's" in problem
    machine.wall.wall = machine.true.wall
    machine.run_minutes(1)
    assert machine.polling.snapshot().clock_offset == 0


def test_a_suspended_machine_continues(machine: Machine) -> None:
    """After a suspend the monotonic clock is hours behind: the next answer brings the API's time,
    and nothing is lost.
    """
    start = ended_before(machine.first_start, 120)
    machine.run_minutes(15)
    machine.true.advance(5 * HOUR)
    machine.wall.wall += 5 * HOUR
    machine.run_minutes(15)
    assert machine.through() == machine.complete
    assert machine.counted() == machine.played(start + 1, machine.complete)
    assert machine.lost == 0


@pytest.mark.parametrize("leap", [3 * HOUR, 26 * HOUR])
def test_a_jump_of_the_monotonic_clock_changes_nothing(machine: Machine, leap: float) -> None:
    """When a virtual machine is moved, even the monotonic clock can jump: the next answer corrects the time."""
    start = ended_before(machine.first_start, 120)
    machine.run_minutes(15)
    machine.wall.advance(leap)
    machine.run_minutes(15)
    assert machine.through() == machine.complete
    assert machine.counted() == machine.played(start + 1, machine.complete)
    assert machine.lost == 0


def test_a_wrong_clock_is_logged_when_it_is_noticed_and_when_it_is_right(machine: Machine) -> None:
    """There is one warning, no matter how often the clock is checked, and one line when it is resolved."""
    schedule = Scheduler(machine.wall)
    health = ProcessHealth(machine.polling, machine.state, schedule, lambda: ())
    machine.run_minutes(1)
    with capture_logs() as logs:
        for wrong in (0.0, 3 * HOUR, 0.0):
            machine.wall.wall = machine.true.wall + wrong
            for _ in range(60):
                schedule._run_beat(health.beat)
                machine.pass_time(5)
    assert [line["log_level"] for line in logs] == ["warning", "info"]
    assert "clock is 3h ahead of the API's clock (Date header)" in logs[0]["event"]
    assert logs[1]["event"] == f"resolved: {logs[0]['event']}"


def test_small_differences_are_ignored() -> None:
    """Within half a minute, and while an answer took minutes, the machine's clock counts."""
    wall = FakeClock(1_000_000.0)
    clock = ApiClock(wall, lambda *_: None)
    for date, seconds in [(wall.wall - CLOCKS_AGREE, 0.1), (wall.wall + CLOCKS_AGREE, 0.1), (wall.wall - 150, 130.0)]:
        clock.answered(date, seconds)
        assert clock.now() == wall.wall
        assert clock.offset == 0
    clock.answered(wall.wall - CLOCKS_AGREE - 3, 0.1)
    assert clock.offset == pytest.approx(CLOCKS_AGREE + 3, abs=1)


def test_without_a_date_the_machine_uses_its_own_clock() -> None:
    """If the API sends no Date, the wall clock counts, whatever it does."""
    wall = FakeClock()
    clock = ApiClock(wall, lambda *_: None)
    wall.wall += DAY
    assert clock.now() == wall.wall
    assert clock.offset == 0
