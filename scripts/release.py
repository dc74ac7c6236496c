"""Facts about a release: its version, whether a tag may be released, and its section of the changelog.

release.py version     print the version
release.py check TAG   print the version; exit code 1 unless the tag names it and the changelog has it
release.py notes       print the section of the changelog
"""

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


class NotReleasable(Exception):
    """The tag cannot be released; the message is one line."""


def version(root: Path = ROOT) -> str:
    """The version, from the only place that has it."""
    text = (root / "exporter" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise NotReleasable('exporter/__init__.py: there is no version; write __version__ = "1.2.3"')
    return found[1]


def check(tag: str, root: Path = ROOT) -> str:
    """The version that a tag releases. Raises NotReleasable."""
    released = version(root)
    if tag != f"v{released}":
        raise NotReleasable(
            f"tag {tag}: exporter/__init__.py has version {released}; tag v{released}, or change the version first"
        )
    notes(root)
    return released


def notes(root: Path = ROOT) -> str:
    """What the changelog says of the version. Raises NotReleasable."""
    released = version(root)
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    heading = rf"^## \[{re.escape(released)}\] - \d{{4}}-\d{{2}}-\d{{2}}\n(.*?)(?=^## |^\[[^\]]+\]: |\Z)"
    found = re.search(heading, text, re.MULTILINE | re.DOTALL)
    if found is None or not found[1].strip():
        raise NotReleasable(
            f"CHANGELOG.md: version {released} has no section; rename [Unreleased] to [{released}] - YYYY-MM-DD"
        )
    return found[1].strip() + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return the exit code."""
    parser = argparse.ArgumentParser(prog="release.py", description="Facts about a release.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("version", help="print the version")
    commands.add_parser("check", help="print the version if a tag may be released").add_argument("tag")
    commands.add_parser("notes", help="print the section of the changelog")
    options = parser.parse_args(arguments)
    try:
        if options.command == "check":
            print(check(options.tag))
        elif options.command == "notes":
            print(notes(), end="")
        else:
            print(version())
    except NotReleasable as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
