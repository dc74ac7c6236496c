"""The past from the API: minutes in long ranges, oldest first, within the budget.

What the API refuses for a stream's own sake is left out, and what cannot be handled; what fails otherwise is asked for
again a few times.
"""

import contextlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import structlog

from exporter.api.answers import Media
from exporter.api.budget import RequestBudget
from exporter.api.client import Client
from exporter.api.ranges import SHORTEST_RANGE
from exporter.api.request_log import Exchange
from exporter.clock import Clock
from exporter.config.settings import Settings
from exporter.errors import (
    ApiError,
    BadRequest,
    BudgetSpent,
    HistoryError,
    NotFound,
    SignInFailed,
    StateLocked,
    TooLarge,
    Unauthorized,
    Unhandled,
)
from exporter.model import DAY_MINUTES, MinuteRange, Rows, Stream
from exporter.storage.state import open_state

log = structlog.get_logger("fetch")

# A request costs the same whatever it asks for, but a longer answer may take longer than api.timeout.
LONGEST_RANGE = 7 * DAY_MINUTES

# So many failures in a row are the end; what comes between two of them is a pause of so many seconds.
STRIKES = 5
PAUSE = 10.0


@dataclass(frozen=True, slots=True)
class Part:
    """Some of a stream's past.

    Attributes:
        stream: Which stream.
        minutes: The minutes that were asked for.
        rows: The answer, or None where the API has no history of the stream.
    """

    stream: Stream
    minutes: MinuteRange
    rows: Rows | None


class MerchantHistory:
    """One merchant's past, asked for one range at a time.

    Attributes:
        client: Who asks.
    """

    def __init__(self, client: Client, limiter: RequestBudget, clock: Clock) -> None:
        self.client = client
        self._limiter = limiter
        self._clock = clock
        self._queue: deque[tuple[Stream, MinuteRange]] = deque()
        self._longest = LONGEST_RANGE
        # What is tried where the API refused a longer range: found by halves, and remembered once it works.
        self._trial = LONGEST_RANGE
        self._strikes = 0
        self._paused_until = clock.monotonic()

    @property
    def done(self) -> bool:
        """Whether there is nothing left to ask for."""
        return not self._queue

    def want(self, stream: Stream, minutes: MinuteRange) -> None:
        """Ask for these minutes of a stream, after what is wanted already."""
        if len(minutes):
            self._queue.append((stream, minutes))

    def wait(self) -> float:
        """Seconds until the next request may leave, 0 if it may now."""
        return max(self._limiter.wait(), self._paused_until - self._clock.monotonic())

    def ask(self) -> Part | None:
        """Send the next request; the part that it brought, or None where it brought none and is to be sent again.

        Raises:
            HistoryError: There is no point in going on.
            StateWriteFailed: The request's time could not be written.
        """
        stream, left = self._queue[0]
        asked = MinuteRange(left.first, min(left.last, left.first + self._trial - 1))
        try:
            reading = self.client.aggregations(stream, asked)
        except BudgetSpent:
            return None
        except (BadRequest, NotFound, TooLarge, Unhandled) as error:
            return self._refused(stream, left, asked, error)
        except ApiError as error:
            self._failed(f"{stream}", error)
            return None
        self._strikes = 0
        self._longest = self._trial
        self._queue.popleft()
        if asked.last < left.last:
            self._queue.appendleft((stream, MinuteRange(asked.last + 1, left.last)))
        if reading.problems:
            log.warning(f"{stream}: left out: {'; '.join(reading.problems)}", merchant=stream.merchant_id)
        return Part(stream, asked, reading.rows)

    def media(self, media_id: str) -> Media | None:
        """What the catalog knows of a media, None where it does not know it; waits for the budget. Raises as `ask`."""
        while True:
            self._clock.sleep(self.wait())
            try:
                return self.client.media(media_id)
            except BudgetSpent:
                continue
            except NotFound:
                return None
            except ApiError as error:
                self._failed(f"media {media_id}", error)

    def _refused(self, stream: Stream, left: MinuteRange, asked: MinuteRange, error: ApiError) -> Part | None:
        shortest = 1 if isinstance(error, TooLarge) else SHORTEST_RANGE
        if isinstance(error, BadRequest | TooLarge) and len(asked) > shortest:
            self._trial = max(shortest, len(asked) // 2)
            log.info(
                "the API refused a long range, or answered too much; asking for half of it",
                stream=str(stream),
                minutes=len(asked),
            )
            return None
        if isinstance(error, Unhandled):
            log.error(f"{stream} is left out: {error}", merchant=stream.merchant_id, exc_info=error.__cause__)
        else:
            log.warning(f"{stream} is left out: {error}", merchant=stream.merchant_id)
        # A shorter range was not the cure.
        self._trial = self._longest
        self._queue.popleft()
        return Part(stream, left, None)

    def _failed(self, what: str, error: ApiError) -> None:
        self._strikes += 1
        if isinstance(error, Unauthorized) or (isinstance(error, SignInFailed) and error.refused):
            raise HistoryError(str(error)) from error
        if self._strikes >= STRIKES:
            raise HistoryError(f"{self._strikes} requests in a row failed, the last with: {error}") from error
        log.warning(f"{what}: {error}")
        pause = max(PAUSE, error.wait) if isinstance(error, SignInFailed) else PAUSE
        self._paused_until = self._clock.monotonic() + pause


@contextlib.contextmanager
def open_histories(settings: Settings, clock: Clock) -> Iterator[Mapping[str, MerchantHistory]]:
    """The past of each merchant by id, within the budget that the state file keeps.

    Raises:
        StateLocked: An exporter runs on the state file; its budget cannot be shared.
        StateError: The state file cannot be used.
    """
    path = settings.storage.path
    try:
        state = open_state(path, clock.now)
    except StateLocked as error:
        raise StateLocked(
            f"{path}: an exporter runs on this state file, which keeps the budget that history needs, too; "
            "stop it meanwhile: it catches up afterwards"
        ) from error
    with contextlib.ExitStack() as stack:
        stack.callback(state.close)
        pasts = {}
        for merchant in settings.merchants:
            limiter = RequestBudget(
                state, merchant.id, merchant.requests_per_minute, clock.now, clock.monotonic, settings.api.timeout
            )
            client = Client(
                settings.api, merchant, limiter, observe=_observe, clock=clock.now, monotonic=clock.monotonic
            )
            stack.callback(client.close)
            pasts[merchant.id] = MerchantHistory(client, limiter, clock)
        yield pasts


def fetch(pasts: Sequence[MerchantHistory], clock: Clock) -> Iterator[Part]:
    """All that is wanted, as it comes; merchants in turns, as their budgets allow.

    Raises:
        HistoryError: There is no point in going on.
        StateWriteFailed: A request's time could not be written.
    """
    while waiting := [past for past in pasts if not past.done]:
        first = min(waiting, key=MerchantHistory.wait)
        seconds = first.wait()
        if seconds > 0:
            clock.sleep(seconds)
        elif (part := first.ask()) is not None:
            yield part


def _observe(exchange: Exchange) -> None:
    log.debug(
        "request",
        endpoint=exchange.endpoint,
        asked=exchange.asked,
        code=exchange.code,
        seconds=round(exchange.seconds, 3),
    )
