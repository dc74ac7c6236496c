"""A configuration and a state file with many series, as a daemon leaves them, created by the exporter's own code."""

from dataclasses import dataclass
from pathlib import Path

from exporter.config.load import load
from exporter.config.settings import Settings
from exporter.config.yaml_file import write
from exporter.counting.ledger import Ledger
from exporter.counting.windows import ended_before, whole_minutes
from exporter.model import MINUTE, Group, Minute, MinuteRange, Rows, Stream
from exporter.storage.state import open_state

# On `/metrics` a media has 100 series: plays as counter and gauge with 1 + 37 + 6 label values, the player displays as
# both, the data timestamps of 4 streams, two thresholds, its info, the number of its failing streams, whether it is
# gone, and whether it is judged.
SERIES_PER_MEDIA = 100
_LABELS = {
    Group.ALL: ("",),
    Group.COUNTRY: tuple(f"{first}{second}" for first in "ab" for second in "cdefghijklmnopqrstu")[:37],
    Group.OS: ("iOS", "Android", "Windows", "macOS", "tvOS", "Linux"),
}
_COLLECT = [
    {"target": "play_count", "groups": ["all", "country", "os"]},
    {"target": "player_count"},
]

# An address on which nothing listens.
DEAD_API = "http://127.0.0.1:1/v1"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A configuration and its state file.

    Attributes:
        config: The configuration file.
        settings: The settings in it.
        series: The number of media series on `/metrics`, without those of the exporter itself.
    """

    config: Path
    settings: Settings
    series: int


def prepare(folder: Path, series: int, now: float) -> Prepared:
    """Create a configuration and its state file, or use those of an earlier call.

    Args:
        folder: The folder for the files.
        series: The number of series, a multiple of 100.
        now: The time of the last answer (Unix seconds).
    """
    place = folder / f"{series}-series"
    config = place / "config.yaml"
    made = config.exists()
    if not made:
        place.mkdir()
        config.write_text(_config(place / "state.db", series // SERIES_PER_MEDIA), encoding="utf-8")
    settings = load(config, {})
    if not made:
        _fill(settings, now)
    return Prepared(config, settings, series)


def _config(state: Path, media: int) -> str:
    merchant = {
        "id": "broadcaster",
        "api_key": "key",
        "mail_address": "ops@example.com",
        "password": "password",
        "whole_merchant": False,
        "collect": _COLLECT,
        "media": [{"id": f"ab{number:030x}", "name": f"Programme {number}"} for number in range(media)],
    }
    return write({"api": {"url": DEAD_API}, "merchants": [merchant], "storage": {"path": str(state)}})


def _fill(settings: Settings, now: float) -> None:
    """Count a revision window with plays in every minute: the most that a state file has of a series."""
    window = whole_minutes(settings.poll.revision_window)
    newest = ended_before(now, settings.poll.settle)
    asked = MinuteRange(newest - window, newest)
    state = open_state(settings.storage.path, lambda: now)
    try:
        ledger = Ledger(state, settings, lambda _: None)
        ledger.configure(settings, now - (window + 1) * MINUTE)
        for merchant in settings.merchants:
            for stream in merchant.streams():
                ledger.enter(stream, asked, _rows(stream, asked), now)
        # Counters have exported their 0 for a minute by then.
        ledger.show_counted(now + MINUTE)
    finally:
        state.close()


def revise(ledger: Ledger, stream: Stream, number: int, now: float) -> None:
    """Count another value in the newest minute of each series of a stream.

    Args:
        ledger: The ledger.
        stream: The stream.
        number: Another one than at the last call.
        now: The time of the answer (Unix seconds).
    """
    newest = ledger.through(stream)
    values = {label: float(100 + number % 50) for label in _LABELS[stream.group]}
    ledger.enter(stream, MinuteRange(newest, newest), {newest: values}, now)


def _rows(stream: Stream, asked: MinuteRange) -> Rows:
    labels = _LABELS[stream.group]
    return {minute: _values(labels, minute) for minute in range(asked.first, asked.last + 1)}


def _values(labels: tuple[str, ...], minute: Minute) -> dict[str, float]:
    return {label: float(1 + (minute * place) % 97) for place, label in enumerate(labels, 1)}
