// Every kind that the server has, custom ones too: the list of kinds, the objects of one with the
// columns that kubectl prints, and one object.

import type { ComponentChildren } from 'preact';
import { useEffect, useMemo, useState } from 'preact/hooks';
import { ApiError, get, pathOf, remove, send, words } from '../api';
import { discover, kindOf, kinds, kindsError, mayList, may, scoped, type Kind } from '../discovery';
import { lines, passes, useLive } from '../live';
import type { About as Asked } from '../model/answer';
import { whyObject } from '../model/why';
import { href, route, scope } from '../state';
import type { Condition, Event, Meta, Obj } from '../types';
import { Confirm } from '../ui/confirm';
import { Events, linkOf, objectLink } from '../ui/events';
import { lazy } from '../ui/lazy';
import { Age, Empty, Facts, Failure, Heading, Labels, lately, Loading, Section, Shown, Stale, Tabs, tell } from '../ui/parts';
import { Table, type Column } from '../ui/table';
import { WhySection } from '../ui/why';
import { Conditions } from './nodes';

const Editor = lazy('the editor', () => import('../edit/editor').then((m) => m.Editor));

export function Kinds() {
  useEffect(() => void discover(), []);
  const error = kindsError.value;
  const all = useMemo(() => kinds.value.filter((k) => k.verbs.includes('list')).sort((a, b) => (a.kind < b.kind ? -1 : 1)), [kinds.value]);
  const columns: Column<Kind>[] = [
    { title: 'Kind', cell: (k) => k.kind, by: (k) => k.kind, width: '32%' },
    { title: 'Group', cell: (k) => k.group || 'core', by: (k) => k.group },
    { title: 'Version', cell: (k) => k.version, from: 2, width: '7rem' },
    { title: 'Where', cell: (k) => (k.namespaced ? 'in namespaces' : 'cluster'), by: (k) => String(k.namespaced), from: 2 },
    { title: 'Short', cell: (k) => k.shortNames.join(', '), from: 3 },
  ];
  return (
    <>
      <Heading title="All kinds" sub="What this server knows, custom resources too" />
      {error && <Failure what="the kinds" error={error} />}
      <Table label="kinds" rows={all} columns={columns} keyOf={(k) => `${k.group}/${k.plural}`} link={(k) => href('k', k.group || 'core', k.plural)} text={(k) => `${k.kind} ${k.plural} ${k.group} ${k.shortNames.join(' ')}`} />
    </>
  );
}

interface TableRow {
  cells: unknown[];
  object: { metadata: Meta };
}

interface TableAnswer {
  columnDefinitions: { name: string; type: string; priority: number }[];
  rows: TableRow[];
  metadata?: { resourceVersion?: string; continue?: string };
}

const TABLE = 'application/json;as=Table;v=v1;g=meta.k8s.io,application/json';
/** Milliseconds until a list is asked for again whose watch has ended, at first and at most. */
const AGAIN_MS: [number, number] = [2_000, 30_000];
/** Rows of one list: more are not drawn, and it is said so. */
const MOST = 5_000;

interface Printed {
  columns: TableAnswer['columnDefinitions'];
  rows: ReadonlyMap<string, TableRow>;
  error: ApiError | null;
  loaded: boolean;
  more: boolean;
  /** The connection is lost: the rows are those that were known last. */
  stale: boolean;
}

const NOTHING: Printed = { columns: [], rows: new Map(), error: null, loaded: false, more: false, stale: false };

