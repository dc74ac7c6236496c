"""Recorded plays: what `replay` reads from a file, one row a minute and media."""

import csv
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from exporter.errors import InputError
from exporter.model import Minute, minute_of, start_of
from exporter.times import format_instant, parse_instant

HEADER = ("minute", "media_id", "plays")


@dataclass(frozen=True, slots=True)
class Recording:
    """The plays of one media.

    Attributes:
        media_id: Which one.
        minutes: The minutes that are known, ascending.
        plays: The plays of each of them.
    """

    media_id: str
    minutes: Sequence[Minute]
    plays: Sequence[float]


class _Column:
    """One media's rows as they stand in the file."""

    __slots__ = ("lines", "minutes", "plays")

    def __init__(self) -> None:
        # Numbers in arrays: a year of minutes as objects would be too large.
        self.minutes = array("q")
        self.plays = array("d")
        self.lines = array("q")


def read(path: Path) -> list[Recording]:
    """The recordings in a CSV file with the header `minute,media_id,plays`, rows in any order.

    Args:
        path: The file; minutes are RFC 3339 or Unix seconds.

    Raises:
        InputError: It cannot be read, or not as that; the message names the line.
    """
    columns: defaultdict[str, _Column] = defaultdict(_Column)
    try:
        # Some spreadsheets begin a file with a byte order mark.
        with path.open(encoding="utf-8-sig", newline="") as file:
            for line, minute, media_id, plays in _rows(file, path):
                column = columns[media_id]
                column.minutes.append(minute)
                column.plays.append(plays)
                column.lines.append(line)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text; save it as CSV in UTF-8") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if not columns:
        raise InputError(f"{path}: no rows after the header")
    recordings = []
    duplicates: list[tuple[int, Minute, str]] = []
    for media_id, column in columns.items():
        if any(later <= sooner for sooner, later in pairwise(column.minutes)):
            duplicates += [(line, minute, media_id) for line, minute in _sort(column)]
        recordings.append(Recording(media_id, column.minutes, column.plays))
    for line, minute, media_id in sorted(duplicates)[:1]:
        when = format_instant(start_of(minute))
        raise InputError(f"{path}:{line}: a second row for {when} and media {media_id}; each minute has one")
    return recordings


def _rows(file: Iterator[str], path: Path) -> Iterator[tuple[int, Minute, str, float]]:
    """Line, minute, media and plays of each row."""
    reader = csv.reader(file, strict=True)
    try:
        if tuple(next(reader, ())) != HEADER:
            raise InputError(f"{path}:1: the header is not {','.join(HEADER)}")
        for row in reader:
            if not row:
                continue
            try:
                written, media_id, plays = row
                yield reader.line_num, _minute(written), _named(media_id), _number(plays)
            except ValueError as error:
                problem = str(error) if len(row) == len(HEADER) else f"{len(row)} columns where there are {len(HEADER)}"
                raise InputError(f"{path}:{reader.line_num}: {problem}") from error
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: not CSV ({error})") from error


# Media of one file share their minutes.
@lru_cache(maxsize=100_000)
def _minute(written: str) -> Minute:
    return minute_of(parse_instant(written))


def _named(media_id: str) -> str:
    if not media_id.strip() or not media_id.isprintable():
        raise ValueError(f"media_id {media_id!r} cannot be read" if media_id.strip() else "no media_id")
    return media_id


def _number(written: str) -> float:
    try:
        plays = float(written)
    except ValueError:
        plays = -1.0
    # Neither negative, nor infinite, nor not a number.
    if not 0 <= plays < float("inf"):
        raise ValueError(f"plays {written!r} is not a number of plays, 0 or more")
    return plays


def _sort(column: _Column) -> list[tuple[int, Minute]]:
    """Put the rows in order of time; the line and the minute of each that is there twice."""
    order = sorted(range(len(column.minutes)), key=column.minutes.__getitem__)
    column.minutes = array("q", [column.minutes[place] for place in order])
    column.plays = array("d", [column.plays[place] for place in order])
    # Rows of one minute stand as in the file: the sort is stable.
    later = zip(order[1:], pairwise(column.minutes), strict=True)
    return [(column.lines[place], second) for place, (first, second) in later if first == second]
