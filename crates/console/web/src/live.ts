// Lists that stay true: one list, then a watch, folded into a map by uid. Users of the same list
// share it. A watch that ends goes on where it was; one that is too old (410) begins again.

import { signal, type Signal } from '@preact/signals';
import { useEffect, useMemo, useRef } from 'preact/hooks';
import { ApiError, errorOf, send, words } from './api';
import { token } from './state';
import type { Obj } from './types';

/** Objects per page of a list: small enough that the first rows are shown soon. */
const PAGE = 500;
/** Milliseconds for which events are gathered, so that a burst is drawn once. */
const GATHER_MS = 60;
/** Milliseconds that a list nobody looks at is kept, for who comes back. */
const LINGER_MS = 15_000;
/** Seconds after which the server ends a watch by itself, at least and at most. */
const WATCH_S: [number, number] = [240, 360];
/** Milliseconds for which a watch may go on beyond that: then the connection is dead, and nobody said so. */
const OVERDUE_MS = 30_000;
/** Milliseconds between two tries, the first and the longest. */
const RETRY_MS: [number, number] = [1_000, 30_000];

/** `live` watches; `retrying` shows what was last known. */
export type Phase = 'loading' | 'live' | 'retrying' | 'failed';

export interface Live<T extends Obj> {
  items: Signal<ReadonlyMap<string, T>>;
  phase: Signal<Phase>;
  error: Signal<ApiError | null>;
  again: () => void;
}

interface WatchEvent<T> {
  type: string;
  object: T & { code?: number; message?: string; reason?: string };
}

const wait = (ms: number, stop: AbortSignal) =>
  new Promise<void>((done) => {
    const timer = setTimeout(done, ms);
    stop.addEventListener('abort', () => (clearTimeout(timer), done()), { once: true });
  });

interface Page<T> {
  items?: T[];
  metadata: { resourceVersion?: string; continue?: string };
}

/** Reads a list page by page. Only a list that is whole has a version from which to watch: what was
 * not read does not come by watching. */
export async function pages<T extends Obj>(
  page: (next: string) => Promise<Page<T>>,
  meanwhile: (part: ReadonlyMap<string, T>) => void,
): Promise<{ items: ReadonlyMap<string, T>; version: string }> {
  const items = new Map<string, T>();
  for (let next = ''; ; ) {
    const { items: part, metadata } = await page(next);
    for (const item of part ?? []) items.set(item.metadata.uid, slim(item));
    next = metadata.continue ?? '';
    if (!next) return { items, version: metadata.resourceVersion ?? '' };
    meanwhile(new Map(items));
  }
}

class Watched<T extends Obj> implements Live<T> {
  readonly items = signal<ReadonlyMap<string, T>>(new Map());
  readonly phase = signal<Phase>('loading');
  readonly error = signal<ApiError | null>(null);
  private stop = new AbortController();
  private pending: WatchEvent<T>[] = [];
  private timer = 0;
  private version = '';
  users = 0;

  constructor(
    private readonly path: string,
    private readonly query: string,
  ) {
    void this.run(this.stop);
  }

  close(): void {
    this.stop.abort();
    clearTimeout(this.timer);
    this.timer = 0;
    this.pending = [];
  }

  again = (): void => {
    this.close();
    this.stop = new AbortController();
    this.version = '';
    this.phase.value = 'loading';
    void this.run(this.stop);
  };

  private url(params: Record<string, string>): string {
    const all = new URLSearchParams(this.query);
    for (const [name, value] of Object.entries(params)) all.set(name, value);
    return `${this.path}?${all}`;
  }

  private async run(stop: AbortController): Promise<void> {
    let pause = RETRY_MS[0];
    while (!stop.signal.aborted) {
      try {
        if (!this.version) await this.list(stop.signal);
        this.phase.value = 'live';
        this.error.value = null;
        const began = Date.now();
        await this.watch(stop.signal);
        // A watch that ends at once is not asked for again at once.
        pause = Date.now() - began > 5_000 ? RETRY_MS[0] : Math.min(pause * 2, RETRY_MS[1]);
        if (pause > RETRY_MS[0]) await wait(pause, stop.signal);
      } catch (e) {
        if (stop.signal.aborted) return;
        const error = e instanceof ApiError ? e : new ApiError(0, '', words(e));
        if (error.gone) {
          this.version = '';
          await wait(RETRY_MS[0], stop.signal);
          continue;
        }
        this.error.value = error;
        if (!passes(error)) {
          this.phase.value = 'failed';
          if (error.code === 403) this.items.value = new Map();
          return;
        }
        this.phase.value = this.items.value.size || this.version ? 'retrying' : 'failed';
        await wait(pause * (0.75 + Math.random() / 2), stop.signal);
        pause = Math.min(pause * 2, RETRY_MS[1]);
      }
    }
  }

  private async list(stop: AbortSignal): Promise<void> {
    const page = async (next: string) => {
      const params: Record<string, string> = { limit: String(PAGE) };
      if (next) params.continue = next;
      const response = await send(this.url(params), { signal: stop });
      return (await response.json()) as Page<T>;
    };
    // The first page is shown while the others come.
    const list = await pages(page, (part) => {
      if (!this.items.value.size) this.items.value = part;
    });
    this.pending = [];
    this.version = list.version;
    this.items.value = list.items;
  }

