"""Drops of hours, with Prometheus and Alertmanager (`tests.support.alerting`): one notification at the beginning, one
at the end, and none between, also when the exporter is restarted or upgraded meanwhile.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from exporter.simulator.catalog import Media
from tests.support.alerting import EVENING, AlertingStack, Notification

pytestmark = pytest.mark.real_time

# Two hours before the peak of the evening.
START = EVENING - 2 * 3600

TOKYO = ZoneInfo("Asia/Tokyo")

MINUTE = 60


@pytest.fixture
def programs(prometheus_bin: Path, alertmanager_bin: Path) -> Mapping[str, Path]:
    return {"prometheus": prometheus_bin, "alertmanager": alertmanager_bin}


def named(alerting: AlertingStack, merchant_id: str, ref_id: str) -> Media:
    return next(media for media in alerting.media[merchant_id] if media.ref_id == ref_id)


def assert_says_since(summary: str, onset: float) -> None:
    """A summary has the onset, in the zone of the API, and how many plays are missing."""
    found = re.search(r"% below expected since (\d\d:\d\d) \(Asia/Tokyo\), about (\d+) plays missing$", summary)
    assert found, summary
    minutes = [datetime.fromtimestamp(onset, UTC) + timedelta(minutes=number) for number in (-1, 0, 1)]
    assert found[1] in {f"{minute.astimezone(TOKYO):%H:%M}" for minute in minutes}, (summary, minutes[1])
    assert int(found[2]) > 0


def assert_one_alert(notifications: list[Notification], name: str) -> None:
    """One notification at the beginning, one at the end, and no other alert."""
    assert [(each.status, each.names) for each in notifications] == [("firing", [name]), ("resolved", [name])]
    assert {each.receiver for each in notifications} == {"pager"}


def test_drops_of_hours_are_one_notification_each(programs: Mapping[str, Path], tmp_path: Path) -> None:
    """Side by side, as all of it takes hours:

    - `one`: a media has a drop to a tenth for three hours.
    - `whole`: all media of a merchant have one for two hours.
    - `slow`: a media that is requested only every five minutes has no plays for three hours.
    - `early` and `late`: a media has a drop for three hours; 20 and 90 minutes after its beginning, the release that
      knows incidents takes the place of one that does not.

    The exporter of the first three is restarted after an hour, and is down for five minutes.
    """
    with AlertingStack(tmp_path, programs, size=12, start=START) as alerting:
        main = alerting.exporter("main", {"one": 7, "whole": 7, "slow": 11})
        early = alerting.exporter("early", {"early": 7})
        late = alerting.exporter("late", {"late": 7})
        alerting.learn()
        # Two of three requests are for the eleven media.
        main.stop()
        main.start({"slow": 3})
        alerting.begin()
        alerting.minutes(10)
        assert alerting.fired(".*") == set()

        dropped = {merchant_id: named(alerting, merchant_id, "anime-003") for merchant_id in ("one", "early", "late")}
        quiet = named(alerting, "slow", "cooking-204")
        outage = dict.fromkeys(alerting.world.catalog("whole"), 0.1)
        drops = {**{media.id: 0.1 for media in dropped.values()}, quiet.id: 0.0}
        onset = alerting.clock.now() // MINUTE * MINUTE + MINUTE
        alerting.switch.set(drop={**drops, **outage})

        def until(minute: int) -> None:
            """Let time pass until so many minutes after the beginning."""
            alerting.minutes_until_time(onset + minute * MINUTE)

        def resolved() -> list[tuple[str | None, list[str]]]:
            return [(each.merchant_id, each.summaries) for each in alerting.notifications(status="resolved")]

        until(20)
        early.stop()
        early.downgrade_state()
        until(25)
        early.start()
        until(60)
        assert resolved() == []
        assert {each.merchant_id for each in alerting.notifications()} == {"one", "whole", "slow", "early", "late"}
        main.stop()
        until(65)
        main.start()
        until(90)
        late.stop()
        late.downgrade_state()
        until(95)
        late.start()
        until(105)
        assert resolved() == []
        until(120)
        alerting.switch.set(drop=drops)
        until(180)
        print([(each.merchant_id, each.status, each.names, each.summaries) for each in alerting.notifications()])
        alerting.switch.set(drop={})
        alerting.minutes_until(
            "nothing fires", lambda: not alerting.prometheus.query('ALERTS{alertname!="SmartstreamMerchantRecovering"}')
        )
        alerting.minutes(25)
        print([(each.merchant_id, each.status, each.names, each.summaries) for each in alerting.notifications()])
        asked = (
            [each.at // 60 for each in alerting.api.journal.requests if quiet.id in str(each.query)]
            if hasattr(alerting.api.journal, "requests")
            else dir(alerting.api.journal)
        )
        print(asked)

        assert_one_alert(alerting.notifications("one"), "SmartstreamPlaysDropCritical")
        of_media = alerting.notifications("one")[0]
        assert of_media.summaries[0].startswith(dropped["one"].name)
        assert_says_since(of_media.summaries[0], onset)
        assert re.match(r"\d+\.\d plays per minute expected, about \d+\.\d counted\.", of_media.descriptions[0])

        assert_one_alert(alerting.notifications("whole"), "SmartstreamMerchantPlaysDrop")
        of_whole = alerting.notifications("whole")[0]
        assert of_whole.summaries[0].startswith("whole: plays of the whole merchant are ")
        assert_says_since(of_whole.summaries[0], onset)

        assert_one_alert(alerting.notifications("slow"), "SmartstreamPlaysDropCritical")
        assert_one_alert(alerting.notifications("early"), "SmartstreamPlaysDropCritical")
