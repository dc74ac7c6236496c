"""The limit of open files, and how it is divided."""

import resource

import pytest

from exporter.httpd.descriptors import MAX_CONNECTIONS, MIN_CONNECTIONS, RESERVED, max_connections, needed, raise_limit

UNLIMITED = resource.RLIM_INFINITY


class System:
    """The limits of a system that accepts soft limits up to `most`."""

    def __init__(self, soft: int, hard: int, most: int = 1 << 40) -> None:
        self.limits = (soft, hard)
        self._most = most

    def get(self, _which: int) -> tuple[int, int]:
        """The current limits."""
        return self.limits

    def set(self, _which: int, limits: tuple[int, int]) -> None:
        """Set other limits."""
        if limits[0] > self._most:
            raise ValueError("current limit exceeds maximum limit")
        self.limits = limits


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        (System(1024, 4096), 4096),
        (System(1024, 1024), 1024),
        (System(1024, 1 << 20), 65536),
        (System(1 << 20, 1 << 20), 1 << 20),
        (System(256, UNLIMITED), 65536),
        (System(256, UNLIMITED, most=300), 256),
    ],
    ids=["raised", "nothing to raise", "capped", "never lowered", "unlimited", "refused"],
)
def test_the_soft_limit_is_raised(system: System, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is raised to the hard limit, up to a maximum; if the system refuses that, it is no error, and the hard limit
    stays.
    """
    hard = system.limits[1]
    monkeypatch.setattr(resource, "getrlimit", system.get)
    monkeypatch.setattr(resource, "setrlimit", system.set)
    assert raise_limit() == expected
    assert system.limits == (expected, hard)


def test_an_unlimited_soft_limit_is_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the soft limit is unlimited, the cap is used for the calculation."""
    system = System(UNLIMITED, UNLIMITED)
    monkeypatch.setattr(resource, "getrlimit", system.get)
    monkeypatch.setattr(resource, "setrlimit", system.set)
    assert raise_limit() == 65536
    assert system.limits == (UNLIMITED, UNLIMITED)


def test_clients_get_the_rest() -> None:
    """Connections to the API come first; clients get the rest, between a minimum and a maximum."""
    assert max_connections(65536, 300, 4) == MAX_CONNECTIONS
    assert max_connections(1024, 200, 4) == 1024 - RESERVED - 800
    assert max_connections(1024, 300, 4) == MIN_CONNECTIONS
    limit = needed(300, 4)
    assert max_connections(limit, 300, 4) == MIN_CONNECTIONS
    assert max_connections(limit + 1, 300, 4) == MIN_CONNECTIONS + 1
