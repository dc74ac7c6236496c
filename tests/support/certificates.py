"""Certificates from a CA of one's own, and web configurations that use them."""

import ssl
from functools import cache
from pathlib import Path
from typing import Any

import bcrypt
import trustme
import yaml

from exporter.config.web_file import load_web_config
from exporter.httpd.web_config import WebConfig

USER, PASSWORD = "prometheus", "pa55-for-scrapes"


@cache
def hash_of(password: str) -> str:
    """A bcrypt hash of a password, as cheap as possible."""
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


class Site:
    """A folder with a certificate of the exporter, its CA, and a web configuration.

    Attributes:
        folder: The folder: `cert.pem`, `key.pem`, `ca.pem`, `web.yml`.
        authority: The CA.
        path: The web configuration.
    """

    def __init__(self, folder: Path, authority: trustme.CA | None = None) -> None:
        self.folder = folder
        self.authority = authority or trustme.CA()
        self.path = folder / "web.yml"
        self.authority.cert_pem.write_to_path(folder / "ca.pem")
        self.renew()

    def renew(self) -> None:
        """Write a new certificate and its key."""
        made = self.authority.issue_cert("127.0.0.1", "localhost", "::1")
        # As a careful tool does it: no reader sees half of a file.
        for name, blob in (("key.pem", made.private_key_pem), ("cert.pem", made.cert_chain_pems[0])):
            blob.write_to_path(self.folder / f"{name}.new")
            (self.folder / f"{name}.new").replace(self.folder / name)

    def write(
        self, *, tls: bool = True, password: str = "", headers: dict[str, str] | None = None, **more: Any
    ) -> Path:
        """Write the web configuration.

        Args:
            tls: Whether it has TLS.
            password: The password of the only user; "" for none.
            headers: Headers of every response.
            more: More keys for TLS.
        """
        sections: dict[str, Any] = {}
        if tls:
            sections["tls_server_config"] = {"cert_file": "cert.pem", "key_file": "key.pem", **more}
        if password:
            sections["basic_auth_users"] = {USER: hash_of(password)}
        if headers:
            sections["http_server_config"] = {"headers": headers}
        self.path.write_text(yaml.safe_dump(sections) if sections else "", encoding="utf-8")
        return self.path

    def load(self, **settings: Any) -> WebConfig:
        """A web configuration as it is loaded from a file."""
        return load_web_config(self.write(**settings))

    def client(self, *names: str, authority: trustme.CA | None = None) -> ssl.SSLContext:
        """What a client connects with, and its own certificate for these names, if any."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if names:
            (authority or self.authority).issue_cert(*names).configure_cert(context)
        return context

    def client_files(self, name: str) -> tuple[Path, Path]:
        """The certificate and the key of a client, as files."""
        made = self.authority.issue_cert(name)
        made.cert_chain_pems[0].write_to_path(self.folder / "client.pem")
        made.private_key_pem.write_to_path(self.folder / "client-key.pem")
        return self.folder / "client.pem", self.folder / "client-key.pem"
