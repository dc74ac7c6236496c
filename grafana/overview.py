"""The overview dashboard: plays of one merchant compared with expected plays."""

from grafana_foundation_sdk.builders import common, dashboard, geomap
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import geomap as geomap_models

from exporter.views import MERCHANT_THRESHOLD
from grafana import fields, pages, parts, queries
from grafana.fields import AGE_STEPS, BLUE, GREEN, GREY, ORANGE, RED, value
from grafana.parts import CATCH_UP, ONE_MINUTE, now, query, rows
from grafana.queries import MERCHANT

DROP_STEPS = ((None, RED), (0.6, ORANGE), (0.8, GREEN))
SINCE = "Counted over the selected time range. " + CATCH_UP
NO_EXPECTATION = "No data: the drop detector has no fresh data, or too little history"
DROP_TEXTS = {0.0: ("none", GREEN), 1.0: ("warning", ORANGE), 2.0: ("critical", RED)}


def build() -> dashboard.Dashboard:
    """The dashboard."""
    page = pages.page("overview", "Overview", "Plays of one merchant, compared with expected plays.")
    page.with_variable(pages.merchant_variable()).with_variable(pages.interval_variable())
    page.annotation(pages.drop_annotations(MERCHANT))
    for panel in _numbers():
        page.with_panel(panel)
    page.with_panel(_plays()).with_panel(_alerts())
    page.with_panel(_media())
    page.with_panel(_top()).with_panel(_played()).with_panel(_devices())
    page.with_row(dashboard.Row("Countries, devices and players"))
    page.with_panel(_map())
    for panel in _splits():
        page.with_panel(panel)
    return page


def _numbers() -> list[parts.Panel]:
    drops = f"sum({queries.drop_state(MERCHANT)} > bool 0)"
    age = f"time() - max(smartstream_merchant_horizon_timestamp_seconds{{{MERCHANT}}})"
    plays = f"max(smartstream_merchant_last_minute_plays{{{MERCHANT}}})"
    watched = "smartstream_merchant_play_time_seconds_total", "smartstream_merchant_plays_total"
    mean_time = " / ".join(f"sum({queries.grown(counter, MERCHANT)})" for counter in watched)
    return [
        parts.number(
            "Plays per minute",
            "Plays of the whole merchant in the newest settled minute, two to four minutes ago.",
            now(plays),
            width=4,
        ),
        parts.number(
            "Plays / expected",
            "Plays divided by the plays that the drop detector expects, both averaged over the selected window.",
            now(f"max({queries.against_expected('merchant_', MERCHANT)})"),
            unit="percentunit",
            steps=DROP_STEPS,
            empty="not known",
            width=4,
        ),
        parts.number(
            "Merchant drop",
            "Share of the merchant's expected plays that is missing, while media with most of its plays have a drop. "
            f"0 if the difference can be random. Above {MERCHANT_THRESHOLD:.0%}, an alert for the merchant fires and "
            "inhibits the alerts of its media.",
            now(f"max(smartstream_merchant_plays_drop_ratio{{{MERCHANT}}})"),
            unit="percentunit",
            steps=((None, GREEN), (MERCHANT_THRESHOLD, RED)),
            empty="no data",
            width=4,
        ),
        *parts.since_drop("merchant_", MERCHANT, width=4),
        parts.number(
            "Media with a drop",
            "Media whose drop ratio is above their threshold now. The alert fires after two minutes.",
            now(drops),
            steps=((None, GREEN), (1, ORANGE)),
            empty="not known",
            width=4,
        ),
        parts.number(
            "Media judged",
            "Share of the media that the drop detector can judge. The others still learn, or their data is missing: a "
            "drop of them causes no alert.",
            now(f"avg(max by (media_id) (smartstream_plays_drop_judged{{{MERCHANT}}}))"),
            unit="percentunit",
            steps=((None, ORANGE), (0.9, GREEN)),
            empty="no drop alerts",
            width=4,
        ),
        parts.number(
            "Plays in the time range",
            SINCE,
            now(f"sum({queries.grown('smartstream_merchant_plays_total', MERCHANT)})"),
            width=4,
        ),
        parts.number(
            "Play time per play",
            "Seconds played divided by plays, over the selected time range.",
            now(mean_time),
            unit="s",
            empty="not collected",
            width=4,
        ),
        parts.number(
            "Live now",
            "Media with a running live event.",
            now(f"sum(smartstream_live_event_running{{{MERCHANT}}})"),
            empty="no live media",
            width=4,
        ),
        parts.number(
            "Age of the data",
            "Age of the newest row from the API. Two to four minutes are normal. If it grows, the API's data is late, "
            "and all other panels are equally late.",
            now(age),
            unit="s",
            steps=AGE_STEPS,
            width=4,
        ),
    ]


