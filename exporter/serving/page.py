"""The pages at `/` and `/media`: the status as HTML. Pure; the templates, the style and the script are in `web/`."""

import base64
import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from functools import cache
from importlib import resources
from itertools import groupby
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from exporter.model import MINUTE
from exporter.serving.paths import METRICS
from exporter.serving.schema import DropState, IncidentStatus, MediaState, MediaStatus, MerchantStatus, Status
from exporter.views import DAY_STEP, Day, DayState, Hour, Severity

NOTHING = "–"

# The runbook of this release's alerts.
RUNBOOK = "https://github.com/smartstream-exporter/smartstream-exporter/blob/main/docs/runbook.md"

_DROP_LABELS = {DropState.OFF: "disabled", DropState.UNKNOWN: "no data"}

_STATE_LABELS = {
    MediaState.CRITICAL: "critical drop",
    MediaState.WARNING: "drop",
    MediaState.GONE: "not found (404)",
    MediaState.FAILING: "failing",
    MediaState.STALE: "stale",
    MediaState.LEARNING: "learning",
    MediaState.JUDGED: "good",
    MediaState.OFF: "not watched",
}

# Key -> label, and the states of the media that it counts.
_TILES = {
    "critical": ("Critical drops", {MediaState.CRITICAL}),
    "warning": ("Warning drops", {MediaState.WARNING}),
    "gone": ("Gone or failing", {MediaState.GONE, MediaState.FAILING}),
    "stale": ("Stale", {MediaState.STALE}),
    "learning": ("Learning", {MediaState.LEARNING}),
    "judged": ("Judged", {MediaState.JUDGED}),
}

# A browser renders so many media in a fraction of a second; thousands take noticeably longer.
MOST_MEDIA = 1000

# So many incidents are shown that are not open, and so many periods are named in the text of a bar.
RECENT, PERIODS = 10, 6

# The width of a minute in a chart, and the height of its highest value.
_STEP, _HEIGHT = 2, 40

# The path of each state in a bar: where its line runs, between 0 at the top and 10. Its width is in the style.
_BAR = {DayState.CRITICAL: "5", DayState.WARNING: "6.2", DayState.JUDGED: "7.5", DayState.NO_DATA: "9.2"}


def _file(name: str) -> str:
    return resources.files("exporter.serving").joinpath("web", name).read_text("utf-8")


