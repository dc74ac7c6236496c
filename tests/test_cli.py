"""The command line: the output and the exit code of each command."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from exporter import __version__
from exporter.__main__ import _COMMANDS
from exporter.cli import build_parser, main
from exporter.httpd.address import Address
from tests.support.processes import Program, configuration, get, python

SCRIPT = Path(sys.executable).with_name("smartstream-exporter")

GOOD = configuration("http://127.0.0.1:9/v1")

BAD = """
api:
  url: not-a-url
  tiemout: 5s
merchants:
  - id: m
    api_key_env: SMARTSTREAM_NOT_SET
    mail_address: ops@example.com
    password: pa55-for-tests
    collect:
      - target: key_delivery_count
        groups: [country]
"""

# The places of its errors.
BAD_PLACES = ["api.url", "api.tiemout", "merchants[0].api_key_env", "merchants[0].collect[0].groups[0]"]


@pytest.fixture
def bad_config(tmp_path: Path) -> Path:
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    return path


def usage_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The last line that wrong usage prints; the process ends with 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()[-1]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The output of a flag that ends the process with 0."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.mark.parametrize("program", [[str(SCRIPT)], python("-m", "exporter")], ids=["script", "module"])
def test_both_ways_to_start_are_the_same_program(program: list[str]) -> None:
    """The installed script and `python -m exporter` print the same version."""
    run = subprocess.run([*program, "--version"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, f"smartstream-exporter {__version__}\n", "")


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` names the commands and the flags, each with an explanation."""
    text = printed(capsys, "--help")
    commands = re.findall(r"^    ([a-z-]+) +\S", text.partition("commands:")[2], re.MULTILINE)
    assert {"backfill", "check-config", "completion", "demo", "plan", "replay", "simulate"} <= set(commands)
    flags = re.findall(r"^  (--[a-z.-]+)", text, re.MULTILINE)
    expected = {"--config.file", "--storage.path", "--log.level", "--log.format", "--version"}
    expected |= {"--web.config.file", "--web.listen-address", "--web.telemetry-path", "--web.external-url"}
    assert expected <= set(flags)
    assert "%(" not in text


