// What the page says of pods, workloads and figures.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { age, bytes, cores, quantity, shownTimes } from '../src/model/format';
import { ASKED, objections, questionOf } from '../src/model/answer';
import { podState, whyPod } from '../src/model/pods';
import { deploymentRevisions, progressOf } from '../src/model/workloads';
import { whyNode, whyObject, whyService, whyWorkload } from '../src/model/why';
import type { Event, Node, Obj, Pod, Service, Workload } from '../src/types';

const NOW = Date.parse('2026-03-01T12:00:00Z');
const before = (seconds: number) => new Date(NOW - seconds * 1000).toISOString();

function pod(status: object, more: object = {}): Pod {
  return { metadata: { name: 'p', namespace: 'n', uid: 'u', creationTimestamp: before(600), ...more }, spec: { containers: [{ name: 'main', image: 'x:1', resources: { limits: { memory: '64Mi' } } }] }, status } as Pod;
}

const waiting = (reason: string, last?: object) => ({ phase: 'Running', containerStatuses: [{ name: 'main', ready: false, restartCount: 3, state: { waiting: { reason } }, lastState: last ? { terminated: last } : {} }] });

test('quantities and times are read and written as kubectl does', () => {
  assert.equal(quantity('250m'), 0.25);
  assert.equal(quantity('64Mi'), 64 * 2 ** 20);
  assert.equal(quantity('1e3'), 1000);
  assert.equal(quantity(undefined), 0);
  assert.deepEqual([cores(0.25), cores(2), cores(0), cores(0.0001)], ['250m', '2', '0', '1m']);
  assert.deepEqual([bytes(0), bytes(1536), bytes(2 ** 30)], ['0 B', '1.5 KiB', '1 GiB']);
  assert.deepEqual([age(before(90), NOW), age(before(3600), NOW), age(before(86_400 * 3), NOW)], ['90s', '60m', '3d']);
});

test('a plot shows minutes at its beginning, and all it has later', () => {
  assert.deepEqual(shownTimes([1000]), [880, 1000]);
  assert.deepEqual(shownTimes([1000, 1000]), [880, 1000]);
  assert.deepEqual(shownTimes([1000, 2000]), [1000, 2000]);
});

test('a state says what kubectl says, and whether to look', () => {
  assert.deepEqual(podState(pod(waiting('CrashLoopBackOff')), NOW), { tone: 'bad', text: 'CrashLoopBackOff' });
  assert.equal(podState(pod(waiting('ContainerCreating')), NOW).tone, 'way');
  assert.equal(podState(pod({ phase: 'Succeeded' }), NOW).text, 'Completed');
  assert.equal(podState(pod({ phase: 'Pending', conditions: [{ type: 'PodScheduled', status: 'False' }] }), NOW).tone, 'bad');
  assert.deepEqual(podState(pod({}, { deletionTimestamp: before(120) }), NOW), { tone: 'warn', text: 'Terminating' });
  const ready = { phase: 'Running', conditions: [{ type: 'Ready', status: 'True' }], containerStatuses: [{ name: 'main', ready: true, restartCount: 0, state: { running: {} } }] };
  assert.equal(podState(pod(ready), NOW).tone, 'ok');
});

test('why is said with what may be done', () => {
  const crash = whyPod(pod(waiting('CrashLoopBackOff', { exitCode: 137, reason: 'OOMKilled' })), [], NOW);
  assert.match(crash[0]!.title, /out of memory \(its limit is 64Mi\), after 3 restarts/);
  assert.deepEqual(crash[0]!.logs, { container: 'main', previous: true });
  const full = whyPod(pod({ phase: 'Pending', conditions: [{ type: 'PodScheduled', status: 'False', message: '0/3 nodes are available: 3 Insufficient memory.' }] }), [], NOW);
  assert.match(full[0]!.hint!, /resources.requests/);
  const held = whyPod(pod({ phase: 'Running' }, { deletionTimestamp: before(60), finalizers: ['x/y'] }), [], NOW);
  assert.match(held[0]!.title, /waits for its finalizers/);
  const event = { metadata: { name: 'e', uid: 'e' }, type: 'Warning', reason: 'FailedMount', message: 'no such secret', lastTimestamp: before(5), involvedObject: {} } as Event;
  const mount = whyPod(pod({ phase: 'Pending', containerStatuses: [{ name: 'main', ready: false, restartCount: 0, state: { waiting: { reason: 'ContainerCreating' } } }] }), [event], NOW);
  assert.equal(mount[0]!.detail, 'no such secret');
});

