"""The flags that several commands share, and the types of flag values."""

import argparse
import re
from pathlib import Path

from exporter import logs
from exporter.errors import InputError
from exporter.httpd.address import Address, parse_address
from exporter.serving.paths import METRICS, is_taken
from exporter.times import parse_duration, parse_instant

# Default address of /metrics and the status page.
LISTEN = ":10077"

# Default configuration file.
CONFIG = Path("config.yaml")

# Formats that `instant` accepts, for help texts.
INSTANT_FORMATS = "RFC 3339, YYYY-MM-DD (UTC) or Unix seconds"


# Without defaults, which only the whole program has: that of a command would override a flag before the command.


def add_file_flags(parser: argparse.ArgumentParser) -> None:
    """Add --config.file and --storage.path."""
    parser.add_argument(
        "--config.file", dest="config_file", type=Path, metavar="FILE", default=argparse.SUPPRESS,
        help="configuration file (default: config.yaml)",
    )  # fmt: skip
    add_storage_flag(parser)


def add_storage_flag(parser: argparse.ArgumentParser) -> None:
    """Add --storage.path."""
    parser.add_argument(
        "--storage.path", dest="storage_path", type=Path, metavar="FILE", default=argparse.SUPPRESS,
        help="state file (default: storage.path in the configuration, else state.db)",
    )  # fmt: skip


def add_log_flags(parser: argparse.ArgumentParser) -> None:
    """Add --log.level and --log.format."""
    parser.add_argument(
        "--log.level", dest="log_level", choices=list(logs.LEVELS), default=argparse.SUPPRESS,
        help="lowest severity to log (default: info)",
    )  # fmt: skip
    parser.add_argument(
        "--log.format", dest="log_format", choices=["logfmt", "json"], default=argparse.SUPPRESS,
        help="log format (default: logfmt)",
    )  # fmt: skip


def add_web_flags(parser: argparse.ArgumentParser) -> None:
    """Add --web.config.file, --web.listen-address, --web.telemetry-path and --web.external-url."""
    parser.add_argument(
        "--web.config.file", dest="web_config_file", type=optional_file, metavar="FILE", default=argparse.SUPPRESS,
        help="file with TLS, users and headers, as in other exporters (default: plain HTTP without a password)",
    )  # fmt: skip
    parser.add_argument(
        "--web.listen-address", dest="listen", type=address, action="append", metavar="[HOST]:PORT",
        default=argparse.SUPPRESS,
        help=f"address for metrics and the status page; can be repeated (default: {LISTEN})",
    )  # fmt: skip
    parser.add_argument(
        "--web.telemetry-path", dest="telemetry_path", type=telemetry_path, metavar="PATH", default=argparse.SUPPRESS,
        help=f"path of the metrics (default: {METRICS})",
    )  # fmt: skip
    parser.add_argument(
        "--web.external-url", dest="external_url", type=web_url, metavar="URL", default=argparse.SUPPRESS,
        help="address at which people reach the status page, for links in alerts (default: no links)",
    )  # fmt: skip


def whole_number(text: str) -> int:
    """A whole number, 0 or more."""
    if not text.isascii() or not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def duration(text: str) -> float:
    """A duration as in Prometheus, in seconds; `0` is none."""
    try:
        return 0.0 if text == "0" else parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is {error}; write one such as 30s or 5m") from error


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


def web_url(text: str) -> str:
    """The address of a site without a final slash, or ""."""
    if not text:
        return ""
    # A user and a password would be public: the address is on /metrics.
    if not re.fullmatch(r"https?://[^\s\"'<>\\@?#/]+(/[^\s\"'<>\\?#]*)?", text, re.ASCII):
        raise argparse.ArgumentTypeError(
            "write a URL without user, password and query, such as https://smartstream.example.com/exporter"
        )
    return text.rstrip("/")


def optional_file(text: str) -> Path | None:
    """A file, or none for "", as units and templates write it."""
    return Path(text) if text else None


def telemetry_path(text: str) -> str:
    """A path for the metrics."""
    # The segments . and .. are for clients: no request has them.
    if not re.fullmatch(r"(/(?!\.\.?(/|$))[A-Za-z0-9._~-]+)+|/", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not a path; write one such as {METRICS}")
    if is_taken(text):
        raise argparse.ArgumentTypeError(f"{text!r} is the path of something else; write one such as {METRICS}")
    return text


def address(text: str) -> Address:
    """An address to listen on."""
    try:
        return parse_address(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
