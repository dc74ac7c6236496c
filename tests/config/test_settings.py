import math
import os
import re
import string
import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr, ValidationError

from exporter.config import load as config
from exporter.config import text_files, yaml_dialect
from exporter.config.secrets import secret_keys
from exporter.config.settings import (
    ApiSettings,
    CollectSettings,
    DropSettings,
    MediaSettings,
    MerchantSettings,
    PollSettings,
    Settings,
    StorageSettings,
)
from exporter.config.types import RESERVED_LABELS
from exporter.errors import ConfigError
from exporter.invisible import find_garbling, find_invisible
from exporter.model import Group, Stream, Target
from exporter.redact import HIDDEN
from exporter.times import format_duration, parse_duration
from exporter.views import Thresholds

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"
BAD = Path(__file__).parent / "bad_configs"
SECRET = "hunter2"
ENVIRON = {"KEY": "key-of-env", "EMPTY_VARIABLE": ""}

SECTIONS: list[type[BaseModel]] = [
    Settings,
    ApiSettings,
    MerchantSettings,
    CollectSettings,
    MediaSettings,
    PollSettings,
    DropSettings,
    StorageSettings,
]
MERCHANT = {"id": "m", "api_key": "key", "mail_address": "a@b", "password": "pass"}


@pytest.fixture
def loaded(tmp_path: Path) -> Any:
    """Load what is given, as text, bytes or data."""

    def load(content: str | bytes | dict[str, Any]) -> Settings:
        path = tmp_path / "config.yaml"
        if isinstance(content, dict):
            content = yaml.safe_dump(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return config.load(path, ENVIRON)

    return load


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that every example of a property writes anew."""
    return tmp_path_factory.mktemp("scratch") / "config.yaml"


def merchant(**keys: Any) -> dict[str, Any]:
    """A configuration with one merchant."""
    return {"merchants": [MERCHANT | keys]}


def made_merchant(**keys: Any) -> MerchantSettings:
    """A merchant as code makes it."""
    secrets = {"api_key": SecretStr("k"), "password": SecretStr("p")}
    return MerchantSettings(**{"id": "m", "mail_address": "a@b", **secrets, **keys})


# What a bad file is told.


@pytest.mark.parametrize("path", sorted(BAD.glob("*.yaml")), ids=lambda path: path.stem)
def test_bad_config(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with one mistake gets exactly the line that its first line quotes, which holds no secret."""
    monkeypatch.chdir(BAD)
    with pytest.raises(ConfigError) as caught:
        config.load(Path(path.name), ENVIRON)
    assert caught.value.faults == (path.read_text().splitlines()[0].removeprefix("# "),)
    assert SECRET not in str(caught.value)


def test_all_faults_at_once(loaded: Any) -> None:
    """Faults in every section, in lists and inside of their items, are told together, one line each."""
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
    places = [fault.partition(": ")[0] for fault in caught.value.faults]
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
    assert str(caught.value).splitlines() == list(caught.value.faults)
    assert all("; " in fault or fault.endswith("?") for fault in caught.value.faults)
    assert SECRET not in str(caught.value)


def test_every_key_is_checked_for_nothing_and_for_nonsense(loaded: Any) -> None:
    """A key without a value, or with a list or keys as its value, gets one line with its place."""
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
                (fault,) = caught.value.faults
                assert fault.startswith((f"{name}.{key}: ", f"{name}.{key}.x: "))
                assert "Input" not in fault


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("merchants: []".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        (b"\xfe\xff", "is UTF-16 text; save it as UTF-8"),
        ("merchants: é".encode("latin-1"), "is not UTF-8 text; save it as UTF-8"),
        (b"", "is empty; list at least one merchant under `merchants`"),
        ("[" * 1000, "is nested too deeply; use fewer levels"),
        ("{a: " * 1000, "is nested too deeply; use fewer levels"),
    ],
    ids=["utf-16", "utf-16 the other way", "latin-1", "empty", "lists", "mappings"],
)
def test_unreadable_content(loaded: Any, tmp_path: Path, content: str | bytes, fault: str) -> None:
    """A file that cannot be text, or cannot be a configuration, gets one line with its name."""
    with pytest.raises(ConfigError) as caught:
        loaded(content)
    assert caught.value.faults == (f"{tmp_path / 'config.yaml'}: {fault}",)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("merchants:\n  - id: a\0b", "2:10: not valid YAML: control character U+0000; save the file as UTF-8 text"),
        ("merchants:\r  - id: a\x1bb", "2:10: not valid YAML: control character U+001B; remove it"),
        ("merchants: [hunter2}", "1:20: not valid YAML: an unclosed bracket or a missing comma;"),
        ("merchants: hunter2: ]", "1:19: not valid YAML: a second `: ` in one line,"),
        ("- a\n%hunter2", "2:9: not valid YAML: unexpected text;"),
        (
            "a: &hunter2 x\nb: &hunter2 y",
            "2:4: not valid YAML: text that begins with & is an anchor in YAML,",
        ),
        ("a: !!int 017", "1:4: not valid YAML: an invalid value for its type;"),
        ("a: !!float 1:30", "1:4: not valid YAML: an invalid value for its type;"),
        ("a: " + "9" * 5000, "1:4: not valid YAML: an invalid value for its type;"),
        ("a: !!bool hunter2", "1:4: not valid YAML: an invalid value for its type;"),
        ("a: !!timestamp [1]", "1:4: not valid YAML: "),
    ],
)
def test_syntax(loaded: Any, tmp_path: Path, content: str, fault: str) -> None:
    """What YAML cannot read is told with its line and column, and not quoted."""
    with pytest.raises(ConfigError) as caught:
        loaded(content)
    (told,) = caught.value.faults
    place = f"{tmp_path / 'config.yaml'}:"
    assert told.startswith(place + fault)
    assert SECRET not in told.removeprefix(place)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    """A path that is no file gets one line with the path and the fix; nothing is waited for or read without end."""
    (tmp_path / "config.yaml").touch()
    os.mkfifo(tmp_path / "pipe")
    for path, fault in [
        (tmp_path / "none.yaml", "no such file; create it, or name another file"),
        (tmp_path, "is a directory; name a file in it"),
        (tmp_path / "config.yaml" / "x", "cannot be read: Not a directory; check the file and its permissions"),
        (tmp_path / "pipe", "is a pipe; name a regular file"),
        (Path("/dev/zero"), "is a device; name a regular file"),
        (Path("/dev/null"), "is a device; name a regular file"),
    ]:
        with pytest.raises(ConfigError) as caught:
            config.load(path, {})
        assert caught.value.faults == (f"{path}: {fault}",)
    with pytest.raises(ConfigError) as caught:
        config.load(Path("a\0b"), {})
    assert caught.value.faults == ("'a\\x00b': is not a valid path; name a file",)


