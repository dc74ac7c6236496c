"""Secrets in texts from outside, in whatever spelling they are there. Pure.

A peer can echo what it was sent as it is, in JSON, in a URL, in HTML, in Base64, or in several of these at once. A list
of all spellings has no end, so this goes the other way: the text is decoded, layer by layer, and each layer is
searched. Each character of a layer knows where in the text it came from, and that part is replaced.
"""

import binascii
import html
import re
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

# What is written in the place of a secret.
HIDDEN = "<secret>"

# What marks the place where a text was cut.
CUT = "…"

# A shorter secret is hidden only where it stands alone, without a letter or a digit before or after it. Anywhere else,
# it is more often a part of another word, and a text that hides all of those cannot be read. Where it was echoed, it
# stands alone: a quote, a bracket, a colon or a space ends it.
SHORTEST_INSIDE = 6

# A shorter one is not looked for in Base64: it would be found by chance.
_SHORTEST_IN_BASE64 = 3

# Of a secret that was cut, so many characters are hidden; fewer of them say nothing.
_SHORTEST_CUT = 4

# JSON in JSON in a URL has three layers. What has more than these, nobody reads.
_MOST_LAYERS = 8
_MOST_BASE64 = 2

# Peers that are up to no good can write texts that take long to decode. What has more escapes, or more letters that
# may be Base64, is hidden whole.
_MOST_WORK = 100_000

# So many secrets are few.
_FEW = 32

# Texts that come again and again, such as label values: so many are remembered, none that is longer.
_MOST_KNOWN = 4096
_LONGEST_KNOWN = 256

_ESCAPE = re.compile(
    r"(?P<run>(?:%[0-9A-Fa-f]{2})+|(?:\\x[0-9A-Fa-f]{2})+)"
    # What JSON writes as two escapes.
    r"|(?P<pair>[\ud800-\udbff][\udc00-\udfff])"
    r"|(?:[\\%]u(?P<four>[0-9A-Fa-f]{4})|\\u\{(?P<braced>[0-9A-Fa-f]{1,6})\}|\\U(?P<eight>[0-9A-Fa-f]{8}))"
    # Its semicolon is not needed, but may be escaped itself.
    r"|(?P<entity>&(?:#[0-9]{1,10}+|#[Xx][0-9A-Fa-f]{1,8}+|[A-Za-z][A-Za-z0-9]{1,31}+)(?:;|(?![%\\…])))"
    # What was cut: of a character that is not there whole, nothing is known.
    rf"|(?P<half>(?:[\ud800-\udbff]|[\xc2-\xf4][\x80-\xbf]{{0,2}}|\\(?:[uUx]\{{?[0-9A-Fa-f]{{0,7}})?|%u?[0-9A-Fa-f]{{0,3}}|&\#?[A-Za-z0-9]{{0,31}})(?={CUT}))"
    r"|\\(?P<char>[\"'/\\bfnrt])"
    # UTF-8 that was read as Latin-1.
    r"|(?P<misread>[\xc2-\xf4][\x80-\xbf]{1,3})"
)
_CONTROLS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_BLANKS = re.compile(r"[ +]{2,}|\+")
_LOWER = {ord(letter): letter.lower() for letter in string.ascii_uppercase}
_URL_SAFE = str.maketrans("-_", "+/")


@dataclass(frozen=True, slots=True)
class _Layer:
    """A text that was decoded from another.

    Attributes:
        text: The text.
        starts: For each of its characters, where in the first text its spelling starts.
        ends: Where that ends.
    """

    text: str
    starts: Sequence[int]
    ends: Sequence[int]


