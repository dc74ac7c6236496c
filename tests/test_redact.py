"""Secrets in texts, however they are spelled there."""

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
def test_a_secret_is_found_in_every_spelling_of_a_spelling(secret: str, steps: list[tuple[str, int]]) -> None:
    """Whatever the secret, and however often and in whatever way it was written again, it is hidden."""
    # Not a text of blanks, nor one of a few different characters, which can be a part of its own spelling.
    assume(len(set(secret)) > 4 and sum(char.isalnum() for char in secret) >= 6)
    assume(sum(name.startswith("Base64") for name, _ in steps) <= 2)
    # Nobody escapes a part of an escape.
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
def test_other_texts_stay_as_they_are(text: str, secret: str) -> None:
    """What does not hold the secret is not changed."""
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
    """A secret in a text is hidden: whole, in another spelling, without its double spaces, and cut at the end."""
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


def test_nothing_to_hide() -> None:
    """Without secrets a text stays as it is."""
    assert Redactor([]).hide("$^ text") == "$^ text"


def test_what_was_hidden_stays_as_it_is() -> None:
    """The log hides once more what the client has hidden, and that changes nothing."""
    redactor = Redactor(["secret", SECRET])
    once = redactor.hide(f"{SECRET} and secret")
    assert once == f"{HIDDEN} and {HIDDEN}"
    assert redactor.hide(once) == once


@pytest.mark.parametrize("length", range(5, 120))
def test_a_text_that_is_cut_anywhere_shows_no_more_than_three_characters_of_a_secret(length: int) -> None:
    """Wherever `clean` cuts a text, in whatever spelling, what is left of the secret is hidden."""
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
def test_a_short_secret_is_hidden_where_it_stands_alone(text: str, hidden: str) -> None:
    """A password of three letters is hidden, and does not make other words unreadable."""
    assert Redactor(["abc"]).hide(text) == hidden


def test_a_text_that_would_take_long_to_decode_is_hidden_whole() -> None:
    """Megabytes of escapes in escapes cost no more than a bounded time, and nothing of them is shown."""
    redactor = Redactor([SECRET])
    assert redactor.hide("%25252541" * 100_000) == HIDDEN
    assert redactor.hide("QUFB" * 100_000) == HIDDEN
    assert redactor.hide("a word " * 100_000) == "a word " * 100_000


def test_of_many_secrets_each_is_found() -> None:
    """Hundreds of merchants have hundreds of secrets."""
    secrets = [f"key-{number:05d}" for number in range(1000)]
    redactor = Redactor(secrets)
    assert redactor.hide(" ".join(secrets)) == " ".join([HIDDEN] * 1000)
    assert redactor.hide("key-99999") == "key-99999"
