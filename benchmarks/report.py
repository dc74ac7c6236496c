"""The result of a benchmark, and its output."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Figures:
    """The measurements of several runs.

    Attributes:
        values: One value of each run; at least one.
    """

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median."""
        return median(self.values)

    def per(self, other: "Figures") -> "Figures":
        """The ratios to the same runs' values of something else."""
        return Figures(tuple(a / b for a, b in zip(self.values, other.values, strict=True)))

    def __str__(self) -> str:
        """The median, and in brackets the lowest and the highest value."""
        return f"{_number(self.median)} ({_number(min(self.values))} – {_number(max(self.values))})"


Cell = str | int | float | Figures


@dataclass(frozen=True, slots=True)
class Table:
    """The result of a benchmark.

    Attributes:
        title: The name of the benchmark.
        compared: One line about what is measured and compared.
        headings: The headings of the columns, with units.
        rows: The rows, with a cell for each heading.
    """

    title: str
    compared: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __str__(self) -> str:
        """The table as text with aligned columns, numbers to the right."""
        rows = [[_text(cell) for cell in row] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(self.headings, *rows, strict=True)]
        aligns = [str.ljust if any(map(_is_word, column)) else str.rjust for column in zip(*self.rows, strict=True)]
        lines = (
            "  ".join(align(text, width) for align, text, width in zip(aligns, row, widths, strict=True)).rstrip()
            for row in (self.headings, *rows)
        )
        return "\n".join((f"{self.title}: {self.compared}", *lines))


def figures(values: Iterable[float]) -> Figures:
    """The figures of several runs."""
    return Figures(tuple(values))


def _is_word(cell: Cell) -> bool:
    return isinstance(cell, str) and cell != ""


def _text(cell: Cell) -> str:
    return _number(cell) if isinstance(cell, int | float) else str(cell)


def _number(value: float) -> str:
    """Three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