def test_a_file_that_is_too_large(loaded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is read up to a size; what is larger is no configuration."""
    monkeypatch.setattr(text_files, "LARGEST_FILE", 1024 * 1024)
    text = yaml.safe_dump(merchant())
    assert loaded(text + "#" * (1024 * 1024 - len(text)))
    with pytest.raises(ConfigError) as caught:
        loaded(text + "#" * (1024 * 1024 - len(text) + 1))
    path = tmp_path / "config.yaml"
    assert caught.value.faults == (f"{path}: is larger than 1 MiB; check that it is the configuration file",)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("a: &a [" + "x, " * 2000 + "]\nmerchants: [" + "*a, " * 2000 + "]", id="one anchor used often"),
        pytest.param(
            "a0: &a0 {k: x}\n" + "".join(f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}\n" for n in range(1, 40)),
            id="aliases of aliases",
        ),
        pytest.param(
            "a: &a {" + "".join(f"k{n}: x, " for n in range(2000)) + "}\nb: [" + "{<<: *a}, " * 2000 + "]", id="merges"
        ),
        pytest.param("a: [" + "x," * 4000 + "]", id="no alias"),
    ],
)
def test_values_are_bounded(loaded: Any, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    """A file that stands for too many values is given up before they are made."""
    monkeypatch.setattr(yaml_dialect, "MOST_VALUES", 3000)
    with pytest.raises(ConfigError) as caught:
        loaded(content)
    (fault,) = caught.value.faults
    assert fault.endswith("more than 3,000 values, aliases expanded; remove aliases or split the configuration")


@pytest.mark.parametrize(
    ("wrong", "last"), [(49, None), (50, None), (51, "and 1 more error"), (2000, "and 1950 more errors")]
)
def test_the_first_errors_are_listed_and_the_rest_counted(loaded: Any, wrong: int, last: str | None) -> None:
    """No more than 50 errors are listed, whatever finds them; one line says how many more there are."""
    for content in (
        merchant(media=[5] * wrong),
        yaml.safe_dump(merchant(media=[5] * (wrong // 2))) + "poll: {settle: 1m}\n" * (1 + wrong - wrong // 2),
        yaml.safe_dump(merchant()) + "poll: {settle: 1m}\n" * (1 + wrong),
    ):
        with pytest.raises(ConfigError) as caught:
            loaded(content)
        listed, rest = caught.value.faults[:50], caught.value.faults[50:]
        assert len(listed) == min(wrong, 50)
        assert all(": " in fault for fault in listed)
        assert rest == ((last,) if last else ())


def test_the_way_to_the_api_is_part_of_it(tmp_path: Path) -> None:
    """Variables that can never work are errors of the configuration, where the API's address needs them."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(merchant()))
    environ = {"HTTPS_PROXY": f"foo://user:{SECRET}@proxy:3128", "REQUESTS_CA_BUNDLE": str(tmp_path / "none.pem")}
    with pytest.raises(ConfigError) as caught:
        config.load(path, environ)
    assert [fault.partition(": ")[0] for fault in caught.value.faults] == ["HTTPS_PROXY", "REQUESTS_CA_BUNDLE"]
    assert SECRET not in str(caught.value)
    path.write_text(yaml.safe_dump(merchant() | {"api": {"url": "http://api.example.com/v1"}}))
    config.load(path, environ)


# What a good file says.


def test_example_passes() -> None:
    """The example loads as it is, without variables or other files, and shows the true defaults."""
    example = config.load(EXAMPLE, {})
    (shown,) = example.merchants
    made = made_merchant(id=shown.id, mail_address=shown.mail_address, media=shown.media)
    assert (example.api, example.poll, example.storage) == (ApiSettings(), PollSettings(), StorageSettings())
    hidden = {"api_key": SecretStr(""), "password": SecretStr("")}
    assert shown.model_copy(update=hidden) == made.model_copy(update=hidden)
    assert shown.media[0].priority == MediaSettings(id="x").priority


def test_example_shows_every_key_and_word() -> None:
    """The example has every key there is, in force or commented, and every target and group."""
    words = set(re.findall(r"\w+", EXAMPLE.read_text()))
    assert {key for section in SECTIONS for key in section.model_fields} <= words
    assert {key for name in ("api_key", "password") for key in secret_keys(name)} <= words
    assert set(Target) <= words
    assert set(Group) <= words


def test_defaults(loaded: Any) -> None:
    """A merchant's four required keys are enough for the documented defaults."""
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
    """Every key can be set, and arrives in its type."""
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
    """Seconds are enough where no window needs more."""
    poll = loaded(merchant() | {"poll": {"settle": "5s", "max_lag": "30s"}}).poll
    assert (poll.settle, poll.max_lag) == (5, 30)


def test_anchors_and_merges(loaded: Any) -> None:
    """YAML's aliases and merges work, and an overridden key of a merge is not a key given twice."""
    found = loaded("""
        merchants:
          - &first {id: a, api_key: k, password: p, mail_address: a@b, collect: &plays [{target: play_count}]}
          - {<<: *first, id: b, collect: *plays}
    """)
    assert [(each.id, len(each.collect)) for each in found.merchants] == [("a", 1), ("b", 1)]


def test_fault_in_an_aliased_value(loaded: Any) -> None:
    """A fault in what an alias repeats is told at both places."""
    with pytest.raises(ConfigError) as caught:
        loaded(yaml.safe_dump(merchant()) + "poll: {settle: &wrong 5, max_staleness: *wrong}")
    assert caught.value.faults == (
        "poll.settle: `5` has no unit; write it with a unit, such as 5s",
        "poll.max_staleness: a number has no unit; write it with a unit, such as 5s",
    )


def test_byte_order_mark(loaded: Any) -> None:
    """A byte order mark, as some editors write, is no fault."""
    assert loaded(b"\xef\xbb\xbf" + yaml.safe_dump(merchant()).encode()).merchants[0].id == "m"


@pytest.mark.parametrize(
    ("written", "read"),
    [("y", "y"), ("n", "n"), ("2026-01-01", "2026-01-01"), ("=", "="), ("_1", "_1"), ("0:30", "0:30"), ("1e", "1e"),
     ("'0123'", "0123"), ('"1:30"', "1:30"), ("!!str 1_000", "1_000"), ("0x1G", "0x1G"), ("08x", "08x")],
)  # fmt: skip
def test_an_id_is_as_it_is_written(loaded: Any, written: str, read: str) -> None:
    """What no version of YAML takes for a number, and what is in quotes, is an id to the letter."""
    content = yaml.safe_dump(merchant()).replace("id: m", f"id: {written}")
    assert loaded(content).merchants[0].id == read


@pytest.mark.parametrize(
    ("written", "read"),
    [("16", 16), ("0x10", 16), ("+16", 16), ("16.0", 16), ("1.6e1", 16), ("160e-1", 16), ("016.0", 16), (".5", 0.5)],
)
def test_numbers_that_all_versions_of_yaml_read_alike(loaded: Any, written: str, read: float) -> None:
    """Such a number is a number."""
    content = yaml.safe_dump(merchant(media=[{"id": "a", "priority": 77}])).replace("77", written)
    assert loaded(content).merchants[0].media[0].priority == read


# Secrets.


def test_secret_files(loaded: Any, tmp_path: Path) -> None:
    """A secret file is relative to the configuration's folder and loses its line end only."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "key").write_bytes(b"key-of-file\r\n")
    (tmp_path / "pass").write_text(" päss word \n\n")
    keys = {
        "id": "m",
        "mail_address": "a@b",
        "api_key_file": "secrets/key",
        "password_file": str(tmp_path / "pass"),
    }
    (only,) = loaded({"merchants": [keys]}).merchants
    assert only.api_key.get_secret_value() == "key-of-file"
    assert only.password.get_secret_value() == " päss word "


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
def test_byte_order_mark_of_a_secret_file(loaded: Any, tmp_path: Path, end: str) -> None:
    """A byte order mark, as Windows' editors write, is no part of a secret."""
    (tmp_path / "secret").write_bytes(b"\xef\xbb\xbf" + f"秘密 {SECRET}{end}".encode())
    keys = {key: value for key, value in MERCHANT.items() if key != "password"}
    (only,) = loaded({"merchants": [keys | {"password_file": "secret"}]}).merchants
    assert only.password.get_secret_value() == f"秘密 {SECRET}"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "the file {} is empty; write the secret into it"),
        (b"\n", "the file {} is empty; write the secret into it"),
        (b"hunter2\xff", "the file {} is not UTF-8 text; save it as UTF-8"),
        (b"hunter2" * 5000, "the file {} is too long for a secret; check its name"),
        ("秘密".encode() * 3000, "the file {} is too long for a secret; check its name"),
        ("hunter2\r\n".encode("utf-16"), "the file {} is UTF-16 text; save it as UTF-8"),
        (b"\xfe\xff", "the file {} is UTF-16 text; save it as UTF-8"),
        (b"\xef\xbb\xbf\r\n", "the file {} is empty; write the secret into it"),
        (
            b"\xef\xbb\xbf" * 2 + b"hunter2",
            "the file {} contains U+FEFF ZERO WIDTH NO-BREAK SPACE at position 1; remove it",
        ),
        (
            b"hunter2\nhunter2",
            "the file {} contains U+000A LINE FEED at position 8; write only the secret, in one line",
        ),
        ("hunter2\u2028".encode(), "the file {} contains U+2028 LINE SEPARATOR at position 8; remove it"),
        (b"hunter2 ", "the file {} contains a space at position 8; write the key without spaces"),
        (
            "hunter2あ".encode(),
            "the file {} contains a character at position 8 that an HTTP header cannot carry; copy the key again",
        ),
    ],
)
def test_bad_secret_file(loaded: Any, tmp_path: Path, content: bytes, fault: str) -> None:
    """A secret file that cannot be used gets one line with its name, and nothing of what is in it."""
    path = tmp_path / "secret"
    path.write_bytes(content)
    keys = {key: value for key, value in MERCHANT.items() if key != "api_key"}
    with pytest.raises(ConfigError) as caught:
        loaded({"merchants": [keys | {"api_key_file": "secret"}]})
    assert caught.value.faults == (f"merchants[0].api_key_file: {fault.format(path)}",)


