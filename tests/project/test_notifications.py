"""The templates for e-mail, Slack and PagerDuty, rendered by amtool, and sent by a real Alertmanager."""

import email
import email.policy
import json
import socketserver
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from tests.support.processes import Alertmanager, Webhook, reserved_port, wait_until

PROMETHEUS = Path(__file__).parents[2] / "prometheus"
TEMPLATES = PROMETHEUS / "templates" / "*.tmpl"
EXAMPLE = PROMETHEUS / "receivers.example.yml"

SUBJECTS = ["email.subject", "slack.title", "pagerduty.description"]

NEWS = "朝のニュース: plays are 80% below expected since 20:14 (Asia/Tokyo), about 480 plays missing"

# Alertmanager writes `&` in a URL of HTML so.
PAGE = "https://example.com/media?merchant=m&media=v"


def alert(name: str, status: str = "firing", labels: Mapping[str, str] | None = None, **texts: str) -> dict[str, Any]:
    """An alert as a template gets it."""
    return {
        "status": status,
        "labels": {"alertname": f"Smartstream{name}", "severity": "critical", "merchant_id": "m", **(labels or {})},
        "annotations": texts,
        "startsAt": "2026-11-28T11:17:00Z",
        "endsAt": "2026-11-28T14:20:00Z" if status == "resolved" else "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus:9090/graph",
        "fingerprint": "0",
    }


def drop(status: str = "firing", **texts: str) -> dict[str, Any]:
    """The alert on a media with a Japanese name."""
    given = {
        "summary": NEWS,
        "description": "120.0 plays per minute expected, about 24.0 counted. Merchant m, media v.",
        "exporter_url": PAGE,
        "dashboard_url": "",
        "runbook_url": "https://example.com/runbook.md#smartstreamplaysdropcritical",
    }
    return alert("PlaysDropCritical", status, {"media_id": "v"}, **{**given, **texts})


def common(alerts: Sequence[Mapping[str, Any]], key: str) -> dict[str, str]:
    """What all alerts have."""
    return dict(set.intersection(*(set(each[key].items()) for each in alerts)))


@pytest.fixture
def render(amtool_bin: Path, tmp_path: Path) -> Any:
    def rendered(template: str, *alerts: dict[str, Any], html: bool = False, data: str = ".") -> str:
        status = "firing" if any(each["status"] == "firing" for each in alerts) else "resolved"
        path = tmp_path / "data.json"
        path.write_text(
            json.dumps(
                {
                    "receiver": "team",
                    "status": status,
                    "alerts": alerts,
                    "groupLabels": {"merchant_id": "m"},
                    "commonLabels": common(alerts, "labels"),
                    "commonAnnotations": common(alerts, "annotations"),
                    "externalURL": "http://alertmanager:9093",
                }
            )
        )
        text = f'{{{{ template "smartstream.{template}" {data} }}}}'
        flags = [f"--template.glob={TEMPLATES}", f"--template.text={text}", f"--template.data={path}"]
        kind = "--template.type=html" if html else "--template.type=text"
        run = subprocess.run(
            [amtool_bin, "template", "render", *flags, kind], capture_output=True, text=True, check=False
        )
        assert (run.returncode, run.stderr) == (0, "")
        return run.stdout.strip()

    return rendered


@pytest.mark.parametrize("template", SUBJECTS)
def test_the_subject_names_the_media_the_onset_and_the_plays(render: Any, template: str) -> None:
    """It is one line with the severity, for one alert, for several and for a resolved one."""
    assert render(template, drop()) == f"[CRITICAL] {NEWS}"
    assert render(template, drop("resolved")) == f"[RESOLVED] {NEWS}"
    stale = alert("DataStale", labels={"severity": "warning"}, summary="m: no new rows for 20m 30s")
    assert render(template, drop(), stale) == f"[ALERT] {NEWS} (1 of 2 alerts of m)"
    # Of a group of which one alert lasts, the subject shows that one.
    ended = drop("resolved", summary="Evening news: plays are 90% below expected")
    assert render(template, ended, drop()) == f"[CRITICAL] {NEWS}"


