"""The output of `plan` for a configuration."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from exporter.config.settings import MerchantSettings, PollSettings
from exporter.counting.ledger_rows import begin_stream, read_rates
from exporter.errors import StateError
from exporter.model import Group, Stream, Target
from exporter.planning.capacity import describe, estimate_capacity
from exporter.planning.index import FreshnessEstimate
from exporter.storage.state import open_state


def merchant(media: int, limit: int) -> MerchantSettings:
    return MerchantSettings.model_validate(
        {
            "id": "m",
            "api_key": "k",
            "mail_address": "a@example.com",
            "password": "p",
            "requests_per_minute": limit,
            "collect": [{"target": "play_count", "groups": ["all", "os"]}, {"target": "play_time"}],
            "media": [{"id": f"media{number}"} for number in range(media)],
        }
    )


def test_enough_budget_needs_no_advice() -> None:
    """With room for all streams each is fetched every minute, and nothing is stale."""
    of = merchant(2, 45), PollSettings(), dict[str, float]()
    capacity = estimate_capacity(*of)
    assert dict(capacity.streams) == {
        (Target.PLAY_COUNT, Group.ALL): 3,
        (Target.PLAY_COUNT, Group.OS): 3,
        (Target.PLAY_TIME, Group.ALL): 3,
    }
    assert (capacity.freshness, capacity.bound, capacity.advice) == (FreshnessEstimate(0, 1), 0, "")
    assert "  requests a minute: 9.0 wanted, 45 allowed" in list(describe(*of))
    assert "  weights: no plays are known yet, so all media are taken as equally busy" in list(describe(*of))


@pytest.mark.parametrize(("media", "limit", "minutes"), [(2, 45, 1), (12, 45, 1), (40, 45, 2), (300, 45, 37)])
def test_the_time_until_all_media_are_judged(media: int, limit: int, minutes: int) -> None:
    """A lookup and a request for each media and one for the whole merchant: two minutes of the whole budget, then what
    the streams leave, at least a third.
    """
    settings = merchant(media, limit)
    assert estimate_capacity(settings, PollSettings(), {}).learning == minutes
    text = "\n".join(describe(settings, PollSettings(), {}))
    assert f"  drop detection: needs {2 * media + 2:,} requests for history; the busiest media are judged first" in text


def test_a_tight_budget_advises_a_longer_staleness() -> None:
    """When three quarters of what the budget holds are used, most requests are for quiet streams."""
    tight, loose = (estimate_capacity(merchant(media, 45), PollSettings(), {}) for media in (400, 300))
    assert tight.advice == (
        "40 of 43 requests a minute keep all streams within max_staleness 30m, whatever their plays; with 1h, drops of "
        "busy media are found sooner"
    )
    assert loose.advice == ""


def test_known_plays_make_the_mean_play_fresher() -> None:
    """If a few media have most plays, their freshness matters most, and the bound is near."""
    rates = {f"media{number}": 1000 / (number + 1) for number in range(100)}
    alike, known = (estimate_capacity(merchant(100, 20), PollSettings(), each) for each in ({}, rates))
    assert known.freshness.mean < alike.freshness.mean
    assert known.bound <= known.freshness.mean <= 1.1 * known.bound
    assert known.freshness.slowest <= 30
    assert "  weights: plays of 100 of 100 media are known from the state file" in list(
        describe(merchant(100, 20), PollSettings(), rates)
    )


def test_too_small_a_budget_has_one_line_of_advice() -> None:
    """The line has the limit to request, the wait that would fit, and the streams to remove: the
    least valuable first.
    """
    capacity = estimate_capacity(merchant(100, 5), PollSettings(), {})
    assert capacity.advice == (
        "max_staleness 30m does not fit: ask the vendor for a limit of at least 12 requests a minute, "
        "or raise max_staleness to 1h16m, or drop play_count/os (101 streams), play_time/all (101 streams)"
    )
    assert list(describe(merchant(100, 5), PollSettings(), {}))[-1] == f"  advice: {capacity.advice}"


def test_the_plays_are_read_from_a_state_file_in_use(tmp_path: Path) -> None:
    """`plan` reads the rates that a running exporter has stored; without a file no rate is known."""
    path = tmp_path / "state.db"
    assert read_rates(path) == {}
    state = open_state(path, lambda: 0.0)
    with state.transaction() as db:
        for media_id in ("", "a", "b"):
            begin_stream(db, Stream("m", media_id, Target.PLAY_COUNT, Group.ALL), 0)
        db.execute("UPDATE streams SET rate = 12.5 WHERE media_id <> 'b'")
    assert read_rates(path) == {"m": {"": 12.5, "a": 12.5}}
    state.close()


def test_the_plays_are_read_where_nothing_may_be_written(tmp_path: Path) -> None:
    """`plan` of another user creates no file beside a state file that is not in use; an empty file is no error."""
    path = tmp_path / "state.db"
    path.touch()
    assert read_rates(path) == {}
    state = open_state(path, lambda: 0.0)
    with state.transaction() as db:
        begin_stream(db, Stream("m", "a", Target.PLAY_COUNT, Group.ALL), 0)
        db.execute("UPDATE streams SET rate = 12.5")
    state.close()
    assert read_rates(path) == {"m": {"a": 12.5}}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("what", ["text", "a database", "a folder"])
def test_a_file_that_is_no_state_file_is_one_line(tmp_path: Path, what: str) -> None:
    """A wrong path is reported with the fix, and no file is created beside it."""
    path = tmp_path / "state.db"
    if what == "text":
        path.write_text("plays: many\n" * 100)
    elif what == "a folder":
        path.mkdir()
    else:
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("CREATE TABLE streams (rate)")
    with pytest.raises(StateError, match=r"state\.db: is not a state file of smartstream-exporter .*--storage\.path"):
        read_rates(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_state_file_is_one_line(tmp_path: Path) -> None:
    """A state file that `plan` cannot read is reported."""
    path = tmp_path / "state.db"
    open_state(path, lambda: 0.0).close()
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"\xff" * (len(content) - 100))
    with pytest.raises(StateError, match=r"state\.db: the state file cannot be read \(.*\); check the rights"):
        read_rates(path)
