"""Rounds: what is requested in which order, and what happens when it fails. The client is a stand-in."""

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import structlog

from exporter.api.answers import LiveEvent, Media
from exporter.api.budget import RequestBudget
from exporter.api.catalog import Lookup
from exporter.api.client import Client
from exporter.assembly import build_parts
from exporter.config.settings import Settings
from exporter.counting import ledger_rows
from exporter.counting.ledger import Ledger
from exporter.drops.warmup import MINUTES_BACK, WarmupRequest
from exporter.errors import (
    ApiError,
    BadRequest,
    BudgetSpent,
    MalformedAnswer,
    NoAnswer,
    NotFound,
    RateLimited,
    RefusedError,
    ServerError,
    SignInFailed,
    TooLarge,
    Unauthorized,
)
from exporter.model import Minute, MinuteRange, Reading, Stream, minute_of
from exporter.polling.poller import MerchantPoller
from exporter.storage.state import State, open_state
from exporter.views import Verdict
from tests.support.audience import folder_in_memory, mark_history_known
from tests.support.fakes import FakeClock
from tests.support.processes import PATIENCE, wait_until

MEDIA = ("a", "b")


class FakeClient:
    """Answers from a table, within a real budget.

    Attributes:
        asked: What was requested, in order.
        errors: What to raise instead of answering, by (media id, target), or by media id.
    """

    token_expiry = None
    renewals = 0

    def __init__(self, budget: RequestBudget) -> None:
        self.budget = budget
        self.asked: list[str] = []
        self.ranges: list[MinuteRange] = []
        self.errors: dict[str, ApiError] = {}
        self.longest = 10_000
        self.all_asked: list[str] = []
        # Tells the newest minute that has a row, where not all have.
        self.newest: Callable[[], Minute] | None = None
        # What of the answers of a media cannot be used.
        self.problems: dict[str, tuple[str, ...]] = {}

    def aggregations(self, stream: Stream, asked: MinuteRange, *, hourly: bool = False) -> Reading:
        if hourly or len(asked) == MINUTES_BACK:
            return self._past(stream, asked, hourly=hourly)
        self._send(f"{stream.media_id}/{stream.target}")
        self.ranges.append(asked)
        if len(asked) > self.longest:
            raise BadRequest("range too long", status=400)
        self._fail(stream.media_id)
        plays = 1.0 if stream.media_id else float(len(MEDIA))
        newest = asked.last if self.newest is None else min(self.newest(), asked.last)
        rows = {minute: {"": plays} for minute in range(asked.first, newest + 1)}
        return Reading(rows, self.problems.get(stream.media_id, ()))

    def _past(self, stream: Stream, asked: MinuteRange, *, hourly: bool) -> Reading:
        self._send(f"past of {stream.media_id or 'all'} by {'hour' if hourly else 'minute'}")
        self._fail("past")
        return Reading({minute: {"": 1.0} for minute in range(asked.first, asked.last + 1, 60 if hourly else 1)})

    def media(self, media_id: str) -> Media:
        self._send(f"media {media_id}")
        self._fail(f"media {media_id}")
        return Media(media_id=media_id, ref_id="", name=f"name of {media_id}", live_event_id="ev", encode_type="live")

    def live_event(self, live_event_id: str) -> LiveEvent:
        self._send(f"event {live_event_id}")
        self._fail("event")
        return LiveEvent(running=True)

    def _send(self, what: str) -> None:
        self.budget.take().done()
        self.asked.append(what)
        self.all_asked.append(what)

    def _fail(self, key: str) -> None:
        if error := self.errors.get(key, self.errors.get("*")):
            raise error


class World:
    """A poller with its parts."""

    def __init__(
        self,
        state: State,
        clock: FakeClock,
        limit: int,
        concurrency: int,
        collect: Sequence[str],
        media: Sequence[str],
        *,
        past_known: bool,
    ) -> None:
        if past_known:
            mark_history_known(state, "m", ["", *media])
        self.settings = settings = Settings.model_validate(
            {
                "merchants": [
                    {
                        "id": "m",
                        "api_key": "k",
                        "mail_address": "a@example.com",
                        "password": "p",
                        "requests_per_minute": limit,
                        "collect": [{"target": target} for target in collect],
                        "media": [{"id": media_id} for media_id in media],
                    }
                ],
                "poll": {"concurrency": concurrency},
            }
        )
        merchant = settings.merchants[0]
        self.clock = clock
        self.state = state
        self.ledger = Ledger(state, settings, on_revision=lambda age: None)
        self.ledger.sync(settings.merchants, clock.now())
        self.budget = RequestBudget(state, "m", limit, clock.now, clock.monotonic)
        self.client = FakeClient(self.budget)
        client = cast("Client", self.client)
        parts = build_parts(settings, merchant, state, self.ledger, self.budget, client, clock)
        self.catalog = parts.catalog
        self.monitor = parts.monitor
        self.poller = MerchantPoller(parts)

    def round(self) -> list[str]:
        """A round in the next minute; what was requested."""
        self.clock.advance(60)
        self.client.asked = []
        self.client.ranges = []
        self.poller.round()
        return self.client.asked


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[..., World]]:
    clock = FakeClock()
    # Thousands of transactions do not wait for a disk.
    with folder_in_memory(tmp_path) as folder:
        state = open_state(Path(folder) / "state.db", clock.now)

        def make(
            limit: int = 45,
            concurrency: int = 1,
            collect: Sequence[str] = ("play_count",),
            media: Sequence[str] = MEDIA,
            *,
            past_known: bool = True,
        ) -> World:
            return World(state, clock, limit, concurrency, collect, media, past_known=past_known)

        yield make
        state.close()


PLAYS = ["/play_count", "a/play_count", "b/play_count"]
CATALOG = ["media a", "media b", "event ev", "event ev"]


def test_the_whole_merchant_comes_first_and_the_catalog_last(build: Callable[..., World]) -> None:
    """The first round requests everything once; the next ones only for the minutes that are new."""
    world = build()
    asked = world.round()
    assert asked[0] == "/play_count"
    assert sorted(asked) == sorted(PLAYS + CATALOG)
    assert sorted(world.round()) == sorted([*PLAYS, "event ev", "event ev"])
    assert world.poller.link.up is True


