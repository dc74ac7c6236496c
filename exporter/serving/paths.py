"""The paths of the HTTP interface."""

HOME = "/"
MEDIA = "/media"
STATUS = "/api/v1/status"
CONFIG = "/config"
DOCS = "/docs"
HEALTHY = "/-/healthy"
READY = "/-/ready"
RELOAD = "/-/reload"

# Where the metrics are, unless a flag names another path.
METRICS = "/metrics"

_TAKEN = frozenset({HOME, MEDIA, STATUS, CONFIG, DOCS, HEALTHY, READY, RELOAD})

# Only the exporter's own paths begin like this, now and in later releases.
_RESERVED = ("/-/", "/api/")


def is_taken(path: str) -> bool:
    """Whether a path is not free for the metrics."""
    return path in _TAKEN or path.startswith(_RESERVED)
