"""The health, as the page's headline and the JSON show it: a table of states."""

import json
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from exporter.model import MINUTE, Target, end_of, start_of
from exporter.serving.health import clock_problem, media_files_problem
from exporter.serving.page import page
from exporter.serving.schema import CauseKind, Health, Status
from exporter.serving.status import as_json
from exporter.views import (
    IncidentState,
    Judgement,
    MediaView,
    MerchantView,
    ProblemView,
    StreamView,
    Subject,
    Thresholds,
    Verdict,
)
from tests.support.statuses import NOW, THROUGH, built, incident, link, stream_view

ONSET = THROUGH - 14


def media(number: int = 1, **changes: Any) -> MediaView:
    """A media that is judged."""
    given = {"name": f"News {number}", "judgement": Judgement.JUDGED, "thresholds": Thresholds(0.4, 0.6)}
    return MediaView(f"m{number}", **{**given, **changes})


def merchant(*of: MediaView, streams: tuple[StreamView, ...] = (), **changes: Any) -> MerchantView:
    """A merchant without problems."""
    given = {"horizon": THROUGH, "link": link(4), "judgement": Judgement.JUDGED}
    views = streams or tuple(stream_view(each.media_id, Target.PLAY_COUNT, THROUGH, 5) for each in of)
    return MerchantView(
        "acme",
        media=MappingProxyType({each.media_id: each for each in of}),
        streams=MappingProxyType({each.stream: each for each in views}),
        **{**given, **changes},
    )


def dropping(number: int, worst: float, **changes: Any) -> MediaView:
    """A media with an open drop."""
    return media(number, incident=incident(f"m{number}", ONSET, worst, **changes))


BAD, WARNING = Health.BAD, Health.WARNING
UNWRITABLE = ProblemView(Subject.STATE_FILE, "state.db: the disk is full; free some space", NOW - 60, bad=True)
STOPPED = ProblemView(Subject.POLLING, "no heartbeat for 130 s", bad=True)
MEDIA_FILES = media_files_problem(
    {"m": ("a.csv:3: id: is missing; add it, or ref_id", "b"), "n": (), "o": ("b",)}, NOW - 30
)
assert MEDIA_FILES is not None
CLOCK = ProblemView(Subject.CLOCK, clock_problem(-95.0))

