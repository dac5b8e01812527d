// A table that draws only the rows that are in sight: lists of thousands stay smooth. j and k move
// between rows, Enter opens one.

import type { ComponentChildren } from 'preact';
import { useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks';
import { scope } from '../state';

export interface Column<T> {
  title: string;
  cell: (row: T) => ComponentChildren;
  /** What it is sorted by; not sortable without. */
  by?: (row: T) => string | number;
  /** Share of the width. */
  width?: string;
  /** From which width of the page on it is shown: 1 always, 2 tablets, 3 desks. */
  from?: 1 | 2 | 3;
  number?: boolean;
}

interface Props<T> {
  label: string;
  rows: T[];
  columns: Column<T>[];
  keyOf: (row: T) => string;
  /** Where a row leads; its first cell is the link. */
  link: (row: T) => string;
  /** Text that the filter is looked for in; no filter without. */
  text?: (row: T) => string;
  empty?: ComponentChildren;
  /** Stands beside the filter. */
  tools?: ComponentChildren;
  /** All rows are of one namespace, which is said elsewhere: no column repeats it. */
  within?: boolean;
}

/** Pixels of a row; the style sheet has the same number. */
const ROW = 44;
/** Rows drawn above and below what is in sight. */
const BEYOND = 12;

export function Table<T>({ label, rows, columns: all, keyOf, link, text, empty, tools, within }: Props<T>) {
  const columns = within || scope.value ? all.filter((c) => c.title !== 'Namespace') : all;
  const [filter, setFilter] = useState('');
  const [order, setOrder] = useState<{ at: number; down: boolean } | null>(null);
  const body = useRef<HTMLTableSectionElement>(null);
  const wanted = useRef(-1);

  const shown = useMemo(() => {
    const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
    const found = text && words.length ? rows.filter((r) => matches(text(r), words)) : rows;
    const by = order && columns[order.at]?.by;
    if (!by) return found;
    const sign = order.down ? -1 : 1;
    return [...found].sort((a, b) => {
      const [x, y] = [by(a), by(b)];
      return x < y ? -sign : x > y ? sign : 0;
    });
    // Columns are made anew with each drawing and mean the same.
  }, [rows, filter, order]);

  const [first, last] = useWindow(body, shown.length);
  useLayoutEffect(() => {
    if (wanted.current < 0) return;
    const found = body.current?.querySelector<HTMLElement>(`tr[data-at="${wanted.current}"] a`);
    if (found) {
      found.focus({ preventScroll: true });
      wanted.current = -1;
    }
  });
  useMoves(body, shown.length, wanted);

  const sort = (at: number) => setOrder((o) => (o?.at === at ? (o.down ? null : { at, down: true }) : { at, down: false }));
  return (
    <div class="table-box">
      {(text || tools) && (
        <div class="tools">
          {text && (
            <input type="search" class="filter" data-filter placeholder="Filter" aria-label={`Filter ${label}`}
              value={filter} onInput={(e) => setFilter(e.currentTarget.value)} />
          )}
          {tools}
          <span class="count" role="status">{filter ? `${shown.length} of ${rows.length}` : rows.length}</span>
        </div>
      )}
      {shown.length === 0 ? (
        <div class="notice"><p class="notice-title">{filter ? `Nothing here matches “${filter}”` : (empty ?? `No ${label}`)}</p></div>
      ) : (
        <table aria-label={label} aria-rowcount={shown.length + 1}>
          <thead>
            <tr>
              {columns.map((c, at) => (
                <th key={c.title} scope="col" class={classOf(c)} style={c.width ? { width: c.width } : undefined}
                  aria-sort={order?.at === at ? (order.down ? 'descending' : 'ascending') : undefined}>
                  {c.by ? <button class="sort" onClick={() => sort(at)}>{c.title}</button> : c.title}
                </th>
              ))}
            </tr>
          </thead>
          <tbody ref={body}>
            {first > 0 && <tr class="space" style={{ height: `${first * ROW}px` }} aria-hidden="true"><td /></tr>}
            {shown.slice(first, last).map((row, i) => (
              <tr key={keyOf(row)} data-at={first + i} aria-rowindex={first + i + 2}>
                {columns.map((c, at) => {
                  const inner = c.cell(row);
                  // What is too long for its place can be read all the same.
                  return <td key={c.title} class={classOf(c)} title={typeof inner === 'string' ? inner : undefined}>{at === 0 ? <a href={link(row)}>{inner}</a> : inner}</td>;
                })}
              </tr>
            ))}
            {last < shown.length && <tr class="space" style={{ height: `${(shown.length - last) * ROW}px` }} aria-hidden="true"><td /></tr>}
          </tbody>
        </table>
      )}
    </div>
  );
}

function classOf<T>(c: Column<T>): string {
  return `from${c.from ?? 1}${c.number ? ' number' : ''}`;
}

function matches(text: string, words: string[]): boolean {
  const low = text.toLowerCase();
  return words.every((w) => low.includes(w));
}

/** The rows that are in sight, and some around them. */
function useWindow(body: { current: HTMLElement | null }, count: number): [number, number] {
  const [range, setRange] = useState<[number, number]>([0, 40]);
  useLayoutEffect(() => {
    const measure = () => {
      const top = body.current?.getBoundingClientRect().top;
      if (top === undefined) return;
      const first = Math.max(0, Math.floor(-top / ROW) - BEYOND);
      const last = Math.ceil((innerHeight - top) / ROW) + BEYOND;
      setRange((old) => (old[0] === first && old[1] === last ? old : [first, Math.max(last, first)]));
    };
    measure();
    addEventListener('scroll', measure, { passive: true });
    addEventListener('resize', measure);
    return () => {
      removeEventListener('scroll', measure);
      removeEventListener('resize', measure);
    };
  }, [count === 0]);
  const first = Math.min(range[0], Math.max(0, count - 1));
  return [first, Math.min(range[1], count)];
}

/** j and k, wherever the focus is, unless one types. */
function useMoves(body: { current: HTMLElement | null }, count: number, wanted: { current: number }): void {
  const [, draw] = useState(0);
  // With the rows, not after them: who sees a row can move.
  useLayoutEffect(() => {
    const move = (e: KeyboardEvent) => {
      const step = e.key === 'j' || e.key === 'ArrowDown' ? 1 : e.key === 'k' || e.key === 'ArrowUp' ? -1 : 0;
      if (!step || e.ctrlKey || e.metaKey || e.altKey || typing(e)) return;
      const row = document.activeElement?.closest<HTMLElement>('tr[data-at]');
      const inside = row && body.current?.contains(row);
      // With two tables on a page the one with the focus moves, and without focus the first.
      const mine = inside || (!row && document.querySelector('tbody') === body.current);
      if (!mine || !body.current || (e.key.startsWith('Arrow') && !inside)) return;
      e.preventDefault();
      const at = inside ? Number(row.dataset.at) + step : 0;
      const next = Math.max(0, Math.min(count - 1, at));
      wanted.current = next;
      const top = body.current.getBoundingClientRect().top + next * ROW;
      if (top < 120) scrollBy(0, top - 120);
      else if (top > innerHeight - 2 * ROW) scrollBy(0, top - innerHeight + 2 * ROW);
      draw((n) => n + 1);
    };
    addEventListener('keydown', move);
    return () => removeEventListener('keydown', move);
  }, [count]);
}

export function typing(e: KeyboardEvent): boolean {
  const at = e.target instanceof Element ? e.target : null;
  return !!at?.closest('input, textarea, select, [contenteditable], .shell, dialog');
}
