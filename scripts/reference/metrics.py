"""Generates docs/metrics.md: every metric family of `/metrics`."""

from collections.abc import Iterable
from datetime import UTC

from exporter.serving.families import FAMILIES, Family
from exporter.serving.instruments import Instruments
from reference.markdown import MADE, code, table

_INTRODUCTION = """# The metrics

All metric families of `/metrics`. A family is present when it has samples: families of a target or a group only if it
is collected, gauges of the last minute only while it is fresh (it ended at most twice `max_staleness` ago).

Counters increase when a response has been counted. The counters of a quiet media increase every few minutes, and after
an outage all missed plays are added in one step. So use ranges of 5 minutes and more:
`increase(smartstream_plays_total[5m])`. The gauges of the last minute show a single minute;
`smartstream_data_timestamp_seconds` shows its end.
"""

_LABELS = """
| label | value |
| --- | --- |
| `merchant_id` | the merchant's id in the configuration |
| `media_id` | the media's id in the configuration |
| `country`, `player`, `site`, `device`, `os`, `percentage` | the value in the API, or `other` (`max_label_values`) |
| `target`, `group` | target and group of the stream, as in the API |
| `direction` | `up` or `down` |
| `severity` | `warning` or `critical` |
| `endpoint` | `auth-token`, `aggregations`, `medias` or `live_events` |
| `code` | the HTTP status, or `error` without a complete response |
| `name`, `ref_id`, `encode_type` | of the media in the catalog; a configured name has precedence |

`smartstream_media_info` also has the configured `labels` of the media. Join with it to show names in a query:

```promql
sum by (name) (
  increase(smartstream_plays_total[5m])
  * on (merchant_id, media_id) group_left (name) smartstream_media_info
)
```
"""


def document() -> str:
    """The text of docs/metrics.md."""
    of_streams = [family for family in FAMILIES if "(API target" in family.help]
    others = [family for family in FAMILIES if family not in of_streams]
    of_whole = [family for family in of_streams if family.name.startswith("smartstream_merchant_")]
    of_media = [family for family in of_streams if family not in of_whole]
    parts = (
        ("Labels", _LABELS),
        ("Media", _table(_rows(of_media))),
        ("Whole merchant", _table(_rows(of_whole))),
        ("Data and API connection", _table(_rows(others))),
        (
            "Process",
            _table(_instruments()) + "\nThe Prometheus client adds its `process_*` and `python_*` families.\n",
        ),
    )
    return MADE + _INTRODUCTION + "".join(f"\n## {heading}\n\n{text.lstrip()}" for heading, text in parts)


# The name of a family, its type, its labels, its HELP.
_Row = tuple[str, str, Iterable[str], str]


def _table(families: Iterable[_Row]) -> str:
    rows = [(code(name), kind, ", ".join(map(code, labels)), text) for name, kind, labels, text in families]
    return table(("family", "type", "labels", "meaning"), rows)


def _rows(families: Iterable[Family]) -> Iterable[_Row]:
    return ((each.name, each.type, each.labels, each.help) for each in families)


def _instruments() -> Iterable[_Row]:
    """The families about the exporter itself. A histogram needs one observation to show its labels."""
    telemetry = Instruments()
    telemetry.media_files_read({"": ()})
    telemetry.configured(0.0, UTC, lambda: 0.0)
    suffixes = {"counter": "_total", "info": "_info"}
    for metric in telemetry.registry.collect():
        if metric.name.startswith("smartstream_"):
            labels = [name for name in metric.samples[0].labels if name != "le"]
            yield metric.name + suffixes.get(metric.type, ""), metric.type, labels, metric.documentation
