"""The log of a start: which lines, when, and how many."""

from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from exporter.assembly import Polling
from exporter.config.settings import Settings
from exporter.model import MINUTE, Group, Stream, Target, minute_of
from exporter.polling.start_log import StartLog
from exporter.serving.instruments import Instruments
from exporter.simulator.app import SimulatorApp
from exporter.simulator.command import config_for
from exporter.simulator.control import DEFAULT_MERCHANT
from exporter.simulator.faults import Faults, FaultSwitch
from exporter.simulator.gate import Credentials
from exporter.simulator.series import World as SimulatedWorld
from exporter.storage.state import open_state
from exporter.views import Judgement, LinkView, MediaView, MerchantView, Series, SeriesView, Snapshot, StreamView
from tests.support.audience import folder_in_memory
from tests.support.direct import URL, DirectAdapter
from tests.support.fakes import FakeClock

PAGE = "http://localhost:10077/"
LATE = 12 * 60.0

SIGNED_IN = "signed in"
COUNTING = "counting has begun"
REQUESTED = "every stream has been requested"
HISTORY = "the drop detector has the history that it needs"


class World:
    """Merchants as the snapshot shows them, with two media of one stream each, and their log."""

    def __init__(self, *names: str) -> None:
        self.clock = FakeClock()
        self.merchants = {name: self.fresh(name) for name in names}
        self.log = StartLog(lambda: Snapshot(self.merchants), self.clock, PAGE, LATE)
        self.lines: list[dict[str, object]] = []

    @staticmethod
    def fresh(name: str) -> MerchantView:
        """A merchant of which nothing is known yet."""
        streams = [Stream(name, media_id, Target.PLAY_COUNT, Group.ALL) for media_id in ("", "a", "b")]
        return MerchantView(
            name,
            streams={stream: StreamView(stream, None, Series.of(())) for stream in streams},
            media={media_id: MediaView(media_id) for media_id in ("a", "b")},
            link=LinkView(name),
        )

    def link(self, name: str, **changes: object) -> None:
        """Change the connection of a merchant."""
        merchant = self.merchants[name]
        assert merchant.link is not None
        self.merchants[name] = replace(merchant, link=replace(merchant.link, **changes))  # type: ignore[arg-type]

    def answer(self, name: str, *media_ids: str, plays: float = 7.0, age: float = 3 * 60.0) -> None:
        """Let streams have counted a minute of this age."""
        merchant = self.merchants[name]
        through = minute_of(self.clock.now() - age)
        streams = dict(merchant.streams)
        for stream in streams:
            if stream.media_id in media_ids:
                streams[stream] = StreamView(stream, through, Series.of([SeriesView("", 1.0, plays)]))
        self.merchants[name] = replace(merchant, streams=streams)
        self.link(name, up=True)

    def learn(self, name: str) -> None:
        """Let one media be judged, and no history be missing."""
        merchant = self.merchants[name]
        media = {**merchant.media, "a": replace(merchant.media["a"], judgement=Judgement.JUDGED)}
        self.merchants[name] = replace(merchant, media=media, learning_seconds=0.0)

    def look(self) -> list[str]:
        """Look after a while; returns the new messages, and keeps the lines."""
        with capture_logs() as lines:
            self.log.look()
        self.clock.advance(3600.0)
        self.lines = [dict(line) for line in lines]
        return [str(line["event"]) for line in lines]


def everything(world: World, name: str) -> None:
    """Let a merchant take all steps."""
    world.link(name, token_expiry=world.clock.now() + 3600.0, round_timestamp=world.clock.now())
    world.answer(name, "", "a", "b")
    world.learn(name)


def test_one_merchant_has_a_line_for_each_step() -> None:
    """Each step is logged once, in its order, with what an operator wants to know and where to look."""
    world = World("m")
    assert world.look() == []
    world.link("m", token_expiry=1_750_003_600.0)
    assert world.look() == [SIGNED_IN]
    assert world.lines[0]["merchant"] == "m"
    assert str(world.lines[0]["token_expires"]).startswith("2025-06-15T")
    assert "open" not in world.lines[0]
    world.answer("m", "", plays=42.0, age=-3600.0)
    assert world.look() == [COUNTING]
    assert world.lines[0] == {
        "event": COUNTING,
        "log_level": "info",
        "merchant": "m",
        "streams": 3,
        "media": 2,
        "plays_last_minute": "42",
        "open": PAGE,
    }
    world.answer("m", "a", "b")
    assert world.look() == [REQUESTED]
    assert (world.lines[0]["streams"], world.lines[0]["failing"], world.lines[0]["media_not_found"]) == (3, 0, 0)
    world.learn("m")
    assert world.look() == [HISTORY]
    assert (world.lines[0]["media"], world.lines[0]["judged"]) == (2, 1)
    everything(world, "m")
    assert world.look() == []


