"""Rows of repeated local times, from an API that has only local times."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from itertools import groupby
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from exporter.api import answers
from exporter.api.client import Client
from exporter.clock import SystemClock
from exporter.config.settings import ApiSettings, MerchantSettings, Settings
from exporter.counting.ledger import Ledger
from exporter.localtime import local, midnight, repeat_of
from exporter.model import Group, Minute, MinuteRange, Rows, Stream, Target, end_of, minute_of
from exporter.storage.state import State
from tests.support.clock_changes import CHANGES, REPEATS
from tests.support.fakes import FakeClock

PLAYS = Stream("m", "a", Target.PLAY_COUNT, Group.ALL)
COUNTRIES = Stream("m", "", Target.PLAY_COUNT, Group.COUNTRY)
KEYS = Stream("m", "", Target.KEY_DELIVERY_COUNT, Group.ALL)

# Characters of a written time that are shown.
FORMS = {"minute": 16, "hour": 13, "day": 10}
NO_MARKS = str.maketrans("", "", "/ :")

Row = dict[str, Any]
Order = Callable[[list[Row]], list[Row]]
# Minute -> label value -> plays. A missing minute has no row.
Truth = Mapping[Minute, Mapping[str, int]]


def oldest_first(rows: list[Row]) -> list[Row]:
    return rows


def newest_first(rows: list[Row]) -> list[Row]:
    return rows[::-1]


def by_text(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: str(row["date"]))


def by_label(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: sorted(row.keys() - {"date"}))


class NoBudget:
    """A budget that lets every request pass."""

    def take(self) -> "NoBudget":
        return self

    def done(self) -> None:
        pass

    def refused(self, retry_after: float | None) -> None:
        pass


class LocalApi(Client):
    """A client of an API with local times only: it returns all rows whose written time is between `from` and `to`.

    Attributes:
        truth: The true plays.
        zone: Its zone.
        long: Whether there is a row for each label value.
        order: The order of the rows.
    """

    def __init__(self, truth: Truth, zone: ZoneInfo, order: Order = oldest_first, *, long: bool = False) -> None:
        merchant = MerchantSettings(
            id="m", api_key=SecretStr("api key"), mail_address="a@example.com", password=SecretStr("password")
        )
        settings = ApiSettings(url="http://api.invalid/v1", timezone=zone)
        super().__init__(settings, merchant, NoBudget(), observe=lambda _: None, clock=SystemClock())
        self.truth = truth
        self.zone = zone
        self.long = long
        self.order = order

    def request(self, stream: Stream, requested: MinuteRange, *, hourly: bool = False) -> Rows:
        """The rows that the client reads from an answer, for the requested minutes."""
        reading = self.aggregations(stream, requested, hourly=hourly)
        assert reading.problems == ()
        return {minute: values for minute, values in reading.rows.items() if minute in requested}

    def _get(self, request: Any) -> Any:
        return request.read(json.dumps(self._rows(request.query)).encode())

    def _rows(self, query: Mapping[str, str]) -> list[Row]:
        first, last = query["from"], query["to"]
        assert first <= last
        for end in (first, last):
            local_end = datetime.strptime(end, "%Y%m%d%H%M%S").replace(tzinfo=self.zone)
            assert local_end.astimezone(UTC).astimezone(self.zone).replace(tzinfo=None) == local_end.replace(
                tzinfo=None
            )
        hourly, form = query["interval"] == "hour", FORMS[query["interval"]]
        shown: list[tuple[tuple[str, object], Mapping[str, int]]] = []
        for minute in sorted(self.truth):
            written, offset = text_of(minute, self.zone)
            if first <= written.translate(NO_MARKS) + "00" <= last:
                # Where the clocks go back by an hour, both hours have a row; elsewhere one.
                apart = offset if not hourly or self.zone.key != "Australia/Lord_Howe" else None
                date = written[:form]
                shown.append(((date, apart if form > len("2026/11/01") else None), self.truth[minute]))
        rows: list[Row] = []
        for (date, _), each in groupby(shown, lambda row: row[0]):
            values: dict[str, int] = {}
            for _, plays in each:
                for label, value in plays.items():
                    values[label] = values.get(label, 0) + value
            parts = [{label: value} for label, value in values.items()] if self.long else [values]
            rows += [{"date": date, **part} for part in parts]
        return self.order(rows)


@cache
def text_of(minute: Minute, zone: ZoneInfo) -> tuple[str, object]:
    """The local time of a minute as the API writes it, and its offset."""
    moment = local(minute, zone)
    return moment.strftime("%Y/%m/%d %H:%M"), moment.utcoffset()


@st.composite
def ranges(draw: st.DrawFn, change: Minute) -> MinuteRange:
    """Minutes near a change of the clocks."""
    first = draw(st.integers(change - 150, change + 100))
    return MinuteRange(first, first + draw(st.integers(0, 250)))


def plays(labels: list[str], at_least: int) -> st.SearchStrategy[dict[str, int]]:
    return st.dictionaries(st.sampled_from(labels), st.integers(0, 99), min_size=at_least, max_size=len(labels))


@given(data=st.data(), change=st.sampled_from(CHANGES), long=st.booleans())
def test_minutes_are_read_unchanged(data: st.DataObject, change: tuple[str, Minute], long: bool) -> None:
    """If all minutes until now have a row, every range gives the true plays, in each form and order of the rows."""
    name, at = change
    order = data.draw(st.sampled_from([oldest_first, newest_first, by_text, *([by_label] if long else [])]))
    in_time = order in (oldest_first, newest_first)
    labels = ["jp", "us"] if in_time or data.draw(st.booleans()) else ["jp"]
    random = Random(data.draw(st.integers(0, 10**6)))
    until = data.draw(st.integers(at - 100, at + 200))
    truth = {}
    for minute in range(at - 250, until):
        # In the other orders, a label value that only one pass has is assigned to the first.
        shown = random.sample(labels, random.randint(1, len(labels))) if in_time else labels
        truth[minute] = {label: random.randint(0, 99) for label in sorted(shown)}
    requested = data.draw(ranges(at))
    api = LocalApi(truth, ZoneInfo(name), order, long=long)
    assert api.request(COUNTRIES, requested) == {
        minute: values for minute, values in truth.items() if minute in requested
    }


@given(data=st.data(), change=st.sampled_from(REPEATS), long=st.booleans())
def test_sums_are_right_where_minutes_have_no_row(
    data: st.DataObject, change: tuple[str, Minute, int], long: bool
) -> None:
    """Rows of an unknown pass are assigned to the first: each play counts once, however the range is split."""
    name, at, length = change
    zone, repeat = ZoneInfo(name), MinuteRange(at - length, at + length - 1)
    order = data.draw(st.sampled_from([oldest_first, newest_first, by_text, by_label]))
    near = st.integers(at - length - 2, at + length + 1)
    truth = data.draw(st.dictionaries(near, plays(["jp", "us"], 1), max_size=12))
    api = LocalApi(truth, zone, order, long=long)
    whole = api.request(COUNTRIES, MinuteRange(at - 250, at + 250))
    assert sums(whole) == sums(truth)
    assert without(whole, repeat) == without(truth, repeat)
    split = data.draw(near)
    before, after = MinuteRange(at - 250, split), MinuteRange(split + 1, at + 250)
    api = LocalApi(truth, zone, long=long)
    parts = {**api.request(COUNTRIES, before), **api.request(COUNTRIES, after)}
    assert parts == api.request(COUNTRIES, MinuteRange(before.first, after.last))


def sums(rows: Rows | Truth) -> dict[str, float]:
    found: dict[str, float] = {}
    for values in rows.values():
        for label, value in values.items():
            assert value is not None
            found[label] = found.get(label, 0) + value
    return found


def without(rows: Rows | Truth, left_out: MinuteRange) -> Rows:
    return {minute: values for minute, values in rows.items() if minute not in left_out}


def test_the_second_pass_begins_where_times_go_back() -> None:
    """Two sparse passes are distinguished by one step back, or by a repeated minute."""
    at = REPEATS[0][1]
    rows = [
        {"date": "2026/11/01 01:40", "all": 1},
        {"date": "2026/11/01 01:10", "all": 2},
        {"date": "2026/11/01 01:50", "all": 3},
    ]
    answer = json.dumps(rows).encode()
    expected = {at - 20: {"": 1}, at + 10: {"": 2}, at + 50: {"": 3}}
    assert answers.rows(answer, PLAYS, ZoneInfo("America/New_York")).rows == expected


@pytest.mark.parametrize(("name", "at"), CHANGES)
@pytest.mark.parametrize("order", [oldest_first, newest_first])
def test_hours_are_read_unchanged(name: str, at: Minute, order: Order) -> None:
    """The hours of history inside the range are the true plays, repeated hours included."""
    zone = ZoneInfo(name)
    truth = {minute: {"all": minute % 7 + 1} for minute in range(at - 900, at + 900)}
    api = LocalApi(truth, zone, order)
    for first, last in ((at - 600, at + 599), (at - 60, at + 599), (at - 600, at - 1), (at, at + 299)):
        requested = MinuteRange(first // 60 * 60, last // 60 * 60 + 59)
        expected: dict[Minute, float] = {}
        for minute in range(requested.first, requested.last + 1):
            moment = local(minute, zone)
            start = minute_of(moment.replace(minute=0).timestamp())
            if repeat_of(start, zone) is None and zone.key == "Australia/Lord_Howe":
                start = minute_of(moment.replace(minute=0, fold=0).timestamp())
            expected[start] = expected.get(start, 0) + truth[minute]["all"]
        found = api.request(PLAYS, requested, hourly=True)
        inner = [start for start in expected if start in requested and start + 90 in requested]
        assert inner
        for start in inner:
            assert found[start] == {"": expected[start]}


@pytest.mark.parametrize(("name", "at"), CHANGES)
def test_days_are_read_unchanged(name: str, at: Minute) -> None:
    """The days around a change of the clocks have all of their plays, also if midnight is repeated
    or does not exist.
    """
    zone = ZoneInfo(name)
    truth = {minute: {"all": 1} for minute in range(at - 5000, at + 5000)}
    api = LocalApi(truth, zone)
    day = local(at, zone).date()
    days = [day.fromordinal(day.toordinal() + each) for each in (-1, 0, 1, 2)]
    starts = [midnight(each, zone) for each in days]
    for first in range(3):
        for last in range(first + 1, 4):
            requested = MinuteRange(starts[first], starts[last] - 1)
            expected = {starts[each]: {"": starts[each + 1] - starts[each]} for each in range(first, last)}
            assert api.request(KEYS, requested) == expected


@pytest.mark.unmeasured
@pytest.mark.parametrize("repeat", REPEATS[:3], ids=lambda repeat: repeat[0])
@pytest.mark.parametrize(("often", "every"), [(1, 25), (23, 1)])
@pytest.mark.parametrize("played", ["through", "until the first pass", "from the second pass"])
def test_the_counter_is_exact_after_the_clocks_were_set_back(
    state: State, repeat: tuple[str, Minute, int], often: int, every: int, played: str
) -> None:
    """With frequent or rare requests and with rows in every minute or in few, the counter is the sum of all plays.

    That includes plays that begin in the second pass or end in the first, though no row says which pass it is.
    """
    name, at, length = repeat
    minutes = {
        "through": range(at - 80, at + 80),
        "until the first pass": range(at - 80, at - length // 3),
        "from the second pass": range(at + length // 3, at + 80),
    }[played]
    truth = {minute: {"all": minute % 5 + 1} for minute in minutes if minute % often == 0}
    merchant = {"id": "m", "api_key": "k", "mail_address": "a@example.com", "password": "p", "media": [{"id": "a"}]}
    settings = Settings.model_validate({"api": {"timezone": name}, "merchants": [merchant]})
    clock = FakeClock(end_of(at - 100))
    ledger = Ledger(state, settings, on_revision=lambda age: None)
    ledger.configure(settings, clock.now())
    # The whole merchant has a row in each minute, so a media's minute without one is a zero.
    everything = {minute: {"all": 9} for minute in range(at - 200, at + 140)}
    played_of = {Stream("m", "", Target.PLAY_COUNT, Group.ALL): everything, PLAYS: truth}
    api = LocalApi({}, ZoneInfo(name))
    while clock.now() < end_of(at + 130):
        clock.advance(60.0 * every)
        ledger.show_counted(clock.now())
        for stream, played_then in played_of.items():
            requested = ledger.to_ask(stream, clock.now())
            api.truth = {minute: values for minute, values in played_then.items() if end_of(minute) <= clock.now()}
            ledger.enter(stream, requested, api.request(stream, requested), clock.now())
    (series,) = ledger.snapshot.merchants["m"].streams[PLAYS].series
    assert series.total == sum(values["all"] for values in truth.values())
