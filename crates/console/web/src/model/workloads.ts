// Workloads as the page sees them: one shape for Deployments, StatefulSets, DaemonSets, Jobs and
// CronJobs; how far a rollout is, and what it can go back to. Pure.

import type { ControllerRevision, Pod, Template, Workload } from '../types';
import { plural } from './format';
import { condition, type State } from './pods';

export interface Sort {
  kind: string;
  plural: string;
  group: string;
  version: string;
}

export const SORTS: Sort[] = [
  { kind: 'Deployment', plural: 'deployments', group: 'apps', version: 'v1' },
  { kind: 'StatefulSet', plural: 'statefulsets', group: 'apps', version: 'v1' },
  { kind: 'DaemonSet', plural: 'daemonsets', group: 'apps', version: 'v1' },
  { kind: 'Job', plural: 'jobs', group: 'batch', version: 'v1' },
  { kind: 'CronJob', plural: 'cronjobs', group: 'batch', version: 'v1' },
];

export const sortOf = (pluralName: string) => SORTS.find((s) => s.plural === pluralName);

export interface Progress {
  /** Pods that are wanted, of the newest template, ready, and that exist at all. */
  wanted: number;
  updated: number;
  ready: number;
  total: number;
  state: State;
  /** One sentence about where it stands. */
  sentence: string;
}

export function templateOf(w: Workload): Template | undefined {
  return w.spec.template ?? w.spec.jobTemplate?.spec.template;
}

export function progressOf(kind: string, w: Workload): Progress {
  if (kind === 'Job') return jobProgress(w);
  if (kind === 'CronJob') return cronProgress(w);
  const s = w.status ?? {};
  const daemon = kind === 'DaemonSet';
  const wanted = daemon ? (s.desiredNumberScheduled ?? 0) : (w.spec.replicas ?? 1);
  const ready = (daemon ? s.numberAvailable : kind === 'Deployment' ? s.availableReplicas : s.readyReplicas) ?? 0;
  const total = (daemon ? s.currentNumberScheduled : s.replicas) ?? 0;
  const updated = (daemon ? s.updatedNumberScheduled : kind === 'StatefulSet' ? statefulUpdated(w) : s.updatedReplicas) ?? 0;
  return { wanted, updated, ready, total, ...judged(kind, w, wanted, updated, ready, total) };
}

/** Once a StatefulSet is through, only its current revision counts pods. */
function statefulUpdated(w: Workload): number {
  const s = w.status ?? {};
  return s.currentRevision === s.updateRevision ? (s.replicas ?? 0) : (s.updatedReplicas ?? 0);
}

function judged(kind: string, w: Workload, wanted: number, updated: number, ready: number, total: number): { state: State; sentence: string } {
  const s = w.status ?? {};
  if (w.metadata.deletionTimestamp) return says('way', 'Terminating', 'It is being deleted.');
  const stuck = condition(s.conditions, 'Progressing');
  if (stuck?.status === 'False') return says('bad', 'Not progressing', stuck.message ?? 'The rollout has passed its deadline.');
  const failure = condition(s.conditions, 'ReplicaFailure');
  if (failure?.status === 'True') return says('bad', 'Cannot make pods', failure.message ?? 'Pods cannot be made.');
  if (w.spec.paused) return says('warn', 'Paused', `The rollout is paused. ${available(ready, wanted)}`);
  if ((s.observedGeneration ?? 0) < (w.metadata.generation ?? 0)) return says('way', 'Starting', 'The change has been accepted and waits for its controller.');
  const held = w.spec.updateStrategy?.rollingUpdate?.partition ?? 0;
  if (updated < wanted - held && w.spec.updateStrategy?.type !== 'OnDelete') {
    return says('way', 'Rolling out', `${updated} of ${wanted} pods have the new template; ${ready} are available.`);
  }
  if (total > wanted) return says('way', 'Rolling out', `${plural(total - wanted, 'old pod')} still to go. ${available(ready, wanted)}`);
  if (ready < wanted) return says('way', 'Waiting', available(ready, wanted));
  if (wanted) return says('ok', 'Available', available(ready, wanted));
  return kind === 'DaemonSet' ? says('ok', 'On no node', 'No node is to have a pod of it.') : says('ok', 'Scaled to zero', 'It is scaled to zero.');
}

function available(ready: number, wanted: number): string {
  if (wanted === 1) return ready ? 'Its pod is available.' : 'Its pod is not available.';
  return ready >= wanted ? `All ${wanted} pods are available.` : `${ready} of ${wanted} pods are available.`;
}

