import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from exporter.api.request_log import Exchange
from exporter.serving.page import MOST_MEDIA, POLICY, page
from exporter.serving.schema import Drop, DropState, Status
from exporter.views import Hour
from tests.support.statuses import NOW, status_with_media

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


def test_a_merchant_is_shown_in_facts() -> None:
    """Plays, drop, API, horizon, budget, staleness with its bound, token, success, lost minutes, error."""
    status = changed(status_with_media(1), last_error="503 from the API", last_error_at=NOW - 7300)
    facts = {term: " ".join(text.split()) for term, text in Reader(page(status)).facts.items()}
    assert facts == {
        "Plays, last minute": "100 of 100 expected",
        "Drop": "none",
        "API": "up",
        "Newest data": "2 min ago 2027-01-15 07:58:00 UTC",
        "Request budget": "45 per minute for 2 streams",
        "Staleness": "1.5 min lower bound 1.5 min",
        "Token expiry": "2027-01-15 08:30:00 UTC",
        "Last success": "2 s ago",
        "Lost minutes": "0",
        "Values not counted yet": "0",
        "Failing streams": "0",
        "Last poll": "–",
        "Last error": "2 h 1 min ago: 503 from the API",
    }


def test_a_media_is_one_row() -> None:
    """Name, id, sparkline, last minute and expected plays, drop, staleness, live, last error."""
    rows = Reader(page(status_with_media(5))).cells
    head = ["Media", "Last hour", "Last minute", "Drop", "Staleness", "Live", "Last error"]
    assert rows[0] == head
    assert rows[3] == ["Media 2 m2", "", "3 of 15", "critical −80 %", "2 min newest data 4 min ago", "–", "–"]
    assert rows[4][5] == "live"
    assert rows[5][6] == "1 min 10 s ago: 503 SERVER_ERROR"


def test_a_failing_or_missing_media_is_marked() -> None:
    """The row of the media has the newest error; the merchant's facts count the streams and the failing lookups."""
    status = status_with_media(6)
    media = list(status.merchants[0].media)
    media[3] = replace(media[3], gone=True, failing_streams=1)
    media[4] = replace(media[4], failing_streams=1)
    reader = Reader(page(changed(status, media=tuple(media), failing_lookups=3, round_timestamp=NOW - 12)))
    assert reader.cells[4][6] == "not found (404) –"
    assert reader.cells[5][6] == "1 of 1 streams failing 1 min 10 s ago: 503 SERVER_ERROR"
    assert " ".join(reader.facts["Failing streams"].split()) == "2 and 3 lookups"
    assert " ".join(reader.facts["Last poll"].split()) == "12 s ago"


def test_unknown_values_are_dashes() -> None:
    """A merchant and a media before their first answer have dashes, not zeros or None."""
    status = status_with_media(1)
    media = replace(
        status.merchants[0].media[0],
        name="",
        last_minute_plays=None,
        staleness_minutes=None,
        drop=replace(status.merchants[0].media[0].drop, state=DropState.UNKNOWN, ratio=None, expected=None),
        hour=None,
    )
    status = changed(status, up=None, horizon=None, token_expiry=None, last_success=None, media=(media,))
    reader = Reader(page(status))
    assert reader.cells[1] == ["m0", "–", "–", "no data", "–", "–", "–"]
    assert [reader.facts[term].split() for term in ("Token expiry", "Last success")] == [["–"], ["–"]]
    assert reader.facts["API"] == "no data"
    assert "None" not in page(status)


@pytest.mark.parametrize(
    ("state", "label"), [("none", "none"), ("warning", "warning"), ("off", "disabled"), ("unknown", "no data")]
)
def test_a_drop_has_a_label(state: str, label: str) -> None:
    """A media without drop alerts, and one without a verdict, are not shown as normal."""
    status = status_with_media(1)
    media = replace(status.merchants[0].media[0], drop=Drop(DropState(state)))
    assert Reader(page(changed(status, media=(media,)))).cells[1][3] == label


def test_the_newest_requests_are_rows_and_failures_stand_out() -> None:
    """Each request has its time, merchant, endpoint, stream, code, seconds and error."""
    reader = Reader(page(status_with_media(5)))
    assert reader.cells[-2] == ["2 s ago", "acme", "aggregations", "m1/play_count/all", "200", "0.05 s", "–"]
    assert reader.cells[-1][-4:] == ["m4/play_count/all", "503", "0.25 s", "503 SERVER_ERROR"]
    rows = [attributes for tag, attributes in reader.tags if tag == "tr"]
    assert [row.get("class") for row in rows[-2:]] == [None, "failed"]


def test_empty_tables_have_a_row_that_says_so() -> None:
    """A merchant without media, and a log without requests, have a row with a text."""
    text = page(replace(changed(status_with_media(1), media=()), requests=()))
    assert [row for row in Reader(text).cells if len(row) == 1] == [
        ["No media configured. The whole merchant is counted anyway."],
        ["No requests yet."],
    ]


