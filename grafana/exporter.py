"""The dashboard of the exporter itself: requests, freshness, revisions, the process."""

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import common as common_models

from grafana import fields, pages, parts, queries
from grafana.fields import BLUE, GREEN, GREY, ORANGE, RED
from grafana.parts import buckets, heat, now, query, rows
from grafana.queries import MERCHANTS

JOB = 'job=~"$job"'
YES_NO = {1.0: ("yes", GREEN), 0.0: ("no", RED)}
ALL_GROUPS = "merchant_id, target, group"


def build() -> dashboard.Dashboard:
    """The dashboard."""
    page = pages.page("exporter", "Exporter", "Whether the exporter keeps up: budget, freshness, revisions, process.")
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
    page.with_panel(_oldest())
    page.with_row(dashboard.Row("Revisions and losses"))
    page.with_panel(_revisions()).with_panel(_ages()).with_panel(_lost())
    page.with_panel(_held()).with_panel(_resets())
    page.with_row(dashboard.Row("Process"))
    for chart in _process():
        page.with_panel(chart)
    return page


def _numbers() -> list[parts.Panel]:
    expiry = f"min(smartstream_api_token_expiry_timestamp_seconds{{{MERCHANTS}}}) - time()"
    version = parts.number(
        "Version",
        "The running release.",
        now(f"max by (version) (smartstream_build_info{{{JOB}}})", "{{version}}"),
    )
    return [
        parts.number(
            "Scraped",
            "Whether Prometheus reaches the exporter. While it does not, every other figure is old or missing.",
            now(f"min(up{{{JOB}}})"),
            width=2,
            texts=YES_NO,
            empty="not scraped",
        ),
        parts.number(
            "API up",
            "Whether the API answers for every chosen merchant. No also while no request can leave.",
            now(f"min(smartstream_up{{{MERCHANTS}}})"),
            width=2,
            texts=YES_NO,
            empty="no request yet",
        ),
        parts.number(
            "State file",
            "Whether the state file is writable. If not, the exporter sends no requests and counts nothing.",
            now(f"min(smartstream_state_writable{{{JOB}}})"),
            width=2,
            texts=YES_NO,
        ),
        parts.number(
            "Last reload successful",
            "Whether the configuration was accepted when it was last read.",
            now(f"min(smartstream_config_last_reload_successful{{{JOB}}})"),
            texts=YES_NO,
        ),
        parts.number(
            "Configuration read",
            "How long ago the configuration was last accepted.",
            now(f"time() - max(smartstream_config_last_reload_success_timestamp_seconds{{{JOB}}})"),
            unit="dtdurations",
        ),
        parts.number(
            "Token expires in",
            "The shortest remaining life of an access token. It is renewed before it ends; 0 and below means that the "
            "renewal fails.",
            now(expiry),
            unit="dtdurations",
            steps=((None, RED), (1, GREEN)),
            empty="not known",
        ),
        parts.number(
            "Streams", "Streams that share the requests.", now(f"sum(smartstream_streams{{{MERCHANTS}}})"), width=3
        ),
        parts.number(
            "Running for",
            "Time since the process started, the youngest where there are several.",
            now(f"time() - max(process_start_time_seconds{{{JOB}}})"),
            unit="dtdurations",
        ),
        version.text_mode(common_models.BigValueTextMode.NAME),
    ]


def _budget() -> parts.Panel:
    used = f"sum by (merchant_id) (rate(smartstream_api_requests_total{{{MERCHANTS}}}[$__rate_interval])) * 60"
    allowed = f"max by (merchant_id) (smartstream_api_budget_requests_per_minute{{{MERCHANTS}}})"
    panel = parts.graph(
        "Requests a minute: used and allowed",
        "Tokens, catalog, retries and history included. The allowed number is halved after a 429 and won back slowly. "
        "Used up to the limit is right when there are more streams than requests; more than the limit never leaves.",
        query(used, "used, {{merchant_id}}"),
        query(allowed, "allowed, {{merchant_id}}"),
    )
    return panel.override_by_regexp("/^allowed/", fields.dashed(GREY))


