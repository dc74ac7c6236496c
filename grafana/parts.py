"""Queries and panels that all dashboards use, built with the Grafana Foundation SDK."""

from collections.abc import Mapping, Sequence
from typing import Protocol, Self, TypeVar

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import prometheus as prometheus_models

from grafana.fields import BLUE, GREEN, NOTHING, RED, colours, mapping, thresholds, value

SOURCE = common_models.DataSourceRef(type_val="prometheus", uid="${datasource}")
# A common scrape interval. Grafana makes `$__rate_interval` at least four times as long.
SCRAPE = "30s"

CATCH_UP = (
    "After an outage, the exporter fetches the missed minutes and adds their plays in one step. They show at the end "
    "of the outage, not when they happened."
)
ONE_MINUTE = (
    "Each point is the average of the window. There is a gap while no data arrives. Values that the API revises later "
    "are in the counters, but not in this line."
)


class AnyPanel(Protocol):
    """The common methods of the SDK's panel builders."""

    def title(self, title: str, /) -> Self: ...
    def description(self, description: str, /) -> Self: ...
    def datasource(self, datasource: common_models.DataSourceRef, /) -> Self: ...
    def unit(self, unit: str, /) -> Self: ...
    def no_value(self, no_value: str, /) -> Self: ...
    def span(self, w: int, /) -> Self: ...
    def height(self, h: int, /) -> Self: ...
    def with_target(self, target: Builder[Dataquery], /) -> Self: ...
    def override_by_name(self, name: str, properties: list[models.DynamicConfigValue], /) -> Self: ...


# A panel of any kind.
Panel = Builder[models.Panel]

PanelT = TypeVar("PanelT", bound=AnyPanel)


def query(expression: str, legend: str = "") -> prometheus.Dataquery:
    """A range query over the dashboard's time range."""
    return prometheus.Dataquery().expr(expression).legend_format(legend).range().interval(SCRAPE)


def now(expression: str, legend: str = "") -> prometheus.Dataquery:
    """An instant query at the end of the dashboard's time range."""
    return prometheus.Dataquery().expr(expression).legend_format(legend).instant()


def rows(expression: str) -> prometheus.Dataquery:
    """An instant query whose labels become columns of a table."""
    return now(expression).format(prometheus_models.PromQueryFormat.TABLE)


def buckets(expression: str) -> prometheus.Dataquery:
    """A range query for the buckets of a histogram."""
    return query(expression, "{{le}}").format(prometheus_models.PromQueryFormat.HEATMAP)


def common_parts(
    panel: PanelT,
    title: str,
    description: str,
    queries: Sequence[prometheus.Dataquery],
    *,
    unit: str,
    size: tuple[int, int],
    empty: str,
) -> PanelT:
    """Set the properties that all panels have.

    Args:
        panel: The panel.
        title: Its title.
        description: What it shows, and how to read it.
        queries: Its queries, named A, B, … in order.
        unit: Grafana's unit ID.
        size: Width in 24ths of the page, and height in rows.
        empty: Shown when there is no data.
    """
    panel.title(title).description(description).datasource(SOURCE).unit(unit).no_value(empty)
    panel.span(size[0]).height(size[1])
    for name, each in zip("ABCDEFGHIJ", queries, strict=False):
        panel.with_target(each.ref_id(name).datasource(SOURCE))
    return panel


def graph(
    title: str,
    description: str,
    *queries: prometheus.Dataquery,
    unit: str = "short",
    size: tuple[int, int] = (12, 8),
    empty: str = "No data in this range",
    stacked: bool = False,
    calcs: Sequence[str] = (),
) -> timeseries.Panel:
    """A time series panel. The legend is a list below, or a table of `calcs` on the right if there are any."""
    panel = common_parts(timeseries.Panel(), title, description, queries, unit=unit, size=size, empty=empty)
    panel.line_width(1).fill_opacity(50 if stacked else 8).min(0)
    panel.show_points(common_models.VisibilityMode.NEVER)
    tooltip = common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI)
    panel.tooltip(tooltip.sort(common_models.SortOrder.DESCENDING))
    legend = common.VizLegendOptions().show_legend(True).calcs(list(calcs))
    if calcs:
        legend.display_mode(common_models.LegendDisplayMode.TABLE).placement(common_models.LegendPlacement.RIGHT)
        legend.sort_by(calcs[0].capitalize()).sort_desc(True)
    else:
        legend.display_mode(common_models.LegendDisplayMode.LIST).placement(common_models.LegendPlacement.BOTTOM)
    panel.legend(legend)
    if stacked:
        panel.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL).group("A"))
    return panel


def number(
    title: str,
    description: str,
    *queries: prometheus.Dataquery,
    unit: str = "short",
    width: int = 3,
    empty: str = "–",
    steps: Sequence[tuple[float | None, str]] = ((None, BLUE),),
    texts: Mapping[float, tuple[str, str]] | None = None,
) -> stat.Panel:
    """A stat panel, coloured by `steps`, or with a text for each value."""
    panel = common_parts(stat.Panel(), title, description, queries, unit=unit, size=(width, 4), empty=empty)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    panel.thresholds(thresholds(steps)).color_mode(common_models.BigValueColorMode.VALUE)
    panel.graph_mode(common_models.BigValueGraphMode.NONE)
    if texts:
        panel.mappings([mapping(texts)])
    return panel


