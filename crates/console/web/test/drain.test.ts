// Which pods leave a node that is drained, and what becomes of refusals.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ApiError } from '../src/api';
import { drain, evictionOf, outcomeOf, planOf, type Outcome } from '../src/model/drain';
import type { Pod } from '../src/types';

function pod(name: string, kind?: string, more: { meta?: object; spec?: object; phase?: string } = {}): Pod {
  const ownerReferences = kind ? [{ kind, name: 'o', uid: 'o', apiVersion: 'apps/v1', controller: true }] : undefined;
  return { metadata: { name, namespace: 'n', uid: name, ...(ownerReferences ? { ownerReferences } : {}), ...more.meta }, spec: { containers: [], ...more.spec }, status: { phase: more.phase ?? 'Running' } } as Pod;
}

test('pods of DaemonSets and static ones stay; what is lost is counted', () => {
  const plan = planOf([
    pod('web', 'ReplicaSet', { spec: { volumes: [{ name: 'v', emptyDir: {} }] } }),
    pod('alone'), pod('over', undefined, { phase: 'Succeeded' }),
    pod('agent', 'DaemonSet'), pod('agent-over', 'DaemonSet', { phase: 'Failed' }),
    pod('static', 'Node', { meta: { annotations: { 'kubernetes.io/config.mirror': 'x' } } }),
  ]);
  assert.deepEqual(plan.leave.map((p) => p.metadata.name), ['web', 'alone', 'over', 'agent-over']);
  assert.deepEqual([plan.stay, plan.alone, plan.data], [2, 1, 1]);
});

test('a budget says not now, a missing right never, and who is gone has left', () => {
  const of = (code: number) => outcomeOf(new ApiError(code, '', 'm')).state;
  assert.deepEqual([429, 500, 0, 403, 422, 404, 409].map(of), ['later', 'later', 'later', 'never', 'never', 'goes', 'goes']);
});

test('it evicts until all have left, and tries again what a budget refused', async () => {
  let left = [pod('a'), pod('held'), pod('mine'), pod('ends', undefined, { meta: { deletionTimestamp: 'x' } })];
  const [asked, said]: [string[], [string, Outcome['state']][]] = [[], []];
  let rounds = 0;
  await drain({
    left: () => left,
    evict: async ({ metadata: { name } }) => {
      asked.push(name);
      if (name === 'mine') throw new ApiError(403, 'Forbidden', 'no');
      if (name === 'held' && rounds === 0) throw new ApiError(429, 'TooManyRequests', 'budget');
      left = left.filter((p) => p.metadata.name !== name);
    },
    said: (uid, outcome) => said.push([uid, outcome.state]),
    pause: async () => {
      rounds += 1;
      left = left.filter((p) => !p.metadata.deletionTimestamp);
    },
    stopped: () => false,
  });
  assert.deepEqual(asked, ['a', 'held', 'mine', 'held']);
  assert.deepEqual(said, [['a', 'goes'], ['held', 'later'], ['mine', 'never'], ['held', 'goes']]);
  assert.deepEqual(left.map((p) => p.metadata.name), ['mine']);
});

test('who closes it evicts no more', async () => {
  let stopped = false;
  const asked: string[] = [];
  const evict = async (p: Pod) => {
    asked.push(p.metadata.name);
    stopped = true;
  };
  await drain({ left: () => [pod('a'), pod('b')], evict, said: () => undefined, pause: async () => undefined, stopped: () => stopped });
  assert.deepEqual(asked, ['a']);
});

test('an eviction is of this pod, not of one that has its name later', () => {
  assert.deepEqual(evictionOf(pod('a')), { apiVersion: 'policy/v1', kind: 'Eviction', metadata: { name: 'a', namespace: 'n' }, deleteOptions: { preconditions: { uid: 'a' } } });
});
