"""The request budget: how many requests may be sent in any 60 seconds, kept across restarts.

A request's time is in the state file before the request is sent, so that even a killed process cannot exceed the limit.
Its age is measured by the monotonic clock until the machine is rebooted, because the wall clock can be set meanwhile.
"""

import threading
from collections import deque
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from exporter.clock import Clock
from exporter.errors import BudgetSpent
from exporter.storage.state import State

# Seconds. Slightly more than the API's minute, because the clocks differ by milliseconds.
WINDOW = 60.1

# Seconds. A request in flight when the process ended may have been sent this much later than the state file says, or
# later by its timeout if that is longer.
RESTART_MARGIN = 10.0

# Seconds. A longer Retry-After is shortened to this.
LONGEST_WAIT = 3600.0

# Linux's id of the current boot. A container has that of its host.
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(slots=True)
class Slot:
    """One request in the budget.

    Attributes:
        at: The latest time at which the request was sent (monotonic seconds), or None while it is in flight.
    """

    at: float | None
    _clock: Clock

    def done(self) -> None:
        """End the request: it was sent by now at the latest, so its minute is counted from here."""
        if self.at is None:
            self.at = self._clock.monotonic()


class _Rate(NamedTuple):
    """The allowed requests per minute, which grow by one a minute.

    Attributes:
        limit: The most.
        allowed: Those at `since`.
        since: When they begin to grow (monotonic seconds).
    """

    limit: int
    allowed: float
    since: float

    def at(self, now: float) -> float:
        """Those at a monotonic time."""
        return min(float(self.limit), self.allowed + max(0.0, now - self.since) / 60)