def test_the_stalest_come_first_where_the_budget_is_short(build: Callable[..., World]) -> None:
    """With two requests a minute, the whole merchant has one of them and the others alternate."""
    world = build(limit=2)
    seen = [world.round() for _ in range(12)]
    assert all(len(asked) <= 2 for asked in seen)
    assert all(asked[0] == "/play_count" for asked in seen)
    flat = [what for asked in seen for what in asked]
    assert {flat.count("a/play_count"), flat.count("b/play_count")} <= {4, 5}


# A proxy without its API behind it can answer anything.
OUTAGES = [
    NoAnswer("no route"),
    ServerError("internal", status=500),
    NotFound("default backend", status=404),
    BadRequest("bad request", status=400),
    MalformedAnswer("<html>"),
    Unauthorized("not accepted", status=401),
    RefusedError("forbidden", status=403),
]


def test_an_api_that_is_down_is_asked_three_times_a_round(build: Callable[..., World]) -> None:
    """The budget is not spent on an API that does not answer, and the next round tries again."""
    world = build()
    for error in OUTAGES:
        world.client.errors = {"*": error}
        assert len(world.round()) == 3
        assert world.poller.link.up is False
    world.client.errors = {}
    assert set(PLAYS) <= set(world.round())
    assert world.poller.link.up is True


@pytest.mark.parametrize("concurrency", [1, 4])
def test_what_fails_by_itself_is_shown_as_such(build: Callable[..., World], concurrency: int) -> None:
    """While the API answers others it is up, whichever request came last; the media that fails, or that is gone, is
    named until it is answered again, and lookups that fail are counted.
    """
    world = build(concurrency=concurrency, collect=("play_count", "play_time"))
    ups = []
    send = world.client._send

    def noted(what: str) -> None:
        ups.append(world.poller.link.up)
        send(what)

    world.client._send = noted  # type: ignore[method-assign]
    world.client.errors = {
        "a": ServerError("internal", status=500),
        "b": NotFound("no such media", status=404),
        "media a": RefusedError("forbidden", status=403),
    }
    for _ in range(5):
        world.round()
    link = world.poller.link
    assert set(ups) <= {None, True}
    assert link.up is True
    assert dict(link.failing) == {"a": 2}
    assert link.gone == {"b"}
    assert link.failing_lookups == 1
    assert link.round_timestamp == pytest.approx(world.clock.now(), abs=60)
    world.client.errors = {}
    for _ in range(40):
        world.round()
    link = world.poller.link
    assert sum(link.failing.values()) == len(link.gone) == link.failing_lookups == 0


def test_a_refused_password_ends_the_round(build: Callable[..., World]) -> None:
    """One request is enough to know; the merchant is asked again a minute later."""
    world = build()
    world.client.errors = {"*": SignInFailed("check the password", code="401", refused=True)}
    assert len(world.round()) == 1
    assert len(world.round()) == 1
    assert world.poller.link.up is False
    assert world.poller.link.last_error == "check the password"


@pytest.mark.parametrize("error", [MalformedAnswer("not JSON"), NotFound("no such media", status=404)])
def test_a_stream_that_fails_does_not_starve_the_others(build: Callable[..., World], error: ApiError) -> None:
    """A stream whose own request fails is requested less and less often, and the others every minute."""
    world = build()
    world.client.errors = {"a": error}
    seen = [world.round() for _ in range(60)]
    assert all("b/play_count" in asked for asked in seen)
    asked = [minute for minute, what in enumerate(seen) if "a/play_count" in what]
    assert 2 <= len(asked) <= 7
    gaps = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert gaps == sorted(gaps)
    world.client.errors = {}
    for _ in range(70):
        world.round()
    assert world.ledger.settled("m", world.clock.now()) == world.ledger.through(
        world.settings.merchants[0].streams()[1]
    )


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    "error",
    [NoAnswer("timed out"), ServerError("internal", status=500), RefusedError("no permission", status=403)],
)
@pytest.mark.parametrize("concurrency", [1, 4])
def test_streams_that_always_fail_do_not_starve_the_others(
    build: Callable[..., World], error: ApiError, concurrency: int
) -> None:
    """A third of the media fail for ever and are the stalest of all. They are requested less and less often, while the
    API answers for the others, which have nearly all of the budget; and soon again when they are mended.
    """
    media = [f"media-{number}" for number in range(30)]
    bad, good = media[:10], media[10:]
    world = build(media=media, limit=12, concurrency=concurrency)
    for _ in range(10):
        world.round()
    world.client.errors = dict.fromkeys(bad, error)
    world.client.all_asked = []
    for _ in range(60):
        world.round()
    asked = Counter(what.partition("/")[0] for what in world.client.all_asked)
    assert all(asked[media_id] <= 12 for media_id in bad)
    assert all(asked[media_id] >= 15 for media_id in good)
    world.client.errors = {}
    for _ in range(40):
        world.round()
    settled = world.ledger.settled("m", world.clock.now())
    assert all(settled - world.ledger.through(stream) <= 15 for stream in world.settings.merchants[0].streams())


def test_a_long_range_that_is_refused_is_halved_and_remembered(build: Callable[..., World]) -> None:
    """After an outage the longest range that the API takes is found by halves; the next stream requests it at once."""
    world = build()
    world.round()
    world.clock.advance(10 * 3600)
    world.client.longest = 200
    world.round()
    lengths = [len(asked) for asked in world.client.ranges]
    assert lengths[:3] == [632, 316, 158]
    assert max(lengths[3:]) <= 158
    assert world.ledger.snapshot.merchants["m"].lost_minutes == 0
    streams = world.settings.merchants[0].streams()
    assert {world.ledger.through(stream) for stream in streams} == {world.ledger.settled("m", world.clock.now())}
    assert {view.series[0].total for view in world.ledger.snapshot.merchants["m"].streams.values()} == {0.0}
    world.ledger.show_counted(world.clock.now())
    assert {view.series[0].total for view in world.ledger.snapshot.merchants["m"].streams.values()} == {602.0, 1204.0}


