"""The dashboards: the committed files are those of the code, and every query returns data from a real Prometheus."""

import contextlib
import json
import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from exporter.assembly import Polling
from exporter.config.settings import Settings
from exporter.model import Group, Target
from exporter.serving.families import FAMILIES
from exporter.serving.instruments import Instruments
from exporter.simulator.app import SimulatorApp
from exporter.simulator.faults import Faults, FaultSwitch
from exporter.simulator.series import World
from exporter.simulator.server import SimulatorServer
from exporter.storage.state import open_state
from grafana.every import documents
from tests.support.fakes import FakeClock
from tests.support.processes import MERCHANT, PATIENCE, Daemon, Program, configuration, get, reserved_port, wait_until

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "grafana" / "dashboards"
DASHBOARDS: Mapping[str, Any] = {name: json.loads(document) for name, document in documents().items()}

# Grafana's own variables in queries, with possible values.
BUILT_IN = {"__range": "10m", "__rate_interval": "1m"}

# Everything is collected. Each row exists at the end of its minute, and some rows change later.
FAULTS = Faults(late_minutes=0, omit_zero=False, rate_limit=100_000, token_life=1e6, revise_up=0.5, revise_minutes=1)
GROUPS = [str(group) for group in Group]
COLLECT = [{"target": str(target), "groups": ["all"] if target.by_day else GROUPS} for target in Target]

# Seconds for which the exporter has run when the tests begin.
HISTORY = 3 * 3600.0

COUNTER = "smartstream_merchant_plays_total"

# Alerts with the names in the dashboards, which fire at once.
ALERTS = {
    "SmartstreamPlaysDrop": "max by (merchant_id, media_id) (smartstream_plays_total) >= 0",
    "SmartstreamMerchantPlaysDrop": "max by (merchant_id) (smartstream_merchant_plays_total) >= 0",
}


@dataclass(frozen=True, slots=True)
class Query:
    """A query of a dashboard.

    Attributes:
        place: Its place in the dashboard.
        expression: PromQL with Grafana's variables.
        instant: Whether it is an instant query.
    """

    place: str
    expression: str
    instant: bool


def panels(name: str) -> list[dict[str, Any]]:
    """The panels of a dashboard, without the rows, which have only a title."""
    return [panel for panel in DASHBOARDS[name]["panels"] if panel["type"] != "row"]


def variables(name: str) -> list[dict[str, Any]]:
    """The variables of a dashboard."""
    found: list[dict[str, Any]] = DASHBOARDS[name]["templating"]["list"]
    return found


def queries(name: str) -> Iterator[Query]:
    """The queries of a dashboard's panels, and those of its annotations."""
    for panel in panels(name):
        for target in panel["targets"]:
            place = f"{name}: {panel['title']}: {target['refId']}"
            yield Query(place, target["expr"], target.get("instant", False))
    for annotation in DASHBOARDS[name].get("annotations", {}).get("list", []):
        yield Query(f"{name}: annotation {annotation['name']}", annotation["expr"], instant=False)


def expressions() -> Iterator[tuple[str, str]]:
    """The PromQL of all queries, and of all variables, with their places."""
    for name in DASHBOARDS:
        yield from ((query.place, query.expression) for query in queries(name))
        for variable in variables(name):
            if variable["type"] == "query":
                yield f"{name}: variable {variable['name']}", variable["query"]["query"]


def families_in(expression: str) -> set[str]:
    """The names of families in an expression: in the dashboards' queries, the name before each brace."""
    bare = re.sub(r'"(\\.|[^"\\])*"', '""', expression)
    return set(re.findall(r"\b([a-zA-Z_:][\w:]*)\s*\{", bare)) | set(re.findall(r"label_values\((\w+),", bare))


def known_families() -> set[str]:
    """The names of all samples that Prometheus can have of the exporter, and two of Prometheus' own."""
    names = {family.name for family in FAMILIES} | {"up", "ALERTS"}
    for family in Instruments().registry.collect():
        names |= {family.name + suffix for suffix in ("", "_total", "_info", "_bucket", "_count", "_sum")}
        names |= {sample.name for sample in family.samples}
    return names


def own_families() -> set[str]:
    """The families that are the exporter's own, by the names in the README."""
    own = [family for family in Instruments().registry.collect() if family.name.startswith("smartstream_")]
    suffixes = {"counter": "_total", "info": "_info"}
    return {family.name for family in FAMILIES} | {f"{each.name}{suffixes.get(each.type, '')}" for each in own}


