"""Journeys: the real client, ledger and request budget against the simulated API, on a fake clock.

Requests go over real HTTP while faults cut connections or delay responses. Otherwise they are function calls.

Each seed is another journey with faults, kills and restarts. At its end every counter must be the sum of the API's
final values since the first start, and no 60 seconds may have had more requests than the budget.
"""

import ast
import functools
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import requests
from pydantic import SecretStr

import exporter
from exporter.api.budget import RequestBudget
from exporter.api.connections import DeadlineAdapter
from exporter.assembly import Polling
from exporter.config.settings import MediaSettings, Settings, TlsSettings
from exporter.counting.windows import ended_before
from exporter.model import OTHER, Group, Minute, Stream, Target
from exporter.serving.instruments import Instruments
from exporter.simulator.app import SimulatorApp
from exporter.simulator.faults import Faults, FaultSwitch
from exporter.simulator.series import World
from exporter.simulator.server import SimulatorServer
from exporter.storage.state import State, open_state
from exporter.units import UNIT, from_units
from tests.support.audience import folder_in_memory, mark_history_known
from tests.support.direct import DirectAdapter
from tests.support.fakes import FakeClock
from tests.support.world import final_values

PACKAGE = str(Path(exporter.__file__).parent)
MERCHANT = "broadcaster"
HEALTHY: dict[str, Any] = Faults().model_dump(exclude={"drop"})

# Timeout of a request, in real seconds. Even a slow machine responds within it.
TIMEOUT = 2.0

# Each fault as it occurs in a journey. A value is final at most 18 minutes after its row could first exist, which is
# within the revision window of 30 minutes.
FAULTS: list[dict[str, Any]] = [
    {"late_minutes": 6.0, "late_jitter": 4.0},
    {"revise_up": 0.5, "revise_minutes": 8.0},
    {"revise_down": 0.5, "revise_minutes": 8.0},
    {"late_minutes": 3.0, "late_jitter": 3.0, "revise_up": 0.3, "revise_down": 0.3, "revise_minutes": 10.0},
    {"omit_zero": False},
    {"form": "object", "values": "nested"},
    {"form": "braced", "values": "pairs", "strings": True},
    {"nulls": True, "omit_zero": False, "total": True},
    {"error_rate": 0.3},
    {"error_rate": 1.0, "error_status": 503},
    {"hang_rate": 0.005, "hang_seconds": TIMEOUT + 0.5},
    {"cut_rate": 0.2},
    {"malformed_rate": 0.2},
    {"html_rate": 0.2, "text_rate": 0.5},
    {"token_life": 90.0, "expiry_field": "expired_at"},
    {"token_refusal_rate": 0.2},
    {"token_refused": True, "token_refusal_rate": 1.0},
    {"rate_limit": 4, "retry_after": False},
    {"rate_limit": 3, "rate_window": "fixed"},
    {"max_range": 100},
    {"bad_rate": 0.02},
    {"bad_rate": 0.2, "revise_up": 0.3, "revise_down": 0.3},
]

# Maximum minutes that bad values stay. If many stayed for the whole revision window, the exporter would give up the
# oldest.
LONGEST_BAD = 20

# Minutes that a stream may be behind after the recovery: as long as the revision window.
LONGEST_BEHIND = 30

# Maximum seconds in all during which no process runs, so that no decrease is owed for a day.
LONGEST_AWAY = 20 * 3600.0


class Killed(BaseException):
    """The process ends between two steps."""


class SharedClock(FakeClock):
    """A clock for several threads. It does not sleep while a request is under way: the request would last as long.

    Attributes:
        limiter: The budget, which knows the requests under way.
    """

    limiter: RequestBudget

    def sleep(self, seconds: float) -> None:
        for _ in range(60_000):
            with self.limiter._mutex:
                if not any(slot.at is None for slot in self.limiter._sends):
                    self.advance(seconds)
                    return
            time.sleep(0.001)
        raise AssertionError("a request does not end")


class SlowAdapter(DeadlineAdapter):
    """A network on which requests leave late and responses take some time.

    It records when each request leaves. The journal of the simulated API is not enough for that: if the sender of a
    request is killed, another thread reads it, possibly only after the clock was advanced by hours.
    """

    def __init__(self, clock: SharedClock, rng: random.Random, departures: list[float], app: SimulatorApp) -> None:
        super().__init__(TlsSettings())
        self.app = app
        self.direct = DirectAdapter(app)
        self.clock = clock
        self.rng = rng
        self.departures = departures
        self.under_way: Callable[[], object] = lambda: None

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        self.clock.advance(self.rng.random() * 0.2)
        self.departures.append(self.clock.now())
        faults = self.app.faults.now
        send = super().send if faults.cut_rate or faults.hang_rate else self.direct.send
        try:
            self.under_way()
            return send(*args, **kwargs)
        finally:
            self.clock.advance(self.rng.random() * 0.5)


