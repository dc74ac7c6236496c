"""What asyncio and the standard library leave open about TLS."""

import asyncio
from asyncio.sslproto import SSLProtocol
from collections.abc import Collection, Mapping
from ipaddress import ip_address
from typing import Any, cast

# The first byte of a TLS connection: a record of the handshake.
HANDSHAKE = b"\x16"

# Bytes that a connection has received and not decrypted yet, and the buffer with which it receives. asyncio's own
# buffer takes 256 KiB for every connection, idle ones included.
_BUFFER = 16 * 1024
SSLProtocol.max_size = _BUFFER

# A body leaves in smaller pieces than without TLS: two of them are copied, encrypted, for a client that does not read.
PIECE = 64 * 1024


def limit_buffers(transport: asyncio.Transport) -> None:
    """Let a TLS transport buffer little, and report a write as finished when all of it is encrypted and handed on."""
    # At 0 asyncio would report an empty buffer as full.
    transport.set_write_buffer_limits(high=1)
    cast("Any", transport).set_read_buffer_limits(high=_BUFFER)


def has_allowed_san(certificate: Mapping[str, Any] | None, allowed: Collection[str]) -> bool:
    """Whether a client's certificate has an allowed subject alternative name.

    Args:
        certificate: As `ssl.SSLSocket.getpeercert` returns it.
        allowed: DNS names, IP addresses, e-mail addresses and URIs.
    """
    names = ((certificate or {}).get("subjectAltName")) or ()
    return any((_address(name) if kind == "IP Address" else name) in allowed for kind, name in names)


def _address(name: str) -> str:
    """An IP address in its usual form: OpenSSL writes every digit of IPv6."""
    return str(ip_address(name.strip()))
