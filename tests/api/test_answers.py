import json
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from exporter.api import answers, row_values
from exporter.api.json_body import clean, error_text, excerpt
from exporter.api.row_values import LARGEST
from exporter.errors import MalformedAnswer
from exporter.model import DAY_MINUTES, Group, Minute, Reading, Rows, Stream, Target, minute_of, start_of

T = TypeVar("T")

TOKYO = ZoneInfo("Asia/Tokyo")
NEW_YORK = ZoneInfo("America/New_York")

PLAYS = Stream("m", "", Target.PLAY_COUNT, Group.ALL)
COUNTRIES = Stream("m", "", Target.PLAY_COUNT, Group.COUNTRY)
KEYS = Stream("m", "", Target.KEY_DELIVERY_COUNT, Group.ALL)

# 2018/12/01 14:34 in Tokyo, and midnight of that day.
AT = minute_of(datetime(2018, 12, 1, 5, 34, tzinfo=UTC).timestamp())
MIDNIGHT = minute_of(datetime(2018, 11, 30, 15, 0, tzinfo=UTC).timestamp())

MANUAL = """{
  [
    { "date": "2018/12/01 14:34", "all": 10 },
    { "date": "2018/12/01 14:35", "all": 12 }
  ]
}"""


def row(**members: object) -> dict[str, object]:
    return {"date": "2018/12/01 14:34", **members}


def body(answer: object) -> bytes:
    if isinstance(answer, bytes):
        return answer
    return answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(MANUAL, {AT: 10, AT + 1: 12}, id="as printed in the manual"),
        pytest.param('{ [ {"date": "2018/12/01 14:34", "all": 1}, ], }', {AT: 1}, id="braced, with commas"),
        pytest.param("{[]}", {}, id="braced and empty"),
        pytest.param([row(all=10)], {AT: 10}, id="a bare list"),
        pytest.param([], {}, id="no rows"),
        pytest.param({"results": [row(all=10)]}, {AT: 10}, id="the only list of an object"),
        pytest.param({"code": 200, "message": "OK", "total": 1, "rows": [row(all=1)]}, {AT: 1}, id="a list and more"),
        pytest.param("\ufeff" + json.dumps([row(all=10)]), {AT: 10}, id="a byte order mark"),
        pytest.param([row(all="10")], {AT: 10}, id="a number as a string"),
        pytest.param([row(all=" 10.50 ")], {AT: 10.5}, id="a fraction as a string"),
        pytest.param([row(all=10.25)], {AT: 10.25}, id="a fraction"),
        pytest.param([row(all=10**12)], {AT: 10**12}, id="the largest number"),
        pytest.param("[" + json.dumps(row()).replace("}", ', "all": -0.0}') + "]", {AT: 0}, id="minus zero"),
        pytest.param([row(play_count=10)], {AT: 10}, id="one value of another name"),
        pytest.param([row(play_count=10, all=None)], {AT: 10}, id="null is as if not there"),
        pytest.param([row(all=10, jp=7, media_id="x")], {AT: 10}, id="all beside others"),
        pytest.param([row(all=10), row(all="10")], {AT: 10}, id="the same row twice"),
        pytest.param(
            [{"date": "2018/12/01 14:35", "all": 1}, row(all=2)], {AT + 1: 1, AT: 2}, id="the newest row first"
        ),
    ],
)
def test_rows_without_groups(answer: object, expected: Mapping[Minute, float]) -> None:
    """Every plausible form of an answer without groups gives the same rows, under the label value ""."""
    found = answers.rows(body(answer), PLAYS, TOKYO).rows
    assert found == {minute: {"": value} for minute, value in expected.items()}


@pytest.mark.parametrize("answer", [[row(all=None)], [row()]])
def test_a_row_without_a_number_is_a_row(answer: object) -> None:
    """A row whose value is null has a minute, which moves the horizon, and no label value."""
    assert answers.rows(body(answer), PLAYS, TOKYO).rows == {AT: {}}
    assert answers.rows(body(answer), COUNTRIES, TOKYO).rows == {AT: {}}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param([row(jp=10, us=2)], {"jp": 10, "us": 2}, id="keys beside the date"),
        pytest.param([row(jp="10", us=None)], {"jp": 10}, id="strings and null"),
        pytest.param([row(country={"jp": 10, "us": 2})], {"jp": 10, "us": 2}, id="an object"),
        pytest.param([row(values={"jp": 10}, all=10)], {"jp": 10}, id="an object of any name, and a total"),
        pytest.param([row(media_id="x", country={"jp": 10})], {"jp": 10}, id="an object of the group, and more"),
        pytest.param([row(country={})], {}, id="an empty object"),
        pytest.param([row(country=[])], {}, id="an empty list"),
        pytest.param([row(country=[{"value": "jp", "count": 10}])], {"jp": 10}, id="value and count"),
        pytest.param([row(country=[{"count": "10", "value": "7"}])], {"7": 10}, id="value and count as strings"),
        pytest.param([row(country=[{"name": "jp", "value": 10}])], {"jp": 10}, id="name and value"),
        pytest.param([row(country=[{"name": "jp", "value": "10"}])], {"jp": 10}, id="name and value as a string"),
        pytest.param([row(x=[{"country": "jp", "n": "10"}])], {"jp": 10}, id="pairs named after the group"),
        pytest.param([row(x=[{"name": "jp", "play_count": 1}])], {"jp": 1}, id="pairs named after the target"),
        pytest.param([row(x=[{"value": 90, "count": 1}])], {"90": 1}, id="a label value that is a number"),
        pytest.param([row(x=[{"value": None, "count": 1}])], {"unknown": 1}, id="a label value that is null"),
        pytest.param([row(x=[{"value": "jp", "count": None}])], {}, id="a count that is null"),
        pytest.param([row(x=[{"jp": 10}, {"us": 2}])], {"jp": 10, "us": 2}, id="objects of one member"),
        pytest.param([row(jp=10), row(us=2)], {"jp": 10, "us": 2}, id="a row for each label value"),
        pytest.param([row(jp=10), row(us=2), row(jp=10)], {"jp": 10, "us": 2}, id="one of them twice"),
        pytest.param([row(country="jp", count=10), row(country="us", count=2)], {"jp": 10, "us": 2}, id="long rows"),
        pytest.param([row(country="jp", all=10)], {"jp": 10}, id="long rows that count all"),
        pytest.param([row(country=None, count=2), row(country="jp", count=1)], {"unknown": 2, "jp": 1}, id="null"),
        pytest.param([row(jp=10, us=2, all=12)], {"jp": 10, "us": 2}, id="a total beside its parts"),
        pytest.param([row(all=12), row(jp=12)], {"jp": 12}, id="a total in a row of its own"),
        pytest.param([row(country={"jp": 10, "all": 10}, all=10)], {"jp": 10}, id="totals inside and beside"),
        pytest.param([row(all=0)], {}, id="a total of nothing"),
        pytest.param([row(all=3)], {"all": 3}, id="a total without parts"),
        pytest.param([row(all=3, jp=None)], {"all": 3}, id="a total with a part that is null"),
        pytest.param([row(**{"": 3})], {"unknown": 3}, id="an empty label value"),
        pytest.param([row(**{"": 3, "unknown": 4})], {"unknown": 7}, id="two that become the same"),
        pytest.param([row(**{"x" * 200 + "1": 3, "x" * 200 + "2": 4})], {"x" * 200: 7}, id="long ones that do"),
        pytest.param([row(**{chr(0xD800): 3, chr(0xDFFF): 4})], {"\ufffd": 7}, id="halves of characters"),
        pytest.param([row(日本=1)], {"日本": 1}, id="Japanese"),
        pytest.param([row(id=10, to=2, us=1)], {"id": 10, "to": 2, "us": 1}, id="Indonesia and Tonga"),
        pytest.param([row(country="jp", count=None)], {}, id="a long row whose count is null"),
        pytest.param([row(country=None)], {}, id="a group that is null"),
        pytest.param([row(country="jp", count=10, x=None)], {"jp": 10}, id="a long row with a null"),
        pytest.param([row(country="jp", value=10)], {"jp": 10}, id="a long row with a value"),
        pytest.param([row(x=[{"code": "4711", "value": 3}])], {"4711": 3}, id="code and value"),
        pytest.param([row(x=[{"country_code": "jp", "count": 3}])], {"jp": 3}, id="the group's code and count"),
        pytest.param([row(country={"jp": 1}, count=1)], {"jp": 1}, id="an object of the group, and its count"),
        pytest.param([row(country="jp", count=10), row(us=2, fr=1)], {"jp": 10, "us": 2, "fr": 1}, id="mixed rows"),
    ],
)
def test_rows_of_a_group(answer: object, expected: Mapping[str, float]) -> None:
    """Every plausible form of a group's answer gives each label value once, and loses no play."""
    assert answers.rows(body(answer), COUNTRIES, TOKYO).rows == {AT: expected}


