"""A YAML file as plain data, with the place and the source text of each value.

A key given twice is an error, where YAML would use the last one. A key is text, whatever it looks like.
"""

import re
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from exporter.config.text_files import read_config, shown_path
from exporter.config.yaml_dialect import TAG, Dumper, Loader, kind_of
from exporter.config.yaml_errors import syntax_error
from exporter.errors import ConfigError

# Path of a value: the keys and list positions that lead to it.
Loc = tuple[str | int, ...]

# Characters of a value or a key that a message shows.
_SHOWN = 60

_MERGE = TAG + "merge"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value is in its file, and how it is written there.

    Attributes:
        key_line: Line of its key, of its first line in a list; for a value that is not in the file, of its section.
        line: Line of the value itself. Lines count from 1.
        text: The source text of a scalar, its first line only; "" for all others, and for what has an alias.
    """

    key_line: int
    line: int
    text: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class _Top:
    """What a file must have at its top level.

    Attributes:
        kind: Its type in Python.
        expected: In words.
        begin: How to begin.
        when_empty: What to do about a file without anything; "" if that is valid.
    """

    kind: type
    expected: str
    begin: str
    when_empty: str


_LIST = _Top(list, "a list", "start each entry with a dash", "write [] for no entries")


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """The content of a configuration file.

    Attributes:
        shown: Its path, as messages show it.
        data: Its top-level mapping or list, made of dict, list, str, int, float, bool and None.
        errors: Duplicate keys and entries without a colon, one line each.
        source: Finds where a value is.
    """

    shown: str
    data: Any = field(repr=False)
    errors: tuple[str, ...]
    source: Callable[[Loc], Source] = field(repr=False)

    def at(self, line: int) -> str:
        """A line of this file, as the end of an error line."""
        return in_file(self.shown, line)


def read(path: Path, *, first: str = "merchants", may_be_empty: bool = False) -> ConfigFile:
    """Read a YAML file.

    Args:
        path: The file.
        first: A key that such a file begins with, for messages.
        may_be_empty: Whether a file without keys is valid.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or is not a mapping. One error.
    """
    when_empty = "" if may_be_empty else "list at least one merchant under `merchants`"
    return _parsed(path, read_config(path), _Top(dict, "keys with values", f"begin with `{first}:`", when_empty))


def parse_list(path: Path, text: str) -> ConfigFile:
    """Parse a YAML file whose top level is a list.

    Args:
        path: The file, for messages.
        text: Its content.

    Raises:
        ConfigError: It is not YAML, or not a list. One error.
    """
    return _parsed(path, text, _LIST)


def _parsed(path: Path, text: str, top: _Top) -> ConfigFile:
    outcome = _parse(shown_path(path), text, top)
    if isinstance(outcome, str):
        raise ConfigError([outcome])
    return outcome


def write(data: Mapping[str, Any]) -> str:
    """Format data as YAML that `read` reads back as the same data."""
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1000)


def in_file(shown: str, line: int) -> str:
    """A line of a file, as the end of an error line: `(config.yaml:12)`."""
    return f"({shown}:{line})"


def place_of(loc: Loc) -> str:
    """A place as error lines show it: `merchants[0].collect[1].target`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{_shown_key(step)}" for step in loc)
    return text.removeprefix(".")


def _shown_key(key: str) -> str:
    """A key for a message, cut after its first word: YAML reads `password:secret` without a space as a key."""
    shown = re.sub(r"[^\w-].*", "", key, flags=re.DOTALL)[:_SHOWN]
    return (shown or '""') if shown == key else f"{shown}…"


def _parse(shown: str, text: str, top: _Top) -> ConfigFile | str:
    """The content of a file, or its error line, so that no traceback leads to an exception with the content."""
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if node is None:
            if not top.when_empty:
                return ConfigFile(shown, top.kind(), (), lambda _: Source(1, 1))
            return f"{shown}: is empty; {top.when_empty}"
        errors = tuple(_slips(shown, node))
        data = loader.construct_document(node)
    except yaml.YAMLError as error:
        return f"{shown}:{syntax_error(error, text)}"
    except RecursionError:
        return f"{shown}: is nested too deeply; use fewer levels"
    if not isinstance(data, top.kind):
        return f"{shown}: expected {top.expected}, found {kind_of(data)}; {top.begin}"
    return ConfigFile(shown, data, errors, _Sources(node, text, loader.aliased).find)


