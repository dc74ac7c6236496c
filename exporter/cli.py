"""The command line. `main` parses it and maps errors to exit codes; the work is done elsewhere."""

import argparse
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from exporter import __version__, console, daemon, demo, logs, signals
from exporter.backfill import command as backfill
from exporter.backtest import command as replay
from exporter.clock import SystemClock
from exporter.config import settings as config
from exporter.counting.ledger_rows import read_rates
from exporter.errors import ConfigError, ExporterError, InputError
from exporter.httpd.address import Address, parse_address
from exporter.planning.capacity import describe, estimate_capacity
from exporter.simulator import command as simulator
from exporter.times import parse_instant

LISTEN = ":10077"

# Days of plays that are fetched to be replayed, at most.
LONGEST_REPLAY = 400

CONFIG = Path("config.yaml")

# The exit code of a command that SIGINT or SIGTERM ended, as shells have it.
INTERRUPTED = 130

DESCRIPTION = """Prometheus exporter for the Analytics API of the SmartSTREAM video platform.
Without a command it runs: it polls the API and serves /metrics."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Returns:
        The exit code: 0 after SIGTERM or SIGINT and when a command has done its work, 1 for a fault at run time,
        130 when a signal ended a command that had work left. Wrong usage ends the process with 2.
    """
    console.prepare()
    try:
        code = _main(arguments)
    except OSError as error:
        if not console.failed(error):
            raise
        return 1
    except SystemExit as end:
        # Help, the version, or wrong usage.
        raise SystemExit(end.code if console.finish() else 1) from None
    return code if console.finish() else 1


def _main(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if "shard_count" in options and options.shard_index >= options.shard_count:
        parser.error("--shard.index counts from 0 and must be less than --shard.count")
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except ConfigError as error:
        for fault in error.faults:
            console.say(fault)
    except ExporterError as error:
        console.say(f"smartstream-exporter: {error}")
    except KeyboardInterrupt as error:
        console.say(f"smartstream-exporter: {str(error) or 'interrupted'}")
        return INTERRUPTED
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="smartstream-exporter",
        description=DESCRIPTION,
        allow_abbrev=False,
        parents=[_file_flags(), _log_flags(), _web_flags()],
    )
    parser.set_defaults(run=_run_daemon)
    parser.add_argument("--version", action="version", version=f"smartstream-exporter {__version__}")
    parser.add_argument(
        "--shard.index", dest="shard_index", type=_whole_number, default=0, metavar="N",
        help="which share of the merchants this process has, from 0 (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--shard.count", dest="shard_count", type=_whole_number, default=1, metavar="N",
        help="over how many processes the merchants are spread (default: %(default)s)",
    )  # fmt: skip
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    check = commands.add_parser(
        "check-config", help="tell every fault in a configuration, one a line", allow_abbrev=False
    )
    check.add_argument("file", type=Path, metavar="FILE", help="the configuration")
    check.set_defaults(run=_check_config)

    look = commands.add_parser(
        "plan",
        help="tell what to expect of a configuration, without sending anything",
        allow_abbrev=False,
        parents=[_file_flags(of_command=True)],
    )
    look.set_defaults(run=_plan)

    past = commands.add_parser(
        "backfill",
        help="write the history of the counters to a file for promtool",
        allow_abbrev=False,
        parents=[_file_flags(of_command=True), _log_flags(of_command=True)],
    )
    times = "RFC 3339, YYYY-MM-DD (UTC) or Unix seconds"
    past.add_argument("--from", dest="since", type=_instant, required=True, metavar="TIME", help=f"its start: {times}")
    past.add_argument("--to", dest="until", type=_instant, required=True, metavar="TIME", help="its end, not included")
    past.add_argument("--output", type=Path, required=True, metavar="FILE", help="the OpenMetrics file to write")
    past.add_argument(
        "--label", dest="labels", type=_label, action="append", default=[], metavar="NAME=VALUE",
        help="a label for all series, such as the job and the instance that scraped series have",
    )  # fmt: skip
    past.set_defaults(run=_backfill)

    again = commands.add_parser(
        "replay",
        help="tell what the drop alerts would have done over recorded plays",
        allow_abbrev=False,
        parents=[_file_flags(of_command=True), _log_flags(of_command=True)],
    )
    source = again.add_mutually_exclusive_group(required=True)
    source.add_argument("--csv", type=Path, metavar="FILE", help="the plays: minute,media_id,plays")
    source.add_argument(
        "--media", action="append", metavar="ID", help="a media whose plays are fetched from the API; can be repeated"
    )
    again.add_argument(
        "--days", type=_days, default=28, metavar="N", help="how many of them are fetched (default: %(default)s)"
    )
    again.add_argument(
        "--evaluate-from", dest="evaluate_from", type=_instant, metavar="TIME",
        help=f"tell only what begins then or later: {times}",
    )  # fmt: skip
    again.add_argument("--format", choices=["text", "json"], default="text", help="how (default: %(default)s)")
    again.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw plays, expected plays and episodes, too")
    again.set_defaults(run=_replay)

    show = commands.add_parser(
        "demo",
        help="run against a simulated API in the same process",
        allow_abbrev=False,
        parents=[_log_flags(of_command=True), _web_flags(of_command=True)],
    )
    show.set_defaults(run=_run_demo)

    simulate = commands.add_parser("simulate", help="run only the simulated API", allow_abbrev=False)
    simulator.add_arguments(simulate)
    simulate.set_defaults(run=_run_simulator)
    return parser


