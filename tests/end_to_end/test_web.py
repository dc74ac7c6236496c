"""TLS and passwords with the real programs: curl, Prometheus, Chromium."""

import base64
import contextlib
import http.client
import json
import re
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Error, expect
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

from exporter.httpd.address import Address
from exporter.httpd.messages import Handler
from exporter.httpd.web_config import WebConfig
from exporter.serving.exposition import Exposition
from exporter.serving.routes import create_app, make_server
from exporter.views import Snapshot
from tests.support.browser import chromium, visit
from tests.support.certificates import PASSWORD, USER, Site, hash_of
from tests.support.examples import example_jobs
from tests.support.processes import PATIENCE, Daemon, Prometheus, configuration, python, reserved_port, wait_until

ROOT = Path(__file__).parents[2]

# Polls nothing that answers: these tests are about the other side.
CONFIG = configuration("http://127.0.0.1:9/v1")

pytestmark = pytest.mark.real_time


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@contextlib.contextmanager
def exporter(site: Site, *flags: str) -> Iterator[tuple[Daemon, str]]:
    """The exporter with the web configuration of a site, and its URL without the final slash."""
    with Daemon(site.folder, CONFIG, f"--web.config.file={site.path}", "--log.level=debug", *flags) as daemon:
        yield daemon, daemon.line(r"\bmsg=started\b.* open=(\S+)/( |$)")[1]


