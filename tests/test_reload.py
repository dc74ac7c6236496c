"""Reloading: what is read when, and what an error leaves in force."""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import structlog
import yaml

from exporter.config.settings import Settings
from exporter.config.source import ConfigSource, NoSource, Selection
from exporter.errors import ConfigError, StateWriteFailed
from exporter.httpd.web_config import WebConfig
from exporter.reload import AGAIN_EVERY, MEDIA_EVERY, SECRETS_EVERY, STOPPING, Reloader, Source, with_secrets
from exporter.views import ProblemView, Subject
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
    rejected_web: tuple[str, ...] = ()
    web: WebConfig | None = None
    found: bool = False
    watched_web_errors: tuple[str, ...] = ()
    conflicting: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def web_errors(self) -> tuple[str, ...]:
        return self.watched_web_errors

    def load_web(self) -> WebConfig:
        if self.rejected_web:
            raise ConfigError(self.rejected_web)
        return WebConfig()

    def apply(self, settings: Settings, web: WebConfig | None = None) -> None:
        if self.error is not None:
            raise self.error
        self.settings, self.web, self.found = settings, web or self.web, False
        self.applied.append(settings)

    def outdated(self) -> bool:
        return self.found

    def refused(self) -> frozenset[str]:
        return self.refusing

    def conflicts(self) -> dict[str, tuple[str, ...]]:
        return self.conflicting


class Folder:
    """A configuration file with a secret file, and the reloader for it."""

    def __init__(self, path: Path) -> None:
        self.config, self.secret = path / "config.yaml", path / "password"
        self.secret.write_text("old")
        self.write()
        self.clock = FakeClock(1_780_000_000.0)
        self.state_path = path / "state.db"
        self.source: Source = ConfigSource(self.config, {}, Selection(self.state_path))
        self.in_force = InForce(self.source.read())
        self.reports: list[tuple[bool, float]] = []
        self.media_errors: Mapping[str, Collection[str]] = {}
        self.reloader = self.begin()

    def begin(self, interval: float = 0.0) -> Reloader:
        settings = self.in_force.settings
        reading = self.source.media(settings)
        self.in_force.settings = reading.settings
        self.reloader = Reloader(self.source, self.in_force, self, self.clock, settings, reading, interval)
        return self.reloader

    def reloaded(self, *, ok: bool, at: float) -> None:
        self.reports.append((ok, at))

    def media_files_read(self, errors: Mapping[str, Collection[str]]) -> None:
        self.media_errors = errors

    @property
    def problem(self) -> ProblemView | None:
        return next(iter(self.reloader.problems()), None)

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
    assert folder.in_force.settings.storage.path == folder.state_path
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
    problem = folder.problem
    assert problem is not None
    assert (problem.subject, problem.since, problem.bad) == (Subject.CONFIGURATION, since, False)
    assert errors[0] in problem.message
    assert "(and 1 more)" in problem.message
    folder.write()
    assert folder.reloader.reload() == ()
    assert folder.problem is None


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

        def slow() -> Settings:
            self.reads += 1
            self.reading.set()
            assert self.gate.wait(60)
            return read()

        self.source.read = slow  # type: ignore[method-assign]


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
    folder.source = NoSource()
    folder.begin(INTERVAL)
    folder.look(MEDIA_EVERY)
    (error,) = folder.reloader.reload()
    assert "no configuration file" in error
    assert folder.in_force.applied == []


def test_a_web_configuration_belongs_to_it(folder: Folder) -> None:
    """An error in the web configuration refuses the whole reload; its errors come with the others."""
    folder.write(media="mn")
    folder.in_force.rejected_web = ("web.yml: wrong",)
    assert folder.reloader.reload() == ("web.yml: wrong",)
    assert (folder.media, folder.in_force.web) == ("m", None)
    folder.write(media="mm")
    assert len(folder.reloader.reload()) == 2
    folder.write(media="mn")
    folder.in_force.rejected_web = ()
    assert folder.reloader.reload() == ()
    assert (folder.media, folder.in_force.web) == ("mn", WebConfig())


def test_a_web_configuration_that_changes_by_itself_is_reported(folder: Folder) -> None:
    """Its errors are a problem and a failed reload, until they are resolved; nobody has to reload."""
    folder.in_force.watched_web_errors = ("web.yml: wrong", "web.yml: worse")
    since = folder.clock.now() + 1
    folder.look(1)
    folder.look(1)
    problem = folder.problem
    assert problem is not None
    assert (problem.subject, problem.since, "web.yml: wrong (and 1 more)" in problem.message) == (
        Subject.CONFIGURATION,
        since,
        True,
    )
    folder.in_force.watched_web_errors = ()
    folder.look(1)
    assert folder.problem is None
    assert folder.reports == [(False, since), (True, since + 2)]


