// What a pod is doing, and why it does not do what it should. Pure: objects in, words out.

import type { Condition, Container, ContainerStatus, Event, Pod } from '../types';
import { plural, span } from './format';

/** How something is: `ok`, on its `way`, to be looked at (`warn`), `bad`, over (`done`). */
export type Tone = 'ok' | 'way' | 'warn' | 'bad' | 'done';

export interface State {
  tone: Tone;
  text: string;
}

/** Waiting reasons that pass by themselves. */
const PASSING = new Set(['ContainerCreating', 'PodInitializing']);
/** Milliseconds for which being on the way is nothing to look at. */
export const PATIENCE_MS = 30_000;

export function condition(all: Condition[] | undefined, type: string): Condition | undefined {
  return all?.find((c) => c.type === type);
}

/** All containers with what is known of each, in the order in which they start. */
export function containersOf(pod: Pod): { spec: Container; status?: ContainerStatus; init: boolean; extra: boolean }[] {
  const s = pod.status ?? {};
  const join = (specs: Container[] | undefined, found: ContainerStatus[] | undefined, init: boolean, extra: boolean) =>
    (specs ?? []).map((spec) => {
      const status = found?.find((c) => c.name === spec.name);
      return status ? { spec, status, init, extra } : { spec, init, extra };
    });
  return [
    ...join(pod.spec.initContainers, s.initContainerStatuses, true, false),
    ...join(pod.spec.containers, s.containerStatuses, false, false),
    ...join(pod.spec.ephemeralContainers, s.ephemeralContainerStatuses, false, true),
  ];
}

export function readiness(pod: Pod): { ready: number; total: number } {
  const all = pod.status?.containerStatuses ?? [];
  return { ready: all.filter((c) => c.ready).length, total: pod.spec.containers.length };
}

export function restarts(pod: Pod): number {
  return (pod.status?.containerStatuses ?? []).reduce((sum, c) => sum + c.restartCount, 0);
}

/** A pod's state in the words of `kubectl get pods`. */
export function podState(pod: Pod, now: number): State {
  const { status = {}, metadata } = pod;
  if (metadata.deletionTimestamp) {
    const late = now - Date.parse(metadata.deletionTimestamp) > PATIENCE_MS;
    return { tone: late ? 'warn' : 'way', text: 'Terminating' };
  }
  if (status.phase === 'Succeeded') return { tone: 'done', text: 'Completed' };
  const init = initState(pod);
  if (init) return init;
  for (const c of status.containerStatuses ?? []) {
    const waiting = c.state?.waiting?.reason;
    if (waiting && !PASSING.has(waiting)) return { tone: 'bad', text: waiting };
    const ended = c.state?.terminated;
    if (ended && ended.exitCode !== 0) return { tone: 'bad', text: endWord(ended) };
  }
  if (status.phase === 'Failed') return { tone: 'bad', text: status.reason ?? 'Failed' };
  const scheduled = condition(status.conditions, 'PodScheduled');
  if (scheduled?.status === 'False') {
    const gated = scheduled.reason === 'SchedulingGated';
    return { tone: gated ? 'warn' : 'bad', text: gated ? 'SchedulingGated' : 'Pending' };
  }
  if (status.phase !== 'Running') {
    const late = now - Date.parse(metadata.creationTimestamp ?? '') > PATIENCE_MS;
    const waiting = status.containerStatuses?.find((c) => c.state?.waiting)?.state?.waiting;
    return { tone: late ? 'warn' : 'way', text: waiting?.reason ?? status.phase ?? 'Pending' };
  }
  const { ready, total } = readiness(pod);
  if (ready < total || condition(status.conditions, 'Ready')?.status === 'False') {
    const since = condition(status.conditions, 'Ready')?.lastTransitionTime;
    const late = since !== undefined && now - Date.parse(since) > PATIENCE_MS;
    return { tone: late ? 'warn' : 'way', text: 'Not ready' };
  }
  return { tone: 'ok', text: 'Running' };
}

function initState(pod: Pod): State | null {
  const all = pod.spec.initContainers ?? [];
  const found = pod.status?.initContainerStatuses ?? [];
  for (const [at, spec] of all.entries()) {
    const c = found.find((s) => s.name === spec.name);
    if (!c || c.state?.terminated?.exitCode === 0) continue;
    if (spec.restartPolicy === 'Always' && c.started) continue;
    const waiting = c.state?.waiting?.reason;
    if (waiting && !PASSING.has(waiting)) return { tone: 'bad', text: `Init:${waiting}` };
    if (c.state?.terminated) return { tone: 'bad', text: `Init:${endWord(c.state.terminated)}` };
    return { tone: 'way', text: `Init:${at}/${all.length}` };
  }
  return null;
}

function endWord(end: { reason?: string; exitCode: number; signal?: number }): string {
  if (end.reason && end.reason !== 'Error') return end.reason;
  return end.signal ? `Signal:${end.signal}` : `ExitCode:${end.exitCode}`;
}

/** One reason why a pod is not as it should be. */
export interface Why {
  title: string;
  /** What the cluster says, word for word. */
  detail?: string;
  /** What may be done. */
  hint?: string;
  /** The container whose last output tells more. */
  logs?: { container: string; previous: boolean };
  /** The server's own answer says it better: shown only where it gives none. */
  guess?: boolean;
}

