"""The benchmarks run and have figures; no test checks a speed."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

import benchmarks.__main__ as command
from benchmarks import (
    answers,
    connections,
    delay,
    drops,
    fleet,
    freshness,
    go_client,
    memory,
    replaying,
    scrape,
    simulation,
    startup,
)
from benchmarks.canned import canned_api
from benchmarks.prepared import Prepared, prepare
from benchmarks.process import running
from benchmarks.report import Figures, Table
from exporter import logs
from exporter.config.load import load
from exporter.model import minute_of
from tests.support.processes import wait_until

# Each benchmark in a tiny size, the subjects of its rows, and the number of columns with figures.
TINY: dict[str, tuple[Callable[[Path], Table], list[str | float], int]] = {
    "scrape": (
        lambda folder: scrape.run(folder, series=(100,), changed=3, repeats=2, go=False),
        [
            "prometheus_client, families ready-made, text",
            "prometheus_client, families ready-made, OpenMetrics",
            "exporter, text",
            "exporter, OpenMetrics",
            "exporter, text, gzip",
            "exporter, OpenMetrics, gzip",
        ],
        2,
    ),
    "scrape while polling": (
        lambda folder: scrape.run_polling(folder, fleets=((2, 3),), scrapes=3, interval=0.01, warm_up=0.02),
        [2],
        0,
    ),
    "connections": (
        lambda folder: connections.run(folder, size=0.02, scrapes=2),
        [
            *("no other clients", "idle", "slow headers", "slow readers"),
            *("no other clients", "idle", "slow headers", "stalled handshakes", "slow readers"),
        ],
        1,
    ),
    "answers": (lambda folder: answers.run(folder, media=(1,), answers=10, repeats=2), [10], 3),
    "memory": (lambda folder: memory.run(folder, series=(100,), repeats=1), [0, 100], 4),
    "startup": (
        lambda folder: startup.run(folder, series=(0, 100), repeats=1),
        ["Python, same imports", "daemon", "daemon"],
        3,
    ),
    "freshness": (
        lambda folder: freshness.run(
            folder,
            scenarios=(freshness.Scenario("steady", 3), freshness.Scenario("wild", 60, wild=True)),
            minutes=0.02,
            warm_up=0.02,
        ),
        ["steady", "wild"],
        0,
    ),
    "simulation": (
        lambda folder: simulation.run(folder, media=(60, 70), exponents=(1.0,), minutes=10, picture=folder / "a.svg"),
        [1.0, 1.0],
        0,
    ),
    "planning": (lambda folder: simulation.run_planning(folder, streams=(60, 70), rounds=2), [60, 70], 1),
    "fleet": (lambda folder: fleet.run(folder, merchants=(2,), media=9, minutes=0.02, warm_up=0.02), [2], 0),
    "replay": (
        lambda folder: replaying.run(folder, media=2, days=1, repeats=1),
        ["reading the CSV", "replay"],
        2,
    ),
    "drops": (
        lambda folder: drops.run(
            folder,
            seeds=(1,),
            size=(1, 1, 1),
            names=("Twitter_volume_CVS",),
            real_seeds=(1,),
            ride_shares=(0.02,),
            ride_seeds=(1,),
            days=10,
        ),
        list(drops.MEASURES),
        0,
    ),
    "drops-long": (
        lambda folder: drops.run_long(folder, seeds=(1,), size=(1, 0, 1)),
        [f"{kind}: {name}" for kind, (_, measures) in drops.LONGER.items() for name in measures],
        0,
    ),
    "drops-cost": (lambda folder: drops.run_cost(folder, weeks=(1,), minutes=100, repeats=2), [1], 2),
    "delay": (lambda folder: delay.run(folder, scenarios=(delay.Scenario(3),), drops=1, warm_up=100), [3, 3], 0),
}


def test_every_benchmark_is_tested() -> None:
    """Every benchmark has a test in a tiny size."""
    tested = [name if name in command.BENCHMARKS else name.partition(" ")[0] for name in TINY]
    assert tested == [name for name, runs in command.BENCHMARKS.items() for _ in runs]


@pytest.mark.parametrize("name", TINY)
def test_a_benchmark_has_its_figures(name: str, tmp_path: Path) -> None:
    """Each benchmark runs, and has a row with figures for each subject that it compares."""
    run, rows, columns = TINY[name]
    table = run(tmp_path)
    assert table.title == name
    assert [row[0] for row in table.rows] == rows
    assert all(len(row) == len(table.headings) for row in table.rows)
    last = [cell for cell in table.rows[-1] if isinstance(cell, Figures)]
    assert len(last) == columns
    # The growth of memory can be anything at this size.
    assert name == "memory" or all(value > 0 for cell in last for value in cell.values)


def test_the_fleet_polls(tmp_path: Path) -> None:
    """A fleet's daemon really polls the canned API, whose answers are counted."""
    with canned_api() as (url, _):
        config = fleet.configure(tmp_path / "fleet", url, merchants=2, media=3)
        with running(Prepared(config, load(config, {}), 0)) as daemon:
            wait_until("both merchants have answers", lambda: daemon.scrape().count(b"smartstream_up{") == 2)
            page = daemon.scrape().decode()
    assert 'smartstream_up{merchant_id="merchant-0"} 1.0' in page
    assert 'code="200",endpoint="aggregations",merchant_id="merchant-1"' in page