/** A list as the server prints it, kept true by a watch of the same shape. */
function usePrinted(path: string, watchable: boolean): Printed & { again: () => void } {
  const [state, set] = useState<Printed>(NOTHING);
  const [round, setRound] = useState(0);
  useEffect(() => {
    const stop = new AbortController();
    let timer = 0;
    set(NOTHING);
    const run = async () => {
      const list = await get<TableAnswer>(`${path}?limit=${MOST}`, TABLE, stop.signal);
      let rows = new Map(list.rows.map((r) => [r.object.metadata.uid, r]));
      set({ ...NOTHING, columns: list.columnDefinitions, rows, loaded: true, more: !!list.metadata?.continue });
      if (!watchable) return;
      const query = new URLSearchParams({ watch: 'true', allowWatchBookmarks: 'true', resourceVersion: list.metadata?.resourceVersion ?? '' });
      const response = await send(`${path}?${query}`, { signal: stop.signal, headers: { Accept: TABLE } });
      const next = new Map(rows);
      for await (const line of lines(response)) {
        const event = JSON.parse(line) as { type: string; object: TableAnswer };
        if (event.type === 'ERROR') break;
        if (event.type === 'BOOKMARK') continue;
        for (const row of event.object.rows) {
          if (event.type === 'DELETED') next.delete(row.object.metadata.uid);
          else next.set(row.object.metadata.uid, row);
        }
        timer ||= window.setTimeout(() => {
          timer = 0;
          rows = new Map(next);
          set((old) => ({ ...old, rows }));
        }, 100);
      }
    };
    const loop = async () => {
      let pause = AGAIN_MS[0];
      while (!stop.signal.aborted) {
        try {
          await run();
          pause = AGAIN_MS[0];
          if (!watchable) return;
        } catch (e) {
          if (stop.signal.aborted) return;
          const error = e instanceof ApiError ? e : new ApiError(0, '', words(e));
          if (!passes(error)) {
            set((old) => ({ ...old, error, loaded: true }));
            return;
          }
          // What is shown stays, and is said to be old; where nothing is, it is said why.
          if (!error.gone) set((old) => (old.loaded && !old.error ? { ...old, stale: true } : { ...old, error, loaded: true }));
        }
        await new Promise((done) => setTimeout(done, pause));
        pause = Math.min(pause * 2, AGAIN_MS[1]);
      }
    };
    void loop();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [path, watchable, round]);
  return { ...state, again: () => setRound((n) => n + 1) };
}

/** A kind that is not there, or not known yet: it may have come since one signed in. */
function NoKind({ group, plural }: { group: string; plural: string }) {
  useEffect(() => void discover(), [group, plural]);
  return (
    <>
      <Heading title={plural} />
      {kinds.value.length ? <Empty title={`The server has no ${plural}${group && ` of ${group}`}`}><a href={href('kinds')}>All kinds</a></Empty> : <Loading what="the kinds" />}
    </>
  );
}

export function KindList({ group, plural }: { group: string; plural: string }) {
  const kind = kindOf(group, plural);
  if (!kind) return <NoKind group={group} plural={plural} />;
  return <Objects key={`${group}/${plural}`} kind={kind} />;
}

function Objects({ kind }: { kind: Kind }) {
  const path = scoped(kind.group, kind.version, kind.plural, kind.namespaced);
  const { columns, rows, error, loaded, more, stale, again } = usePrinted(path, kind.verbs.includes('watch'));
  const all = useMemo(() => [...rows.values()].sort((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1)), [rows]);
  const shown = columns.map((c, at) => ({ ...c, at })).filter((c) => c.priority === 0);
  const table: Column<TableRow>[] = shown.map((c, i) => ({
    title: c.name,
    cell: (r) => (c.name === 'Age' && r.object.metadata.creationTimestamp ? <Age of={r.object.metadata.creationTimestamp} /> : text(r.cells[c.at])),
    by: (r) => (c.name === 'Age' ? -Date.parse(r.object.metadata.creationTimestamp ?? '') : typeof r.cells[c.at] === 'number' ? (r.cells[c.at] as number) : text(r.cells[c.at])),
    number: c.type === 'integer' || c.type === 'number',
    from: i < 2 ? 1 : i < 4 ? 2 : 3,
  }));
  const inside = kind.namespaced && !scope.value;
  if (inside) table.splice(1, 0, { title: 'Namespace', cell: (r) => r.object.metadata.namespace, by: (r) => r.object.metadata.namespace ?? '', from: 2 });
  return (
    <>
      <Heading title={kind.kind} sub={`${kind.group || 'core'}/${kind.version}${kind.namespaced ? ` · ${scope.value ? `namespace ${scope.value}` : 'all namespaces'}` : ''}`} />
      {error ? <Failure what={kind.plural} error={error} again={again} /> : !loaded ? <Loading what={kind.plural} /> : (
        <>
          {stale && <Stale />}
          {more && <p class="stale">There are more than {MOST}: choose a namespace to see the rest.</p>}
          <Table label={kind.plural} rows={all} columns={table} keyOf={(r) => r.object.metadata.uid}
            link={(r) => objectPage(kind, r.object.metadata)} text={(r) => `${r.object.metadata.namespace ?? ''} ${r.cells.map(text).join(' ')}`} />
        </>
      )}
    </>
  );
}

const keyOf = (r: TableRow) => `${r.object.metadata.namespace ?? ''}/${r.object.metadata.name}`;
const text = (cell: unknown) => (cell === null || cell === undefined ? '' : String(cell));

/** The page of an object: the one of its kind where there is one. */
export function objectPage(kind: Kind, meta: { name: string; namespace?: string }): string {
  const version = kind.group ? `${kind.group}/${kind.version}` : kind.version;
  if (['Pod', 'Node', 'Service', 'Deployment', 'StatefulSet', 'DaemonSet', 'Job', 'CronJob'].includes(kind.kind)) {
    return linkOf(version, kind.kind, meta.namespace ?? '', meta.name);
  }
  return objectLink(kind.group, kind.version, kind.plural, meta.namespace ?? '', meta.name);
}

export function ObjectPage({ group, version, plural, namespace, name }: { group: string; version: string; plural: string; namespace: string; name: string }) {
  const kind = kindOf(group, plural);
  const watchable = kind?.verbs.includes('watch') ?? true;
  const live = useLive<Obj>(watchable ? pathOf(group, version, plural, namespace) : '', { fieldSelector: `metadata.name=${name}` });
  const tab = route.value.query.get('tab') ?? (watchable ? 'about' : 'yaml');
  const place = href('o', group || 'core', version, plural, ...(namespace ? [namespace] : []), name);
  const title = kind?.kind ?? plural;
  const events = useLive<Event>(kind && mayList('', 'events') ? pathOf('', 'v1', 'events', namespace) : '', { fieldSelector: `involvedObject.kind=${kind?.kind ?? ''},involvedObject.name=${name}` });
  const [asking, ask] = useState(false);
  const object = [...live.items.value.values()][0];
  const end = async () => {
    ask(false);
    try {
      await remove(pathOf(group, version, plural, namespace, name));
      tell(`${title} ${name} is being deleted`);
    } catch (e) {
      tell(words(e), true);
    }
  };
  return (
    <>
      <Heading title={name} sub={<span class="quiet">{title}{namespace && ` in ${namespace}`}</span>}>
        {object && may('delete', group, plural) && <button onClick={() => ask(true)}>Delete…</button>}
      </Heading>
      {asking && <Confirm title={`Delete ${title} ${name}?`} verb="Delete" close={() => ask(false)} act={() => void end()} />}
      <Tabs label="Parts of the object" current={tab} all={[{ id: 'about', title: 'About', link: place }, { id: 'yaml', title: 'YAML', link: `${place}?tab=yaml` }]} />
      {tab === 'yaml' ? <Editor group={group} version={version} plural={plural} namespace={namespace} name={name} /> : (
        <Shown live={live} what={`${title} ${name}`} empty={<Empty title={`There is no ${title} ${name}`} />}>
          {() => object && <About title={title} object={object} about={{ group, plural, namespace, name }} seen={[...events.items.value.values()]} events={<Events live={events} most={20} />} />}
        </Shown>
      )}
    </>
  );
}

function About({ title, object, about, seen, events }: { title: string; object: Obj; about: Asked; seen: Event[]; events: ComponentChildren }) {
  const m = object.metadata;
  const status = (object.status ?? {}) as Record<string, unknown>;
  const conditions = Array.isArray(status.conditions) ? (status.conditions as Condition[]) : undefined;
  const simple = Object.entries(status).filter(([, v]) => ['string', 'number', 'boolean'].includes(typeof v));
  return (
    <>
      <WhySection all={whyObject(title, object, seen, lately.value)} about={about} />
      <div class="columns">
        <Section title="About">
          <Facts all={[
            ['Made', <><Age of={m.creationTimestamp} /> ago</>],
            ['Owners', m.ownerReferences?.map((o) => <a key={o.uid} href={linkOf(o.apiVersion, o.kind, m.namespace ?? '', o.name)}>{o.kind} {o.name}</a>)],
            ['Finalizers', m.finalizers?.join(', ')],
            ['Labels', <Labels all={m.labels} />], ['Annotations', <Labels all={m.annotations} />],
            ...simple.map(([k, v]): [string, string] => [k, String(v)]),
          ]} />
        </Section>
        {conditions && <Section title="Conditions"><Conditions all={conditions} goodFalse={(t) => t === 'ScalingLimited'} /></Section>}
      </div>
      <Section title="Events">{events}</Section>
    </>
  );
}