def test_the_committed_dashboards_are_those_of_the_code() -> None:
    """The files are byte for byte what `make dashboards` writes, and there is no other."""
    assert {path.name: path.read_text() for path in FOLDER.iterdir()} == dict(documents())


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_has_only_fields_of_grafanas_types(name: str) -> None:
    """A dashboard that is parsed into Grafana's published types, options of panels included, and written again is
    unchanged: no field is unknown.
    """
    register_default_plugins()
    again = json.dumps(Dashboard.from_json(json.loads((FOLDER / name).read_text())), cls=JSONEncoder)
    assert json.loads(again) == DASHBOARDS[name]


def test_the_three_dashboards_link_to_each_other() -> None:
    """Each has a permanent address, and links to all with the chosen variables and time."""
    assert {name: made["uid"] for name, made in DASHBOARDS.items()} == {
        "overview.json": "smartstream-overview",
        "media.json": "smartstream-media",
        "exporter.json": "smartstream-exporter",
    }
    for made in DASHBOARDS.values():
        (link,) = made["links"]
        assert set(link["tags"]) <= set(made["tags"])
        assert link["includeVars"]
        assert link["keepTime"]
    (target,) = {
        link["url"].partition("?")[0]
        for panel in panels("overview.json")
        for override in panel["fieldConfig"]["overrides"]
        for each in override["properties"]
        if each["id"] == "links"
        for link in each["value"]
    }
    assert target == "/d/smartstream-media"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_names_no_data_source(name: str) -> None:
    """Every reference to a data source is the variable, so a dashboard works in any Grafana."""
    text = (FOLDER / name).read_text()
    assert re.findall(r'"uid": "([^"]*)"', text.replace(f'"uid": "{DASHBOARDS[name]["uid"]}"', "")) == [
        "${datasource}"
    ] * text.count('"datasource": {')
    assert variables(name)[0]["type"] == "datasource"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_panel_explains_itself(name: str) -> None:
    """Each panel has a title, a description of at least a sentence, a unit, a text for no data, and a number."""
    shown = panels(name)
    for panel in shown:
        defaults = panel["fieldConfig"]["defaults"]
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert defaults["unit"], panel["title"]
        assert defaults["noValue"], panel["title"]
    assert len({panel["title"] for panel in shown}) == len(shown)
    assert len({panel["id"] for panel in DASHBOARDS[name]["panels"]}) == len(DASHBOARDS[name]["panels"])


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_fill_the_page_and_do_not_overlap(name: str) -> None:
    """Panels of one line are as high as each other and together as wide as the page."""
    lines: dict[int, list[dict[str, int]]] = {}
    for panel in DASHBOARDS[name]["panels"]:
        lines.setdefault(panel["gridPos"]["y"], []).append(panel["gridPos"])
    for line in lines.values():
        assert sum(place["w"] for place in line) == 24, line
        assert all(left["x"] + left["w"] == right["x"] for left, right in pairwise(line)), line
        assert len({place["h"] for place in line}) == 1, line
    for y, below in pairwise(sorted(lines)):
        assert y + lines[y][0]["h"] == below


@pytest.mark.parametrize("name", DASHBOARDS)
def test_queries_use_existing_variables(name: str) -> None:
    """Each variable in a query, a legend or a link is one of the dashboard's, or Grafana's own; each is used."""
    own = {variable["name"] for variable in variables(name)}
    texts = json.dumps(DASHBOARDS[name])
    used = set(re.findall(r"\$\{?(\w+)", texts)) - {"1"}
    assert own <= used
    assert {each for each in used - own if not each.startswith("__")} == set()


def test_queries_use_existing_families() -> None:
    """Each family in a query is one that the exporter has, or Prometheus' own."""
    known = known_families()
    wrong = {place: families_in(expression) - known for place, expression in expressions()}
    assert {place: names for place, names in wrong.items() if names} == {}
    assert all(families_in(expression) for _, expression in expressions())


def test_every_family_is_used() -> None:
    """Each family is in a dashboard, in a rule or in a document: nothing is exported without a use."""
    rules = " ".join(path.read_text() for path in sorted((ROOT / "prometheus").rglob("*.yml")))
    pages = " ".join(path.read_text() for path in sorted((ROOT / "docs").rglob("*.md")))
    mentioned = {name for _, expression in expressions() for name in families_in(expression)}
    mentioned |= set(re.findall(r"\bsmartstream_\w+", rules + pages))
    mentioned |= {name.removesuffix("_bucket") for name in mentioned}
    assert own_families() - mentioned == set()


def test_the_dashboards_show_the_most_important_families() -> None:
    """The families about the exporter, about drops and about live events are each in a dashboard."""
    shown = {name.removesuffix("_bucket") for _, expression in expressions() for name in families_in(expression)}
    by_stream = re.compile(
        r"smartstream_(merchant_)?(last_minute_)?(plays|play_time|player_displays|devices|sessions|"
        r"average_play_time|key_deliveries)(_by_\w+?)?(_seconds)?(_total)?"
    )
    assert {name for name in own_families() - shown if not by_stream.fullmatch(name)} == set()


