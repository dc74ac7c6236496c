// Draws the panels of one dashboard with Grafana's own components, from the answers of a real Prometheus.
// What it needs is in `window.drawing`, which grafana/render/__main__.py writes.

import React, { useEffect, useState } from 'react';
import { createRoot } from 'react-dom/client';
import {
  createTheme, dateTime, FieldColorModeId, FieldType, getDisplayProcessor, getDisplayValueAlignmentFactors,
  getFieldDisplayName, standardTransformers, standardTransformersRegistry, ThemeContext, toDataFrame,
  transformDataFrame, VizOrientation, type DataFrame, type DisplayValue, type Field, type FieldConfig,
} from '@grafana/data';
import { BarGauge, BigValue, GlobalStyles, PanelChrome, Table, TimeSeries, VizRepeater } from '@grafana/ui';

type Labels = Record<string, string>;
type Series = { metric: Labels; values?: Array<[number, string]>; value?: [number, string] };
type Target = { refId: string; legendFormat?: string; instant?: boolean; format?: string };
type Panel = {
  id: number; type: string; title: string; options?: any; targets: Target[]; transformations?: any[];
  gridPos: { x: number; y: number; w: number; h: number };
  fieldConfig: { defaults: FieldConfig; overrides: Array<{ matcher: { id: string; options: string }; properties: Array<{ id: string; value: any }> }> };
};
type Drawing = { panels: Panel[]; answers: Record<number, Record<string, Series[]>>; from: number; to: number; step: number };

const drawing: Drawing = (window as any).drawing;
const theme = createTheme({ colors: { mode: 'dark' } });
// Of all times, as the dashboards use the browser's.
const ZONE = 'Asia/Tokyo';
const WIDTH = 1600, GAP = 8, CELL = 30;
const range = { from: dateTime(drawing.from * 1000), to: dateTime(drawing.to * 1000), raw: { from: dateTime(drawing.from * 1000), to: dateTime(drawing.to * 1000) } };

const legend = (format: string | undefined, labels: Labels) =>
  (format ?? '').replace(/\{\{\s*(\w+)\s*\}\}/g, (_, name) => labels[name] ?? '') || Object.values(labels).join(' ') || 'Value';

/** A frame for each series, as Grafana's data source makes them; instants on the grid, null where nothing is. */
function frames(panel: Panel): DataFrame[] {
  return panel.targets.flatMap((target) => {
    const series = drawing.answers[panel.id][target.refId];
    if (target.format === 'table') {
      return series.length ? [tableFrame(target, series, panel.targets.length > 1)] : [];
    }
    return series.map(({ metric, values, value }) => {
      const known = new Map((values ?? [value!]).map(([at, text]) => [Math.round(at), Number(text)]));
      const times = values ? grid() : [value![0]];
      return toDataFrame({
        refId: target.refId,
        fields: [
          { name: 'Time', type: FieldType.time, values: times.map((at) => at * 1000), config: {} },
          {
            name: 'Value', type: FieldType.number, labels: metric,
            values: values ? times.map((at) => known.get(Math.round(at)) ?? null) : [Number(value![1])],
            config: { displayNameFromDS: legend(target.legendFormat, metric) },
          },
        ],
      });
    });
  });
}

const grid = () => {
  const times = [];
  for (let at = drawing.from; at <= drawing.to; at += drawing.step) { times.push(at); }
  return times;
};

function tableFrame(target: Target, series: Series[], several: boolean): DataFrame {
  const labels = [...new Set(series.flatMap(({ metric }) => Object.keys(metric)))].sort();
  return toDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: series.map(({ value }) => value![0] * 1000), config: {} },
      ...labels.map((name) => ({ name, type: FieldType.string, values: series.map(({ metric }) => metric[name] ?? ''), config: {} })),
      { name: several ? `Value #${target.refId}` : 'Value', type: FieldType.number, values: series.map(({ value }) => Number(value![1])), config: {} },
    ],
  });
}

/** Gives each field its configuration: the panel's, then what the overrides say of it. */
function configured(panel: Panel, data: DataFrame[]): DataFrame[] {
  data.forEach((frame, frameIndex) => frame.fields.forEach((field) => {
    if (field.type === FieldType.time) { field.display = getDisplayProcessor({ field, theme, timeZone: ZONE }); return; }
    const config: any = structuredClone({ ...panel.fieldConfig.defaults, ...field.config });
    config.custom = { ...(panel.fieldConfig.defaults.custom ?? {}) };
    const name = getFieldDisplayName(field, frame, data);
    for (const { matcher, properties } of panel.fieldConfig.overrides) {
      const hits = {
        byRegexp: () => new RegExp(matcher.options.slice(1, -1)).test(name),
        byType: () => field.type === matcher.options,
        byName: () => [name, field.name].includes(matcher.options),
      }[matcher.id]!();
      if (!hits) { continue; }
      for (const { id, value } of properties) {
        if (id === 'links') { continue; }
        if (id.startsWith('custom.')) { config.custom[id.slice(7)] = value; } else { config[id] = value ?? undefined; }
      }
    }
    config.color ??= { mode: panel.type === 'timeseries' ? FieldColorModeId.PaletteClassic : FieldColorModeId.Thresholds };
    field.config = config;
    field.state = { ...field.state, seriesIndex: frameIndex, displayName: config.displayName ?? field.state?.displayName };
    for (const step of config.thresholds?.steps ?? []) { step.value ??= -Infinity; }
    field.display = getDisplayProcessor({ field, theme, timeZone: ZONE });
  }));
  return data;
}

