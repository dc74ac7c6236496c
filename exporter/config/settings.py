"""The configuration: its shape, its defaults, how it is read and written.

The errors of a file are listed at once, one line each: `place: what is wrong; how to fix it`. Code that builds
these models itself gives seconds, `SecretStr` and `ZoneInfo`; the forms that only a file has (`2m`,
`api_key_file`) are read by `load` alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any
from zlib import crc32
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    StrictBool,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from exporter.config import yaml_file
from exporter.config.environment import find_route
from exporter.config.messages import SECRETS, fault, told
from exporter.config.secrets import Origin, Secret, gather, secret_keys
from exporter.config.types import (
    Count,
    Duration,
    Identifier,
    Labels,
    MailAddress,
    Share,
    StatePath,
    Text,
    Url,
    Weight,
    Weights,
    Zone,
    at_least_one,
    at_most,
    between,
    listed,
    not_below,
    once,
)
from exporter.errors import ConfigError
from exporter.model import Group, Stream, Target
from exporter.views import Thresholds

# More lines than this are one mistake made again and again; they would push the first ones off the screen.
MOST_LISTED = 50

# From which share of the expected plays missing on a drop is worth an alert, unless configured.
DEFAULT_THRESHOLDS = Thresholds(warning=0.4, critical=0.6)


def _written(default: str) -> Any:
    """A default in the form that a file has."""
    return Field(default=default, validate_default=True)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class ApiSettings(_Section):
    """The API.

    Attributes:
        url: Where it is, without a slash at the end.
        timezone: The zone of its dates.
        timeout: Seconds to wait for a connection and for an answer.
    """

    url: Url = "https://ovp-s-api.smartstream.ne.jp/v1"
    timezone: Zone = ZoneInfo("Asia/Tokyo")
    timeout: Annotated[Duration, between("1ms", "1m")] = _written("10s")


def _no_groups_by_day(groups: list[Any], read: Mapping[str, Any]) -> Iterator[tuple[yaml_file.Loc, str]]:
    target = read.get("target")
    if target is Target.KEY_DELIVERY_COUNT:
        for position, group in enumerate(groups):
            if group in list(Group) and group != Group.ALL:
                yield (position,), f"{target} has no group but all; write [all], or leave groups out"


class CollectSettings(_Section):
    """What to fetch.

    Attributes:
        target: What is counted.
        groups: How it is split, a stream each.
        priority: How much more the freshness of these streams matters than with 1.
    """

    target: Target
    groups: Annotated[tuple[Group, ...], at_least_one, once(), listed(_no_groups_by_day)] = (Group.ALL,)
    priority: Weight = 1.0


def _not_below_warning(critical: float | None, info: ValidationInfo) -> float | None:
    warning = info.data.get("warning")
    if critical is not None and warning is not None and critical < warning:
        raise fault(f"{{value}} is less than warning, which is {warning:g}; raise critical or lower warning")
    return critical


class DropSettings(_Section):
    """From where on a drop of plays is worth an alert, as shares of the expected plays that are missing.

    What is None is as on the level above: the media's merchant, all merchants, the defaults.

    Attributes:
        warning: For an alert of severity warning.
        critical: For one of severity critical, at least as much.
    """

    warning: Share | None = None
    critical: Annotated[Share | None, AfterValidator(_not_below_warning)] = None


# What `drop: false` means: no drop is as large.
LEFT_OUT = DropSettings.model_construct(warning=2.0, critical=2.0)


def _or_false(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    if value is True:
        raise fault("{value} says nothing; write false to leave it out, or thresholds such as {warning: 0.4}")
    return LEFT_OUT if value is False else handler(value)


def _drop_as_written(drop: DropSettings) -> Any:
    return False if drop == LEFT_OUT else drop.model_dump(exclude_none=True)


Drop = Annotated[DropSettings, WrapValidator(_or_false), PlainSerializer(_drop_as_written)]


class MediaSettings(_Section):
    """One media.

    Attributes:
        id: The API's id of it.
        name: What to call it, or None for the catalog's name.
        priority: How much more its freshness matters than that of a media with 1.
        drop: From where on its drop is worth an alert, or None for what is so for its merchant.
        labels: Labels of its `smartstream_media_info`.
    """

    id: Identifier
    name: Text | None = None
    priority: Weight = 1.0
    drop: Drop | None = None
    labels: Labels = Field(default={}, validate_default=True)


class MerchantSettings(_Section):
    """One merchant.

    Attributes:
        id: The API's id of it.
        api_key: Its API key.
        mail_address: The account that signs in.
        password: The account's password.
        requests_per_minute: Requests that may leave in any 60 seconds.
        whole_merchant: Whether `collect` is fetched for the whole merchant, too.
        drop: From where on a drop is worth an alert, or None for what is so for all merchants.
        collect: What is fetched for each media.
        media: The media.
    """

    id: Identifier
    api_key: Secret
    mail_address: MailAddress
    password: Secret
    requests_per_minute: Count = 45
    whole_merchant: StrictBool = True
    drop: Drop | None = None
    collect: Annotated[tuple[CollectSettings, ...], once("target")] = (
        CollectSettings(target=Target.PLAY_COUNT),
        CollectSettings(target=Target.PLAY_TIME),
        CollectSettings(target=Target.DEVICE_COUNT),
    )
    media: Annotated[tuple[MediaSettings, ...], once("id")] = ()

    @model_validator(mode="before")
    @classmethod
    def _gather_secrets(cls, data: Any, info: ValidationInfo) -> Any:
        return gather(data) if info.context is not None and isinstance(data, dict) else data

    def streams(self) -> tuple[Stream, ...]:
        """Every stream to fetch, in a stable order; the first is the plays of the whole merchant."""
        wanted = [(entry.target, group) for entry in self.collect for group in entry.groups]
        whole = [(Target.PLAY_COUNT, Group.ALL), *(wanted if self.whole_merchant else ())]
        streams = [Stream(self.id, "", target, group) for target, group in whole]
        streams += [Stream(self.id, media.id, target, group) for media in self.media for target, group in wanted]
        return tuple(dict.fromkeys(streams))


class PollSettings(_Section):
    """When a minute counts. Durations are in seconds.

    Attributes:
        settle: How long after its end a minute is complete, where a row for it or a later one was seen.
        max_lag: How long after its end it is complete without such a row.
        revision_window: How long a counted minute is read again for changes.
        max_catch_up: How far back what was missed is fetched.
        max_staleness: How long a stream may wait for its turn.
        max_label_values: Values of a group that get a series of their own.
        concurrency: Requests of one merchant that are on the way at once.
        weights: By target and by group, what the freshness of such a stream matters; a stream has the product.
    """

    settle: Annotated[Duration, between("0s", "1y")] = _written("2m")
    max_lag: Annotated[Duration, between("0s", "1y"), not_below("settle")] = _written("10m")
    revision_window: Annotated[Duration, between("1m", "1y")] = _written("30m")
    max_catch_up: Annotated[Duration, between("1m", "1y")] = _written("1d")
    max_staleness: Annotated[Duration, between("1m", "1y")] = _written("30m")
    max_label_values: Count = 100
    concurrency: Annotated[Count, at_most(64)] = 4
    weights: Weights = Field(default={}, validate_default=True)


class StorageSettings(_Section):
    """Where the state is.

    Attributes:
        path: The state file, relative to the current directory.
    """

    path: StatePath = Path("state.db")


class Settings(_Section):
    """The configuration.

    Attributes:
        api: The API.
        merchants: One or more.
        poll: When a minute counts.
        drop: From where on a drop is worth an alert.
        storage: Where the state is.
    """

    api: ApiSettings = ApiSettings()
    merchants: Annotated[tuple[MerchantSettings, ...], at_least_one, once("id")]
    poll: PollSettings = Field(default_factory=PollSettings)
    drop: Drop = DropSettings(**asdict(DEFAULT_THRESHOLDS))
    storage: StorageSettings = StorageSettings()

    def thresholds(self, merchant: MerchantSettings, media: MediaSettings | None = None) -> Thresholds | None:
        """From where on a drop of a media is worth an alert, or for None of the whole merchant; None where none is.

        Each level replaces what it names of the one above; a warning above the critical threshold raises both.
        """
        found, left_out = DEFAULT_THRESHOLDS, False
        for level in (self.drop, merchant.drop, media.drop if media else None):
            if level is None:
                continue
            left_out = level == LEFT_OUT
            if not left_out:
                warning = found.warning if level.warning is None else level.warning
                critical = found.critical if level.critical is None else level.critical
                found = Thresholds(warning, max(warning, critical))
        return None if left_out else found

    def shard(self, index: int, count: int) -> "Settings":
        """The settings with the merchants of one of `count` processes.

        Each merchant belongs to exactly one, by a hash of its id: no process need know of the others.
        """
        merchants = tuple(each for each in self.merchants if crc32(each.id.encode()) % count == index)
        return self.model_copy(update={"merchants": merchants})


# The key that leads to a section, "" for the whole file -> what may stand there.
_KEYS: dict[str, list[str]] = {
    "": list(Settings.model_fields),
    "api": list(ApiSettings.model_fields),
    "merchants": [
        key for name in MerchantSettings.model_fields for key in (secret_keys(name) if name in SECRETS else (name,))
    ],
    "collect": list(CollectSettings.model_fields),
    "media": list(MediaSettings.model_fields),
    "poll": list(PollSettings.model_fields),
    "drop": list(DropSettings.model_fields),
    "storage": list(StorageSettings.model_fields),
}


def load(path: Path, environ: Mapping[str, str]) -> Settings:
    """The configuration in a file.

    Args:
        path: The file; the secret files that it names are relative to its folder.
        environ: The environment variables: those that it may name, and those of proxies and CA certificates.

    Raises:
        ConfigError: It, or the way to the API, cannot be used; one line an error, the first ones of many.
    """
    file = yaml_file.read(path)
    lines, unlisted = list(file.faults[:MOST_LISTED]), len(file.faults[MOST_LISTED:])
    try:
        settings = Settings.model_validate(file.data, context=Origin(path.parent, environ))
    except ValidationError as error:
        listed = error.errors(include_url=False)[: MOST_LISTED - len(lines)]
        lines += [told(inner, file, _KEYS) for inner in listed]
        unlisted += error.error_count() - len(listed)
    # Raised here, and not above, so that no traceback leads to the library's error, which knows the values.
    if unlisted:
        lines.append(f"and {unlisted} more error{'s' * (unlisted > 1)}")
    if lines:
        raise ConfigError(lines)
    find_route(settings.api.url, environ)
    return settings


def summary(settings: Settings) -> str:
    """The size of a configuration in one line."""
    merchants = settings.merchants
    counts = {
        "merchant": len(merchants),
        "media": sum(len(merchant.media) for merchant in merchants),
        "stream": sum(len(merchant.streams()) for merchant in merchants),
        "request": sum(merchant.requests_per_minute for merchant in merchants),
    }
    words = [f"{n} {word}" + ("s" if n != 1 and word != "media" else "") for word, n in counts.items()]
    return f"{', '.join(words)} a minute allowed"


def dump(settings: Settings) -> str:
    """The configuration in force as YAML: every default filled in, every secret as `<secret>`."""
    return yaml_file.write(settings.model_dump(mode="json", exclude_none=True))