@pytest.mark.parametrize("template", SUBJECTS)
def test_an_alert_without_annotations_has_a_subject(render: Any, template: str) -> None:
    """The labels say what it is about."""
    assert render(template, alert("PlaysDrop", labels={"media_id": "v"})) == "[CRITICAL] SmartstreamPlaysDrop, m, v"
    down = alert("ExporterDown", labels={"instance": "x"})
    del down["labels"]["merchant_id"], down["labels"]["severity"]
    assert render(template, down) == "[ALERT] SmartstreamExporterDown, x"


# Each template of a body, whether it is HTML, and what it gets.
with_each_body = pytest.mark.parametrize(
    ("template", "html", "data"),
    [
        ("email.text", False, "."),
        ("email.html", True, "."),
        ("slack.text", False, "."),
        ("pagerduty.alerts", False, ".Alerts.Firing"),
    ],
)


@with_each_body
def test_the_body_has_every_alert_with_its_links(render: Any, template: str, html: bool, data: str) -> None:
    """Each alert has its summary, its description and the links that are not empty."""
    other = drop(summary="Evening <b>&</b> news", exporter_url="", dashboard_url="https://grafana.example.com/d/x")
    body = render(template, drop(), other, html=html, data=data)
    escaped = html or template == "slack.text"
    for part in (
        NEWS,
        "Evening &lt;b&gt;&amp;&lt;/b&gt; news" if escaped else "Evening <b>&</b> news",
        "about 24.0 counted",
        PAGE.replace("&", "&amp;") if escaped else PAGE,
        "https://grafana.example.com/d/x",
    ):
        assert part in body
    # An empty link is not shown.
    assert body.count("Plays") == 1
    assert body.count("Dashboard") == 1
    assert body.count("What to do") == 2


@with_each_body
def test_a_body_without_annotations_has_no_gaps(render: Any, template: str, html: bool, data: str) -> None:
    """Missing annotations leave no template error, no empty link and no word such as `<no value>`."""
    body = render(template, alert("PlaysDrop"), html=html, data=data)
    assert "SmartstreamPlaysDrop, m" in body
    assert "no value" not in body
    assert "Plays</a>" not in body
    assert 'href=""' not in body
    assert "<|" not in body


@pytest.mark.parametrize(("template", "html"), [("email.text", False), ("email.html", True), ("slack.text", False)])
def test_resolved_alerts_are_told_apart(render: Any, template: str, html: bool) -> None:
    """A resolved alert says that its text is the last state: it is not read as a drop that lasts."""
    body = render(template, drop("resolved"), html=html)
    assert "Resolved, with their last state" in body
    assert "Firing" not in body
    mixed = render(template, drop(), drop("resolved", summary="Evening news: down"), html=html)
    assert mixed.index(NEWS) < mixed.index("Resolved, with their last state") < mixed.index("Evening news")


def test_pagerduty_gets_a_severity_that_it_knows(render: Any) -> None:
    """Whatever is not known to be less is critical."""
    for given, expected in (("warning", "warning"), ("info", "info"), ("critical", "critical"), ("", "critical")):
        each = alert("PlaysDrop", labels={"severity": given})
        assert render("pagerduty.severity", each) == expected


def test_a_name_cannot_notify_a_whole_channel(render: Any) -> None:
    """Slack shows a name as it is, and does not act on it."""
    for template in ("slack.title", "slack.text"):
        assert "&lt;!channel&gt; &amp; co" in render(template, drop(summary="<!channel> & co: plays are down"))


