"""The web configuration while the exporter runs: files that change."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest
import structlog
import trustme
from structlog.typing import EventDict

from exporter import web as web_module
from exporter.errors import ConfigError
from exporter.httpd.address import Address
from exporter.httpd.web_config import WebConfig
from exporter.web import WebConfigWatch, WebFlags
from tests.support.certificates import PASSWORD, USER, Site, hash_of
from tests.support.processes import wait_until

LISTEN = (Address("127.0.0.1", 0),)


class Watched:
    """A watch that a test calls, and what it has put into force."""

    def __init__(self, site: Site) -> None:
        self.in_force: list[WebConfig] = []
        self.watch = WebConfigWatch(WebFlags(LISTEN, site.path))
        self.watch._configure = self.in_force.append

    def check(self, times: int = 2) -> list[EventDict]:
        """What is logged meanwhile."""
        with structlog.testing.capture_logs() as lines:
            for _ in range(times):
                self.watch.check()
        return lines


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    site.write()
    return site


def test_without_a_file_there_is_nothing_to_watch() -> None:
    """Without the flag it is plain HTTP without a password, and no thread is started."""
    watch = WebConfigWatch(WebFlags(LISTEN))
    assert watch.web == WebConfig()
    watch.start(lambda _: None)
    assert "certificates" not in {thread.name for thread in threading.enumerate()}


def test_a_bad_file_is_refused_at_the_start(site: Site) -> None:
    """There is no last good configuration then."""
    site.write(min_version="TLS1")
    with pytest.raises(ConfigError, match=r"^tls_server_config.min_version: "):
        WebConfigWatch(WebFlags(LISTEN, site.path))


def test_files_that_stay_are_not_read_again(site: Site) -> None:
    """A look at the files is all that it takes, and nothing is logged."""
    watched = Watched(site)
    assert watched.check(5) == []
    assert watched.in_force == []


@pytest.mark.parametrize("what", ["users", "certificate", "CA"])
def test_a_change_is_in_force_once_it_is_complete(site: Site, what: str) -> None:
    """Users, certificate and CA are read again, after the check that finds them as the one before did."""
    required: dict[str, Any] = {"client_ca_file": "ca.pem", "client_auth_type": "RequireAndVerifyClientCert"}
    site.write(**required)
    watched = Watched(site)
    if what == "users":
        site.write(password=PASSWORD, **required)
    elif what == "certificate":
        site.renew()
    else:
        trustme.CA().cert_pem.write_to_path(site.folder / "ca.pem")
    assert watched.check(1) == []
    [line] = watched.check(1)
    assert line == {
        "event": "the web configuration has changed",
        "log_level": "info",
        "tls": True,
        "users": int(what == "users"),
    }
    [web] = watched.in_force
    assert watched.watch.web is web
    assert web.users == ({USER: hash_of(PASSWORD)} if what == "users" else {})
    assert watched.check(3) == []


def test_half_a_file_is_not_used(site: Site) -> None:
    """A file that changes between two checks is looked at again: an empty one would need no password."""
    site.write(password=PASSWORD)
    watched = Watched(site)
    complete = site.path.read_text()
    for length in range(0, len(complete), 40):
        site.path.write_text(complete[:length])
        assert watched.check(1) == []
    site.path.write_text(complete)
    assert [line["event"] for line in watched.check()] == ["the web configuration has changed"]
    assert [web.users for web in watched.in_force] == [{USER: hash_of(PASSWORD)}]


def test_an_error_is_one_line_and_its_end_another(site: Site) -> None:
    """The last good configuration stays in force until the files can be used; each other error is one more line."""
    watched = Watched(site)
    good = (site.folder / "cert.pem").read_bytes()
    (site.folder / "cert.pem").write_bytes(good[:100])
    [line] = watched.check(5)
    assert line["log_level"] == "error"
    assert line["event"] == "cannot use the changed web configuration; the last one stays in force"
    assert line["errors"].startswith("tls_server_config.cert_file: the file ")
    assert watched.in_force == []
    site.write(password=PASSWORD, min_version="TLS1")
    [line] = watched.check(5)
    assert " | tls_server_config.min_version: " in line["errors"]
    assert hash_of(PASSWORD) not in line["errors"]
    site.write()
    (site.folder / "cert.pem").write_bytes(good)
    [line] = watched.check(5)
    assert (line["event"], line["log_level"]) == ("resolved: the web configuration is in force", "info")
    assert len(watched.in_force) == 1


def test_a_file_that_another_one_names_is_noticed(site: Site) -> None:
    """After an error the file that resolves it can be one that was not read before."""
    watched = Watched(site)
    site.write(cert_file="new.pem")
    assert [line["log_level"] for line in watched.check()] == ["error"]
    os.link(site.folder / "cert.pem", site.folder / "new.pem")
    assert [line["event"] for line in watched.check()] == ["resolved: the web configuration is in force"]
    assert site.folder / "new.pem" in watched.watch.web.files


def test_a_secret_of_kubernetes_is_followed(site: Site) -> None:
    """It is replaced by a symbolic link that points to another folder."""
    (site.folder / "one").mkdir()
    (site.folder / "two").mkdir()
    for name in ("cert.pem", "key.pem"):
        (site.folder / name).rename(site.folder / "one" / name)
    site.renew()
    for name in ("cert.pem", "key.pem"):
        (site.folder / name).rename(site.folder / "two" / name)
        (site.folder / name).symlink_to(Path("data", name))
    (site.folder / "data").symlink_to("one")
    watched = Watched(site)
    (site.folder / "data.new").symlink_to("two")
    (site.folder / "data.new").rename(site.folder / "data")
    assert [line["event"] for line in watched.check()] == ["the web configuration has changed"]


def test_a_reload_by_somebody_else_is_no_change(site: Site) -> None:
    """What `apply` has put into force is not read once more."""
    watched = Watched(site)
    web = site.load(password=PASSWORD)
    watched.watch.apply(web)
    assert watched.in_force == [web]
    assert watched.check(3) == []
    assert watched.watch.web is web


def test_the_files_are_looked_at_each_second(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread does so from the start until the stop."""
    monkeypatch.setattr(web_module, "CHECK_EVERY", 0.01)
    in_force: list[WebConfig] = []
    watch = WebConfigWatch(WebFlags(LISTEN, site.path))
    watch.start(in_force.append)
    site.write(password=PASSWORD)
    wait_until("it is in force", lambda: bool(in_force))
    watch.stop()
    wait_until("the thread has ended", lambda: "certificates" not in {each.name for each in threading.enumerate()})
