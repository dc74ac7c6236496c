"""Rounds: the order of the requests, and the reaction to failures. The client is a stand-in."""

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
from exporter.api.zone_check import REACH
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
from exporter.planning.capacity import EARLY_MINUTES
from exporter.polling.poller import MerchantPoller
from exporter.storage.state import State, open_state
from tests.support.audience import folder_in_memory, mark_history_known, without_detector
from tests.support.fakes import FakeClock
from tests.support.processes import PATIENCE, wait_until

MEDIA = ("a", "b")


class FakeClient:
    """Answers from a table, within a real budget.

    Attributes:
        asked: The requests of the round, in order.
        errors: The error to raise instead of an answer, by media id, kind of lookup, or "*" for all.
    """

    token_expiry = None
    renewals = 0

    def __init__(self, budget: RequestBudget) -> None:
        self.budget = budget
        self.requested: list[str] = []
        self.ranges: list[MinuteRange] = []
        self.errors: dict[str, ApiError] = {}
        self.longest = 10_000
        self.all_requested: list[str] = []
        # The newest minute that has a row, if not all have one.
        self.newest: Callable[[], Minute] | None = None
        # The unusable values in the answers, by media.
        self.problems: dict[str, tuple[str, ...]] = {}

    def aggregations(self, stream: Stream, requested: MinuteRange, *, hourly: bool = False) -> Reading:
        if len(requested) == 2 * REACH + 1:
            # The check of the time zone, which fits and is tested elsewhere.
            self.budget.take().done()
            return Reading({requested.last - REACH - 2: {"": 1.0}})
        if hourly or len(requested) == MINUTES_BACK:
            return self._history(stream, requested, hourly=hourly)
        self._send(f"{stream.media_id}/{stream.target}")
        self.ranges.append(requested)
        if len(requested) > self.longest:
            raise BadRequest("range too long", status=400)
        self._fail(stream.media_id)
        plays = 1.0 if stream.media_id else float(len(MEDIA))
        newest = requested.last if self.newest is None else min(self.newest(), requested.last)
        rows = {minute: {"": plays} for minute in range(requested.first, newest + 1)}
        return Reading(rows, self.problems.get(stream.media_id, ()))

    def _history(self, stream: Stream, requested: MinuteRange, *, hourly: bool) -> Reading:
        self._send(f"history of {stream.media_id or 'all'} by {'hour' if hourly else 'minute'}")
        self._fail("history")
        return Reading(
            {minute: {"": 1.0} for minute in range(requested.first, requested.last + 1, 60 if hourly else 1)}
        )

    def media(self, media_id: str) -> Media:
        self._send(f"media {media_id}")
        self._fail(f"media {media_id}")
        return Media(ref_id="", name=f"name of {media_id}", live_event_id="ev", encode_type="live")

    def media_by_ref(self, ref_id: str, _media_id: str = "") -> Media:
        self._send(f"media ref:{ref_id}")
        self._fail(f"media ref:{ref_id}")
        return Media(ref_id, f"name of {ref_id}", "", "live", f"id-of-{ref_id}")

    def live_event(self, live_event_id: str) -> LiveEvent:
        self._send(f"event {live_event_id}")
        self._fail("event")
        return LiveEvent(running=True)

    def _send(self, what: str) -> None:
        self.budget.take().done()
        self.requested.append(what)
        self.all_requested.append(what)

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
        history_known: bool,
        detector: bool,
        refs: Sequence[str] = (),
    ) -> None:
        if history_known:
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
                        "media": [*({"id": media_id} for media_id in media), *({"ref_id": ref_id} for ref_id in refs)],
                    }
                ],
                "poll": {"concurrency": concurrency},
            }
        )
        merchant = settings.merchants[0]
        self.clock = clock
        self.state = state
        self.ledger = Ledger(state, settings, on_revision=lambda age: None)
        self.ledger.configure(settings, clock.now())
        self.budget = RequestBudget(state, "m", limit, clock)
        self.client = FakeClient(self.budget)
        client = cast("Client", self.client)
        parts = build_parts(settings, merchant, state, self.ledger, self.budget, client, clock)
        if not detector:
            parts = without_detector(parts, state, settings)
        self.catalog = parts.catalog
        self.monitor = parts.monitor
        self.poller = MerchantPoller(parts)

    def round(self) -> list[str]:
        """Run a round in the next minute; return its requests."""
        self.clock.advance(60)
        self.client.requested = []
        self.client.ranges = []
        self.poller.round()
        return self.client.requested


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
            history_known: bool = True,
            detector: bool = False,
            refs: Sequence[str] = (),
        ) -> World:
            return World(
                state,
                clock,
                limit,
                concurrency,
                collect,
                media,
                history_known=history_known,
                detector=detector,
                refs=refs,
            )

        yield make
        state.close()


PLAYS = ["/play_count", "a/play_count", "b/play_count"]
CATALOG = ["media a", "media b", "event ev", "event ev"]


def test_the_whole_merchant_comes_first_and_the_catalog_last(build: Callable[..., World]) -> None:
    """The first round requests everything once; the next rounds request only new minutes."""
    world = build()
    requested = world.round()
    assert requested[0] == "/play_count"
    assert sorted(requested) == sorted(PLAYS + CATALOG)
    assert sorted(world.round()) == sorted([*PLAYS, "event ev", "event ev"])
    assert world.poller.link.up is True


