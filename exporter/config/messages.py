"""From pydantic's errors to lines for an operator: `place: what is wrong; how to mend it`."""

import difflib
import re
from collections.abc import Mapping, Sequence

from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from exporter.config.yaml_file import ConfigFile, Loc, kind_of, place_of
from exporter.invisible import escape_invisible, find_invisible

# The settings that are secrets; each can also be given as `…_file` and `…_env`.
SECRETS = ("api_key", "password")

NOT_TEXT = "expected text, found {found}; {as_text}"
_NOT_A_SECTION = "expected keys with values, found {kind}; write one `key: value` a line"

# pydantic's type of an error -> what the operator is told. What a validator raises here is told as it is.
_MESSAGES = {
    "missing": "is missing; add it",
    "extra_forbidden": "unknown key; {hint}",
    "string_type": NOT_TEXT,
    "path_type": NOT_TEXT,
    "bool_type": "expected true or false, found {found}; write one of them without quotes",
    "int_type": "expected a whole number, found {found}; write one such as 45, without quotes",
    "float_type": "expected a number, found {found}; write one such as 0.5, without quotes",
    "finite_number": "{value} is not finite; write a number such as 0.5",
    "greater_than": "{value} is too small; write more than {bound}",
    "greater_than_equal": "{value} is too small; write {bound} or more",
    "less_than": "{value} is too large; write less than {bound}",
    "less_than_equal": "{value} is too large; write {bound} or less",
    "enum": "{found} is not known; write one of {expected}",
    "tuple_type": "expected a list, found {found}; begin each entry with a dash",
    "model_type": _NOT_A_SECTION,
    "dict_type": _NOT_A_SECTION,
}


def fault(message: str, key: str = "") -> PydanticCustomError:
    """What a validator raises.

    Args:
        message: What is wrong; how to mend it. `{value}` stands for the value as the file has it, and
            `{found}` for the same with a word on what YAML makes of it.
        key: The key in the file, where it is not the field's name.
    """
    return PydanticCustomError("fault", "{message}", {"message": message, "key": key})


def raised_again(error: ErrorDetails) -> InitErrorDetails:
    """A fault that was raised, in the form that can be raised again."""
    context = {"message": error["msg"], **error.get("ctx", {})}
    cause = PydanticCustomError(error["type"], "{message}", context)
    return InitErrorDetails(type=cause, loc=error["loc"], input=error["input"])


def told(error: ErrorDetails, file: ConfigFile, sections: Mapping[str, Sequence[str]]) -> str:
    """The line for one of pydantic's errors.

    Args:
        error: The error.
        file: What was validated.
        sections: The keys that are known in each section, by the key that leads there, "" for the whole file.
    """
    context, value = error.get("ctx", {}), error["input"]
    loc: Loc = tuple(step for step in error["loc"] if step != "[key]")
    if context.get("key"):
        loc = (*loc[:-1], context["key"])
    message = _MESSAGES.get(error["type"], error["msg"])
    if value is None and re.search(r"\{(found|kind|value)\}", message):
        message = "has no value; write one, or remove the line"
    kind = kind_of(value)
    written = "" if loc[-1:] in [(name,) for name in SECRETS] else file.written.get(loc, "")
    shown = f"`{escape_invisible(written)}`" if written else kind
    details = {
        "kind": kind,
        "value": shown,
        "found": f"{shown} ({kind})" if written and not isinstance(value, str) else shown,
        "as_text": "write a single value" if isinstance(value, dict | list) else "put it in quotes",
        "expected": context.get("expected", "").replace("'", ""),
        "bound": "".join(f"{context[name]:.0f}" for name in ("gt", "ge", "lt", "le") if name in context),
        "hint": _hint(loc, sections) if error["type"] == "extra_forbidden" else "",
    }
    text = re.sub(r"\{(\w+)\}", lambda match: details.get(match[1], match[0]), message)
    return f"{place_of(loc)}: {text}"


def _hint(loc: Loc, sections: Mapping[str, Sequence[str]]) -> str:
    """What an unknown key may have been meant to be."""
    section = next((step for step in reversed(loc[:-1]) if isinstance(step, str)), "")
    if found := find_invisible(str(loc[-1])):
        return f"it contains {found}, remove it"
    close = difflib.get_close_matches(str(loc[-1]), sections[section], 1)
    return f"did you mean {close[0]}?" if close else f"known here are {', '.join(sections[section])}"