PERCENTAGES = Stream("m", "", Target.PLAY_COUNT, Group.PERCENTAGE)
PLAYERS = Stream("m", "", Target.PLAY_COUNT, Group.PLAYER)


@pytest.mark.parametrize(
    ("stream", "members", "expected"),
    [
        (PERCENTAGES, {"percentage": 25, "count": 10}, {"25": 10}),
        (PERCENTAGES, {"percentage": 25.0, "count": 10}, {"25": 10}),
        (PERCENTAGES, {"percentage": "25", "play_count": 10}, {"25": 10}),
        (PERCENTAGES, {"percentage": 25, "plays": "10"}, {"25": 10}),
        (PERCENTAGES, {"percentage": 25, "value": 10}, {"25": 10}),
        (PERCENTAGES, {"percentage": 25, "all": 10}, {"25": 10}),
        (PERCENTAGES, {"percentage": 12.5, "count": 10}, {"12.5": 10}),
        (PERCENTAGES, {"percentage": [{"value": 25.0, "count": 10}]}, {"25": 10}),
        (PERCENTAGES, {"25": 10, "50": 5}, {"25": 10, "50": 5}),
        (PERCENTAGES, {"percentage": {"25": 10}}, {"25": 10}),
        (PLAYERS, {"player": 4711, "count": 3}, {"4711": 3}),
        (PLAYERS, {"player": "4711", "Play-Count": 3}, {"4711": 3}),
        (PLAYERS, {"player": [{"player": 4711, "total": 3}]}, {"4711": 3}),
        (PLAYERS, {"x": [{"id": 4711, "total": 3}]}, {"4711": 3}),
        (PLAYERS, {"x": [{"4711": 3}, {"4712": 1}]}, {"4711": 3, "4712": 1}),
        (PERCENTAGES, {"percentage": 25, "jp": 10}, None),
        (PERCENTAGES, {"percentage": 25, "count": 10, "total": 40}, None),
        (PERCENTAGES, {"percentage": 25, "count": 10, "50": 3}, None),
        (PERCENTAGES, {"percentage": 25}, None),
        (PERCENTAGES, {"percentage": 25, "50": None}, None),
        (PERCENTAGES, {"Percentage": 25, "n": 10}, None),
        (PERCENTAGES, {"value": 25, "count": 10}, None),
        (PERCENTAGES, {"value": 25}, None),
        (PERCENTAGES, {"count": 10}, None),
        (PERCENTAGES, {"25": 10, "total": 10}, None),
        (PLAYERS, {"name": "4711", "count": 3}, None),
        (PLAYERS, {"id": 4711, "total": 3, "x": 1}, None),
        (PLAYERS, {"id": 4711, "x": 1}, None),
        (PLAYERS, {"player_id": 4711, "n": 3}, None),
        (PLAYERS, {"playerId": 4711, "playerName": 12, "n": 3}, None),
        (PLAYERS, {"media_id": 4711, "x": 1}, None),
        (PLAYERS, {"play_count": 3}, None),
        (PLAYERS, {"player": None, "x": 3}, None),
        (PLAYERS, {"player": 4711, "id": 12}, None),
        (PLAYERS, {"player": "A", "id": 12}, None),
        (PLAYERS, {"player": "A"}, None),
        (PLAYERS, {"player": {"id": 4711, "count": 3}}, None),
        (PLAYERS, {"player": {"A": 3}, "B": 1}, None),
        (PLAYERS, {"player": [{"id": 4711, "name": "Player A"}]}, None),
        (PLAYERS, {"player": [{"player": 4711, "name": "Player A"}]}, None),
        (PLAYERS, {"player": [{"player": 4711, "x": 3}]}, None),
        (PLAYERS, {"player": [{"total": 4711, "count": 3}]}, None),
        (PLAYERS, {"player": [{"x": 4711, "value": 3}]}, None),
        (PLAYERS, {"player": [{"x": "A", "y": 3}]}, None),
        (PLAYERS, {"player": [{"media_id": "A", "count": 3}]}, None),
        (PLAYERS, {"player": [{"count": 3}]}, None),
        (PLAYERS, {"player": [{"player": 3}]}, None),
        (PLAYS, {"id": 4711}, None),
        (PLAYS, {"percentage": 25}, None),
        (PLAYS, {"values": {"all": 3}}, None),
    ],
)
def test_names_decide_what_is_a_label_value_and_what_a_count(
    stream: Stream, members: dict[str, object], expected: Mapping[str, float] | None
) -> None:
    """A number is parsed as its name says; if that is ambiguous, the whole answer is rejected."""
    answer = body([row(**{"4712" if stream is PLAYERS else "50": 1}), {"date": "2018/12/01 14:35", **members}])
    if stream is PLAYS:
        answer = body([row(**members)])
    if expected is not None:
        assert answers.rows(answer, stream, TOKYO).rows[AT + 1] == expected
        return
    with pytest.raises(MalformedAnswer, match=r"^row [12]: ") as caught:
        answers.rows(answer, stream, TOKYO)
    assert str(caught.value).isprintable()


