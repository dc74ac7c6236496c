"""The commands of docs/deploying.md: what can run here runs, the rest is held to the programs' own help."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from exporter import cli
from exporter.config.load import load
from exporter.config.settings import Settings
from exporter.counting.ledger import Ledger
from exporter.storage.state import open_state
from tests.support.fakes import FakeClock
from tests.support.manifests import KUSTOMIZE, ROOT

DOCUMENT = (ROOT / "docs/deploying.md").read_text("utf-8")
MERCHANT = "nttsmc"

# Programs whose help this machine can show.
HELPFUL = {"kubectl", "helm"}

# Programs of the system, whose commands are only parsed.
OTHERS = {"python3", "pip", "install", "systemctl", "journalctl", "docker", "cd", "curl", "rm", "cp", "sh"}


def blocks(language: str) -> list[str]:
    """The code blocks of a language, also those in lists."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^\1```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, name, text in found if name == language]


def commands() -> Iterator[list[str]]:
    """The words of each command; also of those that kubectl starts in a pod."""
    for line in "".join(blocks("sh")).splitlines():
        words = [word for word in shlex.split(line.partition(" > ")[0]) if not word.startswith("<")]
        yield words
        if "--" in words:
            yield words[words.index("--") + 1 :]


COMMANDS = list(commands())


def of(*programs: str) -> list[Any]:
    """The commands of some programs, as parameters."""
    return [pytest.param(each, id=" ".join(each)) for each in COMMANDS if Path(each[0]).name in programs]


def test_every_command_is_of_a_known_program() -> None:
    """Each block is valid shell, and no command escapes the tests of this module."""
    for block in blocks("sh"):
        subprocess.run(["bash", "-n", "-c", block], check=True)
    programs = {Path(words[0]).name for words in COMMANDS}
    assert programs - HELPFUL - OTHERS == {"smartstream-exporter", "cat"}


@pytest.mark.parametrize("words", of("smartstream-exporter"))
def test_the_command_line_accepts_its_commands(words: Sequence[str]) -> None:
    """Each command of the exporter is one that it has, with flags that it has."""
    cli.build_parser().parse_args(words[1:])


@pytest.mark.parametrize("words", of(*HELPFUL))
def test_kubectl_and_helm_have_the_commands(words: Sequence[str], request: pytest.FixtureRequest) -> None:
    """The subcommand exists, and its help has each flag."""
    program: Path = request.getfixturevalue(f"{words[0]}_bin")
    words = words[: words.index("--")] if "--" in words else words
    verbs = [word for word in words[1:] if re.fullmatch("[a-z][a-z-]*", word)]
    # `create secret generic` and `rollout status` are two or three words, `apply` is one.
    depth = {"create": 3 if "secret" in verbs else 2, "rollout": 2}.get(verbs[0], 1)
    shown = subprocess.run([program, *verbs[:depth], "--help"], capture_output=True, text=True, check=True).stdout
    assert "Usage:" in shown
    if words[0] == "kubectl":
        shown += subprocess.run([program, "options"], capture_output=True, text=True, check=True).stdout
    flags = [word.partition("=")[0] for word in words if word.startswith("--")]
    assert [flag for flag in flags if not re.search(rf"(?<![\w-]){flag}\b", shown)] == []


def test_files_exist() -> None:
    """Each file and folder of the repository that a command names exists."""
    words = [word.rpartition("=")[2] for words in COMMANDS for word in words]
    named = {
        word for word in words if word.startswith("deploy/") or word in {"requirements.lock", "config.example.yaml"}
    }
    made = {"deploy/compose/config/config.yaml", "deploy/compose/secrets"}
    assert made < named
    assert {name for name in named - made if not (ROOT / name).exists()} == set()


@pytest.mark.parametrize(
    "words", [each for each in of("kubectl") if any("--kustomize" in word for word in each.values[0])]
)
def test_kustomize_builds_what_is_applied(words: Sequence[str], kubectl_bin: Path) -> None:
    """The folder that a command applies can be built."""
    [folder] = (word.partition("=")[2] for word in words if word.startswith("--kustomize"))
    assert (ROOT / folder).is_relative_to(KUSTOMIZE)
    subprocess.run([kubectl_bin, "kustomize", ROOT / folder], stdout=subprocess.DEVNULL, check=True)


