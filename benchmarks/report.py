"""What a benchmark returns, and how it is printed."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Figures:
    """What several runs measured.

    Attributes:
        values: One of each run; at least one.
    """

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The one in the middle."""
        return median(self.values)

    def per(self, other: "Figures") -> "Figures":
        """The ratios to what the same runs measured of something else."""
        return Figures(tuple(a / b for a, b in zip(self.values, other.values, strict=True)))

    def __str__(self) -> str:
        """The median, and in brackets the lowest and the highest."""
        return f"{_number(self.median)} ({_number(min(self.values))} – {_number(max(self.values))})"


Cell = str | int | float | Figures


@dataclass(frozen=True, slots=True)
class Table:
    """The result of a benchmark.

    Attributes:
        title: What it is about.
        compared: One line on what is measured and compared.
        headings: Of the columns, with units.
        rows: As many cells in each as there are headings.
    """

    title: str
    compared: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __str__(self) -> str:
        """As text with aligned columns, numbers to the right."""
        rows = [[_text(cell) for cell in row] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(self.headings, *rows, strict=True)]
        aligns = [str.ljust if any(map(_is_word, column)) else str.rjust for column in zip(*self.rows, strict=True)]
        lines = (
            "  ".join(align(text, width) for align, text, width in zip(aligns, row, widths, strict=True)).rstrip()
            for row in (self.headings, *rows)
        )
        return "\n".join((f"{self.title}: {self.compared}", *lines))


def figures(values: Iterable[float]) -> Figures:
    """What several runs measured."""
    return Figures(tuple(values))


def _is_word(cell: Cell) -> bool:
    return isinstance(cell, str) and cell != ""


def _text(cell: Cell) -> str:
    return _number(cell) if isinstance(cell, int | float) else str(cell)


def _number(value: float) -> str:
    """Three digits that matter."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
