"""The final values of the simulated API, and what is visible of them at which time."""

from collections import Counter
from datetime import datetime
from itertools import product
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from exporter.model import Group, MinuteRange, Stream, Target, minute_of
from exporter.simulator.arithmetic import (
    combine_unique,
    draw_count,
    first_value,
    ratio,
    split,
    spread,
    unique_over_time,
)
from exporter.simulator.catalog import Media, make_catalog
from exporter.simulator.endpoints import event_fields, newest_start
from exporter.simulator.faults import Faults, FaultSwitch, problems
from exporter.simulator.rows import Interval, Reader
from exporter.simulator.series import LABELS, World
from tests.support.world import final_sums, final_values

TOKYO = ZoneInfo("Asia/Tokyo")
# A Wednesday, eight in the evening in Tokyo.
EVENING = datetime(2026, 11, 18, 20, 0, tzinfo=TOKYO).timestamp()
MINUTE = minute_of(EVENING)
HOUR = range(MINUTE, MINUTE + 60)

BY_MINUTE = [target for target in Target if not target.by_day]
ADDING_UP = [target for target in Target if target.summable]


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float = EVENING) -> None:
        self.now = now

    def __call__(self) -> float:
        """Unix seconds."""
        return self.now


def stream(media_id: str = "", target: Target = Target.PLAY_COUNT, group: Group = Group.ALL) -> Stream:
    return Stream("demo", media_id, target, group)


def final(world: World, of: Stream, minute: int) -> dict[str, int]:
    return final_values(world, of.merchant_id, of.media_id, of.target, of.group, minute)


def total(world: World, of: Stream, minutes: MinuteRange) -> dict[str, int]:
    return final_sums(world, of.merchant_id, of.media_id, of.target, of.group, minutes)


def find(world: World, ref_id: str) -> Media:
    return next(media for media in world.catalog("demo").values() if media.ref_id == ref_id)


def plays_of_day(world: World, media: Media, day: int) -> list[int]:
    """Plays of each local hour."""
    start = minute_of(datetime(2026, 11, day, tzinfo=TOKYO).timestamp())
    return [
        total(world, stream(media.id), MinuteRange(start + hour * 60, start + hour * 60 + 59))[""] for hour in range(24)
    ]


# Final values


def test_same_seed_same_world() -> None:
    """Two worlds with one seed have the same media and values; another seed has others."""
    one, same, other = World(seed=7), World(seed=7), World(seed=8)
    assert one.catalog("demo") == same.catalog("demo")
    assert not one.catalog("demo").keys() & other.catalog("demo").keys()
    for target, group in product(Target, Group):
        each = stream("", target, group)
        assert [final(one, each, minute) for minute in HOUR] == [final(same, each, minute) for minute in HOUR]
    assert [final(one, stream(), minute) for minute in HOUR] != [final(other, stream(), minute) for minute in HOUR]


def test_order_of_requests_does_not_matter() -> None:
    """A value is the same whether it is requested first or after others, and after the caches have dropped it."""
    one, other = World(), World()
    asked = stream("", Target.PLAY_TIME, Group.OS)
    before = final(one, asked, MINUTE)
    for hour in range(1, 40):
        final(other, stream(), MINUTE - hour * 60)
    assert final(other, asked, MINUTE) == before


def test_merchants_differ() -> None:
    """Each merchant has its own media."""
    world = World()
    assert not world.catalog("demo").keys() & world.catalog("other").keys()


@pytest.mark.parametrize("target", ADDING_UP)
@pytest.mark.parametrize("group", [group for group in Group if group is not Group.ALL])
def test_groups_add_up_to_all(target: Target, group: Group) -> None:
    """The values of a group's labels add up to `all`, for a media and for the whole merchant."""
    world = World()
    for media_id in ("", *world.catalog("demo")):
        for minute in HOUR[::7]:
            parts = final(world, stream(media_id, target, group), minute)
            assert parts.keys() == LABELS[group].keys()
            assert sum(parts.values()) == final(world, stream(media_id, target), minute)[""]


