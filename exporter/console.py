"""Standard output and standard error, which can be closed, full, gone, or unable to encode a character."""

import contextlib
import errno
import io
import os
import sys
from pathlib import Path

from exporter import logs

# The descriptor of standard error, the last of the standard streams.
_STANDARD_ERROR = 2

_OUTPUT_ERRORS = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})


def prepare() -> None:
    """Make the standard streams safe to use. Call it before any other file is opened."""
    # The next opened file would get the descriptor of a closed stream, and output to standard error could end up in the
    # state file.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        pass
    os.close(descriptor)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        # For a closed stream Python has None.
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Write a line to standard error after the log lines; skip it if standard error is blocked."""
    if logs.flush():
        with contextlib.suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)


def finish() -> bool:
    """Flush standard output and return whether that succeeded; report the error if not."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return not failed(error)
    return True


def failed(error: OSError) -> bool:
    """Whether an uncaught error is an error of the output; if so, report it and close the output."""
    # Errors of files and connections are caught elsewhere.
    if error.filename is not None or error.errno not in _OUTPUT_ERRORS:
        return False
    # A reader that closes the pipe early, such as `head`, is no error.
    if error.errno != errno.EPIPE:
        say(f"smartstream-exporter: cannot write the output: {error.strerror}")
    # Otherwise Python would flush again at exit and print a traceback.
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    return True
