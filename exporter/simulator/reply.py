"""Answers of the simulated API, refusals, and answers damaged by faults. Pure."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from exporter.simulator.faults import Faults

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


def json_reply(content: object, status: int = 200) -> Reply:
    """An answer with a JSON body."""
    return Reply(status, json.dumps(content, ensure_ascii=False).encode())


class Refusal(Exception):
    """The API refuses a request.

    Attributes:
        reply: The answer.
    """

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.reply = replace(json_reply({"code": code, "message": message}, status), headers=headers or {})


def bad_request(message: str) -> Refusal:
    """The refusal of a request that is not valid."""
    return Refusal(400, "BAD_REQUEST", message)


def unauthorized(message: str) -> Refusal:
    """The refusal of a request with invalid credentials."""
    return Refusal(401, "UNAUTHORIZED", message)


def not_found(what: str, message: str) -> Refusal:
    """The refusal of a request for something that does not exist."""
    return Refusal(404, f"{what}_NOT_FOUND", message)


def perhaps_damaged(reply: Reply, faults: Faults, hits: Callable[[float], bool]) -> Reply:
    """An answer, damaged by the first fault whose rate hits it."""
    if hits(faults.cut_rate):
        return replace(reply, cut=True)
    if hits(faults.malformed_rate):
        return replace(reply, body=reply.body[: len(reply.body) * 2 // 3])
    if hits(faults.html_rate):
        return replace(reply, body=HTML_PAGE.encode(), content_type="text/html; charset=utf-8", rows=None)
    if hits(faults.text_rate):
        return replace(reply, content_type="text/plain; charset=utf-8")
    return reply
