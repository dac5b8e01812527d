// Which nodes are asked for their statistics, why none is, and how full claims are.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fills, MOST_NODES, mountedOn, toAsk, whyNone, type Summary } from '../src/model/statistics';

const named = (count: number) => Array.from({ length: count }, (_, i) => `node-${i}`);

test('a page about certain nodes asks those, however many there are', () => {
  assert.deepEqual(toAsk(named(500), ['node-7']), { names: ['node-7'], of: 1 });
  assert.deepEqual(toAsk(null, ['node-7']), { names: ['node-7'], of: 1 });
  assert.deepEqual(toAsk(named(500), named(40)), { names: named(MOST_NODES), of: 40 });
  assert.deepEqual(toAsk(named(3), []), { names: [], of: 0 });
});

test('a page about all asks all, or none and says so', () => {
  const [few, many] = [named(MOST_NODES), named(MOST_NODES + 1)];
  assert.deepEqual(toAsk(few, null), { names: few, of: MOST_NODES });
  assert.equal(whyNone(false, few, toAsk(few, null), null), '');
  assert.deepEqual(toAsk(many, null), { names: [], of: MOST_NODES + 1 });
  assert.match(whyNone(false, many, toAsk(many, null), null), /There are 31 nodes.*30 at most/);
  assert.equal(whyNone(false, many, toAsk(many, ['node-1']), ['node-1']), '');
});

test('what is refused is not what has not come yet', () => {
  assert.equal(whyNone(false, undefined, toAsk(undefined, null), null), '');
  assert.match(whyNone(false, null, toAsk(null, null), null), /no right to see what nodes use/);
  assert.match(whyNone(true, named(1), toAsk(named(1), null), null), /no right .*nodes\/proxy/);
  assert.match(whyNone(true, null, toAsk(null, ['a']), ['a']), /nodes\/proxy/);
});

test('a claim is as full as the kubelet says of its volume', () => {
  const summary: Summary = {
    pods: [{
      podRef: { name: 'db-0', namespace: 'n' },
      volume: [
        { usedBytes: 5 }, // no claim's
        { pvcRef: { name: 'data', namespace: 'n' }, usedBytes: 0, capacityBytes: 100 },
        { pvcRef: { name: 'raw', namespace: 'n' }, capacityBytes: 100 }, // not known
      ],
    }, { podRef: { name: 'other', namespace: 'n' } }],
  };
  assert.deepEqual(fills(summary), [['n/data', { used: 0, capacity: 100 }]]);
  assert.deepEqual(fills(null), []);
});

test('a claim is mounted where a pod with it runs', () => {
  const pod = (name: string, volume: object, nodeName?: string, phase = 'Running') => ({ metadata: { name, namespace: 'n' }, spec: { volumes: [{ name: 'v', ...volume }], ...(nodeName ? { nodeName } : {}) }, status: { phase } });
  const of = (claimName: string) => ({ persistentVolumeClaim: { claimName } });
  const found = mountedOn([pod('a', of('data'), 'node-1'), pod('b', { ephemeral: {} }, 'node-2'), pod('c', of('waits')), pod('d', of('over'), 'node-1', 'Succeeded'), pod('e', { emptyDir: {} }, 'node-3')]);
  assert.deepEqual([...found], [['n/data', 'node-1'], ['n/b-v', 'node-2']]);
});
