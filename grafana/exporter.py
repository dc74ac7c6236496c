"""The dashboard of the exporter itself: requests, freshness, revisions, the process."""

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import common as common_models

from grafana import fields, pages, parts, queries
from grafana.fields import BLUE, GREEN, GREY, ORANGE, RED, value
from grafana.parts import buckets, heat, now, query, rows
from grafana.queries import MERCHANTS

JOB = 'job=~"$job"'
YES_NO = {1.0: ("yes", GREEN), 0.0: ("no", RED)}
ALL_GROUPS = "merchant_id, target, group"


def build() -> dashboard.Dashboard:
    """The dashboard."""
    page = pages.page("exporter", "Exporter", "Health of the exporter: requests, freshness, revisions, process.")
    page.with_variable(pages.merchant_variable(several=True))
    job = pages.listed("job", "Job", "label_values(smartstream_build_info, job)")
    page.with_variable(pages.all_of(job))
    for panel in _numbers():
        page.with_panel(panel)
    page.with_row(dashboard.Row("Requests"))
    page.with_panel(_budget()).with_panel(_codes())
    page.with_panel(_latency()).with_panel(_endpoints())
    page.with_panel(_failing()).with_panel(_lookups())
    page.with_row(dashboard.Row("Freshness"))
    page.with_panel(_staleness()).with_panel(_horizon())
    page.with_panel(_time_zone()).with_panel(_media_files())
    page.with_panel(_oldest()).with_panel(_learning())
    page.with_row(dashboard.Row("Revisions and lost data"))
    page.with_panel(_revisions()).with_panel(_ages()).with_panel(_lost())
    page.with_panel(_held()).with_panel(_resets()).with_panel(_pending())
    page.with_row(dashboard.Row("Process"))
    for chart in _process():
        page.with_panel(chart)
    return page


def _numbers() -> list[parts.Panel]:
    expiry = f"min(smartstream_api_token_expiry_timestamp_seconds{{{MERCHANTS}}}) - time()"
    version = parts.number(
        "Version",
        "The version that is running.",
        now(f"max by (version) (smartstream_build_info{{{JOB}}})", "{{version}}"),
    )
    return [
        parts.number(
            "Exporter up",
            "Whether Prometheus can scrape the exporter. If not, all other panels are old or empty.",
            now(f"min(up{{{JOB}}})"),
            width=2,
            texts=YES_NO,
            empty="not scraped",
        ),
        parts.number(
            "API up",
            'Whether the API responds for all selected merchants. Also "no" while the exporter cannot send requests.',
            now(f"min(smartstream_up{{{MERCHANTS}}})"),
            width=2,
            texts=YES_NO,
            empty="no request yet",
        ),
        parts.number(
            "State file writable",
            "If not, the exporter sends no requests and counts nothing.",
            now(f"min(smartstream_state_writable{{{JOB}}})"),
            width=2,
            texts=YES_NO,
        ),
        parts.number(
            "Last reload successful",
            "Whether the last attempt to load the configuration was successful.",
            now(f"min(smartstream_config_last_reload_successful{{{JOB}}})"),
            texts=YES_NO,
        ),
        parts.number(
            "Configuration age",
            "Time since the configuration was last loaded successfully.",
            now(f"time() - max(smartstream_config_last_reload_success_timestamp_seconds{{{JOB}}})"),
            unit="dtdurations",
        ),
        parts.number(
            "Token expires in",
            "Shortest remaining lifetime of an access token. Tokens are renewed before they expire. 0 or less means "
            "that the renewal fails.",
            now(expiry),
            unit="dtdurations",
            steps=((None, RED), (1, GREEN)),
            empty="no token",
        ),
        parts.number(
            "Streams",
            "Streams that share the request budget.",
            now(f"sum(smartstream_streams{{{MERCHANTS}}})"),
            width=3,
        ),
        parts.number(
            "Uptime",
            "Time since the process started; of several, the newest process.",
            now(f"time() - max(process_start_time_seconds{{{JOB}}})"),
            unit="dtdurations",
        ),
        version.text_mode(common_models.BigValueTextMode.NAME),
    ]


