"""The log: one line an event, the same form for this program and the libraries, no secret in any of them."""

import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterator, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TextIO
from urllib.parse import quote, quote_plus

import structlog

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

# What these say below the level nobody needs: a line for each run, each connection, each scrape that waits.
_QUIET = {
    "apscheduler": logging.WARNING,
    "asyncio": logging.ERROR,
    # A job that fails is logged by its listener.
    "apscheduler.executors": logging.CRITICAL,
    "charset_normalizer": logging.WARNING,
    "urllib3": logging.WARNING,
    # What a peer sends is no news, and a request that fails is logged by the server itself.
    "uvicorn": logging.CRITICAL,
}

_Event = MutableMapping[str, Any]
_Render = Callable[[Any, str, _Event], str]

# A pattern that no text matches.
_NO_MATCH = r"(?!)"


def setup(
    level: str = "info",
    log_format: Literal["logfmt", "json"] = "logfmt",
    stream: TextIO | None = None,
    *,
    secrets: Collection[str] = (),
) -> None:
    """Send everything that is logged to `stream`; a later call replaces an earlier one.

    Args:
        level: A key of `LEVELS`. At `debug`, exceptions come with their traceback.
        log_format: `logfmt` (`key=value`) or `json`.
        stream: Where to; standard error unless given.
        secrets: Texts that are written as `<secret>` wherever they turn up: the last line of defence.
    """
    threshold = LEVELS[level]
    render: _Render = _render_json if log_format == "json" else _render_logfmt
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[_Shape(tracebacks=threshold <= logging.DEBUG), _Redacted(render, secrets)]
        )
    )
    root = logging.getLogger()
    for earlier in [each for each in root.handlers if isinstance(each, _Handler)]:
        root.removeHandler(earlier)
    root.addHandler(handler)
    root.setLevel(threshold)
    for name, quiet in _QUIET.items():
        logging.getLogger(name).setLevel(max(threshold, quiet))
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def log_uncaught() -> None:
    """Log what nothing catches as any other line: Python's own way would show it past the redaction."""
    sys.excepthook = lambda _kind, error, _traceback: _defect(error)
    threading.excepthook = lambda caught: _defect(caught.exc_value)


def _defect(error: BaseException | None) -> None:
    structlog.get_logger("defect").error("an error that nothing caught; please report it", exc_info=error)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes lines."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- the base class's name
        """Do nothing: the usual answer writes the record as it came, secrets and all."""


class _Shape:
    """Puts a log record's fields in order, and an exception in one line."""

    def __init__(self, *, tracebacks: bool) -> None:
        self._tracebacks = tracebacks

    def __call__(self, _logger: object, _method: str, event: _Event) -> _Event:
        record: logging.LogRecord = event.pop("_record")
        del event["_from_structlog"]
        event.pop("stack_info", None)
        fields: _Event = {
            "ts": _timestamp(record.created),
            "level": "error" if record.levelno > logging.ERROR else record.levelname.lower(),
            "msg": event.pop("event"),
            "component": record.name,
        }
        error = _exception(event.pop("exc_info", None))
        fields.update(event)
        if error is not None:
            fields.setdefault("error", f"{type(error).__name__}: {error}")
            fields.update(_origin(error))
            if self._tracebacks:
                fields["traceback"] = "".join(traceback.format_exception(error))
        return fields


def _timestamp(instant: float) -> str:
    return datetime.fromtimestamp(instant, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _exception(exc_info: object) -> BaseException | None:
    """The exception, in whichever of logging's ways it was given."""
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    elif exc_info is True:
        exc_info = sys.exc_info()[1]
    return exc_info if isinstance(exc_info, BaseException) else None


def _origin(error: BaseException) -> Iterator[tuple[str, str]]:
    """Where an exception was raised; without a traceback, this is what finds the fault."""
    frames = traceback.extract_tb(error.__traceback__)
    if frames:
        yield "at", f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"


def _render_json(_logger: object, _method: str, event: _Event) -> str:
    return json.dumps(event, default=str)


_logfmt = structlog.processors.LogfmtRenderer(bool_as_flag=False)


def _render_logfmt(logger: object, method: str, event: _Event) -> str:
    line = _logfmt(logger, method, event)
    if line.isprintable():
        return line
    # A name from outside could otherwise end the line, or steer the terminal that shows it.
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in line)


class _Redacted:
    """Renders a line, and replaces the secrets in it."""

    def __init__(self, render: _Render, secrets: Collection[str]) -> None:
        self._render = render
        spellings = {spelling for secret in secrets if secret for spelling in _spellings(secret)}
        # The longest first, so that a secret that begins with another is replaced whole.
        longest_first = sorted(spellings, key=lambda text: (-len(text), text))
        self._secrets = re.compile("|".join(map(re.escape, longest_first)) or _NO_MATCH)

    def __call__(self, logger: object, method: str, event: _Event) -> str:
        return self._secrets.sub("<secret>", self._render(logger, method, event))


def _spellings(secret: str) -> Iterator[str]:
    """How a secret can look in a line: as it is, quoted by Python or for a URL, and each of these in JSON."""
    for text in (secret, repr(secret)[1:-1], quote(secret, safe=""), quote_plus(secret)):
        yield text
        yield json.dumps(text)[1:-1]
        yield json.dumps(text, ensure_ascii=False)[1:-1]
