"""The TLS of the web configuration: its settings, and the context of Python's ssl that they make."""

import ssl
from collections.abc import Iterator
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PrivateAttr,
    StrictBool,
    StrictStr,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import InitErrorDetails

from exporter.config.messages import NOT_TEXT, setting_error
from exporter.config.text_files import read_text, shown_path
from exporter.config.tls_files import OTHER_KEY, TlsVersion
from exporter.invisible import find_invisible

# Size limit of a file with certificates, in bytes: a wrong path can name a large file.
_LONGEST = 1024 * 1024

# The suites for TLS 1.2 that the toolkit knows, by OpenSSL's names. Those of TLS 1.3 cannot be chosen, there as here.
_SUITES = {
    f"TLS_ECDHE_{key}_WITH_{name}": f"ECDHE-{key}-{openssl}"
    for key in ("ECDSA", "RSA")
    for name, openssl in (
        ("AES_128_GCM_SHA256", "AES128-GCM-SHA256"),
        ("AES_256_GCM_SHA384", "AES256-GCM-SHA384"),
        ("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305"),
        ("CHACHA20_POLY1305", "CHACHA20-POLY1305"),
        ("AES_128_CBC_SHA", "AES128-SHA"),
        ("AES_256_CBC_SHA", "AES256-SHA"),
    )
}
_ALWAYS_ON = frozenset({"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"})


class ClientAuth(StrEnum):
    """Whether clients need a certificate."""

    NONE = "NoClientCert"
    IF_GIVEN = "VerifyClientCertIfGiven"
    REQUIRED = "RequireAndVerifyClientCert"


_VERIFY = {
    ClientAuth.NONE: ssl.CERT_NONE,
    ClientAuth.IF_GIVEN: ssl.CERT_OPTIONAL,
    ClientAuth.REQUIRED: ssl.CERT_REQUIRED,
}

# Certificates that are requested and accepted without a check protect nothing, and Python has no way to do it.
_UNCHECKED = {
    "RequestClientCert": "does not check the certificate, which Python's ssl cannot do; "
    "write NoClientCert, or VerifyClientCertIfGiven with client_ca_file",
    "RequireAnyClientCert": "does not check the certificate, which Python's ssl cannot do; "
    "write RequireAndVerifyClientCert with client_ca_file",
    "RequireClientCert": "does not check the certificate, which Python's ssl cannot do; "
    "write RequireAndVerifyClientCert with client_ca_file",
}


def _path(value: object, info: ValidationInfo) -> object:
    """An absolute path of a file with text."""
    if not isinstance(value, str):
        raise setting_error(NOT_TEXT)
    if not value or (found := find_invisible(value)):
        raise setting_error(f"contains {found}; remove it" if value else "is empty; name a file")
    context: Any = info.context
    path: Path = context.folder / value
    try:
        read_text(path, _LONGEST, "is too large; check its name")
    except OSError as error:
        problem = f"cannot read {shown_path(path)}: {error.strerror}; check its name and permissions"
        raise setting_error(problem) from None
    except ValueError as error:
        raise setting_error(f"the file {shown_path(path)} {error}") from None
    return path


def _certificates(path: Path) -> Path:
    if problem := _trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), path):
        raise setting_error(problem)
    return path


def _trust(context: ssl.SSLContext, path: Path) -> str | None:
    """Load CAs into a context; return why that is not possible."""
    try:
        context.load_verify_locations(path)
    except OSError:
        return f"the file {shown_path(path)} holds no certificate; name a file with certificates in PEM form"
    return None


def _client_auth(value: object) -> object:
    if isinstance(value, str) and (problem := _UNCHECKED.get(value)):
        raise setting_error(f"{{value}} {problem}")
    return value


def _version(value: object) -> object:
    if value in ("TLS10", "TLS11"):
        raise setting_error("{value} is not safe and not supported; write TLS12 or TLS13")
    return value


def _suite(name: str) -> str:
    if name not in _SUITES and name not in _ALWAYS_ON:
        raise setting_error(f"{{value}} is not supported; write one such as {next(iter(_SUITES))}")
    return name


def _san(name: str) -> str:
    """A subject alternative name; an IP address in its usual form."""
    try:
        return str(ip_address(name))
    except ValueError:
        return name


def unsupported(instead: str) -> Any:
    """Refuse a key that the toolkit has."""

    def refuse(_: object) -> None:
        raise setting_error(f"is not supported; {instead}")

    return BeforeValidator(refuse)


_Certificates = Annotated[Path, AfterValidator(_certificates), BeforeValidator(_path)]