@pytest.mark.parametrize("target", ADDING_UP)
@pytest.mark.parametrize("group", Group)
def test_media_add_up_to_the_whole(target: Target, group: Group) -> None:
    """The whole merchant is the sum of its media, label by label."""
    world = World()
    for minute in HOUR[::7]:
        whole: Counter[str] = Counter()
        for media_id in world.catalog("demo"):
            whole.update(final(world, stream(media_id, target, group), minute))
        assert final(world, stream("", target, group), minute) == dict(whole)


def test_targets_agree() -> None:
    """Devices are at most sessions, these at most plays, these at most displays; the average is a ratio."""
    world = World()
    for media_id, minute in product(world.catalog("demo"), HOUR[::5]):
        value = {target: final(world, stream(media_id, target), minute)[""] for target in Target}
        plays = value[Target.PLAY_COUNT]
        assert value[Target.DEVICE_COUNT] <= value[Target.SESSION_COUNT] <= plays <= value[Target.PLAYER_COUNT]
        assert bool(plays) == bool(value[Target.PLAY_TIME]) == bool(value[Target.DEVICE_COUNT])
        if plays:
            assert value[Target.AVERAGE_PLAY_TIME] == round(value[Target.PLAY_TIME] / plays)


def test_volumes_are_like_a_broadcasters() -> None:
    """One media has hundreds of plays a minute, and some have none in most minutes."""
    world = World()
    hit = [final(world, stream(find(world, "drama-012").id), minute)[""] for minute in HOUR]
    quiet = [final(world, stream(find(world, "archive-2014-07").id), minute)[""] for minute in HOUR]
    assert min(hit) > 150
    assert max(quiet) <= 4
    assert 0 in quiet


def test_evening_and_weekend() -> None:
    """Plays peak in the local evening, and Saturdays have more than Wednesdays."""
    world = World()
    drama = find(world, "drama-012")
    wednesday, saturday = plays_of_day(world, drama, 18), plays_of_day(world, drama, 21)
    assert wednesday.index(max(wednesday)) in (20, 21)
    assert wednesday.index(min(wednesday)) in (2, 3, 4)
    assert sum(saturday) > 1.15 * sum(wednesday)


def test_zone_moves_the_evening() -> None:
    """The evening is that of the configured zone."""
    world = World(zone=ZoneInfo("America/New_York"))
    media_id = find(world, "drama-012").id
    at = [minute_of(datetime(2026, 11, 18, 21, 0, tzinfo=zone).timestamp()) for zone in (world.zone, TOKYO)]
    here, elsewhere = (total(world, stream(media_id), MinuteRange(first, first + 59))[""] for first in at)
    assert here > 2 * elsewhere


def test_live_event_has_plays_while_it_runs() -> None:
    """A scheduled event has hundreds of plays a minute while it runs, and nearly none outside."""
    world = World()
    hours = plays_of_day(world, find(world, "baseball"), 18)
    assert all(plays > 5000 for plays in hours[18:21])
    assert sum(hours[:18]) + sum(hours[22:]) < 200


def test_event_state_follows_from_the_time() -> None:
    """A live event is running exactly in its hours, and has its start and end."""
    world = World()
    media = find(world, "baseball")
    assert media.schedule is not None
    on = event_fields(media, media.schedule, EVENING, TOKYO)
    off = event_fields(media, media.schedule, EVENING + 7200, TOKYO)
    assert (on["encode_status"], on["live_encode_end_at"]) == ("encode_status_running", None)
    assert (off["encode_status"], off["live_encode_end_at"]) == (
        "encode_status_stopped",
        "2026-11-18T12:30:00.000Z",
    )
    assert on["live_encode_start_at"] == off["live_encode_start_at"] == "2026-11-18T09:00:00.000Z"


