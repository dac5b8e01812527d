// Why something is not as it should be, above all else on its page.

import { useEffect, useState } from 'preact/hooks';
import { pathOf, send } from '../api';
import type { Why } from '../model/pods';

/** A reason; the container whose last output tells more, with its pod. */
export interface Reason extends Omit<Why, 'logs'> {
  logs?: { namespace: string; pod: string; container: string; previous: boolean };
  /** Where to go on reading. */
  link?: { to: string; text: string };
}

export function WhySection({ all }: { all: Reason[] }) {
  if (!all.length) return null;
  return (
    <section class="why" aria-label="Why">
      <h2>Why</h2>
      {all.map((r) => <One key={r.title} reason={r} />)}
    </section>
  );
}

function One({ reason }: { reason: Reason }) {
  const [tail, setTail] = useState('');
  const logs = reason.logs;
  useEffect(() => {
    if (!logs) return;
    const path = pathOf('', 'v1', 'pods', logs.namespace, logs.pod);
    const query = new URLSearchParams({ container: logs.container, tailLines: '8', previous: String(logs.previous) });
    send(`${path}/log?${query}`).then((r) => r.text()).then(setTail, () => undefined);
  }, [logs?.pod, logs?.container, logs?.previous, reason.title]);
  return (
    <div class="reason">
      <h3>{reason.title}</h3>
      {reason.detail && <p class="said">{reason.detail}</p>}
      {tail && <><p class="quiet">The last it wrote:</p><pre class="tail" tabIndex={0} role="region" aria-label={`Last output of ${logs?.container}`}>{tail}</pre></>}
      {reason.hint && <p>{reason.hint}</p>}
      {reason.link && <p><a href={reason.link.to}>{reason.link.text}</a></p>}
    </div>
  );
}
