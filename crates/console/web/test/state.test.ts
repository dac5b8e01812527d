// Addresses that somebody has typed or cut.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decoded } from '../src/state';

test('a part of an address that is not encoded is taken as it stands', () => {
  assert.deepEqual(['a%2Fb', 'ü', '%zz', '50%'].map(decoded), ['a/b', 'ü', '%zz', '50%']);
});
