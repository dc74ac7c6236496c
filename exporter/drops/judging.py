"""What the newest minutes of a merchant's media say about drops: of files, of live events and of the whole merchant."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from exporter.drops.baseline import Observation
from exporter.drops.detector import Together, broad, judge, judge_live
from exporter.drops.packed import HELD
from exporter.model import MINUTE, LiveState, end_of
from exporter.views import Verdict

# A drop that so many minutes show is none that one of them made up.
LASTING = 3

# A verdict on one minute stands for less than the 2 minutes that the alerts wait, scrapes every 30 s included. Then, if
# no newer minute has come, only what all of the last minutes show. So neither rows that stop coming nor a media that is
# asked for rarely can turn one odd minute into an alert.
HOLD = 80.0

# Seconds until a live event has its audience, and after which its state is too old to use.
SETTLED_IN = 12 * MINUTE
STATE_BELIEVED = 2 * MINUTE

# Looks of media that are so many minutes apart are of one time.
SAME_TIME = 5


@dataclass(frozen=True, slots=True)
class Standing:
    """What is said of a media until its next minute comes.

    Attributes:
        newest: What its newest minute shows.
        lasting: The ratio that all of the last minutes show.
        since: When the newest minute came (Unix seconds).
    """

    newest: Verdict
    lasting: float
    since: float

    def at(self, now: float) -> Verdict:
        """What is shown at a moment (Unix seconds)."""
        if 0 <= now - self.since < HOLD:
            return self.newest
        return self.newest._replace(ratio=min(self.newest.ratio, self.lasting))


class LiveEvents(Protocol):
    """What the monitor asks about the live events of the media."""

    def is_live(self, media_id: str) -> bool | None:
        """Whether a media shows live events, None while that is unknown."""
        ...

    def live_state(self, media_id: str) -> LiveState | None:
        """The newest known state of a media's live event, None while that is unknown."""
        ...


class Judging:
    """The newest observations of all media of one merchant, and the verdicts on them. Not safe for threads."""

    def __init__(self, live_events: LiveEvents, media_ids: Iterable[str]) -> None:
        """Create one without observations.

        Args:
            live_events: Which media are live.
            media_ids: The media, "" for the whole merchant.
        """
        self._live_events = live_events
        self._observations: dict[str, deque[Observation]] = {media_id: deque(maxlen=LASTING) for media_id in media_ids}
        self._came: dict[str, float] = {}
        self._together = Together(HELD)

    def note(self, media_id: str, observations: Iterable[Observation], now: float) -> None:
        """Add what the new minutes of a media show; `now` is when they came (Unix seconds).

        A minute that is missing is not among them: what the ones before it said stands.
        """
        among_others = media_id and not self._live_events.is_live(media_id)
        for observation in observations:
            self._observations[media_id].append(observation)
            self._came[media_id] = now
            if among_others:
                self._together.add(observation)

    def judge(self, now: float) -> tuple[Mapping[str, Standing], Mapping[str, Exception]]:
        """Judge the newest minutes of all media.

        Args:
            now: Unix seconds.

        Returns:
            What is known of each media, and the errors of those that a defect prevents from being judged.
        """
        standing: dict[str, Standing] = {}
        failed: dict[str, Exception] = {}
        for media_id in self._observations:
            try:
                found = self._judge(media_id, now)
            except Exception as error:  # noqa: BLE001 - one media's defect leaves the others their verdicts
                failed[media_id] = error
            else:
                if found is not None:
                    standing[media_id] = found
        return standing, failed

    def _judge(self, media_id: str, now: float) -> Standing | None:
        """What is to be said of a media; None where nothing can."""
        verdicts = [self._verdict(media_id, observation, now) for observation in self._observations[media_id]]
        newest = verdicts[-1] if verdicts else None
        if newest is None:
            return None
        ratios = [verdict.ratio for verdict in verdicts if verdict is not None]
        lasting = min(ratios) if len(ratios) == LASTING else 0.0
        return Standing(newest, lasting, self._came[media_id])

    def _verdict(self, media_id: str, observation: Observation, now: float) -> Verdict | None:
        if not media_id:
            return self._of_merchant(observation)
        live = self._live_events.is_live(media_id)
        if live is None:
            return None
        return (
            self._of_live(media_id, observation, now)
            if live
            else judge(observation, self._together.factor(observation))
        )

    def _of_live(self, media_id: str, observation: Observation, now: float) -> Verdict | None:
        event = self._live_events.live_state(media_id)
        if event is None or (event.running and now - event.at > STATE_BELIEVED):
            return None
        if event.running and end_of(observation.minute) - event.since >= SETTLED_IN:
            return judge_live(observation)
        return None if observation.forecast is None else Verdict(observation.minute, 0.0, 0.0, observation.forecast)

    def _of_merchant(self, observation: Observation) -> Verdict | None:
        verdict = judge(observation)
        if verdict is None:
            return None
        others = [
            observations[-1] for media_id, observations in self._observations.items() if media_id and observations
        ]
        others = [other for other in others if abs(other.minute - observation.minute) <= SAME_TIME]
        if others and not broad(others):
            return verdict._replace(ratio=0.0)
        return verdict
