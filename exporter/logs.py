"""Logging: one line per event, one format for the exporter and its libraries, secrets redacted."""

import atexit
import json
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Collection, MutableMapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import structlog

from exporter.errors import raised_at
from exporter.log_writer import LogWriter, WriteContext
from exporter.redact import Redactor

# Named as in Prometheus.
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}

# Seconds that the end of the process waits for lines that are not written yet.
FLUSH_TIMEOUT = 1.0

# Minimum levels of chatty libraries, which log every job, connection and waiting scrape.
_QUIET = {
    "apscheduler": logging.WARNING,
    # Our listener logs failed jobs.
    "apscheduler.executors": logging.CRITICAL,
    # Our listener logs skipped jobs too; a round that outlasts its interval is normal.
    "apscheduler.scheduler": logging.ERROR,
    "asyncio": logging.ERROR,
    "charset_normalizer": logging.WARNING,
    "urllib3": logging.WARNING,
    # Invalid requests from clients are not logged, and our server logs requests that fail.
    "uvicorn": logging.CRITICAL,
}

_Event = MutableMapping[str, Any]
_Render = Callable[[Any, str, _Event], str]


def setup(
    level: str = "info",
    log_format: Literal["logfmt", "json"] = "logfmt",
    stream: TextIO | None = None,
    *,
    secrets: Collection[str] = (),
) -> None:
    """Send all log lines to `stream`; a later call replaces an earlier one.

    Logging never blocks on the stream: a separate thread writes to it.

    Args:
        level: A key of `LEVELS`. At `debug`, exceptions include their traceback.
        log_format: `logfmt` (`key=value`) or `json`.
        stream: The destination; standard error by default.
        secrets: Texts that are replaced with `<secret>` anywhere in a line, as a last line of defence.
    """
    threshold = LEVELS[level]
    render: _Render = _render_json if log_format == "json" else _render_logfmt
    line = _Line(render, secrets, tracebacks=threshold <= logging.DEBUG)
    handler = _Handler(stream or sys.stderr, line)
    root = logging.getLogger()
    flush()
    for earlier in _handlers():
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


def dropped() -> int:
    """Number of log lines dropped since `setup`, because they could not be written, or not fast enough."""
    return sum(handler.writer.dropped for handler in _handlers())


def problem() -> str | None:
    """Why the log is not written, as one line for operators; None if it is."""
    return next(filter(None, (handler.writer.problem() for handler in _handlers())), None)


def hide(secrets: Collection[str]) -> None:
    """Replace these texts, too, from now on; earlier ones can still be in a line."""
    for handler in _handlers():
        handler.line.hide(secrets)


def flush(timeout: float = FLUSH_TIMEOUT) -> bool:
    """Wait at most `timeout` seconds until every line is written; return whether it is."""
    return all(handler.writer.flush(timeout) for handler in _handlers())


def write_in(context: WriteContext) -> None:
    """Write each line in a context manager from now on, for example one that clears a progress bar."""
    for handler in _handlers():
        handler.writer.write_context = context


def log_uncaught() -> None:
    """Log uncaught exceptions: Python's default output would bypass the redaction."""
    sys.excepthook = lambda _kind, error, _traceback: _log_defect(error)
    threading.excepthook = lambda caught: _log_defect(caught.exc_value)
    sys.unraisablehook = lambda caught: _log_defect(caught.exc_value)


def _log_defect(error: BaseException | None) -> None:
    structlog.get_logger("defect").error("uncaught error; please report it", exc_info=error)


def _handlers() -> list["_Handler"]:
    return [each for each in logging.getLogger().handlers if isinstance(each, _Handler)]


class _Handler(logging.Handler):
    """Renders records on the thread that logs, because their values can change later, and queues the lines.

    Attributes:
        writer: The writer of the lines.
        line: Renders a line.
    """

    def __init__(self, stream: TextIO, line: "_Line") -> None:
        """Create a handler for a stream."""
        super().__init__()
        self.line = line
        self.setFormatter(structlog.stdlib.ProcessorFormatter(processors=[line]))
        self.writer = LogWriter(stream, self._notice)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record. One that cannot be rendered is dropped, because its raw form could contain a secret."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 -- logging must never fail the caller
            self.writer.drop()
        else:
            self.writer.put(line)

    def _notice(self, number: int) -> str:
        text = f"dropped {number} log line{'' if number == 1 else 's'} that could not be written"
        return self.format(logging.makeLogRecord({"name": "logs", "levelno": logging.WARNING, "msg": text}))


# Lines logged during the shutdown are still written.
atexit.register(flush)


class _Line:
    """Renders a log record as one line: its fields in order, an exception as some of them, secrets redacted."""

    def __init__(self, render: _Render, secrets: Collection[str], *, tracebacks: bool) -> None:
        self._render = render
        self._secrets: frozenset[str] = frozenset()
        self._tracebacks = tracebacks
        self.hide(secrets)

    def hide(self, secrets: Collection[str]) -> None:
        self._secrets |= frozenset(secrets)
        self._redactor = Redactor(self._secrets)

    def __call__(self, logger: object, method: str, event: _Event) -> str:
        record: logging.LogRecord = event.pop("_record")
        del event["_from_structlog"]
        event.pop("stack_info", None)
        fields: _Event = {
            "ts": _timestamp(record.created),
            "level": _level(record.levelno),
            "msg": event.pop("event"),
            "component": record.name,
        }
        error = _exception(event.pop("exc_info", None))
        fields.update(event)
        if error is not None:
            fields.setdefault("error", f"{type(error).__name__}: {error}")
            # Tracebacks are only logged at debug.
            if at := raised_at(error):
                fields["at"] = at
            if self._tracebacks:
                fields["traceback"] = "".join(traceback.format_exception(error))
        return self._redactor.hide(self._render(logger, method, fields))


def _level(number: int) -> str:
    return next((name for name, level in reversed(LEVELS.items()) if number >= level), "debug")


def _timestamp(instant: float) -> str:
    return datetime.fromtimestamp(instant, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _exception(exc_info: object) -> BaseException | None:
    """The exception of an `exc_info` value, in any of the forms that logging accepts."""
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    elif exc_info is True:
        exc_info = sys.exc_info()[1]
    return exc_info if isinstance(exc_info, BaseException) else None


def _render_json(_logger: object, _method: str, event: _Event) -> str:
    return json.dumps(event, default=str)


_logfmt = structlog.processors.LogfmtRenderer(bool_as_flag=False)


def _render_logfmt(logger: object, method: str, event: _Event) -> str:
    line = _logfmt(logger, method, event)
    if line.isprintable():
        return line
    # An external name could otherwise end the line or send control codes to a terminal.
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in line)
