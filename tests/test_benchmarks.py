"""That the benchmarks run and have figures; how fast anything is, no test says."""

from collections.abc import Callable
from pathlib import Path

import pytest

import benchmarks.__main__ as command
from benchmarks import answers, memory, scrape, startup
from benchmarks.prepared import prepare
from benchmarks.process import running
from benchmarks.report import Figures, Table
from exporter import logs

# Each benchmark in a tiny size, what its rows are about, and how many columns of figures it has.
TINY: dict[str, tuple[Callable[[Path], Table], list[str | int], int]] = {
    "scrape": (
        lambda folder: scrape.run(folder, series=(100,), repeats=2),
        [
            "plain generate_latest",
            "plain generate_latest, OpenMetrics",
            "text",
            "text, gzip",
            "OpenMetrics",
            "OpenMetrics, gzip",
        ],
        2,
    ),
    "answers": (lambda folder: answers.run(folder, media=(1,), answers=10, repeats=2), [10], 3),
    "memory": (lambda folder: memory.run(folder, series=(100,), repeats=1), [100], 3),
    "startup": (
        lambda folder: startup.run(folder, series=(0, 100), repeats=1),
        ["Python, same imports", "daemon", "daemon"],
        3,
    ),
}


def test_every_benchmark_is_tested() -> None:
    """No benchmark is without a test in a tiny size."""
    assert list(TINY) == list(command.BENCHMARKS)


@pytest.mark.parametrize("name", TINY)
def test_a_benchmark_has_its_figures(name: str, tmp_path: Path) -> None:
    """Each benchmark runs, and has a row with figures for each thing that it compares."""
    run, rows, columns = TINY[name]
    table = run(tmp_path)
    assert table.title == name
    assert [row[0] for row in table.rows] == rows
    assert all(len(row) == len(table.headings) for row in table.rows)
    last = [cell for cell in table.rows[-1] if isinstance(cell, Figures)]
    assert len(last) == columns
    # Growth of memory this small can be anything.
    assert name == "memory" or all(value > 0 for cell in last for value in cell.values)


def test_the_page_has_the_series_that_were_prepared(tmp_path: Path) -> None:
    """A daemon that starts with a prepared state file shows just as many series of media, as they were counted."""
    prepared = prepare(tmp_path, 200, now=1_780_000_000.0)
    with running(prepared) as daemon:
        page = daemon.scrape().decode()
        assert min(daemon.memory("VmRSS"), daemon.memory("VmHWM")) > 1
    counters = [line for line in page.splitlines() if line.startswith("smartstream_plays_total{")]
    assert [line.rpartition(" ")[2] for line in counters] == [str(_plays(31))] * 2


def _plays(minutes: int) -> float:
    newest = 1_780_000_000 // 60 - 3
    return float(sum(1 + minute % 97 for minute in range(newest - minutes + 1, newest + 1)))


def test_preparing_again_takes_what_is_there(tmp_path: Path) -> None:
    """What was prepared for one benchmark is used by the next."""
    first = prepare(tmp_path, 100, now=1_780_000_000.0)
    written = first.settings.storage.path.stat().st_mtime_ns
    assert prepare(tmp_path, 100, now=1_790_000_000.0) == first
    assert first.settings.storage.path.stat().st_mtime_ns == written


def test_a_table_is_aligned() -> None:
    """Words stand to the left, numbers to the right; figures are the median and the spread."""
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


def test_the_command_runs_what_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A name runs that benchmark alone; none runs all."""
    monkeypatch.setattr(logs, "setup", lambda *_: None)
    tables = {name: Table(name, "nothing", ("what",), (("a",),)) for name in ("one", "two")}
    monkeypatch.setattr(command, "BENCHMARKS", {name: lambda _, name=name: tables[name] for name in tables})
    assert command.main(["two"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["", "two: nothing", "what", "a"]
    assert command.main([]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "nothing" in line] == [
        "one: nothing",
        "two: nothing",
    ]


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A name that there is no benchmark for ends with code 2 and a list of those that there are."""
    with pytest.raises(SystemExit) as ended:
        command.main(["speed"])
    assert ended.value.code == 2
    assert "no benchmark speed; there are scrape, answers, memory, startup" in capsys.readouterr().err