def test_a_refused_short_range_is_an_error_of_the_stream(build: Callable[..., World]) -> None:
    """A 400 for an hour or less is no question of length, and teaches nothing about it."""
    world = build()
    world.client.errors = {"a": BadRequest("no such target", status=400)}
    world.round()
    assert all(len(asked) <= 60 for asked in world.client.ranges)
    world.clock.advance(10 * 3600)
    world.client.errors = {}
    world.round()
    assert max(len(asked) for asked in world.client.ranges) > 600


def test_a_long_range_that_holds_too_much_is_halved(build: Callable[..., World]) -> None:
    """An answer that is too large for a long range is requested in halves, as one that the API refuses."""
    world = build()
    world.round()
    world.clock.advance(10 * 3600)
    original = world.client.aggregations

    def answer(stream: Stream, asked: MinuteRange, *, hourly: bool = False) -> Reading:
        reading = original(stream, asked, hourly=hourly)
        if len(asked) > 200:
            raise TooLarge("the answer is too large")
        return reading

    world.client.aggregations = answer  # type: ignore[method-assign]
    world.round()
    assert [len(asked) for asked in world.client.ranges][:3] == [632, 316, 158]
    streams = world.settings.merchants[0].streams()
    assert {world.ledger.through(stream) for stream in streams} == {world.ledger.settled("m", world.clock.now())}
    assert world.poller.link.last_error == ""


def test_a_stream_that_holds_much_takes_shorter_ranges_than_others(build: Callable[..., World]) -> None:
    """One stream's answers are too large beyond 20 minutes: it is caught up by such ranges, and others at once."""
    world = build()
    world.round()
    world.clock.advance(3 * 3600)
    original = world.client.aggregations
    lengths: dict[str, list[int]] = {"": [], "a": [], "b": []}

    def answer(stream: Stream, asked: MinuteRange, *, hourly: bool = False) -> Reading:
        reading = original(stream, asked, hourly=hourly)
        if stream.media_id == "a" and len(asked) > 20:
            raise TooLarge("the answer is too large")
        lengths[stream.media_id].append(len(asked))
        return reading

    world.client.aggregations = answer  # type: ignore[method-assign]
    for _ in range(30):
        world.round()
    streams = world.settings.merchants[0].streams()
    assert {world.ledger.through(stream) for stream in streams} == {world.ledger.settled("m", world.clock.now())}
    assert max(lengths["a"]) <= 20
    assert max(lengths["b"]) > 200
    assert world.poller.link.failing == {}


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_round_with_slow_answers_ends(build: Callable[..., World], concurrency: int) -> None:
    """Where answers take so long that the budget is never spent, there is always something due. The round ends all the
    same, and the next begins with what is worth most.
    """
    world = build(concurrency=concurrency, media=[f"media-{number}" for number in range(30)])
    send = world.client._send

    def slow(what: str) -> None:
        send(what)
        world.clock.advance(7 / concurrency)

    world.client._send = slow  # type: ignore[method-assign]
    for _ in range(3):
        began = world.clock.monotonic()
        world.poller.round()
        assert 0 < world.clock.monotonic() - began < 120
        assert world.poller.link.round_timestamp == world.clock.now()


# ---- what nobody foresaw ----


def defect(*_: object) -> Any:
    """Fail in a way that nobody foresaw."""
    raise KeyError("secret")


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_defect_in_counting_is_that_streams_incident(
    build: Callable[..., World], monkeypatch: pytest.MonkeyPatch, concurrency: int
) -> None:
    """Nothing of the answer is counted; the stream backs off, one line says where; the others and the summary go on."""
    world = build(concurrency=concurrency)
    world.round()
    original, broken = ledger_rows.write_entry, True

    def write(db: Any, row: Any, book: Any, entry: Any) -> Any:
        written = original(db, row, book, entry)
        if broken and row.stream_id == world.ledger._rows[streams[1]].stream_id:
            raise KeyError("secret")
        return written

    streams = world.settings.merchants[0].streams()
    monkeypatch.setattr(ledger_rows, "write_entry", write)
    with structlog.testing.capture_logs() as logs:
        seen = [world.round() for _ in range(60)]
        assert all({"/play_count", "b/play_count"} <= set(asked) for asked in seen)
        assert 2 <= sum("a/play_count" in asked for asked in seen) <= 7
        [error] = [entry for entry in logs if entry["log_level"] == "error"]
        assert error["event"].startswith("a/play_count/all: unexpected KeyError at test_poller.py:")
        assert isinstance(error["exc_info"], KeyError)
        assert world.poller._backoff.failing(streams[1])
        assert world.poller.link.last_error.startswith("unexpected KeyError at ")
        assert world.poller.link.staleness_minutes is not None
        broken = False
        for _ in range(35):
            world.round()
    assert any(entry["event"].startswith("resolved: a/play_count/all: unexpected") for entry in logs)
    world.ledger.show_counted(world.clock.now())
    a, b = (world.ledger.snapshot.merchants["m"].streams[stream].series[0].total for stream in streams[1:])
    assert a == b
    assert b is not None
    assert b > 90


def test_a_defect_in_the_whole_merchants_plays_ends_no_round(build: Callable[..., World]) -> None:
    """It says nothing of the API: the media are requested in the same round."""
    world = build()
    world.round()
    world.ledger.enter = partial(_fail_for, world.ledger.enter, "")  # type: ignore[method-assign]
    for _ in range(12):
        assert {"/play_count", "a/play_count", "b/play_count"} <= set(world.round())


def _fail_for(original: Callable[..., None], media_id: str, stream: Stream, *rest: Any) -> None:
    if stream.media_id == media_id:
        defect()
    original(stream, *rest)


def test_a_defect_in_one_lookup_or_past_is_its_own(build: Callable[..., World]) -> None:
    """However many there are, the other lookups and pasts are requested, and the streams."""
    media = [f"media-{number}" for number in range(8)]
    world = build(media=media, past_known=False)
    enter, enter_history = world.catalog.enter_media, world.monitor.enter_history

    def enter_media(lookup: Lookup, *rest: Any) -> None:
        enter(lookup, *rest) if lookup.media_id == media[-1] else defect()

    def enter_past(request: WarmupRequest, rows: Any) -> None:
        enter_history(request, rows) if request.media_id == media[-1] else defect()

    world.catalog.enter_media = enter_media  # type: ignore[method-assign, assignment]
    world.monitor.enter_history = enter_past  # type: ignore[method-assign]
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            world.round()
    assert f"media {media[-1]}" in world.client.all_asked
    assert f"past of {media[-1]} by hour" in world.client.all_asked
    assert world.client.all_asked.count("/play_count") == 5
    logged = [entry["event"] for entry in logs if entry["log_level"] == "error"]
    assert len(logged) == 2 * len(media) - 1
    assert logged.count(f"media {media[0]}: {logged[0].partition(': ')[2]}") == 1