def test_the_error_names_the_ambiguous_member() -> None:
    """The message names the row, the member and its possible meanings."""
    with pytest.raises(MalformedAnswer) as caught:
        answers.rows(body([row(value=25, count=10)]), PERCENTAGES, TOKYO)
    assert str(caught.value) == (
        'row 1: ambiguous: "value" may be a value of "percentage", or not, '
        'in {"date": "2018/12/01 14:34", "value": 25, "count": 10}'
    )


@pytest.mark.parametrize(
    ("stream", "answer", "expected", "problem"),
    [
        (PLAYS, [row(all=-1)], {"": None}, "row 1: -1 is negative"),
        (PLAYS, [row(all="-1")], {"": None}, 'row 1: "-1" is negative'),
        (PLAYS, [row(all="N/A")], {"": None}, 'row 1: "N/A" is not a number'),
        (PLAYS, [row(all="")], {"": None}, 'row 1: "" is not a number'),
        (PLAYS, [row(all=True)], {"": None}, "row 1: true is not a number"),
        (PLAYS, [row(all={})], {"": None}, "row 1: {} is not a number"),
        (PLAYS, [row(all="1,000")], {"": None}, 'row 1: "1,000" is not a number'),
        (PLAYS, [row(all="١٠")], {"": None}, 'row 1: "١٠" is not a number'),
        (PLAYS, [row(all="Infinity")], {"": None}, 'row 1: "Infinity" is not a number'),
        (PLAYS, [row(all="1e400")], {"": None}, 'row 1: "1e400" is too large'),
        (PLAYS, [row(all=10**12 + 1)], {"": None}, "row 1: 1000000000001 is too large"),
        (PLAYS, [row(all=10**320)], {"": None}, "row 1: Infinity is too large"),
        (PLAYS, [row(all=10**299)], {"": None}, None),
        (PLAYS, [row(all=10**400)], {"": None}, "row 1: Infinity is too large"),
        (PLAYS, '[{"date": "2018/12/01 14:34", "all": 1e400}]', {"": None}, "row 1: Infinity is too large"),
        (PLAYS, '[{"date": "2018/12/01 14:34", "all": NaN}]', {"": None}, "row 1: NaN is not a number"),
        (PLAYS, '[{"date": "2018/12/01 14:34", "all": -Infinity}]', {"": None}, "row 1: -Infinity is negative"),
        (
            PLAYS,
            '[{"date": "2018/12/01 14:34", "all": 1, "all": 2}]',
            {"": None},
            "row 1: duplicate key with different values",
        ),
        (PLAYS, [row(all=10), row(all=12)], {"": None}, "row 2: 12, but an earlier row has 10"),
        (PLAYS, [row(all=10), row(all="x")], {"": None}, 'row 2: "x" is not a number'),
        (PLAYS, [row(all="x"), row(all=10)], {"": None}, 'row 1: "x" is not a number'),
        (COUNTRIES, [row(jp=True, us=1)], {"jp": None, "us": 1}, "row 1: true is not a number"),
        (COUNTRIES, [row(jp="N/A", us=1, all=9)], {"jp": None, "us": 1}, 'row 1: "N/A" is not a number'),
        (COUNTRIES, [row(country="jp", count=-1), row(us=1)], {"jp": None, "us": 1}, "row 1: -1 is negative"),
        (COUNTRIES, [row(country={"jp": "x", "us": 1})], {"jp": None, "us": 1}, 'row 1: "x" is not a number'),
        (COUNTRIES, [row(country={"jp": {"count": 1}, "us": 1})], {"jp": None, "us": 1}, None),
        (
            COUNTRIES,
            [row(country=[{"value": "jp", "count": 2}, {"value": "jp", "count": 3}])],
            {"jp": None},
            'row 1: duplicate "jp"',
        ),
        (COUNTRIES, [row(jp=1), row(jp=2, us=3)], {"jp": None, "us": 3}, "row 2: 2, but an earlier row has 1"),
        (COUNTRIES, [row(all="N/A")], {"all": None}, 'row 1: "N/A" is not a number'),
        (COUNTRIES, [row(**{"": -1, "unknown": 4})], {"unknown": None}, "row 1: -1 is negative"),
    ],
)
def test_an_unusable_value_is_unknown(
    stream: Stream, answer: object, expected: Mapping[str, float | None], problem: str | None
) -> None:
    """One bad value of a minute and label value is unknown and reported; everything else is read."""
    more = '[{"date": "2018/12/01 14:35", "%s": 7}, ' % ("all" if stream is PLAYS else "jp")
    for text, at in ((body(answer).decode(), 1), (more + body(answer).decode()[1:], 2)):
        reading = answers.rows(text.encode(), stream, TOKYO)
        assert reading.rows[AT] == expected
        assert at == 1 or list(reading.rows[AT + 1].values()) == [7]
        assert len(reading.problems) == 1
        if problem is not None and at == 1:
            assert reading.problems[0].startswith(f"{problem}, in {{")


@pytest.mark.parametrize("answer", [[row(jp=1, all=-1)], [row(all="N/A"), row(jp=1)], [row(jp=1, all=2), row(all=3)]])
def test_an_unusable_total_does_not_matter_beside_its_parts(answer: object) -> None:
    """If the parts are known, their sum is not needed."""
    assert answers.rows(body(answer), COUNTRIES, TOKYO) == Reading({AT: {"jp": 1}})


