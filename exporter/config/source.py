"""Where the daemon's configuration comes from: a file, and the flags that override or select parts of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from exporter.config.load import load
from exporter.config.settings import Settings
from exporter.config.text_files import digest


@dataclass(slots=True)
class ConfigSource:
    """The configuration file with the flags, read as often as needed. For one thread at a time.

    Attributes:
        path: The file.
        environ: The environment variables.
        storage_path: The state file in place of `storage.path`, or None.
        shard_index: The shard whose merchants are polled, from 0.
        shard_count: How many shards there are.
    """

    path: Path
    environ: Mapping[str, str] = field(repr=False)
    storage_path: Path | None = None
    shard_index: int = 0
    shard_count: int = 1
    # The digest of each file, as it was last read.
    _files: dict[Path, str] = field(default_factory=dict, repr=False)

    def read(self) -> Settings:
        """Read the file, and all files that it names.

        Raises:
            ConfigError: One line for each error.
        """
        files: dict[Path, str] = {}
        try:
            settings = load(self.path, self.environ, files)
        finally:
            # One that was not reached because of an error may be what changes next.
            self._files |= files
        self._files = files
        if self.storage_path is not None:
            storage = settings.storage.model_copy(update={"path": self.storage_path})
            settings = settings.model_copy(update={"storage": storage})
        return settings.shard(self.shard_index, self.shard_count)

    def changed(self) -> bool:
        """Whether the content of a file differs from what was last read."""
        return any(digest(path) != known for path, known in self._files.items())
