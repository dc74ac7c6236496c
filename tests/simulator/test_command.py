"""The command line of the simulated API."""

import argparse
import signal
import socket
from pathlib import Path

import pytest
import yaml

from exporter.config.load import load
from exporter.simulator.command import add_arguments, config_for, read_faults, run
from exporter.simulator.faults import Faults
from exporter.simulator.gate import Credentials
from exporter.simulator.series import World
from tests.support.processes import Program, get, python

PROGRAM = """
import argparse, sys
from exporter.httpd.address import Address
from exporter.simulator.command import add_arguments, run
parser = argparse.ArgumentParser(allow_abbrev=False)
add_arguments(parser)
sys.exit(run(parser.parse_args()))
"""


WRITE_ADDRESS = "write HOST:PORT, for example 127.0.0.1:9000 or :10077"


def parsed(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser)
    return parser.parse_args(flags)


def test_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    """Without flags it is a healthy API on loopback in the time of Japan, seed 1, a dozen media, any credentials."""
    flags = parsed()
    assert (flags.api_key, flags.mail_address, flags.password) == ("", "", "")
    assert read_faults(flags) == Faults()
    assert run(parsed("--print-config")) == 0
    expected = config_for(World(seed=1, media=12), "http://127.0.0.1:18080/v1", Credentials())
    assert yaml.safe_load(capsys.readouterr().out) == expected


def test_every_fault_has_a_flag() -> None:
    """Each setting of the control path also has a flag."""
    flags = [
        *("--late-minutes=2", "--late-jitter=1", "--revise-up=0.1", "--revise-down=0.2", "--revise-minutes=3"),
        *("--stalled-since=5", "--gone=a", "--gone=b", "--drop=0.5", "--drop=c=0", "--no-omit-zero"),
        *("--form=braced", "--values=pairs", "--strings", "--nulls", "--total"),
        *("--decimals", "--bad-rate=0.1"),
        *("--error-rate=0.1", "--error-status=503", "--hang-rate=0.1", "--hang-seconds=9", "--cut-rate=0.1"),
        *("--malformed-rate=0.1", "--html-rate=0.1", "--text-rate=0.1", "--token-life=60", "--token-refused"),
        *("--token-refusal-rate=0.1", "--expiry-field=expired_at", "--rate-limit=9", "--rate-window=fixed"),
        *("--no-retry-after", "--max-range=60"),
    ]
    faults = read_faults(parsed(*flags))
    same = [name for name in Faults.model_fields if getattr(faults, name) == getattr(Faults(), name)]
    assert same == []
    assert (faults.gone, faults.drop) == (("a", "b"), {"": 0.5, "c": 0.0})


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--seed=one", "--seed: 'one' is not a whole number from 0 to 9223372036854775808"),
        ("--media=0", "--media: '0' is not a whole number from 1 to 10000"),
        ("--timezone=Tokyo", "--timezone: unknown time zone 'Tokyo'"),
        ("--timezone=../etc", "--timezone: unknown time zone '../etc'"),
        (
            "--listen-address=18080",
            "--listen-address: '18080' is not an address; " + WRITE_ADDRESS,
        ),
        (
            "--listen-address=:99999",
            "--listen-address: ':99999' is not an address; " + WRITE_ADDRESS,
        ),
        ("--late-minutes=-1", "--late-minutes: input should be greater than or equal to 0"),
        ("--form=csv", "--form: input should be 'array', 'object' or 'braced'"),
        ("--drop=a=2", "--drop.a: input should be less than or equal to 1"),
    ],
)
def test_bad_flags(flag: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A bad value is one line that names the flag, and exit code 2."""
    assert run(parsed(flag)) == 2
    assert capsys.readouterr() == ("", f"smartstream-exporter simulate: {message}\n")


def test_port_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    """A port in use is one line that names it, and exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert run(parsed(f"--listen-address={address}")) == 1
    expected = (
        f"smartstream-exporter simulate: --listen-address: cannot listen on {address}: Address already in use; "
        "another process listens there: stop it, or choose another port\n"
    )
    assert capsys.readouterr() == ("", expected)


def test_invalid_host(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An invalid host, or one without an address, is one line and exit code 1."""
    assert run(parsed("--listen-address=a..b:1")) == 1
    error = capsys.readouterr().err
    assert error.startswith("smartstream-exporter simulate: --listen-address: cannot listen on a..b:1: ")
    assert error.count("\n") == 1

    def no_address(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_address)
    assert run(parsed("--listen-address=nowhere:1")) == 1
    assert capsys.readouterr().err == (
        "smartstream-exporter simulate: --listen-address: cannot listen on nowhere:1: Name or service not known; "
        "use an address of this machine, or :PORT for all of them\n"
    )


@pytest.mark.parametrize(
    ("address", "url"),
    [
        (":1234", "http://127.0.0.1:1234/v1"),
        ("[::1]:1234", "http://[::1]:1234/v1"),
        ("localhost:1", "http://localhost:1/v1"),
    ],
)
def test_print_config(address: str, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The printed configuration has the URL, the credentials and all media of the demo merchant."""
    flags = [f"--listen-address={address}", "--media=3", "--timezone=UTC", "--api-key=the-key", "--print-config"]
    assert run(parsed(*flags)) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["api"] == {"url": url, "timezone": "UTC"}
    (merchant,) = config["merchants"]
    assert (merchant["id"], merchant["api_key"]) == ("demo", "the-key")
    assert [media["id"] for media in merchant["media"]] == list(World(media=3).catalog("demo"))


@pytest.mark.parametrize(
    "text", ["0899", "1e5", "0o17", "1_000", "12:30", ".inf", "0x1f", "yes", "null", "~", "y", "2026-11-28", "#a"]
)
def test_a_printed_configuration_is_accepted(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Texts that another YAML version reads as something else are quoted, so that `check-config` accepts them."""
    assert run(parsed(f"--password={text}", f"--api-key={text}", "--media=2", "--print-config")) == 0
    path = tmp_path / "config.yaml"
    path.write_text(capsys.readouterr().out, encoding="utf-8")
    (merchant,) = load(path, {}).merchants
    assert merchant.password.get_secret_value() == text
    assert merchant.api_key.get_secret_value() == text


def test_the_media_of_the_configuration_have_names() -> None:
    """In the configuration, each media has an id and a name."""
    world = World(media=2)
    (merchant,) = config_for(world, "http://x/v1", Credentials())["merchants"]
    expected = [{"id": media.id, "name": media.name} for media in world.catalog("demo").values()]
    assert merchant["media"] == expected


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_serves_until_a_signal(end: signal.Signals, tmp_path: Path) -> None:
    """The server prints its address, responds, and ends with exit code 0 on SIGTERM and SIGINT."""
    with Program(python("-c", PROGRAM, "--listen-address=127.0.0.1:0"), tmp_path) as program:
        url = program.line(r"listens on (\S+)/v1$")[1]
        assert len(get(f"{url}/control/catalog").json()["media"]) == 12
        program.send(end)
        assert program.ended() == 0
    assert "--print-config > config.yaml" in program.output
    assert "Traceback" not in program.output