def test_merged_label_values_that_become_too_large_are_unknown() -> None:
    """The sum of label values that become equal is at most the largest allowed number, or unknown."""
    half = {"x" * 200 + "1": 10**12, "x" * 200 + "2": 1}
    assert answers.rows(body([row(**half)]), COUNTRIES, TOKYO).rows == {AT: {"x" * 200: None}}


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (7, "row 2: not an object, in 7"),
        (None, "row 2: not an object, in null"),
        ({"all": 2}, 'row 2: no date, in {"all": 2}'),
        ({"date": "total", "all": 9}, 'row 2: unreadable date, in {"date": "total", "all": 9}'),
        ({"date": 20181201, "all": 2}, 'row 2: unreadable date, in {"date": 20181201, "all": 2}'),
        (
            {"date": "2018/02/30 10:00", "all": 2},
            'row 2: nonexistent date, in {"date": "2018/02/30 10:00", "all": 2}',
        ),
    ],
)
def test_a_row_with_an_unreadable_date_is_left_out(bad: object, problem: str) -> None:
    """The other rows are read; if there is none, the answer is rejected."""
    reading = answers.rows(body([row(all=1), bad, row(all=1)]), PLAYS, TOKYO)
    assert reading == Reading({AT: {"": 1}}, (problem,))
    with pytest.raises(MalformedAnswer):
        answers.rows(body([bad, bad]), PLAYS, TOKYO)


def test_the_number_of_problems_is_limited() -> None:
    """However much of an answer is unusable, there are only a few messages, in the order of the rows."""
    answer = [{"date": f"2018/12/01 14:{minute}", "all": -1} for minute in range(10, 50)]
    problems = answers.rows(body(answer), PLAYS, TOKYO).problems
    assert [problem[:6] for problem in problems] == ["row 1:", "row 2:", "row 3:", "and 37"]
    assert problems[-1] == "and 37 more"


def test_problems_that_are_not_shown_are_not_formatted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row is formatted only for the few messages that are shown, not for each of its values."""
    written: list[object] = []

    def note(value: object) -> str:
        written.append(value)
        return excerpt(value)

    monkeypatch.setattr(answers, "excerpt", note)
    reading = answers.rows(body([row(**{f"label {number}": -1 for number in range(1000)})]), COUNTRIES, TOKYO)
    assert reading.problems[-1] == "and 997 more"
    assert sum(isinstance(value, dict) for value in written) == answers.MOST_PROBLEMS


def test_an_excerpt_reads_only_what_it_shows() -> None:
    """An excerpt of a row of megabytes costs no more than one of a line."""

    class Large(list[int]):
        looked_at = 0

        def __iter__(self) -> Iterator[int]:
            for value in super().__iter__():
                self.looked_at += 1
                yield value

    large = Large(range(100_000))
    assert excerpt(large).startswith("[0, 1, 2, 3,")
    assert large.looked_at < 2_000


def test_a_defect_in_one_label_value_concerns_only_that_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that raises an unexpected exception is unknown; the others are used."""
    number = row_values._number

    def read(written: object) -> float:
        if written == 7:
            raise OverflowError
        return number(written)

    monkeypatch.setattr(row_values, "_number", read)
    reading = answers.rows(body([row(jp=7, us=2)]), COUNTRIES, TOKYO)
    assert reading.rows == {AT: {"jp": None, "us": 2}}
    assert reading.problems[0].startswith("row 1: unexpected OverflowError, in {")


@pytest.mark.parametrize("answer", [[row(all={"count": 1})], [row(play_count=[1])]])
def test_objects_in_place_of_all_numbers_are_another_form(answer: object) -> None:
    """Objects everywhere are not bad values, but an unknown form, which is rejected."""
    with pytest.raises(MalformedAnswer, match="row 1: an object or a list instead of a number"):
        answers.rows(body(answer), PLAYS, TOKYO)


@pytest.mark.parametrize(
    "answer",
    [
        "null",
        {},
        "[]",
        {"aggregations": None},
        {"aggregations": None, "count": 0},
        {"aggregations": {}},
        {"aggregations": []},
        {"data": {"aggregations": []}},
        {"data": {"aggregations": None}, "code": 200, "message": "OK"},
        {"data": None, "meta": {"total": 0}},
        {"success": True, "result": None, "error": None},
        {"status": "ok", "errors": {}, "data": None},
        {"code": 0, "msg": "success", "data": {}},
    ],
)
def test_no_rows_in_other_forms(answer: object) -> None:
    """An answer that clearly means "no rows" has no rows and is no error."""
    for stream in (PLAYS, COUNTRIES, KEYS):
        assert answers.rows(body(answer), stream, TOKYO) == Reading({})


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "false",
        "0",
        '""',
        {"aggregations": None, "count": 5},
        {"aggregations": None, "message": "timeout"},
        {"aggregations": False},
        {"aggregations": ""},
        {"success": False, "aggregations": None},
        {"success": False, "aggregations": []},
        {"status": "error", "data": []},
        {"error": "no", "aggregations": None},
        {"code": "SERVER_ERROR", "aggregations": None},
        {"code": 500, "aggregations": None},
        {"code": 7, "aggregations": None},
        {"data": {"error": "no", "aggregations": []}},
        {"data": {"code": "SERVER_ERROR"}},
        {"result": {"fault": "no"}},
        {"count": 3},
    ],
)
def test_an_error_is_never_read_as_no_rows(answer: object) -> None:
    """An answer that reports an error, or anything but no rows, is rejected."""
    with pytest.raises(MalformedAnswer):
        answers.rows(body(answer), PLAYS, TOKYO)


def test_rows_in_a_nested_object() -> None:
    """The rows are the only list of the outermost objects that have one."""
    assert answers.rows(body({"data": {"aggregations": [row(all=3)]}, "meta": {"page": 1}}), PLAYS, TOKYO).rows == {
        AT: {"": 3}
    }
    with pytest.raises(MalformedAnswer, match="more than one list"):
        answers.rows(body({"data": {"a": [row(all=3)]}, "more": {"b": [row(all=3)]}}), PLAYS, TOKYO)


@pytest.mark.parametrize("read", [answers.media, answers.live_event])
@pytest.mark.parametrize("answer", ["null", "{}", '{"id": 1, "id": 2}', '{"id": NaN}', ""])
def test_other_answers_stay_strict(read: Callable[[bytes], object], answer: str) -> None:
    """An answer without rows, or with a bad value, is no media and no live event."""
    with pytest.raises(MalformedAnswer):
        read(answer.encode())


