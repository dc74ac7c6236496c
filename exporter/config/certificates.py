"""Settings that name files with certificates and keys, checked when the configuration is loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, ValidationInfo

from exporter.config.messages import NOT_TEXT, setting_error
from exporter.config.text_files import read_bytes
from exporter.config.tls_files import PemFile, ca_problem, certificate_problem, digest_of, key_problem
from exporter.invisible import find_invisible

# Size limit in bytes: a bundle of all public CAs takes 300 KB; a wrong path can name a large file.
_LARGEST = 4 * 1024 * 1024


def _read(value: object, info: ValidationInfo) -> object:
    if value is None and info.context is not None:
        raise setting_error("has no value; write a path, or remove the line")
    if value is None or isinstance(value, PemFile):
        return value
    if value == "":
        return None
    if not isinstance(value, str):
        raise setting_error(NOT_TEXT)
    if found := find_invisible(value):
        raise setting_error(f"contains {found}; remove it")
    context: Any = info.context
    path = context.folder / value if context else Path(value)
    if context:
        context.note(path)
    try:
        return PemFile(path, digest_of(read_bytes(path, _LARGEST, "is too large for certificates; check its name")))
    except OSError as error:
        raise setting_error(f"cannot read {path}: {error.strerror}; check its name and permissions") from None
    except ValueError as error:
        raise setting_error(f"the file {path} {error}") from None


def _checked(problem_of: Callable[[Path], str | None]) -> AfterValidator:
    def check(file: PemFile | None) -> PemFile | None:
        if file and (problem := problem_of(file.path)):
            raise setting_error(problem)
        return file

    return AfterValidator(check)


def _key_of_certificate(key: PemFile | None, info: ValidationInfo) -> PemFile | None:
    if "cert_file" not in info.data:
        # It has an error of its own.
        return key
    certificate = info.data["cert_file"]
    if certificate and not key:
        raise setting_error("is missing; name the file with the private key of cert_file")
    if key and not certificate:
        raise setting_error("is set without cert_file; name the file with the client certificate, too")
    if key and (problem := key_problem(certificate.path, key.path)):
        raise setting_error(problem)
    return key


def _path(file: PemFile | None) -> str | None:
    return str(file.path) if file else None


_Pem = Annotated[PemFile | None, BeforeValidator(_read), PlainSerializer(_path)]
CaFile = Annotated[_Pem, _checked(lambda path: ca_problem(path, "remove the setting"))]
CertificateFile = Annotated[_Pem, _checked(certificate_problem)]
KeyFile = Annotated[_Pem, AfterValidator(_key_of_certificate)]
