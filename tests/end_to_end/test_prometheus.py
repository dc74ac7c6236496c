"""A real Prometheus scrapes the real exporter, which polls a simulated API, all in real time."""

import contextlib
import re
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from exporter.model import Group, Minute, MinuteRange, Stream, Target, end_of, minute_of
from exporter.serving.families import FAMILIES
from exporter.serving.instruments import Instruments
from exporter.simulator.app import SimulatorApp
from exporter.simulator.faults import Faults, FaultSwitch
from exporter.simulator.series import World
from exporter.simulator.server import SimulatorServer
from tests.support.processes import MERCHANT, Daemon, Prometheus, configuration, reserved_port, wait_until
from tests.support.world import final_sums, final_values

pytestmark = pytest.mark.real_time

# Each row exists at the end of its minute, zeros too. So every label value has a series from the first answer on.
FAULTS = Faults(late_minutes=0, omit_zero=False, rate_limit=1000)

# The collected counters, without the prefix of their names.
COUNTERS = {
    "plays_total": (Target.PLAY_COUNT, Group.ALL),
    "plays_by_device_total": (Target.PLAY_COUNT, Group.DEVICE),
    "plays_by_country_total": (Target.PLAY_COUNT, Group.COUNTRY),
    "play_time_seconds_total": (Target.PLAY_TIME, Group.ALL),
    "player_displays_by_os_total": (Target.PLAYER_COUNT, Group.OS),
}
COLLECT = [
    {"target": "play_count", "groups": ["all", "device", "country"]},
    {"target": "play_time"},
    {"target": "player_count", "groups": ["os"]},
]

# Longer than the test takes, so that queries cover all scrapes.
RANGE = "1h"

# Families that have samples only while a drop is open, or once the time zone of the rows is known.
SOMETIMES = {
    f"smartstream_{scope}{name}"
    for scope in ("", "merchant_")
    for name in ("plays_drop_onset_timestamp_seconds", "plays_lost", "plays_drop_accept_timestamp_seconds")
} | {"smartstream_timezone_offset_seconds"}

# A stream and a label value.
Key = tuple[Stream, str]


@pytest.fixture
def world() -> World:
    return World(media=4)


@pytest.fixture
def api(world: World) -> Iterator[SimulatorServer]:
    with SimulatorServer(SimulatorApp(world, FaultSwitch(world, time.time, FAULTS), time.time)) as server:
        yield server


