// Which lines of a log are shown after a stream broke.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Mark, parsed } from '../src/model/logs';

const shown = (mark: Mark, all: string[]) => {
  mark.begin();
  return all.map(parsed).filter((line) => mark.isNew(line)).map((line) => line.text);
};

test('a line has a time in front, or none', () => {
  assert.deepEqual(parsed('2026-01-02T03:04:05.6Z a b'), { time: '2026-01-02T03:04:05.6Z', text: 'a b' });
  assert.deepEqual(parsed('2026-01-02T03:04:05Z '), { time: '2026-01-02T03:04:05Z', text: '' });
  assert.deepEqual(parsed('unable to read'), { time: '', text: 'unable to read' });
});

test('lines that come once more are left out, and none that is new', () => {
  const mark = new Mark();
  assert.equal(mark.since, '');
  const one = ['2026-01-02T03:04:05.5Z a', '2026-01-02T03:04:05.61Z b', '2026-01-02T03:04:05.61Z b'];
  assert.deepEqual(shown(mark, one), ['a', 'b', 'b']);
  assert.equal(mark.since, '2026-01-02T03:04:05Z');
  // The whole second again, one more line of the last time, and what came since.
  const two = [...one, '2026-01-02T03:04:05.610Z c', '2026-01-02T03:04:05.7Z d', '2026-01-02T04:04:06+01:00 e'];
  assert.deepEqual(shown(mark, two), ['c', 'd', 'e']);
  assert.deepEqual(shown(mark, two), []);
  assert.deepEqual(shown(mark, ['a message']), ['a message']);
});