def test_a_pipe_as_a_secret_file(loaded: Any, tmp_path: Path) -> None:
    """Nobody waits for who writes into a pipe."""
    os.mkfifo(tmp_path / "secret")
    keys = {key: value for key, value in MERCHANT.items() if key != "api_key"}
    with pytest.raises(ConfigError) as caught:
        loaded({"merchants": [keys | {"api_key_file": "secret"}]})
    path = tmp_path / "secret"
    assert caught.value.faults == (f"merchants[0].api_key_file: the file {path} is a pipe; name a regular file",)


@pytest.mark.parametrize(
    ("secret", "found"),
    [
        ("\ufeffhunter2", "U+FEFF ZERO WIDTH NO-BREAK SPACE at position 1; remove it"),
        ("hunter2\r", "U+000D CARRIAGE RETURN at position 8; write only the secret, in one line"),
        ("hunter2\udcff", "U+DCFF (a byte that is not UTF-8, or half a character) at position 8; remove it"),
        ("hunter\u20602", "U+2060 WORD JOINER at position 7; remove it"),
        ("hunter\x072", "U+0007 (a control character) at position 7; remove it"),
        ("hunter2\u3000", "U+3000 IDEOGRAPHIC SPACE at position 8; remove it"),
    ],
)
def test_invisible_characters_of_a_secret_in_the_environment(tmp_path: Path, secret: str, found: str) -> None:
    """A character that nobody sees is named with its place, and the variable, but not the secret."""
    path = tmp_path / "config.yaml"
    keys = {key: value for key, value in MERCHANT.items() if key != "password"}
    path.write_text(yaml.safe_dump({"merchants": [keys | {"password_env": "PASS"}]}))
    with pytest.raises(ConfigError) as caught:
        config.load(path, {"PASS": secret})
    place = "merchants[0].password_env: the environment variable PASS contains"
    assert caught.value.faults == (f"{place} {found}",)


