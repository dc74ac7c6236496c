"""The rules of counting."""

from collections.abc import Mapping
from datetime import UTC
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.config.settings import PollSettings
from exporter.counting.accounts import Account, Entry, StreamLedger, StreamRow
from exporter.counting.held import MOST_HELD, Held, largest_plausible
from exporter.counting.rules import count_days, count_minutes
from exporter.counting.windows import (
    days_to_ask,
    minutes_to_ask,
)
from exporter.model import DAY_MINUTES, Minute, MinuteRange, Target, end_of, start_of
from exporter.units import UNIT, from_units

POLL = PollSettings()
NOON = 29_000_000  # a minute
ALL = {"": Account()}


def counted(total: float, owed: float = 0, since: Minute | None = None) -> Account:
    """An account of this number of plays."""
    return Account(round(total * UNIT), round(owed * UNIT), since)


def exact(buckets: Mapping[Minute, Mapping[str, float]]) -> dict[Minute, dict[str, int]]:
    """Values in the units of the ledger."""
    return {
        bucket: {label: round(value * UNIT) for label, value in values.items()} for bucket, values in buckets.items()
    }


def gauges(entry: Entry) -> dict[str, float | None] | None:
    """The values of the newest minute, as exported."""
    if entry.last is None:
        return None
    return {label: None if value is None else value / UNIT for label, value in entry.last.items()}


def after(minute: Minute, seconds: float = 0) -> float:
    """The time, a number of seconds after the end of a minute."""
    return end_of(minute) + seconds


def ledger(through: Minute = NOON, target: Target = Target.PLAY_COUNT, **changes: object) -> StreamLedger:
    values: dict[str, object] = {"start": through, "through": through, "seen": through, "kept_from": through + 1}
    values |= {"answered": True}
    values |= {name: changes[name] for name in changes if name not in ("buckets", "accounts")}
    row = StreamRow(1, **values)  # type: ignore[arg-type]
    return StreamLedger(target, row, changes.get("buckets", {}), changes.get("accounts", ALL))  # type: ignore[arg-type]


def enter(before: StreamLedger, entry: Entry) -> StreamLedger:
    """Apply an entry as `ledger_rows` does, in memory."""
    buckets = {bucket: dict(values) for bucket, values in before.buckets.items() if bucket >= entry.row.kept_from}
    for change in entry.changes:
        buckets.setdefault(change.bucket, {})[change.label] = change.value
    return StreamLedger(before.target, entry.row, buckets, {**before.accounts, **entry.accounts})


def answered(
    before: StreamLedger, rows: Mapping[Minute, Mapping[str, float | None]], newest: Minute, poll: PollSettings = POLL
) -> Entry:
    """Enter the rows of the API, at a time when a minute has just settled and has a row."""
    now = after(newest, poll.settle)
    held = min((bucket for bucket, _ in before.row.held), default=None)
    asked = minutes_to_ask(before.row.through, before.row.seen, newest, now, poll, held=held)
    return count_minutes(before, rows, asked, now, newest, poll)


def test_an_increase_first_pays_off_what_is_owed() -> None:
    """A counter never falls: a decrease is owed, and later increases pay it off."""
    account = Account().changed(10, NOON).changed(-4, NOON + 1)
    assert account == Account(total=10, owed=4, owed_since=NOON + 1)
    assert account.changed(3, NOON + 2) == Account(total=10, owed=1, owed_since=NOON + 1)
    assert account.changed(-1, NOON + 2) == Account(total=10, owed=5, owed_since=NOON + 1)
    assert account.changed(6, NOON + 2) == Account(total=12)


def test_minutes_below_the_horizon_without_a_row_are_zero() -> None:
    """Minutes without a row count as 0, and so does the newest minute's gauge."""
    asked = MinuteRange(NOON - 30, NOON + 4)
    entry = count_minutes(ledger(), {NOON + 1: {"": 5}, NOON + 3: {"": 2}}, asked, after(NOON + 4, 120), NOON + 4, POLL)
    assert entry.row.through == NOON + 4
    assert entry.accounts == {"": counted(7)}
    assert gauges(entry) == {"": 0}