def test_the_stalest_come_first_if_the_budget_is_short(build: Callable[..., World]) -> None:
    """With two requests a minute, the whole merchant has one of them and the others alternate."""
    world = build(limit=2)
    seen = [world.round() for _ in range(12)]
    assert all(len(requested) <= 2 for requested in seen)
    assert all(requested[0] == "/play_count" for requested in seen)
    flat = [what for requested in seen for what in requested]
    assert {flat.count("a/play_count"), flat.count("b/play_count")} <= {4, 5}


# A proxy can return any of these when its API is down.
OUTAGES = [
    NoAnswer("no route"),
    ServerError("internal", status=500),
    NotFound("default backend", status=404),
    BadRequest("bad request", status=400),
    MalformedAnswer("<html>"),
    Unauthorized("not accepted", status=401),
    RefusedError("forbidden", status=403),
]


def test_an_api_that_is_down_gets_three_requests_a_round(build: Callable[..., World]) -> None:
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
def test_single_failures_are_shown_as_such(build: Callable[..., World], concurrency: int) -> None:
    """While the API answers other requests it is up, whichever request came last. A media that fails or is missing is
    named until it is answered again, and failing lookups are counted.
    """
    world = build(concurrency=concurrency, collect=("play_count", "play_time"))
    ups = []
    send = world.client._send

    def record(what: str) -> None:
        ups.append(world.poller.link.up)
        send(what)

    world.client._send = record  # type: ignore[method-assign]
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
    # The first round, four minutes ago.
    assert link.failing_since == {media_id: pytest.approx(world.clock.now() - 240, abs=5) for media_id in ("a", "b")}
    assert link.failing_lookups == 1
    assert link.round_timestamp == pytest.approx(world.clock.now(), abs=60)
    world.client.errors = {}
    for _ in range(40):
        world.round()
    link = world.poller.link
    assert sum(link.failing.values()) == len(link.gone) == len(link.failing_since) == link.failing_lookups == 0


def test_a_refused_password_ends_the_round(build: Callable[..., World]) -> None:
    """One request is enough; the merchant is requested again a minute later."""
    world = build()
    world.client.errors = {"*": SignInFailed("check the password", code="401", refused=True)}
    assert len(world.round()) == 1
    assert len(world.round()) == 1
    assert world.poller.link.up is False
    assert world.poller.link.last_error == "check the password"
    assert world.poller.link.refused


def test_credentials_are_refused_until_the_api_says_otherwise(build: Callable[..., World]) -> None:
    """An answer ends it, and so does a sign-in that fails in another way: then nothing is known of the credentials."""
    world = build()
    for error in (None, SignInFailed("no answer", code="error", refused=False)):
        world.client.errors = {"*": SignInFailed("check the password", code="401", refused=True)}
        world.round()
        assert world.poller.link.refused
        world.client.errors = {"*": error} if error else {}
        world.round()
        assert not world.poller.link.refused


def test_the_link_tells_a_rate_limit_from_an_outage(build: Callable[..., World]) -> None:
    """After a 429 it is rate limited until a stream is answered, or until the API fails otherwise."""
    world = build()
    limited = RateLimited("slow down", status=429, retry_after=60.0)
    for error, up in ((None, True), (ServerError("down", status=503), False)):
        world.client.errors = {"*": limited}
        world.round()
        assert (world.poller.link.up, world.poller.link.rate_limited) == (False, True)
        world.client.errors = {"*": error} if error else {}
        for _ in range(5):
            world.round()
        assert (world.poller.link.up, world.poller.link.rate_limited) == (up, False)


@pytest.mark.parametrize("error", [MalformedAnswer("not JSON"), NotFound("no such media", status=404)])
def test_a_failing_stream_does_not_starve_the_others(build: Callable[..., World], error: ApiError) -> None:
    """A stream whose request fails is requested less and less often, the others every minute."""
    world = build()
    world.client.errors = {"a": error}
    seen = [world.round() for _ in range(60)]
    assert all("b/play_count" in requested for requested in seen)
    requested = [minute for minute, what in enumerate(seen) if "a/play_count" in what]
    assert 2 <= len(requested) <= 7
    gaps = [later - earlier for earlier, later in itertools.pairwise(requested)]
    assert gaps == sorted(gaps)
    world.client.errors = {}
    for _ in range(70):
        world.round()
    assert world.ledger.settled("m", world.clock.now()) == world.ledger.through(
        world.settings.merchants[0].streams()[1]
    )


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    ("error", "concurrency"),
    [
        (NoAnswer("timed out"), 1),
        (ServerError("internal", status=500), 4),
        (RefusedError("no permission", status=403), 1),
        (RefusedError("no permission", status=403), 4),
    ],
)
def test_streams_that_always_fail_do_not_starve_the_others(
    build: Callable[..., World], error: ApiError, concurrency: int
) -> None:
    """A third of the media always fail and are the stalest of all. They are requested less and less often, while the
    others get nearly all of the budget; and soon again when the failure ends.
    """
    media = [f"media-{number}" for number in range(30)]
    bad, good = media[:10], media[10:]
    world = build(media=media, limit=12, concurrency=concurrency)
    for _ in range(10):
        world.round()
    world.client.errors = dict.fromkeys(bad, error)
    world.client.all_requested = []
    for _ in range(60):
        world.round()
    requested = Counter(what.partition("/")[0] for what in world.client.all_requested)
    assert all(requested[media_id] <= 12 for media_id in bad)
    assert all(requested[media_id] >= 15 for media_id in good)
    world.client.errors = {}
    for _ in range(40):
        world.round()
    settled = world.ledger.settled("m", world.clock.now())
    assert all(settled - world.ledger.through(stream) <= 15 for stream in world.settings.merchants[0].streams())


