"""A YAML file as plain data that still knows how each value was written.

Stricter than YAML where YAML surprises: a key given twice is an error instead of the last one winning, and a
key is text whatever it looks like. Sets, bytes and dates do not exist here: a date is text. What one version of
YAML reads as a number and another reads otherwise (`1:30`, `017`, `1_000`) is no number, and no text either.

Messages never quote what YAML could not read, because it may be a secret.
"""

import os
import re
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from exporter.errors import ConfigError

# Where a value stands: the keys and list positions that lead to it.
Loc = tuple[str | int, ...]

_SHOWN = 60

_LINE_END = re.compile(r"\r\n|[\r\n\x85\u2028\u2029]")

# Spaces that are none for YAML, and the colon of Japanese keyboards after a key.
_LOOKALIKES = re.compile(r"[\u00a0\u2000-\u200d\u202f\u205f\u2060\u3000\ufeff]|^[ -]*\w+\uff1a")

# Bytes. A fleet of 25,000 media takes 3 MiB; a wrong path can name a log file.
LARGEST_FILE = 10 * 1024 * 1024

# Values in a file, with what an alias repeats counted each time: a few lines of aliases can stand for billions.
MOST_VALUES = 500_000

_TAG = "tag:yaml.org,2002:"

# The start of PyYAML's words -> what to tell the operator. PyYAML's own words may hold a part of the file.
_SYNTAX = {
    "mapping values are not allowed": "a second `: ` in one line, or a wrong indentation;"
    " put the text in quotes, or align the key with its neighbours",
    "found character '\\t'": "a tab; indent with spaces",
    "found character": "text that begins with a special character; put it in quotes",
    "found undefined alias": "text that begins with * is an alias in YAML; put it in quotes",
    "second occurrence": "text that begins with & is an anchor in YAML, and this one is already taken;"
    " put it in quotes",
    "found undefined tag handle": "text that begins with ! is a tag in YAML; put it in quotes",
    "could not determine a constructor": "text that begins with ! is a tag in YAML; put it in quotes",
    "could not find expected ':'": "a line without a colon and a space after its key; write `key: value`",
    "expected <block end>": "a line that does not line up with those above; align it with its neighbours",
    "found unexpected end of stream": "a quote that is never closed; close it",
    "expected ',' or": "brackets that are never closed, or a missing comma; add what is missing",
    "found unknown escape character": "a backslash in double quotes; use single quotes instead",
    "but found another document": "a second document; remove the line `---` and what follows",
    "expected a mapping or list of mappings for merging": "`<<` merges only keys with values;"
    " let it name an anchor of such",
    "found unhashable key": "a key that is a list or a mapping; write keys as plain text",
    "unreadable value": "a value that cannot be read as what it looks like; put it in quotes",
}
_OTHER_SYNTAX = "something that cannot stand here; check quotes, brackets and indentation"


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What a YAML file says.

    Attributes:
        data: Its top-level mapping, made of dict, list, str, int, float, bool and None.
        written: The first line of each single value, as it stands in the file.
        faults: The keys that were given twice, one line each.
    """

    data: dict[str, Any]
    written: Mapping[Loc, str]
    faults: tuple[str, ...]


def read(path: Path) -> ConfigFile:
    """The content of a YAML file.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or is not a mapping. One fault.
    """
    outcome = _parse(path, _text(path))
    if isinstance(outcome, str):
        raise ConfigError([outcome])
    return outcome


def write(data: Mapping[str, Any]) -> str:
    """The data as YAML that `read` reads back as the same."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def place_of(loc: Loc) -> str:
    """A place as it is told to people: `merchants[0].collect[1].target`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{_shown_key(step)}" for step in loc)
    return text.removeprefix(".")


def _shown_key(key: str) -> str:
    """A key for a message. What follows its first word is cut: `password:secret` without a space is a key."""
    shown = re.sub(r"[^\w-].*", "", key, flags=re.DOTALL)[:_SHOWN]
    return (shown or '""') if shown == key else f"{shown}…"


def _shown_path(path: Path) -> str:
    """A path for a message, which must be one line."""
    return str(path) if str(path).isprintable() else ascii(str(path))


def kind_of(value: object) -> str:
    """What a value is, in the words of someone who writes YAML."""
    return next((words for kind, words in _KINDS if isinstance(value, kind)), "keys with values")


@dataclass(frozen=True, slots=True)
class Unclear:
    """What some YAML programs read as a number, and others as text or as another number.

    Attributes:
        text: As it is written.
    """

    text: str


# A bool is an int, too.
_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (type(None), "nothing"),
    (bool, "true or false in YAML"),
    ((int, float), "a number"),
    (Unclear, "a number in some versions of YAML"),
    (str, "text"),
    (list, "a list"),
)


class _Refused(yaml.MarkedYAMLError):
    """Valid YAML, but nothing that a configuration needs. The problem is for the operator."""


class _Loader(yaml.SafeLoader):
    """Reads text, numbers, booleans, lists and mappings; every failure is a YAMLError with a place."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = 0
        # Node -> how many values it stands for, aliases followed. The nodes live as long as the loader.
        self._values: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Count while the nodes are made, so that a small file cannot become billions of values."""
        is_alias: bool = self.check_event(yaml.AliasEvent)
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # nobody has typed PyYAML's parser
        node = super().compose_node(parent, index)
        if node is None:
            return None
        if is_alias and id(node) not in self._values:
            raise _Refused(None, None, "an alias inside of what it repeats; write the value itself", mark)
        if not is_alias:
            self._nodes += 1
            self._values[id(node)] = 1 + sum(self._values[id(child)] for child in _inside(node))
        if max(self._nodes, self._values[id(node)]) > MOST_VALUES:
            problem = f"more than {MOST_VALUES:,} values, counting what aliases repeat; no configuration needs that"
            raise _Refused(None, None, problem, mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - PyYAML's own
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, str):
                value.encode()  # an escape can make half a character
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            problem = "unreadable value"
        else:
            return value
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A number in decimal or hexadecimal digits, which all versions of YAML read alike."""
        text = self.construct_scalar(node)
        if _WHOLE.fullmatch(text):
            return int(text, 16 if "x" in text else 10)
        if _FRACTION.fullmatch(text):
            return float(text.replace(".", "") if text[-1] in "fFnN" else text)
        raise ValueError

    def construct_unclear(self, node: yaml.ScalarNode) -> Unclear:
        """What is no number for all."""
        return Unclear(self.construct_scalar(node))

    def construct_text(self, node: yaml.ScalarNode) -> str:
        """What YAML has a type of its own for, but is text here."""
        return self.construct_scalar(node)

    def construct_unknown(self, node: yaml.Node) -> None:
        """What YAML has a type for that is of no use here."""
        self.construct_undefined(node)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Text, with escapes where a character would not come back as it is."""
        return self.represent_scalar(_TAG + "str", text, style=None if text.isprintable() else '"')


def _inside(node: yaml.Node) -> Iterator[yaml.Node]:
    """The values in a list, or the keys and values in a mapping."""
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair


# The numbers that YAML 1.1 and 1.2 read alike. PyYAML knows only 1.1.
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*|0x[0-9a-fA-F]+)\Z")
_FRACTION = re.compile(
    r"[-+]?(([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(inf|Inf|INF))\Z|\.(nan|NaN|NAN)\Z"
)
# Of a leading zero only 1.1 makes octal digits, of 0o only 1.2. What else 1.1 knows (binary digits, digits in groups,
# base 60) is in PyYAML's own patterns.
_OCTAL = re.compile(r"([-+]?0[0-9]+|0o[0-7]+)\Z")
_UNCLEAR = "!unclear"

_NUMBERS = [(_TAG + "int", _WHOLE), (_TAG + "float", _FRACTION), (_UNCLEAR, _OCTAL)]
_RESOLVERS = {
    first: [
        *(_NUMBERS if first in "-+.0123456789" else ()),
        *((_UNCLEAR if tag in (_TAG + "int", _TAG + "float") else tag, pattern) for tag, pattern in theirs),
    ]
    for first, theirs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}

for _tag in ("int", "float"):
    _Loader.add_constructor(_TAG + _tag, _Loader.construct_number)
_Loader.add_constructor(_UNCLEAR, _Loader.construct_unclear)
for _tag in ("timestamp", "value", "merge"):
    _Loader.add_constructor(_TAG + _tag, _Loader.construct_text)
for _tag in ("binary", "omap", "pairs", "set"):
    _Loader.add_constructor(_TAG + _tag, _Loader.construct_unknown)
_Dumper.add_representer(str, _Dumper.represent_text)
for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = _RESOLVERS


def read_bytes(path: Path, largest: int) -> bytes:
    """The content of a regular file, or its beginning: one byte more than the largest size, where it is larger.

    Raises:
        OSError: It cannot be read.
        ValueError: It is a pipe or a device, which may never end, or the path is none. The message says so.
    """
    # Without waiting, as opening a pipe waits for a writer.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise ValueError("is a pipe" if stat.S_ISFIFO(mode) else "is a device")
        return file.read(largest + 1)


def decode(content: bytes) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        ValueError: It is not UTF-8. The message says so.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("is UTF-16 text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None


def _text(path: Path) -> str:
    """The file's text."""
    try:
        content = read_bytes(path, LARGEST_FILE)
    except FileNotFoundError:
        fault = "there is no such file; create it, or name another one"
    except IsADirectoryError:
        fault = "is a directory; name the file in it"
    except OSError as error:
        fault = f"cannot be read: {error.strerror}; check the file and its permissions"
    except ValueError as error:
        fault = f"{error}; name a regular file" if "\0" not in str(path) else "is not a path; name a file"
    else:
        fault = f"is larger than {LARGEST_FILE // 1024 // 1024} MiB; check that it is the configuration"
        if len(content) <= LARGEST_FILE:
            try:
                return decode(content)
            except ValueError as error:
                fault = f"{error}; save it as UTF-8"
    raise ConfigError([f"{_shown_path(path)}: {fault}"])


