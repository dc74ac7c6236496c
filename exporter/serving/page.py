"""The page at `/`: the status as HTML. Pure; the template, the style and the script are in `web/`."""

import base64
import hashlib
from datetime import UTC, datetime
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from exporter.serving.schema import Status
from exporter.views import Hour

NOTHING = "–"

# So many media are shown in a fraction of a second; of thousands a browser makes a person wait.
MOST_MEDIA = 1000

# A minute is so wide in a sparkline, and the highest value so high.
_STEP, _HEIGHT = 2, 30


def _file(name: str) -> str:
    return resources.files("exporter.serving").joinpath("web", name).read_text("utf-8")


def _allowed(text: str) -> str:
    """What a policy says to allow just this text, inline."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_STYLE, _SCRIPT = _file("page.css"), _file("page.js")

# The page's own style and script and no other, and requests to nobody but the exporter. The picture is the icon.
POLICY = (
    f"default-src 'none'; style-src {_allowed(_STYLE)}; script-src {_allowed(_SCRIPT)}; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page(status: Status) -> str:
    """The whole page. Where there are very many media, those of several merchants are left to the pages of each."""
    media = sum(len(merchant.media) for merchant in status.merchants)
    return _TEMPLATE.render(status=status, apart=len(status.merchants) > 1 and media > MOST_MEDIA)


def _number(value: float | None) -> str:
    """A number with what matters of it: `1,234`, `0.25`."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:,.3g}"


def _rough(value: float) -> str:
    """A number of which the first digits matter: `1,234`, `12`, `2.9`, `0.1`."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _minutes(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.1f} min"


def _instant(instant: float | None) -> str:
    if instant is None:
        return NOTHING
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


def _sparkline(hour: Hour) -> Markup:
    """A small picture of the hour: an area for the plays, a dashed line for what was expected."""
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
    """A path through the values; it is broken where one is not known."""
    parts = []
    pen_down = False
    for place, value in enumerate(values):
        if value is not None:
            # A zero-length stroke has round ends: a value between two unknown ones is a dot.
            parts.append(f"{'L' if pen_down else 'M'}{place * _STEP} {_HEIGHT * (1 - value / top):.4g}")
            if not pen_down:
                parts.append("h0")
        pen_down = value is not None
    return "".join(parts)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("exporter.serving", "web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(style=Markup(_STYLE), script=Markup(_SCRIPT), nothing=NOTHING)  # noqa: S704 - our own
    environment.filters.update(
        number=_number, minutes=_minutes, rough=_rough, instant=_instant, duration=_duration, sparkline=_sparkline
    )
    return environment


_TEMPLATE = _environment().get_template("page.html")