def test_a_long_range_that_is_refused_is_halved_and_remembered(build: Callable[..., World]) -> None:
    """After an outage the poller finds the longest range that the API accepts by halving; the next stream requests it
    at once.
    """
    world = build()
    world.round()
    world.clock.advance(10 * 3600)
    world.client.longest = 200
    world.round()
    lengths = [len(requested) for requested in world.client.ranges]
    assert lengths[:3] == [632, 316, 158]
    assert max(lengths[3:]) <= 158
    assert world.ledger.snapshot.merchants["m"].lost_minutes == 0
    streams = world.settings.merchants[0].streams()
    assert {world.ledger.through(stream) for stream in streams} == {world.ledger.settled("m", world.clock.now())}
    assert {view.series[0].total for view in world.ledger.snapshot.merchants["m"].streams.values()} == {0.0}
    world.ledger.show_counted(world.clock.now())
    assert {view.series[0].total for view in world.ledger.snapshot.merchants["m"].streams.values()} == {602.0, 1204.0}


def test_a_refused_short_range_is_an_error_of_the_stream(build: Callable[..., World]) -> None:
    """A 400 for an hour or less has nothing to do with the length, and does not change the limit."""
    world = build()
    world.client.errors = {"a": BadRequest("no such target", status=400)}
    world.round()
    assert all(len(requested) <= 60 for requested in world.client.ranges)
    world.clock.advance(10 * 3600)
    world.client.errors = {}
    world.round()
    assert max(len(requested) for requested in world.client.ranges) > 600


def test_a_long_range_with_too_large_an_answer_is_halved(build: Callable[..., World]) -> None:
    """If the answer for a long range is too large, the range is halved, as if the API had refused it."""
    world = build()
    world.round()
    world.clock.advance(10 * 3600)
    original = world.client.aggregations

    def answer(stream: Stream, requested: MinuteRange, *, hourly: bool = False) -> Reading:
        reading = original(stream, requested, hourly=hourly)
        if len(requested) > 200:
            raise TooLarge("the answer is too large")
        return reading

    world.client.aggregations = answer  # type: ignore[method-assign]
    world.round()
    assert [len(requested) for requested in world.client.ranges][:3] == [632, 316, 158]
    streams = world.settings.merchants[0].streams()
    assert {world.ledger.through(stream) for stream in streams} == {world.ledger.settled("m", world.clock.now())}
    assert world.poller.link.last_error == ""