def test_any_visible_password(loaded: Any) -> None:
    """A password can have every character that can be seen, and plain spaces; a name joiners and wide spaces, too."""
    password = " p~ ä 秘密 🔑 ￥ ❤\ufe0f "
    found = loaded(merchant(password=password, media=[{"id": "a", "name": "朝の　ニュース 👩\u200d👧"}]))
    assert found.merchants[0].password.get_secret_value() == password
    assert found.merchants[0].media[0].name == "朝の　ニュース 👩\u200d👧"


def test_secrets_are_shown_nowhere(loaded: Any) -> None:
    """No secret is in the repr, the text or the dump of a configuration."""
    found = loaded(merchant(api_key=f"{SECRET}-key", password=f"{SECRET}-pass"))
    assert found.merchants[0].api_key.get_secret_value() == f"{SECRET}-key"
    for text in (repr(found), str(found), config.dump(found), config.summary(found), found.model_dump_json()):
        assert SECRET not in text
    assert config.dump(found).count(HIDDEN) == 2


def test_errors_lead_to_no_secret(loaded: Any) -> None:
    """Neither the traceback nor a chained exception of a fault leads to the values of the file."""
    for content in (merchant(api_key=f"{SECRET} x", id=5), f"password: *{SECRET}", SECRET.encode("utf-16")):
        with pytest.raises(ConfigError) as caught:
            loaded(content)
        assert SECRET not in "".join(traceback.format_exception(caught.value))
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None


