"""The flags that several commands share, and the types of flag values."""

import argparse
import re
from pathlib import Path

from exporter import logs
from exporter.errors import InputError
from exporter.httpd.address import Address, parse_address
from exporter.times import parse_instant

# Default address of /metrics and the status page.
LISTEN = ":10077"

# Default configuration file.
CONFIG = Path("config.yaml")

# Formats that `instant` accepts, for help texts.
INSTANT_FORMATS = "RFC 3339, YYYY-MM-DD (UTC) or Unix seconds"


def file_flags() -> argparse.ArgumentParser:
    """--config.file and --storage.path, as a parent parser."""
    flags = _parent()
    flags.add_argument(
        "--config.file", dest="config_file", type=Path, metavar="FILE",
        help="configuration file (default: config.yaml)",
    )  # fmt: skip
    flags.add_argument(
        "--storage.path", dest="storage_path", type=Path, metavar="FILE",
        help="state file (default: storage.path in the configuration, else state.db)",
    )  # fmt: skip
    return flags


def log_flags() -> argparse.ArgumentParser:
    """--log.level and --log.format, as a parent parser."""
    flags = _parent()
    flags.add_argument(
        "--log.level", dest="log_level", choices=list(logs.LEVELS),
        help="lowest severity to log (default: info)",
    )  # fmt: skip
    flags.add_argument(
        "--log.format", dest="log_format", choices=["logfmt", "json"],
        help="log format (default: logfmt)",
    )  # fmt: skip
    return flags


def web_flags() -> argparse.ArgumentParser:
    """--web.listen-address, as a parent parser."""
    flags = _parent()
    flags.add_argument(
        "--web.listen-address", dest="listen", type=address, metavar="[HOST]:PORT",
        help=f"address for /metrics and the status page (default: {LISTEN})",
    )  # fmt: skip
    return flags


def _parent() -> argparse.ArgumentParser:
    # Only the whole program has defaults: that of a command would override a flag that stands before the command.
    return argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)


def whole_number(text: str) -> int:
    """A whole number, 0 or more."""
    if not text.isascii() or not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def instant(text: str) -> float:
    """A time as Unix seconds."""
    try:
        return parse_instant(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def label(text: str) -> tuple[str, str]:
    """A label for series, from NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*", name, re.ASCII) or not value.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not a label; write NAME=VALUE, such as job=smartstream")
    return name, value


def address(text: str) -> Address:
    """An address to listen on."""
    try:
        return parse_address(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
