"""The object graph: what polls, counts and watches for drops, built from a configuration and a state file.

The daemon, the tests and the benchmarks build it here. The clock, the state and the transport are arguments.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import requests

from exporter.api.budget import RequestBudget
from exporter.api.catalog import Catalog
from exporter.api.client import Client
from exporter.api.request_log import Exchange, RequestLog
from exporter.api.zone_check import zone_error
from exporter.clock import ApiClock, Clock
from exporter.config.settings import MerchantSettings, Settings
from exporter.counting.ledger import Ledger
from exporter.drops.monitor import BLIND, NO_DROP, Drop, DropMonitor
from exporter.errors import StateWriteFailed
from exporter.polling.parts import MerchantParts
from exporter.polling.poller import MerchantPoller
from exporter.serving.instruments import Instruments
from exporter.storage.state import State
from exporter.views import Day, Hour, Judgement, MerchantView, Snapshot


@dataclass(frozen=True, slots=True)
class Polling:
    """The parts that poll and count, without the scheduler and the web server.

    Attributes:
        ledger: The counters and their state.
        parts: What the polling of each merchant uses, by merchant.
        pollers: The pollers, by merchant.
        requests: The newest requests to the API.
        clock: The time of the API.
        started: When this was built (Unix seconds).
    """

    ledger: Ledger
    parts: Mapping[str, MerchantParts]
    pollers: Mapping[str, MerchantPoller]
    requests: RequestLog
    clock: ApiClock
    started: float

    def snapshot(self) -> Snapshot:
        """The counted values, with the catalog, the drops and the connections to the API."""
        now = self.clock.now()
        return Snapshot(
            MappingProxyType(
                {each.merchant_id: self._complete(each, now) for each in self.ledger.snapshot.merchants.values()}
            ),
            clock_offset=self.clock.offset,
            started=self.started,
        )

    def _complete(self, merchant: MerchantView, now: float) -> MerchantView:
        """Add the catalog, the drops and the connection to the counted values of a merchant."""
        parts, poller = self.parts[merchant.merchant_id], self.pollers[merchant.merchant_id]
        link, zone = poller.link, poller.zone
        # Without rows, or with rows of other times, nobody knows when that will be.
        learning = None if zone.offset or merchant.horizon is None else poller.learning
        drops, incidents = parts.monitor.drops(now), parts.monitor.incidents(now)
        if zone.offset:
            # What the detector says is about other times of the day.
            drops = {
                media_id: BLIND if drop.judgement is not Judgement.OFF else drop for media_id, drop in drops.items()
            }
        drops = {media_id: _of_gone(drop) if media_id in link.gone else drop for media_id, drop in drops.items()}
        media = {
            media_id: replace(
                view,
                **drops.get(media_id, NO_DROP)._asdict(),
                thresholds=parts.monitor.thresholds[media_id],
                failing_streams=link.failing.get(media_id, 0),
                gone=media_id in link.gone,
                failing_since=link.failing_since.get(media_id),
            )
            for media_id, view in parts.catalog.views(now).items()
        }
        return replace(
            merchant,
            media=MappingProxyType(media),
            **drops[""]._asdict(),
            incidents=incidents,
            learning_seconds=learning,
            learning_until=now + learning if learning else None,
            timezone_offset=zone.offset,
            timezone_error=zone_error(zone.offset, now, parts.zone),
            timezone_since=zone.since,
            link=link,
        )

    def hours(self, merchants: Iterable[str]) -> Mapping[str, Mapping[str, Hour]]:
        """The last hour of plays of some merchants, by merchant and media, "" for the whole merchant."""
        return {merchant_id: self.parts[merchant_id].monitor.hours() for merchant_id in merchants}

    def days(self, merchants: Iterable[str]) -> Mapping[str, Mapping[str, Day]]:
        """The last 24 hours of some merchants, by merchant and media, "" for the whole merchant."""
        now = self.clock.now()
        return {merchant_id: self.parts[merchant_id].monitor.days(now) for merchant_id in merchants}

    def show_counted(self) -> None:
        """Publish the counts of new series whose 0 has been exported for a minute."""
        # While the state file cannot be written, the exported values stay as they are.
        with contextlib.suppress(StateWriteFailed):
            self.ledger.show_counted(self.clock.now())

    def close(self) -> None:
        """Close the connections and save the baselines of the drop monitors."""
        for each in self.parts.values():
            each.client.close()
        for each in self.parts.values():
            # An unsaved baseline is rebuilt from the next answers.
            with contextlib.suppress(StateWriteFailed):
                each.monitor.save(self.clock.now())


def build_polling(
    settings: Settings,
    state: State,
    telemetry: Instruments,
    clock: Clock,
    adapter: Callable[[], requests.adapters.BaseAdapter] | None = None,
) -> Polling:
    """Build the parts that poll and count, and restore what the state file contains.

    Args:
        settings: The configuration.
        state: The state file.
        telemetry: The metrics of the exporter itself.
        clock: The clock of the machine.
        adapter: Creates the transport of each client; the default transport if None.
    """
    ledger = Ledger(state, settings, telemetry.observe_revision)
    api_clock = ApiClock(clock, ledger.correct_start)
    ledger.sync(settings.merchants, api_clock.now())
    telemetry.expect(merchant.id for merchant in settings.merchants)
    telemetry.configured(settings.poll.max_staleness, settings.api.timezone, api_clock.now)
    telemetry.watch_clock(lambda: api_clock.offset)
    request_log = RequestLog()
    observe = _observer(telemetry, request_log)
    parts = {}
    for merchant in settings.merchants:
        budget = RequestBudget(state, merchant.id, merchant.requests_per_minute, clock, settings.api.timeout)
        client = Client(
            settings.api,
            merchant,
            budget,
            on_date=api_clock.answered,
            clock=api_clock,
            adapter=adapter() if adapter else None,
            observe=observe,
        )
        parts[merchant.id] = build_parts(settings, merchant, state, ledger, budget, client, api_clock)
    pollers = {merchant_id: MerchantPoller(each) for merchant_id, each in parts.items()}
    return Polling(ledger, parts, pollers, request_log, api_clock, api_clock.now())


def build_parts(
    settings: Settings,
    merchant: MerchantSettings,
    state: State,
    ledger: Ledger,
    budget: RequestBudget,
    client: Client,
    clock: Clock,
) -> MerchantParts:
    """Build what the polling of one merchant uses, around its budget and its client."""
    catalog = Catalog(state, merchant)
    monitor = DropMonitor(state, settings, merchant, catalog, clock.now())
    return MerchantParts(
        merchant, settings.poll, settings.api.timezone, ledger, catalog, monitor, budget, client, clock
    )


def _of_gone(drop: Drop) -> Drop:
    """What is said of a media that the API answers with 404: what its plays were shows no drop of now."""
    if drop.judgement is not Judgement.JUDGED:
        return drop
    return drop._replace(verdict=drop.verdict if drop.incident else None, judgement=Judgement.NO_DATA)


def _observer(telemetry: Instruments, request_log: RequestLog) -> Callable[[Exchange], None]:
    def observe(exchange: Exchange) -> None:
        telemetry.observe_request(exchange.merchant_id, exchange.endpoint, exchange.code, exchange.seconds)
        request_log.note(exchange)

    return observe
