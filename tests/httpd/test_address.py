import pytest

from exporter.errors import InputError
from exporter.httpd.address import Address, parse_address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        (":10077", "", 10077),
        ("0.0.0.0:9000", "0.0.0.0", 9000),
        ("[::1]:9000", "::1", 9000),
        ("[::]:80", "::", 80),
        ("localhost:0", "localhost", 0),
        ("exporter.example.com:65535", "exporter.example.com", 65535),
    ],
)
def test_addresses_are_written_as_for_prometheus(text: str, host: str, port: int) -> None:
    """Host and port are parsed, and an address is written in the form in which it is read."""
    assert parse_address(text) == Address(host, port)
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "10077", "localhost", "localhost:", ":65536", ":-1", ":80a", "::1:80", "[::1]", "a b:80", "[x]:1", ":８０"],
)
def test_an_invalid_address_is_one_line(text: str) -> None:
    """The message names the text and shows the form of an address."""
    with pytest.raises(InputError) as caught:
        parse_address(text)
    assert str(caught.value) == f"{text!r} is not an address; write HOST:PORT, for example 127.0.0.1:9000 or :10077"