def test_a_defect_in_the_verdict_on_one_media_is_its_own(build: Callable[..., World]) -> None:
    """The others keep their verdicts, one line says where, and the end of the round completes."""
    world = build()
    for _ in range(3):
        world.round()
    verdict = Verdict(minute_of(world.clock.now()) - 3, 0.0, 0.0, 5.0)
    judging = world.monitor._judging
    judging._verdict = (  # type: ignore[method-assign]
        lambda media_id, observation, now: defect() if media_id == "a" else verdict
    )
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            world.round()
    assert set(world.monitor.drops(world.clock.now())) == {"", "b"}
    [error] = [entry for entry in logs if entry["log_level"] == "error"]
    assert error["event"].startswith("drop detector, media a: unexpected KeyError at test_poller.py:")
    assert world.poller.link.last_error == error["event"]


@pytest.mark.parametrize("part", ["_incidents", "_monitor", "_staleness"])
def test_a_defect_in_one_part_of_the_summary_leaves_the_others(build: Callable[..., World], part: str) -> None:
    """Each of them comes in every round, whatever happens in the others."""
    world = build()
    world.round()
    came: Counter[str] = Counter()

    def count(name: str, original: Callable[..., Any], *rest: Any) -> Any:
        came[name] += 1
        return defect() if name == part else original(*rest)

    parts: list[tuple[str, Any, str]] = [
        ("_incidents", world.poller._incidents, "settle"),
        ("_monitor", world.monitor, "judge"),
        ("_staleness", world.poller._staleness, "mean"),
    ]
    for name, owner, method in parts:
        setattr(owner, method, partial(count, name, getattr(owner, method)))
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            world.round()
    assert came == dict.fromkeys(("_incidents", "_monitor", "_staleness"), 5)
    assert [entry["log_level"] for entry in logs] == ["error"]


