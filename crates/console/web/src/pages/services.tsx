// Services with the endpoints behind them.

import { useMemo } from 'preact/hooks';
import { pathOf } from '../api';
import { mayList, scoped } from '../discovery';
import { sorted, useLive, useOne } from '../live';
import { href, route, scope } from '../state';
import type { EndpointSlice, Event, Pod, Service } from '../types';
import { Events } from '../ui/events';
import { lazy } from '../ui/lazy';
import { Age, Badge, DELETED, Empty, Facts, Heading, Labels, lately, Section, Shown, Tabs } from '../ui/parts';
import { Table, type Column } from '../ui/table';
import { WhySection } from '../ui/why';
import { whyService } from '../model/why';

const Editor = lazy('the editor', () => import('../edit/editor').then((m) => m.Editor));

const OWNER = 'kubernetes.io/service-name';

interface Place {
  address: string;
  ports: string;
  ready: boolean;
  ending: boolean;
  node: string;
  pod: string;
}

interface Row {
  s: Service;
  places: Place[];
}

function placesOf(slices: EndpointSlice[]): Place[] {
  return slices.flatMap((slice) =>
    (slice.endpoints ?? []).map((e) => ({
      address: e.addresses.join(', '),
      ports: (slice.ports ?? []).map((p) => `${p.port ?? 'any'}/${p.protocol ?? 'TCP'}`).join(', '),
      ready: e.conditions?.ready !== false,
      ending: !!e.conditions?.terminating,
      node: e.nodeName ?? '',
      pod: e.targetRef?.kind === 'Pod' ? (e.targetRef.name ?? '') : '',
    })),
  );
}

function grouped(slices: Iterable<EndpointSlice>): Map<string, EndpointSlice[]> {
  const out = new Map<string, EndpointSlice[]>();
  for (const slice of slices) {
    const key = `${slice.metadata.namespace}/${slice.metadata.labels?.[OWNER] ?? ''}`;
    out.set(key, [...(out.get(key) ?? []), slice]);
  }
  return out;
}

const ports = (s: Service) => (s.spec?.ports ?? []).map((p) => `${p.port}${p.nodePort ? `:${p.nodePort}` : ''}/${p.protocol ?? 'TCP'}`).join(', ');

function Reach({ row }: { row: Row }) {
  if (row.s.spec?.type === 'ExternalName') return <span class="quiet">{row.s.spec.externalName}</span>;
  const ready = row.places.filter((p) => p.ready).length;
  if (!row.places.length) return <Badge tone="warn" text="No endpoints" />;
  return <Badge tone={ready === row.places.length ? 'ok' : ready ? 'way' : 'bad'} text={`${ready} of ${row.places.length} ready`} />;
}

const COLUMNS: Column<Row>[] = [
  { title: 'Name', cell: (r) => r.s.metadata.name, by: (r) => r.s.metadata.name, width: '26%' },
  { title: 'Namespace', cell: (r) => r.s.metadata.namespace, by: (r) => r.s.metadata.namespace ?? '', from: 2 },
  { title: 'Type', cell: (r) => r.s.spec?.type ?? 'ClusterIP', by: (r) => r.s.spec?.type ?? '', from: 2 },
  { title: 'Endpoints', cell: (r) => <Reach row={r} />, by: (r) => r.places.filter((p) => p.ready).length },
  { title: 'Cluster IP', cell: (r) => <code>{r.s.spec?.clusterIP}</code>, from: 3 },
  { title: 'Ports', cell: (r) => ports(r.s), from: 2 },
  { title: 'Age', cell: (r) => <Age of={r.s.metadata.creationTimestamp} />, from: 3, number: true, width: '5rem' },
];

export function Services() {
  const services = useLive<Service>(scoped('', 'v1', 'services'));
  const slices = useLive<EndpointSlice>(mayList('discovery.k8s.io', 'endpointslices') ? scoped('discovery.k8s.io', 'v1', 'endpointslices') : '');
  const rows = useMemo(() => {
    const of = grouped(slices.items.value.values());
    return sorted(services).map((s) => ({ s, places: placesOf(of.get(`${s.metadata.namespace}/${s.metadata.name}`) ?? []) }));
  }, [services.items.value, slices.items.value]);
  return (
    <>
      <Heading title="Services" sub={scope.value ? `Namespace ${scope.value}` : 'All namespaces'} />
      <Shown live={services} what="Services" empty={<Empty title="No Services here">A Service gives pods one address: <code>kubectl expose deployment NAME --port=80</code></Empty>}>
        {() => <Table label="Services" rows={rows} columns={COLUMNS} keyOf={(r) => r.s.metadata.uid} link={(r) => href('services', r.s.metadata.namespace ?? '', r.s.metadata.name)} text={(r) => `${r.s.metadata.namespace} ${r.s.metadata.name} ${r.s.spec?.type} ${ports(r.s)}`} />}
      </Shown>
    </>
  );
}

