"""The command line: parses it, runs the command, maps errors to exit codes.

Each command imports what it needs when it runs: all modules together take most of a second.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from exporter import __version__, console, logs, signals
from exporter.clock import SystemClock
from exporter.commandline.parser import CommandParser
from exporter.commandline.usage import COMMANDS, NAME, PROGRAM
from exporter.errors import ConfigError, ExporterError
from exporter.flags import (
    CONFIG,
    INSTANT_FORMATS,
    LISTEN,
    add_file_flags,
    add_log_flags,
    add_storage_flag,
    add_web_flags,
    address,
    duration,
    instant,
    label,
    optional_file,
    whole_number,
)
from exporter.serving.paths import METRICS

if TYPE_CHECKING:
    from exporter.config.settings import Settings
    from exporter.config.source import ConfigSource, NoSource

# Shells for which there is a completion.
SHELLS = ("bash", "zsh", "fish", "tcsh")

# Limit of --days.
LONGEST_REPLAY = 400

# The exit code of a command that SIGINT or SIGTERM interrupted, as in shells.
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Returns:
        The exit code: 0 after SIGTERM or SIGINT and when a command is done, 1 after an error at run time,
        130 when a signal interrupted a command. Wrong usage ends the process with 2.
    """
    console.prepare()
    try:
        code = _main(arguments)
    except OSError as error:
        if not console.failed(error):
            raise
        return 1
    except SystemExit as end:
        # Help, version, or wrong usage.
        raise SystemExit(end.code if console.finish() else 1) from None
    return code if console.finish() else 1


def _main(arguments: Sequence[str] | None) -> int:
    parser = build_parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        options.parser.unrecognized(unknown)
    if options.shard_index >= options.shard_count:
        parser.error("--shard.index must be less than --shard.count")
    if len(set(options.listen)) < len(options.listen):
        parser.error("--web.listen-address: give each address only once")
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except ConfigError as error:
        console.say(str(error))
    except ExporterError as error:
        console.say(f"smartstream-exporter: {error}")
    except KeyboardInterrupt as error:
        console.say(f"smartstream-exporter: {str(error) or 'interrupted'}")
        return INTERRUPTED
    return 1


def build_parser() -> CommandParser:
    """The parser of the whole command line."""
    parser = CommandParser(NAME, PROGRAM)
    add_file_flags(parser)
    add_log_flags(parser)
    add_web_flags(parser)
    parser.set_defaults(
        run=_run_daemon,
        parser=parser,
        config_file=CONFIG,
        storage_path=None,
        log_level="info",
        log_format="logfmt",
        listen=[],
        web_config_file=None,
        telemetry_path=METRICS,
        external_url="",
        reload_interval=0.0,
    )
    parser.add_argument(
        "--config.auto-reload-interval", dest="reload_interval", type=duration, metavar="DURATION",
        default=argparse.SUPPRESS,
        help="how often to look whether the configuration file or a file that it names has changed, "
        "and to reload it then, such as 30s; 0 never looks (default: 0)",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"{NAME} {__version__}")
    parser.add_argument(
        "--shard.index", dest="shard_index", type=whole_number, default=0, metavar="N",
        help="index of this shard, from 0 (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--shard.count", dest="shard_count", type=whole_number, default=1, metavar="N",
        help="number of shards; each process polls the merchants of one (default: %(default)s)",
    )  # fmt: skip
    for name, run, add_flags in (
        ("check-config", _check_config, _check_config_flags),
        ("plan", _plan, add_file_flags),
        ("backfill", _backfill, _backfill_flags),
        ("backup", _backup, _backup_flags),
        ("move-merchant", _move_merchant, _move_flags),
        ("replay", _replay, _replay_flags),
        ("demo", _run_demo, _demo_flags),
        ("simulate", _run_simulator, _simulator_flags),
        ("completion", _completion, _completion_flags),
    ):
        parser.add_command(name, COMMANDS[name], add_flags).set_defaults(run=run)
    return parser


def _check_config_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, nargs="?", metavar="FILE", help=f"configuration file (default: {CONFIG})")
    parser.add_argument(
        "--online", action="store_true",
        help="also sign in, look up every media, read its plays and check the time zone, within the request budget",
    )  # fmt: skip
    add_storage_flag(parser)
    parser.add_argument(
        "--web.config.file", dest="web_config_file", type=optional_file, metavar="FILE", default=argparse.SUPPRESS,
        help="web configuration to validate, too",
    )  # fmt: skip


