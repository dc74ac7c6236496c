"""The log of a start in words: signed in, counting, all streams requested, history of the drop detector.

It only reads snapshots. Many merchants that start together share their lines; so a start is a handful of lines, with
one merchant or with hundreds.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from exporter.clock import Clock
from exporter.model import Group, Minute, Stream, Target, start_of
from exporter.times import format_instant
from exporter.views import Judgement, LinkView, MerchantView, Snapshot

log = structlog.get_logger("start")

# So many merchants that start together have lines of their own.
SEPARATE = 3

# Seconds between two looks at the start. They become rarer: what has not come after hours is not awaited each second.
LOOK_EVERY, LOOK_RARER = 1.0, 30.0

# Looks take at most this part of the time: with hundreds of merchants, one takes a tenth of a second.
LOOK_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one merchant is.

    Attributes:
        merchant_id: The merchant.
        tried: Whether its first round of requests has ended.
        up: Whether the API answers.
        token_expiry: When its token expires (Unix seconds), or None.
        streams: The number of its streams.
        answered: How many of them have been answered since it started.
        failing: How many fail while others are answered.
        media: The number of its media.
        not_found: How many of them the API does not know.
        judged: How many can be judged for drops.
        learned: Whether no history is missing to judge those that the API knows.
        plays: The plays of the newest minute, or None.
    """

    merchant_id: str
    tried: bool
    up: bool
    token_expiry: float | None
    streams: int
    answered: int
    failing: int
    media: int
    not_found: int
    judged: int
    learned: bool
    plays: float | None

    @property
    def signed_in(self) -> bool:
        """Whether it has a token."""
        return self.up or self.token_expiry is not None

    @property
    def all_requested(self) -> bool:
        """Whether each stream has been answered or fails."""
        return self.up and self.answered + self.failing >= self.streams


def progress(merchant: MerchantView, oldest: float) -> Progress:
    """How far a merchant is; a stream is answered if it has counted a minute that began at `oldest` or later."""
    link = merchant.link or LinkView(merchant.merchant_id)
    gone = {media_id for media_id, media in merchant.media.items() if media.gone}
    learning = {media_id for media_id, media in merchant.media.items() if media.judgement is Judgement.LEARNING}
    failing = {media_id for media_id, number in link.failing.items() if number}
    answered = {stream for stream, view in merchant.streams.items() if _counted(stream, view.through, oldest)}
    missing = merchant.streams.keys() - answered
    whole = merchant.streams.get(Stream(merchant.merchant_id, "", Target.PLAY_COUNT, Group.ALL))
    return Progress(
        merchant.merchant_id,
        tried=link.round_timestamp is not None,
        up=bool(link.up),
        token_expiry=link.token_expiry,
        streams=len(merchant.streams),
        answered=len(answered),
        failing=sum(stream.media_id in gone | failing for stream in missing),
        media=len(merchant.media),
        not_found=len(gone),
        judged=sum(media.judgement is Judgement.JUDGED for media in merchant.media.values()),
        # The history of a media that the API does not know never comes.
        learned=merchant.learning_seconds == 0 or learning <= gone,
        plays=next((series.last for series in whole.series), None) if whole else None,
    )


def _counted(stream: Stream, through: Minute | None, oldest: float) -> bool:
    return through is not None and (stream.target.by_day or start_of(through) >= oldest)


Fields = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class _Step:
    """One step of a start.

    Attributes:
        message: What the log says.
        reached: Whether a merchant has taken it.
        fields: What the line has of the merchants that have taken it.
    """

    message: str
    reached: Callable[[Progress], bool]
    fields: Callable[[Sequence[Progress]], Fields]


def _token(each: Sequence[Progress]) -> Fields:
    expiries = [one.token_expiry for one in each if one.token_expiry is not None]
    return {"token_expires": format_instant(min(expiries))} if expiries else {}


def _counting(each: Sequence[Progress]) -> Fields:
    return {"streams": sum(one.streams for one in each), "media": sum(one.media for one in each), **_plays(each)}


