"""How many requests the check may send beside a running exporter.

The state file has the times of an exporter's requests. If it is free, the check uses its budget, so that an exporter
that starts later knows of these requests, too. While an exporter runs, the file is locked, and the exporter does not
know of the check: then only what the plan allows beyond the exporter's budget is left.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from exporter.api import client
from exporter.api.budget import LONGEST_WAIT, WINDOW, RequestBudget, Slot
from exporter.clock import Clock
from exporter.config.settings import MerchantSettings, Settings
from exporter.errors import BudgetSpent, StateError, StateLocked
from exporter.storage.state import State, open_state

# Requests a minute of the API's default plan.
PLAN = 50

# The most requests a minute beside an exporter: what the default budget leaves of the default plan.
BESIDE = 5


class Budget(client.Budget, Protocol):
    """A request budget that can be waited for."""

    def wait(self) -> float:
        """Seconds until the next request may be sent; 0 if it may be now."""
        ...


class PacedBudget:
    """A budget that is kept nowhere: its requests leave at even intervals, the first one after such an interval.

    So in no 60 seconds more than allowed leave, even if one check follows another. For one thread.
    """

    def __init__(self, limit: int, clock: Clock) -> None:
        """Begin an interval.

        Args:
            limit: Requests allowed in any 60 seconds.
            clock: The clock of the machine.
        """
        self._clock = clock
        self._interval = WINDOW / limit
        self._newest = Slot(clock.monotonic(), clock)
        self._blocked_until = clock.monotonic()

    def wait(self) -> float:
        """See `Budget`. A request under way counts as sent now."""
        now = self._clock.monotonic()
        newest = now if self._newest.at is None else self._newest.at
        return max(0.0, newest + self._interval - now, self._blocked_until - now)

    def take(self) -> Slot:
        """See `Budget`."""
        if (wait := self.wait()) > 0:
            raise BudgetSpent(wait)
        self._newest = Slot(None, self._clock)
        return self._newest

    def refused(self, retry_after: float | None) -> None:
        """See `Budget`. From then on only half as many requests leave: other tools share the limit."""
        self._interval = min(2 * self._interval, WINDOW)
        wait = WINDOW if retry_after is None else min(retry_after, LONGEST_WAIT)
        self._blocked_until = self._clock.monotonic() + wait


@dataclass(frozen=True, slots=True)
class Share:
    """What one merchant's check may send.

    Attributes:
        budget: The budget.
        limit: Requests allowed in any 60 seconds.
        paced: Whether they leave at even intervals, rather than as soon as the last 60 seconds allow.
    """

    budget: Budget
    limit: int
    paced: bool

    def seconds(self, requests: int) -> float:
        """About how long so many requests take, apart from the API's own time."""
        waits = requests if self.paced else (requests - 1) // self.limit * self.limit
        return waits * WINDOW / self.limit


@dataclass(frozen=True, slots=True)
class Shares:
    """What the check of each merchant may send.

    Attributes:
        by_merchant: The share of each merchant by id, None where nothing is left for it.
        note: What the operator must know of it, "" if nothing.
        apart: Whether no exporter knows of these requests, so that it must not start within a minute.
    """

    by_merchant: Mapping[str, Share | None]
    note: str = ""
    apart: bool = False


@contextlib.contextmanager
def open_shares(settings: Settings, clock: Clock) -> Iterator[Shares]:
    """The shares of all merchants. A state file is used if it is there and free; none is created."""
    path = settings.storage.path
    try:
        state = open_state(path, clock.now) if path.exists() else None
    except StateLocked:
        yield _beside(settings.merchants, clock, f"{path}: an exporter is running")
        return
    except (StateError, OSError) as error:
        problem = str(error) if isinstance(error, StateError) else f"{path}: {error.strerror}"
        yield _beside(settings.merchants, clock, f"{problem}; an exporter may be running")
        return
    if state is None:
        apart = {
            each.id: Share(PacedBudget(each.requests_per_minute, clock), each.requests_per_minute, paced=True)
            for each in settings.merchants
        }
        yield Shares(apart, apart=True)
        return
    with contextlib.closing(state):
        yield Shares({each.id: _kept(state, each, settings.api.timeout, clock) for each in settings.merchants})


def _kept(state: State, merchant: MerchantSettings, timeout: float, clock: Clock) -> Share:
    limit = merchant.requests_per_minute
    return Share(RequestBudget(state, merchant.id, limit, clock, timeout), limit, paced=False)


def _beside(merchants: Sequence[MerchantSettings], clock: Clock, why: str) -> Shares:
    """The shares beside an exporter, which uses all of `requests_per_minute`."""
    limits = {each.id: min(BESIDE, PLAN - each.requests_per_minute) for each in merchants}
    shares = {
        merchant_id: Share(PacedBudget(limit, clock), limit, paced=True) if limit > 0 else None
        for merchant_id, limit in limits.items()
    }
    return Shares(shares, f"{why}, which does not know of these requests: at most {BESIDE} a minute are sent beside it")


def no_share(path: Path, limit: int) -> str:
    """Why a merchant is not checked beside an exporter, and what to do."""
    return (
        f"not checked: the exporter of {path} may use all that the API's default plan allows, {PLAN} requests a minute "
        f"(requests_per_minute: {limit}); stop it meanwhile, or set requests_per_minute to less than {PLAN}"
    )