@pytest.mark.parametrize(
    ("stream", "answer", "message"),
    [
        (PLAYS, "", "empty"),
        (PLAYS, "<html>\n<body>Please wait", "not JSON (Expecting value, character 0): <html> <body>Please wait"),
        (PLAYS, "[1, 2", "not JSON (Expecting ',' delimiter, character 5): [1, 2"),
        (PLAYS, "{ [ ... ] }", "not JSON (Expecting value, character 2): { [ ... ] }"),
        (PLAYS, '"text"', 'neither a list nor an object: "text"'),
        (PLAYS, "[" * 100_000, "nested too deeply: " + "[" * 79 + "…"),
        (PLAYS, "[" + "9" * 5000 + "]", "row 1: not an object, in Infinity"),
        (PLAYS, {"a": [], "b": []}, 'more than one list: {"a": [], "b": []}'),
        (PLAYS, {"code": "SERVER_ERROR", "message": "try\nagain"}, "an error: SERVER_ERROR: try again"),
        (PLAYS, {"code": "SERVER_ERROR", "message": "no", "rows": []}, "an error: SERVER_ERROR: no"),
        (PLAYS, {"status": 500, "error_message": "no", "rows": []}, "an error: no"),
        (PLAYS, {"errors": [{"code": 7, "detail": "no"}]}, "an error: 7: no"),
        (PLAYS, {"reason": "moved"}, "no list of rows: moved"),
        (PLAYS, [1], "row 1: not an object, in 1"),
        (PLAYS, [{"date": 20181201, "all": 2}], 'row 1: unreadable date, in {"date": 20181201, "all": 2}'),
        (
            PLAYS,
            [{"date": "yesterday", "all": 2}],
            'row 1: unreadable date, in {"date": "yesterday", "all": 2}',
        ),
        (
            PLAYS,
            [{"date": "2018/12/01", "all": 2}],
            'row 1: a date without a time, in {"date": "2018/12/01", "all": 2}',
        ),
        (
            PLAYS,
            [{"date": "2018/02/30 10:00", "all": 2}],
            'row 1: nonexistent date, in {"date": "2018/02/30 10:00", "all": 2}',
        ),
        (
            KEYS,
            [{"date": "2018/12/01 14:34", "all": 2}],
            'row 1: a time within the day, but whole days were requested, in {"date": "2018/12/01 14:34", "all": 2}',
        ),
        (
            PLAYS,
            [row(a=1, b=2)],
            'row 1: several values and no "all", in {"date": "2018/12/01 14:34", "a": 1, "b": 2}',
        ),
        (COUNTRIES, [row(jp=1, name="x")], None),
        (COUNTRIES, [row(country="jp", count=1, other=2)], None),
        (COUNTRIES, [row(country={"jp": {"count": 1}})], None),
        (COUNTRIES, [row(a={"jp": 1}, b={"us": 1})], None),
        (COUNTRIES, [row(a={"jp": 1}, us=1)], None),
        (COUNTRIES, [row(country=["jp", 1])], None),
        (COUNTRIES, [row(country=[{}])], None),
        (COUNTRIES, [row(country=[{"a": 1, "b": 2}])], None),
        (COUNTRIES, [row(country=[{"a": "jp", "b": "us"}])], None),
        (COUNTRIES, [row(country=[{"value": True, "count": 2}])], None),
    ],
)
def test_unreadable_rows(stream: Stream, answer: object, message: str | None) -> None:
    """An ambiguous or unreadable answer is rejected as a whole, and the message names the row."""
    with pytest.raises(MalformedAnswer) as caught:
        answers.rows(body(answer), stream, TOKYO)
    assert message in (None, str(caught.value))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_bytes_that_are_not_text() -> None:
    """A body that is not UTF-8 is rejected; the encoding is never guessed."""
    with pytest.raises(MalformedAnswer, match=r"^not UTF-8$"):
        answers.rows("日本".encode("shift_jis"), PLAYS, TOKYO)


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        ("2018/12/01 14:34", AT),
        ("2018/12/1 14:34", AT),
        ("2018-12-01 14:34", AT),
        ("2018-12-01T14:34", AT),
        ("2018/12/01 14:34:59", AT),
        (" 2018-12-01T14:34:07.123 ", AT),
        ("2018-12-01T14:34:00+09:00", AT),
        ("2018-12-01T05:34:00.000Z", AT),
        ("2018-12-01 00:34 -0500", AT),
    ],
)
def test_dates_of_minutes(date: str, expected: Minute) -> None:
    """A date is local, whatever its separators, unless it has an offset."""
    assert list(answers.rows(body([{"date": date, "all": 1}]), PLAYS, TOKYO).rows) == [expected]


@pytest.mark.parametrize(
    "date",
    [
        "2018/12/01",
        "2018-12-01",
        "2018/12/01 00:00",
        "2018-12-01T00:00:00",
        "2018-12-01T00:00:00+09:00",
        "2018-11-30T15:00:00Z",
    ],
)
def test_dates_of_days(date: str) -> None:
    """The row of a day belongs to the minute of the local midnight."""
    assert list(answers.rows(body([{"date": date, "all": 1}]), KEYS, TOKYO).rows) == [MIDNIGHT]


@pytest.mark.parametrize(
    ("written", "started"),
    [
        ("2018-12-01T05:34:00.000Z", AT * 60),
        ("2018-12-01T14:34:00+09:00", AT * 60),
        ("2018-12-01T14:34:00", None),
        ("2018/12/01 14:34", None),
        ("soonZ", None),
        (None, None),
        (7, None),
    ],
)
def test_the_start_of_a_live_event(written: object, started: float | None) -> None:
    """A time with an offset is read; any other could be wrong by hours, and is ignored."""
    event = answers.live_event(body({"encode_status": "running", "live_encode_start_at": written}))
    assert event == answers.LiveEvent(running=True, started=started)


@pytest.mark.parametrize("date", ["2018/12/01 14", "2018/12/01 14:00", "2018-12-01T14:00:00+09:00", "2018-12-01 05Z"])
def test_dates_of_hours(date: str) -> None:
    """The row of an hour belongs to the minute at which the hour starts."""
    assert list(answers.rows(body([{"date": date, "all": 1}]), PLAYS, TOKYO, hourly=True).rows) == [AT - 34]