  private async watch(stop: AbortSignal): Promise<void> {
    const seconds = WATCH_S[0] + Math.floor(Math.random() * (WATCH_S[1] - WATCH_S[0]));
    const url = this.url({
      watch: 'true',
      allowWatchBookmarks: 'true',
      resourceVersion: this.version,
      timeoutSeconds: String(seconds),
    });
    const ends = new AbortController();
    const end = () => ends.abort();
    const overdue = setTimeout(end, seconds * 1_000 + OVERDUE_MS);
    stop.addEventListener('abort', end);
    try {
      const response = await send(url, { signal: ends.signal });
      for await (const line of lines(response)) this.take(JSON.parse(line) as WatchEvent<T>);
    } finally {
      clearTimeout(overdue);
      stop.removeEventListener('abort', end);
    }
  }

  private take(event: WatchEvent<T>): void {
    if (event.type === 'ERROR') throw errorOf(event.object, event.object.code ?? 500);
    this.version = event.object.metadata.resourceVersion ?? this.version;
    if (event.type === 'BOOKMARK') return;
    this.pending.push(event);
    this.timer ||= window.setTimeout(() => this.flush(), GATHER_MS);
  }

  private flush(): void {
    this.timer = 0;
    const next = new Map(this.items.value);
    for (const { type, object } of this.pending) {
      if (type === 'DELETED') next.delete(object.metadata.uid);
      else next.set(object.metadata.uid, slim(object));
    }
    this.pending = [];
    this.items.value = next;
  }
}

/** Whether an error may pass by itself: what is refused or unknown does not come by asking again. */
export const passes = (e: ApiError): boolean => ![401, 403, 404, 405].includes(e.code);

/** Drops what no page of lists shows and what is often the larger half of an object. */
function slim<T extends Obj>(object: T): T {
  delete object.metadata.managedFields;
  return object;
}

/** The lines of an answer that comes bit by bit. */
export async function* lines(response: Response): AsyncGenerator<string> {
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  if (!reader) return;
  let rest = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const parts = (rest + value).split('\n');
      rest = parts.pop() ?? '';
      for (const part of parts) if (part) yield part;
    }
    if (rest) yield rest;
  } finally {
    void reader.cancel().catch(() => undefined);
  }
}

// `any`: one table holds lists of all kinds; `useLive` gives each its type back.
// eslint-disable-next-line @typescript-eslint/no-explicit-any
const open = new Map<string, Watched<any>>();

function acquire<T extends Obj>(key: string): Watched<T> {
  let found = open.get(key) as Watched<T> | undefined;
  if (!found) {
    const [path = '', query = ''] = key.split('?');
    found = new Watched<T>(path, query);
    open.set(key, found);
  }
  return found;
}

/** Of just this list: under its key another one may stand by now, that of another token. */
function release(key: string, used: Live<Obj>): void {
  const found = used as Watched<Obj>;
  found.users -= 1;
  const check = () => {
    if (found.users > 0 || open.get(key) !== found) return;
    found.close();
    open.delete(key);
  };
  setTimeout(check, LINGER_MS);
}

/** Ends all lists: another token must see nothing of what this one saw. */
export function closeAll(): void {
  for (const watched of open.values()) watched.close();
  open.clear();
}

let last = token.value;
token.subscribe((value) => {
  if (value !== last) closeAll();
  last = value;
});

const NOTHING: Live<Obj> = {
  items: signal(new Map()),
  phase: signal<Phase>('live'),
  error: signal(null),
  again: () => undefined,
};

/** A list that stays true while the component is shown; none for an empty path. */
export function useLive<T extends Obj>(path: string, params?: Record<string, string>): Live<T> {
  const key = path && `${path}?${new URLSearchParams(params)}`;
  const live = useMemo(
    () => (key ? acquire<T>(key) : (NOTHING as unknown as Live<T>)),
    [key, token.value],
  );
  useEffect(() => {
    if (!key) return undefined;
    const used = live as Watched<T>;
    used.users += 1;
    return () => release(key, used);
  }, [key, live]);
  return live;
}

/** The object that a list of one name holds. Where `keep` says so, one that was deleted meanwhile is
 * still given, as `gone`: what a person reads or has changed of it does not vanish under his hands. */
export function useOne<T extends Obj>(live: Live<T>, keep: boolean): { object: T | undefined; gone: boolean } {
  const last = useRef<T | undefined>(undefined);
  const object = [...live.items.value.values()][0];
  if (object || !keep) last.current = object;
  return { object: last.current, gone: !object };
}

/** The list of a resource in the scope, by name. */
export function sorted<T extends Obj>(live: Live<T>): T[] {
  const all = [...live.items.value.values()];
  const key = (o: T) => `${o.metadata.namespace ?? ''}/${o.metadata.name}`;
  return all.sort((a, b) => (key(a) < key(b) ? -1 : 1));
}
