"""The `simulate` command: the simulated API from the command line."""

import contextlib
import sys
import time
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Mapping
from typing import Any, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import ValidationError

from exporter.errors import InputError
from exporter.httpd.address import Address, parse_address
from exporter.signals import STOP_SIGNALS, Signals
from exporter.simulator.app import SimulatorApp
from exporter.simulator.control import DEFAULT_MERCHANT
from exporter.simulator.faults import Faults, FaultSwitch, problems
from exporter.simulator.gate import Credentials
from exporter.simulator.series import World
from exporter.simulator.server import SimulatorServer

NAME = "smartstream-exporter simulate"
# Faults whose flag can be repeated.
SEVERAL = ("gone", "drop")

# Seconds of each wait for a signal.
SIGNAL_WAIT = 60.0


class UsageError(Exception):
    """The value of a flag is not valid; the text is one line that names the flag."""


class _QuotingDumper(yaml.SafeDumper):
    """Quotes every text but names: a reader of another YAML version could take `0899` or `1e5` for a number."""


_QuotingDumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style=None if text.isidentifier() else '"'
    ),
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the flags of `simulate` to a parser."""
    parser.add_argument(
        "--listen-address",
        default="127.0.0.1:18080",
        metavar="HOST:PORT",
        help="address to listen on (default: %(default)s)",
    )
    parser.add_argument("--seed", default="1", help="seed of the simulated plays (default: %(default)s)")
    parser.add_argument("--media", default="12", help="number of media of each merchant (default: %(default)s)")
    parser.add_argument("--timezone", default="Asia/Tokyo", help="time zone of the API (default: %(default)s)")
    parser.add_argument("--api-key", default="", help="the only accepted API key (default: any)")
    parser.add_argument("--mail-address", default="", help="the only accepted mail address (default: any)")
    parser.add_argument("--password", default="", help="the only accepted password (default: any)")
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="print a configuration of the exporter for this API, and exit",
    )
    faults = parser.add_argument_group("faults", "POST JSON to /control/faults to change them at run time")
    for name, field in Faults.model_fields.items():
        options: dict[str, Any] = {"dest": f"fault_{name}", "default": None, "help": field.description}
        if field.annotation is bool:
            options["action"] = BooleanOptionalAction
        elif name in SEVERAL:
            options |= {"action": "append", "metavar": "ID=SHARE" if name == "drop" else "ID"}
        else:
            words = [word for word in get_args(field.annotation) if isinstance(word, str)]
            options["metavar"] = "|".join(words) or "N"
        faults.add_argument(f"--{_flag(name)}", **options)


def run(args: Namespace) -> int:
    """Serve until SIGTERM or SIGINT. The exit code is 2 for an invalid flag, 1 if the port is in use."""
    try:
        address = _address(args.listen_address)
        seed = _integer("seed", args.seed, least=0)
        media = _integer("media", args.media, least=1, most=10_000)
        world = World(seed, media, _zone(args.timezone))
        faults = read_faults(args)
    except UsageError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 2
    credentials = Credentials(args.api_key, args.mail_address, args.password)
    if args.print_config:
        url = f"http://{Address(_reachable(address.host), address.port)}/v1"
        config = config_for(world, url, credentials)
        print(yaml.dump(config, Dumper=_QuotingDumper, sort_keys=False, allow_unicode=True), end="")
        return 0
    app = SimulatorApp(world, FaultSwitch(world, time.time, faults), time.time, credentials=credentials)
    try:
        server = SimulatorServer(app, address.host, address.port)
    except InputError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 1
    with Signals(STOP_SIGNALS) as signals, server:
        # A closed standard output is no reason not to serve.
        with contextlib.suppress(OSError):
            print(_welcome(args, Address(_reachable(address.host), server.address[1])), flush=True)
        while signals.wait(SIGNAL_WAIT) is None:
            pass
    return 0


def config_for(world: World, url: str, credentials: Credentials) -> dict[str, Any]:
    """A complete configuration of the exporter for a simulated API at this URL."""
    merchant = {
        "id": DEFAULT_MERCHANT,
        "api_key": credentials.api_key or "simulated-key",
        "mail_address": credentials.mail_address or "ops@example.com",
        "password": credentials.password or "simulated-password",
        "collect": [
            {"target": "play_count", "groups": ["all", "country", "device"]},
            {"target": "play_time"},
            {"target": "key_delivery_count"},
        ],
        "media": [{"id": media.id, "name": media.name} for media in world.catalog(DEFAULT_MERCHANT).values()],
    }
    return {"api": {"url": url, "timezone": str(world.zone)}, "merchants": [merchant]}


def read_faults(args: Namespace) -> Faults:
    """The faults that the flags set. Raises UsageError."""
    given = {name: getattr(args, f"fault_{name}") for name in Faults.model_fields}
    settings: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    if "drop" in settings:
        settings["drop"] = _drop(given["drop"])
    try:
        # Numbers are text here.
        return Faults.model_validate(settings)
    except ValidationError as error:
        raise UsageError("; ".join(f"--{_flag(name)}: {problem}" for name, problem in problems(error))) from None


def _drop(texts: list[str]) -> Mapping[str, str]:
    pairs = (text.rpartition("=") for text in texts)
    return {media_id: share for media_id, _, share in pairs}


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except InputError as error:
        raise UsageError(f"--listen-address: {error}") from None


def _integer(name: str, text: str, *, least: int, most: int = 2**63) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise UsageError(f"--{name}: {text!r} is not a whole number from {least} to {most}")
    return value


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(f"--timezone: unknown time zone {name!r}") from None


def _reachable(host: str) -> str:
    """The host with which this machine connects to a listening address."""
    return "127.0.0.1" if host in {"", "0.0.0.0", "::"} else host  # noqa: S104 - compared, not bound


def _welcome(args: Namespace, address: Address) -> str:
    flags = f"--listen-address={address} --seed={args.seed} --media={args.media} --timezone={args.timezone}"
    return (
        f"The simulated API listens on http://{address}/v1\n"
        f"Print a configuration:  {NAME} {flags} --print-config > config.yaml\n"
        f"""Inject a fault:         curl -d '{{"late_minutes": 5}}' http://{address}/control/faults"""
    )