def _plays() -> parts.Panel:
    of_merchant = queries.mean("smartstream_merchant_last_minute_plays", MERCHANT)
    expected = queries.mean("smartstream_merchant_last_minute_expected_plays", MERCHANT)
    threshold = f'smartstream_merchant_drop_threshold_ratio{{{MERCHANT}, severity="critical"}}'
    below = f"max({expected}) * (1 - max({threshold}))"
    panel = parts.graph(
        "Plays and expected plays per minute",
        f"All plays of the merchant. {ONE_MINUTE} A gap is an outage of the exporter or of the API: its plays are "
        "added to the counters later. Below the red line, they are a drop if it is not random. The red marks are drop "
        "alerts.",
        query(f"max({of_merchant})", "Plays"),
        query(f"max({expected})", "Expected"),
        query(below, "Critical below"),
        size=(16, 9),
    )
    panel.override_by_name("Plays", [fields.coloured(BLUE), value("custom.lineWidth", 2)])
    panel.override_by_name("Critical below", fields.dashed(RED))
    return panel.override_by_name("Expected", fields.dashed(GREY))


def _alerts() -> parts.Panel:
    alerts = f'ALERTS{{alertname=~"{queries.DROP_ALERTS}", {MERCHANT}}}'
    of_media = f'{alerts.removesuffix("}")}, media_id!=""}} * on (merchant_id, media_id) group_left (name) '
    all_alerts = f'{of_media}{queries.names(MERCHANT)} or {alerts.removesuffix("}")}, media_id=""}}'
    panel = parts.grid(
        "Drop alerts",
        "Firing and pending drop alerts. A drop alert is pending for two minutes. A row without a media is the alert "
        "of the whole merchant.",
        rows(f"max by (alertname, alertstate, name, media_id) ({all_alerts})"),
        columns={"name": "Media", "alertname": "Alert", "alertstate": "State", "media_id": "media_id"},
        hidden=["media_id"],
        sort=["State"],
        size=(8, 9),
        empty="No drop alert",
    )
    panel.override_by_name("name", [_to_media()]).override_by_name("alertname", [value("custom.width", 230)])
    return panel.override_by_name("alertstate", [value("custom.width", 80)])


