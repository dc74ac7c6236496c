"""Media by their reference ids, against the simulated API: from a pending one to its streams."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.api.catalog_rows import read_refs
from exporter.assembly import Polling
from exporter.config.settings import MerchantSettings, Settings
from exporter.serving.instruments import Instruments
from exporter.simulator.app import SimulatorApp
from exporter.simulator.faults import FaultSwitch
from exporter.simulator.series import World
from exporter.storage.state import State, open_state
from tests.support.audience import folder_in_memory
from tests.support.direct import URL, DirectAdapter
from tests.support.fakes import FakeClock


class Exporter:
    """An exporter with two media by their reference ids, and the simulated API."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.world = World(media=3)
        self.ids = {media.ref_id: media_id for media_id, media in self.world.catalog("m").items()}
        self.switch = FaultSwitch(self.world, self.clock.now)
        self.app = SimulatorApp(self.world, self.switch, self.clock.now)
        self.path = folder / "state.db"
        self.merchant = MerchantSettings.model_validate(
            {
                "id": "m",
                "api_key": "k",
                "mail_address": "a@b",
                "password": "p",
                "collect": [{"target": "play_count"}],
                "catalog_labels": ["tags"],
                "media": [{"ref_id": "channel-1"}, {"ref_id": "drama-012", "name": "Mine"}],
            }
        )
        self.state: State | None = None
        self.polling: Polling

    def start(self) -> None:
        """Start, or restart, with the media ids that the state file knows."""
        self.close()
        self.state = open_state(self.path, self.clock.now)
        merchant = self.merchant.identified(read_refs(self.state, self.merchant))
        settings = Settings.model_validate({"api": {"url": URL}, "merchants": [merchant]})
        self.polling = Polling(settings, self.state, Instruments(), self.clock, lambda: DirectAdapter(self.app))

    def close(self) -> None:
        """Stop."""
        if self.state is not None:
            self.polling.close()
            self.state.close()
            self.state = None

    def rounds(self, minutes: int) -> None:
        """Run a round in each of so many minutes."""
        for _ in range(minutes):
            self.polling.pollers["m"].round()
            self.clock.advance(60)

    @property
    def asked(self) -> int:
        """How many lookups the API has got."""
        return sum(count for (endpoint, _), count in self.app.journal.counts().items() if endpoint == "medias")


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Exporter]:
    with folder_in_memory(tmp_path) as folder:
        made = Exporter(Path(folder))
        made.start()
        yield made
        made.close()


def test_a_media_that_is_created_later_is_counted_from_then_on(exporter: Exporter) -> None:
    """Without an id it has no streams. Both media have their names, tags and streams after they were found."""
    exporter.switch.set(gone=[exporter.ids["drama-012"]])
    exporter.rounds(4)
    catalog = exporter.polling.parts["m"].catalog
    assert catalog.refs == {"channel-1": exporter.ids["channel-1"]}
    assert list(catalog.pending) == ["drama-012"]
    view = exporter.polling.snapshot().merchants["m"]
    assert {stream.media_id for stream in view.streams} == {""}
    assert (view.link is not None and view.link.up, view.media) == (True, {})
    assert list(view.pending) == ["drama-012"]
    exporter.switch.set(gone=[])
    exporter.rounds(2)
    assert catalog.refs == {ref_id: exporter.ids[ref_id] for ref_id in ("channel-1", "drama-012")}
    asked = exporter.asked
    exporter.start()
    exporter.rounds(5)
    view = exporter.polling.snapshot().merchants["m"]
    shown = {media.ref_id: (media.name, media.labels["tags"]) for media in view.media.values()}
    assert shown == {"channel-1": ("Live channel 24h", ",live,"), "drama-012": ("Mine", ",drama,")}
    assert {stream.media_id for stream, counted in view.streams.items() if counted.through is not None} == {
        "",
        *catalog.refs.values(),
    }
    assert (exporter.asked, view.pending) == (asked, {})
