"""Entry point of `python -m exporter` and of the command `smartstream-exporter`."""

import os
import signal
import sys
from types import FrameType

# Commands that end when they are done, not on a signal.
_COMMANDS = frozenset({"check-config", "plan", "backfill", "backup", "move-merchant", "replay", "completion"})


def main() -> int:
    """Run the program; the exit code is that of `exporter.cli.main`.

    The import of the command line takes most of a second. A signal during that time must not be lost: PID 1 of a
    container, to which the kernel does not apply default signal handlers, would not stop.
    """
    serves = not _COMMANDS.intersection(sys.argv[1:2])

    def end(_number: int, _frame: FrameType | None) -> None:
        # Nothing to clean up yet.
        os._exit(0 if serves else 130)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    if serves:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from exporter.cli import main as run  # noqa: PLC0415 - after the handlers

    return run()


if __name__ == "__main__":
    sys.exit(main())
