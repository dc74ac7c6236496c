"""The configuration in force, and how another one takes its place."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from exporter import logs
from exporter.assembly import Polling
from exporter.config.settings import MerchantSettings, Settings
from exporter.errors import ConfigError
from exporter.httpd.descriptors import needed
from exporter.httpd.web_config import WebConfig
from exporter.model import MINUTE
from exporter.planning.index import can_hold
from exporter.polling.scheduler import Scheduler
from exporter.web import WebConfigWatch

log = structlog.get_logger("daemon")


@dataclass(frozen=True, slots=True)
class InForce:
    """The configuration in force, and what it is for.

    Attributes:
        polling: The parts that poll and count.
        schedule: The scheduler of the rounds.
        web: The web configuration in force.
        open_files: The limit of open files.
    """

    polling: Polling
    schedule: Scheduler
    web: WebConfigWatch
    open_files: int

    @property
    def settings(self) -> Settings:
        """The configuration in force."""
        return self.polling.settings

    def refused(self) -> frozenset[str]:
        """The merchants whose credentials the API refuses."""
        return frozenset(merchant_id for merchant_id, each in self.polling.pollers.items() if each.link.refused)

    def outdated(self) -> bool:
        """Whether the catalog names other media for the reference ids of the configuration than it did."""
        return self.polling.outdated()

    def conflicts(self) -> Mapping[str, Sequence[str]]:
        """By merchant, one line for each media that two entries name."""
        return {each.id: each.conflicts for each in self.settings.merchants if each.conflicts}

    def web_errors(self) -> Sequence[str]:
        """Why the newest content of the web configuration's files is not in force, one line for each error."""
        return self.web.errors

    def load_web(self) -> WebConfig:
        """Read the web configuration. Raises ConfigError."""
        return self.web.flags.load()

    def apply(self, settings: Settings, web: WebConfig | None = None) -> None:
        """Let a configuration take effect, and a web configuration where one is given.

        Raises:
            ConfigError: It differs in what needs a restart.
            StateError: The state file cannot be read or written.
        """
        before = self.settings
        if settings.storage != before.storage:
            change = f"changed from {before.storage.path} to {settings.storage.path}"
            raise ConfigError(
                [f"storage.path: {change}, which needs a restart; undo the change, or restart the exporter"]
            )
        logs.hide(settings.secrets())
        self.polling.configure(settings)
        if web is not None:
            self.web.apply(web)
        self.begin()
        known = before.merchants
        self.warn(each for each in self.settings.merchants if each not in known or before.poll != self.settings.poll)

    def begin(self) -> None:
        """Let rounds of the merchants of the configuration begin, and of no others."""
        second = math.ceil(self.settings.poll.settle) % 60
        self.schedule.plan(second, {merchant_id: each.round for merchant_id, each in self.polling.pollers.items()})

    def warn(self, merchants: Iterable[MerchantSettings]) -> None:
        """Log what the configuration asks too much for."""
        _warn_of_waits(merchants, self.settings)
        _warn_of_open_files(self.settings, self.open_files)


def _warn_of_waits(merchants: Iterable[MerchantSettings], settings: Settings) -> None:
    longest = int(settings.poll.max_staleness // MINUTE)
    for merchant in merchants:
        streams = len(merchant.streams())
        if not can_hold(streams, merchant.requests_per_minute, longest):
            log.warning(
                "too many streams for max_staleness: quiet streams will wait longer; "
                "run `smartstream-exporter plan` for an estimate and advice",
                merchant=merchant.id,
                streams=streams,
                requests_per_minute=merchant.requests_per_minute,
            )


def _warn_of_open_files(settings: Settings, limit: int) -> None:
    wanted = needed(len(settings.merchants), settings.poll.concurrency)
    if limit < wanted:
        log.warning(
            "the open file limit is too low: requests will fail; "
            "raise it (ulimit -n, LimitNOFILE), lower poll.concurrency, or shard the merchants with --shard.count",
            limit=limit,
            needed=wanted,
            merchants=len(settings.merchants),
            concurrency=settings.poll.concurrency,
        )
