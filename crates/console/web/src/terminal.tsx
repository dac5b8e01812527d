// A shell in a container, over the API's WebSocket protocol: the first byte of a message names its
// channel.

import { FitAddon } from '@xterm/addon-fit';
import { Terminal as Xterm } from '@xterm/xterm';
import type { ComponentChildren } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import { pathOf } from './api';
import { isDark, token } from './state';

const [STDIN, STDOUT, STDERR, ERROR, RESIZE] = [0, 1, 2, 3, 4];
const PROTOCOL = 'v5.channel.k8s.io';
const BEARER = 'base64url.bearer.authorization.k8s.io.';
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

/** The token as a sub-protocol, which is how a browser can show one. */
function bearer(value: string): string {
  return BEARER + btoa(value).replace(/\+/g, '-').replace(/\//g, '_').replace(/=+$/, '');
}

function urlOf({ namespace, pod, container }: Props): string {
  const query = new URLSearchParams({ container, stdin: 'true', stdout: 'true', tty: 'true' });
  for (const part of SHELL) query.append('command', part);
  return `wss://${location.host}${pathOf('', 'v1', 'pods', namespace, pod)}/exec?${query}`;
}

function message(channel: number, body: Uint8Array): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(body.length + 1);
  out[0] = channel;
  out.set(body, 1);
  return out;
}

/** How a session ended, in words. */
function ending(text: string): string {
  try {
    const status = JSON.parse(text) as { status?: string; message?: string };
    return status.status === 'Success' ? 'The shell has ended.' : (status.message ?? text);
  } catch {
    return text;
  }
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
    let why = '';
    const sendTo = (channel: number, text: string) => {
      if (socket.readyState === WebSocket.OPEN) socket.send(message(channel, encode.encode(text)));
    };
    const size = () => sendTo(RESIZE!, JSON.stringify({ Width: term.cols, Height: term.rows }));
    socket.onopen = size;
    socket.onmessage = (e: MessageEvent<ArrayBuffer>) => {
      const data = new Uint8Array(e.data);
      const body = data.subarray(1);
      if (data[0] === STDOUT || data[0] === STDERR) term.write(body);
      else if (data[0] === ERROR && body.length) why = ending(new TextDecoder().decode(body));
    };
    socket.onclose = () => setEnded(why || 'The connection is closed.');
    term.onData((text) => sendTo(STDIN!, text));
    term.onResize(size);
    const watch = new ResizeObserver(() => fit.fit());
    watch.observe(box);
    return () => {
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
