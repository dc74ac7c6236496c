"""Drops of hours, with Prometheus and Alertmanager (`tests.support.alerting`): one notification at the beginning, one
at the end, and none between, also when the exporter is restarted or upgraded meanwhile.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from statistics import median
from zoneinfo import ZoneInfo

import pytest

from exporter.simulator.catalog import Media
from tests.support.alerting import EVENING, AlertingStack, Notification

pytestmark = pytest.mark.real_time

# Two hours before the peak of the evening.
START = EVENING - 2 * 3600

# The places of three files in the catalog; "anime-003" is the last.
FEW = (0, 4, 6)

TOKYO = ZoneInfo("Asia/Tokyo")

MINUTE = 60


@pytest.fixture
def programs(prometheus_bin: Path, alertmanager_bin: Path) -> Mapping[str, Path]:
    return {"prometheus": prometheus_bin, "alertmanager": alertmanager_bin}


def media_of(alerting: AlertingStack, merchant_id: str, ref_id: str) -> Media:
    return next(media for media in alerting.media[merchant_id] if media.ref_id == ref_id)


def assert_says_since(summary: str, onset: float) -> None:
    """A summary has the onset, in the zone of the API, and how many plays are missing."""
    found = re.search(r"% below expected since (\d\d:\d\d) \(Asia/Tokyo\), about (\d+) plays missing$", summary)
    assert found, summary
    minutes = [datetime.fromtimestamp(onset, UTC) + timedelta(minutes=number) for number in (-1, 0, 1)]
    assert found[1] in {f"{minute.astimezone(TOKYO):%H:%M}" for minute in minutes}, (summary, minutes[1])
    assert int(found[2]) > 0


def assert_one_alert(notifications: Sequence[Notification], name: str) -> None:
    """One notification at the beginning, one at the end, and no other alert."""
    assert [(each.status, each.names) for each in notifications] == [("firing", [name]), ("resolved", [name])]
    assert {each.receiver for each in notifications} == {"pager"}


def test_drops_of_hours_are_one_notification_each(programs: Mapping[str, Path], tmp_path: Path) -> None:
    """Drops of hours are notified once when they begin and once when the plays are back.

    Side by side, as all of it takes hours:

    - `one`: a media has a drop to a tenth for three hours.
    - `whole`: all media of a merchant have one for two hours.
    - `slow`: a media that is requested only every few minutes has no plays for three hours.
    - `early` and `late`: a media has a drop to a tenth for three hours. 20 and 90 minutes after its beginning, this
      release takes the place of the one before, whose state file has no incidents.

    The exporter of the first three is restarted after an hour. Each restart takes three minutes: on a slow
    machine a few more, and after five the alert on an exporter that is down fires.

    After the early upgrade the drop is found again in the plays of the hour before, with the same onset, so the alert
    goes on. After the late one it is not: the plays of a whole hour are low, and what was expected before is forgotten.
    The alert lasts for the 10 minutes of `keep_firing_for`, then it is resolved, as it was by the release before after
    an hour of any drop.
    """
    with AlertingStack(tmp_path, programs, size=10, start=START) as alerting:
        main = alerting.exporter("main", {"one": FEW, "whole": [*FEW, 1, 9], "slow": range(10)})
        early = alerting.exporter("early", {"early": FEW})
        late = alerting.exporter("late", {"late": FEW})
        alerting.learn()
        # Of four requests in a minute, three are for the ten media, and most of them for the media with most plays.
        main.stop()
        main.start({"slow": 4})
        alerting.begin()
        alerting.minutes(10)
        assert alerting.fired(".*") == set()

        dropped = {
            merchant_id: media_of(alerting, merchant_id, "anime-003") for merchant_id in ("one", "early", "late")
        }
        quiet = media_of(alerting, "slow", "cooking-204")
        drops = {**{media.id: 0.1 for media in dropped.values()}, quiet.id: 0.0}
        onset = alerting.clock.now() // MINUTE * MINUTE + MINUTE
        alerting.switch.set(drop={**drops, **dict.fromkeys(alerting.world.catalog("whole"), 0.1)})

        def until(minute: int) -> None:
            """Let time pass until so many minutes after the beginning."""
            alerting.minutes_until_time(onset + minute * MINUTE)

        def resolved() -> set[str | None]:
            return {each.merchant_id for each in alerting.notifications(status="resolved")}

        until(20)
        early.stop()
        early.downgrade_state()
        until(23)
        early.start()
        until(60)
        main.stop()
        until(63)
        main.start()
        until(90)
        assert resolved() == set()
        late.stop()
        late.downgrade_state()
        until(93)
        late.start()
        # At once it is not resolved.
        until(96)
        assert resolved() == set()
        until(120)
        assert resolved() == {"late"}
        alerting.switch.set(drop=drops)
        until(180)
        assert resolved() == {"late", "whole"}
        alerting.switch.set(drop={})
        alerting.minutes_until("all are resolved", lambda: resolved() == {"one", "whole", "slow", "early", "late"})
        # Nothing comes after the time in which the alerts of single media are inhibited.
        alerting.minutes(20)
        asked = [
            each.at // MINUTE
            for each in alerting.api.journal.newest()
            if onset <= each.at < onset + 180 * MINUTE and f"media_id={quiet.id}" in each.query
        ]

        for merchant_id in ("one", "slow", "early", "late"):
            assert_one_alert(alerting.notifications(merchant_id), "SmartstreamPlaysDropCritical")
        assert_one_alert(alerting.notifications("whole"), "SmartstreamMerchantPlaysDrop")
        assert {each.receiver for each in alerting.notifications()} == {"pager"}
        (of_media, _), (of_whole, _) = alerting.notifications("one"), alerting.notifications("whole")
        assert of_media.summaries[0].startswith(f"{dropped['one'].name}: plays are ")
        assert of_whole.summaries[0].startswith("whole: plays of the whole merchant are ")
        for each in (of_media, of_whole):
            assert_says_since(each.summaries[0], onset)
            assert re.match(r"\d+\.\d plays per minute expected, about \d+\.\d counted\. ", each.descriptions[0])
        # That media really was requested rarely.
        assert median(later - earlier for earlier, later in pairwise(asked)) >= 4
