"""The log: one line an event, the same form for this program and the libraries, no secret in any of them."""

import atexit
import contextlib
import json
import logging
import os
import select
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterator, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TextIO

import structlog

from exporter.redact import Redactor

# As Prometheus calls them.
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}

# So many characters wait for a log that takes none; what comes then is dropped.
MOST_WAITING = 1024 * 1024

# A log that has taken no line for so many seconds has a problem.
LONGEST_WRITE = 10.0

# Seconds until a log that refused a line is told how many were dropped, should no other line come before.
RETRY = 10.0

# The end of the process waits so many seconds for lines that are not written yet.
FLUSH = 1.0

# What these say below the level nobody needs: a line for each run, each connection, each scrape that waits.
_QUIET = {
    "apscheduler": logging.WARNING,
    # A job that fails is logged by its listener.
    "apscheduler.executors": logging.CRITICAL,
    # What it skips is logged by a listener, too; a round that goes on past its next start is usual.
    "apscheduler.scheduler": logging.ERROR,
    "asyncio": logging.ERROR,
    "charset_normalizer": logging.WARNING,
    "urllib3": logging.WARNING,
    # What a peer sends is no news, and a request that fails is logged by the server itself.
    "uvicorn": logging.CRITICAL,
}

_Event = MutableMapping[str, Any]
_Render = Callable[[Any, str, _Event], str]
_Around = Callable[[], contextlib.AbstractContextManager[object]]


def setup(
    level: str = "info",
    log_format: Literal["logfmt", "json"] = "logfmt",
    stream: TextIO | None = None,
    *,
    secrets: Collection[str] = (),
) -> None:
    """Send everything that is logged to `stream`; a later call replaces an earlier one.

    Nothing that logs ever waits for the stream: a thread writes to it.

    Args:
        level: A key of `LEVELS`. At `debug`, exceptions come with their traceback.
        log_format: `logfmt` (`key=value`) or `json`.
        stream: Where to; standard error unless given.
        secrets: Texts that are written as `<secret>` wherever they turn up: the last line of defence.
    """
    threshold = LEVELS[level]
    render: _Render = _render_json if log_format == "json" else _render_logfmt
    handler = _Handler(stream or sys.stderr, dropped())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[_Shape(tracebacks=threshold <= logging.DEBUG), _Redacted(render, Redactor(secrets))]
        )
    )
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
    """How many lines were lost since the start, because the log did not take them, or not fast enough."""
    return sum(handler.writer.dropped for handler in _handlers())


def problem() -> str | None:
    """What is wrong with the log, as one line for people; None where it is written."""
    return next(filter(None, (handler.writer.problem() for handler in _handlers())), None)


def flush(timeout: float = FLUSH) -> bool:
    """Wait until every line is written, at most so many seconds; whether they are."""
    return all(handler.writer.flush(timeout) for handler in _handlers())


@contextlib.contextmanager
def around_writes(around: _Around) -> Iterator[None]:
    """Write each line within a context meanwhile, such as one that keeps a progress bar out of its way."""
    writers = [handler.writer for handler in _handlers()]
    for writer in writers:
        writer.around = around
    try:
        yield
    finally:
        flush()
        for writer in writers:
            writer.around = contextlib.nullcontext


def log_uncaught() -> None:
    """Log what nothing catches as any other line: Python's own way would show it past the redaction."""
    sys.excepthook = lambda _kind, error, _traceback: _defect(error)
    threading.excepthook = lambda caught: _defect(caught.exc_value)
    sys.unraisablehook = lambda caught: _defect(caught.exc_value)


def _defect(error: BaseException | None) -> None:
    structlog.get_logger("defect").error("an error that nothing caught; please report it", exc_info=error)


def _handlers() -> list["_Handler"]:
    return [each for each in logging.getLogger().handlers if isinstance(each, _Handler)]