def test_helm_accepts_the_values(helm_bin: Path, tmp_path: Path) -> None:
    """The command for `helm lint` succeeds with the values of the document."""
    [values] = (block for block in blocks("yaml") if "serviceMonitor" in block)
    path = tmp_path / "my-values.yaml"
    path.write_text(values)
    [lint] = (words for words in COMMANDS if words[:2] == ["helm", "lint"])
    arguments = [word.replace("my-values.yaml", str(path)) for word in lint[1:]]
    subprocess.run([helm_bin, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def test_the_configuration_for_systemd_names_the_credentials(tmp_path: Path) -> None:
    """It is valid, and its secrets are the credentials that the unit loads."""
    [config] = (block for block in blocks("yaml") if block.startswith("merchants:"))
    unit = (ROOT / "deploy/systemd/smartstream-exporter.service").read_text()
    credentials = set(re.findall(r"^LoadCredential=(\w+):", unit, re.MULTILINE))
    folder = "/run/credentials/smartstream-exporter.service"
    assert set(re.findall(rf"{folder}/(\w+)", config)) == credentials
    for name in credentials:
        (tmp_path / name).write_text("s3cret\n")
    path = tmp_path / "config.yaml"
    path.write_text(config.replace(folder, str(tmp_path)))
    assert load(path, {}).merchants[0].id == MERCHANT


def state_file(path: Path, merchant_id: str) -> None:
    """A state file with a merchant that has been counted."""
    clock = FakeClock()
    account = {"id": merchant_id, "api_key": "k", "mail_address": "a@example.com", "password": "p"}
    settings = Settings.model_validate({"merchants": [account]})
    state = open_state(path, clock.now)
    Ledger(state, settings, on_revision=lambda age: None).configure(settings, clock.now())
    state.close()


def merchants(path: Path) -> set[str]:
    """The merchants in a state file."""
    state = open_state(path, FakeClock().now)
    with state.read() as db:
        found = {str(row[0]) for row in db.execute("SELECT DISTINCT merchant_id FROM streams").fetchall()}
    state.close()
    return found


def ran(folder: Path, text: str) -> None:
    """Run the block of the document that contains a text, in a folder."""
    [block] = (block for block in blocks("sh") if text in block)
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    subprocess.run(["bash", "-e", "-c", block], cwd=folder, env={"PATH": path}, check=True)


def test_a_backup_can_be_restored(tmp_path: Path) -> None:
    """The commands for backup and restore, one after the other, bring back what was in the state file."""
    state_file(tmp_path / "state.db", MERCHANT)
    ran(tmp_path, "backup --storage.path=state.db")
    (tmp_path / "state.db").write_bytes(b"lost")
    ran(tmp_path, "cp backup.db state.db")
    assert merchants(tmp_path / "state.db") == {MERCHANT}


def test_a_merchant_moves_to_a_new_shard(tmp_path: Path) -> None:
    """The command moves the merchant into the state file of another shard, which need not exist before."""
    state_file(tmp_path / "state-0.db", MERCHANT)
    ran(tmp_path, "--from=state-0.db")
    assert merchants(tmp_path / "state-1.db") == {MERCHANT}
    assert merchants(tmp_path / "state-0.db") == set()


@pytest.mark.parametrize("merchant_id", [MERCHANT, "merchant-13", "sports"])
def test_the_shard_of_a_merchant(merchant_id: str) -> None:
    """The command shows the shard in which the exporter has the merchant."""
    [words] = (words for words in COMMANDS if "zlib" in " ".join(words))
    shown = subprocess.run(
        [sys.executable, *words[1:-1], merchant_id], capture_output=True, text=True, check=True
    ).stdout
    account = {"id": merchant_id, "api_key": "k", "mail_address": "a@example.com", "password": "p"}
    settings = Settings.model_validate({"merchants": [account]})
    assert settings.shard(int(shown), 3).merchants == settings.merchants
