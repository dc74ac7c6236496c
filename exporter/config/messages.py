"""Error lines of a configuration, made from pydantic's errors: `place: what is wrong; how to fix it (file:line)`."""

import difflib
import re
from collections.abc import Mapping, Sequence

from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from exporter.config.yaml_dialect import kind_of
from exporter.config.yaml_file import ConfigFile, Loc, place_of
from exporter.invisible import escape_invisible, find_invisible

# Settings that are secrets, or have one inside; each can also be set by `…_file` and `…_env`.
ACCOUNT = ("api_key", "password")
PROXY = ("proxy_url",)
SECRETS = (*ACCOUNT, *PROXY)

# What config.example.yaml has where everybody has a value of their own; a mail address begins with it.
PLACEHOLDER = "replace-me"

NOT_TEXT = "expected text, found {found}; {as_text}"
_NOT_A_SECTION = "expected keys with values, found {kind}; write `key: value` lines"

# pydantic's error type -> message. Errors of the validators in this package bring their own message.
_MESSAGES = {
    "missing": "is missing; add it",
    "extra_forbidden": "unknown key; {hint}",
    "string_type": NOT_TEXT,
    "path_type": NOT_TEXT,
    "bool_type": "expected true or false, found {found}; write true or false without quotes",
    "int_type": "expected a whole number, found {found}; write one such as 45, without quotes",
    "float_type": "expected a number, found {found}; write one such as 0.5, without quotes",
    "finite_number": "{value} is not finite; write a finite number such as 0.5",
    "greater_than": "{value} is too small; write a number greater than {bound}",
    "greater_than_equal": "{value} is too small; write {bound} or more",
    "less_than": "{value} is too large; write a number less than {bound}",
    "less_than_equal": "{value} is too large; write {bound} or less",
    "enum": "{found} is not valid; write one of {expected}",
    "tuple_type": "expected a list, found {found}; start each entry with a dash",
    "model_type": _NOT_A_SECTION,
    "dict_type": _NOT_A_SECTION,
}


def setting_error(message: str, key: str = "") -> PydanticCustomError:
    """The error that a validator raises.

    Args:
        message: What is wrong; how to fix it. `{value}` stands for the value as written in the file, `{found}` for the
            value and its kind in YAML.
        key: The key in the file, where it differs from the field's name.
    """
    return PydanticCustomError("setting", "{message}", {"message": message, "key": key})


def placeholder_problem(text: str, wanted: str) -> str | None:
    """Why a text is not valid if it is still that of config.example.yaml, else None.

    Args:
        text: The text.
        wanted: What to write instead.
    """
    if text.lower().partition("@")[0] != PLACEHOLDER:
        return None
    return f"is still {PLACEHOLDER}, as in config.example.yaml; write {wanted}"


def init_details(error: ErrorDetails) -> InitErrorDetails:
    """An error of a ValidationError in the form that makes a new ValidationError."""
    context = {"message": error["msg"], **error.get("ctx", {})}
    cause = PydanticCustomError(error["type"], "{message}", context)
    return InitErrorDetails(type=cause, loc=error["loc"], input=error["input"])


def error_line(error: ErrorDetails, file: ConfigFile, sections: Mapping[str, Sequence[str]]) -> str:
    """Format one of pydantic's errors as `place: what is wrong; how to fix it (file:line)`.

    Args:
        error: The error.
        file: The validated file.
        sections: The valid keys of each section, by the key of the section, "" for the top level.
    """
    context, value = error.get("ctx", {}), error["input"]
    loc: Loc = tuple(step for step in error["loc"] if step != "[key]")
    # The key itself is wrong, not its value.
    of_key = len(loc) < len(error["loc"]) or error["type"] == "extra_forbidden"
    if context.get("key"):
        loc = (*loc[:-1], context["key"])
    message = _MESSAGES.get(error["type"], error["msg"])
    if value is None and re.search(r"\{(found|kind|value)\}", message):
        message = "has no value; write one, or remove the line"
    kind = kind_of(value)
    source = file.source(loc)
    written = "" if loc[-1:] in [(name,) for name in SECRETS] else source.text
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
    return f"{place_of(loc)}: {text} {file.at(source.key_line if of_key else source.line)}"


def _hint(loc: Loc, sections: Mapping[str, Sequence[str]]) -> str:
    """How to fix an unknown key."""
    section = next((step for step in reversed(loc[:-1]) if isinstance(step, str)), "")
    if found := find_invisible(str(loc[-1])):
        return f"remove {found}"
    close = difflib.get_close_matches(str(loc[-1]), sections[section], 1)
    return f"did you mean {close[0]}?" if close else f"valid keys are {', '.join(sections[section])}"
