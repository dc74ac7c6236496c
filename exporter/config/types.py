"""The types of single settings, and checks of lists, as annotations for pydantic models."""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
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

from exporter.config.messages import NOT_TEXT, fault, raised_again
from exporter.config.yaml_file import Loc
from exporter.invisible import find_garbling, find_invisible
from exporter.model import Group, Target
from exporter.times import format_duration, parse_duration

# The labels that `smartstream_media_info` has of its own.
RESERVED_LABELS = frozenset({"merchant_id", "media_id", "name", "ref_id", "encode_type"})

# Keeps arithmetic with a mistyped number from overflowing.
_MOST = 1_000_000


def _seconds(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str):
        try:
            return parse_duration(value)
        except ValueError:
            raise fault("{found} is not a duration; write one such as 90s, 2m or 1h30m") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise fault("expected a duration, found {found}; write one such as 90s, 2m or 1h30m")
    if info.context is None:
        return value  # code counts in seconds; only a file has to name the unit
    example = f"{value}s" if isinstance(value, int) and 0 <= value <= _MOST else "90s"
    raise fault(f"{{value}} has no unit; write it with a unit, such as {example}")


def between(least: str, most: str) -> AfterValidator:
    """That a duration is in a range, both ends included."""

    def check(seconds: float) -> float:
        if not parse_duration(least) <= seconds <= parse_duration(most):
            raise fault(f"{{value}} is out of range; write a duration from {least} to {most}")
        return seconds

    return AfterValidator(check)


def at_most(most: int) -> AfterValidator:
    """That a number is not larger than another."""

    def check(value: int) -> int:
        if value > most:
            raise fault(f"{{value}} is out of range; write a number from 1 to {most}")
        return value

    return AfterValidator(check)


def not_below(other: str) -> AfterValidator:
    """That a duration is at least that of another field, which stands before it."""

    def check(seconds: float, info: ValidationInfo) -> float:
        floor = info.data.get(other, 0.0)
        if seconds < floor:
            what = f"{format_duration(seconds)} is shorter than {other}, which is {format_duration(floor)}"
            raise fault(f"{what}; raise {info.field_name} or lower {other}")
        return seconds

    return AfterValidator(check)


def _without(find: Callable[[str], str | None]) -> AfterValidator:
    """That a text has none of the characters that `find` finds."""

    def check(text: str) -> str:
        # The text is not shown: it would look right, or turn the message around.
        if found := find(text):
            raise fault(f"contains {found}; remove it")
        return text

    return AfterValidator(check)


_visible = _without(find_invisible)


def _url(text: str) -> str:
    # The value is never shown: it may hold a password.
    mend = "write one such as https://api.example.com/v1"
    try:
        parts = urlsplit(text)
        has_host = bool(parts.hostname) and parts.port != 0
        # As the DNS has it; else no request could leave.
        has_host = has_host and all(0 < len(each) < 64 for each in (parts.hostname or "").rstrip(".").split("."))
    except ValueError:
        raise fault(f"is not an address; {mend}") from None
    if "@" in text:
        raise fault("must not hold a user or a password; give the account under merchants")
    if "?" in text or "#" in text:
        raise fault("must not hold a query or a fragment; end it with the path")
    if parts.scheme not in ("http", "https") or not has_host or " " in text:
        raise fault(f"is not an http or https address; {mend}")
    return text.rstrip("/")


def _zone(value: object) -> object:
    if isinstance(value, ZoneInfo):
        return value
    if not isinstance(value, str):
        raise fault(NOT_TEXT)
    try:
        return ZoneInfo(value)
    except (OSError, LookupError, ValueError):
        # Names such as MST are close to JST, and wrong for who means Tokyo.
        close = difflib.get_close_matches(value, sorted(each for each in available_timezones() if "/" in each), 1)
    raise fault(f"there is no time zone {{value}}; write one such as {(close or ['Asia/Tokyo'])[0]}")


