"""The catalog: when lookups are due, and how long their results are used."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from exporter.api.answers import LiveEvent, Media
from exporter.api.catalog import (
    LIVE_EVERY,
    LIVE_STALE_AFTER,
    MEDIA_EVERY,
    PENDING_EVERY,
    RETRY_EVERY,
    RUNNING_EVERY,
    Catalog,
    Lookup,
)
from exporter.api.catalog_rows import read_refs
from exporter.config.settings import MerchantSettings
from exporter.storage.state import State, open_state
from exporter.views import MediaView

NOW = 1_800_000_000.0

A, B = Lookup("a"), Lookup("b")

Build = Callable[..., Catalog]


def known(media_id: str = "a", name: str = "News", event: str = "") -> Media:
    return Media(ref_id=f"ref-{media_id}", name=name, live_event_id=event, encode_type="live")


def settings(media: list[Mapping[str, Any]], merchant_id: str = "m", **keys: Any) -> MerchantSettings:
    return MerchantSettings.model_validate(
        {"id": merchant_id, "api_key": "k", "mail_address": "a@example.com", "password": "p", "media": media, **keys}
    )


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = open_state(tmp_path / "state.db", lambda: NOW)
    yield opened
    opened.close()


@pytest.fixture
def build(state: State) -> Build:
    """Create a catalog with the media a and b, or others; a second call is a restart."""
    return lambda *media: Catalog(state, settings(list(media) or [{"id": "a"}, {"id": "b"}]))


def test_all_media_are_looked_up_first(build: Build) -> None:
    """Each media is looked up once, and then none for hours."""
    catalog = build()
    assert catalog.next_lookup(NOW) == A
    catalog.enter_media(A, known("a"), NOW)
    assert catalog.next_lookup(NOW) == B
    catalog.enter_media(B, known("b"), NOW + 1)
    assert catalog.next_lookup(NOW + MEDIA_EVERY - 1) is None
    assert catalog.next_lookup(NOW + MEDIA_EVERY) == A


def test_the_busiest_media_is_looked_up_first(build: Build) -> None:
    """Of lookups that are equally due; media without known plays come last, in the order of the configuration."""
    catalog = build({"id": "a"}, {"id": "b"}, {"id": "c"})
    assert catalog.unknown == 3
    assert catalog.next_lookup(NOW, plays={"b": 1.0, "c": 2.0}) == Lookup("c")
    assert catalog.next_lookup(NOW, {Lookup("c")}, {"b": 1.0, "c": 2.0}) == B
    assert catalog.next_lookup(NOW, {Lookup("c"), B}, {"b": 1.0, "c": 2.0}) == A
    catalog.enter_media(Lookup("c"), Media("", "", "", "file"), NOW)
    catalog.failed(A, NOW)
    assert catalog.unknown == 1
    # A is due later than B, however busy it is.
    assert catalog.next_lookup(NOW + RETRY_EVERY, plays={"a": 5.0}) == B


def test_a_lookup_under_way_is_not_requested_again(build: Build) -> None:
    """Another thread gets the next lookup, or none."""
    catalog = build()
    assert catalog.next_lookup(NOW, {A}) == B
    assert catalog.next_lookup(NOW, {A, B}) is None


def test_the_longest_due_comes_first(build: Build) -> None:
    """Late lookups come in the order in which they became due."""
    catalog = build()
    catalog.enter_media(B, known("b"), NOW)
    catalog.enter_media(A, known("a"), NOW + 1)
    assert catalog.next_lookup(NOW + 2 * MEDIA_EVERY) == B


def test_a_merchant_without_media_needs_no_lookup(state: State) -> None:
    """There is nothing to request, and nothing to show."""
    catalog = Catalog(state, settings([]))
    assert catalog.next_lookup(NOW) is None
    assert catalog.views(NOW) == {}


def test_a_failed_lookup_is_tried_again_later(build: Build) -> None:
    """The other lookups come first, and the failed one after a delay; the known data stays."""
    catalog = build()
    catalog.enter_media(A, known(name="News"), NOW)
    late = NOW + MEDIA_EVERY
    catalog.failed(B, late)
    assert catalog.next_lookup(late) == A
    catalog.failed(A, late)
    assert catalog.next_lookup(late + RETRY_EVERY - 1) is None
    assert catalog.next_lookup(late + RETRY_EVERY) is not None
    assert catalog.views(late)["a"].name == "News"


def test_before_its_lookup_a_media_has_its_configured_name(build: Build) -> None:
    """There is a view of every media from the start, in the order of the configuration."""
    catalog = build({"id": "b", "name": "Mine", "labels": {"channel": "news"}}, {"id": "a"})
    assert list(catalog.views(NOW).values()) == [
        MediaView("b", name="Mine", labels={"channel": "news"}),
        MediaView("a"),
    ]


def test_a_view_stays_the_same_object_until_it_changes(build: Build) -> None:
    """Whoever has shown it knows by that, without a comparison, that it is the same."""
    catalog = build({"id": "a"}, {"id": "b"})
    first = catalog.views(NOW)
    assert [catalog.views(NOW + 60)[each] is first[each] for each in "ab"] == [True, True]
    catalog.enter_media(A, known("a", name="New"), NOW)
    assert [catalog.views(NOW)[each] is first[each] for each in "ab"] == [False, True]
    assert first["a"] == MediaView("a")


def test_a_configured_name_wins(build: Build) -> None:
    """The catalog gives the name if the configuration has none; the other data is always the catalog's."""
    catalog = build({"id": "a", "name": "Mine"}, {"id": "b"})
    catalog.enter_media(A, known("a", name="Theirs"), NOW)
    catalog.enter_media(B, known("b", name="Theirs"), NOW)
    assert list(catalog.views(NOW).values()) == [
        MediaView("a", name="Mine", ref_id="ref-a", encode_type="live"),
        MediaView("b", name="Theirs", ref_id="ref-b", encode_type="live"),
    ]


