"""The installed exporter as in a container, without an engine: an own root, read-only, a random user, no capabilities.

It needs Linux and root. The network is the host's.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from tests.support.processes import Program

ROOT = Path(__file__).parents[2]

# As OpenShift chooses it: a user without a name, of group 0.
USER, GROUP = 12345, 0

# The folders of the host that the root shows. Where they are links, they are links there, too.
SHOWN = ("usr", "bin", "sbin", "lib", "lib64", "etc")

# $1 is the root, $2 the folders that are bound into it, as lines of source and target; the rest is the command.
ENTER = """
set -eu
root=$1 bound=$2
shift 2
mount --bind "$root" "$root"
mount --bind "$root/data" "$root/data"
echo "$bound" | while IFS="	" read -r source target; do
    mount --bind "$source" "$root$target"
    mount -o remount,bind,ro "$root$target"
done
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -o remount,bind,ro "$root"
exec chroot "$root" "$@"
"""


def available() -> bool:
    """Whether this machine allows mount namespaces."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        return False
    probe = ["unshare", "--mount", "mount", "--bind", "/tmp", "/tmp"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


class Container(Program):
    """The exporter, installed from its wheel, with its own configuration; its state file is in /data.

    Attributes:
        data: The folder /data, the only one that the process can write.
    """

    def __init__(self, folder: Path, config: object, under: Sequence[str] = ()) -> None:
        """Start it.

        Args:
            folder: An empty folder for the root.
            config: Its configuration.
            under: A command that starts it, inside the container.
        """
        if not available():
            pytest.skip("root and mount namespaces are needed")
        root = folder / "root"
        bound = _made(root)
        (root / "config.yaml").write_text(yaml.safe_dump(config))
        self.data = root / "data"
        # As in the image.
        self.data.mkdir()
        os.chown(self.data, 10077, 0)
        self.data.chmod(0o770)
        lines = "\n".join(f"{source}\t{target}" for source, target in bound)
        namespace = ["unshare", "--mount", "--propagation=private", "sh", "-c", ENTER, "sh", str(root), lines]
        user = ["setpriv", f"--reuid={USER}", f"--regid={GROUP}", "--clear-groups", "--no-new-privs"]
        none = ["--bounding-set=-all", "--inh-caps=-all"]
        environ = ["env", "--ignore-environment", "--chdir=/data", "PATH=/usr/bin:/bin", "PYTHONPATH=/app:/site"]
        flags = ["--config.file=/config.yaml", "--storage.path=/data/state.db", "--web.listen-address=127.0.0.1:0"]
        interpreter = str(Path(sys.executable).resolve())
        command = [*user, *none, *environ, *under, interpreter, "-P", "-m", "exporter", *flags]
        super().__init__([*namespace, *command], folder)

    def read_only(self) -> list[str]:
        """The folders of its mounts that it cannot write, whatever their permissions are."""
        listed = ["findmnt", "--json", "--list", "--output=TARGET,OPTIONS", f"--task={self.pid}"]
        mounts = json.loads(subprocess.run(listed, capture_output=True, text=True, check=True).stdout)["filesystems"]
        return [each["target"] for each in mounts if "ro" in each["options"].split(",")]


def _made(root: Path) -> list[tuple[str, str]]:
    """Make the root; return the folders of the host to bind into it, and where."""
    (root / "app").mkdir(parents=True)
    packed = root.parent / "wheel"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheel = ["wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={packed}", str(_source(root.parent))]
    subprocess.run([*pip, *wheel], check=True)
    install = ["install", "--no-deps", "--no-index", f"--target={root / 'app'}", *map(str, packed.glob("*.whl"))]
    subprocess.run([*pip, *install], check=True)
    bound = [(sysconfig.get_path("purelib"), "/site")]
    if not Path(sys.base_prefix).is_relative_to("/usr"):
        bound.append((sys.base_prefix, sys.base_prefix))
    for name in SHOWN:
        host = Path("/", name)
        if host.is_symlink():
            (root / name).symlink_to(host.readlink())
        elif host.is_dir():
            bound.append((str(host), str(host)))
    for folder in ("/proc", "/dev", *(target for _, target in bound)):
        (root / folder.removeprefix("/")).mkdir(parents=True, exist_ok=True)
    return bound


def _source(folder: Path) -> Path:
    """A copy of what the wheel is built of, as setuptools writes beside its source."""
    copy = folder / "source"
    shutil.copytree(ROOT / "exporter", copy / "exporter", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    return copy
