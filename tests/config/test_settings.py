"""The models of the configuration: keys, types, defaults, streams, thresholds."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr, ValidationError

from exporter.config.load import dump, load
from exporter.config.secrets import secret_keys
from exporter.config.settings import (
    ApiSettings,
    CollectSettings,
    MediaSettings,
    MerchantSettings,
    PollSettings,
    Settings,
    StorageSettings,
)
from exporter.model import Group, Stream, Target
from exporter.views import Thresholds
from tests.support.configs import EXAMPLE, SECRET, SECTIONS, edited_example, made_merchant, merchant


def test_example_passes(tmp_path: Path) -> None:
    """The edited example loads without variables or other files, and shows the real defaults."""
    example = load(edited_example(tmp_path), {})
    (shown,) = example.merchants
    made = made_merchant(id=shown.id, mail_address=shown.mail_address, media=shown.media)
    assert (example.api, example.poll, example.storage) == (ApiSettings(), PollSettings(), StorageSettings())
    hidden = {"api_key": SecretStr(""), "password": SecretStr("")}
    assert shown.model_copy(update=hidden) == made.model_copy(update=hidden)
    assert shown.media[0].priority == MediaSettings(id="x").priority


def test_example_shows_every_key_and_word() -> None:
    """The example has every key, active or commented out, and every target and group."""
    words = set(re.findall(r"\w+", EXAMPLE.read_text()))
    assert {key for section in SECTIONS for key in section.model_fields} <= words
    assert {key for name in ("api_key", "password") for key in secret_keys(name)} <= words
    assert set(Target) <= words
    assert set(Group) <= words


def test_defaults(loaded: Any) -> None:
    """With only the four required keys of a merchant, everything else has its documented default."""
    found = loaded(merchant())
    assert found.api.url == "https://ovp-s-api.smartstream.ne.jp/v1"
    assert str(found.api.timezone) == "Asia/Tokyo"
    assert found.api.timeout == 10
    assert found.poll == PollSettings(
        settle=120,
        max_lag=600,
        revision_window=1800,
        max_catch_up=86400,
        max_staleness=1800,
        max_label_values=100,
    )
    assert found.storage.path == Path("state.db")
    (only,) = found.merchants
    assert (only.requests_per_minute, only.whole_merchant, only.media) == (45, True, ())
    assert [(entry.target, entry.groups) for entry in only.collect] == [
        (target, (Group.ALL,)) for target in (Target.PLAY_COUNT, Target.PLAY_TIME, Target.DEVICE_COUNT)
    ]


def test_full_file(loaded: Any) -> None:
    """Every key can be set, and is converted to its type."""
    found = loaded("""
        api: {url: "http://127.0.0.1:18080/v1/", timezone: UTC, timeout: 1s500ms}
        merchants:
          - id: "0123"
            api_key_env: KEY
            mail_address: ops@example.com
            password: 'p "ä" あ'
            requests_per_minute: 0x10
            whole_merchant: no
            collect:
              - {target: key_delivery_count}
              - {target: session_count, groups: [all, country]}
            media:
              - id: ref:12
                name: "24"
                priority: 1e2
                labels: {channel: news, day: 2026-01-01, on: "no", _x: ""}
        poll:
          settle: 0s
          max_lag: 0s
          revision_window: 1m
          max_catch_up: 1h1m
          max_staleness: 1w
          max_label_values: 1
        storage: {path: /data/state.db}
    """)
    assert (found.api.url, found.api.timeout) == ("http://127.0.0.1:18080/v1", 1.5)
    only = found.merchants[0]
    assert (only.id, only.requests_per_minute, only.whole_merchant) == ("0123", 16, False)
    assert only.api_key.get_secret_value() == "key-of-env"
    assert only.password.get_secret_value() == 'p "ä" あ'
    assert only.collect[1].groups == (Group.ALL, Group.COUNTRY)
    assert only.media[0].name == "24"
    assert only.media[0].priority == 100
    assert only.media[0].labels == {"channel": "news", "day": "2026-01-01", "on": "no", "_x": ""}
    assert found.poll.max_catch_up == 3660
    assert found.poll.max_staleness == 7 * 86400
    assert found.storage.path == Path("/data/state.db")


def test_short_durations_for_trials(loaded: Any) -> None:
    """`settle` and `max_lag` accept a few seconds, for trials."""
    poll = loaded(merchant() | {"poll": {"settle": "5s", "max_lag": "30s"}}).poll
    assert (poll.settle, poll.max_lag) == (5, 30)


def test_settings_built_by_code() -> None:
    """Code passes seconds and secrets directly; a validation error does not show the values."""
    assert PollSettings(settle=5, max_lag=7.5).max_lag == 7.5
    assert made_merchant(api_key=SecretStr("with space")).api_key.get_secret_value() == "with space"
    with pytest.raises(ValidationError) as caught:
        made_merchant(password=[SECRET])
    assert SECRET not in str(caught.value)
    with pytest.raises(ValidationError, match="frozen"):
        PollSettings().settle = 5.0
    with pytest.raises(TypeError):
        MediaSettings(id="a").labels["x"] = "y"  # type: ignore[index]
    with pytest.raises(ValidationError, match="duplicate of entry"):
        made_merchant(media=(MediaSettings(id="a"), MediaSettings(id="a")))


def test_streams() -> None:
    """The whole merchant's plays come first, then its other entries, then each media's, without duplicates."""
    collect = (
        CollectSettings(target=Target.PLAY_COUNT, groups=(Group.OS, Group.ALL)),
        CollectSettings(target=Target.KEY_DELIVERY_COUNT),
    )
    media = (MediaSettings(id="b"), MediaSettings(id="a"))
    found = made_merchant(collect=collect, media=media).streams()
    assert [str(stream) for stream in found] == [
        "whole merchant/play_count/all",
        "whole merchant/play_count/os",
        "whole merchant/key_delivery_count/all",
        "b/play_count/os",
        "b/play_count/all",
        "b/key_delivery_count/all",
        "a/play_count/os",
        "a/play_count/all",
        "a/key_delivery_count/all",
    ]
    assert {stream.merchant_id for stream in found} == {"m"}


@pytest.mark.parametrize("whole_merchant", [True, False])
@pytest.mark.parametrize("media", [(), (MediaSettings(id="a"),)])
def test_plays_of_the_whole_merchant_are_always_fetched(whole_merchant: bool, media: tuple[MediaSettings, ...]) -> None:
    """The first stream is the whole merchant's plays, even if `collect` does not have them."""
    for collect in ((), (CollectSettings(target=Target.DEVICE_COUNT),)):
        found = made_merchant(collect=collect, media=media, whole_merchant=whole_merchant).streams()
        assert found[0] == Stream("m", "", Target.PLAY_COUNT, Group.ALL)
        assert len(found) == 1 + len(collect) * (whole_merchant + len(media))


