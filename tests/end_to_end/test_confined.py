"""The installed exporter with no more rights than the files in deploy/ give it."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from exporter.simulator.app import SimulatorApp
from exporter.simulator.faults import FaultSwitch
from exporter.simulator.series import World
from exporter.simulator.server import SimulatorServer
from tests.support.container import GROUP, USER, Container
from tests.support.processes import configuration, get, wait_until

pytestmark = pytest.mark.real_time

UNIT = Path(__file__).parents[2] / "deploy/systemd/smartstream-exporter.service"


def simulated_api() -> SimulatorServer:
    world = World(media=3)
    return SimulatorServer(SimulatorApp(world, FaultSwitch(world, time.time), time.time))


def wait_counted(container: Container) -> None:
    """Wait until it has polled, counted, and served what it has counted."""
    url = container.line(r"\bmsg=started\b.* open=(\S+?)/( |$)")[1]
    wait_until("the exporter is ready", lambda: get(f"{url}/-/ready").status_code == 200)
    wait_until("it has counted", lambda: "smartstream_merchant_data_timestamp_seconds{" in get(f"{url}/metrics").text)
    assert get(f"{url}/-/healthy").status_code == 200
    assert get(f"{url}/").status_code == 200


def test_a_random_user_on_a_read_only_root(tmp_path: Path) -> None:
    """As any user of group 0, without capabilities and without a name, on a root that nobody can write, the exporter
    polls, serves and stops, and writes nothing but its state file in /data.
    """
    with simulated_api() as api, Container(tmp_path, configuration(api.url)) as container:
        wait_counted(container)
        status = Path(f"/proc/{container.pid}/status").read_text()
        assert re.findall(r"^(?:Uid|Gid):\t(\d+)", status, re.MULTILINE) == [str(USER), str(GROUP)]
        assert set(re.findall(r"^Cap\w+:\t(\w+)", status, re.MULTILINE)) == {"0" * 16}
        assert {"/", "/etc", "/usr"} <= set(container.read_only())
        assert "/data" not in container.read_only()
        container.send(signal.SIGTERM)
        assert container.ended() == 0
    assert [path.name for path in container.data.iterdir()] == ["state.db"]
    assert (container.data / "state.db").stat().st_uid == USER


def allowed(systemd_analyze: Path) -> set[str]:
    """The system calls that the unit's SystemCallFilter allows."""
    listing = subprocess.run(
        [systemd_analyze, "syscall-filter", "--no-pager"], capture_output=True, text=True, check=True
    ).stdout
    groups: dict[str, list[str]] = {}
    for line in listing.splitlines():
        if line.startswith("@"):
            calls = groups.setdefault(line.strip(), [])
        elif re.match(r" +[@\w]", line):
            calls.append(line.strip())

    def members(name: str) -> set[str]:
        return set().union(*map(members, groups[name])) if name.startswith("@") else {name}

    # systemd adds @default to a list of what is allowed.
    result = members("@default")
    for names in re.findall(r"^SystemCallFilter=(.*)$", UNIT.read_text(), re.MULTILINE):
        listed = set().union(*map(members, names.removeprefix("~").split()))
        result = result - listed if names.startswith("~") else result | listed
    return result


def test_the_unit_allows_its_system_calls(tmp_path: Path, systemd_analyze_bin: Path) -> None:
    """From its start to its end, the exporter makes only system calls that the systemd unit allows, and no memory that
    is both writable and executable.
    """
    if not shutil.which("strace"):
        pytest.skip("strace is missing: apt-get install --no-install-recommends strace")
    strace = ["strace", "--follow-forks", "--quiet=all", "--output=/data/calls"]
    with simulated_api() as api, Container(tmp_path, configuration(api.url), under=strace) as container:
        wait_counted(container)
        daemon = int(Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text())
        os.kill(daemon, signal.SIGTERM)
        assert container.ended() == 0
    calls = (container.data / "calls").read_text(errors="replace")
    made = set(re.findall(r"^\d+ +(\w+)\(", calls, re.MULTILINE))
    assert {"execve", "listen"} <= made
    assert made - allowed(systemd_analyze_bin) == set()
    assert re.findall(r"^\d+ +(?:mmap|mprotect)\(.*PROT_WRITE\|PROT_EXEC.*$", calls, re.MULTILINE) == []
