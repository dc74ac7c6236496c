"""Hours of history in a minute: the exporter's parts on a manual clock, written as Prometheus' blocks."""

import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry

from exporter.assembly import Polling
from exporter.config.settings import Settings
from exporter.serving.collector import SnapshotCollector
from exporter.serving.instruments import Instruments
from exporter.simulator.app import SimulatorApp
from exporter.simulator.faults import Faults, FaultSwitch
from exporter.simulator.series import World
from exporter.simulator.server import SimulatorServer
from exporter.storage.state import open_state
from tests.support.fakes import FakeClock

MERCHANT = "demo"
TARGET = {"instance": "exporter:10077", "job": "smartstream"}

# Seconds between two scrapes.
SCRAPE = 30.0

# The depth of the drop, and the seconds from its start to the end.
DROP, DROP_AGO = 0.8, 30 * 60.0

ALERTS = (("SmartstreamPlaysDrop", "warning", 0.4), ("SmartstreamPlaysDropCritical", "critical", 0.6))

COLLECT = [
    {"target": "play_count", "groups": ["all", "country", "device", "os", "site", "player", "percentage"]},
    *(
        {"target": target}
        for target in (
            "play_time",
            "device_count",
            "session_count",
            "average_play_time",
            "player_count",
            "key_delivery_count",
        )
    ),
]

# A family's name and a series' labels -> its samples: times and values.
Scraped = dict[tuple[str, tuple[tuple[str, str], ...]], list[tuple[float, float]]]


def write_blocks(promtool: Path, folder: Path, until: float, hours: float) -> str:
    """Run the exporter for some hours before an instant, and write the scraped samples as blocks.

    Args:
        promtool: Prometheus' tool.
        folder: The folder in which `tsdb` is created.
        until: The last instant (Unix seconds).
        hours: The number of hours.

    Returns:
        The id of the media whose plays drop.
    """
    scraped, dropped = _run(folder / "state.db", until - hours * 3600, until)
    _add_alerts(scraped)
    path = folder / "history.om"
    with path.open("w") as file:
        for (name, labels), samples in sorted(scraped.items()):
            text = ",".join(f'{label}="{_escaped(value)}"' for label, value in labels)
            file.writelines(f"{name}{{{text}}} {value} {at:.3f}\n" for at, value in samples)
        file.write("# EOF\n")
    command: list[str | Path] = [promtool, "tsdb", "create-blocks-from", "openmetrics", path, folder / "tsdb"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return dropped


def _run(state_path: Path, start: float, until: float) -> tuple[Scraped, str]:
    world = World(seed=1)
    clock = FakeClock(start - start % 60)
    # The busiest media that is a file, as live ones have their own detector.
    files = (media for media in world.catalog(MERCHANT).values() if media.schedule is None)
    dropped = max(files, key=lambda media: media.peak).id
    switch = FaultSwitch(world, clock.now, Faults(late_jitter=0.5, revise_up=0.2, rate_limit=1000))
    scraped: Scraped = defaultdict(list)
    with SimulatorServer(SimulatorApp(world, switch, clock.now)) as server:
        settings = _settings(world, server.url, state_path)
        state = open_state(state_path, clock.now)
        telemetry = Instruments()
        polling = Polling(settings, state, telemetry, clock)
        telemetry.reloaded(ok=True, at=clock.now())
        oldest = 2 * settings.poll.max_staleness
        telemetry.registry.register(SnapshotCollector(polling.snapshot, lambda: clock.now() - oldest))
        while clock.now() < until:
            if until - clock.now() <= DROP_AGO and not switch.now.drop:
                switch.set(drop={dropped: 1 - DROP})
            polling.pollers[MERCHANT].round()
            minute_ends = clock.now() - clock.now() % 60 + 60
            for at in (minute_ends - SCRAPE, minute_ends):
                clock.advance(max(0.0, at - clock.now()))
                polling.ledger.show_counted(clock.now())
                _scrape(telemetry.registry, scraped, at)
        polling.close()
        state.close()
    return scraped, dropped


def _settings(world: World, url: str, state: Path) -> Settings:
    merchant = {
        "id": MERCHANT,
        "api_key": "simulated-key",
        "mail_address": "ops@example.com",
        "password": "simulated-password",
        "collect": COLLECT,
        "media": [{"id": media_id} for media_id in world.catalog(MERCHANT)],
    }
    return Settings.model_validate({"api": {"url": url}, "merchants": [merchant], "storage": {"path": state}})


def _scrape(registry: CollectorRegistry, scraped: Scraped, at: float) -> None:
    for name, labels, value in _samples(registry):
        scraped[name, tuple(sorted({**labels, **TARGET}.items()))].append((at, float(value)))
    scraped["up", tuple(sorted(TARGET.items()))].append((at, 1.0))


def _samples(registry: CollectorRegistry) -> Iterable[tuple[str, Mapping[str, str], float]]:
    return ((sample.name, sample.labels, sample.value) for family in registry.collect() for sample in family.samples)


def _add_alerts(scraped: Scraped) -> None:
    """Add the `ALERTS` that Prometheus would have recorded for drops: they fire after two minutes above their
    thresholds.
    """
    drops = [item for item in scraped.items() if item[0][0] == "smartstream_plays_drop_ratio"]
    for (_, labels), samples in drops:
        which = {label: value for label, value in labels if label in {"merchant_id", "media_id"}}
        for name, severity, threshold in ALERTS:
            alert = {"alertname": name, "alertstate": "firing", "severity": severity, **which}
            since = None
            for at, ratio in samples:
                since = (since or at) if ratio > threshold else None
                if since is not None and at - since >= 120:
                    scraped["ALERTS", tuple(sorted(alert.items()))].append((at, 1.0))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
