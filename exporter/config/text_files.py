"""Text files with a size limit: the configuration and the secret files it names."""

import os
import stat
from pathlib import Path

from exporter.errors import ConfigError

# Bytes. A configuration for 25,000 media takes 3 MiB; a wrong path can name a log file.
LARGEST_FILE = 10 * 1024 * 1024


def read_bytes(path: Path, largest: int) -> bytes:
    """Read a regular file.

    Args:
        path: The file.
        largest: Size limit in bytes.

    Returns:
        The content. Of a larger file, the first `largest` + 1 bytes.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is a pipe or a device, which may never end, or the path is invalid. The message says so.
    """
    # O_NONBLOCK: opening a pipe waits for a writer.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise ValueError("is a pipe" if stat.S_ISFIFO(mode) else "is a device")
        return file.read(largest + 1)


def decode(content: bytes) -> str:
    """Decode UTF-8 and drop a byte order mark.

    Raises:
        ValueError: It is not UTF-8. The message says so.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("is UTF-16 text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None


def read_text(path: Path) -> str:
    """Read a configuration file.

    Raises:
        ConfigError: It cannot be read, is too large, or is not UTF-8. One error.
    """
    try:
        content = read_bytes(path, LARGEST_FILE)
    except FileNotFoundError:
        problem = "no such file; create it, or name another file"
    except IsADirectoryError:
        problem = "is a directory; name a file in it"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}; check the file and its permissions"
    except ValueError as error:
        problem = f"{error}; name a regular file" if "\0" not in str(path) else "is not a valid path; name a file"
    else:
        problem = f"is larger than {LARGEST_FILE // 1024 // 1024} MiB; check that it is the configuration file"
        if len(content) <= LARGEST_FILE:
            try:
                return decode(content)
            except ValueError as error:
                problem = f"{error}; save it as UTF-8"
    raise ConfigError([f"{shown_path(path)}: {problem}"])


def shown_path(path: Path) -> str:
    """A path in one printable line."""
    return str(path) if str(path).isprintable() else ascii(str(path))