@functools.cache
def with_statement_lines(path: str) -> frozenset[int]:
    """The lines in which the `with` statements of a module begin.

    A trace gets such a line again at the end of the block, just before the lock is released. A `Killed` there would
    leave the lock taken for ever. A real kill cannot do that, as the locks end with the process.
    """
    statements = (node for node in ast.walk(ast.parse(Path(path).read_text())) if isinstance(node, ast.With))
    return frozenset(
        line
        for statement in statements
        for line in range(statement.lineno, max(statement.lineno + 1, statement.body[0].lineno))
    )


def killed_after(lines: int, call: Callable[[], object]) -> bool:
    """Run a call and kill it after this number of lines of the package; return whether it was killed."""
    left = lines

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(PACKAGE) or "simulator" in frame.f_code.co_filename:
            return None
        if event == "line":
            left -= 1
            if left <= 0 and frame.f_lineno not in with_statement_lines(frame.f_code.co_filename):
                raise Killed
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except Killed:
        return True
    finally:
        sys.settrace(before)
    return False


class Journey:
    """The exporter's processes, one after another, for one merchant."""

    def __init__(self, seed: int, path: Path) -> None:
        self.rng = random.Random(seed)
        # Of its own, so that reloads do not make other faults of a seed.
        self.reloads = random.Random(seed)
        self.clock = SharedClock(1_780_000_000.0 + self.rng.randrange(7 * 86400))
        # If the API limits ranges, the exporter cannot request again a value that stays wrong for longer than a range.
        excluded = self.rng.choice(["bad_rate", "max_range"])
        self.faults = [fault for fault in FAULTS if excluded not in fault]
        self.world = World(seed=seed, media=6)
        self.switch = FaultSwitch(self.world, self.clock.now)
        self.app = SimulatorApp(self.world, self.switch, self.clock.now)
        self.server = SimulatorServer(self.app)
        self.server.start()
        self.path = path
        self.settings = self.configured = self._settings()
        self.budget = self.settings.merchants[0].requests_per_minute
        self.away_media = next(each for each in self.world.catalog(MERCHANT) if each not in self._media())
        self.shown: dict[tuple[Stream, str], float] = {}
        self.first_answers: dict[Stream, tuple[Minute, int]] = {}
        self.first_start = self.clock.now()
        self.kills = 0
        self.away = LONGEST_AWAY
        self.healthy = {**HEALTHY, "decimals": self.rng.random() < 0.7}
        self.switch.set(**self.healthy)
        # Where it is known, no weeks of history are requested for the drop detector, which takes a while.
        self.history_known = self.rng.random() < 0.6
        self.departures: list[float] = []
        # Held by whoever reloads, and while nothing is to be reloaded.
        self.reloading, self.reloaded = threading.Lock(), 0
        self.reloading.acquire()
        self.state: State
        self.polling: Polling
        self.open()

    def _settings(self) -> Settings:
        groups = self.rng.sample([g for g in Group if g is not Group.ALL], 2)
        media = self.rng.sample(list(self.world.catalog(MERCHANT)), 2)
        return Settings.model_validate(
            {
                "api": {"url": self.server.url, "timeout": f"{TIMEOUT:.0f}s"},
                "merchants": [
                    {
                        "id": MERCHANT,
                        "api_key": "k",
                        "mail_address": "ops@example.com",
                        "password": "p",
                        "requests_per_minute": self.rng.choice([9, 15, 45]),
                        "collect": [
                            {"target": "play_count", "groups": ["all", *groups]},
                            {"target": self.rng.choice(["play_time", "player_count", "device_count"])},
                            {"target": "key_delivery_count"},
                        ],
                        "media": [{"id": media_id} for media_id in media],
                    }
                ],
                "poll": {
                    "max_label_values": self.rng.choice([3, 100]),
                    "concurrency": self.rng.choice([1, 1, 4]),
                },
            }
        )

    def open(self) -> None:
        """Start the process."""
        self.state = open_state(self.path, self.clock.now)
        if self.history_known:
            mark_history_known(
                self.state, MERCHANT, {stream.media_id for stream in self.settings.merchants[0].streams()}
            )
        adapter = SlowAdapter(self.clock, self.rng, self.departures, self.app)
        adapter.under_way = self.maybe_reload
        self.polling = Polling(self.configured, self.state, Instruments(), self.clock, lambda: adapter)
        self.clock.limiter = self.polling.pollers[MERCHANT]._budget

    def _media(self) -> list[str]:
        """The media whose counters are compared."""
        return [media.id for media in self.settings.merchants[0].media]

    def maybe_reload(self) -> None:
        """Reload another configuration, or the same, now and then: called while a request is under way, by one of
        several threads. The merchant and the media whose counters are compared stay.
        """
        if self.reloading.acquire(blocking=False):
            try:
                if self.reloads.random() < 0.01:
                    self.reload(self.another_configuration())
            finally:
                self.reloading.release()

    def another_configuration(self) -> Settings:
        """A random change of the configuration, or none."""
        merchant = self.settings.merchants[0]
        change = self.reloads.choice(["nothing", "media", "priority", "poll", "merchant", "password", "groups"])
        more = MediaSettings(id=self.away_media)
        poll = self.settings.poll
        match change:
            case "media":
                merchant = merchant.model_copy(update={"media": (more, *merchant.media)})
            case "priority":
                media = tuple(each.model_copy(update={"priority": 5.0}) for each in merchant.media)
                merchant = merchant.model_copy(update={"media": media})
            case "poll":
                poll = poll.model_copy(update={"max_staleness": 1200.0, "concurrency": 2})
            case "password":
                merchant = merchant.model_copy(update={"password": SecretStr(self.reloads.choice("pq"))})
            case "groups":
                first, *rest = merchant.collect
                every = first.model_copy(update={"groups": tuple(Group)})
                merchant = merchant.model_copy(update={"collect": (every, *rest)})
        others = (merchant.model_copy(update={"id": "another"}),) if change == "merchant" else ()
        return self.settings.model_copy(update={"merchants": (*others, merchant), "poll": poll})

    def reload(self, settings: Settings) -> None:
        """Let another configuration take effect."""
        self.configured = settings
        self.polling.configure(settings)
        self.reloaded += 1

    def close(self) -> None:
        """Release what the operating system would release after the process ended."""
        self.polling.close()
        self.state.close()

    def minute(self, *, may_be_killed: bool) -> None:
        """One minute: a round, sometimes a kill, and a scrape before and after new counters are published."""
        self.clock.advance(60 - (self.clock.now() % 60) + 0.5)
        poller = self.polling.pollers[MERCHANT]
        if may_be_killed and self.rng.random() < 0.15:
            # With several workers, only this thread can be killed between two steps; the others end after their current
            # step.
            if killed_after(self.rng.randrange(1, 9000), poller.round):
                self.kills += 1
                self.close()
                if self.rng.random() < 0.3:
                    away = min(self.away, self.rng.random() * 5 * 3600)
                    self.away -= away
                    # Bad values would stay for too long until the next process starts.
                    self.switch.set(bad_rate=0.0)
                    self.clock.advance(away)
                self.open()
        else:
            poller.round()
        self.scrape()
        self.polling.ledger.show_counted(self.clock.now())
        self.scrape()

    def scrape(self) -> None:
        """Scrape all counters; none may fall."""
        for stream, view in self.polling.ledger.snapshot.merchants[MERCHANT].streams.items():
            for series in view.series:
                if series.total is not None:
                    assert series.total >= self.shown.get((stream, series.label), 0), (stream, series.label)
                    self.shown[stream, series.label] = series.total
            if stream.target.by_day and view.through is not None:
                self.first_answers.setdefault(stream, self.days_so_far(stream))

    def days_so_far(self, stream: Stream) -> tuple[Minute, int]:
        """For a stream by day: the first minute of the oldest day in the state file, and the sum of its days."""
        with self.state.read() as db:
            first, value = db.execute(
                "SELECT kept_from, coalesce(sum(value), 0) FROM streams LEFT JOIN slots USING (stream_id) "
                "WHERE merchant_id = ? AND media_id = ? AND target = ?",
                (MERCHANT, stream.media_id, stream.target),
            ).fetchone()
        return first, value

    def run_with_faults(self, minutes: int) -> None:
        """Run this number of minutes with changing faults, with kills and with reloads."""
        self.reloading.release()
        unchanged = 0
        for _ in range(minutes):
            unchanged += 1
            if unchanged == LONGEST_BAD:
                self.switch.set(bad_rate=0.0)
            if self.rng.random() < 0.08:
                unchanged = 0
                chosen = self.rng.sample(self.faults, self.rng.choice([0, 1, 1, 2]))
                self.switch.set(**self.healthy)
                for fault in chosen:
                    self.switch.set(**fault)
                if not chosen and self.rng.random() < 0.5:
                    # Rows stop coming for longer than max_lag; later all of them come.
                    self.switch.set(stalled_since=self.clock.now())
            self.minute(may_be_killed=True)
        self.reloading.acquire()
        self.reload(self.settings)

    def recover(self, minutes: int) -> None:
        """Run this number of minutes without faults, with a round in every fifth; it also fetches
        the minutes between.
        """
        self.switch.set(**self.healthy)
        for _ in range(minutes // 5):
            self.clock.advance(4 * 60)
            self.minute(may_be_killed=False)

    def behind(self) -> int:
        """How many settled minutes the stream that is furthest behind has not counted."""
        ledger = self.polling.ledger
        return ledger.settled(MERCHANT, self.clock.now()) - min(map(ledger.through, self.counted_streams()))

    def counted_streams(self) -> list[Stream]:
        """The streams that have counters."""
        return [each for each in self.settings.merchants[0].streams() if each.target.summable]

    def expected(self, stream: Stream) -> dict[str, int]:
        """The sum of the final values in millionths, by label value as the exporter shows it."""
        view = self.polling.ledger.snapshot.merchants[MERCHANT].streams[stream]
        assert view.through is not None
        start, through = ended_before(self.first_start, self.settings.poll.settle), view.through
        if stream.target.by_day:
            # A stream by day starts at the first day of its first answer; the last row is a minute newer than the
            # settled ones.
            start, through = self.first_answers[stream][0] - 1, through + 1
        known = {series.label for series in view.series}
        sums = dict.fromkeys(known, 0)
        # Seconds with decimals are a thousandth more.
        one = UNIT * 1001 // 1000 if self.healthy["decimals"] and stream.target is Target.PLAY_TIME else UNIT
        for minute in range(start + 1, through + 1):
            for label, value in final_values(
                self.world, MERCHANT, stream.media_id, stream.target, stream.group, minute
            ).items():
                name = label if label in known else OTHER
                sums[name] = sums.get(name, 0) + value * one
        return {label: value for label, value in sums.items() if value or label in known}

    def owed_by_counter(self) -> dict[tuple[Stream, str], tuple[int, int]]:
        """Check that all counters are exact; return by counter the sum of its final values and what is owed
        (millionths).
        """
        with self.state.read() as db:
            accounts = {
                (Stream(MERCHANT, media_id, Target(target), Group(group)), label): (total, owed)
                for media_id, target, group, label, total, owed in db.execute(
                    "SELECT media_id, target, grouping, label, total, owed FROM series JOIN streams USING (stream_id) "
                    "WHERE merchant_id = ?",
                    (MERCHANT,),
                )
            }
        found = {}
        assert self.behind() <= LONGEST_BEHIND
        for stream in self.counted_streams():
            counted = {label: totals for (of, label), totals in accounts.items() if of == stream}
            expected = self.expected(stream)
            if stream.target.by_day:
                # Counting starts with what the day already has at the first answer.
                expected[""] -= self.first_answers[stream][1]
            assert {label: total - owed for label, (total, owed) in counted.items()} == expected, stream
            for label, (total, owed) in counted.items():
                assert self.shown[stream, label] in (from_units(total), 0)
                found[stream, label] = expected[label], owed
        return found


@pytest.fixture
def journey(seed: int, tmp_path: Path) -> Iterator[Journey]:
    # Thousands of transactions do not wait for a disk.
    with folder_in_memory(tmp_path) as folder:
        created = Journey(seed, Path(folder) / "state.db")
        yield created
        created.close()
        created.server.stop()


def test_every_play_is_counted_once_and_the_budget_is_kept(journey: Journey) -> None:
    """Through all kinds of faults, kills between any two steps, reloads while requests are under way and outages of
    hours, the counters are exact and no 60 seconds have more requests than the budget.
    """
    journey.run_with_faults(60)
    assert journey.reloaded > 1
    journey.recover(50)
    # With a small budget, after a long outage, and if the API limited ranges, it takes longer: half of each short range
    # has been requested before.
    for _ in range(20):
        if journey.behind() <= LONGEST_BEHIND:
            break
        journey.recover(5)
    merchant = journey.polling.ledger.snapshot.merchants[MERCHANT]
    assert (merchant.lost_minutes, merchant.held_values, merchant.series_resets) == (0, 0, 0)
    before = journey.owed_by_counter()
    # All values were final when they were last read. From here on only plays are added; the first of them pay off what
    # is owed.
    journey.recover(35)
    for counter, (expected, owed) in journey.owed_by_counter().items():
        was_expected, was_owed = before.get(counter, (0, 0))
        assert owed == max(0, was_owed - (expected - was_expected)), counter
    assert len(journey.departures) >= len(journey.app.journal.newest()) > journey.budget
    departures = sorted(journey.departures)
    for first, later in zip(departures, departures[journey.budget :], strict=False):
        assert later - first > 60
