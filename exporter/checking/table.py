"""The findings of a merchant as text for a terminal or a pipe. Pure."""

from collections.abc import Sequence
from datetime import tzinfo

import wcwidth

from exporter.api.json_body import clean
from exporter.checking.findings import MediaFinding, MerchantFinding, zone_words

# Characters of other texts. What the API has sent is no more than this.
_LONGEST_TEXT = 1000

# Columns of a terminal that a name may take; the rest of a longer one is cut.
LONGEST_NAME = 40

_TITLES = ("MEDIA", "NAME", "KIND", "PLAYS (1H)", "PROBLEM")
_PLAYS = _TITLES.index("PLAYS (1H)")


def describe(found: MerchantFinding, zone: tzinfo, now: float) -> str:
    """A merchant's findings, in lines that end without a line break.

    Args:
        found: What is known of the merchant.
        zone: `api.timezone`.
        now: Unix seconds.
    """
    known = [each for each in found.media if each.checked or each.problems]
    lines = [f"merchant {found.merchant_id}: {_size(found)}", f"time zone: {zone_words(found, zone, now)}"]
    lines += [f"whole merchant: {_printable(found.problem)}"] if found.problem else []
    lines += [f"ended early: {_printable(found.ended_by)}"] if found.ended_by else []
    lines += _aligned([_TITLES, *map(_cells, known)]) if known else []
    if missing := len(found.media) - len(known):
        lines.append(f"{missing} media not checked")
    return "\n".join(lines)


def _size(found: MerchantFinding) -> str:
    problems = found.problems
    parts = [
        f"{len(found.media)} media",
        "" if found.plays is None else f"{found.plays:,.0f} plays in the last hour",
        f"{problems} problem{'s' * (problems != 1)}" if problems else "",
    ]
    return ", ".join(filter(None, parts))


def _cells(found: MediaFinding) -> tuple[str, ...]:
    plays = "-" if found.plays is None else f"{found.plays:,.0f}"
    name = _printable(found.name)
    if wcwidth.width(name) > LONGEST_NAME:
        name = wcwidth.clip(name, 0, LONGEST_NAME - 1).rstrip() + "…"
    problems = "; ".join(f"{' and '.join(requests)}: {reason}" for reason, requests in found.problems.items())
    return found.id, name or "-", _printable(found.kind) or "-", plays, _printable(problems)


def _printable(text: str) -> str:
    """A text of the API in one line, without characters that control a terminal."""
    return clean(text, _LONGEST_TEXT)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines with aligned columns: Japanese characters take two columns each."""
    widths = [max(map(wcwidth.width, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            (wcwidth.rjust if column == _PLAYS else wcwidth.ljust)(cell, width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
