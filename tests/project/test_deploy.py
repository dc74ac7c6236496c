"""The files in deploy/: valid, secure, and right for this version of the exporter."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import manifests as generated
import pytest
import yaml

import exporter
from exporter import cli, logs
from exporter.config.load import load
from tests.support.manifests import (
    CHART,
    FOLDERS,
    KUSTOMIZE,
    ROOT,
    VALUES,
    Object,
    arguments,
    kustomized,
    objects,
    of_kind,
    pods,
    templated,
)

COMPOSE = ROOT / "deploy/compose/compose.yaml"
UNIT = ROOT / "deploy/systemd/smartstream-exporter.service"
RULES = ROOT / generated.RULES
VARIANTS = [*FOLDERS, *VALUES]

# Kinds of the Prometheus Operator, which Kubernetes itself does not know.
OPERATOR = {"ServiceMonitor", "PrometheusRule"}


def program(name: str) -> Path:
    """A program of the development dependencies."""
    return Path(sys.executable).with_name(name)


def ran(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """A command that has ended, with its output."""
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def text(request: pytest.FixtureRequest, variant: str) -> str:
    """The objects of a variant, as YAML."""
    if variant in FOLDERS:
        return kustomized(request.getfixturevalue("kubectl_bin"), variant)
    return templated(request.getfixturevalue("helm_bin"), variant)


@pytest.fixture
def found(text: str) -> list[Object]:
    """The objects of a variant."""
    return objects(text)


@pytest.mark.parametrize("name", generated.WRITTEN)
def test_generated_files_are_up_to_date(name: str) -> None:
    """The file is what `make manifests` writes."""
    assert (ROOT / name).read_text("utf-8") == generated.WRITTEN[name](), "make manifests"


def test_make_manifests_writes_each_file(tmp_path: Path) -> None:
    """It writes each generated file, and nothing else."""
    assert generated.main(tmp_path) == 0
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == set(generated.WRITTEN)


def validated(path: Path) -> str:
    """What kubernetes-validate says about a valid file."""
    done = ran(program("kubernetes-validate"), "--strict", path)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_kubernetes_accepts_the_objects(text: str, found: list[Object], tmp_path: Path) -> None:
    """Each object is valid, without unknown fields, in the newest version of Kubernetes; the validator knows all kinds
    but those of the Prometheus Operator.
    """
    path = tmp_path / "objects.yaml"
    path.write_text(text)
    said = validated(path)
    passed = len(re.findall(r" passed for resource ", said))
    unknown = set(re.findall(r"Couldn't find schema for kind (\w+)", said))
    assert unknown <= OPERATOR
    assert passed == len([each for each in found if each["kind"] not in OPERATOR])


def test_kubernetes_accepts_the_pod_that_moves_merchants() -> None:
    """move-merchants.yaml is valid, and mounts the volumes that the StatefulSet has, with the right image."""
    path = KUSTOMIZE / "move-merchants.yaml"
    assert validated(path).count(" passed for resource ") == 3
    found = objects(path.read_text())
    [pod] = pods(found)
    claims = [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]]
    assert claims == [f"data-smartstream-exporter-{ordinal}" for ordinal in range(3)]
    assert {each["metadata"]["name"] for each in of_kind(found, "PersistentVolumeClaim")} == set(claims[1:])
    assert pod["containers"][0]["image"].endswith(f":{exporter.__version__}")


def check_restricted(pod: Object, *, fixed_user: bool) -> None:
    """Fail unless a pod meets the Pod Security Standard "restricted", and more."""
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    ids = {key: security[key] for key in ("runAsUser", "runAsGroup", "fsGroup") if key in security}
    assert ids == ({"runAsUser": 10077, "runAsGroup": 10077, "fsGroup": 10077} if fixed_user else {})
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"} & set(pod)
    kinds = {key for volume in pod["volumes"] for key in volume if key != "name"}
    assert kinds <= {"configMap", "secret", "persistentVolumeClaim"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]
        assert not any("hostPort" in port for port in container.get("ports", []))


@pytest.mark.parametrize("variant", VARIANTS)
def test_pods_are_restricted(found: list[Object], variant: str) -> None:
    """Each pod has no more rights than the standard "restricted" allows, and no token; on OpenShift no fixed user."""
    [pod] = pods(found)
    check_restricted(pod, fixed_user="openshift" not in variant)


def test_the_pod_that_moves_merchants_is_restricted() -> None:
    """It runs in the same namespace."""
    [pod] = pods(objects((KUSTOMIZE / "move-merchants.yaml").read_text()))
    check_restricted(pod, fixed_user=True)


def test_the_namespace_enforces_it(kubectl_bin: Path) -> None:
    """The namespace of the example admits no other pods."""
    [namespace] = of_kind(objects(kustomized(kubectl_bin, "overlays/production")), "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_command_line_accepts_the_arguments(found: list[Object], variant: str) -> None:
    """Each pod of the StatefulSet starts the exporter with valid flags; its ordinal is its shard, of as many as there
    are pods.
    """
    [stateful] = of_kind(found, "StatefulSet")
    replicas = stateful["spec"]["replicas"]
    assert replicas == (3 if "shards" in variant else 1)
    [container] = stateful["spec"]["template"]["spec"]["containers"]
    [index] = (each for each in container["env"] if each["name"] == "SHARD_INDEX")
    assert index["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['apps.kubernetes.io/pod-index']"
    for ordinal in range(replicas):
        options = cli.build_parser().parse_args(arguments(container, ordinal))
        assert (options.shard_index, options.shard_count) == (ordinal, replicas)


@pytest.mark.parametrize("variant", VARIANTS)
def test_paths_are_mounted(found: list[Object], tmp_path: Path) -> None:
    """The files in arguments, variables and configurations are below a mount, and each mount has its volume. The state
    file is on the volume of the StatefulSet, and the configuration is valid.
    """
    [stateful] = of_kind(found, "StatefulSet")
    [pod] = pods(found)
    [container] = pod["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    claims = [claim["metadata"]["name"] for claim in stateful["spec"]["volumeClaimTemplates"]]
    assert sorted(mounts.values()) == sorted([*claims, *(volume["name"] for volume in pod["volumes"])])
    assert mounts["/data"] in claims
    assert not any("subPath" in mount for mount in container["volumeMounts"]), "it would not follow a change"
    configs = {name: content for each in of_kind(found, "ConfigMap") for name, content in each["data"].items()}
    configs |= {name: content for each in of_kind(found, "Secret") for name, content in each["stringData"].items()}
    values = [value.partition("=")[2] for value in arguments(container)]
    values += [each.get("value", "") for each in container["env"]]
    values += re.findall(r"_file: (\S+)", "\n".join(configs.values()))
    paths = [value for value in values if value.startswith("/")]
    assert len(paths) >= 2
    assert [path for path in paths if str(Path(path).parent) not in mounts] == []
    if "config.yaml" in configs:
        assert_valid(configs["config.yaml"], tmp_path)


def assert_valid(config: str, folder: Path) -> None:
    """Fail unless a configuration is valid, once its secret files exist and its placeholders are replaced."""
    for name in re.findall(r"/run/[\w/.-]+/(\w+)", config):
        (folder / name).write_text("s3cret\n")
    path = folder / "config.yaml"
    path.write_text(re.sub(r"/run/[\w/.-]+/(\w+)", rf"{folder}/\1", config.replace("replace-me", "replaced")))
    assert load(path, {}).merchants


@pytest.mark.parametrize("variant", VARIANTS)
def test_objects_find_each_other(found: list[Object]) -> None:
    """Selectors select the pods, the StatefulSet has its headless Service, and ports have names that exist."""
    [stateful] = of_kind(found, "StatefulSet")
    labels = stateful["spec"]["template"]["metadata"]["labels"]
    ports = {
        port["name"]: port["containerPort"] for port in stateful["spec"]["template"]["spec"]["containers"][0]["ports"]
    }
    assert ports == {"http": 10077}
    services = of_kind(found, "Service")
    assert len(services) == 2
    for service in services:
        assert service["spec"]["selector"].items() <= labels.items()
        assert [port["targetPort"] for port in service["spec"]["ports"]] == ["http"]
    assert stateful["spec"]["selector"]["matchLabels"].items() <= labels.items()
    [headless] = (each["metadata"]["name"] for each in services if each["spec"].get("clusterIP") == "None")
    assert stateful["spec"]["serviceName"] == headless
    for policy in of_kind(found, "NetworkPolicy"):
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} == {"http"}
    namespaces = {each["metadata"].get("namespace") for each in found if each["kind"] != "Namespace"}
    assert len(namespaces) == 1


@pytest.mark.parametrize("variant", ["overlays/production", "overlays/tls", "monitoring", "tls"])
def test_the_service_monitor_scrapes_each_pod_once(found: list[Object]) -> None:
    """It selects one of the Services, by a port that this has, at least once a minute, with the scheme of the probes,
    and with the pod's name as instance. It has only fields that the Prometheus Operator documents.
    """
    [monitor] = of_kind(found, "ServiceMonitor")
    assert set(monitor["spec"]) == {"selector", "endpoints"}
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    [service] = (each for each in of_kind(found, "Service") if wanted <= each["metadata"]["labels"].items())
    [endpoint] = monitor["spec"]["endpoints"]
    assert set(endpoint) <= {"port", "path", "interval", "relabelings", "scheme", "tlsConfig", "basicAuth"}
    assert set(endpoint.get("tlsConfig", {})) <= {"serverName", "ca"}
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["path"] == "/metrics"
    assert re.fullmatch(r"[1-5]?\ds|60s|1m", endpoint["interval"])
    assert endpoint["relabelings"] == [{"sourceLabels": ["__meta_kubernetes_pod_name"], "targetLabel": "instance"}]
    [pod] = pods(found)
    probes = [pod["containers"][0][f"{name}Probe"] for name in ("startup", "liveness", "readiness")]
    schemes = {probe["httpGet"].get("scheme", "HTTP").lower() for probe in probes}
    assert schemes == {endpoint.get("scheme", "http")}


@pytest.mark.parametrize("variant", ["overlays/production", "monitoring"])
def test_the_prometheus_rule_has_the_alert_rules(found: list[Object], promtool_bin: Path, tmp_path: Path) -> None:
    """It contains exactly the rules of prometheus/, and promtool accepts them."""
    [rule] = of_kind(found, "PrometheusRule")
    assert rule["spec"] == yaml.safe_load(RULES.read_text("utf-8"))
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump(rule["spec"]))
    checked = ran(promtool_bin, "check", "rules", path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def comparable(found: Sequence[Object]) -> Mapping[tuple[str, str], Object]:
    """The objects by kind and name, without labels that only Helm sets, and with configurations as values."""
    own = ("app.kubernetes.io/instance", "app.kubernetes.io/version", "app.kubernetes.io/managed-by", "helm.sh/chart")

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(each) for key, each in value.items() if key not in own}
        return [plain(each) for each in value] if isinstance(value, list) else value

    result = {(each["kind"], each["metadata"]["name"]): plain(each) for each in found}
    for (kind, _), each in result.items():
        if kind == "ConfigMap":
            each["data"] = {name: yaml.safe_load(text) for name, text in each["data"].items()}
    return result


def test_helm_and_kustomize_make_the_same(kubectl_bin: Path, helm_bin: Path) -> None:
    """With its default values the chart makes the objects of the kustomize base, and with monitoring those of the
    component for the Prometheus Operator.
    """
    assert comparable(objects(templated(helm_bin, "defaults"))) == comparable(objects(kustomized(kubectl_bin, "base")))
    of_helm = comparable(objects(templated(helm_bin, "monitoring")))
    of_kustomize = comparable(objects(kustomized(kubectl_bin, "overlays/production")))
    for kind in OPERATOR:
        expected = dict(of_kustomize[kind, "smartstream-exporter"])
        expected["metadata"] = {k: v for k, v in expected["metadata"].items() if k != "namespace"}
        assert of_helm[kind, "smartstream-exporter"] == expected


@pytest.mark.parametrize("values", VALUES)
def test_helm_lint_finds_nothing(helm_bin: Path, values: str) -> None:
    """The chart passes `helm lint --strict` with these values."""
    done = ran(helm_bin, "lint", "--strict", CHART, *VALUES[values])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("flag", "named"),
    [
        ("--set=shard=2", "shard"),
        ("--set=shards=0", "/shards"),
        ("--set=image.tags=1", "tags"),
        ("--set=log.level=loud", "/log/level"),
        ("--set=existingSecret=", "/existingSecret"),
        ("--set=persistence.accessModes={ReadWriteMany}", "/persistence/accessModes/0"),
        ("--set=config.merchants=null", "merchants"),
        ("--set=reloadInterval=soon", "/reloadInterval"),
    ],
)
def test_helm_refuses_a_wrong_value(helm_bin: Path, flag: str, named: str) -> None:
    """An unknown or impossible value is an error that names it."""
    done = ran(helm_bin, "template", CHART, flag)
    assert done.returncode != 0
    assert named in done.stderr


@pytest.mark.parametrize(("values", "probe"), [("password", "tcpSocket"), ("password for the probes", "httpGet")])
def test_probes_with_a_password(helm_bin: Path, values: str, probe: str) -> None:
    """If the port asks for a password, probes only connect, unless they have credentials."""
    [pod] = pods(objects(templated(helm_bin, values)))
    for name in ("startup", "liveness", "readiness"):
        found = pod["containers"][0][f"{name}Probe"]
        assert probe in found
        assert probe == "tcpSocket" or found["httpGet"]["httpHeaders"][0]["name"] == "Authorization"


def test_the_notes_name_the_pod(helm_bin: Path) -> None:
    """After the installation, Helm shows how to create the Secret and to reach the page."""
    done = ran(helm_bin, "install", "plays", CHART, "--dry-run=client", "--namespace=video")
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    assert "kubectl --namespace video create secret generic smartstream-exporter" in notes
    assert "port-forward pod/plays-smartstream-exporter-0 10077" in notes


def test_each_value_is_documented_and_validated() -> None:
    """Each value has a comment, and the schema has the same values as values.yaml."""
    text = (CHART / "values.yaml").read_text("utf-8")
    documented = {path for path, _ in generated.described(text)}
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))

    def check(values: Mapping[str, Any], schema: Mapping[str, Any], path: tuple[str, ...]) -> None:
        assert set(schema["properties"]) - {"global"} == set(values), path
        assert schema["additionalProperties"] is False, path
        for key, value in values.items():
            inner = (*path, key)
            if inner not in documented:
                assert isinstance(value, Mapping), f"{inner} has no comment"
                check(value, schema["properties"][key], inner)

    check(yaml.safe_load(text), schema, ())
    assert schema["properties"]["log"]["properties"]["level"]["enum"] == list(logs.LEVELS)


def test_the_version_is_that_of_the_exporter() -> None:
    """The chart, the kustomizations and the compose file use the image of this version."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    tags = [
        chart["version"],
        chart["appVersion"],
        yaml.safe_load(COMPOSE.read_text())["services"]["exporter"]["image"].rpartition(":")[2],
    ]
    for folder in ("base", "overlays/production"):
        kustomization = yaml.safe_load((KUSTOMIZE / folder / "kustomization.yaml").read_text())
        tags += [image["newTag"] for image in kustomization["images"]]
    assert len(tags) == 5
    assert set(tags) == {exporter.__version__}