class RequestBudget:
    """The budget of one merchant. Thread-safe.

    Each 429 halves the allowed rate, which then grows by one request a minute until it reaches the limit.
    """

    def __init__(
        self,
        state: State,
        merchant_id: str,
        limit: int,
        clock: Clock,
        timeout: float = 0.0,
        boot: str | None = None,
    ) -> None:
        """Restore the budget from the state file.

        Args:
            state: The state file.
            merchant_id: The merchant.
            limit: Requests allowed in any 60 seconds.
            clock: The clock of the machine.
            timeout: Seconds after which a request is no longer in flight.
            boot: The id of this boot, by default Linux's; "" if it is unknown.
        """
        self._state = state
        self._merchant_id = merchant_id
        self._clock = clock
        self._margin = max(RESTART_MARGIN, timeout)
        self._boot = _boot_id() if boot is None else boot
        self._mutex = threading.Lock()
        self._sends: deque[Slot] = deque()
        # Scrapes read it without the mutex, whose holder may wait for the disk: another one takes its place.
        self._rate = _Rate(limit, float(limit), clock.monotonic())
        self._blocked_until = self._rate.since
        self._load()

    @property
    def allowed(self) -> float:
        """Requests per minute that are allowed now."""
        return self._rate.at(self._clock.monotonic())

    @property
    def held(self) -> bool:
        """Whether all requests are held at the API's request."""
        return self._clock.monotonic() < self._blocked_until

    def limit(self, requests_per_minute: int) -> None:
        """Allow so many requests in any 60 seconds from now on."""
        with self._mutex:
            now = self._clock.monotonic()
            allowed, before = self._rate.at(now), self._rate
            # A rate that was not reduced is that of the limit.
            reduced = min(allowed, requests_per_minute) if allowed < before.limit else float(requests_per_minute)
            self._rate = _Rate(requests_per_minute, reduced, max(before.since, now))

    def wait(self) -> float:
        """Seconds until the next request may be sent; 0 if it may be now."""
        with self._mutex:
            return max(0.0, self._wait(self._clock.monotonic()))

    def take(self) -> Slot:
        """Take a slot for a request that is sent now.

        Raises:
            BudgetSpent: It may not be sent yet.
            StateWriteFailed: Its time could not be written, so it must not be sent.
        """
        with self._mutex:
            now = self._clock.monotonic()
            wait = self._wait(now)
            if wait > 0:
                raise BudgetSpent(wait)
            with self._state.transaction() as db:
                db.execute(
                    "INSERT INTO sends (merchant_id, sent_at, boot, ticks) VALUES (?, ?, ?, ?)",
                    (self._merchant_id, self._clock.now(), self._boot, now),
                )
                # Only the newest ones matter, whatever their age by the clock.
                db.execute(
                    "DELETE FROM sends WHERE merchant_id = ? AND send_id <= "
                    "(SELECT send_id FROM sends WHERE merchant_id = ? ORDER BY send_id DESC LIMIT 1 OFFSET ?)",
                    (self._merchant_id, self._merchant_id, self._rate.limit),
                )
                # A hold has ended. After a reboot with the clock set back, that could not be known.
                db.execute(
                    "UPDATE budgets SET held_for = 0 WHERE merchant_id = ? AND held_for > 0", (self._merchant_id,)
                )
            slot = Slot(None, self._clock)
            self._sends.append(slot)
            return slot

    def refused(self, retry_after: float | None) -> None:
        """Hold all requests after a 429, then continue at half the rate.

        Args:
            retry_after: Seconds from the API's Retry-After; None to wait for the rest of the window.
        """
        with self._mutex:
            now = self._clock.monotonic()
            first_of_burst = now >= self._blocked_until
            window = self._window(now)
            wait = window[0] + WINDOW - now if retry_after is None and window else retry_after or 0.0
            self._block(now, wait)
            allowed = max(1.0, self._rate.at(now) / 2) if first_of_burst else self._rate.allowed
            self._rate = self._rate._replace(allowed=allowed, since=self._blocked_until)
            self._save(now)

    def hold(self, seconds: float) -> None:
        """Hold all requests for some seconds at an unchanged rate: the API is overloaded, the budget not exceeded."""
        with self._mutex:
            now = self._clock.monotonic()
            self._block(now, seconds)
            self._save(now)

    def _block(self, now: float, seconds: float) -> None:
        self._blocked_until = max(self._blocked_until, now + min(max(seconds, 1.0), LONGEST_WAIT))

    def _save(self, now: float) -> None:
        with self._state.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO budgets (merchant_id, allowed, grows_in, held_for, written_at, boot, ticks) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    self._merchant_id,
                    self._rate.allowed,
                    self._rate.since - now,
                    self._blocked_until - now,
                    self._clock.now(),
                    self._boot,
                    now,
                ),
            )

    def _wait(self, now: float) -> float:
        window = self._window(now)
        allowed = max(1, int(self._rate.at(now)))
        blocked = self._blocked_until - now
        if len(window) < allowed:
            return blocked
        return max(blocked, window[-allowed] + WINDOW - now)

    def _window(self, now: float) -> list[float]:
        """The times of the requests in the window, oldest first; those in flight count as sent now."""
        while self._sends and self._sends[0].at is not None and self._sends[0].at + WINDOW <= now:
            self._sends.popleft()
        return sorted(now if slot.at is None else slot.at for slot in self._sends)

    def _load(self) -> None:
        now = self._clock.monotonic()
        with self._state.read() as db:
            sends = db.execute(
                "SELECT sent_at, boot, ticks FROM sends WHERE merchant_id = ? ORDER BY send_id", (self._merchant_id,)
            ).fetchall()
            budget = db.execute(
                "SELECT allowed, grows_in, held_for, written_at, boot, ticks FROM budgets WHERE merchant_id = ?",
                (self._merchant_id,),
            ).fetchone()
        for sent in sends:
            age = max(0.0, self._age(*sent) - self._margin)
            self._sends.append(Slot(now - age, self._clock))
        if budget is not None:
            allowed, grows_in, held_for, *written = budget
            age = self._age(*written)
            since = now + min(grows_in, LONGEST_WAIT) - age
            self._rate = self._rate._replace(allowed=min(allowed, float(self._rate.limit)), since=since)
            self._blocked_until = now + min(held_for, LONGEST_WAIT) - age
        if self._state.salvaged:
            # Unknown requests count as a budget that was spent just now.
            self._block(now, WINDOW + self._margin)
            self._save(now)

    def _age(self, at: float, boot: str, ticks: float) -> float:
        """Seconds, 0 or more, since the clocks showed these times."""
        passed = self._clock.monotonic() - ticks
        if boot and boot == self._boot and passed >= 0:
            return passed
        # If the clock was set back, the time is in the future and is treated as now.
        return max(0.0, self._clock.now() - at)


@cache
def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
