"""Loading the configuration from a file, and dumping the configuration in force.

All errors of a file are reported at once, one line each: `place: what is wrong; how to fix it (file:line)`.
"""

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ValidationError

from exporter.config import yaml_file
from exporter.config.environment import find_route
from exporter.config.messages import SECRETS, error_line
from exporter.config.secrets import FileContext, secret_keys
from exporter.config.settings import (
    ApiSettings,
    CollectSettings,
    DropSettings,
    MediaSettings,
    MerchantSettings,
    PollSettings,
    Settings,
    StorageSettings,
    TlsSettings,
)
from exporter.errors import ConfigError

# Limit of error lines, so that one repeated mistake does not scroll the first lines off the screen.
MOST_LISTED = 50


def _with_secrets(section: type[BaseModel]) -> list[str]:
    """The keys of a section in a file."""
    return [key for name in section.model_fields for key in (secret_keys(name) if name in SECRETS else (name,))]


# Key of a section, "" for the top level -> its valid keys.
KEYS: dict[str, list[str]] = {
    "": list(Settings.model_fields),
    "api": _with_secrets(ApiSettings),
    "tls_config": list(TlsSettings.model_fields),
    "merchants": _with_secrets(MerchantSettings),
    "collect": list(CollectSettings.model_fields),
    "media": list(MediaSettings.model_fields),
    "poll": list(PollSettings.model_fields),
    "drop": list(DropSettings.model_fields),
    "storage": list(StorageSettings.model_fields),
}


def load(path: Path, environ: Mapping[str, str], files: dict[Path, str] | None = None) -> Settings:
    """Load and validate a configuration file.

    Args:
        path: The file. Its folder is the base of the relative paths of secret files and certificates.
        environ: The environment variables: for secrets, proxies and CA certificates.
        files: Filled with a digest of each file that is read, also where it is not valid.

    Raises:
        ConfigError: The file, or an environment variable, is not valid. One line for each error, at most MOST_LISTED,
            and the number of the others.
    """
    context = FileContext(path.parent, environ, {} if files is None else files)
    context.note(path)
    file = yaml_file.read(path)
    lines, unlisted = list(file.errors[:MOST_LISTED]), len(file.errors[MOST_LISTED:])
    try:
        settings = Settings.model_validate(file.data, context=context)
    except ValidationError as error:
        listed = error.errors(include_url=False)[: MOST_LISTED - len(lines)]
        lines += [error_line(inner, file, KEYS) for inner in listed]
        unlisted += error.error_count() - len(listed)
    # Not raised inside the except block, so that no traceback leads to pydantic's error, which holds the values.
    if lines:
        raise ConfigError([*lines, *more_errors(unlisted)])
    find_route(settings.api, environ)
    return settings


def more_errors(unlisted: int) -> list[str]:
    """The line for errors that are not listed, if there are any."""
    return [f"and {unlisted} more error{'s' * (unlisted > 1)}"] if unlisted else []


def summary(settings: Settings) -> str:
    """The size of a configuration in one line; media that are not looked up yet count, too."""
    merchants = [merchant.assumed() for merchant in settings.merchants]
    counts = {
        "merchant": len(merchants),
        "media": sum(len(merchant.media) for merchant in merchants),
        "stream": sum(len(merchant.streams()) for merchant in merchants),
        "request": sum(merchant.requests_per_minute for merchant in merchants),
    }
    words = [f"{n} {word}" + ("s" if n != 1 and word != "media" else "") for word, n in counts.items()]
    return f"{', '.join(words)} a minute allowed"


def dump(settings: Settings) -> str:
    """The configuration in force as YAML, with all defaults, and every secret as `<secret>`."""
    return yaml_file.write(settings.model_dump(mode="json", exclude_none=True))
