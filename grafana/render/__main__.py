"""Draw the dashboards into docs/images: `make panels`. Needs Prometheus, Chromium and npm."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from playwright.sync_api import sync_playwright

from exporter import logs
from grafana.every import documents
from grafana.render.history import MERCHANT, write_blocks
from tests.support.processes import Program, get, reserved_port

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "render"
IMAGES = ROOT / "docs" / "images"

HOURS = 6
STEP = 60

# The pictures: the number of rows of a dashboard, from the top, and the file. Maps and heat maps are Grafana's own. The
# metrics of the exporter's process would be those of the renderer, so that dashboard is only for viewing.
PICTURES = {"overview": (35, IMAGES), "media": (100, IMAGES), "exporter": (100, BUILD)}

PAGE = """<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="page.css">
<style>html, body { margin: 0; height: auto } body { font-family: Inter, "DejaVu Sans", "Noto Sans CJK JP", sans-serif }
</style><div id="root"></div>
<script>window.drawing = %s</script><script src="page.js"></script>
"""


def main() -> int:
    """Draw all pictures."""
    # Requests of the simulated hours would fill the screen.
    logs.setup("error")
    subprocess.run(["npm", "--prefix", Path(__file__).parent, "run", "--silent", "build"], check=True)
    with tempfile.TemporaryDirectory() as name, reserved_port() as port:
        folder = Path(name)
        until = time.time() // 60 * 60
        dropped = write_blocks(_program("promtool"), folder, until, HOURS)
        flags = {"storage.tsdb.path": folder / "tsdb", "web.listen-address": f"127.0.0.1:{port}"}
        (folder / "prometheus.yml").write_text("{}")
        command: list[str | Path] = [_program("prometheus"), *(f"--{flag}={value}" for flag, value in flags.items())]
        with Program(command, folder) as prometheus:
            prometheus.line("Server is ready to receive web requests")
            chosen = {"merchant": MERCHANT, "media": dropped, "job": "smartstream", "interval": "5m"}
            chosen |= {"__range": f"{HOURS}h", "__rate_interval": "2m"}
            for picture, (rows, _) in PICTURES.items():
                _write(picture, _drawing(picture, rows, f"http://127.0.0.1:{port}/api/v1/", chosen, until))
    _draw()
    return 0


def _draw() -> None:
    """Take the pictures; print the errors of a page."""
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=_program("chromium"), args=arguments)
        for picture, (_, folder) in PICTURES.items():
            page = browser.new_page(viewport={"width": 1600, "height": 1200})
            page.on("pageerror", lambda error: print(error, file=sys.stderr))
            page.goto((BUILD / f"{picture}.html").as_uri())
            page.wait_for_selector("#page canvas", state="attached")
            # Charts are drawn a few frames after they appear.
            page.wait_for_timeout(1500)
            page.locator("#page").screenshot(path=folder / f"{picture}.png")
        browser.close()


def _drawing(picture: str, rows: int, url: str, chosen: Mapping[str, str], until: float) -> dict[str, Any]:
    dashboard = json.loads(documents()[f"{picture}.json"])
    panels = [panel for panel in dashboard["panels"] if panel["gridPos"]["y"] + panel["gridPos"]["h"] <= rows]
    answers = {
        panel["id"]: {target["refId"]: _ask(url, target, chosen, until) for target in panel.get("targets", [])}
        for panel in panels
    }
    return {"panels": panels, "answers": answers, "from": until - HOURS * 3600, "to": until, "step": STEP}


def _ask(url: str, target: Mapping[str, Any], chosen: Mapping[str, str], until: float) -> Any:
    expression = target["expr"]
    for name, value in chosen.items():
        expression = expression.replace(f"${name}", value)
    if target.get("instant"):
        path = f"query?{urlencode({'query': expression, 'time': until})}"
    else:
        span = {"query": expression, "start": until - HOURS * 3600, "end": until, "step": STEP}
        path = f"query_range?{urlencode(span)}"
    answer = get(url + path).json()
    return answer["data"]["result"]


def _write(picture: str, drawing: Mapping[str, Any]) -> None:
    data = json.dumps(drawing).replace("</", "<\\/")
    (BUILD / f"{picture}.html").write_text(PAGE % data)


def _program(name: str) -> Path:
    found = shutil.which(name)
    if not found:
        sys.exit(f"{name} is missing: install it, then try again")
    return Path(found)


if __name__ == "__main__":
    sys.exit(main())
