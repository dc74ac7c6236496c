"""The way from plays to a notification, for tests. Real are the exporters' parts, Prometheus with the rules, and
Alertmanager with the example configuration; the API is simulated, and a webhook receives the notifications.

A minute is shortened to a second. The exporters and the API share a clock that the test advances by a minute each
second; polling, detection and serving work as in the daemon, only its scheduler is left out. Prometheus and
Alertmanager use real time, so every duration in the rules and in Alertmanager's configuration is divided by 60, and
`time()` in a rule is replaced by the shared clock, which is scraped like a metric. Expressions, thresholds, texts,
groups and silences are the real ones.
"""

import contextlib
import re
import signal
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from exporter import logs
from exporter.app import build_app
from exporter.assembly import Polling
from exporter.config.settings import Settings
from exporter.config.source import NoSource
from exporter.httpd.address import Address
from exporter.in_force import InForce
from exporter.polling.scheduler import Scheduler
from exporter.process_health import ProcessHealth
from exporter.reload import Reloader
from exporter.serving.instruments import Instruments
from exporter.serving.paths import METRICS
from exporter.serving.routes import make_server
from exporter.simulator.app import SimulatorApp
from exporter.simulator.catalog import Media
from exporter.simulator.faults import Faults, FaultSwitch
from exporter.simulator.series import World
from exporter.simulator.server import SimulatorServer
from exporter.storage.state import State, open_state
from exporter.web import WebConfigWatch, WebFlags
from tests.support.fakes import FakeClock
from tests.support.processes import Alertmanager, Prometheus, Webhook, merchant, reserved_port, wait_until

EXAMPLES = Path(__file__).parents[2] / "prometheus"

# Seconds of the shared clock for each real second.
SPEED = 60

# An evening in Tokyo, when every media has plays.
EVENING = 1_780_056_000.5

# A job's name that says nothing about the exporter.
JOB = "video"

CLOCK = "test_clock_seconds"

# Requests that a merchant may send in a minute, unless a test sets it: enough for all history in the first minutes.
BUDGET = 500

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def shortened(text: str) -> str:
    """A rules or configuration file with all durations divided by 60 and `time()` replaced by the shared clock."""
    return re.sub(r"\b(\d+)([smhd])\b", _shorter, text).replace("time()", f"scalar({CLOCK})")


def _shorter(found: re.Match[str]) -> str:
    return f"{int(found[1]) * UNITS[found[2]] * 1000 // SPEED}ms"


def alertmanager_config(webhook: str) -> dict[str, Any]:
    """The example configuration, shortened. All receivers are the webhook, with the receiver's name as the path."""
    text = shortened((EXAMPLES / "alertmanager.yml").read_text())
    config: dict[str, Any] = yaml.safe_load(text.replace("http://localhost:9095", webhook))
    return config


class Exporter:
    """An exporter that a test stops and starts; its state file and its port stay.

    Attributes:
        path: The state file.
        port: The port on which it serves.
        running: Whether it is started.
    """

    def __init__(self, path: Path, port: int, clock: FakeClock, config: Mapping[str, Any]) -> None:
        self.path = path
        self.port = port
        self._config = config
        self._clock = clock
        self._running: contextlib.ExitStack | None = None
        self._round: Callable[[], None] = lambda: None
        self._state: State | None = None

    @property
    def running(self) -> bool:
        return self._running is not None

    def start(self, budgets: Mapping[str, int] | None = None) -> None:
        """Start it.

        Args:
            budgets: The requests per minute of some merchants, from now on.
        """
        merchants = [
            {**each, "requests_per_minute": (budgets or {}).get(each["id"], each["requests_per_minute"])}
            for each in self._config["merchants"]
        ]
        self._config = {**self._config, "merchants": merchants}
        with contextlib.ExitStack() as stack:
            self._start(stack, Settings.model_validate(self._config))
            self._running = stack.pop_all()

    def _start(self, stack: contextlib.ExitStack, settings: Settings) -> None:
        state = self._state = stack.enter_context(contextlib.closing(open_state(self.path, self._clock.now)))
        telemetry = Instruments()
        telemetry.reloaded(ok=True, at=self._clock.now())
        telemetry.watch_process(state_writable=lambda: state.problem is None, dropped_log_lines=logs.dropped)
        polling = Polling(settings, state, telemetry, self._clock)
        stack.callback(polling.close)
        schedule = Scheduler(self._clock)
        web = WebConfigWatch(WebFlags((Address("127.0.0.1", self.port),)))
        in_force = InForce(polling, schedule, web, open_files=1024)
        source = NoSource()
        reloader = Reloader(source, in_force, telemetry, self._clock, settings, source.media(settings))
        health = ProcessHealth(polling, state, schedule, reloader.problems)
        handler = build_app(polling, health, schedule, telemetry, reloader, METRICS)
        server = make_server(handler, web.flags.listen)
        server.start()
        stack.callback(server.stop)

        def one_round() -> None:
            for poller in polling.pollers.values():
                poller.round()
            polling.show_counted()
            # The heartbeat is the scheduler's.
            state.probe()

        self._round = one_round

    def stop(self) -> None:
        """Stop it, as SIGTERM does."""
        if self._running is not None:
            self._running.close()
        self._running = None

    def round(self) -> None:
        """Do what the daemon does in a minute, if it runs."""
        if self.running:
            self._round()

    def make_state_unwritable(self) -> None:
        """Let every write to the state file fail from now on."""
        assert self._state is not None
        with self._state.read() as db:
            db.execute("PRAGMA query_only = ON")

    def downgrade_state(self) -> None:
        """Make the state file of the stopped exporter one of the release before, which knew no incidents."""
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as db:
            db.executescript("DROP TABLE drop_states; DROP TABLE media_tags; PRAGMA user_version = 1;")


