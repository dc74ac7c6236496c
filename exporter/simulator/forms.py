"""The forms in which the simulated API writes an answer: rows in, text out. Pure."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from exporter.model import Group
from exporter.simulator.faults import Faults
from exporter.simulator.rows import Row, labels


def rows_shown(rows: Sequence[Row], faults: Faults) -> list[Row]:
    """The rows that are written at all."""
    return [row for row in rows if not (faults.omit_zero and row.empty)]


def write_rows(rows: Sequence[Row], group: Group, totals: Mapping[str, int], faults: Faults) -> str:
    """The body of an answer in the form that the faults ask for.

    `totals` has the value of `all` by date, and is empty where it is not to be shown.
    """
    names = labels(group)
    written = [_row(row, names, group, totals, faults) for row in rows]
    if faults.form == "array":
        return _json(written)
    if faults.form == "object":
        return _json({"results": written})
    # Not JSON: a list in braces without a key, as the vendor's manual prints it.
    lines = ",\n".join(f"    {_json(row)}" for row in written)
    return f"{{\n  [\n{lines}\n  ]\n}}"


def _row(row: Row, names: Sequence[str], group: Group, totals: Mapping[str, int], faults: Faults) -> dict[str, Any]:
    keep_zero = faults.nulls or not faults.omit_zero
    parts = {name: _number(value, faults) for name, value in zip(names, row.values, strict=True) if value or keep_zero}
    total = {"all": _number(totals[row.date], faults)} if row.date in totals else {}
    return {"date": row.date, **total, **_parts(parts, group, faults)}


def _parts(parts: dict[str, Any], group: Group, faults: Faults) -> dict[str, Any]:
    if group is Group.ALL or faults.values == "flat":
        return parts
    if faults.values == "nested":
        return {group.value: parts}
    return {group.value: [{"value": name, "count": count} for name, count in parts.items()]}


def _number(value: int, faults: Faults) -> int | str | None:
    if faults.nulls and not value:
        return None
    return str(value) if faults.strings else value


def _json(content: object) -> str:
    return json.dumps(content, ensure_ascii=False)
