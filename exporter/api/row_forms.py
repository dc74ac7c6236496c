"""The forms in which a row can hold its label values and their counts. Pure.

A member's name must say what it is: a number alone could be a count, a label value (a percentage, the id of a player)
or another id. An ambiguous row is rejected, never guessed.
"""

import re
from collections.abc import Mapping
from typing import Any

from exporter.api.json_body import excerpt
from exporter.errors import MalformedAnswer
from exporter.model import Group, Stream, Target

# The key of a row's total.
TOTAL = "all"

# A label value as the API writes it, None for null.
Label = str | None
Part = tuple[Label, Any]

NUMBER = re.compile(r"-?\d{1,30}(?:\.\d{1,30})?(?:[eE][+-]?\d{1,3})?", re.ASCII)

# Names are compared without case and without separators.
_SEPARATORS = re.compile(r"[\s_-]+")

# Names of members that hold a count.
_COUNTS = frozenset(
    {TOTAL, "count", "counts", "cnt", "total", "totals", "number", "num", "amount", "sum", "plays", "views"}
    | {"viewcount", "usercount", "totalcount", "totalplays", "totalviews"}
    | {target.replace("_", "") for target in Target}
)
# A count beside a label value, or a label value beside a count.
_VALUE = "value"
# Names of members that hold a label value.
_LABELS = frozenset({"name", "label", "key", "code", "id", "title", "type", "group"})
# Names of members that hold something else about the row.
_ABOUT = frozenset(
    {"target", "interval", "unit", "status", "from", "to", "time", "timestamp"}
    | set(Group)
    | {what + label for what in (*Group, "media", "merchant", "ref", "event") for label in _LABELS}
)
# Country codes that look like such names: Indonesia and Tonga.
_COUNTRIES = frozenset({"id", "to"})


def single(members: Mapping[str, Any]) -> list[Part]:
    """The number of a row without label values; an empty list if it is null.

    Args:
        members: The row without its date.

    Raises:
        MalformedAnswer: It is ambiguous which member it is.
    """
    if members.get(TOTAL) is not None:
        return [("", members[TOTAL])]
    named = [key for key, value in members.items() if value is not None]
    if len(named) > 1:
        raise MalformedAnswer(f"several values and no {excerpt(TOTAL)}")
    if named and _plain(named[0]) in _LABELS | _ABOUT - {TOTAL}:
        raise MalformedAnswer(f"no {excerpt(TOTAL)}, and {excerpt(named[0])} is not a count")
    return [("", members[key]) for key in named]


def parts(members: Mapping[str, Any], stream: Stream) -> list[Part]:
    """The label values of a row and their raw counts.

    Args:
        members: The row without its date.
        stream: What was requested, with a group.

    Raises:
        MalformedAnswer: The row is ambiguous, or has none of the known forms.
    """
    group = str(stream.group)
    nested = [key for key, value in members.items() if isinstance(value, dict | list)]
    if not nested:
        if group not in members:
            return _flat(members, group)
        kept = {key: value for key, value in members.items() if value is not None or key == group}
        nulls = [key for key in members if key not in kept]
        # Neither a label value nor a count, or a label value whose count is null.
        empty = kept == {group: None} or (len(kept) == 1 and any(map(_is_count, nulls)))
        return [] if empty else [_named_pair(kept, group)]
    if len(nested) > 1:
        raise MalformedAnswer("more than one object or list")
    name, inner = nested[0], members[nested[0]]
    for key, value in members.items():
        about = key == TOTAL or (name == group and (_is_count(key) or _is_about(key, group)))
        if key != name and value is not None and not about:
            raise MalformedAnswer("values both inside and beside an object or list")
    total: list[Part] = [(TOTAL, members.get(TOTAL))]
    if isinstance(inner, list):
        return total + [_pair(pair, group) for pair in inner]
    values = [value for value in inner.values() if value is not None]
    if values and all(isinstance(value, dict | list) for value in values):
        raise MalformedAnswer("objects or lists instead of numbers")
    return total + _flat(inner, group)


def _flat(members: Mapping[str, Any], group: str) -> list[Part]:
    """Members whose names are label values."""
    for key, value in members.items():
        if value is not None and key != TOTAL and (key == group or _is_count(key) or _is_about(key, group)):
            raise MalformedAnswer(f"ambiguous: {excerpt(key)} may be a value of {excerpt(group)}, or not")
    return list(members.items())


def _pair(pair: object, group: str) -> Part:
    """A label value and its count: two members, or one member that is both."""
    if not isinstance(pair, dict) or not 1 <= len(pair) <= 2:
        raise MalformedAnswer("not pairs of a value and its count")
    if len(pair) == 1:
        return _flat(pair, group)[0]
    if group in pair:
        return _named_pair(pair, group)
    counts = [key for key in pair if _is_count(key)]
    if not counts:
        counts = [key for key in pair if _plain(key) == _VALUE and _has_label_beside(pair, key)]
    if len(counts) != 1:
        raise MalformedAnswer("pairs whose count is ambiguous")
    ((name, label),) = ((key, value) for key, value in pair.items() if key != counts[0])
    if _plain(name) in _ABOUT and not _plain(name).startswith(group):
        raise MalformedAnswer(f"pairs in which {excerpt(name)} is not a value of {excerpt(group)}")
    return _label(label), pair[counts[0]]


def _has_label_beside(pair: Mapping[str, Any], count: str) -> bool:
    """Whether the member beside the count can only be the label value."""
    return all(key == count or _plain(key) in _LABELS or _is_text(label) for key, label in pair.items())


def _named_pair(members: Mapping[str, Any], group: str) -> Part:
    """A label value under the group's own name, and its count."""
    counts = [key for key in members if key != group]
    if len(counts) == 1:
        (count,) = counts
        known = _is_count(count) or _plain(count) == _VALUE
        if known or (_is_text(members[group]) and not _is_about(count, group)):
            return _label(members[group]), members[count]
    raise MalformedAnswer(f"ambiguous: {excerpt(group)} without exactly one count beside it")


def _label(label: object) -> Label:
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if label is not None and (isinstance(label, bool) or not isinstance(label, str | int | float)):
        raise MalformedAnswer("pairs without a label value")
    return None if label is None else str(label)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and NUMBER.fullmatch(value.strip()) is None


def _is_count(name: str) -> bool:
    return _plain(name) in _COUNTS


def _is_about(name: str, group: str) -> bool:
    """Whether a member of this name is neither a count nor one of the group's values."""
    plain = _plain(name)
    if group == Group.COUNTRY and plain in _COUNTRIES:
        return False
    return plain == _VALUE or plain in _LABELS or plain in _ABOUT


def _plain(name: str) -> str:
    return _SEPARATORS.sub("", name).lower()
