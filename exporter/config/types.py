"""Types of settings and checks of lists, as annotations for pydantic models."""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    StrictStr,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import InitErrorDetails

from exporter.config.messages import NOT_TEXT, init_details, placeholder_problem, setting_error
from exporter.config.yaml_file import Loc
from exporter.invisible import find_garbling, find_invisible
from exporter.model import Group, Target
from exporter.times import format_duration, parse_duration

# The exporter's own labels of `smartstream_media_info`.
RESERVED_LABELS = frozenset({"merchant_id", "media_id", "name", "ref_id", "encode_type"})

# File name extensions of media files.
MEDIA_SUFFIXES = (".yaml", ".yml", ".csv")


class CatalogField(StrEnum):
    """A field of the API's catalog that can become a label of `smartstream_media_info`."""

    TAGS = "tags"


# Upper limit of numbers, so that arithmetic with a typo does not overflow.
_MOST = 1_000_000


def _seconds(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str):
        try:
            return parse_duration(value)
        except ValueError:
            raise setting_error("{found} is not a duration; write one such as 90s, 2m or 1h30m") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise setting_error("expected a duration, found {found}; write one such as 90s, 2m or 1h30m")
    if info.context is None:
        return value  # only a file needs a unit; code passes seconds
    example = f"{value}s" if isinstance(value, int) and 0 <= value <= _MOST else "90s"
    raise setting_error(f"{{value}} has no unit; write it with a unit, such as {example}")


def between(least: str, most: str) -> AfterValidator:
    """Check that a duration is in a range, both ends included."""

    def check(seconds: float) -> float:
        if not parse_duration(least) <= seconds <= parse_duration(most):
            raise setting_error(f"{{value}} is out of range; write a duration from {least} to {most}")
        return seconds

    return AfterValidator(check)


def at_most(most: int) -> AfterValidator:
    """Check that a number is not greater than a limit."""

    def check(value: int) -> int:
        if value > most:
            raise setting_error(f"{{value}} is out of range; write a number from 1 to {most}")
        return value

    return AfterValidator(check)


def not_below(other: str) -> AfterValidator:
    """Check that a duration is not less than that of another field, which is declared before it."""

    def check(seconds: float, info: ValidationInfo) -> float:
        floor = info.data.get(other, 0.0)
        if seconds < floor:
            what = f"{format_duration(seconds)} is less than {other} ({format_duration(floor)})"
            raise setting_error(f"{what}; raise {info.field_name} or lower {other}")
        return seconds

    return AfterValidator(check)


def _without(find: Callable[[str], str | None]) -> AfterValidator:
    """Check that a text has none of the characters that `find` finds."""

    def check(text: str) -> str:
        # The text is not shown: it looks correct, or it would reverse the message.
        if found := find(text):
            raise setting_error(f"contains {found}; remove it")
        return text

    return AfterValidator(check)


_visible = _without(find_invisible)


def _url(text: str) -> str:
    # The value is never shown: it may contain a password.
    fix = "write one such as https://api.example.com/v1"
    try:
        parts = urlsplit(text)
        has_host = bool(parts.hostname) and parts.port != 0
        # The limits of DNS labels; no request could be sent to another name.
        has_host = has_host and all(0 < len(each) < 64 for each in (parts.hostname or "").rstrip(".").split("."))
    except ValueError:
        raise setting_error(f"is not a valid URL; {fix}") from None
    if "@" in text:
        raise setting_error("must not contain a user or a password; set mail_address and password of the merchant")
    if "?" in text or "#" in text:
        raise setting_error("must not contain a query or a fragment; end the URL after the path")
    if parts.scheme not in ("http", "https") or not has_host or " " in text:
        raise setting_error(f"is not an http or https URL; {fix}")
    return text.rstrip("/")


def _zone(value: object) -> object:
    if isinstance(value, ZoneInfo):
        return value
    if not isinstance(value, str):
        raise setting_error(NOT_TEXT)
    try:
        return ZoneInfo(value)
    except (OSError, LookupError, ValueError):
        # Only names with a slash: MST is the closest name to JST, and wrong for Tokyo.
        close = difflib.get_close_matches(value, sorted(each for each in available_timezones() if "/" in each), 1)
    raise setting_error(f"unknown time zone {{value}}; write an IANA name such as {(close or ['Asia/Tokyo'])[0]}")


