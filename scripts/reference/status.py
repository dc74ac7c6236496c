"""docs/status.md: the status page, and the fields of its JSON."""

from dataclasses import fields
from typing import Any, get_type_hints

from exporter.api.request_log import Exchange
from exporter.serving import status
from exporter.views import Hour, ProblemView
from reference.markdown import MADE, attributes, code, table

_INTRODUCTION = """# The status page and its JSON

The page at `/` tells how all is in one line; of each merchant the budget, the token, how far the rows reach and the
last error; of each media the plays of the last hour with the expected line, whether they have dropped, and how stale it
is; and the newest requests, those that failed for longer. It renews itself every 10 seconds and keeps what you sorted
and filtered. It loads nothing from elsewhere, and works without JavaScript, too.

![The status page of the demo](images/status.png)

The same is served as JSON at `/api/v1/status`. Times are Unix seconds; what is not known is `null`. Fields can be
added; those that are here keep their names and meanings in version 1. `?merchant=ID`, here and at `/`, is only about
that merchant; with more than 1,000 media of several merchants, the page shows media only so.

```
curl -s localhost:10077/api/v1/status | jq '.merchants[].media[] | select(.drop.state == "critical") | .name'
```
"""

# With the place of each in the JSON.
_PARTS: tuple[tuple[type, str], ...] = (
    (status.Status, "The whole"),
    (status.MerchantStatus, "`merchants[]`"),
    (status.MediaStatus, "`merchants[].whole` and `merchants[].media[]`"),
    (status.Drop, "`drop`"),
    (Hour, "`hour`"),
    (Exchange, "`requests[]`"),
    (ProblemView, "`problems[]`"),
)

_WORDS = {"str": "text", "float": "number", "int": "whole number", "bool": "true or false", "None": "null"}


def document() -> str:
    """The document."""
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
