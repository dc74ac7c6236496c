"""What is stored ahead of the API's time comes back to it. Pure.

A wrong clock can let minutes be counted as empty before they have been, or let a stream begin in the future. Counting
would then wait until that future has come. So a stream never stands beyond the newest settled minute.
"""

from dataclasses import replace

from exporter.counting.ledger_rows import StreamRow
from exporter.counting.rules import whole_minutes
from exporter.model import Minute, Target


def rebase_stream(
    row: StreamRow, target: Target, complete: Minute, settled: Minute, horizon: Minute | None, max_lag: float
) -> StreamRow:
    """Where a stream stands once it lets go of minutes that have not been yet; the same row where there are none.

    Rows are believed more than a clock: where they have shown later minutes, the clock is behind now, and what was
    counted stays as it is.

    Args:
        row: Where it stands.
        target: What it counts.
        complete: The newest complete minute, by the API's time.
        settled: The newest settled one.
        horizon: The newest minute of which the merchant has shown a row.
        max_lag: Seconds by which rows come late, or may be ahead of the API's time.
    """
    lag = whole_minutes(max_lag)
    if row.start > complete and row.seen == row.start and (horizon is None or row.start - horizon > lag):
        # Nothing has been counted, so all is counted once from here.
        return replace(row, start=complete, through=complete, seen=complete, kept_from=complete + 1, answered=False)
    if target.by_day:
        return replace(row, through=min(row.through, complete), seen=min(row.seen, complete))
    if row.seen > settled + lag:
        return replace(row, through=row.seen)
    # What was counted of later minutes is known: they are asked for again, and their differences count.
    return replace(row, through=max(row.start, min(row.through, settled)), seen=max(row.start, min(row.seen, settled)))


def rebase_horizon(horizon: Minute | None, complete: Minute, max_lag: float) -> Minute | None:
    """The newest minute of which a row was seen, without rows of a future that a wrong clock has asked for.

    Args:
        horizon: The minute.
        complete: The newest complete minute, by the API's time.
        max_lag: Seconds by which rows may be ahead of that: the two come from different machines of the API.
    """
    ahead = horizon is not None and horizon > complete + whole_minutes(max_lag)
    return complete if ahead else horizon


def shift_start(row: StreamRow, minutes: int) -> StreamRow:
    """Where a stream begins that began by a wrong clock, and has counted nothing yet."""
    start = row.start + minutes
    return replace(row, start=start, through=start, seen=start, kept_from=start + 1)