def _matching(pattern: str, message: str) -> AfterValidator:
    """Check that the whole text matches a pattern."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise setting_error(message)
        return text

    return AfterValidator(check)


def replaced(wanted: str) -> AfterValidator:
    """Check that a text is not that of config.example.yaml; `wanted` is what to write instead."""

    def check(text: str) -> str:
        if problem := placeholder_problem(text, wanted):
            raise setting_error(problem)
        return text

    return AfterValidator(check)


def _not_reserved(name: str) -> str:
    if name in RESERVED_LABELS:
        raise setting_error("is reserved for the exporter; choose another name")
    return name


def _state_path(value: object) -> object:
    if value == "":
        raise setting_error("{value} is not a valid path; write one such as state.db")
    if isinstance(value, str) and (found := find_invisible(value)):
        raise setting_error(f"contains {found}; remove it")
    return value


# (position in the list, what is wrong; how to fix it)
_Finding = tuple[Loc, str]


def listed(find: Callable[[list[Any], Mapping[str, Any]], Iterator[_Finding]]) -> WrapValidator:
    """Report the errors that `find` yields for a list together with the errors inside its items.

    `find` gets the list as written and the fields that are validated before this one.
    """

    def check(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        found = list(find(list(value), info.data)) if isinstance(value, list | tuple) else []
        errors = [InitErrorDetails(type=setting_error(message), loc=loc, input="") for loc, message in found]
        try:
            result = handler(value)
        except ValidationError as error:
            errors += map(init_details, error.errors(include_url=False))
        if errors:
            raise ValidationError.from_exception_data("list", errors, hide_input=True)
        return result

    return WrapValidator(check)


def unique(key: str | None = None) -> WrapValidator:
    """Check that the items of a list, or the values of `key` in its items, are unique."""

    def find(items: list[Any], _: Mapping[str, Any]) -> Iterator[_Finding]:
        first: dict[str, int] = {}
        for position, item in enumerate(items):
            value = item if key is None else item.get(key) if isinstance(item, dict) else getattr(item, key, None)
            if not isinstance(value, str):
                continue
            if value in first:
                loc: Loc = (position,) if key is None else (position, key)
                yield loc, f"{{value}} is a duplicate of entry [{first[value]}]; keep one"
            first.setdefault(value, position)

    return listed(find)


def _not_empty(items: list[Any], _: Mapping[str, Any]) -> Iterator[_Finding]:
    if not items:
        yield (), "is empty; add at least one entry"


# pydantic's own minimum length also rejects a list whose items are all invalid.
at_least_one = listed(_not_empty)

Duration = Annotated[float, BeforeValidator(_seconds), PlainSerializer(format_duration)]
Url = Annotated[StrictStr, _visible, AfterValidator(_url)]
Zone = Annotated[ZoneInfo, BeforeValidator(_zone), PlainSerializer(str)]
Identifier = Annotated[
    StrictStr,
    _visible,
    _matching(r"(?!\.\.?$)[^ /]+", "{value} is not a valid id; write it without spaces and slashes"),
]
# A merchant's own id of a media, in the catalog. It may have spaces and slashes.
ReferenceId = Annotated[
    StrictStr,
    _visible,
    _matching(r"[^ ](.*[^ ])?", "{value} is not a valid ref_id; write it without spaces at its start and end"),
]
MailAddress = Annotated[
    StrictStr,
    _visible,
    _matching(r"[^ ]+", "{value} is not a valid mail address; write it without spaces"),
    replaced("the mail address of the account that signs in"),
]
LabelName = Annotated[
    StrictStr,
    _matching(
        r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*",
        "is not a valid label name; use letters, digits and _, and start with a letter",
    ),
    AfterValidator(_not_reserved),
]
HostName = Annotated[
    StrictStr,
    _matching(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", "{value} is not a host name; write one such as api.example.com"),
]
HostList = Annotated[
    StrictStr,
    _visible,
    _matching(r"(?!.*://)[^@]*", "{value} is not a list of hosts; write one such as localhost,.example.com"),
]
# Text for display.
Text = Annotated[StrictStr, _without(find_garbling)]
Labels = Annotated[Mapping[LabelName, Text], AfterValidator(MappingProxyType), PlainSerializer(dict)]
MediaPattern = Annotated[
    StrictStr,
    _visible,
    _matching(
        rf".+({'|'.join(map(re.escape, MEDIA_SUFFIXES))})",
        f"{{value}} is not a file of media; write a name or a pattern that ends with {', '.join(MEDIA_SUFFIXES)}",
    ),
]
StatePath = Annotated[Path, BeforeValidator(_state_path)]
Count = Annotated[int, Field(strict=True, ge=1, le=_MOST)]
Weight = Annotated[float, Field(strict=True, gt=0, le=_MOST, allow_inf_nan=False)]

Share = Annotated[float, Field(strict=True, gt=0, lt=1, allow_inf_nan=False)]

# Default weights: fresh total plays matter more than plays by group and other targets.
_WEIGHTS: Mapping[str, float] = {
    Target.PLAY_COUNT: 1.0,
    Target.PLAY_TIME: 0.2,
    Target.PLAYER_COUNT: 0.2,
    Target.DEVICE_COUNT: 0.2,
    Target.SESSION_COUNT: 0.2,
    Target.AVERAGE_PLAY_TIME: 0.1,
    Target.KEY_DELIVERY_COUNT: 0.02,
    **dict.fromkeys(Group, 0.1),
    Group.ALL: 1.0,
}


def _weight_name(name: str) -> str:
    if name not in _WEIGHTS:
        close = difflib.get_close_matches(name, _WEIGHTS, 1) or ["play_count"]
        raise setting_error(f"is neither a target nor a group; write one such as {close[0]}")
    return name


Weights = Annotated[
    Mapping[Annotated[StrictStr, AfterValidator(_weight_name)], Weight],
    AfterValidator(lambda configured: MappingProxyType({**_WEIGHTS, **configured})),
    PlainSerializer(lambda weights: {str(name): weight for name, weight in weights.items()}),
]
