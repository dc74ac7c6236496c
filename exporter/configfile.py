"""A YAML file as plain data that still knows how each value was written.

Stricter than YAML where YAML surprises: a key given twice is a fault instead of the last one winning, and a
key is text whatever it looks like. Sets, bytes and dates do not exist here: a date is text.

Messages never quote what YAML could not read, because it may be a secret.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from exporter.errors import ConfigError

# Where a value stands: the keys and list positions that lead to it.
Loc = tuple[str | int, ...]

_SHOWN = 60

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
    return shown if shown == key else f"{shown}…"


def kind_of(value: object) -> str:
    """What a value is, in the words of someone who writes YAML."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false in YAML"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
        case _:
            return "keys with values"


class _Loader(yaml.SafeLoader):
    """Reads text, numbers, booleans, lists and mappings; every failure is a YAMLError with a place."""

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


for _tag in ("timestamp", "value", "merge"):
    _Loader.add_constructor(_TAG + _tag, _Loader.construct_text)
for _tag in ("binary", "omap", "pairs", "set"):
    _Loader.add_constructor(_TAG + _tag, _Loader.construct_unknown)
_Dumper.add_representer(str, _Dumper.represent_text)
for _class in (_Loader, _Dumper):
    # PyYAML takes 1e5 for text, other YAML programs for a number: see it as they do.
    _class.add_implicit_resolver(_TAG + "float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789"))


def _text(path: Path) -> str:
    """The file's text."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        fault = "is not UTF-8 text; save it as UTF-8"
    except FileNotFoundError:
        fault = "there is no such file; create it, or name another one"
    except IsADirectoryError:
        fault = "is a directory; name the file in it"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        fault = f"cannot be read: {reason}; check the file and its permissions"
    raise ConfigError([f"{path}: {fault}"])


def _parse(path: Path, text: str) -> ConfigFile | str:
    """The file's content, or the fault that keeps it from being read."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return f"{path}: is empty; list at least one merchant under `merchants`"
        scan = _Scan(text)
        scan.walk(node, ())
        data = loader.construct_document(node)
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        return f"{path}:{line}:{column}: not valid YAML: a control character; remove it"
    except yaml.MarkedYAMLError as error:
        return f"{path}:{_syntax_fault(error)}"
    except RecursionError:
        return f"{path}: is nested too deeply; no setting needs that"
    if not isinstance(data, dict):
        return f"{path}: expected keys with values, found {kind_of(data)}; begin with `merchants:`"
    return ConfigFile(data, scan.written, tuple(scan.faults))


def _syntax_fault(error: yaml.MarkedYAMLError) -> str:
    """`line:column: what is wrong; how to mend it`."""
    # Of a piece that began somewhere and never ended, the operator wants the beginning.
    began = (error.context or "").startswith("while scanning") and error.context_mark
    mark = began or error.problem_mark or error.context_mark
    problem = error.problem or ""
    told = next((told for start, told in _SYNTAX.items() if problem.startswith(start)), _OTHER_SYNTAX)
    where = f"{mark.line + 1}:{mark.column + 1}:" if mark else ""
    return f"{where} not valid YAML: {told}"


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
            if key.value in keys:
                told = f"is given twice, the second time in line {line}; keep one"
                self.faults.append(f"{place_of((*loc, key.value))}: {told}")
            keys.add(key.value)
            yield key.value, value
