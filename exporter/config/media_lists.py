"""A file of media, YAML or CSV, as validated entries. Pure.

A YAML file is a list of the entries that a merchant's `media` has. A CSV file has a header; its columns are `id` or
`ref_id` or both, `name`, `priority`, and every other column is a label of that name. An empty cell is not set, spaces
around a cell are dropped, and a row without any text is skipped.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from exporter.config.load import KEYS, MOST_LISTED, more_errors
from exporter.config.messages import error_line
from exporter.config.secrets import FileContext
from exporter.config.settings import MediaSettings
from exporter.config.text_files import shown_path
from exporter.config.types import LabelName, unique
from exporter.config.yaml_file import ConfigFile, Loc, Source, parse_list
from exporter.errors import ConfigError
from exporter.invisible import escape_invisible

# The columns that are no labels.
_FIELDS = ("id", "ref_id", "name", "priority")

# Settings of an entry that have no column.
_NO_COLUMNS = ("drop", "labels")

_HEADER = "begin with a header such as id,name,priority"

_ENTRIES = TypeAdapter(Annotated[tuple[MediaSettings, ...], unique("id"), unique("ref_id")])
_LABEL = TypeAdapter(LabelName)
_KEYS = {**KEYS, "": KEYS["media"]}


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a file.

    Attributes:
        media: The media.
        place: Where it is, for messages: `media/live.csv:3` or `media/live.yaml: [2]`.
    """

    media: MediaSettings
    place: str


def parse(path: Path, text: str) -> tuple[Entry, ...]:
    """The entries of a file; a name that ends with `.csv` is a CSV file, all others are YAML.

    Args:
        path: The file, for messages.
        text: Its content.

    Raises:
        ConfigError: It is not valid. One line for each error, at most MOST_LISTED, and the number of the others.
    """
    return _of_csv(shown_path(path), text) if path.suffix == ".csv" else _of_yaml(path, text)


def _of_yaml(path: Path, text: str) -> tuple[Entry, ...]:
    file = parse_list(path, text)
    entries, errors = _validated(file.data)
    lines = [*file.errors, *(error_line(error, file, _KEYS) for error in errors[: MOST_LISTED + 1])]
    _check([_file_first(line) for line in lines], len(file.errors) + len(errors))
    return tuple(
        Entry(media, f"{file.shown}:{file.source((position,)).key_line}") for position, media in enumerate(entries)
    )


def _of_csv(shown: str, text: str) -> tuple[Entry, ...]:
    rows = list(_rows(shown, text))
    header, problems = _header(rows[0].cells if rows else ())
    lines = [f"{shown}:{rows[0].line if rows else 1}: {problem}" for problem in problems]
    _check(lines, len(lines))
    rows = rows[1:]
    lines += [
        f"{shown}:{row.line}: has more values than the header; put a value with a comma in quotes"
        for row in rows
        if any(row.cells[len(header) :])
    ]
    entries, errors = _validated([_fields(header, row.cells) for row in rows])
    lines += [_row_error(shown, error, header, rows) for error in errors[: MOST_LISTED + 1]]
    _check(lines, len(lines) + len(errors[MOST_LISTED + 1 :]))
    return tuple(Entry(media, f"{shown}:{row.line}") for media, row in zip(entries, rows, strict=True))


def _validated(data: Any) -> tuple[tuple[MediaSettings, ...], Sequence[ErrorDetails]]:
    try:
        # A folder and an environment are for secrets, which no media has.
        return _ENTRIES.validate_python(data, context=FileContext(Path(), {})), ()
    except ValidationError as error:
        return (), error.errors(include_url=False)


def _check(lines: Sequence[str], number: int) -> None:
    if lines:
        raise ConfigError([*lines[:MOST_LISTED], *more_errors(number - len(lines[:MOST_LISTED]))])


# ---- CSV ----


@dataclass(frozen=True, slots=True)
class _Row:
    """A row.

    Attributes:
        line: The line in which it begins.
        cells: Its values.
    """

    line: int
    cells: Sequence[str]


def _rows(shown: str, text: str) -> Iterator[_Row]:
    """The rows that have any text."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    line = 1
    problem = ""
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield _Row(line, stripped)
            line = reader.line_num + 1
    except csv.Error as error:
        problem = f"{shown}:{line}: is not valid CSV ({error}); check the quotes in and above this line"
    if problem:
        raise ConfigError([problem])


def _header(cells: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The columns, without empty ones at the end, and what is wrong with them; how to fix it."""
    columns = list(cells)
    while columns and not columns[-1]:
        columns.pop()
    if not columns:
        return (), (f"is empty; {_HEADER}",)
    if len(columns) == 1 and (";" in columns[0] or "\t" in columns[0]):
        return (), ("the columns are not separated by commas; save it as CSV with commas",)
    problems = [
        f"column {place} has no name; name it, or remove it" for place, name in enumerate(columns, 1) if not name
    ]
    problems += [
        f"duplicate column {escape_invisible(name)}; keep one"
        for place, name in enumerate(columns)
        if name and name in columns[:place]
    ]
    problems += [
        f"a column {name} is not possible; write these media in a YAML file" for name in _NO_COLUMNS if name in columns
    ]
    problems += [
        f"unknown column {escape_invisible(name)}; write it as {name.lower()}"
        for name in columns
        if name not in _FIELDS and name.lower() in _FIELDS
    ]
    problems += [
        f"column {escape_invisible(name)}: {problem}"
        for name in columns
        if name and name not in (*_FIELDS, *_NO_COLUMNS) and (problem := _label_problem(name))
    ]
    if not problems and not {"id", "ref_id"}.intersection(columns):
        problems.append(f"no column id or ref_id; {_HEADER}")
    return columns, problems


def _label_problem(name: str) -> str:
    """Why a column cannot be a label; "" if it can."""
    try:
        _LABEL.validate_python(name)
    except ValidationError as error:
        return error.errors(include_url=False)[0]["msg"]
    return ""


def _fields(header: Sequence[str], cells: Sequence[str]) -> dict[str, Any]:
    """The entry of a row, as YAML would have it."""
    # A row may have fewer values than the header.
    given = {name: cell for name, cell in zip(header, cells, strict=False) if cell}
    fields: dict[str, Any] = {name: given.pop(name) for name in _FIELDS if name in given}
    if "priority" in fields:
        fields["priority"] = _number(fields["priority"])
    return {**fields, "labels": given}


def _number(cell: str) -> float | str:
    try:
        # Python reads more: other digits, and underscores between digits.
        return float(cell) if cell.isascii() and "_" not in cell else cell
    except ValueError:
        return cell


def _row_error(shown: str, error: ErrorDetails, header: Sequence[str], rows: Sequence[_Row]) -> str:
    """The line of an error in a row; its place is the column."""
    position, *steps = error["loc"]
    row = rows[int(position)]
    written: Mapping[Loc, str] = {(name,): cell for name, cell in zip(header, row.cells, strict=False)}
    loc = tuple(step for step in steps if step != "labels")
    details = ErrorDetails(**{**error, "loc": loc})
    file = ConfigFile(shown, {}, (), lambda place: Source(row.line, row.line, written.get(place, "")))
    line = error_line(details, file, _KEYS)
    line = re.sub(r"entry \[(\d+)\]; keep one", lambda match: f"line {rows[int(match[1])].line}; keep one", line)
    return _file_first(line)


def _file_first(line: str) -> str:
    """An error line that begins with its file and line: there may be many files, and the place says little without."""
    return re.sub(r"^(.*) \((.*)\)$", r"\2: \1", line, flags=re.DOTALL)
