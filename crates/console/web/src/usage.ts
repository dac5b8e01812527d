// What nodes, pods and containers use, over time. Usage has no watch, so this is the one thing that
// is asked for again and again: every 15 s, and only while the page is visible. What came before
// the page was opened is not known; what is kept has a bound.

import { computed, effect, signal, untracked } from '@preact/signals';
import { useEffect } from 'preact/hooks';
import { ApiError, get, pathOf } from './api';
import { may, rules } from './discovery';
import { quantity } from './model/format';
import { fills, toAsk, whyNone, type Asked, type Counters, type Fill, type Summary } from './model/statistics';
import { scope, token } from './state';

/** Milliseconds between two questions; the kubelet measures no more often. */
const EVERY_MS = 15_000;
/** Samples kept of each line: an hour. */
const KEEP = 240;
/** Seconds after which what was not heard of is dropped. */
const FORGET_S = 300;
/** Containers of which the past is kept; beyond, only the last figure of each. */
const MANY = 1_000;

/** A line over time; `times` in seconds, as plots want them. */
export interface Line {
  times: number[];
  values: number[];
}

export interface Use {
  cpu: Line;
  memory: Line;
}

/** Bytes per second. */
export interface Traffic {
  received: Line;
  sent: Line;
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
  network: Map<string, Traffic>;
  /** By node, where it may be asked. */
  nodeNetwork: Map<string, Traffic>;
  /** How full claims are that are mounted, by `namespace/claim`. */
  claims: Map<string, Fill & { at: number }>;
}

const line = (): Line => ({ times: [], values: [] });
const fresh = (): Usage => ({
  at: 0, cpu: line(), memory: line(), received: line(), sent: line(),
  nodes: new Map(), containers: new Map(), pods: new Map(), network: new Map(), nodeNetwork: new Map(), claims: new Map(),
});

let usage = fresh();
/** Counts answers: who shows usage reads this, and is drawn again with each. */
export const usageTick = signal(0);
export const usageError = signal<ApiError | null>(null);
/** The nodes that metrics are known of; null where this user may not see them. */
const known = signal<readonly string[] | null | undefined>(undefined);
/** The nodes that the page is about; null for a page about all. */
const about = signal<readonly string[] | null>(null);
/** Whether a node's statistics were refused. */
const refused = signal(false);

/** Which nodes are asked for their statistics, of how many. */
export const askedNodes = computed<Asked>(() => toAsk(known.value, about.value));
/** Why nodes' statistics are not to be had, in a sentence; empty where they come. */
export const noStatistics = computed(() => whyNone(refused.value, known.value, askedNodes.value, about.value));

/** While the component is shown only these nodes are asked for their statistics. */
export function useAbout(names: readonly string[]): void {
  useEffect(() => {
    about.value = names;
    return () => {
      about.value = null;
    };
  }, [names.join(' ')]);
}

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

const METRICS = ['metrics.k8s.io', 'v1beta1'] as const;

async function sample(): Promise<void> {
  const mine = usage;
  // Nodes that the page is about are known without metrics.
  const early = !!about.value;
  const [metrics] = await Promise.allSettled([sampleMetrics(mine), early ? askStatistics(0) : null]);
  if (!early && mine === usage) await askStatistics(0);
  if (mine !== usage) return;
  usageTick.value += 1;
  if (metrics.status === 'rejected') throw metrics.reason;
  usageError.value = null;
}

