"""Proxies and TLS of the settings, with real proxies and real certificates."""

import os
import ssl
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from exporter.api.connections import Session
from exporter.api.limits import Limit
from exporter.api.network_errors import describe
from exporter.api.transport import exchange
from exporter.config.environment import find_route
from exporter.config.settings import ApiSettings, TlsSettings
from exporter.config.tls_files import PemFile
from exporter.errors import NoAnswer
from tests.support.peer import Peer, reply
from tests.support.tls import Authority, ConnectProxy, TlsFront

SMALL = Limit(1000, 10, "a text")
PASSWORD = "hunter2"
ACCOUNT = f"user:{PASSWORD}"
NAME = "api.example.com"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the machine's own variables."""
    for name in os.environ:
        if name.lower().endswith("_proxy") or name.endswith("_CA_BUNDLE"):
            monkeypatch.delenv(name)


@pytest.fixture
def private(tmp_path: Path) -> Authority:
    """The CA of the API."""
    return Authority(tmp_path)


@pytest.fixture
def behind() -> Iterator[Peer]:
    """An API without TLS."""
    with Peer(lambda _: reply(200, "good")) as peer:
        yield peer


def port_of(peer: Peer) -> int:
    return int(peer.url.rpartition(":")[2])


def tls(**keys: Any) -> TlsSettings:
    """TLS settings, with paths for files."""
    return TlsSettings.model_validate(
        {key: PemFile(value) if isinstance(value, Path) else value for key, value in keys.items()}
    )


def api(url: str, settings: TlsSettings | None = None, **keys: Any) -> ApiSettings:
    """The settings of an API."""
    if "proxy_url" in keys:
        keys["proxy_url"] = SecretStr(keys["proxy_url"])
    return ApiSettings(url=url, tls_config=settings or TlsSettings(), **keys)


def good(settings: ApiSettings) -> bool:
    """Whether a request has an answer."""
    with Session(settings) as session:
        return exchange(session, "GET", f"{settings.url}/x", timeout=20, limit=SMALL, hide=str).packed == b'"good"'


def error_of(settings: ApiSettings) -> str:
    """The error of a request, which holds no password."""
    with Session(settings) as session, pytest.raises(NoAnswer) as caught:
        exchange(session, "GET", f"{settings.url}/x", timeout=20, limit=SMALL, hide=str)
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


# ---- the API's certificate ----


