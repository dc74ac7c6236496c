"""Secrets by value, from a file or from an environment variable.

An error names the file or the variable, and never shows a visible character of the secret.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, SecretStr, ValidationInfo

from exporter.config.messages import PROXY, placeholder_problem, setting_error
from exporter.config.proxy import proxy_problem, shown, with_scheme
from exporter.config.text_files import digest, read_text
from exporter.config.yaml_dialect import kind_of
from exporter.invisible import find_invisible
from exporter.redact import HIDDEN

# Size limit of a secret file in bytes: a wrong path can name a large file.
_LONGEST = 16 * 1024


# What to write in place of the placeholder.
_WANTED = {"api_key": "the API key of the merchant", "password": "the password of the account that signs in"}


@dataclass(frozen=True, slots=True)
class FileContext:
    """The validation context of a file. With it, validators accept the forms that only a file has.

    Attributes:
        folder: Base of relative paths of secret files and certificates.
        environ: The environment variables.
        files: Filled with the digest of each file that is read.
    """

    folder: Path
    environ: Mapping[str, str]
    files: dict[Path, str] = field(default_factory=dict)

    def note(self, path: Path) -> None:
        """Note a file that is about to be read: a change while it is read is seen later."""
        self.files[path] = digest(path)


@dataclass(frozen=True, slots=True)
class GivenSecret:
    """The keys of one secret in a file.

    Attributes:
        name: The secret, such as `api_key`.
        keys: The keys that are set, of `api_key`, `api_key_file` and `api_key_env`, with their values.
    """

    name: str
    keys: Mapping[str, object] = field(repr=False)


def secret_keys(name: str) -> tuple[str, str, str]:
    """The keys that can set a secret."""
    return name, f"{name}_file", f"{name}_env"


def gather(section: Mapping[str, Any], names: Iterable[str], *, required: bool = True) -> dict[str, Any]:
    """Collect the keys of each secret of a section under the name of the secret.

    Args:
        section: The section of the file.
        names: Its secrets.
        required: Whether one that is not set is an error.
    """
    rest = dict(section)
    for name in names:
        given = [key for key in secret_keys(name) if key in rest]
        if given or required:
            rest[name] = GivenSecret(name, {key: rest.pop(key) for key in given})
    return rest


def _read(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, GivenSecret):
        return value
    if len(value.keys) != 1:
        by_value, by_file, by_variable = secret_keys(value.name)
        missing = f"is missing; set {by_value}, {by_file} or {by_variable}"
        raise setting_error(f"is set more than once ({', '.join(value.keys)}); keep one" if value.keys else missing)
    ((key, source),) = value.keys.items()
    if source is None:
        raise setting_error("has no value; write one", key)
    if not isinstance(source, str):
        fix = "write a single value" if isinstance(source, list | dict) else "put it in quotes"
        raise setting_error(f"expected text, found {kind_of(source)}; {fix}", key)
    context: Any = info.context
    holder, secret = "", source
    if key != value.name and (found := find_invisible(source)):
        raise setting_error(f"contains {found}; remove it", key)
    if key.endswith("_file"):
        path = context.folder / source
        context.note(path)
        holder, secret = f"the file {path} ", _from_file(path, key)
    elif key.endswith("_env"):
        holder, secret = f"the environment variable {source} ", _from_environ(context.environ, source, key)
    unedited = placeholder_problem(secret, _WANTED.get(value.name, "the secret"))
    if problem := unedited or _problem(secret, value.name):
        raise setting_error(holder + problem, key)
    return SecretStr(secret)


def _from_file(path: Path, key: str) -> str:
    """The secret in a file, without a byte order mark and a final line end."""
    try:
        secret = read_text(path, _LONGEST, "is too long for a secret; check its name").rstrip("\r\n")
    except OSError as error:
        raise setting_error(f"cannot read {path}: {error.strerror}; check its name and permissions", key) from None
    except ValueError as error:
        raise setting_error(f"the file {path} {error}", key) from None
    if not secret:
        raise setting_error(f"the file {path} is empty; write the secret into it", key)
    return secret


def _from_environ(environ: Mapping[str, str], variable: str, key: str) -> str:
    """The secret in an environment variable."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        # Not shown: it may be the secret itself.
        example = f"SMARTSTREAM_{key.removesuffix('_env').upper()}"
        raise setting_error(f"is not a valid name of an environment variable; write one such as {example}", key)
    secret = environ.get(variable)
    if not secret:
        state = "not set" if secret is None else "empty"
        raise setting_error(f"the environment variable {variable} is {state}; set it to the secret", key)
    return secret


def _problem(secret: str, name: str) -> str | None:
    """Why a secret is not valid. The API key goes into a header, the password into JSON.

    A visible character is part of the secret: the message has only its position.
    """
    if not secret:
        return "is empty; write the secret" if name not in PROXY else "is empty; write an address, or remove the line"
    if found := find_invisible(secret):
        one_line = "write only the secret, in one line" if re.search(r"[\r\n]", secret) else "remove it"
        return f"contains {found}; {one_line}"
    if name != "api_key":
        return None
    if space := re.search(" ", secret):
        return f"contains a space at position {space.start() + 1}; write the key without spaces"
    if wrong := re.search(r"[^\x21-\x7e\xa1-\xff]", secret):
        place = wrong.start() + 1
        return f"contains a character at position {place} that an HTTP header cannot carry; copy the key again"
    return None


Secret = Annotated[SecretStr, BeforeValidator(_read), PlainSerializer(lambda _: HIDDEN)]


def _proxy(address: SecretStr) -> SecretStr:
    if problem := proxy_problem(with_scheme(address.get_secret_value())):
        raise setting_error(problem)
    return address


def _without_account(address: SecretStr | None) -> str | None:
    return None if address is None else shown(with_scheme(address.get_secret_value()))


# The address of a proxy: its user and password are secrets.
ProxyUrl = Annotated[SecretStr, BeforeValidator(_read), AfterValidator(_proxy), PlainSerializer(_without_account)]
