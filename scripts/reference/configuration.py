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
the line of the file. With `--online` it also [asks the API](check-config.md): account, media, permissions, time zone.

```
merchants[0].media[7].priority: `0` is too small; write a number greater than 0 (config.yaml:52)
```

Durations use the format of Prometheus: `500ms`, `90s`, `2m`, `1h30m`, `1d`. Set a secret as a value (`api_key`), from
a file (`api_key_file`, relative to the folder of the configuration) or from an environment variable (`api_key_env`).
`proxy_url` is a secret, too. [network.md](network.md) explains proxies, a private CA and client certificates.
"""

_MEDIA_FILES = """
## Media files

`media_files` of a merchant names files with more of its media, in YAML or CSV. A relative name is relative to the
folder of the configuration. `*`, `?` and `[...]` match as in a shell, and match any number of files, or none. A name
without them must exist. The exporter reads the files again when their content has changed; a new file of a pattern is
found, too. [A live event every day](live-events.md) shows how to use them.

A YAML file is a list of the same entries as `media`:

```yaml
- id: 7f8d4baf20f244fca34acbe3452886ac
  name: Morning news
- ref_id: evening-news-2026-04-01
  labels: {channel: news}
```

A CSV file has a header. The columns `id`, `ref_id`, `name` and `priority` are those of `media`, in any order; one of
`id` and `ref_id` must be there. Every other column is a label of that name. An empty cell is not set. Write entries
with `drop` in a YAML file.

```
ref_id,name,priority,channel
evening-news-2026-04-01,Evening news,5,news
"cup, final",Cup final,,sports
```

- **Encoding:** UTF-8, with or without a byte order mark. In Excel, save as `CSV UTF-8`; the plain `CSV` of a Japanese
  Excel is Shift_JIS, which the exporter refuses. Excel also changes ids that look like numbers, such as `12e34`:
  format the column as text first.
- **Form:** commas between values, quotes around a value with a comma or a quote, `""` for a quote in it.
  Spaces around a value and rows without any text are ignored.

An error in a file is one line with file and line, in the log and on the status page, and
`smartstream_media_files_last_read_successful` is 0. The last valid content of that file stays in use, that of a
deleted file too, and other files and merchants are not affected. At start, a file with an error has no media. An entry
that the configuration or an earlier file has already is left out, and is an error, too.
`smartstream-exporter check-config FILE` validates the media files with the configuration, and exits with 1 if one has
an error. Replace a file in one step: write another file and rename it, as a ConfigMap of Kubernetes does.
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
    return f"{MADE}{_INTRODUCTION}{tables}{_MEDIA_FILES}\n## The example\n\n```yaml\n{example}```\n"


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
        return f"list of {_words(_bare(get_args(annotation)[0]))}"
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
    if isinstance(value, dict) or value is None or field.default == "":
        return ""
    if isinstance(value, bool):
        return code(str(value).lower())
    if isinstance(value, list):
        return code(f"[{', '.join(value)}]") if value and isinstance(value[0], str) else ""
    return code(f"{value:g}" if isinstance(value, float) else str(value))
