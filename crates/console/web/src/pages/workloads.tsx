// Workloads of all kinds in one list, and one alone: how far its rollout is, its scale, what it can
// go back to.

import { useMemo, useState } from 'preact/hooks';
import { patch, pathOf, remove, words } from '../api';
import { may, mayList, scoped } from '../discovery';
import { useLive, useOne, type Live } from '../live';
import { shortImage } from '../model/format';
import { podState } from '../model/pods';
import { whyWorkload } from '../model/why';
import { deploymentRevisions, imagesOf, podsOf, progressOf, setRevisions, sortOf, SORTS, templateOf, type Progress, type Revision, type Sort } from '../model/workloads';
import { href, route, scope } from '../state';
import type { ControllerRevision, Event, Pod, Workload } from '../types';
import { Confirm } from '../ui/confirm';
import { Events } from '../ui/events';
import { lazy } from '../ui/lazy';
import { Age, Badge, DELETED, Dialog, Empty, Facts, Failure, Heading, Labels, lately, Loading, Section, Shown, Tabs, tell } from '../ui/parts';
import { Table, type Column } from '../ui/table';
import { WhySection } from '../ui/why';
import { Conditions, Squares } from './nodes';
import { PodTable } from './pods';

const Editor = lazy('the editor', () => import('../edit/editor').then((m) => m.Editor));

interface Row {
  sort: Sort;
  w: Workload;
  progress: Progress;
}

const COLUMNS: Column<Row>[] = [
  { title: 'Name', cell: (r) => r.w.metadata.name, by: (r) => r.w.metadata.name },
  { title: 'Kind', cell: (r) => r.sort.kind, by: (r) => r.sort.kind, from: 2, width: '8.5rem' },
  { title: 'Namespace', cell: (r) => r.w.metadata.namespace, by: (r) => r.w.metadata.namespace ?? '', from: 2, width: '9rem' },
  { title: 'State', cell: (r) => <Badge {...r.progress.state} />, by: (r) => r.progress.state.text, width: '11rem' },
  { title: 'Ready', cell: (r) => <Ready of={r.progress} />, by: (r) => r.progress.ready, number: true, width: '7rem' },
  { title: 'Image', cell: (r) => imagesOf(templateOf(r.w)).map(shortImage).join(', '), from: 3 },
  { title: 'Age', cell: (r) => <Age of={r.w.metadata.creationTimestamp} />, by: (r) => -Date.parse(r.w.metadata.creationTimestamp ?? ''), from: 2, number: true, width: '5rem' },
];

function Ready({ of }: { of: Progress }) {
  return <span class="ready">{of.ready}/{of.wanted}<span class="bar small" aria-hidden="true"><span class="fill" style={{ width: `${of.wanted ? Math.min(100, (of.ready / of.wanted) * 100) : 100}%` }} /></span></span>;
}

export function Workloads() {
  const lists = SORTS.map((s) => useLive<Workload>(mayList(s.group, s.plural) ? scoped(s.group, s.version, s.plural) : ''));
  const seen = SORTS.some((s) => mayList(s.group, s.plural));
  const rows = useMemo(() => {
    const all = lists.flatMap((l, i) => [...l.items.value.values()].map((w) => ({ sort: SORTS[i]!, w, progress: progressOf(SORTS[i]!.kind, w) })));
    // A Job that a CronJob made is found there, and in the list of all Jobs.
    const own = all.filter((r) => !r.w.metadata.ownerReferences?.some((o) => o.controller));
    const key = (r: Row) => `${r.w.metadata.namespace}/${r.w.metadata.name}`;
    return own.sort((a, b) => (key(a) < key(b) ? -1 : 1));
  }, lists.map((l) => l.items.value));
  const failed = lists.find((l) => l.phase.value === 'failed' && l.error.value);
  const loading = lists.some((l) => l.phase.value === 'loading');
  return (
    <>
      <Heading title="Workloads" sub={scope.value ? `Namespace ${scope.value}` : 'All namespaces'} />
      {!seen && <Empty title="You have no right to see workloads here" />}
      {failed?.error.value && !rows.length && <Failure what="workloads" error={failed.error.value} again={failed.again} />}
      {loading && !rows.length ? <Loading what="workloads" /> : seen && !failed && !rows.length ? (
        <Empty title="No workloads here">A first one: <code>kubectl create deployment hello --image=tiphys.local/demo:1</code></Empty>
      ) : rows.length > 0 && (
        <Table label="workloads" rows={rows} columns={COLUMNS} keyOf={(r) => r.w.metadata.uid}
          link={(r) => href('workloads', r.sort.plural, r.w.metadata.namespace ?? '', r.w.metadata.name)}
          text={(r) => `${r.w.metadata.namespace} ${r.w.metadata.name} ${r.sort.kind} ${r.progress.state.text} ${imagesOf(templateOf(r.w)).join(' ')}`} />
      )}
    </>
  );
}

