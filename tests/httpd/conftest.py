from collections.abc import Callable, Iterator

import pytest

from tests.support.served import Served, servers


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Served]]:
    """Starts servers."""
    with servers(monkeypatch) as start:
        yield start