def _requested(each: Sequence[Progress]) -> Fields:
    return {
        "streams": sum(one.streams for one in each),
        "failing": sum(one.failing for one in each),
        "media": sum(one.media for one in each),
        "media_not_found": sum(one.not_found for one in each),
        **_plays(each),
    }


def _judged(each: Sequence[Progress]) -> Fields:
    return {"media": sum(one.media for one in each), "judged": sum(one.judged for one in each)}


def _plays(each: Sequence[Progress]) -> Fields:
    plays = [one.plays for one in each if one.plays is not None]
    return {"plays_last_minute": f"{sum(plays):.0f}"} if plays else {}


STEPS = (
    _Step("signed in", lambda one: one.signed_in, _token),
    _Step("counting has begun", lambda one: one.up and one.answered > 0, _counting),
    _Step("every stream has been requested", lambda one: one.all_requested, _requested),
    _Step(
        "the drop detector has the history that it needs",
        lambda one: one.up and one.learned and one.judged > 0,
        _judged,
    ),
)


@dataclass(slots=True)
class _Batch:
    """Merchants that started together.

    Attributes:
        merchants: Their ids.
        since: When that was (Unix seconds).
        left: The steps that are not logged yet, with the merchants that have not taken them.
    """

    merchants: frozenset[str]
    since: float
    left: dict[_Step, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.left = {step: set(self.merchants) for step in STEPS}


class StartLog:
    """Logs what happens after a start, and after merchants were added. For one thread."""

    def __init__(self, snapshot: Callable[[], Snapshot], clock: Clock, page: str, late: float) -> None:
        """Log nothing yet.

        Args:
            snapshot: What is known now.
            clock: The time of the snapshots.
            page: The URL of the status page.
            late: How many seconds the rows of the API can be late.
        """
        self._snapshot = snapshot
        self._clock = clock
        self._page = page
        self._late = late
        self._batches: list[_Batch] = []
        self._known: frozenset[str] = frozenset()
        self._began = clock.monotonic()
        self._next_look = self._began

    def look(self) -> None:
        """Log what has happened since the last look."""
        now = self._clock.monotonic()
        if now < self._next_look:
            return
        merchants = self._snapshot().merchants
        self._note(merchants.keys())
        for batch in self._batches:
            oldest = batch.since - self._late
            self._log(batch, [progress(merchants[id_], oldest) for id_ in batch.merchants if id_ in merchants])
        self._batches = [batch for batch in self._batches if batch.left]
        took = self._clock.monotonic() - now
        self._next_look = now + max(LOOK_EVERY, (now - self._began) / LOOK_RARER, took / LOOK_SHARE)

    def _note(self, merchants: Collection[str]) -> None:
        """Begin to watch new merchants."""
        if added := frozenset(merchants) - self._known:
            self._batches.append(_Batch(added, self._clock.now()))
            self._began = self._clock.monotonic()
        self._known = frozenset(merchants)

    def _log(self, batch: _Batch, each: Sequence[Progress]) -> None:
        for step, waiting in list(batch.left.items()):
            waiting &= {one.merchant_id for one in each}
            reached = [one for one in each if one.merchant_id in waiting and step.reached(one)]
            if len(batch.merchants) <= SEPARATE:
                for one in reached:
                    self._write(step, [one], merchant=one.merchant_id)
                waiting -= {one.merchant_id for one in reached}
            elif all(step.reached(one) or _failed(one) for one in each) and reached:
                self._write(step, reached, merchants=len(reached), merchants_failing=len(each) - len(reached))
                waiting.clear()
            if not waiting:
                del batch.left[step]

    def _write(self, step: _Step, each: Sequence[Progress], **subject: object) -> None:
        place = {} if step is STEPS[0] else {"open": self._page}
        log.info(step.message, **subject, **step.fields(each), **place)


def _failed(one: Progress) -> bool:
    return one.tried and not one.up
