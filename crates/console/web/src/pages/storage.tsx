// Storage: claims, the volumes behind them, the classes that make volumes.

import { useMemo } from 'preact/hooks';
import { mayList, scoped } from '../discovery';
import { sorted, useLive } from '../live';
import { bytes, quantity } from '../model/format';
import type { Tone } from '../model/pods';
import { mountedOn } from '../model/statistics';
import { scope } from '../state';
import type { Claim, Pod, StorageClass, Volume } from '../types';
import { objectLink } from '../ui/events';
import { Age, Badge, Empty, Heading, Meter, Section, Shown } from '../ui/parts';
import { Table, type Column } from '../ui/table';
import { askedNodes, noStatistics, usageTick, used, useAbout } from '../usage';

const TONES: Record<string, Tone> = { Bound: 'ok', Available: 'ok', Pending: 'way', Released: 'warn', Lost: 'bad', Failed: 'bad' };
const badge = (phase: string | undefined) => <Badge tone={TONES[phase ?? ''] ?? 'way'} text={phase ?? 'Unknown'} />;
const room = (text: string | undefined) => (text ? bytes(quantity(text)) : '');

const keyOf = (c: Claim) => `${c.metadata.namespace}/${c.metadata.name}`;

/** How much of a claim is used, as a bar and in words; nothing is known of one that no pod has mounted. */
function Used({ claim, mounted }: { claim: Claim; mounted: boolean }) {
  const fill = used().claims.get(keyOf(claim));
  if (!fill) return <span class="quiet">{mounted ? 'no figures yet' : 'not mounted'}</span>;
  return <Meter label={`Used of ${claim.metadata.name}`} part={fill.used} whole={fill.capacity} text={`${bytes(fill.used)} of ${bytes(fill.capacity)}`} />;
}

/** How full, for sorting; what is not known comes first. */
function share(claim: Claim): number {
  const fill = used().claims.get(keyOf(claim));
  return fill ? fill.used / fill.capacity : -1;
}

/** Columns of claims; `mounted` says of which pods have, null where it cannot be known how full they are. */
const claimColumns = (mounted: ((claim: string) => boolean) | null): Column<Claim>[] => [
  { title: 'Claim', cell: (c) => c.metadata.name, by: (c) => c.metadata.name, width: '24%' },
  { title: 'Namespace', cell: (c) => c.metadata.namespace, by: (c) => c.metadata.namespace ?? '', from: 2 },
  { title: 'State', cell: (c) => badge(c.status?.phase), by: (c) => c.status?.phase ?? '' },
  { title: 'Room', cell: (c) => room(c.status?.capacity?.storage ?? c.spec?.resources?.requests?.storage), by: (c) => quantity(c.spec?.resources?.requests?.storage), from: mounted ? 2 : 1, number: true },
  ...(mounted ? [{ title: 'Used', cell: (c: Claim) => <Used claim={c} mounted={mounted(keyOf(c))} />, by: share, width: '10.5rem' }] : []),
  { title: 'Class', cell: (c) => c.spec?.storageClassName ?? '', by: (c) => c.spec?.storageClassName ?? '', from: 2 },
  { title: 'Volume', cell: (c) => c.spec?.volumeName ?? '', from: 3 },
  { title: 'Age', cell: (c) => <Age of={c.metadata.creationTimestamp} />, from: 3, number: true, width: '5rem' },
];

const VOLUMES: Column<Volume>[] = [
  { title: 'Volume', cell: (v) => v.metadata.name, by: (v) => v.metadata.name, width: '36%' },
  { title: 'State', cell: (v) => badge(v.status?.phase), by: (v) => v.status?.phase ?? '' },
  { title: 'Room', cell: (v) => room(v.spec?.capacity?.storage), by: (v) => quantity(v.spec?.capacity?.storage), number: true },
  { title: 'Claim', cell: (v) => (v.spec?.claimRef ? `${v.spec.claimRef.namespace}/${v.spec.claimRef.name}` : ''), from: 2 },
  { title: 'Class', cell: (v) => v.spec?.storageClassName ?? '', from: 3 },
  { title: 'Reclaim', cell: (v) => v.spec?.persistentVolumeReclaimPolicy ?? '', from: 3 },
];

