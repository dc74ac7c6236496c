"""Standard output and standard error, which can be closed, full, gone, or unable to show a character."""

import contextlib
import io
import os
import sys
from pathlib import Path

from exporter import logs


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
        # Who closes a pipe early has read what was wanted.
        if not isinstance(error, BrokenPipeError):
            say(f"smartstream-exporter: cannot write the output: {error.strerror}")
        # Python would try again on its way out, and complain.
        with contextlib.suppress(OSError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
            os.close(null)
        return False
    return True


def _closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False
