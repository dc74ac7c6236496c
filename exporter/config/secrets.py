"""Secrets by value, file or environment variable.

An error names the file or the variable, and of what is in it nothing that can be seen.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, SecretStr, ValidationInfo

from exporter.config.messages import SECRETS, fault
from exporter.config.yaml_file import decode, kind_of, read_bytes
from exporter.invisible import find_invisible
from exporter.redact import HIDDEN

# More than any key or password has; a wrong path can name a file without an end.
_LONGEST = 16 * 1024


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a file's settings come from: the context that makes validators read the forms of a file.

    Attributes:
        folder: What secret files are relative to.
        environ: The environment variables.
    """

    folder: Path
    environ: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class GivenSecret:
    """What a file says about one secret.

    Attributes:
        name: The secret, such as `api_key`.
        keys: Those of `api_key`, `api_key_file` and `api_key_env` that are there, with their values.
    """

    name: str
    keys: Mapping[str, object] = field(repr=False)


def secret_keys(name: str) -> tuple[str, str, str]:
    """The keys that can give a secret."""
    return name, f"{name}_file", f"{name}_env"


def gather(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section of a file with all that is said about a secret under the secret's own name."""
    rest = dict(section)
    for name in SECRETS:
        given = [key for key in secret_keys(name) if key in rest]
        rest[name] = GivenSecret(name, {key: rest.pop(key) for key in given})
    return rest


def _read(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, GivenSecret):
        return value
    if len(value.keys) != 1:
        several = f"is given by {' and '.join(value.keys)}; keep one of them"
        raise fault(several if value.keys else f"is missing; give {' or '.join(secret_keys(value.name))}")
    ((key, source),) = value.keys.items()
    if source is None:
        raise fault("has no value; write one", key)
    if not isinstance(source, str):
        fix = "write a single value" if isinstance(source, list | dict) else "put it in quotes"
        raise fault(f"expected text, found {kind_of(source)}; {fix}", key)
    origin: Any = info.context
    holder, secret = "", source
    if key != value.name and (found := find_invisible(source)):
        raise fault(f"contains {found}; remove it", key)
    if key.endswith("_file"):
        path = origin.folder / source
        holder, secret = f"the file {path} ", _from_file(path, key)
    elif key.endswith("_env"):
        holder, secret = f"the environment variable {source} ", _from_environ(origin.environ, source, key)
    if problem := _problem(secret, value.name):
        raise fault(holder + problem, key)
    return SecretStr(secret)


def _from_file(path: Path, key: str) -> str:
    """The secret in a file, without a byte order mark and the line end."""
    try:
        content = read_bytes(path, _LONGEST)
    except OSError as error:
        raise fault(f"cannot read the file {path}: {error.strerror}; check its name and permissions", key) from None
    except ValueError as error:
        raise fault(f"the file {path} {error}; name a regular file", key) from None
    if len(content) > _LONGEST:
        raise fault(f"the file {path} is too long for a secret; check its name", key)
    try:
        secret = decode(content).rstrip("\r\n")
    except ValueError as error:
        raise fault(f"the file {path} {error}; save it as UTF-8", key) from None
    if not secret:
        raise fault(f"the file {path} is empty; write the secret into it", key)
    return secret


def _from_environ(environ: Mapping[str, str], variable: str, key: str) -> str:
    """The secret in an environment variable."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        # Not shown: it looks like the secret itself.
        example = f"SMARTSTREAM_{key.removesuffix('_env').upper()}"
        raise fault(f"is not the name of an environment variable; write one such as {example}", key)
    secret = environ.get(variable)
    if not secret:
        state = "not set" if secret is None else "empty"
        raise fault(f"the environment variable {variable} is {state}; set it to the secret", key)
    return secret


def _problem(secret: str, name: str) -> str | None:
    """Why a secret cannot be sent, or cannot be meant. The API key goes into a header, the password into JSON.

    Of a character that can be seen only the place is named, as it is a part of the secret.
    """
    if not secret:
        return "is empty; write the secret"
    if found := find_invisible(secret):
        one_line = "write the secret alone, in one line" if re.search(r"[\r\n]", secret) else "remove it"
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
