"""The budget: how many requests may leave in any 60 seconds, kept across restarts.

A request's time is in the state file before the request leaves, so not even a kill makes room for one too many. How
long ago it was is told by the monotonic clock as long as the machine has not been booted since: the wall clock may have
been set meanwhile.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from exporter.errors import BudgetSpent
from exporter.storage.state import State

# The API counts a minute; a little more, so that two clocks need not agree to the last millisecond.
WINDOW = 60.1

# A request that was under way when the process ended may have left this much later than the state file says, or as
# much later as its timeout allowed.
RESTART_MARGIN = 10.0

# Of a longer Retry-After no more than this is believed.
LONGEST_WAIT = 3600.0

# What names a boot of Linux; a container sees its machine's.
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(slots=True)
class Slot:
    """One request's place in the budget.

    Attributes:
        at: Until when (monotonic seconds) the request may have left.
        running: Whether that is not known yet, because the request has not ended.
    """

    at: float
    running: bool
    _monotonic: Callable[[], float]

    def done(self) -> None:
        """Say that the request has ended, so it left by now: from here its minute is counted."""
        if self.running:
            self.running = False
            self.at = max(self.at, self._monotonic())


class RequestBudget:
    """The budget of one merchant.

    The number allowed is halved by each refusal and grows back by one a minute. Safe for use by several threads.
    """

    def __init__(
        self,
        state: State,
        merchant_id: str,
        limit: int,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        timeout: float = 0.0,
        boot: str | None = None,
    ) -> None:
        """Take up the budget from the state file.

        Args:
            state: The state file.
            merchant_id: Whose budget it is.
            limit: Requests that may leave in any 60 seconds.
            clock: Unix seconds, for what is kept in the file.
            monotonic: Seconds since the machine was booted, which never go back.
            timeout: Seconds after which no request is on its way any more.
            boot: What names this boot, other than the machine's own name for it; "" where nothing does.
        """
        self._state = state
        self._merchant_id = merchant_id
        self._limit = limit
        self._clock = clock
        self._monotonic = monotonic
        self._margin = max(RESTART_MARGIN, timeout)
        self._boot = _boot_id() if boot is None else boot
        self._mutex = threading.Lock()
        self._sends: deque[Slot] = deque()
        self._allowed = float(limit)
        self._since = monotonic()
        self._blocked_until = self._since
        # Whether the state file has a hold, which may be over.
        self._hold_kept = False
        self._load()

    @property
    def allowed(self) -> float:
        """Requests a minute that may leave now."""
        with self._mutex:
            return self._grown(self._monotonic())

    @property
    def held(self) -> bool:
        """Whether the API has asked to be left alone, and that goes on."""
        return self._monotonic() < self._blocked_until

    def wait(self) -> float:
        """Seconds until a request may leave, 0 if one may."""
        with self._mutex:
            return max(0.0, self._wait(self._monotonic()))

    def take(self) -> Slot:
        """Take the place of one request that leaves now.

        Raises:
            BudgetSpent: It may not leave yet.
            StateWriteFailed: Its time could not be written, so it must not leave.
        """
        with self._mutex:
            now = self._monotonic()
            wait = self._wait(now)
            if wait > 0:
                raise BudgetSpent(wait)
            with self._state.transaction() as db:
                db.execute(
                    "INSERT INTO sends (merchant_id, sent_at, boot, ticks) VALUES (?, ?, ?, ?)",
                    (self._merchant_id, self._clock(), self._boot, now),
                )
                # Only the newest matter, whatever the clock says of their age.
                db.execute(
                    "DELETE FROM sends WHERE merchant_id = ? AND send_id <= "
                    "(SELECT send_id FROM sends WHERE merchant_id = ? ORDER BY send_id DESC LIMIT 1 OFFSET ?)",
                    (self._merchant_id, self._merchant_id, self._limit),
                )
                if self._hold_kept:
                    # It is over. After a boot with a clock that was set back, nobody could tell.
                    db.execute("UPDATE budgets SET held_for = 0 WHERE merchant_id = ?", (self._merchant_id,))
            self._hold_kept = False
            slot = Slot(now, running=True, _monotonic=self._monotonic)
            self._sends.append(slot)
            return slot

    def refused(self, retry_after: float | None) -> None:
        """Hold all requests after a 429, and go on with half the budget.

        Args:
            retry_after: Seconds to wait as the API says. Else the rest of the window is waited for.
        """
        with self._mutex:
            now = self._monotonic()
            first_of_burst = now >= self._blocked_until
            window = self._window(now)
            wait = window[0] + WINDOW - now if retry_after is None and window else retry_after or 0.0
            self._block(now, wait)
            if first_of_burst:
                self._allowed = max(1.0, self._grown(now) / 2)
            self._since = self._blocked_until
            self._save(now)

    def hold(self, seconds: float) -> None:
        """Hold all requests for so long, with the budget as it is: the API is overloaded, not asked for too much."""
        with self._mutex:
            now = self._monotonic()
            self._block(now, seconds)
            self._save(now)

    def _grown(self, now: float) -> float:
        return min(float(self._limit), self._allowed + max(0.0, now - self._since) / 60)

    def _block(self, now: float, seconds: float) -> None:
        self._blocked_until = max(self._blocked_until, now + min(max(seconds, 1.0), LONGEST_WAIT))

    def _save(self, now: float) -> None:
        with self._state.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO budgets (merchant_id, allowed, grows_in, held_for, written_at, boot, ticks) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    self._merchant_id,
                    self._allowed,
                    self._since - now,
                    self._blocked_until - now,
                    self._clock(),
                    self._boot,
                    now,
                ),
            )
        self._hold_kept = True

    def _wait(self, now: float) -> float:
        window = self._window(now)
        allowed = max(1, int(self._grown(now)))
        blocked = self._blocked_until - now
        if len(window) < allowed:
            return blocked
        return max(blocked, window[-allowed] + WINDOW - now)

    def _window(self, now: float) -> list[float]:
        """When the requests left that still count, oldest first; those that still run count from now."""
        while self._sends and not self._sends[0].running and self._sends[0].at + WINDOW <= now:
            self._sends.popleft()
        return sorted(now if slot.running else slot.at for slot in self._sends)

    def _load(self) -> None:
        now = self._monotonic()
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
            self._sends.append(Slot(now - age, running=False, _monotonic=self._monotonic))
        if budget is not None:
            allowed, grows_in, held_for, *written = budget
            age = self._age(*written)
            self._allowed = min(allowed, float(self._limit))
            self._since = now + min(grows_in, LONGEST_WAIT) - age
            self._blocked_until = now + min(held_for, LONGEST_WAIT) - age
            self._hold_kept = held_for > 0
        if self._state.sends_lost(self._merchant_id):
            # As if the whole budget had been spent just before.
            self._block(now, WINDOW + self._margin)
            self._save(now)

    def _age(self, at: float, boot: str, ticks: float) -> float:
        """Seconds, 0 or more, since something was written, when the clocks showed this."""
        passed = self._monotonic() - ticks
        if boot and boot == self._boot and passed >= 0:
            return passed
        # A clock that went back leaves times in the future: they are taken as now.
        return max(0.0, self._clock() - at)


@cache
def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
