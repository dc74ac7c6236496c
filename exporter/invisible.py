"""Invisible characters in a text: their names and positions.

They come with a copy from a web page, a chat or an office document, and cannot be found by looking.
"""

import unicodedata
from collections.abc import Callable

# Controls, formats (zero width, soft hyphen, text direction), halves of a character, line and paragraph separators.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})

# Letters, marks and symbols that look like nothing or like a space.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")

# They turn the text around them, on a page too.
_DIRECTION = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

# Unicode has no names for these.
_CONTROLS = {
    "\0": "NULL",
    "\t": "TAB",
    "\n": "LINE FEED",
    "\r": "CARRIAGE RETURN",
    "\x1b": "ESCAPE",
    "\x7f": "DELETE",
    "\x85": "NEXT LINE",
}


def find_invisible(text: str) -> str | None:
    """Name the first invisible character, such as `U+200B ZERO WIDTH SPACE at position 3`.

    A plain space (U+0020) is none of them, other spaces are.
    """
    return _find(text, _is_invisible)


def find_garbling(text: str) -> str | None:
    """Name the first character that text for people must not have: controls, line ends, turned directions."""
    return _find(text, _is_garbling)


def escape_invisible(text: str) -> str:
    """The text with `<U+200B>` in place of each invisible character."""
    return "".join(f"<{_code(each)}>" if _is_invisible(each) else each for each in text)


def _find(text: str, unwanted: Callable[[str], bool]) -> str | None:
    for position, each in enumerate(text, 1):
        if unwanted(each):
            return f"{_name(each)} at position {position}"
    return None


def _is_invisible(character: str) -> bool:
    category = unicodedata.category(character)
    return category in _UNSEEN or (category == "Zs" and character != " ") or character in _BLANK


def _is_garbling(character: str) -> bool:
    # Joiners belong to the writing of some languages, and wide spaces to Japanese names.
    return character in _DIRECTION or (unicodedata.category(character) in _UNSEEN - {"Cf"})


def _name(character: str) -> str:
    if "\ud800" <= character <= "\udfff":
        # Of a variable that is not UTF-8, each wrong byte becomes one of these.
        return f"{_code(character)} (a byte that is not UTF-8, or half a character)"
    name = _CONTROLS.get(character) or unicodedata.name(character, "(a control character)")
    return f"{_code(character)} {name}"


def _code(character: str) -> str:
    return f"U+{ord(character):04X}"
