"""Reloading the configuration while the exporter runs: on SIGHUP, on request, and when a file has changed.

All or nothing: with any error the configuration in force stays, and the errors are in the log, on the status page and
in a metric. One thread does it, so that a hanging disk stops neither the signals nor the web server.
"""

import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Protocol

import structlog

from exporter.clock import Clock
from exporter.config.settings import Settings
from exporter.errors import ConfigError, ExporterError
from exporter.views import ProblemView, Subject

log = structlog.get_logger("reload")

# Seconds between two looks at the secret files of merchants whose credentials are refused.
SECRETS_EVERY = 5.0

# Seconds until a request for a reload gets an answer at the latest.
LONGEST_RELOAD = 45.0

STOPPING = "the exporter is stopping"


class Source(Protocol):
    """Where the configuration comes from."""

    def read(self) -> Settings:
        """Read all of it. Raises ConfigError."""
        ...

    def changed(self) -> bool:
        """Whether the content of a file differs from what was last read."""
        ...


class Applied(Protocol):
    """What a configuration is for."""

    @property
    def settings(self) -> Settings:
        """The configuration in force."""
        ...

    def apply(self, settings: Settings) -> None:
        """Let a configuration take effect, or raise and change nothing."""
        ...

    def refused(self) -> Collection[str]:
        """The merchants whose credentials the API refuses."""
        ...


class Reloader:
    """Reloads the configuration. Thread-safe."""

    def __init__(
        self,
        source: Source | None,
        applied: Applied,
        report: Callable[[bool, float], None],
        clock: Clock,
        interval: float = 0.0,
    ) -> None:
        """Watch nothing yet.

        Args:
            source: Where the configuration comes from; None if it cannot be read again, as in the demo.
            applied: Where it takes effect.
            report: Called after each reload: whether it was successful, and when (Unix seconds).
            clock: The clock.
            interval: Seconds between two looks whether a file has changed, 0 for none.
        """
        self._source = source
        self._applied = applied
        self._report = report
        self._clock = clock
        self._interval = interval
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="reload")
        self._mutex = threading.Lock()
        # A reload that was requested and has not begun: it serves whoever asks until then.
        self._requested: Future[Sequence[str]] | None = None
        self._watching: Future[None] | None = None
        # Held while a reload runs.
        self._running = threading.Lock()
        self._stopped = False
        self._looked_at = clock.monotonic()
        self._secrets_looked_at = clock.monotonic()
        self._problem: ProblemView | None = None

    @property
    def problem(self) -> ProblemView | None:
        """The configuration that was not accepted; None if the newest one was."""
        return self._problem

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
        if self._source is not None and (self._watching is None or self._watching.done()):
            self._watching = self._pool.submit(self._watch)

    def stop(self, timeout: float) -> bool:
        """Begin no other reload; whether none runs within so many seconds."""
        self._stopped = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        ended = self._running.acquire(timeout=timeout)
        if ended:
            self._running.release()
        return ended

    def _requested_reload(self) -> Sequence[str]:
        with self._mutex:
            self._requested = None
        return self._reload()

    def _watch(self) -> None:
        now = self._clock.monotonic()
        if self._source is None:
            return
        if self._interval and now - self._looked_at >= self._interval:
            self._looked_at = now
            if self._source.changed():
                self._reload()
        elif not self._interval and now - self._secrets_looked_at >= SECRETS_EVERY:
            self._secrets_looked_at = now
            self._read_refused_secrets(self._source)

    def _reload(self) -> Sequence[str]:
        with self._running:
            if self._stopped:
                return [STOPPING]
            errors = self._errors(self._read_and_apply)
            now = self._clock.now()
            self._report(not errors, now)
            if not errors:
                self._problem = None
                settings = self._applied.settings
                streams = sum(len(merchant.streams()) for merchant in settings.merchants)
                log.info("configuration reloaded", merchants=len(settings.merchants), streams=streams)
                return errors
            for error in errors:
                log.error("configuration error", error=error)
            log.error("configuration not reloaded; the previous one stays in force", errors=len(errors))
            since = now if self._problem is None else self._problem.since
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            message = f"the configuration was not reloaded, the previous one stays in force: {errors[0]}{more}"
            self._problem = ProblemView(Subject.CONFIGURATION, message, since)
            return errors

    def _read_and_apply(self, source: Source) -> None:
        settings = source.read()
        if self._stopped:
            # The state file is being closed.
            raise ConfigError([STOPPING])
        self._applied.apply(settings)

    def _errors(self, attempt: Callable[[Source], None]) -> Sequence[str]:
        if self._source is None:
            return ["there is no configuration file to reload: the demo has its own configuration"]
        try:
            attempt(self._source)
        except ConfigError as error:
            return error.errors
        except ExporterError as error:
            return [str(error)]
        except Exception as error:
            # A defect must not end the reloads.
            log.exception("a reload failed")
            return [f"unexpected error, please report it: {type(error).__name__}"]
        return ()

    def _read_refused_secrets(self, source: Source) -> None:
        """Read the secrets of merchants whose credentials are refused again, and nothing else of the configuration."""
        with self._running:
            refused = self._applied.refused()
            if self._stopped or not refused or not source.changed():
                return
            fresh: list[Settings] = []
            # What is wrong with the rest of the configuration is for a reload to say.
            if self._errors(lambda source: fresh.append(source.read())):
                return
            settings = with_secrets(self._applied.settings, fresh[0], refused)
            if settings != self._applied.settings and not self._errors(lambda _: self._applied.apply(settings)):
                names = ",".join(sorted(refused))
                log.info("secrets read again, as the API refuses the credentials", merchants=names)


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
