"""The help of the program and its commands, and wrong usage."""

import shlex

import pytest

from exporter.cli import build_parser, main
from exporter.commandline.usage import COMMANDS, NAME, PROGRAM

LEVELS = "debug, info, warn, error"
HELPS = {"": PROGRAM, **COMMANDS}


LEVEL_MEANT = (
    "argument --log.level: invalid choice: 'warning' (choose from debug, info, warn, error); did you mean warn?"
)
EXAMPLES = [(command, example) for command, usage in HELPS.items() for example in usage.examples]


@pytest.mark.parametrize("command", HELPS)
def test_each_help_has_a_description_exit_codes_and_an_example(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """They are printed as they are written, in lines that fit a terminal of 80 columns."""
    with pytest.raises(SystemExit):
        main([command, "--help"] if command else ["--help"])
    text = capsys.readouterr().out
    usage = HELPS[command]
    first, _, rest = usage.description.partition("\n\n")
    assert (first.count("."), bool(rest)) == (1, True), "one sentence for the lists of shells, then the rest"
    assert f"\n{usage.description}\n\nExit codes: {usage.exit_codes}\n" in text
    assert "\nexamples:\n" in text
    for example in usage.examples:
        assert f"\n  {NAME} {example}\n" in text
    assert max(map(len, usage.text.splitlines())) <= 80


@pytest.mark.parametrize(("command", "example"), EXAMPLES)
def test_each_example_can_be_parsed(command: str, example: str) -> None:
    """The parser accepts it, and takes it for the command that it explains."""
    options = build_parser().parse_args(shlex.split(example))
    if command:
        assert options.parser.prog == f"{NAME} {command}"


@pytest.mark.parametrize(
    ("arguments", "program", "problem"),
    [
        (["--conifg.file=x"], NAME, "unrecognized arguments: --conifg.file=x; did you mean --config.file?"),
        (
            ["replay", "--csv=a", "--polt=b.svg"],
            f"{NAME} replay",
            "unrecognized arguments: --polt=b.svg; did you mean --plot?",
        ),
        (
            ["--log.level=warning"],
            NAME,
            f"argument --log.level: invalid choice: 'warning' (choose from {LEVELS}); did you mean warn?",
        ),
        (["plan", "extra"], f"{NAME} plan", "unrecognized arguments: extra"),
        (["completion"], f"{NAME} completion", "the following arguments are required: SHELL"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], program: str, problem: str
) -> None:
    """The line names what is wrong and the help of the command, and suggests what is spelled alike."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", f"{program}: error: {problem}; see {program} --help\n")


def test_a_command_that_is_misspelled_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    """All commands are listed, too."""
    with pytest.raises(SystemExit):
        main(["dmeo"])
    err = capsys.readouterr().err
    assert f"(choose from {', '.join(COMMANDS)}); did you mean demo?" in err