# Name -> the merchant, problems of the process, and the cause: health, kind, subject, number, since, message.
STATES: dict[str, tuple[MerchantView, tuple[ProblemView, ...], tuple[Any, ...]]] = {
    "critical drop": (
        merchant(dropping(1, 0.8)),
        (),
        (
            *(BAD, CauseKind.CRITICAL_DROP, "News 1", 0.8, start_of(ONSET)),
            "News 1: 80 % of the expected plays are missing, 720 plays lost so far.",
        ),
    ),
    "warning drop": (
        merchant(dropping(1, 0.5)),
        (),
        (
            *(WARNING, CauseKind.WARNING_DROP, "News 1", 0.5, start_of(ONSET)),
            "News 1: 50 % of the expected plays are missing, 450 plays lost so far.",
        ),
    ),
    "a drop that is not over, though the plays are coming back": (
        merchant(dropping(1, 0.9, ratio=0.1)),
        (),
        (
            *(WARNING, CauseKind.WARNING_DROP, "News 1", 0.1, start_of(ONSET)),
            "News 1: the plays are back, 90 plays lost so far. The incident ends once this lasts 10 minutes.",
        ),
    ),
    "a merchant whose plays are coming back": (
        merchant(media(), incident=incident("", ONSET, 0.9, ratio=0.0)),
        (),
        (
            *(WARNING, CauseKind.MERCHANT_DROP, "acme", 0.0, start_of(ONSET)),
            "All media of acme: the plays are back, 0 plays lost so far. The incident ends once this lasts 10 minutes.",
        ),
    ),
    "a verdict without an incident": (
        merchant(media(verdict=Verdict(THROUGH, 0.7, 40, 9))),
        (),
        (BAD, CauseKind.CRITICAL_DROP, "News 1", 0.7, None, "News 1: 70 % of the expected plays are missing."),
    ),
    "drop of a merchant": (
        merchant(media(), incident=incident("", ONSET, 0.5)),
        (),
        (
            *(BAD, CauseKind.MERCHANT_DROP, "acme", 0.5, start_of(ONSET)),
            "All media of acme: 50 % of the expected plays are missing, 450 plays lost so far.",
        ),
    ),
    "credentials refused": (
        merchant(media(), link=link(4, up=False, refused=True, last_error="auth-token: 401; check the password")),
        (),
        (
            *(BAD, CauseKind.CREDENTIALS, "acme", None, NOW - 2),
            "acme: the API refuses the credentials. auth-token: 401; check the password.",
        ),
    ),
    "API down": (
        merchant(media(), link=link(4, up=False, last_error="503", last_success=NOW - 100)),
        (),
        (BAD, CauseKind.API_DOWN, "acme", None, NOW - 100, "acme: the API is down. 503."),
    ),
    "never a row": (
        merchant(media(), horizon=None),
        (),
        (BAD, CauseKind.NO_ROWS, "acme", None, None, "acme: the API responds, but has not returned a single row yet."),
    ),
    "old rows": (
        merchant(media(), horizon=THROUGH - 23),
        (),
        (
            *(BAD, CauseKind.OLD_ROWS, "acme", 25 * MINUTE, end_of(THROUGH - 23)),
            "acme: no new rows for 25 min. Drops since then are not seen.",
        ),
    ),
    "late rows": (
        merchant(media(), horizon=THROUGH - 13),
        (),
        (
            *(WARNING, CauseKind.OLD_ROWS, "acme", 15 * MINUTE, end_of(THROUGH - 13)),
            "acme: no new rows for 15 min: the API is late, or nothing is played. Drops are not seen yet.",
        ),
    ),
    "state file": (
        merchant(media(), link=link(4, up=False)),
        (UNWRITABLE,),
        (BAD, CauseKind.STATE_FILE, "state file", None, NOW - 60, "state.db: the disk is full; free some space."),
    ),
    "polling": (
        merchant(media()),
        (STOPPED,),
        (BAD, CauseKind.PROCESS, "polling", None, None, "No heartbeat for 130 s."),
    ),
    "time zone": (
        merchant(media(), timezone_error="the newest rows are 9 h in the future: set api.timezone"),
        (),
        (
            *(BAD, CauseKind.TIMEZONE, "acme", None, None),
            "acme: The newest rows are 9 h in the future: set api.timezone.",
        ),
    ),
    "waiting": (
        merchant(media(), horizon=None, link=link(4, up=None)),
        (),
        (WARNING, CauseKind.WAITING, "acme", None, None, "acme: starting. Waiting for the first API response."),
    ),
    "waiting after a full disk": (
        merchant(media(), link=link(4, up=False, blocked=True, last_error="state.db: the disk is full")),
        (),
        (
            *(WARNING, CauseKind.WAITING, "acme", None, NOW - 2),
            "acme: waiting for the first API response since the state file is writable again.",
        ),
    ),
    "gone": (
        merchant(media(gone=True, failing_since=NOW - 900)),
        (),
        (WARNING, CauseKind.GONE, "acme", 1, NOW - 900, "acme: 1 media not found (404): News 1."),
    ),
    "pending": (
        merchant(media(), pending=MappingProxyType({"cup": NOW - 60, "news": NOW - 900})),
        (),
        (
            *(WARNING, CauseKind.PENDING, "acme", 2, NOW - 900),
            "acme: 2 media with ref_id not found in the catalog yet: cup, news.",
        ),
    ),
    "media files": (
        merchant(media()),
        (MEDIA_FILES,),
        (
            *(WARNING, CauseKind.MEDIA_FILES, "media files", None, NOW - 30),
            "Error in a media file: a.csv:3: id: is missing; add it, or ref_id. 1 more in the log.",
        ),
    ),
    "failing": (
        merchant(
            media(failing_streams=2, failing_since=NOW - 50),
            link=link(4, failing=MappingProxyType({"": 1}), failing_since=MappingProxyType({"": NOW - 60})),
        ),
        (),
        (WARNING, CauseKind.FAILING, "acme", 3, NOW - 60, "acme: requests fail for the whole merchant, News 1."),
    ),
    "stale": (
        merchant(media(), streams=(stream_view("m1", Target.PLAY_COUNT, THROUGH - 60, 1),)),
        (),
        (WARNING, CauseKind.STALE, "acme", 1, end_of(THROUGH - 60), "acme: no current data for 1 media: News 1."),
    ),
    "learning": (
        merchant(media(1), *[media(number, judgement=Judgement.LEARNING) for number in (2, 3)]),
        (),
        (
            *(WARNING, CauseKind.LEARNING, "acme", 2, None),
            "acme: 2 of 3 media are still learning. Their drops are not seen yet.",
        ),
    ),
    "rate limited": (
        merchant(media(), link=link(4, up=False, rate_limited=True, budget=22.0)),
        (),
        (
            *(WARNING, CauseKind.RATE_LIMITED, "acme", None, NOW - 2),
            (
                "acme: the API limits the rate (429). The budget is now 22 requests a minute. "
                "Other tools of the merchant share the limit."
            ),
        ),
    ),
    "budget": (
        merchant(media(), link=link(1351)),
        (),
        (
            *(WARNING, CauseKind.BUDGET, "acme", 1351, None),
            "acme: 1351 streams are too many for 45 requests a minute. Quiet media wait longer than 30m.",
        ),
    ),
    "held values": (
        merchant(media(), held_values=2, link=link(4, unusable='row 3: "N/A" is not a number')),
        (),
        (
            *(WARNING, CauseKind.HELD_VALUES, "acme", 2, None),
            'acme: 2 values cannot be used, and are not counted yet (row 3: "N/A" is not a number).',
        ),
    ),
    "clock": (
        merchant(media()),
        (CLOCK,),
        (WARNING, CauseKind.PROCESS, "clock", None, None, clock_problem(-95.0)),
    ),
}


