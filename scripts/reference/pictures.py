"""`python -m reference.pictures`: take a screenshot of the demo's status page during a drop of one media.

This takes some minutes, because the drop detector needs some minutes of plays.
"""

import contextlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import requests
import yaml
from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "status.png"

# Milliseconds.
PATIENCE = 20 * 60 * 1000


def main() -> int:
    """Take the screenshot.

    Returns:
        The exit code.
    """
    chromium = shutil.which("chromium")
    if chromium is None:
        print("chromium is missing: apt-get install --no-install-recommends chromium", file=sys.stderr)
        return 1
    with _demo() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1200, "height": 1180})
        page.goto(url)
        page.locator(".media .spark").first.wait_for(timeout=PATIENCE)
        _break(url, drop_of=0)
        page.locator(".state.critical").first.wait_for(timeout=PATIENCE)
        page.screenshot(path=PICTURE)
        browser.close()
    return 0


@contextlib.contextmanager
def _demo() -> Iterator[str]:
    """Run the demo; yield its URL."""
    command = [sys.executable, "-m", "exporter", "demo", "--web.listen-address=127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield next(
                found[1] for line in process.stderr or () if (found := re.search(r"msg=started .*open=(\S+)", line))
            )
        finally:
            process.terminate()


def _break(url: str, drop_of: int) -> None:
    """Inject a drop of the plays of a media."""
    settings = yaml.safe_load(requests.get(f"{url}config", timeout=10).text)
    media = settings["merchants"][0]["media"][drop_of]["id"]
    faults = f"{settings['api']['url'].removesuffix('/v1')}/control/faults"
    requests.post(faults, data=json.dumps({"drop": {media: 0.15}}), timeout=10).raise_for_status()


if __name__ == "__main__":
    sys.exit(main())
