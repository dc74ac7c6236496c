"""Secrets by value, from files and from environment variables."""

import os
import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exporter.config.load import dump, load, summary
from exporter.errors import ConfigError
from exporter.redact import HIDDEN
from tests.support.configs import MERCHANT, SECRET, merchant


def test_secret_files(loaded: Any, tmp_path: Path) -> None:
    """The path of a secret file is relative to the configuration; only the final line end is removed."""
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
    """A byte order mark, as editors on Windows write, is not part of a secret."""
    (tmp_path / "secret").write_bytes(b"\xef\xbb\xbf" + f"秘密 {SECRET}{end}".encode())
    keys = {key: value for key, value in MERCHANT.items() if key != "password"}
    (only,) = loaded({"merchants": [keys | {"password_file": "secret"}]}).merchants
    assert only.password.get_secret_value() == f"秘密 {SECRET}"


@pytest.mark.parametrize(
    ("content", "error"),
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
def test_bad_secret_file(loaded: Any, tmp_path: Path, content: bytes, error: str) -> None:
    """An invalid secret file gives one line with its name, and nothing of its content."""
    path = tmp_path / "secret"
    path.write_bytes(content)
    keys = {key: value for key, value in MERCHANT.items() if key != "api_key"}
    with pytest.raises(ConfigError) as caught:
        loaded({"merchants": [keys | {"api_key_file": "secret"}]})
    (found,) = caught.value.errors
    assert found.rpartition(" (")[0] == f"merchants[0].api_key_file: {error.format(path)}"


def test_a_pipe_as_a_secret_file(loaded: Any, tmp_path: Path) -> None:
    """Loading does not block on a pipe."""
    os.mkfifo(tmp_path / "secret")
    keys = {key: value for key, value in MERCHANT.items() if key != "api_key"}
    with pytest.raises(ConfigError) as caught:
        loaded({"merchants": [keys | {"api_key_file": "secret"}]})
    path = tmp_path / "secret"
    (found,) = caught.value.errors
    assert found.startswith(f"merchants[0].api_key_file: the file {path} is a pipe; name a regular file (")


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
    """An invisible character is reported with its position and the variable, without the secret."""
    path = tmp_path / "config.yaml"
    keys = {key: value for key, value in MERCHANT.items() if key != "password"}
    path.write_text(yaml.safe_dump({"merchants": [keys | {"password_env": "PASS"}]}))
    with pytest.raises(ConfigError) as caught:
        load(path, {"PASS": secret})
    place = "merchants[0].password_env: the environment variable PASS contains"
    assert caught.value.errors == (f"{place} {found} ({path}:5)",)


def test_any_visible_password(loaded: Any) -> None:
    """A password may contain every visible character and spaces; a name also joiners and wide spaces."""
    password = " p~ ä 秘密 🔑 ￥ ❤\ufe0f "
    found = loaded(merchant(password=password, media=[{"id": "a", "name": "朝の　ニュース 👩\u200d👧"}]))
    assert found.merchants[0].password.get_secret_value() == password
    assert found.merchants[0].media[0].name == "朝の　ニュース 👩\u200d👧"


def test_secrets_are_shown_nowhere(loaded: Any) -> None:
    """No secret is in the repr, the text or the dump of a configuration."""
    found = loaded(merchant(api_key=f"{SECRET}-key", password=f"{SECRET}-pass"))
    assert found.merchants[0].api_key.get_secret_value() == f"{SECRET}-key"
    for text in (repr(found), str(found), dump(found), summary(found), found.model_dump_json()):
        assert SECRET not in text
    assert dump(found).count(HIDDEN) == 2


def test_errors_lead_to_no_secret(loaded: Any) -> None:
    """Neither the traceback nor a chained exception of an error leads to the values of the file."""
    for content in (merchant(api_key=f"{SECRET} x", id=5), f"password: *{SECRET}", SECRET.encode("utf-16")):
        with pytest.raises(ConfigError) as caught:
            loaded(content)
        assert SECRET not in "".join(traceback.format_exception(caught.value))
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None


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
def test_typos_show_no_secret(scratch: Path, text: str, start: int, cut: int, put: str) -> None:
    """A typo anywhere in a file, also next to a secret, never shows the secret in a message."""
    scratch.write_text(text[:start] + put + text[start + cut :])
    try:
        load(scratch, {})
    except ConfigError as error:
        message = str(error)
    else:
        message = ""
    assert SECRET not in message
