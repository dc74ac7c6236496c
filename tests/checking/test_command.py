"""`check-config --online` against the simulated API, over real HTTP."""

import os
import pty
import re
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn
from zoneinfo import ZoneInfo

import pytest
import yaml

from exporter.api.budget import RequestBudget
from exporter.api.client import Client
from exporter.checking import command
from exporter.config.load import load
from exporter.config.settings import Settings
from exporter.errors import BudgetSpent, StateWriteFailed
from exporter.model import Group, MinuteRange, Target
from exporter.simulator.app import SimulatorApp
from exporter.simulator.endpoints import Endpoints
from exporter.simulator.faults import Faults, FaultSwitch
from exporter.simulator.reply import Refusal, Reply, bad_request, unauthorized
from exporter.simulator.series import World
from exporter.simulator.server import SimulatorServer
from exporter.storage.state import State, open_state
from tests.support.busiest import busiest
from tests.support.fakes import FakeClock
from tests.support.peer import Peer, reply
from tests.support.processes import MERCHANT, Program, configuration, python, wait_until
from tests.support.world import final_sums

# A minute begins, in the evening of Tokyo.
NOW = 1_750_075_200.0


class Api:
    """The simulated API and the files of an exporter, with one clock."""

    def __init__(
        self, app: SimulatorApp, url: str, clock: FakeClock, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.app = app
        self.world = app.world
        self.clock = clock
        self.folder = folder
        self.url = url
        self._monkeypatch = monkeypatch

    @property
    def state(self) -> Path:
        return self.folder / "state.db"

    def media(self, count: int, merchant_id: str = MERCHANT) -> list[str]:
        return list(self.world.catalog(merchant_id))[:count]

    def merchant(self, media: int = 3, limit: int = 45, merchant_id: str = MERCHANT, **keys: Any) -> dict[str, Any]:
        entries = [{"id": media_id} for media_id in self.media(media, merchant_id)]
        return {"id": merchant_id, "requests_per_minute": limit, "media": entries, **keys}

    def settings(self, *merchants: dict[str, Any], **api: Any) -> Settings:
        path = self.folder / "config.yaml"
        given = merchants or (self.merchant(),)
        path.write_text(yaml.safe_dump(configuration(self.url, *given, api=api, storage={"path": str(self.state)})))
        return load(path, {})

    def before_answers(self, hook: Callable[[str], object]) -> None:
        """Call a function with the parameters before each answer with rows; another call replaces it."""
        usual = Endpoints.aggregations

        def answer(merchant_id: str, parameters: Any, *rest: Any) -> Reply:
            hook(parameters.get("media_id", ""))
            return usual(self.app._endpoints, merchant_id, parameters, *rest)

        self._monkeypatch.setattr(self.app._endpoints, "aggregations", answer)

    def requests(self, merchant_id: str = MERCHANT) -> list[str]:
        """The endpoints of the merchant's requests, in their order."""
        return [each.endpoint for each in self.app.journal.newest() if each.merchant_id == merchant_id]


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    yield from _api(tmp_path, monkeypatch, FakeClock(NOW))


def _api(folder: Path, monkeypatch: pytest.MonkeyPatch, clock: FakeClock, zone: str = "Asia/Tokyo") -> Iterator[Api]:
    world = World(zone=ZoneInfo(zone), media=12)
    app = SimulatorApp(world, FaultSwitch(world, clock.now, Faults(rate_limit=1000)), clock.now)
    with SimulatorServer(app) as server:
        yield Api(app, server.url, clock, folder, monkeypatch)


def rows(out: str) -> dict[str, list[str]]:
    """The cells of each media in the tables, by its id."""
    return {
        line.split()[0]: re.split(r" {2,}", line)[1:] for line in out.splitlines() if re.match("[0-9a-f]{32} ", line)
    }


def test_every_media_is_shown(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """A row has the id, the name and the kind of the catalog, and the plays of the last hour; the zone fits."""
    assert command.run(api.settings(api.merchant(12)), api.clock) == 0
    out, err = capsys.readouterr()
    shown = rows(out)
    # The newest minute has no row yet.
    minutes = MinuteRange(int(NOW // 60) - 60, int(NOW // 60) - 2)
    for media_id, media in api.world.catalog(MERCHANT).items():
        sums = final_sums(api.world, MERCHANT, media_id, Target.PLAY_COUNT, Group.ALL, minutes)
        # The check itself takes some seconds, in which a minute may become visible and another old.
        name, kind, plays = shown[media_id]
        assert (name, kind) == (media.name, media.encode_type)
        assert int(plays.replace(",", "")) == pytest.approx(sums[""], rel=0.1, abs=30)
    assert "time zone: Asia/Tokyo fits: the newest plays are " in out
    assert err.startswith("checking 12 media: 26 requests, about 35s at 45 requests a minute\n")
    assert sorted(api.requests()) == sorted(["auth-token", *["aggregations"] * 13, *["medias"] * 12])
    assert [path.name for path in api.folder.iterdir()] == ["config.yaml"]


def test_what_is_refused_is_shown(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """A media that is gone, one without permission and one with another error are rows with the reason and the fix."""
    gone, forbidden, secret, wrong, good = api.media(5)
    api.app.faults.set(gone=[gone])

    def refuse(media_id: str) -> None:
        refusals = {
            forbidden: Refusal(403, "FORBIDDEN", "no"),
            secret: unauthorized("no"),
            wrong: bad_request("never"),
        }
        if media_id in refusals:
            raise refusals[media_id]

    api.before_answers(refuse)
    assert command.run(api.settings(api.merchant(5)), api.clock) == 4
    shown = rows(capsys.readouterr().out)
    permission = 'give the account the permission "Analytics" on it'
    assert shown[gone][-1] == "catalog and plays: not found (404); check the id, or the ref_id"
    assert shown[forbidden][-1] == f"plays: refused (403); {permission}"
    assert shown[secret][-1] == f"plays: refused (401); {permission}"
    assert shown[wrong][-1] == "plays: 400 BAD_REQUEST: never"
    assert len(shown[good]) == 3


@pytest.mark.parametrize(
    ("zone", "configured", "seconds"), [("Asia/Tokyo", "UTC", "9h"), ("Asia/Kolkata", "Asia/Tokyo", "3h30m")]
)
def test_a_wrong_zone_is_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    zone: str,
    configured: str,
    seconds: str,
) -> None:
    """Plays in the future show it at once, old plays when they move on; it is a problem, with what to set."""
    for api in _api(tmp_path, monkeypatch, FakeClock(NOW), zone):
        api.settings()
        assert command.run(api.settings(timezone=configured), api.clock) == 1
        out, err = capsys.readouterr()
        assert re.search(rf"time zone: The time zone is wrong: by api.timezone \({configured}\) .* are {seconds}", out)
        waited = api.clock.now() - NOW
        assert ("checked again in 4m" in err) == (waited > 240) == (seconds == "3h30m")


def test_a_quiet_merchant_is_no_wrong_zone(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Old plays that stand still are looked at twice, and then the zone is not known; that is no problem."""
    api.app.faults.set(stalled_since=NOW - 2 * 3600)
    api.clock.advance(60)
    assert command.run(api.settings(api.merchant(1)), api.clock) == 0
    out, err = capsys.readouterr()
    assert "time zone: not known: the newest plays are 2h" in out
    assert err.count("checked again in 4m") == 1
    assert api.requests().count("aggregations") == 3


def test_a_range_that_the_api_refuses_is_shortened(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """The zone is found with shorter ranges, as by the daemon."""
    api.app.faults.set(max_range=120)
    assert command.run(api.settings(api.merchant(1), timezone="UTC"), api.clock) == 1
    assert "The time zone is wrong" in capsys.readouterr().out
    assert command.run(api.settings(api.merchant(1)), api.clock) == 0
    assert "time zone: Asia/Tokyo fits" in capsys.readouterr().out


def test_a_refused_account_does_not_stop_the_others(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """It is one line and one request; the other merchant is checked, and nothing secret is shown."""
    usual = api.app._endpoints.token

    def token(merchant_id: str, *rest: Any) -> Reply:
        if merchant_id == "refused":
            raise unauthorized("the password pa55-for-tests is not accepted")
        return usual(merchant_id, *rest)

    api.app._endpoints.token = token  # type: ignore[assignment, method-assign]
    settings = api.settings(api.merchant(2, merchant_id="refused"), api.merchant(2))
    assert command.run(settings, api.clock) == 1
    out, err = capsys.readouterr()
    assert "ended early: auth-token: 401 " in out
    assert "check the merchant's id, api_key, mail_address and password" in out
    assert "2 media not checked" in out
    assert api.requests("refused") == ["auth-token"]
    assert set(rows(out)) == set(api.media(2))
    assert "pa55" not in out + err


def test_a_rate_limit_is_waited_for(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """After a 429 a line says how long the check waits; then the same request is sent again, and all is known."""
    api.app.faults.set(rate_limit=10)
    assert command.run(api.settings(api.merchant(12)), api.clock) == 0
    out, err = capsys.readouterr()
    assert re.search(rf"^{MERCHANT}: .*: 429 .*; next request in \d+s$", err, re.MULTILINE)
    assert len(rows(out)) == 12


def test_a_rate_limit_that_stays_ends_it(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """After three 429s in a row the check of a merchant ends with one line."""

    def refuse(media_id: str) -> None:
        if media_id:
            raise Refusal(429, "TOO_MANY_REQUESTS", "no", {"Retry-After": "20"})

    api.before_answers(refuse)
    assert command.run(api.settings(), api.clock) == 1
    out, err = capsys.readouterr()
    assert err.count("; next request in 20s") == 2
    assert re.search("^ended early: .*429 .*other tools of the merchant share the limit", out, re.MULTILINE)


@pytest.mark.parametrize("server", ["nothing", "no TLS", "a wrong certificate", "no API"])
def test_an_api_that_cannot_be_used(
    api: Api, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, server: str, free_port: int
) -> None:
    """No server, no TLS, a certificate that nobody trusts, another server: one line each, after one request."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    with Peer(lambda _: reply(200, "no token"), tls=server == "a wrong certificate") as peer:
        urls = {
            "nothing": f"http://127.0.0.1:{free_port}/v1",
            "no TLS": api.url.replace("http:", "https:"),
            "a wrong certificate": peer.url,
            "no API": peer.url,
        }
        api.url = urls[server]
        assert command.run(api.settings(), api.clock) == 1
    lines = capsys.readouterr().out.splitlines()
    expected = {
        "nothing": "refused the connection",
        "no TLS": "TLS with ",
        "a wrong certificate": "the TLS certificate of ",
        "no API": "auth-token: ",
    }
    (line,) = (line for line in lines if line.startswith("ended early: "))
    assert expected[server] in line
    assert lines[-2:] == ["3 media not checked", ""]


def test_an_outage_meanwhile_ends_it(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """After three failures in a row the rest is not asked for; what was known before is shown."""
    first, *_ = api.media(12)

    def fail_later(media_id: str) -> None:
        if media_id == first:
            api.app.faults.set(error_rate=1.0)

    api.before_answers(fail_later)
    assert command.run(api.settings(api.merchant(12)), api.clock) > 1
    out = capsys.readouterr().out
    assert re.search("^ended early: .*500", out, re.MULTILINE)
    assert len(rows(out)[first]) == 3
    assert re.search(r"^\d+ media not checked$", out, re.MULTILINE)
    assert len(api.requests()) == 1 + 3 + 3


@pytest.mark.parametrize("state", ["free", "none"])
def test_the_budget_is_kept_over_runs(api: Api, state: str) -> None:
    """In no 60 seconds more requests leave than configured, even if one check follows another at once."""
    if state == "free":
        open_state(api.state, api.clock.now).close()
    settings = api.settings(api.merchant(3, limit=4))
    for _ in range(3):
        assert command.run(settings, api.clock) == 0
    assert len(api.requests()) == 3 * 8
    assert busiest(api.app.journal, MERCHANT) == 4
    assert api.state.exists() == (state == "free")


def test_an_exporter_that_starts_knows_of_the_check(api: Api) -> None:
    """The requests of the check are in a state file that is free, and it is free again afterwards."""
    open_state(api.state, api.clock.now).close()
    settings = api.settings(api.merchant(1, limit=4))
    assert command.run(settings, api.clock) == 0
    state = open_state(api.state, api.clock.now)
    try:
        assert RequestBudget(state, MERCHANT, 4, api.clock).wait() > 50
    finally:
        state.close()


class _Together(FakeClock):
    """A clock with which a busy exporter runs while the check waits."""

    exporter: Callable[[], None]

    def sleep(self, seconds: float) -> None:
        while seconds > 0:
            self.advance(min(seconds, 1.0))
            self.exporter()
            seconds -= 1.0


def test_a_running_exporter_and_the_check_stay_within_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A busy exporter, and checks one after the other, send at most 50 requests in 60 seconds."""
    clock = _Together(NOW)
    for api in _api(tmp_path, monkeypatch, clock):
        settings = api.settings(api.merchant(3))
        api.app.faults.set(rate_limit=50)
        state = open_state(api.state, clock.now)
        budget = RequestBudget(state, MERCHANT, 45, clock)
        client = Client(settings.api, settings.merchants[0], budget, observe=lambda _: None, clock=clock)

        def exporter(client: Client = client, media_id: str = api.media(1)[0]) -> None:
            try:
                while True:
                    client.media(media_id)
            except BudgetSpent:
                pass

        clock.exporter = exporter
        try:
            for _ in range(2):
                assert command.run(settings, clock) == 0
        finally:
            client.close()
            state.close()
        assert f"{api.state}: an exporter is running, which does not know of these requests" in capsys.readouterr().err
        assert 45 < busiest(api.app.journal, MERCHANT) <= 50
        assert clock.now() - NOW > 2 * 8 * 60 / 5
        assert {request.status for request in api.app.journal.newest()} == {200}


def test_no_share_is_left_beside_an_exporter(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """With requests_per_minute of the whole plan, nothing is sent beside an exporter; another merchant is checked."""
    state = open_state(api.state, api.clock.now)
    try:
        settings = api.settings(api.merchant(1, limit=50, merchant_id="whole"), api.merchant(1, limit=47))
        assert command.run(settings, api.clock) == 1
    finally:
        state.close()
    out, err = capsys.readouterr()
    assert f"ended early: not checked: the exporter of {api.state} may use all that the API's default plan" in out
    assert api.requests("whole") == []
    assert busiest(api.app.journal, MERCHANT) == 3
    assert "checking 1 media: 4 requests, about 1m20s at 3 requests a minute" in err


def test_a_state_file_that_cannot_be_used(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """It is left as it is, and the check sends as little as beside an exporter."""
    api.state.write_text("something else, " * 100)
    assert command.run(api.settings(), api.clock) == 0
    assert "; an exporter may be running, which does not know of these requests" in capsys.readouterr().err
    assert api.state.read_text() == "something else, " * 100
    assert busiest(api.app.journal, MERCHANT) <= 5


def test_a_state_file_that_fails_meanwhile(
    api: Api, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request whose time cannot be written is not sent; the tables with what is known come before the error."""
    open_state(api.state, api.clock.now).close()
    usual = State.transaction
    first, second, *_ = api.media(3)

    def fail(_: State) -> NoReturn:
        raise StateWriteFailed("the disk is full")

    def fill_disk(media_id: str) -> None:
        if media_id == second:
            monkeypatch.setattr(State, "transaction", fail)

    api.before_answers(fill_disk)
    with pytest.raises(StateWriteFailed, match="the disk is full"):
        command.run(api.settings(), api.clock)
    monkeypatch.setattr(State, "transaction", usual)
    out = capsys.readouterr().out
    assert set(rows(out)) == {first, second}
    assert "1 media not checked" in out
    assert len(api.requests()) == 6


def test_an_exporter_must_not_start_at_once(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a state file no exporter knows of the requests; that is said if both together may exceed the plan."""
    for limit, told in ((45, True), (20, False)):
        assert command.run(api.settings(api.merchant(3, limit=limit)), api.clock) == 0
        assert ("start the exporter in a minute" in capsys.readouterr().err) == told


# ---- the program ----


def _program(api: Api) -> list[str]:
    return [*python("-m", "exporter"), "check-config", "config.yaml", "--online"]


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """The API by the machine's clock, and a budget that no test waits for."""
    world = World(media=6)
    app = SimulatorApp(world, FaultSwitch(world, time.time, Faults(rate_limit=10_000)), time.time)
    with SimulatorServer(app) as server:
        api = Api(app, server.url, FakeClock(), tmp_path, monkeypatch)
        api.settings(api.merchant(3, limit=6000))
        yield api


def test_the_program_in_a_pipe(real: Api) -> None:
    """Tables and `ok:` are on standard output, without a bar and escape codes; problems end it with 1."""
    done = subprocess.run(_program(real), cwd=real.folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (
        0,
        "ok: 1 merchant, 3 media, 4 streams, 6000 requests a minute allowed",
    )
    assert done.stderr.startswith("checking 3 media: 8 requests, about 1s at 6000 requests a minute\n")
    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stdout + done.stderr
    real.app.faults.set(gone=real.media(1))
    done = subprocess.run(_program(real), cwd=real.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ok:" not in done.stdout
    assert done.stderr.splitlines()[-1] == "smartstream-exporter: 1 problem; the tables say which"


@pytest.mark.parametrize("piped", [False, True])
def test_the_bar_needs_a_terminal(real: Api, piped: bool) -> None:
    """On a terminal a bar shows the progress on standard error; with standard output in a pipe there is none."""
    controller, terminal = pty.openpty()
    # Rows and columns: a bar is as wide as the terminal.
    termios.tcsetwinsize(terminal, (25, 80))
    try:
        out = subprocess.PIPE if piped else terminal
        with subprocess.Popen(_program(real), cwd=real.folder, stdout=out, stderr=terminal) as process:
            process.communicate()
        assert process.returncode == 0
        shown = os.read(controller, 100_000).decode()
    finally:
        os.close(controller)
        os.close(terminal)
    assert ("7/7" in shown) == (not piped)


@pytest.mark.unmeasured
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_shows_what_is_known(real: Api, number: int) -> None:
    """A signal ends the program with 130, after a table of the media that were checked; no traceback."""
    first, second, *_ = real.media(3)

    def hang(media_id: str) -> None:
        if media_id == second:
            real.app.faults.set(hang_rate=1.0)

    real.before_answers(hang)
    with Program(_program(real), real.folder) as program:
        wait_until("the second media is answered", lambda: real.requests().count("aggregations") >= 3)
        program.send(number)
        assert program.ended() == 130
    assert set(rows(program.output)) - {second} == {first}
    assert [line for line in program.lines if re.match("[12] media not checked", line)]
    assert "smartstream-exporter: interrupted; the tables have what was known by then" in program.lines
    assert "Traceback" not in program.output
