"""What the help says of each command: a summary, a description, exit codes, and examples to copy."""

from dataclasses import dataclass

NAME = "smartstream-exporter"


@dataclass(frozen=True, slots=True)
class Usage:
    """The help of one command, apart from its flags.

    Attributes:
        summary: One line for the list of commands.
        description: What it does, what it reads, sends and writes; in lines that fit a terminal.
        exit_codes: One line.
        examples: Commands to copy, without the program's name.
    """

    summary: str
    description: str
    exit_codes: str
    examples: tuple[str, ...]

    @property
    def text(self) -> str:
        """The description with the exit codes."""
        return f"{self.description}\n\nExit codes: {self.exit_codes}"

    @property
    def epilog(self) -> str:
        """The examples."""
        return "\n".join(["examples:", *(f"  {NAME} {example}".rstrip() for example in self.examples)])


PROGRAM = Usage(
    summary="run the exporter",
    description="""\
Prometheus exporter for the Analytics API of the SmartSTREAM video platform.

Without a command, it polls the API as the configuration says and serves
/metrics and a status page. It reads the configuration and its secrets, sends
GET requests and requests for tokens within the request limit, and keeps its
counts in the state file.""",
    exit_codes="0 after SIGTERM or SIGINT, 1 error at run time, 2 wrong usage.",
    examples=(
        "--config.file=config.yaml",
        "--config.file=/etc/smartstream/config.yaml --storage.path=/data/state.db --log.format=json",
        "demo",
    ),
)

COMMANDS = {
    "check-config": Usage(
        summary="validate a configuration and list every error",
        description="""\
Validate a configuration and list every error, one a line with its place.

It reads the file, the media files, secret files, certificates and environment
variables that the file names, and the proxy variables; without a file, it reads
config.yaml. It sends nothing and writes nothing. With --online it also signs
in, looks up every media, reads its plays of the last hour and checks the time
zone, within the request limit, and prints a table for each merchant.""",
        exit_codes="0 valid, 1 errors or refusals, 2 wrong usage, 130 interrupted.",
        examples=(
            "check-config",
            "check-config config.yaml --web.config.file=web.yml",
            "check-config config.yaml --online",
        ),
    ),
    "plan": Usage(
        summary="estimate requests and staleness for a configuration, without sending requests",
        description="""\
Estimate how fresh the data will be, without sending requests.

It lists the streams of each merchant, the requests a minute that they want and
that the limit allows, and the expected staleness. It reads the configuration,
and the plays of each media from the state file, if there is one. It writes
nothing.""",
        exit_codes="0 done, 1 error, 2 wrong usage.",
        examples=("plan --config.file=config.yaml",),
    ),
    "backfill": Usage(
        summary="export the history of the counters to a file for promtool",
        description="""\
Export the history of the counters to an OpenMetrics file.

`promtool tsdb create-blocks-from openmetrics` turns it into blocks for
Prometheus. The command reads the configuration, requests the history from the
API within the request limit, and notes its requests in the state file. A run
that was interrupted continues when the same command runs again.""",
        exit_codes="0 done, 1 error, 2 wrong usage, 130 interrupted.",
        examples=(
            "backfill --from=2026-04-01 --to=2026-05-01 --output=april.om",
            "backfill --from=2026-04-01 --to=2026-04-08 --output=week.om --label=job=smartstream",
        ),
    ),
    "backup": Usage(
        summary="copy the state file, also while the exporter runs",
        description="""\
Write a consistent copy of the state file.

The exporter can run meanwhile, and is not disturbed. With --storage.path, no
configuration is read. It sends nothing, and never replaces a file.""",
        exit_codes="0 done, 1 error, 2 wrong usage.",
        examples=(
            "backup --output=state-backup.db",
            "backup --storage.path=/data/state.db --output=/backup/state.db",
        ),
    ),
    "move-merchant": Usage(
        summary="move the counters of a merchant to another state file",
        description="""\
Move everything that a state file has of a merchant to another state file:
counters, baselines, incidents, names, request budget.

Stop the exporters of both files first. If it is interrupted, nothing is lost:
run it again. Move the merchant's entry in the configuration, too, before you
start the exporters. It reads no configuration and sends nothing.""",
        exit_codes="0 done, 1 error, 2 wrong usage.",
        examples=("move-merchant nttsmc --from=state-0.db --to=state-1.db",),
    ),
    "replay": Usage(
        summary="backtest the drop alerts on recorded plays",
        description="""\
Backtest the drop alerts on recorded plays.

It reports when each alert would have fired, for how long, and how deep the drop
was. With --csv it reads a file and sends nothing; with --media it requests the
plays from the API within the request limit, and notes its requests in the state
file. It writes the report to standard output, and with --plot a picture.""",
        exit_codes="0 done, 1 error, 2 wrong usage, 130 interrupted.",
        examples=(
            "replay --csv=plays.csv --plot=plays.svg",
            "replay --config.file=config.yaml --media=7f8d4baf20f244fca34acbe3452886ac --days=14",
        ),
    ),
    "demo": Usage(
        summary="run the exporter with a simulated API in the same process",
        description="""\
Run the exporter with a simulated API in the same process.

It stages a drop of the plays; standard output says what there is to see. It
reads no configuration and sends nothing to other machines. Its state file is
temporary.""",
        exit_codes="0 after SIGTERM or SIGINT, 1 error at run time, 2 wrong usage.",
        examples=("demo", "demo --web.listen-address=127.0.0.1:10078"),
    ),
    "simulate": Usage(
        summary="run only the simulated API",
        description="""\
Run a simulated API, with faults on request, to try an exporter against it.

It reads no files and keeps everything in memory. The plays depend only on
--seed and the time. With --print-config it prints a configuration of the
exporter for this API instead.""",
        exit_codes="0 after SIGTERM or SIGINT, 1 the port is in use, 2 wrong usage.",
        examples=(
            "simulate --listen-address=127.0.0.1:18080 --media=100",
            "simulate --print-config",
            "simulate --error-rate=0.1 --late-minutes=5",
        ),
    ),
    "completion": Usage(
        summary="print the shell completion of commands, flags and files",
        description="""\
Print a script that completes commands, flags, their values and file names.

It reads nothing and sends nothing.""",
        exit_codes="0 done, 2 wrong usage.",
        examples=("completion bash", "completion zsh"),
    ),
}
