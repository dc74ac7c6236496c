"""Invisible characters are found, whatever their names, and others are not."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.invisible import escape_invisible, find_garbling, find_invisible


@pytest.mark.parametrize(
    ("character", "name"),
    [
        ("\0", "U+0000 NULL"), ("\t", "U+0009 TAB"), ("\n", "U+000A LINE FEED"), ("\x1b", "U+001B ESCAPE"),
        ("\x7f", "U+007F DELETE"), ("\x85", "U+0085 NEXT LINE"), ("\x90", "U+0090 (a control character)"),
        ("\xa0", "U+00A0 NO-BREAK SPACE"), ("\xad", "U+00AD SOFT HYPHEN"), ("\u200b", "U+200B ZERO WIDTH SPACE"),
        ("\u200d", "U+200D ZERO WIDTH JOINER"), ("\u202e", "U+202E RIGHT-TO-LEFT OVERRIDE"),
        ("\u2028", "U+2028 LINE SEPARATOR"), ("\u2800", "U+2800 BRAILLE PATTERN BLANK"),
        ("\u3000", "U+3000 IDEOGRAPHIC SPACE"), ("\u3164", "U+3164 HANGUL FILLER"),
        ("\ufeff", "U+FEFF ZERO WIDTH NO-BREAK SPACE"), ("\U000e0041", "U+E0041 TAG LATIN CAPITAL LETTER A"),
    ],
)  # fmt: skip
def test_invisible_characters(character: str, name: str) -> None:
    """The first one is reported with its Unicode name and its position."""
    assert find_invisible(f"ab{character}c{character}") == f"{name} at position 3"
    assert escape_invisible(f"ab{character}") == f"ab<{name.split(maxsplit=1)[0]}>"


@given(st.text(st.characters(categories=("L", "N", "P", "S")), max_size=20))
def test_visible_characters(text: str) -> None:
    """Letters, digits, signs and plain spaces of any language are accepted, except the few that are blank."""
    if not any("FILLER" in unicodedata.name(each, "") or each == "\u2800" for each in text):
        assert find_invisible(f" {text} ") is None
        assert escape_invisible(text) == text


@pytest.mark.parametrize("character", ["\0", "\n", "\x85", "\u2028", "\u202e", "\u2066", "\u200f", "\ud800"])
def test_characters_that_break_a_page(character: str) -> None:
    """Text for readers has no line ends, no controls, and no characters that change its direction."""
    found = find_garbling(f"a{character}")
    assert found
    assert found.startswith(f"U+{ord(character):04X} ")
    assert found.endswith(" at position 2")


def test_characters_that_belong_to_text() -> None:
    """Wide spaces, joiners and variation selectors are part of names."""
    assert find_garbling("朝の　ニュース می\u200cخواهم 👩\u200d👧 ❤\ufe0f 1\u00a0000") is None
