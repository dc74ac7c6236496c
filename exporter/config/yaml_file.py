"""A YAML file as plain data, with the source text of each value.

A key given twice is an error, where YAML would use the last one. A key is text, whatever it looks like.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """The content of a YAML file.

    Attributes:
        data: Its top-level mapping, made of dict, list, str, int, float, bool and None.
        written: The source text of each scalar, its first line only.
        errors: Duplicate keys and entries without a colon, one line each.
    """

    data: dict[str, Any]
    written: Mapping[Loc, str]
    errors: tuple[str, ...]


def read(path: Path) -> ConfigFile:
    """Read a YAML file.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or is not a mapping. One error.
    """
    outcome = _parse(shown_path(path), read_config(path))
    if isinstance(outcome, str):
        raise ConfigError([outcome])
    return outcome


def write(data: Mapping[str, Any]) -> str:
    """Format data as YAML that `read` reads back as the same data."""
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1000)


def place_of(loc: Loc) -> str:
    """A place as error lines show it: `merchants[0].collect[1].target`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{_shown_key(step)}" for step in loc)
    return text.removeprefix(".")


def _shown_key(key: str) -> str:
    """A key for a message, cut after its first word: YAML reads `password:secret` without a space as a key."""
    shown = re.sub(r"[^\w-].*", "", key, flags=re.DOTALL)[:_SHOWN]
    return (shown or '""') if shown == key else f"{shown}…"


def _parse(shown: str, text: str) -> ConfigFile | str:
    """The content of a file, or its error line, so that no traceback leads to an exception with the content."""
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if node is None:
            return f"{shown}: is empty; list at least one merchant under `merchants`"
        scan = _Scan(text)
        scan.walk(node, ())
        data = loader.construct_document(node)
    except yaml.YAMLError as error:
        return f"{shown}:{syntax_error(error, text)}"
    except RecursionError:
        return f"{shown}: is nested too deeply; use fewer levels"
    if not isinstance(data, dict):
        return f"{shown}: expected keys with values, found {kind_of(data)}; begin with `merchants:`"
    return ConfigFile(data, scan.written, tuple(scan.errors))


class _Scan:
    """Collects from the nodes of a file what its data does not contain: source texts and duplicate keys.

    Attributes:
        written: The source text of each scalar, its first line only.
        errors: One line for each duplicate key and each entry without a colon.
    """

    def __init__(self, text: str) -> None:
        self.written: dict[Loc, str] = {}
        self.errors: list[str] = []
        self._text = text
        self._seen: set[int] = set()

    def walk(self, node: yaml.Node, loc: Loc) -> None:
        """Collect from a node and the nodes below it; from an aliased node only at its first place."""
        if id(node) in self._seen:
            return
        self._seen.add(id(node))
        if isinstance(node, yaml.ScalarNode) and node.style not in ("|", ">"):
            source = self._text[node.start_mark.index : node.end_mark.index]
            source = re.sub(r"^([&!]\S*\s+)+", "", source)  # without an anchor or a tag
            first = next(iter(source.splitlines()), "")
            self.written[loc] = first if len(first) <= _SHOWN else f"{first[:_SHOWN]}…"
        for step, child in self._children(node, loc):
            self.walk(child, (*loc, step))

    def _children(self, node: yaml.Node, loc: Loc) -> Iterator[tuple[str | int, yaml.Node]]:
        """The values of a list or a mapping, with their positions or keys."""
        if isinstance(node, yaml.SequenceNode):
            yield from enumerate(node.value)
        if not isinstance(node, yaml.MappingNode):
            return
        keys: set[str] = set()
        for pair in tuple(node.value):
            key, value = pair
            line = key.start_mark.line + 1
            if value.start_mark.index == value.end_mark.index == key.end_mark.index:
                # Such as {password:secret}. Removed, so that no later message shows it.
                node.value.remove(pair)
                where = place_of(loc) or "top level"
                self.errors.append(f"{where}: an entry without `: ` in line {line}; write `key: value`")
                continue
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.tag != TAG + "merge":
                key.tag = TAG + "str"
            if key.value in keys and key.tag == TAG + "merge":
                where = place_of(loc) or "top level"
                self.errors.append(f"{where}: duplicate `<<` in line {line}; write one with a list of both aliases")
            elif key.value in keys:
                self.errors.append(f"{place_of((*loc, key.value))}: duplicate key in line {line}; keep one")
            keys.add(key.value)
            yield key.value, value