export function WorkloadPage({ plural, namespace, name }: { plural: string; namespace: string; name: string }) {
  const sort = sortOf(plural);
  if (!sort) return <><Heading title="Workloads" /><Empty title={`There is no kind of workload ${plural}`} /></>;
  return <Known key={plural} sort={sort} namespace={namespace} name={name} />;
}

function Known({ sort, namespace, name }: { sort: Sort; namespace: string; name: string }) {
  const live = useLive<Workload>(pathOf(sort.group, sort.version, sort.plural, namespace), { fieldSelector: `metadata.name=${name}` });
  const tab = route.value.query.get('tab') ?? 'about';
  const { object: w, gone } = useOne(live, tab !== 'about');
  return (
    <Shown live={live} what={`${sort.kind} ${name}`} page={name} empty={!w && <Empty title={`There is no ${sort.kind} ${name} in ${namespace}`}><a href={href('workloads')}>All workloads</a></Empty>}>
      {() => w && <Whole sort={sort} w={w} gone={gone} tab={tab} />}
    </Shown>
  );
}

/** What a workload made in between, and what it can go back to. */
function useMade(sort: Sort, namespace: string): { sets: Live<Workload>; revisions: Live<ControllerRevision>; jobs: Live<Workload> } {
  const path = (wanted: boolean, group: string, plural: string) => (wanted && mayList(group, plural) ? pathOf(group, 'v1', plural, namespace) : '');
  return {
    sets: useLive<Workload>(path(sort.kind === 'Deployment', 'apps', 'replicasets')),
    revisions: useLive<ControllerRevision>(path(sort.kind === 'StatefulSet' || sort.kind === 'DaemonSet', 'apps', 'controllerrevisions')),
    jobs: useLive<Workload>(path(sort.kind === 'CronJob', 'batch', 'jobs')),
  };
}

