"""`python -m manifests`: generate the files in deploy/ that repeat others.

These are the alert rules as a PrometheusRule and as a file of the Helm chart, and the chart's README with the table of
its values, whose descriptions are the comments in values.yaml.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CHART = Path("deploy/helm/smartstream-exporter")
RULES = "prometheus/rules/smartstream.yml"

# How many columns a level of values.yaml is indented.
INDENT = 2

README = """\
# Helm chart of smartstream-exporter

A StatefulSet with one pod and one volume for each shard, a Service, a NetworkPolicy, and for the Prometheus Operator a
ServiceMonitor and a PrometheusRule. [docs/deploying.md](../../../docs/deploying.md) describes how to install, upgrade
and back up.

`values.schema.json` validates the values: Helm refuses an unknown one.

## Values

| value | default | description |
|---|---|---|
"""

RULE = """\
# Generated from {rules}: make manifests
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: smartstream-exporter
spec:
"""


class _Long(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and repeats what is used twice."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # the signature is PyYAML's
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Long.add_representer(str, _text)


def prometheus_rule() -> str:
    """The alert rules as an object of the Prometheus Operator."""
    rules = yaml.dump(yaml.safe_load((ROOT / RULES).read_text("utf-8")), Dumper=_Long, sort_keys=False, width=10**6)
    indented = "".join(f"  {line}" if line.strip() else line for line in rules.splitlines(keepends=True))
    return RULE.format(rules=RULES) + indented


def chart_rules() -> str:
    """The alert rules for the chart, which cannot read files outside its folder."""
    return f"# A copy of {RULES}: make manifests\n" + (ROOT / RULES).read_text("utf-8")


def chart_readme() -> str:
    """The README of the chart."""
    text = (ROOT / CHART / "values.yaml").read_text("utf-8")
    lines = []
    for path, description in described(text):
        value: Any = yaml.safe_load(text)
        for key in path:
            value = value[key]
        lines.append(f"| `{'.'.join(path)}` | `{json.dumps(value)}` | {description} |\n")
    return README + "".join(lines)


def described(text: str) -> Iterator[tuple[Sequence[str], str]]:
    """The values that have a comment above them: their keys from the top, and the comment as one line."""
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        if found := re.fullmatch(r" *# (.*)", line):
            comment.append(found[1])
        elif found := re.match(r"( *)(\w+):", line):
            del path[len(found[1]) // INDENT :]
            path.append(found[2])
            if comment:
                yield tuple(path), " ".join(comment)
            comment = []
        else:
            comment = []


WRITTEN: Mapping[str, Callable[[], str]] = {
    "deploy/kubernetes/prometheus-operator/prometheusrule.yaml": prometheus_rule,
    f"{CHART}/files/rules.yml": chart_rules,
    f"{CHART}/README.md": chart_readme,
}


def main(root: Path = ROOT) -> int:
    """Generate all files below a folder.

    Returns:
        The exit code.
    """
    for name, document in WRITTEN.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(document(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
