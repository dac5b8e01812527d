// What is wrong in what is seen, the worst first. Pure.

import { href } from '../state';
import type { Claim, Condition, Node, Pod, Workload } from '../types';
import { plural, span } from './format';
import { condition, containersOf, PATIENCE_MS, podState, type Tone } from './pods';
import { progressOf, type Sort } from './workloads';

export interface Trouble {
  tone: Tone;
  kind: string;
  name: string;
  namespace: string;
  text: string;
  link: string;
}

const ROOM = ['MemoryPressure', 'DiskPressure', 'PIDPressure', 'NetworkUnavailable'];

/** How a node is, in a word. */
export function nodeState(node: Node): { tone: Tone; text: string } {
  const all = node.status?.conditions;
  const ready = condition(all, 'Ready');
  if (ready?.status !== 'True') {
    return { tone: 'bad', text: ready?.status === 'Unknown' ? 'Not heard of' : 'Not ready' };
  }
  const pressure = all?.find((c) => ROOM.includes(c.type) && c.status === 'True');
  if (pressure) return { tone: 'warn', text: pressure.type };
  if (node.spec?.unschedulable) return { tone: 'warn', text: 'Cordoned' };
  return { tone: 'ok', text: 'Ready' };
}

/** The condition that says why a node is as `nodeState` says. */
export function nodeCondition(node: Node): Condition | undefined {
  const { tone, text } = nodeState(node);
  return condition(node.status?.conditions, tone === 'bad' ? 'Ready' : text);
}

export function nodeTroubles(nodes: Iterable<Node>): Trouble[] {
  const out: Trouble[] = [];
  for (const node of nodes) {
    const { tone, text } = nodeState(node);
    if (tone === 'ok') continue;
    const found = nodeCondition(node);
    out.push({
      tone, kind: 'Node', name: node.metadata.name, namespace: '',
      text: found?.message ? `${text}: ${found.message}` : text,
      link: href('nodes', node.metadata.name),
    });
  }
  return out;
}

export function podTroubles(pods: Iterable<Pod>, now: number): Trouble[] {
  // Pods of one owner, or of one namespace without any, with one trouble are one line.
  const found = new Map<string, { first: Trouble; count: number }>();
  for (const pod of pods) {
    const { tone, text } = podState(pod, now);
    if (tone !== 'bad' && tone !== 'warn') continue;
    const { name, namespace = '', ownerReferences } = pod.metadata;
    const owner = ownerReferences?.find((o) => o.controller)?.uid ?? '';
    const key = `${namespace} ${owner} ${text}`;
    const known = found.get(key);
    if (known) known.count += 1;
    else found.set(key, { count: 1, first: { tone, kind: 'Pod', name, namespace, text: detail(pod, text), link: href('pods', namespace, name) } });
  }
  return [...found.values()].map(({ first, count }) => (count > 1 ? { ...first, text: `${first.text} (and ${plural(count - 1, 'pod')} beside it)` } : first));
}

function detail(pod: Pod, text: string): string {
  const scheduled = condition(pod.status?.conditions, 'PodScheduled');
  if (scheduled?.status === 'False') return scheduled.message ?? text;
  for (const { spec, status } of containersOf(pod)) {
    const end = status?.lastState?.terminated ?? status?.state?.terminated;
    if (text === 'CrashLoopBackOff' && end) return `${spec.name} keeps ending with exit code ${end.exitCode}, ${plural(status?.restartCount ?? 0, 'restart')}`;
    if (status?.state?.waiting?.reason === text && status.state.waiting.message) return `${text}: ${status.state.waiting.message}`;
  }
  return text;
}

export function workloadTroubles(sort: Sort, all: Iterable<Workload>, now: number): Trouble[] {
  const out: Trouble[] = [];
  for (const w of all) {
    const { state, sentence } = progressOf(sort.kind, w);
    const old = now - Date.parse(w.metadata.creationTimestamp ?? '') > PATIENCE_MS;
    const wrong = state.tone === 'bad' || (state.tone === 'way' && state.text === 'Waiting' && old);
    if (!wrong) continue;
    const { name, namespace = '' } = w.metadata;
    out.push({ tone: state.tone === 'bad' ? 'bad' : 'warn', kind: sort.kind, name, namespace, text: sentence, link: href('workloads', sort.plural, namespace, name) });
  }
  return out;
}

export function claimTroubles(claims: Iterable<Claim>, now: number): Trouble[] {
  const out: Trouble[] = [];
  for (const claim of claims) {
    const { name, namespace = '', creationTimestamp } = claim.metadata;
    const waited = now - Date.parse(creationTimestamp ?? '');
    const lost = claim.status?.phase === 'Lost';
    if (!lost && (claim.status?.phase !== 'Pending' || waited < PATIENCE_MS)) continue;
    const text = lost ? 'Its volume is lost' : `Not bound for ${span(waited)}`;
    out.push({ tone: lost ? 'bad' : 'warn', kind: 'PersistentVolumeClaim', name, namespace, text, link: href('o', 'core', 'v1', 'persistentvolumeclaims', namespace, name) });
  }
  return out;
}

const WEIGHT: Record<string, number> = { Node: 0, PersistentVolumeClaim: 2, Pod: 3 };

export function worstFirst(all: Trouble[]): Trouble[] {
  const weight = (t: Trouble) => (t.tone === 'bad' ? 0 : 10) + (WEIGHT[t.kind] ?? 1);
  return all.sort((a, b) => weight(a) - weight(b) || (a.namespace + a.name < b.namespace + b.name ? -1 : 1));
}
