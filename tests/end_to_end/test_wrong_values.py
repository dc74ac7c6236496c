"""Wrong values of the API and their corrections, through the ledger and its state file, as Prometheus sees them."""

import contextlib
import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import structlog

from exporter.config.settings import Settings
from exporter.counting.ledger import Ledger
from exporter.model import DAY_MINUTES, OTHER, Group, Minute, MinuteRange, Stream, Target, minute_of
from exporter.storage.state import State, open_state
from exporter.units import UNIT, to_units
from exporter.views import MerchantView, SeriesView
from tests.support.audience import folder_in_memory
from tests.support.fakes import FakeClock

ALL = Stream("m", "a", Target.PLAY_COUNT, Group.ALL)
WHOLE = Stream("m", "", Target.PLAY_COUNT, Group.ALL)
COUNTRY = Stream("m", "a", Target.PLAY_COUNT, Group.COUNTRY)
KEYS = Stream("m", "a", Target.KEY_DELIVERY_COUNT, Group.ALL)
SITES = Stream("m", "a", Target.PLAY_TIME, Group.SITE)
EACH = pytest.mark.parametrize(
    ("stream", "label"), [(ALL, ""), (COUNTRY, "jp"), (WHOLE, ""), (KEYS, "")], ids=["all", "label", "merchant", "day"]
)

PLAYS = 10.0


def increase(samples: list[float]) -> float:
    """What Prometheus' `increase()` says of a counter's samples: each fall is a restart at 0."""
    grown = 0.0
    for before, after in pairwise(samples):
        grown += after - before if after >= before else after
    return grown


class Api:
    """One stream of the API that is asked every minute by a ledger, which is scraped every 30 seconds.

    Attributes:
        rows: What the API shows.
        samples: What Prometheus has of each label value.
    """

    def __init__(self, folder: Path, clock: FakeClock, stream: Stream, **poll: str | int) -> None:
        self.path = folder / "state.db"
        self.clock = clock
        self.stream = stream
        account = {"id": "m", "api_key": "k", "mail_address": "a@example.com", "password": "p"}
        collect = [
            {"target": "play_count", "groups": ["all", "country"]},
            {"target": "play_time", "groups": ["site"]},
            {"target": "key_delivery_count"},
        ]
        merchant = {**account, "collect": collect, "media": [{"id": "a"}]}
        self.settings = Settings.model_validate({"merchants": [merchant], "poll": poll})
        self.rows: dict[Minute, dict[str, float | None]] = {}
        self.samples: dict[str, list[float]] = {}
        self.open()

    def open(self) -> None:
        """Start the process."""
        self.state: State = open_state(self.path, self.clock.now)
        self.ledger = Ledger(self.state, self.settings, on_revision=lambda age: None)
        self.ledger.sync(self.settings.merchants, self.clock.now())

    def restart(self) -> None:
        """End the process, and start another."""
        self.state.close()
        self.open()

    @property
    def minute(self) -> Minute:
        """The newest minute that settle (2m) allows, or the local day of it."""
        newest = minute_of(self.clock.now()) - 3
        return newest if not self.stream.target.by_day else (newest + 540) // DAY_MINUTES * DAY_MINUTES - 540

    @property
    def merchant(self) -> MerchantView:
        return self.ledger.snapshot.merchants["m"]

    @property
    def series(self) -> tuple[SeriesView, ...]:
        return self.merchant.streams[self.stream].series

    def play(self, label: str, value: float = PLAYS) -> None:
        """Let a minute pass in which so much is played, and ask for it."""
        self.clock.advance(30)
        self.scrape()
        self.clock.advance(30)
        row = self.rows.setdefault(self.minute, {})
        before = (row.get(label) or 0.0) if self.stream.target.by_day else 0.0
        row[label] = before + value
        self.answer(self.rows)
        self.scrape()

    def answer(self, rows: dict[Minute, dict[str, float | None]]) -> MinuteRange:
        asked = self.ledger.to_ask(self.stream, self.clock.now())
        self.ledger.enter(self.stream, asked, rows, self.clock.now())
        return asked

    def scrape(self) -> None:
        self.ledger.show_counted(self.clock.now())
        for series in self.series:
            assert series.total is not None
            self.samples.setdefault(series.label, []).append(series.total)

    def shown_wrong(self, label: str, value: float, minutes: int, at: Minute | None = None) -> None:
        """The newest minute, or that one, shows a wrong value for so many minutes more, while plays go on."""
        wrong = self.minute if at is None else at
        for _ in range(minutes):
            self.clock.advance(30)
            self.scrape()
            self.clock.advance(30)
            row = self.rows.setdefault(self.minute, {})
            row[label] = ((row.get(label) or 0.0) if self.stream.target.by_day else 0.0) + PLAYS
            self.answer({**self.rows, wrong: {**self.rows[wrong], label: value}})
            self.scrape()

    def played(self, label: str) -> float:
        """What the API shows in the end."""
        return sum(row.get(label) or 0.0 for row in self.rows.values())


