"""`replay`: alerts from a file and from the API, the errors of bad files, and the picture."""

import json
import math
import os
import pty
import random
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml

from exporter import cli
from exporter.backtest import command, parallel, plays_csv, plot
from exporter.backtest.alerts import Alert, fired_alerts, whole_merchant
from exporter.backtest.command import Output
from exporter.backtest.plays_csv import Recording
from exporter.config.load import load
from exporter.config.settings import DEFAULT_THRESHOLDS, Settings
from exporter.drops.baseline import Baseline, Observation
from exporter.drops.detector import Together, broad
from exporter.drops.tracker import Tracker
from exporter.errors import InputError, StateLocked
from exporter.model import Minute
from exporter.simulator.app import SimulatorApp
from exporter.simulator.faults import Faults, FaultSwitch
from exporter.simulator.series import World
from exporter.simulator.server import SimulatorServer
from exporter.storage.state import open_state
from exporter.times import format_instant
from exporter.views import Incident, IncidentState, Thresholds, of_whole_merchant
from tests.support.busiest import busiest
from tests.support.fakes import FakeClock
from tests.support.processes import MERCHANT, Program, configuration, python

# 2026-01-05T00:00:00Z.
FIRST = 1_767_571_200 // 60
SVG = "{http://www.w3.org/2000/svg}"

Rows = list[tuple[int, str, float]]


