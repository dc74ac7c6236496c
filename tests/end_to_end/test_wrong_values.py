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
from exporter.views import MerchantView, Series, SeriesView
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
    """Prometheus' `increase()` of a counter's samples: each decrease is a restart at 0."""
    grown = 0.0
    for before, after in pairwise(samples):
        grown += after - before if after >= before else after
    return grown


class Api:
    """One stream of the API. A ledger requests it every minute and is scraped every 30 seconds.

    Attributes:
        rows: The rows that the API returns.
        samples: The samples in Prometheus for each label value.
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
        self.ledger.configure(self.settings, self.clock.now())

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
    def series(self) -> Series:
        return self.merchant.streams[self.stream].series

    def play(self, label: str, value: float = PLAYS) -> None:
        """Let a minute pass with this number of plays, and request it."""
        self.clock.advance(30)
        self.scrape()
        self.clock.advance(30)
        row = self.rows.setdefault(self.minute, {})
        before = (row.get(label) or 0.0) if self.stream.target.by_day else 0.0
        row[label] = before + value
        self.answer(self.rows)
        self.scrape()

    def answer(self, rows: dict[Minute, dict[str, float | None]]) -> MinuteRange:
        requested = self.ledger.to_ask(self.stream, self.clock.now())
        self.ledger.enter(self.stream, requested, rows, self.clock.now())
        return requested

    def scrape(self) -> None:
        self.ledger.show_counted(self.clock.now())
        for series in self.series:
            assert series.total is not None
            self.samples.setdefault(series.label, []).append(series.total)

    def show_wrong(self, label: str, value: float, minutes: int, at: Minute | None = None) -> None:
        """Let the API return a wrong value for the newest or the given minute, while more minutes with plays pass."""
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
        """The sum of what the API returns in the end."""
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
def test_a_wrong_value_corrected_in_time_reaches_no_counter(
    api_of: Callable[..., Api], stream: Stream, label: str
) -> None:
    """10^9 is returned for five minutes and then corrected. The counter continues with all plays,
    also after a restart.
    """
    api = api_of(stream)
    for _ in range(5):
        api.play(label)
    before, wrong = api.samples[label][-1], api.minute
    api.show_wrong(label, 1e9, 3)
    assert api.merchant.held_values == 1
    api.restart()
    assert api.merchant.held_values == 1
    api.show_wrong(label, 1e9, 2, wrong)
    for _ in range(5):
        api.play(label)
    assert api.merchant.held_values == 0
    # Counting starts with what the day already has at the first answer.
    initial = PLAYS if stream.target.by_day else 0.0
    assert before < api.samples[label][-1] == api.played(label) - initial
    assert api.samples[label] == sorted(api.samples[label])
    assert (api.merchant.series_resets, api.merchant.lost_minutes) == (0, 0)


def test_a_held_value_is_logged_once(api_of: Callable[..., Api]) -> None:
    """One warning gives the minute, the value and what happens to it. A later wrong value is logged again."""
    api = api_of(ALL)
    for _ in range(2):
        api.play("")
        with structlog.testing.capture_logs() as logs:
            api.show_wrong("", 1e9, 4)
            api.play("")
        (line,) = [each for each in logs if "implausible" in each["event"]]
        assert (line["log_level"], line["stream"], line["value"]) == ("warning", str(ALL), 1e9)
        assert "revision_window" in line["event"]
        assert line["minute"].endswith(":00Z")


@pytest.mark.parametrize("stream", [ALL, WHOLE])
def test_a_sudden_start_is_counted_at_once(api_of: Callable[..., Api], stream: Stream) -> None:
    """50,000 plays in the first minute of a live event after minutes without plays are not a wrong value."""
    api = api_of(stream)
    api.play("", 0)
    api.play("", 0)
    api.play("", 50_000)
    assert (api.merchant.held_values, api.series[0].total) == (0, 50_000)


@pytest.mark.parametrize("stream", [ALL, COUNTRY, WHOLE])
def test_a_large_merchant_is_accepted_from_the_first_answer_on(api_of: Callable[..., Api], stream: Stream) -> None:
    """After half an hour with 300,000 plays a minute before the first start, such values are plausible; a single wrong
    row among them is not.
    """
    api = api_of(stream)
    label = "jp" if stream is COUNTRY else ""
    for minute in range(api.minute - 30, api.minute):
        api.rows[minute] = {label: 3e5}
    api.rows[api.minute - 9] = {label: 1e12}
    api.play(label, 3e5)
    api.play(label, 3e5)
    assert (api.merchant.held_values, api.series[0].total) == (0, 6e5)
    api.show_wrong(label, 1e9, 3)
    assert api.merchant.held_values == 1


def test_a_wrong_value_that_stays_is_counted_after_the_revision_window(api_of: Callable[..., Api]) -> None:
    """10^9 that the API returns for longer than the revision window is counted once, also if the process has restarted
    since.
    """
    api = api_of(ALL)
    api.play("")
    api.play("")
    wrong = api.minute
    api.show_wrong("", 1e9, 20)
    api.restart()
    api.show_wrong("", 1e9, 10, wrong)
    assert api.series[0].total == 32 * PLAYS
    api.show_wrong("", 1e9, 1, wrong)
    assert (api.merchant.held_values, api.series[0].total) == (0, 1e9 + 32 * PLAYS)


@EACH
def test_a_decrease_owed_for_more_than_a_day_resets_the_counter(
    api_of: Callable[..., Api], stream: Stream, label: str
) -> None:
    """After a wrong value was counted and then corrected, the counter stays constant for a day, then resets to 0 and
    exports 0 for a minute. `increase()` over the reset is what was played after it.
    """
    api = api_of(stream)
    for _ in range(3):
        api.play(label)
    # Small enough to be counted.
    wrong = 140_000_000.0 if stream.target.by_day else 90_000.0
    api.show_wrong(label, wrong, 2)
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
    # A process that restarts now exports the 0 again.
    api.restart()
    assert api.merchant.series_resets == 1
    for _ in range(50):
        api.play(label)
    after = api.samples[label][reset_from:]
    assert after[:2] == [0, 0]
    assert after == sorted(after)
    # Also from before the reset on: the decrease itself adds nothing.
    assert increase(api.samples[label][owed_from - 1 :]) == increase(after) == api.played(label) - at == 500


def test_only_the_label_value_that_owes_is_reset(api_of: Callable[..., Api]) -> None:
    """The counters of the stream's other label values continue."""
    api = api_of(COUNTRY)
    for label in ("jp", "us"):
        api.play(label)
    api.show_wrong("jp", 90_000, 1)
    api.show_wrong("us", 500, 1)
    for place in range(DAY_MINUTES + 10):
        api.play(("jp", "us")[place % 2])
    assert api.merchant.series_resets == 1
    assert api.samples["us"] == sorted(api.samples["us"])
    assert api.samples["us"][-1] == api.played("us")
    assert api.samples["jp"][-1] < 100