def test_compose_accepts_its_file() -> None:
    """The compose file is valid by the schema of the Compose Specification."""
    done = ran(program("check-jsonschema"), "--builtin-schema=vendor.compose-spec", COMPOSE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_compose_file_is_hardened() -> None:
    """The container has no more rights than the pods, publishes its port on the machine alone, and has the health check
    of the image.
    """
    [service] = yaml.safe_load(COMPOSE.read_text())["services"].values()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert service["ports"] == ["127.0.0.1:10077:10077"]
    assert not {"user", "privileged", "cap_add", "network_mode", "pid"} & set(service)
    mounts = [volume.split(":") for volume in service["volumes"]]
    assert [mount for mount in mounts if mount[-1] != "ro"] == [["state", "/data"]]
    image = re.search(
        r"HEALTHCHECK .* CMD (\[.*?\])\n", (ROOT / "Dockerfile").read_text().replace("\\\n", ""), re.DOTALL
    )
    assert image is not None
    ours = service["healthcheck"]["test"]
    assert [re.sub(r"\s+", " ", part) for part in ours] == [
        re.sub(r"\s+", " ", part) for part in ("CMD", *json.loads(image[1]))
    ]


def test_the_command_line_accepts_the_arguments_of_the_compose_file() -> None:
    """The compose file starts the exporter with valid flags, whose files are in its volumes."""
    [service] = yaml.safe_load(COMPOSE.read_text())["services"].values()
    options = cli.build_parser().parse_args(service["command"])
    assert [str(options.config_file.parent), str(options.storage_path.parent)] == ["/etc/smartstream", "/data"]


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The systemd unit, with the program where it is on this machine."""
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text().replace("/opt/smartstream-exporter/bin/", f"{Path(sys.executable).parent}/"))
    return path


def test_systemd_accepts_the_unit(systemd_analyze_bin: Path, unit: Path) -> None:
    """`systemd-analyze verify` finds nothing in the unit."""
    done = ran(systemd_analyze_bin, "verify", unit)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if unit.name in line]
    assert (done.returncode, ours) == (0, [])


def test_the_unit_is_confined(systemd_analyze_bin: Path, unit: Path) -> None:
    """`systemd-analyze security` rates the unit's exposure 1.5 of 10 or better; versions differ a little."""
    done = ran(systemd_analyze_bin, "security", "--offline=true", "--no-pager", "--threshold=15", unit)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_command_line_accepts_the_arguments_of_the_unit() -> None:
    """The unit starts the exporter with valid flags, its state file in the folder that systemd makes."""
    text = UNIT.read_text().replace("\\\n", "")
    command = re.search(r"^ExecStart=(.*)$", text, re.MULTILINE)
    assert command is not None
    options = cli.build_parser().parse_args(shlex.split(command[1])[1:])
    assert str(options.storage_path) == "${STATE_DIRECTORY}/state.db"
    assert "\nStateDirectory=smartstream-exporter\n" in text
    assert "\nRestart=always\n" in text
