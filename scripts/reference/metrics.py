"""docs/metrics.md: every family of `/metrics`."""

from collections.abc import Iterable

from exporter.serving.families import FAMILIES, Family
from exporter.serving.instruments import Instruments
from reference.markdown import MADE, code, table

_INTRODUCTION = """# The metrics

All families that `/metrics` can show. A family is there when it has samples: those of a target or a group when it is
collected, gauges of the last minute while that minute is fresh (its end is at most twice `max_staleness` ago).

Counters move when an answer has been counted, so those of a quiet media move in steps of several minutes, and after a
stop all that was missed comes at once. Look at them over 5 minutes and more: `increase(smartstream_plays_total[5m])`.
The gauges of the last minute show one minute; `smartstream_data_timestamp_seconds` tells which.
"""

_LABELS = """
| label | value |
| --- | --- |
| `merchant_id` | the merchant's id in the configuration |
| `media_id` | the media's id in the configuration |
| `country`, `player`, `site`, `device`, `os`, `percentage` | the API's word; `other` beyond `max_label_values` |
| `target`, `group` | the stream, in the API's words |
| `direction` | `up` or `down` |
| `severity` | `warning` or `critical` |
| `endpoint` | `auth-token`, `aggregations`, `medias` or `live_events` |
| `code` | the HTTP status, or `error` without a whole answer |
| `name`, `ref_id`, `encode_type` | of the media in the catalog; a configured name comes first |

`smartstream_media_info` has the configured `labels` of the media, too. Join with it to have names in a query:

```promql
sum by (name) (
  increase(smartstream_plays_total[5m])
  * on (merchant_id, media_id) group_left (name) smartstream_media_info
)
```
"""


def document() -> str:
    """The document."""
    of_streams = [family for family in FAMILIES if "(API target" in family.help]
    others = [family for family in FAMILIES if family not in of_streams]
    of_whole = [family for family in of_streams if family.name.startswith("smartstream_merchant_")]
    of_media = [family for family in of_streams if family not in of_whole]
    parts = (
        ("Labels", _LABELS),
        ("Of a media", _families(of_media)),
        ("Of the whole merchant", _families(of_whole)),
        ("Of the data and the connection", _families(others)),
        ("Of the process", _families(_instruments()) + "\nand the usual `process_*` and `python_*`.\n"),
    )
    return MADE + _INTRODUCTION + "".join(f"\n## {heading}\n\n{text.lstrip()}" for heading, text in parts)


def _families(families: Iterable[Family]) -> str:
    rows = [(code(each.name), each.type, ", ".join(map(code, each.labels)), each.help) for each in families]
    return table(("family", "type", "labels", "meaning"), rows)


def _instruments() -> Iterable[Family]:
    """The exporter's own, as they are once something has happened."""
    telemetry = Instruments()
    telemetry.observe_request("", "", "", 0.0)
    suffixes = {"counter": "_total", "info": "_info"}
    for metric in telemetry.registry.collect():
        if metric.name.startswith("smartstream_"):
            labels = tuple(name for name in metric.samples[0].labels if name != "le")
            yield Family(metric.name + suffixes.get(metric.type, ""), metric.type, metric.documentation, labels)