@pytest.fixture
def api_of(tmp_path: Path, clock: FakeClock) -> Iterator[Callable[..., Api]]:
    # Thousands of transactions do not wait for a disk.
    with contextlib.ExitStack() as stack:
        built: list[Api] = []
        folder = Path(stack.enter_context(folder_in_memory(tmp_path)))

        def build(stream: Stream, **poll: str | int) -> Api:
            api = Api(folder, clock, stream, **poll)
            built.append(api)
            return api

        yield build
        for api in built:
            api.state.close()


@EACH
def test_a_wrong_value_that_is_corrected_in_time_reaches_no_counter(
    api_of: Callable[..., Api], stream: Stream, label: str
) -> None:
    """10^9 shown for five minutes and corrected: the counter goes on, after a restart, too, and all are told."""
    api = api_of(stream)
    for _ in range(5):
        api.play(label)
    before, wrong = api.samples[label][-1], api.minute
    api.shown_wrong(label, 1e9, 3)
    assert api.merchant.held_values == 1
    api.restart()
    assert api.merchant.held_values == 1
    api.shown_wrong(label, 1e9, 2, wrong)
    for _ in range(5):
        api.play(label)
    assert api.merchant.held_values == 0
    # What is there of a day at the first answer is where counting starts.
    started = PLAYS if stream.target.by_day else 0.0
    assert before < api.samples[label][-1] == api.played(label) - started
    assert api.samples[label] == sorted(api.samples[label])
    assert (api.merchant.series_resets, api.merchant.lost_minutes) == (0, 0)


def test_a_wrong_value_is_logged_once_while_it_waits(api_of: Callable[..., Api]) -> None:
    """One warning says which minute has which value and what becomes of it; another begins anew after that."""
    api = api_of(ALL)
    for _ in range(2):
        api.play("")
        with structlog.testing.capture_logs() as logs:
            api.shown_wrong("", 1e9, 4)
            api.play("")
        (line,) = [each for each in logs if "implausible" in each["event"]]
        assert (line["log_level"], line["stream"], line["value"]) == ("warning", str(ALL), 1e9)
        assert "revision_window" in line["event"]
        assert line["minute"].endswith(":00Z")


@pytest.mark.parametrize("stream", [ALL, WHOLE])
def test_a_real_beginning_is_counted_at_once(api_of: Callable[..., Api], stream: Stream) -> None:
    """A live event that has 50,000 plays in its first minute after none is no wrong value."""
    api = api_of(stream)
    api.play("", 0)
    api.play("", 0)
    api.play("", 50_000)
    assert (api.merchant.held_values, api.series[0].total) == (0, 50_000)


@pytest.mark.parametrize("stream", [ALL, COUNTRY, WHOLE])
def test_a_large_merchant_is_believed_from_the_first_answer_on(api_of: Callable[..., Api], stream: Stream) -> None:
    """300,000 plays a minute in the half hour before the first start are usual, one wrong row among them is not."""
    api = api_of(stream)
    label = "jp" if stream is COUNTRY else ""
    for minute in range(api.minute - 30, api.minute):
        api.rows[minute] = {label: 3e5}
    api.rows[api.minute - 9] = {label: 1e12}
    api.play(label, 3e5)
    api.play(label, 3e5)
    assert (api.merchant.held_values, api.series[0].total) == (0, 6e5)
    api.shown_wrong(label, 1e9, 3)
    assert api.merchant.held_values == 1


def test_a_wrong_value_that_stays_is_counted_when_it_has_been_shown_for_the_window(api_of: Callable[..., Api]) -> None:
    """10^9 shown for longer than the revision window is counted, once, also when the process is another by then."""
    api = api_of(ALL)
    api.play("")
    api.play("")
    wrong = api.minute
    api.shown_wrong("", 1e9, 20)
    api.restart()
    api.shown_wrong("", 1e9, 10, wrong)
    assert api.series[0].total == 32 * PLAYS
    api.shown_wrong("", 1e9, 1, wrong)
    assert (api.merchant.held_values, api.series[0].total) == (0, 1e9 + 32 * PLAYS)


