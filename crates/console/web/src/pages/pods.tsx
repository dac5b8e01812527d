// All pods of the scope.

import { useMemo } from 'preact/hooks';
import { useLive } from '../live';
import { scoped } from '../discovery';
import { bytes, cores } from '../model/format';
import { podState, readiness, restarts } from '../model/pods';
import { href, scope } from '../state';
import type { Pod } from '../types';
import { Age, Badge, Empty, Heading, lately, Shown } from '../ui/parts';
import { Table, type Column } from '../ui/table';
import { podUse, usageTick } from '../usage';

export function Pods() {
  const pods = useLive<Pod>(scoped('', 'v1', 'pods'));
  return (
    <>
      <Heading title="Pods" sub={scope.value ? `Namespace ${scope.value}` : 'All namespaces'} />
      <Shown live={pods} what="pods" empty={<Empty title="No pods here">Pods come from workloads: a Deployment, a Job, or one made by hand.</Empty>}>
        {() => <PodTable pods={pods.items.value} />}
      </Shown>
    </>
  );
}

const COLUMNS: Column<Pod>[] = [
  { title: 'Name', cell: (p) => p.metadata.name, by: (p) => p.metadata.name },
  { title: 'Namespace', cell: (p) => p.metadata.namespace, by: (p) => p.metadata.namespace ?? '', from: 2, width: '9rem' },
  { title: 'State', cell: (p) => <Badge {...podState(p, lately.value)} />, by: (p) => podState(p, Date.now()).text, width: '12.5rem' },
  { title: 'Ready', cell: (p) => `${readiness(p).ready}/${readiness(p).total}`, by: (p) => readiness(p).ready, from: 2, number: true, width: '4.5rem' },
  { title: 'Restarts', cell: restarts, by: restarts, from: 3, number: true, width: '5.5rem' },
  { title: 'CPU', cell: (p) => <Use pod={p} what="cpu" />, by: (p) => useOf(p)?.cpu ?? -1, from: 3, number: true, width: '4.5rem' },
  { title: 'Memory', cell: (p) => <Use pod={p} what="memory" />, by: (p) => useOf(p)?.memory ?? -1, from: 3, number: true, width: '6rem' },
  { title: 'Node', cell: (p) => p.spec.nodeName ?? '', by: (p) => p.spec.nodeName ?? '', from: 3, width: '7.5rem' },
  { title: 'Age', cell: (p) => <Age of={p.metadata.creationTimestamp} />, by: (p) => -Date.parse(p.metadata.creationTimestamp ?? ''), from: 1, number: true, width: '4.5rem' },
];

const useOf = (p: Pod) => podUse(p.metadata.namespace ?? '', p.metadata.name);

function Use({ pod, what }: { pod: Pod; what: 'cpu' | 'memory' }) {
  void usageTick.value;
  const found = useOf(pod);
  if (!found) return <span class="quiet">—</span>;
  return <>{what === 'cpu' ? cores(found.cpu) : bytes(found.memory)}</>;
}

export function PodTable({ pods, within }: { pods: ReadonlyMap<string, Pod> | Pod[]; within?: boolean }) {
  const rows = useMemo(() => {
    const all = [...pods.values()];
    const key = (p: Pod) => `${p.metadata.namespace}/${p.metadata.name}`;
    return all.sort((a, b) => (key(a) < key(b) ? -1 : 1));
  }, [pods]);
  return (
    <Table label="pods" within={!!within} rows={rows} columns={COLUMNS} keyOf={(p) => p.metadata.uid}
      link={(p) => href('pods', p.metadata.namespace ?? '', p.metadata.name)}
      text={(p) => `${p.metadata.namespace} ${p.metadata.name} ${p.spec.nodeName ?? ''} ${podState(p, Date.now()).text}`} />
  );
}

