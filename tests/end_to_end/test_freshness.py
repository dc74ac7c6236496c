"""Days of minutes through the real planner, ledger and request budget: the limit is kept, no stream waits too long.

The network and the time are stand-ins, so a day takes seconds.
"""

import itertools
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest

from exporter.config.settings import Settings
from exporter.errors import MalformedAnswer, NoAnswer, NotFound, RateLimited, ServerError
from exporter.model import MINUTE, Minute, MinuteRange, Reading, Stream
from exporter.planning import priorities
from exporter.planning.index import lower_bound
from exporter.polling.scheduler import SPREAD
from exporter.storage.state import State, open_state
from tests.support.audience import (
    MERCHANT,
    Audience,
    Process,
    StandIn,
    folder_in_memory,
    know_catalog,
    media_ids,
    settings_for,
    stream_of,
    zipf,
)
from tests.support.fakes import FakeClock

# A minute's beginning, and with `settle` of 2m the moment at which a minute is settled.
START = 1_780_000_020.0
LONGEST_WAIT = 30
WHOLE = stream_of("")


class Api(StandIn):
    """An API that has rows only for minutes that have ended, and fails when it is told to.

    Attributes:
        rng: What decides which requests fail.
        failing: Share of the requests that fail.
        limit: Requests in 60 seconds beyond which it answers 429, or None.
        retry_after: What a 429 says, or None.
        slowness: Seconds by which an answer may take longer.
        gone: Media that it does not know.
        hold: Real seconds by which the whole merchant's answers come later, so that other threads have their chance.
        began: Wall and monotonic time of the start, to know the true time when the clock is set.
    """

    rng = random.Random(1)
    failing = 0.0
    limit: int | None = None
    retry_after: float | None = None
    slowness = 0.0
    gone = ""
    hold = 0.0
    began = (START, 1000.0)

    def aggregations(self, stream: Stream, asked: MinuteRange, *, hourly: bool = False) -> Reading:
        self._seconds = 0.05 + self.rng.random() * self.slowness
        if stream.media_id == self.gone != "":
            self.send()
            raise NotFound("no such media", status=404)
        if not stream.media_id:
            time.sleep(self.hold)
        rows = super().aggregations(stream, asked, hourly=hourly).rows
        newest = int((self.began[0] + self._clock.ticks - self.began[1]) // MINUTE) - 1
        return Reading({minute: values for minute, values in rows.items() if minute <= newest})

    def send(self) -> None:
        super().send()
        now = self._clock.monotonic()
        if self.limit is not None and sum(sent > now - 60 for sent in self.sends[-100:]) > self.limit:
            self._budget.refused(self.retry_after)
            raise RateLimited("slow down", retry_after=self.retry_after)
        if self.rng.random() < self.failing:
            raise self.rng.choice(
                [NoAnswer("cut off"), ServerError("internal", status=500), MalformedAnswer("not JSON")]
            )


class Life:
    """A merchant and the processes that poll for it, one after the other. Only a `wild` one has a drop detector."""

    def __init__(
        self,
        folder: Path,
        media: int,
        budget: int,
        *,
        most: float = 300.0,
        seed: int = 1,
        wild: bool = False,
        concurrency: int = 1,
    ) -> None:
        self.clock = FakeClock(START - 1)
        self.media = media_ids(media)
        self.wild = wild
        self.settings: Settings = settings_for(self.media, budget, concurrency=concurrency)
        rates = zipf(self.media, 1.0, most)
        if wild:
            rates[self.media[0]] = sum(list(rates.values())[1:]) / 3
        self.audience = Audience(rates, seed, wild=self.media[:1] if wild else ())
        self.path = folder / "state.db"
        self.sends: list[float] = []
        self.round_began = 0.0
        self.state = self._open()
        know_catalog(self.state, self.media, self.clock)
        self.process = self._start()
        self.start = self.process.ledger.through(WHOLE)
        self.api.rng = random.Random(seed)

    def _open(self) -> State:
        return open_state(self.path, self.clock.now)

    def _start(self) -> Process:
        return Process(self.state, self.settings, self.clock, self.audience, client=Api, detector=self.wild)

    @property
    def api(self) -> Api:
        assert isinstance(self.process.client, Api)
        return self.process.client

    def restart(self, after: float) -> None:
        """Stop the process, and start another after so many seconds."""
        self.close()
        self.clock.sleep(after)
        self.state = self._open()
        self.process = self._start()

    def close(self) -> None:
        self.sends += self.process.client.sends
        self.state.close()

    def minute(self, second: float = 0.0) -> list[tuple[Stream, float, Minute]]:
        """The round that begins at this second of the next minute; the answers in it."""
        self.clock.to_next_minute()
        self.clock.sleep(second)
        self.api.answers.clear()
        self.round_began = self.clock.monotonic()
        self.process.poller.round()
        return list(self.api.answers)

    def staleness(self, media_id: str) -> int:
        newest = int((self.clock.now() - 120) // MINUTE) - 1
        return newest - self.process.ledger.through(stream_of(media_id))

    def slowest(self) -> int:
        return max(self.staleness(media_id) for media_id in self.media)

    def assert_all_counted_once(self) -> None:
        """Every stream's counter is the sum of its plays since the start."""
        # Twice, for counters whose 0 is on display yet.
        self.process.ledger.show_counted(self.clock.now() + 120)
        merchant = self.process.ledger.snapshot.merchants[MERCHANT]
        assert merchant.lost_minutes == 0
        for media_id in ("", *self.media):
            view = merchant.streams[stream_of(media_id)]
            assert view.through is not None
            plays = sum(self.audience.plays(media_id, minute) for minute in range(self.start + 1, view.through + 1))
            assert view.series[0].total == plays, media_id

    def assert_budget_kept(self) -> None:
        """Never more than the budget in any 60 seconds, over all processes."""
        budget = self.settings.merchants[0].requests_per_minute
        sends = sorted(self.sends + self.process.client.sends)
        assert len(sends) > budget
        assert min(later - first for first, later in zip(sends, sends[budget:], strict=False)) > 60


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where thousands of transactions do not wait for a disk."""
    with folder_in_memory(tmp_path) as place:
        yield Path(place)


@pytest.fixture
def live(folder: Path) -> Iterator[Callable[..., Life]]:
    lives: list[Life] = []

    def begin(media: int, budget: int, **more: Any) -> Life:
        lives.append(Life(folder, media, budget, **more))
        return lives[-1]

    yield begin
    for life in lives:
        life.close()


def test_half_a_day_with_faults(live: Callable[..., Life], half_day: int) -> None:
    """The budget is kept in any 60 seconds. Outside of the faults' spells the whole merchant is at most a minute stale,
    and from twice `max_staleness` after a spell on, no stream is staler than that: until then what was missed is
    caught up. One request in fifty fails all the time, which costs a stream that is asked for in its last minute two
    more; and after six hours names are looked up anew, which takes a tenth of the requests.
    """
    life = live(media=140, budget=8, seed=half_day)
    rng = random.Random(half_day)
    calm_since, spell_until = 0, 0
    checked = 0
    for minute in range(12 * 60):
        if minute == spell_until:
            life.api.failing, life.api.limit, life.api.slowness = 0.02, None, 0.0
            calm_since = minute
        elif minute > spell_until and rng.random() < 1 / 150:
            spell_until = minute + rng.randrange(2, 40)
            life.api.failing = rng.choice([0.1, 0.5, 1.0])
            life.api.limit, life.api.retry_after = rng.choice([(None, None), (4, 45.0), (2, None), (0, None)])
            life.api.slowness = rng.choice([0.0, 3.0, 9.0])
        life.minute()
        if minute >= spell_until and minute > calm_since + 15:
            # By then the budget that refusals have halved is won back. Two failures in a row are a chance of 1 in 2500.
            assert life.staleness("") <= 1 or life.api.failing
        if minute >= spell_until and minute > calm_since + 2 * LONGEST_WAIT:
            checked += 1
            assert life.slowest() <= LONGEST_WAIT + 2
    assert checked > 100
    life.assert_budget_kept()


@pytest.mark.parametrize("second", [0.0, SPREAD / 2, SPREAD])
def test_without_faults_the_promises_hold_to_the_minute(live: Callable[..., Life], second: float) -> None:
    """Hours in which nothing fails: the whole merchant is at most a minute stale, and no stream is staler than
    `max_staleness`, though there are nearly as many streams as the budget can hold. It does not matter how long after
    a minute's settling the rounds begin.
    """
    life = live(media=200, budget=8)
    for _ in range(4 * 60):
        life.minute(second)
        assert life.staleness("") <= 1
        assert life.slowest() <= LONGEST_WAIT
    life.assert_budget_kept()
    life.assert_all_counted_once()


@pytest.mark.parametrize(("wild", "warm_up", "most"), [(False, 40, 1.05), (True, 80, 1.10)])
def test_with_several_requests_at_once_the_plays_are_near_the_bound(
    live: Callable[..., Life], *, wild: bool, warm_up: int, most: float
) -> None:
    """120 media, four requests on the way at once, the budget of the minute before not free yet when a round begins:
    over an hour the busiest media are asked for every minute, and the mean staleness is at most 1.05 of the bound; 1.10
    where a media of a quarter of all plays has anything between none and twice as many, once that is known of it.
    """
    life = live(media=120, budget=45, concurrency=4, wild=wild)
    life.api.hold = 0.02
    for _ in range(warm_up):
        life.minute()
    rates = life.audience.rates
    staleness, busiest, late = [], 0, 0
    for _ in range(60):
        answers = life.minute()
        busiest += {stream.media_id for stream, _, _ in answers} >= set(life.media[:5])
        late += life.api.sends[-len(answers)] > life.round_began
        behind = sum(rate * life.staleness(media_id) for media_id, rate in rates.items())
        staleness.append(behind / sum(rates.values()))
    assert late > 30
    assert busiest >= (57 if wild else 60)
    assert fmean(staleness) <= most * lower_bound(list(rates.values()), 44, LONGEST_WAIT)
    life.assert_budget_kept()


def test_a_round_that_drifts_moves_back_by_a_few_requests(live: Callable[..., Life]) -> None:
    """A place of the budget is free again a minute after a request's end, so with answers of a second rounds would be a
    minute late after an hour. No round is left out for that: the whole merchant is up to date after each, and hardly
    any request is lost.
    """
    life = live(media=60, budget=8)
    life.api.slowness = 2.0
    rounds = []
    for _ in range(3 * 60):
        rounds.append(len(life.minute()))
        assert life.staleness("") == 0
    assert min(rounds) >= 4
    assert sum(rounds) >= 0.95 * 8 * len(rounds)
    life.assert_budget_kept()


def until_noticed(life: Life, media_id: str, plays: float) -> int:
    """Minutes from the settling of the first plays of an event to their answer."""
    for _ in range(25):
        life.minute()
    newest = int((life.clock.now() - 120) // MINUTE) - 1
    life.audience.begin(media_id, newest + 1, plays)
    return next(
        waited for waited in itertools.count() if any(stream.media_id == media_id for stream, _, _ in life.minute())
    )


def notices(folder: Path, gone: str) -> list[int]:
    """How long it took to notice events in some media."""
    waits = []
    for place in range(6):
        life = Life(folder, 150, 20, seed=place)
        life.api.gone = gone
        waits.append(until_noticed(life, life.media[60 + 15 * place], 600.0))
        life.close()
        life.path.unlink()
    return sorted(waits)


@pytest.mark.parametrize("gone", ["", media_ids(3)[2]])
def test_a_live_event_is_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch, gone: str) -> None:
    """A quiet media that suddenly gets plays is seen within `max_staleness`. As the plays of the whole merchant rise,
    the stalest media are looked at first, and it is seen much sooner than if they had not risen, also when some other
    media is gone and never answers.
    """
    noticed = notices(folder, gone)
    monkeypatch.setattr(priorities, "SURPRISE", float("inf"))
    unnoticed = notices(folder, gone)
    print(f"noticed after {noticed}, median {median(noticed)}; without the rise after {unnoticed}, {median(unnoticed)}")
    assert max(noticed) <= LONGEST_WAIT
    assert sum(noticed) < 0.85 * sum(unnoticed)


def settle_down(life: Life) -> None:
    for _ in range(40):
        life.minute()


def assert_heavy_first(life: Life, answers: list[tuple[Stream, float, Minute]]) -> None:
    """The whole merchant comes first, then the media most worth having, all up to the newest settled minute."""
    newest = int((life.clock.now() - 120) // MINUTE) - 1
    assert answers[0][0] == WHOLE
    assert {stream.media_id for stream, _, _ in answers[1:]} >= set(life.media[:4])
    assert all(asked_to == newest for _, _, asked_to in answers)


def assert_catches_up(life: Life) -> None:
    """The next round has live data first; what was missed comes with it, and no minute is left out."""
    assert_heavy_first(life, life.minute())
    for _ in range(LONGEST_WAIT):
        life.minute()
        assert life.staleness("") <= 1
        assert life.staleness(life.media[0]) <= 20
    assert life.slowest() <= LONGEST_WAIT
    life.assert_all_counted_once()
    life.assert_budget_kept()


@pytest.mark.parametrize("monotonic", [0.0, 3600.0])
def test_a_machine_that_was_suspended(live: Callable[..., Life], monotonic: float) -> None:
    """An hour later by the wall, whether the monotonic clock went on or stood still: the next round has live data
    first, what was missed comes with it, and no minute is left out.
    """
    life = live(media=170, budget=8)
    settle_down(life)
    life.clock.wall += 3600
    life.clock.ticks += monotonic
    life.api.began = (life.api.began[0] + 3600 - monotonic, life.api.began[1])
    assert_catches_up(life)


def test_a_process_that_was_stopped(live: Callable[..., Life]) -> None:
    """After an hour's stop the same: live minutes and catch-up are one request, so neither waits for the other."""
    life = live(media=170, budget=8)
    settle_down(life)
    life.restart(after=3600)
    assert_catches_up(life)


@pytest.mark.parametrize("minutes_off", [1, 40, 200])
def test_a_clock_that_is_ahead_for_a_while(live: Callable[..., Life], minutes_off: int) -> None:
    """A clock that was set forward by an hour, and back: minutes that were taken as empty before they came are counted
    when they have come.
    """
    life = live(media=60, budget=8)
    settle_down(life)
    life.clock.wall += 3600
    for _ in range(minutes_off):
        life.minute()
    life.clock.wall -= 3600
    for _ in range(61 + LONGEST_WAIT):
        life.minute()
    assert life.slowest() <= LONGEST_WAIT
    life.assert_all_counted_once()
    life.assert_budget_kept()


def test_a_clock_that_is_behind_for_a_while(live: Callable[..., Life]) -> None:
    """A clock that was set back by an hour, and forward again: polling goes on, and no minute is counted twice."""
    life = live(media=60, budget=8)
    settle_down(life)
    life.clock.wall -= 3600
    for _ in range(30):
        answers = life.minute()
    assert life.process.poller.link.up
    life.clock.wall += 3600
    answers = life.minute()
    assert_heavy_first(life, answers)
    for _ in range(LONGEST_WAIT):
        life.minute()
    assert life.slowest() <= LONGEST_WAIT
    life.assert_all_counted_once()
    life.assert_budget_kept()
