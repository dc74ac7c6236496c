"""The configuration in force: what takes its place, and what cannot."""

from pathlib import Path

import pytest

from exporter.assembly import Polling
from exporter.clock import SystemClock
from exporter.config.settings import Settings
from exporter.errors import ConfigError
from exporter.httpd.address import Address
from exporter.in_force import InForce
from exporter.polling.scheduler import Scheduler
from exporter.serving.instruments import Instruments
from exporter.storage.state import open_state
from exporter.web import WebConfigWatch, WebFlags
from tests.support.processes import merchant


def test_another_state_file_needs_a_restart(tmp_path: Path) -> None:
    """Taking another state file would lose the counters without a word, so a changed path is an error that says so."""
    clock = SystemClock()
    state = open_state(tmp_path / "one.db", clock.now)
    try:
        before, after = (
            Settings.model_validate({"merchants": [merchant()], "storage": {"path": tmp_path / name}})
            for name in ("one.db", "two.db")
        )
        polling = Polling(before, state, Instruments(), clock)
        web = WebConfigWatch(WebFlags((Address("", 0),)))
        in_force = InForce(polling, Scheduler(clock), web, open_files=1024)
        with pytest.raises(ConfigError, match=r"^storage\.path: changed from .*one\.db to .*two\.db, .* restart"):
            in_force.apply(after)
        assert in_force.settings == before
    finally:
        state.close()