test('a rollout is followed from its start to its end', () => {
  const deployment = (status: object) => ({ metadata: { name: 'd', uid: 'd', generation: 2 }, spec: { replicas: 3 }, status }) as Workload;
  const text = (status: object) => progressOf('Deployment', deployment(status)).state.text;
  assert.equal(text({ observedGeneration: 1, replicas: 3, updatedReplicas: 3, availableReplicas: 3 }), 'Starting');
  assert.equal(text({ observedGeneration: 2, replicas: 4, updatedReplicas: 1, availableReplicas: 3 }), 'Rolling out');
  assert.equal(text({ observedGeneration: 2, replicas: 4, updatedReplicas: 3, availableReplicas: 3 }), 'Rolling out');
  assert.equal(text({ observedGeneration: 2, replicas: 3, updatedReplicas: 3, availableReplicas: 2 }), 'Waiting');
  assert.equal(text({ observedGeneration: 2, replicas: 3, updatedReplicas: 3, availableReplicas: 3 }), 'Available');
  const stuck = { conditions: [{ type: 'Progressing', status: 'False', message: 'timed out' }] };
  assert.equal(progressOf('Deployment', deployment(stuck)).sentence, 'timed out');
});

test('revisions come newest first and without the hash of their set', () => {
  const set = (n: number) => ({ metadata: { name: `d-${n}`, uid: `s${n}`, annotations: { 'deployment.kubernetes.io/revision': String(n) }, ownerReferences: [{ uid: 'd' }] }, spec: { template: { metadata: { labels: { app: 'x', 'pod-template-hash': 'h' } }, spec: { containers: [] } } } });
  const owner = { metadata: { name: 'd', uid: 'd', annotations: { 'deployment.kubernetes.io/revision': '2' } }, spec: {} } as Workload;
  const found = deploymentRevisions(owner, [set(1), set(2)] as unknown as Workload[]);
  assert.deepEqual(found.map((r) => [r.number, r.current]), [[2, true], [1, false]]);
  assert.deepEqual(found[0]!.template?.metadata?.labels, { app: 'x' });
});

test('a workload says why it does not progress, once for all its pods', () => {
  const w = { metadata: { name: 'web', namespace: 'n', uid: 'd' }, spec: { replicas: 3 }, status: { conditions: [{ type: 'Progressing', status: 'False', message: 'timed out' }] } } as Workload;
  const crash = waiting('CrashLoopBackOff', { exitCode: 1 });
  const all = whyWorkload('Deployment', w, [pod(crash), pod(crash, { name: 'q' })], NOW);
  assert.deepEqual(all.map((r) => r.title), ['Deployment web: not progressing', '2 pods: container main keeps ending: exit code 1, after 3 restarts']);
  assert.deepEqual(all[1]!.logs, { container: 'main', previous: true, namespace: 'n', pod: 'p' });
  const well = { ...w, status: { replicas: 3, updatedReplicas: 3, availableReplicas: 3 } };
  assert.deepEqual(whyWorkload('Deployment', well, [pod(crash)], NOW), []);
});

test('every kind that the server answers about is asked about', () => {
  const rows = readFileSync('../../scheduler/src/why/answer.rs', 'utf8').matchAll(/names: &\[([^\]]+)\]/g);
  const served = [...rows].map(([, names]) => JSON.parse(`[${names}]`) as string[]);
  assert.notEqual(served.length, 0);
  const asked = Object.values(ASKED);
  for (const names of served) assert.equal(asked.filter((a) => names.includes(a)).length, 1, `${names[0]} is not in ASKED`);
  assert.equal(asked.length, served.length);
});