def _backfill_flags(parser: argparse.ArgumentParser) -> None:
    add_file_flags(parser)
    add_log_flags(parser)
    parser.add_argument(
        "--from", dest="since", type=instant, required=True, metavar="TIME", help=f"start time: {INSTANT_FORMATS}"
    )
    parser.add_argument("--to", dest="until", type=instant, required=True, metavar="TIME", help="end time, exclusive")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="OpenMetrics file to write")
    parser.add_argument(
        "--label", dest="labels", type=label, action="append", default=[], metavar="NAME=VALUE",
        help="label to add to every series, such as job and instance of the scraped series; can be repeated",
    )  # fmt: skip


def _backup_flags(parser: argparse.ArgumentParser) -> None:
    add_file_flags(parser)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="copy to write; a file that exists is not replaced"
    )


def _move_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("merchant_id", metavar="ID", help="ID of the merchant")
    parser.add_argument(
        "--from", dest="source", type=Path, required=True, metavar="FILE", help="state file that has the merchant"
    )
    parser.add_argument(
        "--to", dest="target", type=Path, required=True, metavar="FILE",
        help="state file that gets the merchant; created if missing",
    )  # fmt: skip


def _replay_flags(parser: argparse.ArgumentParser) -> None:
    add_file_flags(parser)
    add_log_flags(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--csv", type=Path, metavar="FILE", help="recorded plays, with columns minute,media_id,plays")
    source.add_argument(
        "--media", action="append", metavar="ID", help="media whose plays to fetch from the API; can be repeated"
    )
    parser.add_argument(
        "--days", type=_days, default=28, metavar="N", help="days to fetch with --media (default: %(default)s)"
    )
    parser.add_argument(
        "--evaluate-from", dest="evaluate_from", type=instant, metavar="TIME",
        help=f"report only alerts that start at this time or later: {INSTANT_FORMATS}",
    )  # fmt: skip
    parser.add_argument("--format", choices=["text", "json"], default="text", help="output format (default: text)")
    parser.add_argument("--plot", type=_svg, metavar="FILE.svg", help="also plot plays, expected plays and alerts")


def _demo_flags(parser: argparse.ArgumentParser) -> None:
    add_log_flags(parser)
    add_web_flags(parser)


def _simulator_flags(parser: argparse.ArgumentParser) -> None:
    from exporter.simulator import command

    command.add_arguments(parser)


def _completion_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=f"one of {', '.join(SHELLS)}")


def _svg(text: str) -> Path:
    if Path(text).suffix != ".svg":
        raise argparse.ArgumentTypeError(f"{text!r} does not end with .svg, the only format of the picture")
    return Path(text)


def _days(text: str) -> int:
    days = whole_number(text)
    if not 1 <= days <= LONGEST_REPLAY:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {LONGEST_REPLAY}")
    return days


def _run_daemon(options: argparse.Namespace) -> int:
    from exporter import daemon
    from exporter.config.source import ConfigSource, Selection

    selection = Selection(options.storage_path, options.shard_index, options.shard_count)
    source = ConfigSource(options.config_file, os.environ, selection)
    settings = source.read()
    with daemon.caught_signals() as received:
        return _serve(settings, source, options, received)


def _load(options: argparse.Namespace) -> "Settings":
    from exporter.config.load import load

    return _with_storage(load(options.config_file, os.environ), options)


def _load_all(options: argparse.Namespace) -> "Settings":
    """The configuration with the media of its media files."""
    from exporter.config.media_files import load_all

    return _with_storage(load_all(options.config_file, os.environ), options)


def _with_storage(settings: "Settings", options: argparse.Namespace) -> "Settings":
    if options.storage_path is None:
        return settings
    storage = settings.storage.model_copy(update={"path": options.storage_path})
    return settings.model_copy(update={"storage": storage})


def _plan(options: argparse.Namespace) -> int:
    from exporter.counting.ledger_rows import read_rates
    from exporter.planning.capacity import describe

    settings = _load_all(options)
    rates = read_rates(settings.storage.path)
    for merchant in settings.merchants:
        print("\n".join(describe(merchant, settings.poll, rates.get(merchant.id, {}))), end="\n\n")
    return 0


