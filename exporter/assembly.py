"""The object graph: what polls, counts and watches for drops, built from a configuration and a state file.

The daemon, the tests and the benchmarks build it here. The clock, the state and the transport are arguments.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import requests

from exporter.api.budget import RequestBudget
from exporter.api.catalog import Catalog
from exporter.api.catalog_rows import read_refs
from exporter.api.client import Client
from exporter.api.request_log import Exchange, RequestLog
from exporter.clock import ApiClock, Clock
from exporter.config.settings import MerchantSettings, Settings
from exporter.counting.ledger import Ledger
from exporter.drops.monitor import DropMonitor
from exporter.errors import StateWriteFailed
from exporter.merchant_views import MerchantViews
from exporter.polling.parts import MerchantParts
from exporter.polling.poller import MerchantPoller
from exporter.serving.instruments import Instruments
from exporter.serving.lines import render_stream
from exporter.storage.state import State
from exporter.views import Day, Hour, Snapshot


@dataclass(frozen=True, slots=True)
class _Fleet:
    """The merchants of one configuration. Replaced as a whole, never changed.

    Attributes:
        settings: The configuration, with the media that its reference ids name.
        refs: The media id of each reference id, by merchant, as `settings` has them.
        parts: What the polling of each merchant uses, by merchant.
        pollers: The pollers, by merchant.
    """

    settings: Settings
    refs: Mapping[str, Mapping[str, str]]
    parts: Mapping[str, MerchantParts]
    pollers: Mapping[str, MerchantPoller]


class Polling:
    """The parts that poll and count, without the scheduler and the web server. Thread-safe, but for `configure`.

    Attributes:
        ledger: The counters and their state.
        requests: The requests to the API.
        clock: The time of the API.
        started: When this was built (Unix seconds).
    """

    def __init__(
        self,
        settings: Settings,
        state: State,
        telemetry: Instruments,
        clock: Clock,
        adapter: Callable[[], requests.adapters.BaseAdapter] | None = None,
    ) -> None:
        """Build the parts, and restore what the state file contains.

        Args:
            settings: The configuration.
            state: The state file.
            telemetry: The metrics of the exporter itself.
            clock: The clock of the machine.
            adapter: Creates the transport of each client; the default transport if None.
        """
        self._state = state
        self._telemetry = telemetry
        self._machine = clock
        self._adapter = adapter
        self.ledger = Ledger(state, settings, telemetry.observe_revision, render_stream)
        self.clock = ApiClock(clock, self.ledger.correct_start)
        self.started = clock.now()
        self.requests = RequestLog()
        telemetry.watch_clock(lambda: self.clock.offset)
        self._observe = _observer(telemetry, self.requests)
        # Held while a snapshot is made, and while another configuration begins or ends to take effect.
        self._mutex = threading.Lock()
        # What is shown while another configuration takes effect.
        self._frozen: Snapshot | None = None
        # Of removed merchants, too: one that comes back has its budget, and does not begin before its last round ended.
        self._budgets: dict[str, RequestBudget] = {}
        self._removed: dict[str, MerchantPoller] = {}
        self._views = MerchantViews(self.requests)
        nothing = settings.model_copy(update={"merchants": ()})
        self._fleet = _Fleet(nothing, {}, {}, {})
        self.configure(settings)

    @property
    def settings(self) -> Settings:
        """The configuration in force."""
        return self._fleet.settings

    @property
    def parts(self) -> Mapping[str, MerchantParts]:
        """What the polling of each merchant uses, by merchant."""
        return self._fleet.parts

    @property
    def pollers(self) -> Mapping[str, MerchantPoller]:
        """The pollers, by merchant."""
        return self._fleet.pollers

    def outdated(self) -> bool:
        """Whether the catalog names other media for reference ids than when the configuration took effect."""
        fleet = self._fleet
        return any(parts.catalog.refs != fleet.refs[merchant_id] for merchant_id, parts in fleet.parts.items())

    def configure(self, wanted: Settings) -> None:
        """Let a configuration take effect, all of it at once for whoever reads a snapshot.

        What the configuration before has as well goes on undisturbed: requests under way, tokens, budgets, drops. For
        one thread at a time.

        Raises:
            StateError: The state file could not be read or written; nothing has changed.
        """
        before, now = self._fleet, self.clock.now()
        refs = {each.id: self._refs(each) for each in wanted.merchants}
        identified = tuple(each.identified(refs[each.id]) for each in wanted.merchants)
        settings = wanted.model_copy(update={"merchants": identified})
        added = [each for each in settings.merchants if each.id not in before.parts]
        kept = [each for each in settings.merchants if each.id in before.parts]
        removed = before.parts.keys() - {each.id for each in settings.merchants}
        changed = [each for each in kept if _differs(before.settings, settings, before.parts[each.id].settings, each)]
        for merchant_id in (*removed, *(each.id for each in changed)):
            # What was learned of removed media stays in the state file for a while.
            with contextlib.suppress(StateWriteFailed):
                before.parts[merchant_id].monitor.save(now)
        with self._mutex:
            self._frozen = self._snapshot(before) if before.parts else None
        try:
            with contextlib.ExitStack() as stack:
                for merchant in changed:
                    stack.enter_context(before.pollers[merchant.id].reconfiguring())
                for merchant_id in removed:
                    stack.enter_context(before.pollers[merchant_id].removing())
                self.ledger.configure(settings, now)
                for merchant in changed:
                    self._reconfigure(before, settings, merchant)
                new = {each.id: self._new_parts(settings, each) for each in added}
            parts = {each.id: new.get(each.id) or before.parts[each.id] for each in settings.merchants}
            pollers = {
                merchant_id: before.pollers.get(merchant_id)
                or MerchantPoller(each, after=self._removed.pop(merchant_id, None))
                for merchant_id, each in parts.items()
            }
            self._removed |= {merchant_id: before.pollers[merchant_id] for merchant_id in removed}
            for merchant_id in removed:
                before.parts[merchant_id].client.close()
            self.requests.expect(parts)
            zone, max_staleness = settings.api.timezone, settings.poll.max_staleness
            self._telemetry.configured(max_staleness, zone, self.clock.now)
            self._fleet = _Fleet(settings, refs, parts, pollers)
        finally:
            with self._mutex:
                self._frozen = None

    def snapshot(self) -> Snapshot:
        """The counted values, with the catalog, the drops and the connections to the API."""
        with self._mutex:
            return self._frozen or self._snapshot(self._fleet)

    def hours(self, merchants: Iterable[str]) -> Mapping[str, Mapping[str, Hour]]:
        """The last hour of plays of some merchants, by merchant and media, "" for the whole merchant."""
        parts = self.parts
        return {merchant_id: parts[merchant_id].monitor.hours() for merchant_id in merchants if merchant_id in parts}

    def days(self, merchants: Iterable[str]) -> Mapping[str, Mapping[str, Day]]:
        """The last 24 hours of some merchants, by merchant and media, "" for the whole merchant."""
        now, parts = self.clock.now(), self.parts
        return {merchant_id: parts[merchant_id].monitor.days(now) for merchant_id in merchants if merchant_id in parts}

    def show_counted(self) -> None:
        """Publish the counts of new series whose 0 has been exported for a minute."""
        # While the state file cannot be written, the exported values stay as they are.
        with contextlib.suppress(StateWriteFailed):
            self.ledger.show_counted(self.clock.now())

    def ended(self, deadline: float) -> bool:
        """Wait until no round runs, of removed merchants neither; whether that comes true before a monotonic time."""
        pollers = (*self.pollers.values(), *self._removed.values())
        return all(each.ended(deadline - self.clock.monotonic()) for each in pollers)

    def close(self) -> None:
        """Close the connections and save the baselines of the drop monitors."""
        for each in self.parts.values():
            each.client.close()
        for each in self.parts.values():
            # An unsaved baseline is rebuilt from the next answers.
            with contextlib.suppress(StateWriteFailed):
                each.monitor.save(self.clock.now())

    def _snapshot(self, fleet: _Fleet) -> Snapshot:
        now, merchants = self.clock.now(), self.ledger.snapshot.merchants
        self._views.forget_others(fleet.parts)
        views = {
            merchant_id: self._views.complete(merchants[merchant_id], parts, fleet.pollers[merchant_id], now)
            for merchant_id, parts in fleet.parts.items()
        }
        return Snapshot(MappingProxyType(views), clock_offset=self.clock.offset, started=self.started)

    def _refs(self, merchant: MerchantSettings) -> Mapping[str, str]:
        """The media id of each reference id of a merchant, as far as they are known."""
        if not merchant.ref_ids:
            return {}
        parts = self.parts.get(merchant.id)
        known = {**read_refs(self._state, merchant), **(parts.catalog.refs if parts else {})}
        return {ref_id: media_id for ref_id, media_id in known.items() if ref_id in merchant.ref_ids}

    def _new_parts(self, settings: Settings, merchant: MerchantSettings) -> MerchantParts:
        budget, limit = self._budgets.get(merchant.id), merchant.requests_per_minute
        if budget is None:
            budget = RequestBudget(self._state, merchant.id, limit, self._machine, settings.api.timeout)
            self._budgets[merchant.id] = budget
        else:
            budget.limit(limit)
        client = self._new_client(settings, merchant, budget)
        return build_parts(settings, merchant, self._state, self.ledger, budget, client, self.clock)

    def _new_client(self, settings: Settings, merchant: MerchantSettings, budget: RequestBudget) -> Client:
        return Client(
            settings.api,
            merchant,
            budget,
            on_date=self.clock.answered,
            clock=self.clock,
            adapter=self._adapter() if self._adapter else None,
            observe=self._observe,
        )

    def _reconfigure(self, before: _Fleet, settings: Settings, merchant: MerchantSettings) -> None:
        """Put another configuration in the place of that of a merchant's parts."""
        parts = before.parts[merchant.id]
        parts.budget.limit(merchant.requests_per_minute)
        parts.catalog.configure(merchant)
        parts.monitor.configure(settings, merchant, self.clock.now())
        if before.settings.api != settings.api or _account(parts.settings) != _account(merchant):
            client, parts.client = parts.client, self._new_client(settings, merchant, parts.budget)
            # Requests under way end as they began.
            client.close()
        parts.settings, parts.poll, parts.zone = merchant, settings.poll, settings.api.timezone


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


def _differs(before: Settings, after: Settings, old: MerchantSettings, new: MerchantSettings) -> bool:
    """Whether anything of a merchant differs between two configurations."""
    shared = (before.api, before.poll, before.drop) != (after.api, after.poll, after.drop)
    return shared or old != new


def _account(merchant: MerchantSettings) -> tuple[object, ...]:
    """What a merchant signs in with."""
    return merchant.api_key, merchant.mail_address, merchant.password


def _observer(telemetry: Instruments, request_log: RequestLog) -> Callable[[Exchange], None]:
    def observe(exchange: Exchange) -> None:
        telemetry.observe_request(exchange.endpoint, exchange.seconds)
        request_log.note(exchange)

    return observe
