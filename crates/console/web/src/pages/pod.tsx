// One pod: why it is as it is, its containers, what they use, what they say, and a shell in them.

import { useRef, useState } from 'preact/hooks';
import { pathOf, remove, words } from '../api';
import { may, mayList } from '../discovery';
import { useLive, useOne } from '../live';
import { bytes, cores, quantity } from '../model/format';
import { containersOf, podState, whyPod } from '../model/pods';
import { go, href, route } from '../state';
import type { Container, ContainerStatus, Event, Pod } from '../types';
import { Confirm } from '../ui/confirm';
import { Events, linkOf } from '../ui/events';
import { lazy } from '../ui/lazy';
import { Logs } from '../ui/logs';
import { Age, Badge, DELETED, Empty, Facts, Heading, Labels, lately, Section, Shown, Tabs, tell } from '../ui/parts';
import { NetworkPlot, Plot } from '../ui/plot';
import { WhySection, type Reason } from '../ui/why';
import { noStatistics, used, useAbout } from '../usage';
import { Conditions } from './nodes';

const Terminal = lazy('the terminal', () => import('../terminal').then((m) => m.Terminal));
const Editor = lazy('the editor', () => import('../edit/editor').then((m) => m.Editor));

export function PodPage({ namespace, name }: { namespace: string; name: string }) {
  const live = useLive<Pod>(pathOf('', 'v1', 'pods', namespace), { fieldSelector: `metadata.name=${name}` });
  const events = useLive<Event>(mayList('', 'events') ? pathOf('', 'v1', 'events', namespace) : '', {
    fieldSelector: `involvedObject.kind=Pod,involvedObject.name=${name}`,
  });
  const tab = route.value.query.get('tab') ?? 'about';
  const { object: pod, gone } = useOne(live, tab !== 'about');
  const none = <Empty title={`There is no pod ${name} in ${namespace}`}>It may have been replaced: <a href={href('pods')}>all pods</a>.</Empty>;
  return (
    <Shown live={live} what={`pod ${name}`} page={name} empty={!pod && none}>
      {() => pod && <Whole pod={pod} gone={gone} tab={tab} events={events} />}
    </Shown>
  );
}

function Whole({ pod, gone, tab, events }: { pod: Pod; gone: boolean; tab: string; events: ReturnType<typeof useLive<Event>> }) {
  const { namespace = '', name } = pod.metadata;
  const place = href('pods', namespace, name);
  const owner = pod.metadata.ownerReferences?.find((o) => o.controller);
  const [asking, ask] = useState(false);
  const tabs = [
    { id: 'about', title: 'About', link: place },
    { id: 'logs', title: 'Logs', link: `${place}?tab=logs` },
    ...(may('create', '', 'pods/exec') ? [{ id: 'terminal', title: 'Terminal', link: `${place}?tab=terminal` }] : []),
    { id: 'yaml', title: 'YAML', link: `${place}?tab=yaml` },
  ];
  const end = async () => {
    ask(false);
    try {
      await remove(pathOf('', 'v1', 'pods', namespace, name));
      tell(`Pod ${name} is being deleted`);
    } catch (e) {
      tell(words(e), true);
    }
  };
  return (
    <>
      <Heading title={name} sub={<>
        <Badge {...(gone ? DELETED : podState(pod, lately.value))} />{' '}
        <span class="quiet">pod in {namespace}, <Age of={pod.metadata.creationTimestamp} /> old</span>
        {owner && <> · <a href={linkOf(owner.apiVersion, owner.kind, namespace, owner.name)}>{owner.kind} {owner.name}</a></>}
      </>}>
        {!gone && may('delete', '', 'pods') && <button onClick={() => ask(true)}>Delete…</button>}
      </Heading>
      {asking && <Confirm title={`Delete pod ${name}?`} verb="Delete" close={() => ask(false)} act={() => void end()}>{owner ? `Its ${owner.kind} makes another one.` : 'Nothing makes another one.'}</Confirm>}
      <Tabs all={tabs} current={tab} label="Parts of the pod" />
      {tab === 'about' && <About pod={pod} events={events} />}
      {tab === 'logs' && <PodLogs pod={pod} />}
      {tab === 'terminal' && <PodTerminal pod={pod} gone={gone} />}
      {tab === 'yaml' && <Editor group="" version="v1" plural="pods" namespace={namespace} name={name} />}
    </>
  );
}