def test_the_example_of_receivers_is_valid(amtool_bin: Path) -> None:
    """`amtool check-config` accepts it, and finds the templates."""
    run = subprocess.run([amtool_bin, "check-config", EXAMPLE], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 templates" in run.stdout


def test_the_example_fits_the_routes() -> None:
    """Its receivers have the names of those in alertmanager.yml, so they can replace them."""
    routed = yaml.safe_load((PROMETHEUS / "alertmanager.yml").read_text())
    names = {receiver["name"] for receiver in yaml.safe_load(EXAMPLE.read_text())["receivers"]}
    assert names == {receiver["name"] for receiver in routed["receivers"]} - {"nobody"}
    assert routed["templates"] == ["templates/*.tmpl"]


class MailServer:
    """An SMTP server that keeps every mail, as a context manager.

    Attributes:
        port: The port of 127.0.0.1 on which it listens.
        mails: The mails, in the order of arrival.
    """

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        mails = self.mails

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(b"220 ready\r\n")
                for line in self.rfile:
                    command = line[:4].upper()
                    if command == b"DATA":
                        self.wfile.write(b"354 go on\r\n")
                        mail = b"".join(iter(self.rfile.readline, b".\r\n"))
                        mails.append(email.message_from_bytes(mail, policy=email.policy.default))
                    self.wfile.write(b"221 bye\r\n" if command == b"QUIT" else b"250 ok\r\n")

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


@pytest.mark.real_time
def test_alertmanager_sends_all_three(alertmanager_bin: Path, tmp_path: Path, mail_server: MailServer) -> None:
    """A real Alertmanager with the example's receivers sends a mail, a Slack message and a PagerDuty event whose titles
    name the media, also when the alert is resolved.
    """
    with Webhook() as webhook, reserved_port() as port:
        config = yaml.safe_load(EXAMPLE.read_text())
        config["global"] = {
            "smtp_smarthost": f"127.0.0.1:{mail_server.port}",
            "smtp_from": "alertmanager@example.com",
            "smtp_require_tls": False,
        }
        config["templates"] = [str(TEMPLATES)]
        config["route"] = {"receiver": "all", "group_by": ["merchant_id"], "group_wait": "1s", "group_interval": "1s"}
        team, pager = config["receivers"]
        del team["slack_configs"][0]["api_url_file"], pager["pagerduty_configs"][0]["routing_key_file"]
        team["slack_configs"][0]["api_url"] = f"{webhook.url}/slack"
        pager["pagerduty_configs"][0] |= {"routing_key": "key", "url": f"{webhook.url}/pagerduty"}
        config["receivers"] = [{**team, **pager, "name": "all"}]
        given = drop()
        posted = {"labels": given["labels"], "annotations": given["annotations"]}
        with Alertmanager(alertmanager_bin, tmp_path, port, config) as alertmanager:
            alertmanager.post([posted])
            wait_until("all three are sent", lambda: len(webhook.received) == 2 and len(mail_server.mails) == 1)
            ended = datetime.now(UTC) - timedelta(seconds=1)
            alertmanager.post([{**posted, "endsAt": ended.isoformat()}])
            wait_until("all are sent again", lambda: len(webhook.received) == 4 and len(mail_server.mails) == 2)
    bodies = {
        "slack": [body for path, body in webhook.received if path == "/slack"],
        "pagerduty": [body for path, body in webhook.received if path == "/pagerduty"],
    }
    for place, state in enumerate(("CRITICAL", "RESOLVED")):
        mail = mail_server.mails[place]
        assert mail["Subject"] == f"[{state}] {NEWS}"
        html, text = mail.get_body(("html",)), mail.get_body(("plain",))
        assert html is not None
        assert text is not None
        assert NEWS in html.get_content()
        assert PAGE in text.get_content()
        (message,) = bodies["slack"][place]["attachments"]
        assert message["title"] == f"[{state}] {NEWS}"
        assert message["title_link"] == PAGE
    fired, resolved = bodies["pagerduty"]
    assert (fired["event_action"], resolved["event_action"]) == ("trigger", "resolve")
    assert fired["payload"]["summary"] == f"[CRITICAL] {NEWS}"
    assert fired["payload"]["severity"] == "critical"
    assert NEWS in fired["payload"]["custom_details"]["firing"]
