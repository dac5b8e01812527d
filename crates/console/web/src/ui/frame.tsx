// What is around every page: where one can go, which namespace is looked at, who is signed in.

import { signal } from '@preact/signals';
import type { ComponentChildren } from 'preact';
import { useEffect, useLayoutEffect, useState } from 'preact/hooks';
import { warnings } from '../api';
import { may, seesAll, userName } from '../discovery';
import { useLive } from '../live';
import { claims, go, href, isDark, keeps, route, scope, setScope, setTheme, signOut, theme, token, type Theme } from '../state';
import type { Obj } from '../types';
import { Palette, paletteOpen } from './palette';
import { Dialog, news, now } from './parts';
import { FORGOTTEN } from './signin';
import { typing } from './table';

interface Place {
  id: string;
  title: string;
  key: string;
  shown: () => boolean;
}

const PLACES: Place[] = [
  { id: '', title: 'Overview', key: 'o', shown: () => true },
  { id: 'nodes', title: 'Nodes', key: 'n', shown: () => may('list', '', 'nodes') },
  { id: 'workloads', title: 'Workloads', key: 'w', shown: () => may('list', 'apps', 'deployments') || may('list', 'batch', 'jobs') },
  { id: 'pods', title: 'Pods', key: 'p', shown: () => may('list', '', 'pods') },
  { id: 'services', title: 'Services', key: 's', shown: () => may('list', '', 'services') },
  { id: 'storage', title: 'Storage', key: 'v', shown: () => may('list', '', 'persistentvolumeclaims') },
  { id: 'kinds', title: 'All kinds', key: 'k', shown: () => true },
];

const helpOpen = signal(false);

/** Milliseconds within which the second key of `g p` has to follow. */
const SECOND_MS = 1_500;

function useKeys(): void {
  useLayoutEffect(() => {
    let began = 0;
    const press = (e: KeyboardEvent) => {
      if ((e.ctrlKey || e.metaKey) && e.key === 'k') {
        e.preventDefault();
        paletteOpen.value = true;
        return;
      }
      if (e.ctrlKey || e.metaKey || e.altKey || typing(e)) return;
      const second = Date.now() - began < SECOND_MS;
      began = 0;
      const place = second && PLACES.find((p) => p.key === e.key && p.shown());
      if (place) go(href(place.id));
      else if (e.key === 'g') began = Date.now();
      else if (e.key === '/') paletteOpen.value = true;
      else if (e.key === 'f') document.querySelector<HTMLInputElement>('[data-filter]')?.focus();
      else if (e.key === '?') helpOpen.value = true;
      else if (e.key === 't') setTheme(isDark.value ? 'light' : 'dark');
      else if (e.key === '[') nextTab(-1);
      else if (e.key === ']') nextTab(1);
      else return;
      e.preventDefault();
    };
    addEventListener('keydown', press);
    return () => removeEventListener('keydown', press);
  }, []);
}

function nextTab(step: 1 | -1): void {
  const all = [...document.querySelectorAll<HTMLAnchorElement>('.tabs a')];
  const at = all.findIndex((a) => a.getAttribute('aria-current'));
  all[(at + step + all.length) % all.length]?.click();
}

export function Frame({ children }: { children: ComponentChildren }) {
  useKeys();
  const current = sectionOf(route.value.parts[0] ?? '');
  useEffect(() => {
    // On a phone the places stand in a row that is wider than the screen.
    const side = document.querySelector<HTMLElement>('nav.side');
    const at = side?.querySelector<HTMLElement>('[aria-current]');
    if (side && at) side.scrollLeft = at.offsetLeft - (side.clientWidth - at.offsetWidth) / 2;
  }, [current]);
  return (
    <>
      <a class="skip" href="#content" onClick={(e) => { e.preventDefault(); document.querySelector<HTMLElement>('h1')?.focus(); }}>To the content</a>
      <header class="top">
        <a class="mark" href="#/"><Helm />Tiphys</a>
        <Namespace />
        <button class="find" onClick={() => (paletteOpen.value = true)}><span>Search all kinds</span> <kbd>/</kbd></button>
        <Account />
      </header>
      <nav class="side" aria-label="Main">
        {PLACES.filter((p) => p.shown()).map((p) => (
          <a key={p.id} href={href(p.id)} aria-current={p.id === current ? 'page' : undefined}><span>{p.title}</span><kbd aria-hidden="true">g {p.key}</kbd></a>
        ))}
      </nav>
      <main id="content">{children}</main>
      {paletteOpen.value && <Palette />}
      {helpOpen.value && <Help />}
      <News />
    </>
  );
}

