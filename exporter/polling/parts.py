"""The parts of one merchant that its polling uses."""

from dataclasses import dataclass
from datetime import tzinfo

from exporter.api.budget import RequestBudget
from exporter.api.catalog import Catalog
from exporter.api.client import Client
from exporter.clock import Clock
from exporter.config.settings import MerchantSettings, PollSettings
from exporter.counting.ledger import Ledger
from exporter.drops.monitor import DropMonitor


@dataclass(slots=True)
class MerchantParts:
    """The parts of one merchant that its polling uses.

    The settings, the time zone and the client are replaced when the configuration is reloaded, in
    `MerchantPoller.reconfiguring`. So whoever uses them reads them here, and keeps none.

    Attributes:
        settings: The configuration of the merchant.
        poll: When and how much is polled.
        zone: The time zone of the API's dates, as it is configured.
        ledger: The counters of all merchants.
        catalog: The catalog of its media.
        monitor: Its drop monitor.
        budget: Its request budget.
        client: Its API client.
        clock: The time of the API.
    """

    settings: MerchantSettings
    poll: PollSettings
    zone: tzinfo
    ledger: Ledger
    catalog: Catalog
    monitor: DropMonitor
    budget: RequestBudget
    client: Client
    clock: Clock
