"""The parser of the program and of each command: help with examples, and wrong usage as one line."""

import argparse
import difflib
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from exporter.commandline.usage import Usage

# Adds the flags of a command to its parser.
AddFlags = Callable[[argparse.ArgumentParser], None]


class CommandParser(argparse.ArgumentParser):
    """The parser of the program, or of a command.

    A command gets its own flags only when it is chosen, so the module that knows them is not imported for others.
    """

    def __init__(self, prog: str, content: Usage, add_flags: AddFlags | None = None, **options: Any) -> None:
        super().__init__(
            prog=prog,
            description=content.text,
            epilog=content.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **options,
        )
        self._add_flags = add_flags
        self._commands: argparse._SubParsersAction[CommandParser] | None = None

    def add_command(self, name: str, content: Usage, add_flags: AddFlags) -> "CommandParser":
        """Add a command, and return its parser."""
        if self._commands is None:
            self._commands = self.add_subparsers(
                title="commands", metavar="COMMAND", parser_class=type(self), prog=self.prog
            )
        command = self._commands.add_parser(name, help=content.summary, content=content, add_flags=add_flags)
        command.set_defaults(parser=command)
        return command

    @property
    def actions(self) -> list[argparse.Action]:
        """The flags and arguments."""
        return list(self._actions)

    def filled_commands(self) -> list["CommandParser"]:
        """The parsers of all commands, each with its flags."""
        commands = list(self._commands.choices.values()) if self._commands else []
        for command in commands:
            command.fill()
        return commands

    def fill(self) -> None:
        """Add the command's own flags, once."""
        add_flags, self._add_flags = self._add_flags, None
        if add_flags is not None:
            add_flags(self)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, with the command's own flags."""
        self.fill()
        return super().parse_known_args(args, namespace)

    def unrecognized(self, arguments: Iterable[str]) -> NoReturn:
        """End the process: these arguments mean nothing."""
        arguments = list(arguments)
        name = arguments[0].partition("=")[0]
        known = [flag for action in self.actions for flag in action.option_strings]
        self.error(f"unrecognized arguments: {' '.join(arguments)}{_meant(name, known)}")

    def error(self, message: str) -> NoReturn:
        """End the process with 2 and one line; the usage would hide it among all flags."""
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # argparse words this differently from version to version, and suggests nothing before Python 3.14.
        if action.choices is not None and value not in action.choices:
            choices = list(action.choices)
            message = f"invalid choice: {value!r} (choose from {', '.join(choices)}){_meant(str(value), choices)}"
            raise argparse.ArgumentError(action, message)


def _meant(written: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(written, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
