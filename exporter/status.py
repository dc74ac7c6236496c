"""The page at `/`: what a person asks first. Pure; a snapshot goes in, HTML comes out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape

from exporter.model import Group, Stream, Target, end_of
from exporter.snapshot import LinkView, MediaView, MerchantView, Snapshot, StreamView

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
small, th { opacity: .75; font-weight: normal; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; }
tr { border-bottom: 1px solid #8885; }
td { overflow-wrap: break-word; }
.health { border-left: .3rem solid; padding-left: .7rem; margin: 1rem 0; }
.good { border-color: #2a9d4a; }
.bad { border-color: #d33; }
nav a { margin-right: 1rem; }
"""

_LINKS = ("/metrics", "/config", "/-/healthy", "/-/ready")

_MERCHANT_HEADINGS = (
    "Merchant",
    "Up",
    "Rows up to",
    "Requests a minute",
    "Token until",
    "Last success",
    "Last error",
)
_MEDIA_HEADINGS = ("Media", "Name", "Streams", "Plays in the last minute", "Data age")

_NOTHING = "–"


def page(snapshot: Snapshot, links: Mapping[str, LinkView], now: float, version: str) -> str:
    """The whole page.

    Args:
        snapshot: What has been counted.
        links: How the connections to the API do, by merchant id.
        now: Unix seconds.
        version: The release.
    """
    merchants = snapshot.merchants.values()
    good, health = _health(snapshot, links)
    navigation = "".join(f'<a href="{path}">{path}</a>' for path in _LINKS)
    return "\n".join(
        (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>SmartSTREAM exporter</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
            f"<h1>SmartSTREAM exporter <small>{escape(version)}, {_instant(now)}</small></h1>",
            f'<p class="health {"good" if good else "bad"}">{escape(health)}</p>',
            f"<nav>{navigation}</nav>",
            "<h2>Merchants</h2>",
            _table(
                _MERCHANT_HEADINGS,
                (_merchant_row(each, links.get(each.merchant_id), now) for each in merchants),
            ),
            *(_media_section(merchant, now) for merchant in merchants),
            "</body>\n</html>\n",
        )
    )


def _health(snapshot: Snapshot, links: Mapping[str, LinkView]) -> tuple[bool, str]:
    """Whether all is well, and a sentence."""
    down = [link.merchant_id for link in links.values() if link.up is False]
    waiting = [link.merchant_id for link in links.values() if link.up is None]
    if down:
        return False, f"The API does not answer for {', '.join(down)}."
    if waiting:
        return True, f"Waiting for the first answer for {', '.join(waiting)}."
    streams = sum(len(merchant.streams) for merchant in snapshot.merchants.values())
    return True, f"The API answers. Merchants: {len(snapshot.merchants)}, streams: {streams}."


def _merchant_row(merchant: MerchantView, link: LinkView | None, now: float) -> Iterator[str]:
    link = link or LinkView(merchant.merchant_id)
    yield merchant.merchant_id
    yield {True: "yes", False: "no", None: _NOTHING}[link.up]
    yield _NOTHING if merchant.horizon is None else _past(end_of(merchant.horizon), now)
    yield f"{link.budget:g}"
    yield _NOTHING if link.token_expiry is None else _instant(link.token_expiry)
    yield _past(link.last_success, now)
    yield f"{_past(link.last_error_at, now)} {link.last_error}" if link.last_error else _NOTHING


def _media_section(merchant: MerchantView, now: float) -> str:
    streams: dict[str, list[StreamView]] = {}
    for view in merchant.streams.values():
        streams.setdefault(view.stream.media_id, []).append(view)
    rows = [_media_row(merchant, media, streams.get(media.media_id, []), now) for media in merchant.media.values()]
    if "" in streams:
        rows.insert(0, _media_row(merchant, MediaView("", name="the whole merchant"), streams[""], now))
    return f"<h2>Media of {escape(merchant.merchant_id)}</h2>\n{_table(_MEDIA_HEADINGS, rows)}"


def _media_row(merchant: MerchantView, media: MediaView, views: Sequence[StreamView], now: float) -> tuple[str, ...]:
    """A row; the age is that of the stream that is furthest behind."""
    plays = merchant.streams.get(Stream(merchant.merchant_id, media.media_id, Target.PLAY_COUNT, Group.ALL))
    last = [series.last for series in plays.series if series.last is not None] if plays else []
    throughs = [view.through for view in views if view.through is not None]
    return (
        media.media_id or _NOTHING,
        media.name or _NOTHING,
        str(len(views)),
        f"{last[0]:,.10g}" if last else _NOTHING,
        _duration(now - end_of(min(throughs))) if throughs else _NOTHING,
    )


def _table(headings: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """A table. Every cell is escaped: what is in it can come from the API."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _past(instant: float | None, now: float) -> str:
    return _NOTHING if instant is None else f"{_instant(instant)} ({_duration(now - instant)} ago)"


def _instant(instant: float) -> str:
    try:
        return f"{datetime.fromtimestamp(instant, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        # A token's expiry is the API's word, and can be any number.
        return f"{instant:g}"


def _duration(seconds: float) -> str:
    """A time in the two units that matter, for example `3 min 5 s`; `0 s` for one that is not over yet."""
    left = max(0, int(seconds))
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
