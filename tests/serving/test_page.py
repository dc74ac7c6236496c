import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from exporter.api.request_log import Exchange
from exporter.serving.page import MOST_MEDIA, POLICY, RUNBOOK, media_page, page
from exporter.serving.schema import Cause, CauseKind, Drop, DropState, Health, MediaState, Status
from exporter.views import DayState, Hour, IncidentState, Judgement, MerchantView
from tests.support.statuses import NOW, THROUGH, built, day_of, incident, link, status_with_media

NASTY = '<script>alert("1")</script><img src=x onerror=alert(2)>\'&'
VOID = {"meta", "link", "input"}


class Reader(HTMLParser):
    """Reads a page: its tags, its rows, its definitions; fails if a tag is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.facts: dict[str, str] = {}
        self._open: list[str] = []
        self._term = ""
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Handle an opening tag."""
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "dt":
            self._term = ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Handle a self-closing tag."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Handle a closing tag."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Handle text."""
        if "dt" in self._open:
            self._term += data
        elif "dd" in self._open:
            self.facts[self._term] = self.facts.get(self._term, "") + data
        elif {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    @property
    def cells(self) -> list[list[str]]:
        """The rows, with single spaces."""
        return [[" ".join(cell.split()) for cell in row] for row in self.rows]


def changed(status: Status, **changes: Any) -> Status:
    """The status with changes of its only merchant."""
    return replace(status, merchants=(replace(status.merchants[0], **changes),))


def with_media(status: Status, **changes: Any) -> Status:
    """The status with changes of its first media."""
    first, *others = status.merchants[0].media
    return changed(status, media=(replace(first, **changes), *others))


def media_rows(status: Status) -> list[list[str]]:
    """The rows of the table of media."""
    cells = Reader(page(status)).cells
    start = next(place for place, row in enumerate(cells) if row[:2] == ["Media", "State"] and len(row) == 7)
    end = next(place for place, row in enumerate(cells) if row[:2] == ["Time", "Merchant"])
    return cells[start + 1 : end]


def facts_of(text: str) -> dict[str, str]:
    """The definitions of a page, with single spaces."""
    return {term: " ".join(found.split()) for term, found in Reader(text).facts.items()}


def test_a_merchant_is_shown_in_facts() -> None:
    """Plays, drop, newest row, API; folded: budget, staleness with its bound, token, success, lost minutes."""
    status = status_with_media(1)
    assert facts_of(page(status)) == {
        "Last 24 hours": "Last 24 hours: judged, no drops",
        "Plays, last minute": "100 of 100",
        "Drop": "none",
        "Newest row": "2 min ago",
        "API": "up",
        "Request budget": "45 per minute for 2 streams",
        "Staleness": "1.5 min lower bound 1.5 min",
        "Token expiry": "17:30",
        "Last success": "2 s ago",
        "Last poll": "12 s ago",
        "Lost minutes": "0",
        "Values not counted yet": "0",
        "Failing streams": "0",
    }


def test_an_error_of_a_merchant_that_is_resolved_is_marked() -> None:
    """An error counts as resolved after a later success. It is then folded, and not red."""
    error = {"last_error": "503 from the API", "last_error_at": NOW - 7300}
    now, before = (
        page(changed(status_with_media(1), last_success=success, **error)) for success in (NOW - 7400, NOW - 2)
    )
    assert facts_of(now)["Last error"] == "2 h 1 min ago: 503 from the API"
    assert facts_of(before)["Last error, resolved"] == "2 h 1 min ago: 503 from the API"
    assert "Last error" not in facts_of(before)
    assert before.index("Last error, resolved") > before.index("<details>")


def test_a_media_is_one_row() -> None:
    """Name and id, state, drop, last hour, plays and expected plays, last 24 hours, and the age of its data once."""
    rows = media_rows(status_with_media(5))
    assert rows[0] == [
        "Media 2 m2",
        "critical drop since 16:43, 720 plays lost",
        "−80 %",
        "",
        "3 of 60",
        "Last 24 hours: warning 03:00–04:00, critical 16:30–17:00",
        "4 min",
    ]
    assert rows[1][:3] == ["Media 4 m4", "failing 503 SERVER_ERROR", "–"]
    assert [row[0] for row in rows] == ["Media 2 m2", "Media 4 m4", "Media 0 m0", "Media 1 m1", "Media 3 live m3"]


def test_the_worst_media_come_first() -> None:
    """Critical and warning drops by their depth, gone, failing, stale, learning; the rest as configured."""
    [*media] = status_with_media(11).merchants[0].media
    states = {
        10: (MediaState.CRITICAL, MediaState.JUDGED),
        9: (MediaState.WARNING, MediaState.JUDGED),
        8: (MediaState.GONE, MediaState.STALE),
        7: (MediaState.FAILING,),
        6: (MediaState.STALE,),
        5: (MediaState.LEARNING,),
        3: (MediaState.OFF,),
        4: (MediaState.JUDGED,),
    }
    media = [
        replace(each, states=states.get(place, each.states), drop=replace(each.drop, ratio=0.7 if place == 10 else 0.3))
        if place != 2
        else each
        for place, each in enumerate(media)
    ]
    rows = media_rows(changed(status_with_media(11), media=tuple(media)))
    assert [row[0].split()[1] for row in rows] == ["2", "10", "9", "8", "7", "6", "5", "0", "1", "3", "4"]


def test_an_error_disappears_when_the_media_recovers() -> None:
    """The row has the newest error while some streams fail or the media is gone, and not afterwards."""
    status = status_with_media(1)
    error = {"last_error": "503 SERVER_ERROR", "last_error_at": NOW - 70}
    for failing, state in (({"failing_streams": 1}, MediaState.FAILING), ({"gone": True}, MediaState.GONE)):
        assert "503" in media_rows(with_media(status, states=(state,), **error, **failing))[0][1]
    assert media_rows(with_media(status, **error))[0][1] == "good"


def test_the_tiles_count_the_media() -> None:
    """All media, and those that are in each state; a media can count in more than one. Each filters the rows."""
    status = status_with_media(6)
    status = with_media(status, states=(MediaState.GONE, MediaState.STALE, MediaState.LEARNING))
    text = page(changed(status, learning_until=NOW + 3 * 3600))
    tiles = re.findall(r'data-show="(\w*)"><b>(\d+)</b> ([\w ]+\w)(?: <small>(.*?)</small>)?<', text)
    assert tiles == [
        ("", "6", "Media", ""),
        ("critical", "1", "Critical drops", ""),
        ("warning", "0", "Warning drops", ""),
        ("gone", "2", "Gone or failing", ""),
        ("stale", "1", "Stale", ""),
        ("learning", "1", "Learning", "about 3 h left"),
        ("judged", "5", "Judged", ""),
    ]
    rows = [attributes["data-tiles"] for tag, attributes in Reader(text).tags if "data-tiles" in attributes]
    assert rows == ["critical judged", "gone stale learning", "gone judged", "judged", "judged", "judged"]


def test_the_causes_link_to_their_media() -> None:
    """The headline has the causes with their begin and duration; the title of the window has the health."""
    text = page(status_with_media(5))
    assert "<title>Bad – SmartSTREAM exporter</title>" in text
    assert '<a href="media?merchant=acme&amp;media=m2">Media 2: 80 % of the expected plays are missing' in text
    assert re.search(r"since <time [^>]*>16:43</time> \(17 min\)", text)
    assert "5 of 5 media are judged. Newest row: " in text


def test_times_are_in_the_zone_of_the_api_and_have_utc_in_their_title() -> None:
    """An age has both in its title; a time of another day has its date."""
    status = with_media(status_with_media(3), data_timestamp=NOW - 130)
    times = [attributes for tag, attributes in Reader(page(status)).tags if tag == "time"]
    assert {
        "datetime": "2027-01-15T07:57:50Z",
        "title": "2027-01-15 16:57:50 Asia/Tokyo, 2027-01-15 07:57:50 UTC",
    } in times
    assert facts_of(page(changed(status, token_expiry=NOW + 8 * 3600)))["Token expiry"] == "01-16 01:00"
    assert "17:00</time> Asia/Tokyo." in page(status)
    assert "17:00" not in page(replace(status, timezone="UTC"))


def incident_rows(status: Status) -> list[list[str]]:
    """The rows of the table of incidents."""
    cells = Reader(page(status)).cells
    start = cells.index(["Media", "State", "Onset", "Duration", "Worst", "Plays lost"])
    end = next(place for place, row in enumerate(cells) if row[:2] == ["Media", "State"] and len(row) == 7)
    return cells[start + 1 : end]


def test_incidents_are_a_list_with_the_open_ones_first() -> None:
    """Onset, duration, worst ratio, plays lost and state. Of the open ones the critical ones come first."""
    views = (
        incident("m0", THROUGH - 10, 0.5),
        incident("m1", THROUGH - 30, 0.9, ratio=0.7),
        incident("m2", THROUGH - 5, 0.9, state=IncidentState.ENDED, ratio=0.0, minute=THROUGH - 1),
        incident("m3", THROUGH - 1500, 0.9, state=IncidentState.ACCEPTED, minute=THROUGH - 60),
    )
    merchant = MerchantView("acme", THROUGH, incidents=views, link=link(1))
    rows = incident_rows(built(merchant))
    assert rows == [
        ["m1", "open", "16:27", "33 min", "−90 %", "1,302"],
        ["m0", "open", "16:47", "13 min", "−50 %", "330"],
        ["m2", "ended", "16:52", "5 min", "−90 %", "0"],
        ["m3", "accepted as new baseline", "01-14 15:57", "1 d 1 min", "−90 %", "81,054"],
    ]


def test_media_of_a_merchants_incident_are_folded_under_it() -> None:
    """They are no rows of their own, also if there was an earlier incident of the merchant."""
    earlier = incident("", THROUGH - 900, 0.9, state=IncidentState.ENDED, minute=THROUGH - 800)
    views = (
        incident("", THROUGH - 20, 0.8),
        *[incident(f"m{number}", THROUGH - 21 + number, 0.9, with_merchant=True) for number in range(3)],
        incident("m9", THROUGH - 60, 0.7),
        earlier,
    )
    rows = incident_rows(built(MerchantView("acme", THROUGH, incidents=views, link=link(1))))
    assert [row[0].split(" 3 media")[0] for row in rows] == ["All media of acme", "m9", "All media of acme"]
    assert rows[0][0].startswith("All media of acme 3 media dropped with it m0 −90 %, 1,188 plays lost m1")


def test_old_incidents_are_few() -> None:
    """All open ones are shown, and the ten newest others."""
    over = [incident("m1", THROUGH - 100 * n, 0.9, state=IncidentState.ENDED) for n in range(1, 30)]
    views = (*[incident(f"m{n}", THROUGH - n, 0.9) for n in range(20)], *over)
    rows = incident_rows(built(MerchantView("acme", THROUGH, incidents=views, link=link(1))))
    assert [row[1] for row in rows] == ["open"] * 20 + ["ended"] * 10
    assert "No incidents." in page(built(MerchantView("acme", THROUGH, link=link(1))))


def test_unknown_values_are_dashes() -> None:
    """A merchant and a media before their first answer have dashes, not zeros or None."""
    status = with_media(
        status_with_media(1),
        name="",
        last_minute_plays=None,
        data_timestamp=None,
        drop=Drop(DropState.UNKNOWN),
        hour=None,
        day=None,
        states=(MediaState.STALE, MediaState.LEARNING),
    )
    status = changed(status, up=None, horizon=None, token_expiry=None, last_success=None, round_timestamp=None)
    assert media_rows(status) == [["m0", "stale learning", "–", "–", "–", "–", "–"]]
    facts = facts_of(page(status))
    assert [facts[term] for term in ("Token expiry", "Last success", "Newest row", "Last poll")] == ["–"] * 4
    assert facts["API"] == "not contacted yet"
    assert "None" not in page(status)


@pytest.mark.parametrize(
    ("state", "label"), [("none", "none"), ("critical", "critical"), ("off", "disabled"), ("unknown", "no data")]
)
def test_the_drop_of_a_merchant_has_a_label(state: str, label: str) -> None:
    """A merchant without a verdict is not shown as normal."""
    status = status_with_media(1)
    whole = replace(status.merchants[0].whole, drop=Drop(DropState(state)))
    assert facts_of(page(changed(status, whole=whole)))["Drop"] == label


def test_the_newest_requests_are_folded_rows_and_failures_stand_out() -> None:
    """Each request has its time, merchant, endpoint, media and stream, code, seconds and error."""
    text = page(status_with_media(5))
    reader = Reader(text)
    request = "Media 1 m1/play_count/all"
    assert reader.cells[-2] == ["2 s ago", "acme", "aggregations", request, "200", "0.05 s", "–"]
    assert reader.cells[-1][-4:] == ["Media 4 m4/play_count/all", "503", "0.25 s", "503 SERVER_ERROR"]
    rows = [attributes for tag, attributes in reader.tags if tag == "tr"]
    assert [row.get("class") for row in rows[-2:]] == [None, "failed"]
    assert text.index("<details><summary><h2>Latest requests") < text.index("503 SERVER_ERROR</td>")


def test_empty_tables_have_a_row_that_says_so() -> None:
    """A merchant without media, and a log without requests, have a row with a text."""
    text = page(replace(changed(status_with_media(1), media=()), requests=()))
    assert [row for row in Reader(text).cells if len(row) == 1] == [
        ["No media configured. The whole merchant is counted anyway."],
        ["No requests yet."],
    ]


def test_media_of_several_merchants_are_in_one_table() -> None:
    """So that the worst of all come first; each row and link names the merchant."""
    one = status_with_media(3).merchants[0]
    status = replace(status_with_media(3), merchants=(one, replace(one, merchant_id="b & c")))
    rows = media_rows(status)
    assert [row[0] for row in rows[:3]] == ["Media 2 acme m2", "Media 2 b & c m2", "Media 0 acme m0"]
    assert 'href="media?merchant=b+%26+c&amp;media=m2"' in page(status)


def test_very_many_media_of_several_merchants_have_separate_pages() -> None:
    """The overview has the facts of each merchant, the tiles, and a link to the media of each; the page of one
    merchant has all of its media.
    """
    status = status_with_media(MOST_MEDIA)
    one = status.merchants[0]
    several = replace(status, merchants=(one, replace(one, merchant_id="b & c", media=one.media[:1])))
    reader = Reader(page(several))
    links = [attributes["href"] for tag, attributes in reader.tags if tag == "a"]
    assert [each for each in links if each and each.startswith("?")] == ["?merchant=acme", "?merchant=b%20%26%20c"]
    assert not [tag for tag, attributes in reader.tags if attributes.get("id") in ("media", "filter")]
    assert "<b>1,001</b> Media" in page(several)
    assert len(media_rows(status)) == MOST_MEDIA


def paths(hour: Hour) -> list[str | None]:
    """The paths of a chart: expected, plays."""
    text = page(with_media(status_with_media(1), hour=hour, day=None))
    reader = Reader(text[text.index('<tbody id="rows"') : text.index("<footer")].partition("</table>")[0])
    return [attributes["d"] for tag, attributes in reader.tags if tag == "path"]


def test_a_chart_has_gaps_for_unknown_minutes() -> None:
    """Higher values are drawn higher; an unknown minute is a gap; a single minute is a dot; both lines have the same
    scale.
    """
    hour = Hour(0.0, (0.0, 10.0, None, 5.0, None), (20.0, None, None, None, 20.0))
    assert paths(hour) == ["M0 0h0M8 0h0", "M0 40 2 20M6 30h0"]


@pytest.mark.parametrize("values", [(), (None, None), (0.0, 0.0)])
def test_an_hour_without_plays_is_drawn(values: tuple[float | None, ...]) -> None:
    """An hour without data is an empty picture; zeros are a line at the bottom."""
    assert paths(Hour(0.0, values, values))[1] == ("M0 40 2 40" if values and values[0] is not None else "")


def bar(*changes: tuple[int, int, DayState]) -> tuple[str, dict[str | None, str | None]]:
    """The title of a bar, and the path of each state."""
    text = page(with_media(status_with_media(1), hour=None, day=day_of(*changes)))
    part = text[text.index('<tbody id="rows"') :].partition("</tbody>")[0]
    title = re.search(r"<title>(.*?)</title>", part)
    assert title is not None
    return title[1], {row["class"]: row["d"] for tag, row in Reader(part + "</tbody>").tags if tag == "path"}


def test_a_bar_shows_the_last_24_hours() -> None:
    """Each state is one path, as long as its periods; the title has the periods in local time."""
    title, drawn = bar((0, 8, DayState.NO_DATA), (80, 82, DayState.WARNING), (82, 96, DayState.CRITICAL))
    assert title == "Last 24 hours: no data 17:00–19:00, warning 13:00–13:30, critical 13:30–17:00"
    assert drawn == {
        "no-data": "M0 9.2h8",
        "judged": "M8 7.5h72",
        "warning": "M80 6.2h2",
        "critical": "M82 5h14",
    }
    assert bar()[0] == "Last 24 hours: judged, no drops"


def test_the_title_of_a_bar_stays_short() -> None:
    """Of many periods the newest six are named."""
    title, _ = bar(*[(4 * number, 4 * number + 1, DayState.WARNING) for number in range(20)])
    assert title.count("warning") == 6
    assert title.endswith(", 14 earlier periods")


def media_status(status: Status, place: int, **changes: Any) -> str:
    """The page of a media, by its place, with changes."""
    media = list(status.merchants[0].media)
    media[place] = replace(media[place], **changes)
    text = media_page(changed(status, media=tuple(media)), media[place].media_id)
    assert text is not None
    return text


def test_a_media_has_a_page() -> None:
    """Its name, state, drop with onset and accepting, facts with labels and thresholds, streams, incidents, its own
    requests only, and the runbook.
    """
    text = media_status(status_with_media(5), 2, labels={"channel": "news"})
    reader = Reader(text)
    words = " ".join(re.sub(r"<[^>]*>", "", text[text.index("<main>") :]).split())
    assert "Media 2 critical drop 80 % of the expected plays are missing since 16:43 (17 min): 720 plays lost" in words
    assert "If the plays stay like this, they become the new baseline at 01-16 16:43." in words
    assert facts_of(text) == {
        "Plays, last minute": "3 of 60",
        "Data age": "4 min",
        "Drop": "−80 %",
        "Alerts": "warning above 40 %, critical above 60 %",
        "Media": "m2",
        "Merchant": "acme",
        "channel": "news",
    }
    assert [row for row in reader.cells if row[0] in ("open", "play_count")] == [
        ["open", "16:43", "17 min", "−80 %", "720"],
        ["play_count", "all", "4 min"],
    ]
    assert reader.cells[-1] == ["No requests yet."]
    assert Reader(media_status(status_with_media(5), 4)).cells[-1][-1] == "503 SERVER_ERROR"
    assert f'href="{RUNBOOK}#smartstreamplaysdrop"' in text
    assert text.count('class="onset"') == 2
    assert "<title>Media 2 – SmartSTREAM exporter</title>" in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"drop": Drop(DropState.NONE, 0.0)}, "No drop."),
        ({"drop": Drop(DropState.NONE, 0.2)}, "20 % of the expected plays are missing."),
        ({"judgement": Judgement.LEARNING}, "still learning, until about <time"),
        ({"judgement": Judgement.NO_DATA}, "There is no data to judge."),
        ({"judgement": Judgement.OFF, "thresholds": None}, "The configuration excludes this media from drop alerts."),
        ({"gone": True, "last_error": "404 gone", "last_error_at": NOW}, '<p class="failed">'),
        ({"last_error": "404 gone", "last_error_at": NOW}, "Last error, resolved"),
        ({"hour": None}, "No plays are known."),
        ({"day": None}, "Nothing is known of the last 24 hours."),
    ],
)
def test_the_page_of_a_media_says_what_is_known(changes: dict[str, Any], said: str) -> None:
    """Also where the detector learns, has no data or is off, and where nothing was fetched."""
    assert said in media_status(changed(status_with_media(1), learning_until=NOW + 600), 0, **changes)


def test_an_unknown_media_has_no_page() -> None:
    """Neither has the whole merchant, whose id is empty."""
    assert media_page(status_with_media(1), "other") is None
    assert media_page(status_with_media(1), "") is None


def hostile_status() -> Status:
    """A status in which every text is hostile."""
    status = status_with_media(3)
    merchant = status.merchants[0]
    media = replace(
        merchant.media[2],
        media_id=NASTY,
        name=NASTY,
        labels={NASTY: NASTY},
        last_error=NASTY,
        last_error_at=NOW,
        failing_streams=1,
    )
    drops = tuple(
        replace(each, media_id=media_id, name=NASTY, with_merchant=bool(media_id))
        for each in merchant.incidents
        for media_id in ("", NASTY)
    )
    texts: dict[str, Any] = {"last_error": NASTY, "last_error_at": NOW, "unusable": NASTY, "timezone_error": NASTY}
    merchant = replace(merchant, merchant_id=NASTY, media=(media,), incidents=drops, **texts)
    request = Exchange(NOW, NASTY, NASTY, NASTY, 0.1, NASTY, NASTY, NASTY)
    causes = (Cause(Health.BAD, CauseKind.CRITICAL_DROP, NASTY, 1, NOW, NASTY, NASTY, NASTY),)
    return replace(
        status, version=NASTY, summary=NASTY, causes=causes, merchants=(merchant, merchant), requests=(request,)
    )


def hostile_pages() -> list[str]:
    """All pages of it."""
    status = hostile_status()
    of_media = media_page(replace(status, merchants=status.merchants[:1]), NASTY)
    assert of_media is not None
    return [page(status), of_media]


def test_everything_is_escaped() -> None:
    """The content of an id, a name, a label or an error always stays text."""
    for text in hostile_pages():
        reader = Reader(text)
        tags = [tag for tag, _ in reader.tags]
        assert tags.count("script") == 1
        assert "img" not in tags
        assert not [name for _, attributes in reader.tags for name in attributes if name.startswith("on")]
        assert NASTY in [cell for row in reader.rows for cell in row]
        assert reader.rows[-1][-1] == NASTY


def test_the_policy_allows_only_the_pages_own_script_and_style() -> None:
    """The hashes in the policy are those of each page's script and style; nothing is allowed by a keyword."""
    for text in hostile_pages():
        for tag in ("script", "style"):
            (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in POLICY
    assert "unsafe" not in POLICY
    assert "*" not in POLICY


def test_the_pages_load_nothing_from_elsewhere() -> None:
    """No picture or script names another host, and no link but that to the runbook; no tag has a style, which the
    policy would block.
    """
    for text in (page(status_with_media(3)), media_status(status_with_media(3), 2)):
        for tag, attributes in Reader(text).tags:
            assert not {"style", "onclick", "src"} & set(attributes), tag
            link = (attributes.get("href") or "").removeprefix(RUNBOOK)
            assert not re.match(r"(\w+:)?//", link), tag


@pytest.mark.parametrize("expiry", [1e300, -1e300, 253402300800.0])
def test_a_time_outside_the_calendar_does_not_fail_the_page(expiry: float) -> None:
    """An impossible expiry of a token is shown as a number."""
    assert facts_of(page(changed(status_with_media(1), token_expiry=expiry)))["Token expiry"] == f"{expiry:g}"


@pytest.mark.parametrize(
    ("value", "shown"), [(1234.4, "1,234"), (12.3, "12"), (2.86, "2.9"), (0.05, "0.1"), (0, "0.0")]
)
def test_expected_plays_are_rounded(value: float, shown: str) -> None:
    """Expected plays are an estimate, and are not shown more exactly than they are."""
    drop = replace(status_with_media(1).merchants[0].media[0].drop, expected=value)
    assert media_rows(with_media(status_with_media(1), drop=drop))[0][4] == f"5 of {shown}"


def test_a_clock_that_is_behind_gives_no_negative_age() -> None:
    """Data from after `now`, as after a clock step, is 0 s old."""
    assert facts_of(page(changed(status_with_media(1), last_success=NOW + 3600)))["Last success"] == "0 s ago"
    assert media_rows(with_media(status_with_media(1), data_timestamp=NOW + 3600))[0][6] == "0 s"


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0"), (12.0, "12"), (1234567.0, "1,234,567"), (0.256, "0.256"), (123.4, "123")]
)
def test_numbers_are_short(value: float, shown: str) -> None:
    """A whole number has thousands separators; another number has its significant digits."""
    assert facts_of(page(changed(status_with_media(1), budget=value)))["Request budget"].split()[0] == shown