class _Handler(logging.Handler):
    """Renders records where they are logged, for what they hold can change later, and has them written.

    Attributes:
        writer: What writes them.
    """

    def __init__(self, stream: TextIO, dropped: int) -> None:
        """Write to a stream, after so many lines were dropped before."""
        super().__init__()
        self.writer = Writer(stream, self._notice, dropped=dropped)

    def emit(self, record: logging.LogRecord) -> None:
        """Have a record written. One that cannot be rendered is dropped: shown as it came, it could show a secret."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 -- whatever it is, it is not the business of who logs
            self.writer.drop()
        else:
            self.writer.put(line)

    def _notice(self, number: int) -> str:
        text = f"the log did not take {number} line{'' if number == 1 else 's'}; they are lost"
        return self.format(logging.makeLogRecord({"name": "logs", "levelno": logging.WARNING, "msg": text}))


@dataclass(slots=True)
class _Line:
    """A line to be written.

    Attributes:
        text: The line.
        stands_for: How many lines that were dropped it tells of.
    """

    text: str
    stands_for: int = 0


class Writer:
    """Writes lines to a stream on a thread of its own, in their order. Safe for use by several threads.

    A reader that hangs blocks only this thread, which does not keep the process from ending.

    Attributes:
        dropped: How many lines were dropped.
        around: Makes the context in which each line is written.
    """

    def __init__(
        self,
        stream: TextIO,
        notice: Callable[[int], str],
        *,
        dropped: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Write to a stream.

        Args:
            stream: Where to.
            notice: The line that tells how many were dropped.
            dropped: How many were before.
            clock: Monotonic seconds.
        """
        self.dropped = dropped
        self.around: _Around = contextlib.nullcontext
        self._write = _write_to(stream)
        self._notice = notice
        self._clock = clock
        # A garbage collection can log while this thread has it: so it is one that can be taken twice.
        self._changed = threading.Condition(threading.RLock())
        self._waiting: deque[_Line] = deque()
        self._size = 0
        self._untold = 0
        self._error = ""
        # Since when the thread has been writing the line that it is at (monotonic seconds).
        self._busy_since: float | None = None
        self._thread: threading.Thread | None = None

    def put(self, text: str) -> None:
        """Have a line written, or drop it where too many wait."""
        with self._changed:
            if self._waiting and self._size + len(text) > MOST_WAITING:
                self.drop()
                return
            self._start()
            self._tell()
            self._waiting.append(_Line(text))
            self._size += len(text)
            self._changed.notify_all()

    def drop(self) -> None:
        """Count a line that is not written."""
        with self._changed:
            self.dropped += 1
            self._untold += 1
            self._start()
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait until every line is written, at most so many seconds; whether they are."""
        with self._changed:
            return self._changed.wait_for(self._idle, timeout)

    def problem(self) -> str | None:
        """Why lines are not written, as one line for people; None where they are."""
        with self._changed:
            busy = 0.0 if self._busy_since is None else self._clock() - self._busy_since
            if busy >= LONGEST_WRITE:
                return f"the log has not taken a line for {busy:.0f} s; check what reads it"
            return f"the log cannot be written ({self._error}); check where it goes" if self._error else None

    def _idle(self) -> bool:
        """Whether there is nothing to be written, but perhaps what the log refuses."""
        return not self._waiting and self._busy_since is None and (not self._untold or bool(self._error))

    def _start(self) -> None:
        # A copy of the process has no thread.
        if self._thread is not None and self._thread.is_alive():
            return
        thread = threading.Thread(target=self._run, name="log", daemon=True)
        # Where there can be no thread, lines wait for the next try.
        with contextlib.suppress(RuntimeError):
            thread.start()
            self._thread = thread

    def _tell(self) -> None:
        """Have a line say how many were dropped, before the next."""
        if self._untold:
            self._waiting.append(_Line(self._notice(self._untold), self._untold))
            self._untold = 0

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    # At once, unless the log has just refused a line.
                    if (self._untold and not self._error) or not self._changed.wait(RETRY if self._untold else None):
                        self._tell()
                line = self._waiting.popleft()
                self._size -= 0 if line.stands_for else len(line.text)
                self._busy_since = self._clock()
            error = self._attempt(line.text)
            with self._changed:
                self._busy_since = None
                self._error = error
                if error:
                    self.dropped += not line.stands_for
                    self._untold += line.stands_for or 1
                self._changed.notify_all()

    def _attempt(self, text: str) -> str:
        """Write a line; why that failed, or "" where it did not."""
        try:
            with self.around():
                self._write(text)
        except OSError as error:
            return error.strerror or type(error).__name__
        except ValueError:
            return "it is closed"
        return ""


def _write_to(stream: TextIO) -> Callable[[str], None]:
    """What writes a line to a stream."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError, AttributeError):
        return lambda text: _write_text(stream, text)
    # Past Python's buffers: a thread that hangs while it holds one of them keeps the process from ending.
    return _Descriptor(descriptor, stream.encoding or "utf-8").write


def _write_text(stream: TextIO, text: str) -> None:
    stream.write(f"{text}\n")
    stream.flush()


class _Descriptor:
    """Writes lines to a file descriptor."""

    def __init__(self, descriptor: int, encoding: str) -> None:
        self._descriptor = descriptor
        self._encoding = encoding
        # Whether the end of the newest line is missing.
        self._torn = False

    def write(self, text: str) -> None:
        """Write a line. Raises OSError."""
        left = memoryview(("\n" * self._torn + text + "\n").encode(self._encoding, "backslashreplace"))
        while left:
            try:
                written = os.write(self._descriptor, left)
            except BlockingIOError:
                # Somebody else who has this descriptor has set it so.
                select.select([], [self._descriptor], [])
                continue
            self._torn = written < len(left)
            left = left[written:]


# What is logged on the way out is still written.
atexit.register(flush)


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
            "level": _level(record.levelno),
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


def _level(number: int) -> str:
    return next((name for name, level in reversed(LEVELS.items()) if number >= level), "debug")


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
    """Renders a line, and hides the secrets in it."""

    def __init__(self, render: _Render, redactor: Redactor) -> None:
        self._render = render
        self._redactor = redactor

    def __call__(self, logger: object, method: str, event: _Event) -> str:
        return self._redactor.hide(self._render(logger, method, event))
