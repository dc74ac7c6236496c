"""Generates docs/status.md: the status page and the fields of its JSON."""

from dataclasses import fields
from typing import Any, get_type_hints

from exporter.api.request_log import Exchange
from exporter.serving import schema
from exporter.views import Day, Hour, ProblemView, Thresholds
from reference.markdown import MADE, attributes, code, table

_INTRODUCTION = """# The status page and its JSON

The page at `/` answers: is all well, what is dropping since when, and how old is the data? It shows:

- the health, with every cause, the worst first; if it is good, what that is based on,
- tiles with the number of media in each state; a click on a tile filters the media,
- the incidents: onset, duration, worst ratio, plays lost, and whether they are open, ended or accepted as the new
  baseline; the media of a merchant's incident are folded under it,
- for each merchant the plays of the last hour, the last 24 hours, the newest row, and folded: the request budget, the
  token and the last error that is resolved,
- for each media its state, its drop, the plays and expected plays of the last hour, the last 24 hours (judged, warning,
  critical, no data) and the age of its data; its newest error while it fails; the worst first,
- folded: the newest requests to the API; failed requests are kept longer.

`/media?merchant=ID&media=ID` is the page of one media: its plays against the expected plays, its last 24 hours, its
incidents, its streams with the age of their data, its newest requests, its labels and thresholds.

The pages refresh every 10 seconds. 50 media are shown at once, 20 on a phone. The filter, the tile, the sort order and
the page are in the address, so that a link shows the same. Times are in `api.timezone`; hover over one to see UTC. The
pages load nothing from other hosts, and work without JavaScript.

![The status page of the demo](images/status.png)

## Health

The health is the worst of its causes:

- **Bad:** a critical drop, a drop of a whole merchant, refused credentials, an API that is down, no row ever, rows
  older than 20 minutes (whether the API responds or not, and also if nobody plays anything), rows that show that
  `api.timezone` is wrong, a state file that cannot be written, polling that has stopped.
- **Warning:** a warning drop, a drop whose plays are back but not yet for ten minutes, rows older than 12 minutes,
  media that are gone (404), media with a `ref_id` that the catalog does not have yet, media files with an error,
  failing streams, stale media, more than half of a merchant's media still learning, a rate limit (429), more streams
  than the budget can fetch within `max_staleness`, values that are not counted yet, a wrong clock, no response yet.
- **Good** says how many media are judged, and how old the newest row is.

A media is *stale* when it has no data at all, or when the newest data of one of its streams is older than `max_lag` and
`max_staleness` together.

## JSON

`/api/v1/status` returns the same data as JSON. Times are Unix seconds; unknown values are `null`. New fields can be
added; in version 1, existing fields keep their names and meanings. `?merchant=ID` selects one merchant, for the page
and for the JSON. With more than 1,000 media of several merchants, the page lists media only with `?merchant=ID`.

```
curl -s localhost:10077/api/v1/status | jq '.merchants[].media[] | select(.drop.state == "critical") | .name'
curl -s localhost:10077/api/v1/status | jq -r '.health, .causes[].message'
```
"""

# Class -> its place in the JSON.
_PARTS: tuple[tuple[type, str], ...] = (
    (schema.Status, "The whole status"),
    (schema.Cause, "`causes[]`"),
    (schema.MerchantStatus, "`merchants[]`"),
    (schema.MediaStatus, "`merchants[].whole` and `merchants[].media[]`"),
    (schema.Drop, "`drop`"),
    (Thresholds, "`thresholds`"),
    (Hour, "`hour`"),
    (Day, "`day`"),
    (schema.StreamStatus, "`data[]`"),
    (schema.IncidentStatus, "`merchants[].incidents[]`"),
    (Exchange, "`requests[]`"),
    (ProblemView, "`problems[]`"),
)

_WORDS = {"str": "text", "float": "number", "int": "whole number", "bool": "true or false", "None": "null"}

# The types of fields that are objects.
_OBJECTS = ("Hour", "Day", "Thresholds")


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
    return " or ".join(_WORDS.get(word, "object" if word.endswith(_OBJECTS) else "text") for word in text.split(" | "))
