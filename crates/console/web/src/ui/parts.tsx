// Small pieces that every page is made of.

import { signal } from '@preact/signals';
import type { ComponentChildren } from 'preact';
import { useEffect, useRef } from 'preact/hooks';
import type { ApiError } from '../api';
import type { Live } from '../live';
import { age } from '../model/format';
import type { State, Tone } from '../model/pods';
import type { Obj } from '../types';

/** The time, once a second while the page is visible: ages and patience are drawn by it. */
export const now = signal(Date.now());
/** The same, once in five seconds: for what walks through all objects. */
export const lately = signal(Date.now());
setInterval(() => {
  if (document.visibilityState !== 'visible') return;
  now.value = Date.now();
  if (now.value - lately.value >= 5_000) lately.value = now.value;
}, 1_000);

export function Age({ of }: { of: string | undefined }) {
  if (!of) return <span class="quiet">—</span>;
  return <time dateTime={of} title={new Date(of).toLocaleString()}>{age(of, now.value)}</time>;
}

/** A state as a shape and a word: never by colour alone. */
export function Badge({ tone, text }: State) {
  return <span class={`badge ${tone}`} title={text}><Dot tone={tone} /><span class="badge-text">{text}</span></span>;
}

/** Of an object that is still shown after its end. */
export const DELETED: State = { tone: 'done', text: 'Deleted' };

export function Dot({ tone }: { tone: Tone }) {
  return <i class={`dot ${tone}`} aria-hidden="true" />;
}

/** How much of something is used, with words beside it. */
export function Meter({ label, part, whole, text, mark }: { label: string; part: number; whole: number; text: string; mark?: number }) {
  const full = whole > 0 ? Math.min(100, (part / whole) * 100) : 0;
  const tone = full > 95 ? 'bad' : full > 85 ? 'warn' : '';
  return (
    <div class="meter">
      <span class="meter-label">{label}</span>
      <span class="meter-text">{text}</span>
      <span class="bar" role="meter" aria-label={label} aria-valuemin={0} aria-valuemax={100} aria-valuenow={Math.round(full)} aria-valuetext={text}>
        <span class={`fill ${tone}`} style={{ width: `${full}%` }} />
        {!!mark && whole > 0 && <span class="mark" style={{ left: `${Math.min(100, (mark / whole) * 100)}%` }} />}
      </span>
    </div>
  );
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return <div class="notice"><p class="notice-title">{title}</p>{children && <p>{children}</p>}</div>;
}

export function Loading({ what }: { what: string }) {
  return (
    <div class="notice" role="status">
      <span class="shimmer" aria-hidden="true" /><span class="shimmer short" aria-hidden="true" />
      <span class="hidden">Loading {what}</span>
    </div>
  );
}

/** What is shown instead of what a user may not see, or what could not be had. */
export function Failure({ what, error, again }: { what: string; error: ApiError; again?: () => void }) {
  const refused = error.forbidden;
  return (
    <div class="notice" role={refused ? undefined : 'alert'}>
      <p class="notice-title">{refused ? `You have no right to see ${what} here` : `${capital(what)} could not be had`}</p>
      <p>{error.message}</p>
      {again && <button onClick={again}>Try again</button>}
    </div>
  );
}

export const capital = (text: string) => text.charAt(0).toUpperCase() + text.slice(1);

/** Above what was known last, while the connection is lost. */
export function Stale() {
  return <p class="stale" role="status">The connection is lost; this is what was last known. Trying again.</p>;
}

/** The content of a live list, or what is to be said instead of it: under a heading, where the content is a page with its own. */
export function Shown<T extends Obj>({ live, what, empty, page, children }: { live: Live<T>; what: string; empty?: ComponentChildren; page?: string; children: () => ComponentChildren }) {
  const phase = live.phase.value;
  const error = live.error.value;
  const heading = page && <Heading title={page} />;
  if (phase === 'failed' && error) return <>{heading}<Failure what={what} error={error} again={live.again} /></>;
  if (phase === 'loading' && !live.items.value.size) return <>{heading}<Loading what={what} /></>;
  return (
    <>
      {phase === 'retrying' && <Stale />}
      {!live.items.value.size && empty ? <>{heading}{empty}</> : children()}
    </>
  );
}

/** A page's heading with what can be done beside it; it gets the focus when the page opens. */
export function Heading({ title, sub, children }: { title: ComponentChildren; sub?: ComponentChildren; children?: ComponentChildren }) {
  return (
    <header class="heading">
      <div><h1 tabIndex={-1}>{title}</h1>{sub && <p class="sub">{sub}</p>}</div>
      {children && <div class="actions">{children}</div>}
    </header>
  );
}

export function Section({ title, aside, children }: { title: string; aside?: ComponentChildren; children: ComponentChildren }) {
  return <section class="section"><div class="section-head"><h2>{title}</h2>{aside}</div>{children}</section>;
}

/** Names with values. */
export function Facts({ all }: { all: [string, ComponentChildren][] }) {
  const shown = all.filter(([, value]) => value !== undefined && value !== '' && value !== null);
  return <dl class="facts">{shown.map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}</dl>;
}

export function Labels({ all }: { all: Record<string, string> | undefined }) {
  const entries = Object.entries(all ?? {});
  if (!entries.length) return <span class="quiet">none</span>;
  return <span class="labels">{entries.map(([k, v]) => <code key={k} class="label">{k}{v && `=${v}`}</code>)}</span>;
}

export interface Tab {
  id: string;
  title: string;
  link: string;
}

export function Tabs({ all, current, label }: { all: Tab[]; current: string; label: string }) {
  return (
    <nav class="tabs" aria-label={label}>
      {all.map((t) => <a key={t.id} href={t.link} aria-current={t.id === current ? 'page' : undefined}>{t.title}</a>)}
    </nav>
  );
}

/** A dialog over the page; Escape and a click beside it close it. */
export function Dialog({ title, close, children, wide }: { title: string; close: () => void; children: ComponentChildren; wide?: boolean }) {
  const at = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const dialog = at.current;
    dialog?.showModal();
    return () => dialog?.close();
  }, []);
  const beside = (e: MouseEvent) => {
    if (e.target === at.current) close();
  };
  return (
    <dialog ref={at} class={wide ? 'wide' : ''} aria-label={title} onCancel={(e) => { e.preventDefault(); close(); }} onClick={beside}>
      <div class="dialog-body"><h2>{title}</h2>{children}</div>
    </dialog>
  );
}

/** One line of news at the bottom: what an action did, or why not. */
export const news = signal<{ text: string; bad: boolean } | null>(null);
let newsTimer = 0;

export function tell(text: string, bad = false): void {
  news.value = { text, bad };
  clearTimeout(newsTimer);
  newsTimer = window.setTimeout(() => (news.value = null), bad ? 12_000 : 5_000);
}
