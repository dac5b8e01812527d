// What the whole page knows: who is signed in, which namespace is looked at, which page is open,
// and how it looks. The token stays in this tab and goes nowhere but to the API.

import { computed, effect, signal } from '@preact/signals';
import { Store } from './store';

const TOKEN = 'tiphys.token';
const SCOPE = 'tiphys.namespace';
const THEME = 'tiphys.theme';

/** Of this tab alone, and of all tabs of this browser. */
const tab = new Store(() => sessionStorage);
const browser = new Store(() => localStorage);
/** Whether one is still signed in when the page is loaded again. */
export const keeps = () => tab.lasts;

/** The bearer token; empty when nobody is signed in. */
export const token = signal(tab.get(TOKEN) ?? '');

/** Why the sign-in page is shown again, in words. */
export const signedOut = signal('');

/** The namespace that lists are limited to; empty for all of them. */
export const scope = signal(tab.get(SCOPE) ?? '');

export type Theme = 'system' | 'light' | 'dark';
export const theme = signal<Theme>(readTheme());

/** Where in the page one is: the parts of the fragment, and what follows its `?`. */
export interface Route {
  parts: string[];
  query: URLSearchParams;
}

const hash = signal(location.hash);
export const route = computed<Route>(() => parse(hash.value));

function parse(text: string): Route {
  const [path = '', query = ''] = text.replace(/^#\/?/, '').split('?');
  const parts = path.split('/').filter(Boolean).map(decoded);
  return { parts, query: new URLSearchParams(query) };
}

/** A part of an address; what is not encoded as such parts are is taken as it stands. */
export function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** A link to a place in the page. */
export function href(...parts: string[]): string {
  return '#/' + parts.map(encodeURIComponent).join('/');
}

export function go(to: string): void {
  location.hash = to;
}

export function signIn(value: string): void {
  tab.set(TOKEN, value);
  signedOut.value = '';
  token.value = value;
}

export function signOut(why = ''): void {
  tab.remove(TOKEN);
  tab.remove(SCOPE);
  signedOut.value = why;
  scope.value = '';
  token.value = '';
}

export function setScope(namespace: string): void {
  tab.set(SCOPE, namespace);
  scope.value = namespace;
}

function readTheme(): Theme {
  const stored = browser.get(THEME);
  return stored === 'light' || stored === 'dark' ? stored : 'system';
}

const prefersDark = matchMedia('(prefers-color-scheme: dark)');
const systemDark = signal(prefersDark.matches);
prefersDark.addEventListener('change', (e) => (systemDark.value = e.matches));
export const isDark = computed(() =>
  theme.value === 'system' ? systemDark.value : theme.value === 'dark',
);

export function setTheme(value: Theme): void {
  browser.set(THEME, value);
  theme.value = value;
}

/** Takes a token out of the fragment, where `tiphys console` puts it, and out of the history. */
function takeToken(): void {
  const found = /^#token=([^&]+)/.exec(location.hash);
  if (!found?.[1]) return;
  signIn(decoded(found[1]));
  history.replaceState(null, '', location.pathname + '#/');
}

export function start(): void {
  const follow = () => {
    takeToken();
    hash.value = location.hash;
  };
  follow();
  addEventListener('hashchange', follow);
  // Another tab has chosen, or all that is kept was cleared.
  addEventListener('storage', (e) => {
    if (e.key === THEME || e.key === null) theme.value = readTheme();
  });
  effect(() => {
    document.documentElement.dataset.theme = isDark.value ? 'dark' : 'light';
  });
}

/** What the token says of itself, if it is one that can be read: never trusted, only shown. */
export function claims(value: string): { name: string; namespace: string; expires: number } {
  try {
    const body = (value.split('.')[1] ?? '').replace(/-/g, '+').replace(/_/g, '/');
    const read = JSON.parse(atob(body)) as Record<string, unknown>;
    const account = (read['kubernetes.io'] ?? {}) as { namespace?: string };
    return {
      name: String(read.sub ?? '').replace('system:serviceaccount:', ''),
      namespace: account.namespace ?? '',
      expires: Number(read.exp ?? 0) * 1000,
    };
  } catch {
    return { name: '', namespace: '', expires: 0 };
  }
}