def test_the_daemon_requests_settled_minutes(tmp_path: Path) -> None:
    """A daemon whose prepared state is up to date requests no names and no history from an API that logs all requests.
    As the earlier minutes are known, the whole merchant's plays come first.
    """
    audience = freshness.Scenario("steady", 3).audience()
    with freshness.logging_api(audience, 0.01) as api:
        two_minutes_ago = time.time() - 2 * 60
        with running(freshness.prepare(tmp_path / "merchant", api, two_minutes_ago)):
            wait_until("all are requested", lambda: {each.media_id for each in api.arrivals} >= {"", *audience.rates})
    # The check of the time zone requests future minutes, too.
    requested = [each for each in api.arrivals if each.media_id is not None and each.last < minute_of(each.at)]
    assert requested[0].media_id == ""
    # One may have left just before a minute settled.
    assert all(minute_of(each.at - 30) - 3 <= each.last <= minute_of(each.at) - 3 for each in requested)


def test_staleness_from_the_log() -> None:
    """The requested minutes of a media are fresh once the answer has left; all later ones are stale, by the minute."""
    noon = 1_780_000_020.0
    newest = minute_of(noon) - 3
    rates = {"a": 3.0, "b": 1.0}
    log = [freshness.Arrival(noon + 1, "", newest), *(freshness.Arrival(noon + 2, each, newest) for each in "ab")]
    assert freshness.staleness(log, rates, noon + 60, 0.1) == 0
    later = [*log, freshness.Arrival(noon + 61, "a", newest + 1)]
    assert freshness.staleness(later, rates, noon + 120, 0.1) == pytest.approx(1 / 4)
    assert freshness.staleness(later, rates, noon + 120, 60.0) == pytest.approx(1.0)
    assert freshness.staleness(later, rates, noon + 180, 0.1) == pytest.approx((1 * 3 + 2 * 1) / 4)
    # Before its first request, a media is stale since the start of the log.
    assert freshness.staleness(log[:2], rates, noon + 60, 0.1) == pytest.approx(1 / 4)


def test_the_most_requests_in_a_minute() -> None:
    """Of requests exactly 60 s apart only one counts."""
    assert freshness.most_within(60.0, [0.0, 1.0, 59.9, 60.0, 61.0, 200.0]) == 3
    assert freshness.most_within(60.0, []) == 0


def test_the_picture_is_svg_with_its_lines(tmp_path: Path) -> None:
    """The picture is well-formed, names its lines, and has a mark for each measured point."""
    simulation.run(tmp_path, media=(60, 70), exponents=(1.0,), minutes=5, picture=tmp_path / "a.svg")
    root = ET.parse(tmp_path / "a.svg").getroot()
    texts = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"fixed rotation", "smartstream-exporter, measured", "bound of any schedule"} <= texts
    # One in the legend.
    assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == 3


@pytest.mark.parametrize(("streams", "room", "mean"), [(10, 10, 0.0), (10, 5, 0.5), (10, 4, 0.8), (30, 10, 1.0)])
def test_a_rotation_by_hand(streams: int, room: int, mean: float) -> None:
    """Calculated manually: turns of 2 minutes are 0, 1, 0, 1, …; turns of 2.5 are 2 and 3 minutes alternately."""
    assert simulation.rotation(streams, room) == pytest.approx(mean)


