import gc
import weakref
from collections.abc import Iterator

import pytest

from exporter import garbage


class Node:
    """An object that can refer to itself."""

    other: object = None


@pytest.fixture
def searching() -> Iterator[None]:
    """The searches as they are, again after the test."""
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.mark.usefixtures("searching")
def test_all_objects_are_searched_on_request_only() -> None:
    """Objects that refer to themselves are found while they are young; all objects are searched on request."""
    garbage.search_on_request()
    full = gc.get_stats()[-1]["collections"]
    lost, alive = [], []
    for _ in range(200_000):
        node = Node()
        node.other = node
        lost.append(weakref.ref(node))
        # What lives for long makes Python search all objects.
        alive.append(Node())
        lost = lost[-2000:]
    assert lost[0]() is None
    assert gc.get_stats()[-1]["collections"] == full
    old = Node()
    old.other = old
    gc.collect(1)
    gone = weakref.ref(old)
    del old, node
    gc.collect(1)
    assert gone() is not None
    garbage.search()
    assert gone() is None
    assert gc.get_stats()[-1]["collections"] == full + 1