def _parse(path: Path, text: str) -> ConfigFile | str:
    """The file's content, or the error that keeps it from being read."""
    shown = _shown_path(path)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return f"{shown}: is empty; list at least one merchant under `merchants`"
        scan = _Scan(text)
        scan.walk(node, ())
        data = loader.construct_document(node)
    except yaml.YAMLError as error:
        return f"{shown}:{_syntax_fault(error, text)}"
    except RecursionError:
        return f"{shown}: is nested too deeply; no setting needs that"
    if not isinstance(data, dict):
        return f"{shown}: expected keys with values, found {kind_of(data)}; begin with `merchants:`"
    return ConfigFile(data, scan.written, tuple(scan.faults))


def _syntax_fault(error: yaml.YAMLError, text: str) -> str:
    """`line:column: what is wrong; how to fix it`."""
    if isinstance(error, yaml.reader.ReaderError):
        before = _LINE_END.split(text[: error.position])
        fix = "save the file as UTF-8 text" if error.character == 0 else "remove it"
        where = f"{len(before)}:{len(before[-1]) + 1}:"
        return f"{where} not valid YAML: the control character U+{error.character:04X}; {fix}"
    if not isinstance(error, yaml.MarkedYAMLError):
        return f" not valid YAML: {_OTHER_SYNTAX}"
    # Of a piece that began somewhere and never ended, the operator wants the beginning.
    began = (error.context or "").startswith("while scanning") and error.context_mark
    mark = began or error.problem_mark or error.context_mark
    where = f"{mark.line + 1}:{mark.column + 1}:" if mark else ""
    if isinstance(error, _Refused):
        return f"{where} {error.problem}"
    problem = error.problem or ""
    told = next((told for start, told in _SYNTAX.items() if problem.startswith(start)), _OTHER_SYNTAX)
    return f"{where} not valid YAML: {told}{_suspect(text, mark.line + 1) if mark else ''}"