def steady(media_id: str = "a", minutes: int = 480, plays: int = 40, fall: tuple[int, int] = (300, 340)) -> Rows:
    """Constant plays with a fall to a tenth, from one minute to before another."""
    return [
        (FIRST + at, media_id, (plays + at * 7 % 5 - 2) // (10 if fall[0] <= at < fall[1] else 1))
        for at in range(minutes)
    ]


def write(path: Path, rows: Rows, form: Callable[[int], str] = lambda minute: str(minute * 60)) -> Path:
    lines = [f"{form(minute)},{media_id},{plays:g}" for minute, media_id, plays in rows]
    path.write_text("\n".join(["minute,media_id,plays", *lines]) + "\n")
    return path


def run(capsys: pytest.CaptureFixture[str], path: Path, *flags: str) -> list[dict[str, Any]]:
    """The output of `replay --csv` as JSON."""
    assert cli.main(["replay", f"--csv={path}", "--format=json", *flags]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def minute(alert: Mapping[str, Any], key: str) -> int:
    """A time of an alert as minutes after the first."""
    return next(at for at in range(10_000) if format_instant((FIRST + at) * 60) == alert[key])


def recordings(rows: Rows) -> list[Recording]:
    by_media: dict[str, list[tuple[int, float]]] = {}
    for at, media_id, plays in rows:
        by_media.setdefault(media_id, []).append((at, plays))
    return [Recording(each, *map(list, zip(*values, strict=True))) for each, values in by_media.items()]


def noisy(seed: int, media: int = 4, hours: int = 30) -> list[Recording]:
    """Plays of a day and a bit, with falls of one media, of all of them, and gaps."""
    draw = random.Random(seed)
    falls = {each: draw.randrange(600, hours * 60 - 60) for each in range(media)}
    of_all = draw.randrange(600, hours * 60 - 60)
    made = []
    for each in range(media):
        minutes, plays = [], []
        peak = draw.choice([3, 20, 60])
        gap = draw.randrange(hours * 60)
        for at in range(hours * 60):
            if gap <= at < gap + draw.choice([1, 40, 200]):
                continue
            mean = peak * (1.2 + math.sin(at / 229))
            mean *= 0.1 if falls[each] <= at < falls[each] + 30 else 1
            mean *= 0.4 if of_all <= at < of_all + 40 else 1
            minutes.append(FIRST + at)
            plays.append(float(max(0, round(draw.gauss(mean, math.sqrt(mean))))))
        made.append(Recording(f"media-{each}", minutes, plays))
    return made


def minute_by_minute(played: Sequence[Recording]) -> list[Alert]:
    """The alerts as a daemon finds them: minute by minute, all media, every verdict."""
    every = [whole_merchant(played), *played]
    tracks = {each.media_id: Baseline() for each in every}
    plays = {each.media_id: dict(zip(each.minutes, each.plays, strict=True)) for each in every}
    last = max(each.minutes[-1] for each in played)
    together = Together()
    limits = {
        each.media_id: DEFAULT_THRESHOLDS if each.media_id else of_whole_merchant(DEFAULT_THRESHOLDS) for each in every
    }
    trackers = {media_id: Tracker(media_id, limit) for media_id, limit in limits.items()}
    ended: dict[str, list[Incident]] = {media_id: [] for media_id in limits}
    for now in range(FIRST, last + 1):
        observations = {
            media_id: observation
            for media_id, track in tracks.items()
            for observation in track.take(now, [plays[media_id].get(now)])
        }
        for media_id, observation in observations.items():
            if media_id:
                together.add(observation)
        # The whole merchant's last.
        for media_id, observation in sorted(observations.items(), reverse=True):
            track, tracker = tracks[media_id], trackers[media_id]
            verdict = tracker.judge(observation, together.factor(observation) if media_id else 1.0, track)
            if verdict is not None and not media_id:
                seen = [
                    each if (drop := trackers[key].state.open) is None else each._replace(forecast=drop.expected)
                    for key, each in observations.items()
                    if key
                ]
                verdict = verdict if broad(seen) else verdict._replace(ratio=0.0)
            changed = tracker.step(observation, verdict, track)
            if changed is not None and changed.state is not IncidentState.OPEN:
                ended[media_id].append(changed)
    for media_id, tracker in trackers.items():
        if tracker.is_open and (still := tracker.incident(tracks[media_id])) is not None:
            ended[media_id].append(still)
    found = [alert for each in every for alert in fired_alerts(each, ended[each.media_id], last)]
    return sorted(found, key=lambda each: (each.start, each.media_id, each.severity))


def in_two_steps(played: Sequence[Recording], processes: int = 1) -> list[Alert]:
    limits = dict.fromkeys(["", *(each.media_id for each in played)], DEFAULT_THRESHOLDS)
    return list(parallel.backtest(played, limits, processes=processes, progress=lambda _: None).alerts)


# ---- alerts ----


def test_a_fall_is_an_alert(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A fall to a tenth is a warning, a critical alert and one of the merchant; they begin soon after its begin and end
    soon after its end.
    """
    found = run(capsys, write(tmp_path / "plays.csv", steady()))
    assert {(each["media_id"], each["severity"]) for each in found} == {
        ("a", "warning"),
        ("a", "critical"),
        ("", "merchant"),
    }
    for each in found:
        assert list(each)[:7] == ["media_id", "severity", "start", "end", "ratio", "expected", "actual"]
        assert minute(each, "onset") == 300
        assert each["plays_lost"] == pytest.approx(40 * 36, rel=0.05)
        assert each["state"] == "ended"
        assert 302 <= minute(each, "start") <= 308
        assert 340 <= minute(each, "end") <= 360
        assert each["ratio"] == pytest.approx(0.9, abs=0.05)
        assert each["expected"] == pytest.approx(40, abs=3)
        assert 3 <= each["actual"] <= 4


def test_the_text_output_has_the_same_alerts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Without --format, an alert is one line of text; the number of alerts is on standard error."""
    assert cli.main(["replay", f"--csv={write(tmp_path / 'plays.csv', steady())}"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("2026-01-05T05:0")
    assert "  merchant  the whole merchant: " in out
    assert "  critical  a: 9" in out
    assert err == "3 alerts; 1 media, 0.3 media-days of plays\n"


def test_constant_plays_give_no_alert(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Without a fall nothing is printed."""
    assert run(capsys, write(tmp_path / "plays.csv", steady(fall=(0, 0)))) == []


def test_the_order_of_rows_does_not_matter(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Rows in any order, with minutes in either form, are the same recording."""
    rows = steady("a") + steady("b", fall=(200, 230))
    expected = run(capsys, write(tmp_path / "sorted.csv", rows))
    random.Random(1).shuffle(rows)
    mixed = write(tmp_path / "mixed.csv", rows, form=lambda at: format_instant(at * 60) if at % 2 else str(at * 60))
    assert len(expected) >= 4
    assert run(capsys, mixed) == expected


def test_missing_minutes_are_not_zero(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Minutes that are not in the file are no drop, whatever form the gap has."""
    rows = [row for row in steady(fall=(0, 0)) if not 300 <= row[0] - FIRST < 340]
    assert run(capsys, write(tmp_path / "plays.csv", rows)) == []


def test_the_merchant_is_unknown_where_a_media_has_a_gap() -> None:
    """A gap with rows within an hour on both sides makes the merchant's minute unknown; before the first row and after
    the last no gap does.
    """
    rows = [(FIRST + at, "a", 1.0) for at in range(300)]
    rows += [(FIRST + at, "b", 2.0) for at in range(100, 300) if not (110 <= at < 120 or 130 <= at < 260)]
    whole = whole_merchant(recordings(rows))
    plays = dict(zip(whole.minutes, whole.plays, strict=True))
    hidden = {at for at in range(300) if FIRST + at not in plays}
    # The long gap has no minutes with rows within an hour on both sides.
    assert hidden == set(range(110, 120))
    assert plays[FIRST + 50] == 1.0
    assert plays[FIRST + 105] == 3.0
    assert plays[FIRST + 200] == 1.0


def test_a_firing_alert_ends_with_the_data(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """An alert that still fires at the newest minute of the file ends there."""
    found = run(capsys, write(tmp_path / "plays.csv", steady(minutes=320)))
    assert {minute(each, "end") for each in found} == {319}


def test_evaluate_from_reports_only_later_alerts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """With --evaluate-from the rows before are history: alerts that begin then or later are the same."""
    rows = steady("a") + steady("b", fall=(200, 230))
    path = write(tmp_path / "plays.csv", rows)
    every = run(capsys, path)
    since = format_instant((FIRST + 290) * 60)
    later = run(capsys, path, f"--evaluate-from={since}")
    assert later == [each for each in every if each["start"] >= since]
    assert 0 < len(later) < len(every)


@pytest.mark.unmeasured
@pytest.mark.parametrize("which", range(6))
def test_the_alerts_are_those_of_a_daemon(which: int) -> None:
    """Two steps over whole recordings give exactly the alerts of a run minute by minute with all media."""
    played = noisy(which)
    found = in_two_steps(played)
    assert found == minute_by_minute(played)
    assert found


@pytest.mark.unmeasured
def test_several_processes_give_the_same_alerts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work distributed over processes gives the same alerts, to the last digit."""
    played = noisy(7, media=20, hours=20)
    alone = in_two_steps(played)
    monkeypatch.setattr(parallel, "WORTH_SHARING", 0)
    done: list[int] = []
    limits = dict.fromkeys(["", *(each.media_id for each in played)], DEFAULT_THRESHOLDS)
    shared = parallel.backtest(played, limits, processes=2, progress=done.append)
    assert list(shared.alerts) == alone
    assert alone
    assert sum(done) == sum(len(each.minutes) for each in played)


def fail(*_: object, **__: object) -> None:
    raise MemoryError("for a reason")


def test_a_failing_process_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in a process is raised, and work that has not begun is not waited for."""
    monkeypatch.setattr(parallel, "WORTH_SHARING", 0)
    monkeypatch.setattr(parallel, "_scan_some", fail)
    with pytest.raises(MemoryError, match="for a reason"):
        in_two_steps(noisy(1), processes=2)


def end(*_: object, **__: object) -> None:
    os._exit(9)


@pytest.mark.unmeasured
def test_a_killed_process_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends without a result is reported in a line, and not waited for."""
    monkeypatch.setattr(parallel, "WORTH_SHARING", 0)
    monkeypatch.setattr(parallel, "_scan_some", end)
    with pytest.raises(InputError, match="one of the processes was killed"):
        in_two_steps(noisy(1), processes=2)


def test_merged_sums_are_the_sums() -> None:
    """Media counted separately and merged have the sums of media counted together."""
    observations = [Observation(FIRST, r5, forecast, 1.0, (), ()) for r5, forecast in ((2.0, 8.0), (4.0, 4.0))]
    apart, together = Together(), Together()
    for observation in observations:
        together.add(observation)
        alone = Together()
        alone.add(observation)
        apart.merge(alone)
    assert apart == together
    assert together.broad(FIRST) is broad(observations) is True


# ---- progress and interrupts ----


def test_a_terminal_has_a_progress_bar(tmp_path: Path) -> None:
    """A progress bar is drawn only if standard error is a terminal; the alerts are on standard output."""
    path = write(tmp_path / "plays.csv", steady())
    command = [*python("-m", "exporter"), "replay", f"--csv={path}"]
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    on_terminal = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, check=True)
    os.close(theirs)
    drawn = os.read(ours, 65536).decode()
    os.close(ours)
    assert "replaying: 100%" in drawn
    plain = subprocess.run(command, capture_output=True, check=True)
    assert plain.stderr.decode() == "3 alerts; 1 media, 0.3 media-days of plays\n"
    assert plain.stdout == on_terminal.stdout


@pytest.mark.unmeasured
def test_an_interrupt_is_one_line(tmp_path: Path) -> None:
    """SIGINT and SIGTERM end it with 130 and one line."""
    os.mkfifo(tmp_path / "plays.csv")
    for number in (signal.SIGINT, signal.SIGTERM):
        with Program([*python("-m", "exporter"), "replay", f"--csv={tmp_path}/plays.csv"], tmp_path) as program:
            # The open succeeds once the other side reads.
            with (tmp_path / "plays.csv").open("w"):
                program.send(number)
                assert program.ended() == 130
            assert program.lines == ["smartstream-exporter: interrupted"]


# ---- thresholds ----


def config_file(folder: Path, **merchant: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(configuration("http://127.0.0.1:9/v1", merchant)))
    return path


def test_thresholds_are_those_of_the_configuration(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A media's own thresholds count, an excluded media has no alert, others have the merchant's."""
    rows = [*steady("a"), *steady("b"), *steady("c"), *steady("d", fall=(0, 0), plays=400)]
    path = write(tmp_path / "plays.csv", rows)
    media = [{"id": "a", "drop": {"critical": 0.97}}, {"id": "b", "drop": False}]
    found = run(capsys, path, f"--config.file={config_file(tmp_path, media=media)}")
    assert {(each["media_id"], each["severity"]) for each in found} == {
        ("a", "warning"),
        ("c", "warning"),
        ("c", "critical"),
    }


def test_a_file_needs_no_configuration(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless a configuration is named, none is read, even if there is an invalid one."""
    (tmp_path / "config.yaml").write_text("broken: [")
    monkeypatch.chdir(tmp_path)
    assert len(run(capsys, write(tmp_path / "plays.csv", steady()))) == 3


def test_a_merchant_can_be_excluded() -> None:
    """If the merchant has no thresholds, neither it nor its media have alerts."""
    played = recordings(steady())
    limits: dict[str, Thresholds | None] = {"": None, "a": None}
    assert parallel.backtest(played, limits, processes=1, progress=lambda _: None).alerts == []


# ---- bad files ----


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ":1: the header is not minute,media_id,plays"),
        ("minute,media,plays\n", ":1: the header is not minute,media_id,plays"),
        ("minute,media_id,plays\n", ": no rows after the header"),
        ("minute,media_id,plays\n60,a,1\n120,a\n", ":3: 2 columns where there are 3"),
        ("minute,media_id,plays\n60,a,1,2\n", ":2: 4 columns where there are 3"),
        ("minute,media_id,plays\n60,a,1\n\nyesterday,a,1\n", ":4: 'yesterday' is not a time; write "),
        ("minute,media_id,plays\n2026-01-01T00:00:00,a,1\n", ":2: '2026-01-01T00:00:00' has no time zone; add Z"),
        ("minute,media_id,plays\n60,,1\n", ":2: no media_id"),
        ("minute,media_id,plays\n60,a\x1b,1\n", ":2: media_id 'a\\x1b' cannot be read"),
        ("minute,media_id,plays\n60,a,-1\n", ":2: plays '-1' is not a number of plays"),
        ("minute,media_id,plays\n60,a,\n", ":2: plays '' is not a number of plays"),
        ("minute,media_id,plays\n60,a,nan\n", ":2: plays 'nan' is not a number of plays"),
        ("minute,media_id,plays\n60,a,inf\n", ":2: plays 'inf' is not a number of plays"),
        ("minute,media_id,plays\n60,a,1\n120,a,1\n60,b,1\n119,a,2\n60,b,1\n", ":5: a second row for 1970-01-01T00:01"),
        ('minute,media_id,plays\n60,"a"b,1\n', ":2: not CSV ("),
    ],
)
def test_a_bad_file_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, message: str) -> None:
    """Each error is one line with the file and, if known, the line; the exit code is 1."""
    path = tmp_path / "plays.csv"
    path.write_text(text)
    assert cli.main(["replay", f"--csv={path}"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(f"smartstream-exporter: {path}{message}")


def test_an_unknown_encoding_is_reported(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A file in another encoding, or in none, is one line."""
    path = tmp_path / "plays.csv"
    path.write_bytes(b"minute,media_id,plays\n60,\xe9,1\n")
    assert cli.main(["replay", f"--csv={path}"]) == 1
    assert cli.main(["replay", f"--csv={tmp_path}/nowhere.csv"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert "is not UTF-8 text" in first
    assert "cannot be read (No such file or directory)" in second


def test_a_spreadsheets_byte_order_mark_is_accepted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A byte order mark and Windows' line ends are no error."""
    path = write(tmp_path / "plays.csv", steady())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert len(run(capsys, path)) == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "one of the arguments --csv --media is required"),
        (["--csv=x", "--media=y"], "argument --media: not allowed with argument --csv"),
        (["--media=y", "--days=0"], "argument --days: '0' is not a number from 1 to 400"),
        (["--csv=x", "--evaluate-from=noon"], "argument --evaluate-from: 'noon' is not a time"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], flags: list[str], message: str) -> None:
    """Flags that do not fit together end the program with 2 and a line that names them."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["replay", *flags])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


# ---- the picture ----


def test_the_picture_shows_media_and_alerts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """It is well-formed, has a strip for the merchant and each media, and a mark for each alert."""
    rows = steady("a <&> b") + steady("b", fall=(0, 0))
    picture = tmp_path / "plays.svg"
    found = run(capsys, write(tmp_path / "plays.csv", rows), f"--plot={picture}")
    root = ET.parse(picture).getroot()
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"the whole merchant", "a <&> b", "b"} <= set(texts)
    marks = [rect.get("class") for rect in root.iter(f"{SVG}rect") if rect.get("class")]
    assert sorted(marks, key=str) == sorted(each["severity"] for each in found)
    assert marks
    # A line for the plays of each strip, and one for the expected plays.
    assert len([path for path in root.iter(f"{SVG}path") if path.get("stroke-width") == "1.2"]) == 6


def test_the_picture_begins_with_evaluate_from(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """With --evaluate-from it shows the time from then on; if nothing is left to draw, that is an error."""
    picture = tmp_path / "plays.svg"
    path = write(tmp_path / "plays.csv", steady())
    run(capsys, path, f"--plot={picture}", f"--evaluate-from={(FIRST + 290) * 60}")
    texts = {text.text for text in ET.parse(picture).getroot().iter(f"{SVG}text")}
    assert "01-05 05:00" in texts
    assert "01-05 04:00" not in texts
    assert cli.main(["replay", f"--csv={path}", f"--plot={picture}", "--evaluate-from=2030-01-01"]) == 1
    assert "--plot: there are no plays at or after --evaluate-from" in capsys.readouterr().err


def test_a_picture_that_cannot_be_written_is_reported(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The alerts are printed, and then one line has the error of the picture."""
    path = write(tmp_path / "plays.csv", steady())
    with pytest.raises(SystemExit, match="2"):
        cli.main(["replay", f"--csv={path}", f"--plot={tmp_path}/a.png"])
    assert "does not end with .svg" in capsys.readouterr().err
    assert cli.main(["replay", f"--csv={path}", f"--plot={tmp_path}/nowhere/a.svg"]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert "nowhere/a.svg: cannot be written (No such file or directory)" in err


def test_a_long_recording_is_a_small_picture() -> None:
    """Forty media of ten days stay far below a megabyte, and a gap of a day is a gap in the line."""
    minutes = [FIRST + at for at in range(14400) if not 5000 <= at < 6440]
    plays = [float(10 + at % 60) for at in minutes]
    strip = plot.Strip("a", minutes, plays, plays, [])
    text = plot.draw("all", [strip] * 40)
    assert len(text) < 1_000_000
    lines = [path for path in ET.fromstring(text).iter(f"{SVG}path") if path.get("stroke-width") == "1.2"]
    assert len(lines) == 40 * 2 * 2


# ---- from the API ----


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(time.time())


@pytest.fixture
def api(clock: FakeClock) -> Iterator[tuple[SimulatorApp, str]]:
    world = World(media=6)
    app = SimulatorApp(world, FaultSwitch(world, clock.now, Faults(rate_limit=1000)), clock.now)
    with SimulatorServer(app) as server:
        yield app, server.url


def settings_for(url: str, folder: Path, media: Sequence[str], *more: Mapping[str, Any]) -> Settings:
    merchants = [{"media": [{"id": each} for each in media]}, *more]
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(configuration(url, *merchants, storage={"path": str(folder / "state.db")})))
    return load(path, {})


OUTPUT = Output(json=True, since=None, plot=None)


def test_the_apis_history_is_replayed(
    capsys: pytest.CaptureFixture[str],
    api: tuple[SimulatorApp, str],
    clock: FakeClock,
    tmp_path: Path,
) -> None:
    """A fall in the API's minutes is reported as from a file; live media are left out with a line, and the budget is
    kept.
    """
    app, url = api
    drama, channel, *_, news = list(app.world.catalog(MERCHANT))[:5]
    now = clock.now()
    clock.advance(-3 * 3600)
    app.faults.set(drop={drama: 0.1})
    clock.advance(1800)
    app.faults.set(drop={})
    clock.advance(now - clock.now())
    settings = settings_for(url, tmp_path, [drama, channel, news])
    command.of_api(settings, [drama, channel, news, drama], 2, OUTPUT, clock)
    out, err = capsys.readouterr()
    found = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert (drama, "critical") in {(each["media_id"], each["severity"]) for each in found}
    assert f"media {channel} is left out: it is live" in err
    assert "; 2 media, 4.0 media-days of plays" in err
    requested = [each for each in app.journal.newest() if each.endpoint == "aggregations"]
    assert len(requested) == 2
    assert busiest(app.journal, MERCHANT) <= 45


def test_minutes_before_the_first_row_are_unknown() -> None:
    """A newer media has no zeros before its first row; a later minute without a row is a zero."""
    made = command._recording("a", {FIRST + 3: 5.0, FIRST + 5: 1.0}, FIRST + 6)
    assert list(made.minutes) == [FIRST + 3, FIRST + 4, FIRST + 5, FIRST + 6]
    assert list(made.plays) == [5.0, 0.0, 1.0, 0.0]


def test_unusable_minutes_are_left_out() -> None:
    """A minute with unknown plays is no zero."""
    made = command._recording("a", {FIRST + 3: 5.0, FIRST + 4: None, FIRST + 6: 1.0}, FIRST + 6)
    assert list(made.minutes) == [FIRST + 3, FIRST + 5, FIRST + 6]
    assert list(made.plays) == [5.0, 0.0, 1.0]


def test_media_that_cannot_be_replayed(
    capsys: pytest.CaptureFixture[str], api: tuple[SimulatorApp, str], clock: FakeClock, tmp_path: Path
) -> None:
    """Ids that are not configured, of two merchants, unknown to the catalog, or without plays are one line each."""
    app, url = api
    drama = next(iter(app.world.catalog(MERCHANT)))
    other = {"id": "other", "media": [{"id": "far"}]}
    settings = settings_for(url, tmp_path, [drama, "gone"], other)
    with pytest.raises(InputError, match="--media: unknown is not in the configuration"):
        command.of_api(settings, ["unknown"], 1, OUTPUT, clock)
    with pytest.raises(InputError, match="the media are of broadcaster and other; replay one merchant at a time"):
        command.of_api(settings, [drama, "far"], 1, OUTPUT, clock)
    with pytest.raises(InputError, match="no media is left to be replayed"):
        command.of_api(settings, ["gone"], 1, OUTPUT, clock)
    assert "media gone is left out: the catalog does not know it" in capsys.readouterr().err
    clock.advance(-400 * 86400)
    app.faults.set(drop={drama: 0.0})
    clock.advance(400 * 86400)
    with pytest.raises(InputError, match="the API has no plays of these media in the last 1 days"):
        command.of_api(settings, [drama], 1, OUTPUT, clock)


def test_catalog_lookups_stay_within_the_budget(
    api: tuple[SimulatorApp, str], clock: FakeClock, tmp_path: Path
) -> None:
    """With one request a minute they take their time, also through failures, and no 60 seconds have two."""
    app, url = api
    drama = next(iter(app.world.catalog(MERCHANT)))
    merchant = {"media": [{"id": drama}], "requests_per_minute": 1}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(configuration(url, merchant, storage={"path": str(tmp_path / "state.db")})))
    app.faults.set(error_rate=0.3)
    command.of_api(load(path, {}), [drama], 1, OUTPUT, clock)
    assert busiest(app.journal, MERCHANT) == 1


def test_a_running_exporter_keeps_its_budget(api: tuple[SimulatorApp, str], clock: FakeClock, tmp_path: Path) -> None:
    """While an exporter uses the state file nothing is fetched, also not by the command line."""
    _, url = api
    settings = settings_for(url, tmp_path, ["a"])
    state = open_state(settings.storage.path, clock.now)
    try:
        with pytest.raises(StateLocked, match="stop it meanwhile"):
            command.of_api(settings, ["a"], 1, OUTPUT, clock)
        assert cli.main(["replay", f"--config.file={tmp_path / 'config.yaml'}", "--media=a"]) == 1
    finally:
        state.close()


def test_a_time_is_its_minute(tmp_path: Path) -> None:
    """A time within a minute stands for that minute."""
    path = tmp_path / "plays.csv"
    path.write_text("minute,media_id,plays\n2026-01-05T00:01:59Z,a,1.5\n1767571260.5,b,2\n")
    read: dict[str, tuple[list[Minute], list[float]]] = {
        each.media_id: (list(each.minutes), list(each.plays)) for each in plays_csv.read(path)
    }
    assert read == {"a": ([FIRST + 1], [1.5]), "b": ([FIRST + 1], [2.0])}