def test_a_total_too_large_for_the_state_file_is_reset(api_of: Callable[..., Api]) -> None:
    """Above 9.2 million million a counter continues from 0 with the newest increase; nothing
    fails and nothing is lost.
    """
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


def test_a_day_without_a_usable_value_keeps_its_old_value(api_of: Callable[..., Api]) -> None:
    """Key deliveries of a held day are counted when the API returns a number again."""
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


def test_a_day_with_a_bad_value_before_midnight_is_not_lost(api_of: Callable[..., Api]) -> None:
    """The exporter requests the day before yesterday for another day, until the API returns a
    number; then it gives up.
    """
    api = api_of(KEYS)
    api.play("", 100)
    day = api.minute
    while api.minute == day:
        api.clock.advance(60)
    # Some key deliveries of yesterday arrive late, and yesterday's value is bad in today's last answer.
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
    # A day whose value stays bad is lost after a day, once.
    api.rows = {day + DAY_MINUTES: {"": None}}
    api.answer(api.rows)
    for hours in range(60):
        api.clock.advance(3600)
        api.answer(api.rows)
        assert api.merchant.lost_minutes == (DAY_MINUTES if api.merchant.held_values == 0 else 0), hours
    assert (api.merchant.held_values, api.series[0].total) == (0, 8)


def test_key_deliveries_start_with_a_usable_answer(api_of: Callable[..., Api]) -> None:
    """What the day had before the first number is not counted when the number comes."""
    api = api_of(KEYS)
    api.answer({api.minute: {"": None}})
    assert api.merchant.streams[KEYS].through is None
    assert api.merchant.held_values == 1
    api.play("", 5000)
    api.play("")
    api.play("")
    assert (api.merchant.held_values, api.series[0].total) == (0, 20)
    assert api.merchant.streams[KEYS].through is not None


def test_a_held_minute_is_stored_and_shown(api_of: Callable[..., Api]) -> None:
    """The gauge is absent, the number of held values is shown, and detector and range know the minutes, also after a
    restart.
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


def test_a_lost_label_value_is_logged_once(api_of: Callable[..., Api]) -> None:
    """A label value that never becomes usable is one log line, not one a minute, and its minutes are lost."""
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


@pytest.mark.parametrize(
    ("shown", "warnings"), [({"pc": 1, "mobile": 1, "other": 1}, 0), ({"pc": 1, "tv": 1, "x": 1}, 1)]
)
def test_more_label_values_than_the_limit_are_logged_once(
    api_of: Callable[..., Api], shown: dict[str, float | None], warnings: int
) -> None:
    """Too many label values are one warning for the stream; the API's own `other` is none."""
    api = api_of(COUNTRY, max_label_values=2)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            api.clock.advance(60)
            api.answer({api.minute: shown})
    assert ["max_label_values" in line["event"] for line in logs] == [True] * warnings


@pytest.mark.parametrize("start", range(3))
def test_sums_are_exact_through_thousands_of_revisions(api_of: Callable[..., Api], start: int) -> None:
    """Sites have seconds with decimals, not in every minute. Young minutes change, some values are unusable for some
    time, there are more sites than series, and the process restarts. No exported counter ever falls, not even by its
    last bit. In the end each is exactly the sum of the final values and what is owed.
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
