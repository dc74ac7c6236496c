"""Reloading the configuration while the exporter runs: on SIGHUP, on request, and when a file has changed.

All or nothing: with any error the configuration in force stays, and the errors are in the log, on the status page and
in a metric. One thread does it, so that a hanging disk stops neither the signals nor the web server.

Media files are read again by themselves. A mistake in one keeps its last valid content, and touches nothing else.
"""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Protocol

import structlog

from exporter.clock import Clock
from exporter.config.media_files import MediaReading
from exporter.config.settings import Settings
from exporter.errors import ConfigError, ExporterError
from exporter.httpd.web_config import WebConfig
from exporter.media_errors import MediaErrors
from exporter.views import ProblemView, Subject

log = structlog.get_logger("reload")

# Seconds between two looks at the media files, and at the secret files of merchants whose credentials are refused.
MEDIA_EVERY = 30.0
SECRETS_EVERY = 5.0

# Seconds until a reload that failed for another reason than the configuration is tried again.
AGAIN_EVERY = 30.0

# Seconds until a request for a reload gets an answer at the latest.
LONGEST_RELOAD = 45.0

STOPPING = "the exporter is stopping"


class Source(Protocol):
    """Where the configuration comes from."""

    def read(self) -> Settings:
        """Read the configuration file, and what it names but for the media files. Raises ConfigError."""
        ...

    def changed(self) -> bool:
        """Whether the content of a file differs from what `read` has last read."""
        ...

    def media(self, settings: Settings) -> MediaReading:
        """The settings with the media of the media files; what was valid before stays where a file is not."""
        ...

    def fresh_media(self, settings: Settings) -> MediaReading:
        """The settings with the media of the media files as they are now; with errors, `media` goes on as before."""
        ...


class InForce(Protocol):
    """The configuration in force."""

    def load_web(self) -> WebConfig:
        """Read the web configuration. Raises ConfigError."""
        ...

    def web_errors(self) -> Sequence[str]:
        """Why the newest content of the web configuration's files is not in force, one line for each error."""
        ...

    def apply(self, settings: Settings, web: WebConfig | None = None) -> None:
        """Let a configuration take effect, and a web configuration where one is given, or raise and change nothing."""
        ...

    def outdated(self) -> bool:
        """Whether the catalog names other media for the reference ids of the configuration than it did."""
        ...

    def refused(self) -> Collection[str]:
        """The merchants whose credentials the API refuses."""
        ...

    def conflicts(self) -> Mapping[str, Sequence[str]]:
        """By merchant, one line for each media that two entries name."""
        ...


class Telemetry(Protocol):
    """Where it is reported."""

    def reloaded(self, *, ok: bool, at: float) -> None:
        """A reload has ended (Unix seconds)."""
        ...

    def media_files_read(self, errors: Mapping[str, Collection[str]]) -> None:
        """The media files were read: the errors of each merchant with media files."""
        ...


