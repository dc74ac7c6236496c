"""Secrets by value, file or environment variable.

A fault names the file or the variable, never what is in it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, SecretStr, ValidationInfo

from exporter.configfaults import SECRETS, fault
from exporter.configfile import kind_of
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
        raise fault(f"expected text, found {kind_of(source)}; put it in quotes", key)
    origin: Any = info.context
    if key.endswith("_file"):
        secret = _from_file(origin.folder / source, key)
    elif key.endswith("_env"):
        secret = _from_environ(origin.environ, source, key)
    else:
        secret = source
    _check(secret, value.name, key)
    return SecretStr(secret)


def _from_file(path: Path, key: str) -> str:
    """The secret in a file, without the line end."""
    name = str(path) if str(path).isprintable() else ascii(str(path))
    try:
        with path.open("rb") as file:
            secret = file.read(_LONGEST + 1).decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise fault(f"the file {name} is not UTF-8 text; save it as UTF-8", key) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise fault(f"cannot read the file {name}: {reason}; check its name and permissions", key) from None
    if not secret:
        raise fault(f"the file {name} is empty; write the secret into it", key)
    if len(secret) > _LONGEST:
        raise fault(f"the file {name} is too long for a secret; check its name", key)
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


def _check(secret: str, name: str, key: str) -> None:
    """Refuse what cannot be sent: the API key goes into a header, the password into JSON."""
    if not secret:
        raise fault("is empty; write the secret", key)
    if re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", secret):
        raise fault("holds a control character; give the bare secret in one line", key)
    if name == "api_key" and not re.fullmatch(r"[\x21-\x7e\xa1-\xff]+", secret):
        raise fault("holds a space or a character that an HTTP header cannot carry; check the key", key)


Secret = Annotated[SecretStr, BeforeValidator(_read), PlainSerializer(lambda _: HIDDEN)]
