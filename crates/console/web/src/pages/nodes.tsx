// Nodes as a picture: what runs where, how full each is, what is wrong. And one node alone.

import type { ComponentChildren } from 'preact';
import { useMemo, useState } from 'preact/hooks';
import { useLive } from '../live';
import { may, mayList, scoped } from '../discovery';
import { patch, words } from '../api';
import { bytes, cores, plural, quantity } from '../model/format';
import { podState } from '../model/pods';
import { nodeState } from '../model/trouble';
import { whyNode } from '../model/why';
import { href } from '../state';
import type { Condition, Event, Node, Pod } from '../types';
import { Drain } from '../ui/drain';
import { Events } from '../ui/events';
import { Age, Badge, Empty, Facts, Heading, Labels, lately, Meter, Section, Shown, tell } from '../ui/parts';
import { NetworkPlot, Plot } from '../ui/plot';
import { WhySection } from '../ui/why';
import { lastOf, noStatistics, used, useAbout } from '../usage';
import { PodTable } from './pods';

/** Whether a pod still takes room. */
const takesRoom = (p: Pod) => p.status?.phase !== 'Succeeded' && p.status?.phase !== 'Failed';

function byNode(pods: Iterable<Pod>): Map<string, Pod[]> {
  const out = new Map<string, Pod[]>();
  for (const pod of pods) {
    const name = pod.spec.nodeName ?? '';
    if (!takesRoom(pod)) continue;
    const found = out.get(name);
    if (found) found.push(pod);
    else out.set(name, [pod]);
  }
  const key = (p: Pod) => `${p.metadata.namespace}/${p.metadata.name}`;
  for (const all of out.values()) all.sort((a, b) => (key(a) < key(b) ? -1 : 1));
  return out;
}

function requested(pods: Pod[], what: string): number {
  return pods.reduce((sum, p) => sum + p.spec.containers.reduce((s, c) => s + quantity(c.resources?.requests?.[what]), 0), 0);
}

export function Nodes() {
  const nodes = useLive<Node>('/api/v1/nodes');
  const pods = useLive<Pod>(mayList('', 'pods') ? scoped('', 'v1', 'pods') : '');
  const placed = useMemo(() => byNode(pods.items.value.values()), [pods.items.value]);
  const waiting = placed.get('') ?? [];
  return (
    <>
      <Heading title="Nodes" sub="Each square is a pod. The bars show what is used; their mark what is requested." />
      <Shown live={nodes} what="nodes" empty={<Empty title="There are no nodes">A machine joins with a token: <code>tiphys token create</code>.</Empty>}>
        {() => (
          <ul class="nodes">
            {waiting.length > 0 && (
              <li class="node">
                <h2>On no node</h2>
                <p class="quiet">{plural(waiting.length, 'pod')} to be placed.</p>
                <Squares pods={waiting} />
              </li>
            )}
            {[...nodes.items.value.values()].sort((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1)).map((n) => (
              <NodeCard key={n.metadata.uid} node={n} pods={placed.get(n.metadata.name) ?? []} />
            ))}
          </ul>
        )}
      </Shown>
    </>
  );
}

function NodeCard({ node, pods }: { node: Node; pods: Pod[] }) {
  return (
    <li class="node">
      <div class="node-head"><h2><a href={href('nodes', node.metadata.name)}>{node.metadata.name}</a></h2><Badge {...nodeState(node)} /></div>
      <Meters node={node} pods={pods} />
      <Squares pods={pods} />
    </li>
  );
}

function Meters({ node, pods }: { node: Node; pods: Pod[] }) {
  const use = used().nodes.get(node.metadata.name);
  const can = node.status?.allocatable ?? {};
  const [cpu, memory] = [lastOf(use?.cpu), lastOf(use?.memory)];
  const [cpuAll, memoryAll] = [quantity(can.cpu), quantity(can.memory)];
  const [cpuAsked, memoryAsked] = [requested(pods, 'cpu'), requested(pods, 'memory')];
  const most = quantity(can.pods);
  return (
    <div class="meters">
      <Meter label="CPU" part={use ? cpu : cpuAsked} whole={cpuAll} mark={cpuAsked}
        text={use ? `${cores(cpu)} of ${cores(cpuAll)}` : `${cores(cpuAsked)} requested of ${cores(cpuAll)}`} />
      <Meter label="Memory" part={use ? memory : memoryAsked} whole={memoryAll} mark={memoryAsked}
        text={use ? `${bytes(memory)} of ${bytes(memoryAll)}` : `${bytes(memoryAsked)} requested of ${bytes(memoryAll)}`} />
      <Meter label="Pods" part={pods.length} whole={most} text={`${pods.length} of ${most}`} />
    </div>
  );
}

/** Squares drawn of one node; a node rarely has more pods. */
const SQUARES = 300;