@pytest.mark.parametrize("command", ["backfill", "check-config", "completion", "demo", "plan", "replay", "simulate"])
def test_each_command_has_a_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    """`COMMAND --help` shows the usage of the command."""
    assert printed(capsys, command, "--help").startswith(f"usage: smartstream-exporter {command} ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--conifg.file=x"], "unrecognized arguments: --conifg.file=x"),
        (["--config=x"], "unrecognized arguments: --config=x"),
        (["dmeo"], "argument COMMAND: invalid choice: 'dmeo' ("),
        (["--log.level=loud"], "argument --log.level: invalid choice: 'loud' ("),
        (
            ["--log.level=warning"],
            "argument --log.level: invalid choice: 'warning' (choose from debug, info, warn, error)",
        ),
        (["--log.format=xml"], "argument --log.format: invalid choice: 'xml' ("),
        (["--web.listen-address=10077"], "argument --web.listen-address: '10077' is not an address; write HOST:PORT"),
        (["demo", "--web.listen-address=:70000"], "argument --web.listen-address: ':70000' is not an address; "),
        (
            ["--web.listen-address=:9", "--web.listen-address=:9"],
            "--web.listen-address: give each address only once",
        ),
        *(
            ([f"--web.telemetry-path={path}"], f"argument --web.telemetry-path: '{path}' is not a path; write one such")
            for path in ("metrics", "", "/metrics/", "//", "/a//b", "/a b", "/a?b", "/a/../b", "/.", "/ä", "/%41")
        ),
        *(
            ([f"--web.telemetry-path={path}"], f"argument --web.telemetry-path: '{path}' is the path of something else")
            for path in ("/", "/config", "/docs", "/media", "/api/v1/status", "/api/x", "/-/healthy", "/-/reload")
        ),
        (["--web.external-url=example.com"], "argument --web.external-url: write a URL without user, password and "),
        (["--web.external-url=https://u:pa55@example.com"], "argument --web.external-url: write a URL without user, "),
        (["--web.external-url=https://example.com/?a=b"], "argument --web.external-url: write a URL without user, "),
        (["check-config", "a", "b"], "unrecognized arguments: b"),
    ],
)
def test_wrong_usage_ends_with_2(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    """An invalid argument is named; a flag is never completed from its beginning."""
    assert f"error: {message}" in usage_error(capsys, *arguments)


@pytest.mark.parametrize(
    ("command", "flag", "name", "value"),
    [
        ("demo", "--web.listen-address=127.0.0.1:9", "listen", [Address("127.0.0.1", 9)]),
        ("demo", "--web.config.file=web.yml", "web_config_file", Path("web.yml")),
        ("demo", "--web.config.file=", "web_config_file", None),
        ("demo", "--web.telemetry-path=/a/b", "telemetry_path", "/a/b"),
        ("demo", "--web.external-url=http://[::1]:9/a/", "external_url", "http://[::1]:9/a"),
        ("demo", "--web.external-url=", "external_url", ""),
        ("demo", "--log.level=debug", "log_level", "debug"),
        ("demo", "--log.level=warn", "log_level", "warn"),
        ("demo", "--log.format=json", "log_format", "json"),
        ("plan", "--config.file=other.yaml", "config_file", Path("other.yaml")),
        ("plan", "--storage.path=other.db", "storage_path", Path("other.db")),
    ],
)
def test_a_flag_counts_before_and_after_a_command(command: str, flag: str, name: str, value: object) -> None:
    """The value of a flag before the command is not replaced by the command's default; without a flag, the default is
    used.
    """
    parser = build_parser()
    assert getattr(parser.parse_args([flag, command]), name) == value
    assert getattr(parser.parse_args([command, flag]), name) == value
    assert getattr(parser.parse_args([command]), name) == getattr(parser.parse_args([]), name)


def test_check_config_says_ok(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A valid configuration is one line with its size, and exit code 0."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    assert main(["check-config", str(path)]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("ok: 1 merchant, 0 media, 1 stream, 45 requests a minute allowed\n", "")


def test_check_config_reads_the_default_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a file, check-config reads config.yaml in the working directory, as the daemon does."""
    monkeypatch.chdir(tmp_path)
    assert main(["check-config"]) == 1
    assert capsys.readouterr().err == "config.yaml: no such file; create it, or name another file\n"
    Path("config.yaml").write_text(yaml.safe_dump(GOOD))
    assert main(["check-config"]) == 0
    assert capsys.readouterr().out.startswith("ok: ")


def test_check_config_lists_every_error(capsys: pytest.CaptureFixture[str], bad_config: Path) -> None:
    """In an invalid configuration, every error is a line that begins with its place, and the exit code is 1."""
    assert main(["check-config", str(bad_config)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.partition(": ")[0] for line in err.splitlines()] == BAD_PLACES


def test_check_config_checks_the_web_configuration_too(
    capsys: pytest.CaptureFixture[str], bad_config: Path, tmp_path: Path
) -> None:
    """With --web.config.file its errors are listed after the others; a valid one leaves one line."""
    web, good = tmp_path / "web.yml", tmp_path / "good.yaml"
    good.write_text(yaml.safe_dump(GOOD))
    web.write_text("basic_auth_users: {a: b}\nrate_limit: {}\n")
    for file, places in ((bad_config, BAD_PLACES), (good, [])):
        assert main(["check-config", str(file), f"--web.config.file={web}"]) == 1
        lines = capsys.readouterr().err.splitlines()
        assert [line.partition(": ")[0] for line in lines] == [*places, "basic_auth_users.a", "rate_limit"]
    web.write_text("")
    assert main(["check-config", str(good), f"--web.config.file={web}"]) == 0
    assert capsys.readouterr().out.startswith("ok: ")


def test_the_daemon_refuses_a_bad_configuration(capsys: pytest.CaptureFixture[str], bad_config: Path) -> None:
    """It prints the same lines as check-config, ends with 1, and creates no state file."""
    state = bad_config.with_name("state.db")
    assert main([f"--config.file={bad_config}", f"--storage.path={state}"]) == 1
    daemon_said = capsys.readouterr()
    main(["check-config", str(bad_config)])
    assert daemon_said == capsys.readouterr()
    assert not state.exists()


def test_commands_that_end_are_known_before_the_imports(capsys: pytest.CaptureFixture[str]) -> None:
    """An early signal ends these commands with 130, and servers with 0: the two lists of commands agree."""
    with pytest.raises(SystemExit):
        main(["--help"])
    commands = re.findall(r"^    ([a-z-]+) {2,}", capsys.readouterr().out, re.MULTILINE)
    assert set(commands) == _COMMANDS | {"demo", "simulate"}


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("HTTP_PROXY", "foo://user:pa55@proxy:3128", "foo:// is not a kind of proxy"),
        ("all_proxy", "http://user:pa#55@proxy:3128", "is not the address of a proxy"),
    ],
)
def test_invalid_variables_are_found_before_the_start(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    variable: str,
    value: str,
    problem: str,
) -> None:
    """A proxy that cannot work is one line that names the variable and no password, and exit code 1, without a state
    file.
    """
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    path = tmp_path / "config.yaml"
    # Connections to loopback use no proxy.
    path.write_text(yaml.safe_dump(configuration("http://api.invalid/v1")))
    state = tmp_path / "state.db"
    for arguments in (["check-config", str(path)], [f"--config.file={path}", f"--storage.path={state}"]):
        assert main(arguments) == 1
        out, err = capsys.readouterr()
        assert out == ""
        (line,) = err.splitlines()
        assert line.startswith(f"{variable}: {problem}")
        assert "55" not in line
    assert not state.exists()


def test_a_missing_configuration_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The line names the missing file."""
    path = tmp_path / "nowhere.yaml"
    assert main([f"--config.file={path}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line


def test_simulate_serves_the_api_until_a_signal(tmp_path: Path) -> None:
    """The simulated API responds at the printed address, and SIGINT ends it with 0."""
    with Program([*python("-m", "exporter"), "simulate", "--listen-address=127.0.0.1:0"], tmp_path) as api:
        url = api.line(r"listens on (http://\S+)/v1")[1]
        assert get(f"{url}/control/faults").json()["late_minutes"] == 1
        assert get(f"{url}/v1/merchants/m/aggregations").status_code == 401
        api.send(signal.SIGINT)
        assert api.ended() == 0


def test_the_configuration_that_simulate_prints_is_valid(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The output of `simulate --print-config` passes `check-config`."""
    assert main(["simulate", "--print-config"]) == 0
    path = tmp_path / "config.yaml"
    path.write_text(capsys.readouterr().out)
    assert main(["check-config", str(path)]) == 0
    assert capsys.readouterr().out.startswith("ok: 1 merchant, 12 media, ")


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--version"], {"pydantic", "requests", "yaml", "exporter.daemon", "exporter.simulator", "exporter.backtest"}),
        (["check-config", "config.yaml"], {"jinja2", "apscheduler", "exporter.daemon", "exporter.simulator"}),
        (["plan", "--config.file=config.yaml"], {"jinja2", "apscheduler", "exporter.daemon", "exporter.simulator"}),
        (["simulate", "--print-config"], {"jinja2", "apscheduler", "requests", "exporter.daemon", "exporter.config"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_imports_only_what_it_needs(tmp_path: Path, arguments: list[str], unwanted: set[str]) -> None:
    """Commands that neither poll nor serve do not wait for the modules that do."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(GOOD))
    program = (
        "import sys\nfrom exporter.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        f"print({unwanted!r} & set(sys.modules), file=sys.stderr)"
    )
    run = subprocess.run(python("-c", program), cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stderr == "set()\n"
