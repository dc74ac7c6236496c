"""The demo, as a user starts it."""

import signal
from pathlib import Path

from exporter.simulator.control import DEFAULT_MERCHANT
from exporter.simulator.series import World
from tests.support.processes import Program, get, python, wait_until


def test_the_demo_shows_plays(tmp_path: Path) -> None:
    """The demo prints the address to open. There, plays, a page and JSON that name the media, and documentation appear
    at once. It leaves no files.
    """
    command = [*python("-m", "exporter"), "demo", "--web.listen-address=127.0.0.1:0"]
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with Program(command, tmp_path, {"TMPDIR": str(temporary)}) as demo:
        url = demo.line(r"msg=started .*open=(http://127\.0\.0\.1:\d+/)")[1]

        def plays() -> float:
            lines = get(f"{url}metrics").text.splitlines()
            return sum(float(line.split()[-1]) for line in lines if line.startswith("smartstream_last_minute_plays{"))

        wait_until("plays are shown", lambda: plays() > 0)
        page = get(url)
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        media = World(seed=1).catalog(DEFAULT_MERCHANT).values()
        assert len(media) >= 12
        assert [each.name for each in media if each.name not in page.text] == []
        [merchant] = get(f"{url}api/v1/status").json()["merchants"]
        assert [each["name"] for each in merchant["media"]] == [each.name for each in media]
        assert get(f"{url}docs").text.startswith("# smartstream-exporter\n")
        assert "smartstream_merchant_last_minute_plays{" in get(f"{url}metrics").text
        assert len(demo.lines) == 1
        demo.send(signal.SIGTERM)
        assert demo.ended() == 0
    assert list(temporary.iterdir()) == []
