"""The configuration as models: keys, types, defaults.

Code that builds these models passes seconds, `SecretStr` and `ZoneInfo`. The forms that only a file has (`2m`,
`api_key_file`) are accepted only with a `FileContext`, as `exporter.config.load` passes it.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Self
from zlib import crc32
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    StrictBool,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_serializer,
    model_serializer,
    model_validator,
)

from exporter.config.certificates import CaFile, CertificateFile, KeyFile
from exporter.config.messages import ACCOUNT, PROXY, setting_error
from exporter.config.proxy import SETTING, Proxy, with_scheme
from exporter.config.secrets import ProxyUrl, Secret, gather
from exporter.config.tls_files import TlsVersion
from exporter.config.types import (
    CatalogField,
    Count,
    Duration,
    HostList,
    HostName,
    Identifier,
    Labels,
    MailAddress,
    MediaPattern,
    ReferenceId,
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
    replaced,
    unique,
)
from exporter.config.yaml_file import Loc
from exporter.model import Group, Stream, Target
from exporter.views import Thresholds

# Drop ratios above which alerts fire, unless configured.
DEFAULT_THRESHOLDS = Thresholds(warning=0.4, critical=0.6)


def _written(default: str) -> Any:
    """A default as a file has it, such as `2m`."""
    return Field(default=default, validate_default=True)


def _with_proxy(hosts: str, info: ValidationInfo) -> str:
    # An invalid proxy_url has an error of its own.
    if hosts and info.data.get("proxy_url", "") is None:
        raise setting_error("is set without proxy_url; set both, or NO_PROXY for a proxy of the environment")
    return hosts


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class TlsSettings(_Section):
    """TLS to the API. Paths are relative to the folder of the configuration.

    Attributes:
        ca_file: File with the CA certificates to trust, in PEM form; if not set, that of `REQUESTS_CA_BUNDLE`, or those
            that come with the exporter.
        cert_file: File with the client certificate, and the CA certificates above it, in PEM form.
        key_file: File with the private key of the client certificate, without a passphrase.
        server_name: Name that the API's certificate must have; if not set, the host in `url`.
        insecure_skip_verify: Whether to accept every certificate. Then others can read the account's password.
        min_version: Lowest version of TLS to use.
    """

    ca_file: CaFile = None
    cert_file: CertificateFile = None
    # Validated when it is missing, too: a certificate needs it.
    key_file: KeyFile = _written("")
    server_name: HostName | None = None
    insecure_skip_verify: StrictBool = False
    min_version: TlsVersion = TlsVersion.TLS12


class ApiSettings(_Section):
    """How to reach the API. Durations are in seconds.

    Attributes:
        url: Base URL of the API.
        timezone: Time zone of the dates in its responses. A wrong one is reported when plays arrive.
        timeout: Timeout for a request.
        proxy_url: Proxy to use, such as `http://user:password@proxy.example.com:3128`; a secret.
        no_proxy: Hosts, domains and networks to reach without `proxy_url`, separated by commas.
        proxy_from_environment: Whether to use the proxies of environment variables if `proxy_url` is not set.
        tls_config: TLS to the API.
    """

    url: Url = "https://ovp-s-api.smartstream.ne.jp/v1"
    timezone: Zone = ZoneInfo("Asia/Tokyo")
    timeout: Annotated[Duration, between("1ms", "1m")] = _written("10s")
    proxy_url: ProxyUrl | None = None
    no_proxy: Annotated[HostList, AfterValidator(_with_proxy)] = ""
    proxy_from_environment: StrictBool = True
    tls_config: TlsSettings = TlsSettings()

    @model_validator(mode="before")
    @classmethod
    def _gather_secrets(cls, data: Any, info: ValidationInfo) -> Any:
        if info.context is None or not isinstance(data, dict):
            return data
        return gather(data, PROXY, required=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no log line may hold: the password of the proxy."""
        return Proxy(with_scheme(self.proxy_url.get_secret_value()), SETTING).secrets if self.proxy_url else ()


def _no_groups_by_day(groups: list[Any], validated: Mapping[str, Any]) -> Iterator[tuple[Loc, str]]:
    target = validated.get("target")
    if target is Target.KEY_DELIVERY_COUNT:
        for position, group in enumerate(groups):
            if group in list(Group) and group != Group.ALL:
                yield (position,), f"{target} supports only the group all; write [all], or remove groups"


