// The page's beginning: which page belongs to which place.

import { effect } from '@preact/signals';
import { render, type ComponentChildren } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import '@xterm/xterm/css/xterm.css';
import 'uplot/dist/uPlot.min.css';
import './style.css';
import { ApiError, words } from './api';
import { followRules, seesAll, signedIn } from './discovery';
import { KindList, Kinds, ObjectPage } from './pages/kinds';
import { NodePage, Nodes } from './pages/nodes';
import { Overview } from './pages/overview';
import { PodPage } from './pages/pod';
import { Pods } from './pages/pods';
import { ServicePage, Services } from './pages/services';
import { Storage } from './pages/storage';
import { WorkloadPage, Workloads } from './pages/workloads';
import { route, scope, start, token } from './state';
import { Frame } from './ui/frame';
import { Empty, Failure, Heading, Loading } from './ui/parts';
import { SignIn } from './ui/signin';
import { followUsage } from './usage';

function page([first = '', ...rest]: string[]): ComponentChildren {
  const [a = '', b = '', c = ''] = rest;
  switch (first) {
    case '':
      return <Overview />;
    case 'nodes':
      return a ? <NodePage name={a} /> : <Nodes />;
    case 'workloads':
      return a ? <WorkloadPage plural={a} namespace={b} name={c} /> : <Workloads />;
    case 'pods':
      return a ? <PodPage namespace={a} name={b} /> : <Pods />;
    case 'services':
      return a ? <ServicePage namespace={a} name={b} /> : <Services />;
    case 'storage':
      return <Storage />;
    case 'kinds':
      return <Kinds />;
    case 'k':
      return <KindList group={a === 'core' ? '' : a} plural={b} />;
    case 'o':
      return objectPage(rest);
    default:
      return <><Heading title="Not found" /><Empty title="There is no such page"><a href="#/">To the overview</a></Empty></>;
  }
}

function objectPage([group = '', version = '', plural = '', ...names]: string[]): ComponentChildren {
  const [namespace, name] = names.length > 1 ? [names[0] ?? '', names[1] ?? ''] : ['', names[0] ?? ''];
  return <ObjectPage group={group === 'core' ? '' : group} version={version} plural={plural} namespace={namespace} name={name} />;
}

function App() {
  const [error, setError] = useState<ApiError | null>(null);
  const [round, setRound] = useState(0);
  useEffect(() => {
    setError(null);
    if (!token.value) return;
    signedIn().catch((e: unknown) => setError(e instanceof ApiError ? e : new ApiError(0, '', words(e))));
  }, [token.value, round]);
  const place = route.value.parts.join('/');
  useEffect(() => {
    scrollTo(0, 0);
    document.title = route.value.parts.at(-1) ? `${route.value.parts.at(-1)} · Tiphys` : 'Tiphys';
    // Who hears the page hears that it is another one; not at the start.
    if (document.activeElement && document.activeElement !== document.body) document.querySelector<HTMLElement>('h1')?.focus({ preventScroll: true });
  }, [place]);
  if (!token.value) return <SignIn />;
  if (error) return <main class="signin"><h1 class="hidden">Tiphys</h1><Failure what="the cluster" error={error} again={() => setRound((n) => n + 1)} /></main>;
  if (seesAll.value === null) return <main class="signin"><h1 class="hidden">Tiphys</h1><Loading what="the cluster" /></main>;
  return <Frame><div key={`${scope.value} ${place}`} class="page">{page(route.value.parts)}</div></Frame>;
}

start();
followRules();
followUsage(() => seesAll.value !== null);
effect(() => {
  // The first figures are asked for as soon as it is known what may be seen.
  if (seesAll.value !== null) document.dispatchEvent(new Event('visibilitychange'));
});
const root = document.getElementById('root');
if (root) render(<App />, root);
