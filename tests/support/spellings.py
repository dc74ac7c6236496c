"""The encodings in which a secret can appear in a text: JSON, URLs, HTML, Base64, repr."""

import base64
import html
import json
import re
from collections.abc import Callable, Mapping
from urllib.parse import quote, quote_plus

# Encodings by name. The number varies the output of an encoding.
SPELLINGS: Mapping[str, Callable[[str, int], str]] = {
    "JSON": lambda text, _: json.dumps(text)[1:-1],
    "JSON with all characters": lambda text, _: json.dumps(text, ensure_ascii=False)[1:-1],
    "JSON with slashes escaped": lambda text, _: json.dumps(text)[1:-1].replace("/", "\\/"),
    "JSON with HTML's characters escaped": lambda text, _: re.sub(
        "[<>&']", lambda match: f"\\u{ord(match[0]):04X}", json.dumps(text)[1:-1]
    ),
    "JSON with everything escaped": lambda text, _: re.sub(
        "[\0-\uffff]", lambda match: f"\\u{ord(match[0]):04x}", text
    ),
    "repr": lambda text, _: repr(text)[1:-1],
    "repr of bytes": lambda text, _: repr(text.encode())[2:-1],
    "URL": lambda text, _: quote(text, safe=""),
    "form": lambda text, _: quote_plus(text),
    "URL in lower case": lambda text, _: "".join(f"%{byte:02x}" for byte in text.encode()),
    "some of a URL": lambda text, number: "".join(
        quote(char, safe="") if (number >> place % 7) & 1 else char for place, char in enumerate(text)
    ),
    "HTML": lambda text, _: html.escape(text),
    "HTML decimal": lambda text, _: "".join(f"&#{ord(char)};" for char in text),
    "HTML hexadecimal": lambda text, _: "".join(f"&#x{ord(char):X};" for char in text),
    "Base64": lambda text, number: base64.b64encode(
        b"user:"[: number % 6] + text.encode() + b"more"[: number % 5]
    ).decode(),
    "Base64 for URLs": lambda text, number: base64.urlsafe_b64encode(b"::"[: number % 3] + text.encode()).decode(),
}
