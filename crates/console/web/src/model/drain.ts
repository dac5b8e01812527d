// Draining a node: which pods have to leave it, which stay, and how they are asked to go.

import { ApiError } from '../api';
import type { Pod } from '../types';

export interface Plan {
  /** To be evicted, and those that are on their way already. */
  leave: Pod[];
  /** Pods of DaemonSets, which would come back at once, and static ones, which the API does not hold. */
  stay: number;
  /** Of those that leave: nothing makes another one. */
  alone: number;
  /** Of those that leave: what is in their own directories is lost. */
  data: number;
}

const finished = (p: Pod) => p.status?.phase === 'Succeeded' || p.status?.phase === 'Failed';
const controller = (p: Pod) => p.metadata.ownerReferences?.find((o) => o.controller)?.kind;

function stays(p: Pod): boolean {
  return !!p.metadata.annotations?.['kubernetes.io/config.mirror'] || (controller(p) === 'DaemonSet' && !finished(p));
}

export function planOf(pods: Iterable<Pod>): Plan {
  const all = [...pods];
  const leave = all.filter((p) => !stays(p));
  const run = leave.filter((p) => !finished(p) && !p.metadata.deletionTimestamp);
  return {
    leave,
    stay: all.length - leave.length,
    alone: run.filter((p) => !controller(p)).length,
    data: run.filter((p) => p.spec.volumes?.some((v) => v.emptyDir)).length,
  };
}

/** What an eviction came to: `later` is tried again (a budget says not now), `never` is not. */
export interface Outcome {
  state: 'goes' | 'later' | 'never';
  text: string;
}

export function outcomeOf(error: unknown): Outcome {
  if (!(error instanceof ApiError)) return { state: 'never', text: String(error) };
  // It is gone, or another has its name by now.
  if (error.code === 404 || error.code === 409) return { state: 'goes', text: '' };
  const passes = error.code === 429 || error.code === 0 || error.code >= 500;
  return { state: passes ? 'later' : 'never', text: error.message };
}

interface Way {
  /** The pods that have to leave, as they are now. */
  left: () => Pod[];
  evict: (pod: Pod) => Promise<unknown>;
  said: (uid: string, outcome: Outcome) => void;
  pause: () => Promise<unknown>;
  stopped: () => boolean;
}

/** Evicts until no pod is left, or all that are left are surely refused. */
export async function drain({ left, evict, said, pause, stopped }: Way): Promise<void> {
  const never = new Set<string>();
  for (;;) {
    const todo = left().filter((p) => !never.has(p.metadata.uid));
    if (!todo.length) return;
    for (const pod of todo.filter((p) => !p.metadata.deletionTimestamp)) {
      if (stopped()) return;
      const outcome = await evict(pod).then((): Outcome => ({ state: 'goes', text: '' }), outcomeOf);
      if (outcome.state === 'never') never.add(pod.metadata.uid);
      said(pod.metadata.uid, outcome);
    }
    await pause();
    if (stopped()) return;
  }
}

export function evictionOf({ metadata: { name, namespace = '', uid } }: Pod): object {
  return { apiVersion: 'policy/v1', kind: 'Eviction', metadata: { name, namespace }, deleteOptions: { preconditions: { uid } } };
}