def test_the_shown_alerts_are_those_of_the_rules() -> None:
    """Each alert that a query selects by name is one of the project's rules, and all drop alerts are selected."""
    rules = (ROOT / "prometheus" / "rules").glob("*.yml")
    groups = [group for path in rules for group in yaml.safe_load(path.read_text())["groups"]]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    named = {
        name
        for _, expression in expressions()
        for text in re.findall(r'alertname=~"([^"]*)"', expression)
        for name in text.split("|")
    }
    assert named == {name for name in alerts if "Drop" in name}


def test_the_mounts_of_compose_exist() -> None:
    """Each file and folder that compose.yaml mounts is in the repository, and each image has a version."""
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert set(services) == {"exporter", "prometheus", "alertmanager", "grafana"}
    mounts = [mount.split(":") for service in services.values() for mount in service.get("volumes", [])]
    assert [source for source, *_ in mounts if source.startswith(".") and not (ROOT / source).exists()] == []
    for name, service in services.items():
        assert "build" in service or re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name


def test_grafana_finds_its_data_and_dashboards() -> None:
    """The data sources are the addresses of the demo's servers, and the folder of dashboards is the mounted one."""
    provisioning = ROOT / "grafana" / "provisioning"
    sources = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    published = {port.split(":")[-1] for port in services["exporter"]["ports"]}
    assert {source["type"]: source["url"].rpartition(":")[2] for source in sources}.items() >= {
        ("prometheus", "9090"),
        ("alertmanager", "9093"),
    }
    assert {source["url"].rpartition(":")[2] for source in sources} < published
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "smartstream.yml").read_text())["providers"]
    folder = provider["options"]["path"]
    assert f"./grafana/dashboards:{folder}:ro" in services["grafana"]["volumes"]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{folder}/overview.json"