def test_a_stream_with_large_answers_takes_shorter_ranges_than_others(build: Callable[..., World]) -> None:
    """One stream's answers are too large beyond 20 minutes: it catches up in such ranges, and the others at once."""
    world = build()
    world.round()
    world.clock.advance(3 * 3600)
    original = world.client.aggregations
    lengths: dict[str, list[int]] = {"": [], "a": [], "b": []}

    def answer(stream: Stream, requested: MinuteRange, *, hourly: bool = False) -> Reading:
        reading = original(stream, requested, hourly=hourly)
        if stream.media_id == "a" and len(requested) > 20:
            raise TooLarge("the answer is too large")
        lengths[stream.media_id].append(len(requested))
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
    """With answers so slow that the budget is never spent, some request is always due. The round still ends, and the
    next one begins with the most valuable requests.
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


# ---- unexpected exceptions ----


def defect(*_: object) -> Any:
    """Raise an exception that no code expects."""
    raise KeyError("secret")


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_defect_in_counting_is_an_incident_of_the_stream(
    build: Callable[..., World], monkeypatch: pytest.MonkeyPatch, concurrency: int
) -> None:
    """Nothing of the answer is counted, the stream is in backoff, and one line names the place; the others and the
    summary continue.
    """
    world = build(concurrency=concurrency)
    world.round()
    original, broken = ledger_rows.write_entry, True

    def write(db: Any, before: Any, entry: Any) -> None:
        original(db, before, entry)
        if broken and entry.row.stream_id == world.ledger._rows[streams[1]].stream_id:
            raise KeyError("secret")

    streams = world.settings.merchants[0].streams()
    monkeypatch.setattr(ledger_rows, "write_entry", write)
    with structlog.testing.capture_logs() as logs:
        seen = [world.round() for _ in range(60)]
        assert all({"/play_count", "b/play_count"} <= set(requested) for requested in seen)
        assert 2 <= sum("a/play_count" in requested for requested in seen) <= 7
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
    """The defect shows nothing about the API: the media are requested in the same round."""
    world = build()
    world.round()
    world.ledger.enter = partial(_fail_for, world.ledger.enter, "")  # type: ignore[method-assign]
    for _ in range(12):
        assert {"/play_count", "a/play_count", "b/play_count"} <= set(world.round())


def _fail_for(original: Callable[..., None], media_id: str, stream: Stream, *rest: Any) -> None:
    if stream.media_id == media_id:
        defect()
    original(stream, *rest)


def test_a_defect_in_one_lookup_or_history_stops_no_other(build: Callable[..., World]) -> None:
    """However many have a defect, the other lookups and histories are requested, and so are the streams."""
    media = [f"media-{number}" for number in range(8)]
    world = build(media=media, history_known=False)
    enter, enter_history = world.catalog.enter_media, world.monitor.enter_history

    def enter_media(lookup: Lookup, *rest: Any) -> None:
        enter(lookup, *rest) if lookup.media_id == media[-1] else defect()

    def enter_one_history(request: WarmupRequest, *rest: Any) -> None:
        enter_history(request, *rest) if request.media_id == media[-1] else defect()

    world.catalog.enter_media = enter_media  # type: ignore[method-assign, assignment]
    world.monitor.enter_history = enter_one_history  # type: ignore[method-assign, assignment]
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            world.round()
    assert f"media {media[-1]}" in world.client.all_requested
    assert f"history of {media[-1]} by hour" in world.client.all_requested
    assert world.client.all_requested.count("/play_count") == 5
    logged = [entry["event"] for entry in logs if entry["log_level"] == "error"]
    assert len(logged) == 2 * len(media) - 1
    assert logged.count(f"media {media[0]}: {logged[0].partition(': ')[2]}") == 1


def test_a_defect_in_the_verdict_on_one_media_stops_no_other(build: Callable[..., World]) -> None:
    """The others keep their verdicts, one line names the place, and the end of the round completes."""
    world = build(detector=True)
    for _ in range(3):
        world.round()
    judging = world.monitor._judging
    step = judging._step
    judging._step = (  # type: ignore[method-assign]
        lambda media_id, *rest: defect() if media_id == "a" else step(media_id, *rest)
    )
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            world.round()
    drops = world.monitor.drops(world.clock.now())
    assert drops["a"].verdict is None
    assert drops["b"].verdict is not None
    [error] = [entry for entry in logs if entry["log_level"] == "error"]
    assert error["event"].startswith("drop detector, media a: unexpected KeyError at test_poller.py:")
    assert world.poller.link.last_error == error["event"]


@pytest.mark.parametrize("part", ["_incidents", "_monitor", "_staleness"])
def test_a_defect_in_one_part_of_the_summary_leaves_the_others(build: Callable[..., World], part: str) -> None:
    """Each other part runs in every round."""
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


def test_a_defect_in_the_planning_is_reported_by_the_scheduler(
    build: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round fails, but its results so far are summarized."""
    world = build(detector=True)
    world.round()
    monkeypatch.setattr(world.poller._queue, "plan", defect)
    before = world.monitor._said
    with pytest.raises(KeyError):
        world.round()
    assert world.monitor._said is not before
    monkeypatch.undo()
    assert set(PLAYS) <= set(world.round())


def test_a_failing_catalog_does_not_delay_the_counting(build: Callable[..., World]) -> None:
    """A failed lookup waits for ten minutes, and the streams are requested as before."""
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
    """If all lookups fail, as for an account without that permission, each stream is still requested every minute, and
    a round has only a few lookups.
    """
    media = [f"media-{number}" for number in range(30)]
    world = build(media=media)
    world.client.errors = {f"media {media_id}": error for media_id in media}
    for _ in range(25):
        requested = world.round()
        assert sum(what.endswith("/play_count") for what in requested) == 31
        assert sum(what.startswith("media ") for what in requested) <= 3


def test_a_media_is_asked_for_by_its_reference_id_until_it_exists(build: Callable[..., World]) -> None:
    """Each minute, with one line in the log when it begins and one when it is found. It is no failure of anything."""
    world = build(refs=["cup"])
    world.client.errors = {"media ref:cup": NotFound("medias: 404", status=404)}
    with structlog.testing.capture_logs() as logs:
        for _ in range(10):
            assert "media ref:cup" in world.round()
    link = world.poller.link
    assert (link.up, link.last_error, link.failing_lookups, link.gone) == (True, "", 0, frozenset())
    assert list(world.catalog.pending) == ["cup"]
    assert world.catalog.unknown == 0
    [line] = [each for each in logs if each.get("ref_id") == "cup"]
    assert line["event"] == "no media with this ref_id in the catalog yet; asking again until there is one"
    world.client.errors = {}
    with structlog.testing.capture_logs() as logs:
        for _ in range(10):
            world.round()
    [line] = [each for each in logs if each.get("ref_id") == "cup"]
    assert line["event"] == "found the media of a ref_id"
    assert (line["media"], line["name"]) == ("id-of-cup", "name of cup")
    assert world.catalog.refs == {"cup": "id-of-cup"}
    assert world.client.all_requested.count("media ref:cup") == 11


@pytest.mark.unmeasured
def test_missing_media_take_little_from_the_counting(build: Callable[..., World]) -> None:
    """However many there are, and however short the budget is: after the first lookups at most a fifteenth of it."""
    refs = [f"event-{number}" for number in range(30)]
    world = build(media=[f"media-{number}" for number in range(30)], refs=refs, limit=20)
    world.client.errors = {f"media ref:{ref_id}": NotFound("medias: 404", status=404) for ref_id in refs}
    while world.catalog.unknown:
        world.round()
    before = len(world.client.all_requested)
    for _ in range(120):
        world.round()
    requested = world.client.all_requested[before:]
    missing = sum(what.startswith("media ref:") for what in requested)
    assert 0 < missing <= len(requested) / 15 + 2
    assert world.poller.link.failing_lookups == 0


