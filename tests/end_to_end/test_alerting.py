"""From a drop of plays to a notification. Real are the exporter's parts, Prometheus with the rules, and Alertmanager
with the example configuration; the API is simulated, and a webhook receives the notifications.

A minute is shortened to a second. The exporter and the API share a clock that the test advances by a minute each
second; polling, detection and serving work as in the daemon, only its scheduler is left out. Prometheus and
Alertmanager use real time, so every duration in the rules and in Alertmanager's configuration is divided by 60, and
`time()` in a rule is replaced by the exporter's clock, which is scraped like a metric. Expressions, thresholds, texts,
groups and silences are the real ones.
"""

import contextlib
import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pytest
import yaml
from prometheus_client import Gauge

from exporter import daemon
from exporter.assembly import build_polling
from exporter.config.settings import Settings
from exporter.httpd.address import Address
from exporter.polling.scheduler import Scheduler
from exporter.process_health import ProcessHealth
from exporter.serving.instruments import Instruments
from exporter.serving.routes import make_server
from exporter.simulator.app import SimulatorApp
from exporter.simulator.faults import Faults, FaultSwitch
from exporter.simulator.series import World
from exporter.simulator.server import SimulatorServer
from exporter.storage.state import open_state
from tests.support.fakes import FakeClock
from tests.support.processes import Alertmanager, Prometheus, Webhook, merchant, reserved_port, wait_until

pytestmark = pytest.mark.real_time

EXAMPLES = Path(__file__).parents[2] / "prometheus"

# Seconds of the exporter's clock for each real second.
SPEED = 60

# An evening in Tokyo, when every media has plays.
EVENING = 1_780_056_000.5

CLOCK = "test_clock_seconds"

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def shortened(text: str) -> str:
    """A rules or configuration file with all durations divided by 60 and `time()` replaced by the exporter's clock."""
    return re.sub(r"\b(\d+)([smhd])\b", _shorter, text).replace("time()", f"scalar({CLOCK})")


def _shorter(found: re.Match[str]) -> str:
    return f"{int(found[1]) * UNITS[found[2]] * 1000 // SPEED}ms"


def alertmanager_config(webhook: str) -> dict[str, Any]:
    """The example configuration, shortened. All receivers are the webhook, with the receiver's name as the path."""
    text = shortened((EXAMPLES / "alertmanager.yml").read_text())
    config: dict[str, Any] = yaml.safe_load(text.replace("http://localhost:9095", webhook))
    return config


