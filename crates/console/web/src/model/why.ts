// Why a workload does not progress, a Service leads nowhere, a claim is not bound, an object is not
// deleted. Pure: objects in, words out.

import { href } from '../state';
import type { Condition, Event, Obj, Pod, Service, Workload } from '../types';
import type { Reason } from '../ui/why';
import { plural, span } from './format';
import { condition, eventTime, podState, whyPod } from './pods';
import { progressOf } from './workloads';

/** Reasons of pods that are shown: the rest is in the table below. */
const MOST = 3;

export function whyWorkload(kind: string, w: Workload, pods: Pod[], now: number): Reason[] {
  if (w.metadata.deletionTimestamp) return whyDeleted(kind, w, now);
  const { state, sentence, ready, wanted } = progressOf(kind, w);
  const out: Reason[] = [];
  if (state.tone === 'bad') out.push({ title: `${kind} ${w.metadata.name}: ${lower(state.text)}`, detail: sentence });
  if (w.spec.paused) out.push({ title: 'The rollout is paused', hint: 'Changes of the template wait until spec.paused is false.' });
  if (state.tone === 'ok' || state.tone === 'done' || (kind !== 'Job' && ready >= wanted)) return out;
  return [...out, ...ofPods(pods, now)];
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

const lower = (text: string) => text.charAt(0).toLowerCase() + text.slice(1);

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
