"""Shell completion, made from the parser of the command line."""

import shtab

from exporter.commandline.parser import CommandParser
from exporter.commandline.usage import NAME

# bash splits --flag=value at the "=" into three words, where shtab's function expects two.
_BASH_EQUALS = f"""
_smartstream_exporter() {{
  local -a words=()
  local -i cursor=$COMP_CWORD index
  for index in "${{!COMP_WORDS[@]}}"; do
    if [[ ${{COMP_WORDS[index]}} != "=" ]]; then
      words+=("${{COMP_WORDS[index]}}")
    elif ((index == COMP_CWORD)); then
      words+=("")
    elif ((index < COMP_CWORD)); then
      cursor+=-1
    fi
  done
  local -a COMP_WORDS=("${{words[@]}}")
  local COMP_CWORD=$cursor
  _shtab_smartstream_exporter
}}

complete -o bashdefault -F _smartstream_exporter {NAME}
"""


def script(shell: str, parser: CommandParser) -> str:
    """The completion script for a shell, one that shtab knows.

    Args:
        shell: The shell.
        parser: The parser of the program.
    """
    for each in (parser, *parser.filled_commands()):
        for action in each.actions:
            if isinstance(action.metavar, str) and action.metavar.startswith("FILE"):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            if isinstance(action.metavar, str):
                # zsh takes what follows a colon for a command.
                action.metavar = action.metavar.replace(":", " ")
    text = shtab.complete(parser, shell)
    return text + _BASH_EQUALS if shell == "bash" else text + "\n"