def headline(status: Status) -> str:
    """The headline's part of the page, as text."""
    text = page(status)
    return text[text.index('id="health"') : text.index('id="tiles"')]


@pytest.mark.parametrize("name", STATES)
def test_each_state_has_its_health_and_its_only_cause(name: str) -> None:
    """The status, the JSON and the headline of the page have the health, and the cause with all that is known."""
    of, problems, expected = STATES[name]
    status = built(of, problems=problems)
    [cause] = status.causes
    assert (cause.health, cause.kind, cause.subject, cause.number, cause.since, cause.message) == expected
    assert (status.health, status.summary) == (cause.health, cause.message)
    assert json.loads(as_json(status))["causes"][0]["message"] == cause.message
    assert f"<h1>{status.health.capitalize()}<" in headline(status)
    assert cause.message.replace('"', "&#34;").replace("'", "&#39;") in headline(status)


@pytest.mark.parametrize(
    ("of", "summary"),
    [
        (merchant(media(1), media(2)), "No drops. 2 of 2 media are judged. The newest row is 2 min old."),
        (
            merchant(media(1), media(2, judgement=Judgement.LEARNING)),
            "No drops. 1 of 2 media are judged. The newest row is 2 min old.",
        ),
        (merchant(), "No drops. 1 of 1 merchants are judged. The newest row is 2 min old."),
        (merchant(media(1), horizon=THROUGH - 10), "No drops. 1 of 1 media are judged. The newest row is 12 min old."),
    ],
)
def test_good_says_what_it_is_based_on(of: MerchantView, summary: str) -> None:
    """Without a cause the health is good, and says how many media are judged and how old the newest row is."""
    status = built(of)
    assert (status.health, status.causes, status.summary) == (Health.GOOD, (), summary)
    assert summary in headline(status)


@pytest.mark.parametrize("up", [True, False])
def test_rows_of_more_than_20_minutes_are_bad_whether_the_api_responds_or_not(up: bool) -> None:
    """Also while the API is down: both are causes. After more than two hours the age is in hours."""
    causes = built(merchant(media(), horizon=THROUGH - 180, link=link(4, up=up))).causes
    assert [each.kind for each in causes] == [*[CauseKind.API_DOWN] * (not up), CauseKind.OLD_ROWS]
    assert causes[-1].message == "acme: no new rows for 3 h. Drops since then are not seen."


def test_all_causes_are_told_the_worst_first() -> None:
    """Bad ones first, in a fixed order; of drops the deepest first. The summary has the first, and how many others."""
    drops = (dropping(1, 0.5), dropping(2, 0.7), dropping(3, 0.9), media(4, gone=True))
    refused = link(4, up=False, refused=True, last_error="401")
    status = built(merchant(*drops, link=refused, held_values=1, timezone_error="wrong"), problems=(CLOCK, UNWRITABLE))
    assert [each.kind for each in status.causes] == [
        CauseKind.STATE_FILE,
        CauseKind.CREDENTIALS,
        CauseKind.TIMEZONE,
        CauseKind.CRITICAL_DROP,
        CauseKind.CRITICAL_DROP,
        CauseKind.PROCESS,
        CauseKind.WARNING_DROP,
        CauseKind.GONE,
        CauseKind.HELD_VALUES,
    ]
    assert [each.subject for each in status.causes[3:5]] == ["News 3", "News 2"]
    assert status.summary == "state.db: the disk is full; free some space. 8 more causes."