export function ServicePage({ namespace, name }: { namespace: string; name: string }) {
  const live = useLive<Service>(pathOf('', 'v1', 'services', namespace), { fieldSelector: `metadata.name=${name}` });
  const seesSlices = mayList('discovery.k8s.io', 'endpointslices');
  const slices = useLive<EndpointSlice>(seesSlices ? pathOf('discovery.k8s.io', 'v1', 'endpointslices', namespace) : '', { labelSelector: `${OWNER}=${name}` });
  const pods = useLive<Pod>(mayList('', 'pods') ? pathOf('', 'v1', 'pods', namespace) : '');
  const events = useLive<Event>(mayList('', 'events') ? pathOf('', 'v1', 'events', namespace) : '', { fieldSelector: `involvedObject.kind=Service,involvedObject.name=${name}` });
  const tab = route.value.query.get('tab') ?? 'about';
  const { object: s, gone } = useOne(live, tab !== 'about');
  const place = href('services', namespace, name);
  return (
    <Shown live={live} what={`Service ${name}`} page={name} empty={!s && <Empty title={`There is no Service ${name} in ${namespace}`}><a href={href('services')}>All Services</a></Empty>}>
      {() => {
        if (!s) return null;
        const places = placesOf([...slices.items.value.values()]);
        return (
          <>
            <Heading title={name} sub={<>{gone ? <Badge {...DELETED} /> : <Reach row={{ s, places }} />} <span class="quiet">Service in {namespace}, <Age of={s.metadata.creationTimestamp} /> old</span></>} />
            <Tabs label="Parts of the Service" current={tab} all={[{ id: 'about', title: 'About', link: place }, { id: 'yaml', title: 'YAML', link: `${place}?tab=yaml` }]} />
            {tab === 'yaml' ? <Editor group="" version="v1" plural="services" namespace={namespace} name={name} /> : (
              <>
                {seesSlices && slices.phase.value === 'live' && !places.some((p) => p.ready) && <WhySection all={whyService(s, [...pods.items.value.values()], lately.value)} about={{ group: '', plural: 'services', namespace, name }} />}
                <Section title="Endpoints"><Places all={places} namespace={namespace} /></Section>
                <Section title="About">
                  <Facts all={[
                    ['Type', s.spec?.type], ['Cluster IP', <code>{s.spec?.clusterIP}</code>],
                    ['External', [...(s.spec?.externalIPs ?? []), ...(s.status?.loadBalancer?.ingress ?? []).map((i) => i.ip ?? i.hostname ?? '')].join(', ')],
                    ['DNS name', `${name}.${namespace}.svc`],
                    ['Ports', (s.spec?.ports ?? []).map((p) => `${p.name ? `${p.name}: ` : ''}${p.port} → ${p.targetPort ?? p.port}${p.nodePort ? `, on nodes ${p.nodePort}` : ''} ${p.protocol ?? 'TCP'}`).join('; ')],
                    ['Selector', <Labels all={s.spec?.selector} />], ['Labels', <Labels all={s.metadata.labels} />],
                  ]} />
                </Section>
                <Section title="Events"><Events live={events} most={20} /></Section>
              </>
            )}
          </>
        );
      }}
    </Shown>
  );
}

function Places({ all, namespace }: { all: Place[]; namespace: string }) {
  if (!all.length) return <p class="quiet">None.</p>;
  const columns: Column<Place>[] = [
    { title: 'Pod', cell: (p) => p.pod || p.address, by: (p) => p.pod, width: '34%' },
    { title: 'State', cell: (p) => <Badge tone={p.ready ? 'ok' : 'way'} text={p.ending ? 'Terminating' : p.ready ? 'Ready' : 'Not ready'} /> },
    { title: 'Address', cell: (p) => <code>{p.address}</code>, by: (p) => p.address, from: 2 },
    { title: 'Ports', cell: (p) => p.ports, from: 2 },
    { title: 'Node', cell: (p) => p.node, by: (p) => p.node, from: 3 },
  ];
  return <Table label="endpoints" rows={all} columns={columns} keyOf={(p) => p.address + p.ports} link={(p) => (p.pod ? href('pods', namespace, p.pod) : href('services'))} />;
}