async function sampleMetrics(mine: Usage): Promise<void> {
  const [nodes, pods] = await Promise.all([
    get<{ items: Metrics[] }>(pathOf(...METRICS, 'nodes')).catch(refusedIsNone),
    get<{ items: Metrics[] }>(pathOf(...METRICS, 'pods', scope.value)).catch(refusedIsNone),
  ]);
  if (mine !== usage) return;
  known.value = nodes && nodes.items.map((n) => n.metadata.name);
  if (!nodes && !pods) throw new ApiError(403, 'Forbidden', 'You may not see what nodes and pods use.');
  const at = Math.round(Date.now() / 1000);
  if (!nodes?.items.length && !pods?.items.length) throw new ApiError(0, '', 'No node says what is used.');
  if (nodes) takeNodes(nodes.items, at);
  if (pods) takePods(pods.items, at, !nodes || !!scope.value);
  usage.at = at;
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

/** Drops what has not been heard of for long. */
function forget(of: Map<string, Use>, at: number): void {
  for (const [key, { cpu }] of of) if ((cpu.times.at(-1) ?? 0) < at - FORGET_S) of.delete(key);
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

/** When each node was asked last, in milliseconds. */
let askedAt = new Map<string, number>();
/** Rounds in which it was not known what this user may. */
let blind = 0;

/** Asks nodes for their statistics, except those that were asked less than `pause` ago. */
async function askStatistics(pause: number): Promise<void> {
  const mine = usage;
  // What is surely refused is not asked for; where rights stay unknown the answer says it.
  if (refused.value || (!rules.value && ++blind < 3)) return;
  const due = askedNodes.value.names.filter((n) => Date.now() - (askedAt.get(n) ?? 0) >= pause);
  const names = due.filter((n) => may('get', '', 'nodes/proxy', n));
  if (due.length && !names.length) refused.value = true;
  for (const name of names) askedAt.set(name, Date.now());
  const ask = (name: string) =>
    get<Summary>(pathOf('', 'v1', 'nodes', '', name) + '/proxy/stats/summary').catch((e: unknown) => {
      if (mine === usage && e instanceof ApiError && e.forbidden) refused.value = true;
      return null;
    });
  const answers = await Promise.all(names.map(ask));
  if (mine === usage && names.length) takeStatistics(names, answers);
}

function takeStatistics(names: string[], answers: (Summary | null)[]): void {
  const at = Math.round(Date.now() / 1000);
  let [rx, tx, any] = [0, 0, false];
  for (const [index, summary] of answers.entries()) {
    const name = names[index] ?? '';
    const node = takeNetwork(usage.nodeNetwork, `node ${name}`, name, summary?.node?.network, at);
    if (node && !scope.value) [rx, tx, any] = [rx + node.rx, tx + node.tx, true];
    for (const { podRef, network } of summary?.pods ?? []) {
      const key = `${podRef.namespace}/${podRef.name}`;
      const found = takeNetwork(usage.network, `pod ${key}`, key, network, at);
      if (found && scope.value === podRef.namespace) [rx, tx, any] = [rx + found.rx, tx + found.tx, true];
    }
    for (const [key, fill] of fills(summary)) usage.claims.set(key, { ...fill, at });
  }
  for (const [key, fill] of usage.claims) if (fill.at < at - FORGET_S) usage.claims.delete(key);
  // A sum of some nodes is no sum.
  if (!any || !known.value?.every((n) => names.includes(n))) return;
  add(usage.received, at, rx);
  add(usage.sent, at, tx);
}

function takeNetwork(all: Map<string, Traffic>, counter: string, key: string, now: Counters | undefined, at: number): { rx: number; tx: number } | null {
  const found = rate(counter, now);
  if (!found) return null;
  let to = all.get(key);
  if (!to) all.set(key, (to = { received: line(), sent: line() }));
  const keep = all.size > MANY ? 2 : KEEP;
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
      askedAt = new Map();
      blind = 0;
      known.value = undefined;
      refused.value = false;
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
    // Who sends this event may itself follow signals: what is read here is none of them.
    if (document.visibilityState === 'visible') untracked(() => void ask());
  });
  token.subscribe(() => void ask());
  scope.subscribe(() => void ask());
  // A page about certain nodes does not wait for its turn.
  effect(() => {
    if (!about.value || !rules.value) return;
    untracked(() => void askStatistics(EVERY_MS / 2).then(() => (usageTick.value += 1)));
  });
}

/** What a pod uses; nothing where that is not known. */
export function podUse(namespace: string, name: string): { cpu: number; memory: number } | undefined {
  return used().pods.get(`${namespace}/${name}`);
}