@pytest.mark.parametrize("kind", ["web", "state"])
def test_a_reload_that_failed_for_another_reason_is_tried_again(folder: Folder, kind: str) -> None:
    """When the web configuration is valid again by itself, or the state file writable, the reload takes effect."""
    folder.write(media="mn")
    if kind == "web":
        folder.in_force.rejected_web = ("web.yml: wrong",)
    else:
        folder.in_force.error = StateWriteFailed("the disk is full")
    with structlog.testing.capture_logs() as logs:
        assert len(folder.reloader.reload()) == 1
        folder.look(AGAIN_EVERY)
    assert folder.problem is not None
    assert len([line for line in logs if line["event"] == "configuration error"]) == 1
    folder.in_force.error = None
    folder.in_force.rejected_web = ()
    folder.look(AGAIN_EVERY)
    assert folder.media == "mn"
    assert not [*folder.reloader.problems()]


def test_a_reload_with_errors_of_the_configuration_is_not_tried_again(folder: Folder) -> None:
    """Whoever asked for it has to correct the file, and asks again."""
    folder.write(media="mm")
    folder.reloader.reload()
    folder.write(media="mn")
    folder.look(AGAIN_EVERY)
    assert (folder.media, len(folder.reports)) == ("m", 1)


class TestMediaFiles:
    """Media files are read again by themselves."""

    @pytest.fixture
    def file(self, folder: Folder) -> Path:
        file = folder.config.with_name("live.csv")
        file.write_text("id\nx\n")
        folder.write(media_files=["*.csv"])
        assert folder.reloader.reload() == ()
        assert folder.media == "mx"
        return file

    def test_a_change_takes_effect_without_a_reload(self, folder: Folder, file: Path) -> None:
        """A file is looked at every 30 seconds. No reload is reported: that of the configuration is another thing."""
        file.write_text("id\nx\ny\n")
        folder.look(MEDIA_EVERY - 1)
        assert folder.media == "mx"
        folder.look(1)
        assert folder.media == "mxy"
        applied = len(folder.in_force.applied)
        folder.look(MEDIA_EVERY)
        assert (len(folder.in_force.applied), len(folder.reports)) == (applied, 1)

    def test_a_broken_file_keeps_its_last_valid_content(self, folder: Folder, file: Path) -> None:
        """Its error is logged once, and is a problem since then, until it is resolved; a reload refuses it."""
        file.write_text("id,priority\nx,high\n")
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                folder.look(MEDIA_EVERY)
        assert folder.media == "mx"
        assert [line["event"] for line in logs] == ["media file error"]
        problem = folder.problem
        assert problem is not None
        assert (problem.subject, problem.since) == (Subject.MEDIA_FILES, folder.clock.now() - 2 * MEDIA_EVERY)
        assert [len(lines) for lines in folder.media_errors.values()] == [1]
        (error,) = folder.reloader.reload()
        assert "live.csv:2: priority: " in error
        assert folder.media == "mx"
        file.write_text("id\nz\n")
        with structlog.testing.capture_logs() as logs:
            folder.look(MEDIA_EVERY)
        assert folder.media == "mz"
        assert [line["event"] for line in logs] == ["resolved: media file errors"]
        assert Subject.MEDIA_FILES not in [each.subject for each in folder.reloader.problems()]

    def test_the_media_of_a_deleted_file_leave_with_a_reload(self, folder: Folder, file: Path) -> None:
        """A file that vanishes may be on its way: only a reload says that this is meant."""
        file.unlink()
        folder.look(MEDIA_EVERY)
        assert folder.media == "mx"
        assert folder.reloader.reload() == ()
        assert folder.media == "m"

    def test_it_starts_with_a_broken_file(self, folder: Folder, file: Path) -> None:
        """The other media are there, and the error is a problem from the start."""
        file.write_text("id\n/\n")
        folder.source = ConfigSource(folder.config, {})
        folder.in_force.settings = folder.source.read()
        folder.begin()
        assert folder.media == "m"
        assert folder.problem is not None

    def test_refused_credentials_do_not_take_other_media_away(self, folder: Folder, file: Path) -> None:
        """The secrets alone are read again: the media of the files stay."""
        folder.in_force.refusing = frozenset("a")
        folder.secret.write_text("new")
        folder.look(SECRETS_EVERY)
        assert (folder.media, folder.password) == ("mx", "new")


def test_a_reference_id_that_is_found_takes_effect(folder: Folder) -> None:
    """When the catalog has found media, the configuration takes effect once more; media named twice are an error."""
    folder.in_force.found = True
    folder.in_force.conflicting = {"a": ("a is b",)}
    folder.look(1)
    folder.look(1)
    assert len(folder.in_force.applied) == 1
    assert folder.media_errors == {"a": ("a is b",)}


def test_what_nobody_asked_for_is_tried_again_after_an_error(folder: Folder) -> None:
    """While the state file cannot be written, for example, found media wait; that is a warning, and no end."""
    folder.in_force.found = True
    folder.in_force.error = StateWriteFailed("the disk is full")
    with structlog.testing.capture_logs() as logs:
        folder.look(1)
    assert [line["error"] for line in logs] == ["the disk is full"]
    folder.in_force.error = None
    folder.look(1)
    assert len(folder.in_force.applied) == 1