def test_code_makes_settings_of_its_own() -> None:
    """Code gives seconds and secrets as they are; a mistake in it does not show the values."""
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


BLOCK = f"""merchants:
  - id: m
    api_key: {SECRET}
    mail_address: a@b
    password: {SECRET}
    media:
      - id: a
"""
FLOW = f"merchants: [{{id: m, api_key: {SECRET}, mail_address: a@b, password: '{SECRET}'}}]"


@given(
    text=st.sampled_from([BLOCK, FLOW]),
    start=st.integers(0, len(BLOCK)),
    cut=st.integers(0, 2),
    put=st.sampled_from(["", *"\n\t :#-&*!%@'\"{}[]|>?,\\x5", "\n  ", ": ", "- "]),
)
@example(text=FLOW, start=FLOW.index(f" {SECRET}"), cut=1, put="")
@example(text=FLOW, start=FLOW.index(f": {SECRET}"), cut=2, put="")
@example(text=BLOCK, start=BLOCK.index(SECRET), cut=0, put="*")
@settings(max_examples=500)
def test_slips_show_no_secret(scratch: Path, text: str, start: int, cut: int, put: str) -> None:
    """A slip of the hand anywhere in a file, next to a secret too, makes no message show the secret."""
    scratch.write_text(text[:start] + put + text[start + cut :])
    try:
        config.load(scratch, {})
    except ConfigError as error:
        told = str(error)
    else:
        told = ""
    assert SECRET not in told


