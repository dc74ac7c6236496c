"""Proxies and CA certificates of the environment: impossible values are refused, failures are named."""

import os
import socket
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path

import pytest
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from exporter.api.connections import Session
from exporter.api.limits import Limit
from exporter.api.transport import Answer, exchange
from exporter.config.environment import Route, find_route
from exporter.config.settings import ApiSettings
from exporter.errors import ConfigError, NoAnswer
from tests.support.peer import CERTIFICATE, Peer, Request, Script, drip, reply
from tests.support.processes import Daemon, configuration

SMALL = Limit(1000, 10, "a text")

SECRET = "hunter2"
API = "https://api.example.com/v1"
PLAIN = "http://api.example.com/v1"
EXAMPLE = "write one such as http://proxy.example.com:3128"
NO_ADDRESS = f"is not the address of a proxy; {EXAMPLE}, and special characters of a password as %XX"
CERTIFICATES = "name a file with CA certificates in PEM form, or unset the variable"
WRITE_BOTH = "write both into HTTPS_PROXY, as http://user:password@host:port"

# An address on which nothing listens.
DEAD = "127.0.0.1:1"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the machine's own variables."""
    for name in os.environ:
        if name.lower().endswith("_proxy") or name.endswith("_CA_BUNDLE"):
            monkeypatch.delenv(name)


def refused(url: str, environ: Mapping[str, str]) -> str:
    """The only error of the environment."""
    with pytest.raises(ConfigError) as caught:
        find_route(ApiSettings(url=url), environ)
    (error,) = caught.value.errors
    return error


# ---- the choice of the proxy ----


@pytest.mark.parametrize(
    ("url", "environ", "proxy"),
    [
        (API, {}, None),
        (API, {"HTTPS_PROXY": "http://h:1"}, "the proxy http://h:1 of HTTPS_PROXY"),
        (API, {"HTTPS_PROXY": "http://h:1", "https_proxy": "http://i:2"}, "the proxy http://i:2 of https_proxy"),
        (API, {"HTTPS_PROXY": "http://h:1", "https_proxy": ""}, None),
        (API, {"HTTP_PROXY": "foo://h", "http_proxy": "foo://h"}, None),
        (API, {"all_proxy": "http://h:1"}, "the proxy http://h:1 of all_proxy"),
        (API, {"ALL_PROXY": "foo://h", "HTTPS_PROXY": "https://h"}, "the proxy https://h of HTTPS_PROXY"),
        (API, {"HTTPS_PROXY": "h:3128"}, "the proxy http://h:3128 of HTTPS_PROXY"),
        (API, {"HTTPS_PROXY": "http://[::1]:3128/"}, "the proxy http://[::1]:3128 of HTTPS_PROXY"),
        (API, {"HTTPS_PROXY": f"http://user:{SECRET}@h:1"}, "the proxy http://h:1 of HTTPS_PROXY"),
        (API, {"HTTPS_PROXY": f"user:{SECRET}@h:1"}, "the proxy http://h:1 of HTTPS_PROXY"),
        (API, {"HTTPS_PROXY": f"http://user:a@{SECRET}@h:1"}, "the proxy http://h:1 of HTTPS_PROXY"),
        (PLAIN, {"HTTP_PROXY": "http://h:1", "HTTPS_PROXY": "foo://h"}, "the proxy http://h:1 of HTTP_PROXY"),
        (API, {"HTTPS_PROXY": "foo://h", "NO_PROXY": "example.com"}, None),
        (API, {"HTTPS_PROXY": "foo://h", "no_proxy": "x, .example.com"}, None),
        (API, {"HTTPS_PROXY": "foo://h", "NO_PROXY": "*"}, None),
        (API, {"HTTPS_PROXY": "http://h", "NO_PROXY": "*", "no_proxy": ""}, "the proxy http://h of HTTPS_PROXY"),
        ("https://10.1.2.3/v1", {"HTTPS_PROXY": "foo://h", "NO_PROXY": "10.0.0.0/8"}, None),
    ],
)
def test_the_proxy_of_an_address(url: str, environ: dict[str, str], proxy: str | None) -> None:
    """The variables mean the same as to curl and requests; a proxy is shown without user and password."""
    route = find_route(ApiSettings(url=url), environ)
    assert (str(route.proxy) if route.proxy else None) == proxy
    assert SECRET not in f"{route} {route!r}"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (f"foo://user:{SECRET}@h:1", f"foo:// is not a kind of proxy that the exporter can use; {EXAMPLE}"),
        (f"http://user:{SECRET}@h:99999", NO_ADDRESS),
        (f"http://user:{SECRET}@h:x", NO_ADDRESS),
        ("http://h:0", NO_ADDRESS),
        ("http://", NO_ADDRESS),
        ("http:h:1", NO_ADDRESS),
        ("http://[::1", NO_ADDRESS),
        (f"http://user:a#{SECRET}@h:1", NO_ADDRESS),
        (f"http://user:1#{SECRET}@h:1", NO_ADDRESS),
        (f"http://user:1/{SECRET}@h:1", NO_ADDRESS),
        (f"http://user:1?{SECRET}@h:1", NO_ADDRESS),
        (f"http://user:{SECRET} x@h:1", f"contains a space; {EXAMPLE}"),
        (f'"http://user:{SECRET}@h:1"', f"contains a quotation mark; {EXAMPLE}"),
        (f"'http://user:{SECRET}@h:1'", f"contains a quotation mark; {EXAMPLE}"),
        (f"http:\\\\user:{SECRET}@h:1", f"contains a backslash; {EXAMPLE}"),
        ("http://h:1\r", "contains U+000D CARRIAGE RETURN at position 11; remove it"),
        ("http://h\u200b:1", "contains U+200B ZERO WIDTH SPACE at position 9; remove it"),
    ],
)
def test_an_impossible_proxy(value: str, problem: str) -> None:
    """The message names the variable and shows nothing of a password."""
    assert refused(API, {"HTTPS_PROXY": value}) == f"HTTPS_PROXY: {problem}"