function About({ pod, events }: { pod: Pod; events: ReturnType<typeof useLive<Event>> }) {
  const { namespace = '', name } = pod.metadata;
  const why = whyPod(pod, [...events.items.value.values()], lately.value);
  const all = containersOf(pod);
  useAbout(pod.spec.nodeName ? [pod.spec.nodeName] : []);
  const u = used();
  const key = `${namespace}/${name}`;
  const lines = all.map(({ spec }) => ({ name: spec.name, use: u.containers.get(`${key}/${spec.name}`) })).filter((l) => l.use);
  const limit = (what: string) => pod.spec.containers.length === 1 ? quantity(pod.spec.containers[0]?.resources?.limits?.[what]) : 0;
  const [cpuLimit, memoryLimit] = [limit('cpu'), limit('memory')];
  return (
    <>
      <WhySection all={why.map((w) => (w.logs ? { ...w, logs: { ...w.logs, namespace, pod: name } } : w) as Reason)} about={{ group: '', plural: 'pods', namespace, name }} />
      <Section title="Containers">
        <ul class="containers">
          {all.map((c) => <ContainerCard key={c.spec.name} {...c} link={`${href('pods', namespace, name)}?tab=logs&container=${encodeURIComponent(c.spec.name)}`} />)}
        </ul>
      </Section>
      <div class="plots">
        <Plot title="CPU" series={lines.map((l) => ({ name: l.name, line: l.use!.cpu }))} format={cores} {...(cpuLimit ? { note: `limit ${cores(cpuLimit)}` } : {})} />
        <Plot title="Memory" series={lines.map((l) => ({ name: l.name, line: l.use!.memory }))} format={bytes} {...(memoryLimit ? { note: `limit ${bytes(memoryLimit)}` } : {})} />
        <NetworkPlot of={u.network.get(key)} instead={pod.spec.hostNetwork ? 'The pod uses the network of its node.' : noStatistics.value} />
      </div>
      <div class="columns">
        <Section title="About">
          <Facts all={[
            ['Node', pod.spec.nodeName && <a href={href('nodes', pod.spec.nodeName)}>{pod.spec.nodeName}</a>],
            ['Address', pod.status?.podIP],
            ['Service account', pod.spec.serviceAccountName],
            ['Quality of service', pod.status?.qosClass],
            ['Priority class', pod.spec.priorityClassName],
            ['Volumes', pod.spec.volumes?.map((v) => v.name).join(', ')],
            ['Labels', <Labels all={pod.metadata.labels} />],
          ]} />
        </Section>
        <Section title="Conditions"><Conditions all={pod.status?.conditions} /></Section>
      </div>
      <Section title="Events"><Events live={events} most={30} /></Section>
    </>
  );
}

function ContainerCard({ spec, status, init, extra, link }: { spec: Container; status?: ContainerStatus; init: boolean; extra: boolean; link: string }) {
  const state = status?.state;
  const ended = state?.terminated;
  const last = status?.lastState?.terminated;
  const { requests, limits } = spec.resources ?? {};
  const asked = (all: Record<string, string> | undefined) => Object.entries(all ?? {}).map(([k, v]) => `${k} ${v}`).join(', ');
  const tone = state?.running ? (status?.ready || init || extra ? 'ok' : 'way') : ended ? (ended.exitCode ? 'bad' : 'done') : /BackOff|Err|Invalid|Config/.test(state?.waiting?.reason ?? '') ? 'bad' : 'way';
  const text = state?.running ? (status?.ready || init || extra ? 'Running' : 'Running, not ready') : ended ? `${ended.reason ?? 'Ended'} (${ended.exitCode})` : (state?.waiting?.reason ?? 'Waiting');
  return (
    <li class="container">
      <div class="node-head"><h3>{spec.name}{init && <span class="quiet"> init</span>}{extra && <span class="quiet"> ephemeral</span>}</h3><Badge tone={tone} text={text} /></div>
      <Facts all={[
        ['Image', <code>{spec.image}</code>],
        ['Started', state?.running && <Age of={state.running.startedAt} />],
        ['Restarts', status ? String(status.restartCount) : ''],
        ['Last end', last && <>{last.reason} ({last.exitCode}), <Age of={last.finishedAt} /> ago</>],
        ['Ports', spec.ports?.map((p) => `${p.containerPort}/${p.protocol ?? 'TCP'}`).join(', ')],
        ['Requests', asked(requests)], ['Limits', asked(limits)],
      ]} />
      <a href={link}>Logs</a>
    </li>
  );
}

function Choose({ pod, label, current, tab }: { pod: Pod; label: string; current: string; tab: string }) {
  const place = href('pods', pod.metadata.namespace ?? '', pod.metadata.name);
  const all = containersOf(pod);
  return (
    <label class="choose">{label}
      <select value={current} onChange={(e) => go(`${place}?tab=${tab}&container=${encodeURIComponent(e.currentTarget.value)}`)}>
        {all.map(({ spec, init }) => <option key={spec.name} value={spec.name}>{spec.name}{init ? ' (init)' : ''}</option>)}
      </select>
    </label>
  );
}

function chosen(pod: Pod): string {
  const asked = route.value.query.get('container');
  const standard = pod.metadata.annotations?.['kubectl.kubernetes.io/default-container'];
  const names = containersOf(pod).map((c) => c.spec.name);
  return [asked, standard].find((n) => n && names.includes(n)) ?? pod.spec.containers[0]?.name ?? '';
}

function PodLogs({ pod }: { pod: Pod }) {
  const container = chosen(pod);
  const status = containersOf(pod).find((c) => c.spec.name === container)?.status;
  return (
    <Logs namespace={pod.metadata.namespace ?? ''} pod={pod.metadata.name} container={container}
      restarts={status?.restartCount ?? 0} running={!!status?.state?.running}>
      <Choose pod={pod} label="Container" current={container} tab="logs" />
    </Logs>
  );
}

function PodTerminal({ pod, gone }: { pod: Pod; gone: boolean }) {
  const container = chosen(pod);
  const running = !gone && !!containersOf(pod).find((c) => c.spec.name === container)?.status?.state?.running;
  // What stands in a terminal outlives its container.
  const opened = useRef('');
  if (running) opened.current = container;
  if (opened.current !== container) return <Empty title={`Container ${container} does not run`}>A terminal needs a running container.</Empty>;
  return (
    <Terminal namespace={pod.metadata.namespace ?? ''} pod={pod.metadata.name} container={container}>
      <Choose pod={pod} label="Container" current={container} tab="terminal" />
      {!running && <span role="status">The container does not run any more.</span>}
    </Terminal>
  );
}