def test_a_rename_replaces_the_name(build: Build) -> None:
    """There is one view of a media, with the newest name, also after a restart."""
    catalog = build({"id": "a"})
    catalog.enter_media(A, known(name="Old"), NOW)
    catalog.enter_media(A, known(name="New"), NOW + MEDIA_EVERY)
    restarted = build({"id": "a"})
    for each in (catalog, restarted):
        assert [view.name for view in each.views(NOW + MEDIA_EVERY).values()] == ["New"]


def test_a_live_event_of_which_nothing_is_known_counts_as_running(build: Build) -> None:
    """After a start its state comes soon: until then its media is not judged. One that failed waits as usual."""
    catalog = build({"id": "a"}, {"id": "b"})
    event = Lookup("a", "e")
    catalog.enter_media(A, known("a", event="e"), NOW)
    catalog.enter_media(B, known("b"), NOW)
    assert catalog.next_lookup(NOW, running_only=True) == event
    catalog.failed(event, NOW)
    assert catalog.next_lookup(NOW + RETRY_EVERY, running_only=True) is None
    assert catalog.next_lookup(NOW + RETRY_EVERY) == event
    catalog.enter_live(event, LiveEvent(running=False), NOW)
    assert catalog.next_lookup(NOW + LIVE_EVERY, running_only=True) is None


def test_a_live_event_is_looked_up_every_few_minutes(build: Build) -> None:
    """Its first lookup comes as soon as it is known, the next ones at intervals; its state is shown."""
    catalog = build({"id": "a"})
    catalog.enter_media(A, known(event="e"), NOW)
    event = Lookup("a", "e")
    assert catalog.views(NOW)["a"].live_event_running is None
    for at, running, pause in ((NOW, True, RUNNING_EVERY), (NOW + RUNNING_EVERY, False, LIVE_EVERY)):
        assert catalog.next_lookup(at) == event
        catalog.enter_live(event, LiveEvent(running), at)
        assert catalog.views(at)["a"].live_event_running is running
        assert catalog.next_lookup(at + pause - 1) is None


