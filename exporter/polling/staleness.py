"""How stale a merchant's streams are, and what that costs. It reads the ledger; the time is an argument."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from exporter.config.settings import MerchantSettings, PollSettings
from exporter.counting.ledger import Ledger
from exporter.counting.windows import ended_before
from exporter.model import Group, Minute, MinuteRange, Stream, Target
from exporter.planning.priorities import FLOOR, plays_weights, stream_factors


@dataclass(frozen=True, slots=True)
class Moment:
    """What is the same for all streams while they are looked at.

    Attributes:
        complete: The newest minute that ended `settle` ago.
        settled: The newest settled minute.
        monotonic: Monotonic seconds.
    """

    complete: Minute
    settled: Minute
    monotonic: float


class Staleness:
    """The staleness of one merchant's streams. No stream may be entered by two threads at once.

    Attributes:
        pace_maker: The whole merchant's plays. Their answers show which minutes are settled.
        streams: How many streams there are.
    """

    def __init__(
        self,
        merchant: MerchantSettings,
        poll: PollSettings,
        ledger: Ledger,
        noise: Callable[[], float],
        dropping: Callable[[], Mapping[str, float]],
    ) -> None:
        """Start without any request.

        Args:
            merchant: Whose streams.
            poll: When a minute counts, and what the freshness of a stream matters.
            ledger: What is counted.
            noise: Returns by how much the whole merchant's plays vary more than by independent viewers' chance.
            dropping: Returns the plays a minute that are expected of media whose plays have dropped. They matter as
                much as before, or it would take long to see that they are back.
        """
        self._dropping = dropping
        self._noise = noise
        self._merchant_id = merchant.id
        self._ledger = ledger
        self.pace_maker = Stream(merchant.id, "", Target.PLAY_COUNT, Group.ALL)
        # The newest minute that each stream's last answer was asked up to.
        self._asked: dict[Stream, Minute] = {}
        self.configure(merchant, poll)

    def configure(self, merchant: MerchantSettings, poll: PollSettings) -> None:
        """Take another configuration of the merchant; what is known of its streams stays."""
        self._settle = poll.settle
        self._factors = stream_factors(merchant, poll)
        self.streams = len(self._factors)
        refs = (f"ref:{ref_id}" for ref_id in merchant.ref_ids)
        self._media = frozenset(("", *(media.id for media in merchant.media), *refs))
        # What is requested before any row has shown that the minute is settled.
        self._not_waiting = {self.pace_maker, *(stream for stream in self._factors if stream.target.by_day)}
        for stream in self._asked.keys() - self._factors.keys():
            del self._asked[stream]

    def __contains__(self, what: Stream | str) -> bool:
        """Whether a stream, or a media by its id or `ref:` and its reference id, is in the configuration.

        The whole merchant is "" and always is.
        """
        return what in (self._factors if isinstance(what, Stream) else self._media)

    def moment(self, now: float, monotonic: float) -> Moment:
        """What to look at the streams with now, given in Unix seconds and in monotonic ones."""
        return Moment(ended_before(now, self._settle), self._ledger.settled(self._merchant_id, now), monotonic)

    def entered(self, stream: Stream, asked: MinuteRange, now: float) -> None:
        """Note that the ledger has an answer for these minutes, which was requested at a moment (Unix seconds)."""
        # The rest of a shortened range comes at once, unless there is nothing settled beyond it.
        if asked.last >= self._ledger.settled(self._merchant_id, now):
            self._asked[stream] = ended_before(now, self._settle)

    def due(self, stream: Stream, moment: Moment, *, paced: bool = True) -> int:
        """A stream's staleness where an answer could show something new, at least 1; else 0.

        Without a pace maker that is answered, any stream may be the one to show that a minute is settled.
        """
        through = self._ledger.through(stream)
        staleness = (self._newest(stream, moment) if paced else moment.complete) - through
        asked = self._asked.get(stream)
        # What one answer has not shown of a minute, another in the same minute would hardly show.
        due = asked != moment.complete and (
            # A clock that was ahead for a while has let minutes be counted as empty before they came.
            staleness > 0 or asked is None or through > moment.complete
        )
        return max(1, staleness) if due else 0

    def weights(self, moment: Moment) -> dict[Stream, float]:
        """What a minute of each stream's staleness costs."""
        plays = self.plays(moment)
        return {stream: plays[stream.media_id] * factor for stream, factor in self._factors.items()}

    def plays(self, moment: Moment) -> dict[str, float]:
        """The plays a minute to expect of each media, and of the whole merchant as ""."""
        known = self._ledger.plays(self._merchant_id)
        whole = known.pop("")
        plays = plays_weights(whole, known, moment.settled, self._noise())
        for media_id, expected in self._dropping().items():
            if media_id:
                plays[media_id] = max(plays[media_id], expected)
        plays[""] = max(FLOOR, whole.rate if whole.rate is not None else sum(plays.values()))
        return plays

    def fresh(self, moment: Moment, minutes: int) -> bool:
        """Whether no stream is stale by more than so many minutes."""
        return all(self.due(stream, moment) <= minutes for stream in self._factors)

    def mean(self, weights: Mapping[Stream, float], moment: Moment) -> float:
        """The mean of the streams' staleness (minutes), weighted by what it costs."""
        waits = {stream: max(0, self._newest(stream, moment) - self._ledger.through(stream)) for stream in weights}
        return sum(weight * waits[stream] for stream, weight in weights.items()) / sum(weights.values())

    def _newest(self, stream: Stream, moment: Moment) -> Minute:
        """The newest minute that a stream could count."""
        return moment.complete if stream in self._not_waiting else moment.settled
