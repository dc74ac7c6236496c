"""Corrects a stream that a wrong clock has put ahead of the API's time. Pure.

With a wrong clock, minutes can be counted as empty before they happen, or a stream can start in the future. Counting
would then stop until that future comes. So a stream never stands after the newest settled minute.
"""

from dataclasses import replace

from exporter.counting.accounts import StreamRow
from exporter.counting.windows import whole_minutes
from exporter.model import Minute, Target


def rebase_stream(
    row: StreamRow, target: Target, complete: Minute, settled: Minute, horizon: Minute | None, max_lag: float
) -> StreamRow:
    """A stream's row without minutes in the future; the same row if there are none.

    Rows are trusted more than the clock: if the API has returned rows for later minutes, the clock is behind now, and
    what was counted stays.

    Args:
        row: The row as it is stored.
        target: What it counts.
        complete: The newest complete minute by the API's time.
        settled: The newest settled minute.
        horizon: The newest minute for which the merchant has had a row.
        max_lag: Seconds by which rows come late, or may be ahead of the API's time.
    """
    lag = whole_minutes(max_lag)
    if row.start > complete and row.seen == row.start and (horizon is None or row.start - horizon > lag):
        # Nothing has been counted, so counting can start here.
        return replace(row, start=complete, through=complete, seen=complete, kept_from=complete + 1, answered=False)
    if target.by_day:
        return replace(row, through=min(row.through, complete), seen=min(row.seen, complete))
    if row.seen > settled + lag:
        return replace(row, through=row.seen)
    # Later minutes are asked for again. Their counted values are stored, so only differences count.
    return replace(row, through=max(row.start, min(row.through, settled)), seen=max(row.start, min(row.seen, settled)))


def rebase_horizon(horizon: Minute | None, complete: Minute, max_lag: float) -> Minute | None:
    """The newest minute with a row, without rows in the future that a wrong clock asked for.

    Args:
        horizon: The minute.
        complete: The newest complete minute by the API's time.
        max_lag: Seconds by which rows may be ahead of it: the two come from different machines of the API.
    """
    ahead = horizon is not None and horizon > complete + whole_minutes(max_lag)
    return complete if ahead else horizon


def shift_start(row: StreamRow, minutes: int) -> StreamRow:
    """A row with a corrected start, for a stream that started by a wrong clock and has counted nothing yet."""
    start = row.start + minutes
    return replace(row, start=start, through=start, seen=start, kept_from=start + 1)