@pytest.mark.parametrize("scheme", ["socks4", "socks5", "socks5h"])
def test_a_socks_proxy(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """SOCKS needs a package that is not part of the exporter."""
    environ = {"ALL_PROXY": f"{scheme}://user:{SECRET}@h:1080"}
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    fix = "install it, or name an HTTP proxy"
    assert refused(API, environ) == f"ALL_PROXY: a SOCKS proxy needs the Python package PySocks; {fix}"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert str(find_route(ApiSettings(url=API), environ).proxy) == f"the proxy {scheme}://h:1080 of ALL_PROXY"


# ---- the choice of the certificates ----


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("none", None, "cannot be read: No such file or directory"),
        ("empty", b"", "is empty"),
        ("text", b"hello\n", "holds no CA certificate"),
        ("der", b"\x30\x82" * 100, "holds no CA certificate"),
        ("key", b"-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n", "holds no CA certificate"),
        ("cut", CERTIFICATE.read_bytes()[:-100], "holds no CA certificate"),
    ],
)
def test_files_without_certificates(
    tmp_path: Path, variable: str, name: str, content: bytes | None, problem: str
) -> None:
    """The message names the variable and the path."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    assert refused(API, {variable: str(path)}) == f"{variable}: {path} {problem}; {CERTIFICATES}"
    # Without TLS the file is not read.
    assert find_route(ApiSettings(url=PLAIN), {variable: str(path)}).ca_path is None


def test_folders_and_devices_of_certificates(tmp_path: Path) -> None:
    """A folder is accepted if OpenSSL finds certificates in it; a file without an end is not read."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    folder = tmp_path / "folder"
    for path, problem in [
        (Path("/dev/zero"), "is not a regular file"),
        (tmp_path / "pipe", "is not a regular file"),
        (folder, "is a folder without certificates under their hashes"),
    ]:
        environ = {"REQUESTS_CA_BUNDLE": str(path)}
        assert refused(API, environ) == f"REQUESTS_CA_BUNDLE: {path} {problem}; {CERTIFICATES}"
    (folder / "0a1b2c3d.0").write_bytes(CERTIFICATE.read_bytes())
    assert find_route(ApiSettings(url=API), {"REQUESTS_CA_BUNDLE": str(folder)}).ca_path == folder


def test_every_invalid_variable_is_listed() -> None:
    """The proxy and the certificates are two lines."""
    with pytest.raises(ConfigError) as caught:
        find_route(ApiSettings(url=API), {"HTTPS_PROXY": "foo://h", "REQUESTS_CA_BUNDLE": "no\nne"})
    assert caught.value.errors == (
        f"HTTPS_PROXY: foo:// is not a kind of proxy that the exporter can use; {EXAMPLE}",
        f"REQUESTS_CA_BUNDLE: 'no\\nne' cannot be read: No such file or directory; {CERTIFICATES}",
    )


# ---- the message of a failure ----