def test_newest_start_reaches_back_over_days() -> None:
    """On a Monday the newest start of a weekend event is Sunday's."""
    schedule = find(World(), "shogi").schedule
    assert schedule is not None
    start = newest_start(schedule, datetime(2026, 11, 16, 9, 0, tzinfo=TOKYO))
    assert start == datetime(2026, 11, 15, 10, 0, tzinfo=TOKYO).timestamp()


def test_large_catalog_follows_zipf() -> None:
    """After the first dozen, volumes fall; every id and reference is unique."""
    catalog = make_catalog(1, "demo", 200)
    assert len({media.id for media in catalog}) == len({media.ref_id for media in catalog}) == 200
    assert all(len(media.id) == 32 for media in catalog)
    assert catalog[12].peak > 20 * catalog[199].peak


def test_total_sums_minutes() -> None:
    """A total over a range that starts and ends within hours is the sum of its minutes."""
    world = World()
    asked = MinuteRange(MINUTE - 75, MINUTE + 10)
    each = stream("", Target.PLAY_COUNT, Group.DEVICE)
    sums: Counter[str] = Counter()
    for minute in range(asked.first, asked.last + 1):
        sums.update(final(world, each, minute))
    assert total(world, each, asked) == dict(sums)


def test_unknown_media_is_a_key_error() -> None:
    """A media that is not in the catalog has no values."""
    with pytest.raises(KeyError):
        final(World(), stream("nobody"), MINUTE)


# Drops


def test_drop_thins_from_an_instant_on() -> None:
    """A drop changes the final values from its instant on, and none before; its removal restores the rest."""
    world, plain = World(), World()
    clock = Clock()
    switch = FaultSwitch(world, clock)
    final(world, stream(), MINUTE + 5)  # so that a cached value would show
    switch.set(drop={"": 0.1})
    clock.now += 1800
    switch.set(drop={})

    def plays(of: World, first: int, last: int) -> int:
        return total(of, stream(), MinuteRange(first, last))[""]

    assert plays(world, MINUTE - 60, MINUTE - 1) == plays(plain, MINUTE - 60, MINUTE - 1)
    assert plays(world, MINUTE, MINUTE + 29) < 0.15 * plays(plain, MINUTE, MINUTE + 29)
    assert plays(world, MINUTE + 30, MINUTE + 59) == plays(plain, MINUTE + 30, MINUTE + 59)


def test_drop_of_one_media() -> None:
    """A factor for a media overrides the factor for all, and the whole merchant follows its media."""
    world = World()
    drama, channel = find(world, "drama-012").id, find(world, "channel-1").id
    before = final(world, stream(channel), MINUTE)
    FaultSwitch(world, Clock(), Faults(drop={drama: 0.0}))
    assert final(world, stream(drama), MINUTE)[""] == 0
    assert final(world, stream(channel), MINUTE) == before
    parts = sum(final(world, stream(media_id), MINUTE)[""] for media_id in world.catalog("demo"))
    assert final(world, stream(), MINUTE)[""] == parts


# Arithmetic


@pytest.mark.parametrize("count", [0, 1, 2, 7, 1000])
@pytest.mark.parametrize("draw", [0.0, 0.3, 0.999999])
def test_split_is_exact(count: int, draw: float) -> None:
    """Parts by shares are not negative and add up."""
    parts = split(count, (0.5, 0.5, 0.9, 1.0), draw)
    assert sum(parts) == count
    assert min(parts) >= 0
    assert parts[1] <= 1  # a share of nothing


def test_spread_gives_nothing_to_zero_parts() -> None:
    """A total is distributed in proportion, and a part of 0 gets 0."""
    assert spread(301, (2, 0, 1)) == (200, 0, 101)
    assert spread(0, (0, 0)) == (0, 0)


