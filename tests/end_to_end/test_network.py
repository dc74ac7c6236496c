"""The exporter behind a proxy with a password, with a client certificate of a private CA."""

import time
from pathlib import Path

import pytest

from exporter.model import Group, Target
from exporter.simulator.app import SimulatorApp
from exporter.simulator.faults import Faults, FaultSwitch
from exporter.simulator.series import World
from exporter.simulator.server import SimulatorServer
from tests.support.processes import MERCHANT, Daemon, configuration, wait_until
from tests.support.state import minutes_counted
from tests.support.tls import Authority, ConnectProxy, TlsFront
from tests.support.world import final_sums

pytestmark = pytest.mark.real_time

HOST = "api.example.com"
PASSWORD = "pr0xy-pa55"


def test_plays_are_counted_through_a_proxy_and_tls(tmp_path: Path) -> None:
    """The counters are what the API served; every request goes through the proxy with the client certificate, and the
    password is nowhere.
    """
    private = Authority(tmp_path)
    private.client()
    world = World(media=2)
    faults = Faults(late_minutes=0, omit_zero=False, rate_limit=1000)
    with (
        SimulatorServer(SimulatorApp(world, FaultSwitch(world, time.time, faults), time.time)) as api,
        TlsFront(private.server(HOST, clients=private), api.address[1]) as front,
        ConnectProxy(f"user:{PASSWORD}", where=lambda _: front.port) as proxy,
    ):
        config = configuration(
            f"https://{HOST}/v1",
            {"requests_per_minute": 500},
            api={
                "proxy_url_env": "PROXY_FOR_TESTS",
                "tls_config": {
                    "ca_file": "private-ca.pem",
                    "cert_file": "private-client.pem",
                    "key_file": "private-client.key",
                },
            },
            poll={"settle": "1s"},
        )
        environ = {"PROXY_FOR_TESTS": f"http://user:{PASSWORD}@127.0.0.1:{proxy.port}"}
        with Daemon(tmp_path, config, "--log.level=debug", environ=environ) as daemon:
            counted = "smartstream_merchant_plays_total"
            wait_until("plays are counted", lambda: daemon.values(counted).get((MERCHANT,), 0) > 0)
            pages = [daemon.get(path).text for path in ("/", "/api/v1/status", "/config", "/metrics")]
            daemon.kill()
        total, minutes = minutes_counted(tmp_path / "state.db")
    assert total == final_sums(world, MERCHANT, "", Target.PLAY_COUNT, Group.ALL, minutes)[""] > 0
    assert set(proxy.tunnels) == {f"{HOST}:443"}
    assert proxy.refused == 0
    assert front.peers == [["client@example.com"]] * len(proxy.tunnels)
    assert f"http://<secret>@127.0.0.1:{proxy.port}" in pages[2]
    assert PASSWORD not in daemon.output + "".join(pages)