def test_an_outage_is_no_missing_media(build: Callable[..., World]) -> None:
    """A lookup by reference id that fails in another way is an incident, as those by id are."""
    world = build(refs=["cup"])
    world.client.errors = {"media ref:cup": ServerError("medias: 500", status=500)}
    world.round()
    assert (world.poller.link.failing_lookups, world.catalog.pending) == (1, {"cup": None})


def lookups_in(requested: Sequence[str]) -> int:
    """How many of these requests are for a media's name."""
    return sum(what.startswith("media ") for what in requested)


@pytest.mark.unmeasured
@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("error", [None, RateLimited("slow down", status=429)])
def test_the_catalog_has_a_tenth_of_a_short_budget(
    build: Callable[..., World], error: ApiError | None, concurrency: int
) -> None:
    """If there is more to request than the budget allows, at most one request in ten is for a media's name, whether
    those succeed or are refused; and one in three until each was requested once.
    """
    media = [f"media-{number}" for number in range(30)]
    world = build(media=media, limit=10, concurrency=concurrency)
    world.client.errors = {f"media {media_id}": error for media_id in media} if error else {}
    while world.catalog.unknown:
        world.round()
    requested = world.client.all_requested
    assert lookups_in(requested) <= len(requested) / 3 + EARLY_MINUTES * 10
    before = len(requested)
    for _ in range(60):
        world.round()
    assert lookups_in(requested[before:]) <= (len(requested) - before) / 10 + 1


