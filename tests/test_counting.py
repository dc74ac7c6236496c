"""The rules of counting, alone."""

from collections.abc import Mapping
from datetime import UTC, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.config import PollSettings
from exporter.counting import (
    Account,
    Book,
    Entry,
    count_days,
    count_minutes,
    days_to_ask,
    ended_before,
    minutes_to_ask,
    newest_settled,
    whole_minutes,
)
from exporter.model import DAY_MINUTES, Minute, MinuteRange, Target, end_of, start_of
from exporter.units import UNIT

POLL = PollSettings()
NOON = 29_000_000  # a minute
ALL = {"": Account()}


def counted(total: float, owed: float = 0, since: Minute | None = None) -> Account:
    """An account of so many plays."""
    return Account(round(total * UNIT), round(owed * UNIT), since)


def exact(slots: Mapping[Minute, Mapping[str, float]]) -> dict[Minute, dict[str, int]]:
    """Values as the ledger keeps them."""
    return {slot: {label: round(value * UNIT) for label, value in values.items()} for slot, values in slots.items()}


def gauges(entry: Entry) -> dict[str, float | None] | None:
    """What the newest minute has, as it is shown."""
    if entry.last is None:
        return None
    return {label: None if value is None else value / UNIT for label, value in entry.last.items()}


def after(minute: Minute, seconds: float = 0) -> float:
    """The instant so many seconds after a minute has ended."""
    return end_of(minute) + seconds


def book(through: Minute = NOON, target: Target = Target.PLAY_COUNT, **changes: object) -> Book:
    values = {
        "start": through,
        "through": through,
        "seen": through,
        "kept_from": through + 1,
        "answered": True,
        "accounts": ALL,
    }
    return Book(target=target, **{**values, **changes})  # type: ignore[arg-type]


def enter(before: Book, entry: Entry) -> Book:
    """What `books` does with an entry, in memory."""
    slots = {slot: dict(values) for slot, values in before.slots.items() if slot >= entry.kept_from}
    for change in entry.changes:
        slots.setdefault(change.slot, {})[change.label] = change.value
    return Book(
        before.target,
        before.start,
        entry.through,
        entry.seen,
        entry.kept_from,
        answered=entry.answered,
        rate=entry.rate,
        peak=entry.peak,
        slots=slots,
        held=entry.held,
        accounts={**before.accounts, **entry.accounts},
    )


@pytest.mark.parametrize(
    ("horizon", "seconds", "settled"),
    [
        (None, 120, NOON - 8),  # no row was ever seen: only max_lag settles
        (NOON, 120, NOON),  # a row of the minute, and settle has passed
        (NOON, 119.9, NOON - 1),  # settle has not passed
        (NOON - 3, 120, NOON - 3),  # the API is late: later minutes are not taken as empty
        (NOON - 60, 120, NOON - 8),  # until max_lag has passed
        (NOON + 5, 120, NOON),  # a newer row settles older minutes
    ],
)
def test_a_minute_is_settled_by_a_row_or_by_max_lag(horizon: Minute | None, seconds: float, settled: Minute) -> None:
    """A minute is settled when `settle` has passed and its row or a later one was seen, or `max_lag` has passed."""
    assert newest_settled(after(NOON, seconds), horizon, POLL) == settled


@pytest.mark.parametrize(
    ("through", "seen", "longest", "expected"),
    [
        (NOON - 1, NOON - 1, None, (NOON - 31, NOON)),  # a revision window back
        (NOON - 1, NOON - 100, None, (NOON - 130, NOON)),  # rows have stopped: from where they may yet come
        (NOON - 600, NOON - 600, None, (NOON - 630, NOON)),  # catch-up in one request
        (NOON - 9999, NOON - 9999, None, (NOON - DAY_MINUTES + 1, NOON)),  # at most max_catch_up
        (NOON - 600, NOON - 600, 100, (NOON - 630, NOON - 531)),  # in pieces, where the API says so
        (NOON - 600, NOON - 600, 40, (NOON - 620, NOON - 581)),  # the window gives way to getting on
        (NOON - 1, NOON - 600, 100, (NOON - 630, NOON - 531)),  # rows that came late, in pieces, too
        (NOON + 5, NOON + 5, None, (NOON - 25, NOON + 5)),  # the clock went back
    ],
)
def test_what_is_asked_for(through: Minute, seen: Minute, longest: int | None, expected: tuple[Minute, Minute]) -> None:
    """A request reaches from a revision window before what is counted to the newest complete minute."""
    asked = minutes_to_ask(through, seen, NOON, after(NOON, 120), POLL, longest)
    assert (asked.first, asked.last) == expected


