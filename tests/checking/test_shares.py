"""How many requests the check may send."""

from itertools import pairwise

import pytest

from exporter.api.budget import WINDOW
from exporter.checking.shares import PacedBudget, Share
from exporter.errors import BudgetSpent
from tests.support.fakes import FakeClock


@pytest.mark.parametrize("limit", [1, 5, 45])
def test_paced_requests_stay_within_the_limit(limit: int) -> None:
    """In no 60 seconds more requests leave than allowed, even if a second budget follows the first at once."""
    clock = FakeClock()
    sent = []
    for _ in range(2):
        budget = PacedBudget(limit, clock)
        for _ in range(2 * limit):
            clock.sleep(budget.wait())
            budget.take().done()
            sent.append(clock.monotonic())
    assert all(later - sooner >= WINDOW / limit - 1e-6 for sooner, later in pairwise(sent))
    assert all(sent[place + limit] - sent[place] > 60 for place in range(len(sent) - limit))


def test_a_request_under_way_counts_as_sent_now() -> None:
    """The interval begins when a request has ended: until then nobody knows when it was sent."""
    clock = FakeClock()
    budget = PacedBudget(6, clock)
    clock.sleep(budget.wait())
    slot = budget.take()
    clock.advance(100)
    with pytest.raises(BudgetSpent):
        budget.take()
    slot.done()
    assert budget.wait() == pytest.approx(WINDOW / 6)


@pytest.mark.parametrize(("retry_after", "wait"), [(7.0, WINDOW / 3), (30.0, 30.0), (None, WINDOW), (1e9, 3600.0)])
def test_a_refusal_holds_the_next_request(retry_after: float | None, wait: float) -> None:
    """After a 429 the next request waits as Retry-After says, or a whole window, but at most an hour; then the rate is
    half of what it was.
    """
    clock = FakeClock()
    budget = PacedBudget(6, clock)
    clock.sleep(budget.wait())
    budget.take().done()
    budget.refused(retry_after)
    assert budget.wait() == pytest.approx(wait)
    clock.sleep(budget.wait())
    budget.take().done()
    assert budget.wait() == pytest.approx(WINDOW / 3)


@pytest.mark.parametrize(
    ("paced", "requests", "seconds"),
    [(False, 45, 0), (False, 46, WINDOW), (False, 602, 13 * WINDOW), (True, 45, WINDOW), (True, 9, WINDOW / 5)],
)
def test_the_estimate(paced: bool, requests: int, seconds: float) -> None:
    """What waits for the budget: whole minutes with a budget that may be used at once, even intervals otherwise."""
    share = Share(PacedBudget(45, FakeClock()), 45, paced=paced)
    assert share.seconds(requests) == pytest.approx(seconds)