def test_a_stale_live_event_is_not_exposed(build: Build) -> None:
    """Without answers the gauge disappears instead of showing a stale value; the next answer brings it back."""
    catalog = build({"id": "a"})
    catalog.enter_media(A, known(event="e"), NOW)
    event = Lookup("a", "e")
    catalog.enter_live(event, LiveEvent(True), NOW)
    catalog.failed(event, NOW + LIVE_EVERY)
    assert catalog.views(NOW + LIVE_STALE_AFTER)["a"].live_event_running is True
    assert catalog.views(NOW + LIVE_STALE_AFTER + 1)["a"].live_event_running is None
    catalog.enter_live(event, LiveEvent(True), NOW + LIVE_STALE_AFTER + 2)
    assert catalog.views(NOW + LIVE_STALE_AFTER + 2)["a"].live_event_running is True


@pytest.mark.parametrize("after", ["", "f"])
def test_a_new_live_event_replaces_the_previous(build: Build, after: str) -> None:
    """The old event is not looked up again, and its state is not shown for the new one."""
    catalog = build({"id": "a"})
    catalog.enter_media(A, known(event="e"), NOW)
    catalog.enter_live(Lookup("a", "e"), LiveEvent(True), NOW)
    catalog.enter_media(A, known(event=after), NOW + 1)
    assert catalog.views(NOW + 1)["a"].live_event_running is None
    assert catalog.next_lookup(NOW + LIVE_EVERY) == (Lookup("a", after) if after else None)


@pytest.mark.parametrize("fails", [True, False])
def test_a_late_answer_about_the_previous_live_event_is_ignored(build: Build, fails: bool) -> None:
    """If the media got another event while the lookup was under way, the answer is not entered, and the lookup is not
    repeated.
    """
    catalog = build({"id": "a"})
    old = Lookup("a", "e")
    catalog.enter_media(A, known(event="e"), NOW)
    catalog.enter_media(A, known(event="f"), NOW + 1)
    if fails:
        catalog.failed(old, NOW + 2)
    else:
        catalog.enter_live(old, LiveEvent(True), NOW + 2)
    assert catalog.views(NOW + 2)["a"].live_event_running is None
    catalog.enter_live(Lookup("a", "f"), LiveEvent(False), NOW + 3)
    assert catalog.next_lookup(NOW + MEDIA_EVERY - 1, {Lookup("a", "f")}) is None


def test_a_restart_requests_nothing_that_is_known(build: Build) -> None:
    """Names are in the state file; only the states of live events are requested at once."""
    catalog = build()
    catalog.enter_media(A, known("a", event="e"), NOW)
    catalog.enter_media(B, known("b"), NOW)
    catalog.enter_live(Lookup("a", "e"), LiveEvent(True), NOW)
    restarted = build()
    assert restarted.views(NOW + 1)["a"] == MediaView("a", name="News", ref_id="ref-a", encode_type="live")
    assert restarted.next_lookup(NOW + 1) == Lookup("a", "e")
    restarted.enter_live(Lookup("a", "e"), LiveEvent(True), NOW + 1)
    assert restarted.next_lookup(NOW + 2) is None
    assert restarted.next_lookup(NOW + MEDIA_EVERY, {Lookup("a", "e")}) == A


def test_a_restart_shows_only_configured_media(build: Build, state: State) -> None:
    """Media that were removed from the configuration, and those of another merchant, are not shown."""
    build().enter_media(A, known("a"), NOW)
    assert list(build({"id": "b"}).views(NOW)) == ["b"]
    other = Catalog(state, settings([{"id": "a"}], merchant_id="other"))
    assert other.views(NOW) == {"a": MediaView("a")}
    assert other.next_lookup(NOW) == A


