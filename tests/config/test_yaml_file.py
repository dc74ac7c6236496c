"""What a configuration file may contain, as YAML and as text."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.config import text_files, yaml_dialect
from exporter.config.load import load
from exporter.errors import ConfigError
from tests.support.configs import SECRET, merchant


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("merchants: []".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        (b"\xfe\xff", "is UTF-16 text; save it as UTF-8"),
        ("merchants: é".encode("latin-1"), "is not UTF-8 text; save it as UTF-8"),
        (b"", "is empty; list at least one merchant under `merchants`"),
        ("[" * 1000, "is nested too deeply; use fewer levels"),
        ("{a: " * 1000, "is nested too deeply; use fewer levels"),
    ],
    ids=["utf-16", "utf-16 big-endian", "latin-1", "empty", "lists", "mappings"],
)
def test_unreadable_content(loaded: Any, tmp_path: Path, content: str | bytes, error: str) -> None:
    """A file that cannot be text, or cannot be a configuration, gives one line with its name."""
    with pytest.raises(ConfigError) as caught:
        loaded(content)
    assert caught.value.errors == (f"{tmp_path / 'config.yaml'}: {error}",)


@pytest.mark.parametrize(
    ("content", "error"),
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
def test_syntax(loaded: Any, tmp_path: Path, content: str, error: str) -> None:
    """A syntax error is reported with its line and column, and without a quote of the file."""
    with pytest.raises(ConfigError) as caught:
        loaded(content)
    (line,) = caught.value.errors
    place = f"{tmp_path / 'config.yaml'}:"
    assert line.startswith(place + error)
    assert SECRET not in line.removeprefix(place)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    """A path that is no regular file gives one line with the path and the fix; loading never blocks on it."""
    (tmp_path / "config.yaml").touch()
    os.mkfifo(tmp_path / "pipe")
    for path, error in [
        (tmp_path / "none.yaml", "no such file; create it, or name another file"),
        (tmp_path, "is a directory; name a file in it"),
        (tmp_path / "config.yaml" / "x", "cannot be read: Not a directory; check the file and its permissions"),
        (tmp_path / "pipe", "is a pipe; name a regular file"),
        (Path("/dev/zero"), "is a device; name a regular file"),
        (Path("/dev/null"), "is a device; name a regular file"),
    ]:
        with pytest.raises(ConfigError) as caught:
            load(path, {})
        assert caught.value.errors == (f"{path}: {error}",)
    with pytest.raises(ConfigError) as caught:
        load(Path("a\0b"), {})
    assert caught.value.errors == ("'a\\x00b': is not a valid path; name a file",)


def test_a_file_that_is_too_large(loaded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file above the size limit is an error, and is not read completely."""
    monkeypatch.setattr(text_files, "LARGEST_FILE", 1024 * 1024)
    text = yaml.safe_dump(merchant())
    assert loaded(text + "#" * (1024 * 1024 - len(text)))
    with pytest.raises(ConfigError) as caught:
        loaded(text + "#" * (1024 * 1024 - len(text) + 1))
    path = tmp_path / "config.yaml"
    assert caught.value.errors == (f"{path}: is larger than 1 MiB; check that it is the configuration file",)


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
    """A file that expands to too many values is rejected before it is expanded."""
    monkeypatch.setattr(yaml_dialect, "MOST_VALUES", 3000)
    with pytest.raises(ConfigError) as caught:
        loaded(content)
    (error,) = caught.value.errors
    assert error.endswith("more than 3,000 values, aliases expanded; remove aliases or split the configuration")


def test_anchors_and_merges(loaded: Any) -> None:
    """YAML's aliases and merges work, and an overridden key of a merge is not a duplicate key."""
    found = loaded("""
        merchants:
          - &first {id: a, api_key: k, password: p, mail_address: a@b, collect: &plays [{target: play_count}]}
          - {<<: *first, id: b, collect: *plays}
    """)
    assert [(each.id, len(each.collect)) for each in found.merchants] == [("a", 1), ("b", 1)]


def test_an_error_in_an_aliased_value(loaded: Any) -> None:
    """An error in an aliased value is reported at both places, and without the value: it may be that of a secret."""
    with pytest.raises(ConfigError) as caught:
        loaded(yaml.safe_dump(merchant()) + "poll: {settle: &wrong 5, max_staleness: *wrong}")
    assert [error.rpartition(" (")[0] for error in caught.value.errors] == [
        "poll.settle: a number has no unit; write it with a unit, such as 5s",
        "poll.max_staleness: a number has no unit; write it with a unit, such as 5s",
    ]
    for place in (
        f"{{x: 1}}\nmerchants: [{{password: &p {SECRET}, requests_per_minute: *p}}]",
        f"{{settle: &p {SECRET}, max_lag: *p}}",
    ):
        with pytest.raises(ConfigError) as caught:
            loaded(f"poll: {place}")
        assert SECRET not in str(caught.value)


def test_byte_order_mark(loaded: Any) -> None:
    """A byte order mark, as some editors write, is not an error."""
    assert loaded(b"\xef\xbb\xbf" + yaml.safe_dump(merchant()).encode()).merchants[0].id == "m"


@pytest.mark.parametrize(
    ("written", "read"),
    [("y", "y"), ("n", "n"), ("2026-01-01", "2026-01-01"), ("=", "="), ("_1", "_1"), ("0:30", "0:30"), ("1e", "1e"),
     ("'0123'", "0123"), ('"1:30"', "1:30"), ("!!str 1_000", "1_000"), ("0x1G", "0x1G"), ("08x", "08x")],
)  # fmt: skip
def test_an_id_is_kept_as_written(loaded: Any, written: str, read: str) -> None:
    """Text that no version of YAML reads as a number, and quoted text, is kept as written."""
    content = yaml.safe_dump(merchant()).replace("id: m", f"id: {written}")
    assert loaded(content).merchants[0].id == read


@pytest.mark.parametrize(
    ("written", "read"),
    [("16", 16), ("0x10", 16), ("+16", 16), ("16.0", 16), ("1.6e1", 16), ("160e-1", 16), ("016.0", 16), (".5", 0.5)],
)
def test_numbers_that_all_versions_of_yaml_read_alike(loaded: Any, written: str, read: float) -> None:
    """A number that YAML 1.1 and 1.2 read alike is accepted."""
    content = yaml.safe_dump(merchant(media=[{"id": "a", "priority": 77}])).replace("77", written)
    assert loaded(content).merchants[0].media[0].priority == read
