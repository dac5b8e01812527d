// What a container writes, as it comes. The newest lines are kept, and the view follows them while
// it stands at its end.

import type { ComponentChildren } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import { ApiError, pathOf, send, words } from '../api';
import { lines } from '../live';
import { Mark, parsed, type Line } from '../model/logs';

/** Lines kept; older ones are dropped and said so. */
const KEEP = 5_000;
/** Lines asked for at the start. */
const TAIL = 500;
/** Milliseconds for which lines are gathered before they are drawn. */
const GATHER_MS = 80;
/** Milliseconds until a stream that broke is asked for again. */
const AGAIN_MS = 2_000;

interface Props {
  namespace: string;
  pod: string;
  container: string;
  /** A container that restarted writes a new log. */
  restarts: number;
  running: boolean;
  children?: ComponentChildren;
}

export function Logs({ namespace, pod, container, restarts, running, children }: Props) {
  const [previous, setPrevious] = useState(false);
  const [stamps, setStamps] = useState(false);
  const [wrap, setWrap] = useState(true);
  const [filter, setFilter] = useState('');
  const [note, setNote] = useState('');
  const [follows, setFollows] = useState(true);
  const box = useRef<HTMLDivElement>(null);
  const all = useRef<Line[]>([]);
  // Times come always, so that it is known which lines are new; they are hidden where nobody wants them.
  const view = useRef({ matching: '', stamps });
  view.current = { matching: filter.toLowerCase(), stamps };

  const textOf = ({ time, text }: Line) => (view.current.stamps && time ? `${time} ${text}` : text);
  const isShown = (text: string) => text.toLowerCase().includes(view.current.matching);
  const stick = useRef(true);
  const draw = (fresh: Line[]) => {
    const at = box.current;
    if (!at) return;
    at.append(...fresh.map(textOf).filter(isShown).map(lineElement));
    while (at.childElementCount > KEEP) at.firstElementChild?.remove();
    if (stick.current) at.scrollTop = at.scrollHeight;
  };

  useEffect(() => {
    const stop = new AbortController();
    let fresh: Line[] = [];
    let timer = 0;
    const flush = () => {
      timer = 0;
      all.current = [...all.current, ...fresh].slice(-KEEP);
      draw(fresh);
      fresh = [];
    };
    all.current = [];
    box.current?.replaceChildren();
    setNote('');
    const mark = new Mark();
    const read = async () => {
      const query = new URLSearchParams({ container, previous: String(previous), timestamps: 'true' });
      if (!previous) query.set('follow', 'true');
      if (mark.since) query.set('sinceTime', mark.since);
      else query.set('tailLines', String(TAIL));
      const path = `${pathOf('', 'v1', 'pods', namespace, pod)}/log?${query}`;
      const response = await send(path, { signal: stop.signal, headers: { Accept: '*/*' } });
      setNote('');
      mark.begin();
      for await (const text of lines(response)) {
        const line = parsed(text);
        if (!mark.isNew(line)) continue;
        fresh.push(line);
        timer ||= window.setTimeout(flush, GATHER_MS);
      }
    };
    const run = async () => {
      while (!stop.signal.aborted) {
        try {
          await read();
          if (stop.signal.aborted) return;
          if (previous || !running) {
            setNote(previous ? '' : 'The container has ended its output.');
            return;
          }
          // It runs: what ended is the stream, not its output.
        } catch (e) {
          if (stop.signal.aborted) return;
          // What the server refuses it refuses again; a server that fails may come back.
          const lost = e instanceof ApiError ? e.code === 0 || e.code === 429 || e.code >= 500 : true;
          setNote(lost ? 'The stream is lost; trying again.' : words(e));
          if (!lost) return;
        }
        await new Promise((done) => setTimeout(done, AGAIN_MS));
      }
    };
    void run();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
    // A restart, or a start after an end, is a new stream.
  }, [namespace, pod, container, previous, restarts, running]);

  useEffect(() => {
    box.current?.replaceChildren();
    draw(all.current);
  }, [filter, stamps]);

  const scrolled = () => {
    const at = box.current;
    if (!at) return;
    stick.current = at.scrollHeight - at.scrollTop - at.clientHeight < 30;
    setFollows(stick.current);
  };
  const toEnd = () => {
    stick.current = true;
    if (box.current) box.current.scrollTop = box.current.scrollHeight;
  };
  const save = () => {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([all.current.map(textOf).join('\n') + '\n'], { type: 'text/plain' }));
    link.download = `${pod}-${container}.log`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1_000);
  };
  return (
    <div class="logs">
      <div class="tools">
        {children}
        <input type="search" class="filter" data-filter placeholder="Filter" aria-label="Filter log lines" value={filter} onInput={(e) => setFilter(e.currentTarget.value)} />
        {restarts > 0 && <Check label="Before the restart" value={previous} set={setPrevious} />}
        <Check label="Times" value={stamps} set={setStamps} />
        <Check label="Wrap" value={wrap} set={setWrap} />
        <button onClick={save}>Save</button>
      </div>
      <div ref={box} class={`log-lines ${wrap ? 'wrap' : ''}`} role="log" aria-label={`Output of ${container}`} aria-live="off" tabIndex={0} onScroll={scrolled} />
      <p class="log-foot" role="status">
        <span>{note}</span>
        {!follows && <button onClick={toEnd}>Follow again</button>}
      </p>
    </div>
  );
}

function Check({ label, value, set }: { label: string; value: boolean; set: (v: boolean) => void }) {
  return <label class="check"><input type="checkbox" checked={value} onChange={(e) => set(e.currentTarget.checked)} />{label}</label>;
}

/** A line without the colours that a terminal would show. */
function lineElement(text: string): HTMLElement {
  const line = document.createElement('div');
  // eslint-disable-next-line no-control-regex
  line.textContent = text.replace(/\x1b\[[0-9;?]*[ -/]*[@-~]/g, '') || ' ';
  return line;
}
