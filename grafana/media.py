"""The dashboard of one media."""

from grafana_foundation_sdk.builders import dashboard

from exporter.config.settings import DEFAULT_THRESHOLDS
from grafana import fields, pages, parts, queries
from grafana.fields import AGE_STEPS, BLUE, GREEN, GREY, ORANGE, RED, value
from grafana.overview import DROP_STEPS, NO_EXPECTATION, SINCE
from grafana.parts import ONE_MINUTE, now, query, rows
from grafana.queries import MEDIA

JUDGED = {1.0: ("yes", GREEN), 0.0: ("not yet", ORANGE)}
RUNNING = {1.0: ("running", GREEN), 0.0: ("not running", GREY)}


def build() -> dashboard.Dashboard:
    """The dashboard."""
    page = pages.page(
        "media", "Media", "One media: plays compared with expected plays, drops, devices, play time and groups."
    )
    page.with_variable(pages.merchant_variable()).with_variable(pages.media_variable())
    page.with_variable(pages.interval_variable())
    page.annotation(pages.drop_annotations(MEDIA))
    for panel in _numbers():
        page.with_panel(panel)
    page.with_panel(_plays()).with_panel(_drop())
    page.with_panel(_live())
    page.with_row(dashboard.Row("Viewers and play time"))
    for chart in _watching():
        page.with_panel(chart)
    page.with_row(dashboard.Row("Plays by group"))
    for split in _splits():
        page.with_panel(split)
    page.with_row(dashboard.Row("Data age and DRM keys"))
    return page.with_panel(_ages()).with_panel(_keys())


def _numbers() -> list[parts.Panel]:
    age = f"time() - max(smartstream_data_timestamp_seconds{{{MEDIA}, {queries.PLAYS_STREAM}}})"
    return [
        parts.number(
            "Plays per minute",
            "Plays in the newest settled minute of this media.",
            now(f"max(smartstream_last_minute_plays{{{MEDIA}}})"),
            width=4,
        ),
        parts.number(
            "Plays / expected",
            "Plays divided by the plays that the drop detector expects, both averaged over the selected window.",
            now(f"max({queries.against_expected('', MEDIA)})"),
            unit="percentunit",
            steps=DROP_STEPS,
            empty="not known",
            width=4,
        ),
        parts.number(
            "Drop",
            "Share of the expected plays that is missing; during a drop, of those expected before it. 0 if the "
            "difference can be random. No data while the data is not fresh, and for a live media without a running "
            "event. Colours show the default thresholds; the charts below show the thresholds of this media.",
            now(f"max(smartstream_plays_drop_ratio{{{MEDIA}}})"),
            unit="percentunit",
            steps=((None, GREEN), (DEFAULT_THRESHOLDS.warning, ORANGE), (DEFAULT_THRESHOLDS.critical, RED)),
            empty="no data",
            width=4,
        ),
        parts.number(
            "Plays in the time range",
            SINCE,
            now(f"sum({queries.grown('smartstream_plays_total', MEDIA)})"),
            width=4,
        ),
        parts.number(
            "Live event",
            "Whether a live event of this media is running.",
            now(f"max(smartstream_live_event_running{{{MEDIA}}})"),
            texts=RUNNING,
            empty="no event",
            width=4,
        ),
        parts.number(
            "Age of the data",
            "Age of the newest counted minute of plays. A quiet media is fetched every few minutes, so the age rises "
            "to `max_staleness` and falls again.",
            now(age),
            unit="s",
            steps=AGE_STEPS,
            width=4,
        ),
        parts.number(
            "Judged",
            "Whether the drop detector can judge this media. If not, it still learns, or data is missing, and a drop "
            "causes no alert.",
            now(f"max(smartstream_plays_drop_judged{{{MEDIA}}})"),
            texts=JUDGED,
            empty="no drop alerts",
            width=6,
        ),
        *parts.since_drop("", MEDIA, width=6),
    ]


def _plays() -> parts.Panel:
    expected = f"max by (merchant_id, media_id) ({queries.mean('smartstream_last_minute_expected_plays', MEDIA)})"

    def below(severity: str) -> str:
        threshold = f'smartstream_drop_threshold_ratio{{{MEDIA}, severity="{severity}"}}'
        return f"{expected} * on (merchant_id, media_id) (1 - {threshold})"

    panel = parts.graph(
        "Plays and expected plays per minute",
        f"{ONE_MINUTE} The band reaches from the expected plays to the warning threshold. Below the red line, a drop "
        "is critical. A drop also needs evidence that it is not random, so a short dip of a quiet media is no drop.",
        query(f"max({queries.mean('smartstream_last_minute_plays', MEDIA)})", "Plays"),
        query(f"max({expected})", "Expected"),
        query(below("warning"), "Warning below"),
        query(below("critical"), "Critical below"),
        size=(16, 10),
    )
    panel.override_by_name("Plays", [fields.coloured(BLUE), value("custom.lineWidth", 2)])
    band = [value("custom.fillBelowTo", "Warning below"), value("custom.fillOpacity", 12)]
    panel.override_by_name("Expected", [*fields.dashed(GREY), *band])
    panel.override_by_name("Warning below", fields.dashed(ORANGE))
    return panel.override_by_name("Critical below", fields.dashed(RED))


