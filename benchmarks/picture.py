"""A diagram of some lines over logarithmic axes, as SVG. It has its own background, as the page's may be dark."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 420

_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 52, 56
_INK, _FAINT = "#222222", "#dddddd"


@dataclass(frozen=True, slots=True)
class Line:
    """A line or points.

    Attributes:
        name: Its name in the legend.
        points: Its points, from left to right; all numbers are more than 0.
        colour: As in CSS.
        dashes: Lengths of dashes and gaps, or "" for a solid line.
        marks: Draw only the points, each with its value beside it, and no line.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    dashes: str = ""
    marks: bool = False


@dataclass(frozen=True, slots=True)
class _Axis:
    """A logarithmic axis from one number to another, with a length in units of the picture."""

    low: float
    high: float
    begin: float
    end: float

    def at(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return round(self.begin + share * (self.end - self.begin), 1)

    def ticks(self) -> Iterator[float]:
        for power in range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1):
            for digit in (1, 2, 5):
                # Not 10.0 ** power: a tenth must be written as 0.1.
                tick = digit * 10**power if power >= 0 else digit / 10**-power
                if self.low <= tick <= self.high:
                    yield tick


def draw(title: str, across: str, up: str, lines: Sequence[Line]) -> str:
    """The picture; `across` and `up` name the axes."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    x_axis = _Axis(min(xs), max(xs), _LEFT, WIDTH - _RIGHT - 16)
    y_axis = _Axis(min(ys) / 1.3, max(ys) * 1.3, HEIGHT - _BOTTOM, _TOP)
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="Helvetica, Arial, sans-serif" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#ffffff"/>',
        _text(_LEFT, 28, title, size=16),
        *_grid(x_axis, y_axis),
        _text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 12, across, anchor="middle"),
        f'<g transform="rotate(-90)">{_text(-(_TOP + HEIGHT - _BOTTOM) / 2, 18, up, anchor="middle")}</g>',
    ]
    for line in lines:
        parts += _line(line, x_axis, y_axis)
    parts += _legend(lines)
    return "\n".join((*parts, "</svg>")) + "\n"


def _grid(x_axis: _Axis, y_axis: _Axis) -> Iterator[str]:
    for tick in x_axis.ticks():
        x = x_axis.at(tick)
        yield f'<path d="M{x} {_TOP}V{HEIGHT - _BOTTOM}" stroke="{_FAINT}"/>'
        yield _text(x, HEIGHT - _BOTTOM + 18, f"{tick:,g}", anchor="middle")
    for tick in y_axis.ticks():
        y = y_axis.at(tick)
        yield f'<path d="M{_LEFT} {y}H{WIDTH - _RIGHT}" stroke="{_FAINT}"/>'
        yield _text(_LEFT - 8, y + 4, f"{tick:,g}", anchor="end")


def _line(line: Line, x_axis: _Axis, y_axis: _Axis) -> Iterator[str]:
    places = [(x_axis.at(x), y_axis.at(y)) for x, y in line.points]
    if not line.marks:
        path = "L".join(f"{x} {y}" for x, y in places)
        yield (
            f'<path d="M{path}" fill="none" stroke="{line.colour}" stroke-width="2" stroke-dasharray="{line.dashes}"/>'
        )
    else:
        for (x, y), (_, value) in zip(places, line.points, strict=True):
            yield f'<circle cx="{x}" cy="{y}" r="5" fill="{line.colour}"/>'
            yield _text(x + 8, y + 16, f"{value:.2g}", colour=line.colour)


def _legend(lines: Sequence[Line]) -> Iterator[str]:
    for place, line in enumerate(lines):
        y = _TOP + 18 + 20 * place
        x = _LEFT + 14
        if line.marks:
            yield f'<circle cx="{x + 17}" cy="{y}" r="5" fill="{line.colour}"/>'
        else:
            yield f'<path d="M{x} {y}h34" stroke="{line.colour}" stroke-width="2" stroke-dasharray="{line.dashes}"/>'
        yield _text(_LEFT + 58, y + 4, line.name)


def _text(x: float, y: float, text: str, *, size: int = 13, anchor: str = "start", colour: str = _INK) -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'
