"""Generates docs/status.md: the status page and the fields of its JSON."""

from dataclasses import fields
from typing import Any, get_type_hints

from exporter.api.request_log import Exchange
from exporter.serving import schema
from exporter.views import Hour, ProblemView
from reference.markdown import MADE, attributes, code, table

_INTRODUCTION = """# The status page and its JSON

The page at `/` shows:

- the overall health in one line,
- for each merchant the request budget, the token, the newest data and the last error,
- for each media the plays and expected plays of the last hour, drops and staleness,
- the newest requests to the API; failed requests are kept longer.

It refreshes every 10 seconds and keeps your sort order and filter. It loads nothing from other hosts, and works without
JavaScript.

![The status page of the demo](images/status.png)

`/api/v1/status` returns the same data as JSON. Times are Unix seconds; unknown values are `null`. New fields can be
added; in version 1, existing fields keep their names and meanings. `?merchant=ID` selects one merchant, for the page
and for the JSON. With more than 1,000 media of several merchants, the page lists media only with `?merchant=ID`.

```
curl -s localhost:10077/api/v1/status | jq '.merchants[].media[] | select(.drop.state == "critical") | .name'
```
"""

# Class -> its place in the JSON.
_PARTS: tuple[tuple[type, str], ...] = (
    (schema.Status, "The whole status"),
    (schema.MerchantStatus, "`merchants[]`"),
    (schema.MediaStatus, "`merchants[].whole` and `merchants[].media[]`"),
    (schema.Drop, "`drop`"),
    (Hour, "`hour`"),
    (Exchange, "`requests[]`"),
    (ProblemView, "`problems[]`"),
)

_WORDS = {"str": "text", "float": "number", "int": "whole number", "bool": "true or false", "None": "null"}


def document() -> str:
    """The text of docs/status.md."""
    return MADE + _INTRODUCTION + "".join(f"\n## {heading}\n\n{_fields(part)}" for part, heading in _PARTS)


def _fields(part: type) -> str:
    meanings = attributes(part)
    hints = get_type_hints(part)
    rows = [(code(field.name), _kind(hints[field.name]), meanings[field.name]) for field in fields(part)]
    return table(("field", "type", "meaning"), rows)


def _kind(hint: Any) -> str:
    text = str(hint) if "[" in str(hint) or "|" in str(hint) else hint.__name__
    if "tuple" in text:
        return "list"
    if "Mapping" in text or text in ("Drop", "MediaStatus"):
        return "object"
    return " or ".join(_WORDS.get(word, "object" if "Hour" in word else "text") for word in text.split(" | "))