def since_drop(scope: str, selector: str, width: int) -> list[Panel]:
    """Three stat panels about the open drop: its first minute, the plays missing since, when it is accepted.

    `scope` is "" or "merchant_". Without a drop they say so.
    """
    empty = {0.0: ("no drop", GREEN)}
    drop = f"smartstream_{scope}plays_drop_"

    def instant(metric: str) -> prometheus.Dataquery:
        # Grafana wants milliseconds.
        return now(f"1000 * max({drop}{metric}{{{selector}}}) or vector(0)")

    return [
        number(
            "Drop since",
            "The first minute of the drop that lasts.",
            instant("onset_timestamp_seconds"),
            unit="dateTimeAsIsoNoDateIfToday",
            width=width,
            steps=((None, RED),),
            texts=empty,
        ),
        number(
            "Plays missing",
            "Expected minus counted plays since the drop began.",
            now(f"max(smartstream_{scope}plays_lost{{{selector}}}) or vector(0)"),
            width=width,
            steps=((None, RED),),
            texts=empty,
        ),
        number(
            "New baseline at",
            "If the drop lasts until then, the lower plays become the baseline, and its alert ends.",
            instant("accept_timestamp_seconds"),
            unit="dateTimeAsIsoNoDateIfToday",
            width=width,
            texts=empty,
        ),
    ]


def bars(
    title: str,
    description: str,
    *queries: prometheus.Dataquery,
    unit: str = "short",
    size: tuple[int, int] = (6, 8),
    empty: str,
    steps: Sequence[tuple[float | None, str]] = ((None, BLUE),),
) -> bargauge.Panel:
    """A bar gauge: one bar for each series, coloured by `steps`."""
    panel = common_parts(bargauge.Panel(), title, description, queries, unit=unit, size=size, empty=empty)
    panel.orientation(common_models.VizOrientation.HORIZONTAL)
    panel.display_mode(common_models.BarGaugeDisplayMode.BASIC).min(0)
    panel.name_placement(common_models.BarGaugeNamePlacement.TOP)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    return panel.thresholds(thresholds(steps)).color_scheme(colours(models.FieldColorModeId.THRESHOLDS))


def heat(
    title: str, description: str, *queries: prometheus.Dataquery, unit: str = "s", size: tuple[int, int] = (12, 8)
) -> heatmap.Panel:
    """A heatmap of the buckets of a histogram."""
    empty = "No data in this range"
    panel = common_parts(heatmap.Panel(), title, description, queries, unit="short", size=size, empty=empty)
    return panel.calculate(False).y_axis(heatmap.YAxisConfig().unit(unit)).hide_legend()


def states(
    title: str,
    description: str,
    *queries: prometheus.Dataquery,
    texts: Mapping[float, tuple[str, str]],
    size: tuple[int, int] = (12, 4),
    empty: str,
) -> statetimeline.Panel:
    """A state timeline."""
    panel = common_parts(statetimeline.Panel(), title, description, queries, unit="short", size=size, empty=empty)
    panel.mappings([mapping(texts)]).merge_values(True).fill_opacity(70)
    panel.legend(common.VizLegendOptions().show_legend(False).display_mode(common_models.LegendDisplayMode.LIST))
    return panel.color_scheme(colours(models.FieldColorModeId.THRESHOLDS))


def grid(
    title: str,
    description: str,
    *queries: prometheus.Dataquery,
    columns: Mapping[str, str],
    hidden: Sequence[str] = (),
    sort: Sequence[str] = (),
    size: tuple[int, int] = (24, 10),
    empty: str,
) -> table.Panel:
    """A table with one row for each label set.

    Args:
        title: As for every panel.
        description: As for every panel.
        queries: Made with `rows`; the value of the first is the column `Value #A` (`Value` where it is the only one).
        columns: Label or value -> heading, in the order of the columns.
        hidden: Columns that only links use.
        sort: Headings of the columns to sort by, descending.
        size: As for every panel.
        empty: As for every panel.
    """
    panel = common_parts(table.Panel(), title, description, queries, unit="short", size=size, empty=empty)
    panel.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(
        models.DataTransformerConfig(id_val="filterFieldsByName", options={"include": {"names": list(columns)}})
    )
    panel.with_transformation(
        models.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": {},
                "indexByName": {name: place for place, name in enumerate(columns)},
                "renameByName": {name: heading for name, heading in columns.items() if name != heading},
            },
        )
    )
    panel.sort_by([common.TableSortByFieldState().display_name(heading).desc(True) for heading in sort])
    # Otherwise every empty cell shows `empty`, in the colour of 0.
    panel.override_by_field_type("number", [value("mappings", [NOTHING])])
    for name in hidden:
        panel.override_by_name(name, [value("custom.hidden", True)])
    return panel