class Redactor:
    """Makes secrets in texts unreadable. Safe for use by several threads."""

    def __init__(self, secrets: Iterable[str]) -> None:
        """Look for these secrets; an empty one is none."""
        needles = {needle for secret in secrets for needle in _needles(secret)}
        self._shortest = min(map(len, needles), default=0)
        self._gram = min(self._shortest, _SHORTEST_CUT)
        # By how they begin, so that it takes no longer to look for many than for one.
        self._needles: dict[str, list[str]] = {}
        for needle in needles:
            self._needles.setdefault(needle[: self._gram], []).append(needle)
        shortest = min((len(needle) for needle in needles if len(needle) >= _SHORTEST_IN_BASE64), default=0)
        self._base64 = _Base64(shortest) if shortest else None
        self._known: dict[str, str] = {}

    def hide(self, text: str) -> str:
        """The text with `<secret>` in the place of every secret, and of one at whose end it was cut (`…`)."""
        if not self._needles or (len(text) < self._shortest and CUT not in text):
            return text
        hidden = self._known.get(text)
        if hidden is None:
            hidden = self._replace(text)
            if len(text) <= _LONGEST_KNOWN:
                if len(self._known) >= _MOST_KNOWN:
                    self._known.clear()
                self._known[text] = hidden
        return hidden

    def _replace(self, text: str) -> str:
        try:
            found = set(self._spans(_Layer(text, range(len(text)), range(1, len(text) + 1)), _MOST_BASE64, _Work()))
        except _TooMuchWork:
            return HIDDEN
        # The word that hides one can be a secret, too, and a text can come here twice.
        hidden = [match.span() for match in re.finditer(re.escape(HIDDEN), text)]
        spans = sorted(span for span in found if not any(a <= span[0] and span[1] <= b for a, b in hidden))
        pieces, at = [], 0
        for start, end in spans:
            if start >= at:
                pieces += [text[at:start], HIDDEN]
            at = max(at, end)
        return "".join((*pieces, text[at:]))

    def _spans(self, layer: _Layer, base64: int, work: "_Work") -> Iterator[tuple[int, int]]:
        """Where in the first text there are secrets, in this layer or below it."""
        for _ in range(_MOST_LAYERS):
            plain = _folded(layer)
            for start, end in self._find(plain.text, _SHORTEST_IN_BASE64 if base64 < _MOST_BASE64 else 1):
                # Where it was cut, the rest of an escape can come before the mark.
                cut = plain.text[end : end + 1] == CUT
                yield plain.starts[start], plain.starts[end] if cut else plain.ends[end - 1]
            if base64 and self._base64 is not None:
                for inner in self._base64.layers(layer, work):
                    yield from self._spans(inner, base64 - 1, work)
            below = _decoded(layer, work)
            if below is layer:
                return
            layer = below

    def _find(self, text: str, shortest: int) -> Iterator[tuple[int, int]]:
        gram, needles = self._gram, self._needles
        few = len(needles) <= _FEW and CUT not in text
        # Python itself looks for a few of them faster.
        if few and not any(needle in text for alike in needles.values() for needle in alike):
            return
        for start in range(len(text) - gram + 1):
            for needle in needles.get(text[start : start + gram], ()):
                end = start + len(needle)
                if len(needle) < shortest:
                    continue
                if text.startswith(needle, start):
                    if len(needle) >= SHORTEST_INSIDE or _alone(text, start, end):
                        yield start, end
                    continue
                cut = text.find(CUT, start, end)
                if cut - start >= _SHORTEST_CUT and needle.startswith(text[start:cut]):
                    yield start, cut


def _alone(text: str, start: int, end: int) -> bool:
    before, after = text[start - 1 : start], text[end : end + 1]
    return not (before.isalnum() and text[start].isalnum()) and not (after.isalnum() and text[end - 1].isalnum())


def _needles(secret: str) -> Iterator[str]:
    """What a secret looks like in some layer of a text that has it."""
    # As it is, and in a page in Latin-1 that was read as UTF-8.
    for reading in {secret, secret.encode("latin-1", "replace").decode("utf-8", "replace")}:
        plain = decoded = _Layer(reading, range(len(reading)), range(len(reading)))
        # In a text whose last layer is searched, what looks like an escape in the secret has been decoded, too.
        for _ in range(_MOST_LAYERS):
            decoded = _decoded(decoded, _Work())
        for layer, shortest in ((plain, 1), (decoded, _SHORTEST_IN_BASE64)):
            text = _folded(layer).text
            # What is shown to people has no blanks at its ends.
            yield from (needle for needle in (text, text.strip()) if len(text.strip()) >= shortest)


class _TooMuchWork(Exception):
    """A text takes too long to decode."""


class _Work:
    """How much of a text has been decoded."""

    def __init__(self) -> None:
        self._done = 0

    def add(self, characters: int) -> None:
        """Count some. Raises _TooMuchWork."""
        self._done += characters
        if self._done > _MOST_WORK:
            raise _TooMuchWork


def _folded(layer: _Layer) -> _Layer:
    """A layer in which all blanks are alike, and upper and lower case letters of ASCII.

    A URL writes blanks as `+`, and what is shown is cut to single ones. Gateways write header values in lower case.
    """
    text = layer.text.lower() if layer.text.isascii() else layer.text.translate(_LOWER)
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " for char in text)
    return _rewritten(_Layer(text, layer.starts, layer.ends), _BLANKS, lambda match: [(" ", match.end())])


def _decoded(layer: _Layer, work: _Work) -> _Layer:
    """The layer below: every escape of it decoded once; the same layer where there is none."""
    if layer.text.isascii() and not any(mark in layer.text for mark in "\\%&"):
        return layer

    def meaning(match: re.Match[str]) -> Sequence[tuple[str, int]] | None:
        chars = _meaning(match)
        work.add(len(chars or ()))
        return chars

    return _rewritten(layer, _ESCAPE, meaning)


