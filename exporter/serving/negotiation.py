"""Content negotiation: the format of metrics and the compression that a client accepts. Pure."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import exposition as text_format
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

Renderer = Callable[[Collector], bytes]


@dataclass(frozen=True, slots=True)
class _MediaRange:
    """One media range of an Accept header."""

    media_type: str
    parameters: Mapping[str, str]
    weight: float


def metrics_format(accept: str) -> tuple[Renderer, str]:
    """The renderer for an Accept header, and the Content-Type of exactly what it renders.

    prometheus_client has such a function, too. It takes the first format in place of the best, fails on a version that
    is not a number, and answers with the requested version, whatever that is.
    """
    for each in sorted(_media_ranges(accept), key=lambda each: -each.weight):
        version = _version(each.parameters.get("version", ""))
        # All names are plain ones, so these two look alike. The others would be longer.
        escaping = "allow-utf-8" if each.parameters.get("escaping") == "allow-utf-8" else "underscores"
        match each.media_type:
            case "application/openmetrics-text" if version is None or version >= (1,):
                # There is a 2.0.0, which the library does not render. Whoever reads it reads this, too.
                kind = f"application/openmetrics-text; version=1.0.0; charset=utf-8; escaping={escaping}"
                return _openmetrics, kind
            case "text/plain" if version is not None and version >= (1,):
                return text_format.generate_latest, f"text/plain; version=1.0.0; charset=utf-8; escaping={escaping}"
            case "text/plain" | "text/*" | "*/*":
                break
    return text_format.generate_latest, text_format.CONTENT_TYPE_PLAIN_0_0_4


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header allows gzip."""
    for each in accept_encoding.lower().split(","):
        coding, _, weight = each.partition(";")
        if coding.strip() == "gzip":
            return re.fullmatch(r"q=0(\.0*)?", weight.strip()) is None
    return False


def _openmetrics(registry: Collector) -> bytes:
    body: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]  # the library's gap
    return body


def _media_ranges(accept: str) -> Iterator[_MediaRange]:
    """The media ranges of an Accept header, without those of weight 0."""
    for each in accept.lower().split(","):
        media_type, *rest = (part.strip() for part in each.split(";"))
        pairs = (part.partition("=") for part in rest)
        parameters = {name.strip(): value.strip().strip('"') for name, _, value in pairs}
        weight = _weight(parameters.pop("q", "1"))
        if weight > 0:
            yield _MediaRange(media_type, parameters, weight)


def _weight(text: str) -> float:
    return float(text) if re.fullmatch(r"[01](\.[0-9]{0,3})?", text) else 0.0


def _version(text: str) -> tuple[int, ...] | None:
    """A version as numbers; None where there is none, and (0,) for a text that is not a version."""
    if not text:
        return None
    return tuple(map(int, text.split("."))) if re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,4}){0,2}", text) else (0,)