def test_draws_have_the_mean() -> None:
    """Counts drawn evenly over all probabilities have nearly the requested mean."""
    for mean in (0.0, 0.3, 5.0, 8.0, 300.0):
        draws = [draw_count(mean, (index + 0.5) / 1000) for index in range(1000)]
        assert sum(draws) / 1000 == pytest.approx(mean, rel=0.02, abs=0.01)
        assert min(draws) >= 0


def test_first_values_differ_as_configured() -> None:
    """A minute that grows starts lower, one that shrinks starts higher, and 0 never shrinks."""
    assert first_value(10, 0.5, 0.5, 0.4, 0.99) == 9
    assert first_value(10, 0.5, 0.5, 0.6, 0.0) == 11
    assert first_value(10, 0.2, 0.2, 0.6, 0.5) == 10
    assert first_value(0, 0.0, 1.0, 0.5, 0.5) == 0


def test_unique_counts_are_between_largest_and_sum() -> None:
    """Merged unique counts are at least the largest and at most the sum."""
    assert combine_unique([(3, 0), (6, 0)]) == (8, 0)
    assert unique_over_time((9, 4), (6, 4)) == (7, 4)
    assert ratio((10, 5), (4, 0)) == (2, 0)


# What is visible


def shown(world: World, switch: FaultSwitch, now: float, first: int, last: int) -> dict[int, int]:
    """Minute -> plays of the whole merchant, as the API returns them."""
    rows = Reader(world, switch).rows(stream(), Interval.MINUTE, MinuteRange(first, last), now)
    dates = [datetime.strptime(row.date, "%Y/%m/%d %H:%M").replace(tzinfo=TOKYO) for row in rows]
    return {minute_of(date.timestamp()): row.values[0] for date, row in zip(dates, rows, strict=True)}


def test_rows_appear_late() -> None:
    """A row appears exactly the configured number of minutes after its minute ended."""
    world = World()
    switch = FaultSwitch(world, Clock(), Faults(late_minutes=3))
    end = (MINUTE + 1) * 60
    assert MINUTE not in shown(world, switch, end + 179.9, MINUTE - 5, MINUTE + 5)
    assert max(shown(world, switch, end + 180, MINUTE - 5, MINUTE + 5)) == MINUTE


def test_jitter_stays_within_its_bound() -> None:
    """With jitter rows appear out of order, none before the lateness and none after the sum of both."""
    world = World()
    switch = FaultSwitch(world, Clock(), Faults(late_minutes=2, late_jitter=4))
    waits = [switch.appears("demo", minute) - (minute + 1) * 60 for minute in HOUR]
    assert 120 <= min(waits) < 180
    assert 300 < max(waits) <= 360
    appears = [switch.appears("demo", minute) for minute in HOUR]
    assert appears != sorted(appears)


@pytest.mark.parametrize("faults", [{"revise_up": 1.0}, {"revise_down": 1.0}, {"revise_up": 0.4, "revise_down": 0.4}])
def test_first_values_become_final(faults: dict[str, float]) -> None:
    """Values grow or shrink, once, after the configured minutes; visible rows stay."""
    world = World()
    switch = FaultSwitch(world, Clock(), Faults.model_validate({"late_jitter": 1, "revise_minutes": 5, **faults}))
    seen: dict[int, list[int]] = {minute: [] for minute in HOUR}
    for step in range(0, 90 * 60, 20):
        rows = shown(world, switch, EVENING + step, HOUR[0], HOUR[-1])
        for minute in HOUR:
            if minute in rows:
                seen[minute].append(rows[minute])
            else:
                assert not seen[minute]
    ups = downs = 0
    for minute, values in seen.items():
        last = final(world, stream(), minute)[""]
        assert values[-1] == last
        assert len(set(values)) <= 2
        ups, downs = ups + (values[0] < last), downs + (values[0] > last)
    assert (ups > 0) == ("revise_up" in faults)
    assert (downs > 0) == ("revise_down" in faults)


