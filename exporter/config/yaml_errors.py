"""Error lines for text that is not valid YAML, or that no configuration needs.

They never quote the file, because what cannot be parsed may be a secret.
"""

import re
import unicodedata

import yaml

from exporter.config.yaml_dialect import Refused

_LINE_END = re.compile(r"\r\n|[\r\n\x85\u2028\u2029]")

# Spaces that YAML does not treat as spaces, and the colon of Japanese keyboards after a key.
_LOOKALIKES = re.compile(r"[\u00a0\u2000-\u200d\u202f\u205f\u2060\u3000\ufeff]|^[ -]*\w+\uff1a")

# Prefix of PyYAML's message -> message for the operator. PyYAML's own messages may quote the file.
_SYNTAX = {
    "mapping values are not allowed": "a second `: ` in one line, or wrong indentation;"
    " put the value in quotes, or align the key with the keys around it",
    "found character '\\t'": "a tab character; indent with spaces",
    "found character": "text begins with a special character; put it in quotes",
    "found undefined alias": "text that begins with * is an alias in YAML; put it in quotes",
    "second occurrence": "text that begins with & is an anchor in YAML, and this anchor exists already;"
    " put it in quotes",
    "found undefined tag handle": "text that begins with ! is a tag in YAML; put it in quotes",
    "could not determine a constructor": "text that begins with ! is a tag in YAML; put it in quotes",
    "could not find expected ':'": "no `: ` after a key; write `key: value`",
    "expected <block end>": "wrong indentation; align the line with the lines around it",
    "found unexpected end of stream": "an unclosed quote; close it",
    "expected ',' or": "an unclosed bracket or a missing comma; add it",
    "found unknown escape character": "an unknown escape sequence; use single quotes for text with a backslash",
    "but found another document": "a second document; remove the line `---` and everything after it",
    "expected a mapping or list of mappings for merging": "`<<` merges only keys with values;"
    " give it the alias of a section",
    "found unhashable key": "a key is a list or a mapping; write keys as plain text",
    "unreadable value": "an invalid value for its type; put it in quotes",
}
_OTHER = "unexpected text; check quotes, brackets and indentation"


def syntax_error(error: yaml.YAMLError, text: str) -> str:
    """`line:column: what is wrong; how to fix it`, for PyYAML's error about a text."""
    if isinstance(error, yaml.reader.ReaderError):
        before = _LINE_END.split(text[: error.position])
        fix = "save the file as UTF-8 text" if error.character == 0 else "remove it"
        where = f"{len(before)}:{len(before[-1]) + 1}:"
        return f"{where} not valid YAML: control character U+{error.character:04X}; {fix}"
    if not isinstance(error, yaml.MarkedYAMLError):
        return f" not valid YAML: {_OTHER}"
    # For an unclosed quote or bracket, the operator needs the place where it begins.
    began = (error.context or "").startswith("while scanning") and error.context_mark
    mark = began or error.problem_mark or error.context_mark
    where = f"{mark.line + 1}:{mark.column + 1}:" if mark else ""
    if isinstance(error, Refused):
        return f"{where} {error.problem}"
    problem = error.problem or ""
    message = next((known for start, known in _SYNTAX.items() if problem.startswith(start)), _OTHER)
    return f"{where} not valid YAML: {message}{_lookalike(text, mark.line + 1) if mark else ''}"


def _lookalike(text: str, line: int) -> str:
    """A hint about a character in a line, or in the two before it, that only looks like a space, a colon or nothing."""
    lines = _LINE_END.split(text)
    for number in range(max(line - 2, 1), line + 1):
        if found := _LOOKALIKES.search(lines[number - 1]):
            name = f"U+{ord(found[0][-1]):04X} {unicodedata.name(found[0][-1])}"
            return f"; {name} in line {number} may be the cause: replace it with an ASCII character"
    return ""
