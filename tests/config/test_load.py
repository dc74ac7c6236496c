"""Loading, error lines, summary and dump of a configuration."""

import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from exporter.config.load import dump, load, summary
from exporter.config.settings import (
    ApiSettings,
    CollectSettings,
    MediaSettings,
    MerchantSettings,
    PollSettings,
    Settings,
    StorageSettings,
)
from exporter.config.types import RESERVED_LABELS
from exporter.errors import ConfigError
from exporter.invisible import find_garbling, find_invisible
from exporter.model import Group, Target
from exporter.redact import HIDDEN
from tests.support.configs import ENVIRON, EXAMPLE, SECRET, SECTIONS, edited_example, made_merchant, merchant

BAD = Path(__file__).parent / "bad_configs"


@pytest.mark.parametrize("path", sorted(BAD.glob("*.yaml")), ids=lambda path: path.stem)
def test_bad_config(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with one mistake gives exactly the error line in its first line, which shows no secret."""
    monkeypatch.chdir(BAD)
    with pytest.raises(ConfigError) as caught:
        load(Path(path.name), ENVIRON)
    assert caught.value.errors == (path.read_text().splitlines()[0].removeprefix("# "),)
    assert SECRET not in str(caught.value)


def test_all_errors_at_once(loaded: Any) -> None:
    """Errors in every section, in lists and inside their items, are reported together, one line each."""
    content = f"""
        api: {{timeout: 0s, timezone: Mars/Base}}
        api_key: {SECRET}
        merchants:
          - id: 5
            id: m
            api_key: {SECRET}あ
            password_env: NOWHERE
            collect:
              - {{target: key_delivery_count, groups: [os, city]}}
              - {{target: key_delivery_count}}
            media: [{{id: a, priority: 0}}, {{id: a, labels: {{id: 1, name: x}}}}]
          - {{id: m, api_key_file: nowhere, password: p, mail_address: a@b}}
        poll: {{settle: 1h, revision_window: 1, max_label_values: none}}
        storage: []
    """
    with pytest.raises(ConfigError) as caught:
        loaded(content)
    places = [error.partition(": ")[0] for error in caught.value.errors]
    assert sorted(places) == sorted(
        [
            "api.timeout",
            "api.timezone",
            "api_key",
            "merchants[0].id",
            "merchants[0].api_key",
            "merchants[0].password_env",
            "merchants[0].mail_address",
            "merchants[0].collect[0].groups[0]",
            "merchants[0].collect[0].groups[1]",
            "merchants[0].collect[1].target",
            "merchants[0].media[0].priority",
            "merchants[0].media[1].id",
            "merchants[0].media[1].labels.id",
            "merchants[0].media[1].labels.name",
            "merchants[1].id",
            "merchants[1].api_key_file",
            "poll.max_lag",
            "poll.revision_window",
            "poll.max_label_values",
            "storage",
        ]
    )
    assert str(caught.value).splitlines() == list(caught.value.errors)
    assert all("; " in error or error.endswith("?") for error in caught.value.errors)
    assert SECRET not in str(caught.value)


def test_every_key_is_checked_for_missing_and_invalid_values(loaded: Any) -> None:
    """A key without a value, or with a list or a mapping as its value, gives one line with its place."""
    sections: dict[str, type[BaseModel]] = {
        "api": ApiSettings,
        "poll": PollSettings,
        "storage": StorageSettings,
    }
    for name, section in sections.items():
        for key in section.model_fields:
            for value in (None, [[1]], {"x": 1}):
                with pytest.raises(ConfigError) as caught:
                    loaded(merchant() | {name: {key: value}})
                (error,) = caught.value.errors
                assert error.startswith((f"{name}.{key}: ", f"{name}.{key}.x: "))
                assert "Input" not in error


@pytest.mark.parametrize(
    ("wrong", "last"), [(49, None), (50, None), (51, "and 1 more error"), (2000, "and 1950 more errors")]
)
def test_the_first_errors_are_listed_and_the_rest_counted(loaded: Any, wrong: int, last: str | None) -> None:
    """At most 50 errors are listed, whichever check finds them; one more line has the number of the others."""
    for content in (
        merchant(media=[5] * wrong),
        yaml.safe_dump(merchant(media=[5] * (wrong // 2))) + "poll: {settle: 1m}\n" * (1 + wrong - wrong // 2),
        yaml.safe_dump(merchant()) + "poll: {settle: 1m}\n" * (1 + wrong),
    ):
        with pytest.raises(ConfigError) as caught:
            loaded(content)
        listed, rest = caught.value.errors[:50], caught.value.errors[50:]
        assert len(listed) == min(wrong, 50)
        assert all(": " in error for error in listed)
        assert rest == ((last,) if last else ())


def test_the_connection_to_the_api_is_checked(tmp_path: Path) -> None:
    """Invalid proxy and CA variables are configuration errors if the URL of the API needs them."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(merchant()))
    environ = {"HTTPS_PROXY": f"foo://user:{SECRET}@proxy:3128", "REQUESTS_CA_BUNDLE": str(tmp_path / "none.pem")}
    with pytest.raises(ConfigError) as caught:
        load(path, environ)
    assert [error.partition(": ")[0] for error in caught.value.errors] == ["HTTPS_PROXY", "REQUESTS_CA_BUNDLE"]
    assert SECRET not in str(caught.value)
    path.write_text(yaml.safe_dump(merchant() | {"api": {"url": "http://api.example.com/v1"}}))
    load(path, environ)


def test_the_example_is_refused_until_it_is_edited() -> None:
    """Each placeholder of the example is an error that says what to write there, and where."""
    with pytest.raises(ConfigError) as caught:
        load(EXAMPLE, {})
    written = [line for line in EXAMPLE.read_text().splitlines() if "replace-me" in line and not line.startswith("#")]
    assert len(caught.value.errors) == len(written) == 4
    lines = EXAMPLE.read_text().splitlines()
    for error, line in zip(caught.value.errors, written, strict=True):
        assert "is still replace-me, as in config.example.yaml; write the " in error
        assert error.endswith(f"({EXAMPLE}:{lines.index(line) + 1})")


@pytest.mark.parametrize(
    ("content", "error", "line"),
    [
        pytest.param("base: &b [{id: a b}]\nmerchants: *b", "merchants[0].id: `a b` is not", 1, id="an alias"),
        pytest.param("p: &p\n  settle: 5\npoll: {<<: *p}", "poll.settle: `5` has no", 2, id="merged"),
        pytest.param("p: &p {settle: 1m}\npoll:\n  <<: *p\n  settle: 6", "poll.settle: `6`", 4, id="overridden"),
        pytest.param("p: &p {x: 1}\npoll: {<<: *p, settle: 1m}", "poll.x: unknown key", 1, id="a merged key"),
        pytest.param("p: &p {settle: 9m}\npoll: *p\npol: *p", "pol: unknown key", 3, id="a key with an alias"),
        pytest.param("merchants:\n\n- &m\n  api_key: k\n- *m", "merchants[1].id: is missing", 3, id="missing"),
        pytest.param("poll:\n  max_lag:\n\n    1", "poll.max_lag: `1` has no unit", 4, id="below its key"),
        pytest.param("poll:\n  max_lag: &x\n    1", "poll.max_lag: `1` has no unit", 3, id="below its anchor"),
        pytest.param("merchants: []\npoll: # nothing\n", "poll: has no value", 2, id="no value"),
        pytest.param("api: {}\npoll:\n  settle: 20m", "poll.max_lag: 10m is less", 2, id="a default"),
        pytest.param("\r\npoll:\r\n  settle: 5\r\n", "poll.settle: `5` has no unit", 3, id="Windows"),
    ],
)
def test_an_error_names_the_line_of_the_text(tmp_path: Path, content: str, error: str, line: int) -> None:
    """The line is that of the value, wherever an alias or a merge brings it from; else of the key or the section."""
    path = tmp_path / "config.yaml"
    path.write_bytes(content.encode())
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    (found,) = (each for each in caught.value.errors if each.startswith(error))
    assert found.endswith(f" ({path}:{line})")


def test_summary() -> None:
    """The summary counts merchants, media, streams and requests."""
    one = made_merchant(media=(MediaSettings(id="a"),))
    assert summary(Settings(merchants=(one,))) == ("1 merchant, 1 media, 6 streams, 45 requests a minute allowed")
    two = made_merchant(id="n", collect=(), requests_per_minute=5)
    assert summary(Settings(merchants=(one, two))) == ("2 merchants, 1 media, 7 streams, 50 requests a minute allowed")


def test_dump_is_complete(tmp_path: Path) -> None:
    """The dump of the example is the example with its secrets hidden, comments and inheritance aside."""
    example = edited_example(tmp_path)
    shown = yaml.safe_load(example.read_text())
    for each in shown["merchants"]:
        each["api_key"] = each["password"] = HIDDEN
        for entry in each["collect"]:
            entry.setdefault("groups", ["all"])
            entry.setdefault("priority", 1)
    assert yaml.safe_load(dump(load(example, {}))) == shown


TEXT = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda text: not find_garbling(text))
IDS = st.one_of(
    st.text(string.hexdigits, min_size=1, max_size=32),
    st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters="/"), min_size=1),
).filter(lambda text: text not in (".", "..") and not find_invisible(text))
MILLISECONDS = st.integers(0, 365 * 86_400_000).map(lambda count: count / 1000)
MINUTES = st.integers(60_000, 365 * 86_400_000).map(lambda count: count / 1000)
LABELS = st.from_regex(r"\A[a-zA-Z_][a-zA-Z0-9_]*\Z").filter(
    lambda name: not name.startswith("__") and name not in RESERVED_LABELS
)
MEDIA = st.builds(
    MediaSettings,
    id=IDS,
    name=st.none() | TEXT,
    priority=st.floats(0, 1e6, exclude_min=True),
    labels=st.dictionaries(LABELS, TEXT, max_size=3),
)
COLLECT = st.sampled_from(Target).flatmap(
    lambda target: st.builds(
        CollectSettings,
        target=st.just(target),
        groups=st.just((Group.ALL,))
        if target.by_day
        else st.lists(st.sampled_from(Group), min_size=1, unique=True).map(tuple),
    )
)
MERCHANTS = st.builds(
    MerchantSettings,
    id=IDS,
    api_key=st.just(SecretStr("k")),
    mail_address=IDS,
    password=st.just(SecretStr("p")),
    requests_per_minute=st.integers(1, 1_000_000),
    whole_merchant=st.booleans(),
    collect=st.lists(COLLECT, max_size=3, unique_by=lambda entry: entry.target).map(tuple),
    media=st.lists(MEDIA, max_size=3, unique_by=lambda media: media.id).map(tuple),
)
POLL = st.tuples(MILLISECONDS, MINUTES, MINUTES, MINUTES).map(
    lambda spans: (
        PollSettings(
            settle=min(spans[:2]),
            max_lag=min(max(spans[:2]), max(spans[1:])),
            revision_window=spans[2],
            max_catch_up=max(spans[1:]),
            max_staleness=spans[3],
        )
        if spans[0] <= max(spans[1:])
        else PollSettings()
    )
)
SETTINGS = st.builds(
    Settings,
    api=st.builds(
        ApiSettings,
        url=st.sampled_from(["http://h", "https://[::1]:8/a%20b", "https://é.example/v1"]),
        timezone=st.just(ApiSettings().timezone),
        timeout=st.integers(1, 60_000).map(lambda count: count / 1000),
    ),
    merchants=st.lists(MERCHANTS, min_size=1, max_size=3, unique_by=lambda each: each.id).map(tuple),
    poll=POLL,
    storage=st.builds(StorageSettings, path=TEXT.filter(lambda text: text and not find_invisible(text))),
)


