"""The number of merchants that one process can poll, in real time."""

import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from benchmarks.canned import canned_api
from benchmarks.prepared import Prepared
from benchmarks.process import Running, running
from benchmarks.report import Cell, Table
from exporter.config.load import load
from exporter.config.yaml_file import write
from exporter.model import MINUTE
from exporter.storage.state import open_state
from tests.support.audience import mark_history_known, media_ids

REQUESTS = 45

# Streams of the default configuration: three for each media, and for the whole merchant.
STREAMS_PER_MEDIA = 3


def run(
    folder: Path,
    *,
    merchants: Sequence[int] = (300, 500),
    media: int = 50,
    minutes: float = 2.0,
    warm_up: float = 1.0,
) -> Table:
    """Measure daemons with this number of merchants and media for this number of minutes, after a warm-up."""
    return Table(
        "fleet",
        f"a daemon with merchants of {media} media each ({STREAMS_PER_MEDIA * (media + 1)} streams, {REQUESTS} "
        "requests a minute allowed) against a canned API, in real time, all names and all history known. "
        "CPUs are CPU seconds a second; the age is that "
        "of the plays in minutes, of media and whole merchants, of which settling takes 2 to 3",
        (
            "merchants",
            "streams",
            "requests/min",
            "of allowed",
            "CPUs",
            "API's CPUs",
            "MiB",
            "threads",
            "data age",
            "merchants' age",
            "start s",
        ),
        tuple(_row(folder, count, media, minutes, warm_up) for count in merchants),
    )


def _row(folder: Path, merchants: int, media: int, minutes: float, warm_up: float) -> tuple[Cell, ...]:
    with polling(folder / f"fleet-{merchants}", merchants, media, warm_up) as (daemon, api_pid):
        began, cpu, api_cpu = time.monotonic(), _cpu_seconds(daemon.pid), _cpu_seconds(api_pid)
        sent = _sent(daemon)
        time.sleep(minutes * 60)
        taken = time.monotonic() - began
        cpu, api_cpu = _cpu_seconds(daemon.pid) - cpu, _cpu_seconds(api_pid) - api_cpu
        memory, threads = daemon.memory("VmHWM"), len(list(Path(f"/proc/{daemon.pid}/task").iterdir()))
        read_at, page = time.time(), daemon.scrape().decode()
        sent = _total(page, "smartstream_api_requests_total") - sent
    return (
        merchants,
        merchants * (media + 1) * STREAMS_PER_MEDIA,
        sent / taken * 60,
        sent / taken * 60 / (merchants * REQUESTS),
        cpu / taken,
        api_cpu / taken,
        memory,
        threads,
        _age(page, "smartstream_data_timestamp_seconds", read_at),
        _age(page, "smartstream_merchant_data_timestamp_seconds", read_at),
        daemon.listens_after,
    )


@contextlib.contextmanager
def polling(place: Path, merchants: int, media: int, warm_up: float) -> Iterator[tuple[Running, int]]:
    """A daemon that has polled such a fleet for so many minutes, and the process of its canned API."""
    with canned_api() as (url, api_pid):
        config = configure(place, url, merchants, media)
        mark_all_known(config)
        with running(Prepared(config, load(config, {}), 0)) as daemon:
            time.sleep(warm_up * 60)
            yield daemon, api_pid


def configure(place: Path, url: str, merchants: int, media: int) -> Path:
    """Create a folder with the configuration of a fleet; return the configuration's path."""
    place.mkdir()
    config = place / "config.yaml"
    secrets = {"api_key": "key", "mail_address": "ops@example.com", "password": "password"}
    settings = {
        "api": {"url": url},
        "merchants": [
            {
                "id": f"merchant-{number}",
                **secrets,
                "requests_per_minute": REQUESTS,
                "media": [{"id": each} for each in media_ids(media)],
            }
            for number in range(merchants)
        ],
        "storage": {"path": str(place / "state.db")},
    }
    config.write_text(write(settings), encoding="utf-8")
    return config


def mark_all_known(config: Path) -> None:
    """Store in the state file that all names and all history are known, as after the first hour."""
    settings = load(config, {})
    state = open_state(settings.storage.path, time.time)
    try:
        # One transaction, as the disk is not measured.
        with state.transaction() as db:
            db.executemany(
                "INSERT INTO media (merchant_id, media_id, name, ref_id, encode_type, live_event_id, fetched_at) "
                "VALUES (?, ?, 'name', '', 'file', '', ?)",
                [(each.id, media.id, time.time()) for each in settings.merchants for media in each.media],
            )
        for merchant in settings.merchants:
            mark_history_known(state, merchant.id, ["", *(media.id for media in merchant.media)])
    finally:
        state.close()


def _cpu_seconds(pid: int) -> float:
    """The CPU time of a process, kernel time included."""
    # After the name, which may contain anything, and its bracket: fields 14 and 15 of proc(5), utime and stime.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _age(page: str, family: str, now: float) -> float:
    """The mean age of the plays in minutes."""
    return fmean(now - end for end in _values(page, family, 'group="all"', 'target="play_count"')) / MINUTE


def _sent(daemon: Running) -> float:
    return _total(daemon.scrape().decode(), "smartstream_api_requests_total")


def _total(page: str, family: str) -> float:
    return sum(_values(page, family))


def _values(page: str, family: str, *labels: str) -> list[float]:
    samples = re.findall(rf"^{family}{{(.*)}} (\S+)", page, re.MULTILINE)
    return [float(value) for found, value in samples if all(label in found for label in labels)]