@pytest.mark.parametrize(
    ("of_all", "of_merchant", "of_media", "expected"),
    [
        (None, None, None, Thresholds(0.4, 0.6)),
        ({"warning": 0.3}, None, None, Thresholds(0.3, 0.6)),
        ({"warning": 0.3}, {"critical": 0.9}, None, Thresholds(0.3, 0.9)),
        ({"warning": 0.3}, {"critical": 0.9}, {"warning": 0.5}, Thresholds(0.5, 0.9)),
        (None, None, {"warning": 0.8}, Thresholds(0.8, 0.8)),
        (False, None, None, None),
        (None, False, None, None),
        (None, None, False, None),
        (False, None, {"warning": 0.5}, Thresholds(0.5, 0.6)),
        (None, {"warning": 0.5}, False, None),
    ],
)
def test_a_level_overrides_the_thresholds_of_the_level_above(
    loaded: Any, of_all: object, of_merchant: object, of_media: object, expected: Thresholds | None
) -> None:
    """Thresholds come from the media, else its merchant, else the top level, else the defaults; false disables.

    The dump of the configuration loads with the same thresholds.
    """

    def drop(value: object) -> dict[str, Any]:
        return {} if value is None else {"drop": value}

    settings = loaded(merchant(**drop(of_merchant), media=[{"id": "a", **drop(of_media)}]) | drop(of_all))
    written = yaml.safe_load(dump(settings))
    for entry in written["merchants"]:
        entry.update(api_key="key", password="pass")
    for each in (settings, loaded(written)):
        (one,) = each.merchants
        assert each.thresholds(one, one.media[0]) == expected


def ids(found: MerchantSettings) -> tuple[list[str], list[str | None]]:
    """The ids of the media, and the reference ids of the pending ones."""
    return [each.id for each in found.media], [each.ref_id for each in found.pending]


def test_a_reference_id_is_pending_until_it_is_known() -> None:
    """It has no streams until then: they would be those of the whole merchant."""
    found = made_merchant(media=[{"id": "a"}, {"ref_id": "r", "name": "Event"}, {"ref_id": "s"}, {"id": "b"}])
    assert ids(found) == (["a", "b"], ["r", "s"])
    assert {stream.media_id for stream in found.streams()} == {"", "a", "b"}
    known = found.identified({"r": "c", "x": "y"})
    assert ids(known) == (["a", "b", "c"], ["s"])
    assert known.media[2].name == "Event"
    assert {stream.media_id for stream in known.streams()} == {"", "a", "b", "c"}
    assert known.ref_ids == found.ref_ids == {"r", "s"}
    # What is known can change: the id of another media, or none.
    assert ids(known.identified({"r": "d", "s": "e"})) == (["a", "b", "d", "e"], [])
    assert known.identified({}) == found
    assert known.conflicts == ()


def test_two_entries_of_one_media() -> None:
    """The first wins, one by its id before one by its reference id; the other is reported, and no longer pending."""
    found = made_merchant(media=[{"ref_id": "r"}, {"ref_id": "s"}, {"id": "a", "name": "First"}, {"ref_id": "t"}])
    known = found.identified({"r": "a", "s": "b", "t": "b"})
    assert ids(known) == (["a", "b"], [])
    assert [each.name for each in known.media] == ["First", None]
    assert known.conflicts == (
        "merchant m: ref_id r is the media a, which another entry names, too; remove one of them",
        "merchant m: ref_id t is the media b, which another entry names, too; remove one of them",
    )
    assert known.ref_ids == {"r", "s", "t"}
    assert ids(known.identified({"r": "a", "s": "b", "t": "c"})) == (["a", "b", "c"], [])


def test_a_plan_takes_pending_media_as_known() -> None:
    """Each has its streams, and no media is there twice."""
    found = made_merchant(media=[{"id": "a"}, {"ref_id": "r"}, {"ref_id": "s"}]).identified({"r": "b"}).assumed()
    assert ids(found) == (["a", "b", "ref:s"], [])
    assert len(found.streams()) == 3 + 3 * 3


def test_a_validated_merchant_stays_as_it_is() -> None:
    """Also inside of settings that are validated later."""
    found = made_merchant(media=[{"id": "a"}, {"ref_id": "r"}])
    [inside] = Settings(merchants=(found,)).merchants
    assert ids(inside) == (["a"], ["r"])