def curl(*arguments: str | Path) -> tuple[int, str, str]:
    """The exit code of curl, the HTTP status and the body."""
    run = subprocess.run(
        ["curl", "--silent", "--noproxy", "*", "--max-time", "60", "--write-out", "\n%{http_code}", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    body, _, status = run.stdout.rpartition("\n")
    return run.returncode, status, body


def test_curl_needs_the_ca_and_the_password(site: Site) -> None:
    """Over TLS, every path asks for the password; the URL in the log is https; nothing secret is in the log."""
    site.write(password=PASSWORD, headers={"Strict-Transport-Security": "max-age=1"})
    with exporter(site) as (daemon, url):
        assert url.startswith("https://127.0.0.1:")
        ca = ("--cacert", site.folder / "ca.pem")
        right = (*ca, "--user", f"{USER}:{PASSWORD}")
        for path, text in (("/metrics", "smartstream_build_info"), ("/-/healthy", "healthy"), ("/", "<!DOCTYPE html>")):
            assert curl(*ca, url + path)[1] == "401"
            assert curl(*ca, "--user", f"{USER}:wrong", url + path)[1] == "401"
            code, status, body = curl(*right, url + path)
            assert (code, status) == (0, "200")
            assert text in body
        assert curl(url)[0] == 60
        plain = url.replace("https", "http")
        assert curl(plain) == (0, "400", "this is an HTTPS server, use https://\n")
        head = curl(*ca, "--head", url)[2]
        assert "HTTP/1.1 401 Unauthorized" in head
        assert "www-authenticate: Basic\n" in head
        assert "strict-transport-security: max-age=1\n" in head
        assert "TLS handshake failed" in daemon.output
        log = daemon.output
    encoded = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    for secret in (PASSWORD, encoded, hash_of(PASSWORD), "Traceback"):
        assert secret not in log
    assert "level=error" not in log


def test_curl_needs_a_certificate(site: Site) -> None:
    """Where clients need a certificate, curl gets an answer with one of the CA, and none without."""
    site.write(client_auth_type="RequireAndVerifyClientCert", client_ca_file="ca.pem")
    certificate, key = site.client_files("prometheus.example")
    with exporter(site) as (_, url):
        ca = ("--cacert", site.folder / "ca.pem")
        code, status, _ = curl(*ca, url + "/-/healthy")
        assert code != 0
        assert status == "000"
        assert curl(*ca, "--cert", certificate, "--key", key, url + "/-/healthy") == (0, "200", "healthy\n")


def test_addresses_and_the_path_of_the_metrics(tmp_path: Path) -> None:
    """Every address is served, and the log names the first; the metrics are at their path only, and the page links to
    it.
    """
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(reserved_port()) for _ in range(2)]
        more = [f"--web.listen-address=127.0.0.1:{port}" for port in ports]
        daemon = stack.enter_context(Daemon(tmp_path, CONFIG, *more, "--web.telemetry-path=/stats/plays"))
        first = daemon.line(r"\bmsg=started\b.* open=(\S+)/( |$)")[1]
        for url in (first, *(f"http://127.0.0.1:{port}" for port in ports)):
            assert curl(url + "/-/healthy")[1] == "200"
            assert "smartstream_build_info" in curl(url + "/stats/plays")[2]
            assert curl(url + "/metrics")[1] == "404"
            assert '<a href="stats/plays">Metrics</a>' in curl(url)[2]


def test_a_bad_web_configuration_ends_the_start(site: Site) -> None:
    """Every error is a line on standard error, with exit code 1, and no state file is created."""
    site.path.write_text("tls_server_config: {cert_file: cert.pem}\nbasic_auth_users: {a: plain-text}\n")
    with Daemon(site.folder, CONFIG, f"--web.config.file={site.path}") as daemon:
        assert daemon.ended() == 1
        assert [line.partition(": ")[0] for line in daemon.lines] == [
            "tls_server_config.key_file",
            "basic_auth_users.a",
        ]
        assert "plain-text" not in daemon.output
    assert not (site.folder / "state.db").exists()


def test_files_are_replaced_while_it_runs(site: Site) -> None:
    """A new certificate is for new connections; an open one goes on. A broken one changes nothing. Other users count at
    once.
    """
    site.write(password=PASSWORD)
    with exporter(site) as (daemon, url):
        port, context = int(url.rpartition(":")[2]), site.client()

        def certificate() -> str:
            return ssl.get_server_certificate(("127.0.0.1", port))

        def status(password: str, connection: http.client.HTTPSConnection | None = None) -> int:
            to = connection or http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=PATIENCE)
            header = base64.b64encode(f"{USER}:{password}".encode()).decode()
            with contextlib.nullcontext() if connection else contextlib.closing(to):
                to.request("GET", "/-/healthy", headers={"Authorization": f"Basic {header}"})
                response = to.getresponse()
                response.read()
                return response.status

        old = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=PATIENCE)
        with contextlib.closing(old):
            assert status(PASSWORD, old) == 200
            opened, first = old.sock, certificate()
            site.renew()
            wait_until("new connections see the new certificate", lambda: certificate() != first)
            second = certificate()
            assert (status(PASSWORD), status(PASSWORD, old)) == (200, 200)
            (site.folder / "key.pem").write_text("broken")
            daemon.line("level=error msg=.cannot use the changed web configuration.*tls_server_config.key_file")
            assert certificate() == second
            site.renew()
            daemon.line("msg=.resolved: the web configuration is in force")
            assert certificate() not in (first, second)
            site.write(password="another")
            wait_until("the new password counts", lambda: status("another") == 200)
            assert (status(PASSWORD), status(PASSWORD, old), status("another", old)) == (401, 401, 200)
            assert old.sock is opened
        assert daemon.output.count("level=error") == 1


