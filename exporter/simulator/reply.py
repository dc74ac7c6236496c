"""Answers of the simulated API, and answers damaged by faults. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from exporter.simulator.query import Refusal

JSON = "application/json"
HTML_PAGE = "<!DOCTYPE html>\n<html><head><title>Maintenance</title></head><body>Please wait.</body></html>\n"


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer.

    Attributes:
        status: The HTTP status.
        body: The whole body.
        content_type: The media type.
        headers: Further headers.
        rows: The rows in the body, or None where it has none.
        cut: Whether only half of the body is sent before the connection ends.
    """

    status: int
    body: bytes
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    rows: int | None = None
    cut: bool = False


class Damage(Enum):
    """The ways in which a fault damages an answer."""

    CUT = auto()
    MALFORMED = auto()
    HTML = auto()
    TEXT = auto()


def json_reply(content: object, status: int = 200) -> Reply:
    """An answer with a JSON body."""
    return Reply(status, json.dumps(content, ensure_ascii=False).encode())


def refusal_reply(refusal: Refusal) -> Reply:
    """The answer to a refused request."""
    reply = json_reply({"code": refusal.code, "message": str(refusal)}, refusal.status)
    if refusal.retry_after is None:
        return reply
    return replace(reply, headers={"Retry-After": str(refusal.retry_after)})


def damaged(reply: Reply, damage: Damage) -> Reply:
    """An answer, damaged by a fault."""
    if damage is Damage.CUT:
        return replace(reply, cut=True)
    if damage is Damage.MALFORMED:
        return replace(reply, body=reply.body[: len(reply.body) * 2 // 3])
    if damage is Damage.HTML:
        return replace(reply, body=HTML_PAGE.encode(), content_type="text/html; charset=utf-8", rows=None)
    return replace(reply, content_type="text/plain; charset=utf-8")