def test_minutes_before_the_start_are_not_counted() -> None:
    """Values from before the stream's start are not counted, but their label values are known."""
    asked = MinuteRange(NOON - 30, NOON)
    entry = count_minutes(
        ledger(accounts={}),
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
    """A row whose minute has not settled is not counted yet."""
    asked = MinuteRange(NOON - 30, NOON + 2)
    entry = count_minutes(ledger(), {NOON + 1: {"": 5}, NOON + 2: {"": 9}}, asked, after(NOON + 1, 120), NOON + 2, POLL)
    assert (entry.row.through, entry.accounts) == (NOON + 1, {"": counted(5)})


def test_a_revision_is_counted_with_its_age() -> None:
    """A different value in a later answer changes the counter by the difference, and reports the age of the minute."""
    before = ledger(
        NOON + 1, kept_from=NOON - 29, start=NOON - 60, buckets=exact({NOON: {"": 5}}), accounts={"": counted(50)}
    )
    entry = count_minutes(before, {NOON: {"": 8}}, MinuteRange(NOON - 29, NOON + 1), after(NOON, 300), NOON, POLL)
    assert entry.accounts == {"": counted(53)}
    assert [(revision.age, revision.up) for revision in entry.revisions] == [(300, True)]


def test_a_row_that_disappears_is_a_decrease() -> None:
    """The newest answer counts: a value that is missing in it is owed."""
    before = ledger(
        NOON + 1, kept_from=NOON - 29, start=NOON - 60, buckets=exact({NOON: {"": 5}}), accounts={"": counted(50)}
    )
    entry = count_minutes(before, {}, MinuteRange(NOON - 29, NOON + 1), after(NOON + 1, 120), NOON + 1, POLL)
    assert entry.accounts == {"": counted(50, owed=5, since=NOON + 1)}
    assert [revision.up for revision in entry.revisions] == [False]


def test_old_minutes_are_not_counted_again() -> None:
    """An answer that reaches further back than the kept values does not count those minutes twice."""
    before = ledger(NOON, kept_from=NOON - 5, start=NOON - 60, accounts={"": counted(50)})
    rows = {minute: {"": 1.0} for minute in range(NOON - 30, NOON + 1)}
    entry = count_minutes(before, rows, MinuteRange(NOON - 30, NOON), after(NOON, 120), NOON, POLL)
    assert entry.accounts == {"": counted(56)}


def test_minutes_that_were_not_requested_are_lost() -> None:
    """If the catch-up is shorter than the gap, the minutes between are counted as lost."""
    asked = MinuteRange(NOON + 101, NOON + 200)
    entry = count_minutes(ledger(), {NOON + 150: {"": 3}}, asked, after(NOON + 200, 120), NOON + 200, POLL)
    assert (entry.lost, entry.accounts, entry.row.through) == (100, {"": counted(3)}, NOON + 200)


def test_label_values_beyond_the_limit_are_counted_as_other() -> None:
    """The first label values keep their series; the sum over all is right, and the others are reported."""
    poll = POLL.model_copy(update={"max_label_values": 2})
    rows: Mapping[Minute, Mapping[str, float]] = {NOON + 1: {"jp": 5, "us": 3, "fr": 2, "de": 1}}
    entry = count_minutes(ledger(accounts={}), rows, MinuteRange(NOON, NOON + 1), after(NOON + 1, 120), NOON + 1, poll)
    assert entry.accounts == {"jp": counted(5), "us": counted(3), "other": counted(3)}
    assert entry.overflow == 2


@pytest.mark.parametrize(
    ("shown", "overflow", "others"),
    [
        ({"pc": 3, "mobile": 2, "other": 1}, 0, 1),  # as many as allowed, and the API's own `other`
        ({"other": 1, "pc": 3, "mobile": 2}, 0, 1),
        ({"other": 1, "pc": 3, "mobile": 2, "tv": 4}, 1, 5),
        ({"pc": 3, "mobile": 2, "tv": 4, "other": 1}, 1, 5),
    ],
)
def test_the_apis_own_other_is_no_overflow(shown: dict[str, float], overflow: int, others: float) -> None:
    """The API's own `other` does not use the limit and is not reported as an overflow; a label value beyond the limit
    is; sums are right.
    """
    poll = POLL.model_copy(update={"max_label_values": 2})
    asked = MinuteRange(NOON, NOON + 1)
    entry = count_minutes(ledger(accounts={}), {NOON + 1: shown}, asked, after(NOON + 1, 120), NOON + 1, poll)
    assert entry.overflow == overflow
    assert entry.accounts == {"pc": counted(3), "mobile": counted(2), "other": counted(others)}


def test_averages_beyond_the_limit_are_left_out() -> None:
    """A sum of averages has no meaning, so there is no `other` for them."""
    poll = POLL.model_copy(update={"max_label_values": 1})
    before = ledger(accounts={}, target=Target.AVERAGE_PLAY_TIME)
    rows: Mapping[Minute, Mapping[str, float]] = {NOON + 1: {"jp": 61.5, "us": 30}}
    entry = count_minutes(before, rows, MinuteRange(NOON, NOON + 1), after(NOON + 1, 120), NOON + 1, poll)
    assert gauges(entry) == {"jp": 61.5}


def test_a_counter_by_day_grows_by_the_increases_of_the_days() -> None:
    """Counting starts with the first answer; then today's growth, a new day, and yesterday's revision count."""
    midnight = NOON - NOON % DAY_MINUTES
    today, tomorrow = midnight, midnight + DAY_MINUTES
    asked = MinuteRange(today - DAY_MINUTES, tomorrow - 1)
    keys = ledger(NOON, Target.KEY_DELIVERY_COUNT, answered=False)
    keys = enter(keys, count_days(keys, {today - DAY_MINUTES: {"": 70}, today: {"": 5}}, asked, NOON, POLL))
    assert keys.accounts == {"": counted(0)}
    keys = enter(keys, count_days(keys, {today - DAY_MINUTES: {"": 72}, today: {"": 9}}, asked, NOON + 1, POLL))
    assert keys.accounts == {"": counted(6)}
    asked = days_to_ask(keys.row.through, start_of(tomorrow + 1), UTC, POLL)
    keys = enter(keys, count_days(keys, {today: {"": 20}, tomorrow: {"": 1}}, asked, tomorrow, POLL))
    assert keys.accounts == {"": counted(18)}


labels = st.sampled_from(["jp", "us", "fr"])
seconds = st.integers(0, 900_000).map(lambda thousandths: thousandths / 1000)
Shown = dict[str, float | None]
Steps = list[tuple[int, dict[int, Shown], bool]]


def steps_of(value: st.SearchStrategy[float | None], most: int) -> st.SearchStrategy[Steps]:
    """A sequence of answers and changes of a stream."""
    values = st.dictionaries(labels, value, max_size=3)
    return st.lists(
        st.tuples(
            st.integers(1, 4),  # minutes until the answer
            st.dictionaries(st.integers(-20, 4), values, max_size=9),  # the API's changes, by minutes from now
            st.booleans(),  # whether there is an answer
        ),
        max_size=most,
    )


# Fewer steps with unknown values, so that there are never more than can be held.
@pytest.mark.unmeasured
@given(st.one_of(steps_of(seconds, 40), steps_of(st.none() | seconds, 20)))
def test_after_any_answers_the_counters_are_the_sum_of_the_newest_values(steps: Steps) -> None:
    """Rows come, change, are unknown for some time and disappear inside the window, and any answers fail. Not a
    thousandth is lost or invented, and no exported counter falls by even its last bit.
    """
    truth: dict[Minute, Shown] = {}
    stream = ledger(NOON, accounts={})
    newest = NOON
    for minutes, changed, comes in steps:
        newest += minutes
        truth |= {newest + offset: rows for offset, rows in changed.items() if newest + offset <= newest}
        if not comes:
            continue
        entry = answered(stream, truth, newest)
        for label, account in entry.accounts.items():
            assert from_units(account.total) >= from_units(stream.accounts.get(label, Account()).total)
            assert account.owed >= 0
        stream = enter(stream, entry)
    # A change after the last answer, or a value unknown until then, is not counted yet; one more answer has it.
    final = {minute: {label: value or 0.0 for label, value in rows.items()} for minute, rows in truth.items()}
    stream = enter(stream, answered(stream, final, newest))
    assert not stream.row.held
    for label in ("jp", "us", "fr"):
        account = stream.accounts.get(label, Account())
        played = sum(Fraction(str(rows.get(label, 0))) for minute, rows in final.items() if minute > NOON)
        assert Fraction(account.total - account.owed, UNIT) == played


def test_rows_that_come_hours_late_are_counted_by_each_stream() -> None:
    """Minutes assumed to be empty are requested again until a row has shown them, even if another stream has seen a row
    meanwhile.
    """
    stream = ledger(NOON)
    outage = NOON + 180
    now = after(outage, POLL.settle)
    asked = minutes_to_ask(stream.row.through, stream.row.seen, NOON, now, POLL)
    stream = enter(stream, count_minutes(stream, {}, asked, now, NOON, POLL))
    assert stream.row.through == outage - 8
    now = after(outage + 1, POLL.settle)
    asked = minutes_to_ask(stream.row.through, stream.row.seen, outage + 1, now, POLL)
    rows = {minute: {"": 1.0} for minute in range(asked.first, outage + 2)}
    # By now another stream's answer has shown that the rows exist.
    stream = enter(stream, count_minutes(stream, rows, asked, now, outage + 1, POLL))
    assert stream.accounts == {"": counted(181)}


def test_late_rows_are_counted_in_pieces_where_the_range_is_limited() -> None:
    """An answer for only the newest minutes, as many as a short range has, does not drop the ones before."""
    stream, longest = ledger(NOON), 60
    outage, horizon = NOON + 300, NOON
    for newest, arrived in [(outage, NOON), *((outage + 1, outage + 1) for _ in range(20))]:
        now = after(newest, POLL.settle)
        for _ in range(20):
            asked = minutes_to_ask(stream.row.through, stream.row.seen, horizon, now, POLL, longest)
            assert len(asked) <= longest
            rows = {minute: {"": 1.0} for minute in range(asked.first, min(asked.last, arrived) + 1)}
            horizon = max(horizon, *rows, NOON)
            stream = enter(stream, count_minutes(stream, rows, asked, now, horizon, POLL))
    assert (stream.row.through, stream.row.seen) == (outage + 1, outage + 1)
    assert stream.accounts == {"": counted(301)}


def test_rows_too_late_to_catch_up_do_not_block_the_window() -> None:
    """Minutes assumed to be empty whose rows come after max_catch_up are given up; those after them
    are read as usual.
    """
    long_ago = NOON - 3 * DAY_MINUTES
    stream = ledger(NOON - 1, start=long_ago, seen=long_ago, kept_from=long_ago)
    now = after(NOON, POLL.settle)
    asked = minutes_to_ask(stream.row.through, stream.row.seen, NOON, now, POLL)
    stream = enter(stream, count_minutes(stream, {NOON: {"": 1.0}}, asked, now, NOON, POLL))
    assert stream.row.seen == NOON


# ---- unusable values ----


def test_an_unusable_value_holds_only_its_minute_and_label_value() -> None:
    """Everything else in the answer is counted, counting continues, and the held value's gauge is absent."""
    stream = ledger(accounts={"jp": counted(7), "us": counted(7)})
    entry = answered(stream, {NOON + 1: {"jp": None, "us": 5}}, NOON + 1)
    assert (entry.row.through, entry.row.seen) == (NOON + 1, NOON + 1)
    assert entry.accounts == {"us": counted(12)}
    assert gauges(entry) == {"jp": None, "us": 5}
    assert entry.row.held == {(NOON + 1, "jp"): Held(None, NOON + 1)}


def test_the_count_of_a_held_minute_stays() -> None:
    """If a counted value becomes unusable, nothing changes, and no revision is reported, until a number comes."""
    stream = enter(ledger(), answered(ledger(), {NOON + 1: {"": 5}}, NOON + 1))
    entry = answered(stream, {NOON + 1: {"": None}, NOON + 2: {"": 2}}, NOON + 2)
    assert (entry.accounts, entry.revisions) == ({"": counted(7)}, ())
    stream = enter(stream, entry)
    entry = answered(stream, {NOON + 1: {"": 4}, NOON + 2: {"": 2}}, NOON + 3)
    assert (entry.accounts, entry.row.held) == ({"": counted(7, owed=1, since=NOON + 3)}, {})


@pytest.mark.parametrize(("shown", "plays"), [({"": 9.0}, 9), ({}, 0), (None, 0)])
def test_a_held_minute_is_counted_hours_later(shown: dict[str, float] | None, plays: float) -> None:
    """The range reaches back to it, everything that comes meanwhile is counted once, and a missing row is a zero."""
    stream = ledger(NOON)
    rows: dict[Minute, Mapping[str, float | None]] = {NOON + 1: {"": None}}
    for newest in range(NOON + 1, NOON + 300):
        rows.setdefault(newest, {"": 1})
        stream = enter(stream, answered(stream, rows, newest))
        assert set(stream.row.held) == {(NOON + 1, "")}
    if shown is None:
        del rows[NOON + 1]
    else:
        rows[NOON + 1] = shown
    entry = answered(stream, rows, NOON + 300)
    assert (entry.row.held, entry.row.kept_from) == ({}, NOON + 270)
    assert enter(stream, entry).accounts == {"": counted(298 + plays)}


def test_a_minute_that_is_unusable_for_too_long_expires() -> None:
    """After max_catch_up it is counted as lost, its earlier count stays, and the range is short again."""
    poll = POLL.model_copy(update={"max_catch_up": 7200.0})
    stream = ledger(NOON)
    rows: dict[Minute, Mapping[str, float | None]] = {NOON + 1: {"": None}}
    lost = []
    for newest in range(NOON + 1, NOON + 130):
        entry = answered(stream, rows, newest, poll)
        lost += [newest] * entry.lost
        assert entry.expired == entry.lost
        stream = enter(stream, entry)
    assert lost == [NOON + 121]
    assert not stream.row.held
    assert stream.row.kept_from == NOON + 129 - 30
    assert enter(stream, answered(stream, {**rows, NOON + 1: {"": 9}}, NOON + 130, poll)).accounts == {"": counted(0)}


@pytest.mark.unmeasured
@pytest.mark.parametrize("window", [1800.0, 7200.0])
def test_a_label_value_that_is_always_unusable_does_not_lengthen_the_range(window: float) -> None:
    """Besides the revision window at most 60 minutes are held; each of those before is given up once."""
    poll = POLL.model_copy(update={"revision_window": window})
    minutes = int(window // 60)
    stream, lost = ledger(NOON, accounts={}), 0
    end = NOON + 610 + minutes
    for newest in [*range(NOON + 1, NOON + 200), *range(NOON + 600, end + 1)]:
        rows: dict[Minute, Mapping[str, float | None]] = {
            minute: {"bad": None, "jp": 1} for minute in range(NOON + 1, newest + 1)
        }
        entry = answered(stream, rows, newest, poll)
        lost += entry.lost
        stream = enter(stream, entry)
    assert min(bucket for bucket, _ in stream.row.held) == end - minutes - MOST_HELD
    assert (lost, len(stream.row.held)) == (end - NOON - 1 - minutes - MOST_HELD, minutes + 1 + MOST_HELD)
    # A label value that never had a value has no series.
    assert stream.accounts == {"jp": counted(end - NOON)}


def test_many_minutes_that_are_unusable_for_some_time_do_not_expire() -> None:
    """When hours of catch-up meet a short problem of the API, all of them wait for the revision window."""
    stream = ledger(NOON)
    bad: dict[Minute, Mapping[str, float | None]] = {minute: {"": None} for minute in range(NOON + 1, NOON + 601)}
    for newest in range(NOON + 600, NOON + 630):
        entry = answered(stream, bad, newest)
        assert entry.lost == 0
        stream = enter(stream, entry)
    assert len(stream.row.held) == 600
    entry = answered(stream, {minute: {"": 1} for minute in bad}, NOON + 630)
    assert (entry.lost, entry.accounts, entry.row.held) == (0, {"": counted(600)}, {})


def test_the_range_reaches_back_to_held_minutes() -> None:
    """It begins at the oldest held minute, however old; a limit of the API cuts off its start."""
    now = after(NOON, 120)
    cases = (None, NOON - 5), (None, NOON - 600), (None, NOON - 9999), (100, NOON - 600)
    asked = [minutes_to_ask(NOON - 1, NOON - 1, NOON, now, POLL, longest, held) for longest, held in cases]
    assert [each.first for each in asked] == [NOON - 31, NOON - 600, NOON - 9999, NOON - 99]
    assert {each.last for each in asked} == {NOON}


def test_held_minutes_are_no_part_of_the_rate() -> None:
    """The smoothed plays per minute neither fall nor rise by an unknown minute."""
    stream = ledger(rate=100.0)
    assert answered(stream, {NOON + 1: {"": None}}, NOON + 1).row.rate == 100
    assert answered(stream, {NOON + 1: {"": 1e9}}, NOON + 1).row.rate == 100
    assert answered(stream, {NOON + 1: {"": 80}}, NOON + 1).row.rate == 99


def test_an_unknown_gauge_of_values_that_do_not_add_up_is_absent() -> None:
    """Devices are not counted, so nothing is held; the gauge is absent only for that minute and label value."""
    stream = ledger(target=Target.DEVICE_COUNT, accounts={"pc": Account(), "tv": Account()})
    entry = answered(stream, {NOON + 1: {"pc": None, "tv": 3}}, NOON + 1)
    assert (gauges(entry), entry.row.held) == ({"pc": None, "tv": 3}, {})


# ---- implausible values ----


@pytest.mark.parametrize(
    ("target", "peak", "largest"),
    [
        (Target.PLAY_COUNT, 0, 100_000),
        (Target.PLAY_COUNT, 99, 100_000),
        (Target.PLAY_COUNT, 250, 250_000),
        (Target.PLAY_TIME, 0, 6_000_000),
        (Target.PLAYER_COUNT, 0, 100_000),
        (Target.KEY_DELIVERY_COUNT, 0, 144_000_000),
    ],
)
def test_plausible_values(target: Target, peak: float, largest: float) -> None:
    """A value is plausible up to a thousand times the largest value so far, or, if that was small, up to the usual
    value of a busy media.
    """
    assert largest_plausible(target, round(peak * UNIT)) == largest * UNIT
    stream = ledger(target=target, peak=round(peak * UNIT))
    if not target.by_day:
        assert answered(stream, {NOON + 1: {"": largest}}, NOON + 1).accounts == {"": counted(largest)}
        assert answered(stream, {NOON + 1: {"": largest + 1}}, NOON + 1).accounts == {}


def test_a_wrong_value_corrected_in_time_is_never_counted() -> None:
    """10^9 for half an hour minus a minute, then 10, counts 10; earlier counts stay meanwhile."""
    stream = enter(ledger(NOON), answered(ledger(NOON), {NOON + 1: {"": 7}}, NOON + 1))
    for newest in range(NOON + 2, NOON + 32):
        stream = enter(stream, answered(stream, {NOON + 1: {"": 1e9}}, newest))
        assert stream.accounts == {"": counted(7)}
    entry = answered(stream, {NOON + 1: {"": 10}}, NOON + 32)
    assert (entry.accounts, entry.row.held) == ({"": counted(10)}, {})


def test_an_implausible_value_is_counted_after_the_revision_window() -> None:
    """After half an hour it is counted with its value at that time, and equally large values are plausible from then
    on.
    """
    stream = ledger(NOON)
    rows = {minute: {"": 200_000.0 + minute - NOON} for minute in range(NOON + 1, NOON + 40)}
    counters = []
    for newest in range(NOON + 1, NOON + 40):
        stream = enter(stream, answered(stream, {m: rows[m] for m in rows if m <= newest}, newest))
        counters.append(stream.accounts[""].total // UNIT)
    assert counters[:31] == [0] * 30 + [200_001]
    assert counters[31:33] == [sum(200_000 + n for n in range(1, 33)), sum(200_000 + n for n in range(1, 34))]
    assert not stream.row.held


@pytest.mark.parametrize("between", [10.0, None])
def test_the_time_of_an_implausible_value_starts_again_after_a_change(between: float | None) -> None:
    """A value that was different in between has not been there all the time."""
    stream = ledger(NOON)
    for newest in range(NOON + 1, NOON + 50):
        value = between if newest == NOON + 20 else 1e9
        stream = enter(stream, answered(stream, {NOON + 1: {"": value}}, newest))
    assert stream.accounts[""].total <= 10 * UNIT
    assert stream.row.held == {(NOON + 1, ""): Held(10**9 * UNIT, NOON + 21)}


def test_times_in_a_future_that_was_corrected_begin_now() -> None:
    """If a stream's time is earlier than the time when a value was first held or owed, neither a day nor a window gets
    longer.
    """
    assert Account(10, 4, NOON + 1560).changed(1, NOON) == Account(10, 3, NOON)
    assert Account(10, 4, NOON + 1560).changed(-1, NOON) == Account(10, 5, NOON)
    stream = ledger(NOON, held={(NOON + 1, ""): Held(10**9 * UNIT, NOON + 1560)})
    assert answered(stream, {NOON + 1: {"": 1e9}}, NOON + 1).row.held == {(NOON + 1, ""): Held(10**9 * UNIT, NOON + 1)}