def test_a_defect_in_the_planning_is_for_the_scheduler_to_tell(
    build: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round fails, but what is known is summed up."""
    world = build()
    world.round()
    monkeypatch.setattr(world.poller._queue, "plan", defect)
    before = world.monitor._standing
    with pytest.raises(KeyError):
        world.round()
    assert world.monitor._standing is not before
    monkeypatch.undo()
    assert set(PLAYS) <= set(world.round())


def test_a_failing_catalog_does_not_hold_up_the_counting(build: Callable[..., World]) -> None:
    """A lookup that fails is left for ten minutes, and the streams are requested as ever."""
    world = build()
    world.client.errors = {"media a": NotFound("gone", status=404)}
    assert set(PLAYS) <= set(world.round())
    for _ in range(8):
        assert "media a" not in world.round()
    assert world.catalog.views(world.clock.now())["b"].name == "name of b"


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    "error",
    [
        NoAnswer("no route"),
        ServerError("internal", status=500),
        RefusedError("no permission", status=403),
        Unauthorized("no permission", status=401),
    ],
)
def test_a_catalog_that_never_answers_takes_nothing_from_the_counting(
    build: Callable[..., World], error: ApiError
) -> None:
    """Where all lookups fail, as for an account without that permission, each stream is requested every minute all
    the same, and there are only a few lookups in a round.
    """
    media = [f"media-{number}" for number in range(30)]
    world = build(media=media)
    world.client.errors = {f"media {media_id}": error for media_id in media}
    for _ in range(25):
        asked = world.round()
        assert sum(what.endswith("/play_count") for what in asked) == 31
        assert sum(what.startswith("media ") for what in asked) <= 3


@pytest.mark.unmeasured
@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("error", [None, RateLimited("slow down")])
def test_the_catalog_has_a_tenth_of_a_budget_that_is_short(
    build: Callable[..., World], error: ApiError | None, concurrency: int
) -> None:
    """With more to request than may be sent, at most one request in ten requests a media's name, whether those succeed
    or are refused.
    """
    media = [f"media-{number}" for number in range(30)]
    world = build(media=media, limit=10, concurrency=concurrency)
    world.client.errors = {f"media {media_id}": error for media_id in media} if error else {}
    for _ in range(50):
        world.round()
    lookups = sum(what.startswith("media ") for what in world.client.all_asked)
    assert 1 <= lookups <= len(world.client.all_asked) / 10 + 1


def test_a_full_disk_ends_the_round_and_nothing_is_lost(build: Callable[..., World], tmp_path: Path) -> None:
    """While the state file cannot be written no request leaves; afterwards all is caught up."""
    world = build()
    world.round()
    with world.ledger._state.read() as db:
        db.execute("CREATE TRIGGER full BEFORE INSERT ON sends BEGIN SELECT RAISE(FAIL, 'disk is full'); END")
    assert world.round() == []
    assert world.poller.link.up is False
    assert "disk is full" in world.poller.link.last_error
    with world.ledger._state.read() as db:
        db.execute("DROP TRIGGER full")
    assert set(PLAYS) <= set(world.round())
    assert world.poller.link.up is True


def test_incidents_are_logged_when_they_begin_and_end(build: Callable[..., World]) -> None:
    """An outage of an hour is a few lines, not a hundred."""
    world = build()
    with structlog.testing.capture_logs() as lines:
        world.client.errors = {"*": NoAnswer("cannot resolve api.example")}
        for _ in range(60):
            world.round()
        world.client.errors = {}
        for _ in range(5):
            world.round()
    logged = [line["event"] for line in lines if "cannot resolve" in line["event"]]
    assert logged[0] == "cannot resolve api.example"
    assert logged[-1] == "resolved: cannot resolve api.example"
    assert len(logged) <= 6


def test_unusable_values_are_reported_once(build: Callable[..., World]) -> None:
    """However many streams have them, one line reports it, with the first; a reminder comes seldom, and the end once.

    A stream that is requested seldom does not make it begin again and again.
    """
    world = build()
    world.client.problems = dict.fromkeys(MEDIA, ('row 3: "N/A" is not a number, in {}', "and 4 more"))
    with structlog.testing.capture_logs() as logs:
        for _ in range(20):
            world.round()
    first, second = (entry["event"] for entry in logs if entry["log_level"] == "warning")
    assert first.startswith("unknown until the API shows what can be used: ")
    assert first.endswith('/play_count/all: row 3: "N/A" is not a number, in {}; and 4 more')
    assert second.startswith("still failing: unknown until ")
    world.client.problems = {MEDIA[0]: ("row 1: -1 is negative, in {}",)}
    world.round()
    world.client.errors[MEDIA[0]] = NoAnswer("down")
    with structlog.testing.capture_logs() as logs:
        for _ in range(10):
            world.round()
        assert not [entry for entry in logs if entry["event"].startswith("resolved: unknown")]
        world.client.errors, world.client.problems = {}, {}
        for _ in range(30):
            world.round()
    assert len([entry for entry in logs if entry["event"].startswith("resolved: unknown")]) == 1


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    ("error", "failing"),
    [
        (NotFound("no such media", status=404), ["a"]),
        (NotFound("no such media", status=404), ["a", "media a"]),
        (MalformedAnswer("not JSON"), ["a"]),
        (ServerError("internal", status=500), ["a"]),
        (RefusedError("no permission", status=403), ["media a", "media b"]),
    ],
)
def test_an_open_incident_is_not_reported_as_resolved(
    build: Callable[..., World], error: ApiError, failing: list[str]
) -> None:
    """What fails for hours, requested ever more rarely, begins once and is resolved once, when it is answered."""
    world = build()
    world.round()
    world.client.errors = dict.fromkeys(failing, error)
    world.clock.advance(7 * 3600)
    with structlog.testing.capture_logs() as lines:
        for _ in range(4 * 60):
            world.clock.advance(60)
            world.round()
        logged = [line["event"] for line in lines if str(error) in line["event"]]
        assert not logged[0].startswith("still failing: ")
        assert all(event.startswith("still failing: ") for event in logged[1:])
        world.client.errors = {}
        for _ in range(7 * 30):
            world.clock.advance(60)
            world.round()
    logged = [line["event"] for line in lines if str(error) in line["event"]]
    assert sum(event.startswith("resolved: ") for event in logged) == 1
    assert logged[-1].startswith("resolved: ")


def behind(world: World, media: Sequence[str] | None = None) -> list[int]:
    """How many settled minutes each stream has not counted, of these media or of all and the whole merchant."""
    settled = world.ledger.settled("m", world.clock.now())
    streams = world.settings.merchants[0].streams()
    return [settled - world.ledger.through(each) for each in streams if media is None or each.media_id in media]


def logged(lines: Sequence[Mapping[str, object]]) -> list[str]:
    """What was logged at the level of warnings, and what is resolved."""
    events = [(str(line["event"]), line["log_level"]) for line in lines]
    return [event for event, level in events if level == "warning" or event.startswith("resolved: ")]


TWENTY = [f"media-{number}" for number in range(20)]


@pytest.mark.unmeasured
@pytest.mark.parametrize(("error", "concurrency"), list(zip(OUTAGES, itertools.cycle([1, 4]), strict=False)))
def test_after_hours_without_an_api_all_is_fresh_in_minutes(
    build: Callable[..., World], error: ApiError, concurrency: int
) -> None:
    """Whatever the whole API answers for two hours: a few requests a minute, six lines, and no backoff."""
    world = build(media=TWENTY, concurrency=concurrency)
    for _ in range(3):
        world.round()
    world.client.errors = {"*": error}
    with structlog.testing.capture_logs() as lines:
        asked = [len(world.round()) for _ in range(120)]
        assert world.poller.link.up is False
        world.client.errors = {}
        for _ in range(2):
            world.round()
        assert set(behind(world)) == {0}
        for _ in range(4):
            world.round()
    # A refused range is tried by halves once for each stream.
    assert sum(asked) / len(asked) <= (3 if concurrency == 1 else 6) + 2 * isinstance(error, BadRequest)
    assert logged(lines) == [str(error), *[f"still failing: {error}"] * 4, f"resolved: {error}"]
    assert world.poller.link.up is True


def fails_after(world: World, requests: int, error: ApiError) -> None:
    """Let the API answer so many requests more, and then only with a failure."""
    original = world.client._send
    sent = itertools.count(1)

    def send(what: str) -> None:
        original(what)
        if next(sent) == requests + 1:
            world.client.errors = {"*": error}

    world.client._send = send  # type: ignore[method-assign]


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("error", OUTAGES)
def test_an_api_that_fails_in_the_middle_of_a_round(
    build: Callable[..., World], error: ApiError, concurrency: int
) -> None:
    """After three failures the whole merchant's plays are requested once more; when those fail, too, the round is over,
    and no backoff begins: all is fresh with the first round after.
    """
    world = build(media=TWENTY, concurrency=concurrency)
    for _ in range(3):
        world.round()
    with structlog.testing.capture_logs() as lines:
        fails_after(world, 6, error)
        asked = world.round()
        assert len(asked) <= 6 + (4 if concurrency == 1 else 10)
        assert asked.count("/play_count") == 2
        for _ in range(10):
            world.round()
        world.client.errors = {}
        world.round()
    assert set(behind(world)) == {0}
    assert logged(lines) == [str(error)]


def test_an_outage_of_some_media_only_is_theirs(build: Callable[..., World]) -> None:
    """Three media in a row that fail end no round: the whole merchant's plays are answered, so all others are asked."""
    world = build(media=TWENTY)
    for _ in range(3):
        world.round()
    bad, good = TWENTY[:10], TWENTY[10:]
    world.client.errors = dict.fromkeys(bad, NotFound("no such media", status=404))
    with structlog.testing.capture_logs() as lines:
        for _ in range(10):
            asked = world.round()
            assert set(behind(world, good)) == {0}
    assert sum(each.startswith("media media-") for each in logged(lines)) == 10
    assert len(logged(lines)) == 10
    assert asked.count("/play_count") == 1


@pytest.mark.unmeasured
@pytest.mark.parametrize("error", OUTAGES)
def test_a_whole_merchant_that_always_fails_starves_no_media(build: Callable[..., World], error: ApiError) -> None:
    """An account that may see its media but not the whole merchant, nor some of the media: those that it may see are
    requested every minute, and what it may not see takes two requests a minute and a little.
    """
    world = build(media=TWENTY)
    bad, good = TWENTY[:12], TWENTY[12:]
    world.client.errors = dict.fromkeys(["", *bad], error)
    for _ in range(60):
        world.round()
    world.client.all_asked = []
    # Nobody shows what is settled, so a media is counted when its own rows have come.
    for _ in range(60):
        world.round()
        assert max(behind(world, good)) <= 1
    asked = Counter(what.partition("/")[0] for what in world.client.all_asked)
    assert asked[""] <= 2 * 60
    assert sum(asked[media_id] for media_id in bad) <= 90


@pytest.mark.unmeasured
def test_media_that_all_fail_cost_a_request_a_minute_and_are_back_in_minutes(build: Callable[..., World]) -> None:
    """While the whole merchant is answered, media that fail for hours take a request a minute together; when it has
    ended for one, the others are requested at once.
    """
    world = build(media=TWENTY)
    world.client.errors = dict.fromkeys(TWENTY, RefusedError("no permission", status=403))
    for _ in range(3 * 60):
        world.round()
    world.client.all_asked = []
    for _ in range(60):
        assert "/play_count" in world.round()
    assert sum(what.startswith("media-") for what in world.client.all_asked) <= 60
    world.client.errors = {}
    for _ in range(5):
        world.round()
    assert set(behind(world)) == {0}


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    ("error", "concurrency"),
    [(Unauthorized("no permission", status=401), 4), (RefusedError("no permission", status=403), 1)],
)
def test_90_refused_media_of_120_leave_the_others_fresh(
    build: Callable[..., World], error: ApiError, concurrency: int
) -> None:
    """The 30 that the account may see fit into the budget easily, and have it. Each of the 90 has one line."""
    media = [f"media-{number}" for number in range(120)]
    bad, good = media[:90], media[90:]
    world = build(media=media, concurrency=concurrency)
    world.client.errors = dict.fromkeys(bad, error)
    with structlog.testing.capture_logs() as lines:
        for minute in range(60):
            world.round()
            assert minute < 15 or max(behind(world, good)) <= 2
    assert 90 <= len(logged(lines)) <= 95