test('a workload whose pods are not there says why, too, once that lasts', () => {
  const w = (spec: object, status: object, age = 600) => ({ metadata: { name: 'w', namespace: 'n', uid: 'w', creationTimestamp: before(age) }, spec, status }) as Workload;
  const titles = (kind: string, of: Workload, pods: Pod[] = []) => whyWorkload(kind, of, pods, NOW).map((r) => r.title);
  assert.deepEqual(titles('StatefulSet', w({ replicas: 2 }, { replicas: 0 })), ['It does not have the pods that it should have']);
  assert.deepEqual(titles('StatefulSet', w({ replicas: 2 }, { replicas: 0 }, 5)), []);
  assert.deepEqual(titles('StatefulSet', w({ replicas: 0 }, { replicas: 0 })), []);
  assert.deepEqual(titles('DaemonSet', w({}, { desiredNumberScheduled: 0 })), ['No node is to have a pod of it.']);
  assert.deepEqual(titles('DaemonSet', w({}, { desiredNumberScheduled: 1, currentNumberScheduled: 1, updatedNumberScheduled: 1, numberAvailable: 1 })), []);
  assert.deepEqual(titles('Job', w({}, { active: 1 })), []);
  assert.deepEqual(titles('Job', w({}, {})), ['It does not have the pods that it should have']);
  assert.deepEqual(titles('Job', w({ suspend: true }, {})), ['The Job is suspended']);
  assert.deepEqual(titles('CronJob', w({ suspend: true }, {})), ['The CronJob is suspended']);
  assert.deepEqual(titles('Job', w({}, { conditions: [{ type: 'Complete', status: 'True' }] })), []);
  const failed = w({}, { failed: 1, conditions: [{ type: 'Failed', status: 'True', reason: 'BackoffLimitExceeded', message: 'limit' }] });
  const ended = pod({ phase: 'Failed', containerStatuses: [{ name: 'main', ready: false, restartCount: 0, state: { terminated: { exitCode: 5 } } }] });
  const all = whyWorkload('Job', failed, [ended], NOW);
  assert.deepEqual(all.map((r) => [r.title, !!r.guess]), [['Job w: BackoffLimitExceeded', true], ['Pod p: container main ended: exit code 5', false]]);
});

test('a node says why it takes no pods, and an autoscaler why it does not scale', () => {
  const node = (spec: object, ...conditions: object[]) => ({ metadata: { name: 'a', uid: 'a' }, spec, status: { conditions } }) as Node;
  const ready = { type: 'Ready', status: 'True', message: 'posting' };
  assert.deepEqual(whyNode(node({}, ready), NOW), []);
  assert.deepEqual(whyNode(node({}, { type: 'Ready', status: 'Unknown', message: 'stopped' }), NOW), [{ title: 'The node is not heard of', detail: 'stopped', guess: true }]);
  assert.equal(whyNode(node({ unschedulable: true }, ready), NOW)[0]!.title, 'The node is cordoned');
  const full = { type: 'DiskPressure', status: 'True', message: 'full' };
  assert.deepEqual(whyNode(node({}, ready, full), NOW), [{ title: 'The node is ready, but says DiskPressure', detail: 'full' }]);
  const scaler = (type: string, status: string, reason: string) => whyObject('HorizontalPodAutoscaler', { metadata: { name: 'h', uid: 'h' }, status: { conditions: [{ type, status, reason, message: 'said' }] } }, [], NOW);
  assert.deepEqual(scaler('ScalingActive', 'False', 'FailedGetResourceMetric'), [{ title: 'It does not know how many pods are needed', detail: 'said', guess: true }]);
  assert.match(scaler('AbleToScale', 'False', 'FailedGetScale')[0]!.title, /cannot scale/);
  assert.match(scaler('ScalingLimited', 'True', 'TooManyReplicas')[0]!.title, /More pods are needed/);
  assert.deepEqual(scaler('ScalingLimited', 'True', 'TooFewReplicas'), []);
  assert.deepEqual(scaler('ScalingLimited', 'False', 'DesiredWithinRange'), []);
});

