"""The alert rules and the example configurations, checked by promtool and amtool, and as a whole."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from exporter import flags
from exporter.serving.families import FAMILIES
from exporter.serving.instruments import Instruments
from tests.support.examples import example_config

ROOT = Path(__file__).parents[2]
RULES = sorted((ROOT / "prometheus" / "rules").glob("*.yml"))
TESTS = sorted((ROOT / "tests" / "rules").glob("*.yml"))
RUNBOOK = "https://github.com/smartstream-exporter/smartstream-exporter/blob/main/docs/runbook.md"

ALERTS = {
    "SmartstreamPlaysDrop",
    "SmartstreamPlaysDropCritical",
    "SmartstreamMerchantPlaysDrop",
    "SmartstreamMerchantRecovering",
    "SmartstreamDataStale",
    "SmartstreamTimezoneWrong",
    "SmartstreamApiFailing",
    "SmartstreamAuthFailing",
    "SmartstreamRateLimited",
    "SmartstreamBudgetTooSmall",
    "SmartstreamMediaFailing",
    "SmartstreamMediaGone",
    "SmartstreamMediaNotJudged",
    "SmartstreamMinutesLost",
    "SmartstreamReloadFailed",
    "SmartstreamMediaFilesUnreadable",
    "SmartstreamClockWrong",
    "SmartstreamStateNotWritable",
    "SmartstreamPollingStopped",
    "SmartstreamExporterDown",
}


def run(*command: str | Path) -> str:
    """The output of a program, which must succeed."""
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said = checked.stdout + checked.stderr
    assert checked.returncode == 0, said
    return said


def rules() -> Iterator[dict[str, Any]]:
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


def cases() -> Iterator[dict[str, Any]]:
    """The cases of all files of promtool tests."""
    for path in TESTS:
        yield from yaml.safe_load(path.read_text())["tests"]


def anchor(heading: str) -> str:
    """How a link names a heading of one word."""
    return heading.strip().lower()


def test_promtool_finds_no_problem(promtool_bin: Path) -> None:
    """The rules pass all lints."""
    assert "SUCCESS" in run(promtool_bin, "check", "rules", "--lint=all", "--lint-fatal", *RULES)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_rules_fire_only_when_they_should(promtool_bin: Path, path: Path) -> None:
    """Prometheus' own engine evaluates every case of the file; each case's name states its fact."""
    run(promtool_bin, "test", "rules", path)


def test_every_alert_exists() -> None:
    """The rules have the alerts of the documents, and no unused recording rule."""
    assert {rule.get("alert") for rule in rules()} == ALERTS


def test_every_alert_is_tested_both_ways() -> None:
    """For each alert there is an instant at which a test expects it to fire, and one at which it must not."""
    wanted: dict[str, set[bool]] = {}
    for case in cases():
        for test in case.get("alert_rule_test", []):
            wanted.setdefault(test["alertname"], set()).add(bool(test.get("exp_alerts")))
    assert wanted == {alert: {True, False} for alert in ALERTS}


@pytest.mark.parametrize("rule", list(rules()), ids=lambda rule: rule["alert"])
def test_every_alert_has_the_required_texts(rule: dict[str, Any]) -> None:
    """A severity, a summary, a description with the merchant or the instance, links to the exporter's page, to the
    dashboard and to its own section. An exporter that is down has no page, one that never was no instance either.
    """
    assert rule["labels"]["severity"] in {"critical", "warning", "info", "none"}
    annotations = rule["annotations"]
    links = {"exporter_url", "dashboard_url", "runbook_url"}
    down = rule["alert"] == "SmartstreamExporterDown"
    assert set(annotations) == {"summary", "description"} | (links - {"exporter_url"} if down else links)
    assert annotations["runbook_url"] == f"{RUNBOOK}#{anchor(rule['alert'])}"
    texts = annotations["summary"] + annotations["description"]
    never = rule["labels"].get("others") == "none"
    assert never or "$labels.merchant_id" in texts or "$labels.instance" in texts
    # A name must not be a label: after a rename the alert would be another one.
    assert "name" not in rule["labels"]


def test_the_runbook_has_a_section_for_each_alert_and_no_other() -> None:
    """Each section says what the alert means and what to do."""
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", runbook, re.MULTILINE | re.DOTALL))
    assert set(sections) == ALERTS
    for name, text in sections.items():
        assert re.search(r"\*\*Means:\*\*", text), name
        assert re.search(r"\*\*(Check and do|Do):\*\*", text), name
    links = re.findall(r"\]\(#([a-z]+)\)", runbook)
    assert set(links) <= {anchor(name) for name in sections}


def test_rules_use_families_that_exist() -> None:
    """Each family in an expression or a text of an alert, and in the tests of them, is one that /metrics can have."""
    suffixes = {"counter": "_total", "info": "_info"}
    own = [family for family in Instruments().registry.collect() if family.name.startswith("smartstream_")]
    known = {family.name for family in FAMILIES} | {f"{each.name}{suffixes.get(each.type, '')}" for each in own}
    used = {name for path in [*RULES, *TESTS] for name in re.findall(r"\bsmartstream_\w+", path.read_text())}
    assert len(used) >= 15
    assert used - known == set()


def test_labels_in_rules_and_tests_are_those_of_the_families() -> None:
    """No selector names a label that its family does not have: it would select nothing, and never fire."""
    labels = {family.name: {*family.labels, "job", "instance"} for family in FAMILIES}
    labels["smartstream_api_requests_total"] = {"merchant_id", "endpoint", "code", "job", "instance"}
    labels["smartstream_media_files_last_read_successful"] = {"merchant_id", "job", "instance"}
    labels["smartstream_build_info"] = {"version", "python", "job", "instance"}
    labels["smartstream_web_info"] = {"external_url", "job", "instance"}
    labels["smartstream_api_utc_offset_seconds"] = {"timezone", "job", "instance"}
    texts = "\n".join(path.read_text() for path in [*RULES, *TESTS])
    selectors = re.findall(r"\b(smartstream_\w+)\{([^{}]*)\}", texts)
    assert len(selectors) >= 50
    wrong = [
        (name, label)
        for name, inside in selectors
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inside)
        if label not in labels.get(name, {"job", "instance"})
    ]
    assert wrong == []


def test_rules_need_no_job_name() -> None:
    """No rule selects a job: exporters are found by a metric that only they have."""
    assert [rule["alert"] for rule in rules() if re.search(r"\bjob\s*(=|=~|!=|!~)\s*[\"']", str(rule))] == []


def test_configured_limits_are_in_no_rule() -> None:
    """Thresholds of drops and max_staleness are metrics, so a changed configuration needs no changed rule."""
    limited = {"SmartstreamPlaysDrop", "SmartstreamPlaysDropCritical", "SmartstreamMerchantPlaysDrop"}
    limited |= {"SmartstreamBudgetTooSmall"}
    # The 60 makes minutes of seconds.
    numbers = {number for rule in rules() if rule["alert"] in limited for number in re.findall(r"\d+", rule["expr"])}
    assert numbers == {"60"}


def test_the_prometheus_example_is_valid(promtool_bin: Path) -> None:
    """`promtool check config` accepts it with its rules; it scrapes the default port, and often enough."""
    path = ROOT / "prometheus" / "prometheus.yml"
    assert "1 rule files found" in run(promtool_bin, "check", "config", path)
    config = yaml.safe_load(path.read_text())
    (job,) = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"localhost{flags.LISTEN}"]}]
    assert config["global"]["scrape_interval"] == "15s"


def test_the_job_with_tls_in_the_prometheus_example_is_valid(promtool_bin: Path, tmp_path: Path) -> None:
    """Uncommented, with its files beside it, `promtool check config` accepts it."""
    config = example_config()
    assert [job.get("scheme") for job in config["scrape_configs"]] == [None, "https"]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config | {"rule_files": []}))
    (tmp_path / "smartstream-password").write_text("x")
    trustme.CA().cert_pem.write_to_path(tmp_path / "smartstream-ca.pem")
    assert "SUCCESS" in run(promtool_bin, "check", "config", tmp_path / "prometheus.yml")


def test_the_alertmanager_example_is_valid(amtool_bin: Path) -> None:
    """`amtool check-config` accepts it."""
    assert "SUCCESS" in run(amtool_bin, "check-config", ROOT / "prometheus" / "alertmanager.yml")


@pytest.mark.parametrize(
    ("severity", "receiver"),
    [("critical", "pager"), ("warning", "team"), ("info", "team"), ("none", "nobody"), ("", "team")],
)
def test_alerts_are_routed_by_severity(amtool_bin: Path, severity: str, receiver: str) -> None:
    """The pager gets only alerts that need action at night; alerts that only silence others send no notification."""
    path = ROOT / "prometheus" / "alertmanager.yml"
    flags = (f"--config.file={path}", f"--verify.receivers={receiver}")
    run(amtool_bin, "config", "routes", "test", *flags, f"severity={severity}")


def test_alertmanager_names_existing_alerts() -> None:
    """A silenced or silencing alert that no rule has would be a rule that never works."""
    text = (ROOT / "prometheus" / "alertmanager.yml").read_text()
    named = set(re.findall(r"Smartstream\w+", text))
    assert named <= ALERTS
    # Each drop alert of a media is silenced by the merchant's.
    drops = {rule["alert"] for rule in rules() if "smartstream_plays_drop_ratio" in rule["expr"]}
    assert len(drops) == 2
    assert drops <= named
