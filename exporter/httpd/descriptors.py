"""File descriptors: how many the process may have, and how many of them are for clients of the HTTP server."""

import contextlib
import resource

# More than this program needs. Some systems refuse a larger number, or are slow with one.
CAP = 65536

# Standard streams, state file and its companions, log, event loop, listening sockets, configuration files, and files
# that libraries open from time to time.
RESERVED = 24

# Connections of the HTTP server: more than any number of Prometheus servers and browsers needs.
MAX_CONNECTIONS = 512

# With fewer, a scrape could be refused while somebody looks at the page.
MIN_CONNECTIONS = 16


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard limit, or to `CAP` where that is less. Never lowers it.

    Returns:
        The limit in force.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = CAP if hard == resource.RLIM_INFINITY else min(CAP, hard)
    if soft == resource.RLIM_INFINITY:
        return target
    if soft < target:
        # If it is refused, the limit stays.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
            soft = target
    return soft


def needed(merchants: int, concurrency: int) -> int:
    """Descriptors that the process needs for so many merchants with so many concurrent requests each."""
    return RESERVED + merchants * concurrency + MIN_CONNECTIONS


def max_connections(limit: int, merchants: int, concurrency: int) -> int:
    """How many connections the HTTP server may have: what the API's connections and the process itself leave."""
    left = limit - RESERVED - merchants * concurrency
    return max(MIN_CONNECTIONS, min(MAX_CONNECTIONS, left))
