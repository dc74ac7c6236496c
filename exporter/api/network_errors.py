"""Messages for the errors of the HTTP libraries. Pure, and the only module that knows all of these errors."""

import http.client
import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

import requests
import urllib3

from exporter.config.environment import Route
from exporter.config.proxy import Proxy

# The first kind that is among the causes of an error gives the message.
_REASONS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (socket.gaierror, "cannot resolve {peer}"),
    (ssl.SSLCertVerificationError, "the TLS certificate of {peer} is not valid: {error.verify_message}; {fix}"),
    (ssl.SSLError, "TLS with {peer} failed: {reason}"),
    (TimeoutError, "timed out after {timeout:g} s"),
    (ConnectionRefusedError, "{peer} refused the connection"),
    (ConnectionError, "{peer} ended the connection"),
    (OSError, "cannot reach {peer}: {error.strerror}"),
    # urllib3 counts a failed connection as a timeout, so this comes after the more precise errors.
    ((requests.Timeout, urllib3.exceptions.TimeoutError), "timed out after {timeout:g} s"),
    ((http.client.IncompleteRead, urllib3.exceptions.InvalidChunkLength), "the answer was cut"),
    (http.client.HTTPException, "{peer} does not speak HTTP"),
    (requests.exceptions.ProxyError, "{peer} does not let it through"),
)


# The standard library reports a refused tunnel only as a text.
_NO_TUNNEL = re.compile(r"Tunnel connection failed: ([0-9]{3})")

PROXY_AUTH_REQUIRED = 407


# What a server says of a client certificate, in the words of OpenSSL.
_ABOUT_CERTIFICATE = re.compile(r"ALERT_(\w*CERTIFICATE\w*|UNKNOWN_CA|ACCESS_DENIED|DECRYPT_ERROR)$")
_REQUIRED = "CERTIFICATE_REQUIRED"

# Some servers say no more than this, or nothing, to a client without a certificate.
_NO_MORE_SAID = ("SSLV3_ALERT_HANDSHAKE_FAILURE", "UNEXPECTED_EOF_WHILE_READING")

# OpenSSL's verify_code of a certificate for another host name, mail address or IP address.
_OTHER_NAME = (62, 63, 64)
_NOT_YET_VALID, _EXPIRED = 9, 10


def describe(error: Exception, url: str, timeout: float, route: Route) -> str:
    """The message for an error of the HTTP libraries, with the proxy, variable, setting or file to check."""
    if problem := route.problem():
        return problem
    causes = list(causes_of(error))
    proxy = route.proxy
    if proxy is None:
        return _message(causes, urlsplit(url).netloc, timeout, route)
    for cause in causes:
        if isinstance(cause, OSError) and (refusal := _NO_TUNNEL.match(str(cause))):
            return proxy_refusal(proxy, int(refusal[1]), url)
    # Without TLS there is only the connection to the proxy.
    to_proxy = urlsplit(url).scheme == "http" or any(isinstance(each, urllib3.exceptions.ProxyError) for each in causes)
    message = _message(causes, str(proxy) if to_proxy else urlsplit(url).netloc, timeout, route)
    return (
        f"{message}; check the proxy and the {proxy.kind}" if str(proxy) in message else f"{message}, through {proxy}"
    )


def _message(causes: Sequence[BaseException], peer: str, timeout: float, route: Route) -> str:
    for cause in causes:
        if isinstance(cause, ssl.SSLError) and (alert := _ABOUT_CERTIFICATE.search(cause.reason or "")):
            return _refused_certificate(peer, alert[1], route)
    for kinds, message in _REASONS:
        for cause in causes:
            # The errors of `requests` are OSErrors too, but without a text.
            if isinstance(cause, kinds) and (kinds is not OSError or getattr(cause, "strerror", None)):
                fix = _certificate_fix(cause, peer, route) if isinstance(cause, ssl.SSLCertVerificationError) else ""
                reason = _tls_reason(cause, route) if isinstance(cause, ssl.SSLError) else ""
                return message.format(peer=peer, error=cause, timeout=timeout, fix=fix, reason=reason)
    return f"the request to {peer} failed ({type(causes[0]).__name__})"


def _tls_reason(error: ssl.SSLError, route: Route) -> str:
    """Why TLS failed, and how to fix it."""
    if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
        return "it does not speak TLS on this port; check the scheme and the port in api.url"
    reason = error.reason or "it ended the connection"
    if route.tls.cert_file or (error.reason or _NO_MORE_SAID[0]) not in _NO_MORE_SAID:
        return reason
    return f"{reason}; if it requires a client certificate, set api.tls_config.cert_file and key_file"


def _certificate_fix(error: ssl.SSLCertVerificationError, peer: str, route: Route) -> str:
    """How to fix a certificate that is not valid."""
    if error.verify_code in _OTHER_NAME:
        if route.proxy and str(route.proxy) == peer:
            return f"check the address of the proxy in {route.proxy.source}"
        name = route.tls.server_name
        return (
            f"check api.tls_config.server_name ({name})" if name else "check api.url or set api.tls_config.server_name"
        )
    if error.verify_code == _EXPIRED:
        return "it must be renewed"
    if error.verify_code == _NOT_YET_VALID:
        return "check the clock of this machine"
    if route.ca_path:
        return f"its CA is not in {route.ca_path} of {route.ca_source}"
    return "to trust another CA, name its file in api.tls_config.ca_file or REQUESTS_CA_BUNDLE"


def _refused_certificate(peer: str, alert: str, route: Route) -> str:
    """The message for a client certificate that the server does not accept, or does not get."""
    file = route.tls.cert_file
    if file is None:
        return f"{peer} requires a client certificate; set api.tls_config.cert_file and key_file"
    if alert == _REQUIRED:
        return f"{peer} requires another client certificate than {file.path} of api.tls_config.cert_file; check its CA"
    said = alert.replace("_", " ").lower()
    fix = "renew it" if "EXPIRED" in alert else "check which certificates the server accepts"
    return f"{peer} refuses the client certificate {file.path} of api.tls_config.cert_file ({said}); {fix}"


def proxy_refusal(proxy: Proxy, status: int, url: str) -> str:
    """The message for a status with which the proxy refuses a request."""
    host = urlsplit(url).netloc
    if status == PROXY_AUTH_REQUIRED:
        fix = f"write both into {proxy.source}, as http://user:password@host:port"
        return f"{proxy} refuses the request (407): its user or password is missing or wrong; {fix}"
    if status == http.HTTPStatus.FORBIDDEN:
        return f"{proxy} does not allow connections to {host} (403); allow them in the proxy"
    return f"{proxy} does not connect to {host} ({status}); check the proxy and the {proxy.kind}"


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """An error and all its causes, wherever the libraries keep them."""
    found, waiting = set[int](), [error]
    while waiting:
        cause = waiting.pop(0)
        if id(cause) not in found:
            found.add(id(cause))
            yield cause
            inner = (cause.__cause__, getattr(cause, "reason", None), *cause.args)
            waiting += [each for each in inner if isinstance(each, BaseException)]