def test_a_token_that_does_not_come_for_hours(build: Callable[..., World]) -> None:
    """Nothing can be requested: one attempt in each round, and one incident until there is a token again."""
    world = build(media=TWENTY, concurrency=4)
    for _ in range(3):
        world.round()
    failed = SignInFailed("auth-token: not JSON", code="200", refused=False)
    world.client.errors = {"*": failed}
    with structlog.testing.capture_logs() as lines:
        for _ in range(120):
            assert world.round() == ["/play_count"]
        assert world.poller.link.up is False
        assert world.poller.link.last_error == "auth-token: not JSON"
        world.client.errors = {}
        for _ in range(5):
            world.round()
    assert set(behind(world)) == {0}
    assert logged(lines) == [str(failed), *[f"still failing: {failed}"] * 4, f"resolved: {failed}"]


def test_a_revoked_token_makes_nothing_rest(build: Callable[..., World]) -> None:
    """What was refused in the round in which the token was renewed is asked for again in that round."""
    world = build(media=TWENTY)
    for _ in range(3):
        world.round()
    refused = Unauthorized("not accepted", status=401)
    fails_after(world, 6, refused)
    original = world.client._fail

    def fail(key: str) -> None:
        # The client renews it when it is refused for what it was good for.
        if world.client.errors and key == "":
            world.client.renewals += 1
            world.client.errors = {}
        original(key)

    world.client._fail = fail  # type: ignore[method-assign]
    with structlog.testing.capture_logs() as lines:
        world.round()
    assert world.client.renewals == 1
    assert set(behind(world)) == {0}
    assert logged(lines) == []


def busy(seconds: float) -> ServerError:
    return ServerError("busy", status=503, retry_after=seconds)


def test_retry_after_of_the_whole_merchant_holds_all(build: Callable[..., World]) -> None:
    """One 503 is enough: nothing leaves until then, also from a new process; then the whole budget may be used."""
    world = build(media=TWENTY)
    world.round()
    world.client.errors = {"*": busy(600)}
    assert world.round() == ["/play_count"]
    world.client.errors = {}
    assert RequestBudget(world.state, "m", 45, world.clock.now, world.clock.monotonic).wait() == pytest.approx(600)
    assert [len(world.round()) for _ in range(9)] == [0] * 9
    assert world.poller.link.up is False
    assert len(world.round()) >= 21
    assert world.budget.allowed == 45
    assert set(behind(world)) == {0}


@pytest.mark.parametrize("concurrency", [1, 4])
def test_retry_after_in_the_middle_of_a_round(build: Callable[..., World], concurrency: int) -> None:
    """A stream's 503 is enough to request the whole merchant's plays once more, and theirs holds all."""
    world = build(media=TWENTY, concurrency=concurrency)
    world.round()
    fails_after(world, 6, busy(600))
    asked = world.round()
    assert len(asked) <= 6 + (2 if concurrency == 1 else 5)
    assert asked.count("/play_count") == 2
    world.client.errors = {}
    assert [len(world.round()) for _ in range(9)] == [0] * 9
    world.round()
    assert set(behind(world)) == {0}


def test_retry_after_of_one_media_is_its_own(build: Callable[..., World]) -> None:
    """While the whole merchant's plays are answered, only the media that answers so is in backoff, for as long."""
    world = build(media=TWENTY)
    world.round()
    world.client.errors = {"media-3": busy(900)}
    asked = world.round()
    assert "media-3/play_count" in asked
    for _ in range(14):
        assert "media-3/play_count" not in world.round()
        assert set(behind(world, [each for each in TWENTY if each != "media-3"])) == {0}
    assert "media-3/play_count" in world.round()


def test_retry_after_of_a_whole_merchant_that_always_fails(build: Callable[..., World]) -> None:
    """Where it answers so for ever, because it is too much for the API, its media are requested all the same."""
    world = build(media=TWENTY)
    world.round()
    world.client.errors = {"": busy(90)}
    for _ in range(10):
        world.round()
    for _ in range(10):
        world.round()
        assert max(behind(world, TWENTY)) <= 1