def _rewritten(
    layer: _Layer, pattern: re.Pattern[str], meaning: Callable[[re.Match[str]], Sequence[tuple[str, int]] | None]
) -> _Layer:
    """A layer with other characters in the place of what matches.

    Args:
        layer: The layer.
        pattern: What is to be replaced.
        meaning: The characters for a match, each with where its spelling ends; None to leave the match alone.
    """
    pieces: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    at = 0
    for match in pattern.finditer(layer.text):
        chars = meaning(match)
        if chars is None:
            continue
        begin = match.start()
        pieces.append(layer.text[at:begin])
        starts += layer.starts[at:begin]
        ends += layer.ends[at:begin]
        for char, end in chars:
            pieces.append(char)
            starts += [layer.starts[begin]] * len(char)
            ends += [layer.ends[end - 1]] * len(char)
            begin = end
        at = match.end()
    if not at:
        return layer
    pieces.append(layer.text[at:])
    starts += layer.starts[at:]
    ends += layer.ends[at:]
    return _Layer("".join(pieces), starts, ends)


def _meaning(match: re.Match[str]) -> Sequence[tuple[str, int]] | None:  # noqa: PLR0911 -- one a kind of escape
    start, end = match.span()
    kind, spelt = match.lastgroup, match[0]
    if kind == "run":
        width = 3 if spelt[0] == "%" else 4
        raw = bytes(int(spelt[place + width - 2 : place + width], 16) for place in range(0, len(spelt), width))
        return _placed(raw, start, width)
    if kind == "misread":
        chars = _placed(spelt.encode("latin-1"), start, 1)
        return None if len(chars) == len(spelt) else chars
    if kind == "half":
        return []
    if kind == "char":
        return [(_CONTROLS.get(match["char"], match["char"]), end)]
    if kind == "entity":
        text = html.unescape(spelt)
        return None if text == spelt else [(text, end)]
    if kind == "pair":
        return [(spelt.encode("utf-16", "surrogatepass").decode("utf-16"), end)]
    code = int(match[kind or 0], 16)
    return [(chr(code), end)] if code < 0x110000 else None


def _placed(raw: bytes, start: int, width: int) -> list[tuple[str, int]]:
    """The characters of some bytes of which each is spelt in so many characters, with where that ends."""
    chars = []
    for char, size in _characters(raw):
        start += size * width
        chars.append((char, start))
    return chars


def _characters(spelt: bytes) -> Iterator[tuple[str, int]]:
    """Characters with their sizes in bytes: as UTF-8, and as Latin-1 what is not."""
    for char in spelt.decode("utf-8", "surrogateescape"):
        if "\udc80" <= char <= "\udcff":
            yield chr(ord(char) - 0xDC00), 1
        else:
            yield char, len(char.encode())


class _Base64:
    """Finds Base64 in a layer."""

    def __init__(self, shortest: int) -> None:
        """Look for Base64 of secrets of so many characters or more."""
        letters = "[A-Za-z0-9+/_-]"
        self._run = re.compile(rf"{letters}{{{-(-shortest * 4 // 3)},}}|{letters}{{{_SHORTEST_CUT},}}(?={CUT})")
        self._text = re.compile(rb"[^\x00-\x1f\x7f]{%d}" % shortest)

    def layers(self, layer: _Layer, work: _Work) -> Iterator[_Layer]:
        """What each run of letters says, wherever in it the Base64 begins."""
        for run in self._run.finditer(layer.text):
            letters = run[0].translate(_URL_SAFE)
            cut = layer.text[run.end() : run.end() + 1] == CUT
            for offset in range(4):
                used = letters[offset:]
                if len(used) % 4 == 1:
                    used = used[:-1]
                raw = binascii.a2b_base64(used + "=" * (-len(used) % 4))
                if cut or self._text.search(raw):
                    work.add(len(raw))
                    yield _unpacked(raw, layer, run.start() + offset, run.end() if cut else None)


def _unpacked(raw: bytes, layer: _Layer, first: int, cut: int | None) -> _Layer:
    """What the Base64 that begins at a place of a layer says; `cut` is where it was cut."""
    chars, starts, ends, at = [], [], [], 0
    for char, size in _characters(raw):
        chars.append(char)
        starts.append(layer.starts[first + at * 4 // 3])
        at += size
        ends.append(layer.ends[first - 1 - at * -4 // 3])
    if cut is not None:
        chars.append(CUT)
        starts.append(layer.starts[cut])
        ends.append(layer.ends[cut])
    return _Layer("".join(chars), starts, ends)
