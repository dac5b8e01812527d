// The first page: what is wrong first, then how much is used, then what happened.

import { useLive } from '../live';
import { mayList, scoped } from '../discovery';
import { bytes, cores, plural, quantity } from '../model/format';
import { claimTroubles, nodeTroubles, podTroubles, workloadTroubles, worstFirst, type Trouble } from '../model/trouble';
import { SORTS } from '../model/workloads';
import { href, scope } from '../state';
import type { Claim, Event, Node, Pod, Workload } from '../types';
import { Events } from '../ui/events';
import { Badge, capital, Empty, Heading, lately, Loading, Section } from '../ui/parts';
import { NetworkPlot, Plot } from '../ui/plot';
import { noStatistics, used, usageError, type Line } from '../usage';

/** Troubles shown before one asks for the rest. */
const SHOWN = 12;

export function Overview() {
  const nodes = useLive<Node>(mayList('', 'nodes') ? '/api/v1/nodes' : '');
  const pods = useLive<Pod>(mayList('', 'pods') ? scoped('', 'v1', 'pods') : '');
  const claims = useLive<Claim>(mayList('', 'persistentvolumeclaims') ? scoped('', 'v1', 'persistentvolumeclaims') : '');
  const [deployments, stateful, daemons, jobs] = SORTS.slice(0, 4).map((s) =>
    // Always the same four, so the order of hooks stays.
    useLive<Workload>(mayList(s.group, s.plural) ? scoped(s.group, s.version, s.plural) : ''),
  );
  const lists = [nodes, pods, claims, deployments!, stateful!, daemons!, jobs!];
  const loading = lists.some((l) => l.phase.value === 'loading');
  const lost = lists.some((l) => l.phase.value === 'retrying');
  const troubles = worstFirst([
    ...nodeTroubles(nodes.items.value.values()),
    ...podTroubles(pods.items.value.values(), lately.value),
    ...claimTroubles(claims.items.value.values(), lately.value),
    ...[deployments!, stateful!, daemons!, jobs!].flatMap((l, i) => workloadTroubles(SORTS[i]!, l.items.value.values(), lately.value)),
  ]);
  const running = [...pods.items.value.values()].filter((p) => p.status?.phase === 'Running').length;
  const showsNodes = mayList('', 'nodes') && nodes.phase.value !== 'failed';
  const workloads = deployments!.items.value.size + stateful!.items.value.size + daemons!.items.value.size;
  return (
    <>
      <Heading title="Overview" sub={scope.value ? `Namespace ${scope.value}` : 'All namespaces'} />
      {lost && <p class="stale" role="status">The connection is lost; this is what was last known. Trying again.</p>}
      <ul class="counts">
        {showsNodes && <Count link={href('nodes')} number={nodes.items.value.size} what="node" />}
        <Count link={href('workloads')} number={workloads} what="workload" />
        <Count link={href('pods')} number={running} what="running pod" of={pods.items.value.size} />
        <Count link={href('storage')} number={claims.items.value.size} what="claim" />
      </ul>
      <Section title="What is wrong">
        {loading && !troubles.length ? <Loading what="the state of the cluster" /> : <Troubles all={troubles} />}
      </Section>
      <Section title="What is used"><Plots nodes={nodes.items.value.values()} pods={pods.phase.value === 'live' ? running : null} /></Section>
      <Section title="What happened" aside={<a href={href('k', 'core', 'events')}>All events</a>}><RecentEvents /></Section>
    </>
  );
}

function Count({ link, number, what, of }: { link: string; number: number; what: string; of?: number }) {
  const [, ...rest] = plural(number, what).split(' ');
  return <li><a href={link}><strong>{number}{of !== undefined && of !== number && <small>/{of}</small>}</strong><span>{rest.join(' ')}</span></a></li>;
}

function Troubles({ all }: { all: Trouble[] }) {
  if (!all.length) return <p class="calm"><Badge tone="ok" text="Nothing is wrong with what you can see." /></p>;
  const rest = all.length - SHOWN;
  return (
    <>
      <ul class="troubles">
        {all.slice(0, SHOWN).map((t) => (
          <li key={t.kind + t.namespace + t.name}>
            <a href={t.link}>
              <Badge tone={t.tone} text={t.kind} />
              <span class="trouble-name">{t.namespace && !scope.value && <span class="quiet">{t.namespace}/</span>}{t.name}</span>
              <span class="trouble-text">{t.text}</span>
            </a>
          </li>
        ))}
      </ul>
      {rest > 0 && <p class="quiet">and {rest} more: see <a href={href('pods')}>Pods</a> and <a href={href('workloads')}>Workloads</a>.</p>}
    </>
  );
}

/** The number of running pods over time, as far as this page has seen it. */
const podLine: Line & { scope?: string } = { times: [], values: [] };

/** Adds what is known now; nothing while it is not known. */
function followPods(running: number | null): Line {
  const at = Math.floor(lately.value / 5_000) * 5;
  if (podLine.scope !== scope.value) Object.assign(podLine, { times: [], values: [], scope: scope.value });
  if (running === null) return podLine;
  if (podLine.times.at(-1) === at) podLine.values[podLine.values.length - 1] = running;
  else {
    podLine.times.push(at);
    podLine.values.push(running);
    if (podLine.times.length > 720) [podLine.times, podLine.values] = [podLine.times.slice(1), podLine.values.slice(1)];
  }
  return podLine;
}

function Plots({ nodes, pods }: { nodes: Iterable<Node>; pods: number | null }) {
  const u = used();
  let [cpu, memory] = [0, 0];
  for (const node of nodes) {
    cpu += quantity(node.status?.allocatable?.cpu);
    memory += quantity(node.status?.allocatable?.memory);
  }
  const line = followPods(pods);
  return (
    <>
      {usageError.value && <p class="quiet">{usageError.value.forbidden ? usageError.value.message : `Figures of use cannot be had: ${usageError.value.message}`}</p>}
      <div class="plots four">
        <Plot title="CPU" series={[{ name: 'CPU', line: u.cpu }]} format={cores} note={cpu && !scope.value ? `of ${cores(cpu)} cores` : 'cores'} />
        <Plot title="Memory" series={[{ name: 'Memory', line: u.memory }]} format={bytes} note={memory && !scope.value ? `of ${bytes(memory)}` : ''} />
        <NetworkPlot of={u} instead={noStatistics.value} />
        <Plot title="Running pods" series={[{ name: 'Pods', line }]} format={(v) => String(Math.round(v))} />
      </div>
    </>
  );
}

function RecentEvents() {
  const events = useLive<Event>(mayList('', 'events') ? scoped('', 'v1', 'events') : '');
  if (!mayList('', 'events')) return <Empty title={capital('you have no right to see events here')} />;
  return <Events live={events} most={15} named />;
}
