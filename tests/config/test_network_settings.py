"""Proxies and TLS in `api:`: what is refused when the configuration is loaded, and what is shown."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from exporter.config.load import dump
from exporter.config.settings import ApiSettings
from exporter.errors import ConfigError
from tests.support.configs import SECRET, merchant
from tests.support.tls import Authority

CERTIFICATE_FIX = "name a file with the client certificate in PEM form"
KEY_FIX = "name a file with the private key in PEM form"


@pytest.fixture
def private(tmp_path: Path) -> Authority:
    """A CA whose files are in the folder of the configuration."""
    return Authority(tmp_path)


def with_api(**keys: Any) -> dict[str, Any]:
    """A configuration with these keys of `api`."""
    return merchant() | {"api": keys}


def errors_of(loaded: Any, **keys: Any) -> tuple[str, ...]:
    """The errors of a configuration with these keys of `api`, which show no secret; without file and line."""
    with pytest.raises(ConfigError) as caught:
        loaded(with_api(**keys))
    assert SECRET not in str(caught.value)
    assert all(re.search(r" \(\S*config\.yaml:\d+\)$", line) for line in caught.value.errors)
    return tuple(re.sub(r" \(\S*config\.yaml:\d+\)$", "", line) for line in caught.value.errors)


def api_of(loaded: Any, **keys: Any) -> ApiSettings:
    """The settings of the API with these keys."""
    found: ApiSettings = loaded(with_api(**keys)).api
    return found


# ---- files ----


def test_paths_are_relative_to_the_configuration(loaded: Any, private: Authority, tmp_path: Path) -> None:
    """Relative paths, and absolute ones, lead to the files; `/config` shows the paths."""
    _, key = private.client()
    files = {"ca_file": "private-ca.pem", "cert_file": "private-client.pem", "key_file": str(key)}
    settings = loaded(with_api(tls_config=files | {"server_name": "api.example.com", "min_version": "TLS13"}))
    tls = settings.api.tls_config
    assert [file.path for file in (tls.ca_file, tls.cert_file, tls.key_file)] == [
        tmp_path / "private-ca.pem",
        tmp_path / "private-client.pem",
        key,
    ]
    assert yaml.safe_load(dump(settings))["api"]["tls_config"] == {
        "ca_file": str(tmp_path / "private-ca.pem"),
        "cert_file": str(tmp_path / "private-client.pem"),
        "key_file": str(key),
        "server_name": "api.example.com",
        "insecure_skip_verify": False,
        "min_version": "TLS13",
    }


@pytest.mark.parametrize("changed", ["private-ca.pem", "private-client.pem", "private-client.key"])
def test_settings_differ_when_a_file_differs(loaded: Any, private: Authority, tmp_path: Path, changed: str) -> None:
    """Settings are equal while the files are the same, and differ once the content of one has changed."""
    private.client()
    files = {"ca_file": "private-ca.pem", "cert_file": "private-client.pem", "key_file": "private-client.key"}
    before = api_of(loaded, tls_config=files)
    assert api_of(loaded, tls_config=files) == before
    path = tmp_path / changed
    path.write_bytes(path.read_bytes() + b"\n")
    assert api_of(loaded, tls_config=files) != before


def test_a_renewed_certificate_of_another_key(loaded: Any, private: Authority, tmp_path: Path) -> None:
    """A key that is not that of the certificate is one line, which names both files."""
    certificate, _ = private.client()
    _, other = private.client("other")
    (error,) = errors_of(loaded, tls_config={"cert_file": certificate.name, "key_file": other.name})
    fix = "name the key that the certificate was made for"
    assert error == f"api.tls_config.key_file: {other} does not match the certificate in {certificate}; {fix}"


def test_an_encrypted_key(loaded: Any, private: Authority) -> None:
    """A key with a passphrase is refused without asking for it."""
    certificate, key = private.client()
    read = load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(read.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    (error,) = errors_of(loaded, tls_config={"cert_file": certificate.name, "key_file": key.name})
    fix = "write the key without a passphrase, as `openssl pkey -in OLD -out NEW` does"
    assert error == f"api.tls_config.key_file: {key} is encrypted; {fix}"


def test_files_that_are_something_else(loaded: Any, private: Authority, tmp_path: Path) -> None:
    """Each unusable file is one line with its key, path and fix, all at once."""
    certificate, key = private.client()
    (tmp_path / "text").write_text("hello\n")
    (tmp_path / "empty").write_text("")
    (tmp_path / "large").write_bytes(b"x" * (5 * 1024 * 1024))
    os.mkfifo(tmp_path / "pipe")
    text, ca_fix = tmp_path / "text", "name a file with CA certificates in PEM form, or remove the setting"
    for files, expected in (
        ({"ca_file": "text"}, [f"ca_file: {text} holds no CA certificate; {ca_fix}"]),
        ({"ca_file": key.name}, [f"ca_file: {key} holds no CA certificate; {ca_fix}"]),
        ({"ca_file": "empty"}, [f"ca_file: {tmp_path / 'empty'} is empty; {ca_fix}"]),
        ({"ca_file": "pipe"}, [f"ca_file: the file {tmp_path / 'pipe'} is a pipe; name a regular file"]),
        ({"ca_file": "."}, [f"ca_file: cannot read {tmp_path}: Is a directory; check its name and permissions"]),
        (
            {"ca_file": "large"},
            [f"ca_file: the file {tmp_path / 'large'} is too large for certificates; check its name"],
        ),
        ({"ca_file": 5}, ["ca_file: expected text, found `5` (a number); put it in quotes"]),
        (
            {"ca_file": "none", "cert_file": "text", "key_file": "none"},
            [
                f"ca_file: cannot read {tmp_path / 'none'}: No such file or directory; check its name and permissions",
                f"cert_file: {text} holds no certificate; {CERTIFICATE_FIX}",
                f"key_file: cannot read {tmp_path / 'none'}: No such file or directory; check its name and permissions",
            ],
        ),
        (
            {"cert_file": certificate.name, "key_file": "text"},
            [f"key_file: {text} holds no usable private key; {KEY_FIX}"],
        ),
        (
            {"cert_file": certificate.name, "key_file": certificate.name},
            [f"key_file: {certificate} holds no usable private key; {KEY_FIX}"],
        ),
    ):
        assert errors_of(loaded, tls_config=files) == tuple(f"api.tls_config.{line}" for line in expected)


def test_a_certificate_and_a_key_belong_together(loaded: Any, private: Authority) -> None:
    """One without the other is an error at the key."""
    certificate, key = private.client()
    place = "api.tls_config.key_file"
    assert errors_of(loaded, tls_config={"cert_file": certificate.name}) == (
        f"{place}: is missing; name the file with the private key of cert_file",
    )
    assert errors_of(loaded, tls_config={"key_file": key.name}) == (
        f"{place}: is set without cert_file; name the file with the client certificate, too",
    )


@pytest.mark.parametrize("key", ["ca_file", "cert_file", "key_file", "insecure_skip_verify"])
def test_keys_of_tls_without_a_value(loaded: Any, key: str) -> None:
    """A key without a value is an error, and none is silently ignored."""
    errors = errors_of(loaded, tls_config={key: None})
    assert errors[0].startswith(f"api.tls_config.{key}: has no value; write ")


# ---- the proxy ----


@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        ({"proxy_url": f"http://user:{SECRET}@proxy.example.com:3128"}, "http://<secret>@proxy.example.com:3128"),
        ({"proxy_url": f"{SECRET}@proxy:3128"}, "http://<secret>@proxy:3128"),
        ({"proxy_url": "proxy:3128"}, "http://proxy:3128"),
        ({"proxy_url_file": "proxy"}, "https://<secret>@h"),
        ({"proxy_url_env": "KEY"}, "http://key-of-env"),
    ],
)
def test_a_proxy_is_a_secret(loaded: Any, tmp_path: Path, keys: dict[str, str], shown: str) -> None:
    """It is given by value, from a file or from a variable; `/config` shows it without user and password."""
    (tmp_path / "proxy").write_text(f"https://user:{SECRET}@h\n")
    settings = loaded(with_api(**keys))
    assert yaml.safe_load(dump(settings))["api"]["proxy_url"] == shown
    assert SECRET not in dump(settings) + repr(settings)


EXAMPLE = "write one such as http://proxy.example.com:3128"


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        (
            {"proxy_url": f"ftp://user:{SECRET}@h"},
            f"proxy_url: ftp:// is not a kind of proxy that the exporter can use; {EXAMPLE}",
        ),
        (
            {"proxy_url": f"http://user:a/{SECRET}@h"},
            f"proxy_url: is not the address of a proxy; {EXAMPLE}, and special characters of a password as %XX",
        ),
        ({"proxy_url": f"http://user:{SECRET} @h"}, f"proxy_url: contains a space; {EXAMPLE}"),
        ({"proxy_url": ""}, "proxy_url: is empty; write an address, or remove the line"),
        ({"proxy_url": None}, "proxy_url: has no value; write one"),
        (
            {"proxy_url": "h:1", "proxy_url_env": "KEY"},
            "proxy_url: is set more than once (proxy_url, proxy_url_env); keep one",
        ),
        (
            {"proxy_url_env": "NONE"},
            "proxy_url_env: the environment variable NONE is not set; set it to the secret",
        ),
        ({"proxy-url": "h:1"}, "proxy-url: unknown key; did you mean proxy_url?"),
        (
            {"no_proxy": "localhost"},
            "no_proxy: is set without proxy_url; set both, or NO_PROXY for a proxy of the environment",
        ),
        (
            {"proxy_url": "h:1", "no_proxy": "http://localhost"},
            "no_proxy: `http://localhost` is not a list of hosts; write one such as localhost,.example.com",
        ),
        (
            {"tls_config": {"server_name": "https://h"}},
            "tls_config.server_name: `https://h` is not a host name; write one such as api.example.com",
        ),
        (
            {"tls_config": {"min_version": "TLS11"}},
            "tls_config.min_version: `TLS11` is not valid; write one of TLS12 or TLS13",
        ),
        ({"tls_config": {"cafile": "x"}}, "tls_config.cafile: unknown key; did you mean ca_file?"),
    ],
)
def test_invalid_settings(loaded: Any, keys: dict[str, Any], error: str) -> None:
    """Each is one line with the key and the fix."""
    assert errors_of(loaded, **keys) == (f"api.{error}",)