def test_a_full_disk_ends_the_round_and_nothing_is_lost(build: Callable[..., World], tmp_path: Path) -> None:
    """While the state file cannot be written no request leaves; afterwards the poller catches up completely."""
    world = build()
    world.round()
    with world.ledger._state.read() as db:
        db.execute("CREATE TRIGGER full BEFORE INSERT ON sends BEGIN SELECT RAISE(FAIL, 'disk is full'); END")
    assert world.round() == []
    assert (world.poller.link.up, world.poller.link.blocked) == (False, True)
    assert "disk is full" in world.poller.link.last_error
    with world.ledger._state.read() as db:
        db.execute("DROP TRIGGER full")
    assert set(PLAYS) <= set(world.round())
    assert (world.poller.link.up, world.poller.link.blocked) == (True, False)


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
    """However many streams have them, one line reports them, with the first one; reminders are rare, and the resolution
    is one line.

    A stream with few requests does not make the incident begin again and again.
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
    """A failure that lasts for hours, with ever fewer requests, begins once and is resolved once,
    when it is answered.
    """
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
    """The number of settled minutes that each stream has not counted, for these media or for all and the whole
    merchant.
    """
    settled = world.ledger.settled("m", world.clock.now())
    streams = world.settings.merchants[0].streams()
    return [settled - world.ledger.through(each) for each in streams if media is None or each.media_id in media]


def logged(lines: Sequence[Mapping[str, object]]) -> list[str]:
    """The logged warnings and resolved incidents."""
    events = [(str(line["event"]), line["log_level"]) for line in lines]
    return [event for event, level in events if level == "warning" or event.startswith("resolved: ")]


TWENTY = [f"media-{number}" for number in range(20)]


@pytest.mark.unmeasured
@pytest.mark.parametrize(("error", "concurrency"), list(zip(OUTAGES, itertools.cycle([1, 4]), strict=False)))
def test_after_hours_without_an_api_all_is_fresh_in_minutes(
    build: Callable[..., World], error: ApiError, concurrency: int
) -> None:
    """Whatever the whole API returns for two hours, there are a few requests a minute, six lines, and no backoff."""
    world = build(media=TWENTY, concurrency=concurrency)
    for _ in range(3):
        world.round()
    world.client.errors = {"*": error}
    with structlog.testing.capture_logs() as lines:
        requested = [len(world.round()) for _ in range(120)]
        assert world.poller.link.up is False
        world.client.errors = {}
        for _ in range(2):
            world.round()
        assert set(behind(world)) == {0}
        for _ in range(4):
            world.round()
    # A refused range is halved once for each stream.
    assert sum(requested) / len(requested) <= (3 if concurrency == 1 else 6) + 2 * isinstance(error, BadRequest)
    assert logged(lines) == [str(error), *[f"still failing: {error}"] * 4, f"resolved: {error}"]
    assert world.poller.link.up is True


def fails_after(world: World, requests: int, error: ApiError) -> None:
    """Let the API answer this number of requests, and then only fail."""
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
    """After three failures the whole merchant's plays are requested once more. If they fail, too, the round ends and no
    backoff begins: all is fresh with the first round after the outage.
    """
    world = build(media=TWENTY, concurrency=concurrency)
    for _ in range(3):
        world.round()
    with structlog.testing.capture_logs() as lines:
        fails_after(world, 6, error)
        requested = world.round()
        assert len(requested) <= 6 + (4 if concurrency == 1 else 10)
        assert requested.count("/play_count") == 2
        for _ in range(10):
            world.round()
        world.client.errors = {}
        world.round()
    assert set(behind(world)) == {0}
    assert logged(lines) == [str(error)]


def test_an_outage_of_some_media_concerns_only_them(build: Callable[..., World]) -> None:
    """Three failing media in a row end no round: the whole merchant's plays are answered, so all other media are
    requested.
    """
    world = build(media=TWENTY)
    for _ in range(3):
        world.round()
    bad, good = TWENTY[:10], TWENTY[10:]
    world.client.errors = dict.fromkeys(bad, NotFound("no such media", status=404))
    with structlog.testing.capture_logs() as lines:
        for _ in range(10):
            requested = world.round()
            assert set(behind(world, good)) == {0}
    assert sum(each.startswith("media media-") for each in logged(lines)) == 10
    assert len(logged(lines)) == 10
    assert requested.count("/play_count") == 1


@pytest.mark.unmeasured
@pytest.mark.parametrize("error", OUTAGES)
def test_a_whole_merchant_that_always_fails_starves_no_media(build: Callable[..., World], error: ApiError) -> None:
    """The account has no permission for the whole merchant and for some media. The permitted media are requested every
    minute, and the others cost a little more than two requests a minute.
    """
    world = build(media=TWENTY)
    bad, good = TWENTY[:12], TWENTY[12:]
    world.client.errors = dict.fromkeys(["", *bad], error)
    for _ in range(60):
        world.round()
    world.client.all_requested = []
    # Without the whole merchant's rows, a media is counted when its own rows have come.
    for _ in range(60):
        world.round()
        assert max(behind(world, good)) <= 1
    requested = Counter(what.partition("/")[0] for what in world.client.all_requested)
    assert requested[""] <= 2 * 60
    assert sum(requested[media_id] for media_id in bad) <= 90


@pytest.mark.unmeasured
def test_failing_media_cost_a_request_a_minute_and_recover_in_minutes(build: Callable[..., World]) -> None:
    """While the whole merchant is answered, media that fail for hours cost one request a minute together; when one is
    answered again, the others are requested at once.
    """
    world = build(media=TWENTY)
    world.client.errors = dict.fromkeys(TWENTY, RefusedError("no permission", status=403))
    for _ in range(3 * 60):
        world.round()
    world.client.all_requested = []
    for _ in range(60):
        assert "/play_count" in world.round()
    assert sum(what.startswith("media-") for what in world.client.all_requested) <= 60
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
    """The 30 permitted media fit into the budget easily, and get it. Each of the 90 has one log line."""
    media = [f"media-{number}" for number in range(120)]
    bad, good = media[:90], media[90:]
    world = build(media=media, concurrency=concurrency)
    world.client.errors = dict.fromkeys(bad, error)
    with structlog.testing.capture_logs() as lines:
        for minute in range(60):
            world.round()
            assert minute < 15 or max(behind(world, good)) <= 2
    assert 90 <= len(logged(lines)) <= 95


def test_hours_without_a_token(build: Callable[..., World]) -> None:
    """Nothing can be requested: there is one attempt in each round, and one incident until there is a token again."""
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


def test_a_revoked_token_starts_no_backoff(build: Callable[..., World]) -> None:
    """Streams that were refused in the round in which the token was renewed are requested again in that round."""
    world = build(media=TWENTY)
    for _ in range(3):
        world.round()
    refused = Unauthorized("not accepted", status=401)
    fails_after(world, 6, refused)
    original = world.client._fail

    def fail(key: str) -> None:
        # The client renews it when it is refused for a stream that it was accepted for before.
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
    """A single 503 is enough: no request leaves until the given time, also from a new process; then the whole budget
    may be used.
    """
    world = build(media=TWENTY)
    world.round()
    world.client.errors = {"*": busy(600)}
    assert world.round() == ["/play_count"]
    world.client.errors = {}
    assert RequestBudget(world.state, "m", 45, world.clock).wait() == pytest.approx(600)
    assert [len(world.round()) for _ in range(9)] == [0] * 9
    assert world.poller.link.up is False
    assert len(world.round()) >= 21
    assert world.budget.allowed == 45
    assert set(behind(world)) == {0}


@pytest.mark.parametrize("concurrency", [1, 4])
def test_retry_after_in_the_middle_of_a_round(build: Callable[..., World], concurrency: int) -> None:
    """After a stream's 503 the whole merchant's plays are requested once more, and their Retry-After holds all
    requests.
    """
    world = build(media=TWENTY, concurrency=concurrency)
    world.round()
    fails_after(world, 6, busy(600))
    requested = world.round()
    assert len(requested) <= 6 + (2 if concurrency == 1 else 5)
    assert requested.count("/play_count") == 2
    world.client.errors = {}
    assert [len(world.round()) for _ in range(9)] == [0] * 9
    world.round()
    assert set(behind(world)) == {0}


def test_retry_after_of_one_media_holds_only_that_media(build: Callable[..., World]) -> None:
    """While the whole merchant's plays are answered, only the media with the Retry-After is in
    backoff, for that time.
    """
    world = build(media=TWENTY)
    world.round()
    world.client.errors = {"media-3": busy(900)}
    requested = world.round()
    assert "media-3/play_count" in requested
    for _ in range(14):
        assert "media-3/play_count" not in world.round()
        assert set(behind(world, [each for each in TWENTY if each != "media-3"])) == {0}
    assert "media-3/play_count" in world.round()


def test_retry_after_of_a_whole_merchant_that_always_fails(build: Callable[..., World]) -> None:
    """If that request always gets this answer, because it is too expensive for the API, the media
    are still requested.
    """
    world = build(media=TWENTY)
    world.round()
    world.client.errors = {"": busy(90)}
    for _ in range(10):
        world.round()
    for _ in range(10):
        world.round()
        assert max(behind(world, TWENTY)) <= 1


def test_retry_after_of_the_catalog_holds_only_the_catalog(build: Callable[..., World]) -> None:
    """Neither names nor live events are requested until then, and the streams continue."""
    world = build()
    world.client.errors = {"media a": busy(900)}
    world.round()
    world.client.errors = {}
    for _ in range(14):
        assert sorted(world.round()) == PLAYS
    assert "media a" in world.round()


def test_a_proxy_that_refuses_everything_does_not_end_the_history(build: Callable[..., World]) -> None:
    """A 400 for the history means that its range is too long only if the whole merchant's plays are answered after it.
    Otherwise the same range is requested when those are answered.
    """
    world = build(history_known=False)
    fails_after(world, len(PLAYS + CATALOG), BadRequest("bad request", status=400))
    assert world.round()[-2:] == ["history of all by minute", "/play_count"]
    for _ in range(20):
        assert not any(what.startswith("history") for what in world.round())
    world.client.errors = {}
    assert set(HISTORY) <= set(world.round())


def test_a_round_waits_for_the_budget_but_not_beyond_its_minute(build: Callable[..., World]) -> None:
    """The round waits for the budget if the wait ends within the minute; otherwise the round ends."""
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
    """Requests that would wait until shortly before the next round are left to that one."""
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


def test_a_second_round_waits_for_the_first(build: Callable[..., World]) -> None:
    """A second round starts when the first has ended, and then requests nothing again."""
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
    assert sorted(world.client.all_requested) == sorted(PLAYS + CATALOG)


def test_a_stopped_poller_requests_nothing(build: Callable[..., World]) -> None:
    """After `stop` no request leaves, and the round has ended."""
    world = build()
    world.poller.stop()
    assert world.round() == []
    assert world.poller.ended(timeout=0.0)


def test_with_several_workers_each_stream_is_requested_once(build: Callable[..., World]) -> None:
    """A stream never has two requests under way, and the whole merchant is first."""
    world = build(concurrency=4)
    for _ in range(20):
        requested = world.round()
        assert requested[0] == "/play_count"
        assert sorted(what for what in requested if what in PLAYS) == sorted(PLAYS)


def test_a_missing_media_is_requested_by_one_of_its_streams(build: Callable[..., World]) -> None:
    """A 404 for one stream of a media holds back its others, too; later one of them requests again."""
    world = build(collect=["play_count", "play_time", "device_count"])
    world.client.errors = {"a": NotFound("no such media", status=404)}
    for _ in range(14):
        world.round()
    assert sum(what.startswith("a/") for what in world.client.all_requested) == 1
    for _ in range(30):
        world.round()
    assert sum(what.startswith("a/") for what in world.client.all_requested) == 2
    world.client.errors = {}
    for _ in range(60):
        world.round()
    streams = [stream for stream in world.settings.merchants[0].streams() if stream.media_id == "a"]
    assert {world.ledger.through(stream) for stream in streams} == {world.ledger.settled("m", world.clock.now())}


def test_the_link_has_the_staleness(build: Callable[..., World]) -> None:
    """With enough budget for all streams nothing is stale; otherwise the mean is near the possible minimum."""
    world = build()
    world.round()
    link = world.poller.link
    assert (link.streams, link.staleness_minutes, link.staleness_bound_minutes) == (3, 0, 0)


def test_during_a_retry_after_the_link_is_not_up(build: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    """A late answer to a request that was under way ends neither the failure nor its report."""
    world = build()
    world.round()
    fail = world.client._fail

    def answer_late(key: str) -> None:
        fail(key)
        if key == "b":
            # Meanwhile another request got a 429.
            world.budget.refused(1800.0)

    monkeypatch.setattr(world.client, "_fail", answer_late)
    world.client.errors = {"a": RateLimited("slow down", status=429, retry_after=1800.0)}
    with structlog.testing.capture_logs() as logs:
        requested = world.round()
        assert requested.index("a/play_count") < requested.index("b/play_count")
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


def test_no_minute_is_skipped_after_the_clock_was_ahead(build: Callable[..., World]) -> None:
    """Minutes that seemed empty while the clock was five hours ahead are counted when they come."""
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


HISTORY = [
    *("history of all by minute", "history of a by minute", "history of b by minute"),
    *("history of all by hour", "history of a by hour", "history of b by hour"),
]


def test_the_history_comes_after_everything_else(build: Callable[..., World]) -> None:
    """With budget left, the first round requests the history, too, once and last."""
    world = build(history_known=False)
    requested = world.round()
    assert requested[-len(HISTORY) :] == HISTORY
    assert sorted(requested[: -len(HISTORY)]) == sorted(PLAYS + CATALOG)
    assert not [what for what in world.round() if what.startswith("history")]


def test_the_history_has_a_tenth_of_a_short_budget(build: Callable[..., World]) -> None:
    """If the streams need more than the budget, one request in ten is for names and history, and no more."""
    world = build(limit=2, history_known=False)
    for _ in range(200):
        world.round()
    assert world.poller.link.up
    background = [what for what in world.client.all_requested if what.startswith(("history", "media", "event"))]
    assert set(HISTORY) <= set(background)
    # Except in the first minutes: nothing is stale yet.
    assert len(background) <= len(world.client.all_requested) / 10 + 1 + EARLY_MINUTES


def test_media_are_learned_before_anything_is_stale(build: Callable[..., World]) -> None:
    """After the first start, a budget that does not hold everything brings names and history first, for two minutes;
    after a stop of an hour, the streams come first.
    """
    media = [f"media-{number}" for number in range(30)]
    world = build(limit=20, media=media, history_known=False)
    for _ in range(EARLY_MINUTES):
        requested = world.round()
        assert requested[0] == "/play_count"
        assert sum(what.startswith("history") for what in requested) >= 6
        assert not any(what.endswith("/play_count") for what in requested[1:])
    requested = world.round()
    assert sum(what.endswith("/play_count") for what in requested) >= 11
    # A third of the requests beside those for live events, until all media can be judged.
    assert sum(what.startswith(("history", "media ")) for what in requested) in range(4, 8)
    assert 0 < (world.poller.learning or 0.0) < 600
    for _ in range(12):
        world.round()
    assert world.poller.learning == 0
    # The weeks by hour take a tenth.
    assert 5 <= sum(what.startswith("history") for _ in range(5) for what in world.round()) <= 10
    world.clock.advance(3600)
    restarted = World(world.state, world.clock, 20, 1, ("play_count",), media, history_known=False, detector=False)
    assert sum(what.endswith("/play_count") for what in restarted.round()) >= 14


def test_a_failing_history_does_not_delay_the_counting(build: Callable[..., World]) -> None:
    """A failing warm-up request is not repeated for some minutes, and streams are requested as before."""
    world = build(history_known=False)
    world.client.errors["history"] = ServerError("a defect", status=500)
    world.round()
    for _ in range(3):
        assert sorted(what for what in world.round() if what in PLAYS) == sorted(PLAYS)
    assert len([what for what in world.client.all_requested if what.startswith("history")]) <= 2 * len(HISTORY)
    world.client.errors.clear()
    for _ in range(12):
        world.round()
    assert world.monitor.warmup.next(world.clock.now(), minute_of(world.clock.now()), ()) is None


def test_a_refused_history_is_requested_in_halves(build: Callable[..., World]) -> None:
    """A 400 is no error of the API: the range was too long. If no range is accepted, the exporter does without the
    history.
    """
    world = build(history_known=False)
    world.client.errors["history"] = BadRequest("range too long", status=400)
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            world.round()
    assert world.monitor.warmup.next(world.clock.now(), minute_of(world.clock.now()), ()) is None
    assert [entry for entry in logs if entry["log_level"] == "warning"] == []


def test_what_may_drop_comes_right_after_the_whole_merchant(build: Callable[..., World]) -> None:
    """Before live events that run and lookups; a drop that is shown comes before one that is not yet."""
    media = [f"media-{number}" for number in range(20)]
    world = build(limit=20, media=media)
    for _ in range(5):
        world.round()
    for media_id in media[:4]:
        world.catalog.enter_live(Lookup(media_id, "ev"), LiveEvent(running=True), world.clock.now() - 60)
    world.monitor.suspects = {media[7]: False, media[12]: True, "no-media": True}
    requested = world.round()
    assert requested[:3] == ["/play_count", "media-12/play_count", "media-7/play_count"]
    assert "event ev" in requested


def test_running_live_events_are_looked_up_in_every_round(build: Callable[..., World]) -> None:
    """Their lookups come right after the whole merchant's plays, and take at most a quarter of a round."""
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