def test_media_that_are_refused_do_not_hold_back_the_line() -> None:
    """A stream that fails has been requested, too; the line says how many fail, and how many media are unknown."""
    world = World("m")
    world.look()
    world.answer("m", "")
    world.link("m", failing={"b": 1})
    assert REQUESTED not in world.look()
    merchant = world.merchants["m"]
    world.merchants["m"] = replace(merchant, media={**merchant.media, "a": MediaView("a", gone=True)})
    assert world.look() == [REQUESTED]
    assert (world.lines[0]["failing"], world.lines[0]["media_not_found"]) == (2, 1)


def test_what_was_counted_before_a_restart_is_no_answer() -> None:
    """A stream whose newest minute is older than the start, by more than rows can be late, is still to be requested."""
    world = World("m")
    world.answer("m", "", "a", "b", age=LATE + 2 * MINUTE)
    world.link("m", token_expiry=world.clock.now())
    assert world.look() == [SIGNED_IN]
    world.answer("m", "", "a", "b")
    assert world.look() == [COUNTING, REQUESTED]


def test_an_api_that_is_down_adds_no_line() -> None:
    """The failure has its own line, and the steps follow when it is over."""
    world = World("m")
    world.link("m", up=False, round_timestamp=world.clock.now())
    assert (world.look(), world.look()) == ([], [])
    everything(world, "m")
    assert world.look() == [SIGNED_IN, COUNTING, REQUESTED, HISTORY]


def test_hundreds_of_merchants_share_their_lines() -> None:
    """300 merchants log four lines, with sums and the number that fails."""
    names = [f"m{number}" for number in range(300)]
    world = World(*names)
    for name in names[:298]:
        assert world.look() == [] or name == names[0]
        everything(world, name)
        if name == names[9]:
            break
    assert world.look() == []
    for name in names[10:298]:
        everything(world, name)
    assert world.look() == []
    for name in names[298:]:
        world.link(name, up=False, round_timestamp=world.clock.now())
    assert world.look() == [SIGNED_IN, COUNTING, REQUESTED, HISTORY]
    assert {(line["merchants"], line["merchants_failing"]) for line in world.lines} == {(298, 2)}
    assert world.lines[1]["plays_last_minute"] == str(298 * 7)
    assert world.look() == []


def test_added_merchants_have_lines_and_removed_ones_none() -> None:
    """Merchants that a reload adds are logged as at a start; one that leaves is forgotten."""
    world = World("m", "gone")
    world.look()
    everything(world, "m")
    world.look()
    del world.merchants["gone"]
    world.merchants["new"] = world.fresh("new")
    assert world.look() == []
    everything(world, "new")
    assert world.look() == [SIGNED_IN, COUNTING, REQUESTED, HISTORY]
    assert {line["merchant"] for line in world.lines} == {"new"}


@pytest.fixture
def looks() -> list[float]:
    """The times at which the snapshot was taken, of a start where nothing comes for a day."""
    times: list[float] = []
    clock = FakeClock()

    def snapshot() -> Snapshot:
        times.append(clock.monotonic() - 1000.0)
        return Snapshot({"m": World.fresh("m")})

    log = StartLog(snapshot, clock, PAGE, LATE)
    for _ in range(86_400):
        log.look()
        clock.advance(1.0)
    return times


def test_looks_become_rarer(looks: list[float]) -> None:
    """In the first half minute it looks each second; what has not come costs little."""
    assert looks[:30] == [float(second) for second in range(30)]
    assert len(looks) < 400


def test_a_real_start_takes_every_step(tmp_path: Path) -> None:
    """Against the simulated API, with targets by minute and by day and a media that it does not know, all lines come
    within `max_staleness`.
    """
    clock = FakeClock(1_749_870_005.0)
    world = SimulatedWorld(seed=1)
    gone = next(iter(world.catalog(DEFAULT_MERCHANT)))
    app = SimulatorApp(world, FaultSwitch(world, clock.now, Faults(gone=(gone,))), clock.now)
    config = config_for(world, URL, Credentials())
    # In real seconds, which pass while the API makes up its history.
    config["api"]["timeout"] = "1m"
    settings = Settings.model_validate(config | {"poll": {"concurrency": 1}})
    with folder_in_memory(tmp_path) as folder, capture_logs() as lines:
        state = open_state(Path(folder) / "state.db", clock.now)
        polling = Polling(settings, state, Instruments(), clock, lambda: DirectAdapter(app))
        poll = settings.poll
        start_log = StartLog(polling.snapshot, polling.clock, PAGE, poll.settle + poll.max_lag)
        while clock.now() < 1_749_870_005.0 + poll.max_staleness:
            polling.pollers[DEFAULT_MERCHANT].round()
            start_log.look()
            clock.to_next_minute()
        polling.close()
        state.close()
    steps = {line["event"]: line for line in lines if line.get("open") == PAGE or line["event"] == SIGNED_IN}
    assert list(steps)[:2] == [SIGNED_IN, COUNTING]
    assert set(steps) == {SIGNED_IN, COUNTING, REQUESTED, HISTORY}
    requested = steps[REQUESTED]
    assert (requested["streams"], requested["failing"], requested["media_not_found"]) == (65, 5, 1)
