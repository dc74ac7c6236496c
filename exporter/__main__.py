"""`python -m exporter`, and the command `smartstream-exporter`."""

import os
import signal
import sys
from types import FrameType

# What ends with its work, and not with a signal.
_COMMANDS = frozenset({"check-config", "plan", "backfill", "replay"})


def main() -> int:
    """Run the program; the exit code is that of `exporter.cli.main`.

    To import it takes most of a second. A signal that comes meanwhile is not lost: as the first process of a container,
    which the system spares the usual effect of a signal, this one would not end.
    """
    serves = not _COMMANDS.intersection(sys.argv[1:2])

    def end(_number: int, _frame: FrameType | None) -> None:
        # Nothing has begun.
        os._exit(0 if serves else 130)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    if serves:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from exporter.cli import main as run  # noqa: PLC0415 - see above

    return run()


if __name__ == "__main__":
    sys.exit(main())
