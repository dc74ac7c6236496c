"""Reloading: what is read when, and what an error leaves in force."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import structlog
import yaml

from exporter.config.settings import Settings
from exporter.config.source import ConfigSource
from exporter.errors import ConfigError, StateWriteFailed
from exporter.reload import SECRETS_EVERY, STOPPING, Reloader, with_secrets
from exporter.views import Subject
from tests.support.fakes import FakeClock
from tests.support.processes import wait_until

INTERVAL = 30.0


@dataclass
class InForce:
    """A configuration in force, as the reloader sees it."""

    settings: Settings
    applied: list[Settings] = field(default_factory=list)
    refusing: frozenset[str] = frozenset()
    error: Exception | None = None

    def apply(self, settings: Settings) -> None:
        if self.error is not None:
            raise self.error
        self.settings = settings
        self.applied.append(settings)

    def refused(self) -> frozenset[str]:
        return self.refusing


class Folder:
    """A configuration file with a secret file, and the reloader for it."""

    def __init__(self, path: Path) -> None:
        self.config, self.secret = path / "config.yaml", path / "password"
        self.secret.write_text("old")
        self.write()
        self.clock = FakeClock(1_780_000_000.0)
        self.source = ConfigSource(self.config, {}, storage_path=path / "state.db")
        self.in_force = InForce(self.source.read())
        self.reports: list[tuple[bool, float]] = []
        self.reloader = self.begin()

    def begin(self, interval: float = 0.0) -> Reloader:
        self.reloader = Reloader(self.source, self.in_force, self._report, self.clock, interval)
        return self.reloader

    def _report(self, ok: bool, at: float) -> None:
        self.reports.append((ok, at))

    def write(self, *, media: str = "m", **others: object) -> None:
        merchant = {
            "id": "a",
            "api_key": "k",
            "mail_address": "ops@example.com",
            "password_file": str(self.secret),
            "media": [{"id": each} for each in media],
        }
        self.config.write_text(yaml.safe_dump({"merchants": [merchant | others]}))

    def look(self, seconds: float) -> None:
        """Let so many seconds pass, and the reloader look for changes."""
        self.clock.advance(seconds)
        self.reloader.watch()
        # Whoever comes after it in the only thread waits for it.
        self.reloader._pool.submit(lambda: None).result(60)

    @property
    def media(self) -> str:
        return "".join(media.id for media in self.in_force.settings.merchants[0].media)

    @property
    def password(self) -> str:
        return self.in_force.settings.merchants[0].password.get_secret_value()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    created = Folder(tmp_path)
    yield created
    assert created.reloader.stop(60)


def test_a_reload_reads_the_file_and_its_secrets_again(folder: Folder) -> None:
    """On request, the configuration and its secret files are read, whether or not they have changed."""
    folder.write(media="mn")
    folder.secret.write_text("new")
    assert folder.reloader.reload() == ()
    assert (folder.media, folder.password) == ("mn", "new")
    assert folder.in_force.settings.storage.path == folder.source.storage_path
    assert folder.reloader.reload() == ()
    assert folder.reports == [(True, folder.clock.now())] * 2


def test_an_error_leaves_the_configuration_in_force(folder: Folder) -> None:
    """Every error is returned and logged, and is a problem since the first attempt, until a reload is successful."""
    folder.write(media="mm", priority=1)
    before, since = folder.in_force.settings, folder.clock.now()
    with structlog.testing.capture_logs() as logs:
        errors = folder.reloader.reload()
    assert len(errors) == 2
    assert [line["error"] for line in logs if "error" in line] == list(errors)
    assert logs[-1]["event"] == "configuration not reloaded; the previous one stays in force"
    folder.clock.advance(60)
    folder.reloader.reload()
    assert folder.in_force.settings is before
    assert folder.reports == [(False, since), (False, since + 60)]
    problem = folder.reloader.problem
    assert problem is not None
    assert (problem.subject, problem.since, problem.bad) == (Subject.CONFIGURATION, since, False)
    assert errors[0] in problem.message
    assert "(and 1 more)" in problem.message
    folder.write()
    assert folder.reloader.reload() == ()
    assert folder.reloader.problem is None


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConfigError(["storage.path: changed"]), "storage.path: changed"),
        (StateWriteFailed("the disk is full"), "the disk is full"),
        (RuntimeError("secret details"), "unexpected error, please report it: RuntimeError"),
    ],
)
def test_what_cannot_take_effect_is_an_error(folder: Folder, error: Exception, line: str) -> None:
    """A configuration that is valid but cannot take effect is reported as one that is not; a defect, too."""
    folder.in_force.error = error
    assert list(folder.reloader.reload()) == [line]
    folder.in_force.error = None
    assert folder.reloader.reload() == ()


def test_files_are_watched_if_an_interval_is_set(folder: Folder) -> None:
    """Every interval, and not before, a change of any file's content is reloaded; a new time of the same content is
    none. A broken file is read once, not every interval, and again when it has changed.
    """
    folder.begin(INTERVAL)
    folder.look(INTERVAL)
    folder.config.touch()
    folder.look(INTERVAL)
    assert folder.reports == []
    folder.secret.write_text("new")
    folder.look(INTERVAL - 1)
    assert folder.reports == []
    folder.look(1)
    assert (folder.password, len(folder.reports)) == ("new", 1)
    folder.config.write_text("merchants: [")
    for _ in range(3):
        folder.look(INTERVAL)
    assert [ok for ok, _ in folder.reports] == [True, False]
    folder.write(media="mn")
    folder.look(INTERVAL)
    assert (folder.media, [ok for ok, _ in folder.reports]) == ("mn", [True, False, True])


def test_a_file_that_vanishes_and_returns_is_noticed(folder: Folder) -> None:
    """While a secret is replaced it may be missing; that is one error, and its return is a reload."""
    folder.begin(INTERVAL)
    folder.secret.unlink()
    folder.look(INTERVAL)
    folder.look(INTERVAL)
    folder.secret.write_text("new")
    folder.look(INTERVAL)
    assert ([ok for ok, _ in folder.reports], folder.password) == ([False, True], "new")


def test_a_symbolic_link_that_is_swapped_is_noticed(folder: Folder, tmp_path: Path) -> None:
    """Kubernetes replaces the link to a folder of files."""
    for name, password in (("one", "old"), ("two", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "password").write_text(password)
    link, folder.secret = tmp_path / "data", tmp_path / "data" / "password"
    link.symlink_to("one")
    folder.write()
    folder.source.read()
    folder.begin(INTERVAL)
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(link)
    folder.look(INTERVAL)
    assert folder.password == "new"


def test_without_an_interval_nothing_is_reloaded_unasked(folder: Folder) -> None:
    """By default a changed file has no effect before a reload."""
    folder.write(media="mn")
    folder.look(3600)
    assert (folder.media, folder.reports) == ("m", [])


def test_refused_credentials_are_read_again(folder: Folder) -> None:
    """After a 401 the secrets are read again when their file changes, and nothing else of the configuration is."""
    folder.secret.write_text("new")
    folder.write(media="mn")
    folder.look(SECRETS_EVERY)
    assert (folder.media, folder.password) == ("m", "old")
    folder.in_force.refusing = frozenset("a")
    with structlog.testing.capture_logs() as logs:
        folder.look(SECRETS_EVERY)
        folder.look(SECRETS_EVERY)
    assert (folder.media, folder.password) == ("m", "new")
    assert [line["event"] for line in logs] == ["secrets read again, as the API refuses the credentials"]
    assert folder.reports == []


def test_a_broken_file_does_not_matter_to_refused_credentials(folder: Folder) -> None:
    """Errors of the configuration are reported by a reload only. The secrets are read once it is valid again."""
    folder.in_force.refusing = frozenset("a")
    folder.config.write_text("merchants: [")
    with structlog.testing.capture_logs() as logs:
        folder.look(SECRETS_EVERY)
    assert logs == []
    folder.secret.write_text("new")
    folder.write()
    folder.look(SECRETS_EVERY)
    assert folder.password == "new"


def test_only_the_credentials_of_the_refused_merchants_are_replaced() -> None:
    """Secrets of merchants that the API accepts stay, whatever a file says."""

    def settings(password: str, priority: float) -> Settings:
        merchants = [
            {
                "id": merchant_id,
                "api_key": password,
                "mail_address": "ops@example.com",
                "password": password,
                "media": [{"id": "m", "priority": priority}],
            }
            for merchant_id in ("a", "b")
        ]
        return Settings.model_validate({"merchants": merchants})

    found = with_secrets(settings("old", 1.0), settings("new", 2.0), {"b", "gone"})
    assert [each.api_key.get_secret_value() for each in found.merchants] == ["old", "new"]
    assert [each.password.get_secret_value() for each in found.merchants] == ["old", "new"]
    assert {each.media[0].priority for each in found.merchants} == {1.0}


class Slow(Folder):
    """A source that is read slowly."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.reading, self.gate, self.reads = threading.Event(), threading.Event(), 0
        read: Callable[[], Settings] = self.source.read

        class Source:
            changed = self.source.changed

            def read(_) -> Settings:  # noqa: N805 - the outer one is `self`
                self.reads += 1
                self.reading.set()
                assert self.gate.wait(60)
                return read()

        self.reloader = Reloader(Source(), self.in_force, self._report, self.clock)


