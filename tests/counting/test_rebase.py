"""State that is ahead of the API's time: which parts are corrected, and which count more than a clock."""

import pytest

from exporter.counting.accounts import StreamRow
from exporter.counting.rebase import rebase_horizon, rebase_stream, shift_start
from exporter.model import Target

LAG = 600.0


def row(start: int, through: int, seen: int, kept_from: int) -> StreamRow:
    """A stream in a given state that has been answered."""
    return StreamRow(1, start, through, seen, kept_from, answered=True, rate=None)


def place(moved: StreamRow) -> tuple[int, int, int, int]:
    return moved.start, moved.through, moved.seen, moved.kept_from


@pytest.mark.parametrize(
    ("before", "complete", "horizon", "after"),
    [
        # All is as it should be.
        (row(100, 500, 498, 468), 500, 500, (100, 500, 498, 468)),
        # Minutes assumed to be empty while a clock was ahead are requested again.
        (row(100, 900, 500, 470), 501, 500, (100, 500, 500, 470)),
        # Rows have shown later minutes: the clock is behind now, and the counts stay.
        (row(100, 500, 498, 468), 400, 500, (100, 498, 498, 468)),
        (row(450, 500, 498, 468), 400, 500, (450, 498, 498, 468)),
        # The same right after the start, before a row has come.
        (row(500, 500, 500, 501), 400, 499, (500, 500, 500, 501)),
        # A stream that would begin in the future begins now, whether the merchant has rows or not.
        (row(900, 900, 900, 901), 500, None, (500, 500, 500, 501)),
        (row(900, 1000, 900, 901), 500, 500, (500, 500, 500, 501)),
    ],
)
def test_a_stream_is_at_the_newest_settled_minute_at_most(
    before: StreamRow, complete: int, horizon: int | None, after: tuple[int, int, int, int]
) -> None:
    """No counted minute can be counted again, and no stream waits for a future time of a wrong clock."""
    settled = complete if horizon is None else min(complete, max(horizon, complete - 8))
    assert place(rebase_stream(before, Target.PLAY_COUNT, complete, settled, horizon, LAG)) == after


def test_a_stream_by_day_keeps_its_days() -> None:
    """It is at the newest complete minute; its known days stay."""
    moved = rebase_stream(row(100, 5000, 5000, 60), Target.KEY_DELIVERY_COUNT, 700, 700, 700, LAG)
    assert place(moved) == (100, 700, 700, 60)
    assert moved.answered


def test_a_horizon_in_the_future_is_removed() -> None:
    """A few minutes ahead are another machine's clock; hours ahead are the range of a wrong clock."""
    assert [rebase_horizon(minute, 500, LAG) for minute in (None, 400, 510, 511)] == [None, 400, 510, 500]


def test_a_start_is_shifted() -> None:
    """A stream that has counted nothing begins a number of minutes later, or earlier."""
    assert place(shift_start(row(100, 100, 100, 101), 60)) == (160, 160, 160, 161)
    assert place(shift_start(row(100, 100, 100, 101), -60)) == (40, 40, 40, 41)