class AlertingStack:
    """Simulated API, exporter, Prometheus, Alertmanager and webhook, as a context manager.

    Attributes:
        world: The data that the API serves.
        switch: The faults of the API.
        clock: The clock of the exporter and the API.
        prometheus: The Prometheus that scrapes the exporter.
        webhook: The receiver of Alertmanager's notifications.
    """

    def __init__(self, folder: Path, programs: Mapping[str, Path], media: Mapping[str, int], size: int) -> None:
        """Start everything. `media` is the number of configured media by merchant; in the API
        each merchant has `size`.
        """
        self._stack = contextlib.ExitStack()
        self.clock = FakeClock(EVENING)
        self.world = World(media=size)
        self.switch = FaultSwitch(self.world, self.clock.now, Faults(rate_limit=1000))
        self.media = {name: list(self.world.catalog(name).values())[:number] for name, number in media.items()}
        with contextlib.ExitStack() as stack:
            self._start(stack, folder, programs)
            self._stack = stack.pop_all()

    def _start(self, stack: contextlib.ExitStack, folder: Path, programs: Mapping[str, Path]) -> None:
        app = SimulatorApp(self.world, self.switch, self.clock.now)
        api = stack.enter_context(SimulatorServer(app))
        settings = Settings.model_validate(
            {
                # The simulator needs some time to generate weeks of hours.
                "api": {"url": api.url, "timeout": "1m"},
                "merchants": [
                    merchant(id=name, requests_per_minute=500, media=[{"id": each.id} for each in media])
                    for name, media in self.media.items()
                ],
            }
        )
        state = stack.enter_context(contextlib.closing(open_state(folder / "state.db", self.clock.now)))
        telemetry = Instruments()
        self._shown = Gauge(CLOCK, "The exporter's clock after its newest round.", registry=telemetry.registry)
        telemetry.reloaded(ok=True, at=self.clock.now())
        self._polling = build_polling(settings, state, telemetry, self.clock)
        stack.callback(self._polling.close)
        for _ in range(4):
            # Names and weeks of history are requested after everything else. Prometheus does not run yet, so these
            # rounds need not wait for real time.
            self.clock.advance(60)
            self._round()
        schedule = Scheduler(self.clock, {})
        health = ProcessHealth(self._polling, state, schedule)
        handler = daemon._app(settings, self._polling, health, schedule, telemetry)
        server = make_server(handler, Address("127.0.0.1", 0))
        server.start()
        stack.callback(server.stop)
        self.webhook = stack.enter_context(Webhook())
        port, own_port = stack.enter_context(reserved_port()), stack.enter_context(reserved_port())
        stack.enter_context(Alertmanager(programs["alertmanager"], folder, port, alertmanager_config(self.webhook.url)))
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "500ms"},
            "rule_files": ["rules*.yml"],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}]},
            "scrape_configs": [{"job_name": "smartstream", "static_configs": [{"targets": [str(server.address)]}]}],
        }
        prometheus = Prometheus(programs["prometheus"], folder, own_port, config, "--query.lookback-delta=5s")
        self.prometheus = stack.enter_context(prometheus)
        # The first scrape takes some seconds, which would be minutes to the rules.
        wait_until("Prometheus scrapes", lambda: bool(prometheus.query(CLOCK)))
        (folder / "rules.yml").write_text(shortened((EXAMPLES / "rules" / "smartstream.yml").read_text()))
        prometheus.send(signal.SIGHUP)
        wait_until("Prometheus has the rules", lambda: bool(prometheus.api("rules")["groups"]))
        self._start_real, self._start_clock = time.monotonic(), self.clock.now()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _round(self) -> None:
        for poller in self._polling.pollers.values():
            poller.round()
        self._polling.ledger.show_counted(self.clock.now())
        self._shown.set(self.clock.now())

    def minutes(self, number: int) -> None:
        """Let this number of minutes pass."""
        end = self.clock.now() + number * 60
        while self.clock.now() < end:
            self._minute()

    def minutes_until(self, fact: str, holds: Callable[[], bool]) -> None:
        """Let minutes pass until `holds` returns true; `fact` describes it in the error message."""
        end = self.clock.now() + 3 * 3600
        while not holds():
            assert self.clock.now() < end, (
                f"never came true: {fact}; notifications: {[each.summaries for each in self.notifications()]}"
            )
            self._minute()

    def _minute(self) -> None:
        """Wait for the next minute and run its round. A slow machine skips minutes, as the time of the rules does not
        wait.
        """
        minute = (time.monotonic() - self._start_real) * SPEED // 60 + 1
        time.sleep(max(0.0, self._start_real + minute * 60 / SPEED - time.monotonic()))
        self.clock.advance(self._start_clock + minute * 60 - self.clock.now())
        self._round()

    def notifications(self, merchant_id: str | None = None, status: str | None = None) -> list["Notification"]:
        """All notifications so far, filtered by merchant and by status."""
        every = [Notification(path, body) for path, body in list(self.webhook.received)]
        return [each for each in every if merchant_id in (None, each.merchant_id) and status in (None, each.status)]

    def fired(self, alert: str) -> set[str]:
        """Names of alerts that match a pattern and have fired in the last hour, notified or silenced."""
        series = self.prometheus.query(f'count_over_time(ALERTS{{alertname=~"{alert}", alertstate="firing"}}[1h])')
        return {each["metric"]["alertname"] for each in series}


class Notification:
    """A notification from Alertmanager.

    Attributes:
        receiver: The receiver in Alertmanager's configuration.
        status: `firing` or `resolved`.
        merchant_id: The merchant of its alerts.
        names: The names of its alerts.
        summaries: The summary of each alert.
        descriptions: The description of each alert.
    """

    def __init__(self, path: str, body: Mapping[str, Any]) -> None:
        self.receiver = path.removeprefix("/")
        self.status = body["status"]
        self.merchant_id = body["groupLabels"].get("merchant_id")
        self.names = [alert["labels"]["alertname"] for alert in body["alerts"]]
        self.summaries = [alert["annotations"]["summary"] for alert in body["alerts"]]
        self.descriptions = [alert["annotations"]["description"] for alert in body["alerts"]]


