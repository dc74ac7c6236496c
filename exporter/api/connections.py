"""Connections to the API that keep a deadline, through the proxy and with the certificates of the configuration."""

import http.client
import ipaddress
import os
import socket
import ssl
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
import urllib3
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.connection import allowed_gai_family, create_connection

from exporter.api.deadlines import TimedSocket, TimedTlsSocket, seconds_left
from exporter.config.environment import find_route
from exporter.config.settings import ApiSettings, TlsSettings


class _Resolver:
    """Resolves names. The system call cannot be interrupted, so a thread of its own waits for it.

    Requests for the same name share one thread: if the system hangs for hours, there is one thread for each name.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._asked: dict[tuple[str, int], Future[list[str]]] = {}

    def addresses(self, host: str, port: int, seconds: float) -> list[str]:
        """The addresses of a host.

        Args:
            host: Its name.
            port: The port to connect to.
            seconds: How long to wait.

        Raises:
            OSError: There are none; a `gaierror` also if the system does not answer in time.
        """
        if _is_address(host):
            return [host]
        with self._mutex:
            found = self._asked.get((host, port))
            # The answer of a lookup that has ended may be out of date.
            if found is None or found.done():
                found = Future()
                threading.Thread(target=_look_up, args=(host, port, found), name=f"resolve {host}", daemon=True).start()
                self._asked[host, port] = found
        try:
            return found.result(seconds)
        except TimeoutError:
            raise socket.gaierror(socket.EAI_AGAIN, f"no answer within {seconds:.1f} s") from None


def _look_up(host: str, port: int, found: Future[list[str]]) -> None:
    try:
        infos = socket.getaddrinfo(host, port, allowed_gai_family(), socket.SOCK_STREAM)
        found.set_result(list(dict.fromkeys(str(info[4][0]) for info in infos)))
    except Exception as error:  # noqa: BLE001 - it is raised where the addresses are waited for
        found.set_exception(error)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


_resolver = _Resolver()


class _Connection(HTTPConnection):
    """A connection whose waits end at the deadline of the thread's exchange."""

    def _new_conn(self) -> socket.socket:
        addresses = _resolver.addresses(self._dns_host.strip("[]"), self.port, seconds_left())
        failure: OSError = socket.gaierror(socket.EAI_NONAME, "no address")
        for place, address in enumerate(addresses):
            # Leave time for the addresses that follow.
            seconds = seconds_left() / (len(addresses) - place)
            try:
                sock = create_connection((address, self.port), seconds, socket_options=self.socket_options)
            except OSError as error:
                failure = error
            else:
                # Here already, so that it is closed with the connection if the time is up.
                self.sock = sock
                # A TLS handshake as a whole takes no longer than the timeout of the socket.
                sock.settimeout(seconds_left())
                sock.__class__ = TimedSocket
                return sock
        raise failure


class _TlsConnection(_Connection, HTTPSConnection):
    """The same with TLS."""

    def connect(self) -> None:
        super().connect()
        if isinstance(self.sock, ssl.SSLSocket):
            self.sock.__class__ = TimedTlsSocket

    def _connect_tls_proxy(self, hostname: str, sock: socket.socket) -> ssl.SSLSocket:
        tls = super()._connect_tls_proxy(hostname, sock)
        tls.__class__ = TimedTlsSocket
        return tls

    def _tunnel(self) -> None:
        try:
            super()._tunnel()
        except (OSError, http.client.HTTPException) as error:
            # Until the tunnel is open, only the proxy has answered.
            raise urllib3.exceptions.ProxyError("no tunnel", error) from error
        self.sock.settimeout(seconds_left())


# urllib3's classes, and what takes their place. A SOCKS proxy has others.
_WITH_DEADLINE: Mapping[type, type[_Connection]] = {HTTPConnection: _Connection, HTTPSConnection: _TlsConnection}


class DeadlineAdapter(HTTPAdapter):
    """Connections that keep the deadline of an exchange. Nothing is retried."""

    def __init__(self, tls: TlsSettings) -> None:
        """Connect to nothing yet. Each new connection reads the files of certificates again."""
        self._tls = {"server_hostname": tls.server_name, "ssl_minimum_version": tls.min_version.number}
        super().__init__()

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool: Any) -> None:  # noqa: FBT001, FBT002 - of the base class
        """Create the pools of direct connections."""
        super().init_poolmanager(connections, maxsize, block, **pool, **self._tls)

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        """The pools of connections through a proxy."""
        return super().proxy_manager_for(proxy, **proxy_kwargs, **self._tls)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """The pool of connections to a host, through the proxy if there is one."""
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = _WITH_DEADLINE.get(pool.ConnectionCls, pool.ConnectionCls)
        return pool


class Session(requests.Session):
    """Connections to one host, without redirects, cookies and retries.

    Attributes:
        route: The proxy and the certificates.
    """

    def __init__(self, api: ApiSettings, adapter: BaseAdapter | None = None) -> None:
        """Connect to nothing yet.

        Args:
            api: Where the API is. Environment variables for proxy and certificates are read now, once.
            adapter: Another transport than the usual one.

        Raises:
            ConfigError: A variable names a proxy or certificates that cannot be used.
        """
        super().__init__()
        self.route = find_route(api, os.environ)
        self.trust_env = False
        self.proxies = dict.fromkeys(("http", "https"), self.route.proxy.url) if self.route.proxy else {}
        tls = api.tls_config
        self.verify = str(self.route.ca_path) if self.route.ca_path else not tls.insecure_skip_verify
        if tls.insecure_skip_verify:
            # It would be logged for each new connection.
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        if tls.cert_file and tls.key_file:
            self.cert = str(tls.cert_file.path), str(tls.key_file.path)
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        self.headers["Accept-Encoding"] = "gzip, deflate"
        adapter = adapter or DeadlineAdapter(tls)
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Secrets that must not appear in messages: the password of the proxy."""
        return self.route.proxy.secrets if self.route.proxy else ()

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002 - of the base class
        """Follow no redirect: `requests` would read its whole body, however long."""
        return None
