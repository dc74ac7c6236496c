"""`backfill`: the file, its cost, and the reasons to stop. The API is simulated, over real HTTP."""

import contextlib
import re
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from exporter import cli
from exporter.api import answers, limits
from exporter.backfill import command
from exporter.backfill.command import Order
from exporter.config.load import load
from exporter.config.settings import Settings
from exporter.errors import HistoryError, InputError, StateLocked
from exporter.model import Group, MinuteRange, Target
from exporter.serving.families import FAMILIES
from exporter.simulator.app import SimulatorApp
from exporter.simulator.endpoints import Endpoints
from exporter.simulator.faults import Faults, FaultSwitch
from exporter.simulator.reply import Reply, bad_request
from exporter.simulator.series import World
from exporter.simulator.server import SimulatorServer
from exporter.storage.state import open_state
from tests.support.busiest import busiest
from tests.support.fakes import FakeClock
from tests.support.processes import MERCHANT, Program, Prometheus, configuration, python, wait_until
from tests.support.world import final_sums

HOUR = 3600

# The start of an hour some days ago; local days of the API begin at 15:00.
NOON = time.time() // 86400 * 86400 - 5 * 86400 + 12 * HOUR

COLLECT = [
    {"target": "play_count", "groups": ["all", "device"]},
    {"target": "play_time"},
    {"target": "session_count"},
    {"target": "key_delivery_count"},
]
# The values that add up, by counter.
COUNTED = {
    "smartstream_plays_total": (Target.PLAY_COUNT, Group.ALL),
    "smartstream_plays_by_device_total": (Target.PLAY_COUNT, Group.DEVICE),
    "smartstream_play_time_seconds_total": (Target.PLAY_TIME, Group.ALL),
    "smartstream_key_deliveries_total": (Target.KEY_DELIVERY_COUNT, Group.ALL),
}

Labels = tuple[tuple[str, str], ...]


class Api:
    """The simulated API and the files of an exporter, with one clock.

    Attributes:
        clock: The time.
        world: The values of the API.
        app: The application of the API.
        folder: The folder of the files.
        monkeypatch: The fixture of the test.
    """

    def __init__(
        self, app: SimulatorApp, url: str, clock: FakeClock, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.app = app
        self.monkeypatch = monkeypatch
        self.world = app.world
        self.clock = clock
        self.folder = folder
        self._url = url

    @property
    def output(self) -> Path:
        return self.folder / "past.om"

    def media(self, count: int) -> list[str]:
        return list(self.world.catalog(MERCHANT))[:count]

    def config(self, media: int = 2, limit: int = 500, **poll: Any) -> dict[str, Any]:
        entries = [{"id": media_id} for media_id in self.media(media)]
        merchant = {"requests_per_minute": limit, "collect": COLLECT, "media": entries}
        return configuration(self._url, merchant, poll=poll, storage={"path": str(self.folder / "state.db")})

    def settings(self, media: int = 2, limit: int = 500, **poll: Any) -> Settings:
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump(self.config(media, limit, **poll)))
        return load(path, {})

    def run(self, settings: Settings, since: float = NOON, hours: float = 3, **labels: str) -> None:
        order = Order(since, since + hours * HOUR, self.output, labels)
        command.run(settings, order, self.clock)

    def before_answers(self, hook: Callable[[], object]) -> None:
        """Call a function before each answer with rows; another call replaces it."""
        usual = Endpoints.aggregations

        def answer(*arguments: Any) -> Reply:
            hook()
            return usual(self.app._endpoints, *arguments)

        self.monkeypatch.setattr(self.app._endpoints, "aggregations", answer)

    def requested(self, status: int = 200) -> list[str]:
        """The queries for rows that got this status."""
        requests = self.app.journal.newest()
        return [each.query for each in requests if (each.endpoint, each.status) == ("aggregations", status)]

    def expected_sums(self, minutes: MinuteRange) -> dict[tuple[str, Labels], float]:
        """The expected sum of each counter with a play in these minutes, by its name and labels."""
        expected_sums: dict[tuple[str, Labels], float] = {}
        for name, (target, group) in COUNTED.items():
            for media_id in ["", *self.media(2)]:
                owner = {"merchant_id": MERCHANT} | ({"media_id": media_id} if media_id else {})
                shown = name if media_id else name.replace("smartstream_", "smartstream_merchant_")
                for label, total in final_sums(self.world, MERCHANT, media_id, target, group, minutes).items():
                    labels = owner | ({group.value: label} if label else {})
                    if total or not label:
                        expected_sums[shown, tuple(sorted(labels.items()))] = total
        return expected_sums


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    clock = FakeClock(time.time())
    world = World(media=6)
    app = SimulatorApp(world, FaultSwitch(world, clock.now, Faults(rate_limit=1000)), clock.now)
    with SimulatorServer(app) as server:
        yield Api(app, server.url, clock, tmp_path, monkeypatch)


