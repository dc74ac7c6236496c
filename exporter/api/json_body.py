"""The bodies of the API's answers: parsing their JSON, and describing unusable ones. Pure."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from math import inf
from typing import Any, NoReturn

from exporter.api.limits import LARGEST_ERROR
from exporter.errors import MalformedAnswer

LONGEST_EXCERPT = 80
LONGEST_ERROR = 200

# Bytes read of an error's body that is not JSON.
_PAGE_BYTES = 4096

# A number with more digits may be larger than any float, and is slow to parse.
_MOST_DIGITS = 300

_ERROR_KEY = re.compile(r"code|message|msg|error|detail|description|reason", re.IGNORECASE)
_ERROR_CODE = re.compile(r"[A-Z_]*(?:ERROR|NOT_FOUND|BAD_REQUEST|UNAUTHORIZED|FORBIDDEN|TOO_MANY)[A-Z_]*")


_AS_JSON = json.JSONEncoder(ensure_ascii=False)


class _NotPlainJson(ValueError):
    """JSON that Python accepts, but that is ambiguous or no JSON."""


class Twice(tuple[Any, ...]):
    """The different values of a key that an object has more than once."""

    __slots__ = ()


def load(body: bytes) -> Any:
    """The JSON of an answer.

    Raises:
        MalformedAnswer: It is not JSON, has NaN or Infinity, or an object has a key twice with different values.
    """
    return _load(body, lambda text: json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_strict))


def load_rows(body: bytes) -> Any:
    """The JSON of an answer whose values are checked one by one.

    A list in braces without a key is read as the list. NaN, Infinity and numbers of hundreds of digits become floats
    that are not finite. A key with different values becomes a `Twice`.

    Raises:
        MalformedAnswer: It is not JSON.
    """
    return _load(body, lambda text: json.loads(_without_braces(text), parse_int=_integer, object_pairs_hook=_lenient))


def _load(body: bytes, read: Callable[[str], Any]) -> Any:
    text = ""
    try:
        text = body.decode("utf-8-sig").strip(" \t\r\n")
        return read(text)
    except UnicodeDecodeError:
        problem = "not UTF-8"
    except RecursionError:
        problem = "nested too deeply"
    except json.JSONDecodeError as error:
        problem = f"not JSON ({error.msg}, character {error.pos})" if text else "empty"
    except _NotPlainJson as error:
        problem = str(error)
    except ValueError:
        problem = "a number of thousands of digits"
    raise MalformedAnswer(f"{problem}: {clean(text, LONGEST_EXCERPT)}" if text else problem)


def _without_braces(text: str) -> str:
    # The manual prints the list so. An object cannot begin like that.
    if not re.match(r"\{\s*\[", text) or not text.endswith("}"):
        return text
    inner = text[1:-1].strip().removesuffix(",").rstrip()
    return re.sub(r"\}\s*,\s*\]\Z", "}]", inner)


def _refuse_constant(name: str) -> NoReturn:
    raise _NotPlainJson(f"{name} is not a number")


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else -inf if digits.startswith("-") else inf


def _lenient(members: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(members)
    if len(read) == len(members):
        return read
    found: dict[str, list[Any]] = {}
    for key, value in members:
        found.setdefault(key, []).append(value)
    return {
        key: Twice(values) if any(value != values[0] for value in values) else values[0]
        for key, values in found.items()
    }


def _strict(members: list[tuple[str, Any]]) -> dict[str, Any]:
    read = _lenient(members)
    if any(isinstance(value, Twice) for value in read.values()):
        raise _NotPlainJson("an object that has a key twice")
    return read


def error_text(body: bytes) -> str:
    """Code and message of an error's body as one short printable line, whatever form the body has."""
    try:
        answer = load(body[:LARGEST_ERROR])
    except MalformedAnswer:
        page = body[:_PAGE_BYTES].decode(errors="ignore") + ("…" if len(body) > _PAGE_BYTES else "")
        return clean(re.sub(r"<[^>]*>", " ", page), LONGEST_ERROR)
    return error_summary(answer) or (clean(answer, LONGEST_ERROR) if isinstance(answer, str) else excerpt(answer))


def excerpt(value: object) -> str:
    """A value of an answer as one short printable line."""
    written, size = list[str](), 0
    try:
        # Only the part that is shown is written: a row can be megabytes.
        for piece in _AS_JSON.iterencode(value):
            written.append(piece)
            size += len(piece)
            if size > 20 * LONGEST_EXCERPT:
                break
    except RecursionError:
        return "(deeply nested)"
    return clean("".join(written), LONGEST_EXCERPT)


def clean(text: str, longest: int) -> str:
    """A text as one printable line of at most `longest` characters; a cut text ends with `…`."""
    start = text[: 20 * longest]
    line = " ".join("".join(char if char.isprintable() else " " for char in start).split())
    return line if len(line) <= longest and start == text else line[: longest - 1] + "…"


def is_error(answer: Mapping[str, Any]) -> bool:
    """Whether an object reports an error, whatever the HTTP status is."""
    for key, value in answer.items():
        name = key.lower()
        if name in ("error", "errors") and value:
            return True
        if name in ("code", "error_code", "errorcode", "status"):
            if isinstance(value, str) and _ERROR_CODE.fullmatch(value):
                return True
            if isinstance(value, int) and 400 <= value <= 599:
                return True
    return False


def error_summary(answer: object) -> str:
    """Code and message of an error, whatever their keys are, as one short printable line; "" if there are none."""
    leaves = [leaf for leaf in islice(_leaves(answer), 100) if _ERROR_KEY.search(leaf[0])]
    leaves.sort(key=lambda leaf: "code" not in leaf[0].lower())
    return clean(": ".join(dict.fromkeys(text for _, text in leaves)), LONGEST_ERROR)


def _leaves(value: object, key: str = "", depth: int = 4) -> Iterator[tuple[str, str]]:
    if isinstance(value, str) or type(value) in (int, float):
        yield key, str(value)
    elif depth and isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, name, depth - 1)
    elif depth and isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, key, depth - 1)
