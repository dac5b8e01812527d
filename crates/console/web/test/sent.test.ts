// What is sent of an edited object, and where its mistakes are shown.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LineCounter, parseDocument } from 'yaml';
import { diff, folded } from '../src/edit/diff';
import { chosen, kept, NOTHING, Schemas, type Schema } from '../src/edit/sent';
import { lineOf, steps } from '../src/edit/locate';

const container: Schema = {
  properties: {
    name: {}, image: {}, args: { items: {}, 'x-kubernetes-list-type': 'atomic' },
    ports: { items: {}, 'x-kubernetes-list-type': 'map', 'x-kubernetes-list-map-keys': ['containerPort', 'protocol'] },
  },
};
const root: Schema = {
  properties: {
    metadata: { properties: { finalizers: { items: {}, 'x-kubernetes-list-type': 'set' }, labels: { additionalProperties: {} } } },
    spec: {
      properties: {
        replicas: {},
        selector: { 'x-kubernetes-map-type': 'atomic', properties: {} },
        containers: { items: { allOf: [{ $ref: '#/components/schemas/container' }] }, 'x-kubernetes-list-type': 'map', 'x-kubernetes-list-map-keys': ['name'] },
      },
    },
  },
};
const schemas = new Schemas({ container });
const base = {
  metadata: { finalizers: ['a'], labels: { app: 'web' } },
  spec: { replicas: 1, selector: { app: 'web', tier: 'x' }, containers: [{ name: 'main', image: 'a:1', args: ['x', 'y'], ports: [{ containerPort: 80, protocol: 'TCP' }] }, { name: 'side', image: 'b:1' }] },
};
const edited = (change: (copy: typeof base) => void) => {
  const copy = structuredClone(base);
  change(copy);
  return copy;
};
const sent = (change: (copy: typeof base) => void, owned?: object) => chosen(schemas, base, edited(change), root, owned as never);

test('only what was changed is sent', () => {
  assert.equal(sent(() => undefined), NOTHING);
  assert.deepEqual(sent((o) => (o.spec.replicas = 2)), { spec: { replicas: 2 } });
  assert.deepEqual(sent((o) => Object.assign(o.metadata.labels, { tier: 'front' })), { metadata: { labels: { tier: 'front' } } });
});

test('an item of a list is sent with its key, and nothing of the others', () => {
  assert.deepEqual(sent((o) => (o.spec.containers[1]!.image = 'b:2')), { spec: { containers: [{ name: 'side', image: 'b:2' }] } });
  assert.deepEqual(
    sent((o) => o.spec.containers[0]!.ports!.push({ containerPort: 81, protocol: 'TCP' })),
    { spec: { containers: [{ name: 'main', ports: [{ containerPort: 81, protocol: 'TCP' }] }] } },
  );
  assert.deepEqual(sent((o) => o.metadata.finalizers.push('b')), { metadata: { finalizers: ['b'] } });
});

test('what is one value is sent as a whole', () => {
  assert.deepEqual(sent((o) => (o.spec.containers[0]!.args = ['x'])), { spec: { containers: [{ name: 'main', args: ['x'] }] } });
  assert.deepEqual(sent((o) => (o.spec.selector.tier = 'y')), { spec: { selector: { app: 'web', tier: 'y' } } });
});

test('what the page owns already is sent again, as it is now', () => {
  const owned = { 'f:spec': { 'f:replicas': {}, 'f:containers': { 'k:{"name":"main"}': { '.': {}, 'f:image': {} } } } };
  assert.deepEqual(sent((o) => (o.spec.containers[1]!.image = 'b:2'), owned), {
    spec: { replicas: 1, containers: [{ name: 'main', image: 'a:1' }, { name: 'side', image: 'b:2' }] },
  });
});

test('what was taken out and stays is named', () => {
  const without = structuredClone(base) as { spec: { replicas?: number; containers: unknown[] } };
  delete without.spec.replicas;
  assert.deepEqual(kept(base, without as never, base), ['spec.replicas']);
  without.spec.containers.pop();
  assert.deepEqual(kept(base, without as never, base), ['spec.replicas', 'spec.containers']);
  assert.deepEqual(kept(base, without as never, without as never), []);
});

test('a field of an error is found in the text', () => {
  const text = 'metadata:\n  labels:\n    a.b/c: x\nspec:\n  containers:\n    - name: web\n      image: y\n    - name: side\n      ports:\n        - containerPort: 80\n';
  const lines = new LineCounter();
  const doc = parseDocument(text, { lineCounter: lines });
  const at = (path: string) => lineOf(doc, lines, path);
  assert.equal(at('spec.containers[0].image'), 7);
  assert.equal(at('.spec.containers[name="side"].ports[containerPort=80,protocol="TCP"]'), 10);
  assert.equal(at('metadata.labels[a.b/c]'), 3);
  assert.equal(at('spec.containers[1].image'), 8, 'what is missing is shown at what is above it');
  assert.equal(at(''), 1);
  assert.deepEqual(steps('a.b[0].c[x.y/z]'), ['a', 'b', '0', 'c', 'x.y/z']);
});

test('a difference is small, and far lines are folded', () => {
  const before = Array.from({ length: 40 }, (_, i) => `line ${i}`);
  const after = before.map((l, i) => (i === 20 ? 'changed' : l)).filter((_, i) => i !== 5);
  const all = diff(before, after);
  assert.deepEqual(all.filter((l) => l.kind !== 'same').map((l) => `${l.kind} ${l.text}`), ['removed line 5', 'removed line 20', 'added changed']);
  assert.equal(folded(all).filter((l) => l.kind === 'gap').length, 3);
  assert.equal(diff([], ['a']).length, 1);
});
