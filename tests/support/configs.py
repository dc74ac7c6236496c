"""Configurations as users write them and as code builds them."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

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

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"

# The environment variables with which tests load a configuration.
ENVIRON = {"KEY": "key-of-env", "EMPTY_VARIABLE": "", "PLACEHOLDER": "replace-me"}

# The required keys of a merchant.
MERCHANT = {"id": "m", "api_key": "key", "mail_address": "a@b", "password": "pass"}

# Every section of a configuration.
SECTIONS: tuple[type[BaseModel], ...] = (
    Settings,
    ApiSettings,
    TlsSettings,
    MerchantSettings,
    CollectSettings,
    MediaSettings,
    PollSettings,
    DropSettings,
    StorageSettings,
)

# No message may contain it.
SECRET = "hunter2"


def edited_example(folder: Path) -> Path:
    """The example as a user has edited it, in a folder."""
    path = folder / "config.yaml"
    path.write_text(EXAMPLE.read_text().replace("replace-me", "replaced"))
    return path


def merchant(**keys: Any) -> dict[str, Any]:
    """A configuration with one merchant."""
    return {"merchants": [MERCHANT | keys]}


def made_merchant(**keys: Any) -> MerchantSettings:
    """A merchant, built by code instead of from YAML."""
    secrets = {"api_key": SecretStr("k"), "password": SecretStr("p")}
    return MerchantSettings(**{"id": "m", "mail_address": "a@b", **secrets, **keys})
