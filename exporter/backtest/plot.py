"""A picture of recorded plays, of what was expected, and of the alerts, as SVG: one strip for each media. Pure.

It brings its own background: the page's may be dark. Long recordings are drawn by columns that hold the range and the
mean of their minutes, so the file stays small, and a short fall is still a line down.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from exporter.backtest.alerts import Alert
from exporter.model import DAY_MINUTES, MINUTE, Minute, start_of
from exporter.times import format_instant

# Columns of all strips together, and at most of one; a column takes some 50 bytes.
_COLUMNS, _COLUMNS_OF_STRIP = 14_000, 900

_WIDTH, _LEFT, _RIGHT, _TOP = 1240, 70, 30, 64
_STRIP, _HEIGHT = 150, 100
_INK, _FAINT, _PLAYS, _EXPECTED = "#222222", "#dddddd", "#3b6ea5", "#d98200"
_COLOURS = {"warning": "#f2b134", "critical": "#c0392b", "merchant": "#8e44ad"}

# Between marks of the time axis (minutes): the first with which there are not too many.
_TICKS = (60, 180, 360, DAY_MINUTES, 7 * DAY_MINUTES, 28 * DAY_MINUTES, 91 * DAY_MINUTES)
_MOST_TICKS = 16


@dataclass(frozen=True, slots=True)
class Strip:
    """One media.

    Attributes:
        title: Its name.
        minutes: The minutes that are known, ascending.
        plays: The plays of each of them.
        expected: What was expected of each of them, not a number where nothing was.
        alerts: Its alerts.
    """

    title: str
    minutes: Sequence[Minute]
    plays: Sequence[float]
    expected: Sequence[float]
    alerts: Sequence[Alert]


@dataclass(frozen=True, slots=True)
class _Column:
    """Some neighbouring minutes: where they are, their least, most and mean plays, and the mean that was expected."""

    x: float
    low: float
    high: float
    mean: float
    expected: float


@dataclass(frozen=True, slots=True)
class _Axis:
    """Where a minute stands, and how many minutes a column has."""

    first: Minute
    last: Minute
    length: int

    def x(self, minute: float) -> float:
        share = (minute - self.first) / max(1, self.last - self.first)
        return round(_LEFT + min(1.0, max(0.0, share)) * (_WIDTH - _LEFT - _RIGHT), 1)

    def width(self) -> float:
        """How wide a column is."""
        return round(self.length * (_WIDTH - _LEFT - _RIGHT) / (self.last - self.first + 1), 1)


def draw(title: str, strips: Sequence[Strip]) -> str:
    """The picture.

    Args:
        title: What it shows.
        strips: From top to bottom; at least one has a minute.
    """
    first = min(strip.minutes[0] for strip in strips if strip.minutes)
    last = max(strip.minutes[-1] for strip in strips if strip.minutes)
    most = max(20, min(_COLUMNS_OF_STRIP, _COLUMNS // len(strips)))
    axis = _Axis(first, last, math.ceil((last - first + 1) / most))
    height = _TOP + _STRIP * len(strips) + 24
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="Helvetica, Arial, sans-serif" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{height}" rx="6" fill="#ffffff"/>',
        _text(_LEFT, 26, title, size=16),
        *_legend(),
    ]
    for place, strip in enumerate(strips):
        parts.append(f'<g transform="translate(0 {_TOP + _STRIP * place})">')
        parts += _strip(strip, axis)
        parts.append("</g>")
    return "\n".join((*parts, "</svg>")) + "\n"


def _strip(strip: Strip, axis: _Axis) -> Iterator[str]:
    columns = list(_columns(strip, axis))
    top = max((column.high for column in columns), default=0.0)
    top = max(1.0, top, *(column.expected for column in columns if not math.isnan(column.expected)))

    def y(plays: float) -> float:
        return round(20 + _HEIGHT * (1 - plays / top), 1)

    yield _text(_LEFT, 14, strip.title)
    for alert in strip.alerts:
        x = axis.x(alert.start)
        width = max(1.5, round(axis.x(alert.end) - x, 1))
        when = f"{alert.severity}: {format_instant(start_of(alert.start))} to {format_instant(start_of(alert.end))}"
        yield (
            f'<rect class="{alert.severity}" x="{x:g}" y="20" width="{width:g}" height="{_HEIGHT}" '
            f'fill="{_COLOURS[alert.severity]}" fill-opacity="0.45"><title>{when}</title></rect>'
        )
    for minute, date in _ticks(axis):
        x = axis.x(minute)
        yield f'<path d="M{x:g} 20v{_HEIGHT}" stroke="{_FAINT}"/>'
        yield _text(x, 20 + _HEIGHT + 14, date, size=11, anchor="middle")
    yield f'<path d="M{_LEFT} {y(0):g}H{_WIDTH - _RIGHT}" stroke="{_INK}" stroke-width="0.5"/>'
    yield _text(_LEFT - 8, y(top) + 4, f"{top:,.3g}" if top < 1000 else f"{top:,.0f}", size=11, anchor="end")
    yield _text(_LEFT - 8, y(0) + 4, "0", size=11, anchor="end")
    width = axis.width()
    for run in _unbroken(columns, 3 * width):
        ranges = "".join(f"M{column.x:g} {y(column.low):g}V{y(column.high):g}" for column in run)
        yield f'<path d="{ranges}" stroke="{_PLAYS}" stroke-width="{width:g}" stroke-opacity="0.3"/>'
        yield _line([(column.x, y(column.mean)) for column in run], _PLAYS)
        known = [(column.x, y(column.expected)) for column in run if not math.isnan(column.expected)]
        yield _line(known, _EXPECTED)


def _columns(strip: Strip, axis: _Axis) -> Iterator[_Column]:
    """The minutes by columns of equal length."""
    rows = zip(strip.minutes, strip.plays, strip.expected, strict=True)
    for number, column in groupby(rows, lambda row: (row[0] - axis.first) // axis.length):
        _, plays, expected = zip(*column, strict=True)
        known = [each for each in expected if not math.isnan(each)]
        yield _Column(
            axis.x(axis.first + (number + 0.5) * axis.length),
            min(plays),
            max(plays),
            sum(plays) / len(plays),
            sum(known) / len(known) if known else math.nan,
        )


def _unbroken(columns: Sequence[_Column], widest: float) -> Iterator[list[_Column]]:
    """Runs of columns without a wide hole."""
    run: list[_Column] = []
    for column in columns:
        if run and column.x - run[-1].x > widest:
            yield run
            run = []
        run.append(column)
    if run:
        yield run


def _ticks(axis: _Axis) -> Iterator[tuple[Minute, str]]:
    length = axis.last - axis.first
    step = next((each for each in _TICKS if length / each <= _MOST_TICKS), _TICKS[-1] * 4)
    for minute in range(-(-axis.first // step) * step, axis.last + 1, step):
        written = format_instant(minute * MINUTE)
        yield minute, written[:10] if step >= DAY_MINUTES else written[5:16].replace("T", " ")


def _legend() -> Iterator[str]:
    x = _LEFT
    for name, colour in (("plays a minute", _PLAYS), ("expected", _EXPECTED), *_COLOURS.items()):
        opacity = ' fill-opacity="0.45"' if name in _COLOURS else ""
        yield f'<rect x="{x}" y="38" width="14" height="10" fill="{colour}"{opacity}/>'
        yield _text(x + 20, 47, name, size=12)
        x += 40 + 7 * len(name)


def _line(points: Sequence[tuple[float, float]], colour: str) -> str:
    path = "L".join(f"{x:g} {y:g}" for x, y in points)
    return f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.2"/>' if points else ""


def _text(x: float, y: float, text: str, *, size: int = 13, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" fill="{_INK}">{escape(text)}</text>'
