"""The health of everything, and all its causes. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from exporter.model import MINUTE
from exporter.serving.schema import (
    Cause,
    CauseKind,
    DropState,
    Health,
    MediaState,
    MediaStatus,
    MerchantStatus,
)
from exporter.times import format_duration, round_duration
from exporter.views import Judgement, ProblemView, Subject
from exporter.wording import some

# The kinds of problems of the process; of the others it is PROCESS.
_KINDS = {
    Subject.STATE_FILE: CauseKind.STATE_FILE,
    Subject.CONFIGURATION: CauseKind.CONFIGURATION,
    Subject.MEDIA_FILES: CauseKind.MEDIA_FILES,
}

# Of many merchants or media, so many are named.
NAMED = 5

# Without anything that tells since when, these have been there since the process began to poll.
_FROM_START = frozenset(
    (
        CauseKind.WAITING,
        CauseKind.CREDENTIALS,
        CauseKind.API_DOWN,
        CauseKind.RATE_LIMITED,
        CauseKind.NO_ROWS,
        CauseKind.LEARNING,
        CauseKind.BUDGET,
    )
)

# Rows older than this (seconds) are bad, whether the API responds or not: nobody sees a drop in them.
OLDEST_ROWS = 20 * MINUTE

# Seconds: rows are late. With the default settle of 2 and max_lag of 10 minutes, minutes then count as empty.
LATE_ROWS = 12 * MINUTE


def health_of(
    merchants: Sequence[MerchantStatus],
    problems: Sequence[ProblemView],
    now: float,
    max_staleness: float,
    started: float | None,
) -> tuple[Health, tuple[Cause, ...]]:
    """The worst state, and all causes, the worst first.

    Args:
        merchants: The merchants.
        problems: Problems of the process itself.
        now: Unix seconds.
        max_staleness: Seconds that no stream should wait longer than.
        started: When the process began to poll: causes that are there from the start have lasted since then.
    """
    unwritable = any(each.bad and each.subject is Subject.STATE_FILE for each in problems)
    causes = [_of_process(each) for each in problems]
    for merchant in merchants:
        causes += _of_connection(merchant, unwritable=unwritable)
        causes += _of_rows(merchant, now)
        causes += _of_drops(merchant)
        causes += _of_media(merchant, now)
        causes += _of_budget(merchant, max_staleness)
    causes = [replace(each, since=started) if _from_start(each) else each for each in causes]
    kinds = list(CauseKind)
    # Sorting keeps the order of equal ones.
    causes.sort(key=lambda each: (each.health is not Health.BAD, kinds.index(each.kind), -_missing(each)))
    return (causes[0].health if causes else Health.GOOD), tuple(causes)


def summary_of(causes: Sequence[Cause], merchants: Sequence[MerchantStatus], now: float) -> str:
    """The reason for the health in one or two sentences: the worst cause, or what `good` is based on."""
    if causes:
        others = len(causes) - 1
        return causes[0].message + (f" {others} more cause{'s' if others > 1 else ''}." if others else "")
    # Without media, the whole merchant is watched.
    watched = [each for merchant in merchants for each in (merchant.media or (merchant.whole,))]
    judged = sum(each.judgement is Judgement.JUDGED for each in watched)
    rows = [merchant.horizon for merchant in merchants if merchant.horizon is not None]
    newest = f" The newest row is {_age(now - min(rows))} old." if rows else ""
    return f"No drops. {judged} of {len(watched)} {'media' if watched[0].media_id else 'merchants'} are judged.{newest}"


def clock_problem(offset: float) -> str:
    """The problem with this machine's clock, which is so many seconds ahead of the API's."""
    wrong = format_duration(round_duration(abs(offset)))
    return (
        f"This machine's clock is {wrong} {'ahead of' if offset > 0 else 'behind'} the API's clock (Date header). "
        "Minutes are counted by the API's clock. Synchronize this machine's clock, for example with NTP."
    )


def media_files_problem(errors: Mapping[str, Sequence[str]], since: float | None) -> ProblemView | None:
    """The problem with the media files, None without any.

    Args:
        errors: The error lines of each merchant with media files.
        since: Since when there are errors (Unix seconds).
    """
    lines = list(dict.fromkeys(line for each in errors.values() for line in each))
    if not lines:
        return None
    others = f" {len(lines) - 1} more in the log." if len(lines) > 1 else ""
    return ProblemView(Subject.MEDIA_FILES, f"Error in a media file: {lines[0]}.{others}", since)


def _from_start(cause: Cause) -> bool:
    return cause.since is None and cause.kind in _FROM_START


def _of_process(problem: ProblemView) -> Cause:
    kind = _KINDS.get(problem.subject, CauseKind.PROCESS)
    health = Health.BAD if problem.bad else Health.WARNING
    return Cause(health, kind, problem.subject, None, problem.since, _sentence(problem.message))


def _of_connection(merchant: MerchantStatus, *, unwritable: bool) -> Iterator[Cause]:
    """Whether the API responds, with times in the right time zone."""
    name = merchant.merchant_id
    if merchant.refused:
        message = f"{name}: the API refuses the credentials. {_sentence(merchant.last_error)}"
        yield _cause(merchant, Health.BAD, CauseKind.CREDENTIALS, message, since=merchant.last_success)
    elif merchant.up is False and merchant.rate_limited:
        message = (
            f"{name}: the API limits the rate (429). The budget is now {merchant.budget:.0f} requests a minute. "
            "Other tools of the merchant share the limit."
        )
        yield _cause(merchant, Health.WARNING, CauseKind.RATE_LIMITED, message, since=merchant.last_success)
    elif merchant.up is False and unwritable:
        # Another cause says so.
        pass
    elif merchant.up is False and merchant.blocked:
        message = f"{name}: waiting for the first API response since the state file is writable again."
        yield _cause(merchant, Health.WARNING, CauseKind.WAITING, message, since=merchant.last_success)
    elif merchant.up is False:
        message = f"{name}: the API is down. {_sentence(merchant.last_error)}".rstrip()
        yield _cause(merchant, Health.BAD, CauseKind.API_DOWN, message, since=merchant.last_success)
    elif merchant.up is None:
        message = f"{name}: starting. Waiting for the first API response."
        yield _cause(merchant, Health.WARNING, CauseKind.WAITING, message)
    if merchant.timezone_error:
        message = f"{name}: {_sentence(merchant.timezone_error)}"
        yield _cause(merchant, Health.BAD, CauseKind.TIMEZONE, message, since=merchant.timezone_since)


def _of_rows(merchant: MerchantStatus, now: float) -> Iterator[Cause]:
    """How old the rows are."""
    name = merchant.merchant_id
    if merchant.horizon is not None and now - merchant.horizon > OLDEST_ROWS:
        age = now - merchant.horizon
        message = f"{name}: no new rows for {_age(age)}. Drops since then are not seen."
        yield _cause(merchant, Health.BAD, CauseKind.OLD_ROWS, message, number=age, since=merchant.horizon)
    elif merchant.horizon is not None and now - merchant.horizon > LATE_ROWS:
        age = now - merchant.horizon
        message = f"{name}: no new rows for {_age(age)}: the API is late, or nothing is played. Drops are not seen yet."
        yield _cause(merchant, Health.WARNING, CauseKind.OLD_ROWS, message, number=age, since=merchant.horizon)
    elif merchant.horizon is None and merchant.up and not merchant.timezone_error:
        message = f"{name}: the API responds, but has not returned a single row yet."
        yield _cause(merchant, Health.BAD, CauseKind.NO_ROWS, message)


def _of_drops(merchant: MerchantStatus) -> Iterator[Cause]:
    whole = merchant.whole.drop
    dropping = [each for each in merchant.media if each.drop.state in (DropState.WARNING, DropState.CRITICAL)]
    if whole.state in (DropState.WARNING, DropState.CRITICAL):
        along = _along(merchant)
        dropping = [each for each in dropping if each.media_id not in along]
        others = f" {_count(len(along), 'media')} dropped with it." if along else ""
        message = f"All media of {merchant.merchant_id}: {_missing_plays(merchant.whole)}{others}"
        health = Health.BAD if whole.state is DropState.CRITICAL else Health.WARNING
        yield _cause(merchant, health, CauseKind.MERCHANT_DROP, message, number=whole.ratio or 0.0, since=whole.onset)
    for each in dropping:
        critical = each.drop.state is DropState.CRITICAL
        yield Cause(
            Health.BAD if critical else Health.WARNING,
            CauseKind.CRITICAL_DROP if critical else CauseKind.WARNING_DROP,
            _name(each),
            each.drop.ratio or 0.0,
            each.drop.onset,
            f"{_name(each)}: {_missing_plays(each)}",
            merchant.merchant_id,
            each.media_id,
        )


def _of_media(merchant: MerchantStatus, now: float) -> Iterator[Cause]:
    """Media that are gone or do not exist yet, fail, are stale or learn, and values that wait."""
    name = merchant.merchant_id
    if gone := [each for each in merchant.media if each.gone]:
        message = f"{name}: {_count(len(gone), 'media')} not found (404): {_named(gone)}."
        since = _first(each.failing_since for each in gone)
        yield _cause(merchant, Health.WARNING, CauseKind.GONE, message, number=len(gone), since=since)
    if merchant.pending:
        found = _count(len(merchant.pending), "media")
        message = f"{name}: {found} with ref_id not found in the catalog yet: {some(list(merchant.pending), NAMED)}."
        since = _first(merchant.pending.values())
        yield _cause(merchant, Health.WARNING, CauseKind.PENDING, message, number=len(merchant.pending), since=since)
    if failing := [each for each in (merchant.whole, *merchant.media) if each.failing_streams and not each.gone]:
        message = f"{name}: requests fail for {_named(failing)}."
        streams, since = sum(each.failing_streams for each in failing), _first(each.failing_since for each in failing)
        yield _cause(merchant, Health.WARNING, CauseKind.FAILING, message, number=streams, since=since)
    late = [each for each in merchant.media if MediaState.STALE in each.states and not each.failing]
    # Where no row comes at all, or the time zone is wrong, another cause says so. In the first round none has data yet.
    current = merchant.horizon is not None and now - merchant.horizon <= OLDEST_ROWS and not merchant.timezone_error
    if late and current and merchant.round_timestamp:
        message = f"{name}: no current data for {_count(len(late), 'media')}: {_named(late)}."
        since = _first(each.data_timestamp for each in late)
        yield _cause(merchant, Health.WARNING, CauseKind.STALE, message, number=len(late), since=since)
    watched = [each for each in merchant.media if MediaState.OFF not in each.states]
    learning = sum(MediaState.LEARNING in each.states for each in watched)
    if merchant.horizon is not None and 2 * learning > len(watched):
        message = f"{name}: {learning} of {len(watched)} media are still learning. Their drops are not seen yet."
        yield _cause(merchant, Health.WARNING, CauseKind.LEARNING, message, number=learning)
    if merchant.held_values or merchant.unusable:
        why = f" ({merchant.unusable})" if merchant.unusable else ""
        values = _count(merchant.held_values, "value") if merchant.held_values else "Some values"
        message = f"{name}: {values} cannot be used, and are not counted yet{why}."
        yield _cause(merchant, Health.WARNING, CauseKind.HELD_VALUES, message, number=merchant.held_values)


def _of_budget(merchant: MerchantStatus, max_staleness: float) -> Iterator[Cause]:
    if merchant.budget and merchant.streams > merchant.budget * max_staleness / MINUTE:
        message = (
            f"{merchant.merchant_id}: {merchant.streams} streams are too many for {merchant.budget:.0f} requests a "
            f"minute. Quiet media wait longer than {format_duration(max_staleness)}."
        )
        yield _cause(merchant, Health.WARNING, CauseKind.BUDGET, message, number=merchant.streams)


def _along(merchant: MerchantStatus) -> set[str]:
    """The media whose open drop belongs to that of the whole merchant."""
    return {each.media_id for each in merchant.incidents if each.with_merchant and each.end is None}


def _cause(
    merchant: MerchantStatus,
    health: Health,
    kind: CauseKind,
    message: str,
    *,
    number: float | None = None,
    since: float | None = None,
) -> Cause:
    return Cause(health, kind, merchant.merchant_id, number, since, message, merchant.merchant_id)


def _missing(cause: Cause) -> float:
    """What drops are sorted by: the missing share."""
    drops = (CauseKind.MERCHANT_DROP, CauseKind.CRITICAL_DROP, CauseKind.WARNING_DROP)
    return cause.number or 0.0 if cause.kind in drops else 0.0


def _missing_plays(media: MediaStatus) -> str:
    lost = f", {media.drop.lost:,.0f} plays lost so far" if media.drop.lost is not None else ""
    if media.drop.recovering:
        return f"the plays are back{lost}. The incident ends once this lasts 10 minutes."
    return f"{100 * (media.drop.ratio or 0.0):.0f} % of the expected plays are missing{lost}."


def _name(media: MediaStatus) -> str:
    return (media.name or media.media_id) if media.media_id else "the whole merchant"


def _named(media: Iterable[MediaStatus]) -> str:
    return some([_name(each) for each in media], NAMED)


def _first(instants: Iterable[float | None]) -> float | None:
    return min((each for each in instants if each is not None), default=None)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 or noun == 'media' else 's'}"


def _age(seconds: float) -> str:
    return f"{max(0, seconds) / MINUTE:.0f} min" if seconds < 120 * MINUTE else f"{seconds / 3600:.0f} h"


def _sentence(text: str) -> str:
    # A path or a setting is written as it is.
    first = text[:1].upper() if text.partition(" ")[0].isalpha() else text[:1]
    return f"{first}{text[1:].rstrip('.')}." if text else ""
