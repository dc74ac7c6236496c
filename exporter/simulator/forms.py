"""The formats of an answer of the simulated API: rows in, text out. Pure."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from exporter.model import Group, Minute, Stream, Target
from exporter.simulator.catalog import number
from exporter.simulator.faults import Faults
from exporter.simulator.rows import Row, labels


def write_rows(rows: Sequence[Row], stream: Stream, totals: Mapping[str, int], faults: Faults, minute: Minute) -> str:
    """The body of an answer in the format that the faults set, in a minute.

    `totals` has the value of `all` by date, and is empty where it is not to be shown.
    """
    written = [_row(row, stream, totals, faults, minute) for row in rows]
    if faults.form == "array":
        return _json(written)
    if faults.form == "object":
        return _json({"results": written})
    # Not JSON: a list in braces without a key, as in the manual of the vendor.
    lines = ",\n".join(f"    {_json(row)}" for row in written)
    return f"{{\n  [\n{lines}\n  ]\n}}"


def _row(row: Row, stream: Stream, totals: Mapping[str, int], faults: Faults, minute: Minute) -> dict[str, Any]:
    keep_zero = faults.nulls or not faults.omit_zero
    values = zip(labels(stream.group), row.values, strict=True)
    parts = {name: _number(value, stream.target, faults) for name, value in values if value or keep_zero}
    if faults.bad_rate:
        parts |= {name: bad for name in parts if (bad := _bad(faults.bad_rate, row.date, name, minute)) is not None}
    total = {"all": _number(totals[row.date], stream.target, faults)} if row.date in totals else {}
    return {"date": row.date, **total, **_parts(parts, stream.group, faults)}


def _bad(rate: float, date: str, name: str, minute: Minute) -> int | str | None:
    """The text that replaces a value, or None to write the value."""
    drawn = number(0, "bad", date, name, minute)
    if drawn >= rate * 2**64:
        return None
    return "N/A" if drawn % 2 else -1


def _parts(parts: dict[str, Any], group: Group, faults: Faults) -> dict[str, Any]:
    if group is Group.ALL or faults.values == "flat":
        return parts
    if faults.values == "nested":
        return {group.value: parts}
    return {group.value: [{"value": name, "count": count} for name, count in parts.items()]}


def _number(value: int, target: Target, faults: Faults) -> float | str | None:
    if faults.nulls and not value:
        return None
    written = round(value * 1.001, 3) if faults.decimals and target is Target.PLAY_TIME else value
    return str(written) if faults.strings else written


def _json(content: object) -> str:
    return json.dumps(content, ensure_ascii=False)
