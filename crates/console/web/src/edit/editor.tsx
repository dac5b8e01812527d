// An object as YAML, changed by server-side apply: what was changed is tried first (dry run), shown
// as a difference, and then applied. What the server finds wrong is marked where it stands.

import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { LineCounter, parseDocument, stringify } from 'yaml';
import { ApiError, get, pathOf, send, words, type Cause } from '../api';
import { may, userName } from '../discovery';
import { useLive } from '../live';
import type { ManagedFields, Obj } from '../types';
import { Failure, Loading, tell } from '../ui/parts';
import { diff, folded, type DiffLine } from './diff';
import { chosen, kept, NOTHING, Schemas, type Fields, type Schema, type Value } from './sent';
import { lineOf } from './locate';
import { goToLine, YamlText } from './text';

/** Under which the fields that one sets here are owned. */
const MANAGER = 'tiphys-console';

interface Props {
  group: string;
  version: string;
  plural: string;
  namespace: string;
  name: string;
}

interface Problem {
  line: number;
  text: string;
}

/** What a dry run found, to be confirmed. */
interface Trial {
  lines: DiffLine[];
  /** Paths that were taken out and stay. */
  kept: string[];
  send: Send;
  /** Fields that others set and that are taken over. */
  owners: string[];
}

interface Send {
  replace: boolean;
  force: boolean;
}

interface Loaded {
  object: Obj;
  text: string;
  owned: Fields | undefined;
}

/** What was changed last and not sent: it is there again for the same person and the same object, after
 * another page was looked at or the token ran out. */
let draft: { key: string; base: string; text: string } | null = null;

const print = (value: unknown) => stringify(value, { lineWidth: 0, aliasDuplicateObjects: false });

/** What one edits: without what only the server writes. */
function editable(object: Obj): Record<string, Value> {
  const copy = structuredClone(object) as unknown as Record<string, Value>;
  delete copy.status;
  const meta = copy.metadata as Record<string, Value>;
  for (const field of ['managedFields', 'uid', 'resourceVersion', 'creationTimestamp', 'generation', 'selfLink', 'deletionTimestamp', 'deletionGracePeriodSeconds']) delete meta[field];
  return copy;
}

function ownedBy(all: ManagedFields[] | undefined): Fields | undefined {
  const own = all?.find((m) => m.manager === MANAGER && m.operation === 'Apply' && !m.subresource);
  return own?.fieldsV1 as Fields | undefined;
}

const schemaPages = new Map<string, Promise<Schemas>>();

/** What OpenAPI says of a group's types; without it lists are taken as a whole. */
function schemasOf(group: string, version: string): Promise<Schemas> {
  const path = `/openapi/v3/${group ? `apis/${group}` : 'api'}/${version}`;
  const known = schemaPages.get(path);
  if (known) return known;
  const page = get<{ components?: { schemas?: Record<string, Schema> } }>(path).then((d) => new Schemas(d.components?.schemas ?? {}));
  page.catch(() => schemaPages.delete(path));
  schemaPages.set(path, page);
  return page;
}

export function Editor(props: Props) {
  const path = pathOf(props.group, props.version, props.plural, props.namespace, props.name);
  const [loaded, setLoaded] = useState<Loaded | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const load = () => {
    setError(null);
    get<Obj>(path).then(
      (object) => setLoaded({ object, text: print(editable(object)), owned: ownedBy(object.metadata.managedFields) }),
      (e: unknown) => setError(e instanceof ApiError ? e : new ApiError(0, '', words(e))),
    );
  };
  useEffect(load, [path]);
  if (error) return <Failure what={`${props.plural} ${props.name}`} error={error} again={load} />;
  if (!loaded) return <Loading what="the object" />;
  return <Form key={loaded.object.metadata.resourceVersion} {...props} path={path} loaded={loaded} load={load} />;
}

