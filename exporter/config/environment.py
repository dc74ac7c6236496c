"""How requests reach a host: the proxy and the CA certificates that environment variables name.

The variables are those of `requests` and `curl`, lower-case before upper-case. What can never work is an error of the
configuration, so that it is found before anything is sent. A message shows a proxy without its user and password.
"""

import base64
import importlib.util
import re
import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import unquote, urlsplit

from requests.utils import should_bypass_proxies
from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from exporter.config.text_files import shown_path
from exporter.errors import ConfigError
from exporter.invisible import find_invisible

_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")

# What files of variables and Windows put there; in a password these are written as %XX.
_NOT_IN_ADDRESSES = {" ": "a space", '"': "a quotation mark", "\\": "a backslash"}

_SOCKS = ("socks4", "socks4a", "socks5", "socks5h")

# How OpenSSL names the certificates in a folder.
_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy.

    Attributes:
        url: Where it is, with the user and the password that it wants.
        variable: The environment variable that names it.
    """

    url: str = field(repr=False)
    variable: str

    def __str__(self) -> str:
        """The proxy for a message, such as `the proxy http://proxy.example.com:3128 of HTTPS_PROXY`."""
        parts = parse_url(self.url)
        return f"the proxy {parts.scheme}://{parts.netloc} of {self.variable}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no message may hold: the password, and user and password as the proxy gets them."""
        user, _, password = (parse_url(self.url).auth or "").partition(":")
        if not password:
            return ()
        account = f"{unquote(user)}:{unquote(password)}".encode("latin-1", "replace")
        return password, unquote(password), base64.b64encode(account).decode()


@dataclass(frozen=True, slots=True)
class Route:
    """How requests reach a host.

    Attributes:
        proxy: Through which proxy, or None.
        ca_path: The file or the folder of the CA certificates, or None for those that come with the exporter.
        ca_variable: The environment variable that names it.
    """

    proxy: Proxy | None = None
    ca_path: Path | None = None
    ca_variable: str = ""

    def ca_problem(self) -> str | None:
        """Why the CA certificates cannot be used now, or None."""
        problem = self.ca_path and _ca_problem(self.ca_path)
        return f"{self.ca_variable}: {problem}" if problem else None


def find_route(url: str, environ: Mapping[str, str]) -> Route:
    """The way to a host.

    Args:
        url: An address on the host.
        environ: The environment variables.

    Raises:
        ConfigError: A variable that is needed for the address names what can never work.
    """
    errors: list[str] = []
    proxy = None
    scheme = urlsplit(url).scheme
    variable, value = _set_one(environ, f"{scheme}_proxy", "all_proxy")
    if value and not _is_loopback(url) and not should_bypass_proxies(url, no_proxy=_set_one(environ, "no_proxy")[1]):
        # Without a scheme it is http, as for curl and requests.
        proxy = Proxy(value if "://" in value else f"http://{value}", variable)
        if problem := _proxy_problem(proxy.url):
            errors.append(f"{variable}: {problem}")
            proxy = None
    ca_variable = next((name for name in _CA_VARIABLES if environ.get(name)), "")
    # Neither is used without TLS.
    with_tls = scheme == "https" or (proxy is not None and parse_url(proxy.url).scheme == "https")
    ca_path = Path(environ[ca_variable]) if ca_variable and with_tls else None
    route = Route(proxy, ca_path, ca_variable)
    if ca_problem := route.ca_problem():
        errors.append(ca_problem)
    if errors:
        raise ConfigError(errors)
    return route


def _is_loopback(url: str) -> bool:
    """Whether a host is this machine itself, which no proxy leads to, whatever `NO_PROXY` says."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _set_one(environ: Mapping[str, str], *names: str) -> tuple[str, str]:
    """The first of the variables that has a value. An empty one in lower case hides the one in upper case."""
    for name in names:
        variable = name if name in environ else name.upper()
        if value := environ.get(variable):
            return variable, value
    return "", ""


def _proxy_problem(url: str) -> str | None:
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


def _ca_problem(path: Path) -> str | None:
    """Why a file or a folder does not hold CA certificates."""
    try:
        problem = _unlike_certificates(path)
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except ValueError:
        problem = "is not a path"
    fix = "name a file with CA certificates in PEM form, or unset the variable"
    return f"{shown_path(path)} {problem}; {fix}" if problem else None


def _unlike_certificates(path: Path) -> str | None:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        hashed = any(_HASHED.fullmatch(each.name) for each in path.iterdir())
        return None if hashed else "is a folder without certificates under their hashes"
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    if not status.st_size:
        return "is empty"
    return None if _is_bundle(path, (status.st_ino, status.st_mtime_ns, status.st_size)) else "holds no CA certificate"


@lru_cache(maxsize=8)
def _is_bundle(path: Path, _: tuple[int, ...]) -> bool:
    """Whether a file, as it was at that time, has certificates. Cached: reading it for each merchant takes seconds."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        return False
    return True