class AlertingStack:
    """Simulated API, exporters, Prometheus, Alertmanager and webhook, as a context manager.

    Attributes:
        world: The data that the API serves.
        api: The API.
        switch: The faults of the API.
        clock: The clock of the exporters and the API.
        media: The configured media, by merchant.
        prometheus: The Prometheus that scrapes the exporters, after `begin`.
        webhook: The receiver of Alertmanager's notifications.
    """

    prometheus: Prometheus

    def __init__(self, folder: Path, programs: Mapping[str, Path], size: int, start: float = EVENING) -> None:
        """Start the API and the webhook.

        Args:
            folder: For the files of all programs.
            programs: The paths of Prometheus and Alertmanager.
            size: The number of media of each merchant in the API.
            start: The first time of the clock (Unix seconds).
        """
        self._folder = folder
        self._programs = programs
        self._exporters: dict[str, Exporter] = {}
        self.clock = FakeClock(start)
        self.world = World(media=size)
        self.switch = FaultSwitch(self.world, self.clock.now, Faults(rate_limit=1000))
        self.media: dict[str, list[Media]] = {}
        with contextlib.ExitStack() as stack:
            self.api = SimulatorApp(self.world, self.switch, self.clock.now)
            self._url = stack.enter_context(SimulatorServer(self.api)).url
            self.webhook = stack.enter_context(Webhook())
            self._clock_port = stack.enter_context(reserved_port())
            registry = CollectorRegistry()
            self._shown = Gauge(CLOCK, "The shared clock after the newest round.", registry=registry)
            stack.enter_context(_serving(self._clock_port, registry))
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def exporter(self, name: str, media: Mapping[str, Collection[int]], **api: str) -> Exporter:
        """Start one more exporter, before `begin`.

        Args:
            name: A name for its state file.
            media: The places in the catalog of the configured media, by merchant.
            api: Other settings of the section `api` than the simulated API's.
        """
        for merchant_id, places in media.items():
            catalog = list(self.world.catalog(merchant_id).values())
            self.media[merchant_id] = [catalog[place] for place in places]
        config = {
            # The simulator needs some time to generate weeks of hours.
            "api": {"url": self._url, "timeout": "1m", **api},
            "merchants": [
                merchant(
                    id=merchant_id,
                    requests_per_minute=BUDGET,
                    media=[{"id": each.id} for each in self.media[merchant_id]],
                )
                for merchant_id in media
            ],
        }
        port = self._stack.enter_context(reserved_port())
        made = self._exporters[name] = Exporter(self._folder / f"{name}.db", port, self.clock, config)
        self._stack.callback(made.stop)
        made.start()
        return made

    def empty_api(self) -> str:
        """The URL of another API, which has never had a row."""
        switch = FaultSwitch(self.world, self.clock.now, Faults(rate_limit=1000, stalled_since=0.0))
        return self._stack.enter_context(SimulatorServer(SimulatorApp(self.world, switch, self.clock.now))).url

    def learn(self) -> None:
        """Let the exporters fetch names and weeks of history, which come after everything else. Prometheus does not run
        yet, so this need not wait for real time.
        """
        for _ in range(4):
            self.clock.advance(60)
            self._round()

    def begin(self) -> None:
        """Start Prometheus and Alertmanager; from now on real time passes."""
        stack, folder = self._stack, self._folder
        port, own_port = stack.enter_context(reserved_port()), stack.enter_context(reserved_port())
        stack.enter_context(
            Alertmanager(self._programs["alertmanager"], folder, port, alertmanager_config(self.webhook.url))
        )
        targets = [f"127.0.0.1:{each.port}" for each in self._exporters.values()]
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "500ms"},
            "rule_files": ["rules*.yml"],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}]},
            "scrape_configs": [
                {"job_name": JOB, "static_configs": [{"targets": targets}]},
                {"job_name": "clock", "static_configs": [{"targets": [f"127.0.0.1:{self._clock_port}"]}]},
            ],
        }
        prometheus = Prometheus(self._programs["prometheus"], folder, own_port, config, "--query.lookback-delta=5s")
        self.prometheus = stack.enter_context(prometheus)
        # The first scrape takes some seconds, which would be minutes to the rules.
        wait_until(
            "Prometheus scrapes",
            lambda: bool(prometheus.query(CLOCK)) and len(prometheus.query("smartstream_build_info")) == len(targets),
        )
        (folder / "rules.yml").write_text(shortened((EXAMPLES / "rules" / "smartstream.yml").read_text()))
        prometheus.send(signal.SIGHUP)
        wait_until("Prometheus has the rules", lambda: bool(prometheus.api("rules")["groups"]))
        self._start_real, self._start_clock = time.monotonic(), self.clock.now()

    def _round(self) -> None:
        for each in self._exporters.values():
            each.round()
        self._shown.set(self.clock.now())

    def minutes(self, number: int) -> None:
        """Let this number of minutes pass."""
        self.minutes_until_time(self.clock.now() + number * 60)

    def minutes_until_time(self, end: float) -> None:
        """Let minutes pass until a time (Unix seconds)."""
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

    def notified(self, alert: str) -> list["Notification"]:
        """The firing notifications with an alert of this name."""
        return [each for each in self.notifications(status="firing") if alert in each.names]

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


@contextlib.contextmanager
def _serving(port: int, registry: CollectorRegistry) -> Iterator[None]:
    server, thread = start_http_server(port, "127.0.0.1", registry)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