/** Why a pod does not run, or does not run well; nothing when there is nothing to say. */
export function whyPod(pod: Pod, events: Event[], now: number): Why[] {
  const { status = {}, metadata } = pod;
  const out: Why[] = [];
  if (metadata.deletionTimestamp) out.push(...whyNotGone(pod, now));
  const scheduled = condition(status.conditions, 'PodScheduled');
  if (scheduled?.status === 'False') out.push(notScheduled(scheduled));
  if (status.phase === 'Failed' && status.reason) {
    out.push(filled({ title: `The pod has failed: ${status.reason}`, detail: status.message }));
  }
  for (const { spec, status: c } of containersOf(pod)) if (c) out.push(...whyContainer(spec, c, events));
  if (!out.length && podState(pod, now).tone !== 'ok' && status.phase !== 'Succeeded') {
    const last = warningsOf(events)[0];
    if (last) out.push(filled({ title: last.reason ?? 'Warning', detail: last.message }));
  }
  return out;
}

function filled(why: { title: string; detail?: string | undefined; hint?: string | undefined; logs?: Why['logs'] | undefined; guess?: boolean }): Why {
  const entries = Object.entries(why).filter(([, value]) => value !== undefined && value !== '');
  return Object.fromEntries(entries) as unknown as Why;
}

function notScheduled(c: Condition): Why {
  if (c.reason === 'SchedulingGated') {
    return filled({ title: 'The pod is held back by its scheduling gates', detail: c.message, hint: 'It is placed when whoever set spec.schedulingGates removes them.', guess: true });
  }
  const hints: [RegExp, string][] = [
    [/Insufficient (cpu|memory|ephemeral-storage)/, 'Ask for less in resources.requests, free room, or add a node.'],
    [/untolerated taint/, 'Tolerate the taint, or remove it from a node.'],
    [/affinity|selector/, 'No node carries the labels that nodeSelector or affinity ask for.'],
    [/unbound|persistentvolumeclaim/i, 'One of its claims has no volume yet: see Storage.'],
    [/unschedulable/, 'Nodes are cordoned.'],
  ];
  const hint = hints.find(([pattern]) => pattern.test(c.message ?? ''))?.[1];
  return filled({ title: 'No node takes the pod', detail: c.message, hint, guess: true });
}

function whyNotGone(pod: Pod, now: number): Why[] {
  const due = Date.parse(pod.metadata.deletionTimestamp ?? '');
  const finalizers = pod.metadata.finalizers ?? [];
  if (finalizers.length) {
    return [{ title: 'The pod is being deleted and waits for its finalizers', detail: finalizers.join(', '), hint: 'Whoever set them removes them when his work is done.' }];
  }
  if (now < due + PATIENCE_MS) return [];
  return [filled({
    title: `The pod should have been gone ${span(now - due)} ago`,
    hint: pod.spec.nodeName ? `Its node ${pod.spec.nodeName} has not reported its end: is the node ready?` : undefined,
  })];
}

const warningsOf = (events: Event[]) =>
  events.filter((e) => e.type === 'Warning').sort((a, b) => eventTime(b) - eventTime(a));

function whyContainer(spec: Container, c: ContainerStatus, events: Event[]): Why[] {
  const name = spec.name;
  const waiting = c.state?.waiting;
  if (waiting?.reason && !PASSING.has(waiting.reason)) {
    return [whyWaiting(name, spec, c, waiting.reason, waiting.message)];
  }
  const ended = c.state?.terminated;
  if (ended && ended.exitCode !== 0) {
    return [filled({ title: `Container ${name} ended: ${endSentence(ended, spec)}`, detail: ended.message, logs: { container: name, previous: false } })];
  }
  if (c.state?.running && !c.ready) {
    const failing = warningsOf(events).find((e) => e.reason === 'Unhealthy' && e.message?.startsWith('Readiness'));
    if (failing) return [filled({ title: `Container ${name} runs, and its readiness probe fails`, detail: failing.message, hint: 'Services send it nothing until the probe succeeds.' })];
  }
  return [];
}

function whyWaiting(name: string, spec: Container, c: ContainerStatus, reason: string, message?: string): Why {
  if (reason === 'CrashLoopBackOff') {
    const end = c.lastState?.terminated;
    return filled({
      title: `Container ${name} keeps ending: ${end ? endSentence(end, spec) : 'it crashes'}, after ${plural(c.restartCount, 'restart')}`,
      detail: end?.message ?? message,
      hint: end?.reason === 'OOMKilled' ? 'It needs more than its memory limit, or it leaks.' : undefined,
      logs: { container: name, previous: true },
    });
  }
  if (/ImagePull|ErrImage|InvalidImage/.test(reason)) {
    return filled({ title: `The image ${spec.image ?? ''} of container ${name} cannot be had`, detail: message, hint: 'Is its name right, does the node reach the registry, does it need a pull secret? Without a registry: tiphys image import.' });
  }
  if (reason === 'CreateContainerConfigError') {
    return filled({ title: `Container ${name} cannot be made as it is configured`, detail: message, hint: 'It names a ConfigMap, Secret or key that does not exist.' });
  }
  return filled({ title: `Container ${name} waits: ${reason}`, detail: message });
}

function endSentence(end: { exitCode: number; reason?: string; signal?: number }, spec: Container): string {
  if (end.reason === 'OOMKilled') {
    const limit = spec.resources?.limits?.memory;
    return `out of memory${limit ? ` (its limit is ${limit})` : ''}`;
  }
  const meaning: Record<number, string> = { 126: 'its command cannot be executed', 127: 'its command was not found', 137: 'killed (SIGKILL)', 139: 'segmentation fault', 143: 'ended by SIGTERM' };
  const words = meaning[end.exitCode];
  return `exit code ${end.exitCode}${words ? `, ${words}` : ''}`;
}

/** When an event was seen last, in milliseconds. */
export function eventTime(e: Event): number {
  const text = e.series?.lastObservedTime ?? e.lastTimestamp ?? e.eventTime ?? e.metadata.creationTimestamp;
  return text ? Date.parse(text) : 0;
}

export function eventCount(e: Event): number {
  return e.series?.count ?? e.count ?? 1;
}
