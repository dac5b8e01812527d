// One field that finds everything: pages, kinds, and objects of all kinds by their names.

import { signal } from '@preact/signals';
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { get } from '../api';
import { kinds, may, scoped, type Kind } from '../discovery';
import { href, go, scope, token } from '../state';
import { objectPage } from '../pages/kinds';
import { Dialog } from './parts';

export const paletteOpen = signal(false);

/** Results shown at once. */
const SHOWN = 40;
/** Objects per kind that are looked through; more are not asked for, and it is said so. */
const PER_KIND = 2_000;
/** Kinds that are asked for at a time. */
const AT_ONCE = 6;
/** Milliseconds for which what was found is good. */
const FRESH_MS = 30_000;

interface Hit {
  title: string;
  sub: string;
  link: string;
  text: string;
}

interface Names {
  items: { metadata: { name: string; namespace?: string } }[];
  metadata: { continue?: string };
}

const METADATA = 'application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io';
/** Kinds that no one looks for by name. */
const SKIPPED = new Set(['events', 'leases', 'controllerrevisions', 'componentstatuses', 'nodes.metrics', 'pods.metrics']);

let kept: { key: string; at: number; hits: Hit[]; cut: boolean } | null = null;

/** Names of all objects that this user may list, kind by kind, as they come. */
async function gather(found: (hits: Hit[]) => void, stop: AbortSignal): Promise<boolean> {
  const key = `${token.value} ${scope.value}`;
  if (kept?.key === key && Date.now() - kept.at < FRESH_MS) {
    found(kept.hits);
    return kept.cut;
  }
  const todo = kinds.value.filter((k) => k.verbs.includes('list') && k.verbs.includes('get') && !SKIPPED.has(k.plural) && k.group !== 'metrics.k8s.io' && may('list', k.group, k.plural) && !(k.kind === 'Event'));
  const all: Hit[] = [];
  let cut = false;
  const next = async (): Promise<void> => {
    const kind = todo.shift();
    if (!kind || stop.aborted) return;
    const path = scoped(kind.group, kind.version, kind.plural, kind.namespaced);
    const list = await get<Names>(`${path}?limit=${PER_KIND}`, METADATA, stop).catch(() => null);
    cut ||= !!list?.metadata.continue;
    all.push(...(list?.items ?? []).map((o) => hitOf(kind, o.metadata)));
    if (!stop.aborted) found(all);
    await next();
  };
  await Promise.all(Array.from({ length: AT_ONCE }, next));
  if (!stop.aborted) kept = { key, at: Date.now(), hits: all, cut };
  return cut;
}

function hitOf(kind: Kind, m: { name: string; namespace?: string }): Hit {
  const sub = m.namespace ? `${kind.kind} in ${m.namespace}` : kind.kind;
  return { title: m.name, sub, link: objectPage(kind, m), text: `${m.name} ${kind.kind} ${kind.plural} ${kind.shortNames.join(' ')} ${m.namespace ?? ''}`.toLowerCase() };
}

const PAGES: [string, string[]][] = [['Overview', []], ['Nodes', ['nodes']], ['Workloads', ['workloads']], ['Pods', ['pods']], ['Services', ['services']], ['Storage', ['storage']], ['All kinds', ['kinds']]];

function fixed(): Hit[] {
  const pages = PAGES.map(([title, parts]) => ({ title, sub: 'Page', link: href(...parts), text: title.toLowerCase() }));
  const all = kinds.value.filter((k) => k.verbs.includes('list')).map((k) => ({
    title: k.kind, sub: `Kind${k.group && ` · ${k.group}`}`, link: href('k', k.group || 'core', k.plural),
    text: `${k.kind} ${k.plural} ${k.group} ${k.shortNames.join(' ')}`.toLowerCase(),
  }));
  return [...pages, ...all];
}

export function ranked(hits: Hit[], query: string): Hit[] {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const first = words[0] ?? '';
  const score = (h: Hit) => {
    const title = h.title.toLowerCase();
    return title === first ? 0 : title.startsWith(first) ? 1 : title.includes(first) ? 2 : 3;
  };
  const found = hits.filter((h) => words.every((w) => h.text.includes(w)));
  return found.map((h) => [score(h), h] as const).sort((a, b) => a[0] - b[0] || a[1].title.length - b[1].title.length).map(([, h]) => h);
}

export function Palette() {
  const [query, setQuery] = useState('');
  const [at, setAt] = useState(0);
  const [objects, setObjects] = useState<Hit[]>([]);
  const [state, setState] = useState('Looking at all kinds…');
  const list = useRef<HTMLUListElement>(null);
  const close = () => (paletteOpen.value = false);
  useEffect(() => {
    const stop = new AbortController();
    gather((hits) => setObjects([...hits]), stop.signal).then(
      (cut) => setState(cut ? `Only the first ${PER_KIND} of some kinds are looked through.` : ''),
      () => setState(''),
    );
    return () => stop.abort();
  }, []);
  const hits = useMemo(() => (query.trim() ? ranked([...fixed(), ...objects], query) : fixed().slice(0, PAGES.length)), [query, objects, kinds.value]);
  const shown = hits.slice(0, SHOWN);
  useEffect(() => list.current?.querySelector('[aria-selected="true"]')?.scrollIntoView({ block: 'nearest' }), [at]);
  const open = (hit: Hit | undefined) => {
    if (!hit) return;
    close();
    go(hit.link);
  };
  const key = (e: KeyboardEvent) => {
    if (e.key === 'ArrowDown') setAt(Math.min(at + 1, shown.length - 1));
    else if (e.key === 'ArrowUp') setAt(Math.max(at - 1, 0));
    else if (e.key === 'Enter') open(shown[at]);
    else return;
    e.preventDefault();
  };
  return (
    <Dialog title="Search" close={close} wide>
      <input type="text" class="search" autofocus placeholder="A name, a kind, a namespace…" aria-label="Search all kinds" role="combobox" aria-autocomplete="list" aria-expanded="true" aria-controls="hits" aria-activedescendant={shown[at] ? `hit-${at}` : undefined}
        value={query} onInput={(e) => { setQuery(e.currentTarget.value); setAt(0); }} onKeyDown={key} />
      <ul id="hits" class="hits" role="listbox" aria-label="Found" ref={list}>
        {shown.map((h, i) => (
          <li key={h.link} id={`hit-${i}`} role="option" aria-selected={i === at} onClick={() => open(h)} onMouseMove={() => setAt(i)}>
            <span>{h.title}</span><span class="quiet">{h.sub}</span>
          </li>
        ))}
      </ul>
      <p class="quiet" role="status">{query && !shown.length ? 'Nothing found. ' : hits.length > SHOWN ? `${SHOWN} of ${hits.length}. ` : ''}{state}</p>
    </Dialog>
  );
}
