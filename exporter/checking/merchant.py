"""The check of one merchant: a request for its time zone, and two for each media. For one thread."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import tzinfo
from functools import partial

from exporter.api.client import Client
from exporter.api.zone_check import CONFIRM, Look, ZoneWindows, judge_zone, look_at
from exporter.checking.findings import MediaFinding, nothing_known, reason_of
from exporter.checking.shares import Budget
from exporter.clock import Clock
from exporter.config.settings import MerchantSettings
from exporter.errors import (
    ApiError,
    BadRequest,
    BudgetSpent,
    MalformedAnswer,
    NoAnswer,
    RateLimited,
    ServerError,
    SignInFailed,
    TooLarge,
)
from exporter.model import Group, MinuteRange, Rows, Stream, Target, minute_of, total_of
from exporter.times import format_duration, round_duration

# Minutes: the plays of the last hour.
HOUR = 60

# The check of a merchant ends after so many requests in a row without an answer, or so many 429s in a row.
MOST_FAILURES = 3

# Seconds. The API is not waited for any longer after a 429.
LONGEST_HOLD = 300.0


@dataclass(frozen=True, slots=True)
class _Step:
    """One request of the check.

    Attributes:
        send: Sends it, and notes what the answer says.
        failed: Notes why there is no answer.
    """

    send: Callable[[], None]
    failed: Callable[[ApiError], None]


def requests_of(merchant: MerchantSettings) -> int:
    """How many requests the check of a merchant takes: one for a token, one for the time zone, two for each media."""
    return 2 + 2 * len((*merchant.media, *merchant.pending))


class MerchantCheck:
    """The check of one merchant.

    Attributes:
        found: What is known.
    """

    def __init__(
        self,
        merchant: MerchantSettings,
        client: Client,
        budget: Budget,
        clock: Clock,
        zone: tzinfo,
        tell: Callable[[str], None],
    ) -> None:
        """Send nothing yet.

        Args:
            merchant: The merchant.
            client: Its API client.
            budget: The budget of the client.
            clock: The time of the API.
            zone: The zone of the API's dates, as it is configured.
            tell: Tells the operator why the check waits.
        """
        self.found = nothing_known(merchant)
        self._client = client
        self._budget = budget
        self._clock = clock
        self._zone = zone
        self._tell = tell
        self._whole = self._stream("")
        self._windows = ZoneWindows()
        self._steps = deque([_Step(self._check_zone, self._whole_failed)])
        for media in self.found.media:
            self._steps.append(_Step(partial(self._look_up, media), partial(_catalog_failed, media)))
            self._steps.append(_Step(partial(self._read_plays, media), partial(_plays_failed, media)))
        self._not_before = clock.monotonic()
        self._again_at: float | None = None
        self._answered = False
        self._failures = 0
        self._limited = 0

    @property
    def left(self) -> int:
        """How many steps are left: requests, without those for a token."""
        return len(self._steps)

    def wait(self) -> float:
        """Seconds until the next request may be sent, 0 if it may be sent now."""
        return max(self._budget.wait(), self._not_before - self._clock.monotonic())

    def ask(self) -> None:
        """Send the next request, and note what it brought.

        Raises:
            StateWriteFailed: The time of the request could not be written.
        """
        step = self._steps[0]
        try:
            step.send()
        except BudgetSpent:
            # The request for a token has used the slot.
            return
        except RateLimited as error:
            self._hold(error)
            return
        except SignInFailed as error:
            self._end(str(error))
            return
        except ApiError as error:
            no_answer = isinstance(error, NoAnswer | ServerError | MalformedAnswer)
            self._failures = self._failures + 1 if no_answer else 0
            if no_answer and (self._failures >= MOST_FAILURES or not self._answered):
                self._end(str(error))
                return
            step.failed(error)
        else:
            self._failures = 0
        self._answered = True
        self._limited = 0
        self._steps.popleft()

    def _hold(self, error: RateLimited) -> None:
        """Send the same request again after a 429, if that is soon."""
        self._limited += 1
        wait = self.wait()
        if self._limited >= MOST_FAILURES or wait > LONGEST_HOLD:
            self._end(str(error))
        else:
            self._tell(f"{self.found.merchant_id}: {error}; next request in {_rounded(wait)}")

    def _end(self, why: str) -> None:
        self.found.ended_by = why
        self._steps.clear()

    # ---- the requests ----

    def _check_zone(self) -> None:
        check = self._windows.next(self._whole, self._clock.now())
        if check is None:
            return
        try:
            reading = self._client.aggregations(check.stream, check.asked)
        except (BadRequest, TooLarge):
            self._windows.refused(check)
            if self._windows.next(self._whole, self._clock.now()) is not None:
                self._steps.insert(1, self._steps[0])
            elif self.found.newest is None:
                raise
            return
        now, found = self._clock.now(), self.found
        if check.before:
            found.plays = _last_hour(reading.rows, minute_of(now))
        look = look_at(reading.rows, now)
        found.zone = judge_zone(found.zone, look, self._zone)
        if found.newest is None or (look.newest or 0) >= (found.newest.newest or 0):
            found.newest = look
        if not self._windows.answered():
            self._steps.insert(1, self._steps[0])
        elif found.zone.suspect is not None and self._again_at is None:
            self._look_again(found.zone.suspect)

    def _look_again(self, look: Look) -> None:
        """Check the zone once more after all media: only whether old plays move on shows what they are."""
        # The API's clock may be corrected by a second meanwhile.
        self._again_at = self._clock.monotonic() + CONFIRM + 1
        self._steps.append(_Step(self._check_zone_again, self._whole_failed))
        self._tell(
            f"{self.found.merchant_id}: the newest plays are {_rounded(look.age)} old: there were none since, or "
            f"api.timezone is wrong; checked again in {format_duration(CONFIRM)}"
        )

    def _check_zone_again(self) -> None:
        wait = (self._again_at or 0.0) - self._clock.monotonic()
        if wait > 0:
            self._not_before = self._clock.monotonic() + wait
            raise BudgetSpent(wait)
        self._check_zone()

    def _look_up(self, found: MediaFinding) -> None:
        ref_id = found.media.ref_id
        media = self._client.media(found.id) if ref_id is None else self._client.media_by_ref(ref_id)
        found.id = media.media_id if ref_id is not None else found.id
        found.name = media.name or found.name
        found.kind = media.encode_type or ("live" if media.live_event_id else "")

    def _read_plays(self, found: MediaFinding) -> None:
        if found.media.ref_id is not None and found.id.startswith("ref:"):
            # The catalog does not have it.
            found.checked = True
            return
        now = minute_of(self._clock.now())
        reading = self._client.aggregations(self._stream(found.id), MinuteRange(now - HOUR, now - 1))
        found.plays = _last_hour(reading.rows, now)
        for problem in reading.problems:
            found.add_problem("plays", problem)
        found.checked = True

    def _whole_failed(self, error: ApiError) -> None:
        self.found.problem = f"plays: {reason_of(error)}"

    def _stream(self, media_id: str) -> Stream:
        return Stream(self.found.merchant_id, media_id, Target.PLAY_COUNT, Group.ALL)


def _catalog_failed(found: MediaFinding, error: ApiError) -> None:
    found.add_problem("catalog", reason_of(error))


def _plays_failed(found: MediaFinding, error: ApiError) -> None:
    found.add_problem("plays", reason_of(error))
    found.checked = True


def _last_hour(rows: Rows, now: int) -> float | None:
    """The plays of the hour before a minute, None if some of them are not known."""
    plays = [total_of(values) for minute, values in rows.items() if now - HOUR <= minute < now]
    known = [each for each in plays if each is not None]
    return sum(known) if len(known) == len(plays) else None


def _rounded(seconds: float) -> str:
    return format_duration(round_duration(seconds))
