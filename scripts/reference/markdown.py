"""Markdown, as the documents need it."""

import inspect
import re
from collections.abc import Iterable, Sequence

# The first line of each document.
MADE = "<!-- Made from the code by `make docs`; change that. -->\n\n"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table. A cell is Markdown; what would end it is escaped."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def code(text: str) -> str:
    """A word as it is written in files."""
    return f"`{text}`"


def attributes(described: type) -> dict[str, str]:
    """What the section "Attributes" of a docstring says of each."""
    meanings: dict[str, str] = {}
    for each in reversed(described.__mro__):
        _, _, section = inspect.cleandoc(each.__doc__ or "").partition("Attributes:\n")
        found = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", section, re.MULTILINE)
        meanings |= {name: " ".join(text.split()) for name, text in found}
    return meanings
