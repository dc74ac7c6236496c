"""Standard output and standard error, which can be closed, full, gone, or unable to show a character."""

import contextlib
import errno
import io
import os
import sys
from pathlib import Path

from exporter import logs

_OF_OUTPUT = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})


def prepare() -> None:
    """Make the standard streams safe to use; comes before anything else is opened."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        # Python leaves out what was closed. The next file that is opened would get its number, and what is written
        # to standard error would end up in the state file.
        if getattr(sys, name) is None:
            if _closed(descriptor):
                null = os.open(os.devnull, os.O_RDWR)
                os.dup2(null, descriptor)
                if null != descriptor:
                    os.close(null)
            setattr(sys, name, Path(os.devnull).open("r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Write a line to standard error, after what is logged. Where that takes none, nobody reads it."""
    if logs.flush():
        with contextlib.suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)


def finish() -> bool:
    """Write what waits for standard output; whether that could be. Says why where it could not."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return not failed(error)
    return True


def failed(error: OSError) -> bool:
    """Whether an error that nothing else has caught is the output's; if so, says so and gives the output up."""
    # Those of files and of connections are caught where these are used.
    if error.filename is not None or error.errno not in _OF_OUTPUT:
        return False
    # Who closes a pipe early has read what was wanted.
    if error.errno != errno.EPIPE:
        say(f"smartstream-exporter: cannot write the output: {error.strerror}")
    # Python would try again on its way out, and complain.
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    return True


def _closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False