def _slips(shown: str, root: yaml.Node) -> Iterator[str]:
    """One line for each duplicate key and each entry without a colon, which is removed; makes every key text.

    An aliased node is read only at its first place.
    """
    seen: set[int] = set()
    waiting: list[tuple[yaml.Node, Loc]] = [(root, ())]
    while waiting:
        node, loc = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            yield from _slips_in(shown, node, loc)
        inside = [(child, (*loc, step)) for step, child in _children(node) if isinstance(child, yaml.CollectionNode)]
        waiting += reversed(inside)


def _slips_in(shown: str, node: yaml.MappingNode, loc: Loc) -> Iterator[str]:
    """The same for one mapping."""
    keys: set[str] = set()
    here = place_of(loc) or "top level"
    for pair in tuple(node.value):
        key, value = pair
        at = in_file(shown, _line(key))
        if value.start_mark.index == value.end_mark.index == key.end_mark.index:
            # Such as {password:secret}. Removed, so that no later message shows it.
            node.value.remove(pair)
            yield f"{here}: an entry without `: `; write `key: value` {at}"
            continue
        if not isinstance(key, yaml.ScalarNode):
            continue
        merges = key.tag == _MERGE
        if not merges:
            key.tag = TAG + "str"
        if key.value in keys and merges:
            yield f"{here}: duplicate `<<`; write one with a list of both aliases {at}"
        elif key.value in keys:
            yield f"{place_of((*loc, key.value))}: duplicate key; keep one {at}"
        keys.add(key.value)


def _children(node: yaml.Node) -> Iterator[tuple[str | int, yaml.Node]]:
    """The values of a list or a mapping, with their positions or keys."""
    if isinstance(node, yaml.SequenceNode):
        yield from enumerate(node.value)
    if isinstance(node, yaml.MappingNode):
        yield from ((key.value, value) for key, value in node.value if isinstance(key, yaml.ScalarNode))


class _Sources:
    """Finds the values of a file whose data has been constructed: then a mapping has what is merged into it, too."""

    def __init__(self, root: yaml.Node, text: str, aliased: Container[int]) -> None:
        self._root = root
        self._text = text
        self._aliased = aliased

    def find(self, loc: Loc) -> Source:
        """Where a value is. For one that is not in the file, where the innermost section around it begins."""
        key = node = self._root
        section = _line(node)
        for step in loc:
            entry = _entry(node, step)
            if entry is None:
                return Source(section, section)
            key, node = entry
            # An aliased section begins where its text is, others with their key.
            section = min(_line(key), _line(node))
        return self._of(node, _line(key))

    def _of(self, node: yaml.Node, key_line: int) -> Source:
        line = _line(node)
        if not isinstance(node, yaml.ScalarNode) or node.style in ("|", ">"):
            return Source(key_line, line)
        source = self._text[node.start_mark.index : node.end_mark.index]
        bare = re.sub(r"^([&!]\S*\s+)+", "", source)  # without an anchor or a tag, which may be in the lines above
        line += source.removesuffix(bare).count("\n")
        if id(node) in self._aliased:
            # It may be a secret at one of its other places.
            return Source(key_line, line)
        first = next(iter(bare.splitlines()), "")
        return Source(key_line, line, first if len(first) <= _SHOWN else f"{first[:_SHOWN]}…")


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _entry(node: yaml.Node, step: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    """The key and the value of an entry of a mapping, or the value of a list twice; None if there is none.

    As in the data, the last of several entries counts, and what is merged comes before the mapping's own.
    """
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and 0 <= step < len(node.value):
        return node.value[step], node.value[step]
    if isinstance(node, yaml.MappingNode):
        for key, value in reversed(node.value):
            if isinstance(key, yaml.ScalarNode) and key.value == step:
                return key, value
    return None