# Streams, summary, dump.


def test_streams() -> None:
    """The whole merchant's plays come first, then its other entries, then each media's; none twice."""
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
    """The first stream is the whole merchant's plays, even where `collect` has nothing of them."""
    for collect in ((), (CollectSettings(target=Target.DEVICE_COUNT),)):
        found = made_merchant(collect=collect, media=media, whole_merchant=whole_merchant).streams()
        assert found[0] == Stream("m", "", Target.PLAY_COUNT, Group.ALL)
        assert len(found) == 1 + len(collect) * (whole_merchant + len(media))


def test_summary() -> None:
    """The summary counts merchants, media, streams and requests."""
    one = made_merchant(media=(MediaSettings(id="a"),))
    assert config.summary(Settings(merchants=(one,))) == (
        "1 merchant, 1 media, 6 streams, 45 requests a minute allowed"
    )
    two = made_merchant(id="n", collect=(), requests_per_minute=5)
    assert config.summary(Settings(merchants=(one, two))) == (
        "2 merchants, 1 media, 7 streams, 50 requests a minute allowed"
    )


def test_dump_is_complete(loaded: Any) -> None:
    """The dump of the example is the example with its secrets hidden, comments and inheritance aside."""
    shown = yaml.safe_load(EXAMPLE.read_text())
    for each in shown["merchants"]:
        each["api_key"] = each["password"] = HIDDEN
        for entry in each["collect"]:
            entry.setdefault("groups", ["all"])
            entry.setdefault("priority", 1)
    assert yaml.safe_load(config.dump(config.load(EXAMPLE, {}))) == shown


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


@given(made=SETTINGS)
@settings(max_examples=100)
def test_dump_reads_back(scratch: Path, made: Settings) -> None:
    """A configuration read back from its dump is the same but for its secrets, streams included."""
    scratch.write_text(config.dump(made), encoding="utf-8")
    read = config.load(scratch, {})
    hidden = {"api_key": SecretStr(HIDDEN), "password": SecretStr(HIDDEN)}
    unsecret = tuple(each.model_copy(update=hidden) for each in made.merchants)
    assert read == made.model_copy(update={"merchants": unsecret})
    assert [each.streams() for each in read.merchants] == [each.streams() for each in made.merchants]


