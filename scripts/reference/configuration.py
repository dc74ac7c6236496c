"""Generates docs/configuration.md: every key of the configuration, from its models, and the example."""

import types
from collections.abc import Iterator, Mapping
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin
from zoneinfo import ZoneInfo

from pydantic import BaseModel, PlainSerializer, SecretStr
from pydantic.fields import FieldInfo

from exporter.config import settings
from exporter.config.tls_files import PemFile
from exporter.model import Target
from exporter.times import format_duration
from reference.markdown import MADE, attributes, code, table

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"

_INTRODUCTION = """# Configuration

The configuration is one YAML file: `config.yaml`, or the file that `--config.file` names. The tables list every key.
The [example](../config.example.yaml) below them explains when to change a setting; copy it to start.
`/config` shows the current configuration, without secrets.

`smartstream-exporter check-config [FILE]` validates a file and lists every error, with its place, how to fix it, and
the line of the file:

```
merchants[0].media[7].priority: `0` is too small; write a number greater than 0 (config.yaml:52)
```

Durations use the format of Prometheus: `500ms`, `90s`, `2m`, `1h30m`, `1d`. Set a secret as a value (`api_key`), from
a file (`api_key_file`, relative to the folder of the configuration) or from an environment variable (`api_key_env`).
`proxy_url` is a secret, too. [network.md](network.md) explains proxies, a private CA and client certificates.
"""

_WORDS: Mapping[object, str] = {
    SecretStr: "text",
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    ZoneInfo: "time zone",
    Path: "path",
    PemFile: "path",
}


def document() -> str:
    """The text of docs/configuration.md."""
    filled = settings.Settings.model_validate(
        {
            "merchants": [
                {
                    "id": "x",
                    "api_key": "x",
                    "mail_address": "x",
                    "password": "x",
                    "collect": [{"target": Target.PLAY_COUNT}],
                    "media": [{"id": "x"}],
                }
            ]
        }
    )
    parts = _sections("", settings.Settings, filled.model_dump(mode="json"))
    tables = "".join(f"\n## {heading}\n\n{text}" for heading, text in parts)
    example = EXAMPLE.read_text(encoding="utf-8")
    return f"{MADE}{_INTRODUCTION}{tables}\n## The example\n\n```yaml\n{example}```\n"


def _sections(path: str, model: type[BaseModel], values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Heading and table of a model and of its nested models, depth first."""
    meanings = attributes(model)
    below = []
    rows = []
    for name, field in model.model_fields.items():
        key = f"{path}.{name}".lstrip(".")
        inner, several = _model(field.annotation)
        rows.append((code(name), _kind(field), _default(field, values.get(name)), meanings[name]))
        if inner is not None:
            value = values.get(name) or {}
            below.append((f"{key}[]" if several else key, inner, value[0] if several else value))
    yield code(path) if path else "Top level", table(("key", "value", "default", "description"), rows)
    for key, inner, value in below:
        # A section that exists on several levels, such as `drop`, is described once.
        if value:
            yield from _sections(key, inner, value)


def _model(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The nested model of a key, if any, and whether the key is a list of it."""
    several = get_origin(annotation) is tuple
    kind = get_args(annotation)[0] if several else _bare(annotation)
    return (kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None), several


def _kind(field: FieldInfo) -> str:
    annotation = _bare(field.annotation)
    # Of an optional field, the type itself has them.
    metadata = chain(field.metadata, *(getattr(each, "__metadata__", ()) for each in get_args(field.annotation)))
    if any(isinstance(each, PlainSerializer) and each.func is format_duration for each in metadata):
        return "duration"
    if annotation is settings.DropSettings:
        return "section, or `false`"
    inner, several = _model(annotation)
    if inner is not None:
        return "list of sections" if several else "section"
    if get_origin(annotation) is tuple:
        return f"list of {_words(get_args(annotation)[0])}"
    return _words(annotation)


def _bare(annotation: Any) -> Any:
    """A type without `Annotated` and `None`."""
    if get_origin(annotation) in (Annotated, Union, types.UnionType):
        return _bare(next(each for each in get_args(annotation) if each is not type(None)))
    return annotation


def _words(annotation: Any) -> str:
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return ", ".join(map(code, annotation))
    return _WORDS.get(annotation, "map of names to values")


def _default(field: FieldInfo, value: Any) -> str:
    if field.is_required():
        return "required"
    if isinstance(value, dict) or value is None:
        return ""
    if isinstance(value, bool):
        return code(str(value).lower())
    if isinstance(value, list):
        return code(f"[{', '.join(value)}]") if value and isinstance(value[0], str) else ""
    return code(f"{value:g}" if isinstance(value, float) else str(value))