@pytest.mark.unmeasured
@given(made=SETTINGS)
@settings(max_examples=100)
def test_dump_reads_back(scratch: Path, made: Settings) -> None:
    """A configuration loaded from its dump is equal except for its secrets, and has the same streams."""
    scratch.write_text(dump(made), encoding="utf-8")
    read = load(scratch, {})
    hidden = {"api_key": SecretStr(HIDDEN), "password": SecretStr(HIDDEN)}
    unsecret = tuple(each.model_copy(update=hidden) for each in made.merchants)
    assert read == made.model_copy(update={"merchants": unsecret})
    assert [each.streams() for each in read.merchants] == [each.streams() for each in made.merchants]


KEYS = st.sampled_from(
    sorted({key for section in SECTIONS for key in section.model_fields} | {"api_key_file", "password_env", "x"})
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["play_count", "all", "key_delivery_count", "2m", "Asia/Tokyo", "http://h", "KEY", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=5),
    max_leaves=25,
)
# YAML indicators among keywords of the configuration, as typos produce them.
SLIPS = st.lists(
    st.sampled_from(":-{}[],#?|>'\"\\%@=~5 \n\t\0\x85\ufeffあ😀")
    | st.sampled_from([": ", "- ", "\n  ", "\n    ", "\n---\n", "<<", "&a ", "*a", "!!int ", "!!set ", "!x "])
    | st.sampled_from(["merchants", "id", "media", "1e5", "2026-13-45", "12:30", "0b_", "0x", ".inf", "no"]),
    max_size=40,
).map("".join)