def test_first_values_agree_among_groups() -> None:
    """Before they are final, groups and media add up, too."""
    world = World()
    switch = FaultSwitch(world, Clock(), Faults(revise_up=0.5, revise_down=0.5, revise_minutes=60))
    reader = Reader(world, switch)
    asked = MinuteRange(MINUTE - 20, MINUTE - 2)

    def sums(media_id: str, group: Group) -> list[int]:
        each = stream(media_id, Target.PLAY_COUNT, group)
        return [sum(row.values) for row in reader.rows(each, Interval.MINUTE, asked, EVENING)]

    whole = sums("", Group.ALL)
    assert whole == sums("", Group.COUNTRY)
    by_media = [sums(media_id, Group.ALL) for media_id in world.catalog("demo")]
    assert whole == [sum(column) for column in zip(*by_media, strict=True)]
    assert whole != [final(world, stream(), minute)[""] for minute in range(asked.first, asked.last + 1)]


def test_stall_delays_everything() -> None:
    """While rows are stalled nothing appears, changes or disappears; afterwards all is there."""
    world = World()
    clock = Clock()
    switch = FaultSwitch(world, clock, Faults(revise_up=1.0, revise_minutes=3))
    before = shown(world, switch, EVENING, MINUTE - 10, MINUTE + 60)
    switch.set(stalled_since=EVENING)
    assert shown(world, switch, EVENING + 1800, MINUTE - 10, MINUTE + 60) == before
    switch.set(stalled_since=None)
    after = shown(world, switch, EVENING + 1800, MINUTE - 10, MINUTE + 60)
    assert max(after) == MINUTE + 28


def test_settings_change_no_visible_row() -> None:
    """Visible rows stay unchanged when lateness and revisions change; new minutes follow the settings."""
    world = World()
    clock = Clock()
    switch = FaultSwitch(world, clock)
    before = shown(world, switch, EVENING, MINUTE - 30, MINUTE)
    switch.set(late_minutes=20, revise_down=1.0)
    assert shown(world, switch, EVENING, MINUTE - 30, MINUTE) == before
    clock.now += 1200
    rows = shown(world, switch, clock.now, MINUTE - 30, MINUTE + 20)
    # The last minute under the old settings ended at the instant of the change.
    assert max(rows) == MINUTE - 1
    switch.set(late_minutes=0)
    assert max(shown(world, switch, clock.now + 60, MINUTE - 30, MINUTE + 30)) == MINUTE + 20


@pytest.mark.unmeasured
@pytest.mark.parametrize("interval", [Interval.HOUR, Interval.DAY, Interval.MONTH])
@pytest.mark.parametrize("group", [Group.ALL, Group.OS])
@pytest.mark.parametrize("zone", ["Asia/Tokyo", "Asia/Kathmandu"])
def test_longer_rows_are_sums(interval: Interval, group: Group, zone: str) -> None:
    """Hours, days and months are the sums of their visible minutes, whether a whole hour is visible or not."""
    world = World(media=3, zone=ZoneInfo(zone))
    reader = Reader(world, FaultSwitch(world, Clock(), Faults(revise_up=0.5, revise_minutes=90)))
    asked = MinuteRange(MINUTE - 3 * 24 * 60 - 17, MINUTE + 30)
    for target in (target for target in BY_MINUTE if target.summable):
        each = stream("", target, group)
        minutes = reader.rows(each, Interval.MINUTE, asked, EVENING)
        sums: dict[str, list[int]] = {}
        length = {"hour": 13, "day": 10, "month": 7}[interval]
        for row in minutes:
            sum_ = sums.setdefault(row.date[:length], [0] * len(row.values))
            sums[row.date[:length]] = [a + b for a, b in zip(sum_, row.values, strict=True)]
        rows = reader.rows(each, interval, asked, EVENING)
        assert {row.date: list(row.values) for row in rows} == sums