# Whatever is in the file.

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
# Marks of YAML among words of the configuration: what a slip of the hand looks like.
SLIPS = st.lists(
    st.sampled_from(":-{}[],#?|>'\"\\%@=~5 \n\t\0\x85\ufeffあ😀")
    | st.sampled_from([": ", "- ", "\n  ", "\n    ", "\n---\n", "<<", "&a ", "*a", "!!int ", "!!set ", "!x "])
    | st.sampled_from(["merchants", "id", "media", "1e5", "2026-13-45", "12:30", "0b_", "0x", ".inf", "no"]),
    max_size=40,
).map("".join)


def assert_only_config_errors(scratch: Path, content: bytes) -> None:
    """Load the content; a fault is one line of our own words."""
    scratch.write_bytes(content)
    try:
        config.load(scratch, ENVIRON)
    except ConfigError as error:
        faults = error.faults
    else:
        return
    assert faults
    for fault in faults:
        assert fault.splitlines() == [fault]
        assert ": " in fault
        assert "nput should" not in fault
        fault.encode()


@given(data=st.dictionaries(KEYS, VALUES, max_size=5) | VALUES)
@example(data={"merchants": [{"id": 10**400, "requests_per_minute": 10**400, "media": [{"priority": 10**400}]}]})
@example(data={"poll": {"settle": 10**400, "max_lag": "9" * 500 + "y"}, "api": {"timezone": "a" * 300}})
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_no_data_breaks_it(scratch: Path, data: Any) -> None:
    """Whatever a YAML file says, nothing but a ConfigError with a line for each fault comes out."""
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
def test_no_text_breaks_it(scratch: Path, content: bytes) -> None:
    """Whatever bytes a file has, nothing but a ConfigError with a line for each fault comes out."""
    assert_only_config_errors(scratch, content)


# Durations.


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0), ("500ms", 0.5), ("90s", 90), ("2m", 120), ("1h30m", 5400), ("1d", 86400), ("1w", 604800),
        ("1y", 31536000), ("1y2w3d4h5m6s7ms", 33019506.007), ("1m500ms", 60.5), ("90m", 5400),
    ],
)  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    """Durations read as in Prometheus."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "5", "s", "-1s", "1.5s", "1s1m", "1s1s", "1 s", "1S", "1h 5m", "1µs", "٣s", "1s\n", "1234567890s"],
)
def test_not_durations(text: str) -> None:
    """What Prometheus does not write as a duration is none."""
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@given(MILLISECONDS)
def test_durations_read_back(seconds: float) -> None:
    """A written duration reads as the same number of seconds."""
    assert math.isclose(parse_duration(format_duration(seconds)), seconds, abs_tol=1e-9)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (120, "2m"), (150.5, "2m30s500ms"), (86400, "1d"), (864000, "10d"), (5400, "1h30m")],
)
def test_written_durations(seconds: float, text: str) -> None:
    """Durations are written in the largest units."""
    assert format_duration(seconds) == text


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
def test_a_level_replaces_what_it_names_of_the_thresholds_above(
    loaded: Any, of_all: object, of_merchant: object, of_media: object, expected: Thresholds | None
) -> None:
    """A media's thresholds are its own, else its merchant's, else those of all, else the defaults; false leaves out.

    They come back the same from the configuration as it is shown.
    """

    def drop(value: object) -> dict[str, Any]:
        return {} if value is None else {"drop": value}

    settings = loaded(merchant(**drop(of_merchant), media=[{"id": "a", **drop(of_media)}]) | drop(of_all))
    written = yaml.safe_load(config.dump(settings))
    for entry in written["merchants"]:
        entry.update(api_key="key", password="pass")
    for each in (settings, loaded(written)):
        (one,) = each.merchants
        assert each.thresholds(one, one.media[0]) == expected
