"""How much a minute of each stream's staleness costs: the plays that are not seen meanwhile. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from exporter.config.settings import MerchantSettings, PollSettings
from exporter.model import Minute, Stream

# Plays a minute that are assumed at least, so that a media without plays is requested now and then.
FLOOR = 0.1

# A rise of the whole merchant's plays is more than chance from so many standard deviations.
SURPRISE = 3.0


@dataclass(frozen=True, slots=True)
class Plays:
    """What is known of a media's plays, or of the whole merchant's.

    Attributes:
        rate: The smoothed plays a minute, or None before the first answer.
        last: The plays of the newest minute counted.
        through: Which minute that is.
    """

    rate: float | None = None
    last: float = 0.0
    through: Minute = -1


def plays_weights(whole: Plays, media: Mapping[str, Plays], settled: Minute, noise: float = 1.0) -> dict[str, float]:
    """The plays a minute to expect of each media.

    A media that was never asked for is taken to have its share of the plays that the known ones do not explain. When
    the whole merchant's plays rise by more than the media just looked at, some other has begun to be played: what is
    not explained is expected of each of those, and as all gain the same, the stalest are asked for first.

    Args:
        whole: The whole merchant's plays.
        media: By media id.
        settled: The newest settled minute. What is known of it is fresh.
        noise: By how much the variance of the whole merchant's plays is more than that of independent viewers.
    """
    known = sum(plays.rate for plays in media.values() if plays.rate is not None)
    unknown = sum(plays.rate is None for plays in media.values())
    share = 1.0
    if whole.rate is not None and unknown:
        share = max(0.0, whole.rate - known) / unknown
    hidden = _unexplained_rise(whole, media, settled, noise)
    return {
        media_id: max(
            FLOOR,
            (share if plays.rate is None else plays.rate) + (0.0 if _just_seen(plays, settled) else hidden),
        )
        for media_id, plays in media.items()
    }


def _unexplained_rise(whole: Plays, media: Mapping[str, Plays], settled: Minute, noise: float) -> float:
    """By how much the whole merchant's plays are more than those of the media just looked at let expect."""
    if whole.rate is None or whole.through < settled:
        return 0.0
    fresh = [plays for plays in media.values() if plays.rate is not None and _just_seen(plays, settled)]
    rates = sum(plays.rate or 0.0 for plays in fresh)
    last = sum(plays.last for plays in fresh)
    # In the evening all media rise together: the others as much as these.
    others = max(0.0, whole.rate - rates)
    rise = whole.last - last - others * (last / rates if rates else 1.0)
    # Two minutes are compared, as the others were counted up to the minute before, and both vary. Where one media with
    # many plays varies, so do the whole merchant's: what is new must be more than that.
    chance = math.sqrt(noise * (whole.rate + 1 + (whole.rate**2 / rates if rates else 0.0)))
    return rise if rise > SURPRISE * chance else 0.0


def _just_seen(plays: Plays, settled: Minute) -> bool:
    # In this round or the one before: when a round is planned, only the whole merchant has been asked for.
    return plays.through >= settled - 1


def stream_factors(merchant: MerchantSettings, poll: PollSettings) -> dict[Stream, float]:
    """By what each stream's weight is more than its media's plays: the priorities and the weights of the settings."""
    priorities = {media.id: media.priority for media in merchant.media}
    collected = {entry.target: entry.priority for entry in merchant.collect}
    return {
        stream: priorities.get(stream.media_id, 1.0)
        * collected.get(stream.target, 1.0)
        * poll.weights[stream.target]
        * poll.weights[stream.group]
        for stream in merchant.streams()
    }
