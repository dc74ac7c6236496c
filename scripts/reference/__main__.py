"""`python -m reference`: generate the reference documents in docs/ from the code."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from reference import commands, configuration, metrics, status

DOCS = Path(__file__).parents[2] / "docs"

WRITTEN: Mapping[str, Callable[[], str]] = {
    "commands.md": commands.document,
    "metrics.md": metrics.document,
    "configuration.md": configuration.document,
    "status.md": status.document,
}


def main(folder: Path = DOCS) -> int:
    """Generate all documents.

    Returns:
        The exit code.
    """
    for name, document in WRITTEN.items():
        (folder / name).write_text(document(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
