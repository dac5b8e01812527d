// A list of several pages that breaks off is no list.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ApiError } from '../src/api';
import { pages, passes } from '../src/live';

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

test('what is refused or unknown is not asked for again, what is lost or busy is', () => {
  const codes = [401, 403, 404, 405, 0, 410, 429, 500, 503];
  const asked = codes.filter((code) => passes(new ApiError(code, '', '')));
  assert.deepEqual(asked, [0, 410, 429, 500, 503]);
});
