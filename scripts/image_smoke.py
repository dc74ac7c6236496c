"""Smoke test of the container image: build it, run its demo on a read-only root, scrape it, stop it.

Once as the user of the image, and once as a random user of group 0.

The log of the demo is in build/image-demo.log. Uses Docker if its engine responds, else buildah, which needs no engine
(Linux, root).

Environment:
    STANDIN_BASE: 1 builds with buildah on a stand-in of Debian packages instead of the base image. This is also the
        fallback if the base image cannot be pulled.
    IMAGE_BUILD_FLAGS: Additional flags for the build, for example to use this machine's pip configuration with
        buildah: --volume=/etc/pip.conf:/etc/pip.conf:ro
"""

import os
import shlex
import socket
import sys
import time
import urllib.request
from collections.abc import Callable

import engines
import release
from engines import IMAGE, LOG, PORT, Engine, Failed, say

# The image's own user, and one as OpenShift chooses it: any user of group 0.
IMAGE_USER = "10077:10077"
RANDOM_USER = "12345:0"

# Fails unless it runs as the user in its argument on a root that cannot be written.
CONFINED = """
import os, sys
user = f'{os.getuid()}:{os.getgid()}'
sys.exit(user != sys.argv[1] or not os.statvfs('/').f_flag & os.ST_RDONLY)
"""


def main() -> int:
    """Run all steps and return the exit code."""
    try:
        engine = engines.choose(standin=os.environ.get("STANDIN_BASE") == "1")
        LOG.parent.mkdir(exist_ok=True)
        say(f"building {IMAGE} with {engine.name}")
        engine.build(
            [f"--build-arg=VERSION={release.version()}", *shlex.split(os.environ.get("IMAGE_BUILD_FLAGS", ""))]
        )
        for user in (IMAGE_USER, RANDOM_USER):
            smoke(engine, user)
    except Failed as failed:
        say(str(failed))
        return 1
    return 0


def smoke(engine: Engine, user: str) -> None:
    """Start the demo as a user, check it from outside and inside, stop it."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", PORT)) == 0:
            raise Failed(f"port {PORT} is in use: stop the program that listens on it")
    began = time.monotonic()
    if (label := engine.config()["Labels"]["org.opencontainers.image.version"]) != release.version():
        raise Failed(f"the image's label has version {label}; it must be {release.version()}")
    try:
        engine.start(user)
        wait_for("/-/healthy", bool, seconds=30)
        say(f"/-/healthy responds {time.monotonic() - began:.1f} s after the start")
        engine.execute(["python", "-c", CONFINED, user])
        say(f"it runs as {user} on a read-only root")
        engine.execute(engine.config()["Healthcheck"]["Test"][1:])
        say("the HEALTHCHECK command succeeds")
        page = wait_for("/metrics", lambda body: plays_in(body) > 0, seconds=90)
        say(f"/metrics shows {plays_in(page):.0f} plays {time.monotonic() - began:.1f} s after the start")
        stop(engine)
    finally:
        engine.remove()


def stop(engine: Engine) -> None:
    """Stop the demo; Failed unless it ends by itself and cleanly."""
    began = time.monotonic()
    code = engine.stop()
    if code != 0:
        raise Failed(f"exit code {code} after SIGTERM; it must be 0")
    say(f"SIGTERM ended it after {time.monotonic() - began:.1f} s with exit code 0")


def plays_in(metrics: str) -> float:
    """All plays of all media on a page of metrics."""
    lines = metrics.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("smartstream_plays_total{"))


def wait_for(path: str, wanted: Callable[[str], bool], seconds: float) -> str:
    """Poll a page until it shows the expected text, and return it."""
    deadline = time.monotonic() + seconds
    seen = "no answer"
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}{path}", timeout=5) as answer:
                body: str = answer.read().decode()
            if wanted(body):
                return body
            seen = "unexpected content"
        except OSError as error:
            seen = str(error)
        time.sleep(0.5)
    raise Failed(f"{path} did not show the expected content within {seconds:.0f} s: {seen}")


if __name__ == "__main__":
    sys.exit(main())
