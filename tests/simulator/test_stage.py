"""The drop that the demo stages."""

from collections.abc import Iterator
from zoneinfo import ZoneInfo

import pytest
from structlog.testing import capture_logs

from exporter.simulator.faults import FaultSwitch
from exporter.simulator.series import World
from exporter.simulator.stage import LASTS, SHARE_LEFT, Stage, plan_drop

# 2025-06-15, 20:06:20 in Tokyo.
START = 1_749_985_580.0
PAGE = "http://127.0.0.1:10077/"


@pytest.mark.parametrize("second", [0, 1, 30, 59])
def test_it_begins_in_the_third_minute(second: int) -> None:
    """The drop begins with a whole minute, two to three minutes after the start, and lasts for 15."""
    started = START - 20 + second
    drop = plan_drop(World(), "demo", started)
    assert drop.begins % 60 == 0
    assert 120 <= drop.begins - started < 180
    assert drop.ends - drop.begins == LASTS == 900


def test_it_is_of_a_busy_file_at_any_time() -> None:
    """Its plays are enough at any hour of the day for a drop to be certain within minutes, and it has no live event."""
    world = World()
    for hour in range(24):
        drop = plan_drop(world, "demo", START + hour * 3600)
        begins = hour + 20
        assert drop.media.schedule is None
        assert drop.media.mean_plays(0, begins % 24 * 60 + 9) > 20
    evening = plan_drop(World(zone=ZoneInfo("Asia/Tokyo")), "demo", START)
    assert 50 < evening.media.mean_plays(6, 20 * 60 + 9) < 150


def test_it_begins_and_ends_by_itself() -> None:
    """The fault switch lets the media drop and ends that, with other drops untouched, and the log says so in words."""
    world = World()
    switch = RecordingSwitch(world)
    other = list(world.catalog("demo"))[4]
    switch.set(drop={other: 0.5})
    times: Iterator[float] = iter([START, START + 200, START + 1200])
    with capture_logs() as lines, Stage(world, switch, "demo", lambda: next(times)) as stage:
        drop = stage.begin(PAGE)
        assert stage.drop == drop
        assert stage._thread is not None
        stage._thread.join()
    assert switch.drops == [{other: 0.5}, {other: 0.5, drop.media.id: SHARE_LEFT}, {other: 0.5}]
    begun, ended = lines
    page = f"{PAGE}media?merchant=demo&media={drop.media.id}"
    assert begun["event"] == "staged: the plays of a media drop by 90% now, for 15 minutes"
    assert (begun["name"], begun["until"], begun["open"]) == (drop.media.name, "11:24 UTC", page)
    assert ended["event"] == "staged: the plays of the media are back"


def test_it_ends_with_its_context() -> None:
    """A stop before the drop begins waits for nothing and changes nothing."""
    world = World()
    switch = RecordingSwitch(world)
    with Stage(world, switch, "demo", lambda: START) as stage:
        stage.begin(PAGE)
    assert switch.drops == []


class RecordingSwitch(FaultSwitch):
    """Notes the drops that are set."""

    def __init__(self, world: World) -> None:
        super().__init__(world, lambda: START)
        self.drops: list[object] = []

    def set(self, /, **changes: object):  # type: ignore[no-untyped-def]
        self.drops.append(changes["drop"])
        return super().set(**changes)
