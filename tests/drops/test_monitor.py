"""The drop detector as a whole: it gets answers, judges after each round, and is stored in the state file."""

import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
import structlog

from exporter.api.answers import LiveEvent, Media
from exporter.api.catalog import Catalog, Lookup
from exporter.config.settings import Settings
from exporter.drops.judging import HOLD, SETTLED_IN, STATE_BELIEVED
from exporter.drops.monitor import SAVE_EVERY, Drop, DropMonitor
from exporter.drops.tracker import PENDING
from exporter.drops.warmup import RETRY_EVERY, WarmupRequest
from exporter.errors import StateWriteFailed
from exporter.model import DAY_MINUTES, Group, Minute, MinuteRange, Rows, Stream, Target, end_of, minute_of
from exporter.storage.state import State, open_state
from exporter.views import DayState, Incident, IncidentState, Judgement
from tests.support.fakes import FakeClock

MERCHANT = "m"
MEDIA = ("a", "b", "c", "d")

START: Minute = 29_700_000
NOW = end_of(START) + 120
PLAYS = 50.0


def settings_for(**merchant: Any) -> Settings:
    account = {"api_key": "k", "mail_address": "a@example.com", "password": "p"}
    media = [{"id": media_id} for media_id in MEDIA]
    return Settings.model_validate({"merchants": [{"id": MERCHANT, **account, "media": media, **merchant}]})


def stream_of(media_id: str) -> Stream:
    return Stream(MERCHANT, media_id, Target.PLAY_COUNT, Group.ALL)


def rows_of(media_id: str, requested: MinuteRange, factor: float = 1.0) -> Rows:
    """Plays that hardly vary."""
    scale = PLAYS * factor * (1 if media_id else len(MEDIA))
    return {minute: {"": scale + minute % 3} for minute in range(requested.first, requested.last + 1)}


class World:
    """A monitor with its parts, and a clock."""

    def __init__(self, state: State, now: float = 0.0, **merchant: Any) -> None:
        self.state = state
        self.settings = settings_for(**merchant)
        self.catalog = Catalog(state, self.settings.merchants[0])
        self.monitor = DropMonitor(state, self.settings, self.settings.merchants[0], self.catalog, now)
        self.minute = START
        self.shown: dict[tuple[str, Minute], Mapping[str, float | None]] = {}

    @property
    def now(self) -> float:
        """The time when the newest minute has just settled."""
        return end_of(self.minute) + 120

    def set_files(self, *, live: str = "") -> None:
        """Let the catalog know which media are files."""
        for media_id in MEDIA:
            event = "event" if media_id == live else ""
            known = Media("", f"name of {media_id}", event, "live" if event else "file")
            self.catalog.enter_media(Lookup(media_id), known, self.now)

    def warm_up(self) -> None:
        """Answer all requests for history."""
        while (history := self.monitor.warmup.next(self.now, self.minute, ())) is not None:
            self.monitor.enter_history(history, history_of(history), self.now)
            self.monitor.warmup.done(history)

    def pass_minutes(self, count: int, factors: Mapping[str, float] | None = None, *, at_once: bool = False) -> None:
        """Let minutes pass, with a round after each, or one round after all; a factor scales each media's plays."""
        ranges = [MinuteRange(self.minute - 30, self.minute + count)] if at_once else []
        ranges += [] if at_once else [MinuteRange(self.minute + n - 30, self.minute + n) for n in range(1, count + 1)]
        for requested in ranges:
            self.minute = requested.last
            for media_id in ("", *MEDIA):
                factor = (factors or {}).get(media_id, 1.0)
                for minute, values in rows_of(media_id, requested, factor).items():
                    self.shown.setdefault((media_id, minute), values)
                rows = {minute: self.shown[media_id, minute] for minute in range(requested.first, requested.last + 1)}
                self.monitor.enter(stream_of(media_id), requested, rows, requested.last, self.now)
            self.monitor.judge()

    def ratio(self, media_id: str, later: float = 0.0) -> float | None:
        """The shown ratio, a number of seconds after the newest minute settled."""
        verdict = self.monitor.drops(self.now + later)[media_id].verdict
        return None if verdict is None else verdict.ratio