@pytest.mark.parametrize("date", ["2018/12/01", "2018/12/01 14:34"])
def test_dates_that_are_no_hour(date: str) -> None:
    """A day and a minute are rejected where hours were requested, and an hour where minutes were."""
    with pytest.raises(MalformedAnswer):
        answers.rows(body([{"date": date, "all": 1}]), PLAYS, TOKYO, hourly=True)
    with pytest.raises(MalformedAnswer):
        answers.rows(body([{"date": "2018/12/01 14", "all": 1}]), PLAYS, TOKYO)


@pytest.mark.parametrize(
    "date",
    ["0000/01/01 00:00", "2018/13/01 00:00", "2018/12/01 24:00", "2018/12/01 14:60", "2018/12/01 14:34:60"],
)
def test_dates_that_do_not_exist(date: str) -> None:
    """A date that is in no calendar is rejected."""
    for stream in (PLAYS, KEYS):
        with pytest.raises(MalformedAnswer):
            answers.rows(body([{"date": date, "all": 1}]), stream, TOKYO)


@pytest.mark.parametrize("year", ["0001", "9999"])
@pytest.mark.parametrize("offset", ["", "Z", "+14:00", "-14:00", "+2359"])
def test_dates_at_the_ends_of_time(year: str, offset: str) -> None:
    """The first and the last possible years give rows or the usual error."""
    for stream in (PLAYS, KEYS):
        for date in (f"{year}/01/01 00:00{offset}", f"{year}/12/31 23:59{offset}"):
            try:
                found = answers.rows(body([{"date": date, "all": 1}]), stream, TOKYO).rows
            except MalformedAnswer:
                continue
            assert len(found) == 1


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("Asia/Tokyo", (2026, 11, 1)),
        ("America/New_York", (2026, 11, 1)),
        ("America/New_York", (2026, 3, 8)),
        ("Europe/Berlin", (2026, 10, 25)),
        ("Australia/Lord_Howe", (2026, 4, 5)),
        ("Asia/Beirut", (2026, 3, 29)),
    ],
)
def test_days_on_which_clocks_change(zone: str, day: tuple[int, int, int]) -> None:
    """Rows of all minutes around a change of the clocks give the original minutes, whether a repeated hour has one row
    for each minute or one for each label value.
    """
    local = ZoneInfo(zone)
    first = minute_of(datetime(*day, tzinfo=local).timestamp()) - 60
    minutes = range(first, first + DAY_MINUTES)
    dates = {m: datetime.fromtimestamp(start_of(m), local).strftime("%Y/%m/%d %H:%M") for m in minutes}
    wide = [{"date": dates[m], "jp": m - first, "us": 1} for m in minutes]
    long = [part for m in minutes for part in ({"date": dates[m], "jp": m - first}, {"date": dates[m], "us": 1})]
    expected = {m: {"jp": m - first, "us": 1} for m in minutes}
    assert answers.rows(body(wide), COUNTRIES, local).rows == expected
    assert answers.rows(body(long), COUNTRIES, local).rows == expected


def test_equal_rows_of_a_repeated_hour() -> None:
    """Two equal rows of a repeated minute are two minutes; if a third differs, the later minute is unknown."""
    twice = {"date": "2026/11/01 01:30", "all": 5}
    first = minute_of(datetime(2026, 11, 1, 5, 30, tzinfo=UTC).timestamp())
    assert answers.rows(body([twice, twice]), PLAYS, NEW_YORK).rows == {first: {"": 5}, first + 60: {"": 5}}
    reading = answers.rows(body([twice, twice, {**twice, "all": 6}]), PLAYS, NEW_YORK)
    assert reading.rows == {first: {"": 5}, first + 60: {"": None}}
    assert reading.problems[0].startswith("row 3: 6, but an earlier row has 5, in ")


def test_midnights_that_do_not_exist() -> None:
    """If clocks go forward at midnight, the day starts an hour later, in whatever form its date is written."""
    start = minute_of(datetime(2026, 3, 28, 22, 0, tzinfo=UTC).timestamp())
    for date in ("2026/03/29", "2026/03/29 00:00", "2026-03-29T01:00:00+03:00"):
        found = answers.rows(body([{"date": date, "all": 1}]), KEYS, ZoneInfo("Asia/Beirut")).rows
        assert list(found) == [start]


# ---- the catalog, live events, tokens ----


MEDIA = {
    "id": "7f8d",
    "ref_id": "r1",
    "name": "Morning news",
    "live_event_id": "e1",
    "encode_type": "live",
    "duration": 1000,
    "tags": ["a"],
}


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["news", "live", "news"], ("live", "news")),
        (["a,b", "  a   b ", 5], ("5", "a b")),
        (["a\u200b\ud800\n", "", None, True, ["x"], {"y": 1}], ("a \ufffd",)),
        (["x" * 300], ("x" * 99 + "…",)),
        ([f"{n:03}" for n in range(100)], tuple(f"{n:03}" for n in range(50))),
        ("news", ()),
        (None, ()),
        ({"news": True}, ()),
    ],
)
def test_tags(tags: object, expected: tuple[str, ...]) -> None:
    """Each once, in alphabetical order, printable, without commas, at most fifty of at most a hundred characters."""
    assert answers.media(body({"id": "x", "tags": tags})).tags == expected