def _file_flags(*, of_command: bool = False) -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument(
        "--config.file", dest="config_file", type=Path, metavar="FILE",
        default=_default(CONFIG, of_command=of_command),
        help="the configuration (default: config.yaml)",
    )  # fmt: skip
    flags.add_argument(
        "--storage.path", dest="storage_path", type=Path, metavar="FILE",
        default=_default(None, of_command=of_command),
        help="the state file (default: storage.path of the configuration, else state.db)",
    )  # fmt: skip
    return flags


def _log_flags(*, of_command: bool = False) -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument(
        "--log.level", dest="log_level", choices=list(logs.LEVELS),
        default=_default("info", of_command=of_command),
        help="log lines of this severity or a higher one (default: info)",
    )  # fmt: skip
    flags.add_argument(
        "--log.format", dest="log_format", choices=["logfmt", "json"],
        default=_default("logfmt", of_command=of_command),
        help="how it is written (default: logfmt)",
    )  # fmt: skip
    return flags


def _web_flags(*, of_command: bool = False) -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument(
        "--web.listen-address", dest="listen", type=_address, metavar="[HOST]:PORT",
        default=_default(LISTEN, of_command=of_command),
        help=f"where /metrics and the pages are served (default: {LISTEN})",
    )  # fmt: skip
    return flags


def _default(value: object, *, of_command: bool) -> object:
    # A command's own default would replace what was given before the command.
    return argparse.SUPPRESS if of_command else value


def _whole_number(text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _days(text: str) -> int:
    days = _whole_number(text)
    if not 1 <= days <= LONGEST_REPLAY:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {LONGEST_REPLAY}")
    return days


def _instant(text: str) -> float:
    try:
        return parse_instant(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*", name, re.ASCII) or not value.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not a label; write NAME=VALUE, such as job=smartstream")
    return name, value


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _run_daemon(options: argparse.Namespace) -> int:
    settings = _load(options)
    with daemon.caught_signals() as received:
        return _serve(settings.shard(options.shard_index, options.shard_count), options, received)


def _load(options: argparse.Namespace) -> config.Settings:
    settings = config.load(options.config_file, os.environ)
    if options.storage_path is not None:
        storage = settings.storage.model_copy(update={"path": options.storage_path})
        settings = settings.model_copy(update={"storage": storage})
    return settings


def _plan(options: argparse.Namespace) -> int:
    settings = _load(options)
    rates = read_rates(settings.storage.path)
    for merchant in settings.merchants:
        capacity = estimate_capacity(merchant, settings.poll, rates.get(merchant.id, {}))
        print("\n".join(describe(capacity)), end="\n\n")
    return 0


def _backfill(options: argparse.Namespace) -> int:
    settings = _load(options)
    _setup_logs(settings, options)
    order = backfill.Order(options.since, options.until, options.output, dict(options.labels))
    # Also a container's stop ends with a line that says how to go on.
    signals.interrupt_on_stop()
    backfill.run(settings, order, SystemClock())
    return 0


def _replay(options: argparse.Namespace) -> int:
    output = replay.Output(options.format == "json", options.evaluate_from, options.plot)
    signals.interrupt_on_stop()
    if options.csv is not None:
        # A file needs no configuration, so the default one is not looked for.
        replay.of_file(options.csv, None if options.config_file is CONFIG else _load(options), output)
        return 0
    settings = _load(options)
    _setup_logs(settings, options)
    replay.of_api(settings, options.media, options.days, output, SystemClock())
    return 0


def _check_config(options: argparse.Namespace) -> int:
    settings = config.load(options.file, os.environ)
    print(f"ok: {config.summary(settings)}")
    return 0


def _run_demo(options: argparse.Namespace) -> int:
    with daemon.caught_signals() as received, demo.simulated() as settings:
        return _serve(settings, options, received)


def _run_simulator(options: argparse.Namespace) -> int:
    logs.setup()
    return simulator.run(options)


def _serve(settings: config.Settings, options: argparse.Namespace, received: signals.Signals) -> int:
    _setup_logs(settings, options)
    return daemon.run(settings, options.listen, received)


def _setup_logs(settings: config.Settings, options: argparse.Namespace) -> None:
    secrets = [
        secret.get_secret_value() for merchant in settings.merchants for secret in (merchant.api_key, merchant.password)
    ]
    logs.setup(options.log_level, options.log_format, secrets=secrets)
    logs.log_uncaught()