def _suspect(text: str, line: int) -> str:
    """What looks like a space, a colon or nothing in a line or the two before it, and is something else for YAML."""
    lines = _LINE_END.split(text)
    for number in range(max(line - 2, 1), line + 1):
        if found := _LOOKALIKES.search(lines[number - 1]):
            name = f"U+{ord(found[0][-1]):04X} {unicodedata.name(found[0][-1])}"
            return f"; {name} in line {number} may be the cause: replace it with a plain character"
    return ""


class _Scan:
    """Goes over the nodes before they become data, and keeps what the data does not tell."""

    def __init__(self, text: str) -> None:
        self.written: dict[Loc, str] = {}
        self.faults: list[str] = []
        self._text = text
        self._seen: set[int] = set()

    def walk(self, node: yaml.Node, loc: Loc) -> None:
        """Note the values at and under a node; what an alias repeats is noted where it is first."""
        if id(node) in self._seen:
            return
        self._seen.add(id(node))
        if isinstance(node, yaml.ScalarNode) and node.style not in ("|", ">"):
            source = self._text[node.start_mark.index : node.end_mark.index]
            source = re.sub(r"^([&!]\S*\s+)+", "", source)  # an anchor or a tag before the value
            first = next(iter(source.splitlines()), "")
            self.written[loc] = first if len(first) <= _SHOWN else f"{first[:_SHOWN]}…"
        for step, child in self._children(node, loc):
            self.walk(child, (*loc, step))

    def _children(self, node: yaml.Node, loc: Loc) -> Iterator[tuple[str | int, yaml.Node]]:
        """The values in a list or a mapping, with their positions or keys."""
        if isinstance(node, yaml.SequenceNode):
            yield from enumerate(node.value)
        if not isinstance(node, yaml.MappingNode):
            return
        keys: set[str] = set()
        for pair in tuple(node.value):
            key, value = pair
            line = key.start_mark.line + 1
            if value.start_mark.index == value.end_mark.index == key.end_mark.index:
                # Such as {password:secret}. The key is not shown, and is kept from whoever would show it.
                node.value.remove(pair)
                where = place_of(loc) or "top level"
                self.faults.append(f"{where}: an entry without `: ` in line {line}; write `key: value`")
                continue
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.tag != _TAG + "merge":
                key.tag = _TAG + "str"
            if key.value in keys and key.tag == _TAG + "merge":
                where = place_of(loc) or "top level"
                told = f"`<<` is given twice, the second time in line {line}; write one with a list of both"
                self.faults.append(f"{where}: {told}")
            elif key.value in keys:
                told = f"is given twice, the second time in line {line}; keep one"
                self.faults.append(f"{place_of((*loc, key.value))}: {told}")
            keys.add(key.value)
            yield key.value, value
