// What a terminal and the server say to each other, without either: the first byte of a message names
// its channel.

export const [STDIN, STDOUT, STDERR, ERROR, RESIZE] = [0, 1, 2, 3, 4] as const;
export const PROTOCOL = 'v5.channel.k8s.io';
const BEARER = 'base64url.bearer.authorization.k8s.io.';

/** The token as a sub-protocol, which is how a browser can show one. */
export function bearer(value: string): string {
  return BEARER + btoa(value).replace(/\+/g, '-').replace(/\//g, '_').replace(/=+$/, '');
}

export function message(channel: number, body: Uint8Array): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(body.length + 1);
  out[0] = channel;
  out.set(body, 1);
  return out;
}

/** How a session ended, in words. */
export function ending(text: string): string {
  try {
    const status = JSON.parse(text) as { status?: string; message?: string };
    return status.status === 'Success' ? 'The shell has ended.' : (status.message ?? text);
  } catch {
    return text;
  }
}

/** What is typed: before there is a connection it waits for it. */
export class Typed {
  private waiting: string[] | null = [];

  constructor(private readonly send: (text: string) => void) {}

  put(text: string): void {
    if (this.waiting) this.waiting.push(text);
    else this.send(text);
  }

  /** The connection is there. */
  open(): void {
    const all = this.waiting ?? [];
    this.waiting = null;
    for (const text of all) this.send(text);
  }
}

/** Why a connection ended. A browser does not tell why the server refused one, so that the server is
 * asked for what it refuses or lacks: `ask` fails with that. */
export async function cause(said: string, opened: boolean, ask: () => Promise<unknown>): Promise<string> {
  if (said) return said;
  try {
    await ask();
  } catch (e) {
    return e instanceof Error ? e.message : String(e);
  }
  return opened ? 'The connection is closed.' : 'The server has not opened a terminal.';
}
