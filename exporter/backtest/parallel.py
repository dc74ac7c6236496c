"""The drop detector over recordings, on as many processors as there are."""

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

from exporter.backtest.alerts import (
    Alert,
    Drops,
    Scanned,
    compare_with_frozen,
    expected,
    fired_alerts,
    scan,
    track,
    whole_merchant,
)
from exporter.backtest.plays_csv import Recording
from exporter.drops.detector import Together
from exporter.errors import InputError
from exporter.views import Thresholds, of_whole_merchant

# Fewer minutes are done before other processes have started.
WORTH_SHARING = 200_000

# The work is cut into so many parts at most, however many processes there are: sums of floats depend on it.
_PARTS = 16

_Result = tuple[dict[str, Scanned], Together]


@dataclass(frozen=True, slots=True)
class Backtest:
    """The result of a backtest.

    Attributes:
        alerts: In order of their start.
        recordings: By media id, "" for the whole merchant.
        expected: For a picture, by media id, the plays expected in each minute of its recording. Else empty.
    """

    alerts: Sequence[Alert]
    recordings: Mapping[str, Recording]
    expected: Mapping[str, Sequence[float]]


def backtest(
    recordings: Sequence[Recording],
    thresholds: Mapping[str, Thresholds | None],
    *,
    processes: int,
    progress: Callable[[int], object],
    plain: bool = False,
) -> Backtest:
    """All alerts of the media of one merchant, and of the whole merchant.

    Args:
        recordings: The plays of the media.
        thresholds: By media id, "" for the whole merchant, which has one of its own; None where no alert is wanted.
        processes: How many to use, where it is worth it.
        progress: Called with the number of minutes done since the last call.
        plain: Whether a picture is to be drawn.
    """
    every = [whole_merchant(recordings), *recordings]
    limits = {recording.media_id: _of(recording.media_id, thresholds) for recording in every}
    least = {media_id: None if limit is None else limit.warning for media_id, limit in limits.items()}
    scanned, sums = _scan(every, least, processes, progress, plain=plain)
    last = max(recording.minutes[-1] for recording in recordings)
    found: list[Alert] = []
    known = {}
    tracked: dict[str, Drops] = {}
    # The whole merchant's last: its drop is one of many media.
    for recording in reversed(every):
        media_id = recording.media_id
        if not media_id:
            for each in recordings:
                compare_with_frozen(each, scanned[each.media_id], tracked[each.media_id], sums)
        limit = limits[media_id]
        drops = Drops() if limit is None else track(recording, scanned[media_id], limit, sums)
        tracked[media_id] = drops
        found += fired_alerts(recording, drops.incidents, last)
        if plain:
            known[media_id] = expected(recording, scanned[media_id], sums, drops)
    found.sort(key=lambda each: (each.start, each.media_id, each.severity))
    return Backtest(found, {recording.media_id: recording for recording in every}, known)


def _of(media_id: str, thresholds: Mapping[str, Thresholds | None]) -> Thresholds | None:
    mine = thresholds[media_id]
    return mine if media_id or mine is None else of_whole_merchant(mine)


def _scan(
    recordings: Sequence[Recording],
    least: Mapping[str, float | None],
    processes: int,
    progress: Callable[[int], object],
    *,
    plain: bool,
) -> _Result:
    """The first step for all, here or in other processes."""
    parts = [recordings[start::_PARTS] for start in range(min(_PARTS, len(recordings)))]
    work = partial(_scan_some, least=least, plain=plain)
    apart = processes > 1 and sum(map(_size, parts)) >= WORTH_SHARING
    scanned: dict[str, Scanned] = {}
    sums = Together()
    # In this order, whichever was done first.
    for part, (some, added) in zip(parts, _apart(work, parts, processes) if apart else map(work, parts), strict=True):
        scanned |= some
        sums.merge(added)
        progress(_size(part))
    return scanned, sums


def _apart(
    work: Callable[[Sequence[Recording]], _Result], parts: Sequence[Sequence[Recording]], processes: int
) -> Iterator[_Result]:
    """The results of the parts, in their order, from other processes."""
    # Not forked: a process with threads, such as the progress bar's, cannot be copied safely.
    with ProcessPoolExecutor(processes, get_context("spawn"), _end_quietly) as pool:
        try:
            yield from pool.map(work, parts)
        except BrokenProcessPool as error:
            raise InputError("one of the processes was killed; if for lack of memory, replay fewer media") from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _size(recordings: Sequence[Recording]) -> int:
    """The minutes of media, without those of the whole merchant, which were not requested."""
    return sum(len(recording.minutes) for recording in recordings if recording.media_id)


def _scan_some(recordings: Sequence[Recording], least: Mapping[str, float | None], *, plain: bool) -> _Result:
    sums = Together()
    scanned = {}
    for recording in recordings:
        # The whole merchant is none of its own media.
        mine = sums if recording.media_id else Together()
        scanned[recording.media_id] = scan(recording, least[recording.media_id], mine, plain=plain)
    return scanned, sums


def _end_quietly() -> None:
    # An interrupt goes to all processes of the terminal. The first one reports it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
