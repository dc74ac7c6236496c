"""Files with certificates and keys: what is wrong with them, and whether they have changed."""

import hashlib
import re
import ssl
import stat
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

from exporter.config.text_files import shown_path

# How OpenSSL names the certificates in a folder.
_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")

# What OpenSSL says of a key that is not that of the certificate.
OTHER_KEY = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH")


class TlsVersion(StrEnum):
    """A version of TLS, as Prometheus writes it."""

    TLS12 = "TLS12"
    TLS13 = "TLS13"

    @property
    def number(self) -> ssl.TLSVersion:
        """The version for the library."""
        return ssl.TLSVersion.TLSv1_2 if self is TlsVersion.TLS12 else ssl.TLSVersion.TLSv1_3


@dataclass(frozen=True, slots=True)
class PemFile:
    """A file in PEM form that the configuration names.

    Attributes:
        path: Where it is.
        digest: A hash of its content when the configuration was loaded, so that settings are equal only while their
            files are the same; empty in settings that code builds.
    """

    path: Path
    digest: bytes = field(default=b"", repr=False)


class _Encrypted(Exception):
    """A key that needs a passphrase."""


def digest_of(content: bytes) -> bytes:
    """The hash of a file's content."""
    return hashlib.sha256(content).digest()


def ca_problem(path: Path, setting: str = "") -> str | None:
    """Why a file or a folder does not hold CA certificates, and how to fix it; or None.

    Args:
        path: Where they are.
        setting: What to do without them, such as `unset the variable`.
    """
    try:
        problem = _unlike_certificates(path)
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except ValueError:
        problem = "is not a path"
    fix = f"name a file with CA certificates in PEM form, or {setting}"
    return f"{shown_path(path)} {problem}; {fix}" if problem else None


def certificate_problem(path: Path) -> str | None:
    """Why a file does not hold a client certificate, and how to fix it; or None."""
    problem = _unreadable(path)
    if not problem and not _holds_certificates(path):
        problem = "holds no certificate"
    return f"{shown_path(path)} {problem}; name a file with the client certificate in PEM form" if problem else None


def key_problem(certificate: Path, key: Path) -> str | None:
    """Why a file does not hold the key of a certificate, and how to fix it; or None. Never asks for a passphrase.

    Args:
        certificate: A file without `certificate_problem`.
        key: The file of the key.
    """
    place = shown_path(key)
    if problem := _unreadable(key):
        return f"{place} {problem}; name a file with the private key in PEM form"

    def no_passphrase() -> str:
        raise _Encrypted

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, no_passphrase)
    except _Encrypted:
        return f"{place} is encrypted; write the key without a passphrase, as `openssl pkey -in OLD -out NEW` does"
    except ssl.SSLError as error:
        if error.reason in OTHER_KEY:
            fix = "name the key that the certificate was made for"
            return f"{place} does not match the certificate in {shown_path(certificate)}; {fix}"
        reason = f" ({error.reason})" if error.reason else ""
        return f"{place} holds no usable private key{reason}; name a file with the private key in PEM form"
    return None


def _unreadable(path: Path) -> str | None:
    """Why a file cannot be read as one."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return "is not a regular file"
        with path.open("rb") as file:
            return None if file.read(1) else "is empty"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _unlike_certificates(path: Path) -> str | None:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        hashed = any(_HASHED.fullmatch(each.name) for each in path.iterdir())
        return None if hashed else "is a folder without certificates under their hashes"
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    if not status.st_size:
        return "is empty"
    return None if _is_bundle(path, (status.st_ino, status.st_mtime_ns, status.st_size)) else "holds no CA certificate"


@lru_cache(maxsize=8)
def _is_bundle(path: Path, _: tuple[int, ...]) -> bool:
    """Whether a file, as it was at that time, has certificates. Cached: reading it for each merchant takes seconds."""
    return _holds_certificates(path)


def _holds_certificates(path: Path) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        return False
    return True
