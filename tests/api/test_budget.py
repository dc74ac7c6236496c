"""The request budget."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.api.budget import LONGEST_WAIT, RESTART_MARGIN, WINDOW, RequestBudget, _boot_id
from exporter.errors import BudgetSpent
from exporter.storage.state import State, open_state
from tests.support.fakes import FakeClock


def new_budget(state: State, clock: FakeClock, limit: int = 5, boot: str = "this boot") -> RequestBudget:
    return RequestBudget(state, "m", limit, clock, boot=boot)


def spend(budget: RequestBudget, requests: int = 1) -> None:
    for _ in range(requests):
        budget.take().done()


def wait_of(budget: RequestBudget) -> float:
    with pytest.raises(BudgetSpent) as spent:
        budget.take()
    return spent.value.wait


def test_no_more_than_the_limit_leaves_in_a_window(state: State, clock: FakeClock) -> None:
    """The request above the limit may leave when the oldest is outside the window."""
    budget = new_budget(state, clock)
    spend(budget, 2)
    clock.advance(10)
    spend(budget, 3)
    assert wait_of(budget) == pytest.approx(WINDOW - 10)
    clock.advance(WINDOW - 10)
    spend(budget, 2)
    assert wait_of(budget) == pytest.approx(10)


def test_a_request_counts_from_the_latest_time_it_may_have_left(state: State, clock: FakeClock) -> None:
    """A slow request frees its slot a window after the latest time at which it may have left."""
    budget = new_budget(state, clock, limit=1)
    slot = budget.take()
    clock.advance(8)
    assert wait_of(budget) == pytest.approx(WINDOW)
    slot.done()
    clock.advance(1)
    assert wait_of(budget) == pytest.approx(WINDOW - 1)


def test_a_restart_does_not_free_slots(state: State, clock: FakeClock) -> None:
    """The times are in the file before the requests leave, so a new process knows them."""
    new_budget(state, clock, limit=2).take()
    clock.advance(20)
    again = new_budget(state, clock, limit=2)
    again.take()
    assert WINDOW - 20 <= wait_of(again) <= WINDOW - 20 + RESTART_MARGIN


def test_a_restart_accounts_for_slow_requests(state: State, clock: FakeClock) -> None:
    """With a long timeout, a request under way at the end of a process may have left that late."""
    spend(new_budget(state, clock, limit=1))
    clock.advance(20)
    again = RequestBudget(state, "m", 1, clock, timeout=45.0)
    assert wait_of(again) == pytest.approx(WINDOW)
    clock.advance(30)
    assert wait_of(RequestBudget(state, "m", 1, clock, timeout=45.0)) == pytest.approx(WINDOW - 5)


def test_each_merchant_has_its_own_budget(state: State, clock: FakeClock) -> None:
    """One merchant's requests take nothing from another's budget."""
    spend(new_budget(state, clock, limit=1))
    spend(RequestBudget(state, "other", 1, clock))


@pytest.mark.parametrize("step", [-3600, 3600])
def test_a_changed_clock_does_not_free_slots(state: State, clock: FakeClock, step: float) -> None:
    """Only time that really passed counts, also after a restart."""
    budget = new_budget(state, clock, limit=1)
    spend(budget)
    clock.wall += step
    assert wait_of(budget) == pytest.approx(WINDOW)
    assert wait_of(new_budget(state, clock, limit=1)) == pytest.approx(WINDOW)
    clock.advance(30)
    assert wait_of(new_budget(state, clock, limit=1)) == pytest.approx(WINDOW + RESTART_MARGIN - 30)


@pytest.mark.parametrize("boots", [("one", "another"), ("", "")])
def test_after_a_boot_the_wall_clock_counts(state: State, clock: FakeClock, boots: tuple[str, str]) -> None:
    """The monotonic clock has started again, or it is unknown whether it has; a step back counts as no time."""
    spend(new_budget(state, clock, 1, boots[0]))
    clock.ticks = 7.0
    clock.wall += 30
    assert wait_of(new_budget(state, clock, 1, boots[1])) == pytest.approx(WINDOW + RESTART_MARGIN - 30)
    clock.ticks = 5000.0
    assert wait_of(new_budget(state, clock, 1, boots[1])) == pytest.approx(WINDOW + RESTART_MARGIN - 30)
    clock.wall -= 3600
    assert wait_of(new_budget(state, clock, 1, boots[1])) == pytest.approx(WINDOW)


def test_ticks_that_are_ahead_are_ignored(state: State, clock: FakeClock) -> None:
    """If the file came from another machine, or the boot id is invalid, the wall clock counts."""
    spend(new_budget(state, clock, 1, "one"))
    clock.ticks -= 500
    clock.wall += 40
    assert wait_of(new_budget(state, clock, 1, "one")) == pytest.approx(WINDOW + RESTART_MARGIN - 40)


def test_this_machine_has_a_boot_id() -> None:
    """Linux has one; without it the wall clock would count."""
    assert len(_boot_id()) > 30


def test_a_429_halves_the_budget_and_time_restores_it(state: State, clock: FakeClock) -> None:
    """After a 429 half the requests leave, and one more with each minute, up to the limit."""
    budget = new_budget(state, clock, limit=8)
    spend(budget)
    budget.refused(retry_after=30)
    assert wait_of(budget) == pytest.approx(30)
    clock.advance(30)
    assert budget.allowed == 4
    clock.advance(120)
    assert budget.allowed == pytest.approx(6)
    clock.advance(3600)
    assert budget.allowed == 8


def test_without_retry_after_the_wait_is_the_rest_of_the_window(state: State, clock: FakeClock) -> None:
    """The wait ends when the oldest request has left the window."""
    budget = new_budget(state, clock)
    spend(budget)
    clock.advance(20)
    spend(budget)
    budget.refused(None)
    assert wait_of(budget) == pytest.approx(WINDOW - 20)


def test_429s_of_one_burst_count_once(state: State, clock: FakeClock) -> None:
    """Requests that were under way together get their 429s together; the budget is halved once."""
    budget = new_budget(state, clock, limit=8)
    spend(budget, 4)
    for _ in range(4):
        budget.refused(retry_after=5)
    assert budget.allowed == 4


def test_an_api_that_always_responds_429_gets_a_request_a_minute(state: State, clock: FakeClock) -> None:
    """If the API refuses everything without a Retry-After, it gets at most one request a minute."""
    budget = new_budget(state, clock, limit=45)
    sent = []
    while clock.ticks < 1000 + 3600:
        try:
            budget.take().done()
        except BudgetSpent as spent:
            clock.advance(spent.wait)
            continue
        sent.append(clock.ticks)
        budget.refused(retry_after=0)
    last = [at for at in sent if at > sent[-1] - 1800]
    assert len(last) <= 31
    assert len(sent) < 150


def test_a_429_is_remembered(state: State, clock: FakeClock) -> None:
    """A restart keeps both the wait and the halved budget."""
    new_budget(state, clock, limit=8).refused(retry_after=300)
    clock.advance(100)
    again = new_budget(state, clock, limit=8)
    assert wait_of(again) == pytest.approx(200)
    clock.advance(200)
    assert again.allowed == pytest.approx(4)


def test_a_hold_leaves_the_budget_unchanged(state: State, clock: FakeClock) -> None:
    """An overloaded API gets no request for the time that it gives, also after a restart; then the whole budget may be
    used.
    """
    budget = new_budget(state, clock, limit=8)
    budget.hold(300)
    budget.hold(20)
    assert wait_of(budget) == pytest.approx(300)
    clock.advance(100)
    again = new_budget(state, clock, limit=8)
    assert wait_of(again) == pytest.approx(200)
    clock.advance(200)
    assert (budget.allowed, again.allowed) == (8, 8)
    spend(again, 8)


@pytest.mark.parametrize("seconds", [3600.0, 3601.0, 10 * 365 * 86400.0])
def test_the_longest_wait_is_an_hour(state: State, clock: FakeClock, seconds: float) -> None:
    """Whatever the API asks for, and whatever the state file has after the clock was set, the wait
    is at most an hour.
    """
    for ask in (RequestBudget.hold, RequestBudget.refused):
        budget = new_budget(state, clock)
        ask(budget, seconds)
        assert wait_of(budget) == pytest.approx(3600)
        clock.wall -= 86400
        assert wait_of(new_budget(state, clock)) == pytest.approx(3600)
        clock.wall += 86400
        clock.advance(3600)
        spend(budget)
        clock.advance(WINDOW)


@pytest.mark.parametrize("boots", [("one", "one"), ("one", "another")])
@pytest.mark.parametrize("back", [0.0, 3 * 86400.0])
def test_a_hold_that_has_ended_stays_ended(state: State, clock: FakeClock, boots: tuple[str, str], back: float) -> None:
    """After a restart with a clock that was set back by days, a 429 of long ago has no effect."""
    budget = new_budget(state, clock, 8, boots[0])
    spend(budget)
    budget.refused(retry_after=300)
    clock.advance(3600)
    spend(budget)
    clock.wall -= back
    assert new_budget(state, clock, 8, boots[1]).wait() <= 0


def test_a_hold_after_a_boot_with_a_clock_set_back_keeps_its_length(state: State, clock: FakeClock) -> None:
    """How much of it has passed is unknown then: the wait is as long as the API asked, and not an hour."""
    new_budget(state, clock, 8, "one").refused(retry_after=120)
    clock.wall -= 3 * 86400
    assert wait_of(new_budget(state, clock, 8, "another")) == pytest.approx(120)
    clock.wall += 3 * 86400 + 90
    assert wait_of(new_budget(state, clock, 8, "another")) == pytest.approx(30)


def test_a_hold_in_the_file_is_limited(state: State, clock: FakeClock) -> None:
    """The longest hold is the limit, whatever is in the file."""
    new_budget(state, clock).hold(60)
    with state.transaction() as db:
        db.execute("UPDATE budgets SET held_for = 1e9, grows_in = 1e9")
    assert wait_of(new_budget(state, clock)) == pytest.approx(LONGEST_WAIT)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.tuples(st.floats(0, 30), st.floats(0, 9), st.sampled_from(["go", "go", "go", "restart", "refused", "set"])),
        min_size=1,
        max_size=80,
    )
)
def test_never_more_than_the_limit_in_any_60_seconds(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[float, float, str]]
) -> None:
    """Whatever the pace, the restarts, the clock and the refusals, at most the limit leaves in any 60 seconds."""
    clock, sent, limit = FakeClock(), [], 3
    state = open_state(tmp_path_factory.mktemp("budget") / "state.db", clock.now)
    budget = new_budget(state, clock, limit)
    for pause, latency, event in steps:
        clock.advance(pause)
        if event == "set":
            clock.wall += 1000 * (latency - 4)
        if event in ("restart", "set"):
            budget = new_budget(state, clock, limit)
        try:
            slot = budget.take()
        except BudgetSpent:
            continue
        clock.advance(min(latency, 1))
        sent.append(clock.ticks)  # the request leaves a little late
        clock.advance(latency)
        slot.done()
        if event == "refused":
            budget.refused(None)
    state.close()
    for first, over in zip(sent, sent[limit:], strict=False):
        assert over - first > 60