def test_retry_after_of_the_catalog_is_the_catalogs(build: Callable[..., World]) -> None:
    """Neither names nor live events are requested until then, and the streams go on."""
    world = build()
    world.client.errors = {"media a": busy(900)}
    world.round()
    world.client.errors = {}
    for _ in range(14):
        assert sorted(world.round()) == PLAYS
    assert "media a" in world.round()


def test_a_proxy_that_refuses_all_does_not_make_an_end_of_the_past(build: Callable[..., World]) -> None:
    """A 400 for the past is a range that is too long only if the whole merchant's plays are answered after it. If not,
    the same range is requested when those are.
    """
    world = build(past_known=False)
    fails_after(world, len(PLAYS + CATALOG), BadRequest("bad request", status=400))
    assert world.round()[-2:] == ["past of all by minute", "/play_count"]
    for _ in range(20):
        assert not any(what.startswith("past") for what in world.round())
    world.client.errors = {}
    assert set(PAST) <= set(world.round())


def test_a_round_waits_for_the_budget_but_not_past_its_minute(build: Callable[..., World]) -> None:
    """A wait that ends within the minute is waited for; a longer one ends the round."""
    world = build()
    started = world.clock.ticks + 60
    original = world.client._send
    waits = iter([20.0, 100.0])

    def send(what: str) -> None:
        if wait := next(waits, None):
            raise BudgetSpent(wait)
        original(what)

    world.client._send = send  # type: ignore[method-assign]
    assert world.round() == []
    assert world.clock.ticks == started + 20


def test_a_round_leaves_time_for_the_next(build: Callable[..., World]) -> None:
    """What would have to wait until shortly before the next round begins is left to that."""
    world = build()
    started = world.clock.ticks + 60
    original = world.client._send

    def send(what: str) -> None:
        if what != "/play_count":
            raise BudgetSpent(55.0)
        original(what)

    world.client._send = send  # type: ignore[method-assign]
    assert world.round() == ["/play_count"]
    assert world.clock.ticks < started + 55


def test_a_round_that_runs_is_not_joined_by_another(build: Callable[..., World]) -> None:
    """A second round waits for the first to end, and then requests nothing again."""
    world = build()
    original = world.client._send
    asking, go_on = threading.Event(), threading.Event()

    def send(what: str) -> None:
        original(what)
        asking.set()
        assert go_on.wait(PATIENCE)

    world.client._send = send  # type: ignore[method-assign]
    rounds = [threading.Thread(target=world.poller.round, daemon=True) for _ in range(2)]
    rounds[0].start()
    assert asking.wait(PATIENCE)
    rounds[1].start()
    assert not world.poller.ended(timeout=0.0)
    go_on.set()
    for each in rounds:
        each.join(PATIENCE)
    assert world.poller.ended(timeout=0.0)
    assert sorted(world.client.all_asked) == sorted(PLAYS + CATALOG)


def test_a_stopped_poller_asks_for_nothing(build: Callable[..., World]) -> None:
    """After `stop` no request leaves, and the round has ended."""
    world = build()
    world.poller.stop()
    assert world.round() == []
    assert world.poller.ended(timeout=0.0)


def test_with_several_workers_each_stream_is_requested_once(build: Callable[..., World]) -> None:
    """Requests that are on the way at once are never two for the same stream, and the whole merchant is first."""
    world = build(concurrency=4)
    for _ in range(20):
        asked = world.round()
        assert asked[0] == "/play_count"
        assert sorted(what for what in asked if what in PLAYS) == sorted(PLAYS)


def test_a_media_that_is_gone_is_requested_by_one_of_its_streams(build: Callable[..., World]) -> None:
    """A 404 for one stream of a media holds back the others, too; one of them asks again later."""
    world = build(collect=["play_count", "play_time", "device_count"])
    world.client.errors = {"a": NotFound("no such media", status=404)}
    for _ in range(14):
        world.round()
    assert sum(what.startswith("a/") for what in world.client.all_asked) == 1
    for _ in range(30):
        world.round()
    assert sum(what.startswith("a/") for what in world.client.all_asked) == 2
    world.client.errors = {}
    for _ in range(60):
        world.round()
    streams = [stream for stream in world.settings.merchants[0].streams() if stream.media_id == "a"]
    assert {world.ledger.through(stream) for stream in streams} == {world.ledger.settled("m", world.clock.now())}


def test_the_link_tells_how_fresh_it_all_is(build: Callable[..., World]) -> None:
    """With room for all streams nothing is stale; with too little, the mean is near what is possible."""
    world = build()
    world.round()
    link = world.poller.link
    assert (link.streams, link.staleness_minutes, link.staleness_bound_minutes) == (3, 0, 0)