@EACH
def test_what_is_owed_for_longer_than_a_day_ends_in_a_reset(
    api_of: Callable[..., Api], stream: Stream, label: str
) -> None:
    """A wrong value that was believed and then taken back: the counter stands still for a day, begins again at 0, shows
    that for a minute, and `increase()` over it is what was played after it.
    """
    api = api_of(stream)
    for _ in range(3):
        api.play(label)
    # Small enough to be believed.
    wrong = 140_000_000.0 if stream.target.by_day else 90_000.0
    api.shown_wrong(label, wrong, 2)
    api.play(label)
    frozen, owed_from = api.samples[label][-1], len(api.samples[label])
    assert frozen >= wrong - PLAYS
    with structlog.testing.capture_logs() as logs:
        for place in range(DAY_MINUTES):
            if place == 700:
                api.restart()
            api.play(label)
            assert api.series[0].total == frozen
        assert not logs
        assert increase(api.samples[label][owed_from - 1 :]) == 0
        api.play(label)
    [line] = [each for each in logs if "reset to 0" in each["event"]]
    assert (line["stream"], line["counters"], line["log_level"]) == (str(stream), 1, "warning")
    assert api.merchant.series_resets == 1
    reset_from, at = len(api.samples[label]) - 1, api.played(label)
    assert api.samples[label][reset_from] == 0
    # A process that ends now shows the 0 anew.
    api.restart()
    assert api.merchant.series_resets == 1
    for _ in range(50):
        api.play(label)
    after = api.samples[label][reset_from:]
    assert after[:2] == [0, 0]
    assert after == sorted(after)
    # From before the reset on: the fall itself adds nothing.
    assert increase(api.samples[label][owed_from - 1 :]) == increase(after) == api.played(label) - at == 500


def test_only_the_label_value_that_owes_begins_again(api_of: Callable[..., Api]) -> None:
    """The counters of the other label values of the stream go on."""
    api = api_of(COUNTRY)
    for label in ("jp", "us"):
        api.play(label)
    api.shown_wrong("jp", 90_000, 1)
    api.shown_wrong("us", 500, 1)
    for place in range(DAY_MINUTES + 10):
        api.play(("jp", "us")[place % 2])
    assert api.merchant.series_resets == 1
    assert api.samples["us"] == sorted(api.samples["us"])
    assert api.samples["us"][-1] == api.played("us")
    assert api.samples["jp"][-1] < 100


def test_a_total_that_the_state_file_cannot_hold_begins_again(api_of: Callable[..., Api]) -> None:
    """Beyond 9.2 million million a counter goes on from 0 with what came last; nothing fails, nothing is lost."""
    api = api_of(SITES)
    api.play("s")
    api.play("s")
    with api.state.transaction() as db:
        db.execute("UPDATE series SET total = ?", (2**63 - 1 - round(25 * UNIT),))
    api.restart()
    api.scrape()
    start = len(api.samples["s"]) - 1
    for _ in range(6):
        api.play("s")
    assert api.merchant.series_resets == 1
    assert api.samples["s"][-1] == 40
    assert increase(api.samples["s"][start:]) == pytest.approx(60, abs=0.01)
    assert sum(after < before for before, after in pairwise(api.samples["s"])) == 1


def test_a_day_that_cannot_be_used_keeps_its_old_value(api_of: Callable[..., Api]) -> None:
    """Keys of a day that is held are counted when the API shows a number again."""
    api = api_of(KEYS)
    api.play("")
    api.play("")
    day = api.minute
    api.answer({day: {"": None}})
    assert (api.merchant.held_values, api.series[0].total) == (1, 10)
    api.restart()
    api.play("")
    api.play("")
    assert (api.merchant.held_values, api.series[0].total) == (0, 30)


def test_a_day_that_is_bad_once_before_midnight_is_not_lost(api_of: Callable[..., Api]) -> None:
    """The day before yesterday is asked for until the API shows a number of it, a day long; then it is given up."""
    api = api_of(KEYS)
    api.play("", 100)
    day = api.minute
    while api.minute == day:
        api.clock.advance(60)
    # Of yesterday some keys are told late, and its value is bad in the last answer of today.
    api.clock.advance((DAY_MINUTES - 10) * 60)
    api.answer({day: {"": None}, api.minute: {"": 5}})
    api.clock.advance(1200)
    assert api.minute == day + 2 * DAY_MINUTES
    assert api.answer({day: {"": None}, day + DAY_MINUTES: {"": 5}}).first == day
    assert (api.merchant.held_values, api.merchant.lost_minutes) == (1, 0)
    api.answer({day: {"": 103}, day + DAY_MINUTES: {"": 5}})
    api.clock.advance(60)
    api.scrape()
    assert (api.series[0].total, api.merchant.held_values) == (8, 0)
    # One that stays bad is lost after a day, once.
    api.rows = {day + DAY_MINUTES: {"": None}}
    api.answer(api.rows)
    for hours in range(60):
        api.clock.advance(3600)
        api.answer(api.rows)
        assert api.merchant.lost_minutes == (DAY_MINUTES if api.merchant.held_values == 0 else 0), hours
    assert (api.merchant.held_values, api.series[0].total) == (0, 8)