def test_an_increase_pays_what_is_owed_first() -> None:
    """A counter never falls: a decrease is owed, and later increases pay it."""
    account = Account().changed(10, NOON).changed(-4, NOON + 1)
    assert account == Account(total=10, owed=4, owed_since=NOON + 1)
    assert account.changed(3, NOON + 2) == Account(total=10, owed=1, owed_since=NOON + 1)
    assert account.changed(-1, NOON + 2) == Account(total=10, owed=5, owed_since=NOON + 1)
    assert account.changed(6, NOON + 2) == Account(total=12)


def test_minutes_below_the_horizon_without_a_row_are_zero() -> None:
    """Minutes without a row count as 0, and the newest minute's gauge with them."""
    asked = MinuteRange(NOON - 30, NOON + 4)
    entry = count_minutes(book(), {NOON + 1: {"": 5}, NOON + 3: {"": 2}}, asked, after(NOON + 4, 120), NOON + 4, POLL)
    assert entry.through == NOON + 4
    assert entry.accounts == {"": counted(7)}
    assert gauges(entry) == {"": 0}


def test_minutes_before_the_start_are_not_counted() -> None:
    """What a stream shows of the time before it was first seen is not counted, but names its label values."""
    asked = MinuteRange(NOON - 30, NOON)
    entry = count_minutes(
        book(accounts={}),
        {NOON: {"jp": 5, "us": 1}, NOON - 9: {"fr": 2}},
        asked,
        after(NOON, 120),
        NOON,
        POLL,
    )
    assert entry.accounts == {"fr": Account(), "jp": Account(), "us": Account()}
    assert gauges(entry) == {"fr": 0, "jp": 5, "us": 1}
    assert not entry.revisions


def test_rows_above_the_newest_settled_minute_wait() -> None:
    """A row that is there before its minute has settled is not counted yet."""
    asked = MinuteRange(NOON - 30, NOON + 2)
    entry = count_minutes(book(), {NOON + 1: {"": 5}, NOON + 2: {"": 9}}, asked, after(NOON + 1, 120), NOON + 2, POLL)
    assert (entry.through, entry.accounts) == (NOON + 1, {"": counted(5)})


def test_a_revision_is_counted_with_its_age() -> None:
    """A later answer's other value changes the counter by the difference, and says how old the minute was."""
    before = book(
        NOON + 1, kept_from=NOON - 29, start=NOON - 60, slots=exact({NOON: {"": 5}}), accounts={"": counted(50)}
    )
    entry = count_minutes(before, {NOON: {"": 8}}, MinuteRange(NOON - 29, NOON + 1), after(NOON, 300), NOON, POLL)
    assert entry.accounts == {"": counted(53)}
    assert [(revision.age, revision.up) for revision in entry.revisions] == [(300, True)]


def test_a_row_that_vanishes_is_a_decrease() -> None:
    """The newest answer is believed: a value that is no longer there is owed."""
    before = book(
        NOON + 1, kept_from=NOON - 29, start=NOON - 60, slots=exact({NOON: {"": 5}}), accounts={"": counted(50)}
    )
    entry = count_minutes(before, {}, MinuteRange(NOON - 29, NOON + 1), after(NOON + 1, 120), NOON + 1, POLL)
    assert entry.accounts == {"": counted(50, owed=5, since=NOON + 1)}
    assert [revision.up for revision in entry.revisions] == [False]


def test_what_no_longer_can_be_revised_is_not_counted_again() -> None:
    """An answer that reaches further back than the kept values does not count those minutes twice."""
    before = book(NOON, kept_from=NOON - 5, start=NOON - 60, accounts={"": counted(50)})
    rows = {minute: {"": 1.0} for minute in range(NOON - 30, NOON + 1)}
    entry = count_minutes(before, rows, MinuteRange(NOON - 30, NOON), after(NOON, 120), NOON, POLL)
    assert entry.accounts == {"": counted(56)}


