"""README.md, the overview of the metrics and the command line name exactly what exists."""

import argparse
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import yaml

from exporter import cli, flags
from exporter.config.load import load
from exporter.model import Group, Target
from exporter.serving.families import FAMILIES
from exporter.serving.instruments import Instruments

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
OVERVIEW = (ROOT / "docs/metrics-overview.md").read_text()
COMMAND_LINE = (ROOT / "docs/command-line.md").read_text()

# In bytes. The README is for the first five minutes; the rest is in docs/.
LONGEST = 9216

SUFFIXES = {"counter": "_total", "info": "_info"}


def blocks(language: str = "", document: str = README) -> list[str]:
    """The code blocks of a language, or those of none."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    return [text for name, text in fenced if name == language]


def rows() -> Iterator[list[str]]:
    """The cells of all tables' rows."""
    for line in OVERVIEW.splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def documented() -> set[str]:
    """Every family in the overview: by name, or by the rules of the paragraph above the first table."""
    names = set()
    for first, *others in rows():
        target = first.strip("`")
        if target in list(Target):
            groups = [group for group in Group if group is not Group.ALL and not Target(target).by_day]
            for beginning, end in re.findall(r"(smartstream_\w+?)((?:_seconds)?(?:_total)?)\b", " ".join(others)):
                for scope in ("smartstream_", "smartstream_merchant_"):
                    of_scope = beginning.replace("smartstream_", scope)
                    names |= {f"{of_scope}{end}", *(f"{of_scope}_by_{group}{end}" for group in groups)}
        elif target.startswith("smartstream_"):
            names.add(target)
    return names


def test_it_is_short() -> None:
    """The README is short enough to be read completely."""
    assert len(README.encode()) <= LONGEST


def test_the_metrics_tables_are_complete() -> None:
    """They name exactly the families of the code."""
    own = [family for family in Instruments().registry.collect() if family.name.startswith("smartstream_")]
    code = {family.name for family in FAMILIES} | {f"{each.name}{SUFFIXES.get(each.type, '')}" for each in own}
    assert documented() - code == set()
    assert code - documented() == set()


def test_the_labels_in_the_tables_are_those_of_the_code() -> None:
    """Each family whose labels a table lists has exactly these, in this order."""
    labels = {family.name: list(family.labels) for family in FAMILIES}
    listed = {row[0].strip("`"): re.findall(r"`(\w+)`", row[1]) for row in rows() if row[0].strip("`") in labels}
    assert len(listed) >= 10
    assert listed == {name: labels[name] for name in listed}


def test_the_flags_are_those_of_the_program() -> None:
    """The overview of the command line has every command and every flag of the daemon, and no other."""
    overview = next(block for block in blocks(document=COMMAND_LINE) if block.startswith("smartstream-exporter "))
    parser = cli.build_parser()
    names = {flag for action in parser._actions for flag in action.option_strings} - {"-h", "--help", "--version"}
    assert set(re.findall(r"--[a-z]+\.[a-z.-]+", overview)) == names
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    assert set(re.findall(r"^smartstream-exporter ([a-z-]+)", overview, re.MULTILINE)) - {"run"} == set(
        commands.choices
    )


def test_the_make_targets_exist() -> None:
    """Each target that the README names is one of the Makefile's."""
    makefile = (ROOT / "Makefile").read_text()
    (listed,) = re.findall(r"`make help` lists the targets: (.*?)\. ", README, re.DOTALL)
    named = set(re.findall(r"\bmake ([a-z]+)\b", " ".join(re.findall(r"`[^`]*`|^make .*", README, re.MULTILINE))))
    named |= set(re.findall(r"`([a-z]+)[^`]*`", listed))
    assert {"run", "test", "help", "chaos"} <= named
    assert {name for name in named if not re.search(rf"^{name}:", makefile, re.MULTILINE)} == set()


def test_the_configuration_is_valid(tmp_path: Path) -> None:
    """The snippet is a complete configuration, once its secret files exist."""
    (snippet,) = (block for block in blocks("yaml") if block.startswith("merchants:"))
    for name in re.findall(r"/run/secrets/(\w+)", snippet):
        (tmp_path / name).write_text("s3cret\n")
    config = tmp_path / "config.yaml"
    config.write_text(snippet.replace("/run/secrets/", f"{tmp_path}/"))
    assert load(config, {}).merchants[0].media[0].labels == {"channel": "news"}


def test_prometheus_accepts_its_configuration(promtool_bin: Path, tmp_path: Path) -> None:
    """`promtool check config` accepts the snippet for Prometheus, and it names the default port."""
    (snippet,) = (block for block in blocks("yaml") if block.startswith("scrape_configs:"))
    config = tmp_path / "prometheus.yml"
    config.write_text(snippet)
    checked = subprocess.run([promtool_bin, "check", "config", config], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert yaml.safe_load(snippet)["scrape_configs"][0]["static_configs"] == [{"targets": [f"localhost{flags.LISTEN}"]}]