def _drop() -> parts.Panel:
    threshold = f"smartstream_drop_threshold_ratio{{{MEDIA}}}"
    panel = parts.graph(
        "Drop ratio and evidence",
        "Ratio: share of the expected plays that is missing, 0 if the difference can be random. The dashed lines are "
        "the alert thresholds. Evidence (right axis): log-likelihood ratio that the difference is not random; a drop "
        "needs more than 9, and more than 7 if it has lasted for ten minutes. No data while the data is not fresh.",
        query(f"max(smartstream_plays_drop_ratio{{{MEDIA}}})", "Drop ratio"),
        query(f"max by (severity) ({threshold})", "{{severity}}"),
        query(f"max(smartstream_plays_drop_evidence{{{MEDIA}}})", "Evidence"),
        unit="percentunit",
        size=(8, 10),
        empty=NO_EXPECTATION,
    )
    panel.max(1).override_by_name("Drop ratio", [fields.coloured(BLUE), value("custom.fillOpacity", 25)])
    panel.override_by_name("warning", fields.dashed(ORANGE)).override_by_name("critical", fields.dashed(RED))
    right = [value("unit", "short"), value("custom.axisPlacement", "right"), value("custom.axisLabel", "evidence")]
    return panel.override_by_name("Evidence", [*right, value("max", None), fields.coloured(GREY)])


def _live() -> parts.Panel:
    return parts.states(
        "Live event running",
        "State of the live event in the API, fetched once per minute while it runs. Without a running event, a live "
        "media has no drop.",
        query(f"max(smartstream_live_event_running{{{MEDIA}}})", "Live event"),
        texts=RUNNING,
        size=(24, 3),
        empty="This media has no live event",
    )


def _watching() -> list[parts.Panel]:
    per_minute = (
        "Unique within each minute, so sums over minutes have no meaning. Each point is the average of the window."
    )
    displays = [
        query(f"max({queries.mean('smartstream_last_minute_player_displays', MEDIA)})", "Player displays"),
        query(f"max({queries.mean('smartstream_last_minute_plays', MEDIA)})", "Plays"),
    ]
    return [
        parts.graph(
            "Devices and sessions",
            per_minute,
            query(f"max({queries.mean('smartstream_last_minute_devices', MEDIA)})", "Devices"),
            query(f"max({queries.mean('smartstream_last_minute_sessions', MEDIA)})", "Sessions"),
            size=(6, 8),
            empty="Not collected: add device_count or session_count to `collect`",
        ),
        parts.graph(
            "Average play time",
            "The API's average for each minute. Sums of averages have no meaning.",
            query(f"max({queries.mean('smartstream_last_minute_average_play_time_seconds', MEDIA)})", "Average"),
            unit="dthms",
            size=(6, 8),
            empty="Not collected: add average_play_time to `collect`",
        ),
        parts.graph(
            "Concurrent viewers",
            "Approximate number of viewers: seconds played in a minute, divided by 60.",
            query(f"max({queries.mean('smartstream_last_minute_play_time_seconds', MEDIA)}) / 60", "Viewers"),
            size=(6, 8),
            empty="Not collected: add play_time to `collect`",
        ),
        parts.graph(
            "Player displays and plays",
            "How often a player was displayed, and how often a viewer started it. " + ONE_MINUTE,
            *displays,
            size=(6, 8),
            empty="Not collected: add player_count to `collect`",
        ),
    ]


def _splits() -> list[parts.Panel]:
    def collected(group: str) -> str:
        return f"Not collected: add the group {group} to play_count"

    def shares(group: str) -> str:
        return queries.split(group, media=True)

    size = (8, 8)
    completion = (
        f"Plays by the watched percentage of the media's length, in the API's groups. {SINCE}",
        now(shares("percentage"), "{{percentage}} %"),
    )
    return [
        parts.bars(
            "Countries",
            SINCE,
            now(f"topk(6, {shares('country')})", "{{country}}"),
            empty=collected("country"),
            size=size,
        ),
        parts.bars("Devices", SINCE, now(shares("device"), "{{device}}"), empty=collected("device"), size=size),
        parts.bars("Operating systems", SINCE, now(shares("os"), "{{os}}"), empty=collected("os"), size=size),
        parts.bars("Sites", SINCE, now(shares("site"), "{{site}}"), empty=collected("site"), size=size),
        parts.bars("Players", SINCE, now(shares("player"), "{{player}}"), empty=collected("player"), size=size),
        parts.bars("Watched percentage", *completion, empty=collected("percentage"), size=size),
    ]


def _ages() -> parts.Panel:
    age = f"time() - smartstream_data_timestamp_seconds{{{MEDIA}}}"
    panel = parts.grid(
        "Age of the data by stream",
        "Age of the newest counted minute of each stream. Streams with less weight are fetched less often. DRM keys "
        "are counted per day.",
        rows(f"max by (target, group) ({age})"),
        columns={"target": "Target", "group": "Group", "Value": "Age of the data"},
        sort=["Age of the data"],
        size=(12, 10),
        empty="No data received yet",
    )
    return panel.override_by_name("Value", fields.aged())


def _keys() -> parts.Panel:
    keys = f"sum(increase(smartstream_key_deliveries_total{{{MEDIA}}}[1d]))"
    panel = parts.graph(
        "DRM keys in the last 24 hours",
        "DRM keys delivered in the last 24 hours. The API has values per day only, so the counter grows when the value "
        "of the day grows.",
        query(keys, "Keys"),
        size=(12, 10),
        empty="Not collected, or this media has no DRM",
    )
    return panel.span_nulls(True)