class Scraping(Prometheus):
    """Prometheus with the exporter as its only target, and queries for the counters."""

    def __init__(self, program: Path, folder: Path, port: int, target_port: int) -> None:
        scrape = {"job_name": "smartstream", "static_configs": [{"targets": [f"127.0.0.1:{target_port}"]}]}
        super().__init__(program, folder, port, {"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]})

    def counters(self, expression: str, at: float | None = None) -> dict[Key, float]:
        """Query an expression for all counters, with `{}` in place of the counter; an instant vector for each."""
        return {
            _key(name, series["metric"]): float(series["value"][1])
            for name in _names()
            for series in self.query(expression.format(name), at)
        }

    def samples(self) -> dict[Key, list[tuple[float, float]]]:
        """All scraped samples of the counters: time and value."""
        return {
            _key(name, series["metric"]): [(at, float(value)) for at, value in series["values"]]
            for name in _names()
            for series in self.query(f"{name}[{RANGE}]")
        }

    def throughs(self, at: float) -> dict[Stream, Minute]:
        """The newest minute that each stream had counted in the scrape at an instant."""
        found = {}
        for name in ("smartstream_data_timestamp_seconds", "smartstream_merchant_data_timestamp_seconds"):
            for series in self.query(name, at):
                labels = series["metric"]
                split = Target(labels["target"]), Group(labels["group"])
                found[Stream(MERCHANT, labels.get("media_id", ""), *split)] = minute_of(float(series["value"][1])) - 1
        return found


def test_increase_over_kills_is_what_the_api_served(
    prometheus_bin: Path, api: SimulatorServer, world: World, tmp_path: Path
) -> None:
    """Through two kills with kill -9, Prometheus sees counters that start at 0, never fall, and grow by what the API
    served.

    That is the sum of the API's final values from the minute after the first start to the data timestamp of the last
    scrape. Three values must be equal to it for each series: the last sample, since the first one is 0; the largest
    sample minus the smallest; and `increase()`. The latter extrapolates, but not before a sample of 0, and not after a
    last sample at the instant of the query.
    """
    media = list(world.catalog(MERCHANT))[:3]
    config = configuration(
        api.url,
        {"requests_per_minute": 500, "collect": COLLECT, "media": [{"id": media_id} for media_id in media]},
        poll={"settle": "1s"},
    )
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(reserved_port())
        own_port = stack.enter_context(reserved_port())
        prometheus = stack.enter_context(Scraping(prometheus_bin, tmp_path, own_port, port))

        def run() -> Daemon:
            return stack.enter_context(Daemon(tmp_path, config, listen=f"127.0.0.1:{port}"))

        daemon = run()
        daemon.wait_ready()
        series = sum(len(final_values(world, *_of(key), 0)) for key in _streams(media))
        wait_until("every counter is there", lambda: len(prometheus.counters("{}")) == series)
        wait_until("Prometheus scrapes", lambda: prometheus.health() == ["up"])
        wait_until("a minute's plays are shown", lambda: any(prometheus.counters("{} > 0").values()))
        daemon.kill()

        daemon = run()
        daemon.wait_ready()
        restarts = f"changes(process_start_time_seconds[{RANGE}])"
        wait_until("the second process is scraped", lambda: prometheus.query(restarts)[0]["value"][1] == "1")
        daemon.kill()

        missed = minute_of(time.time())
        wait_until("another minute has ended", lambda: time.time() > end_of(missed) + 1)
        run().wait_ready()
        starts = _starts(tmp_path / "state.db")
        assert set(starts) == set(_streams(media))

        def is_up_to_date() -> bool:
            at = _last_scrape(prometheus)
            throughs = prometheus.throughs(at)
            return min(throughs.values(), default=0) >= missed and prometheus.counters("{}", at) == _served(
                world, starts, throughs
            )

        wait_until("the counters are what was served", is_up_to_date)
        at = _last_scrape(prometheus)
        served = _served(world, starts, prometheus.throughs(at))
        assert prometheus.counters("{}", at) == served
        whole = Stream(MERCHANT, "", Target.PLAY_COUNT, Group.ALL)
        assert served[whole, ""] > 0
        for key, samples in prometheus.samples().items():
            values = [value for _, value in samples]
            assert values[0] == 0, key
            assert values == sorted(values), key
        assert set(prometheus.counters(f"resets({{}}[{RANGE}])", at).values()) == {0}
        assert prometheus.counters(f"max_over_time({{0}}[{RANGE}]) - min_over_time({{0}}[{RANGE}])", at) == served
        assert prometheus.counters(f"increase({{}}[{RANGE}])", at) == pytest.approx(served, rel=1e-9)


def test_the_metrics_are_valid_and_documented(
    promtool_bin: Path, api: SimulatorServer, world: World, tmp_path: Path
) -> None:
    """With everything collected, /metrics has every documented family and no other, each series once, and promtool
    reports no problem.
    """
    every = world.catalog(MERCHANT).values()
    media = [next(each for each in every if bool(each.live_event_id) is live) for live in (True, False)]
    groups = [str(group) for group in Group]
    collect = [{"target": str(target), "groups": ["all"] if target.by_day else groups} for target in Target]
    configured = [{"id": each.id, "labels": {"channel": "1"}} for each in media]
    merchant = {"requests_per_minute": 500, "collect": collect, "media": configured}
    with Daemon(tmp_path, configuration(api.url, merchant)) as daemon:
        streams = 3 * sum(len(entry["groups"]) for entry in collect)
        wait_until(
            "every stream has an answer",
            lambda: (
                len(daemon.values("smartstream_data_timestamp_seconds"))
                + len(daemon.values("smartstream_merchant_data_timestamp_seconds"))
                == streams
            ),
        )
        wait_until("the catalog is read", lambda: bool(daemon.values("smartstream_live_event_running")))
        wait_until("drops of media are judged", lambda: bool(daemon.values("smartstream_plays_drop_ratio")))
        wait_until("merchant drops are judged", lambda: bool(daemon.values("smartstream_merchant_plays_drop_ratio")))
        page = daemon.get("/metrics").text
    checked = subprocess.run(
        [promtool_bin, "check", "metrics"], input=page, capture_output=True, text=True, check=False
    )
    assert checked.stdout + checked.stderr == ""
    assert checked.returncode == 0
    lines = page.splitlines()
    series = Counter(line.rpartition(" ")[0] for line in lines if not line.startswith("#"))
    assert [each for each, times in series.items() if times > 1] == []
    families = Counter(found[1] for line in lines if (found := re.match(r"# TYPE (\S+) ", line)))
    assert [each for each, times in families.items() if times > 1] == []
    own = {name for name in families if name.startswith("smartstream_")}
    possible = {family.name for family in FAMILIES} | set(_telemetry())
    assert possible - SOMETIMES <= own <= possible
    assert {name.split("_")[0] for name in families} == {"smartstream", "process", "python"}


def _names() -> list[str]:
    return [f"smartstream_{scope}{name}" for scope in ("", "merchant_") for name in COUNTERS]


def _key(name: str, labels: Mapping[str, str]) -> Key:
    """The stream and the label value of a series."""
    target, group = COUNTERS[name.removeprefix("smartstream_").removeprefix("merchant_")]
    return Stream(MERCHANT, labels.get("media_id", ""), target, group), labels.get(str(group), "")


def _streams(media: list[str]) -> list[Stream]:
    return [Stream(MERCHANT, media_id, *split) for media_id in ("", *media) for split in COUNTERS.values()]


def _of(stream: Stream) -> tuple[str, str, Target, Group]:
    return stream.merchant_id, stream.media_id, stream.target, stream.group


def _starts(state: Path) -> dict[Stream, Minute]:
    """The last minute before each stream starts to count."""
    with contextlib.closing(sqlite3.connect(state)) as db:
        rows = db.execute("SELECT media_id, target, grouping, start FROM streams").fetchall()
    return {Stream(MERCHANT, media_id, Target(target), Group(group)): start for media_id, target, group, start in rows}


def _served(world: World, starts: Mapping[Stream, Minute], throughs: Mapping[Stream, Minute]) -> dict[Key, float]:
    """The sum of the API's final values for each stream."""
    return {
        (stream, label): total
        for stream, through in throughs.items()
        for label, total in final_sums(world, *_of(stream), MinuteRange(starts[stream] + 1, through)).items()
    }


def _last_scrape(prometheus: Scraping) -> float:
    """The instant of the newest sample."""
    (series,) = prometheus.query("smartstream_merchant_plays_total[1h]")
    at: float = series["values"][-1][0]
    return at


def _telemetry() -> Iterator[str]:
    """The families of the exporter's own instruments in the text format."""
    for family in Instruments().registry.collect():
        if family.name.startswith("smartstream_"):
            yield family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
