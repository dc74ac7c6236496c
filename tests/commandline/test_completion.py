"""Shell completion: what a real bash completes."""

import subprocess
import sys
from pathlib import Path

import pytest

from exporter.cli import build_parser, main
from exporter.commandline.completion import script
from exporter.commandline.usage import COMMANDS
from exporter.simulator.faults import Faults

# Sources the script, sets what bash sets when Tab is pressed after the last word, and prints the suggestions.
COMPLETE = """
source "$1"
shift
function=$(complete -p smartstream-exporter | sed 's/.* -F \\([^ ]*\\) .*/\\1/')
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
"$function"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script that the installed program prints, and two files beside it."""
    folder = tmp_path_factory.mktemp("completion")
    program = Path(sys.executable).with_name("smartstream-exporter")
    run = subprocess.run([program, "completion", "bash"], capture_output=True, text=True, check=True)
    assert run.stderr == ""
    (folder / "completion.bash").write_text(run.stdout)
    (folder / "plays.csv").touch()
    (folder / "plain config.yaml").touch()
    return folder


def completed(folder: Path, *words: str) -> set[str]:
    """What bash suggests for the last word of a command line, which it has split at spaces and `=`."""
    run = subprocess.run(
        ["bash", "--norc", "-c", COMPLETE, "bash", "completion.bash", "smartstream-exporter", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(run.stdout.split("\n")) - {""}


@pytest.mark.parametrize(
    ("words", "suggestions"),
    [
        ([""], set(COMMANDS)),
        (["ch"], {"check-config"}),
        (["--log"], {"--log.level", "--log.format"}),
        (["--log.level", "w"], {"warn"}),
        (["--log.level", "="], {"debug", "info", "warn", "error"}),
        (["--log.level", "=", "d"], {"debug"}),
        (["--log.level", "=", "debug", "pl"], {"plan"}),
        (["replay", "--e"], {"--evaluate-from"}),
        (["replay", "--format", "=", "j"], {"json"}),
        (["replay", "--csv", "pl"], {"plays.csv", "plain config.yaml"}),
        (["replay", "--csv", "=", "play"], {"plays.csv"}),
        (["--config.file", "=", "plai"], {"plain config.yaml"}),
        (["check-config", "plai"], {"plain config.yaml"}),
        (["completion", ""], {"bash", "zsh", "fish", "tcsh"}),
        (["plan", "--x"], set()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bash_completes(installed: Path, words: list[str], suggestions: set[str]) -> None:
    """Commands, flags of the program and of a command, values and files, after a space and after `=`."""
    assert completed(installed, *words) == suggestions


@pytest.mark.parametrize("command", COMMANDS)
def test_bash_knows_each_flag_of_each_command(installed: Path, command: str) -> None:
    """Also those that a command adds only when it is chosen."""
    (parser,) = (each for each in build_parser().filled_commands() if each.prog.endswith(f" {command}"))
    flags = {flag for action in parser.actions for flag in action.option_strings}
    assert completed(installed, command, "-") == flags
    if command == "simulate":
        assert {f"--{name.replace('_', '-')}" for name in Faults.model_fields} <= flags


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh"])
def test_each_shell_has_a_script(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    """It names the program and a flag of a command."""
    assert main(["completion", shell]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "smartstream-exporter" in out
    assert "evaluate-from" in out


def test_no_metavar_is_a_command_of_zsh() -> None:
    """Zsh calls what follows the second colon of a flag; only its own functions and lists may be there."""
    lines = [line.strip() for line in script("zsh", build_parser()).splitlines()]
    specs = [line for line in lines if line.startswith('"--') and not line.endswith(']"')]
    assert len(specs) >= 20
    for spec in specs:
        _message, action = spec.removesuffix('"').replace("\\:", "").partition("]:")[2].split(":")
        assert action in {"", "_files"} or action.startswith("("), spec