test('a Service says why it leads nowhere', () => {
  const s = { metadata: { name: 's', uid: 's' }, spec: { selector: { app: 'x' } } } as Service;
  assert.match(whyService(s, [pod({})], NOW)[0]!.hint!, /No pod in its namespace carries the labels app=x/);
  const own = pod(waiting('CrashLoopBackOff', { exitCode: 1 }), { labels: { app: 'x' } });
  const [first, second] = whyService(s, [own], NOW);
  assert.match(first!.hint!, /1 pod matches its selector/);
  assert.match(second!.title, /Pod p: container main keeps ending/);
});

test('claims say why they are not bound, and objects why they are not gone', () => {
  const claim = { metadata: { name: 'c', uid: 'c' }, status: { phase: 'Pending' } } as Obj;
  const event = (reason: string, message: string) => ({ metadata: { name: 'e', uid: 'e' }, reason, message, lastTimestamp: before(5), involvedObject: {} }) as Event;
  const why = (e: Event[]) => whyObject('PersistentVolumeClaim', claim, e, NOW)[0]!;
  assert.equal(why([event('WaitForFirstConsumer', 'waiting')]).title, 'It waits for a pod that uses it');
  assert.match(why([event('ProvisioningFailed', 'storageclass "x" not found')]).hint!, /does not exist/);
  assert.equal(why([]).title, 'It has no volume yet');
  assert.deepEqual(whyObject('PersistentVolumeClaim', { ...claim, status: { phase: 'Bound' } }, [], NOW), []);
  const ending = { metadata: { name: 'x', uid: 'x', deletionTimestamp: before(60), finalizers: ['a/b'] } } as Obj;
  assert.match(whyObject('ConfigMap', ending, [], NOW)[0]!.detail!, /a\/b/);
  const ns = { ...ending, status: { conditions: [{ type: 'NamespaceContentRemaining', status: 'True', message: 'pods. has 1 resource instances' }] } } as Obj;
  assert.match(whyObject('Namespace', ns, [], NOW)[0]!.detail!, /pods\. has 1/);
});

test('the server is asked about what it answers, and its nodes are shown with the nearest first', () => {
  const asked = (group: string, plural: string, namespace: string, name: string) => questionOf({ group, plural, namespace, name });
  assert.equal(asked('', 'pods', 'default', 'web'), '/tiphys/why?of=pod%2Fweb&namespace=default');
  assert.equal(asked('', 'namespaces', '', 'old'), '/tiphys/why?of=namespace%2Fold');
  assert.equal(asked('', 'nodes', '', 'a'), '/tiphys/why?of=node%2Fa');
  assert.equal(asked('batch', 'jobs', 'default', 'j'), '/tiphys/why?of=job%2Fj&namespace=default');
  assert.equal(asked('autoscaling', 'horizontalpodautoscalers', 'default', 'h'), '/tiphys/why?of=hpa%2Fh&namespace=default');
  // Another group's kind of the same name is another kind.
  assert.equal(asked('example.com', 'nodes', '', 'a'), undefined);
  assert.equal(asked('batch', 'cronjobs', 'default', 'c'), '/tiphys/why?of=cronjob%2Fc&namespace=default');
  assert.equal(asked('', 'configmaps', 'default', 'c'), undefined);
  const refusal = (plugin: string, change?: string) => ({ plugin, reasons: [`${plugin} says no`], ...(change ? { change } : {}) });
  const all = objections({
    about: 'pod default/web', cause: 'no node takes it',
    nodes: [
      { node: 'a', fits: false, refusals: [refusal('one'), refusal('two', 'more memory')] },
      { node: 'b', fits: false, refusals: [refusal('one', '500m more CPU')] },
    ],
  });
  const elsewhere = { node: 'c', fits: true, refusals: [] };
  assert.deepEqual(objections({ about: '', cause: '', nodes: [elsewhere, { node: 'a', fits: false, refusals: [refusal('one')] }] }), []);
  assert.deepEqual(all, [
    { node: 'b', reasons: 'one says no', change: '500m more CPU' },
    { node: 'a', reasons: 'one says no; two says no', change: 'more memory' },
  ]);
});
