"""From plays, or from a fault, to a notification, with Prometheus and Alertmanager (`tests.support.alerting`)."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.alerting import EXAMPLES, AlertingStack
from tests.support.processes import Alertmanager, reserved_port, wait_until

pytestmark = pytest.mark.real_time


@pytest.fixture
def programs(prometheus_bin: Path, alertmanager_bin: Path) -> Mapping[str, Path]:
    return {"prometheus": prometheus_bin, "alertmanager": alertmanager_bin}


def test_a_drop_alert_names_the_media_and_a_merchant_drop_is_one_alert(
    programs: Mapping[str, Path], tmp_path: Path
) -> None:
    """A drop of 80 % of one media notifies the pager with the media's name, and is resolved when the drop ends. When
    all media of another merchant drop, there is one notification for that merchant, also during and after the recovery.
    """
    with AlertingStack(tmp_path, programs, size=10) as alerting:
        alerting.exporter("exporter", {"one": range(7), "all": range(10)})
        alerting.learn()
        alerting.begin()
        alerting.minutes(2)
        assert alerting.fired(".*") == set()
        media = next(media for media in alerting.media["one"] if media.ref_id == "anime-003")
        alerting.switch.set(drop={media.id: 0.2, **{each.id: 0.1 for each in alerting.media["all"]}})
        alerting.minutes_until(
            "both drops are notified", lambda: {"one", "all"} <= {each.merchant_id for each in alerting.notifications()}
        )
        alerting.minutes(6)
        (of_media,) = alerting.notifications("one")
        assert (of_media.receiver, of_media.status) == ("pager", "firing")
        assert of_media.names == ["SmartstreamPlaysDropCritical"]
        assert re.match(rf"{media.name}: plays are [6-9]\d% below expected", of_media.summaries[0])
        assert media.id in of_media.descriptions[0]
        assert "plays per minute expected" in of_media.descriptions[0]
        # Most media of the merchant have a drop of their own, which is silenced.
        drops = 'count(ALERTS{alertname="SmartstreamPlaysDropCritical", merchant_id="all", alertstate="firing"})'
        assert int(alerting.prometheus.query(drops)[0]["value"][1]) >= 6

        alerting.switch.set(drop={})
        firing = 'ALERTS{alertname!="SmartstreamMerchantRecovering"}'
        alerting.minutes_until("nothing fires", lambda: not alerting.prometheus.query(firing))
        alerting.minutes_until(
            "both drops are resolved",
            lambda: bool(alerting.notifications("one", "resolved") and alerting.notifications("all", "resolved")),
        )
        assert [each.names for each in alerting.notifications("all", "firing")] == [["SmartstreamMerchantPlaysDrop"]]
        assert {name for each in alerting.notifications("all") for name in each.names} == {
            "SmartstreamMerchantPlaysDrop"
        }


def test_an_api_outage_is_one_stale_alert_and_no_drop(programs: Mapping[str, Path], tmp_path: Path) -> None:
    """During 30 minutes without the API and the catch-up after them, there is one notification: data is stale, because
    the API does not respond. No drop alert fires, not even a silenced one.
    """
    with AlertingStack(tmp_path, programs, size=5) as alerting:
        alerting.exporter("exporter", {"one": range(5)})
        alerting.learn()
        alerting.begin()
        alerting.minutes(2)
        alerting.switch.set(error_rate=1.0, error_status=503)
        alerting.minutes(30)
        alerting.switch.set(error_rate=0.0)
        alerting.minutes_until("the alert is resolved", lambda: bool(alerting.notifications(status="resolved")))
        alerting.minutes(6)
        (stale,) = alerting.notifications(status="firing")
        assert stale.receiver == "team"
        assert stale.names == ["SmartstreamDataStale"]
        assert stale.summaries[0].startswith("one: no new rows for ")
        assert "The API does not respond correctly" in stale.descriptions[0]
        assert {name for each in alerting.notifications() for name in each.names} == {"SmartstreamDataStale"}
        assert alerting.fired(".*Drop.*") == set()


def test_faults_of_the_set_up_are_notified(programs: Mapping[str, Path], tmp_path: Path) -> None:
    """A wrong time zone, an account without a row, and a state file that cannot be written are each one notification,
    whatever the job is called. Then all exporters are down: that is notified, too.
    """
    with AlertingStack(tmp_path, programs, size=5) as alerting:
        exporters = [
            alerting.exporter("zone", {"zone": range(2)}, timezone="UTC"),
            alerting.exporter("empty", {"empty": range(2)}, url=alerting.empty_api()),
            alerting.exporter("disk", {"disk": range(2)}),
        ]
        alerting.learn()
        alerting.begin()
        alerting.minutes(1)
        exporters[-1].make_state_unwritable()
        expected = {"SmartstreamTimezoneWrong", "SmartstreamDataStale", "SmartstreamStateNotWritable"}
        alerting.minutes_until("all are notified", lambda: all(map(alerting.notified, expected)))
        alerting.minutes(2)
        assert alerting.fired("SmartstreamExporterDown") == set()

        (zone,) = alerting.notifications("zone")
        assert (zone.receiver, zone.names) == ("pager", ["SmartstreamTimezoneWrong"])
        assert zone.summaries == ["zone: api.timezone is wrong, the data is 9h 0m 0s in the future"]
        assert "do not fit the configured time zone UTC" in zone.descriptions[0]
        (empty,) = alerting.notifications("empty")
        assert (empty.receiver, empty.names) == ("team", ["SmartstreamDataStale"])
        assert empty.summaries == ["empty: the API has not shown a single row"]
        assert "The API responds, but returns no rows" in empty.descriptions[0]
        (disk,) = alerting.notified("SmartstreamStateNotWritable")
        assert disk.receiver == "pager"
        assert disk.summaries == [f"127.0.0.1:{exporters[-1].port}: the state file cannot be written"]

        for exporter in exporters:
            exporter.stop()
        alerting.minutes_until("the exporters are down", lambda: bool(alerting.notified("SmartstreamExporterDown")))
        down = alerting.notified("SmartstreamExporterDown")[-1]
        assert down.receiver == "pager"
        assert f"127.0.0.1:{exporters[0].port}: the exporter cannot be scraped" in down.summaries


def alert(name: str, **labels: str) -> dict[str, Any]:
    """An alert as Prometheus posts it."""
    return {"labels": {"alertname": f"Smartstream{name}", **labels}}


OF_M = {"merchant_id": "m"}
OF_V = {**OF_M, "media_id": "v"}


@pytest.mark.parametrize(
    ("source", "silenced", "notified"),
    [
        pytest.param(
            alert("ExporterDown", job="smartstream", instance="x"),
            [alert("PlaysDrop", **OF_V), alert("MerchantPlaysDrop", **OF_M), alert("DataStale", **OF_M)],
            [],
            id="a dead exporter silences all",
        ),
        pytest.param(
            alert("ExporterDown", job="smartstream", instance="x", others="up"),
            [],
            [alert("PlaysDrop", **OF_V), alert("DataStale", **OF_M)],
            id="one of several silences nothing",
        ),
        pytest.param(
            alert("ExporterDown", others="none"),
            [],
            [alert("PlaysDrop", **OF_V), alert("DataStale", **OF_M)],
            id="a metric that is missing silences nothing",
        ),
        pytest.param(
            alert("TimezoneWrong", **OF_M),
            [alert("DataStale", **OF_M), alert("MediaNotJudged", **OF_V)],
            [alert("DataStale", merchant_id="n"), alert("PlaysDrop", **OF_V)],
            id="a wrong zone explains old rows",
        ),
        pytest.param(
            alert("MediaGone", **OF_V),
            [alert("MediaNotJudged", **OF_V)],
            [alert("MediaNotJudged", merchant_id="m", media_id="w")],
            id="a media that is gone cannot be judged",
        ),
        pytest.param(
            alert("MerchantPlaysDrop", **OF_M),
            [alert("PlaysDrop", **OF_V), alert("PlaysDropCritical", **OF_V)],
            [alert("PlaysDropCritical", merchant_id="n", media_id="v"), alert("DataStale", **OF_M)],
            id="a merchant silences its own media",
        ),
        pytest.param(
            alert("MerchantRecovering", **OF_M),
            [alert("PlaysDrop", **OF_V), alert("PlaysDropCritical", **OF_V)],
            [alert("PlaysDrop", merchant_id="n", media_id="v"), alert("MerchantPlaysDrop", **OF_M)],
            id="and for a while after its own drop",
        ),
        pytest.param(
            alert("PlaysDropCritical", **OF_V),
            [alert("PlaysDrop", **OF_V)],
            [alert("PlaysDrop", merchant_id="m", media_id="w"), alert("PlaysDrop", merchant_id="n", media_id="v")],
            id="critical silences the warning of the same media",
        ),
        pytest.param(
            alert("AuthFailing", **OF_M),
            [alert("DataStale", **OF_M), alert("ApiFailing", **OF_M)],
            [alert("DataStale", merchant_id="n"), alert("PlaysDrop", **OF_V)],
            id="refused accounts explain what does not come",
        ),
        pytest.param(
            alert("DataStale", **OF_M),
            [alert("ApiFailing", **OF_M)],
            [alert("ApiFailing", merchant_id="n"), alert("PlaysDropCritical", **OF_V)],
            id="stale data says whether the API answers",
        ),
        pytest.param(
            alert("RateLimited", **OF_M),
            [alert("BudgetTooSmall", **OF_M)],
            [alert("BudgetTooSmall", merchant_id="n")],
            id="refused requests make the budget small",
        ),
    ],
)
def test_alerts_silence_only_what_they_explain(
    alertmanager_bin: Path,
    tmp_path: Path,
    source: Mapping[str, Any],
    silenced: Sequence[Mapping[str, Any]],
    notified: Sequence[Mapping[str, Any]],
) -> None:
    """With the example configuration, an alert silences the alerts that it explains, and no others."""
    config = yaml.safe_load((EXAMPLES / "alertmanager.yml").read_text())
    with reserved_port() as port, Alertmanager(alertmanager_bin, tmp_path, port, config) as alertmanager:
        alertmanager.post([source, *silenced, *notified])

        def states() -> dict[str, str]:
            return {str(sorted(each["labels"].items())): each["status"]["state"] for each in alertmanager.alerts()}

        expected = {str(sorted(each["labels"].items())): "active" for each in [source, *notified]}
        expected |= {str(sorted(each["labels"].items())): "suppressed" for each in silenced}
        wait_until("Alertmanager has the expected states", lambda: states() == expected)