def series(path: Path) -> dict[tuple[str, Labels], list[tuple[float, float]]]:
    """The samples of a file, (time, value), by name and labels."""
    found: dict[tuple[str, Labels], list[tuple[float, float]]] = {}
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            name, inside, value, at = re.fullmatch(r"(\w+)\{(.*)\} (\S+) (\d+)", line).groups()  # type: ignore[union-attr]
            labels = tuple(sorted(re.findall(r'(\w+)="([^"]*)"', inside)))
            found.setdefault((name, labels), []).append((float(at), float(value)))
    return found


def by_minute(expected_sums: Mapping[tuple[str, Labels], Any]) -> dict[tuple[str, Labels], Any]:
    """The series that have minutes."""
    return {key: value for key, value in expected_sums.items() if "key_deliveries" not in key[0]}


def test_the_sums_are_those_of_the_api(api: Api) -> None:
    """Each counter grows by the sum of all its minutes, from 0, with a sample a minute, up to the end."""
    api.run(api.settings(), hours=3)
    found = by_minute(series(api.output))
    assert {key: samples[-1][1] for key, samples in found.items()} == by_minute(
        api.expected_sums(MinuteRange(int(NOON // 60), int(NOON // 60) + 179))
    )
    for (name, _), samples in found.items():
        assert samples[0][1] == 0
        assert samples[-1][0] == NOON + 3 * HOUR
        if "by_device" not in name:
            assert samples[0][0] == NOON
        assert {later[0] - sooner[0] for sooner, later in pairwise(samples)} == {60}
        assert all(later[1] >= sooner[1] for sooner, later in pairwise(samples))
    assert sorted(path.name for path in api.folder.iterdir()) == [
        "config.yaml",
        "past.om",
        "state.db",
    ]


@pytest.mark.unmeasured
def test_a_day_is_counted_when_it_ends(api: Api) -> None:
    """DRM keys of a whole local day are counted in its last minute; incomplete days are not."""
    midnight = NOON + 3 * HOUR
    api.run(api.settings(), since=NOON, hours=24 + 3 + 5)
    keys = {key: samples for key, samples in series(api.output).items() if "key_deliveries" in key[0]}
    day = MinuteRange(int(midnight // 60), int(midnight // 60) + 1439)
    expected_sums = api.expected_sums(day)
    assert len(keys) == 3
    for key, samples in keys.items():
        assert {value for at, value in samples if at < midnight + 86400} == {0}
        assert {value for at, value in samples if at >= midnight + 86400} == {expected_sums[key]}
    assert max(expected_sums[key] for key in keys) > 0


def test_the_file_is_openmetrics_of_the_same_families(api: Api) -> None:
    """The names, HELP and labels are those of /metrics, the samples of families and series are together, and labels are
    added.
    """
    api.run(api.settings(), hours=0.1, job="smartstream", instance='a"b\\c')
    text = api.output.read_text()
    assert text.endswith("\n# EOF\n")
    known = {family.name.removesuffix("_total"): family for family in FAMILIES}
    parsed = list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]  # the library's gap
    assert {f"{family.name}_total" for family in parsed} == {
        name.replace("smartstream_", scope) for name in COUNTED for scope in ("smartstream_", "smartstream_merchant_")
    }
    for family in parsed:
        assert (family.type, family.documentation) == ("counter", known[family.name].help)
        for sample in family.samples:
            assert set(sample.labels) == {*known[family.name].labels, "job", "instance"}
            assert sample.labels["instance"] == 'a"b\\c'


def test_prometheus_sees_the_same_growth(api: Api, prometheus_bin: Path, promtool_bin: Path, free_port: int) -> None:
    """Promtool creates blocks, and in a real Prometheus a counter grows by the sum of the minutes."""
    api.run(api.settings(), hours=3)
    made = subprocess.run(
        [promtool_bin, "tsdb", "create-blocks-from", "openmetrics", api.output, api.folder / "tsdb"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    with Prometheus(prometheus_bin, api.folder, free_port, {}) as prometheus:
        written = series(api.output)
        for name in {name for name, _ in written}:
            # Not `increase()`: it extrapolates, and since Prometheus 3 a range excludes the sample at its start.
            growth = prometheus.query(f"{name} - {name} offset 3h", at=NOON + 3 * HOUR)
            assert len(growth) == sum(of == name for of, _ in written)
            for grown in growth:
                expected = written[name, tuple(sorted(grown["metric"].items()))][-1][1]
                assert float(grown["value"][1]) == pytest.approx(expected, abs=1e-6)


def test_fetched_data_is_not_fetched_again(api: Api) -> None:
    """After a failure of the API, the same command continues where it stopped, and the sums are the same."""
    settings = api.settings()
    api.app.faults.set(max_range=60)

    def fail_once() -> None:
        if len(api.requested()) == 12:
            api.app.faults.set(error_rate=1.0)

    api.before_answers(fail_once)
    with pytest.raises(HistoryError, match=r"5 requests in a row failed.*500.*the same command goes on there"):
        api.run(settings)
    assert not api.output.exists()
    api.before_answers(lambda: api.app.faults.set(error_rate=0.0))
    api.app.faults.set(error_rate=0.0)
    api.run(settings)
    answered = [query for query in api.requested() if "key_delivery" not in query]
    assert len(answered) == len(set(answered)) > 13
    found = by_minute(series(api.output))
    assert {key: samples[-1][1] for key, samples in found.items()} == by_minute(
        api.expected_sums(MinuteRange(int(NOON // 60), int(NOON // 60) + 179))
    )


def test_long_ranges_are_halved_once(api: Api) -> None:
    """Ranges that the API refuses are halved until it accepts them; the working length is used for all streams."""
    api.app.faults.set(max_range=100)
    api.run(api.settings(), hours=6)
    refused = api.requested(400)
    assert len(refused) == 2
    assert max(map(len, series(api.output).values())) == 361


@pytest.mark.unmeasured
def test_ranges_with_too_large_answers_are_halved(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges whose answers are too large are halved, too; if the shortest is still too large, only its stream is left
    out.
    """
    monkeypatch.setattr(limits, "MOST_VALUES", 400)
    api.run(api.settings(), hours=6)
    assert max(map(len, series(api.output).values())) == 361


@pytest.mark.parametrize("place", ["the client", "the columns"])
def test_a_stream_with_a_defect_is_left_out(api: Api, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """An answer that raises an unexpected exception costs its whole stream, and no other."""
    api.app.faults.set(max_range=60)
    bad, good = api.media(2)
    where, name = (answers, "rows") if place == "the client" else (command, "columns_of")
    original = getattr(where, name)
    calls: Counter[object] = Counter()

    def fail(first: Any, second: Any, *rest: Any, **options: Any) -> Any:
        stream = second if place == "the client" else first.stream
        calls[stream] += 1
        # After a good answer for its first part.
        if stream.media_id == bad and calls[stream] == 2:
            raise KeyError("secret")
        return original(first, second, *rest, **options)

    monkeypatch.setattr(where, name, fail)
    with structlog.testing.capture_logs() as logs:
        api.run(api.settings())
    written = api.output.read_text()
    assert f'media_id="{good}"' in written
    assert f'media_id="{bad}"' not in "".join(line for line in written.splitlines() if "key_deliveries" not in line)
    errors = [entry["event"] for entry in logs if entry["log_level"] == "error"]
    assert errors
    assert all(
        re.search(rf"^{bad}/.* is left out: .*unexpected KeyError at test_command.py:\d+$", each) for each in errors
    )


def test_the_budget_is_kept_over_runs(api: Api) -> None:
    """In no 60 seconds more requests leave than configured, even if a second run follows at once."""
    settings = api.settings(limit=4)
    api.run(settings)
    api.output.rename(api.folder / "first.om")
    api.run(settings)
    assert len(api.app.journal.newest()) > 20
    assert busiest(api.app.journal, MERCHANT) == 4


def test_a_missing_media_is_left_out(api: Api) -> None:
    """Its series are missing, all others are there; if none is left, that is an error."""
    gone, there = api.media(2)
    api.app.faults.set(gone=[gone])
    api.run(api.settings())
    assert gone not in api.output.read_text()
    assert there in api.output.read_text()


def test_no_history_at_all_is_an_error(api: Api) -> None:
    """If the API refuses every stream, no file is written."""

    def refuse() -> None:
        raise bad_request("never")

    api.before_answers(refuse)
    with pytest.raises(InputError, match="no history of any stream"):
        api.run(api.settings())
    assert not api.output.exists()


def test_a_refused_account_ends_it(api: Api) -> None:
    """A refused password is not tried again."""
    api.app.faults.set(token_refused=True)
    with pytest.raises(HistoryError, match="auth-token: 401"):
        api.run(api.settings())
    assert len(api.app.journal.newest()) == 1


def test_a_short_outage_does_not_end_it(api: Api) -> None:
    """A few failures in a row, 429s included, are retried."""
    api.app.faults.set(error_rate=0.4, rate_limit=6)
    api.run(api.settings(limit=30))
    assert len(api.requested(429)) > 0
    found = by_minute(series(api.output))
    assert {key: samples[-1][1] for key, samples in found.items()} == by_minute(
        api.expected_sums(MinuteRange(int(NOON // 60), int(NOON // 60) + 179))
    )


def test_label_values_beyond_the_limit_are_other(api: Api) -> None:
    """They are counted together, so the sum over the label is right."""
    api.run(api.settings(max_label_values=2))
    devices = {
        key: samples for key, samples in series(api.output).items() if key[0] == "smartstream_plays_by_device_total"
    }
    media = api.media(1)[0]
    mine = {
        dict(labels)["device"]: samples[-1][1]
        for (_, labels), samples in devices.items()
        if ("media_id", media) in labels
    }
    assert len(mine) == 3
    assert mine["other"] > 0
    whole = final_sums(
        api.world, MERCHANT, media, Target.PLAY_COUNT, Group.ALL, MinuteRange(int(NOON // 60), int(NOON // 60) + 179)
    )
    assert sum(mine.values()) == whole[""]


@pytest.mark.unmeasured
def test_an_interrupt_says_how_to_continue(api: Api) -> None:
    """SIGINT ends the program with one line and 130, and the same command continues with the missing part."""
    config = api.folder / "config.yaml"
    api.settings()
    command = [
        *python("-m", "exporter"),
        "backfill",
        f"--config.file={config}",
        f"--from={NOON:.0f}",
        f"--to={NOON + 3 * HOUR:.0f}",
        f"--output={api.output}",
    ]

    def hang_later() -> None:
        if len(api.requested()) == 4:
            api.app.faults.set(hang_rate=1.0)

    api.before_answers(hang_later)
    with Program(command, api.folder) as program:
        wait_until("some answers are there", lambda: len(api.requested()) >= 5)
        program.send(signal.SIGINT)
        assert program.ended() == 130
    message = "smartstream-exporter: interrupted; what is fetched is kept, the same command goes on there"
    assert program.lines[-1] == message
    assert not [line for line in program.lines if "Traceback" in line]
    api.before_answers(lambda: None)
    api.app.faults.set(hang_rate=0.0)
    with Program(command, api.folder) as program:
        assert program.ended() == 0, program.output
    assert [line for line in program.lines if re.search("level=info msg=fetching .*fetched_before=(33|42)%", line)]
    # The interrupted request, and perhaps one whose answer was under way.
    assert len(api.requested()) - len(set(api.requested())) <= 2


@pytest.mark.parametrize(
    ("since", "until", "message"),
    [
        (NOON, NOON, "--to: not later than --from"),
        (NOON, NOON + 59, "--to: not later than --from"),
        (20260131, NOON, "--from: 1970-08-23T11:48:51Z is too early"),
        (NOON, NOON + 30 * 86400, "--to: rows may still come for the minutes after 20"),
    ],
)
def test_impossible_times(api: Api, since: float, until: float, message: str) -> None:
    """A range without a minute, before any data, or with unsettled minutes is one line."""
    with pytest.raises(InputError) as refused:
        command.run(api.settings(), Order(since, until, api.output, {}), api.clock)
    assert str(refused.value).startswith(message)
    assert not list(api.folder.glob("past.om*"))


def test_an_existing_file_is_not_replaced(api: Api) -> None:
    """Nothing is requested, and the file stays."""
    api.output.write_text("precious")
    with pytest.raises(InputError, match="is there already"):
        api.run(api.settings())
    assert api.output.read_text() == "precious"
    assert api.app.journal.newest() == ()


def test_a_checkpoint_of_other_arguments_is_refused(api: Api) -> None:
    """A checkpoint of another period, or another file, is refused in one line."""
    api.app.faults.set(token_refused=True)
    with pytest.raises(HistoryError):
        api.run(api.settings())
    with pytest.raises(InputError, match=r"past\.om\.partial: started with another period"):
        api.run(api.settings(), hours=4)
    (api.folder / "past.om.partial").write_text("no database at all, " * 100)
    with pytest.raises(InputError, match=r"past\.om\.partial: cannot be used as the checkpoint file"):
        api.run(api.settings())


def test_a_missing_folder_is_reported(api: Api) -> None:
    """If the file cannot be created, there is one line before anything is requested."""
    with pytest.raises(InputError, match=r"nowhere/past\.om\.partial: cannot be used as the checkpoint file"):
        command.run(api.settings(), Order(NOON, NOON + HOUR, api.folder / "nowhere" / "past.om", {}), api.clock)
    assert api.app.journal.newest() == ()


def test_a_disk_that_fills_up_is_reported(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the output cannot be written completely, there is one line and no partial file, and fetched data is kept."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(InputError, match=r"past\.om: cannot be written \(No space left on device\)"):
            api.run(api.settings())
    assert not api.output.exists()
    assert not list(api.folder.glob("*.tmp"))
    before = len(api.requested())
    api.run(api.settings())
    assert len(api.requested()) == before


def test_a_running_exporter_keeps_its_budget(api: Api) -> None:
    """While an exporter uses the state file, backfill does not begin, and prints what to do."""
    settings = api.settings()
    state = open_state(settings.storage.path, api.clock.now)
    try:
        with pytest.raises(StateLocked, match=r"an exporter runs on this state file.*stop it meanwhile"):
            api.run(settings)
    finally:
        state.close()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--from=yesterday"], "argument --from: 'yesterday' is not a time; write "),
        (["--label=job"], "argument --label: 'job' is not a label; write NAME=VALUE"),
        (["--label=__name__=x"], "argument --label: '__name__=x' is not a label"),
        (["--label=job=a\nb"], "argument --label: 'job=a\\nb' is not a label"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], flags: list[str], message: str) -> None:
    """An invalid value of a flag ends the program with 2 and a line that names the flag."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["backfill", "--from=2026-01-01", "--to=2026-01-02", "--output=x", *flags])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_labels_of_the_series_are_reserved(api: Api) -> None:
    """A label that a series already has cannot be added."""
    with pytest.raises(InputError, match="--label: the series have a label media_id of their own"):
        api.run(api.settings(), media_id="x")


def test_each_answer_is_stored_in_the_checkpoint(api: Api) -> None:
    """Each answer is in the checkpoint when the next request leaves."""
    seen = []

    def look() -> None:
        with contextlib.closing(sqlite3.connect(api.folder / "past.om.partial")) as db:
            seen.append(db.execute("SELECT count(*) FROM progress").fetchone()[0])

    api.before_answers(look)
    api.run(api.settings())
    assert seen == list(range(12))