def test_a_clock_that_was_set_back_delays_nothing(build: Build) -> None:
    """Data that was entered years in the future is requested again now, and the state of a live event is not used."""
    catalog = build({"id": "a"})
    ahead = NOW + 10 * 365 * 86400
    catalog.enter_media(A, known(event="e"), ahead)
    catalog.enter_live(Lookup("a", "e"), LiveEvent(True), ahead)
    assert catalog.views(NOW)["a"].live_event_running is None
    assert {catalog.next_lookup(NOW, {A}), catalog.next_lookup(NOW, {Lookup("a", "e")})} == {A, Lookup("a", "e")}
    assert build({"id": "a"}).next_lookup(NOW, {Lookup("a", "e")}) == A


# ---- reference ids ----

R, S = Lookup("", ref_id="r"), Lookup("", ref_id="s")


def found(media_id: str = "x", ref_id: str = "r", event: str = "") -> Media:
    return Media(ref_id, f"name of {media_id}", event, "live", media_id)


def test_a_reference_id_is_looked_up_until_it_exists(build: Build) -> None:
    """Each minute; a failed lookup waits as others do. Only the first lookup counts as unknown."""
    catalog = build({"ref_id": "r"})
    assert (catalog.unknown, catalog.refs, catalog.pending, catalog.views(NOW)) == (1, {}, {"r": None}, {})
    assert catalog.next_lookup(NOW) == R
    assert catalog.enter_missing(R, NOW) is True
    assert (catalog.unknown, catalog.pending) == (0, {"r": NOW})
    for again in (1, 2):
        at = NOW + again * PENDING_EVERY
        assert catalog.next_lookup(at - 1) is None
        assert catalog.next_lookup(at) == R
        assert catalog.enter_missing(R, at) is False
    catalog.failed(R, NOW + 180)
    assert catalog.next_lookup(NOW + 180 + RETRY_EVERY - 1) is None
    assert catalog.pending == {"r": NOW}
    assert catalog.enter_media(R, found(), NOW + 1000) is True
    assert (catalog.refs, catalog.pending, catalog.unknown) == ({"r": "x"}, {}, 0)
    assert catalog.next_lookup(NOW + MEDIA_EVERY) is None


def test_a_failed_first_lookup_has_ended(build: Build) -> None:
    """It is not unknown any more, nor known to be missing; a change of the configuration leaves that so."""
    catalog = build({"ref_id": "r"})
    catalog.failed(R, NOW)
    catalog.configure(settings([{"ref_id": "r"}]))
    assert (catalog.unknown, catalog.pending) == (0, {"r": None})
    assert catalog.next_lookup(NOW) is None
    assert catalog.next_lookup(NOW + RETRY_EVERY) == R


@pytest.mark.parametrize("allowed", [45, 9])
def test_many_missing_media_share_few_requests(state: State, allowed: int) -> None:
    """However many they are, they take a fifteenth of the budget."""
    catalog = Catalog(state, settings([{"ref_id": f"r{n}"} for n in range(200)], requests_per_minute=allowed))
    for _ in range(200):
        lookup = catalog.next_lookup(NOW)
        assert lookup is not None
        catalog.enter_missing(lookup, NOW)
    asked = 0
    for second in range(0, 4 * 3600, 4):
        lookup = catalog.next_lookup(NOW + second)
        if lookup is not None:
            catalog.enter_missing(lookup, NOW + second)
            asked += 1
    assert asked <= 4 * 60 * allowed / 15 + 1
    assert asked >= 0.5 * 4 * 60 * allowed / 15