def _media() -> parts.Panel:
    plays = f"smartstream_last_minute_plays{{{MERCHANT}}}"
    counted = queries.grown("smartstream_plays_total", MERCHANT)
    against = queries.against_expected("", MERCHANT)
    age = f"time() - smartstream_data_timestamp_seconds{{{MERCHANT}, {queries.PLAYS_STREAM}}}"

    def while_dropped(factor: str, metric: str) -> str:
        """The metric of each media with an open drop, 0 for the others."""
        known = f"0 * max by (media_id) (smartstream_media_info{{{MERCHANT}}})"
        return f"{factor}max by (media_id) ({metric}{{{MERCHANT}}}) or {known}"

    panel = parts.grid(
        "Media",
        "All media, those with a drop first, then by plays. Plays per minute are of the newest settled minute of each "
        f"media. Plays and shares: {SINCE} A quiet media is fetched every few minutes, so its data is older and its "
        "counter grows in steps. No plays are lost.",
        rows(f"max by (media_id, name) ({queries.names(MERCHANT)})"),
        rows(f"max by (media_id) ({plays})"),
        rows(f"sum by (media_id) ({counted})"),
        rows(f"sum by (media_id) ({counted}) / on () group_left () (sum({counted}) > 0)"),
        rows(f"max by (media_id) (smartstream_last_minute_expected_plays{{{MERCHANT}}})"),
        rows(f"max by (media_id) ({against})"),
        rows(f"max by (media_id) ({queries.drop_state(MERCHANT)})"),
        rows(f"max by (media_id) ({age})"),
        rows(while_dropped("1000 * ", "smartstream_plays_drop_onset_timestamp_seconds")),
        rows(while_dropped("", "smartstream_plays_lost")),
        columns={
            "name": "Media",
            "Value #B": "Plays per minute",
            "Value #E": "Expected",
            "Value #F": "Plays / expected",
            "Value #G": "Drop",
            "Value #I": "Drop since",
            "Value #J": "Plays missing",
            "Value #C": "Plays",
            "Value #D": "Share",
            "Value #H": "Age of the data",
            "media_id": "media_id",
        },
        hidden=["media_id"],
        sort=["Drop", "Plays per minute"],
        size=(24, 13),
        empty="No media. Does Prometheus scrape the exporter?",
    )
    bar = value("custom.cellOptions", {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"})
    share = [
        value("unit", "percentunit"),
        value("min", 0),
        value("max", 1),
        value("decimals", 1),
        bar,
        fields.coloured(BLUE),
    ]
    panel.override_by_name("name", [_to_media(), value("custom.minWidth", 260)])
    panel.override_by_name("Value #D", share)
    panel.override_by_name("Value #E", [value("decimals", 1)])
    panel.override_by_name("Value #C", [value("decimals", 0)])
    no_drop = value("mappings", [fields.mapping({0.0: ("–", GREY)}), fields.NOTHING])
    panel.override_by_name("Value #I", [value("unit", "dateTimeAsIsoNoDateIfToday"), no_drop])
    panel.override_by_name("Value #J", [value("decimals", 0), no_drop])
    panel.override_by_name(
        "Value #F",
        [value("unit", "percentunit"), value("decimals", 0), fields.COLOURED_TEXT, fields.stepped(DROP_STEPS)],
    )
    panel.override_by_name(
        "Value #G", [value("mappings", [fields.mapping(DROP_TEXTS), fields.NOTHING]), fields.COLOURED_TEXT]
    )
    return panel.override_by_name("Value #H", fields.aged())


def _to_media() -> models.DynamicConfigValue:
    """A link from a cell to the dashboard of the row's media."""
    variables = "var-datasource=${datasource}&var-merchant=${merchant}&var-media=${__data.fields.media_id}"
    url = f"/d/{pages.UIDS['media']}?{variables}&${{__url_time_range}}"
    return value("links", [{"title": "Open the dashboard of this media", "url": url}])


def _top() -> parts.Panel:
    counted = f"increase(smartstream_plays_total{{{MERCHANT}}}[$__range] @ end())"
    busiest = f"topk(10, sum by (merchant_id, media_id) ({counted}) > 0)"
    plays = f"max by (merchant_id, media_id) ({queries.mean('smartstream_last_minute_plays', MERCHANT)})"
    chosen = f"{plays} and on (merchant_id, media_id) {busiest}"
    return parts.graph(
        "Top 10 media by plays",
        f"Plays per minute of the ten media with the most plays in the selected time range, stacked. {ONE_MINUTE}",
        query(queries.named(chosen, MERCHANT, whole_range=True), "{{name}}"),
        size=(12, 9),
        stacked=True,
        calcs=["mean", "max"],
    )


def _played() -> parts.Panel:
    played = queries.mean("smartstream_merchant_last_minute_play_time_seconds", MERCHANT)
    return parts.graph(
        "Concurrent viewers",
        f"Approximate number of viewers: seconds played in a minute, divided by 60. {ONE_MINUTE}",
        query(f"max({played}) / 60", "Viewers"),
        size=(6, 9),
        empty="Not collected: add play_time to `collect`",
    )


def _devices() -> parts.Panel:
    devices = queries.mean("smartstream_merchant_last_minute_devices", MERCHANT)
    sessions = queries.mean("smartstream_merchant_last_minute_sessions", MERCHANT)
    return parts.graph(
        "Devices and sessions",
        "Unique within each minute, so sums over minutes have no meaning. Each point is the average of the window.",
        query(f"max({devices})", "Devices"),
        query(f"max({sessions})", "Sessions"),
        size=(6, 9),
        empty="Not collected: add device_count or session_count to `collect`",
    )


def _map() -> parts.Panel:
    empty = "Not collected: add the group country to play_count"
    panel = parts.common_parts(
        geomap.Panel(),
        "Plays by country",
        SINCE,
        [rows(queries.split("country"))],
        unit="short",
        size=(12, 9),
        empty=empty,
    )
    panel.basemap(common.MapLayerOptions().type("default").name("Map"))
    panel.view(geomap.MapViewConfig().id("coords").lat(25).lon(115).zoom(3))
    panel.tooltip(geomap.TooltipOptions().mode(geomap_models.TooltipMode.DETAILS))
    place = common.FrameGeometrySource().mode(common_models.FrameGeometrySourceMode.LOOKUP)
    place.lookup("country").gazetteer("public/gazetteer/countries.json")
    style = {
        "size": {"field": "Value", "fixed": 5, "min": 4, "max": 40},
        "color": {"fixed": BLUE},
        "opacity": 0.5,
        "symbol": {"mode": "fixed", "fixed": "img/icons/marker/circle.svg"},
        "text": {"mode": "field", "field": "country", "fixed": ""},
        "textConfig": {"fontSize": 12, "textAlign": "center", "textBaseline": "middle", "offsetX": 0, "offsetY": 0},
    }
    markers = common.MapLayerOptions().type("markers").name("Plays").location(place).tooltip(True)
    return panel.layers([markers.config({"style": style, "showLegend": False})])


def _splits() -> list[parts.Panel]:
    def collected(group: str) -> str:
        return f"Not collected: add the group {group} to play_count"

    def shares(group: str) -> str:
        return queries.split(group)

    return [
        parts.bars(
            "Countries",
            SINCE,
            now(f"topk(6, {shares('country')})", "{{country}}"),
            empty=collected("country"),
            size=(6, 9),
        ),
        parts.bars("Devices", SINCE, now(shares("device"), "{{device}}"), empty=collected("device"), size=(6, 9)),
        parts.bars("Operating systems", SINCE, now(shares("os"), "{{os}}"), empty=collected("os"), size=(8, 8)),
        parts.bars("Sites", SINCE, now(shares("site"), "{{site}}"), empty=collected("site"), size=(8, 8)),
        parts.bars("Players", SINCE, now(shares("player"), "{{player}}"), empty=collected("player"), size=(8, 8)),
    ]
