// What is typed into a terminal arrives, and its end has a cause.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ApiError } from '../src/api';
import { bearer, cause, ending, message, STDIN, Typed } from '../src/model/shell';

test('what is typed before the connection is there is sent with it, in its order', () => {
  const sent: string[] = [];
  const typed = new Typed((text) => void sent.push(text));
  typed.put('l');
  typed.put('s');
  assert.deepEqual(sent, []);
  typed.open();
  typed.put('\r');
  assert.deepEqual(sent, ['l', 's', '\r']);
});

test('what the session itself said of its end stands', async () => {
  const never = () => Promise.reject(new Error('asked'));
  assert.equal(await cause('The shell has ended.', true, never), 'The shell has ended.');
  assert.deepEqual([ending('{"status":"Success"}'), ending('{"status":"Failure","message":"exit code 3"}'), ending('cut')], ['The shell has ended.', 'exit code 3', 'cut']);
});

test('without a word the server is asked what it refuses', async () => {
  const refused = () => Promise.reject(new ApiError(401, 'Unauthorized', 'the token has expired'));
  assert.equal(await cause('', false, refused), 'the token has expired');
  const fine = () => Promise.resolve();
  assert.equal(await cause('', false, fine), 'The server has not opened a terminal.');
  assert.equal(await cause('', true, fine), 'The connection is closed.');
});

test('a message begins with its channel, and a token fits into the name of a protocol', () => {
  assert.deepEqual([...message(STDIN, new Uint8Array([7, 8]))], [0, 7, 8]);
  assert.equal(bearer('a?>b'), 'base64url.bearer.authorization.k8s.io.YT8-Yg');
});