/** Each pod as a square that leads to it. With the keyboard one comes to pods by the list. */
export function Squares({ pods }: { pods: Pod[] }) {
  if (!pods.length) return null;
  const rest = pods.length - SQUARES;
  return (
    <ul class="squares" aria-label="Pods">
      {pods.slice(0, SQUARES).map((p) => {
        const { tone, text } = podState(p, lately.value);
        const name = `${p.metadata.namespace}/${p.metadata.name}: ${text}`;
        return <li key={p.metadata.uid}><a class={`square ${tone}`} tabIndex={-1} title={name} aria-label={name} href={href('pods', p.metadata.namespace ?? '', p.metadata.name)} /></li>;
      })}
      {rest > 0 && <li class="quiet">and {rest} more</li>}
    </ul>
  );
}

export function NodePage({ name }: { name: string }) {
  const nodes = useLive<Node>('/api/v1/nodes', { fieldSelector: `metadata.name=${name}` });
  const pods = useLive<Pod>(scoped('', 'v1', 'pods'), { fieldSelector: `spec.nodeName=${name}` });
  const events = useLive<Event>('/api/v1/events', { fieldSelector: `involvedObject.kind=Node,involvedObject.name=${name}` });
  return (
    <Shown live={nodes} what={`node ${name}`} page={name} empty={<Empty title={`There is no node ${name}`}><a href={href('nodes')}>All nodes</a></Empty>}>
      {() => {
        const node = [...nodes.items.value.values()][0];
        if (!node) return null;
        const own = [...pods.items.value.values()];
        return <Whole node={node} pods={own} events={<Events live={events} most={20} />} table={<Shown live={pods} what="pods">{() => <PodTable pods={own} />}</Shown>} />;
      }}
    </Shown>
  );
}

function Whole({ node, pods, events, table }: { node: Node; pods: Pod[]; events: ComponentChildren; table: ComponentChildren }) {
  const { name } = node.metadata;
  const info = node.status?.nodeInfo ?? {};
  useAbout([name]);
  const use = used().nodes.get(name);
  const [draining, setDraining] = useState(false);
  const off = !!node.spec?.unschedulable;
  const cordons = may('patch', '', 'nodes', name);
  const cordon = async () => {
    try {
      await patch(`/api/v1/nodes/${name}`, 'merge', { spec: { unschedulable: off ? null : true } });
      tell(off ? `${name} takes pods again` : `${name} takes no new pods`);
    } catch (e) {
      tell(words(e), true);
    }
  };
  return (
    <>
      <Heading title={name} sub={<><Badge {...nodeState(node)} /> <span class="quiet">node, <Age of={node.metadata.creationTimestamp} /> old</span></>}>
        {cordons && <button onClick={() => void cordon()}>{off ? 'Uncordon' : 'Cordon'}</button>}
        {cordons && may('create', '', 'pods/eviction') && <button onClick={() => setDraining(true)}>Drain…</button>}
        <a class="button" href={href('o', 'core', 'v1', 'nodes', name) + '?tab=yaml'}>YAML</a>
      </Heading>
      {draining && <Drain node={name} close={() => setDraining(false)} />}
      <WhySection all={whyNode(node, lately.value)} about={{ group: '', plural: 'nodes', namespace: '', name }} />
      <div class="columns">
        <Section title="Room"><Meters node={node} pods={pods.filter(takesRoom)} /><Squares pods={pods.filter(takesRoom)} /></Section>
        <Section title="About">
          <Facts all={[
            ['Address', node.status?.addresses?.find((a) => a.type === 'InternalIP')?.address],
            ['Kubelet', info.kubeletVersion], ['Runtime', info.containerRuntimeVersion],
            ['System', info.osImage && `${info.osImage}, ${info.kernelVersion}, ${info.architecture}`],
            ['Taints', node.spec?.taints?.map((t) => `${t.key}${t.value ? `=${t.value}` : ''}:${t.effect}`).join(', ')],
            ['Labels', <Labels all={node.metadata.labels} />],
          ]} />
        </Section>
      </div>
      <div class="plots">
        <Plot title="CPU" series={[{ name: 'CPU', line: use?.cpu ?? NONE }]} format={cores} />
        <Plot title="Memory" series={[{ name: 'Memory', line: use?.memory ?? NONE }]} format={bytes} />
        <NetworkPlot of={used().nodeNetwork.get(name)} instead={noStatistics.value} />
      </div>
      <Section title="Conditions"><Conditions all={node.status?.conditions} goodFalse={(t) => t !== 'Ready'} /></Section>
      <Section title="Pods">{table}</Section>
      <Section title="Events">{events}</Section>
    </>
  );
}

const NONE = { times: [], values: [] };

export function Conditions({ all, goodFalse }: { all: Condition[] | undefined; goodFalse?: (type: string) => boolean }) {
  if (!all?.length) return <p class="quiet">None.</p>;
  return (
    <ul class="conditions">
      {all.map((c) => {
        const good = (c.status === 'True') !== !!goodFalse?.(c.type);
        return (
          <li key={c.type}>
            <Badge tone={c.status === 'Unknown' ? 'warn' : good ? 'ok' : 'warn'} text={`${c.type}: ${c.status}`} />
            <span class="event-text">{c.message || c.reason}</span>
            <Age of={c.lastTransitionTime} />
          </li>
        );
      })}
    </ul>
  );
}
