// Plots over time. What they show also stands beside them in words, for who cannot see them.

import { useEffect, useRef } from 'preact/hooks';
import uPlot from 'uplot';
import { bytes, shownTimes } from '../model/format';
import { isDark } from '../state';
import { lastOf, type Line, type Traffic } from '../usage';

export interface Series {
  name: string;
  line: Line;
}

interface Props {
  title: string;
  series: Series[];
  format: (value: number) => string;
  /** The scale reaches at least to here. */
  most?: number;
  /** Shown large beside the title; the last value of the first series without it. */
  current?: string;
  note?: string;
  /** Said where the line would be, of what cannot be had. */
  instead?: string;
  height?: number;
}

/** What goes in and out by the network, or why that is not known. */
export function NetworkPlot({ of, instead }: { of: Traffic | undefined; instead: string }) {
  const series = [{ name: 'Received', line: of?.received ?? NONE }, { name: 'Sent', line: of?.sent ?? NONE }];
  return <Plot title="Network" series={series} format={perSecond} current={perSecond(lastOf(of?.received) + lastOf(of?.sent))} instead={instead} />;
}

const NONE: Line = { times: [], values: [] };
const perSecond = (v: number) => `${bytes(v)}/s`;

/** Colours of lines, told apart also by who does not see all colours. */
const COLOURS = { light: ['#0d6e83', '#b4570c', '#6d4bb0', '#4a7a1e', '#a8336a'], dark: ['#56c2d6', '#f0a35e', '#b39ae8', '#9ccb6b', '#ee8ab5'] };

const clock = (seconds: number) => new Date(seconds * 1000).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });

/** Series on one scale of time: all times of all of them, with gaps where one has none. */
function joined(series: Series[]): uPlot.AlignedData {
  const [one] = series;
  if (series.length === 1 && one) return [one.line.times, one.line.values];
  return uPlot.join(series.map((s) => [s.line.times, s.line.values] as uPlot.AlignedData));
}

export function Plot({ title, series, format, most, current, note, instead, height = 120 }: Props) {
  const at = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const dark = isDark.value;
  const shape = `${dark} ${series.map((s) => s.name).join()}`;
  const samples = series[0]?.line.times.length ?? 0;
  const stamp = series[0]?.line.times.at(-1);
  const enough = samples > 1 && !instead;

  useEffect(() => {
    const box = at.current;
    if (!box || !enough) return undefined;
    plot.current = new uPlot(optionsOf(box, series, format, most, dark, height), joined(series), box);
    const watch = new ResizeObserver(() => plot.current?.setSize({ width: box.clientWidth, height }));
    watch.observe(box);
    return () => {
      watch.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [shape, enough, most]);
  useEffect(() => plot.current?.setData(joined(series)), [samples, stamp]);

  const shown = current ?? format(series[0]?.line.values.at(-1) ?? 0);
  const said = series.map((s) => `${s.name} ${format(s.line.values.at(-1) ?? 0)}`).join(', ');
  return (
    <figure class="plot">
      <figcaption><span class="plot-title">{title}</span><strong>{samples && !instead ? shown : '—'}</strong>{note && <span class="quiet">{note}</span>}</figcaption>
      <div ref={at} class="plot-box" style={{ height: `${height}px` }} role="img" aria-label={instead ? `${title}: ${instead}` : `${title} over time. Now: ${said || 'nothing yet'}`}>
        {!enough && <p class="plot-wait">{instead || (samples ? 'The line begins in 15 s.' : 'No figures yet.')}</p>}
      </div>
      {series.length > 1 && !instead && (
        <p class="legend" aria-hidden="true">
          {series.map((s, i) => <span key={s.name}><i class={`line${i % 5}`} />{s.name}</span>)}
        </p>
      )}
    </figure>
  );
}

function optionsOf(box: HTMLElement, series: Series[], format: (v: number) => string, most: number | undefined, dark: boolean, height: number): uPlot.Options {
  const colours = COLOURS[dark ? 'dark' : 'light'];
  const axis = { stroke: dark ? '#9aa7ae' : '#5a656c', font: '11px system-ui, sans-serif', ticks: { show: false } };
  const grid = { stroke: dark ? '#232d33' : '#ecebe7', width: 1 };
  return {
    width: box.clientWidth, height,
    padding: [8, 4, 0, 0],
    legend: { show: false },
    cursor: { y: false, points: { size: 6 } },
    scales: {
      x: { time: true, range: (u) => shownTimes(u.data[0]) },
      y: { range: (_, __, max) => [0, Math.max(max * 1.15, most ?? 0, 1e-9)] },
    },
    axes: [
      { ...axis, grid: { show: false }, space: 70, size: 24, values: (_, all) => all.map(clock) },
      { ...axis, grid, size: 58, space: 32, values: (_, all) => all.map((v) => format(v)) },
    ],
    series: [
      {},
      ...series.map((s, i) => {
        const stroke = colours[i % colours.length] ?? '#888';
        return { label: s.name, stroke, width: 1.75, points: { show: false }, spanGaps: true, ...(series.length === 1 ? { fill: stroke + '1c' } : {}) };
      }),
    ],
  };
}
