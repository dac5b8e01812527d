// What nodes, pods and containers use, over time. Usage has no watch, so this is the one thing that
// is asked for again and again: every 15 s, and only while the page is visible. What came before
// the page was opened is not known; what is kept has a bound.

import { signal } from '@preact/signals';
import { ApiError, get, pathOf } from './api';
import { quantity } from './model/format';
import { scope, token } from './state';

/** Milliseconds between two questions; the kubelet measures no more often. */
const EVERY_MS = 15_000;
/** Samples kept of each line: an hour. */
const KEEP = 240;
/** Containers of which the past is kept; beyond, only the last figure of each. */
const MANY = 1_000;
/** Nodes that are asked for their network's counters: one request each. */
const MOST_NODES = 30;

/** A line over time; `times` in seconds, as plots want them. */
export interface Line {
  times: number[];
  values: number[];
}

export interface Use {
  cpu: Line;
  memory: Line;
}

export interface Usage {
  /** Seconds since 1970 of the last answer; 0 before the first. */
  at: number;
  cpu: Line;
  memory: Line;
  received: Line;
  sent: Line;
  nodes: Map<string, Use>;
  /** By `namespace/pod/container`. */
  containers: Map<string, Use>;
  /** Sums of each pod's containers, by `namespace/pod`. */
  pods: Map<string, { cpu: number; memory: number }>;
  /** By `namespace/pod`: bytes per second, where nodes may be asked. */
  network: Map<string, { received: Line; sent: Line }>;
}

const line = (): Line => ({ times: [], values: [] });
const fresh = (): Usage => ({
  at: 0, cpu: line(), memory: line(), received: line(), sent: line(),
  nodes: new Map(), containers: new Map(), pods: new Map(), network: new Map(),
});

let usage = fresh();
/** Counts answers: who shows usage reads this, and is drawn again with each. */
export const usageTick = signal(0);
export const usageError = signal<ApiError | null>(null);
/** Whether nodes may be asked for their network. */
export const networkSeen = signal<boolean | null>(null);

export function used(): Usage {
  void usageTick.value;
  return usage;
}

export const lastOf = (l: Line | undefined): number => l?.values.at(-1) ?? 0;

function add(to: Line, at: number, value: number, keep = KEEP): void {
  // A second has one figure: what came last.
  if (to.times.at(-1) === at) {
    to.values[to.values.length - 1] = value;
    return;
  }
  to.times.push(at);
  to.values.push(value);
  if (to.times.length > keep) {
    to.times.shift();
    to.values.shift();
  }
}

interface Metrics {
  metadata: { name: string; namespace?: string };
  usage?: Record<string, string>;
  containers?: { name: string; usage: Record<string, string> }[];
}

interface Counters {
  time?: string;
  rxBytes?: number;
  txBytes?: number;
}

interface Summary {
  node?: { network?: Counters };
  pods?: { podRef: { name: string; namespace: string }; network?: Counters }[];
}

const METRICS = ['metrics.k8s.io', 'v1beta1'] as const;

async function sample(): Promise<void> {
  const mine = usage;
  const [nodes, pods] = await Promise.all([
    get<{ items: Metrics[] }>(pathOf(...METRICS, 'nodes')).catch(refusedIsNone),
    get<{ items: Metrics[] }>(pathOf(...METRICS, 'pods', scope.value)).catch(refusedIsNone),
  ]);
  if (mine !== usage) return;
  if (!nodes && !pods) throw new ApiError(403, 'Forbidden', 'You may not see what nodes and pods use.');
  const at = Math.round(Date.now() / 1000);
  if (!nodes?.items.length && !pods?.items.length) throw new ApiError(0, '', 'No node says what is used.');
  if (nodes) takeNodes(nodes.items, at);
  if (pods) takePods(pods.items, at, !nodes || !!scope.value);
  if (nodes) await network(nodes.items.map((n) => n.metadata.name), at, mine);
  if (mine !== usage) return;
  usage.at = at;
  usageError.value = null;
  usageTick.value += 1;
}

function refusedIsNone(e: unknown): null {
  if (e instanceof ApiError && e.forbidden) return null;
  throw e;
}

function use(of: Map<string, Use>, key: string): Use {
  let found = of.get(key);
  if (!found) of.set(key, (found = { cpu: line(), memory: line() }));
  return found;
}

function takeNodes(items: Metrics[], at: number): void {
  let [cpu, memory] = [0, 0];
  for (const { metadata, usage: u } of items) {
    const to = use(usage.nodes, metadata.name);
    add(to.cpu, at, quantity(u?.cpu));
    add(to.memory, at, quantity(u?.memory));
    cpu += quantity(u?.cpu);
    memory += quantity(u?.memory);
  }
  // Of one namespace its pods are the total.
  if (!scope.value) {
    add(usage.cpu, at, cpu);
    add(usage.memory, at, memory);
  }
  forget(usage.nodes, at);
}