function Whole({ sort, w, gone, tab }: { sort: Sort; w: Workload; gone: boolean; tab: string }) {
  const { namespace = '', name, uid } = w.metadata;
  const made = useMade(sort, namespace);
  const pods = useLive<Pod>(mayList('', 'pods') ? pathOf('', 'v1', 'pods', namespace) : '');
  const events = useLive<Event>(mayList('', 'events') ? pathOf('', 'v1', 'events', namespace) : '', { fieldSelector: `involvedObject.kind=${sort.kind},involvedObject.name=${name}` });
  const own = useMemo(() => {
    const between = [...made.sets.items.value.values(), ...made.jobs.items.value.values()];
    const owners = new Set(between.filter((s) => s.metadata.ownerReferences?.some((o) => o.uid === uid)).map((s) => s.metadata.uid));
    return podsOf(uid, owners, pods.items.value.values());
  }, [uid, made.sets.items.value, made.jobs.items.value, pods.items.value]);
  const history = sort.kind === 'Deployment' ? deploymentRevisions(w, [...made.sets.items.value.values()]) : setRevisions(w, [...made.revisions.items.value.values()]);
  const progress = progressOf(sort.kind, w);
  const place = href('workloads', sort.plural, namespace, name);
  return (
    <>
      <Heading title={name} sub={<><Badge {...(gone ? DELETED : progress.state)} /> <span class="quiet">{sort.kind} in {namespace}, <Age of={w.metadata.creationTimestamp} /> old</span></>}>
        {!gone && <Actions sort={sort} w={w} history={history} />}
      </Heading>
      <Tabs label="Parts of the workload" current={tab} all={[{ id: 'about', title: 'About', link: place }, { id: 'yaml', title: 'YAML', link: `${place}?tab=yaml` }]} />
      {tab === 'yaml' ? <Editor group={sort.group} version={sort.version} plural={sort.plural} namespace={namespace} name={name} /> : (
        <>
          <WhySection all={whyWorkload(sort.kind, w, own, lately.value)} about={{ group: sort.group, plural: sort.plural, namespace, name }} />
          {sort.kind !== 'CronJob' && <Rollout progress={progress} />}
          {sort.kind === 'CronJob' && <p>{progress.sentence}</p>}
          <Section title="Pods">
            {sort.kind === 'Deployment' ? <BySet w={w} pods={own} sets={[...made.sets.items.value.values()]} /> : <Squares pods={own} />}
            {own.length ? <PodTable pods={own} within /> : <p class="quiet">None.</p>}
          </Section>
          <div class="columns">
            <Section title="Conditions"><Conditions all={w.status?.conditions} goodFalse={(t) => t === 'ReplicaFailure' || t === 'Failed'} /></Section>
            <Section title="About">
              <Facts all={[
                ['Images', imagesOf(templateOf(w)).map((i) => <code key={i}>{i}</code>)],
                ['Service account', templateOf(w)?.spec.serviceAccountName],
                ['Schedule', w.spec.schedule],
                ['Selector', w.spec.selector && <Labels all={w.spec.selector.matchLabels} />],
                ['Labels', <Labels all={w.metadata.labels} />],
              ]} />
            </Section>
          </div>
          <Section title="Events"><Events live={events} most={20} /></Section>
        </>
      )}
    </>
  );
}

function Rollout({ progress: p }: { progress: Progress }) {
  const whole = Math.max(p.wanted, p.total, 1);
  const share = (n: number) => ({ width: `${Math.min(100, (n / whole) * 100)}%` });
  return (
    <section class="rollout" aria-label="Rollout">
      <p class="rollout-line"><strong>{p.ready}</strong> of {p.wanted} ready <span class="quiet" role="status">{p.sentence}</span></p>
      <span class="bar tall" role="progressbar" aria-label="Pods that are ready" aria-valuemin={0} aria-valuemax={whole} aria-valuenow={p.ready}>
        <span class="fill faint" style={share(p.updated)} /><span class="fill" style={share(Math.min(p.ready, whole))} />
      </span>
    </section>
  );
}

/** Pods beside the template that they have: a rollout is seen moving from one to the other. */
function BySet({ w, pods, sets }: { w: Workload; pods: Pod[]; sets: Workload[] }) {
  const revisions = deploymentRevisions(w, sets);
  const rows = revisions.map((r) => {
    const set = sets.find((s) => s.metadata.name === r.name && s.metadata.namespace === w.metadata.namespace);
    return { r, own: pods.filter((p) => p.metadata.ownerReferences?.some((o) => o.uid === set?.metadata.uid)) };
  });
  const shown = rows.filter(({ r, own }) => own.length || r.current);
  return (
    <ul class="sets">
      {shown.map(({ r, own }) => (
        <li key={r.name}>
          <span class="set-name">Revision {r.number}{r.current ? '' : ', old'} <span class="quiet">{imagesOf(r.template).map(shortImage).join(', ')} · {own.filter((p) => podState(p, lately.value).tone === 'ok').length}/{own.length}</span></span>
          <Squares pods={own} />
        </li>
      ))}
    </ul>
  );
}

type Asking = 'scale' | 'restart' | 'undo' | 'delete' | null;