standardTransformersRegistry.setInit(() =>
  [standardTransformers.mergeTransformer, standardTransformers.filterFieldsByNameTransformer, standardTransformers.organizeFieldsTransformer]
    .map((transformation) => ({ id: transformation.id, name: transformation.name, transformation })) as any);

/** The newest number of each series, as it is to be shown. */
function newest(data: DataFrame[]): Array<{ field: Field; display: DisplayValue }> {
  return data.flatMap((frame) => frame.fields.filter((field) => field.type === FieldType.number).map((field) => {
    const numbers = field.values.filter((value: number | null) => value !== null);
    return { field, display: { ...field.display!(numbers[numbers.length - 1]), title: getFieldDisplayName(field, frame, data) } };
  }));
}

type Size = { width: number; height: number };

function Bars({ panel, data, width, height }: { panel: Panel; data: DataFrame[] } & Size) {
  const values = newest(data);
  const max = Math.max(...values.map(({ display }) => display.numeric));
  return (
    <VizRepeater
      width={width} height={height} source={data} renderCounter={0} orientation={VizOrientation.Horizontal} itemSpacing={4}
      getValues={() => values}
      getAlignmentFactors={(all) => getDisplayValueAlignmentFactors(all as any)}
      minVizHeight={16} maxVizHeight={300}
      renderValue={({ value, width, height, alignmentFactors }: any) => (
        <BarGauge
          theme={theme} width={width} height={height} value={value.display} display={value.field.display}
          field={{ ...value.field.config, min: 0, max: value.field.config.max ?? max }} orientation={VizOrientation.Horizontal}
          displayMode={panel.options.displayMode} namePlacement={panel.options.namePlacement} text={panel.options.text ?? { titleSize: 14, valueSize: 14 }}
          showUnfilled alignmentFactors={alignmentFactors} isOverflow={false}
        />
      )}
    />
  );
}

function Number_({ panel, data, width, height }: { panel: Panel; data: DataFrame[] } & Size) {
  const [{ display }] = newest(data);
  return (
    <BigValue
      theme={theme} width={width} height={height} value={{ ...display, title: panel.options.textMode === 'name' ? display.title : undefined }}
      colorMode={panel.options.colorMode} graphMode={panel.options.graphMode} textMode={panel.options.textMode}
    />
  );
}

function Grid({ panel, data, width, height }: { panel: Panel; data: DataFrame[] } & Size) {
  const [frame, setFrame] = useState<DataFrame>();
  useEffect(() => {
    const done = transformDataFrame(panel.transformations as any, data).subscribe(([made]) => setFrame(configured(panel, [made])[0]));
    return () => done.unsubscribe();
  }, []);
  return frame ? <Table data={frame} width={width} height={height} initialSortBy={panel.options.sortBy} enablePagination={false} /> : null;
}

function Lines({ panel, data, width, height }: { panel: Panel; data: DataFrame[] } & Size) {
  return (
    <TimeSeries frames={data} structureRev={1} timeRange={range as any} timeZone={ZONE} width={width} height={height} legend={panel.options.legend} options={panel.options}>
      {() => null}
    </TimeSeries>
  );
}

const KINDS: Record<string, React.ComponentType<any>> = { timeseries: Lines, stat: Number_, bargauge: Bars, table: Grid };

function Body(props: { panel: Panel } & Size) {
  const { panel } = props;
  const data = configured(panel, frames(panel));
  const Kind = KINDS[panel.type];
  if (data.length === 0) { return <Note text={panel.fieldConfig.defaults.noValue ?? 'No data'} />; }
  return Kind ? <Kind {...props} data={data} /> : <Note text="Drawn by Grafana itself" />;
}

const Note = ({ text }: { text: string }) => (
  <div style={{ height: '100%', display: 'grid', placeItems: 'center', color: theme.colors.text.secondary }}>{text}</div>
);

function Page() {
  const column = (WIDTH + GAP) / 24;
  const bottom = Math.max(...drawing.panels.map(({ gridPos }) => gridPos.y + gridPos.h));
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <div id="page" style={{ position: 'relative', width: WIDTH, height: bottom * (CELL + GAP), background: theme.colors.background.canvas }}>
        {drawing.panels.map((panel) => {
          const { x, y, w, h } = panel.gridPos;
          const width = w * column - GAP, height = h * (CELL + GAP) - GAP;
          return (
            <div key={panel.id} style={{ position: 'absolute', left: x * column, top: y * (CELL + GAP), width, height }}>
              {panel.type === 'row'
                ? <div style={{ fontWeight: 500, lineHeight: `${CELL}px` }}>{panel.title}</div>
                : <PanelChrome title={panel.title} width={width} height={height}>{(w, h) => <Body panel={panel} width={w} height={h} />}</PanelChrome>}
            </div>
          );
        })}
      </div>
    </ThemeContext.Provider>
  );
}

createRoot(document.getElementById('root')!).render(<Page />);