def _codes() -> parts.Panel:
    codes = f"sum by (code) (rate(smartstream_api_requests_total{{{MERCHANTS}}}[$__rate_interval])) * 60 > 0"
    panel = parts.graph(
        "Requests a minute by status",
        "200 is an answer; 401 a refused token, renewed once; 404 a media that is gone; 429 the limit; 5xx an error of "
        "the API; `error` means that no response was received.",
        query(codes, "{{code}}"),
        stacked=True,
    )
    panel.override_by_name("200", [fields.coloured(GREEN)]).override_by_name("429", [fields.coloured(ORANGE)])
    return panel.override_by_regexp("/^(5|error)/", [fields.coloured(RED)])


def _failing() -> parts.Panel:
    return parts.graph(
        "Failing streams",
        "Streams whose last request failed while the API answered others, of media that it does not know (404), too. "
        "Their plays are not counted meanwhile.",
        query(f"sum by (merchant_id) (smartstream_failing_streams{{{MERCHANTS}}})", "of media, {{merchant_id}}"),
        query(
            f"sum by (merchant_id) (smartstream_merchant_failing_streams{{{MERCHANTS}}})",
            "of the whole merchant, {{merchant_id}}",
        ),
        query(f"sum by (merchant_id) (smartstream_media_gone{{{MERCHANTS}}})", "media gone, {{merchant_id}}"),
        size=(12, 8),
    )


def _lookups() -> parts.Panel:
    return parts.graph(
        "Failing lookups and age of the last round",
        "Requests for the catalog, live events and the history that failed when they were sent last. A round of "
        "requests ends every minute: its age in minutes stays near 1.",
        query(f"max by (merchant_id) (smartstream_failing_lookups{{{MERCHANTS}}})", "lookups, {{merchant_id}}"),
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
        "Requests by their duration, from sending to the end of the answer, all merchants of the process.",
        buckets(f"sum by (le) ({answered})"),
    )


def _endpoints() -> parts.Panel:
    rate = f"rate(smartstream_api_request_duration_seconds_bucket{{{JOB}}}[$__rate_interval])"
    # Without requests a quantile is no number: a gap, not a line at some value.
    slow = f"histogram_quantile(0.95, sum by (le, endpoint) ({rate})) >= 0"
    return parts.graph(
        "Slow requests by endpoint",
        "95 of 100 requests are faster than this. Endpoints that are asked rarely have gaps.",
        query(slow, "{{endpoint}}"),
        unit="s",
    )


def _staleness() -> parts.Panel:
    panel = parts.graph(
        "Staleness against the bound",
        "Settled time that a stream has not counted yet: the mean over the streams, weighted by plays, right after "
        "a round. The bound is what no schedule could be below with these streams and requests. Steps up and slow "
        "falls are outages and the catch-up after them.",
        query(f"max by (merchant_id) (smartstream_staleness_seconds{{{MERCHANTS}}})", "{{merchant_id}}"),
        query(f"max by (merchant_id) (smartstream_staleness_bound_seconds{{{MERCHANTS}}})", "bound, {{merchant_id}}"),
        unit="s",
    )
    return panel.override_by_regexp("/^bound/", fields.dashed(GREY))


def _horizon() -> parts.Panel:
    horizon = f"max by (merchant_id) (smartstream_merchant_horizon_timestamp_seconds{{{MERCHANTS}}})"
    of_plays = f"smartstream_merchant_data_timestamp_seconds{{{MERCHANTS}, {queries.PLAYS_STREAM}}}"
    return parts.graph(
        "Data delay",
        "Rows: age of the newest row that the API has shown. Counted: age of the newest minute counted for the whole "
        "merchant. Rows that are late hold back everything; where only the counted minutes are late, the exporter is.",
        query(f"time() - {horizon}", "rows, {{merchant_id}}"),
        query(f"time() - max by (merchant_id) ({of_plays})", "counted, {{merchant_id}}"),
        unit="dthms",
    )


