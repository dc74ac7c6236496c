"""The cost of an answer of the API for the daemon."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import requests

from benchmarks.report import Cell, Table, figures
from benchmarks.simulated import ManualClock, simulated_api
from exporter.api.connections import DeadlineAdapter
from exporter.assembly import Polling
from exporter.config.settings import Settings, TlsSettings
from exporter.serving.instruments import Instruments
from exporter.simulator.series import World
from exporter.storage.state import open_state

MERCHANT = "broadcaster"
STREAMS_PER_MEDIA = 5

# A little more than the budget's window, so that each round has the whole budget.
STEP = 60.2

START = 1_780_000_000.0


def run(folder: Path, *, media: Sequence[int] = (8, 240), answers: int = 1000, repeats: int = 5) -> Table:
    """Measure this number of answers, this number of times, for merchants with this number of media."""
    return Table(
        "answers",
        "CPU seconds of client, ledger and limiter per 1,000 answers of a simulated API in another process, "
        "as a ratio to the same requests sent with nothing but requests and read as JSON",
        ("streams", "answers", "CPU seconds", "bare requests", "ratio"),
        tuple(_row(folder, count, answers, repeats) for count in media),
    )


def _row(folder: Path, media: int, answers: int, repeats: int) -> tuple[Cell, ...]:
    clock = ManualClock(START)
    with simulated_api(clock, media) as url:
        settings = _settings(url, media)
        state = open_state(folder / f"answers-{media}.db", clock.now)
        adapter = _Recorder()
        polling = Polling(settings, state, Instruments(), clock, lambda: adapter)
        try:
            pairs = list(_measure(polling, adapter, clock, answers, repeats))
        finally:
            polling.close()
            state.close()
    ours, bare = (figures(values) for values in zip(*pairs, strict=True))
    return len(settings.merchants[0].streams()), answers * repeats, ours, bare, ours.per(bare)


def _settings(url: str, media: int) -> Settings:
    merchant = {
        "id": MERCHANT,
        "api_key": "key",
        "mail_address": "ops@example.com",
        "password": "password",
        "collect": [
            {"target": "play_count", "groups": ["all", "country", "device"]},
            {"target": "play_time"},
            {"target": "device_count"},
        ],
        "media": [{"id": each} for each in World(media=media).catalog(MERCHANT)],
    }
    return Settings.model_validate({"api": {"url": url}, "merchants": [merchant]})


class _Recorder(DeadlineAdapter):
    """Records the sent requests."""

    def __init__(self) -> None:
        super().__init__(TlsSettings())
        self.sent: list[requests.PreparedRequest] = []

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        self.sent.append(request)
        return super().send(request, *args, **kwargs)


def _measure(
    polling: Polling, adapter: _Recorder, clock: ManualClock, answers: int, repeats: int
) -> Iterator[tuple[float, float]]:
    """CPU seconds per 1,000 answers, of the daemon and of bare requests."""
    # The first round creates everything for the first time.
    _round(polling, clock)
    for _ in range(repeats):
        adapter.sent.clear()
        began = time.process_time()
        while len(adapter.sent) < answers:
            _round(polling, clock)
        ours = time.process_time() - began
        began = time.process_time()
        _send_again(adapter.sent)
        bare = time.process_time() - began
        yield ours / len(adapter.sent) * 1000, bare / len(adapter.sent) * 1000


def _round(polling: Polling, clock: ManualClock) -> None:
    clock.sleep(STEP)
    polling.pollers[MERCHANT].round()
    polling.ledger.show_counted(clock.now())
    if (error := polling.pollers[MERCHANT].link.last_error) != "":
        raise RuntimeError(error)


def _send_again(sent: Sequence[requests.PreparedRequest]) -> None:
    with requests.Session() as session:
        for request in sent:
            response = session.send(request)
            response.raise_for_status()
            response.json()
