// Signing in: a token, kept in this tab alone.

import { useState } from 'preact/hooks';
import { keeps, signedOut, signIn } from '../state';

/** Said where the browser forbids to keep anything. */
export const FORGOTTEN = 'This browser lets the page keep nothing: you sign in again when it is loaded again.';

export function SignIn() {
  const [value, set] = useState('');
  const submit = (e: Event) => {
    e.preventDefault();
    const clean = value.trim();
    if (clean) signIn(clean);
  };
  return (
    <main class="signin">
      <form onSubmit={submit}>
        <h1>Tiphys</h1>
        <p class="sub">Sign in to this cluster.</p>
        {signedOut.value && <p class="refused" role="alert">{signedOut.value}</p>}
        <label for="token">Token</label>
        <input id="token" type="password" autocomplete="off" spellcheck={false} autofocus value={value} onInput={(e) => set(e.currentTarget.value)} />
        <button class="primary" disabled={!value.trim()}>Sign in</button>
        <p class="quiet">On a machine with a kubeconfig, <code>tiphys console</code> opens this page signed in. Or make a token: <code>kubectl create token NAME -n NAMESPACE</code>. You see what it may see. {keeps() ? 'It stays in this tab.' : FORGOTTEN}</p>
      </form>
    </main>
  );
}
