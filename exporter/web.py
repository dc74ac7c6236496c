"""How the exporter is reached: its flags, and its web configuration, which is read again when a file of it changes."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from exporter.config.web_file import load_web_config
from exporter.errors import ConfigError
from exporter.httpd.address import Address
from exporter.httpd.web_config import WebConfig
from exporter.serving.paths import METRICS

log = structlog.get_logger("web")

# Seconds between looks at the files.
CHECK_EVERY = 1.0


@dataclass(frozen=True, slots=True)
class WebFlags:
    """The flags `--web.…`.

    Attributes:
        listen: The addresses to serve on; at least one.
        config_file: The web configuration, or None for plain HTTP without a password.
        telemetry_path: The path of the metrics.
        external_url: The address at which people reach the pages, without a final slash; "" if unknown.
    """

    listen: tuple[Address, ...]
    config_file: Path | None = None
    telemetry_path: str = METRICS
    external_url: str = ""

    def load(self) -> WebConfig:
        """The web configuration.

        Raises:
            ConfigError: It is not valid. One line for each error.
        """
        return WebConfig() if self.config_file is None else load_web_config(self.config_file)


# What a file is recognized by: its inode, its time and its size; None for one that cannot be looked at.
_Mark = tuple[int, int, int] | None


class WebConfigWatch:
    """Reads the web configuration again when one of its files has changed: users, certificates, CAs.

    What cannot be used is one log line; the last configuration stays in force until it is resolved. Thread-safe.
    """

    def __init__(self, flags: WebFlags) -> None:
        """Load the configuration that the flags name.

        Raises:
            ConfigError: It is not valid. One line for each error.
        """
        self.flags = flags
        self._mutex = threading.Lock()
        self._web = flags.load()
        self._marks = self._seen = _marks(self._web.files)
        self._errors: tuple[str, ...] = ()
        self._configure: Callable[[WebConfig], None] = lambda _: None
        self._stopped = threading.Event()

    @property
    def web(self) -> WebConfig:
        """What is in force."""
        return self._web

    @property
    def errors(self) -> tuple[str, ...]:
        """Why the newest content of the files is not in force, one line for each error."""
        return self._errors

    def start(self, configure: Callable[[WebConfig], None]) -> None:
        """Look at the files each second from now on.

        Args:
            configure: Puts a configuration into force.
        """
        self._configure = configure
        self._stopped = stopped = threading.Event()

        def watch() -> None:
            while not stopped.wait(CHECK_EVERY):
                self.check()

        if self._web.files:
            # A thread of its own, as a file system may hang.
            threading.Thread(target=watch, name="certificates", daemon=True).start()

    def stop(self) -> None:
        """Look at the files no more, until the next start."""
        self._stopped.set()

    def apply(self, web: WebConfig) -> None:
        """Put a configuration into force that somebody else has loaded, and watch its files from now on."""
        marks = _marks(web.files)
        with self._mutex:
            self._apply(web, marks)

    def check(self) -> None:
        """Read the configuration again if a file has changed, and has stayed as it is since the check before."""
        with self._mutex:
            web, before, known, errors = self._web, self._seen, self._marks, self._errors
        # Without the lock: a file system may hang.
        seen = _marks(web.files)
        # A file that is written at this moment may be half of it. After an error the file to repair may be another.
        outcome = self._load() if seen == before and (seen != known or errors) else None
        marks = _marks(outcome.files) if isinstance(outcome, WebConfig) and outcome.files != web.files else seen
        with self._mutex:
            if self._web is not web:
                # Somebody else has put another one into force.
                return
            self._seen = seen
            if isinstance(outcome, ConfigError):
                self._failed(outcome.errors)
            elif outcome is not None:
                if not errors:
                    log.info("the web configuration has changed", tls=outcome.tls is not None, users=len(outcome.users))
                self._apply(outcome, marks)

    def _load(self) -> WebConfig | ConfigError:
        try:
            return self.flags.load()
        except ConfigError as error:
            return error

    def _failed(self, errors: tuple[str, ...]) -> None:
        if errors != self._errors:
            log.error(
                "cannot use the changed web configuration; the last one stays in force", errors=" | ".join(errors)
            )
        self._errors, self._marks = errors, self._seen

    def _apply(self, web: WebConfig, marks: tuple[_Mark, ...]) -> None:
        self._configure(web)
        if self._errors:
            log.info("resolved: the web configuration is in force", tls=web.tls is not None, users=len(web.users))
        self._web, self._marks, self._seen, self._errors = web, marks, marks, ()


def _marks(files: tuple[Path, ...]) -> tuple[_Mark, ...]:
    return tuple(map(_mark, files))


def _mark(path: Path) -> _Mark:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