def test_very_many_media_of_several_merchants_have_separate_pages() -> None:
    """The overview has the facts of each merchant, and a link to its media; the page of one
    merchant has all of them.
    """
    status = status_with_media(MOST_MEDIA)
    one = status.merchants[0]
    several = replace(status, merchants=(one, replace(one, merchant_id="b & c", media=one.media[:1])))
    reader = Reader(page(several))
    assert len(reader.rows) == 1 + len(status.requests)
    links = [attributes["href"] for tag, attributes in reader.tags if tag == "a"]
    assert links[-2:] == ["?merchant=acme", "?merchant=b%20%26%20c"]
    assert len(Reader(page(status)).rows) == 1 + MOST_MEDIA + 1 + len(status.requests)


def paths(hour: Hour) -> list[str | None]:
    """The paths of a sparkline: expected, plays."""
    status = status_with_media(1)
    text = page(
        changed(status, media=(replace(status.merchants[0].media[0], hour=hour),), whole=status.merchants[0].whole)
    )
    return [attributes["d"] for tag, attributes in Reader(text).tags if tag == "path"][2:]


def test_a_sparkline_has_gaps_for_unknown_minutes() -> None:
    """Higher values are drawn higher; an unknown minute is a gap; a single minute is a dot; both lines have the same
    scale.
    """
    hour = Hour(0.0, (0.0, 10.0, None, 5.0, None), (20.0, None, None, None, 20.0))
    assert paths(hour) == ["M0 0h0M8 0h0", "M0 30h0L2 15M6 22.5h0"]


@pytest.mark.parametrize("values", [(), (None, None), (0.0, 0.0)])
def test_an_hour_without_plays_is_drawn(values: tuple[float | None, ...]) -> None:
    """An hour without data is an empty picture; zeros are a line at the bottom."""
    assert paths(Hour(0.0, values, values))[1] == ("M0 30h0L2 30" if values and values[0] is not None else "")


def hostile_status() -> Status:
    """A status in which every text is hostile."""
    status = status_with_media(2)
    merchant = status.merchants[0]
    media = replace(
        merchant.media[0], media_id=NASTY, name=NASTY, labels={NASTY: NASTY}, last_error=NASTY, last_error_at=NOW
    )
    merchant = replace(merchant, merchant_id=NASTY, last_error=NASTY, last_error_at=NOW, media=(media,))
    request = Exchange(NOW, NASTY, NASTY, NASTY, 0.1, NASTY, NASTY, NASTY)
    return replace(status, version=NASTY, summary=NASTY, merchants=(merchant, merchant), requests=(request,))


def test_everything_is_escaped() -> None:
    """The content of an id, a name, a label or an error always stays text."""
    reader = Reader(page(hostile_status()))
    tags = [tag for tag, _ in reader.tags]
    assert tags.count("script") == 1
    assert "img" not in tags
    assert not [name for _, attributes in reader.tags for name in attributes if name.startswith("on")]
    assert reader.rows[1][0].startswith(f"{NASTY} {NASTY}")
    assert reader.rows[-1][1:5] == [NASTY] * 4


def test_the_policy_allows_only_the_pages_own_script_and_style() -> None:
    """The hashes in the policy are those of the page's script and style; nothing is allowed by a keyword."""
    text = page(hostile_status())
    for tag in ("script", "style"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in POLICY
    assert "unsafe" not in POLICY
    assert "*" not in POLICY


def test_the_page_loads_nothing_from_elsewhere() -> None:
    """No link, picture or script names another host; no tag has a style, which the policy would block."""
    for tag, attributes in Reader(page(status_with_media(3))).tags:
        assert not {"style", "onclick", "src"} & set(attributes), tag
        assert not re.match(r"(\w+:)?//", attributes.get("href") or ""), tag


@pytest.mark.parametrize("expiry", [1e300, -1e300, 253402300800.0])
def test_a_time_outside_the_calendar_does_not_fail_the_page(expiry: float) -> None:
    """An impossible expiry of a token is shown as a number."""
    facts = Reader(page(changed(status_with_media(1), token_expiry=expiry))).facts
    assert facts["Token expiry"] == f"{expiry:g}"


@pytest.mark.parametrize(
    ("value", "shown"), [(1234.4, "1,234"), (12.3, "12"), (2.86, "2.9"), (0.05, "0.1"), (0, "0.0")]
)
def test_expected_plays_are_rounded(value: float, shown: str) -> None:
    """Expected plays are an estimate, and are not shown more exactly than they are."""
    status = status_with_media(1)
    media = status.merchants[0].media[0]
    rows = Reader(page(changed(status, media=(replace(media, drop=replace(media.drop, expected=value)),)))).cells
    assert rows[1][2] == f"5 of {shown}"


def test_a_clock_that_is_behind_gives_no_negative_age() -> None:
    """Data from after `now`, as after a clock step, is 0 s old."""
    assert Reader(page(changed(status_with_media(1), last_success=NOW + 3600))).facts["Last success"].split() == [
        "0",
        "s",
        "ago",
    ]


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0"), (12.0, "12"), (1234567.0, "1,234,567"), (0.256, "0.256"), (123.4, "123")]
)
def test_numbers_are_short(value: float, shown: str) -> None:
    """A whole number has thousands separators; another number has its significant digits."""
    assert Reader(page(changed(status_with_media(1), budget=value))).facts["Request budget"].split()[0] == shown