class Reloader:
    """Reloads the configuration. Thread-safe."""

    def __init__(
        self,
        source: Source,
        in_force: InForce,
        telemetry: Telemetry,
        clock: Clock,
        settings: Settings,
        reading: MediaReading,
        interval: float = 0.0,
    ) -> None:
        """Watch nothing yet.

        Args:
            source: Where the configuration comes from.
            in_force: Where it takes effect.
            telemetry: Where it is reported.
            clock: The clock.
            settings: What `source.read` has returned.
            reading: What `source.media` has made of it, which is in force.
            interval: Seconds between two looks whether a file has changed, 0 for none.
        """
        self._source = source
        self._in_force = in_force
        self._telemetry = telemetry
        self._clock = clock
        self._settings = settings
        self._reading = reading
        self._interval = interval
        self._media_errors = MediaErrors(telemetry.media_files_read)
        self._note_media_errors()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="reload")
        self._mutex = threading.Lock()
        # A reload that was requested and has not begun: it serves whoever asks until then.
        self._requested: Future[Sequence[str]] | None = None
        self._watching: Future[None] | None = None
        # Held while a reload runs.
        self._running = threading.Lock()
        self._stopped = False
        # When each kind of look was last taken (monotonic seconds).
        self._looked: dict[str, float] = dict.fromkeys(("files", "media", "secrets", "again"), clock.monotonic())
        self._errors: Sequence[str] = ()
        self._problem: ProblemView | None = None
        # Since when the web configuration has errors (Unix seconds), or None.
        self._web_since: float | None = None
        # Whether the last reload failed for a reason that can pass without a change of the configuration.
        self._passing = False
        # What was last reported.
        self._ok = True

    @property
    def settings(self) -> Settings:
        """The configuration in force, without the media of its media files."""
        return self._settings

    def problems(self) -> Iterator[ProblemView]:
        """The configuration that was not accepted, and the errors of the web configuration and the media files."""
        errors = self._in_force.web_errors()
        if self._problem is not None:
            yield self._problem
        elif errors:
            message = f"the web configuration has an error, the last valid one stays in force: {_first(errors)}"
            yield ProblemView(Subject.CONFIGURATION, message, self._web_since)
        if self._media_errors.problem is not None:
            yield self._media_errors.problem

    def request(self) -> Future[Sequence[str]]:
        """Reload soon. The result has one line for each error, none if the configuration is in force."""
        with self._mutex:
            if self._requested is None:
                self._requested = self._pool.submit(self._requested_reload)
            return self._requested

    def reload(self) -> Sequence[str]:
        """Reload, and wait for the result: one line for each error, none if the configuration is in force."""
        try:
            return self.request().result(LONGEST_RELOAD)
        except TimeoutError:
            return [f"the reload has not ended after {LONGEST_RELOAD:.0f} s; the log shows its result"]
        except (CancelledError, RuntimeError):
            # RuntimeError: the pool takes no more.
            return [STOPPING]

    def watch(self) -> None:
        """Look whether something has to be read again; called about once a second. It waits for nothing."""
        if self._watching is None or self._watching.done():
            self._watching = self._pool.submit(self._watch)

    def stop(self, timeout: float) -> bool:
        """Begin no other reload; whether none runs within so many seconds."""
        self._stopped = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        ended = self._running.acquire(timeout=max(0.0, timeout))
        if ended:
            self._running.release()
        return ended

    def _requested_reload(self) -> Sequence[str]:
        with self._mutex:
            self._requested = None
        return self._reload()

    # ---- in the thread of the reloads ----

    def _watch(self) -> None:
        self._watch_web()
        if self._problem is not None and self._passing and self._due("again", AGAIN_EVERY):
            self._reload(again=True)
        if self._due("files", self._interval) and self._source.changed():
            self._reload()
        if self._due("secrets", SECRETS_EVERY if not self._interval else 0.0):
            self._exclusively(self._read_refused_secrets)
        if self._due("media", MEDIA_EVERY):
            self._exclusively(lambda: self._take(self._settings))
        if self._in_force.outdated():
            self._exclusively(self._identify)

    def _watch_web(self) -> None:
        """Report the errors of a web configuration that has changed as those of a reload, until they are resolved."""
        wrong, now = bool(self._in_force.web_errors()), self._clock.now()
        self._web_since = (self._web_since or now) if wrong else None
        self._report(ok=self._problem is None and not wrong, now=now)

    def _report(self, *, ok: bool, now: float) -> None:
        if ok is not self._ok:
            self._ok = ok
            self._telemetry.reloaded(ok=ok, at=now)

    def _due(self, kind: str, every: float) -> bool:
        now = self._clock.monotonic()
        if not every or now - self._looked[kind] < every:
            return False
        self._looked[kind] = now
        return True

    def _exclusively(self, act: Callable[[], object]) -> None:
        """Do what nobody has asked for: its errors are only logged, and it is tried again later."""
        with self._running:
            if not self._stopped and (errors := _errors(act)):
                log.warning("the configuration could not be brought up to date", error=errors[0])

    def _reload(self, *, again: bool = False) -> Sequence[str]:
        with self._running:
            if self._stopped:
                return [STOPPING]
            before, self._errors = self._errors, _errors(self._read_and_apply)
            errors, now = self._errors, self._clock.now()
            self._ok = not errors
            self._telemetry.reloaded(ok=self._ok, at=now)
            if not errors:
                self._problem = None
                merchants = self._reading.settings.merchants
                streams = sum(len(merchant.streams()) for merchant in merchants)
                log.info("configuration reloaded", merchants=len(merchants), streams=streams)
                return errors
            self._looked["again"] = self._clock.monotonic()
            if not again or errors != before:
                for error in errors:
                    log.error("configuration error", error=error)
                log.error("configuration not reloaded; the previous one stays in force", errors=len(errors))
            since = now if self._problem is None else self._problem.since
            message = f"the configuration was not reloaded, the previous one stays in force: {_first(errors)}"
            self._problem = ProblemView(Subject.CONFIGURATION, message, since)
            return errors

    def _read_and_apply(self) -> None:
        errors: list[str] = []
        try:
            settings = self._source.read()
            reading = self._source.fresh_media(settings)
            # A file of several merchants is reported once.
            errors += dict.fromkeys(line for lines in reading.errors.values() for line in lines)
        except ConfigError as error:
            errors += error.errors
        # The web configuration is also read again by itself.
        self._passing = not errors
        try:
            web = self._in_force.load_web()
        except ConfigError as error:
            errors += error.errors
        if self._stopped:
            # The state file is being closed.
            errors = [STOPPING]
        if errors:
            raise ConfigError(errors)
        try:
            self._in_force.apply(reading.settings, web)
        except ConfigError:
            self._passing = False
            raise
        self._settings, self._reading = settings, reading
        self._note_media_errors()

    def _identify(self) -> None:
        self._in_force.apply(self._reading.settings)
        self._note_media_errors()

    def _note_media_errors(self) -> None:
        errors = {merchant_id: tuple(lines) for merchant_id, lines in self._reading.errors.items()}
        for merchant_id, lines in self._in_force.conflicts().items():
            errors[merchant_id] = (*errors.get(merchant_id, ()), *lines)
        self._media_errors.take(errors, self._clock.now())

    def _take(self, settings: Settings) -> bool:
        """Let settings take effect, with the media of the media files as they are now; whether anything differs."""
        reading = self._source.media(settings)
        differs = reading.settings != self._reading.settings
        if differs:
            self._in_force.apply(reading.settings)
        self._settings, self._reading = settings, reading
        self._note_media_errors()
        return differs

    def _read_refused_secrets(self) -> None:
        """Read the secrets of merchants whose credentials are refused again, and nothing else of the configuration."""
        refused = self._in_force.refused()
        if not refused or not self._source.changed():
            return
        try:
            fresh = self._source.read()
        except ConfigError:
            # What is wrong with the configuration is for a reload to say.
            return
        if self._take(with_secrets(self._settings, fresh, refused)):
            log.info("secrets read again, as the API refuses the credentials", merchants=",".join(sorted(refused)))


def _first(errors: Sequence[str]) -> str:
    return errors[0] + (f" (and {len(errors) - 1} more)" if len(errors) > 1 else "")


def _errors(act: Callable[[], object]) -> Sequence[str]:
    """Do something that may fail; returns one line for each error."""
    try:
        act()
    except ConfigError as error:
        return error.errors
    except ExporterError as error:
        return [str(error)]
    except Exception as error:
        # A defect must not end the reloads.
        log.exception("a reload failed")
        return [f"unexpected error, please report it: {type(error).__name__}"]
    return ()


def with_secrets(settings: Settings, fresh: Settings, merchant_ids: Collection[str]) -> Settings:
    """The settings, with the credentials of some merchants as another reading of the configuration has them."""
    found = {each.id: each for each in fresh.merchants if each.id in merchant_ids}
    merchants = tuple(
        each.model_copy(update={"api_key": found[each.id].api_key, "password": found[each.id].password})
        if each.id in found
        else each
        for each in settings.merchants
    )
    return settings.model_copy(update={"merchants": merchants})