class TlsSettings(BaseModel):
    """TLS for the clients of the exporter.

    Attributes:
        cert_file: The certificate, followed by those between it and its CA.
        key_file: Its key.
        client_ca_file: The CAs of the clients' certificates.
        client_auth_type: Whether clients need a certificate.
        client_allowed_sans: If not empty, a client's certificate needs one of these subject alternative names.
        min_version: The oldest version of TLS.
        max_version: The newest version of TLS.
        cipher_suites: The cipher suites of TLS 1.2; empty for OpenSSL's choice.
        prefer_server_cipher_suites: Whether the order of the server's suites counts, or that of the client's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    cert_file: _Certificates
    key_file: Annotated[Path, BeforeValidator(_path)]
    client_ca_file: _Certificates | None = None
    client_auth_type: Annotated[ClientAuth, BeforeValidator(_client_auth)] = ClientAuth.NONE
    client_allowed_sans: tuple[Annotated[StrictStr, AfterValidator(_san)], ...] = ()
    min_version: Annotated[TlsVersion, BeforeValidator(_version)] = TlsVersion.TLS12
    max_version: Annotated[TlsVersion, BeforeValidator(_version)] = TlsVersion.TLS13
    cipher_suites: tuple[Annotated[StrictStr, AfterValidator(_suite)], ...] = ()
    prefer_server_cipher_suites: StrictBool = True

    # The toolkit has these, too.
    cert: Annotated[None, unsupported("put the certificate into a file, and name it in cert_file")] = None
    key: Annotated[None, unsupported("put the key into a file, and name it in key_file")] = None
    client_ca: Annotated[None, unsupported("put the certificates into a file, and name it in client_ca_file")] = None
    curve_preferences: Annotated[None, unsupported("remove it: OpenSSL chooses the curve")] = None

    _context: ssl.SSLContext = PrivateAttr()

    @property
    def context(self) -> ssl.SSLContext:
        """What connections are encrypted with."""
        return self._context

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it was read from."""
        return tuple(path for path in (self.cert_file, self.key_file, self.client_ca_file) if path)

    @model_validator(mode="after")
    def _make(self) -> Self:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        findings = [*self._contradictions(), *self._load_into(context)]
        if findings:
            errors = [InitErrorDetails(type=setting_error(text), loc=(key,), input="") for key, text in findings]
            raise ValidationError.from_exception_data("tls", errors, hide_input=True)
        self._context = context
        return self

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        """Settings that contradict each other: a key, and what is wrong with it."""
        if self.min_version > self.max_version:
            yield "max_version", f"is older than min_version ({self.min_version}); write {self.min_version}"
        if self.client_auth_type is ClientAuth.NONE and self.client_ca_file:
            fix = f"write {ClientAuth.REQUIRED} or {ClientAuth.IF_GIVEN}, or remove client_ca_file"
            yield "client_auth_type", f"client_ca_file is set, but clients are not asked for a certificate; {fix}"
        if self.client_auth_type is not ClientAuth.NONE and not self.client_ca_file:
            yield "client_ca_file", "is missing; name the file with the CAs of the clients' certificates"
        if self.client_allowed_sans and self.client_auth_type is not ClientAuth.REQUIRED:
            yield "client_allowed_sans", f"needs client_auth_type: {ClientAuth.REQUIRED}; write it, or remove this list"

    def _load_into(self, context: ssl.SSLContext) -> Iterator[tuple[str, str]]:
        """Configure a context, and yield what is wrong with the files."""
        context.minimum_version, context.maximum_version = self.min_version.number, self.max_version.number
        context.set_alpn_protocols(["http/1.1"])
        context.options |= ssl.OP_NO_RENEGOTIATION
        if not self.prefer_server_cipher_suites:
            context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
        if suites := [_SUITES[name] for name in self.cipher_suites if name in _SUITES]:
            context.set_ciphers(":".join(suites))
        elif self.cipher_suites:
            # None of them is for TLS 1.2.
            context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = _VERIFY[self.client_auth_type]
        if self.client_ca_file and (unusable := _trust(context, self.client_ca_file)):
            yield "client_ca_file", unusable
        if problem := _load_pair(context, self.cert_file, self.key_file):
            yield problem


def _load_pair(context: ssl.SSLContext, cert_file: Path, key_file: Path) -> tuple[str, str] | None:
    """Load a certificate and its key; return the key of the setting that is wrong, and why."""
    encrypted = False

    def password() -> str:
        # Without this, OpenSSL would ask at the terminal.
        nonlocal encrypted
        encrypted = True
        return ""

    shown = f"the file {shown_path(key_file)}"
    try:
        context.load_cert_chain(cert_file, key_file, password)
    except ssl.SSLError as error:
        reason = error.reason or ""
        if encrypted:
            return "key_file", f"{shown} is encrypted; write the key without a passphrase"
        if reason in OTHER_KEY:
            return "key_file", f"{shown} is not the key of the certificate in cert_file; name the key it was made with"
        if reason.startswith(("EE_", "CA_")):
            weak = reason.lower().replace("_", " ")
            return "cert_file", f"the file {shown_path(cert_file)} is too weak for OpenSSL ({weak}); make a new one"
        return "key_file", f"{shown} holds no private key; name a file with a key in PEM form"
    except OSError as error:
        # Both could be read a moment ago.
        return "key_file", f"cannot read {shown_path(key_file)}: {error.strerror}; check its name and permissions"
    return None