function sectionOf(part: string): string {
  if (part === 'k' || part === 'o') return 'kinds';
  return part;
}

function Helm() {
  return (
    <svg viewBox="0 0 24 24" width="20" height="20" aria-hidden="true">
      <g fill="none" stroke="currentColor" stroke-width="1.8" stroke-linecap="round">
        <circle cx="12" cy="12" r="6.2" /><circle cx="12" cy="12" r="1.6" />
        <path d="M12 2.2v7.6M12 14.2v7.6M2.2 12h7.6M14.2 12h7.6M5 5l5.3 5.3M13.7 13.7 19 19M19 5l-5.3 5.3M10.3 13.7 5 19" />
      </g>
    </svg>
  );
}

/** Chooses the namespace: of those there are, or by typing where one may not list them. */
function Namespace() {
  const lists = may('list', '', 'namespaces') && seesAll.value === true;
  const live = useLive<Obj>(lists ? '/api/v1/namespaces' : '');
  const all = [...live.items.value.values()].map((n) => n.metadata.name).sort();
  if (!lists) return <TypedNamespace />;
  const known = scope.value === '' || all.includes(scope.value);
  return (
    <label class="namespace"><span class="hidden">Namespace</span>
      <select value={scope.value} onChange={(e) => setScope(e.currentTarget.value)}>
        {seesAll.value !== false && <option value="">All namespaces</option>}
        {!known && <option value={scope.value}>{scope.value}</option>}
        {all.map((n) => <option key={n} value={n}>{n}</option>)}
      </select>
    </label>
  );
}

function TypedNamespace() {
  const [text, set] = useState(scope.value);
  useEffect(() => set(scope.value), [scope.value]);
  return (
    <form class="namespace" onSubmit={(e) => { e.preventDefault(); setScope(text.trim()); }}>
      <input aria-label="Namespace" value={text} onInput={(e) => set(e.currentTarget.value)} onBlur={() => text.trim() && setScope(text.trim())} placeholder="Namespace" />
    </form>
  );
}

const THEMES: [Theme, string][] = [['system', 'As the system'], ['light', 'Light'], ['dark', 'Dark']];

function Account() {
  const [open, set] = useState(false);
  const left = claims(token.value).expires - now.value;
  return (
    <div class="account">
      <button aria-haspopup="dialog" onClick={() => set(true)}><span class="who">{shortName(userName.value)}</span><span class="hidden">Account and appearance</span></button>
      {open && (
        <Dialog title="Account" close={() => set(false)}>
          <p>Signed in as <strong>{userName.value || 'someone the server has not named'}</strong>.</p>
          {left > 0 && <p class="quiet">The token is good for another {Math.max(1, Math.round(left / 60_000))} minutes.</p>}
          <p class="quiet">{keeps() ? 'The token is kept in this tab alone.' : FORGOTTEN}</p>
          <fieldset class="themes"><legend>Appearance</legend>
            {THEMES.map(([id, title]) => <label key={id}><input type="radio" name="theme" checked={theme.value === id} onChange={() => setTheme(id)} />{title}</label>)}
          </fieldset>
          <div class="dialog-actions"><button onClick={() => { set(false); helpOpen.value = true; }}>Keys</button><button onClick={() => signOut()}>Sign out</button></div>
        </Dialog>
      )}
    </div>
  );
}

const shortName = (name: string) => name.replace('system:serviceaccount:', '').split(':').at(-1) || 'Account';

const KEYS: [string, string][] = [
  ['/', 'search all kinds'], ['g o, g n, g w, g p, g s, g v, g k', 'overview, nodes, workloads, pods, Services, storage, kinds'],
  ['j, k', 'next and previous row'], ['Enter', 'open the row'], ['f', 'filter the list'], ['[ and ]', 'previous and next part of a page'], ['t', 'light or dark'], ['?', 'these keys'], ['Esc', 'close'],
];

function Help() {
  return (
    <Dialog title="Keys" close={() => (helpOpen.value = false)}>
      <dl class="keys">{KEYS.map(([k, what]) => <div key={k}><dt><kbd>{k}</kbd></dt><dd>{what}</dd></div>)}</dl>
    </Dialog>
  );
}

function News() {
  const said = news.value;
  return (
    <div class="news" aria-live="polite">
      {said && <p class={said.bad ? 'bad' : ''}>{said.text}<button aria-label="Close" onClick={() => (news.value = null)}>×</button></p>}
      {warnings.value.map((w) => <p key={w} class="warn">{w}<button aria-label="Close" onClick={() => (warnings.value = warnings.value.filter((x) => x !== w))}>×</button></p>)}
    </div>
  );
}