@pytest.fixture
def programs(prometheus_bin: Path, alertmanager_bin: Path) -> Mapping[str, Path]:
    return {"prometheus": prometheus_bin, "alertmanager": alertmanager_bin}


def test_a_drop_alert_names_the_media_and_a_merchant_drop_is_one_alert(
    programs: Mapping[str, Path], tmp_path: Path
) -> None:
    """A drop of 80 % of one media notifies the pager with the media's name, and is resolved when the drop ends. When
    all media of another merchant drop, there is one notification for that merchant, also during and after the recovery.
    """
    with AlertingStack(tmp_path, programs, {"one": 7, "all": 10}, size=10) as alerting:
        alerting.minutes(2)
        assert alerting.fired(".*") == set()
        media = next(media for media in alerting.media["one"] if media.ref_id == "anime-003")
        alerting.switch.set(drop={media.id: 0.2, **{each.id: 0.1 for each in alerting.media["all"]}})
        alerting.minutes_until(
            "both drops are notified", lambda: {"one", "all"} <= {each.merchant_id for each in alerting.notifications()}
        )
        alerting.minutes(6)
        (of_media,) = alerting.notifications("one")
        assert (of_media.receiver, of_media.status) == ("pager", "firing")
        assert of_media.names == ["SmartstreamPlaysDropCritical"]
        assert re.match(rf"{media.name}: plays are [6-9]\d% below expected", of_media.summaries[0])
        assert media.id in of_media.descriptions[0]
        assert "plays per minute expected" in of_media.descriptions[0]
        # Most media of the merchant have a drop of their own, which is silenced.
        drops = 'count(ALERTS{alertname="SmartstreamPlaysDropCritical", merchant_id="all", alertstate="firing"})'
        assert int(alerting.prometheus.query(drops)[0]["value"][1]) >= 6

        alerting.switch.set(drop={})
        firing = 'ALERTS{alertname!="SmartstreamMerchantRecovering"}'
        alerting.minutes_until("nothing fires", lambda: not alerting.prometheus.query(firing))
        alerting.minutes_until(
            "both drops are resolved",
            lambda: bool(alerting.notifications("one", "resolved") and alerting.notifications("all", "resolved")),
        )
        assert [each.names for each in alerting.notifications("all", "firing")] == [["SmartstreamMerchantPlaysDrop"]]
        assert {name for each in alerting.notifications("all") for name in each.names} == {
            "SmartstreamMerchantPlaysDrop"
        }


def test_an_api_outage_is_one_stale_alert_and_no_drop(programs: Mapping[str, Path], tmp_path: Path) -> None:
    """During 30 minutes without the API and the catch-up after them, there is one notification: data is stale, because
    the API does not respond. No drop alert fires, not even a silenced one.
    """
    with AlertingStack(tmp_path, programs, {"one": 5}, size=5) as alerting:
        alerting.minutes(2)
        alerting.switch.set(error_rate=1.0, error_status=503)
        alerting.minutes(30)
        alerting.switch.set(error_rate=0.0)
        alerting.minutes_until("the alert is resolved", lambda: bool(alerting.notifications(status="resolved")))
        alerting.minutes(6)
        (stale,) = alerting.notifications(status="firing")
        assert stale.receiver == "team"
        assert stale.names == ["SmartstreamDataStale"]
        assert stale.summaries[0].startswith("one: no new rows for ")
        assert "The API does not respond correctly" in stale.descriptions[0]
        assert {name for each in alerting.notifications() for name in each.names} == {"SmartstreamDataStale"}
        assert alerting.fired(".*Drop.*") == set()


def alert(name: str, **labels: str) -> dict[str, Any]:
    """An alert as Prometheus posts it."""
    return {"labels": {"alertname": f"Smartstream{name}", **labels}}


OF_M = {"merchant_id": "m"}
OF_V = {**OF_M, "media_id": "v"}