def _spelled(pattern: str, message: str) -> AfterValidator:
    """That a text as a whole matches a pattern."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise fault(message)
        return text

    return AfterValidator(check)


def _not_reserved(name: str) -> str:
    if name in RESERVED_LABELS:
        raise fault("is a label that the exporter sets itself; choose another name")
    return name


def _state_path(value: object) -> object:
    if value == "":
        raise fault("{value} is not a path; write one such as state.db")
    if isinstance(value, str) and (found := find_invisible(value)):
        raise fault(f"contains {found}; remove it")
    return value


# (where in the list, what is wrong; how to mend it)
_Finding = tuple[Loc, str]


def listed(find: Callable[[list[Any], Mapping[str, Any]], Iterator[_Finding]]) -> WrapValidator:
    """Tell what `find` finds in a list together with the faults inside of its items.

    `find` gets the list as it came and the fields that were read before this one.
    """

    def check(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        found = list(find(list(value), info.data)) if isinstance(value, list | tuple) else []
        faults = [InitErrorDetails(type=fault(message), loc=loc, input="") for loc, message in found]
        try:
            result = handler(value)
        except ValidationError as error:
            faults += map(raised_again, error.errors(include_url=False))
        if faults:
            raise ValidationError.from_exception_data("list", faults, hide_input=True)
        return result

    return WrapValidator(check)


def once(key: str | None = None) -> WrapValidator:
    """That no item of a list, or no value of `key` in its items, is there twice."""

    def find(items: list[Any], _: Mapping[str, Any]) -> Iterator[_Finding]:
        first: dict[str, int] = {}
        for position, item in enumerate(items):
            value = item if key is None else item.get(key) if isinstance(item, dict) else getattr(item, key, None)
            if not isinstance(value, str):
                continue
            if value in first:
                loc: Loc = (position,) if key is None else (position, key)
                yield loc, f"{{value}} is listed twice, first in entry [{first[value]}]; keep one"
            first.setdefault(value, position)

    return listed(find)


def _some(items: list[Any], _: Mapping[str, Any]) -> Iterator[_Finding]:
    if not items:
        yield (), "is empty; list at least one"


# pydantic's own minimum length also complains of a list whose items are all faulty.
at_least_one = listed(_some)

Duration = Annotated[float, BeforeValidator(_seconds), PlainSerializer(format_duration)]
Url = Annotated[StrictStr, _visible, AfterValidator(_url)]
Zone = Annotated[ZoneInfo, BeforeValidator(_zone), PlainSerializer(str)]
Identifier = Annotated[
    StrictStr,
    _visible,
    _spelled(r"(?!\.\.?$)[^ /]+", "{value} is not an id; write it without spaces and /"),
]
MailAddress = Annotated[
    StrictStr,
    _visible,
    _spelled(r"[^ ]+", "{value} is not a mail address; write it without spaces"),
]
LabelName = Annotated[
    StrictStr,
    _spelled(
        r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*",
        "is not a label name; use letters, digits and _, beginning with a letter",
    ),
    AfterValidator(_not_reserved),
]
# Text for people.
Text = Annotated[StrictStr, _without(find_garbling)]
Labels = Annotated[Mapping[LabelName, Text], AfterValidator(MappingProxyType), PlainSerializer(dict)]
StatePath = Annotated[Path, BeforeValidator(_state_path)]
Count = Annotated[int, Field(strict=True, ge=1, le=_MOST)]
Weight = Annotated[float, Field(strict=True, gt=0, le=_MOST, allow_inf_nan=False)]

Share = Annotated[float, Field(strict=True, gt=0, lt=1, allow_inf_nan=False)]

# A request that shows all plays is worth more than one that shows how they are spread, or what else was measured.
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
        raise fault(f"is neither a target nor a group; write one such as {close[0]}")
    return name


Weights = Annotated[
    Mapping[Annotated[StrictStr, AfterValidator(_weight_name)], Weight],
    AfterValidator(lambda given: MappingProxyType({**_WEIGHTS, **given})),
    PlainSerializer(lambda weights: {str(name): weight for name, weight in weights.items()}),
]
