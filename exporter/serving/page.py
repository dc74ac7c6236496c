"""The page at `/`: the status as HTML. Pure; the template, the style and the script are in `web/`."""

import base64
import hashlib
from datetime import UTC, datetime
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from exporter.serving.schema import DropState, Status
from exporter.views import Hour

NOTHING = "–"

_DROP_LABELS = {DropState.OFF: "disabled", DropState.UNKNOWN: "no data"}

# A browser renders so many media in a fraction of a second; thousands take noticeably longer.
MOST_MEDIA = 1000

# The width of a minute in a sparkline, and the height of its highest value.
_STEP, _HEIGHT = 2, 30


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


def page(status: Status) -> str:
    """The whole page. Very many media of several merchants are only on the pages of single merchants."""
    media = sum(len(merchant.media) for merchant in status.merchants)
    return _template().render(status=status, apart=len(status.merchants) > 1 and media > MOST_MEDIA)


def _number(value: float | None) -> str:
    """A number with its significant digits: `1,234`, `0.25`."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:,.3g}"


def _rough(value: float) -> str:
    """An estimate with few digits: `1,234`, `12`, `2.9`, `0.1`."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _minutes(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.1f} min"


def _instant(instant: float | None) -> str:
    if instant is None:
        return NOTHING
    try:
        return f"{datetime.fromtimestamp(instant, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        # A token's expiry comes from the API, and can be any number.
        return f"{instant:g}"


def _duration(seconds: float) -> str:
    """A duration in its two largest units, for example `3 min 5 s`; `0 s` for a negative one."""
    left = max(0, int(seconds))
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def _drop_label(state: DropState) -> str:
    return _DROP_LABELS.get(state, state)


def _sparkline(hour: Hour) -> Markup:
    """A small chart of the hour: the plays as an area, the expected plays as a dashed line."""
    known = [value for value in (*hour.plays, *hour.expected) if value is not None]
    top = max(known, default=0.0) or 1.0
    width = _STEP * max(1, len(hour.plays) - 1)
    plays = [value for value in hour.plays if value is not None]
    label = f"Plays of the last hour: at most {_number(max(plays))} a minute" if plays else "No plays are known"
    return Markup(
        '<svg class="spark" viewBox="-1 -1 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<path class="expected" d="{}"/><path class="plays" d="{}"/></svg>'
    ).format(width + 2, _HEIGHT + 2, label, _line(hour.expected, top), _line(hour.plays, top))


def _line(values: tuple[float | None, ...], top: float) -> str:
    """A path through the values, with gaps where one is not known."""
    parts = []
    pen_down = False
    for place, value in enumerate(values):
        if value is not None:
            # A zero-length stroke with round ends: a value between two unknown ones is a dot.
            parts.append(f"{'L' if pen_down else 'M'}{place * _STEP} {_HEIGHT * (1 - value / top):.4g}")
            if not pen_down:
                parts.append("h0")
        pen_down = value is not None
    return "".join(parts)


@cache
def _template() -> Template:
    """The compiled template. Commands that show no page do not wait for it."""
    environment = Environment(
        loader=PackageLoader("exporter.serving", "web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(style=Markup(_STYLE), script=Markup(_SCRIPT), nothing=NOTHING)  # noqa: S704 - our own
    environment.filters.update(
        number=_number,
        minutes=_minutes,
        rough=_rough,
        instant=_instant,
        duration=_duration,
        drop_label=_drop_label,
        sparkline=_sparkline,
    )
    return environment.get_template("page.html")