def test_minutes_that_were_not_asked_for_are_lost() -> None:
    """Where the catch-up is shorter than the gap, the minutes between are counted as lost."""
    asked = MinuteRange(NOON + 101, NOON + 200)
    entry = count_minutes(book(), {NOON + 150: {"": 3}}, asked, after(NOON + 200, 120), NOON + 200, POLL)
    assert (entry.lost, entry.accounts, entry.through) == (100, {"": counted(3)}, NOON + 200)


def test_label_values_beyond_the_limit_are_counted_as_other() -> None:
    """The first label values keep series of their own; the sum over all is right."""
    poll = POLL.model_copy(update={"max_label_values": 2})
    rows: Mapping[Minute, Mapping[str, float]] = {NOON + 1: {"jp": 5, "us": 3, "fr": 2, "de": 1}}
    entry = count_minutes(book(accounts={}), rows, MinuteRange(NOON, NOON + 1), after(NOON + 1, 120), NOON + 1, poll)
    assert entry.accounts == {"jp": counted(5), "us": counted(3), "other": counted(3)}


def test_averages_beyond_the_limit_are_left_out() -> None:
    """A sum of averages means nothing, so there is no `other` for them."""
    poll = POLL.model_copy(update={"max_label_values": 1})
    before = book(accounts={}, target=Target.AVERAGE_PLAY_TIME)
    rows: Mapping[Minute, Mapping[str, float]] = {NOON + 1: {"jp": 61.5, "us": 30}}
    entry = count_minutes(before, rows, MinuteRange(NOON, NOON + 1), after(NOON + 1, 120), NOON + 1, poll)
    assert gauges(entry) == {"jp": 61.5}


def test_days_are_asked_for_from_yesterday_by_local_time() -> None:
    """The range by day begins at local midnight of the day before what is counted, and ends with today."""
    zone = timezone(timedelta(hours=9))
    midnight = NOON - (NOON + 540) % DAY_MINUTES
    asked = days_to_ask(midnight + 30, start_of(midnight + 100), zone, POLL)
    assert (asked.first, asked.last) == (midnight - DAY_MINUTES, midnight + DAY_MINUTES - 1)


def test_a_counter_by_day_grows_by_the_increases_of_the_days() -> None:
    """The first answer is where counting starts; then today's growth, a new day, and yesterday's revision count."""
    midnight = NOON - NOON % DAY_MINUTES
    today, tomorrow = midnight, midnight + DAY_MINUTES
    asked = MinuteRange(today - DAY_MINUTES, tomorrow - 1)
    keys = book(NOON, Target.KEY_DELIVERY_COUNT, answered=False)
    keys = enter(keys, count_days(keys, {today - DAY_MINUTES: {"": 70}, today: {"": 5}}, asked, NOON, POLL))
    assert keys.accounts == {"": counted(0)}
    keys = enter(keys, count_days(keys, {today - DAY_MINUTES: {"": 72}, today: {"": 9}}, asked, NOON + 1, POLL))
    assert keys.accounts == {"": counted(6)}
    asked = days_to_ask(keys.through, start_of(tomorrow + 1), UTC, POLL)
    keys = enter(keys, count_days(keys, {today: {"": 20}, tomorrow: {"": 1}}, asked, tomorrow, POLL))
    assert keys.accounts == {"": counted(18)}


labels = st.sampled_from(["jp", "us", "fr"])
values = st.dictionaries(labels, st.integers(0, 9).map(float), max_size=3)


