"""Everything of a dashboard but its panels: UID, links, variables and annotations."""

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as models

from grafana.fields import RED
from grafana.parts import SOURCE
from grafana.queries import DROP_ALERTS, MERCHANT, names

TAG = "smartstream"
UIDS = {"overview": "smartstream-overview", "media": "smartstream-media", "exporter": "smartstream-exporter"}


def page(key: str, title: str, description: str) -> dashboard.Dashboard:
    """A dashboard without panels, with links to the other dashboards."""
    made = dashboard.Dashboard(f"SmartSTREAM / {title}").uid(UIDS[key]).description(description).tags([TAG])
    made.time("now-6h", "now").refresh("1m").timezone("browser").tooltip(models.DashboardCursorSync.CROSSHAIR)
    made.readonly()
    others = dashboard.DashboardLink("Dashboards").type(models.DashboardLinkType.DASHBOARDS).tags([TAG])
    made.link(others.include_vars(True).keep_time(True).as_dropdown(False).icon("external link"))
    return made.with_variable(
        dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus").multi(False)
    )


def merchant_variable(*, several: bool = False) -> dashboard.QueryVariable:
    """The merchants that the exporter polls."""
    variable = listed("merchant", "Merchant", "label_values(smartstream_streams, merchant_id)")
    return all_of(variable) if several else variable


def media_variable() -> dashboard.QueryVariable:
    """The media of the merchant by name; the value is the id."""
    expression = f"max by (media_id, name) ({names(MERCHANT)})"
    variable = listed("media", "Media", f"query_result({expression})")
    return variable.regex('/media_id="(?<value>[^"]*)",name="(?<text>.*)"}/')


def listed(name: str, label: str, source: str) -> dashboard.QueryVariable:
    """A variable whose values come from Prometheus, and change with the range that is shown."""
    variable = dashboard.QueryVariable(name).label(label).datasource(SOURCE)
    variable.query({"query": source, "refId": f"variable-{name}"}).definition(source)
    variable.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
    return variable.sort(models.VariableSort.ALPHABETICAL_CASE_INSENSITIVE_ASC)


def all_of(variable: dashboard.QueryVariable) -> dashboard.QueryVariable:
    """Allow several values for a variable. The default is all."""
    everything = models.VariableOption(selected=True, text="All", value="$__all")
    return variable.multi(True).include_all(True).all_value(".+").current(everything)


def interval_variable() -> dashboard.IntervalVariable:
    """The window of averages."""
    variable = dashboard.IntervalVariable("interval").label("Average over").values("5m,10m,30m,1h,3h,6h,1d")
    variable.auto(True).min_interval("5m").step_count(120)
    variable.description(
        "A quiet media is fetched every few minutes. With a shorter window, the charts show single minutes of it."
    )
    return variable.current(models.VariableOption(selected=True, text="auto", value="$__auto_interval_interval"))


def drop_annotations(selector: str) -> dashboard.AnnotationQuery:
    """Annotations for firing drop alerts that match `selector`."""
    labels = f'alertname=~"{DROP_ALERTS}", alertstate="firing", {selector}'
    of_media = f'ALERTS{{{labels}, media_id!=""}} * on (merchant_id, media_id) group_left (name) {names(MERCHANT)}'
    expression = f'{of_media} or ALERTS{{{labels}, media_id=""}}'
    annotation = dashboard.AnnotationQuery().name("Drop alerts").datasource(SOURCE).enable(True).icon_color(RED)
    annotation.expr(expression).step("60s").tag_keys("severity")
    return annotation.title_format("{{alertname}}").text_format("{{name}}")