function Actions({ sort, w, history }: { sort: Sort; w: Workload; history: Revision[] }) {
  const [asking, ask] = useState<Asking>(null);
  const { namespace = '', name } = w.metadata;
  const path = pathOf(sort.group, sort.version, sort.plural, namespace, name);
  const scales = sort.kind === 'Deployment' || sort.kind === 'StatefulSet';
  const rolls = scales || sort.kind === 'DaemonSet';
  const close = () => ask(null);
  const run = async (what: () => Promise<unknown>, done: string) => {
    close();
    try {
      await what();
      tell(done);
    } catch (e) {
      tell(words(e), true);
    }
  };
  const changes = may('patch', sort.group, sort.plural);
  const stamp = { spec: { template: { metadata: { annotations: { 'kubectl.kubernetes.io/restartedAt': new Date().toISOString().replace(/\.\d+/, '') } } } } };
  return (
    <>
      {scales && may('patch', sort.group, `${sort.plural}/scale`) && <button onClick={() => ask('scale')}>Scale…</button>}
      {rolls && changes && <button onClick={() => ask('restart')}>Restart…</button>}
      {rolls && changes && history.length > 1 && <button onClick={() => ask('undo')}>Undo…</button>}
      {sort.kind === 'CronJob' && changes && <button onClick={() => void run(() => patch(path, 'merge', { spec: { suspend: !w.spec.suspend } }), w.spec.suspend ? 'It runs by its schedule again' : 'It is suspended')}>{w.spec.suspend ? 'Resume' : 'Suspend'}</button>}
      {may('delete', sort.group, sort.plural) && <button onClick={() => ask('delete')}>Delete…</button>}
      {asking === 'scale' && <Scale w={w} close={close} act={(n) => void run(() => patch(`${path}/scale`, 'merge', { spec: { replicas: n } }), `${name} is scaled to ${n}`)} />}
      {asking === 'restart' && <Confirm title={`Restart ${name}?`} verb="Restart" close={close} act={() => void run(() => patch(path, 'strategic-merge', stamp), `${name} restarts`)}>Its pods are replaced one after another, as in any rollout.</Confirm>}
      {asking === 'undo' && <Undo history={history} close={close} act={(r) => void run(() => patch(path, 'json', [{ op: 'replace', path: '/spec/template', value: plain(r.template) }]), `${name} goes back to revision ${r.number}`)} />}
      {asking === 'delete' && <Confirm title={`Delete ${sort.kind} ${name}?`} verb="Delete" close={close} act={() => void run(() => remove(path), `${name} is being deleted`)}>Its pods go, too.</Confirm>}
    </>
  );
}

/** A ControllerRevision holds a patch; without its directive it is the template. */
function plain(template: Revision['template']): unknown {
  const copy = structuredClone(template) as Record<string, unknown> | undefined;
  if (copy) delete copy.$patch;
  return copy;
}

function Scale({ w, act, close }: { w: Workload; act: (replicas: number) => void; close: () => void }) {
  const [value, set] = useState(w.spec.replicas ?? 1);
  const good = Number.isInteger(value) && value >= 0;
  return (
    <Dialog title={`Scale ${w.metadata.name}`} close={close}>
      <form onSubmit={(e) => { e.preventDefault(); if (good) act(value); }}>
        <div class="stepper">
          <button type="button" aria-label="One less" onClick={() => set(Math.max(0, value - 1))}>−</button>
          <input type="number" min="0" aria-label="Replicas" autofocus value={value} onInput={(e) => set(e.currentTarget.valueAsNumber)} />
          <button type="button" aria-label="One more" onClick={() => set(value + 1)}>+</button>
        </div>
        <p class="quiet">Now {w.spec.replicas ?? 1}. An autoscaler, if there is one, has the last word.</p>
        <div class="dialog-actions"><button type="button" onClick={close}>Cancel</button><button class="primary" disabled={!good}>Scale</button></div>
      </form>
    </Dialog>
  );
}

function Undo({ history, act, close }: { history: Revision[]; act: (r: Revision) => void; close: () => void }) {
  const earlier = history.filter((r) => !r.current && r.template);
  return (
    <Dialog title="Go back to an earlier revision" close={close}>
      <ul class="revisions">
        {earlier.map((r) => (
          <li key={r.name}>
            <span><strong>Revision {r.number}</strong> <span class="quiet"><Age of={r.created} /> old{r.cause && ` · ${r.cause}`}</span><br />{imagesOf(r.template).map((i) => <code key={i}>{i}</code>)}</span>
            <button class="primary" onClick={() => act(r)}>Go back to {r.number}</button>
          </li>
        ))}
      </ul>
      <div class="dialog-actions"><button onClick={close}>Cancel</button></div>
    </Dialog>
  );
}