@pytest.mark.parametrize(
    ("source", "silenced", "notified"),
    [
        pytest.param(
            alert("ExporterDown", job="smartstream", instance="x"),
            [alert("PlaysDrop", **OF_V), alert("MerchantPlaysDrop", **OF_M), alert("DataStale", **OF_M)],
            [],
            id="a dead exporter silences all",
        ),
        pytest.param(
            alert("ExporterDown", job="smartstream", instance="x", others="up"),
            [],
            [alert("PlaysDrop", **OF_V), alert("DataStale", **OF_M)],
            id="one of several silences nothing",
        ),
        pytest.param(
            alert("ExporterDown", others="none"),
            [],
            [alert("PlaysDrop", **OF_V), alert("DataStale", **OF_M)],
            id="a metric that is missing silences nothing",
        ),
        pytest.param(
            alert("TimezoneWrong", **OF_M),
            [alert("DataStale", **OF_M), alert("MediaNotJudged", **OF_V)],
            [alert("DataStale", merchant_id="n"), alert("PlaysDrop", **OF_V)],
            id="a wrong zone explains old rows",
        ),
        pytest.param(
            alert("MediaGone", **OF_V),
            [alert("MediaNotJudged", **OF_V)],
            [alert("MediaNotJudged", merchant_id="m", media_id="w")],
            id="a media that is gone cannot be judged",
        ),
        pytest.param(
            alert("MerchantPlaysDrop", **OF_M),
            [alert("PlaysDrop", **OF_V), alert("PlaysDropCritical", **OF_V)],
            [alert("PlaysDropCritical", merchant_id="n", media_id="v"), alert("DataStale", **OF_M)],
            id="a merchant silences its own media",
        ),
        pytest.param(
            alert("MerchantRecovering", **OF_M),
            [alert("PlaysDrop", **OF_V), alert("PlaysDropCritical", **OF_V)],
            [alert("PlaysDrop", merchant_id="n", media_id="v"), alert("MerchantPlaysDrop", **OF_M)],
            id="and for a while after its own drop",
        ),
        pytest.param(
            alert("PlaysDropCritical", **OF_V),
            [alert("PlaysDrop", **OF_V)],
            [alert("PlaysDrop", merchant_id="m", media_id="w"), alert("PlaysDrop", merchant_id="n", media_id="v")],
            id="critical silences the warning of the same media",
        ),
        pytest.param(
            alert("AuthFailing", **OF_M),
            [alert("DataStale", **OF_M), alert("ApiFailing", **OF_M)],
            [alert("DataStale", merchant_id="n"), alert("PlaysDrop", **OF_V)],
            id="refused accounts explain what does not come",
        ),
        pytest.param(
            alert("DataStale", **OF_M),
            [alert("ApiFailing", **OF_M)],
            [alert("ApiFailing", merchant_id="n"), alert("PlaysDropCritical", **OF_V)],
            id="stale data says whether the API answers",
        ),
        pytest.param(
            alert("RateLimited", **OF_M),
            [alert("BudgetTooSmall", **OF_M)],
            [alert("BudgetTooSmall", merchant_id="n")],
            id="refused requests make the budget small",
        ),
    ],
)
def test_alerts_silence_only_what_they_explain(
    alertmanager_bin: Path,
    tmp_path: Path,
    source: Mapping[str, Any],
    silenced: Sequence[Mapping[str, Any]],
    notified: Sequence[Mapping[str, Any]],
) -> None:
    """With the example configuration, an alert silences the alerts that it explains, and no others."""
    config = yaml.safe_load((EXAMPLES / "alertmanager.yml").read_text())
    with reserved_port() as port, Alertmanager(alertmanager_bin, tmp_path, port, config) as alertmanager:
        alertmanager.post([source, *silenced, *notified])

        def states() -> dict[str, str]:
            return {str(sorted(each["labels"].items())): each["status"]["state"] for each in alertmanager.alerts()}

        expected = {str(sorted(each["labels"].items())): "active" for each in [source, *notified]}
        expected |= {str(sorted(each["labels"].items())): "suppressed" for each in silenced}
        wait_until("Alertmanager has the expected states", lambda: states() == expected)