def test_while_the_api_wants_to_be_left_alone_it_does_not_look_well(
    build: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The late answer of a request that was on its way ends neither the failure nor its report."""
    world = build()
    world.round()
    fail = world.client._fail

    def answer_late(key: str) -> None:
        fail(key)
        if key == "b":
            # Meanwhile another request was answered 429.
            world.budget.refused(1800.0)

    monkeypatch.setattr(world.client, "_fail", answer_late)
    world.client.errors = {"a": RateLimited("slow down", retry_after=1800.0)}
    with structlog.testing.capture_logs() as logs:
        asked = world.round()
        assert asked.index("a/play_count") < asked.index("b/play_count")
        monkeypatch.undo()
        world.client.errors = {}
        for _ in range(29):
            assert world.round() == []
            assert world.poller.link.up is False
        assert [line["event"] for line in logs if "resolved" in line["event"]] == []
        for _ in range(5):
            world.round()
    assert world.poller.link.up
    assert [line["event"] for line in logs if "resolved" in line["event"]] == ["resolved: slow down"]


def test_after_the_clock_was_ahead_nothing_is_skipped(build: Callable[..., World]) -> None:
    """Minutes that were taken as empty while the clock was five hours ahead are counted when they come."""
    world = build()
    ahead = world.clock.now() - world.clock.monotonic()
    world.client.newest = lambda: minute_of(world.clock.monotonic() + ahead) - 1
    world.round()
    world.clock.wall += 5 * 3600
    world.round()
    world.clock.wall -= 5 * 3600
    for _ in range(30):
        assert set(PLAYS) <= set(world.round())
    world.ledger.show_counted(world.clock.now())
    streams = world.ledger.snapshot.merchants["m"].streams
    # 32 minutes have passed since the start, and the newest two are not complete.
    assert {view.series[0].total for view in streams.values()} == {32.0, 64.0}
    assert world.ledger.snapshot.merchants["m"].lost_minutes == 0


PAST = [
    *("past of all by minute", "past of a by minute", "past of b by minute"),
    *("past of all by hour", "past of a by hour", "past of b by hour"),
]


def test_the_past_comes_after_everything_else(build: Callable[..., World]) -> None:
    """With budget left, the first round requests the past, too, once and last."""
    world = build(past_known=False)
    asked = world.round()
    assert asked[-len(PAST) :] == PAST
    assert sorted(asked[: -len(PAST)]) == sorted(PLAYS + CATALOG)
    assert not [what for what in world.round() if what.startswith("past")]


def test_the_past_comes_where_the_budget_is_short(build: Callable[..., World]) -> None:
    """Where the streams want more than there is, one request in ten is for names and the past, and no more."""
    world = build(limit=2, past_known=False)
    for _ in range(200):
        world.round()
    assert world.poller.link.up
    background = [what for what in world.client.all_asked if what.startswith(("past", "media", "event"))]
    assert set(PAST) <= set(background)
    assert len(background) <= len(world.client.all_asked) / 10 + 1


def test_a_past_that_fails_does_not_hold_up_the_counting(build: Callable[..., World]) -> None:
    """A failing warm-up request is not repeated for some minutes, and streams are requested as before."""
    world = build(past_known=False)
    world.client.errors["past"] = ServerError("a defect", status=500)
    world.round()
    for _ in range(3):
        assert sorted(what for what in world.round() if what in PLAYS) == sorted(PLAYS)
    assert len([what for what in world.client.all_asked if what.startswith("past")]) <= 2 * len(PAST)
    world.client.errors.clear()
    for _ in range(12):
        world.round()
    assert world.monitor.warmup.next(world.clock.now(), minute_of(world.clock.now()), ()) is None


def test_a_past_that_is_refused_is_requested_in_halves(build: Callable[..., World]) -> None:
    """A 400 is no error of the API: the range was too long. When no range is taken, the past is done without."""
    world = build(past_known=False)
    world.client.errors["past"] = BadRequest("range too long", status=400)
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            world.round()
    assert world.monitor.warmup.next(world.clock.now(), minute_of(world.clock.now()), ()) is None
    assert [entry for entry in logs if entry["log_level"] == "warning"] == []


def test_live_events_that_run_are_looked_at_in_every_round(build: Callable[..., World]) -> None:
    """They come right after the whole merchant's plays, and take at most a quarter of a round."""
    world = build(limit=8)
    for _ in range(6):
        world.round()
    for _ in range(3):
        assert world.round()[:3] == ["/play_count", "event ev", "event ev"]
    tight = build(limit=4)
    tight.catalog.enter_live(Lookup("a", "ev"), LiveEvent(running=True), tight.clock.now())
    tight.catalog.enter_live(Lookup("b", "ev"), LiveEvent(running=True), tight.clock.now())
    for _ in range(5):
        assert tight.round()[1:].count("event ev") <= 2


def test_what_the_detector_cannot_write_is_reported(build: Callable[..., World], tmp_path: Path) -> None:
    """A state file that does not take the detector's own state is one line, and the round continues."""
    world = build()
    with world.state.transaction() as db:
        db.execute("DROP TABLE tracks")
    with structlog.testing.capture_logs() as logs:
        assert sorted(set(world.round()) & set(PLAYS)) == sorted(PLAYS)
    assert [entry["log_level"] for entry in logs if "writing failed" in entry["event"]] == ["warning"]


@pytest.mark.parametrize("trigger", ["the budget of the minute before is not free yet", "a minute settles meanwhile"])
def test_nothing_is_requested_while_the_whole_merchants_answer_is_on_its_way(
    build: Callable[..., World], trigger: str
) -> None:
    """Before it has come, no thread requests anything, whether the round begins or not: which minutes are settled is
    not known, and the media requested a minute ago would look fresh.
    """
    world = build(concurrency=4, limit=20, media=[f"media-{number}" for number in range(30)])
    for _ in range(12):
        world.round()
    original = world.client._send
    on_its_way, never = threading.Event(), threading.Event()
    left: list[bool] = []

    def send(what: str) -> None:
        original(what)
        if what == "/play_count":
            on_its_way.set()
            # Long enough for the other threads to request all that they would.
            assert not never.wait(0.2)
            on_its_way.clear()
        else:
            left.append(on_its_way.is_set())
            if trigger.startswith("a minute") and len(left) == 5:
                world.clock.advance(25)

    world.client._send = send  # type: ignore[method-assign]
    if trigger.startswith("the budget"):
        world.clock.advance(70)
        for _ in range(20):
            world.budget.take().done()
        world.clock.advance(-10)
    world.round()
    assert world.client.asked.count("/play_count") == (2 if trigger.startswith("a minute") else 1)
    # When a minute settles, three others may have been taken before.
    assert sum(left) <= (3 if trigger.startswith("a minute") else 0)
    assert len(left) >= 15


def test_a_poller_that_is_stopped_does_not_wait_for_an_answer(build: Callable[..., World]) -> None:
    """`stop` ends the threads that wait for the whole merchant's answer, though that does not come."""
    world = build(concurrency=4)
    original = world.client._send
    asking, go_on = threading.Event(), threading.Event()

    def send(what: str) -> None:
        original(what)
        asking.set()
        assert go_on.wait(PATIENCE)

    world.client._send = send  # type: ignore[method-assign]
    before = set(threading.enumerate())
    running = threading.Thread(target=world.round, daemon=True)
    running.start()
    assert asking.wait(PATIENCE)
    world.poller.stop()
    # The round's own thread, and the one that asks.
    wait_until("the others have ended", lambda: len(set(threading.enumerate()) - before) == 2)
    go_on.set()
    running.join(PATIENCE)
    assert world.client.all_asked == ["/play_count"]
