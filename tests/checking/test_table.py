"""The tables of `check-config --online`."""

from zoneinfo import ZoneInfo

import wcwidth

from exporter.api.zone_check import Look, ZoneFinding
from exporter.checking.findings import MediaFinding, MerchantFinding
from exporter.checking.table import LONGEST_NAME, describe
from exporter.config.settings import MediaSettings
from exporter.model import minute_of

NOW = 1_750_000_000.0
TOKYO = ZoneInfo("Asia/Tokyo")


def media(media_id: str, name: str, kind: str = "file", plays: float | None = 5.0) -> MediaFinding:
    return MediaFinding(MediaSettings(id=media_id), media_id, name, kind, plays, checked=True)


def test_columns_are_aligned_for_japanese_names() -> None:
    """Each column begins at the same place of a terminal in every line, as wide characters take two columns."""
    names = ["Morning news", "朝のニュース", "ｱﾆﾒ 劇場", "ナイター中継 9/1", "", "👩‍👧 show"]
    found = MerchantFinding("m", [media(f"id{place}", name) for place, name in enumerate(names)])
    lines = describe(found, TOKYO, NOW).splitlines()[2:]
    assert len(lines) == 1 + len(names)
    begins = {
        wcwidth.width(line[: line.index(word)]) for line, word in zip(lines, ["KIND", *["file"] * 6], strict=True)
    }
    ends = {wcwidth.width(line.split("  PROBLEM")[0]) for line in lines}
    assert len(begins) == len(ends) == 1


def test_a_long_name_is_cut() -> None:
    """A name takes at most 40 columns, and never half of a wide character."""
    found = MerchantFinding("m", [media("a", "a" + "長い名前" * 30), media("b", "b" * LONGEST_NAME)])
    *_, cut, whole = describe(found, TOKYO, NOW).splitlines()
    name = cut.removeprefix("a      ").split("  ")[0]
    assert name == "a" + "長い名前" * 4 + "長い名…"
    assert wcwidth.width(name) == LONGEST_NAME
    assert "b" * LONGEST_NAME in whole


def test_a_text_of_the_api_does_not_control_the_terminal() -> None:
    """Line breaks and escape codes in what the API sends are spaces."""
    found = MerchantFinding("m", [media("a", "x\n\x1b[2Jy", kind="fi\rle")], problem="no\x07", ended_by="a\x9bb")
    found.media[0].add_problem("plays", "bad\x1b]0;title\x07")
    text = describe(found, TOKYO, NOW)
    assert all(line.isprintable() for line in text.splitlines())
    assert len(text.splitlines()) == 6
    assert "x [2Jy  fi le" in text


def test_what_was_not_checked_is_counted() -> None:
    """After an early end the table has what is known, and says how many media are missing and why."""
    rest = [MediaFinding(MediaSettings(id="x"), "x", "") for _ in range(3)]
    found = MerchantFinding("m", [media("a", "A", plays=12345.0), *rest], ended_by="the API refused the connection")
    assert describe(found, TOKYO, NOW).splitlines() == [
        "merchant m: 4 media, 1 problem",
        "time zone: not checked",
        "ended early: the API refused the connection",
        "MEDIA  NAME  KIND  PLAYS (1H)  PROBLEM",
        "a      A     file      12,345",
        "3 media not checked",
    ]


def test_a_problem_of_both_requests_is_written_once() -> None:
    """Problems are after the numbers; the same reason of two requests is one."""
    found = MerchantFinding("m", [media("a", "A")], plays=7.0)
    found.media[0].add_problem("catalog", "gone")
    found.media[0].add_problem("plays", "gone")
    found.media[0].add_problem("plays", "wrong")
    first, *_, row = describe(found, TOKYO, NOW).splitlines()
    assert first == "merchant m: 1 media, 7 plays in the last hour, 1 problem"
    assert row == "a      A     file           5  catalog and plays: gone; plays: wrong"


def test_the_time_zone() -> None:
    """One line says whether it fits, is wrong, or is not known, and by what."""
    newest = Look(NOW, minute_of(NOW) - 3)
    lines = {
        "Asia/Tokyo fits: the newest plays are 2m40s old": (ZoneFinding(0.0), newest),
        "not known: the newest plays are 2m40s old; Asia/Tokyo is configured": (ZoneFinding(), newest),
        "not known: there are no plays; Asia/Tokyo is configured": (ZoneFinding(), Look(NOW, None)),
    }
    for expected, (finding, look) in lines.items():
        found = MerchantFinding("m", [], zone=finding, newest=look)
        assert describe(found, TOKYO, NOW).splitlines()[1] == f"time zone: {expected}"
        assert not found.problems
    wrong = MerchantFinding("m", [], zone=ZoneFinding(-3600.0), newest=newest)
    assert "time zone: The time zone is wrong: by api.timezone (Asia/Tokyo)" in describe(wrong, TOKYO, NOW)
    assert wrong.problems == 1
