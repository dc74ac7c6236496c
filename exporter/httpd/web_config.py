"""What a server demands of its clients, and what it adds to its responses."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The web configuration in force. It is replaced as a whole.

    Attributes:
        tls: What new connections are encrypted with; None for plain HTTP.
        allowed_sans: If not empty, a client's certificate must have one of these subject alternative names.
        users: User to bcrypt hash. Without any, no password is needed.
        headers: Headers of every response, instead of others of the same name.
        files: The files that it was read from.
    """

    tls: ssl.SSLContext | None = None
    allowed_sans: frozenset[str] = frozenset()
    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
