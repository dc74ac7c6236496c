"""The web configuration: what is accepted, and the error of each mistake."""

import ssl
import subprocess
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import trustme
import yaml

from exporter.config.web_file import load_web_config
from exporter.errors import ConfigError
from exporter.httpd.web_config import WebConfig
from tests.support.certificates import PASSWORD, USER, Site, hash_of
from tests.support.configs import SECRET

BAD = Path(__file__).parent / "bad_web_configs"

HASH = hash_of(PASSWORD)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A certificate and its key, the CA, another key, a key with a passphrase, and a file that is neither."""
    site = Site(tmp_path)
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(tmp_path / "other-key.pem")
    (tmp_path / "text.pem").write_text("neither certificate nor key\n")
    for command in (
        "ec -in key.pem -aes128 -passout pass:x -out locked-key.pem",
        "req -x509 -newkey rsa:512 -nodes -subj /CN=x -days 9 -keyout weak-key.pem -out weak-cert.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=tmp_path, check=True, capture_output=True)
    return site


@pytest.mark.parametrize("path", sorted(BAD.glob("*.yml")), ids=lambda path: path.stem)
def test_bad_web_config(path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with one mistake gives exactly the error line in its first line, which shows no secret."""
    monkeypatch.chdir(site.folder)
    site.path.write_bytes(path.read_bytes())
    with pytest.raises(ConfigError) as caught:
        load_web_config(Path(site.path.name))
    assert caught.value.errors == (path.read_text().splitlines()[0].removeprefix("# "),)
    assert SECRET not in str(caught.value)
    assert "$2" not in str(caught.value)


def test_all_errors_at_once(site: Site) -> None:
    """Errors in every section are reported together, one line each, and none shows a password or a hash."""
    site.path.write_text(f"""
        tls_server_config:
          cert_file: text.pem
          key_file: nowhere.pem
          min_version: TLS10
          key: {SECRET}
        http_server_config:
          http2: maybe
          headers: {{X-Frame-Options: never, Server: x}}
        basic_auth_users: {{a: {SECRET}, b: 1234}}
        rate_limit: {{interval: 1s}}
    """)
    with pytest.raises(ConfigError) as caught:
        load_web_config(site.path)
    assert sorted(error.partition(": ")[0] for error in caught.value.errors) == [
        "basic_auth_users.a",
        "basic_auth_users.b",
        "http_server_config.headers.Server",
        "http_server_config.headers.X-Frame-Options",
        "http_server_config.http2",
        "rate_limit",
        "tls_server_config.cert_file",
        "tls_server_config.key",
        "tls_server_config.key_file",
        "tls_server_config.min_version",
    ]
    assert all("; " in error or error.endswith("?") for error in caught.value.errors)
    assert SECRET not in str(caught.value)
    assert "1234" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "# nothing\n", "{}", "tls_server_config:\nhttp_server_config:\nbasic_auth_users:\n", "tls_server_config: {}"],
)
def test_an_empty_file_is_plain_http(site: Site, text: str) -> None:
    """As in other exporters: no TLS, no password. The file itself is what it depends on."""
    site.path.write_text(text)
    assert load_web_config(site.path) == WebConfig(files=(site.path,))


def test_everything_is_loaded(site: Site) -> None:
    """Relative paths are in the folder of the file; a blank header is none; http2 is accepted, as it is the default."""
    settings = {
        "tls_server_config": {
            "cert_file": "cert.pem",
            "key_file": str(site.folder / "key.pem"),
            "client_ca_file": "./ca.pem",
            "client_auth_type": "RequireAndVerifyClientCert",
            "client_allowed_sans": ["a.example", "0::1"],
            "min_version": "TLS13",
            "max_version": "TLS13",
            "prefer_server_cipher_suites": False,
        },
        "http_server_config": {
            "http2": True,
            "headers": {
                "X-Frame-Options": "sameorigin",
                "X-Content-Type-Options": "nosniff",
                "X-XSS-Protection": 0,
                "Strict-Transport-Security": None,
                "Content-Security-Policy": "default-src 'self'",
            },
        },
        "basic_auth_users": {USER: HASH, "日本": HASH},
    }
    site.path.write_text(yaml.safe_dump(settings))
    web = load_web_config(site.path)
    assert web.tls is not None
    assert (web.tls.minimum_version, web.tls.maximum_version) == (ssl.TLSVersion.TLSv1_3,) * 2
    assert web.tls.verify_mode == ssl.CERT_REQUIRED
    assert not web.tls.options & ssl.OP_CIPHER_SERVER_PREFERENCE
    assert web.allowed_sans == {"a.example", "::1"}
    assert web.headers == {
        "X-Frame-Options": "sameorigin",
        "X-Content-Type-Options": "nosniff",
        "X-XSS-Protection": "0",
        "Content-Security-Policy": "default-src 'self'",
    }
    assert web.users == {USER: HASH, "日本": HASH}
    assert web.files == (site.path, *(site.folder / name for name in ("cert.pem", "key.pem", "ca.pem")))
    assert HASH not in repr(web)


@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        ({}, ssl.CERT_NONE),
        ({"client_auth_type": "NoClientCert"}, ssl.CERT_NONE),
        ({"client_auth_type": "VerifyClientCertIfGiven", "client_ca_file": "ca.pem"}, ssl.CERT_OPTIONAL),
        ({"client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": "ca.pem"}, ssl.CERT_REQUIRED),
    ],
)
def test_client_auth_types(site: Site, settings: dict[str, Any], mode: ssl.VerifyMode) -> None:
    """The names are those of Go; what Python's ssl cannot do is in bad_web_configs."""
    web = site.load(**settings)
    assert web.tls is not None
    assert web.tls.verify_mode == mode


def test_the_example_of_the_toolkit_is_accepted_by_both(site: Site, promtool_bin: Path) -> None:
    """A complete file passes `promtool check web-config` and is loaded here."""
    required: dict[str, Any] = {"client_ca_file": "ca.pem", "client_auth_type": "RequireAndVerifyClientCert"}
    suites = [
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
        "TLS_AES_128_GCM_SHA256",
    ]
    path = site.write(
        password=PASSWORD,
        headers={"X-Frame-Options": "deny", "Strict-Transport-Security": "max-age=1"},
        cipher_suites=[suites[0], suites[2]],
        prefer_server_cipher_suites=True,
        **required,
    )
    subprocess.run([promtool_bin, "check", "web-config", path], check=True, capture_output=True)
    assert load_web_config(path).tls is not None
    assert site.load(cipher_suites=suites[1:]).tls is not None


@pytest.mark.parametrize("cost", [4, 12])
def test_a_hash_of_any_cost_is_accepted(site: Site, cost: int) -> None:
    """Loading calculates no hash, so a high cost does not delay the start."""
    hashed = bcrypt.hashpw(b"x", bcrypt.gensalt(4)).decode().replace("$04$", f"${cost:02}$")
    site.path.write_text(yaml.safe_dump({"basic_auth_users": {"a": hashed}}))
    assert load_web_config(site.path).users == {"a": hashed}