def error_of(url: str, environ: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The error of a failing request."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with Session(ApiSettings(url=url)) as session, pytest.raises(NoAnswer) as caught:
        exchange(session, "GET", f"{url}/x", timeout=20, limit=SMALL, hide=str)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def sends(content: bytes) -> Script:
    """Send a few bytes and close the connection."""

    def send(connection: socket.socket) -> None:
        connection.sendall(content)

    return send


@pytest.mark.parametrize(("url", "variable"), [(API, "HTTPS_PROXY"), (PLAIN, "http_proxy")])
@pytest.mark.parametrize(
    ("script", "problem"),
    [
        (sends(b"SSH-2.0-OpenSSH_9.2\r\n"), "{proxy} does not speak HTTP; check the proxy and the variable"),
        (sends(b""), "{proxy} ended the connection; check the proxy and the variable"),
    ],
)
def test_an_invalid_proxy(
    monkeypatch: pytest.MonkeyPatch, url: str, variable: str, script: Script, problem: str
) -> None:
    """A failure before the tunnel is open is reported as the proxy's, and not the API's."""
    with Peer(lambda _: script) as peer:
        environ = {variable: peer.url.replace("://", f"://user:{SECRET}@")}
        assert error_of(url, environ, monkeypatch) == problem.format(proxy=f"the proxy {peer.url} of {variable}")


@pytest.mark.parametrize(
    ("status", "problem"),
    [
        (403, "does not allow connections to api.example.com (403); allow them in the proxy"),
        (407, f"refuses the request (407): its user or password is missing or wrong; {WRITE_BOTH}"),
        (502, "does not connect to api.example.com (502); check the proxy and the variable"),
    ],
)
def test_a_proxy_that_opens_no_tunnel(monkeypatch: pytest.MonkeyPatch, status: int, problem: str) -> None:
    """The message names the proxy, its variable and the fix."""
    with Peer(lambda _: reply(status, f"user:{SECRET}")) as peer:
        environ = {"HTTPS_PROXY": peer.url.replace("://", f"://user:{SECRET}@")}
        assert error_of(API, environ, monkeypatch) == f"the proxy {peer.url} of HTTPS_PROXY {problem}"
        assert peer.requests[0].headers["proxy-authorization"] == "Basic dXNlcjpodW50ZXIy"


def test_a_proxy_that_requires_credentials_without_a_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TLS, too, only a proxy responds 407, and its text is not shown."""
    with Peer(lambda _: reply(407, f"user:{SECRET}")) as peer:
        problem = error_of(PLAIN, {"HTTP_PROXY": peer.url}, monkeypatch)
    assert problem.startswith(f"the proxy {peer.url} of HTTP_PROXY refuses the request (407): ")


def test_an_unreachable_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that is down, or whose name does not exist, is named without its credentials."""
    proxy = f"the proxy http://{DEAD} of ALL_PROXY"
    problem = error_of(API, {"ALL_PROXY": f"http://user:{SECRET}@{DEAD}"}, monkeypatch)
    assert problem == f"{proxy} refused the connection; check the proxy and the variable"

    def getaddrinfo(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    problem = error_of(API, {"ALL_PROXY": f"user:{SECRET}@proxy.invalid:3128"}, monkeypatch)
    expected = "cannot resolve the proxy http://proxy.invalid:3128 of ALL_PROXY; check the proxy and the variable"
    assert problem == expected


def test_a_proxy_with_the_wrong_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS to a proxy without TLS is reported as the proxy's failure."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                # The bytes contain no line whose end a server would wait for.
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        server = threading.Thread(target=refuse, daemon=True)
        server.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        problem = error_of(API, {"HTTPS_PROXY": url}, monkeypatch)
        server.join()
    assert problem.startswith(f"TLS with the proxy {url} of HTTPS_PROXY failed: ")


def test_a_proxy_whose_certificate_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate is named as the proxy's."""
    with Peer(lambda _: reply(), tls=True) as peer:
        problem = error_of(API, {"HTTPS_PROXY": peer.url}, monkeypatch)
    assert problem.startswith(f"the TLS certificate of the proxy {peer.url} of HTTPS_PROXY is not valid: self-signed")


def test_a_failure_behind_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the tunnel is open, a failure is the API's, and the message says that the request went through the proxy."""
    with Peer(lambda _: sends(b"HTTP/1.1 200 OK\r\n\r\n")) as peer:
        problem = error_of(API, {"HTTPS_PROXY": peer.url}, monkeypatch)
    assert problem.startswith(("TLS with api.example.com failed: ", "api.example.com ended "))
    assert problem.endswith(f", through the proxy {peer.url} of HTTPS_PROXY")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "127.8.0.1", "[::1]:9"])
