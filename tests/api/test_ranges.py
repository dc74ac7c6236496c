"""The length of a range: halved while the API refuses it or its answer is too large."""

import pytest

from exporter.api.ranges import SHORTEST_DENSE_RANGE, SHORTEST_RANGE, RangeFinder, half
from exporter.errors import BadRequest, TooLarge

REFUSED, DENSE = BadRequest("no", status=400), TooLarge("too much")


@pytest.mark.parametrize(
    ("length", "shortest", "shorter"), [(1000, 60, 500), (101, 60, 60), (61, 60, 60), (60, 60, None), (10, 60, None)]
)
def test_a_half_is_not_below_the_shortest_range(length: int, shortest: int, shorter: int | None) -> None:
    """The shortest range has no half."""
    assert half(length, shortest) == shorter


@pytest.mark.parametrize(
    ("error", "shortest", "dense"), [(REFUSED, SHORTEST_RANGE, False), (DENSE, SHORTEST_DENSE_RANGE, True)]
)
def test_a_range_is_halved_down_to_the_shortest(error: BadRequest | TooLarge, shortest: int, *, dense: bool) -> None:
    """Each failure halves the range down to the shortest; a refusal of that is final."""
    finder = RangeFinder(1000)
    lengths = []
    while finder.shorten(finder.length, error):
        lengths.append(finder.length)
    assert lengths == [500, 250, 125, *([62, 60] if error is REFUSED else [62, 31, 15, 7, 4])]
    assert finder.length == shortest
    assert finder.dense is dense
    assert finder.exhausted is not dense


def test_a_shorter_range_is_half_of_what_was_requested() -> None:
    """The last range of a stream may be shorter than the limit: the failed range is halved, not the limit."""
    finder = RangeFinder(1000)
    assert finder.shorten(300, REFUSED)
    assert finder.length == 150


def test_the_last_working_length_is_restored_if_shorter_ones_do_not_help() -> None:
    """A stream that the API refuses at any length shortens the ranges of no other."""
    finder = RangeFinder(1000)
    assert finder.shorten(1000, REFUSED)
    finder.works()
    while finder.shorten(finder.length, REFUSED):
        pass
    finder.give_up()
    assert finder.length == 500


def test_one_minute_can_be_the_shortest_dense_range() -> None:
    """A fetch of history continues minute by minute, as each answer moves it on."""
    finder = RangeFinder(2, shortest_dense=1)
    assert finder.shorten(2, DENSE)
    assert finder.length == 1
    assert not finder.shorten(1, DENSE)
