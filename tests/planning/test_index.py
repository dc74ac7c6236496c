"""Which stream is requested next, and the staleness that results."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.planning.index import Candidate, can_hold, choose, estimate_freshness, lower_bound


def zipf(streams: int, exponent: float) -> list[float]:
    return [max(0.1, 1000 / place**exponent) for place in range(1, streams + 1)]


def test_the_largest_claim_comes_first() -> None:
    """The claim is weight times s (s + 1) / 2: a light stream that has waited long comes before a heavy one that has
    not.
    """
    candidates = [Candidate("heavy", 10.0, 1), Candidate("light", 1.0, 5), Candidate("middle", 5.0, 1)]
    assert choose(candidates, room=3, streams=3, max_staleness=30) == ["light", "heavy", "middle"]


def test_no_more_than_the_room_is_chosen() -> None:
    """The streams with the smallest claims wait for the next minute."""
    candidates = [Candidate(place, 1.0, place) for place in range(1, 9)]
    assert choose(candidates, room=3, streams=8, max_staleness=30) == [8, 7, 6]


def test_a_stream_that_would_wait_too_long_is_chosen_whatever_its_weight() -> None:
    """The wait of the configuration is kept, though heavier streams claim more."""
    candidates = [Candidate("heavy", 1e6, 2), Candidate("late", 0.001, 10)]
    assert choose(candidates, room=1, streams=2, max_staleness=10) == ["late"]


def test_streams_that_will_be_late_together_start_in_time() -> None:
    """Twenty streams that are all due in four minutes do not fit into the last of them."""
    heavy = 20
    candidates = [*(Candidate(place, 0.001, 7) for place in range(heavy)), Candidate(heavy, 1e6, 1)]
    assert heavy not in choose(candidates, room=5, streams=21, max_staleness=10)
    assert heavy in choose(candidates, room=6, streams=21, max_staleness=10)


def test_a_wait_that_cannot_be_kept_is_given_up_for_freshness() -> None:
    """If there are too many streams for the longest wait, the heavy ones do not wait for it."""
    heavy = 100
    candidates = [*(Candidate(place, 0.001, 90) for place in range(heavy)), Candidate(heavy, 1e6, 2)]
    assert choose(candidates, room=1, streams=101, max_staleness=10) == [heavy]


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(2, 12), st.randoms(use_true_random=False))
def test_no_stream_waits_too_long_if_there_is_room(
    streams: int, room: int, max_staleness: int, rng: random.Random
) -> None:
    """After a start in which all were just requested, this holds for any weights, also if they change."""
    asked_at = [0] * streams
    weights = [10 ** rng.uniform(-3, 3) for _ in range(streams)]
    for minute in range(1, 60):
        weights[rng.randrange(streams)] = 10 ** rng.uniform(-3, 3)
        candidates = [Candidate(place, weights[place], minute - asked_at[place]) for place in range(streams)]
        chosen = choose(candidates, room, streams, max_staleness)
        assert len(chosen) == len(set(chosen)) == min(room, streams)
        if can_hold(streams, room, max_staleness):
            assert max(minute - asked for asked in asked_at) <= max_staleness
        for place in chosen:
            asked_at[place] = minute


def test_after_an_outage_the_wait_is_kept_again() -> None:
    """All streams are late at once; within twice the allowed wait none is, and the heavy ones never wait long."""
    streams, room, longest = 300, 12, 30
    weights = zipf(streams, 1.0)
    asked_at = [-180] * streams
    for minute in range(2 * longest):
        candidates = [Candidate(place, weights[place], minute - asked_at[place]) for place in range(streams)]
        for place in choose(candidates, room, streams, longest):
            asked_at[place] = minute
        if minute > 5:
            assert minute - asked_at[0] <= longest / 2
    assert max(2 * longest - asked for asked in asked_at) <= longest


@pytest.mark.parametrize(
    ("weights", "room", "bound"),
    [
        ([1.0] * 10, 10, 0.0),  # each every minute
        ([1.0] * 10, 5, 0.5),  # each every other minute: 0, 1, 0, 1, …
        ([1.0] * 10, 1, 4.5),
        ([4.0, 1.0], 0.75, 0.7),  # intervals of 2 and 4 minutes
        ([100.0, 1.0], 1.25, 1.5 / 101),  # the heavy one every minute, and the light one every fourth
    ],
)
def test_the_bound_is_that_of_the_relaxed_problem(weights: list[float], room: float, bound: float) -> None:
    """Worked examples: intervals in proportion to 1 / sqrt(weight), at least a minute."""
    assert lower_bound(weights, room) == pytest.approx(bound, rel=1e-6)


def test_the_bound_with_a_longest_wait_is_higher() -> None:
    """Keeping a longest wait takes room from the heavy streams; one that cannot be kept takes none."""
    weights = zipf(100, 1.5)
    free = lower_bound(weights, 5)
    assert lower_bound(weights, 5, max_staleness=22) > free
    assert lower_bound(weights, 5, max_staleness=19) == free


@settings(max_examples=50)
@given(st.lists(st.floats(1, 100), min_size=2, max_size=30), st.integers(1, 10))
def test_no_schedule_is_below_the_bound(weights: list[float], room: int) -> None:
    """For any weights and any room, the schedule is not better than the bound."""
    bound = lower_bound(weights, room)
    assert estimate_freshness(weights, room, max_staleness=1, minutes=400).mean >= bound * 0.97


@pytest.mark.parametrize("streams", [100, 400])
@pytest.mark.parametrize("exponent", [1.0, 0.8])
def test_the_schedule_is_close_to_the_bound(streams: int, exponent: float) -> None:
    """With known weights, the mean staleness is within 5% of the best possible schedule."""
    weights = zipf(streams, exponent)
    expected = estimate_freshness(weights, room=50, max_staleness=30)
    assert expected.mean <= 1.05 * lower_bound(weights, 50, 30)
    assert expected.slowest <= 30


def test_no_streams() -> None:
    """Without streams nothing is chosen and nothing fails."""
    assert choose([], room=5, streams=0, max_staleness=30) == []
    assert lower_bound([], 5) == 0
    assert estimate_freshness([], 5, 30).mean == 0