def test_a_failed_write_of_the_detector_is_reported(build: Callable[..., World], tmp_path: Path) -> None:
    """If the state file does not accept the detector's state, that is one line, and the round continues."""
    world = build(detector=True)
    with world.state.transaction() as db:
        db.execute("DROP TABLE tracks")
    with structlog.testing.capture_logs() as logs:
        assert sorted(set(world.round()) & set(PLAYS)) == sorted(PLAYS)
    assert [entry["log_level"] for entry in logs if "writing failed" in entry["event"]] == ["warning"]


@pytest.mark.parametrize("trigger", ["the budget of the minute before is not free yet", "a minute settles meanwhile"])
def test_nothing_is_requested_while_the_whole_merchants_request_is_under_way(
    build: Callable[..., World], trigger: str
) -> None:
    """Before its answer no thread sends a request, at the beginning of a round and later: the settled minutes are
    unknown until then, and the media requested a minute ago would look fresh.
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
            # Long enough for the other threads to send all their requests.
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
    assert world.client.requested.count("/play_count") == (2 if trigger.startswith("a minute") else 1)
    # When a minute settles, three other tasks may have been taken before.
    assert sum(left) <= (3 if trigger.startswith("a minute") else 0)
    assert len(left) >= 15


def test_a_stopped_poller_does_not_wait_for_an_answer(build: Callable[..., World]) -> None:
    """`stop` ends the threads that wait for the whole merchant's answer, even if that never comes."""
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
    # The thread of the round, and the one with the request.
    wait_until("the others have ended", lambda: len(set(threading.enumerate()) - before) == 2)
    go_on.set()
    running.join(PATIENCE)
    assert world.client.all_requested == ["/play_count"]
