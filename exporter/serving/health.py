"""The health of everything in one word and one line. Pure."""

from collections.abc import Iterable, Iterator, Sequence

from exporter.serving.schema import DropState, Health, MediaStatus, MerchantStatus
from exporter.times import format_duration, round_duration
from exporter.views import ProblemView
from exporter.wording import some

# Of many merchants or media, so many are named.
NAMED = 5


def health_of(merchants: Sequence[MerchantStatus], problems: Sequence[ProblemView]) -> tuple[Health, str]:
    """The worst state, and the reason for it."""
    media = sum(len(each.media) for each in merchants)
    streams = sum(each.streams for each in merchants)
    good = f"The API is up. Merchants: {len(merchants)}, media: {media}, streams: {streams}."
    return next(_causes(merchants, problems), (Health.GOOD, good))


def clock_problem(offset: float) -> str:
    """The problem with this machine's clock, which is so many seconds ahead of the API's."""
    wrong = format_duration(round_duration(abs(offset)))
    return (
        f"This machine's clock is {wrong} {'ahead of' if offset > 0 else 'behind'} the API's clock (Date header). "
        "Minutes are counted by the API's clock. Synchronize this machine's clock, for example with NTP."
    )


def _causes(merchants: Sequence[MerchantStatus], problems: Sequence[ProblemView]) -> Iterator[tuple[Health, str]]:
    """What keeps the health from being good, the worst first."""
    if worst := [each.message for each in problems if each.bad]:
        yield Health.BAD, _sentences(worst)
    if down := [each.merchant_id for each in merchants if each.up is False]:
        yield Health.BAD, f"The API is down for {some(down, NAMED)}."
    if waiting := [each.merchant_id for each in merchants if each.up is None]:
        yield Health.WARNING, f"Waiting for the first API response for {some(waiting, NAMED)}."
    media = [each for merchant in merchants for each in merchant.media]
    if dropping := [_name(each) for each in media if each.drop.state in (DropState.WARNING, DropState.CRITICAL)]:
        yield Health.WARNING, f"The API is up. Plays are dropping: {some(dropping, NAMED)}."
    if problems:
        yield Health.WARNING, _sentences(each.message for each in problems)
    if causes := [*_failures(merchants, media)]:
        yield Health.WARNING, f"The API is up. {' '.join(causes)}"
    if held := [f"{each.merchant_id} ({why})" for each in merchants if (why := each.held_values or each.unusable)]:
        yield Health.WARNING, f"The API is up. Unusable values are not counted yet: {some(held, NAMED)}."


def _failures(merchants: Iterable[MerchantStatus], media: Sequence[MediaStatus]) -> Iterator[str]:
    """What fails while the API is up."""
    failing = [_name(each) for each in media if each.failing_streams and not each.gone]
    failing += [f"all media of {each.merchant_id}" for each in merchants if each.whole.failing_streams]
    if failing:
        yield f"Requests fail for {some(failing, NAMED)}."
    if gone := [_name(each) for each in media if each.gone]:
        yield f"Media not found (404): {some(gone, NAMED)}."


def _name(media: MediaStatus) -> str:
    return media.name or media.media_id


def _sentences(messages: Iterable[str]) -> str:
    return " ".join(f"{message[0].upper()}{message[1:].rstrip('.')}." for message in messages)