function says(tone: State['tone'], text: string, sentence: string): { state: State; sentence: string } {
  return { state: { tone, text }, sentence };
}

function jobProgress(w: Workload): Progress {
  const s = w.status ?? {};
  const wanted = w.spec.completions ?? 1;
  const done = s.succeeded ?? 0;
  const active = typeof s.active === 'number' ? s.active : 0;
  const counts = { wanted, updated: done + active, ready: done, total: done + active };
  const failed = condition(s.conditions, 'Failed');
  if (failed?.status === 'True') return { ...counts, ...says('bad', failed.reason ?? 'Failed', failed.message ?? 'It has failed.') };
  if (condition(s.conditions, 'Complete')?.status === 'True') return { ...counts, ...says('done', 'Complete', `${done} of ${wanted} done.`) };
  if (w.spec.suspend) return { ...counts, ...says('warn', 'Suspended', 'It is suspended.') };
  const failures = s.failed ? `, ${plural(s.failed, 'failure')} so far` : '';
  return { ...counts, ...says(s.failed ? 'warn' : 'way', 'Running', `${done} of ${wanted} done, ${active} running${failures}.`) };
}

function cronProgress(w: Workload): Progress {
  const active = Array.isArray(w.status?.active) ? w.status.active.length : 0;
  const counts = { wanted: active, updated: active, ready: active, total: active };
  const sentence = `Schedule ${w.spec.schedule ?? ''}; ${plural(active, 'job')} running.`;
  return { ...counts, ...says(w.spec.suspend ? 'warn' : 'ok', w.spec.suspend ? 'Suspended' : 'Scheduled', sentence) };
}

/** The pods that belong to a workload, through `owners`: uids of what it made (ReplicaSets, Jobs). */
export function podsOf(uid: string, owners: ReadonlySet<string>, pods: Iterable<Pod>): Pod[] {
  const out: Pod[] = [];
  for (const pod of pods) {
    const owned = pod.metadata.ownerReferences?.some((o) => o.uid === uid || owners.has(o.uid));
    if (owned) out.push(pod);
  }
  return out;
}

/** An earlier template that a workload can go back to. */
export interface Revision {
  number: number;
  name: string;
  created: string;
  current: boolean;
  template: Template | undefined;
  cause: string;
}

const REVISION = 'deployment.kubernetes.io/revision';
const CAUSE = 'kubernetes.io/change-cause';

/** Revisions of a Deployment from its ReplicaSets, newest first. */
export function deploymentRevisions(w: Workload, sets: Workload[]): Revision[] {
  const now = w.metadata.annotations?.[REVISION];
  const own = sets.filter((s) => s.metadata.ownerReferences?.some((o) => o.uid === w.metadata.uid));
  const all = own.map((s) => ({
    number: Number(s.metadata.annotations?.[REVISION] ?? 0),
    name: s.metadata.name,
    created: s.metadata.creationTimestamp ?? '',
    current: s.metadata.annotations?.[REVISION] === now,
    template: withoutHash(s.spec.template),
    cause: s.metadata.annotations?.[CAUSE] ?? '',
  }));
  return all.filter((r) => r.number > 0).sort((a, b) => b.number - a.number);
}

/** Revisions of a StatefulSet or DaemonSet, newest first. */
export function setRevisions(w: Workload, revisions: ControllerRevision[]): Revision[] {
  const own = revisions.filter((r) => r.metadata.ownerReferences?.some((o) => o.uid === w.metadata.uid));
  const newest = Math.max(0, ...own.map((r) => r.revision));
  const all = own.map((r) => ({
    number: r.revision,
    name: r.metadata.name,
    created: r.metadata.creationTimestamp ?? '',
    current: r.revision === newest,
    template: (r.data as { spec?: { template?: Template } } | undefined)?.spec?.template,
    cause: r.metadata.annotations?.[CAUSE] ?? '',
  }));
  return all.sort((a, b) => b.number - a.number);
}

function withoutHash(template: Template | undefined): Template | undefined {
  if (!template) return undefined;
  const copy = structuredClone(template);
  delete copy.metadata?.labels?.['pod-template-hash'];
  return copy;
}

/** What distinguishes a template for people: its images. */
export function imagesOf(template: Template | undefined): string[] {
  return (template?.spec.containers ?? []).map((c) => c.image ?? '');
}
