"""The YAML that a configuration may use, and the loader and dumper for it.

Stricter than YAML where YAML surprises. There are no sets, bytes or dates: a date is text. Numbers that YAML 1.1 and
YAML 1.2 read differently (`1:30`, `017`, `1_000`) are `Unclear`: neither a number nor text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

# Values in a file, where each use of an alias counts: a few lines of aliases can expand to billions of values.
MOST_VALUES = 500_000

TAG = "tag:yaml.org,2002:"
_UNCLEAR = "!unclear"

# Numbers that YAML 1.1 and YAML 1.2 read alike. PyYAML implements only 1.1.
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*|0x[0-9a-fA-F]+)\Z")
_FRACTION = re.compile(
    r"[-+]?(([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(inf|Inf|INF))\Z|\.(nan|NaN|NAN)\Z"
)
# A leading 0 means octal only in YAML 1.1, 0o only in YAML 1.2. PyYAML's own patterns have the other numbers of 1.1
# (binary, digit groups, base 60).
_OCTAL = re.compile(r"([-+]?0[0-9]+|0o[0-7]+)\Z")


@dataclass(frozen=True, slots=True)
class Unclear:
    """A value that some YAML parsers read as a number, and others as text or as another number.

    Attributes:
        text: The value as written.
    """

    text: str


# bool comes first, as it is a subclass of int.
_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (type(None), "nothing"),
    (bool, "true or false in YAML"),
    ((int, float), "a number"),
    (Unclear, "a number in some versions of YAML"),
    (str, "text"),
    (list, "a list"),
)


def kind_of(value: object) -> str:
    """The kind of a value, in words for someone who writes YAML."""
    return next((words for kind, words in _KINDS if isinstance(value, kind)), "keys with values")


class Refused(yaml.MarkedYAMLError):
    """Valid YAML that no configuration needs. Its problem is written for the operator."""


class Loader(yaml.SafeLoader):
    """Loads text, numbers, booleans, lists and mappings. Every failure is a YAMLError with a position."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = 0
        # The ids of the nodes that are used at more than one place.
        self.aliased: set[int] = set()
        # id of a node -> its number of values, aliases expanded. Ids are unique, as the loader keeps the nodes.
        self._values: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Count values while parsing, so that a small file cannot expand to billions of values."""
        is_alias: bool = self.check_event(yaml.AliasEvent)
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # PyYAML's stubs lack its parser
        node = super().compose_node(parent, index)
        if node is None:
            return None
        if is_alias and id(node) not in self._values:
            raise Refused(None, None, "an alias inside the value it refers to; write the value itself", mark)
        if is_alias:
            self.aliased.add(id(node))
        else:
            self._nodes += 1
            self._values[id(node)] = 1 + sum(self._values[id(child)] for child in _inside(node))
        if max(self._nodes, self._values[id(node)]) > MOST_VALUES:
            problem = f"more than {MOST_VALUES:,} values, aliases expanded; remove aliases or split the configuration"
            raise Refused(None, None, problem, mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - PyYAML's signature
        """Convert a node; report every failure as a YAMLError with a position."""
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, str):
                value.encode()  # an escape sequence can produce a lone surrogate
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            problem = "unreadable value"
        else:
            return value
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A decimal or hexadecimal number, which all versions of YAML read alike."""
        text = self.construct_scalar(node)
        if _WHOLE.fullmatch(text):
            return int(text, 16 if "x" in text else 10)
        if _FRACTION.fullmatch(text):
            return float(text.replace(".", "") if text[-1] in "fFnN" else text)
        raise ValueError

    def construct_unclear(self, node: yaml.ScalarNode) -> Unclear:
        """A value that is a number in only some versions of YAML."""
        return Unclear(self.construct_scalar(node))

    def construct_text(self, node: yaml.ScalarNode) -> str:
        """A type of YAML that is text here, such as a date."""
        return self.construct_scalar(node)

    def construct_unknown(self, node: yaml.Node) -> None:
        """A type of YAML that no setting uses, such as a set."""
        self.construct_undefined(node)


class Dumper(yaml.SafeDumper):
    """Dumps YAML that `Loader` loads as the same data."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Text, escaped where the loader would not return the same characters."""
        return self.represent_scalar(TAG + "str", text, style=None if text.isprintable() else '"')


def _inside(node: yaml.Node) -> Iterator[yaml.Node]:
    """The values in a list, or the keys and values in a mapping."""
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair


_NUMBERS = [(TAG + "int", _WHOLE), (TAG + "float", _FRACTION), (_UNCLEAR, _OCTAL)]
_RESOLVERS = {
    first: [
        *(_NUMBERS if first in "-+.0123456789" else ()),
        *((_UNCLEAR if tag in (TAG + "int", TAG + "float") else tag, pattern) for tag, pattern in theirs),
    ]
    for first, theirs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}

for _tag in ("int", "float"):
    Loader.add_constructor(TAG + _tag, Loader.construct_number)
Loader.add_constructor(_UNCLEAR, Loader.construct_unclear)
for _tag in ("timestamp", "value", "merge"):
    Loader.add_constructor(TAG + _tag, Loader.construct_text)
for _tag in ("binary", "omap", "pairs", "set"):
    Loader.add_constructor(TAG + _tag, Loader.construct_unknown)
Dumper.add_representer(str, Dumper.represent_text)
for _class in (Loader, Dumper):
    _class.yaml_implicit_resolvers = _RESOLVERS
