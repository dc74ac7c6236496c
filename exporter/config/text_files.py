"""Text files with a size limit: the configuration and the secret files it names."""

import hashlib
import os
import stat
from pathlib import Path

from exporter.errors import ConfigError

# Bytes. A configuration for 25,000 media takes 3 MiB; a wrong path can name a log file.
LARGEST_FILE = 10 * 1024 * 1024


def read_bytes(path: Path, largest: int, too_large: str) -> bytes:
    """Read a file.

    Args:
        path: The file.
        largest: Size limit in bytes. No more is read.
        too_large: The message for a larger file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not a regular file, or is too large. The message says so, and how to fix it.
    """
    if "\0" in str(path):
        raise ValueError("is not a valid path; name a file")
    # O_NONBLOCK: opening a pipe waits for a writer.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            # It may never end.
            raise ValueError(f"is a {'pipe' if stat.S_ISFIFO(mode) else 'device'}; name a regular file")
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(too_large)
    return content


def read_text(path: Path, largest: int, too_large: str, save_as: str = "UTF-8") -> str:
    """Read a file of UTF-8 text, and drop a byte order mark.

    Args:
        path: The file.
        largest: Size limit in bytes. No more is read.
        too_large: The message for a larger file.
        save_as: What to save a file as that is not UTF-8.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not a regular file, is too large, or is not UTF-8. The message says so, and how to fix it.
    """
    content = read_bytes(path, largest, too_large)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"is UTF-16 text; save it as {save_as}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"is not UTF-8 text; save it as {save_as}") from None


def digest(path: Path) -> str:
    """A text that differs when the content of a file does; "" for one that no configuration can have."""
    try:
        return hashlib.sha256(read_bytes(path, LARGEST_FILE, "is too large")).hexdigest()
    except (OSError, ValueError):
        return ""


def read_config(path: Path, kind: str = "the configuration file", save_as: str = "UTF-8") -> str:
    """Read a configuration file, or a file that it names.

    Args:
        path: The file.
        kind: What the file should be, for messages.
        save_as: What to save a file as that is not UTF-8.

    Raises:
        ConfigError: It cannot be read, is too large, or is not UTF-8. One error.
    """
    too_large = f"is larger than {LARGEST_FILE // 1024 // 1024} MiB; check that it is {kind}"
    try:
        return read_text(path, LARGEST_FILE, too_large, save_as)
    except FileNotFoundError:
        problem = "no such file; create it, or name another file"
    except IsADirectoryError:
        problem = "is a directory; name a file in it"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}; check the file and its permissions"
    except ValueError as error:
        problem = str(error)
    raise ConfigError([f"{shown_path(path)}: {problem}"])


def shown_path(path: Path) -> str:
    """A path in one printable line."""
    return str(path) if str(path).isprintable() else ascii(str(path))