def test_a_merchants_drop_is_one_cause() -> None:
    """Media whose drop belongs to it are counted in its message; a media's own drop is a cause of its own."""
    along = incident("m1", ONSET, 0.8, with_merchant=True)
    own = incident("m2", ONSET - 30, 0.9)
    over = incident("m3", ONSET - 900, 0.9, with_merchant=True, state=IncidentState.ENDED)
    whole = incident("", ONSET, 0.7)
    views = (media(1, incident=along), media(2, incident=own), media(3))
    causes = built(merchant(*views, incident=whole, incidents=(along, whole, own, over))).causes
    assert [(each.kind, each.media_id) for each in causes] == [
        (CauseKind.MERCHANT_DROP, ""),
        (CauseKind.CRITICAL_DROP, "m2"),
    ]
    assert causes[0].message.endswith(" 1 media dropped with it.")


@pytest.mark.parametrize(
    "of",
    [
        merchant(media(1, thresholds=None, incident=incident("m1", ONSET, 0.9))),
        merchant(media(1), media(2, judgement=Judgement.LEARNING)),
        merchant(*[media(number, judgement=Judgement.OFF, thresholds=None) for number in (1, 2)]),
        merchant(media(), link=link(1350)),
        merchant(media(), streams=(stream_view("m1", Target.KEY_DELIVERY_COUNT, THROUGH - 600, 1),)),
    ],
    ids=["alerts off", "half of the media learn", "nothing is watched", "the budget just suffices", "data by day"],
)
def test_what_is_no_cause(of: MerchantView) -> None:
    """The limits of the causes."""
    assert built(of).health is Health.GOOD


def test_media_files_without_errors_are_no_problem() -> None:
    """Nor are merchants without any."""
    assert media_files_problem({"m": ()}, None) is None
    assert media_files_problem({}, None) is None


def test_what_is_there_from_the_start_has_lasted_since_then() -> None:
    """Where nothing else tells since when, for causes that a restart does not end; a drop has its onset."""
    learning = [media(number, judgement=Judgement.LEARNING) for number in (2, 3)]
    views = (merchant(dropping(1, 0.8), *learning, link=link(9000)), merchant(media(), link=link(1, up=None)))
    since = [(each.kind, each.since) for of in views for each in built(of, started=NOW - 77).causes]
    assert since == [
        (CauseKind.CRITICAL_DROP, start_of(ONSET)),
        (CauseKind.LEARNING, NOW - 77),
        (CauseKind.BUDGET, NOW - 77),
        (CauseKind.WAITING, NOW - 77),
    ]


def test_with_a_wrong_time_zone_no_media_are_said_to_be_stale() -> None:
    """They have data, of other times: the cause is the zone."""
    blind = media(judgement=Judgement.NO_DATA)
    wrong = merchant(blind, timezone_error="the time zone is wrong", timezone_since=NOW - 60)
    assert [(each.kind, each.since) for each in built(wrong).causes] == [(CauseKind.TIMEZONE, NOW - 60)]
    assert [each.kind for each in built(merchant(blind)).causes] == [CauseKind.STALE]


def test_of_many_media_some_are_named() -> None:
    """A message names five, and the number of the others."""
    views = [media(number, gone=True) for number in range(8)]
    [cause] = built(merchant(*views)).causes
    assert cause.message == "acme: 8 media not found (404): News 0, News 1, News 2, News 3, News 4 and 3 more."


def test_each_merchant_has_its_causes() -> None:
    """Each merchant that is down is a cause of its own; the merchants keep their order."""
    others = [replace(merchant(), merchant_id=name, link=replace(link(1, up=False), merchant_id=name)) for name in "ab"]
    status = built(others[0], None, None, None, others[1], merchant())
    assert [each.subject for each in status.causes] == ["a", "b"]
    assert [each.merchant_id for each in status.causes] == ["a", "b"]


def test_many_causes_are_folded() -> None:
    """The headline shows six causes; the others are in a fold, so that they do not push everything else away."""
    text = headline(built(merchant(*[dropping(number, 0.8) for number in range(9)])))
    shown, _, folded = text.partition("<details")

    assert (shown.count("<li "), folded.count("<li ")) == (6, 3)
    assert "<summary>3 more</summary>" in folded
    assert 'href="media?merchant=acme&amp;media=m1"' in text