def test_tags_show_no_secret() -> None:
    """The redactor sees each."""
    found = answers.media(body({"id": "x", "tags": ["my hunter2"]}), hide=lambda text: text.replace("hunter2", "***"))
    assert found.tags == ("my ***",)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (MEDIA, answers.Media("r1", "Morning news", "e1", "live", "7f8d", ("a",))),
        ({"media": MEDIA}, answers.Media("r1", "Morning news", "e1", "live", "7f8d", ("a",))),
        (dict.fromkeys(MEDIA), answers.Media("", "", "", "")),
        ({"id": 7, "name": True, "ref_id": ["x"], "live_event_id": 7}, answers.Media("", "", "7", "", "7")),
        ({"id": "x", "name": "a\ud800" + "b" * 300}, answers.Media("", "a\ufffd" + "b" * 198, "", "", "x")),
        ({"id": "x", "name": "ERROR"}, answers.Media("", "ERROR", "", "", "x")),
    ],
)
def test_media(answer: object, expected: answers.Media) -> None:
    """A media's texts are read unchanged; null is ""."""
    assert answers.media(body(answer)) == expected


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("", "empty"),
        ("[]", "not a media: []"),
        ({}, "not a media: {}"),
        ({"code": "MEDIA_NOT_FOUND", "message": "gone", "id": "x"}, "not a media: MEDIA_NOT_FOUND: gone"),
        ({"a": {"id": 1}, "b": {"id": 2}}, 'not a media: {"a": {"id": 1}, "b": {"id": 2}}'),
    ],
)
def test_invalid_media(answer: object, message: str) -> None:
    """An answer that does not look like a media is rejected."""
    with pytest.raises(MalformedAnswer) as caught:
        answers.media(body(answer))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("status", "running"),
    [
        ("encode_status_running", True),
        ("ENCODE_STATUS_RUNNING", True),
        ("running", True),
        ("encode_status_stopped", False),
        ("encode_status_not_running", False),
        ("", False),
        (None, False),
    ],
)
def test_live_events(status: object, running: bool) -> None:
    """A live event runs if its state says so, and not if the state is empty."""
    assert answers.live_event(body({"id": "e1", "encode_status": status})) == answers.LiveEvent(running)


def test_a_live_event_without_a_state() -> None:
    """An answer without the state of the event is rejected."""
    with pytest.raises(MalformedAnswer, match="not a live event"):
        answers.live_event(body({"id": "e1"}))


@pytest.mark.parametrize(
    ("answer", "expiry"),
    [
        ({"expiration": "2017-10-01T00:00:00.000Z"}, 1_506_816_000.0),
        ({"expired_at": "2017-10-01T00:00:00.000Z"}, 1_506_816_000.0),
        ({"expiration": None, "expired_at": "2017-10-01T09:00:00+09:00"}, 1_506_816_000.0),
        ({"expiration": "2017/10/01 00:00:00"}, 1_506_816_000.0),
        ({"expiration": 1506816000}, 1_506_816_000.0),
        ({"expiration": 1506816000123}, 1_506_816_000.123),
        ({"expiration": "1506816000"}, 1_506_816_000.0),
        ({"expiration": "1701010112000"}, 1_701_010_112.0),
        ({}, None),
        ({"expiration": None}, None),
        ({"expiration": "soon"}, None),
        ({"expiration": ""}, None),
        ({"expiration": True}, None),
        ({"expiration": []}, None),
        ({"expiration": -5}, None),
        ({"expiration": 10**30}, None),
        ({"expiration": "1e300"}, None),
        ({"expiration": "0001-01-01T00:00:00+14:00"}, None),
    ],
)
def test_tokens(answer: dict[str, Any], expiry: float | None) -> None:
    """A token's expiry is read in every plausible form; an expiry that cannot be parsed is unknown,
    which is no error.
    """
    assert answers.token(body({"token": "abc.def-1", **answer})) == ("abc.def-1", expiry)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "s3cret",
        '{"token": "s3cret',
        ["s3cret"],
        {"s3cret": 1},
        {"token": None, "message": "s3cret"},
        {"token": ["s3cret"]},
        {"token": "s3cret\r\nX-Evil: 1"},
        {"token": "s3cret 2"},
        {"token": "s3crët"},
        {"token": ""},
        {"token": "s3cret" * 3000},
    ],
)
def test_invalid_tokens(answer: object) -> None:
    """A token that is invalid in a header is rejected, and the message contains nothing of the answer."""
    with pytest.raises(MalformedAnswer) as caught:
        answers.token(body(answer))
    assert str(caught.value) == "no token that is valid in an HTTP header"


# ---- errors ----


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"code": "BAD_REQUEST", "message": "no such\n target"}, "BAD_REQUEST: no such target"),
        ({"message": "no", "error_code": 17}, "17: no"),
        ({"error": {"detail": "no", "code": "BAD_REQUEST", "retry": True}}, "BAD_REQUEST: no"),
        ({"errors": [{"code": "A", "message": "one"}, {"code": "B", "message": "two"}]}, "A: B: one: two"),
        ({"code": "NO", "message": "NO"}, "NO"),
        ({"what": "is this"}, '{"what": "is this"}'),
        (["no"], '["no"]'),
        ('"later"', "later"),
        ("", ""),
        ("<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>", "502 Bad Gateway nginx"),
        ({"message": "\x1b[31m\u202ered"}, "[31m red"),
        ({"message": "x" * 300}, "x" * 199 + "…"),
        ("y" * 300, "y" * 199 + "…"),
        ("<" + "z" * 5000, "<" + "z" * 198 + "…"),
        ("<p>" * 1364 + "secret", "secr…"),
        ("[" * 5000, "[" * 199 + "…"),
        ("日本 off".encode("shift_jis"), "{ off"),
    ],
)
def test_error_text(answer: object, text: str) -> None:
    """An error's text is one short printable line with code and message first, whatever the body looks like."""
    assert error_text(body(answer)) == text


def test_a_value_too_deep_to_write() -> None:
    """A value that Python cannot encode again is shown without its text."""
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    assert excerpt(value) == "(deeply nested)"


