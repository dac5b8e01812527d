// Why something is not as it should be, above all else on its page. The server is asked
// (`/tiphys/why`), whose answer comes from the code that decides; the page adds what it sees by itself,
// such as the last output of a container that fails.

import { useEffect, useState } from 'preact/hooks';
import { ApiError, get, pathOf, send, words } from '../api';
import type { About, Answer } from '../model/answer';
import { objections, questionOf } from '../model/answer';
import { plural } from '../model/format';
import type { Why } from '../model/pods';
import { token } from '../state';

/** A reason; the container whose last output tells more, with its pod. */
export interface Reason extends Omit<Why, 'logs'> {
  logs?: { namespace: string; pod: string; container: string; previous: boolean };
  /** Where to go on reading. */
  link?: { to: string; text: string };
}

/** Nodes that are shown with what they say; the rest is counted. */
const MOST_NODES = 8;
/** Between two questions about the same: each makes the server look at the whole cluster. */
const PAUSE_MS = 10_000;

export function WhySection({ all, about }: { all: Reason[]; about?: About }) {
  const path = about && all.length ? questionOf(about) : undefined;
  const { answer, refused } = useAnswer(path, all.map((r) => r.title + (r.detail ?? '')).join());
  if (!all.length) return null;
  const own = answer ? all.filter((r) => !r.guess) : all;
  return (
    <section class="why" aria-label="Why">
      <h2>Why</h2>
      {answer && <Answered answer={answer} />}
      {own.map((r) => <One key={r.title} reason={r} />)}
      {refused && <p class="quiet">{refused}</p>}
    </section>
  );
}

/** The server's answer. It is asked for again when what is seen has changed, after a pause. */
function useAnswer(path: string | undefined, seen: string): { answer?: Answer; refused?: string } {
  const [found, setFound] = useState<{ path?: string; answer?: Answer; refused?: string }>({});
  const [last, setLast] = useState(0);
  useEffect(() => {
    if (!path) return undefined;
    const stop = new AbortController();
    const wait = found.path === path ? Math.max(0, last + PAUSE_MS - Date.now()) : 0;
    const ask = () => {
      setLast(Date.now());
      get<Answer>(path, undefined, stop.signal).then(
        (answer) => setFound({ path, answer }),
        (e: unknown) => {
          if (!stop.signal.aborted) setFound({ path, ...said(e) });
        },
      );
    };
    const timer = window.setTimeout(ask, wait);
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }, [path, seen, token.value]);
  return found.path === path ? found : {};
}

/** Another server than this project's has no such path: then there is nothing to say of it. */
function said(e: unknown): { refused?: string } {
  if (e instanceof ApiError && (e.code === 404 || e.code === 0)) return {};
  return { refused: `The server's own answer is missing: ${words(e)}` };
}

function Answered({ answer }: { answer: Answer }) {
  const all = objections(answer);
  const more = all.length - MOST_NODES;
  return (
    <div class="reason answered">
      <h3>{answer.cause.charAt(0).toUpperCase() + answer.cause.slice(1)}</h3>
      {answer.change && <p><strong>The smallest change that would help:</strong> {answer.change}</p>}
      {answer.notes?.map((note) => <p key={note}>{note}</p>)}
      {all.length > 0 && (
        <div class="scrolls" tabIndex={0} role="region" aria-label="What nodes say">
          <table class="objections">
            <thead><tr><th scope="col">Node</th><th scope="col">Says</th><th scope="col">Would take it with</th></tr></thead>
            <tbody>
              {all.slice(0, MOST_NODES).map((o) => (
                <tr key={o.node}><th scope="row">{o.node}</th><td>{o.reasons}</td><td>{o.change || '—'}</td></tr>
              ))}
            </tbody>
          </table>
          {more > 0 && <p class="quiet">{plural(more, 'more node says', 'more nodes say')} no.</p>}
        </div>
      )}
    </div>
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