def _allowed(text: str) -> str:
    """The source expression of a content security policy that allows just this inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_STYLE, _SCRIPT = _file("page.css"), _file("page.js")

# Only the page's own style and script, and requests only to the exporter. The image is the icon.
POLICY = (
    f"default-src 'none'; style-src {_allowed(_STYLE)}; script-src {_allowed(_SCRIPT)}; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class Tile:
    """A number at the top of the page, which filters the media.

    Attributes:
        key: Its name in the address.
        label: What it counts.
        count: How many media.
    """

    key: str
    label: str
    count: int


@dataclass(frozen=True, slots=True)
class IncidentRow:
    """An incident and, if it is one of the whole merchant, those of its media that belong to it."""

    merchant_id: str
    incident: IncidentStatus
    along: tuple[IncidentStatus, ...] = ()


class Times:
    """Times as the page shows them: in the API's time zone, with UTC in the title."""

    def __init__(self, zone_name: str, now: float) -> None:
        self.zone_name = zone_name
        self.now = now
        self._zone = ZoneInfo(zone_name)
        self._today = datetime.fromtimestamp(now, self._zone).date()

    def clock(self, instant: float | None) -> Markup | str:
        """The local time, with its date if that is not today's: `14:32`, `01-15 14:32`."""
        moment = _moment(instant, self._zone)
        if instant is None or moment is None:
            return _unknown(instant)
        return self._time(instant, f"{moment:%H:%M}" if moment.date() == self._today else f"{moment:%m-%d %H:%M}")

    def ago(self, instant: float | None) -> Markup | str:
        """How long ago: `3 min 5 s ago`."""
        if instant is None or _moment(instant, UTC) is None:
            return _unknown(instant)
        return self._time(instant, f"{duration(self.now - instant)} ago")

    def age(self, instant: float | None) -> Markup | str:
        """How long ago, in short: `3 min`."""
        return NOTHING if instant is None else self._time(instant, duration(60 * ((self.now - instant) // 60)))

    def short(self, instant: float) -> str:
        """The local time without anything else: `14:32`."""
        return f"{_moment(instant, self._zone):%H:%M}"

    def _time(self, instant: float, text: str) -> Markup:
        utc = f"{_moment(instant, UTC):%Y-%m-%d %H:%M:%S}"
        title = f"{_moment(instant, self._zone):%Y-%m-%d %H:%M:%S} {self.zone_name}, {utc} UTC"
        return Markup('<time datetime="{}Z" title="{}">{}</time>').format(utc.replace(" ", "T"), title, text)


def page(status: Status, metrics: str = METRICS) -> str:
    """The whole page. Very many media of several merchants are only on the pages of single merchants.

    Args:
        status: What it shows.
        metrics: The path of the metrics.
    """
    media = [(merchant, each) for merchant in status.merchants for each in merchant.media]
    several = len(status.merchants) > 1
    learning = [each.learning_until for each in status.merchants if each.learning_until is not None]
    return (
        _environment()
        .get_template("page.html")
        .render(
            status=status,
            metrics=metrics.removeprefix("/"),
            times=Times(status.timezone, status.now),
            tiles=[_tile(key, [each for _, each in media]) for key in _TILES],
            media=sorted(media, key=lambda each: _rank(each[1])),
            several=several,
            apart=several and len(media) > MOST_MEDIA,
            incidents=_incidents(status.merchants),
            learning_until=max(learning, default=None),
            names={(merchant.merchant_id, each.media_id): each.name for merchant, each in media},
        )
    )


def media_page(status: Status, media_id: str, metrics: str = METRICS) -> str | None:
    """The page of one media of the only merchant in a status; None where there is no such media."""
    [merchant] = status.merchants
    found = next((each for each in merchant.media if each.media_id == media_id), None)
    if found is None:
        return None
    return (
        _environment()
        .get_template("media.html")
        .render(
            status=status,
            metrics=metrics.removeprefix("/"),
            times=Times(status.timezone, status.now),
            merchant=merchant,
            media=found,
            incidents=[each for each in merchant.incidents if each.media_id == media_id],
            requests=[each for each in status.requests if each.media_id == media_id],
            runbook=RUNBOOK,
        )
    )


def media_link(merchant_id: str, media_id: str) -> str:
    """The address of the page of a media, relative to the status page."""
    return f"media?{urlencode({'merchant': merchant_id, 'media': media_id})}"


def duration(seconds: float) -> str:
    """A duration in its two largest units, for example `3 min 5 s`; `0 s` for a negative one."""
    left = max(0, int(seconds))
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def _rank(media: MediaStatus) -> tuple[int, float]:
    """What the media are sorted by: the worst state first, the deepest drop first. The rest keeps its order."""
    worst = list(MediaState).index(media.states[0])
    rest = list(MediaState).index(MediaState.JUDGED)
    return min(worst, rest), -(media.drop.ratio or 0.0) if worst < rest else 0.0


def _tile(key: str, media: Sequence[MediaStatus]) -> Tile:
    label, states = _TILES[key]
    return Tile(key, label, sum(not states.isdisjoint(each.states) for each in media))


def _tiles(states: Collection[MediaState]) -> str:
    """The keys of the tiles that count a media with these states."""
    return " ".join(key for key, (_, counted) in _TILES.items() if not counted.isdisjoint(states))


def _incidents(merchants: Sequence[MerchantStatus]) -> list[IncidentRow]:
    """The open incidents, then the recent ones. Those of media are folded under that of the merchant they belong to."""
    rows = [row for merchant in merchants for row in _folded(merchant)]
    rows.sort(key=_order)
    still_open = sum(row.incident.end is None for row in rows)
    return rows[: still_open + RECENT]


def _order(row: IncidentRow) -> tuple[bool, bool, float]:
    """What incidents are sorted by: the open ones first, of these the critical ones, then the newest."""
    over = row.incident.end is not None
    return over, not over and row.incident.severity is not Severity.CRITICAL, -row.incident.onset


def _folded(merchant: MerchantStatus) -> Iterator[IncidentRow]:
    heads = [each for each in merchant.incidents if not each.media_id]
    along: dict[IncidentStatus, list[IncidentStatus]] = {}
    for each in merchant.incidents:
        if each.with_merchant and heads:
            nearest = min(heads, key=lambda head: abs(head.onset - each.onset))
            along.setdefault(nearest, []).append(each)
        elif each.media_id:
            yield IncidentRow(merchant.merchant_id, each)
    for head in heads:
        yield IncidentRow(merchant.merchant_id, head, tuple(sorted(along.get(head, ()), key=lambda each: -each.lost)))


def _number(value: float | None) -> str:
    """A number with its significant digits: `1,234`, `0.25`."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:,.3g}"


def _rough(value: float) -> str:
    """An estimate with few digits: `1,234`, `12`, `2.9`, `0.1`."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _minutes(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.1f} min"


def _moment(instant: float | None, zone: tzinfo) -> datetime | None:
    """A local time; None for what no calendar has. A token's expiry comes from the API, and can be any number."""
    try:
        return None if instant is None else datetime.fromtimestamp(instant, zone)
    except (ValueError, OverflowError, OSError):
        return None


def _unknown(instant: float | None) -> str:
    return NOTHING if instant is None else f"{instant:g}"


def _drop_label(state: DropState) -> str:
    return _DROP_LABELS.get(state, state)


def _state_label(state: MediaState) -> str:
    return _STATE_LABELS[state]


def _chart(hour: Hour, onset: float | None = None, kind: str = "spark") -> Markup:
    """A chart of the hour: the plays as a line, the expected plays as a dashed one, and where a drop began."""
    top = _peak(hour) or 1.0
    width = _STEP * max(1, len(hour.plays) - 1)
    plays = [value for value in hour.plays if value is not None]
    label = f"Plays of the last hour: at most {_number(max(plays))} a minute" if plays else "No plays are known"
    place = None if onset is None else _STEP * (onset - hour.start) / MINUTE
    mark = Markup('<path class="onset" d="M{:.0f} 0v{}"/>').format(place, _HEIGHT) if place and place > 0 else ""
    return Markup(
        '<svg class="{}" viewBox="-1 -1 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">'
        '{}<path class="expected" d="{}"/><path class="plays" d="{}"/></svg>'
    ).format(kind, width + 2, _HEIGHT + 2, label, mark, _line(hour.expected, top), _line(hour.plays, top))


def _peak(hour: Hour) -> float:
    """The highest value in the chart of an hour."""
    return max((value for value in (*hour.plays, *hour.expected) if value is not None), default=0.0)


def _line(values: Sequence[float | None], top: float) -> str:
    """A path through the values, with gaps where one is not known."""
    path = ""
    for known, group in groupby(enumerate(values), key=lambda each: each[1] is not None):
        if known:
            points = [f"{place * _STEP} {_HEIGHT * (1 - (value or 0.0) / top):.0f}" for place, value in group]
            # A zero-length stroke with round ends: a value between two unknown ones is a dot.
            path += f"M{' '.join(points)}" + ("h0" if len(points) == 1 else "")
    return path


def _bar(day: Day, times: Times) -> Markup:
    """The last 24 hours as a bar, and in words in its title."""
    paths: dict[DayState, str] = {}
    periods = []
    place = 0
    for state, group in groupby(day.states):
        length = len(list(group))
        paths[state] = paths.get(state, "") + f"M{place} {_BAR[state]}h{length}"
        if state is not DayState.JUDGED:
            start, end = (times.short(day.start + part * DAY_STEP * MINUTE) for part in (place, place + length))
            periods.append(f"{state} {start}–{end}")
        place += length
    earlier = f", {len(periods) - PERIODS} earlier periods" if periods[PERIODS:] else ""
    title = f"Last 24 hours: {', '.join(periods[-PERIODS:]) or 'judged, no drops'}{earlier}"
    drawn = Markup().join(
        Markup('<path class="{}" d="{}"/>').format(state.replace(" ", "-"), path) for state, path in paths.items()
    )
    return Markup(
        '<svg class="day" viewBox="0 0 {} 10" preserveAspectRatio="none" role="img"><title>{}</title>{}</svg>'
    ).format(len(day.states), title, drawn)


@cache
def _environment() -> Environment:
    """The compiled templates. Commands that show no page do not wait for them."""
    environment = Environment(
        loader=PackageLoader("exporter.serving", "web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        style=Markup(_STYLE),  # noqa: S704 - our own
        script=Markup(_SCRIPT),  # noqa: S704 - our own
        nothing=NOTHING,
        media_link=media_link,
    )
    environment.filters.update(
        number=_number,
        minutes=_minutes,
        percent=_percent,
        rough=_rough,
        duration=duration,
        drop_label=_drop_label,
        state_label=_state_label,
        tiles=_tiles,
        chart=_chart,
        peak=_peak,
        bar=_bar,
    )
    return environment
