import re
from html.parser import HTMLParser
from types import MappingProxyType

import pytest

from exporter.model import Group, Stream, Target, end_of, minute_of
from exporter.snapshot import LinkView, MediaView, MerchantView, SeriesView, Snapshot, StreamView
from exporter.status import page

NOW = 1_800_000_000.0  # 2027-01-15 08:00:00 UTC
THROUGH = minute_of(NOW) - 3
NASTY = '<script>alert("1")</script>&'


def stream_view(media_id: str, target: Target, through: int | None, *last: float | None) -> StreamView:
    series = tuple(SeriesView("", None, value) for value in last)
    return StreamView(Stream("acme", media_id, target, Group.ALL), through, series)


def merchant_view(*views: StreamView, media: tuple[MediaView, ...] = (), horizon: int | None = THROUGH) -> MerchantView:
    return MerchantView(
        "acme",
        horizon,
        streams=MappingProxyType({view.stream: view for view in views}),
        media=MappingProxyType({each.media_id: each for each in media}),
    )


class Reader(HTMLParser):
    """Reads a page: its tags, its links, the cells of its rows; fails where a tag is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str | None] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an opening tag."""
        self.tags.append(tag)
        if tag != "meta":
            self._open.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        """Note a closing tag."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note text."""
        if self._open and self._open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def read(merchant: MerchantView, *links: LinkView) -> Reader:
    snapshot = Snapshot(MappingProxyType({merchant.merchant_id: merchant}))
    return Reader(page(snapshot, {link.merchant_id: link for link in links}, NOW, "1.2.3"))


def test_a_merchant_is_one_row() -> None:
    """The first table tells of each merchant: up, horizon, budget, token, last success, last error."""
    link = LinkView(
        "acme",
        up=True,
        budget=22.5,
        token_expiry=NOW + 3600,
        last_success=NOW - 65,
        last_error="503 from the API",
        last_error_at=NOW - 7300,
    )
    assert read(merchant_view(), link).rows[1] == [
        "acme",
        "yes",
        "2027-01-15 07:58:00 UTC (2 min ago)",
        "22.5",
        "2027-01-15 09:00:00 UTC",
        "2027-01-15 07:58:55 UTC (1 min 5 s ago)",
        "2027-01-15 05:58:20 UTC (2 h 1 min ago) 503 from the API",
    ]


def test_what_is_not_known_is_a_dash() -> None:
    """A merchant before its first answer has dashes, not zeros or None."""
    assert read(merchant_view(horizon=None), LinkView("acme", budget=45)).rows[1] == [
        "acme",
        "–",
        "–",
        "45",
        "–",
        "–",
        "–",
    ]
    assert read(merchant_view(horizon=None)).rows[1][1] == "–"


def test_a_media_is_one_row() -> None:
    """The second table tells of each media: its streams, the plays of the last minute, the age of its oldest data."""
    merchant = merchant_view(
        stream_view("", Target.PLAY_COUNT, THROUGH, 123456),
        stream_view("m1", Target.PLAY_COUNT, THROUGH, 12),
        stream_view("m1", Target.DEVICE_COUNT, THROUGH - 5, 3),
        stream_view("m2", Target.PLAY_TIME, None),
        media=(MediaView("m1", "News"), MediaView("m2")),
    )
    assert read(merchant).rows[3:] == [
        ["–", "the whole merchant", "1", "123,456", "2 min"],
        ["m1", "News", "2", "12", "7 min"],
        ["m2", "–", "1", "–", "–"],
    ]


@pytest.mark.parametrize(
    ("links", "sentence", "kind"),
    [
        ((LinkView("acme", up=True),), "The API answers. Merchants: 1, streams: 0.", "good"),
        ((LinkView("acme"),), "Waiting for the first answer for acme.", "good"),
        ((LinkView("acme", up=False),), "The API does not answer for acme.", "bad"),
    ],
)
def test_the_first_line_is_the_health(links: tuple[LinkView, ...], sentence: str, kind: str) -> None:
    """One sentence says whether the API answers."""
    snapshot = Snapshot(MappingProxyType({"acme": merchant_view()}))
    text = page(snapshot, {link.merchant_id: link for link in links}, NOW, "1.2.3")
    assert f'<p class="health {kind}">{sentence}</p>' in text


def test_the_page_links_to_the_others() -> None:
    """The other pages are one click away, and nothing comes from another host."""
    assert read(merchant_view()).links == ["/metrics", "/config", "/-/healthy", "/-/ready"]


def test_nothing_from_outside_becomes_html() -> None:
    """Names, ids, errors and versions are escaped, wherever they stand."""
    nasty = MerchantView(
        NASTY,
        media=MappingProxyType({NASTY: MediaView(NASTY, NASTY, NASTY, NASTY)}),
        streams=MappingProxyType(
            {
                view.stream: view
                for view in [StreamView(Stream(NASTY, NASTY, Target.PLAY_COUNT, Group.ALL), THROUGH, ())]
            }
        ),
    )
    for up in (True, False, None):
        link = LinkView(NASTY, up=up, last_error=NASTY, last_error_at=NOW)
        text = page(Snapshot(MappingProxyType({NASTY: nasty})), {NASTY: link}, NOW, NASTY)
        assert not re.search("<script", text)
        assert "script" not in Reader(text).tags
        assert Reader(text).rows[3][:2] == [NASTY, NASTY]


@pytest.mark.parametrize("expiry", [1e300, -1e300, 253402300800.0])
def test_a_time_beyond_the_calendar_does_not_fail_the_page(expiry: float) -> None:
    """A token's expiry that no calendar has is shown as the number it is."""
    assert read(merchant_view(), LinkView("acme", token_expiry=expiry)).rows[1][4] == f"{expiry:g}"


def test_a_clock_that_is_behind_makes_no_negative_age() -> None:
    """Data from after `now`, as after a clock step, is 0 s old."""
    ahead = minute_of(NOW) + 60
    merchant = merchant_view(stream_view("m1", Target.PLAY_COUNT, ahead, 1), media=(MediaView("m1"),))
    assert end_of(ahead) > NOW
    assert read(merchant).rows[-1][4] == "0 s"