def test_two_reloads_at_once(tmp_path: Path) -> None:
    """They run one after the other. Whoever asks while one runs gets the result of one that begins later; several who
    ask meanwhile share it.
    """
    folder = Slow(tmp_path)
    first = folder.reloader.request()
    assert folder.reading.wait(60)
    folder.write(media="mn")
    others = [folder.reloader.request() for _ in range(5)]
    folder.gate.set()
    assert [first.result(60), *(each.result(60) for each in others)] == [()] * 6
    assert (folder.reads, folder.media) == (2, "mn")
    assert folder.reloader.stop(60)


def test_a_reload_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """The end of the process waits a while for a running reload, and says that it has not ended. It takes no effect."""
    folder = Slow(tmp_path)
    running = folder.reloader.request()
    assert folder.reading.wait(60)
    waiting = threading.Thread(target=lambda: results.append(folder.reloader.reload()))
    results: list[object] = []
    waiting.start()
    wait_until("it waits", lambda: folder.reloader._requested is not None)
    assert not folder.reloader.stop(0.01)
    waiting.join(60)
    assert (results, folder.reloader.reload()) == ([[STOPPING]], [STOPPING])
    folder.gate.set()
    assert running.result(60) == (STOPPING,)
    assert folder.in_force.applied == []
    assert folder.reloader.stop(60)


def test_the_demo_has_nothing_to_reload(folder: Folder) -> None:
    """Without a file the answer says why, and nothing changes."""
    reloader = Reloader(None, folder.in_force, folder._report, folder.clock, INTERVAL)
    folder.clock.advance(INTERVAL)
    reloader.watch()
    (error,) = reloader.reload()
    assert "no configuration file" in error
    assert folder.in_force.applied == []
    assert reloader.stop(60)
