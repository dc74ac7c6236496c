from math import inf

import pytest

from exporter.views import Series, SeriesView

VIEWS = (SeriesView("jp", 5.0, None), SeriesView("us", None, 0.0), SeriesView("", 1e300, inf))


def test_series_are_what_was_packed() -> None:
    """A packed series reads as a sequence of its label values, in their order; None stays None."""
    series = Series.of(VIEWS)
    assert series == VIEWS
    assert tuple(series) == VIEWS
    assert (len(series), series[0], series[-1], series[1:]) == (3, VIEWS[0], VIEWS[2], list(VIEWS[1:]))
    assert series == Series(["jp", "us", ""], [5.0, None, 1e300], [None, 0.0, inf])
    assert repr(series) == repr(VIEWS)
    for place in (3, -4):
        with pytest.raises(IndexError):
            series[place]


def test_other_series_are_not_equal() -> None:
    """Another order, value or label makes another series; what is no sequence is not compared."""
    series = Series.of(VIEWS)
    assert series != VIEWS[::-1]
    assert series != Series.of([*VIEWS[:2], SeriesView("", 1e300, None)])
    assert series != Series.of([SeriesView("de", 5.0, None), *VIEWS[1:]])
    assert series != "jp"
    assert series != 5


def test_the_values_of_a_series() -> None:
    """The totals and the last values are those that are known, by label value."""
    series = Series.of(VIEWS)
    assert series.totals == [("jp", 5.0), ("", 1e300)]
    assert series.lasts == [("us", 0.0), ("", inf)]
    assert (Series.of(()).totals, Series.of(()).lasts, len(Series.of(()))) == ([], [], 0)
