"""Where a server listens: addresses as Prometheus writes them, and sockets bound to them."""

import errno
import os
import re
import socket
from dataclasses import dataclass

from exporter.errors import InputError

# Connections that wait to be accepted. The system may allow fewer.
_BACKLOG = 256

# Bytes of a response that the system buffers for a client.
_SEND_BUFFER = 256 * 1024

_FIXES = {
    errno.EADDRINUSE: "another process listens there: stop it, or choose another port",
    errno.EADDRNOTAVAIL: "this machine does not have that address: use one of its own, or :PORT for all of them",
    errno.EACCES: "choose a port above 1023, or give the process the right to use this one",
}
_OTHER_FIX = "use an address of this machine, or :PORT for all of them"


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen.

    Attributes:
        host: A name or an address; "" for all interfaces.
        port: 0 for any free one.
    """

    host: str
    port: int

    def __str__(self) -> str:
        """As Prometheus writes it: `host:port`, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read an address as Prometheus writes it: `:10077`, `0.0.0.0:9000`, `[::1]:9000`, `localhost:0`.

    Raises:
        InputError: The text is not an address.
    """
    found = re.fullmatch(r"(?:\[([^\s\[\]]*:[^\s\[\]]*)\]|([^\s:\[\]]*)):([0-9]{1,5})", text)
    if found is None or int(found[3]) > 65535:
        raise InputError(f"{text!r} is not an address; write HOST:PORT, for example 127.0.0.1:9000 or :10077")
    return Address(found[1] or found[2], int(found[3]))


def listen(address: Address, flag: str) -> socket.socket:
    """A listening socket: on IPv4 rather than IPv6 where a name has both, on both for all interfaces.

    Args:
        address: Where.
        flag: The flag that the address comes from, for the error.

    Raises:
        InputError: The address cannot be listened on.
    """
    try:
        listener = _listen(address)
    except (OSError, UnicodeError) as error:
        fix = _FIXES.get(getattr(error, "errno", None) or 0, _OTHER_FIX)
        raise InputError(f"{flag}: cannot listen on {address}: {_reason(error)}; {fix}") from error
    # The connections inherit both. Without the first, the second part of a response waits until the client confirms the
    # first part; without the second, the system buffers megabytes for each client that does not read.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    return listener


def _listen(address: Address) -> socket.socket:
    if address.host in ("", "::") and socket.has_dualstack_ipv6():
        everywhere = ("::", address.port)
        return socket.create_server(everywhere, family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG)
    found = socket.getaddrinfo(address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, where = min(found, key=lambda each: each[0] != socket.AF_INET)
    return socket.create_server(where[:2], family=family, backlog=_BACKLOG)


def _reason(error: OSError | UnicodeError) -> str:
    """The error text of the system; `socket.create_server` repeats the address in its own."""
    number = error.errno if isinstance(error, OSError) else None
    if number is not None and number > 0:
        return os.strerror(number)
    return getattr(error, "strerror", None) or str(error)