def test_the_lock_of_the_renderer_is_hashed_and_names_no_host() -> None:
    """The lock of the packages that draw the pictures has a hash for each, and no download address."""
    lock = json.loads((ROOT / "grafana" / "render" / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert [name for name, package in packages.items() if "integrity" not in package or "resolved" in package] == []


class Prometheus(Program):
    """Prometheus that scrapes one exporter each second, with the project's rules and alerts that fire."""

    def __init__(self, program: Path, folder: Path, port: int, target_port: int) -> None:
        rules = [{"alert": name, "expr": expr} for name, expr in ALERTS.items()]
        (folder / "alerts.yml").write_text(yaml.safe_dump({"groups": [{"name": "now", "rules": rules}]}))
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["alerts.yml"],
            "scrape_configs": [
                {"job_name": "smartstream", "static_configs": [{"targets": [f"127.0.0.1:{target_port}"]}]}
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.url = f"http://127.0.0.1:{port}/api/v1/"
        flags = {
            "config.file": "prometheus.yml",
            "storage.tsdb.path": "tsdb",
            "web.listen-address": f"127.0.0.1:{port}",
        }
        super().__init__([program, *(f"--{flag}={value}" for flag, value in flags.items())], folder)
        self.line("Server is ready to receive web requests")

    def query_api(self, path: str, **parameters: object) -> Any:
        """The answer of its HTTP API; an invalid expression fails here."""
        answer = get(f"{self.url}{path}?{urlencode(parameters)}").json()
        assert answer["status"] == "success", (parameters, answer)
        return answer["data"]

    def has_data(self, query: Query, chosen: Mapping[str, str]) -> bool:
        """Whether a query, with the chosen variables, returns a number."""
        expression = filled(query.expression, chosen)
        if query.instant:
            series = self.query_api("query", query=expression)["result"]
            return any(each["value"][1] != "NaN" for each in series)
        end = time.time()
        series = self.query_api("query_range", query=expression, start=end - 60, end=end, step=5)["result"]
        return any(value != "NaN" for each in series for _, value in each["values"])

    def options(self, variable: Mapping[str, Any], chosen: Mapping[str, str]) -> dict[str, str]:
        """The values that Grafana offers for a variable, by the text it shows."""
        source = filled(variable["query"]["query"], chosen)
        if found := re.fullmatch(r"label_values\((\w+), (\w+)\)", source):
            values = self.query_api(f"label/{found[2]}/values", **{"match[]": found[1]})
            return {value: value for value in values}
        found = re.fullmatch(r"query_result\((.*)\)", source)
        assert found
        pattern = re.compile(variable["regex"].strip("/").replace("(?<", "(?P<"))
        offered = {}
        for series in self.query_api("query", query=found[1])["result"]:
            labels = ",".join(f'{name}="{value}"' for name, value in series["metric"].items())
            match = pattern.search(f"{{{labels}}} {series['value'][1]} {series['value'][0] * 1000:.0f}")
            assert match, labels
            offered[match["text"]] = match["value"]
        return offered


def filled(expression: str, chosen: Mapping[str, str]) -> str:
    """An expression with the variables replaced as in Grafana."""
    return re.sub(r"\$(\w+)", lambda found: chosen.get(found[1], found[0]), expression)


def run_for(settings: Settings, path: Path, clock: FakeClock, seconds: float) -> None:
    """Poll now, and again after this number of seconds on a fake clock: the state file has the data between."""
    state = open_state(path, clock.now)
    polling = Polling(settings, state, Instruments(), clock)
    polling.pollers[MERCHANT].round()
    clock.advance(seconds)
    polling.pollers[MERCHANT].round()
    # A new counter exports 0 for a minute.
    clock.advance(60)
    polling.ledger.show_counted(clock.now())
    polling.close()
    state.close()


@pytest.fixture(scope="module")
def prometheus(prometheus_bin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A real Prometheus that scrapes the real exporter, with one merchant, some hours of data, and everything
    collected.
    """
    folder = tmp_path_factory.mktemp("grafana")
    world = World(media=3)
    clock = FakeClock(time.time() - HISTORY)
    merchant = {
        "requests_per_minute": 5000,
        "collect": COLLECT,
        "media": [{"id": media_id} for media_id in world.catalog(MERCHANT)],
    }
    logging.getLogger("exporter.simulator").setLevel(logging.WARNING)
    with SimulatorServer(SimulatorApp(world, FaultSwitch(world, clock.now, FAULTS), clock.now)) as earlier:
        before = Settings.model_validate(configuration(earlier.url, merchant, poll={"settle": "1s"}))
        run_for(before, folder / "state.db", clock, HISTORY - 600)
    released = threading.Event()
    waiting = FAULTS.model_copy(update={"hang_rate": 1.0, "hang_seconds": PATIENCE})
    switch = FaultSwitch(world, time.time, waiting)
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(SimulatorServer(SimulatorApp(world, switch, time.time, sleep=released.wait)))
        port = stack.enter_context(reserved_port())
        own_port = stack.enter_context(reserved_port())
        scraping = stack.enter_context(Prometheus(prometheus_bin, folder, own_port, port))
        config = configuration(api.url, merchant, poll={"settle": "1s"}, api={"timeout": "60s"})
        daemon = stack.enter_context(Daemon(folder, config, listen=f"127.0.0.1:{port}"))
        # The API responds only after Prometheus has scraped the counters, so it sees them grow at once and not a minute
        # later.
        wait_until("the counters are scraped", lambda: bool(scraping.query_api("query", query=COUNTER)["result"]))
        switch.set(hang_rate=0.0)
        released.set()
        daemon.wait_ready()
        yield scraping


@pytest.mark.real_time
def test_every_query_returns_data(prometheus: Prometheus) -> None:
    """With everything collected and a drop alert firing, a real Prometheus accepts every query of every panel, variable
    and annotation, and returns data.
    """
    for name in DASHBOARDS:
        chosen = {**BUILT_IN, "interval": "5m"}
        for variable in variables(name):
            if variable["type"] == "query":
                chosen[variable["name"]] = ".+" if variable["includeAll"] else _choice(prometheus, variable, chosen)
        waiting = list(queries(name))
        deadline = time.monotonic() + PATIENCE
        while waiting and time.monotonic() < deadline:
            waiting = [query for query in waiting if not prometheus.has_data(query, chosen)]
            time.sleep(0.2)
        assert [(query.place, filled(query.expression, chosen)) for query in waiting] == []


@pytest.mark.real_time
def test_media_are_chosen_by_name(prometheus: Prometheus) -> None:
    """The variable offers each media by its name; its value is the id."""
    catalog = World(media=3).catalog(MERCHANT)
    (variable,) = (each for each in variables("media.json") if each["name"] == "media")
    wanted = {media.name: media_id for media_id, media in catalog.items()}
    wait_until("all names are known", lambda: prometheus.options(variable, {"merchant": MERCHANT}) == wanted)


def _choice(prometheus: Prometheus, variable: Mapping[str, Any], chosen: Mapping[str, str]) -> str:
    """One of the offered values: the media that is live all day, or else the first."""
    wait_until(f"{variable['name']} has values", lambda: bool(prometheus.options(variable, chosen)))
    offered = prometheus.options(variable, chosen)
    return next((value for text, value in offered.items() if "24h" in text), next(iter(offered.values())))
