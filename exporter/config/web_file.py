"""The web configuration: the file of Prometheus' exporter-toolkit, which `--web.config.file` names.

What other exporters accept in this file is accepted here, or an error says why not. A hash is never shown.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import bcrypt
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StrictBool,
    StrictStr,
    ValidationError,
)

from exporter.config import yaml_file
from exporter.config.messages import error_line, setting_error
from exporter.config.secrets import FileContext
from exporter.config.web_tls import TlsSettings, unsupported
from exporter.config.yaml_dialect import kind_of
from exporter.errors import ConfigError
from exporter.httpd.web_config import WebConfig
from exporter.invisible import find_invisible

_BCRYPT = re.compile(r"\$2[abxy]?\$(?P<cost>0[4-9]|[12][0-9]|3[01])\$(?P<salt>[./A-Za-z0-9]{22})[./A-Za-z0-9]{31}")

_MAKE_A_HASH = "write a bcrypt hash, as `htpasswd -nBC 10 USER` prints after the user's name"

_FIRST_KEY = "tls_server_config"


def _hash(value: object) -> SecretStr:
    # The value is never shown: it can be a password that should have been hashed.
    if not isinstance(value, str):
        raise setting_error(f"expected text, found {kind_of(value)}; {_MAKE_A_HASH}")
    found = _BCRYPT.fullmatch(value)
    if found is None or not _is_salt(found["salt"]):
        raise setting_error(f"is not a bcrypt hash; {_MAKE_A_HASH}")
    return SecretStr(value)


def _is_salt(salt: str) -> bool:
    """Whether bcrypt can use a salt: not every last character is possible."""
    try:
        bcrypt.hashpw(b"", f"$2b$04${salt}".encode())
    except ValueError:
        return False
    return True


def _user(name: str) -> str:
    if ":" in name:
        raise setting_error("a user name cannot contain a colon; choose another name")
    if found := find_invisible(name):
        raise setting_error(f"contains {found}; remove it")
    return name


def _header(value: str) -> str:
    if found := find_invisible(value):
        raise setting_error(f"contains {found}; remove it")
    if not value.isascii():
        raise setting_error("contains a character that an HTTP header cannot carry; use ASCII characters")
    return value


def _one_of(*values: str) -> AfterValidator:
    def check(value: str) -> str:
        if value not in values:
            raise setting_error(f"{{value}} is not valid; write {' or '.join(values)}")
        return value

    return AfterValidator(check)


def _absent(default: object) -> BeforeValidator:
    """Accept a key without a value as if it was not there, as the toolkit does."""
    return BeforeValidator(lambda value: default if value is None else value)


def _number_as_text(value: object) -> object:
    """`X-XSS-Protection: 0` is a number in YAML."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


_HeaderValue = Annotated[StrictStr, _absent(""), BeforeValidator(_number_as_text), AfterValidator(_header)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class HeaderSettings(_Section):
    """Headers of every response; "" where none is set.

    Attributes:
        strict_transport_security: Makes browsers use HTTPS only, for the whole host.
        x_content_type_options: Always nosniff.
        x_frame_options: Whether pages may be framed.
        x_xss_protection: For old browsers.
        content_security_policy: What pages may load and run, instead of their own policies.
    """

    strict_transport_security: _HeaderValue = Field("", alias="Strict-Transport-Security")
    x_content_type_options: Annotated[StrictStr, _one_of("nosniff")] | None = Field(
        None, alias="X-Content-Type-Options"
    )
    x_frame_options: Annotated[StrictStr, _one_of("deny", "sameorigin")] | None = Field(None, alias="X-Frame-Options")
    x_xss_protection: _HeaderValue = Field("", alias="X-XSS-Protection")
    content_security_policy: _HeaderValue = Field("", alias="Content-Security-Policy")


class HttpSettings(_Section):
    """How responses are sent.

    Attributes:
        http2: Accepted and of no effect: the exporter speaks HTTP/1.1, which every client of HTTP/2 can.
        headers: Headers of every response.
    """

    http2: Annotated[StrictBool, _absent(default=True)] = True
    headers: Annotated[HeaderSettings, _absent({})] = HeaderSettings.model_validate({})


class WebSettings(_Section):
    """The whole file.

    Attributes:
        tls_server_config: TLS; None for plain HTTP.
        http_server_config: How responses are sent.
        basic_auth_users: User to bcrypt hash; empty if no password is needed.
    """

    # An empty section is as good as none.
    tls_server_config: Annotated[TlsSettings | None, BeforeValidator(lambda value: None if value == {} else value)] = (
        None
    )
    http_server_config: Annotated[HttpSettings, _absent({})] = HttpSettings()
    basic_auth_users: Annotated[
        dict[Annotated[StrictStr, AfterValidator(_user)], Annotated[SecretStr, BeforeValidator(_hash)]], _absent({})
    ] = Field(default_factory=dict)
    rate_limit: Annotated[None, unsupported("remove it: the exporter has limits of its own")] = None


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items() if field.annotation is not type(None)]


# Key of a section, "" for the top level -> its valid keys.
_KEYS: Mapping[str, list[str]] = {
    "": _keys(WebSettings),
    "tls_server_config": _keys(TlsSettings),
    "http_server_config": _keys(HttpSettings),
    "headers": _keys(HeaderSettings),
}


def load_web_config(path: Path) -> WebConfig:
    """Load a web configuration with its certificates, and prove that they can be used.

    Args:
        path: The file. Its folder is the base of relative paths in it. It may be empty: no TLS, and no password.

    Raises:
        ConfigError: The file, or one that it names, is not valid. One line for each error.
    """
    file = yaml_file.read(path, first=_FIRST_KEY, may_be_empty=True)
    lines = list(file.errors)
    try:
        settings = WebSettings.model_validate(file.data, context=FileContext(path.parent, {}))
    except ValidationError as error:
        lines += [error_line(inner, file, _KEYS) for inner in error.errors(include_url=False)]
    # Not raised inside the except block, so that no traceback leads to pydantic's error, which holds the values.
    if lines:
        raise ConfigError(lines)
    tls, headers = settings.tls_server_config, settings.http_server_config.headers
    return WebConfig(
        tls=tls.context if tls else None,
        allowed_sans=frozenset(tls.client_allowed_sans) if tls else frozenset(),
        users=MappingProxyType({name: hashed.get_secret_value() for name, hashed in settings.basic_auth_users.items()}),
        headers=MappingProxyType({name: value for name, value in _written(headers) if value}),
        files=(path, *(tls.files if tls else ())),
    )


def _written(headers: HeaderSettings) -> Any:
    return headers.model_dump(by_alias=True).items()
