"""What the check has found, as values, and its words. Pure."""

import re
from dataclasses import dataclass, field
from datetime import tzinfo

from exporter.api.zone_check import Look, ZoneFinding, zone_error
from exporter.config.settings import MediaSettings, MerchantSettings
from exporter.errors import ApiError, NotFound
from exporter.times import format_duration, round_duration

# Every request for a media needs it.
_PERMISSION = 'give the account the permission "Analytics" on it'


@dataclass(slots=True)
class MediaFinding:
    """What is known of one media of the configuration.

    Attributes:
        media: Its entry in the configuration.
        id: Its id; of one with a reference id `ref:` and that, until it is looked up.
        name: Its name in the catalog, else in the configuration.
        kind: What the catalog says it is, such as `file` or `live`; "" if that is not known.
        plays: Its plays in the last hour, None if they are not known.
        problems: What was refused, or could not be used, with the fix -> of which requests, `catalog` or `plays`.
        checked: Whether all of its requests have ended.
    """

    media: MediaSettings
    id: str
    name: str
    kind: str = ""
    plays: float | None = None
    problems: dict[str, list[str]] = field(default_factory=dict)
    checked: bool = False

    def add_problem(self, request: str, reason: str) -> None:
        """Note what is wrong with a request, `catalog` or `plays`."""
        self.problems.setdefault(reason, []).append(request)


@dataclass(slots=True)
class MerchantFinding:
    """What is known of one merchant.

    Attributes:
        merchant_id: Its id.
        media: Its media, in the order of the configuration.
        plays: Plays of the whole merchant in the last hour, None if they are not known.
        zone: What is known of the time zone.
        newest: The newest plays of all answers about the time zone, None before the first.
        problem: What was refused for the whole merchant, "" if nothing.
        ended_by: Why no more of its requests were sent, "" if all were.
    """

    merchant_id: str
    media: list[MediaFinding]
    plays: float | None = None
    zone: ZoneFinding = field(default_factory=ZoneFinding)
    newest: Look | None = None
    problem: str = ""
    ended_by: str = ""

    @property
    def problems(self) -> int:
        """How many things are wrong with it and its media."""
        own = (self.problem, self.ended_by, self.zone.wrong)
        return sum(map(bool, own)) + sum(bool(each.problems) for each in self.media)


def nothing_known(merchant: MerchantSettings, ended_by: str = "") -> MerchantFinding:
    """The finding before the first request."""
    every = (*merchant.media, *merchant.pending)
    media = [MediaFinding(media, media.id or f"ref:{media.ref_id}", media.name or "") for media in every]
    return MerchantFinding(merchant.id, media, ended_by=ended_by)


def reason_of(error: ApiError) -> str:
    """Why a request was refused, and how to fix it, for a table."""
    if isinstance(error, NotFound):
        return "not found (404); check the id, or the ref_id"
    if error.code in ("401", "403"):
        return f"refused ({error.code}); {_PERMISSION}"
    # The column before it says which request it was.
    return re.sub(r"^(medias|aggregations): ", "", str(error))


def zone_words(found: MerchantFinding, zone: tzinfo, now: float) -> str:
    """What is known of the time zone, as one line.

    Args:
        found: The merchant.
        zone: `api.timezone`.
        now: Unix seconds.
    """
    if found.zone.wrong:
        return zone_error(found.zone.offset, now, zone)
    if found.newest is None:
        return "not checked"
    if found.newest.newest is None:
        return f"not known: there are no plays; {zone} is configured"
    age = format_duration(round_duration(max(0.0, found.newest.age)))
    if found.zone.offset is None:
        return f"not known: the newest plays are {age} old; {zone} is configured"
    return f"{zone} fits: the newest plays are {age} old"