def _budget() -> parts.Panel:
    used = f"sum by (merchant_id) (rate(smartstream_api_requests_total{{{MERCHANTS}}}[$__rate_interval])) * 60"
    allowed = f"max by (merchant_id) (smartstream_api_budget_requests_per_minute{{{MERCHANTS}}})"
    panel = parts.graph(
        "Requests per minute: sent and allowed",
        "Including tokens, catalog, retries and history. After a 429, the limit is halved and then raised slowly. It "
        "is normal to reach the limit when there are more streams than requests. The exporter never exceeds it.",
        query(used, "sent, {{merchant_id}}"),
        query(allowed, "allowed, {{merchant_id}}"),
    )
    return panel.override_by_regexp("/^allowed/", fields.dashed(GREY))


def _codes() -> parts.Panel:
    codes = f"sum by (code) (rate(smartstream_api_requests_total{{{MERCHANTS}}}[$__rate_interval])) * 60 > 0"
    panel = parts.graph(
        "Requests per minute by status",
        "200: success. 401: rejected token, renewed once. 404: media not found. 429: rate limit. 5xx: error of the "
        "API. `error`: no complete response.",
        query(codes, "{{code}}"),
        stacked=True,
    )
    panel.override_by_name("200", [fields.coloured(GREEN)]).override_by_name("429", [fields.coloured(ORANGE)])
    return panel.override_by_regexp("/^(5|error)/", [fields.coloured(RED)])


def _failing() -> parts.Panel:
    return parts.graph(
        "Failing streams",
        "Streams whose last request failed while other requests succeeded, including media that the API does not find "
        "(404). Their plays are not counted until a request succeeds.",
        query(
            f"sum by (merchant_id) (smartstream_failing_streams{{{MERCHANTS}}})", "streams of media, {{merchant_id}}"
        ),
        query(
            f"sum by (merchant_id) (smartstream_merchant_failing_streams{{{MERCHANTS}}})",
            "streams of the whole merchant, {{merchant_id}}",
        ),
        query(f"sum by (merchant_id) (smartstream_media_gone{{{MERCHANTS}}})", "media not found, {{merchant_id}}"),
        size=(12, 8),
    )


def _lookups() -> parts.Panel:
    return parts.graph(
        "Failing lookups and last polling round",
        "Lookups (catalog, live events, history) whose last request failed. A polling round ends every minute, so the "
        "time since the last round stays near 1 minute.",
        query(f"max by (merchant_id) (smartstream_failing_lookups{{{MERCHANTS}}})", "failing lookups, {{merchant_id}}"),
        query(
            f"(time() - max by (merchant_id) (smartstream_round_timestamp_seconds{{{MERCHANTS}}})) / 60",
            "minutes since the last round, {{merchant_id}}",
        ),
        size=(12, 8),
    )


def _latency() -> parts.Panel:
    answered = "increase(smartstream_api_request_duration_seconds_bucket{" + JOB + "}[$__rate_interval])"
    return heat(
        "Request duration",
        "From sending the request to the end of the response, all merchants of the process.",
        buckets(f"sum by (le) ({answered})"),
    )


def _endpoints() -> parts.Panel:
    rate = f"rate(smartstream_api_request_duration_seconds_bucket{{{JOB}}}[$__rate_interval])"
    # Without requests, the quantile is NaN: show a gap.
    slow = f"histogram_quantile(0.95, sum by (le, endpoint) ({rate})) >= 0"
    return parts.graph(
        "Request duration by endpoint (95th percentile)",
        "95 % of the requests are faster than this. Endpoints with few requests have gaps.",
        query(slow, "{{endpoint}}"),
        unit="s",
    )


def _staleness() -> parts.Panel:
    panel = parts.graph(
        "Staleness and lower bound",
        "Settled time that is not counted yet: average over the streams, weighted by plays, after each polling round. "
        "No schedule can be better than the bound with these streams and this budget. An outage shows as a rise and a "
        "slow fall while the exporter catches up. `max_staleness` is the longest that one stream should wait.",
        query(f"max by (merchant_id) (smartstream_staleness_seconds{{{MERCHANTS}}})", "{{merchant_id}}"),
        query(f"max by (merchant_id) (smartstream_staleness_bound_seconds{{{MERCHANTS}}})", "bound, {{merchant_id}}"),
        query(f"max(smartstream_max_staleness_seconds{{{JOB}}})", "max_staleness"),
        unit="s",
    )
    panel.override_by_name("max_staleness", fields.dashed(RED))
    return panel.override_by_regexp("/^bound/", fields.dashed(GREY))