def _oldest() -> parts.Panel:
    age = f"time() - smartstream_data_timestamp_seconds{{{MERCHANTS}}}"
    oldest = f"topk(20, max by ({ALL_GROUPS}, media_id) ({age}))"
    panel = parts.grid(
        "Streams with the oldest data",
        "Quiet streams wait on purpose, up to `max_staleness` where the budget can hold that. A media that is gone "
        "from the API (404) is asked about ever more rarely and stays here until it leaves the configuration.",
        rows(queries.named(oldest, MERCHANTS)),
        columns={
            "merchant_id": "Merchant",
            "name": "Media",
            "target": "Target",
            "group": "Group",
            "Value": "Age of the data",
        },
        sort=["Age of the data"],
        size=(24, 8),
        empty="No stream has an answer yet",
    )
    return panel.override_by_name("Value", fields.aged())


def _revisions() -> parts.Panel:
    revised = f"sum by (direction) (increase(smartstream_revisions_total{{{MERCHANTS}}}[$__rate_interval]))"
    panel = parts.graph(
        "Values that changed after they were counted",
        "Every change is added to the counters, or owed by them. Many small ones are usual right after a minute "
        "has settled; with fewer of them wanted, raise `settle`.",
        query(revised, "{{direction}}"),
        size=(8, 8),
    )
    panel.override_by_name("up", [fields.coloured(BLUE)])
    return panel.override_by_name("down", [fields.coloured(ORANGE)])


def _ages() -> parts.Panel:
    ages = f"sum by (le) (increase(smartstream_revision_age_seconds_bucket{{{JOB}}}[$__rate_interval]))"
    return heat(
        "Age of revised minutes",
        "`settle` should be longer than most. What lies near the revision window (30 minutes unless configured) says "
        "that the window is too short.",
        buckets(ages),
        size=(8, 8),
    )


def _lost() -> parts.Panel:
    return parts.graph(
        "Lost data",
        "Time, summed over the streams, that were too old to be caught up (`max_catch_up`), or whose values could "
        "not be used until they were. Their plays are in no counter. In a healthy system this stays at 0.",
        query(
            f"sum by (merchant_id) (increase(smartstream_lost_seconds_total{{{MERCHANTS}}}[$__rate_interval]))",
            "{{merchant_id}}",
        ),
        unit="s",
        size=(8, 8),
    )


def _held() -> parts.Panel:
    return parts.graph(
        "Values not counted yet",
        "Values of the API that cannot be used, such as -1 or N/A, or that are far beyond all that was counted before. "
        "Each waits until the API shows another one, or has shown it for the revision window.",
        query(f"max by (merchant_id) (smartstream_held_values{{{MERCHANTS}}})", "{{merchant_id}}"),
        size=(12, 8),
    )


def _resets() -> parts.Panel:
    return parts.graph(
        "Counter resets",
        "The API took back more than was played in the day after. `increase()` over the reset is right.",
        query(
            f"sum by (merchant_id) (increase(smartstream_series_resets_total{{{MERCHANTS}}}[$__rate_interval]))",
            "{{merchant_id}}",
        ),
        size=(12, 8),
    )


def _process() -> list[parts.Panel]:
    size = (6, 7)
    collections = f"sum by (generation) (rate(python_gc_collections_total{{{JOB}}}[$__rate_interval])) * 60"
    return [
        parts.graph(
            "CPU",
            "Cores in use. One interpreter uses about one core at most; near that, spread the merchants over shards.",
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
            "Files and connections that are open.",
            query(f"process_open_fds{{{JOB}}}", "{{instance}}"),
            size=size,
        ),
        parts.graph(
            "Garbage collections a minute",
            "Collections of Python's memory by generation; many of generation 2 cost time.",
            query(collections, "generation {{generation}}"),
            size=size,
        ),
        parts.graph(
            "Log lines dropped a minute",
            "Lines that were dropped because nobody read the log, or because it could not be written.",
            query(f"rate(smartstream_log_lines_dropped_total{{{JOB}}}[$__rate_interval]) * 60", "{{instance}}"),
            size=(12, 6),
        ),
        parts.graph(
            "Clock ahead of the API's",
            "By how much the clock of the exporter's machine differs from the API's (Date header), 0 within 30 s. "
            "Minutes are counted by the API's clock.",
            query(f"smartstream_clock_offset_seconds{{{JOB}}}", "{{instance}}"),
            unit="s",
            size=(12, 6),
        ),
    ]
