"""How requests reach the API: the proxy and the certificates, of the settings or of environment variables.

The settings come first. The variables are those of `requests` and `curl`, lower-case before upper-case. What can never
work is an error of the configuration, so that it is found before anything is sent. A message shows a proxy without its
user and password.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from requests.utils import should_bypass_proxies
from urllib3.util import parse_url

from exporter.config import tls_files
from exporter.config.proxy import SETTING, Proxy, proxy_problem, with_scheme
from exporter.config.settings import ApiSettings, TlsSettings
from exporter.errors import ConfigError

_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_CA_SETTING = "api.tls_config.ca_file"


@dataclass(frozen=True, slots=True)
class Route:
    """How requests reach a host.

    Attributes:
        proxy: Through which proxy, or None.
        ca_path: The file or the folder of the CA certificates, or None for those that come with the exporter.
        ca_source: What names it: an environment variable or a setting.
        tls: The settings of TLS.
    """

    proxy: Proxy | None = None
    ca_path: Path | None = None
    ca_source: str = ""
    tls: TlsSettings = field(default_factory=TlsSettings)

    def problem(self) -> str | None:
        """Why the certificates cannot be used now, or None."""
        if problem := self.ca_problem():
            return f"cannot check TLS certificates: {problem}"
        if self.tls.cert_file and self.tls.key_file:
            certificate, key = self.tls.cert_file.path, self.tls.key_file.path
            if problem := tls_files.certificate_problem(certificate):
                return f"cannot use the client certificate: api.tls_config.cert_file: {problem}"
            if problem := tls_files.key_problem(certificate, key):
                return f"cannot use the client certificate: api.tls_config.key_file: {problem}"
        return None

    def ca_problem(self) -> str | None:
        """Why the CA certificates cannot be used now, or None."""
        otherwise = "remove the setting" if self.ca_source == _CA_SETTING else "unset the variable"
        problem = self.ca_path and tls_files.ca_problem(self.ca_path, otherwise)
        return f"{self.ca_source}: {problem}" if problem else None


def find_route(api: ApiSettings, environ: Mapping[str, str]) -> Route:
    """The way to the API.

    Args:
        api: Its address, proxy and certificates.
        environ: The environment variables.

    Raises:
        ConfigError: A variable that is needed for the address names what can never work.
    """
    errors: list[str] = []
    proxy = _proxy_of(api, environ)
    if proxy and (problem := proxy_problem(proxy.url)):
        errors.append(f"{proxy.source}: {problem}")
        proxy = None
    ca_path, ca_source = _ca_of(api.tls_config, environ)
    # Neither is used without TLS.
    if urlsplit(api.url).scheme != "https" and not (proxy and parse_url(proxy.url).scheme == "https"):
        ca_path, ca_source = None, ""
    route = Route(proxy, ca_path, ca_source, api.tls_config)
    if ca_problem := route.ca_problem():
        errors.append(ca_problem)
    if errors:
        raise ConfigError(errors)
    return route


def _proxy_of(api: ApiSettings, environ: Mapping[str, str]) -> Proxy | None:
    if api.proxy_url is not None:
        if should_bypass_proxies(api.url, no_proxy=api.no_proxy):
            return None
        return Proxy(with_scheme(api.proxy_url.get_secret_value()), SETTING)
    if not api.proxy_from_environment or _is_loopback(api.url):
        return None
    variable, value = _set_one(environ, f"{urlsplit(api.url).scheme}_proxy", "all_proxy")
    if not value or should_bypass_proxies(api.url, no_proxy=_set_one(environ, "no_proxy")[1]):
        return None
    return Proxy(with_scheme(value), variable)


def _ca_of(tls: TlsSettings, environ: Mapping[str, str]) -> tuple[Path | None, str]:
    if tls.insecure_skip_verify:
        return None, ""
    if tls.ca_file:
        return tls.ca_file.path, _CA_SETTING
    variable = next((name for name in _CA_VARIABLES if environ.get(name)), "")
    return (Path(environ[variable]), variable) if variable else (None, "")


def _is_loopback(url: str) -> bool:
    """Whether a host is this machine itself, which no proxy of the environment leads to, whatever `NO_PROXY` says."""
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