def _horizon() -> parts.Panel:
    horizon = f"max by (merchant_id) (smartstream_merchant_horizon_timestamp_seconds{{{MERCHANTS}}})"
    of_plays = f"smartstream_merchant_data_timestamp_seconds{{{MERCHANTS}, {queries.PLAYS_STREAM}}}"
    return parts.graph(
        "Data delay",
        "API: age of the newest row from the API. Counted: age of the newest minute counted for the whole merchant. If "
        "both are high, the API's data is late. If only the counted minutes are late, the exporter is late.",
        query(f"time() - {horizon}", "API, {{merchant_id}}"),
        query(f"time() - max by (merchant_id) ({of_plays})", "counted, {{merchant_id}}"),
        unit="dthms",
    )


def _time_zone() -> parts.Panel:
    wrong = f"smartstream_timezone_offset_seconds{{{MERCHANTS}}} != bool 0"
    unknown = f"smartstream_streams{{{MERCHANTS}}} * 0 - 1"
    return parts.states(
        "Time zone",
        "Whether the times of the API's rows fit `api.timezone`. If not, plays are counted in the wrong minutes or not "
        "at all, and no drops are detected.",
        query(f"max by (merchant_id) ({wrong} or on (merchant_id) {unknown})", "{{merchant_id}}"),
        texts={0.0: ("right", GREEN), 1.0: ("wrong", RED), -1.0: ("not known", GREY)},
        size=(12, 4),
        empty="No merchant",
    )


def _media_files() -> parts.Panel:
    good = f"smartstream_media_files_last_read_successful{{{MERCHANTS}}}"
    without = f"smartstream_streams{{{MERCHANTS}}} * 0 - 1"
    return parts.states(
        "Media files",
        "Whether the last read of a merchant's media files was successful. If not, their last valid content is used; "
        "the log and the status page show the errors.",
        query(f"min by (merchant_id) ({good} or on (merchant_id) {without})", "{{merchant_id}}"),
        texts={1.0: ("good", GREEN), 0.0: ("error", RED), -1.0: ("no files", GREY)},
        size=(12, 4),
        empty="No merchant",
    )


def _oldest() -> parts.Panel:
    age = f"time() - smartstream_data_timestamp_seconds{{{MERCHANTS}}}"
    oldest = f"topk(20, max by ({ALL_GROUPS}, media_id) ({age}))"
    panel = parts.grid(
        "Streams with the oldest data",
        "Quiet streams wait by design, up to `max_staleness` if the budget allows it. A media that the API does not "
        "find (404) is retried with backoff and stays in this list until you remove it from the configuration.",
        rows(queries.named(oldest, MERCHANTS)),
        columns={
            "merchant_id": "Merchant",
            "name": "Media",
            "target": "Target",
            "group": "Group",
            "Value": "Age of the data",
        },
        sort=["Age of the data"],
        size=(16, 8),
        empty="No data received yet",
    )
    return panel.override_by_name("Value", fields.aged())


def _learning() -> parts.Panel:
    return parts.graph(
        "Time until all media are judged",
        "After the first start, drop detection needs the history of each media. The busiest media come first. 0: all "
        "media can be judged.",
        query(f"max by (merchant_id) (smartstream_learning_remaining_seconds{{{MERCHANTS}}})", "{{merchant_id}}"),
        unit="dtdurations",
        size=(8, 8),
    )


def _revisions() -> parts.Panel:
    revised = f"sum by (direction) (increase(smartstream_revisions_total{{{MERCHANTS}}}[$__rate_interval]))"
    panel = parts.graph(
        "Revised values",
        "Values that the API changed after they were counted. Increases are added to the counters; decreases are "
        "subtracted from later increases. Small changes soon after a minute has settled are normal; to see fewer, "
        "raise `settle`.",
        query(revised, "{{direction}}"),
        size=(8, 8),
    )
    panel.override_by_name("up", [fields.coloured(BLUE)])
    return panel.override_by_name("down", [fields.coloured(ORANGE)])


def _ages() -> parts.Panel:
    ages = f"sum by (le) (increase(smartstream_revision_age_seconds_bucket{{{JOB}}}[$__rate_interval]))"
    return heat(
        "Age of revised minutes",
        "Age of a minute when its value was revised. `settle` should be longer than most ages. Many values near "
        "`revision_window` (default 30 minutes) mean that it is too short.",
        buckets(ages),
        size=(8, 8),
    )


