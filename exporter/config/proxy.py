"""The address of a proxy: what can never work, and what of it may be shown. Pure."""

import base64
import importlib.util
from dataclasses import dataclass, field
from urllib.parse import unquote

from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from exporter.invisible import find_invisible
from exporter.redact import HIDDEN

# The place of the setting, as messages name it.
SETTING = "api.proxy_url"

# What files of variables and Windows put there; in a password these are written as %XX.
_NOT_IN_ADDRESSES = {" ": "a space", '"': "a quotation mark", "\\": "a backslash"}

_SOCKS = ("socks4", "socks4a", "socks5", "socks5h")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy.

    Attributes:
        url: Where it is, with the user and the password that it wants.
        source: What names it: an environment variable, or the setting `api.proxy_url`.
    """

    url: str = field(repr=False)
    source: str

    def __str__(self) -> str:
        """The proxy for a message, such as `the proxy http://proxy.example.com:3128 of HTTPS_PROXY`."""
        parts = parse_url(self.url)
        return f"the proxy {parts.scheme}://{parts.netloc} of {self.source}"

    @property
    def kind(self) -> str:
        """What names it, as a word: `setting` or `variable`."""
        return "setting" if self.source == SETTING else "variable"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no message may hold: the password, and user and password as the proxy gets them."""
        user, _, password = (parse_url(self.url).auth or "").partition(":")
        if not password:
            return ()
        account = f"{unquote(user)}:{unquote(password)}".encode("latin-1", "replace")
        return password, unquote(password), base64.b64encode(account).decode()


def with_scheme(address: str) -> str:
    """The URL of a proxy. Without a scheme it is http, as for curl and requests."""
    return address if "://" in address else f"http://{address}"


def shown(url: str) -> str:
    """A valid URL of a proxy without its user and password."""
    start, _, rest = url.partition("://")
    account, at, host = rest.rpartition("@")
    return f"{start}://{HIDDEN if account else ''}{at}{host}"


def proxy_problem(url: str) -> str | None:
    """Why a proxy can never work. Nothing of an address that cannot be read is shown: it may hold a password."""
    fix = "write one such as http://proxy.example.com:3128"
    if found := find_invisible(url):
        return f"contains {found}; remove it"
    quoted = "a quotation mark" if url.startswith("'") else ""
    if wrong := next((name for mark, name in _NOT_IN_ADDRESSES.items() if mark in url), quoted):
        return f"contains {wrong}; {fix}"
    parts = _parse(url)
    # What follows a special character in a password is no longer the account.
    if not parts.host or parts.port == 0 or "@" in (parts.request_uri + (parts.fragment or "")):
        return f"is not the address of a proxy; {fix}, and special characters of a password as %XX"
    if parts.scheme in _SOCKS and importlib.util.find_spec("socks") is None:
        return "a SOCKS proxy needs the Python package PySocks; install it, or name an HTTP proxy"
    if parts.scheme not in ("http", "https", *_SOCKS):
        return f"{parts.scheme}:// is not a kind of proxy that the exporter can use; {fix}"
    return None


def _parse(url: str) -> Url:
    try:
        return parse_url(url)
    except LocationParseError:
        return Url()
