"""Secrets in texts, in any encoding."""

import base64
import re
import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from exporter.api.json_body import clean
from exporter.redact import HIDDEN, Redactor
from tests.support.spellings import SPELLINGS

SECRET = 'K9x/api+key="Zq7&1 ß'


@given(
    secret=st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=8, max_size=40),
    steps=st.lists(st.tuples(st.sampled_from(sorted(SPELLINGS)), st.integers(0, 127)), max_size=4),
)
def test_a_secret_is_found_in_nested_encodings(secret: str, steps: list[tuple[str, int]]) -> None:
    """Any secret is hidden, however often and in whatever way it is encoded again."""
    # Not a text of blanks, nor one of a few different characters, which can be a part of its own encoding.
    assume(len(set(secret)) > 4 and sum(char.isalnum() for char in secret) >= 6)
    assume(sum(name.startswith("Base64") for name, _ in steps) <= 2)
    # No program escapes a part of an escape.
    assume(all(name != "some of a URL" for name, _ in steps[1:]))
    text = secret
    for name, number in steps:
        text = SPELLINGS[name](text, number)
    hidden = Redactor([secret]).hide(f'a: "{text}" b')
    assert HIDDEN in hidden
    if not any(name.startswith("Base64") for name, _ in steps):
        assert hidden == f'a: "{HIDDEN}" b'


@given(
    text=st.text(st.sampled_from(string.ascii_letters + " .,:;-/%&\\+=é日…"), max_size=60),
    secret=st.text(st.sampled_from(string.digits), min_size=6, max_size=20),
)
def test_other_texts_stay_unchanged(text: str, secret: str) -> None:
    """A text without the secret is not changed."""
    assert Redactor([secret]).hide(text) == text


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("the password hunter22 is wrong", "the password <secret> is wrong"),
        ('{"password": "a\\"b\\\\c-12"}', '{"password": "<secret>"}'),
        ("token hunter22-and-more", "token <secret>"),
        ("Token: HUNTER22-And-More", "Token: <secret>"),
        ("日本 %48UNTER22", "日本 <secret>"),
        ("cut: hunter2…", "cut: <secret>…"),
        ("cut: hunter22-and-mo…", "cut: <secret>…"),
        ("cut: hun…", "cut: hun…"),
        ("cut in the middle of an escape: slash%2Fand%2…", "cut in the middle of an escape: <secret>…"),
        ("cut in the middle of an escape: slash\\u002fand\\u00…", "cut in the middle of an escape: <secret>…"),
        ("cut in the middle of an escape: slash&#47;and&#4…", "cut in the middle of an escape: <secret>…"),
        ("two  spaces", "<secret>"),
        ("two spaces", "<secret>"),
        ("two++spaces", "<secret>"),
        ('"\\u65e5\\u672c\\u8a9e\\u65e5\\u672c\\u8a9e" and 日本語日本語', '"<secret>" and <secret>'),
        (repr("日本語日本語".encode()), "b'<secret>'"),
        ("日本語日本語".encode().decode("latin-1"), "<secret>"),
        ("a <secret>", "a <secret>"),
        ("a secret-word", "a <secret>-word"),
        ("hunter22hunter22", "<secret><secret>"),
        ("nothing", "nothing"),
        ("", ""),
    ],
)
def test_secrets_that_are_echoed(text: str, hidden: str) -> None:
    """A secret in a text is hidden: complete, in another encoding, without its double spaces, and cut at the end."""
    secrets = [
        "hunter22",
        "hunter22-and-more",
        'a"b\\c-12',
        "slash/and/more",
        "two  spaces",
        "日本語日本語",
        "secret",
        "",
    ]
    assert Redactor(secrets).hide(text) == hidden


def test_without_secrets_nothing_is_hidden() -> None:
    """Without secrets a text stays unchanged."""
    assert Redactor([]).hide("$^ text") == "$^ text"


def test_hidden_text_stays_unchanged() -> None:
    """The log hides secrets again in texts from the client, which changes nothing."""
    redactor = Redactor(["secret", SECRET])
    once = redactor.hide(f"{SECRET} and secret")
    assert once == f"{HIDDEN} and {HIDDEN}"
    assert redactor.hide(once) == once


@pytest.mark.parametrize("length", range(5, 120))
def test_a_cut_text_shows_at_most_three_characters_of_a_secret(length: int) -> None:
    """Wherever `clean` cuts a text, in whatever encoding, the rest of the secret is hidden."""
    redactor = Redactor([SECRET])
    for spell in SPELLINGS.values():
        shown = redactor.hide(clean(f"no: {spell(SECRET, 0)} {spell(SECRET, 1)}", length))
        assert not re.search("K9x/|K9x%2F|K9x&#47|api|Zq7", shown), shown


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("user:abc", "user:<secret>"),
        ('"abc"', '"<secret>"'),
        ("%22abc%22", "%22<secret>%22"),
        ("\\u0061bc", "<secret>"),
        ("the abc.", "the <secret>."),
        ("abcd and dabc", "abcd and dabc"),
        (base64.b64encode(b"user:abc").decode(), "dXNlcj<secret>="),
    ],
)
def test_a_short_secret_is_hidden_as_a_whole_word(text: str, hidden: str) -> None:
    """A password of three letters is hidden, and does not make other words unreadable."""
    assert Redactor(["abc"]).hide(text) == hidden


def test_a_text_that_takes_too_long_to_decode_is_hidden_completely() -> None:
    """Megabytes of nested escapes cost a limited time, and nothing of them is shown."""
    redactor = Redactor([SECRET])
    assert redactor.hide("%25252541" * 100_000) == HIDDEN
    assert redactor.hide("QUFB" * 100_000) == HIDDEN
    assert redactor.hide("a word " * 100_000) == "a word " * 100_000


def test_each_of_many_secrets_is_found() -> None:
    """Hundreds of merchants have hundreds of secrets."""
    secrets = [f"key-{number:05d}" for number in range(1000)]
    redactor = Redactor(secrets)
    assert redactor.hide(" ".join(secrets)) == " ".join([HIDDEN] * 1000)
    assert redactor.hide("key-99999") == "key-99999"