def test_keys_begin_with_an_answer_that_can_be_used(api_of: Callable[..., Api]) -> None:
    """What the day had before the first number is nobody's: it is not counted when the number comes."""
    api = api_of(KEYS)
    api.answer({api.minute: {"": None}})
    assert api.merchant.streams[KEYS].through is None
    assert api.merchant.held_values == 1
    api.play("", 5000)
    api.play("")
    api.play("")
    assert (api.merchant.held_values, api.series[0].total) == (0, 20)
    assert api.merchant.streams[KEYS].through is not None


def test_what_is_held_is_kept_and_told(api_of: Callable[..., Api]) -> None:
    """The gauge is absent, the number of values is shown, the detector and the range know which minutes; all of it
    after a restart, too.
    """
    api = api_of(COUNTRY)
    api.play("jp")
    minute = api.minute
    api.answer({minute: {"jp": None, "us": 3}})
    for _ in range(2):
        assert api.series == (SeriesView("jp", 0.0, None), SeriesView("us", 0.0, 3.0))
        assert api.merchant.held_values == 1
        assert api.ledger.held(COUNTRY) == {minute}
        assert api.ledger.held(ALL) == frozenset()
        api.restart()
    api.clock.advance(3 * 3600)
    api.rows = {minute: {"jp": 12, "us": 3}}
    assert api.answer(api.rows).first == minute - 30
    api.clock.advance(60)
    api.scrape()
    assert [(each.label, each.total) for each in api.series] == [("jp", 12), ("us", 3)]
    assert (api.merchant.held_values, api.ledger.held(COUNTRY)) == (0, frozenset())


def test_what_is_given_up_is_told_once(api_of: Callable[..., Api]) -> None:
    """A label value that is never right costs a line in the log, not one a minute, and its minutes are lost."""
    api = api_of(COUNTRY)
    with structlog.testing.capture_logs() as logs:
        for _ in range(150):
            api.play("jp")
            api.rows[api.minute]["bad"] = None
            api.answer(api.rows)
        api.restart()
    [line] = logs
    assert "minutes are lost" in line["event"]
    assert (line["stream"], line["minutes"]) == (str(COUNTRY), 1)
    assert api.merchant.lost_minutes > 50
    assert {series.label for series in api.series} == {"jp"}


@pytest.mark.parametrize(("shown", "told"), [({"pc": 1, "mobile": 1, "other": 1}, 0), ({"pc": 1, "tv": 1, "x": 1}, 1)])
def test_more_label_values_than_the_limit_are_told_of_once(
    api_of: Callable[..., Api], shown: dict[str, float | None], told: int
) -> None:
    """A real overflow is one warning for the stream; the API's own `other` is none."""
    api = api_of(COUNTRY, max_label_values=2)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            api.clock.advance(60)
            api.answer({api.minute: shown})
    assert ["max_label_values" in line["event"] for line in logs] == [True] * told


@pytest.mark.parametrize("start", range(3))
def test_sums_are_exact_through_thousands_of_revisions(api_of: Callable[..., Api], start: int) -> None:
    """Seconds with decimals of sites that are watched now and then, each minute shown a little more or less while it is
    young, some values unusable for a while, more sites than series, and restarts: no counter that is shown ever falls,
    by not even its last bit, and in the end each is exactly the sum of the final values and what it owes.
    """
    rng = random.Random(start)
    api = api_of(SITES, max_label_values=5)
    sites = [f"site{place}" for place in range(8)]
    final: dict[Minute, dict[str, float]] = {}
    for newest in range(240):
        api.clock.advance(60)
        final[api.minute] = {site: round(rng.uniform(1, 900), 3) for site in sites if rng.random() < 0.3}
        wild = newest < 200
        shown: dict[Minute, dict[str, float | None]] = {}
        for minute, values in final.items():
            young = wild and api.minute - minute < 20
            shown[minute] = {site: round(value * rng.choice((1, 0.9, 0.97)), 3) if young else value
                             for site, value in values.items()}  # fmt: skip
            if young and values and rng.random() < 0.05:
                shown[minute][rng.choice(list(values))] = None
        api.answer(shown)
        api.scrape()
        if rng.random() < 0.05:
            api.restart()
            api.scrape()
    revisions = api.merchant.revisions_up + api.merchant.revisions_down
    assert revisions > 3000
    assert api.merchant.held_values == 0
    for label, samples in api.samples.items():
        assert samples == sorted(samples), label
    with api.state.read() as db:
        accounts = {label: total - owed for label, total, owed in db.execute("SELECT label, total, owed FROM series")
                    if label}  # fmt: skip
    assert len(accounts) == 6
    sums = dict.fromkeys(accounts, 0)
    for values in final.values():
        for site, value in values.items():
            sums[site if site in accounts else OTHER] += to_units(value) or 0
    assert accounts == sums