def assert_only_config_errors(scratch: Path, content: bytes) -> None:
    """Load the content; each error is one line of the project, not of a library."""
    scratch.write_bytes(content)
    try:
        load(scratch, ENVIRON)
    except ConfigError as error:
        lines = error.errors
    else:
        return
    assert lines
    for line in lines:
        assert line.splitlines() == [line]
        assert ": " in line
        assert "nput should" not in line
        line.encode()


@pytest.mark.unmeasured
@given(data=st.dictionaries(KEYS, VALUES, max_size=5) | VALUES)
@example(data={"merchants": [{"id": 10**400, "requests_per_minute": 10**400, "media": [{"priority": 10**400}]}]})
@example(data={"poll": {"settle": 10**400, "max_lag": "9" * 500 + "y"}, "api": {"timezone": "a" * 300}})
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_any_data_gives_only_config_errors(scratch: Path, data: Any) -> None:
    """Whatever a YAML file contains, the only exception is a ConfigError with one line for each error."""
    text = yaml.dump(data, allow_unicode=True)
    assert_only_config_errors(scratch, text.encode("utf-8", "surrogatepass"))


@given(content=SLIPS.map(str.encode) | st.text().map(lambda text: text.encode()) | st.binary())
@example(content=b"&a [*a]")
@example(content=b"merchants: &a [{collect: *a, media: *a}, *a]")
@example(content=b"a: &a {<<: *a, b: *a}")
@example(content=b"? {a: b}\n: c")
@example(content=b"<<: [{a: b}, 5]")
@example(content=b"merchants: !!omap [a: b]")
@settings(max_examples=300)
def test_any_text_gives_only_config_errors(scratch: Path, content: bytes) -> None:
    """Whatever bytes a file has, the only exception is a ConfigError with one line for each error."""
    assert_only_config_errors(scratch, content)