# ---- random answers ----


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**20, max_value=10**400)
    | st.floats()
    | st.text(st.characters())
    | st.sampled_from(["10", "1.5", "2018/12/01 14:34", "9999/12/31 23:59Z", "jp", "\ud800", "all", ""]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["date", "all", "jp", "", "country", "value", "count", "token", "id", "code"])
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)
ROWS = st.lists(
    st.builds(
        lambda date, rest: {"date": date, **rest},
        st.sampled_from(["2018/12/01 14:34", "2018/12/01 14:35", "2018/12/01", "2018-12-01T00:00Z"])
        | st.datetimes().map(str),
        st.dictionaries(
            st.sampled_from(["all", "jp", "us", "", "country", "x" * 201, "x" * 202, "\udfff"]), JSON_VALUES, max_size=3
        ),
    ),
    max_size=4,
)
STREAMS = st.builds(Stream, st.just("m"), st.just(""), st.sampled_from(Target), st.sampled_from(Group)).filter(
    lambda stream: not stream.target.by_day or stream.group is Group.ALL
)


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A good answer with a few bytes removed, doubled or replaced."""
    good = bytearray(
        draw(st.sampled_from([MANUAL, json.dumps({"r": [row(country={"jp": 1})]}), json.dumps(MEDIA)])).encode()
    )
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(good)))
        end = draw(st.integers(at, min(len(good), at + 10)))
        good[at:end] = draw(st.sampled_from([b"", bytes(good[at:end]) * 2]) | st.binary(max_size=4))
    return bytes(good)


BODIES = (
    st.binary()
    | mutations()
    | JSON_VALUES.map(lambda value: json.dumps(value).encode())
    | ROWS.map(lambda value: json.dumps(value).encode())
    | ROWS.map(lambda value: json.dumps({"rows": value}).encode())
)


def attempt(read: Callable[[], T]) -> tuple[T | None, str]:
    """The parsed value, or the message of `MalformedAnswer`."""
    try:
        return read(), ""
    except MalformedAnswer as error:
        return None, str(error)


def assert_well_formed(found: Rows, stream: Stream) -> None:
    for minute, values in found.items():
        assert type(minute) is int
        for label, value in values.items():
            if value is not None:
                assert type(value) is float
                assert math.isfinite(value)
                assert 0 <= value <= LARGEST
            assert len(label.encode()) <= 4 * answers.LONGEST_LABEL
            assert (label == "") == (stream.group is Group.ALL)


@pytest.mark.unmeasured
@given(body=BODIES, stream=STREAMS, zone=st.sampled_from([TOKYO, NEW_YORK, ZoneInfo("UTC")]))
@example(body=b"{[" * 50_000, stream=PLAYS, zone=TOKYO)
@example(body=b'{"a":' * 50_000, stream=PLAYS, zone=TOKYO)
@example(body=b"[" * 900 + b"]" * 900, stream=PLAYS, zone=TOKYO)
def test_any_body_gives_rows_or_the_error(body: bytes, stream: Stream, zone: ZoneInfo) -> None:
    """Any answer gives well-formed rows, or `MalformedAnswer` with one short printable line."""
    found, problem = attempt(lambda: answers.rows(body, stream, zone))
    assert problem.isprintable()
    assert len(problem) < 500
    assert_well_formed(found.rows if found else {}, stream)


@given(body=BODIES)
def test_any_body_gives_a_value_or_the_error(body: bytes) -> None:
    """The other parsers, too, raise nothing but `MalformedAnswer`; an error's text is printable and short."""
    readers: tuple[Callable[[bytes], object], ...] = (answers.media, answers.live_event, answers.token)
    for read in readers:
        _, problem = attempt(partial(read, body))
        assert problem.isprintable()
    text = error_text(body)
    assert text.isprintable()
    assert len(text) <= 200


@given(text=st.text(st.characters()), longest=st.integers(2, 50))
def test_cleaned_texts_fit(text: str, longest: int) -> None:
    """A cleaned text is printable and short enough, and a cut text is marked as cut."""
    line = clean(text, longest)
    assert line.isprintable()
    assert len(line) <= longest
    assert line.endswith("…") or line == " ".join("".join(c if c.isprintable() else " " for c in text).split())


COUNTS = st.dictionaries(
    st.integers(0, 500),
    st.dictionaries(st.sampled_from(["jp", "us", "de", "日本"]), st.integers(0, 10**11)),
    max_size=8,
)


@given(counts=COUNTS, data=st.data())
def test_every_form_of_the_same_numbers_gives_the_same_rows(
    counts: dict[int, dict[str, int]], data: st.DataObject
) -> None:
    """Rows in any order and form, mixed with totals, strings and nulls, give the original numbers."""
    written: list[dict[str, object]] = []
    for offset, values in counts.items():
        local = datetime(2018, 12, 1, 0, 0) + timedelta(minutes=offset)  # noqa: DTZ001 - as the API writes it
        date = local.strftime("%Y/%m/%d %H:%M")
        shown: dict[str, Any] = {
            label: data.draw(st.sampled_from([count, str(count), float(count)])) for label, count in values.items()
        }
        form = data.draw(st.sampled_from(["flat", "nested", "pairs", "rows", "long"]))
        total = {"all": sum(values.values())} if values and form != "long" and data.draw(st.booleans()) else {}
        null = {"fr": None} if form == "flat" and data.draw(st.booleans()) else {}
        if form == "flat":
            written.append({"date": date, **shown, **total, **null})
        elif form == "nested":
            written.append({"date": date, "country": shown, **total})
        elif form == "pairs":
            pairs = [{"value": label, "count": count} for label, count in shown.items()]
            written.append({"date": date, "country": pairs, **total})
        elif form == "rows":
            written += [{"date": date, label: count} for label, count in shown.items()] or [{"date": date}]
        else:
            written += [{"date": date, "country": label, "count": count} for label, count in shown.items()] or [
                {"date": date}
            ]
    written = data.draw(st.permutations(written))
    expected = {MIDNIGHT + offset: values for offset, values in counts.items()}
    assert answers.rows(json.dumps(written).encode(), COUNTRIES, TOKYO).rows == expected


LABELS = st.sampled_from(["25", "50", "4711", "0", "jp", "Player A", "ios"])


@given(
    label=LABELS,
    count=st.integers(0, 999),
    group=st.sampled_from([group for group in Group if group is not Group.ALL]),
    data=st.data(),
)
def test_a_label_value_and_its_count_are_read_or_rejected(
    label: str, count: int, group: Group, data: st.DataObject
) -> None:
    """Whatever the members of a row are called, the label value gets its count, or the row is rejected.

    No label value is created from the name of a member, or from an id beside it.
    """
    written: object = int(label) if label.isdigit() and data.draw(st.booleans()) else label
    # Beside a country's rows "id" is Indonesia.
    names = st.sampled_from(
        [str(group), "name", "value", "label", "key", f"{group}_id", "code", *["id"][: group != Group.COUNTRY]]
    )
    counts = st.sampled_from(["count", "total", "plays", "play_count", "value", "all", "number"])
    pair = {data.draw(names): written, data.draw(counts): count}
    assume(len(pair) == 2)
    more = data.draw(st.sets(names | counts, max_size=1)) - pair.keys()
    pair |= {name: data.draw(st.integers(0, 9)) for name in more}
    items = data.draw(st.permutations(list(pair.items())))
    date = {"date": "2018/12/01 14:34"}
    answer = data.draw(
        st.sampled_from([{**date, **dict(items)}, {**date, str(group): [dict(items)]}, {**date, "x": [dict(items)]}])
    )
    found, _ = attempt(lambda: answers.rows(body([answer]), Stream("m", "", Target.PLAY_COUNT, group), TOKYO))
    for values in found.rows.values() if found else ():
        assert (values, more) == ({label: count}, set())