class CollectSettings(_Section):
    """A target to collect.

    Attributes:
        target: Target of the API.
        groups: Groups of the target; each group is one stream.
        priority: Weight of the freshness of these streams; streams with a higher weight are polled more often.
    """

    target: Target
    groups: Annotated[tuple[Group, ...], at_least_one, unique(), listed(_no_groups_by_day)] = (Group.ALL,)
    priority: Weight = 1.0


def _not_below_warning(critical: float | None, info: ValidationInfo) -> float | None:
    warning = info.data.get("warning")
    if critical is not None and warning is not None and critical < warning:
        raise setting_error(f"{{value}} is less than warning ({warning:g}); raise critical or lower warning")
    return critical


class DropSettings(_Section):
    """Alert thresholds for drops of plays. A drop ratio is the missing share of the expected plays, 0 to 1.

    None inherits from the level above: a media from its merchant, a merchant from the top level.

    Attributes:
        warning: Drop ratio above which an alert of severity warning fires.
        critical: Drop ratio above which an alert of severity critical fires; at least `warning`.
        accept_after: A drop that lasts for so long is accepted as the new level of the plays.
    """

    warning: Share | None = None
    critical: Annotated[Share | None, AfterValidator(_not_below_warning)] = None
    accept_after: Annotated[Duration, between("2h", "30d")] | None = None


# `drop: false`: no drop ratio is greater than 1.
DISABLED = DropSettings.model_construct(warning=2.0, critical=2.0)


