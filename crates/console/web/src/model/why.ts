// Why a workload does not progress, a Service leads nowhere, a node takes no pods, an autoscaler does
// not scale, a claim is not bound, an object is not deleted. Pure: objects in, words out.

import { href } from '../state';
import type { Condition, Event, Node, Obj, Pod, Service, Workload } from '../types';
import type { Reason } from '../ui/why';
import { plural, span } from './format';
import { condition, eventTime, PATIENCE_MS, podState, whyPod } from './pods';
import { nodeCondition, nodeState } from './trouble';
import { progressOf, type Progress } from './workloads';

/** Reasons of pods that are shown: the rest is in the table below. */
const MOST = 3;

export function whyWorkload(kind: string, w: Workload, pods: Pod[], now: number): Reason[] {
  if (w.metadata.deletionTimestamp) return whyDeleted(kind, w, now);
  const progress = progressOf(kind, w);
  const { state, sentence, ready, wanted } = progress;
  const out: Reason[] = [];
  // Of a Job, the server's answer begins with the same condition.
  if (state.tone === 'bad') out.push({ title: `${kind} ${w.metadata.name}: ${lower(state.text)}`, detail: sentence, guess: kind === 'Job' });
  if (w.spec.paused) out.push({ title: 'The rollout is paused', hint: 'Changes of the template wait until spec.paused is false.' });
  if (state.text === 'Suspended') out.push({ title: `The ${kind} is suspended`, hint: 'Nothing new is made until spec.suspend is false.', guess: true });
  if (kind === 'DaemonSet' && !wanted && state.tone === 'ok') out.push({ title: sentence, guess: true });
  if (state.tone === 'ok' || state.tone === 'done' || (kind !== 'Job' && ready >= wanted)) return out;
  out.push(...ofPods(pods, now));
  const old = now - Date.parse(w.metadata.creationTimestamp ?? '') > PATIENCE_MS;
  if (!out.length && old && lacksPods(kind, progress)) out.push({ title: 'It does not have the pods that it should have', detail: sentence, guess: true });
  return out;
}

/** Whether pods are not there at all, so that none of them can say why. */
function lacksPods(kind: string, { wanted, ready, total }: Progress): boolean {
  // A Job has few of them at a time; what counts as ready there is done.
  return kind === 'Job' ? total <= ready : total < wanted;
}

/** What keeps pods from running; the same of several is said once, with its last output. */
function ofPods(pods: Pod[], now: number): Reason[] {
  const found = new Map<string, { first: Pod; count: number }>();
  for (const pod of pods) {
    const { tone, text } = podState(pod, now);
    if (tone !== 'bad' && tone !== 'warn') continue;
    const known = found.get(text);
    if (known) known.count += 1;
    else found.set(text, { first: pod, count: 1 });
  }
  return [...found].slice(0, MOST).map(([text, { first, count }]) => {
    const { name, namespace = '' } = first.metadata;
    const [why] = whyPod(first, [], now);
    const { logs, ...rest } = why ?? { title: text };
    const title = count > 1 ? `${plural(count, 'pod')}: ${lower(rest.title)}` : `Pod ${name}: ${lower(rest.title)}`;
    return {
      ...rest, title,
      ...(logs ? { logs: { ...logs, namespace, pod: name } } : {}),
      link: { to: href('pods', namespace, name), text: `Pod ${name}` },
    };
  });
}

/** As it stands after a colon; names as BackoffLimitExceeded stay as they are. */
const lower = (text: string) => text.replace(/^[A-Z][a-z]*\b/, (word) => word.toLowerCase());

/** Why a node is not ready, or takes no pods. */
export function whyNode(node: Node, now: number): Reason[] {
  if (node.metadata.deletionTimestamp) return whyDeleted('Node', node, now);
  const { tone, text } = nodeState(node);
  if (tone === 'ok') return [];
  const detail = nodeCondition(node)?.message;
  if (tone === 'bad') return [{ title: `The node is ${lower(text)}`, ...(detail ? { detail } : {}), guess: true }];
  if (text === 'Cordoned') return [{ title: 'The node is cordoned', hint: 'It takes no new pods until it is uncordoned.', guess: true }];
  return [{ title: `The node is ready, but says ${text}`, ...(detail ? { detail } : {}) }];
}

