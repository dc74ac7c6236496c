"""The media files of the merchants: read when they change, and put together with the media of the configuration.

A mistake in a file costs nothing that is known: its last good content stays, and other files and merchants go on.
"""

import glob
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from exporter.config import media_lists
from exporter.config.load import load
from exporter.config.media_lists import Entry
from exporter.config.settings import MediaSettings, MerchantSettings, Settings, label_conflicts
from exporter.config.text_files import read_config
from exporter.errors import ConfigError


@dataclass(frozen=True, slots=True)
class MediaReading:
    """The configuration with the media of all files.

    Attributes:
        settings: The settings; the media of each merchant are those of the configuration, then those of its files.
        errors: By the id of each merchant with media files, one line for each error; none if all is well.
    """

    settings: Settings
    errors: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a file.

    Attributes:
        digest: Of its newest content.
        entries: Its last good content.
        errors: Why its newest content is not that.
    """

    digest: bytes = b""
    entries: tuple[Entry, ...] = ()
    errors: tuple[str, ...] = ()


class MediaFiles:
    """The media files, with the last good content of each. For one thread at a time."""

    def __init__(self, folder: Path) -> None:
        """Read nothing yet.

        Args:
            folder: The base of relative names: the folder of the configuration file.
        """
        self._folder = folder
        self._known: dict[Path, _Known] = {}

    def read(self, settings: Settings) -> MediaReading:
        """Read the files of all merchants, and parse those whose content is not known yet."""
        errors: dict[str, tuple[str, ...]] = {}
        merchants = []
        # A file of several merchants is read once.
        files: dict[Path, _Known] = {}
        for merchant in settings.merchants:
            if not merchant.media_files:
                merchants.append(merchant)
                continue
            paths = self._paths(merchant.media_files)
            for path in paths:
                files[path] = files.get(path) or self._read(path)
            together = _Together(merchant)
            for path in paths:
                together.add(files[path])
            merchants.append(merchant.with_media(together.media))
            errors[merchant.id] = tuple(together.errors)
        self._known = files
        return MediaReading(settings.model_copy(update={"merchants": tuple(merchants)}), errors)

    def _paths(self, patterns: tuple[str, ...]) -> list[Path]:
        """The files of patterns, each once, also those that were there before."""
        paths: dict[Path, None] = {}
        for pattern in patterns:
            if glob.has_magic(pattern):
                found = {self._folder / name for name in glob.glob(pattern, root_dir=self._folder)}  # noqa: PTH207 - absolute ones, too
                found |= {
                    path
                    for path, known in self._known.items()
                    if known.entries and path.match(str(self._folder / pattern))
                }
                paths |= dict.fromkeys(sorted(found))
            else:
                paths[self._folder / pattern] = None
        return list(paths)

    def _read(self, path: Path) -> _Known:
        known = self._known.get(path, _Known())
        try:
            text = read_config(path, "a file of media", "CSV UTF-8" if path.suffix == ".csv" else "UTF-8")
            digest = blake2b(text.encode()).digest()
            if digest == known.digest:
                return known
        except ConfigError as error:
            return _Known(b"", known.entries, _kept(error, known))
        try:
            return _Known(digest, media_lists.parse(path, text))
        except ConfigError as error:
            return _Known(digest, known.entries, _kept(error, known))


def load_all(path: Path, environ: Mapping[str, str]) -> Settings:
    """Load and validate a configuration file and the media files that it names.

    Args:
        path: The configuration file.
        environ: As for `load`.

    Raises:
        ConfigError: The configuration, an environment variable or a media file is not valid. One line for each error.
    """
    reading = MediaFiles(path.parent).read(load(path, environ))
    # A file of several merchants is reported once.
    lines = dict.fromkeys(line for errors in reading.errors.values() for line in errors)
    if lines:
        raise ConfigError(list(lines))
    return reading.settings


def _kept(error: ConfigError, known: _Known) -> tuple[str, ...]:
    if not known.entries:
        return tuple(error.errors)
    return tuple(f"{line} (its last valid content stays in use)" for line in error.errors)


class _Together:
    """The media of a merchant, of the configuration first and then of its files.

    Attributes:
        media: The media.
        errors: The errors of the files, and of entries that are left out.
    """

    def __init__(self, merchant: MerchantSettings) -> None:
        self.media: list[MediaSettings] = [*merchant.media, *merchant.pending]
        self.errors: list[str] = []
        self._catalog_labels = merchant.catalog_labels
        # The place of each id and each ref_id.
        self._places = {key: "media of the configuration file" for media in self.media for key in _keys(media)}

    def add(self, file: _Known) -> None:
        """Add the entries of a file."""
        self.errors += file.errors
        for entry in file.entries:
            problems = list(self._problems(entry))
            self.errors += [f"{entry.place}: {problem}" for problem in problems]
            if not problems:
                self.media.append(entry.media)
                self._places |= dict.fromkeys(_keys(entry.media), entry.place)

    def _problems(self, entry: Entry) -> Iterator[str]:
        for kind, value in _keys(entry.media):
            if before := self._places.get((kind, value)):
                yield f"{kind} `{value}` is a duplicate of {before}; keep one"
        for loc, message in label_conflicts({"labels": entry.media.labels}, self._catalog_labels):
            yield f"labels.{loc[-1]}: {message}"


def _keys(media: MediaSettings) -> Iterator[tuple[str, str]]:
    if media.ref_id is not None:
        yield "ref_id", media.ref_id
    else:
        yield "id", media.id
