"""Generates docs/commands.md: the help of the program and of each command."""

import argparse

from exporter.cli import build_parser
from exporter.commandline.parser import CommandParser
from exporter.commandline.usage import COMMANDS, NAME, PROGRAM, Usage
from reference.markdown import MADE, code, table

_INTRODUCTION = """# Commands and flags

What `smartstream-exporter --help` and `smartstream-exporter COMMAND --help` say. [command-line.md](command-line.md) has
what is common to all commands.
"""


def document() -> str:
    """The whole document."""
    parser = build_parser()
    parts = [MADE + _INTRODUCTION, _part(NAME, PROGRAM, parser)]
    parts += [
        _part(name, content, command)
        for (name, content), command in zip(COMMANDS.items(), parser.filled_commands(), strict=True)
    ]
    return "\n".join(parts)


def _part(name: str, content: Usage, parser: CommandParser) -> str:
    examples = "\n".join(line.strip() for line in content.epilog.splitlines()[1:])
    flags = table(("flag", "meaning"), [row for action in parser.actions if (row := _row(action))])
    return f"## {name}\n\n{content.text}\n\n```\n{examples}\n```\n\n{flags}"


def _row(action: argparse.Action) -> tuple[str, str] | None:
    """A flag, or an argument without a flag; None for what is described elsewhere."""
    if isinstance(action, argparse._HelpAction | argparse._VersionAction | argparse._SubParsersAction):  # noqa: SLF001 - the same for all, or a table of its own
        return None
    value = f"={action.metavar or '|'.join(map(str, action.choices or ()))}" if action.nargs != 0 else ""
    name = f"{action.option_strings[0]}{value}" if action.option_strings else str(action.metavar)
    return code(name), (action.help or "") % vars(action)