/** Why nothing answers behind a Service. */
export function whyService(s: Service, pods: Pod[], now: number): Reason[] {
  const selector = Object.entries(s.spec?.selector ?? {});
  if (!selector.length || s.spec?.type === 'ExternalName') return [];
  const matching = pods.filter((p) => selector.every(([k, v]) => p.metadata.labels?.[k] === v));
  const text = selector.map(([k, v]) => `${k}=${v}`).join(', ');
  const title = 'Nothing is behind this Service';
  if (!matching.length) return [{ title, hint: `No pod in its namespace carries the labels ${text}.`, guess: true }];
  const ready = `${plural(matching.length, 'pod matches', 'pods match')} its selector (${text}); none of them is ready to be sent to.`;
  return [{ title, hint: ready, guess: true }, ...ofPods(matching, now)];
}

/** Why an object of any kind is not as it should be, as far as that can be seen in it. */
export function whyObject(kind: string, o: Obj, events: Event[], now: number): Reason[] {
  if (o.metadata.deletionTimestamp) return whyDeleted(kind, o, now);
  const phase = (o.status as { phase?: string } | undefined)?.phase;
  if (kind === 'PersistentVolumeClaim' && phase !== 'Bound') return whyClaim(phase, events);
  if (kind === 'HorizontalPodAutoscaler') return whyAutoscaler((o.status as { conditions?: Condition[] } | undefined)?.conditions);
  return [];
}

/** By the first of its conditions that keeps an autoscaler from scaling. That it may not go below its least is nothing wrong. */
function whyAutoscaler(all: Condition[] | undefined): Reason[] {
  const [able, active, limited] = ['AbleToScale', 'ScalingActive', 'ScalingLimited'].map((type) => condition(all, type));
  const says = (title: string, c: Condition): Reason[] => [{ title, ...(c.message ? { detail: c.message } : {}), guess: true }];
  if (able?.status === 'False') return says('It cannot scale its target', able);
  if (active?.status === 'False') return says(active.reason === 'ScalingDisabled' ? 'Its target is to have no pods: it is left alone' : 'It does not know how many pods are needed', active);
  if (limited?.status === 'True' && limited.reason === 'TooManyReplicas') return says('More pods are needed than it may give', limited);
  return [];
}

function whyClaim(phase: string | undefined, events: Event[]): Reason[] {
  if (phase === 'Lost') return [{ title: 'Its volume does not exist any more', hint: 'What was on it is lost, unless the volume is made again with the same name and contents.', guess: true }];
  const said = [...events].sort((a, b) => eventTime(b) - eventTime(a))[0];
  const waits = said?.reason === 'WaitForFirstConsumer' || said?.reason === 'WaitForPodScheduled';
  const hints: [RegExp, string][] = [
    [/storageclass.*not found/i, 'It names a class that does not exist: see Storage.'],
    [/no persistent volumes available/i, 'No volume fits, and its class makes none.'],
    [/waiting for a volume to be created/i, 'The class\'s provisioner has not made it yet: does it run?'],
  ];
  const hint = waits ? 'A pod that uses it decides on which node the volume is made.' : hints.find(([p]) => p.test(said?.message ?? ''))?.[1];
  return [{ title: waits ? 'It waits for a pod that uses it' : 'It has no volume yet', ...(said?.message ? { detail: said.message } : {}), ...(hint ? { hint } : {}), guess: true }];
}

function whyDeleted(kind: string, o: Obj, now: number): Reason[] {
  const since = span(now - Date.parse(o.metadata.deletionTimestamp ?? ''));
  const title = `It is being deleted, for ${since}`;
  const finalizers = o.metadata.finalizers ?? [];
  if (kind === 'Namespace') {
    const all = (o.status as { conditions?: Condition[] } | undefined)?.conditions;
    const held = ['NamespaceDeletionDiscoveryFailure', 'NamespaceDeletionContentFailure', 'NamespaceContentRemaining', 'NamespaceFinalizersRemaining']
      .map((type) => condition(all, type))
      .filter((c) => c?.status === 'True')
      .map((c) => c?.message ?? '');
    return [{ title, ...(held.length ? { detail: held.join('\n') } : {}), hint: held.length ? 'It goes when all that is in it has gone.' : 'What is in it is being deleted.', guess: true }];
  }
  if (!finalizers.length) return [{ title, hint: 'What it owns goes first, or its end has not been seen yet.' }];
  const own = finalizers.includes('foregroundDeletion') ? ' Who deleted it wanted what it owns to go first.' : '';
  return [{ title, detail: `It waits for its finalizers: ${finalizers.join(', ')}`, hint: `Whoever set them removes them when his work is done.${own}` }];
}
