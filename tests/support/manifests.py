"""The objects of Kubernetes that deploy/ makes, as the real kubectl and Helm make them."""

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
KUSTOMIZE = ROOT / "deploy/kubernetes"
CHART = ROOT / "deploy/helm/smartstream-exporter"

Object = Mapping[str, Any]

# Every folder that kustomize can build.
FOLDERS = ("base", *sorted(f"overlays/{path.name}" for path in (KUSTOMIZE / "overlays").iterdir()))

MONITORING = ("--set=serviceMonitor.enabled=true", "--set=prometheusRule.enabled=true")

# What people set, by name.
VALUES: Mapping[str, Sequence[str]] = {
    "defaults": (),
    "monitoring": MONITORING,
    "shards": ("--set=shards=3",),
    "openshift": tuple(f"--set=podSecurityContext.{key}=null" for key in ("runAsUser", "runAsGroup", "fsGroup")),
    "tls": (
        *MONITORING,
        "--set=webConfig.tls_server_config.cert_file=/run/secrets/smartstream-tls/tls.crt",
        "--set=webConfig.tls_server_config.key_file=/run/secrets/smartstream-tls/tls.key",
        "--set=tlsSecret=exporter-tls",
        "--set=serviceMonitor.tlsConfig.serverName=exporter",
    ),
    "password": ("--set=webConfig.basic_auth_users.prometheus=hash",),
    "password for the probes": (
        "--set=webConfig.basic_auth_users.prometheus=hash",
        "--set=probes.httpHeaders[0].name=Authorization",
        "--set=probes.httpHeaders[0].value=Basic cHJvYmU6cHJvYmU=",
    ),
    "everything else": (
        "--set=image.digest=sha256:" + 64 * "0",
        "--set=imagePullSecrets[0].name=registry",
        "--set=fullnameOverride=plays",
        "--set=existingConfigMap=plays-config",
        "--set=log.level=debug",
        "--set=externalUrl=https://exporter.example.com",
        "--set=extraArgs[0]=--log.format=logfmt",
        "--set=extraEnv[0].name=TZ,extraEnv[0].value=UTC",
        "--set=proxy.httpsProxy=http://proxy.example.com:3128",
        "--set=proxy.noProxy=.svc",
        "--set=networkPolicy.egressPorts={3128}",
        "--set=caConfigMap=corporate-ca",
        "--set=extraVolumes[0].name=more,extraVolumes[0].configMap.name=more",
        "--set=extraVolumeMounts[0].name=more,extraVolumeMounts[0].mountPath=/more",
        "--set=persistence.storageClassName=fast",
        "--set=priorityClassName=high",
        "--set=podLabels.team=video",
        "--set=podAnnotations.team=video",
        "--set=nodeSelector.disk=ssd",
        "--set=tolerations[0].key=video",
        "--set=affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey=zone",
        "--set=topologySpreadConstraints[0].maxSkew=1",
        "--set=topologySpreadConstraints[0].topologyKey=zone",
        "--set=topologySpreadConstraints[0].whenUnsatisfiable=ScheduleAnyway",
        "--set=service.type=LoadBalancer",
        "--set=service.annotations.team=video",
    ),
}


@cache
def kustomized(kubectl: Path, folder: str) -> str:
    """What kustomize builds of a folder, as YAML."""
    return _output(kubectl, "kustomize", KUSTOMIZE / folder)


@cache
def templated(helm: Path, values: str) -> str:
    """What the chart makes of one of VALUES, as YAML."""
    return _output(helm, "template", "smartstream-exporter", CHART, *VALUES[values])


def objects(text: str) -> list[Object]:
    """The objects in a text."""
    return [each for each in yaml.safe_load_all(text) if each]


def of_kind(found: Sequence[Object], kind: str) -> list[Object]:
    """The objects of a kind."""
    return [each for each in found if each["kind"] == kind]


def pods(found: Sequence[Object]) -> Iterator[Object]:
    """The specifications of all pods."""
    for each in found:
        if each["kind"] == "Pod":
            yield each["spec"]
        elif "template" in each.get("spec", {}):
            yield each["spec"]["template"]["spec"]


def arguments(container: Object, ordinal: int = 0) -> list[str]:
    """The arguments of a container as the kubelet gives them to a pod, with its variables."""
    environ = {variable["name"]: variable.get("value", str(ordinal)) for variable in container["env"]}
    return [re.sub(r"\$\((\w+)\)", lambda found: environ[found[1]], argument) for argument in container["args"]]


def _output(program: Path, *arguments: str | Path) -> str:
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
