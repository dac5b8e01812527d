// What is kept where the browser forbids it, and where it is full.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Store } from '../src/store';

const map = () => {
  const all = new Map<string, string>();
  return {
    getItem: (key: string) => all.get(key) ?? null,
    setItem: (key: string, value: string) => void all.set(key, value),
    removeItem: (key: string) => void all.delete(key),
  };
};

test('what the browser takes is there for the next page', () => {
  const area = map();
  const store = new Store(() => area);
  store.set('a', '1');
  assert.deepEqual([new Store(() => area).get('a'), store.get('b'), store.lasts], ['1', null, true]);
  store.remove('a');
  assert.deepEqual([area.getItem('a'), store.get('a')], [null, null]);
});

test('where even a look is forbidden the page keeps it by itself, and knows', () => {
  const store = new Store(() => {
    throw new Error('forbidden');
  });
  assert.deepEqual([store.get('a'), store.lasts], [null, false]);
  store.set('a', '1');
  assert.equal(store.get('a'), '1');
  store.remove('a');
  assert.equal(store.get('a'), null);
});

test('what no longer fits hides what was kept before', () => {
  const area = { ...map(), setItem: () => { throw new Error('full'); } };
  const store = new Store(() => ({ ...area, getItem: () => 'old' }));
  store.set('a', 'new');
  assert.deepEqual([store.get('a'), store.get('b'), store.lasts], ['new', 'old', false]);
});