def test_loopback_addresses_use_no_proxy(host: str) -> None:
    """The demo works behind a company's proxy, which would connect to its own loopback addresses."""
    assert find_route(ApiSettings(url=f"http://{host}/v1"), {"HTTP_PROXY": "http://proxy.example.com:3128"}) == Route()
    assert find_route(ApiSettings(url=f"https://{host}/v1"), {"ALL_PROXY": "nonsense://"}) == Route()


def test_an_answer_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request reaches the proxy with the credentials, which are a secret of the session."""
    seen: list[Request] = []

    def answer(request: Request) -> bytes:
        seen.append(request)
        return reply(200, "good")

    with Peer(answer) as peer:
        monkeypatch.setenv("HTTP_PROXY", peer.url.replace("://", "://user:p%40ss@"))
        with Session(ApiSettings(url=PLAIN)) as session:
            found = exchange(session, "GET", f"{PLAIN}/x", timeout=20, limit=SMALL, hide=str)
    assert isinstance(found, Answer)
    assert found.packed == b'"good"'
    assert seen[0].target == f"{PLAIN}/x"
    assert seen[0].headers["proxy-authorization"] == "Basic dXNlcjpwQHNz"
    assert session.secrets == ("p%40ss", "p@ss", "dXNlcjpwQHNz")


def test_certificates_that_are_deleted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Certificates that existed at the start and are missing now are named, with the variable."""
    path = tmp_path / "ca.pem"
    path.write_bytes(CERTIFICATE.read_bytes())
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    with Peer(lambda _: reply(200, "good"), tls=True) as peer, Session(ApiSettings(url=peer.url)) as session:
        path.unlink()
        with pytest.raises(NoAnswer) as caught:
            exchange(session, "GET", peer.url, timeout=20, limit=SMALL, hide=str)
        problem = f"REQUESTS_CA_BUNDLE: {path} cannot be read: No such file or directory; {CERTIFICATES}"
        assert str(caught.value) == f"cannot check TLS certificates: {problem}"
        path.write_bytes(CERTIFICATE.read_bytes())
        assert exchange(session, "GET", peer.url, timeout=20, limit=SMALL, hide=str).status == 200


def test_certificates_without_the_required_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If the API's certificate is from another CA, the message names the file that does not have it."""
    path = tmp_path / "ca.pem"
    path.write_bytes(Path(DEFAULT_CA_BUNDLE_PATH).read_bytes())
    with Peer(lambda _: reply(), tls=True) as peer:
        problem = error_of(peer.url, {"CURL_CA_BUNDLE": str(path)}, monkeypatch)
    host = peer.url.removeprefix("https://")
    start = f"the TLS certificate of {host} is not valid: self-signed certificate"
    assert problem == f"{start}; its CA is not in {path} of CURL_CA_BUNDLE"


def test_a_timeout_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of a slow request names the proxy."""
    with Peer(lambda _: drip(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n")) as peer:
        monkeypatch.setenv("HTTP_PROXY", peer.url)
        with Session(ApiSettings(url=PLAIN)) as session, pytest.raises(NoAnswer) as caught:
            exchange(session, "GET", PLAIN, timeout=0.2, limit=SMALL, hide=str)
    assert str(caught.value) == f"timed out after 0.2 s, through the proxy {peer.url} of HTTP_PROXY"


def test_the_daemon_behind_a_proxy_that_is_down(tmp_path: Path) -> None:
    """The log and the pages name the proxy and its variable; its password is nowhere."""
    environ = {"HTTP_PROXY": f"http://user:{SECRET}@{DEAD}", "NO_PROXY": ""}
    settings = configuration(PLAIN, {"id": "m"})
    with Daemon(tmp_path, settings, "--log.level=debug", environ=environ) as daemon:
        daemon.wait_ready()
        pages = [daemon.get(path).text for path in ("/", "/api/v1/status", "/config", "/metrics", "/-/ready")]
        daemon.kill()
    assert f"the proxy http://{DEAD} of HTTP_PROXY refused the connection" in daemon.output
    assert f"the proxy http://{DEAD} of HTTP_PROXY refused the connection" in pages[1]
    assert SECRET not in daemon.output
    assert not any(SECRET in page for page in pages)


def test_the_default_connection() -> None:
    """Without variables requests go directly to the API, with the certificates that come with the exporter."""
    assert find_route(ApiSettings(url=API), {"SSL_CERT_FILE": "/none", "OTHER_PROXY": "foo://h"}) == Route()
