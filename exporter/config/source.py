"""Where the daemon's configuration comes from: files, and the flags that override or select parts of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from exporter.config.load import load
from exporter.config.media_files import MediaFiles, MediaReading
from exporter.config.settings import Settings
from exporter.config.text_files import digest
from exporter.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Selection:
    """What flags override, and which part of the configuration they select.

    Attributes:
        storage_path: The state file in place of `storage.path`, or None.
        shard_index: The shard whose merchants are polled, from 0.
        shard_count: How many shards there are.
    """

    storage_path: Path | None = None
    shard_index: int = 0
    shard_count: int = 1

    def of(self, settings: Settings) -> Settings:
        """What they make of settings."""
        if self.storage_path is not None:
            storage = settings.storage.model_copy(update={"path": self.storage_path})
            settings = settings.model_copy(update={"storage": storage})
        return settings.shard(self.shard_index, self.shard_count)


class ConfigSource:
    """The configuration file with the flags, and the media files, read as often as needed. For one thread at a time."""

    def __init__(self, path: Path, environ: Mapping[str, str], selection: Selection = Selection()) -> None:
        """Read nothing yet.

        Args:
            path: The configuration file.
            environ: The environment variables.
            selection: What the flags say.
        """
        self._path = path
        self._environ = environ
        self._selection = selection
        self._media_files = MediaFiles(path.parent)
        # The digest of each file, as it was last read.
        self._files: dict[Path, str] = {}

    def read(self) -> Settings:
        """Read the file, and what it names, but for the media files.

        Raises:
            ConfigError: One line for each error.
        """
        files: dict[Path, str] = {}
        try:
            settings = load(self._path, self._environ, files)
        except ConfigError:
            # A file that was not reached because of the error may be what changes next.
            self._files |= files
            raise
        self._files = files
        return self._selection.of(settings)

    def changed(self) -> bool:
        """Whether the content of a file differs from what was last read."""
        return any(digest(path) != known for path, known in self._files.items())

    def media(self, settings: Settings) -> MediaReading:
        """The settings with the media of the media files; what was valid before stays where a file is not."""
        return self._media_files.read(settings)

    def fresh_media(self, settings: Settings) -> MediaReading:
        """The settings with the media of the media files as they are now; with errors, `media` goes on as before."""
        fresh = MediaFiles(self._path.parent)
        reading = fresh.read(settings)
        if not any(reading.errors.values()):
            self._media_files = fresh
        return reading


class NoSource:
    """The source of a configuration that no file has, as in the demo."""

    def read(self) -> Settings:
        """Nothing can be read.

        Raises:
            ConfigError: It says so.
        """
        raise ConfigError(["there is no configuration file to reload: the demo has its own configuration"])

    def changed(self) -> bool:
        """Nothing changes."""
        return False

    def media(self, settings: Settings) -> MediaReading:
        """The settings as they are."""
        return MediaReading(settings, {})

    fresh_media = media
