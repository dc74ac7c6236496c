"""Reloading the real process, by all three ways, while it polls."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from exporter.simulator.app import SimulatorApp
from exporter.simulator.faults import FaultSwitch
from exporter.simulator.gate import Credentials
from exporter.simulator.series import World
from exporter.simulator.server import SimulatorServer
from tests.support.processes import PATIENCE, Daemon, configuration, settle_in, wait_until

pytestmark = pytest.mark.real_time

MEDIA = "smartstream_media_info"
RELOADED = "smartstream_config_last_reload_successful"


class Api:
    """A simulated API, and a configuration for it.

    Attributes:
        app: The API.
        config: The configuration.
        media: The media of the API's merchant.
        hangs: Set once an answer hangs.
        go_on: Ends that.
    """

    def __init__(self) -> None:
        world = World(media=6)
        self.hangs, self.go_on = threading.Event(), threading.Event()
        account = Credentials(password="pa55-for-tests")
        self.app = SimulatorApp(world, FaultSwitch(world, time.time), time.time, self._hang, account)
        self.media = list(world.catalog("broadcaster"))

    def _hang(self, _seconds: float) -> None:
        self.hangs.set()
        self.go_on.wait(PATIENCE)

    def serve(self, url: str) -> None:
        self.config = configuration(url, poll={"settle": settle_in(20)})
        self.listed(1)

    def listed(self, number: int) -> None:
        """Let the configuration have so many media."""
        self.config["merchants"][0]["media"] = [{"id": media_id} for media_id in self.media[:number]]


@pytest.fixture
def api() -> Iterator[Api]:
    created = Api()
    with SimulatorServer(created.app) as server:
        created.serve(server.url)
        yield created
        created.go_on.set()


def post(daemon: Daemon) -> requests.Response:
    url = daemon.line(r"\bmsg=started\b.* open=(\S+?)/( |$)")[1] + "/-/reload"
    with requests.Session() as session:
        session.trust_env = False
        return session.post(url, timeout=PATIENCE)


def write(folder: Path, config: Any) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def shown(daemon: Daemon) -> int:
    return len(daemon.values(MEDIA))


def wait_until_counted(daemon: Daemon, number: int) -> None:
    """Wait until so many media are shown and counted, and no others."""
    wait_until("they are shown", lambda: shown(daemon) == number)
    wait_until("they are counted", lambda: len(daemon.values("smartstream_plays_total")) == number)


@pytest.mark.parametrize("way", ["post", "signal", "interval"])
def test_media_are_added_and_removed_without_a_restart(api: Api, tmp_path: Path, way: str) -> None:
    """By each way a new media is counted, and a removed one goes, while the plays of the others go on."""
    flags = ["--config.auto-reload-interval=1s"] if way == "interval" else []
    with Daemon(tmp_path, api.config, *flags) as daemon:
        daemon.wait_ready()
        wait_until_counted(daemon, 1)
        before = dict(daemon.values("smartstream_plays_total"))
        for number in (3, 2):
            api.listed(number)
            write(tmp_path, api.config)
            if way == "post":
                response = post(daemon)
                assert (response.status_code, response.text) == (200, "configuration reloaded\n")
                assert shown(daemon) == number
            elif way == "signal":
                daemon.send(signal.SIGHUP)
            wait_until_counted(daemon, number)
            after = daemon.values("smartstream_plays_total")
            assert all(after[media] >= total for media, total in before.items())
        assert api.media[1] in daemon.get("/config").text
        daemon.send(signal.SIGTERM)
        assert daemon.ended() == 0


def test_media_files_and_reference_ids_take_effect_by_themselves(api: Api, tmp_path: Path) -> None:
    """A media file that changes is read again without a reload; a media by its reference id is counted once the catalog
    has named it, also after a restart; one that it does not have is pending. A broken file changes nothing.
    """
    api.config["merchants"][0].update(media=[], media_files=["live/*.csv"])
    catalog = api.app.world.catalog("broadcaster")
    folder = tmp_path / "live"
    folder.mkdir()
    (folder / "events.csv").write_text(f"id,ref_id,channel\n{api.media[0]},,news\n")
    with Daemon(tmp_path, api.config) as daemon:
        daemon.wait_ready()
        wait_until_counted(daemon, 1)
        ref_id = catalog[api.media[1]].ref_id
        (folder / "events.csv").write_text(f"id,ref_id,channel\n{api.media[0]},,news\n,{ref_id},sports\n,none-yet,\n")
        wait_until_counted(daemon, 2)
        daemon.line(f"found the media of a ref_id.*{api.media[1]}")
        assert daemon.values("smartstream_media_pending") == {("broadcaster",): 1}
        assert daemon.values("smartstream_media_files_last_read_successful") == {("broadcaster",): 1}
        (folder / "events.csv").write_text("id,channel\n/,news\n")
        wait_until(
            "the file is read again",
            lambda: daemon.values("smartstream_media_files_last_read_successful") == {("broadcaster",): 0},
        )
        wait_until_counted(daemon, 2)
        assert daemon.values(RELOADED) == {(): 1}
        assert post(daemon).status_code == 500
        daemon.kill()
    with Daemon(tmp_path, api.config) as daemon:
        daemon.wait_ready()
        daemon.line("media file error")
        assert daemon.values("smartstream_up") == {("broadcaster",): 1}
        (folder / "events.csv").write_text(f"ref_id\n{ref_id}\n")
        # The state file knows the id: no lookup comes first.
        wait_until_counted(daemon, 1)


def test_another_merchant_is_not_touched(api: Api, tmp_path: Path) -> None:
    """Merchants come and go, while those that stay keep their token and their counters."""
    with Daemon(tmp_path, api.config) as daemon:
        daemon.wait_ready()
        wait_until_counted(daemon, 1)
        before = daemon.values("smartstream_api_requests_total")
        other = {**api.config["merchants"][0], "id": "another", "media": []}
        write(tmp_path, {**api.config, "merchants": [*api.config["merchants"], other]})
        assert post(daemon).status_code == 200
        wait_until("it has signed in", lambda: daemon.values("smartstream_up").get(("another",)) == 1)
        write(tmp_path, api.config)
        assert post(daemon).status_code == 200
        assert daemon.values("smartstream_up") == {("broadcaster",): 1}
        after = daemon.values("smartstream_api_requests_total")
        assert {merchant_id for _, _, merchant_id in after} == {"broadcaster"}
        tokens = ("200", "auth-token", "broadcaster")
        assert after[tokens] == before[tokens] == 1


def test_an_invalid_configuration_changes_nothing_and_is_reported(api: Api, tmp_path: Path) -> None:
    """The response and the log have every error; the metric, the page and its JSON say so until it is valid again."""
    with Daemon(tmp_path, api.config) as daemon:
        daemon.wait_ready()
        at = daemon.values("smartstream_config_last_reload_success_timestamp_seconds")
        write(tmp_path, {**api.config, "pol": {}, "api": {**api.config["api"], "timeout": "never"}})
        response = post(daemon)
        assert response.status_code == 500
        assert "pol: " in response.text
        assert "api.timeout: " in response.text
        assert daemon.values(RELOADED) == {(): 0}
        assert daemon.values("smartstream_config_last_reload_success_timestamp_seconds") == at
        assert shown(daemon) == 1
        daemon.line('level=error msg="configuration error" .*api.timeout')
        causes = {cause["kind"] for cause in daemon.get("/api/v1/status").json()["causes"]}
        assert "configuration not accepted" in causes
        write(tmp_path, api.config)
        assert post(daemon).status_code == 200
        assert daemon.values(RELOADED) == {(): 1}
        assert "configuration not accepted" not in daemon.get("/api/v1/status").text


def test_a_reload_does_not_wait_for_a_request_that_hangs(api: Api, tmp_path: Path) -> None:
    """Requests under way go on: the reload takes effect while they hang, and their answers are counted later."""
    api.config["api"]["timeout"] = "1m"
    with Daemon(tmp_path, api.config) as daemon:
        daemon.wait_ready()
        wait_until_counted(daemon, 1)
        api.app.faults.set(hang_rate=1.0)
        assert api.hangs.wait(PATIENCE)
        api.listed(2)
        write(tmp_path, api.config)
        assert post(daemon).status_code == 200
        assert not api.go_on.is_set()
        assert shown(daemon) == 2
        api.app.faults.set(hang_rate=0.0)
        api.go_on.set()
        wait_until_counted(daemon, 2)
        assert "level=error" not in daemon.output


def test_a_rotated_password_is_used_without_a_reload(api: Api, tmp_path: Path) -> None:
    """While the API refuses the credentials, a secret file that changes is read again, and the exporter signs in."""
    secret = tmp_path / "password"
    secret.write_text("old")
    merchant = api.config["merchants"][0]
    good = merchant.pop("password")
    merchant["password_file"] = str(secret)
    with Daemon(tmp_path, api.config) as daemon:
        daemon.wait_ready()
        assert daemon.values("smartstream_up") == {("broadcaster",): 0}
        secret.write_text(good)
        wait_until("it signs in", lambda: daemon.values("smartstream_up") == {("broadcaster",): 1})
        daemon.line("secrets read again, as the API refuses the credentials")
        assert "old" not in daemon.get("/config").text
