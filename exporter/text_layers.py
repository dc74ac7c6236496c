"""Decoding of escaped text, layer by layer: JSON, URLs, HTML, and UTF-8 that was read as Latin-1. Pure.

Each character of a layer knows where in the original text it came from.
"""

import html
import re
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

# What marks the place where a text was cut.
CUT = "…"

# Limit for texts from malicious servers that take long to decode: number of characters decoded from escapes or Base64.
_MOST_WORK = 100_000

_ESCAPE = re.compile(
    r"(?P<run>(?:%[0-9A-Fa-f]{2})+|(?:\\x[0-9A-Fa-f]{2})+)"
    # Written by JSON as two escapes.
    r"|(?P<pair>[\ud800-\udbff][\udc00-\udfff])"
    r"|(?:[\\%]u(?P<four>[0-9A-Fa-f]{4})|\\u\{(?P<braced>[0-9A-Fa-f]{1,6})\}|\\U(?P<eight>[0-9A-Fa-f]{8}))"
    # The semicolon is optional, but may be escaped itself.
    r"|(?P<entity>&(?:#[0-9]{1,10}+|#[Xx][0-9A-Fa-f]{1,8}+|[A-Za-z][A-Za-z0-9]{1,31}+)(?:;|(?![%\\…])))"
    # An incomplete escape before a cut.
    rf"|(?P<half>(?:[\ud800-\udbff]|[\xc2-\xf4][\x80-\xbf]{{0,2}}|\\(?:[uUx]\{{?[0-9A-Fa-f]{{0,7}})?|%u?[0-9A-Fa-f]{{0,3}}|&\#?[A-Za-z0-9]{{0,31}})(?={CUT}))"
    r"|\\(?P<char>[\"'/\\bfnrt])"
    # UTF-8 that was decoded as Latin-1.
    r"|(?P<misread>[\xc2-\xf4][\x80-\xbf]{1,3})"
)
_CONTROLS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_BLANKS = re.compile(r"[ +]{2,}|\+")
_LOWER = {ord(letter): letter.lower() for letter in string.ascii_uppercase}


@dataclass(frozen=True, slots=True)
class Layer:
    """A decoded text.

    Attributes:
        text: The text.
        spans: For each character, where in the original text its encoded form starts and ends.
    """

    text: str
    spans: Sequence[tuple[int, int]]


class TooMuchWorkError(Exception):
    """A text takes too long to decode."""


class Work:
    """Counts the decoded characters of a text."""

    def __init__(self) -> None:
        self._done = 0

    def add(self, characters: int) -> None:
        """Count characters. Raises TooMuchWorkError."""
        self._done += characters
        if self._done > _MOST_WORK:
            raise TooMuchWorkError


def undecoded(text: str) -> Layer:
    """The first layer of a text: the text itself."""
    return Layer(text, [(place, place + 1) for place in range(len(text))])


def folded(layer: Layer) -> Layer:
    """A layer with blanks unified and ASCII letters in lower case.

    URLs write blanks as `+`, shown texts have single blanks, and gateways write header values in lower case.
    """
    text = layer.text.lower() if layer.text.isascii() else layer.text.translate(_LOWER)
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " for char in text)
    return _rewritten(Layer(text, layer.spans), _BLANKS, lambda match: [(" ", match.end())])


def decoded(layer: Layer, work: Work) -> Layer:
    """The next layer, with every escape decoded once; the same layer if there is none."""
    if layer.text.isascii() and not any(mark in layer.text for mark in "\\%&"):
        return layer

    def meaning(match: re.Match[str]) -> Sequence[tuple[str, int]] | None:
        chars = _meaning(match)
        work.add(len(chars or ()))
        return chars

    return _rewritten(layer, _ESCAPE, meaning)


def _rewritten(
    layer: Layer, pattern: re.Pattern[str], meaning: Callable[[re.Match[str]], Sequence[tuple[str, int]] | None]
) -> Layer:
    """A layer with every match replaced.

    Args:
        layer: The layer.
        pattern: What to replace.
        meaning: The characters of a match, each with the end of its encoded form; None to keep the match.
    """
    pieces: list[str] = []
    spans: list[tuple[int, int]] = []
    at = 0
    for match in pattern.finditer(layer.text):
        chars = meaning(match)
        if chars is None:
            continue
        begin = match.start()
        pieces.append(layer.text[at:begin])
        spans += layer.spans[at:begin]
        for char, end in chars:
            pieces.append(char)
            spans += [(layer.spans[begin][0], layer.spans[end - 1][1])] * len(char)
            begin = end
        at = match.end()
    if not at:
        return layer
    pieces.append(layer.text[at:])
    spans += layer.spans[at:]
    return Layer("".join(pieces), spans)


def _meaning(match: re.Match[str]) -> Sequence[tuple[str, int]] | None:  # noqa: PLR0911 -- one return per kind of escape
    start, end = match.span()
    kind, encoded = match.lastgroup, match[0]
    if kind == "run":
        width = 3 if encoded[0] == "%" else 4
        raw = bytes(int(encoded[place + width - 2 : place + width], 16) for place in range(0, len(encoded), width))
        return _with_ends(raw, start, width)
    if kind == "misread":
        chars = _with_ends(encoded.encode("latin-1"), start, 1)
        return None if len(chars) == len(encoded) else chars
    if kind == "half":
        return []
    if kind == "char":
        return [(_CONTROLS.get(match["char"], match["char"]), end)]
    if kind == "entity":
        text = html.unescape(encoded)
        return None if text == encoded else [(text, end)]
    if kind == "pair":
        return [(encoded.encode("utf-16", "surrogatepass").decode("utf-16"), end)]
    code = int(match[kind or 0], 16)
    return [(chr(code), end)] if code < 0x110000 else None


def _with_ends(raw: bytes, start: int, width: int) -> list[tuple[str, int]]:
    """The characters of bytes that are each encoded in `width` characters, with the ends of their encoded forms."""
    return [(char, start + end * width) for char, _, end in characters(raw)]


def characters(encoded: bytes) -> Iterator[tuple[str, int, int]]:
    """Characters, and the bytes at which they start and end: UTF-8, or Latin-1 for bytes that are not UTF-8."""
    end = 0
    for char in encoded.decode("utf-8", "surrogateescape"):
        start = end
        if "\udc80" <= char <= "\udcff":
            end += 1
            yield chr(ord(char) - 0xDC00), start, end
        else:
            end += len(char.encode())
            yield char, start, end
