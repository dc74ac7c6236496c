from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.config.load import load
from exporter.config.settings import Settings
from tests.support.configs import ENVIRON


@pytest.fixture
def loaded(tmp_path: Path) -> Any:
    """Load a configuration from text, bytes or data."""

    def load_content(content: str | bytes | dict[str, Any]) -> Settings:
        path = tmp_path / "config.yaml"
        if isinstance(content, dict):
            content = yaml.safe_dump(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return load(path, ENVIRON)

    return load_content


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that every example of a property overwrites."""
    return tmp_path_factory.mktemp("scratch") / "config.yaml"