/** `alone`: the total is that of the pods one sees, not that of the nodes. */
function takePods(items: Metrics[], at: number, alone: boolean): void {
  let [cpu, memory] = [0, 0];
  const keep = usage.containers.size > MANY ? 2 : KEEP;
  usage.pods = new Map();
  for (const { metadata, containers } of items) {
    const sum = { cpu: 0, memory: 0 };
    usage.pods.set(`${metadata.namespace}/${metadata.name}`, sum);
    for (const c of containers ?? []) {
      const to = use(usage.containers, `${metadata.namespace}/${metadata.name}/${c.name}`);
      add(to.cpu, at, quantity(c.usage.cpu), keep);
      add(to.memory, at, quantity(c.usage.memory), keep);
      sum.cpu += quantity(c.usage.cpu);
      sum.memory += quantity(c.usage.memory);
    }
    cpu += sum.cpu;
    memory += sum.memory;
  }
  if (alone) {
    add(usage.cpu, at, cpu);
    add(usage.memory, at, memory);
  }
  forget(usage.containers, at);
}

/** Drops what has not been heard of for five minutes. */
function forget(of: Map<string, Use>, at: number): void {
  for (const [key, { cpu }] of of) if ((cpu.times.at(-1) ?? 0) < at - 300) of.delete(key);
}

/** The last counters of each node and pod, since rates are differences. */
let counters = new Map<string, { at: number; rx: number; tx: number }>();

function rate(key: string, now: Counters | undefined): { rx: number; tx: number } | null {
  if (!now?.time || now.rxBytes === undefined || now.txBytes === undefined) return null;
  const at = Date.parse(now.time) / 1000;
  const before = counters.get(key);
  if (before && before.at >= at) return null;
  counters.set(key, { at, rx: now.rxBytes, tx: now.txBytes });
  // A counter that went back began anew.
  if (!before || now.rxBytes < before.rx || now.txBytes < before.tx) return null;
  const seconds = at - before.at;
  return { rx: (now.rxBytes - before.rx) / seconds, tx: (now.txBytes - before.tx) / seconds };
}

async function network(names: string[], at: number, mine: Usage): Promise<void> {
  if (networkSeen.value === false || names.length > MOST_NODES) return;
  const ask = (name: string) =>
    get<Summary>(pathOf('', 'v1', 'nodes', '', name) + '/proxy/stats/summary').catch((e: unknown) => {
      if (e instanceof ApiError && e.forbidden) networkSeen.value = false;
      return null;
    });
  const answers = await Promise.all(names.map(ask));
  if (mine !== usage) return;
  let [rx, tx, any] = [0, 0, false];
  for (const [index, summary] of answers.entries()) {
    const node = rate(`node ${names[index]}`, summary?.node?.network);
    if (node && !scope.value) [rx, tx, any] = [rx + node.rx, tx + node.tx, true];
    for (const pod of summary?.pods ?? []) {
      const found = takeNetwork(pod, at);
      if (found && scope.value === pod.podRef.namespace) [rx, tx, any] = [rx + found.rx, tx + found.tx, true];
    }
  }
  if (!any) return;
  networkSeen.value = true;
  add(usage.received, at, rx);
  add(usage.sent, at, tx);
}

function takeNetwork(pod: NonNullable<Summary['pods']>[number], at: number): { rx: number; tx: number } | null {
  const key = `${pod.podRef.namespace}/${pod.podRef.name}`;
  const found = rate(`pod ${key}`, pod.network);
  if (!found) return null;
  let to = usage.network.get(key);
  if (!to) usage.network.set(key, (to = { received: line(), sent: line() }));
  const keep = usage.network.size > MANY ? 2 : KEEP;
  add(to.received, at, found.rx, keep);
  add(to.sent, at, found.tx, keep);
  return found;
}

/** Asks from now on, while somebody is signed in and looks. */
export function followUsage(ready: () => boolean): void {
  let last = '';
  let timer = 0;
  const ask = async () => {
    clearTimeout(timer);
    const key = `${token.value} ${scope.value}`;
    if (key !== last) {
      last = key;
      usage = fresh();
      counters = new Map();
      networkSeen.value = null;
      usageError.value = null;
    }
    if (token.value && ready() && document.visibilityState === 'visible') {
      await sample().catch((e: unknown) => {
        usageError.value = e instanceof ApiError ? e : new ApiError(0, '', String(e));
      });
    }
    clearTimeout(timer);
    timer = window.setTimeout(() => void ask(), EVERY_MS);
  };
  document.addEventListener('visibilitychange', () => {
    if (document.visibilityState === 'visible') void ask();
  });
  token.subscribe(() => void ask());
  scope.subscribe(() => void ask());
}

/** What a pod uses; nothing where that is not known. */
export function podUse(namespace: string, name: string): { cpu: number; memory: number } | undefined {
  return used().pods.get(`${namespace}/${name}`);
}