def test_a_found_media_is_configured_without_another_lookup(build: Build) -> None:
    """It has its name and its live event; later it is looked up by its reference id again."""
    catalog = build({"id": "a"}, {"ref_id": "r"})
    merchant = settings([{"id": "a"}, {"ref_id": "r", "labels": {"channel": "1"}}])
    catalog.enter_media(A, known("a"), NOW)
    catalog.enter_media(R, found(event="e"), NOW)
    assert list(catalog.views(NOW)) == ["a"]
    catalog.configure(merchant.identified(catalog.refs))
    view = MediaView("x", name="name of x", ref_id="r", encode_type="live", labels={"channel": "1"})
    assert catalog.views(NOW)["x"] == view
    assert catalog.is_live("x") is True
    assert catalog.next_lookup(NOW) == Lookup("x", "e")
    again = Lookup("x", ref_id="r")
    assert catalog.next_lookup(NOW + MEDIA_EVERY, {A, Lookup("x", "e")}) == again
    # A 404 of it does not undo what is known.
    assert catalog.enter_missing(again, NOW + MEDIA_EVERY) is False
    assert (catalog.refs, catalog.pending) == ({"r": "x"}, {})
    assert catalog.next_lookup(NOW + MEDIA_EVERY + RETRY_EVERY - 1, {A, Lookup("x", "e")}) is None


def test_a_reference_id_can_move_to_another_media(build: Build) -> None:
    """The next lookup says so, and the configuration follows."""
    catalog = build({"ref_id": "r"})
    merchant = settings([{"ref_id": "r"}])
    catalog.enter_media(R, found("x"), NOW)
    catalog.configure(merchant.identified(catalog.refs))
    again = Lookup("x", ref_id="r")
    assert catalog.enter_media(again, found("x"), NOW + 1) is False
    assert catalog.enter_media(again, found("y"), NOW + 2) is True
    assert catalog.refs == {"r": "y"}
    catalog.configure(merchant.identified(catalog.refs))
    assert list(catalog.views(NOW)) == ["y"]
    assert build({"ref_id": "r"}).refs == {"r": "y"}


def test_a_restart_needs_no_lookup_of_a_known_reference_id(state: State, build: Build) -> None:
    """The state file has it, also without a catalog, and as it is configured, not as the catalog writes it."""
    build({"ref_id": "r"}, {"ref_id": "s"}).enter_media(R, found(ref_id="R"), NOW)
    merchant = settings([{"ref_id": "r"}, {"ref_id": "s"}])
    assert read_refs(state, merchant) == {"r": "x"}
    restarted = Catalog(state, merchant.identified(read_refs(state, merchant)))
    assert restarted.views(NOW)["x"].name == "name of x"
    assert (restarted.refs, restarted.unknown) == ({"r": "x"}, 1)
    assert restarted.next_lookup(NOW) == S
    assert read_refs(state, settings([{"ref_id": "r"}], merchant_id="other")) == {}


def test_two_reference_ids_of_one_media(build: Build) -> None:
    """The second has no media of its own, and is not asked for again."""
    catalog = build({"ref_id": "r"}, {"ref_id": "s"})
    catalog.enter_media(R, found("x", "r"), NOW)
    catalog.enter_media(S, found("x", "s"), NOW)
    for _ in range(2):
        catalog.configure(settings([{"ref_id": "r"}, {"ref_id": "s"}]).identified(catalog.refs))
        assert catalog.refs == {"r": "x", "s": "x"}
        assert list(catalog.views(NOW)) == ["x"]
        assert catalog.next_lookup(NOW) is None


# ---- a changed configuration ----


def test_unchanged_media_keep_everything(build: Build) -> None:
    """When they are due, their live events; names and labels of the configuration change at once."""
    catalog = build()
    catalog.enter_media(A, known("a", event="e"), NOW)
    catalog.enter_media(B, known("b"), NOW + 5)
    catalog.enter_live(Lookup("a", "e"), LiveEvent(True), NOW)
    catalog.configure(settings([{"id": "b"}, {"id": "a", "name": "Mine", "labels": {"x": "y"}}, {"id": "c"}]))
    assert list(catalog.views(NOW)) == ["b", "a", "c"]
    view = catalog.views(NOW)["a"]
    assert (view.name, view.labels, view.live_event_running) == ("Mine", {"x": "y"}, True)
    assert catalog.unknown == 1
    assert catalog.is_live("c") is None
    assert catalog.next_lookup(NOW) == Lookup("c")
    busy = {Lookup("c"), Lookup("a", "e")}
    assert catalog.next_lookup(NOW + MEDIA_EVERY - 1, busy) is None
    assert catalog.next_lookup(NOW + MEDIA_EVERY + 5, busy) == A
    assert catalog.next_lookup(NOW + MEDIA_EVERY + 5, {*busy, A}) == B


