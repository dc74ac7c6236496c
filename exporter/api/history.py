"""History from the API: minutes in long ranges, oldest first, within the request budget.

A stream that the API refuses, or whose answer cannot be handled, is left out. Other failures are retried a few times.
"""

import contextlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import structlog

from exporter.api.answers import Media
from exporter.api.budget import RequestBudget
from exporter.api.client import Client
from exporter.api.ranges import RangeFinder
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

# The fetch ends after so many failures in a row. After each of them it pauses for so many seconds.
MOST_FAILURES = 5
PAUSE = 10.0


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a stream's history.

    Attributes:
        stream: The stream.
        minutes: The requested minutes.
        rows: The answer, or None where the API has no history of the stream.
    """

    stream: Stream
    minutes: MinuteRange
    rows: Rows | None


class MerchantHistory:
    """One merchant's history, requested one range at a time.

    Attributes:
        client: The API client.
    """

    def __init__(self, client: Client, budget: RequestBudget, clock: Clock) -> None:
        self.client = client
        self._budget = budget
        self._clock = clock
        self._queue: deque[tuple[Stream, MinuteRange]] = deque()
        # Even a single minute can hold too much to read.
        self._range = RangeFinder(LONGEST_RANGE, shortest_dense=1)
        self._failures = 0
        self._paused_until = clock.monotonic()

    @property
    def done(self) -> bool:
        """Whether nothing is left to request."""
        return not self._queue

    def want(self, stream: Stream, minutes: MinuteRange) -> None:
        """Add these minutes of a stream to the end of the queue."""
        if len(minutes):
            self._queue.append((stream, minutes))

    def wait(self) -> float:
        """Seconds until the next request may be sent, 0 if it may be sent now."""
        return max(self._budget.wait(), self._paused_until - self._clock.monotonic())

    def ask(self) -> Part | None:
        """Send the next request; returns its part, or None if it failed and will be sent again.

        Raises:
            HistoryError: More requests are pointless.
            StateWriteFailed: The time of the request could not be written.
        """
        stream, left = self._queue[0]
        asked = MinuteRange(left.first, min(left.last, left.first + self._range.length - 1))
        try:
            reading = self.client.aggregations(stream, asked)
        except BudgetSpent:
            return None
        except (BadRequest, NotFound, TooLarge, Unhandled) as error:
            return self._refused(stream, left, asked, error)
        except ApiError as error:
            self._failed(f"{stream}", error)
            return None
        self._failures = 0
        self._range.works()
        self._queue.popleft()
        if asked.last < left.last:
            self._queue.appendleft((stream, MinuteRange(asked.last + 1, left.last)))
        if reading.problems:
            log.warning(f"{stream}: left out: {'; '.join(reading.problems)}", merchant=stream.merchant_id)
        return Part(stream, asked, reading.rows)

    def media(self, media_id: str) -> Media | None:
        """A media as the catalog has it, None if it has none; waits for the budget. Raises what `ask` raises."""
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
        if isinstance(error, BadRequest | TooLarge) and self._range.shorten(len(asked), error):
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
        self._range.give_up()
        self._queue.popleft()
        return Part(stream, left, None)

    def _failed(self, what: str, error: ApiError) -> None:
        self._failures += 1
        if isinstance(error, Unauthorized) or (isinstance(error, SignInFailed) and error.refused):
            raise HistoryError(str(error)) from error
        if self._failures >= MOST_FAILURES:
            raise HistoryError(f"{self._failures} requests in a row failed, the last with: {error}") from error
        log.warning(f"{what}: {error}")
        pause = max(PAUSE, error.wait) if isinstance(error, SignInFailed) else PAUSE
        self._paused_until = self._clock.monotonic() + pause


@contextlib.contextmanager
def open_histories(settings: Settings, clock: Clock) -> Iterator[Mapping[str, MerchantHistory]]:
    """The history of each merchant by id, within the budget that the state file keeps.

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
        histories = {}
        for merchant in settings.merchants:
            budget = RequestBudget(state, merchant.id, merchant.requests_per_minute, clock, settings.api.timeout)
            client = Client(settings.api, merchant, budget, observe=_observe, clock=clock)
            stack.callback(client.close)
            histories[merchant.id] = MerchantHistory(client, budget, clock)
        yield histories


def fetch(histories: Sequence[MerchantHistory], clock: Clock) -> Iterator[Part]:
    """All queued parts as they arrive; the merchant whose budget allows it first is next.

    Raises:
        HistoryError: More requests are pointless.
        StateWriteFailed: The time of a request could not be written.
    """
    while waiting := [history for history in histories if not history.done]:
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
