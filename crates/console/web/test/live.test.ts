// A list of several pages that breaks off is no list.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { pages } from '../src/live';

const object = (uid: string) => ({ metadata: { name: uid, uid } });

test('all pages are one list, at the version of the last', async () => {
  const seen: number[] = [];
  const asked: string[] = [];
  const page = (next: string) => {
    asked.push(next);
    return Promise.resolve(next
      ? { items: [object('b')], metadata: { resourceVersion: '7' } }
      : { items: [object('a')], metadata: { resourceVersion: '7', continue: 'more' } });
  };
  const list = await pages(page, (part) => seen.push(part.size));
  assert.deepEqual([[...list.items.keys()], list.version, asked, seen], [['a', 'b'], '7', ['', 'more'], [1]]);
});

test('a page that fails leaves no version to watch from', async () => {
  const page = (next: string) =>
    next
      ? Promise.reject(new Error('lost'))
      : Promise.resolve({ items: [object('a')], metadata: { resourceVersion: '7', continue: 'more' } });
  await assert.rejects(pages(page, () => undefined), /lost/);
});
