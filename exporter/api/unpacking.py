"""Decompression of answers within their limits: a small body can decompress to gigabytes."""

import contextlib
import threading
import zlib
from collections.abc import Iterator

from exporter.api.json_body import excerpt
from exporter.api.limits import LARGEST_ERROR, Limit
from exporter.api.transport import Answer
from exporter.errors import MalformedAnswer, NoAnswer, TooLarge

# Bytes. Larger answers are parsed one at a time: Python needs many times their size.
LARGE = 256 * 1024

_CHUNK = 16 * 1024

# For `zlib`: gzip or zlib, detected; and deflate without a header.
_ANY_HEADER, _NO_HEADER = 32 + zlib.MAX_WBITS, -zlib.MAX_WBITS

_one_large = threading.Lock()


@contextlib.contextmanager
def unpacked(answer: Answer, limit: Limit) -> Iterator[bytes]:
    """The decompressed body of a successful answer. The process uses one large body at a time, within the block.

    Raises:
        NoAnswer: It cannot be decompressed, or was cut.
        TooLarge: It is larger than the limit.
        MalformedAnswer: Its encoding was not asked for.
    """
    with contextlib.ExitStack() as stack:
        parts, size, alone = list[bytes](), 0, False
        for chunk in _pieces(answer):
            size += len(chunk)
            if size > limit.size:
                raise TooLarge(limit.exceeded(f"more than {limit.size} bytes"))
            if size > LARGE and not alone:
                stack.enter_context(_one_large)
                alone = True
            parts.append(chunk)
        body = b"".join(parts)
        parts.clear()
        yield body


def unpacked_error(answer: Answer) -> bytes:
    """The start of the body of an error; empty if it cannot be decompressed."""
    body = b""
    with contextlib.suppress(NoAnswer, MalformedAnswer):
        for chunk in _pieces(answer):
            body += chunk
            if len(body) >= LARGEST_ERROR:
                break
    return body[:LARGEST_ERROR]


def _pieces(answer: Answer) -> Iterator[bytes]:
    """A body, decompressed in small pieces."""
    packing, packed = answer.headers.get("Content-Encoding", "").strip().lower(), answer.packed
    if packing in ("", "identity") or not packed:
        yield packed
        return
    if packing not in ("gzip", "x-gzip", "deflate"):
        raise MalformedAnswer(f"the answer is packed as {excerpt(packing)}, which was not asked for")
    # Some servers send deflate without its header, which starts with an 8 and is divisible by 31 as a number.
    bare = packing == "deflate" and (packed[0] & 15 != 8 or int.from_bytes(packed[:2], "big") % 31 != 0)
    unpacker = zlib.decompressobj(_NO_HEADER if bare else _ANY_HEADER)
    try:
        # In pieces, because the rest of each is copied.
        for start in range(0, len(packed), _CHUNK):
            piece, more = packed[start : start + _CHUNK], True
            while more:
                chunk = unpacker.decompress(piece, _CHUNK)
                yield chunk
                if unpacker.eof:
                    return
                piece = unpacker.unconsumed_tail
                more = bool(piece) or len(chunk) == _CHUNK
    except zlib.error:
        raise NoAnswer("the answer cannot be unpacked") from None
    raise NoAnswer("the answer was cut")
