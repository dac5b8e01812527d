// Empties a node: a question with what it means, then how far it is and what refuses to go. It is
// this page that evicts, so closing it ends that.

import { useEffect, useRef, useState } from 'preact/hooks';
import { patch, pathOf, post, words } from '../api';
import { useLive } from '../live';
import { plural } from '../model/format';
import { drain, evictionOf, planOf, type Outcome, type Plan } from '../model/drain';
import type { Pod } from '../types';
import { Dialog, Shown, tell } from './parts';

/** Milliseconds between two tries of what a budget refused. */
const AGAIN_MS = 5_000;
/** Pods listed that have not left yet. */
const LISTED = 12;

export function Drain({ node, close }: { node: string; close: () => void }) {
  // All namespaces', whatever the scope is.
  const pods = useLive<Pod>('/api/v1/pods', { fieldSelector: `spec.nodeName=${node}` });
  const [said, setSaid] = useState<ReadonlyMap<string, Outcome>>(new Map());
  const [running, run] = useState(false);
  const total = useRef(0);
  const stopped = useRef(false);
  useEffect(() => () => void (stopped.current = true), []);
  const plan = planOf(pods.items.value.values());
  total.current = Math.max(total.current, plan.leave.length);

  const start = async () => {
    run(true);
    try {
      await patch(pathOf('', 'v1', 'nodes', '', node), 'merge', { spec: { unschedulable: true } });
    } catch (e) {
      run(false);
      tell(words(e), true);
      return;
    }
    await drain({
      left: () => planOf(pods.items.value.values()).leave,
      evict: (p) => post(`${pathOf('', 'v1', 'pods', p.metadata.namespace, p.metadata.name)}/eviction`, evictionOf(p)),
      said: (uid, outcome) => setSaid((old) => new Map(old).set(uid, outcome)),
      pause: () => new Promise((done) => setTimeout(done, AGAIN_MS)),
      stopped: () => stopped.current,
    });
  };
  return (
    <Dialog title={`Drain ${node}`} close={close}>
      <Shown live={pods} what="pods of all namespaces">
        {() => (running ? <Way plan={plan} total={total.current} said={said} /> : <Meaning plan={plan} />)}
      </Shown>
      <div class="dialog-actions">
        <button autofocus onClick={close}>{!running ? 'Cancel' : plan.leave.length ? 'Stop' : 'Close'}</button>
        {!running && <button class="danger" disabled={pods.phase.value !== 'live'} onClick={() => void start()}>Drain</button>}
      </div>
    </Dialog>
  );
}

function Meaning({ plan }: { plan: Plan }) {
  return (
    <>
      <p>It takes no new pods, and {plural(plan.leave.length, 'pod')} {plan.leave.length === 1 ? 'is' : 'are'} evicted, as disruption budgets allow. {plan.stay > 0 && `${plural(plan.stay, 'pod')} of DaemonSets or of the node's own files stay.`}</p>
      {plan.alone > 0 && <p><strong>{plural(plan.alone, 'pod')}</strong> without a controller will not come back elsewhere.</p>}
      {plan.data > 0 && <p><strong>{plural(plan.data, 'pod')}</strong> will lose what is in emptyDir volumes.</p>}
    </>
  );
}

/** How far it is, and why the rest is still there. */
function Way({ plan, total, said }: { plan: Plan; total: number; said: ReadonlyMap<string, Outcome> }) {
  const gone = total - plan.leave.length;
  const rest = plan.leave.length - LISTED;
  const state = (p: Pod) => {
    const outcome = said.get(p.metadata.uid);
    if (p.metadata.deletionTimestamp || outcome?.state === 'goes') return 'is ending';
    if (!outcome) return 'waits for its turn';
    return outcome.state === 'later' ? `is tried again: ${outcome.text}` : `stays: ${outcome.text}`;
  };
  return (
    <>
      <p role="status">{plan.leave.length ? `${gone} of ${plural(total, 'pod')} left the node.` : 'The node is drained. It takes pods again when it is uncordoned.'}</p>
      <span class="bar tall" role="progressbar" aria-label="Pods that left" aria-valuemin={0} aria-valuemax={Math.max(total, 1)} aria-valuenow={total ? gone : 1}>
        <span class="fill" style={{ width: `${total ? (gone / total) * 100 : 100}%` }} />
      </span>
      {plan.leave.length > 0 && (
        <>
          <ul class="leaving">
            {plan.leave.slice(0, LISTED).map((p) => <li key={p.metadata.uid}><strong>{p.metadata.namespace}/{p.metadata.name}</strong> <span class="quiet">{state(p)}</span></li>)}
            {rest > 0 && <li class="quiet">and {rest} more</li>}
          </ul>
          <p class="quiet">Who stops it leaves the node cordoned, and the pods that left where they are.</p>
        </>
      )}
    </>
  );
}