const CLASSES: Column<StorageClass>[] = [
  { title: 'Class', cell: (c) => <>{c.metadata.name}{c.metadata.annotations?.['storageclass.kubernetes.io/is-default-class'] === 'true' && <span class="quiet"> default</span>}</>, width: '30%' },
  { title: 'Provisioner', cell: (c) => c.provisioner ?? '' },
  { title: 'Binding', cell: (c) => c.volumeBindingMode ?? 'Immediate', from: 2 },
  { title: 'Reclaim', cell: (c) => c.reclaimPolicy ?? 'Delete', from: 2 },
  { title: 'Grows', cell: (c) => (c.allowVolumeExpansion ? 'yes' : 'no'), from: 3 },
];

export function Storage() {
  const claims = useLive<Claim>(scoped('', 'v1', 'persistentvolumeclaims'));
  const seesVolumes = mayList('', 'persistentvolumes');
  const seesClasses = mayList('storage.k8s.io', 'storageclasses');
  const pods = useLive<Pod>(mayList('', 'pods') ? scoped('', 'v1', 'pods') : '');
  const nodes = useMemo(() => mountedOn(pods.items.value.values()), [pods.items.value]);
  const names = [...new Set(nodes.values())].sort();
  useAbout(names);
  void usageTick.value;
  const volumes = useLive<Volume>(seesVolumes ? '/api/v1/persistentvolumes' : '');
  const classes = useLive<StorageClass>(seesClasses ? '/apis/storage.k8s.io/v1/storageclasses' : '');
  return (
    <>
      <Heading title="Storage" sub={scope.value ? `Claims of namespace ${scope.value}` : 'Claims of all namespaces'} />
      <Section title="Claims">
        {claims.items.value.size > 0 && <FillNote nodes={names} />}
        <Shown live={claims} what="claims" empty={<Empty title="No claims here">A pod asks for a disk by a PersistentVolumeClaim.</Empty>}>
          {() => <Table label="claims" rows={sorted(claims)} columns={claimColumns(noStatistics.value ? null : (c) => nodes.has(c))} keyOf={(c) => c.metadata.uid} link={(c) => objectLink('', 'v1', 'persistentvolumeclaims', c.metadata.namespace ?? '', c.metadata.name)} text={(c) => `${c.metadata.namespace} ${c.metadata.name} ${c.status?.phase}`} />}
        </Shown>
      </Section>
      {seesVolumes && (
        <Section title="Volumes">
          <Shown live={volumes} what="volumes" empty={<p class="quiet">None.</p>}>
            {() => <Table label="volumes" rows={sorted(volumes)} columns={VOLUMES} keyOf={(v) => v.metadata.uid} link={(v) => objectLink('', 'v1', 'persistentvolumes', '', v.metadata.name)} />}
          </Shown>
        </Section>
      )}
      {seesClasses && (
        <Section title="Classes">
          <Shown live={classes} what="storage classes" empty={<p class="quiet">None.</p>}>
            {() => <Table label="storage classes" rows={sorted(classes)} columns={CLASSES} keyOf={(c) => c.metadata.uid} link={(c) => objectLink('storage.k8s.io', 'v1', 'storageclasses', '', c.metadata.name)} />}
          </Shown>
        </Section>
      )}
    </>
  );
}

/** Says where it cannot be seen how full claims are, or not of all. */
function FillNote({ nodes }: { nodes: string[] }) {
  const { names, of } = askedNodes.value;
  if (!mayList('', 'pods')) return <p class="quiet">How full claims are cannot be shown: you have no right to see pods here, and so not where they are mounted.</p>;
  if (noStatistics.value) return <p class="quiet">How full claims are cannot be shown. {noStatistics.value}</p>;
  if (nodes.length > names.length && of > names.length) return <p class="quiet">How full claims are is shown for those on {names.length} of {of} nodes; a namespace shows fewer.</p>;
  return null;
}