def history_of(history: WarmupRequest) -> Rows:
    minutes = rows_of(history.media_id, history.asked)
    if not history.hourly:
        return minutes
    return {
        hour: {"": sum(minutes[hour + minute][""] or 0 for minute in range(60))}
        for hour in range(history.asked.first, history.asked.last, 60)
    }


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = open_state(tmp_path / "state.db", FakeClock(NOW).now)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def warmed_up_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state file with the history of all media. It is created once, as that takes as long as many tests."""
    path = tmp_path_factory.mktemp("warmed-up") / "state.db"
    opened = open_state(path, FakeClock(NOW).now)
    made = World(opened)
    made.warm_up()
    made.monitor.save(made.now)
    opened.close()
    return path


@pytest.fixture
def warmed_up(warmed_up_file: Path, tmp_path: Path) -> Iterator[State]:
    """A copy of the file for one test."""
    opened = open_state(Path(shutil.copy(warmed_up_file, tmp_path / "copy.db")), FakeClock(NOW).now)
    yield opened
    opened.close()


@pytest.fixture
def world(warmed_up: State) -> World:
    """A monitor with history, some minutes after the start."""
    made = World(warmed_up)
    made.set_files()
    made.pass_minutes(3)
    return made


def test_without_history_there_is_no_verdict(state: State) -> None:
    """Without history there is no verdict; with it, there is one from the next minute on."""
    world = World(state)
    world.set_files()
    world.pass_minutes(3)
    assert set(world.monitor.drops(world.now).values()) == {Drop(None, Judgement.LEARNING, None)}
    world.warm_up()
    world.pass_minutes(1)
    assert {world.ratio(media_id) for media_id in ("", *MEDIA)} == {0.0}


def test_a_drop_is_shown_with_the_expected_plays(world: World) -> None:
    """Six minutes without most plays of one media are a drop of it, and none of the others or of the merchant."""
    world.pass_minutes(6, {"a": 0.1, "": 0.8})
    view = world.monitor.drops(world.now)["a"].verdict
    assert view is not None
    assert view.minute == world.minute
    assert view.ratio == pytest.approx(0.9, abs=0.15)
    assert view.evidence > 9
    assert view.expected == pytest.approx(PLAYS, rel=0.1)
    assert [world.ratio(media_id) for media_id in ("", "b", "c", "d")] == [0.0] * 4


def test_a_drop_of_all_is_the_merchants(world: World) -> None:
    """If most media drop, the whole merchant does, too."""
    world.pass_minutes(5, {"a": 0.1, "b": 0.1, "c": 0.1, "": 0.3})
    assert (world.ratio("") or 0) > 0.35
    assert (world.ratio("a") or 0) > 0.4


def test_one_odd_minute_is_no_alert_when_no_other_comes(world: World) -> None:
    """If rows stop coming right after a minute that looks bad, its ratio disappears before an alert's two minutes."""
    assert world.ratio("a") == 0
    for _ in range(10):
        if world.ratio("a") == 0:
            world.pass_minutes(1, {"a": 0.0, "": 0.75})
    assert (world.ratio("a", later=HOLD - 1) or 0) > 0.3
    assert world.ratio("a", later=HOLD) == 0
    world.pass_minutes(PENDING + 1, {"a": 0.0, "": 0.75})
    assert (world.ratio("a", later=HOLD + 300) or 0) > 0.3


def test_minutes_of_one_answer_are_judged_together(world: World) -> None:
    """A media with rare requests shows a lasting drop, however late its next answer is."""
    world.pass_minutes(10, {"b": 0.05}, at_once=True)
    assert (world.ratio("b", later=HOLD + 600) or 0) > 0.4


def test_stale_verdicts_are_not_shown(world: World) -> None:
    """After the longest lag of the API and the longest wait of a stream, neither ratio nor threshold is shown."""
    longest = world.settings.poll.max_lag + world.settings.poll.max_staleness
    assert world.ratio("a", later=longest - 121) == 0
    assert world.ratio("a", later=longest - 119) is None


def test_minutes_assumed_to_be_empty_are_not_judged(world: World) -> None:
    """Minutes that are counted as empty only because the API is late are unknown, and not zeros."""
    requested = MinuteRange(world.minute - 30, world.minute + 10)
    rows = rows_of("a", MinuteRange(requested.first, world.minute))
    world.monitor.enter(stream_of("a"), requested, rows, world.minute, world.now + 600)
    world.monitor.judge()
    verdict = world.monitor.drops(world.now + 600)["a"].verdict
    assert verdict is not None
    assert verdict.minute == world.minute
    hour = world.monitor.hours()["a"]
    assert minute_of(hour.start) + len(hour.plays) - 1 == world.minute


