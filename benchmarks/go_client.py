"""Scrapes of Go's Prometheus client, client_golang, to compare with.

Its program, `golang/scrape.go`, is built where Go and Debian's package of client_golang are installed.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

SOURCE = Path(__file__).parent / "golang" / "scrape.go"

# Debian's package golang-github-prometheus-client-golang-dev installs below this.
_LIBRARIES = Path("/usr/share/gocode")
_CLIENT = _LIBRARIES / "src" / "github.com" / "prometheus" / "client_golang"

HOW_TO_INSTALL = "apt-get install golang-go golang-github-prometheus-client-golang-dev"

# CPU seconds of a scrape with these values of Accept and Accept-Encoding.
Scrape = Callable[[str, str], float]


def compiler() -> str:
    """The path of Go; "" if it or the client is not installed."""
    return shutil.which("go") or "" if _CLIENT.exists() else ""


@contextlib.contextmanager
def serving(go: str, page: bytes, folder: Path) -> Iterator[Scrape]:
    """The program with the series of a page in the text format, as long as the block runs.

    Args:
        go: From `compiler`.
        page: The page.
        folder: A folder for its files.
    """
    program, text = folder / "go-client", folder / "page.txt"
    text.write_bytes(page)
    environment = {
        **os.environ,
        "GO111MODULE": "off",
        "GOPATH": str(_LIBRARIES),
        "GOCACHE": str(folder / "go-cache"),
        "GOFLAGS": "",
    }
    subprocess.run([go, "build", "-o", program, SOURCE], check=True, env=environment)
    with subprocess.Popen([program, text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def scrape(accept: str, encoding: str) -> float:
            if process.stdin is None or process.stdout is None:
                raise RuntimeError("no pipes")
            process.stdin.write(f"{accept}\t{encoding}\n")
            process.stdin.flush()
            seconds, size = process.stdout.readline().split()
            if int(size) == 0:
                raise RuntimeError("Go's client sends an empty page")
            return float(seconds)

        try:
            yield scrape
        finally:
            if process.stdin is not None:
                process.stdin.close()