function Form({ group, version, plural, namespace, name, path, loaded, load }: Props & { path: string; loaded: Loaded; load: () => void }) {
  const key = `${userName.value} ${path}`;
  const [text, setText] = useState(() => (draft?.key === key && draft.base === loaded.text ? draft.text : loaded.text));
  const [problems, setProblems] = useState<Problem[]>([]);
  const [trial, setTrial] = useState<Trial | null>(null);
  const [busy, setBusy] = useState(false);
  const [whole, setWhole] = useState(false);
  const reviewed = useRef<HTMLHeadingElement>(null);
  const writes = may('patch', group, plural, name);
  const live = useLive<Obj>(pathOf(group, version, plural, namespace), { fieldSelector: `metadata.name=${name}` });
  const newest = [...live.items.value.values()][0];
  const gone = live.phase.value === 'live' && newest?.metadata.uid !== loaded.object.metadata.uid;
  const stale = !gone && newest && newest.metadata.resourceVersion !== loaded.object.metadata.resourceVersion && !same(newest, loaded.object);
  const marks = useMemo(() => new Set(problems.map((p) => p.line)), [problems]);
  const changed = text !== loaded.text;
  /** Loads the object again, without what was changed here. */
  const fresh = () => {
    draft = null;
    load();
  };

  const edit = (value: string) => {
    setText(value);
    draft = value === loaded.text ? null : { key, base: loaded.text, text: value };
    setTrial(null);
    if (problems.length) setProblems([]);
  };

  /** Sends what was changed; tried only, or for good. Gives the object, or whose fields would be
   * taken over; nothing when something is wrong, which is then shown. */
  const submit = async (how: Send, dry: boolean): Promise<Obj | Cause[] | null> => {
    const lines = new LineCounter();
    const doc = parseDocument(text, { lineCounter: lines, prettyErrors: false });
    const broken = doc.errors.map((e) => ({ line: e.linePos?.[0].line ?? lines.linePos(e.pos[0]).line, text: e.message }));
    if (broken.length) {
      setProblems(broken);
      return null;
    }
    const edited = doc.toJS() as Record<string, Value> | null;
    if (typeof edited !== 'object' || edited === null || Array.isArray(edited)) {
      setProblems([{ line: 1, text: 'This is not an object.' }]);
      return null;
    }
    try {
      return await write(path, how, dry, loaded, edited, group, version);
    } catch (e) {
      const found = e instanceof ApiError ? e : new ApiError(0, '', words(e));
      if (dry && !how.force && found.causes.some((c) => c.reason === 'FieldManagerConflict')) return found.causes;
      setProblems(problemsOf(found).map(({ field, text: said }) => ({ line: lineOf(doc, lines, field), text: said })));
      return null;
    }
  };

  const review = async (how: Send) => {
    setBusy(true);
    setProblems([]);
    setTrial(null);
    let result = await submit(how, true);
    const sent = { ...how };
    const owners = Array.isArray(result) ? result : [];
    if (owners.length) {
      // Tried once more with the right of the last word, which the person gives when he has seen it.
      sent.force = true;
      result = await submit(sent, true);
    }
    setBusy(false);
    if (!result || Array.isArray(result)) return;
    const after = editable(result);
    const lines = folded(diff(loaded.text.split('\n'), print(after).split('\n')));
    const edited = parseDocument(text).toJS() as Value;
    setTrial({ lines, kept: how.replace ? [] : kept(editable(loaded.object) as Value, edited, after as Value), send: sent, owners: owners.map((c) => `${c.field ?? ''}: ${c.message ?? ''}`) });
    requestAnimationFrame(() => reviewed.current?.focus());
  };

  const apply = async (how: Send) => {
    setBusy(true);
    const result = await submit(how, false);
    setBusy(false);
    if (!result || Array.isArray(result)) return setTrial(null);
    tell(`${name} is changed`);
    fresh();
  };

  return (
    <div class="editor">
      <div class="tools">
        {writes ? <button class="primary" disabled={!changed || busy} onClick={() => void review({ replace: false, force: false })}>Review changes</button> : <span class="quiet">You may read this, and not change it.</span>}
        {changed && <button onClick={() => { edit(loaded.text); setProblems([]); }}>Discard</button>}
        <label class="check"><input type="checkbox" checked={whole} onChange={(e) => setWhole(e.currentTarget.checked)} />Whole object, to read</label>
        {gone && <span role="status">{newest ? 'It was deleted, and there is another one of its name.' : 'It was deleted.'} {newest && <button onClick={fresh}>{changed ? 'Discard and load that one' : 'Load that one'}</button>}</span>}
        {stale && <span role="status">It has changed since. <button onClick={fresh}>{changed ? 'Discard and load again' : 'Load again'}</button></span>}
        {writes && <span class="quiet">Ctrl-S reviews.</span>}
      </div>
      {problems.length > 0 && (
        <ul class="problems" role="alert">
          {problems.map((p, i) => <li key={i}><button onClick={() => goToLine(p.line)}>Line {p.line}</button> {p.text}</li>)}
        </ul>
      )}
      {trial && (
        <section aria-label="Changes">
          <h2 tabIndex={-1} ref={reviewed}>{trial.lines.some((l) => l.kind === 'added' || l.kind === 'removed') ? 'What will change' : 'Nothing would change'}</h2>
          <Diff lines={trial.lines} />
          {trial.kept.length > 0 && (
            <p>Taken out here, and kept by the server since others set it: {trial.kept.slice(0, 8).map((k) => <code key={k}>{k} </code>)} <button onClick={() => void review({ replace: true, force: false })}>Replace the object instead</button></p>
          )}
          {trial.owners.length > 0 && <p>Others have set, and may set again: {trial.owners.map((o) => <code key={o}>{o} </code>)}</p>}
          <div class="dialog-actions"><button onClick={() => setTrial(null)}>Back</button><button class="primary" disabled={busy} onClick={() => void apply(trial.send)}>{trial.send.replace ? 'Replace' : trial.send.force ? 'Take over and apply' : 'Apply'}</button></div>
        </section>
      )}
      {whole
        ? <YamlText value={print(loaded.object)} set={() => undefined} label="Whole object as YAML" marks={new Set()} readOnly review={() => undefined} />
        : <YamlText value={text} set={edit} label="Object as YAML" marks={marks} readOnly={!writes} review={() => changed && void review({ replace: false, force: false })} />}
    </div>
  );
}