def _backfill(options: argparse.Namespace) -> int:
    from exporter.backfill import command

    settings = _load_all(options)
    _setup_logs(settings, options)
    order = command.Order(options.since, options.until, options.output, dict(options.labels))
    # SIGTERM, too, ends with a line that says how to continue.
    signals.interrupt_on_stop()
    command.run(settings, order, SystemClock())
    return 0


def _backup(options: argparse.Namespace) -> int:
    from exporter.storage.backup import back_up

    path = options.storage_path if options.storage_path is not None else _load(options).storage.path
    # A partial copy is removed.
    signals.interrupt_on_stop()
    size = back_up(path, options.output)
    print(f"ok: {options.output} is a copy of {path}, {size} bytes")
    return 0


def _move_merchant(options: argparse.Namespace) -> int:
    from exporter.storage.move import move_merchant

    logs.setup(options.log_level, options.log_format)
    signals.interrupt_on_stop()
    streams = move_merchant(options.merchant_id, options.source, options.target)
    done = "was moved before" if streams is None else "is moved"
    print(
        f"ok: {options.merchant_id} {done} from {options.source} to {options.target}"
        f"{'' if streams is None else f', {streams} streams'}; "
        "move its entry in the configuration, too, before you start the exporters"
    )
    return 0


def _replay(options: argparse.Namespace) -> int:
    from exporter.backtest import command

    output = command.Output(options.format == "json", options.evaluate_from, options.plot)
    signals.interrupt_on_stop()
    if options.csv is not None:
        # The default configuration is not required: a CSV file needs none.
        command.of_file(options.csv, None if options.config_file is CONFIG else _load_all(options), output)
        return 0
    settings = _load_all(options)
    _setup_logs(settings, options)
    command.of_api(settings, options.media, options.days, output, SystemClock())
    return 0


def _check_config(options: argparse.Namespace) -> int:
    from exporter.config.load import summary

    options.config_file = options.file or options.config_file
    errors: list[str] = []
    if options.web_config_file is not None:
        from exporter.config.web_file import load_web_config

        try:
            load_web_config(options.web_config_file)
        except ConfigError as error:
            errors += error.errors
    try:
        settings = _load_all(options)
    except ConfigError as error:
        raise ConfigError([*error.errors, *errors]) from None
    if errors:
        raise ConfigError(errors)
    if options.online and (problems := _check_online(settings, options)):
        console.say(f"smartstream-exporter: {problems} problem{'s' * (problems != 1)}; the tables say which")
        return 1
    print(f"ok: {summary(settings)}")
    return 0


def _check_online(settings: "Settings", options: argparse.Namespace) -> int:
    from exporter.checking import command

    _setup_logs(settings, options)
    # SIGTERM, too, prints what is known.
    signals.interrupt_on_stop()
    return command.run(settings, SystemClock())


def _completion(options: argparse.Namespace) -> int:
    from exporter.commandline import completion

    print(completion.script(options.shell, build_parser()), end="")
    return 0


def _run_demo(options: argparse.Namespace) -> int:
    from exporter import daemon, demo
    from exporter.config.source import NoSource

    with daemon.caught_signals() as received, demo.simulated() as (settings, started):
        return _serve(settings, NoSource(), options, received, started)


def _run_simulator(options: argparse.Namespace) -> int:
    from exporter.simulator import command

    logs.setup()
    return command.run(options)


def _serve(
    settings: "Settings",
    source: "ConfigSource | NoSource",
    options: argparse.Namespace,
    received: signals.Signals,
    started: Callable[[str], None] = lambda _url: None,
) -> int:
    from exporter import daemon
    from exporter.web import WebFlags

    _setup_logs(settings, options)
    listen = tuple(options.listen or [address(LISTEN)])
    web = WebFlags(listen, options.web_config_file, options.telemetry_path, options.external_url)
    return daemon.run(settings, daemon.Origin(source, options.reload_interval), web, received, started)


def _setup_logs(settings: "Settings", options: argparse.Namespace) -> None:
    logs.setup(options.log_level, options.log_format, secrets=settings.secrets())
    logs.log_uncaught()
