"""Parts of messages for people. Pure."""

from collections.abc import Sequence


def some(names: Sequence[str], most: int) -> str:
    """The first of many names, and how many others there are: `a, b and 3 more`.

    Args:
        names: The names.
        most: How many of them are written out.
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
