"""Redaction of secrets in external texts, in any encoding. Pure.

A server can echo a secret as it is, in JSON, in a URL, in HTML, in Base64, or in several of these at once. There is no
complete list of encodings of a secret. So the text is decoded layer by layer, and each layer is searched. Each
character of a layer knows where in the text it came from, and that part is replaced.
"""

import binascii
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from exporter.text_layers import CUT, Layer, TooMuchWorkError, Work, characters, decoded, folded, undecoded

# The replacement of a secret.
HIDDEN = "<secret>"

# A shorter secret is redacted only as a whole word, without a letter or a digit before or after it. Inside of words it
# would be found by chance and make texts unreadable. An echoed secret ends with a quote, a bracket, a colon or a space.
SHORTEST_INSIDE = 6

# Shorter ones are not searched for in Base64, where they would be found by chance.
_SHORTEST_IN_BASE64 = 3

# The start of a secret before a cut is redacted from this length on.
_SHORTEST_CUT = 4

# JSON in JSON in a URL has three layers. More than these are not expected.
_MOST_LAYERS = 8
_MOST_BASE64 = 2

# Up to this number of secrets, one search for each is faster.
_FEW = 32

# Size of the cache for repeated texts, such as label values, and the longest text in it.
_CACHE_SIZE = 4096
_LONGEST_CACHED = 256

_URL_SAFE = str.maketrans("-_", "+/")


class Redactor:
    """Redacts secrets in texts. Thread-safe."""

    def __init__(self, secrets: Iterable[str]) -> None:
        """Create a redactor for these secrets; empty ones are ignored."""
        needles = {needle for secret in secrets for needle in _needles(secret)}
        self._shortest = min(map(len, needles), default=0)
        self._gram = min(self._shortest, _SHORTEST_CUT)
        # By their first characters, so that a search for many takes no longer than for one.
        self._needles: dict[str, list[str]] = {}
        for needle in needles:
            self._needles.setdefault(needle[: self._gram], []).append(needle)
        shortest = min((len(needle) for needle in needles if len(needle) >= _SHORTEST_IN_BASE64), default=0)
        self._base64 = _Base64(shortest) if shortest else None
        self._cached = lru_cache(_CACHE_SIZE)(self._replace)

    def hide(self, text: str) -> str:
        """The text with `<secret>` instead of every secret, and of the start of one before a cut (`…`)."""
        if not self._needles or (len(text) < self._shortest and CUT not in text):
            return text
        return self._cached(text) if len(text) <= _LONGEST_CACHED else self._replace(text)

    def _replace(self, text: str) -> str:
        try:
            found = set(self._spans(undecoded(text), _MOST_BASE64, Work()))
        except TooMuchWorkError:
            return HIDDEN
        # A secret can be a part of the replacement, and a text can be redacted twice.
        hidden = [match.span() for match in re.finditer(re.escape(HIDDEN), text)]
        spans = sorted(span for span in found if not any(a <= span[0] and span[1] <= b for a, b in hidden))
        pieces, at = [], 0
        for start, end in spans:
            if start >= at:
                pieces += [text[at:start], HIDDEN]
            at = max(at, end)
        return "".join((*pieces, text[at:]))

    def _spans(self, layer: Layer, base64: int, work: "Work") -> Iterator[tuple[int, int]]:
        """Positions in the original text of secrets in this layer or below it."""
        for _ in range(_MOST_LAYERS):
            plain = folded(layer)
            for start, end in self._find(plain.text, _SHORTEST_IN_BASE64 if base64 < _MOST_BASE64 else 1):
                # At a cut, the rest of an escape can come before the mark.
                cut = plain.text[end : end + 1] == CUT
                yield plain.spans[start][0], plain.spans[end][0] if cut else plain.spans[end - 1][1]
            if base64 and self._base64 is not None:
                for inner in self._base64.layers(layer, work):
                    yield from self._spans(inner, base64 - 1, work)
            below = decoded(layer, work)
            if below is layer:
                return
            layer = below

    def _find(self, text: str, shortest: int) -> Iterator[tuple[int, int]]:
        gram, needles = self._gram, self._needles
        few = len(needles) <= _FEW and CUT not in text
        # A substring search is faster for a few.
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
    """The forms that a secret can have in a layer of a text."""
    # As it is, and as a page in Latin-1 that was decoded as UTF-8.
    for reading in {secret, secret.encode("latin-1", "replace").decode("utf-8", "replace")}:
        plain = below = undecoded(reading)
        # In the last layer of a text, an escape-like part of the secret has been decoded too.
        for _ in range(_MOST_LAYERS):
            below = decoded(below, Work())
        for layer, shortest in ((plain, 1), (below, _SHORTEST_IN_BASE64)):
            text = folded(layer).text
            # Shown texts are stripped.
            yield from (needle for needle in (text, text.strip()) if len(text.strip()) >= shortest)


class _Base64:
    """Finds Base64 in a layer."""

    def __init__(self, shortest: int) -> None:
        """Find Base64 of secrets with at least `shortest` characters."""
        letters = "[A-Za-z0-9+/_-]"
        self._run = re.compile(rf"{letters}{{{-(-shortest * 4 // 3)},}}|{letters}{{{_SHORTEST_CUT},}}(?={CUT})")
        self._text = re.compile(rb"[^\x00-\x1f\x7f]{%d}" % shortest)

    def layers(self, layer: Layer, work: Work) -> Iterator[Layer]:
        """The decoded layers of each run of letters, for each offset at which the Base64 can begin."""
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


def _unpacked(raw: bytes, layer: Layer, first: int, cut: int | None) -> Layer:
    """The decoded layer of Base64 that begins at `first` in a layer; `cut` is where it was cut, if it was."""
    chars, spans = [], []
    for char, start, end in characters(raw):
        chars.append(char)
        spans.append((layer.spans[first + start * 4 // 3][0], layer.spans[first - 1 - end * -4 // 3][1]))
    if cut is not None:
        chars.append(CUT)
        spans.append(layer.spans[cut])
    return Layer("".join(chars), spans)
