"""Two ways to build and run an image: the Docker engine, or buildah without an engine."""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

IMAGE = "localhost/smartstream-exporter"
BASE = "python:3.13-slim"
STANDIN = "localhost/python-standin:3.13"
PORT = 10077
STOP_SECONDS = 10
KILLED = 137
ROOT = Path(__file__).parent.parent
LOG = ROOT / "build" / "image-demo.log"


class Failed(Exception):
    """A step failed; the message is one line."""


class Engine(Protocol):
    """Builds the image and runs one container of it. Each method raises Failed if the engine fails."""

    name: str

    def build(self, flags: Sequence[str]) -> None:
        """Build the image, with additional flags for the build command of the engine."""
        ...

    def config(self) -> dict[str, Any]:
        """The image's configuration, as Docker writes it."""
        ...

    def start(self, user: str) -> None:
        """Run the demo of the image as a user (UID:GID) on a read-only root; it listens on 127.0.0.1:PORT."""
        ...

    def execute(self, command: Sequence[str]) -> None:
        """Run a command in the container."""
        ...

    def stop(self) -> int:
        """Send SIGTERM and return the exit code, or KILLED if SIGKILL was necessary."""
        ...

    def remove(self) -> None:
        """Remove the container, whether it ran or not; keep only its log in LOG."""
        ...


class Docker:
    """The Docker engine."""

    name = "docker"

    def __init__(self) -> None:
        self._container: str | None = None

    def build(self, flags: Sequence[str]) -> None:
        """Build the image."""
        run("docker", "build", f"--tag={IMAGE}", *flags, str(ROOT), show=True)

    def config(self) -> dict[str, Any]:
        """The image's configuration."""
        config: dict[str, Any] = json.loads(run("docker", "image", "inspect", IMAGE))[0]["Config"]
        return config

    def start(self, user: str) -> None:
        """Run the demo."""
        publish = f"--publish=127.0.0.1:{PORT}:{PORT}"
        listen = f"--web.listen-address=:{PORT}"
        flags = ("--detach", "--read-only", f"--user={user}", publish)
        self._container = run("docker", "run", *flags, IMAGE, "demo", listen)

    def execute(self, command: Sequence[str]) -> None:
        """Run a command in the container."""
        run("docker", "exec", str(self._container), *command)

    def stop(self) -> int:
        """Stop the container."""
        run("docker", "stop", f"--time={STOP_SECONDS}", str(self._container))
        return int(run("docker", "inspect", "--format={{.State.ExitCode}}", str(self._container)))

    def remove(self) -> None:
        """Remove the container and its volume."""
        if self._container:
            with LOG.open("wb") as log:
                subprocess.run(["docker", "logs", self._container], stdout=log, stderr=log, check=False)
            run("docker", "rm", "--force", "--volumes", self._container)


class Buildah:
    """Buildah, and a chroot in a mount namespace: no engine, but Linux and root. The network is the host's.

    Attributes:
        standin: Whether the base image is replaced by one made of Debian packages, without asking a registry.
    """

    name = "buildah"

    # `buildah run` has no read-only root, so this command creates the namespace. $0 is the root, $1 the user, $2 the
    # working directory. /data stays writable below it, with its owner in the image.
    _ENTER = """
        mount --bind "$0" "$0" && mount --bind "$0/data" "$0/data" &&
        mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" &&
        mount -o remount,bind,ro "$0" && cd "$0" &&
        exec chroot --userspec="$1" --groups= . env --ignore-environment --chdir="$2" "${@:3}"
    """

    def __init__(self, *, standin: bool) -> None:
        self.standin = standin
        self._container: str | None = None
        self._user = ""
        self._process: subprocess.Popen[bytes] | None = None

    def build(self, flags: Sequence[str]) -> None:
        """Build the image, on the base image or its stand-in."""
        # The OCI format has no place for a HEALTHCHECK.
        bud = ["buildah", "bud", "--quiet", "--isolation=chroot", "--format=docker", f"--tag={IMAGE}"]
        if self.standin or not answers("buildah", "pull", BASE):
            bud += ["--from", self._standin()]
        if Path("/etc/ssl/certs").is_dir():
            # The network of this machine may need its CA certificates. They do not stay in the image.
            bud.append("--volume=/etc/ssl/certs:/etc/ssl/certs:ro")
        run(*bud, *flags, str(ROOT), show=True)

    def config(self) -> dict[str, Any]:
        """The image's configuration."""
        return self._config

    def start(self, user: str) -> None:
        """Run the demo."""
        self._user = user
        self._container = run("buildah", "from", IMAGE)
        root = run("buildah", "mount", self._container)
        config = self._config
        demo = [*config["Env"], *config["Entrypoint"], "demo", f"--web.listen-address=127.0.0.1:{PORT}"]
        enter = ["unshare", "--mount", "bash", "-c", self._ENTER, root, user, config["WorkingDir"]]
        with LOG.open("wb") as log:
            self._process = subprocess.Popen([*enter, *demo], stdout=log, stderr=log)

    def execute(self, command: Sequence[str]) -> None:
        """Run a command in the container's namespace, as its user."""
        uid, gid = self._user.split(":")
        enter = [f"--target={self._demo.pid}", "--mount", "--root", f"--setuid={uid}", f"--setgid={gid}"]
        run("nsenter", *enter, "env", "--ignore-environment", *self._config["Env"], *command)

    def stop(self) -> int:
        """End the process."""
        self._demo.terminate()
        try:
            return self._demo.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return KILLED

    def remove(self) -> None:
        """Remove the files; the namespace ends with the process."""
        if self._process:
            self._process.kill()
            self._process.wait()
        if self._container:
            run("buildah", "rm", self._container)

    @property
    def _demo(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise Failed("the demo was not started")
        return self._process

    @cached_property
    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = json.loads(run("buildah", "inspect", "--type=image", IMAGE))["Docker"]["config"]
        return config

    def _standin(self) -> str:
        say(f"{BASE} is replaced by a stand-in of Debian packages: use it for tests, not for a release")
        if not answers("buildah", "inspect", "--type=image", STANDIN):
            if not shutil.which("debootstrap"):
                raise Failed("debootstrap is missing: apt-get install debootstrap")
            run(str(ROOT / "scripts" / "standin-base.sh"), STANDIN, show=True)
        return STANDIN


def choose(*, standin: bool) -> Engine:
    """The engine that this machine has."""
    if not standin and answers("docker", "info"):
        return Docker()
    if os.geteuid() == 0 and shutil.which("buildah"):
        return Buildah(standin=standin)
    raise Failed("no Docker engine responds: start one, or as root: apt-get install buildah debootstrap")


def answers(*command: str) -> bool:
    """Whether a command exists and succeeds."""
    if not shutil.which(command[0]):
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def run(*command: str, show: bool = False) -> str:
    """Run a command and return its output, or print it; raise Failed with the last line if it fails."""
    done = subprocess.run(command, capture_output=not show, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr or "").strip().rpartition("\n")[2]
        raise Failed(f"{shlex.join(command)} ended with {done.returncode}: {last}")
    return str(done.stdout or "").strip()


def say(text: str) -> None:
    """Print one progress line."""
    print(f"image: {text}", flush=True)
