// A shell in a container, over the API's WebSocket protocol.

import { FitAddon } from '@xterm/addon-fit';
import { Terminal as Xterm } from '@xterm/xterm';
import type { ComponentChildren } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import { pathOf, send } from './api';
import { bearer, cause, ending, ERROR, message, PROTOCOL, RESIZE, STDERR, STDIN, STDOUT, Typed } from './model/shell';
import { isDark, token } from './state';

/** Whichever shell the image has. */
const SHELL = ['sh', '-c', 'exec "$(command -v bash || command -v sh)"'];

const COLOURS = {
  light: { background: '#ffffff', foreground: '#1d2429', cursor: '#0d6e83', cursorAccent: '#ffffff', selectionBackground: '#cfe6ec', yellow: '#8a6100', brightYellow: '#8a6100', white: '#5a656c', brightWhite: '#1d2429', green: '#2b7a3d', brightGreen: '#2b7a3d', cyan: '#0d6e83', brightCyan: '#0d6e83' },
  dark: { background: '#12181c', foreground: '#e3e8ea', cursor: '#56c2d6', cursorAccent: '#12181c', selectionBackground: '#28444d' },
};

interface Props {
  namespace: string;
  pod: string;
  container: string;
  children?: ComponentChildren;
}

function urlOf({ namespace, pod, container }: Props): string {
  const query = new URLSearchParams({ container, stdin: 'true', stdout: 'true', tty: 'true' });
  for (const part of SHELL) query.append('command', part);
  return `wss://${location.host}${pathOf('', 'v1', 'pods', namespace, pod)}/exec?${query}`;
}

export function Terminal(props: Props) {
  const { namespace, pod, container, children } = props;
  const at = useRef<HTMLDivElement>(null);
  const shown = useRef<Xterm | null>(null);
  const [ended, setEnded] = useState('');
  const [round, setRound] = useState(0);

  useEffect(() => {
    const box = at.current;
    if (!box) return undefined;
    setEnded('');
    const theme = COLOURS[isDark.value ? 'dark' : 'light'];
    const term = new Xterm({ fontFamily: 'ui-monospace, "SF Mono", Menlo, Consolas, monospace', fontSize: 13, cursorBlink: true, theme, screenReaderMode: true, scrollback: 5_000 });
    const fit = new FitAddon();
    term.loadAddon(fit);
    term.open(box);
    fit.fit();
    term.focus();
    shown.current = term;
    const socket = new WebSocket(urlOf(props), [PROTOCOL, bearer(token.value)]);
    socket.binaryType = 'arraybuffer';
    const encode = new TextEncoder();
    let said = '';
    let opened = false;
    let shows = true;
    const sendTo = (channel: number, text: string) => {
      if (socket.readyState === WebSocket.OPEN) socket.send(message(channel, encode.encode(text)));
    };
    const size = () => sendTo(RESIZE, JSON.stringify({ Width: term.cols, Height: term.rows }));
    const typed = new Typed((text) => sendTo(STDIN, text));
    socket.onopen = () => {
      opened = true;
      size();
      typed.open();
    };
    socket.onmessage = (e: MessageEvent<ArrayBuffer>) => {
      const data = new Uint8Array(e.data);
      const body = data.subarray(1);
      if (data[0] === STDOUT || data[0] === STDERR) term.write(body);
      else if (data[0] === ERROR && body.length) said = ending(new TextDecoder().decode(body));
    };
    // A token that the server takes no more leads to the sign-in page, as with any request.
    const ask = () => send(pathOf('', 'v1', 'pods', namespace, pod));
    socket.onclose = () => void cause(said, opened, ask).then((why) => shows && setEnded(why));
    term.onData((text) => typed.put(text));
    term.onResize(size);
    const watch = new ResizeObserver(() => fit.fit());
    watch.observe(box);
    return () => {
      shows = false;
      watch.disconnect();
      socket.onclose = null;
      socket.close();
      term.dispose();
      shown.current = null;
    };
  }, [namespace, pod, container, round]);
  useEffect(() => {
    if (shown.current) shown.current.options.theme = COLOURS[isDark.value ? 'dark' : 'light'];
  }, [isDark.value]);

  return (
    <div class="terminal-page">
      <div class="tools">{children}<span class="quiet">Ctrl-D ends the shell.</span></div>
      <div ref={at} class="shell" role="group" aria-label={`Terminal in ${container}`} />
      {ended && <p class="log-foot" role="status"><span>{ended}</span><button onClick={() => setRound((n) => n + 1)}>Open again</button></p>}
    </div>
  );
}