/** Whether two versions of an object differ for who edits it. */
function same(a: Obj, b: Obj): boolean {
  return JSON.stringify(editable(a)) === JSON.stringify(editable(b));
}

function Diff({ lines }: { lines: DiffLine[] }) {
  if (!lines.some((l) => l.kind !== 'same' && l.kind !== 'gap')) return <p class="quiet">The server makes the same object of it.</p>;
  const sign = { same: ' ', added: '+', removed: '−', gap: ' ' };
  return <div class="diff" tabIndex={0} role="region" aria-label="Difference">{lines.map((l, i) => <div key={i} class={l.kind}>{sign[l.kind]} {l.text}</div>)}</div>;
}

async function write(path: string, how: Send, dry: boolean, loaded: Loaded, edited: Record<string, Value>, group: string, version: string): Promise<Obj> {
  const query = new URLSearchParams({ fieldManager: MANAGER, fieldValidation: 'Strict' });
  if (dry) query.set('dryRun', 'All');
  if (how.replace) {
    const { resourceVersion, uid } = loaded.object.metadata;
    const metadata = { ...(edited.metadata as Record<string, Value>), resourceVersion, uid };
    const body = JSON.stringify({ ...edited, metadata, ...(loaded.object.status ? { status: loaded.object.status } : {}) });
    const response = await send(`${path}?${query}`, { method: 'PUT', headers: { 'Content-Type': 'application/json' }, body });
    return (await response.json()) as Obj;
  }
  const schemas = await schemasOf(group, version).catch(() => new Schemas({}));
  const schema = schemas.of(group, version, String(edited.kind));
  const part = chosen(schemas, editable(loaded.object) as Value, edited as Value, schema, loaded.owned);
  const { name, namespace, uid } = loaded.object.metadata;
  const config = part === NOTHING ? {} : (part as Record<string, Value>);
  const own = (edited.metadata ?? {}) as Record<string, Value>;
  // Another name or kind than that of the path is the server's to refuse; and if this object was deleted
  // meanwhile, no part of it is brought back.
  const metadata = { ...(config.metadata as object | undefined), uid, name: own.name ?? name, ...(namespace ? { namespace: own.namespace ?? namespace } : {}) };
  const body = JSON.stringify({ ...config, apiVersion: edited.apiVersion, kind: edited.kind, metadata });
  if (how.force) query.set('force', 'true');
  const response = await send(`${path}?${query}`, { method: 'PATCH', headers: { 'Content-Type': 'application/apply-patch+yaml' }, body });
  return (await response.json()) as Obj;
}

/** What is wrong with which field: causes, or the fields that strict decoding names. */
function problemsOf(error: ApiError): { field: string; text: string }[] {
  if (error.causes.length) return error.causes.map((c) => ({ field: c.field ?? '', text: [c.field, c.message].filter(Boolean).join(': ') }));
  const strict = [...error.message.matchAll(/(unknown|duplicate) field "([^"]+)"/g)];
  if (strict.length) return strict.map(([, what, field]) => ({ field: field ?? '', text: `${what} field ${field}` }));
  const typed = /^(?:.*: )?(\.[\w.[\]"=-]+): (.*)$/.exec(error.message);
  return [{ field: typed?.[1] ?? '', text: typed ? `${typed[1]?.slice(1)}: ${typed[2]}` : error.message }];
}
