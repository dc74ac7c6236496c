"""`backfill`: the history of the counters, from the API into a file that Prometheus' promtool makes blocks of."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import dropwhile, repeat
from pathlib import Path
from zoneinfo import ZoneInfo

import structlog
from tqdm import tqdm

from exporter import logs
from exporter.api.history import Part, fetch, open_histories
from exporter.backfill.checkpoint import Checkpoint, open_checkpoint
from exporter.backfill.openmetrics import END, Series, write_family
from exporter.clock import Clock
from exporter.config.settings import Settings
from exporter.counting.windows import ended_before
from exporter.errors import HistoryError, InputError, Unhandled
from exporter.model import MINUTE, OTHER, Group, Minute, MinuteRange, Stream, end_of, minute_of, start_of
from exporter.serving.families import FAMILIES, Family, counter_of
from exporter.times import format_instant

log = structlog.get_logger("backfill")

# Unix time of the year 2000. What is earlier was not meant, such as 20260131, which reads as seconds.
EARLIEST = 946_684_800.0


@dataclass(frozen=True, slots=True)
class Order:
    """What to fetch and where to write it.

    Attributes:
        since: Start (Unix seconds).
        until: End (Unix seconds), exclusive.
        output: The file to write.
        labels: Labels to add to each series.
    """

    since: float
    until: float
    output: Path
    labels: Mapping[str, str]


def run(settings: Settings, order: Order, clock: Clock) -> None:
    """Fetch what is not fetched yet, and write the file.

    Raises:
        InputError: The order cannot be carried out.
        HistoryError: The API failed for too long; what is fetched is kept.
        StateError: The state file, which has the budget, cannot be used.
        KeyboardInterrupt: As anywhere, with a text that says how to go on.
    """
    minutes = _whole_minutes(order, ended_before(clock.now(), settings.poll.max_lag))
    _check_labels(order.labels)
    if order.output.exists():
        raise InputError(f"{order.output}: is there already; delete it, or name another --output")
    streams = [stream for each in settings.merchants for stream in each.streams() if stream.target.summable]
    partial = order.output.with_name(f"{order.output.name}.partial")
    logs.write_in(lambda: tqdm.external_write_mode(file=sys.stderr))
    with open_checkpoint(partial, _key(settings, streams, minutes)) as work:
        try:
            _fetch(settings, streams, minutes, work, clock)
            _write(order, streams, minutes, work)
        except HistoryError as error:
            raise HistoryError(f"{error}; what is fetched is kept, the same command goes on there") from error
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted; what is fetched is kept, the same command goes on there") from None
        work.remove()


def _whole_minutes(order: Order, settled: Minute) -> MinuteRange:
    """The minutes that lie within the order."""
    minutes = MinuteRange(-int(-order.since // MINUTE), minute_of(order.until) - 1)
    if order.since < EARLIEST:
        raise InputError(f"--from: {format_instant(order.since)} is too early; write a date as 2026-01-31")
    if not len(minutes):
        raise InputError("--to: not later than --from; there is no minute between them")
    if minutes.last > settled:
        newest = format_instant(end_of(settled))
        raise InputError(f"--to: rows may still come for the minutes after {newest}; give that time or an earlier one")
    return minutes


def _check_labels(labels: Mapping[str, str]) -> None:
    for name in labels.keys() & {"merchant_id", "media_id", *Group}:
        raise InputError(f"--label: the series have a label {name} of their own; choose another name")


def _key(settings: Settings, streams: Sequence[Stream], minutes: MinuteRange) -> Mapping[str, object]:
    """What decides on what is fetched."""
    return {
        "api": settings.api.url,
        "timezone": str(settings.api.timezone),
        "minutes": [minutes.first, minutes.last],
        "streams": [f"{stream.merchant_id}/{stream}" for stream in streams],
        "max_label_values": settings.poll.max_label_values,
    }


def _fetch(settings: Settings, streams: Sequence[Stream], minutes: MinuteRange, work: Checkpoint, clock: Clock) -> None:
    places = {stream: place for place, stream in enumerate(streams)}
    progress, left_out = work.progress(), set(work.left_out())
    with open_histories(settings, clock) as pasts:
        for stream, place in places.items():
            begun = progress.get(place, minutes.first)
            pasts[stream.merchant_id].want(stream, MinuteRange(begun, minutes.last))
        had = sum(begun - minutes.first for begun in progress.values())
        total = len(streams) * len(minutes)
        log.info("fetching", streams=len(streams), minutes=len(minutes), fetched_before=f"{had / total:.0%}")
        with tqdm(total=total, initial=had, desc="fetching", unit="min", unit_scale=True, disable=None) as bar:
            for part in fetch(list(pasts.values()), clock):
                place = places[part.stream]
                columns = None if place in left_out else _columns(part, work.labels(place), settings, minutes)
                if columns is None:
                    # The rest of it, too: a counter without some of its minutes would be wrong.
                    left_out.add(place)
                    work.leave_out(place, part.minutes)
                else:
                    work.add(place, part.minutes, columns)
                bar.update(len(part.minutes))
    if len(work.left_out()) == len(streams):
        raise InputError("the API has no history of any stream; the warnings say why")


def _columns(
    part: Part, known: Sequence[str], settings: Settings, within: MinuteRange
) -> dict[str, list[float]] | None:
    """What a part counts, None where its stream is to be left out."""
    if part.rows is None:
        return None
    try:
        return columns_of(part, known, settings.poll.max_label_values, within, settings.api.timezone)
    except Exception as error:
        # A defect, or no memory left: it costs this stream only.
        stream = part.stream
        log.error(f"{stream} is left out: {Unhandled.by(error)}", merchant=stream.merchant_id, exc_info=error)  # noqa: TRY400 - without its traceback
        return None


def columns_of(
    part: Part, known: Sequence[str], most: int, within: MinuteRange, zone: ZoneInfo
) -> dict[str, list[float]]:
    """What a part counts in each of its minutes, by label value; label values that count nothing are left out.

    A day's value counts in the last minute of the day, where the whole day lies within the minutes wanted.

    Args:
        part: The part, with rows.
        known: The label values that have a series.
        most: Label values that get a series of their own; what comes later is counted in `other`.
        within: All minutes that are wanted.
        zone: The zone of the days.
    """
    rows = part.rows or {}
    names = set(known)
    columns: dict[str, list[float]] = {}
    for slot in sorted(rows):
        minute = _end_of_day(slot, zone) if part.stream.target.by_day else slot
        if slot < within.first or minute not in part.minutes:
            continue
        for label, value in rows[slot].items():
            if not value:
                continue
            name = label if label in names or len(names - {OTHER}) < most else OTHER
            names.add(name)
            columns.setdefault(name, [0.0] * len(part.minutes))[minute - part.minutes.first] += value
    return columns


def _end_of_day(midnight: Minute, zone: ZoneInfo) -> Minute:
    """The last minute of the local day that starts with a minute."""
    # A day is one more on the calendar, however many hours it has.
    after = datetime.fromtimestamp(start_of(midnight), zone) + timedelta(days=1)
    return minute_of(after.timestamp()) - 1


def _write(order: Order, streams: Sequence[Stream], minutes: MinuteRange, work: Checkpoint) -> None:
    left_out = work.left_out()
    by_family: dict[Family, list[tuple[int, Stream]]] = {}
    for place, stream in enumerate(streams):
        family = counter_of(stream)
        if family is not None and place not in left_out:
            by_family.setdefault(family, []).append((place, stream))
    temporary = order.output.with_name(f"{order.output.name}.tmp")
    total = sum(map(len, by_family.values()))
    try:
        with (
            temporary.open("w", encoding="utf-8") as file,
            tqdm(total=total, desc="writing", unit="stream", disable=None) as bar,
        ):
            for family in sorted(by_family, key=FAMILIES.index):
                file.writelines(
                    write_family(family, _series(by_family[family], order.labels, minutes, work, bar.update))
                )
            file.write(END)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(order.output)
    except OSError as error:
        problem = f"{order.output}: cannot be written ({error.strerror}); check the disk and the folder"
        raise InputError(problem) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    log.info("written", file=str(order.output), streams=total, left_out=len(left_out))


def _series(
    streams: Sequence[tuple[int, Stream]],
    extra: Mapping[str, str],
    minutes: MinuteRange,
    work: Checkpoint,
    written: Callable[[], object],
) -> Iterator[Series]:
    """The series of a family. They begin with the minutes wanted, those of a label value where it first counts."""
    for place, stream in streams:
        owner = {"merchant_id": stream.merchant_id} | ({"media_id": stream.media_id} if stream.media_id else {})
        for label in [""] if stream.group is Group.ALL else work.labels(place):
            labels = owner
            increases: Iterable[tuple[Minute, float]] = enumerate(
                _increases(work.parts(place, label), minutes), minutes.first
            )
            if stream.group is not Group.ALL:
                labels = {**owner, stream.group.value: label}
                increases = dropwhile(lambda each: not each[1], increases)
            yield Series({**labels, **extra}, increases)
        written()


def _increases(parts: Iterable[tuple[Minute, Sequence[float]]], minutes: MinuteRange) -> Iterator[float]:
    """What each of the minutes counts; those that no part has, count nothing."""
    reached = minutes.first
    for first, values in parts:
        yield from repeat(0.0, first - reached)
        yield from values
        reached = first + len(values)
    yield from repeat(0.0, minutes.last + 1 - reached)