def test_the_page_has_the_prepared_series(tmp_path: Path) -> None:
    """A daemon that starts with a prepared state file exports exactly these series of media, with their values."""
    prepared = prepare(tmp_path, 200, now=1_780_000_000.0)
    with running(prepared) as daemon:
        page = daemon.scrape().decode()
        assert min(daemon.memory("VmRSS"), daemon.memory("VmHWM")) > 1
    counters = [line for line in page.splitlines() if line.startswith("smartstream_plays_total{")]
    assert [line.rpartition(" ")[2] for line in counters] == [str(_plays(31))] * 2


def _plays(minutes: int) -> float:
    newest = 1_780_000_000 // 60 - 3
    return float(sum(1 + minute % 97 for minute in range(newest - minutes + 1, newest + 1)))


def test_preparing_again_uses_the_existing_files(tmp_path: Path) -> None:
    """The files prepared for one benchmark are used by the next."""
    first = prepare(tmp_path, 100, now=1_780_000_000.0)
    written = first.settings.storage.path.stat().st_mtime_ns
    assert prepare(tmp_path, 100, now=1_790_000_000.0) == first
    assert first.settings.storage.path.stat().st_mtime_ns == written


def test_a_table_is_aligned() -> None:
    """Text is left-aligned, numbers are right-aligned; figures are the median and the range."""
    table = Table(
        "pages",
        "what they take",
        ("what", "series", "seconds"),
        (("all", 12_345, Figures((3.0, 1.0, 2.0))), ("one", 1, "")),
    )
    assert str(table).splitlines() == [
        "pages: what they take",
        "what  series    seconds",
        "all   12,345  2 (1 – 3)",
        "one        1",
    ]


@pytest.mark.skipif(not go_client.compiler(), reason=f"needs {go_client.HOW_TO_INSTALL}")
def test_the_client_of_go_is_measured_where_it_is_installed(tmp_path: Path) -> None:
    """It has the same series, and each of the exporter's rows is compared with its own."""
    table = scrape.run(tmp_path, series=(100,), changed=3, repeats=1)
    names = [str(row[0]) for row in table.rows]
    assert [name.replace("Go's client", "exporter") for name in names[2:6]] == names[6:]
    assert all(isinstance(row[4], Figures) for row in table.rows[6:])
    with go_client.serving(go_client.compiler(), b"# TYPE a counter\na 5\n", tmp_path) as get:
        assert get("text/plain", "identity") > 0


def test_without_go_the_table_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is measured all the same."""
    monkeypatch.setattr(go_client, "compiler", lambda: "")
    table = scrape.run(tmp_path, series=(100,), changed=3, repeats=1)
    assert go_client.HOW_TO_INSTALL in table.compared
    assert len(table.rows) == 6


def test_the_command_runs_the_named_benchmarks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name runs only that benchmark; no name runs all."""
    monkeypatch.setattr(logs, "setup", lambda *_: None)
    tables = {name: Table(name, "nothing", ("what",), (("a",),)) for name in ("one", "two")}
    monkeypatch.setattr(command, "BENCHMARKS", {name: (lambda _, name=name: tables[name],) for name in tables})
    assert command.main(["two"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["", "two: nothing", "what", "a"]
    assert command.main([]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "nothing" in line] == [
        "one: nothing",
        "two: nothing",
    ]


def test_the_duration_of_a_measurement(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`--minutes` is passed to benchmarks that have a duration, and refused for the others."""
    monkeypatch.setattr(logs, "setup", lambda *_: None)
    row = Table("freshness", "nothing", ("minutes",), ())
    monkeypatch.setattr(command, "BENCHMARKS", {"freshness": (lambda _, minutes: replace(row, rows=((minutes,),)),)})
    assert command.main(["freshness", "--minutes=45"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "     45"
    monkeypatch.undo()
    with pytest.raises(SystemExit) as ended:
        command.main(["scrape", "--minutes=45"])
    assert ended.value.code == 2
    assert "--minutes is for freshness, fleet" in capsys.readouterr().err


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown name ends with code 2 and a list of the benchmarks."""
    with pytest.raises(SystemExit) as ended:
        command.main(["speed"])
    assert ended.value.code == 2
    assert (
        "no benchmark speed; there are scrape, connections, answers, memory, startup, freshness, simulation, "
        "planning, fleet, replay, drops, drops-long, drops-cost, delay" in capsys.readouterr().err
    )