def test_a_removed_media_is_forgotten(build: Build, state: State) -> None:
    """Its row stays, so that it is known at once when it comes back."""
    catalog = build()
    catalog.enter_media(A, known("a", event="e"), NOW)
    catalog.enter_live(Lookup("a", "e"), LiveEvent(True), NOW)
    catalog.configure(settings([{"id": "b"}]))
    assert list(catalog.views(NOW)) == ["b"]
    assert (catalog.name_of("a"), catalog.live_state("a"), catalog.is_live("a")) == ("", None, False)
    assert catalog.next_lookup(NOW + MEDIA_EVERY, {B}) is None
    catalog.configure(settings([{"id": "a"}, {"id": "b"}]))
    assert catalog.views(NOW)["a"] == MediaView("a", name="News", ref_id="ref-a", encode_type="live")
    assert catalog.next_lookup(NOW, {B}) == Lookup("a", "e")
    assert catalog.unknown == 1


@pytest.mark.parametrize("lookup", [A, R], ids=str)
def test_an_answer_for_a_removed_media_is_ignored(build: Build, state: State, lookup: Lookup) -> None:
    """It was under way when the configuration changed: nothing is shown, stored or asked again."""
    catalog = build({"id": "a"}, {"ref_id": "r"}, {"id": "b"})
    catalog.configure(settings([{"id": "b"}]))
    assert catalog.enter_media(lookup, found("a"), NOW) is False
    assert catalog.enter_missing(lookup, NOW) is False
    catalog.enter_live(Lookup("a", "e"), LiveEvent(True), NOW)
    catalog.failed(lookup, NOW)
    assert (list(catalog.views(NOW)), catalog.refs, catalog.pending) == (["b"], {}, {})
    assert catalog.next_lookup(NOW + MEDIA_EVERY, {B}) is None
    with state.read() as db:
        assert db.execute("SELECT * FROM media").fetchall() == []


def test_an_entry_may_name_its_media_in_another_way(build: Build) -> None:
    """By its id before, by its reference id now: it keeps what is known and when it is due."""
    catalog = build({"id": "a"})
    catalog.enter_media(A, known("a"), NOW)
    by_ref = settings([{"ref_id": "ref-a"}])
    catalog.configure(by_ref)
    assert catalog.refs == {"ref-a": "a"}
    catalog.configure(settings([{"id": "a"}]))
    catalog.configure(by_ref.identified({"ref-a": "a"}))
    assert catalog.views(NOW)["a"].name == "News"
    assert catalog.next_lookup(NOW + MEDIA_EVERY - 1) is None
    assert catalog.next_lookup(NOW + MEDIA_EVERY) == Lookup("a", ref_id="ref-a")


# ---- tags ----


@pytest.mark.parametrize(("tags", "label"), [(("live", "news"), ",live,news,"), (("a b",), ",a b,"), ((), "")])
def test_tags_are_a_label_where_configured(state: State, tags: tuple[str, ...], label: str) -> None:
    """With a comma around each; after a restart, too. Without the setting there is no such label."""
    merchant = settings([{"id": "a", "labels": {"x": "y"}}, {"id": "b"}], catalog_labels=["tags"])
    catalog = Catalog(state, merchant)
    catalog.enter_media(A, Media("", "", "", "file", "a", ("before",)), NOW)
    catalog.enter_media(A, Media("", "", "", "file", "a", tags), NOW)
    for each in (catalog, Catalog(state, merchant)):
        assert each.views(NOW)["a"].labels == {"x": "y", "tags": label}
        assert each.views(NOW)["b"].labels == {"tags": ""}
    catalog.configure(settings([{"id": "a", "labels": {"x": "y"}}]))
    assert catalog.views(NOW)["a"].labels == {"x": "y"}