def test_a_minute_without_a_row_is_zero(world: World) -> None:
    """If there is a later row, a minute without one had no plays."""
    requested = MinuteRange(world.minute - 30, world.minute + 4)
    rows = rows_of("a", MinuteRange(requested.first, world.minute))
    world.monitor.enter(stream_of("a"), requested, rows, requested.last, world.now)
    assert world.monitor.hours()["a"].plays[-5:] == (PLAYS + world.minute % 3, 0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(("value", "held"), [(None, False), (1e9, True)])
def test_a_minute_with_unknown_plays_is_missing(world: World, value: float | None, held: bool) -> None:
    """An unusable or held value is neither a zero nor a spike: the media's verdict stays."""
    world.pass_minutes(6, {"a": 0.1, "": 0.8})
    before = world.ratio("a")
    assert before is not None
    assert before > 0.7
    world.minute += 1
    requested = MinuteRange(world.minute - 30, world.minute)
    rows = {minute: world.shown["a", minute] for minute in range(requested.first, requested.last)}
    waiting = frozenset({world.minute} if held else ())
    world.monitor.enter(
        stream_of("a"), requested, {**rows, world.minute: {"": value}}, world.minute, world.now, waiting
    )
    world.monitor.judge()
    assert world.ratio("a") == before
    assert world.monitor.hours()["a"].plays[-2:] == (world.shown["a", world.minute - 1][""], None)
    # When the plays are known, they are used.
    world.shown["a", world.minute] = {"": 5.0}
    world.pass_minutes(1, {"a": 0.1, "": 0.8})
    assert world.monitor.hours()["a"].plays[-2] == 5.0


def test_drops_can_be_read_while_they_are_judged(world: World) -> None:
    """Scrapes read in their own threads: each sees all media, or none before the first verdict."""
    world.pass_minutes(10)
    errors: list[Exception] = []
    sizes: set[int] = set()
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                sizes.add(sum(each.verdict is not None for each in world.monitor.drops(world.now).values()))
        except RuntimeError as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for _ in range(2000):
            world.monitor.judge()
        done.set()
        for reader in readers:
            reader.join()
    finally:
        sys.setswitchinterval(interval)
    assert errors == []
    assert sizes == {len(world.monitor.drops(world.now))}


def judged(world: World) -> set[str]:
    return {media_id for media_id, drop in world.monitor.drops(world.now).items() if drop.verdict is not None}


def test_reading_does_not_wait_for_the_detector(warmed_up: State) -> None:
    """Pages and scrapes read while an answer is entered, before and after the baselines are unpacked."""
    world = World(warmed_up)
    world.set_files()

    def read() -> tuple[set[str], float, set[str]]:
        return set(world.monitor.hours()), world.monitor.dispersion(), judged(world)

    def read_elsewhere() -> tuple[set[str], float, set[str]]:
        with ThreadPoolExecutor(1) as pool, world.monitor._mutex:
            return pool.submit(read).result(timeout=30)

    media, noise, drops = read_elsewhere()
    assert (media, drops) == ({"", *MEDIA}, set())
    assert noise == world.monitor._baseline("").dispersion
    world.pass_minutes(3)
    assert read_elsewhere() == (media, world.monitor._baseline("").dispersion, media)


def test_hours_are_the_same_before_and_after_unpacking(warmed_up: State) -> None:
    """A page shows the same plays, whether a baseline was already needed or not."""
    monitor = World(warmed_up).monitor
    before = monitor.hours()
    shown = {media_id: monitor._baseline(media_id).recent_minutes() for media_id in ("", *MEDIA)}
    after = {media_id: recent.last(60) for media_id, recent in shown.items() if recent is not None}
    assert before.keys() == after.keys()
    for media_id, hour in before.items():
        assert minute_of(hour.start) == after[media_id][0][0]
        assert list(zip(hour.plays, hour.expected, strict=True)) == [minute[1:] for minute in after[media_id]]


def test_reading_during_answers_loses_no_media(warmed_up: State) -> None:
    """Threads read while others enter answers and judge: none fails, and each sees all media and whole hours."""
    world = World(warmed_up)
    world.set_files()
    world.pass_minutes(3)
    done = threading.Event()
    everything = {"", *MEDIA}

    def read() -> None:
        while not done.is_set():
            hours = world.monitor.hours()
            assert hours.keys() == everything
            assert all(len(hour.plays) == len(hour.expected) == 60 for hour in hours.values())
            assert set(world.monitor.drops(world.now)) == everything
            assert world.monitor.dispersion() >= 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(3) as pool:
            readers = [pool.submit(read) for _ in range(3)]
            try:
                world.pass_minutes(60)
            finally:
                done.set()
            for reader in readers:
                reader.result()
    finally:
        sys.setswitchinterval(interval)


def test_other_streams_are_ignored(world: World) -> None:
    """The detector uses only streams of plays without a group."""
    before = world.monitor.hours()
    requested = MinuteRange(world.minute, world.minute + 5)
    for target, group in ((Target.PLAY_COUNT, Group.COUNTRY), (Target.PLAY_TIME, Group.ALL)):
        world.monitor.enter(Stream(MERCHANT, "a", target, group), requested, {}, requested.last, world.now)
    assert world.monitor.hours() == before


def test_drop_false_excludes_a_media(warmed_up: State) -> None:
    """With `drop: false` a media has no threshold and no ratio; its plays still count for the others."""
    world = World(warmed_up, media=[{"id": "a", "drop": False}, *({"id": media_id} for media_id in "bcd")])
    world.set_files()
    world.pass_minutes(4)
    assert world.monitor.thresholds["a"] is None
    assert world.ratio("a") is None
    assert world.ratio("b") == 0
    assert "a" in world.monitor.hours()


def test_a_media_that_is_missing_in_the_catalog_is_not_judged(warmed_up: State) -> None:
    """It may be live, and its event's end is no drop. If the catalog has no result, the media is treated as a file."""
    world = World(warmed_up)
    world.pass_minutes(3)
    assert world.ratio("a") is None
    for media_id in MEDIA:
        world.catalog.failed(Lookup(media_id), world.now)
    world.pass_minutes(1)
    assert world.ratio("a") == 0


class TestLive:
    """A media whose live event runs, or does not."""

    EVENT = Lookup("a", "event")

    @pytest.fixture
    def world(self, warmed_up: State) -> World:
        made = World(warmed_up)
        made.set_files(live="a")
        made.pass_minutes(3)
        return made

    def set_running(self, world: World, *, running: bool) -> None:
        world.catalog.enter_live(self.EVENT, LiveEvent(running), world.now)

    def pass_minutes_with_state(
        self, world: World, count: int, factors: Mapping[str, float] | None = None, *, running: bool = True
    ) -> None:
        for _ in range(count):
            self.set_running(world, running=running)
            world.pass_minutes(1, factors)

    def test_without_an_event_there_is_no_drop(self, world: World) -> None:
        """Before its state is known there is no verdict, and while it does not run there is no drop."""
        assert world.ratio("a") is None
        self.pass_minutes_with_state(world, 10, {"a": 0.0}, running=False)
        assert world.ratio("a") == 0

    def test_a_running_event_has_drops(self, world: World) -> None:
        """After twelve minutes, the loss of most plays within three is a drop."""
        self.pass_minutes_with_state(world, int(SETTLED_IN // 60) + 4)
        assert world.ratio("a") == 0
        self.pass_minutes_with_state(world, 3, {"a": 0.05})
        assert (world.ratio("a") or 0) > 0.7

    def test_an_event_that_has_just_begun_has_none(self, world: World) -> None:
        """The audience varies during the first minutes."""
        self.pass_minutes_with_state(world, 5)
        self.pass_minutes_with_state(world, 4, {"a": 0.0})
        assert world.ratio("a") == 0

    def test_the_end_of_an_event_is_no_drop(self, world: World) -> None:
        """As soon as the end is known, the ratio is 0."""
        self.pass_minutes_with_state(world, 20)
        self.pass_minutes_with_state(world, 3, {"a": 0.0}, running=False)
        assert world.ratio("a") == 0

    def test_a_media_with_only_events_has_drops(self, state: State) -> None:
        """The minutes before are enough: the days before its event need not be known."""
        world = World(state)
        world.set_files(live="a")
        self.pass_minutes_with_state(world, int(SETTLED_IN // 60) + 4)
        assert world.ratio("a") == 0
        self.pass_minutes_with_state(world, 3, {"a": 0.05})
        assert (world.ratio("a") or 0) > 0.7

    def test_after_a_restart_what_was_said_stands_until_the_event_is_known(
        self, world: World, warmed_up: State
    ) -> None:
        """Neither a drop that has begun nor the verdict is lost while the state of its event is looked up."""
        self.pass_minutes_with_state(world, int(SETTLED_IN // 60) + 4)
        self.pass_minutes_with_state(world, 4, {"a": 0.05})
        world.monitor.save(world.now)
        before = world.monitor.drops(world.now)["a"]
        assert before.incident is not None
        restarted = World(warmed_up, world.now)
        restarted.minute, restarted.shown = world.minute, world.shown
        restarted.pass_minutes(1, {"a": 0.05})
        assert restarted.monitor.drops(world.now + 60)["a"] == before
        for _ in range(PENDING):
            event = LiveEvent(running=True, started=world.now - 3600)
            restarted.catalog.enter_live(self.EVENT, event, restarted.now)
            restarted.pass_minutes(1, {"a": 0.05})
        found = restarted.monitor.drops(restarted.now)["a"].incident
        assert found is not None
        assert found.onset == before.incident.onset

    def test_an_old_state_gives_no_verdict(self, world: World) -> None:
        """If it is unknown whether the event still runs, there is no verdict."""
        self.pass_minutes_with_state(world, 20)
        world.pass_minutes(int(STATE_BELIEVED // 60) + 1, {"a": 0.0})
        assert world.ratio("a") is None


def test_it_continues_after_a_restart(state: State) -> None:
    """The state file is enough for the same verdicts; the history is not requested again."""
    world = World(state)
    world.set_files()
    world.warm_up()
    world.pass_minutes(3)
    world.monitor.save(world.now)
    restarted = World(state)
    restarted.set_files()
    restarted.minute, restarted.shown = world.minute, dict(world.shown)
    assert restarted.monitor.warmup.next(restarted.now, restarted.minute, ()) is None
    assert restarted.monitor.hours() == world.monitor.hours()
    for each in (world, restarted):
        each.pass_minutes(4, {"a": 0.1, "": 0.8})
    one, other = (each.monitor.drops(world.now) for each in (restarted, world))
    assert {key: each.verdict and each.verdict.expected for key, each in one.items()} == {
        key: pytest.approx(each.verdict and each.verdict.expected, rel=0.05) for key, each in other.items()
    }
    assert (restarted.ratio("a") or 0) > 0.4
    assert (world.ratio("a") or 0) > 0.4


def test_it_is_written_every_few_minutes(world: World, warmed_up: State) -> None:
    """It is not written after each round; a clock that was set back does not delay it."""

    def newest() -> int:
        with warmed_up.read() as db:
            (minute,) = db.execute("SELECT newest FROM tracks WHERE media_id = 'a'").fetchone()
        return int(minute)

    world.monitor.save_now_and_then(world.now)
    written = newest()
    world.pass_minutes(1)
    world.monitor.save_now_and_then(world.now)
    assert newest() == written
    world.monitor.save_now_and_then(world.now - 61)
    assert newest() == world.minute
    world.pass_minutes(int(SAVE_EVERY // 60) + 1)
    world.monitor.save_now_and_then(world.now)
    assert newest() == world.minute


def test_a_failed_write_is_repeated(world: World, warmed_up: State) -> None:
    """After a failure the next write has all of the data."""
    with warmed_up.transaction() as db:
        db.execute("ALTER TABLE track_days RENAME TO elsewhere")
    with pytest.raises(StateWriteFailed):
        world.monitor.save(world.now)
    with warmed_up.transaction() as db:
        db.execute("ALTER TABLE elsewhere RENAME TO track_days")
    world.monitor.save(world.now)
    assert World(warmed_up).monitor.hours() == world.monitor.hours()


def test_old_days_are_deleted(world: World, warmed_up: State) -> None:
    """The state file has only what the detector needs: at most 64 KiB a media together with the memory."""
    for _ in range(3):
        world.minute += 10 * DAY_MINUTES
        world.pass_minutes(2)
        world.monitor.save(world.now)
    with warmed_up.read() as db:
        (oldest,) = db.execute("SELECT min(day) FROM track_days").fetchone()
        (size,) = db.execute("SELECT sum(length(steps)) FROM track_days WHERE media_id = 'a'").fetchone()
        (recent,) = db.execute("SELECT length(recent) + length(noise) FROM tracks WHERE media_id = 'a'").fetchone()
    assert oldest >= world.minute // DAY_MINUTES - 22
    assert size + recent < 32 * 1024


def test_a_media_is_judged_as_soon_as_its_history_is_known(state: State) -> None:
    """The newest minute of its history shows a drop that has begun before; a media without history is not judged."""
    world = World(state)
    world.set_files()
    history = world.monitor.warmup.next(world.now, world.minute, ())
    while history is not None and history.media_id != "a":
        world.monitor.warmup.done(history)
        history = world.monitor.warmup.next(world.now, world.minute, ())
    assert history is not None
    rows = {
        minute: {"": 20.0 if minute <= world.minute - 5 else 1.0}
        for minute in range(history.asked.first, history.asked.last + 1)
    }
    world.monitor.enter_history(history, rows, world.now)
    assert world.monitor.judge() == {}
    drops = world.monitor.drops(world.now)
    assert drops["a"].judgement is Judgement.JUDGED
    assert drops["a"].verdict is not None
    assert drops["a"].verdict.minute == world.minute
    assert drops["a"].verdict.ratio > 0.8
    assert drops["b"].judgement is Judgement.LEARNING
    # The next answer goes on from there.
    world.monitor.enter_history(history, rows, world.now)
    assert world.monitor.judge() == {}


def test_history_is_requested_after_a_long_gap(world: World) -> None:
    """After hours without an answer, and no catch-up, the history is requested again; after a short gap it is not."""
    world.minute += 20
    world.pass_minutes(1)
    assert world.monitor.warmup.next(world.now, world.minute, ()) is None
    world.minute += 100
    world.pass_minutes(1)
    history = world.monitor.warmup.next(world.now, world.minute, ())
    assert history is not None
    world.monitor.enter_history(history, history_of(history), world.now)
    world.monitor.warmup.done(history)
    plays = world.monitor.hours()[history.media_id].plays
    assert None not in plays


def test_pending_and_failed_history_is_not_requested(state: State) -> None:
    """Each history request is under way once at a time, and comes again some time after a failure."""
    world = World(state)
    first = world.monitor.warmup.next(world.now, world.minute, ())
    assert first is not None
    second = world.monitor.warmup.next(world.now, world.minute, {first.stream})
    assert second is not None
    assert second.stream != first.stream
    world.monitor.warmup.failed(first, world.now)
    assert world.monitor.warmup.next(world.now, world.minute, ()) == second
    assert world.monitor.warmup.next(world.now + RETRY_EVERY, world.minute, ()) == first
    world.monitor.warmup.shorten(first, len(first.asked) // 2)
    shorter = world.monitor.warmup.next(world.now + RETRY_EVERY, world.minute, ())
    assert shorter is not None
    assert len(shorter.asked) == len(first.asked) // 2


class TestIncidents:
    """The incidents of a merchant, as pages, metrics and alerts show them."""

    FALL: ClassVar = {"a": 0.05, "": 0.76}

    def incident(self, world: World, media_id: str = "a") -> Incident | None:
        return world.monitor.drops(world.now)[media_id].incident

    def test_a_dead_media_that_is_requested_rarely_does_not_blink(self, world: World) -> None:
        """One answer in five minutes: between two of them the ratio stands."""
        world.pass_minutes(5, self.FALL, at_once=True)
        for _ in range(12):
            world.pass_minutes(5, self.FALL, at_once=True)
            for later in (0, 100, 200, 299):
                assert (world.ratio("a", later=later) or 0) > 0.9
        assert [each.state for each in world.monitor.incidents(world.now)] == [IncidentState.OPEN]

    def test_an_incident_outlives_the_freshness_of_its_data(self, world: World) -> None:
        """Without data nobody may say that the drop is over: its ratio stands, and that there is no data is shown."""
        world.pass_minutes(10, self.FALL)
        drop = world.monitor.drops(world.now + 3 * 3600)["a"]
        assert drop.verdict is not None
        assert drop.verdict.ratio > 0.9
        assert drop.judgement is Judgement.NO_DATA
        assert drop.incident == self.incident(world)

    def test_a_drop_that_begins_is_shown_as_such(self, world: World) -> None:
        """As soon as the ratio is shown there is its onset, too; without the next minute both are taken back."""
        while self.incident(world) is None:
            world.pass_minutes(1, self.FALL)
        beginning = self.incident(world)
        assert beginning is not None
        assert beginning.state is IncidentState.BEGINNING
        assert beginning.onset == START + 4
        assert beginning.ratio == world.ratio("a")
        assert world.monitor.incidents(world.now) == (beginning,)
        assert world.monitor.incidents(world.now + HOLD) == ()
        assert DayState.CRITICAL not in world.monitor.days(world.now)["a"].states
        world.pass_minutes(PENDING, self.FALL)
        now = self.incident(world)
        assert now is not None
        assert (now.state, now.onset) == (IncidentState.OPEN, beginning.onset)

    def test_a_restart_keeps_it(self, world: World, warmed_up: State) -> None:
        """A restart in the middle shows it at once, before the first answer, and ends it later as the same one."""
        world.pass_minutes(20, self.FALL)
        world.monitor.save_now_and_then(world.now)
        before = self.incident(world)
        restarted = World(warmed_up)
        restarted.set_files()
        restarted.minute, restarted.shown = world.minute, world.shown
        assert self.incident(restarted) == before
        assert (restarted.ratio("a") or 0) > 0.9
        restarted.pass_minutes(10, self.FALL)
        restarted.pass_minutes(30)
        [ended] = restarted.monitor.incidents(restarted.now)
        assert before is not None
        assert (ended.state, ended.onset) == (IncidentState.ENDED, before.onset)

    def test_a_restart_keeps_one_that_begins(self, world: World, warmed_up: State) -> None:
        """A kill before its alert fires forgets nothing: it stands for a while, and goes on with the next answer."""
        world.monitor.save_now_and_then(world.now)
        while (beginning := self.incident(world)) is None:
            world.pass_minutes(1, self.FALL)
            world.monitor.save_now_and_then(world.now)
        assert beginning.state is IncidentState.BEGINNING
        began = world.now + 50
        restarted = World(warmed_up, began)
        restarted.set_files()
        restarted.minute, restarted.shown = world.minute, world.shown
        assert restarted.monitor.drops(began + HOLD - 1)["a"].incident == beginning
        assert restarted.monitor.drops(began + HOLD)["a"].incident is None
        restarted.pass_minutes(PENDING, self.FALL)
        found = self.incident(restarted)
        assert found is not None
        assert (found.state, found.onset) == (IncidentState.OPEN, beginning.onset)

    def test_the_line_shows_what_is_expected_beside_the_others(self, world: World) -> None:
        """The last hour has the expected plays of the verdict, which the other media lower, and not the forecast."""
        world.pass_minutes(25, dict.fromkeys(("b", "c", "d"), 0.75) | {"": 0.8})
        verdict, hour = world.monitor.drops(world.now)["a"].verdict, world.monitor.hours()["a"]
        assert verdict is not None
        assert hour.expected[-1] == pytest.approx(verdict.expected)
        assert verdict.expected < 0.9 * PLAYS

    def test_a_change_is_written_at_once(self, world: World, warmed_up: State) -> None:
        """A kill right after the alert has begun forgets nothing."""
        world.monitor.save_now_and_then(world.now)
        while (incident := self.incident(world)) is None or incident.state is IncidentState.BEGINNING:
            world.pass_minutes(1, self.FALL)
            world.monitor.save_now_and_then(world.now)
        assert World(warmed_up).monitor.incidents(world.now) == world.monitor.incidents(world.now)

    def test_damaged_incidents_are_left_out(self, world: World, warmed_up: State) -> None:
        """A failing disk costs the incident, not the start."""
        world.pass_minutes(10, self.FALL)
        world.monitor.save(world.now)
        with warmed_up.transaction() as db:
            db.execute("UPDATE drop_states SET content = substr(content, 2) WHERE media_id = 'a'")
        assert World(warmed_up).monitor.incidents(world.now) == ()

    def test_medias_drops_belong_to_the_merchants(self, world: World) -> None:
        """When all media fall together, theirs are marked; one that begins later on its own is, too, while it lasts."""
        world.pass_minutes(15, dict.fromkeys(("", *MEDIA), 0.05))
        found = {each.media_id: each.with_merchant for each in world.monitor.incidents(world.now)}
        assert found == {"": False, **dict.fromkeys(MEDIA, True)}
        world.pass_minutes(40)
        world.pass_minutes(10, self.FALL)
        newest = world.monitor.incidents(world.now)[0]
        assert (newest.media_id, newest.state, newest.with_merchant) == ("a", IncidentState.OPEN, False)

    def test_a_burst_of_one_media_does_not_hide_an_outage_of_all(self, world: World) -> None:
        """It ends the merchant's incident. The next one opens soon after it, though the forecasts of all other media
        have sunk into the outage.
        """
        down = dict.fromkeys(("", *MEDIA), 0.05)
        world.pass_minutes(120, down)
        world.pass_minutes(15, down | {"a": 4.0, "": 1.05})
        whole = [each for each in world.monitor.incidents(world.now) if not each.media_id]
        assert [each.state for each in whole] == [IncidentState.ENDED]
        world.pass_minutes(15, down)
        whole = [each for each in world.monitor.incidents(world.now) if not each.media_id]
        assert [each.state for each in whole] == [IncidentState.OPEN, IncidentState.ENDED]

    def test_the_expected_line_does_not_sink(self, world: World) -> None:
        """The last hour shows what was expected without the drop."""
        world.pass_minutes(90, self.FALL)
        expected = world.monitor.hours()["a"].expected
        assert min(value for value in expected if value is not None) == pytest.approx(PLAYS, rel=0.1)

    def test_the_last_day_shows_when_it_was(self, world: World) -> None:
        """The parts of a day have the worst state, and no data where none came."""
        world.pass_minutes(60)
        world.pass_minutes(60, self.FALL)
        day = world.monitor.days(world.now)["a"]
        assert len(day.states) == 96
        assert day.start == pytest.approx(world.now - DAY_MINUTES * 60, abs=1800)
        assert set(day.states[:80]) == {DayState.NO_DATA}
        assert day.states[-3:].count(DayState.CRITICAL) >= 2
        assert DayState.JUDGED in day.states[-9:-3]
        assert DayState.CRITICAL in world.monitor.days(world.now + 23 * 3600)["a"].states[:6]

    def test_a_beginning_drop_makes_a_media_suspect(self, world: World) -> None:
        """Its newest minute alone shows it, before the detector's windows do; an incident is no suspicion any more."""
        assert not world.monitor.suspects
        world.pass_minutes(1, self.FALL)
        assert world.ratio("a") == 0
        assert world.monitor.suspects == {"a": False}
        world.pass_minutes(9, self.FALL)
        assert not world.monitor.suspects
        assert world.monitor.expected() == {"a": pytest.approx(PLAYS, rel=0.1)}

    def test_the_log_has_a_line_for_its_begin_and_its_end(self, world: World) -> None:
        """With its onset and what was lost."""
        with structlog.testing.capture_logs() as logs:
            world.pass_minutes(20, self.FALL)
            world.pass_minutes(30)
        assert [entry["event"] for entry in logs] == ["plays are dropping", "plays are back"]
        assert [entry["media"] for entry in logs] == ["a", "a"]
        assert logs[1]["plays_lost"] == pytest.approx(20 * PLAYS, rel=0.15)

    def test_a_media_without_plays_is_judged(self, state: State) -> None:
        """It can have no drop, and it is not learning for ever."""
        world = World(state)
        world.set_files()
        for _ in range(60):
            world.pass_minutes(1, {"b": 0.0})
        world.shown = {key: ({"": 0.0} if key[0] == "b" else value) for key, value in world.shown.items()}
        world.pass_minutes(60, {"b": 0.0})
        assert world.monitor.drops(world.now)["b"].judgement is Judgement.JUDGED

    def test_a_long_answer_is_judged_in_parts(self, world: World) -> None:
        """An outage of the exporter with a drop in it: the drop has the onset that it had, and has ended."""
        requested = MinuteRange(world.minute - 30, world.minute + 400)
        rows = {
            minute: {"": PLAYS * (0.05 if world.minute + 100 <= minute < world.minute + 200 else 1)}
            for minute in range(requested.first, requested.last + 1)
        }
        onset = world.minute + 100
        world.minute += 400
        world.monitor.enter(stream_of("a"), requested, rows, requested.last, world.now)
        world.monitor.judge()
        [ended] = world.monitor.incidents(world.now)
        assert (ended.state, ended.onset) == (IncidentState.ENDED, onset)
        assert ended.lost == pytest.approx(95 * PLAYS, rel=0.05)


def test_the_end_of_a_live_event_ends_its_incident(warmed_up: State) -> None:
    """Nothing is expected after the event."""
    live = TestLive()
    world = World(warmed_up)
    world.set_files(live="a")
    live.pass_minutes_with_state(world, 25)
    live.pass_minutes_with_state(world, 10, {"a": 0.05})
    assert world.monitor.drops(world.now)["a"].incident is not None
    live.pass_minutes_with_state(world, 2, {"a": 0.0}, running=False)
    assert world.monitor.drops(world.now)["a"].incident is None
    [ended] = world.monitor.incidents(world.now)
    assert ended.state is IncidentState.ENDED
    live.pass_minutes_with_state(world, 20, {"a": 0.0}, running=False)
    assert len(world.monitor.incidents(world.now)) == 1