def test_longer_rows_of_values_that_do_not_add_up() -> None:
    """Unique counts of a day are between the largest minute and the sum; the average is seconds by plays."""
    world = World()
    reader = Reader(world, FaultSwitch(world, Clock()))
    asked = MinuteRange(MINUTE - 20 * 60, MINUTE)

    def day(target: Target) -> int:
        return reader.rows(stream("", target), Interval.DAY, asked, EVENING)[-1].values[0]

    for target in (Target.DEVICE_COUNT, Target.SESSION_COUNT):
        minutes = [row.values[0] for row in reader.rows(stream("", target), Interval.MINUTE, asked, EVENING)]
        assert max(minutes) < day(target) < sum(minutes)
    assert day(Target.AVERAGE_PLAY_TIME) == round(day(Target.PLAY_TIME) / day(Target.PLAY_COUNT))


def test_keys_grow_through_the_day() -> None:
    """Today's DRM keys are the sum of the visible minutes so far."""
    world = World()
    reader = Reader(world, FaultSwitch(world, Clock()))
    keys = stream("", Target.KEY_DELIVERY_COUNT)
    midnight = minute_of(datetime(2026, 11, 18, tzinfo=TOKYO).timestamp())
    values = []
    for later in (0, 61, 3600):
        now = EVENING + later
        (row,) = reader.rows(keys, Interval.DAY, MinuteRange(midnight, minute_of(now)), now)
        assert row.date == "2026/11/18"
        assert row.values[0] == total(world, keys, MinuteRange(midnight, minute_of(now) - 2))[""]
        values.append(row.values[0])
    assert values == sorted(set(values))


# Settings


def test_set_replaces_only_what_is_named() -> None:
    """A partial update keeps the other settings."""
    switch = FaultSwitch(World(), Clock(), Faults(rate_limit=7))
    assert switch.set(late_minutes=2) == Faults(rate_limit=7, late_minutes=2.0)
    assert switch.now == Faults(rate_limit=7, late_minutes=2.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"late_minutes": -1}, "late_minutes: input should be greater than or equal to 0"),
        ({"late_minutes": "3"}, "late_minutes: input should be a valid number"),
        ({"omit_zero": 1}, "omit_zero: input should be a valid boolean"),
        ({"error_rate": 1.5}, "error_rate: input should be less than or equal to 1"),
        ({"form": "csv"}, "form: input should be 'array', 'object' or 'braced'"),
        ({"drop": {"a": 2}}, "drop.a: input should be less than or equal to 1"),
        ({"gone": "a"}, "gone: input should be a valid array"),
        ({"late_minutes": float("nan")}, "late_minutes: input should be a finite number"),
    ],
)
def test_bad_settings_change_nothing(changes: dict[str, object], message: str) -> None:
    """A bad value is reported in one line, and the settings stay."""
    switch = FaultSwitch(World(), Clock())
    with pytest.raises(ValidationError) as caught:
        switch.set(**changes)
    assert [f"{name}: {problem}" for name, problem in problems(caught.value)] == [message]
    assert switch.now == Faults()


def test_unknown_setting_names_the_known() -> None:
    """The error about an unknown fault lists the known ones."""
    with pytest.raises(ValidationError) as caught:
        FaultSwitch(World(), Clock()).set(late=1)
    [(name, problem)] = problems(caught.value)
    assert name == "late"
    assert problem.startswith("unknown fault; valid faults are late_minutes, late_jitter, ")


def test_settings_from_text() -> None:
    """Numbers on a command line are text."""
    assert Faults.model_validate({"late_minutes": "2.5", "gone": ["a"], "drop": {"": "0.5"}}) == Faults(
        late_minutes=2.5, gone=("a",), drop={"": 0.5}
    )
    with pytest.raises(ValidationError) as caught:
        Faults.model_validate({"rate_limit": "many"})
    [(name, problem)] = problems(caught.value)
    assert name == "rate_limit"
    assert problem.startswith("input should be a valid integer")
