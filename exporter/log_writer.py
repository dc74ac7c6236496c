"""A log writer that never blocks the threads that log: one thread of its own writes the lines."""

import contextlib
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

# Characters that are queued while the stream is blocked. Further lines are dropped.
MOST_QUEUED = 1024 * 1024

# Seconds. A write that takes longer is reported as a problem.
LONGEST_WRITE = 10.0

# Seconds. After a failed write, if nothing else is logged, the notice about dropped lines is tried again this often.
RETRY_EVERY = 10.0

WriteContext = Callable[[], contextlib.AbstractContextManager[object]]


@dataclass(slots=True)
class _Line:
    """A queued line.

    Attributes:
        text: The line.
        reports: For a notice about dropped lines, their number; otherwise 0.
    """

    text: str
    reports: int = 0


class LogWriter:
    """Writes lines to a stream in order, on its own thread. Thread-safe.

    A blocked stream blocks only this thread. It is a daemon thread, so it does not keep the process from ending.

    Attributes:
        dropped: Number of dropped lines.
        write_context: Returns the context manager in which each line is written.
    """

    def __init__(
        self,
        stream: TextIO,
        notice: Callable[[int], str],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create a writer; its thread starts with the first line.

        Args:
            stream: The stream to write to.
            notice: Returns the line that reports a number of dropped lines.
            clock: Returns monotonic seconds.
        """
        self.dropped = 0
        self.write_context: WriteContext = contextlib.nullcontext
        self._write = _write_to(stream)
        self._notice = notice
        self._clock = clock
        # Reentrant: a finalizer that runs while this thread holds the lock can log.
        self._changed = threading.Condition(threading.RLock())
        self._queue: deque[_Line] = deque()
        self._queued_size = 0
        self._unreported = 0
        self._error = ""
        # When the current write began (monotonic seconds).
        self._busy_since: float | None = None
        self._thread: threading.Thread | None = None

    def put(self, text: str) -> None:
        """Queue a line, or drop it if the queue is full."""
        with self._changed:
            if self._queue and self._queued_size + len(text) > MOST_QUEUED:
                self.drop()
                return
            self._start()
            self._queue_notice()
            self._queue.append(_Line(text))
            self._queued_size += len(text)
            self._changed.notify_all()

    def drop(self) -> None:
        """Count a line that is not written."""
        with self._changed:
            self.dropped += 1
            self._unreported += 1
            self._start()
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds until every line is written; return whether it is."""
        with self._changed:
            return self._changed.wait_for(self._idle, timeout)

    def problem(self) -> str | None:
        """Why lines are not written, as one line for operators; None if they are."""
        with self._changed:
            busy = 0.0 if self._busy_since is None else self._clock() - self._busy_since
            if busy >= LONGEST_WRITE:
                return f"the log has been blocked for {busy:.0f} s; check the process that reads it"
            return f"cannot write the log: {self._error}; check the log's destination" if self._error else None

    def _idle(self) -> bool:
        """Whether nothing is left to write, except for a notice that the stream keeps refusing."""
        return not self._queue and self._busy_since is None and (not self._unreported or bool(self._error))

    def _start(self) -> None:
        # After a fork, the child process has no thread.
        if self._thread is not None and self._thread.is_alive():
            return
        thread = threading.Thread(target=self._run, name="log", daemon=True)
        # If no thread can be started, lines stay queued until the next attempt.
        with contextlib.suppress(RuntimeError):
            thread.start()
            self._thread = thread

    def _queue_notice(self) -> None:
        """Queue a notice about the dropped lines before the next line."""
        if self._unreported:
            self._queue.append(_Line(self._notice(self._unreported), self._unreported))
            self._unreported = 0

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue:
                    # A notice is written at once, unless the last write failed.
                    at_once = self._unreported and not self._error
                    if at_once or not self._changed.wait(RETRY_EVERY if self._unreported else None):
                        self._queue_notice()
                line = self._queue.popleft()
                self._queued_size -= 0 if line.reports else len(line.text)
                self._busy_since = self._clock()
            error = self._try_write(line.text)
            with self._changed:
                self._busy_since = None
                self._error = error
                if error:
                    self.dropped += not line.reports
                    self._unreported += line.reports or 1
                self._changed.notify_all()

    def _try_write(self, text: str) -> str:
        """Write a line; return the error, or "" on success."""
        try:
            with self.write_context():
                self._write(text)
        except OSError as error:
            return error.strerror or type(error).__name__
        except ValueError:
            return "it is closed"
        return ""


def _write_to(stream: TextIO) -> Callable[[str], None]:
    """The function that writes a line to a stream."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError, AttributeError):
        return lambda text: _write_text(stream, text)
    # Not through Python's buffers: a thread that is blocked while it holds one keeps the process from ending.
    return _DescriptorWriter(descriptor, stream.encoding or "utf-8").write


def _write_text(stream: TextIO, text: str) -> None:
    stream.write(f"{text}\n")
    stream.flush()


class _DescriptorWriter:
    """Writes lines to a file descriptor."""

    def __init__(self, descriptor: int, encoding: str) -> None:
        self._descriptor = descriptor
        self._encoding = encoding
        # Whether the last line was written only in part.
        self._partial = False

    def write(self, text: str) -> None:
        """Write a line. Raises OSError."""
        left = memoryview(("\n" * self._partial + text + "\n").encode(self._encoding, "backslashreplace"))
        while left:
            try:
                written = os.write(self._descriptor, left)
            except BlockingIOError:
                # Another process that shares the descriptor has made it non-blocking.
                select.select([], [self._descriptor], [])
                continue
            self._partial = written < len(left)
            left = left[written:]