def _or_false(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    if value is True:
        raise setting_error(
            "{value} is not valid; write false to disable drop alerts, or thresholds such as {warning: 0.4}"
        )
    return DISABLED if value is False else handler(value)


def _dump_drop(drop: DropSettings) -> Any:
    return False if drop == DISABLED else drop.model_dump(exclude_none=True)


Drop = Annotated[DropSettings, WrapValidator(_or_false), PlainSerializer(_dump_drop)]


def _id_or_ref_id(ref_id: str | None, info: ValidationInfo) -> str | None:
    # Without `id` in the data, the id is there and not valid.
    media_id = info.data.get("id")
    if ref_id is None and media_id == "":
        raise setting_error("is missing; add it, or ref_id", key="id")
    if ref_id is not None and media_id:
        raise setting_error("is given beside id; remove one of them")
    return ref_id


class MediaSettings(_Section):
    """One media, named by exactly one of `id` and `ref_id`.

    Attributes:
        id: ID of the media in the API; required without `ref_id`.
        ref_id: Reference ID of the media in the catalog, in place of `id`; the exporter looks its ID up.
        name: Display name; if not set, the name in the catalog.
        priority: Weight of the freshness of this media; media with a higher weight are polled more often.
        drop: Alert thresholds for this media; if not set, those of the merchant.
        labels: Extra labels of `smartstream_media_info` for this media.
    """

    id: Annotated[Identifier, replaced("the id of the media, or remove the entry")] = ""
    ref_id: Annotated[ReferenceId | None, AfterValidator(_id_or_ref_id)] = Field(default=None, validate_default=True)
    name: Text | None = None
    priority: Weight = 1.0
    drop: Drop | None = None
    labels: Labels = Field(default={}, validate_default=True)

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As a file has it: with the ID or the reference ID."""
        dumped: dict[str, Any] = handler(self)
        if self.ref_id is not None:
            dumped.pop("id", None)
        return dumped


def label_conflicts(media: Mapping[str, Any], catalog_labels: Collection[str]) -> Iterator[tuple[Loc, str]]:
    """The labels of a media that the catalog gives, too: place in the media, and what is wrong; how to fix it."""
    labels = media.get("labels")
    for name in labels if isinstance(labels, Mapping) else ():
        if name in catalog_labels:
            yield ("labels", name), "is a label of catalog_labels, too; rename it, or change catalog_labels"


def _no_label_conflicts(entries: list[Any], validated: Mapping[str, Any]) -> Iterator[tuple[Loc, str]]:
    for position, entry in enumerate(entries):
        fields = entry if isinstance(entry, Mapping) else {"labels": getattr(entry, "labels", None)}
        for loc, message in label_conflicts(fields, validated.get("catalog_labels", ())):
            yield (position, *loc), message


class MerchantSettings(_Section):
    """One merchant.

    Attributes:
        id: ID of the merchant in the API.
        api_key: API key of the merchant.
        mail_address: Mail address of the account that signs in.
        password: Password of the account.
        requests_per_minute: Request budget: maximum number of requests in any 60 seconds.
        whole_merchant: Whether to collect the targets for the whole merchant, too.
        drop: Alert thresholds for this merchant; if not set, those of the top level.
        collect: Targets to collect for each media.
        catalog_labels: Fields of the catalog that become labels of `smartstream_media_info`; only `tags`.
        media_files: Files with more media, `.yaml` or `.csv`, relative to the configuration file; `*` is a wildcard.
        media: Media of the merchant.
    """

    id: Annotated[Identifier, replaced("the id of the merchant, as shown in the console")]
    api_key: Secret
    mail_address: MailAddress
    password: Secret
    requests_per_minute: Count = 45
    whole_merchant: StrictBool = True
    drop: Drop | None = None
    collect: Annotated[tuple[CollectSettings, ...], unique("target")] = (
        CollectSettings(target=Target.PLAY_COUNT),
        CollectSettings(target=Target.PLAY_TIME),
        CollectSettings(target=Target.DEVICE_COUNT),
    )
    catalog_labels: Annotated[tuple[CatalogField, ...], unique()] = ()
    media_files: Annotated[tuple[MediaPattern, ...], unique()] = ()
    media: Annotated[tuple[MediaSettings, ...], unique("id"), unique("ref_id"), listed(_no_label_conflicts)] = ()
    # No fields: a file cannot set them.
    _pending: tuple[MediaSettings, ...] = PrivateAttr(())
    _repeated: tuple[MediaSettings, ...] = PrivateAttr(())

    @model_validator(mode="before")
    @classmethod
    def _gather_secrets(cls, data: Any, info: ValidationInfo) -> Any:
        return gather(data, ACCOUNT) if info.context is not None and isinstance(data, dict) else data

    @model_validator(mode="after")
    def _part_media(self) -> Self:
        """Part the media with an ID from those whose ID has to be looked up."""
        # Of a copy, what was parted before.
        self._pending = (*self._pending, *(media for media in self.media if not media.id))
        # The model is frozen only for its users.
        object.__setattr__(self, "media", tuple(media for media in self.media if media.id))
        return self

    @field_serializer("media")
    def _dump_media(self, media: tuple[MediaSettings, ...]) -> tuple[MediaSettings, ...]:
        return (*media, *self._pending)

    @property
    def pending(self) -> tuple[MediaSettings, ...]:
        """The media whose `ref_id` has not been looked up yet: their `id` is "", and they have no streams."""
        return self._pending

    @property
    def conflicts(self) -> tuple[str, ...]:
        """One line for each entry whose `ref_id` is of a media that another entry names, too: it is not used."""
        return tuple(
            f"merchant {self.id}: ref_id {media.ref_id} is the media {media.id}, which another entry names, too; "
            "remove one of them"
            for media in self._repeated
        )

    @property
    def ref_ids(self) -> frozenset[str]:
        """The reference IDs of all media that are configured by them."""
        entries = (*self.media, *self._pending, *self._repeated)
        return frozenset(media.ref_id for media in entries if media.ref_id is not None)

    def with_media(self, media: Iterable[MediaSettings]) -> "MerchantSettings":
        """The merchant with these media, in place of its own."""
        found = tuple(media)
        merchant = self.model_copy(update={"media": tuple(each for each in found if each.id)})
        merchant._pending = tuple(each for each in found if not each.id)  # noqa: SLF001 - of its own class
        merchant._repeated = ()  # noqa: SLF001 - of its own class
        return merchant

    def identified(self, known: Mapping[str, str]) -> "MerchantSettings":
        """The merchant with the media that their reference IDs name; those that are not known are `pending`.

        Args:
            known: Media ID by reference ID. An ID that was known before and is not any more is forgotten.
        """
        media: dict[str, MediaSettings] = {each.id: each for each in self.media if each.ref_id is None}
        pending, repeated = [], []
        for each in (*self.media, *self.pending, *self._repeated):
            if each.ref_id is None:
                continue
            found = each.model_copy(update={"id": known.get(each.ref_id, "")})
            if not found.id:
                pending.append(found)
            elif media.setdefault(found.id, found) is not found:
                repeated.append(found)
        merchant = self.with_media((*media.values(), *pending))
        merchant._repeated = tuple(repeated)  # noqa: SLF001 - of its own class
        return merchant

    def assumed(self) -> "MerchantSettings":
        """The merchant as if all of its media were known, for estimates: a pending one has a made-up ID."""
        return self.identified(
            {each.ref_id: each.id or f"ref:{each.ref_id}" for each in (*self.media, *self.pending) if each.ref_id}
        )

    def streams(self) -> tuple[Stream, ...]:
        """Every stream to poll, in a stable order; the first is the plays of the whole merchant."""
        wanted = [(entry.target, group) for entry in self.collect for group in entry.groups]
        whole = [(Target.PLAY_COUNT, Group.ALL), *(wanted if self.whole_merchant else ())]
        streams = [Stream(self.id, "", target, group) for target, group in whole]
        streams += [Stream(self.id, media.id, target, group) for media in self.media for target, group in wanted]
        return tuple(dict.fromkeys(streams))


class PollSettings(_Section):
    """When and how often to poll. Durations are in seconds.

    Attributes:
        settle: Time after the end of a minute until it is complete, if the API has a row for it or a later minute.
        max_lag: Time after the end of a minute until it is complete without such a row.
        revision_window: How long a counted minute is read again for late or changed rows.
        max_catch_up: Maximum period that is fetched after an outage.
        max_staleness: Maximum time between two requests for a stream.
        max_label_values: Maximum number of label values of a group with their own series, for each stream.
        concurrency: Maximum number of concurrent requests for one merchant.
        weights: Weight of the freshness of a stream, by target and by group; the two are multiplied.
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
    """Where to keep the state.

    Attributes:
        path: Path of the state file, relative to the working directory.
    """

    path: StatePath = Path("state.db")


class Settings(_Section):
    """The configuration.

    Attributes:
        api: How to reach the API.
        merchants: Merchants to poll, one or more.
        poll: When and how often to poll.
        drop: Alert thresholds for drops of plays.
        storage: Where to keep the state.
    """

    api: ApiSettings = ApiSettings()
    merchants: Annotated[tuple[MerchantSettings, ...], at_least_one, unique("id")]
    poll: PollSettings = Field(default_factory=PollSettings)
    drop: Drop = DropSettings(**asdict(DEFAULT_THRESHOLDS))
    storage: StorageSettings = StorageSettings()

    def secrets(self) -> frozenset[str]:
        """Every secret, to be hidden in the log."""
        given = (secret for merchant in self.merchants for secret in (merchant.api_key, merchant.password))
        return frozenset((*self.api.secrets, *(each.get_secret_value() for each in given)))

    def thresholds(self, merchant: MerchantSettings, media: MediaSettings | None = None) -> Thresholds | None:
        """Alert thresholds of a media, or of the whole merchant without one; None if its alerts are disabled.

        Each level overrides the level above. A warning threshold above the critical one raises both.
        """
        found, disabled = DEFAULT_THRESHOLDS, False
        for level in (self.drop, merchant.drop, media.drop if media else None):
            if level is None:
                continue
            disabled = level == DISABLED
            if not disabled:
                warning = found.warning if level.warning is None else level.warning
                critical = found.critical if level.critical is None else level.critical
                accept_after = found.accept_after if level.accept_after is None else level.accept_after
                found = Thresholds(warning, max(warning, critical), accept_after)
        return None if disabled else found

    def shard(self, index: int, count: int) -> "Settings":
        """The settings with only the merchants of one of `count` shards.

        A hash of the id assigns each merchant to exactly one shard, so that shards need not know each other.
        """
        merchants = tuple(each for each in self.merchants if crc32(each.id.encode()) % count == index)
        return self.model_copy(update={"merchants": merchants})