@given(
    st.lists(
        st.tuples(
            st.integers(1, 4),  # minutes until the answer
            st.dictionaries(st.integers(-20, 4), values, max_size=9),  # what the API changed, by minutes from now
            st.booleans(),  # whether it is answered at all
        ),
        max_size=40,
    )
)
def test_after_any_answers_the_counters_are_the_sum_of_the_newest_values(
    steps: list[tuple[int, dict[int, dict[str, float]], bool]],
) -> None:
    """Whatever rows come, change and vanish inside the window, and whichever answers fail: no play is lost or
    invented, and no counter falls.
    """
    truth: dict[Minute, dict[str, float]] = {}
    stream = book(NOON, accounts={})
    newest = NOON
    for minutes, changed, answered in steps:
        newest += minutes
        truth |= {newest + offset: rows for offset, rows in changed.items() if newest + offset <= newest}
        if not answered:
            continue
        now = after(newest, POLL.settle)
        asked = minutes_to_ask(stream.through, stream.seen, newest, now, POLL)
        entry = count_minutes(stream, truth, asked, now, newest, POLL)
        for label, account in entry.accounts.items():
            assert account.total >= stream.accounts.get(label, Account()).total
            assert account.owed >= 0
        stream = enter(stream, entry)
    # What changed after the last answer is not counted yet; one more answer tells.
    now = after(newest, POLL.settle)
    asked = minutes_to_ask(stream.through, stream.seen, newest, now, POLL)
    stream = enter(stream, count_minutes(stream, truth, asked, now, newest, POLL))
    for label in ("jp", "us", "fr"):
        account = stream.accounts.get(label, Account())
        played = sum(rows.get(label, 0) for minute, rows in truth.items() if minute > NOON)
        assert account.total - account.owed == played * UNIT


@given(st.floats(0, 4e9), st.floats(0, 3600))
def test_a_complete_minute_has_ended_long_enough_ago(now: float, seconds: float) -> None:
    """The newest complete minute ended at least so long ago, and the next one did not."""
    minute = ended_before(now, seconds)
    assert end_of(minute) <= now - seconds < end_of(minute + 1)


def test_a_part_of_a_minute_is_a_whole_one() -> None:
    """A window of 90 s needs two minutes."""
    assert [whole_minutes(seconds) for seconds in (60, 61, 90, 120)] == [1, 2, 2, 2]


def test_rows_that_come_hours_late_are_counted_by_each_stream() -> None:
    """Minutes taken as empty are asked for again until a row has shown them, whoever else has seen it meanwhile."""
    stream = book(NOON)
    outage = NOON + 180
    now = after(outage, POLL.settle)
    asked = minutes_to_ask(stream.through, stream.seen, NOON, now, POLL)
    stream = enter(stream, count_minutes(stream, {}, asked, now, NOON, POLL))
    assert stream.through == outage - 8
    now = after(outage + 1, POLL.settle)
    asked = minutes_to_ask(stream.through, stream.seen, outage + 1, now, POLL)
    rows = {minute: {"": 1.0} for minute in range(asked.first, outage + 2)}
    # By now another stream's answer has shown that the rows are there.
    stream = enter(stream, count_minutes(stream, rows, asked, now, outage + 1, POLL))
    assert stream.accounts == {"": counted(181)}


def test_rows_that_come_late_are_counted_in_pieces_where_the_range_is_limited() -> None:
    """An answer for the newest minutes, all that a short range holds, does not make the ones before it forgotten."""
    stream, longest = book(NOON), 60
    outage, horizon = NOON + 300, NOON
    for newest, arrived in [(outage, NOON), *((outage + 1, outage + 1) for _ in range(20))]:
        now = after(newest, POLL.settle)
        for _ in range(20):
            asked = minutes_to_ask(stream.through, stream.seen, horizon, now, POLL, longest)
            assert len(asked) <= longest
            rows = {minute: {"": 1.0} for minute in range(asked.first, min(asked.last, arrived) + 1)}
            horizon = max(horizon, *rows, NOON)
            stream = enter(stream, count_minutes(stream, rows, asked, now, horizon, POLL))
    assert (stream.through, stream.seen) == (outage + 1, outage + 1)
    assert stream.accounts == {"": counted(301)}


def test_rows_too_late_to_be_caught_up_do_not_hold_up_the_window() -> None:
    """Minutes taken as empty whose rows come after max_catch_up are given up; those after them are read as ever."""
    long_ago = NOON - 3 * DAY_MINUTES
    stream = book(NOON - 1, start=long_ago, seen=long_ago, kept_from=long_ago)
    now = after(NOON, POLL.settle)
    asked = minutes_to_ask(stream.through, stream.seen, NOON, now, POLL)
    stream = enter(stream, count_minutes(stream, {NOON: {"": 1.0}}, asked, now, NOON, POLL))
    assert stream.seen == NOON
