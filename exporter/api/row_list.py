"""The list of rows in an answer of `aggregations`, whatever objects it is wrapped in. Pure."""

from collections.abc import Mapping
from typing import Any

from exporter.api.json_body import error_summary, excerpt, is_error
from exporter.errors import MalformedAnswer

# Keys of a status and their values for success and failure; and keys of counts.
_SUCCESS = frozenset({"ok", "success", "succeeded", "200"})
_FAILURE = frozenset({"error", "fail", "failed", "failure"})
_STATUS_KEYS = frozenset({"status", "code", "success", "ok", "result", "message", "msg"})
_COUNT_KEYS = frozenset({"count", "total", "size", "length"})


def find_rows(answer: object) -> list[Any]:
    """The answer itself if it is a list, otherwise the only list at the outermost level of its objects that has one.

    Without a list, there are no rows if the answer clearly says so, for example `{"status": "ok", "rows": null}`.

    Raises:
        MalformedAnswer: The answer is an error, or has no list of rows or several.
    """
    if isinstance(answer, list):
        return answer
    if answer is None:
        return []
    if not isinstance(answer, dict):
        raise MalformedAnswer(f"neither a list nor an object: {excerpt(answer)}")
    objects, leaves = [answer], list[tuple[str, Any]]()
    problem = "no list of rows"
    while objects:
        if any(is_error(each) or _reports_failure(each) for each in objects):
            problem = "an error"
            break
        members = [member for each in objects for member in each.items()]
        lists = [value for _, value in members if isinstance(value, list)]
        if len(lists) == 1:
            return lists[0]
        if lists:
            problem = "more than one list"
            break
        objects = [value for _, value in members if isinstance(value, dict)]
        leaves += [(key, value) for key, value in members if not isinstance(value, dict)]
    else:
        if all(_allows_no_rows(key, value) for key, value in leaves):
            return []
    raise MalformedAnswer(f"{problem}: {error_summary(answer) or excerpt(answer)}")


def _reports_failure(answer: Mapping[str, Any]) -> bool:
    for key, value in answer.items():
        name = key.lower()
        if name in _STATUS_KEYS and (value is False or (isinstance(value, str) and value.lower() in _FAILURE)):
            return True
    return False


def _allows_no_rows(key: str, value: object) -> bool:
    """Whether a member reports neither an error nor a row, so that null can mean no rows."""
    if value is None:
        return True
    name, text = key.lower(), str(value).lower()
    if name in _STATUS_KEYS:
        return value is True or text in _SUCCESS or (name in ("status", "code") and text == "0")
    return (name in _COUNT_KEYS and text == "0") or (name in ("error", "errors") and not value)