def test_a_private_ca(private: Authority, behind: Peer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`ca_file` is trusted, in place of the CAs of the exporter and of the environment."""
    with TlsFront(private.server("127.0.0.1"), port_of(behind)) as front:
        url = f"https://127.0.0.1:{front.port}"
        assert good(api(url, tls(ca_file=private.ca_file)))
        start = f"the TLS certificate of 127.0.0.1:{front.port} is not valid: "
        assert error_of(api(url)).startswith(start)
        assert error_of(api(url)).endswith("name its file in api.tls_config.ca_file or REQUESTS_CA_BUNDLE")
        other = Authority(tmp_path, "other").ca_file
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(private.ca_file))
        assert good(api(url))
        problem = error_of(api(url, tls(ca_file=other)))
        assert problem.startswith(start)
        assert problem.endswith(f"; its CA is not in {other} of api.tls_config.ca_file")
        # The setting comes first, so what the variable names does not matter.
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/none")
        assert good(api(url, tls(ca_file=private.ca_file)))


def test_the_name_in_the_certificate(private: Authority, behind: Peer) -> None:
    """The certificate must have the host of the URL, or `server_name`; the message names the setting to check."""
    with TlsFront(private.server(NAME), port_of(behind)) as front:
        url = f"https://127.0.0.1:{front.port}"
        assert good(api(url, tls(ca_file=private.ca_file, server_name=NAME)))
        assert error_of(api(url, tls(ca_file=private.ca_file))).endswith(
            "; check api.url or set api.tls_config.server_name"
        )
        problem = error_of(api(url, tls(ca_file=private.ca_file, server_name="other.example.com")))
        assert "not valid for 'other.example.com'" in problem
        assert problem.endswith("; check api.tls_config.server_name (other.example.com)")


def test_an_expired_certificate(private: Authority, behind: Peer) -> None:
    """The message says that it has expired, and suggests no other CA."""
    with TlsFront(private.server("127.0.0.1", expired=True), port_of(behind)) as front:
        problem = error_of(api(f"https://127.0.0.1:{front.port}", tls(ca_file=private.ca_file)))
    start = f"the TLS certificate of 127.0.0.1:{front.port} is not valid: certificate has expired"
    assert problem == f"{start}; it must be renewed"


def test_no_verification(private: Authority, behind: Peer) -> None:
    """`insecure_skip_verify` accepts an unknown CA and another name, whatever `ca_file` is."""
    with TlsFront(private.server(NAME), port_of(behind)) as front:
        url = f"https://127.0.0.1:{front.port}"
        assert good(api(url, tls(insecure_skip_verify=True)))
        assert good(api(url, tls(insecure_skip_verify=True, ca_file=private.ca_file)))


def test_the_lowest_version(private: Authority, behind: Peer) -> None:
    """With `min_version: TLS13`, a server that has only TLS 1.2 is refused."""
    context = private.server("127.0.0.1")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with TlsFront(context, port_of(behind)) as front:
        url = f"https://127.0.0.1:{front.port}"
        assert good(api(url, tls(ca_file=private.ca_file)))
        problem = error_of(api(url, tls(ca_file=private.ca_file, min_version="TLS13")))
        assert problem == f"TLS with 127.0.0.1:{front.port} failed: TLSV1_ALERT_PROTOCOL_VERSION"


# ---- the client certificate ----


def test_a_client_certificate(private: Authority, behind: Peer, tmp_path: Path) -> None:
    """A server that requires a client certificate gets it; without one, or with one it does not accept, the message
    names the setting and the file.
    """
    certificate, key = private.client()
    other, other_key = Authority(tmp_path, "other").client()
    with TlsFront(private.server("127.0.0.1", clients=private), port_of(behind)) as front:
        url, host = f"https://127.0.0.1:{front.port}", f"127.0.0.1:{front.port}"
        assert good(api(url, tls(ca_file=private.ca_file, cert_file=certificate, key_file=key)))
        assert front.peers == [["client@example.com"]]
        problem = error_of(api(url, tls(ca_file=private.ca_file)))
        assert problem == f"{host} requires a client certificate; set api.tls_config.cert_file and key_file"
        problem = error_of(api(url, tls(ca_file=private.ca_file, cert_file=other, key_file=other_key)))
        assert problem == (
            f"{host} refuses the client certificate {other} of api.tls_config.cert_file (unknown ca); "
            "check which certificates the server accepts"
        )
    assert len(behind.requests) == 1


def test_an_expired_client_certificate(private: Authority, behind: Peer, tmp_path: Path) -> None:
    """The server's refusal is shown with the file to renew."""
    certificate, key = private.client("expired", expired=True)
    with TlsFront(private.server("127.0.0.1", clients=private), port_of(behind)) as front:
        problem = error_of(
            api(f"https://127.0.0.1:{front.port}", tls(ca_file=private.ca_file, cert_file=certificate, key_file=key))
        )
    assert problem.endswith(f"certificate {certificate} of api.tls_config.cert_file (certificate expired); renew it")


def test_files_that_change(private: Authority, behind: Peer, tmp_path: Path) -> None:
    """A new connection uses what is in the files then; a file that is missing then is named."""
    certificate, key = private.client()
    other = Authority(tmp_path, "other")
    renewed, renewed_key = other.client("renewed")
    url_tls = tls(ca_file=private.ca_file, cert_file=certificate, key_file=key)
    with TlsFront(private.server("127.0.0.1", clients=private), port_of(behind)) as front:
        settings = api(f"https://127.0.0.1:{front.port}", url_tls)
        with Session(settings) as session:

            def ask() -> int:
                answer = exchange(session, "GET", settings.url, timeout=20, limit=SMALL, hide=str)
                session.close()
                return answer.status

            assert ask() == 200
            front.context = other.server("127.0.0.1", clients=other)
            for old, new in ((private.ca_file, other.ca_file), (certificate, renewed), (key, renewed_key)):
                old.write_bytes(new.read_bytes())
            assert ask() == 200
            assert front.peers == [["client@example.com"], ["renewed@example.com"]]
            key.unlink()
            with pytest.raises(NoAnswer) as caught:
                ask()
            assert str(caught.value).startswith(
                f"cannot use the client certificate: api.tls_config.key_file: {key} cannot be read: No such file"
            )
            private.ca_file.write_text("")
            with pytest.raises(NoAnswer) as caught:
                ask()
            start = f"cannot check TLS certificates: api.tls_config.ca_file: {private.ca_file} is empty"
            assert str(caught.value).startswith(start)


# ---- the proxy ----


def through(proxy: ConnectProxy, account: str = ACCOUNT, scheme: str = "http") -> str:
    """The URL of a proxy."""
    return f"{scheme}://{account}@127.0.0.1:{proxy.port}" if account else f"{scheme}://127.0.0.1:{proxy.port}"


def test_a_proxy_with_a_password(private: Authority, behind: Peer) -> None:
    """The tunnel goes through the proxy of `proxy_url`, whose account is a secret of the session."""
    certificate, key = private.client()
    files = tls(ca_file=private.ca_file, cert_file=certificate, key_file=key)
    with (
        TlsFront(private.server(NAME, clients=private), port_of(behind)) as front,
        ConnectProxy(ACCOUNT, where=lambda _: front.port) as proxy,
    ):
        settings = api(f"https://{NAME}", files, proxy_url=through(proxy))
        assert good(settings)
        assert proxy.tunnels == [f"{NAME}:443"]
        assert front.peers == [["client@example.com"]]
        with Session(settings) as session:
            assert session.secrets[0] == PASSWORD
        assert PASSWORD not in repr(settings)
        shown = f"the proxy http://127.0.0.1:{proxy.port} of api.proxy_url"
        for account in ("", f"user:not-{PASSWORD}"):
            problem = error_of(api(f"https://{NAME}", files, proxy_url=through(proxy, account)))
            fix = "write both into api.proxy_url, as http://user:password@host:port"
            assert problem == f"{shown} refuses the request (407): its user or password is missing or wrong; {fix}"
        assert proxy.refused == 2


def test_a_proxy_with_tls(private: Authority, behind: Peer, tmp_path: Path) -> None:
    """TLS to the proxy uses the same CA, but neither `server_name` nor the client certificate."""
    certificate, key = private.client()
    files = {"cert_file": certificate, "key_file": key, "server_name": NAME}
    context = private.server("127.0.0.1")
    with (
        TlsFront(private.server(NAME, clients=private), port_of(behind)) as front,
        ConnectProxy(ACCOUNT, context=context, where=lambda _: front.port) as proxy,
    ):
        url = through(proxy, scheme="https")
        assert good(api("https://other.example.com", tls(ca_file=private.ca_file, **files), proxy_url=url))
        assert proxy.tunnels == ["other.example.com:443"]
        other = Authority(tmp_path, "other").ca_file
        problem = error_of(api(f"https://{NAME}", tls(ca_file=other, **files), proxy_url=url))
        assert problem.startswith(
            f"the TLS certificate of the proxy https://127.0.0.1:{proxy.port} of api.proxy_url is not valid: "
        )
        assert f"; its CA is not in {other} of api.tls_config.ca_file" in problem


def test_a_proxy_that_is_down() -> None:
    """The message names the proxy and the setting."""
    problem = error_of(api(f"https://{NAME}", proxy_url=f"http://{ACCOUNT}@127.0.0.1:1"))
    shown = "the proxy http://127.0.0.1:1 of api.proxy_url"
    assert problem == f"{shown} refused the connection; check the proxy and the setting"


def test_hosts_without_the_proxy(private: Authority, behind: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """`no_proxy` is that of `proxy_url`, `NO_PROXY` that of the environment; the setting comes first, also for
    loopback addresses.
    """
    with TlsFront(private.server("127.0.0.1"), port_of(behind)) as front, ConnectProxy(ACCOUNT) as proxy:
        url, files = f"https://127.0.0.1:{front.port}", tls(ca_file=private.ca_file)
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("NO_PROXY", "*")
        assert good(api(url, files, proxy_url=through(proxy)))
        assert len(proxy.tunnels) == 1
        for hosts in ("127.0.0.1", "example.com, 127.0.0.0/8", "*"):
            assert good(api(url, files, proxy_url=through(proxy), no_proxy=hosts))
        assert good(api(url, files))
        assert len(proxy.tunnels) == 1
        assert good(api(url, files, proxy_url=through(proxy), no_proxy="127.0.0.2,example.com"))
        assert len(proxy.tunnels) == 2


def test_proxies_of_the_environment_can_be_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `proxy_from_environment: false`, requests go directly to the API."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    with Session(api(f"https://{NAME}")) as session:
        assert str(session.route.proxy) == "the proxy http://127.0.0.1:1 of HTTPS_PROXY"
    with Session(api(f"https://{NAME}", proxy_from_environment=False)) as session:
        assert session.route.proxy is None


@pytest.mark.parametrize("reason", [None, "SSLV3_ALERT_HANDSHAKE_FAILURE", "UNEXPECTED_EOF_WHILE_READING"])
def test_a_server_that_says_nothing_of_a_client_certificate(reason: str | None) -> None:
    """Some servers end the connection without a word, or with a general one: the message names what may be missing."""
    error = ssl.SSLError(1, "failed")
    error.reason = reason  # type: ignore[assignment]  # as OpenSSL leaves it out
    message = describe(error, "https://api.example.com/v1", 10.0, find_route(ApiSettings(), {}))
    assert message.startswith("TLS with api.example.com failed: ")
    assert "None" not in message
    assert message.endswith("; if it requires a client certificate, set api.tls_config.cert_file and key_file")


def test_a_port_without_tls() -> None:
    """The message names the setting."""
    error = ssl.SSLError(1, "failed")
    error.reason = "WRONG_VERSION_NUMBER"
    message = describe(error, "https://api.example.com/v1", 10.0, find_route(ApiSettings(), {}))
    assert message.endswith("it does not speak TLS on this port; check the scheme and the port in api.url")
