"""The budget: how many requests may leave in any 60 seconds, kept across restarts.

A request's time is in the state file before the request leaves, so not even a kill makes room for one too many.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from exporter.errors import BudgetSpent
from exporter.state import State

# The API counts a minute; a little more, so that two clocks need not agree to the last millisecond.
WINDOW = 60.1

# A request that was under way when the process ended may have left this much later than the state file says, or as
# much later as its timeout allowed.
RESTART_MARGIN = 10.0

# Of a longer Retry-After no more than this is believed.
LONGEST_WAIT = 3600.0


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


class Limiter:
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
    ) -> None:
        """Take up the budget from the state file.

        Args:
            state: The state file.
            merchant_id: Whose budget it is.
            limit: Requests that may leave in any 60 seconds.
            clock: Unix seconds, for what is kept in the file.
            monotonic: Seconds that never go back, for what is waited for.
            timeout: Seconds after which no request is on its way any more.
        """
        self._state = state
        self._merchant_id = merchant_id
        self._limit = limit
        self._clock = clock
        self._monotonic = monotonic
        self._margin = max(RESTART_MARGIN, timeout)
        self._mutex = threading.Lock()
        self._sends: deque[Slot] = deque()
        self._allowed = float(limit)
        self._since = monotonic()
        self._blocked_until = self._since
        self._load()

    @property
    def allowed(self) -> float:
        """Requests a minute that may leave now."""
        grown = max(0.0, self._monotonic() - self._since) / 60
        return min(float(self._limit), self._allowed + grown)

    @property
    def held(self) -> bool:
        """Whether the API has asked to be left alone, and that goes on."""
        return self._monotonic() < self._blocked_until

    def wait(self) -> float:
        """Seconds until a request may leave, 0 or less if one may."""
        with self._mutex:
            return self._wait(self._monotonic())

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
                    "INSERT INTO sends (merchant_id, sent_at) VALUES (?, ?)",
                    (self._merchant_id, self._clock()),
                )
                # Only the newest matter, whatever the clock says of their age.
                db.execute(
                    "DELETE FROM sends WHERE merchant_id = ? AND rowid <= "
                    "(SELECT rowid FROM sends WHERE merchant_id = ? ORDER BY rowid DESC LIMIT 1 OFFSET ?)",
                    (self._merchant_id, self._merchant_id, self._limit),
                )
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
                self._allowed = max(1.0, self.allowed / 2)
            self._since = self._blocked_until
            self._save(now)

    def hold(self, seconds: float) -> None:
        """Hold all requests for so long, with the budget as it is: the API is overloaded, not asked for too much."""
        with self._mutex:
            now = self._monotonic()
            self._block(now, seconds)
            self._save(now)

    def _block(self, now: float, seconds: float) -> None:
        self._blocked_until = max(self._blocked_until, now + min(max(seconds, 1.0), LONGEST_WAIT))

    def _save(self, now: float) -> None:
        ahead = self._clock() - now
        with self._state.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO budgets (merchant_id, allowed, since, blocked_until) VALUES (?, ?, ?, ?)",
                (self._merchant_id, self._allowed, self._since + ahead, self._blocked_until + ahead),
            )

    def _wait(self, now: float) -> float:
        window = self._window(now)
        allowed = max(1, int(self.allowed))
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
        now, wall = self._monotonic(), self._clock()
        with self._state.read() as db:
            sends = db.execute(
                "SELECT sent_at FROM sends WHERE merchant_id = ? ORDER BY rowid", (self._merchant_id,)
            ).fetchall()
            budget = db.execute(
                "SELECT allowed, since, blocked_until FROM budgets WHERE merchant_id = ?",
                (self._merchant_id,),
            ).fetchone()
        for (sent_at,) in sends:
            # A clock that went back leaves times in the future: they are taken as now.
            age = max(0.0, wall - sent_at - self._margin)
            self._sends.append(Slot(now - age, running=False, _monotonic=self._monotonic))
        if budget is not None:
            allowed, since, blocked_until = budget
            self._allowed = min(allowed, float(self._limit))
            self._since = now + min(since - wall, LONGEST_WAIT)
            self._blocked_until = now + min(blocked_until - wall, LONGEST_WAIT)