def test_prometheus_scrapes_over_https_with_a_password(prometheus_bin: Path, site: Site) -> None:
    """With the CA and a password file it is up; the job is the one of the example. With a wrong password it is down."""
    site.write(password=PASSWORD)
    (site.folder / "password").write_text(PASSWORD)
    (site.folder / "wrong").write_text("wrong")
    with exporter(site) as (_, url), reserved_port() as port:
        [example] = [each for each in example_jobs() if each.get("scheme") == "https"]

        def job(name: str, password_file: str) -> dict[str, Any]:
            return {
                **example,
                "job_name": name,
                "basic_auth": {**example["basic_auth"], "username": USER, "password_file": password_file},
                "tls_config": {"ca_file": str(site.folder / "ca.pem")},
                "static_configs": [{"targets": [url.removeprefix("https://")]}],
            }

        jobs = [job("right", "password"), job("wrong", "wrong")]
        config = {"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}
        with Prometheus(prometheus_bin, site.folder, port, config) as prometheus:
            wait_until("both have been scraped", lambda: len(prometheus.query("up")) == 2)
            wait_until(
                "the one with the right password is up",
                lambda: (
                    {each["metric"]["job"]: each["value"][1] for each in prometheus.query("up")}
                    == {"right": "1", "wrong": "0"}
                ),
            )
            assert [each["metric"]["job"] for each in prometheus.query("smartstream_build_info")] == ["right"]


def test_a_browser_signs_in(chromium_bin: Path, site: Site) -> None:
    """Chromium shows the page over https with the password, follows its links and refreshes it; it reports nothing."""
    site.write(password=PASSWORD, headers={"Strict-Transport-Security": "max-age=1", "X-Frame-Options": "deny"})
    credentials = {"username": USER, "password": PASSWORD}
    with exporter(site) as (_, url), chromium(chromium_bin) as browser:
        options: dict[str, Any] = {"ignore_https_errors": True, "http_credentials": credentials}
        with visit(browser, f"{url}/", fake_clock=True, **options) as shown:
            expect(shown.page).to_have_title(re.compile("SmartSTREAM exporter"))
            with shown.page.expect_response(lambda response: response.request.resource_type == "fetch") as renewed:
                shown.page.clock.run_for(11_000)
            assert renewed.value.status == 200
            shown.page.get_by_role("link", name="JSON").click()
            assert json.loads(shown.page.inner_text("body"))["merchants"]
            assert shown.problems == []
        options = {"ignore_https_errors": True}
        with pytest.raises(Error, match="ERR_INVALID_AUTH_CREDENTIALS"), visit(browser, f"{url}/", **options):
            pass


class Many(Collector):
    """100,000 series."""

    def collect(self) -> Iterator[Metric]:
        family = Metric("many", "Many.", "gauge")
        for number in range(100_000):
            family.add_sample("many", {"number": str(number), "text": "x" * 40}, number)
        yield family


def _app() -> Handler:
    registry = CollectorRegistry()
    registry.register(Many())
    return create_app(
        Exposition(registry, Snapshot, lambda: 0.0, lambda: 0.0).render,
        healthy=lambda: None,
        ready=lambda: None,
        page=lambda _: "",
        media_page=lambda *_: None,
        status_json=lambda _: "",
        config_text=lambda: "",
        docs=lambda: "",
        reload=lambda: (),
    )


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_100_000_series_are_complete(site: Site, encoding: str) -> None:
    """Over TLS, curl gets the same page as without."""
    app, bodies = _app(), []
    for web in (WebConfig(), site.load()):
        server = make_server(app, [Address("127.0.0.1", 0)], web=web)
        server.start()
        try:
            asked = ("--header", f"Accept-Encoding: {encoding}", "--compressed", "--cacert", site.folder / "ca.pem")
            code, status, body = curl(*asked, f"{server.url}metrics")
        finally:
            server.stop()
        assert (code, status) == (0, "200")
        bodies.append(body)
    assert bodies[0] == bodies[1]
    assert bodies[1].count("\nmany{") == 100_000


@pytest.mark.parametrize(
    ("settings", "healthy"),
    [
        ({"tls": False}, True),
        ({}, True),
        ({"password": PASSWORD}, True),
        ({"tls": False, "password": PASSWORD}, True),
        ({"client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": "ca.pem"}, False),
    ],
)
def test_the_health_check_of_the_image(site: Site, settings: dict[str, Any], healthy: bool) -> None:
    """It works with TLS and with a password. Where clients need a certificate, users need a check of their own."""
    program = health_check()
    server = make_server(_app(), [Address("127.0.0.1", 0)], web=site.load(**settings))
    command = python("-c", program.replace("10077", str(server.address.port)))
    server.start()
    try:
        ended = subprocess.run(command, capture_output=True, check=False).returncode
    finally:
        server.stop()
    assert (ended == 0) == healthy
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


def health_check() -> str:
    """The Python program of the Dockerfile's HEALTHCHECK, as an engine reads it."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    [command] = re.findall(r"^HEALTHCHECK .*CMD (\[.*\])$", text, re.MULTILINE)
    interpreter, option, program = json.loads(command)
    assert (interpreter, option) == ("python", "-c")
    return str(program)
