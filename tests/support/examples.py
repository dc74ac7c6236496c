"""The example configurations, with what is commented out in them."""

import re
from pathlib import Path
from typing import Any

import yaml

PROMETHEUS = Path(__file__).parents[2] / "prometheus" / "prometheus.yml"


def example_config() -> dict[str, Any]:
    """The example configuration of Prometheus, with the jobs that are commented out."""
    head, key, jobs = PROMETHEUS.read_text(encoding="utf-8").partition("scrape_configs:")
    config: dict[str, Any] = yaml.safe_load(head + key + re.sub(r"^  # (- |  )", r"  \1", jobs, flags=re.MULTILINE))
    return config


def example_jobs() -> list[dict[str, Any]]:
    """Its jobs."""
    jobs: list[dict[str, Any]] = example_config()["scrape_configs"]
    return jobs
