"""The demo, as a user starts it, and what happens in its first minutes."""

import signal
from pathlib import Path

import pytest

from exporter.assembly import Polling
from exporter.config.settings import Settings
from exporter.serving.instruments import Instruments
from exporter.simulator.app import SimulatorApp
from exporter.simulator.command import config_for
from exporter.simulator.control import DEFAULT_MERCHANT
from exporter.simulator.faults import Faults, FaultSwitch
from exporter.simulator.gate import Credentials
from exporter.simulator.series import World
from exporter.simulator.stage import SHARE_LEFT, plan_drop
from exporter.storage.state import open_state
from exporter.views import IncidentState
from tests.support.audience import folder_in_memory
from tests.support.direct import URL, DirectAdapter
from tests.support.fakes import FakeClock
from tests.support.processes import Program, get, python, wait_until


def test_the_demo_shows_plays(tmp_path: Path) -> None:
    """The demo prints the address to open, the drop that it will stage, and the line that injects a fault; that line
    works. At the address, plays, a page and JSON that name the media, and documentation appear at once. It leaves no
    files.
    """
    command = [*python("-m", "exporter"), "demo", "--web.listen-address=127.0.0.1:0"]
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with Program(command, tmp_path, {"TMPDIR": str(temporary)}) as demo:
        url = demo.line(r"msg=started .*open=(http://127\.0\.0\.1:\d+/)")[1]

        def plays() -> float:
            lines = get(f"{url}metrics").text.splitlines()
            return sum(float(line.split()[-1]) for line in lines if line.startswith("smartstream_last_minute_plays{"))

        wait_until("plays are shown", lambda: plays() > 0)
        page = get(url)
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        media = World(seed=1).catalog(DEFAULT_MERCHANT).values()
        assert len(media) >= 12
        assert [each.name for each in media if each.name not in page.text] == []
        [merchant] = get(f"{url}api/v1/status").json()["merchants"]
        assert [each["name"] for each in merchant["media"]] == [each.name for each in media]
        assert get(f"{url}docs").text.startswith("# smartstream-exporter\n")
        assert "smartstream_merchant_last_minute_plays{" in get(f"{url}metrics").text
        dropping = demo.line(r"A drop, from \d\d:\d\d UTC on: +(\S+)media\?merchant=demo&media=(\w+)$")
        assert (dropping[1], dropping[2] in {each.id for each in media}) == (url, True)
        assert [line for line in demo.lines if line.startswith("ts=") and "level=info" not in line] == []
        curl = demo.line(r"curl -d '(.*)' (http://127\.0\.0\.1:\d+/control/faults)$")
        assert get(curl[2]).json()["error_rate"] == 0
        with Program(["curl", "-s", "--noproxy", "*", "-d", curl[1], curl[2]], tmp_path) as pasted:
            assert pasted.ended() == 0
        assert get(curl[2]).json()["error_rate"] == 1
        demo.send(signal.SIGTERM)
        assert demo.ended() == 0
    assert list(temporary.iterdir()) == []


# In Tokyo: an evening, an early morning, and a Saturday at noon.
@pytest.mark.parametrize("start", [1_749_985_580.0, 1_749_927_995.0, 1_749_870_005.0])
def test_the_staged_drop_is_found(tmp_path: Path, start: float) -> None:
    """All media are judged two minutes after the start. The staged drop is above the threshold of the warning not later
    than seven minutes after its first minute, and no other media has an incident.
    """
    clock = FakeClock(start)
    world = World(seed=1)
    switch = FaultSwitch(world, clock.now, Faults(late_jitter=0.5, revise_up=0.2))
    drop = plan_drop(world, DEFAULT_MERCHANT, start)
    config = config_for(world, URL, Credentials())
    # In real seconds, which pass while the API makes up its history.
    config["api"]["timeout"] = "1m"
    settings = Settings.model_validate(config | {"poll": {"concurrency": 1}})
    app = SimulatorApp(world, switch, clock.now)
    with folder_in_memory(tmp_path) as folder:
        state = open_state(Path(folder) / "state.db", clock.now)
        polling = Polling(settings, state, Instruments(), clock, lambda: DirectAdapter(app))
        poller = polling.pollers[DEFAULT_MERCHANT]

        def dropping() -> set[str]:
            """Run a round, and return the media above the threshold."""
            # As the scheduler: now, and then at the start of each minute.
            poller.round()
            clock.to_next_minute()
            seen = polling.snapshot().merchants[DEFAULT_MERCHANT]
            # One odd minute of another media is not confirmed by the next ones.
            lasting = {each.media_id for each in seen.incidents if each.state is not IncidentState.BEGINNING}
            assert lasting <= {drop.media.id}
            return {name for name, each in seen.media.items() if each.verdict is not None and each.verdict.ratio > 0.4}

        while clock.now() < start + 120:
            assert dropping() == set()
        merchant = polling.snapshot().merchants[DEFAULT_MERCHANT]
        assert merchant.learning_seconds == 0.0
        assert [each.name for each in merchant.media.values() if each.verdict is None] == []
        while clock.now() < drop.begins:
            assert dropping() == set()
        switch.set(drop={drop.media.id: SHARE_LEFT})
        found: set[str] = set()
        while drop.media.id not in found:
            assert clock.now() <= drop.begins + 7 * 60
            found = dropping()
        polling.close()
        state.close()