def _lost() -> parts.Panel:
    return parts.graph(
        "Lost data",
        "Time, summed over the streams, that was older than `max_catch_up` before it could be fetched, or had no "
        "usable value until then. Its plays are missing from the counters. Normally 0.",
        query(
            f"sum by (merchant_id) (increase(smartstream_lost_seconds_total{{{MERCHANTS}}}[$__rate_interval]))",
            "{{merchant_id}}",
        ),
        unit="s",
        size=(8, 8),
    )


def _held() -> parts.Panel:
    return parts.graph(
        "Held values",
        "Values from the API that are not counted yet: unusable ones such as -1 or N/A, and implausibly large ones. An "
        "unusable value waits until the API corrects it. A large one is counted if the API still returns it after "
        "`revision_window`.",
        query(f"max by (merchant_id) (smartstream_held_values{{{MERCHANTS}}})", "{{merchant_id}}"),
        size=(8, 8),
    )


def _pending() -> parts.Panel:
    return parts.graph(
        "Pending media",
        "Media that are configured by their `ref_id` and that the catalog does not have yet. The exporter asks for "
        "them until they exist; until then they have no streams.",
        query(f"max by (merchant_id) (smartstream_media_pending{{{MERCHANTS}}})", "{{merchant_id}}"),
        size=(8, 8),
    )


def _resets() -> parts.Panel:
    return parts.graph(
        "Counter resets",
        "Counters that restarted at 0 because the API lowered counted values by more than the plays of the next day. "
        "`increase()` handles the reset.",
        query(
            f"sum by (merchant_id) (increase(smartstream_series_resets_total{{{MERCHANTS}}}[$__rate_interval]))",
            "{{merchant_id}}",
        ),
        size=(8, 8),
    )


def _process() -> list[parts.Panel]:
    size = (6, 7)
    collections = f"sum by (generation) (rate(python_gc_collections_total{{{JOB}}}[$__rate_interval])) * 60"
    return [
        parts.graph(
            "CPU",
            "CPU cores in use. The process can use about one core. Near that, split the merchants into shards.",
            query(f"rate(process_cpu_seconds_total{{{JOB}}}[$__rate_interval])", "{{instance}}"),
            unit="percentunit",
            size=size,
        ),
        parts.graph(
            "Memory",
            "Resident memory of the process.",
            query(f"process_resident_memory_bytes{{{JOB}}}", "{{instance}}"),
            unit="bytes",
            size=size,
        ),
        parts.graph(
            "Open files",
            "Open file descriptors, including connections.",
            query(f"process_open_fds{{{JOB}}}", "{{instance}}"),
            size=size,
        ),
        parts.graph(
            "Garbage collections per minute",
            "Runs of Python's garbage collector by generation. Many runs of generation 2 use CPU time.",
            query(collections, "generation {{generation}}"),
            size=size,
        ),
        parts.graph(
            "Dropped log lines per minute",
            "Lines that were dropped because the log could not be written, or its reader was too slow.",
            query(f"rate(smartstream_log_lines_dropped_total{{{JOB}}}[$__rate_interval]) * 60", "{{instance}}"),
            size=(7, 6),
        ),
        parts.graph(
            "Clock offset",
            "Clock of the exporter's machine minus the API's clock (Date header); 0 if less than 30 s. The exporter "
            "counts minutes by the API's clock.",
            query(f"smartstream_clock_offset_seconds{{{JOB}}}", "{{instance}}"),
            unit="s",
            size=(7, 6),
        ),
        _exporters(),
    ]


def _exporters() -> parts.Panel:
    panel = parts.grid(
        "Exporters",
        "The time zone of each exporter and what it is ahead of UTC, and the address to which alerts link "
        "(`--web.external-url`).",
        rows(f"max by (instance, timezone) (smartstream_api_utc_offset_seconds{{{JOB}}})"),
        rows(f"max by (instance, external_url) (smartstream_web_info{{{JOB}}})"),
        columns={
            "instance": "Instance",
            "timezone": "Time zone",
            "Value #A": "Ahead of UTC",
            "external_url": "Address",
        },
        size=(10, 6),
        empty="No exporter",
    )
    return panel.override_by_name("Value #A", [value("unit", "dthms")])
