// Requests to the API: the only place that sends any. An answer that is not a success becomes an
// `ApiError` with what the server's Status says.

import { signal } from '@preact/signals';
import { signOut, token } from './state';

export interface Cause {
  reason?: string;
  message?: string;
  field?: string;
}

interface StatusBody {
  kind?: string;
  message?: string;
  reason?: string;
  code?: number;
  details?: { name?: string; kind?: string; causes?: Cause[] };
}

export class ApiError extends Error {
  constructor(
    readonly code: number,
    readonly reason: string,
    message: string,
    readonly causes: Cause[] = [],
  ) {
    super(message);
  }
  get forbidden(): boolean {
    return this.code === 403;
  }
  get gone(): boolean {
    return this.code === 410;
  }
}

/** Warnings that the server sent with its answers, newest last; at most five are kept. */
export const warnings = signal<string[]>([]);

export function errorOf(status: StatusBody, code: number): ApiError {
  const message = status.message ?? `the server answered ${code}`;
  return new ApiError(status.code ?? code, status.reason ?? '', message, status.details?.causes);
}

async function failure(response: Response): Promise<ApiError> {
  const text = await response.text().catch(() => '');
  try {
    return errorOf(JSON.parse(text) as StatusBody, response.status);
  } catch {
    return new ApiError(response.status, '', text.trim() || `the server answered ${response.status}`);
  }
}

/** Sends a request; a network failure is an `ApiError` of code 0. */
export async function send(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  const used = token.value;
  headers.set('Authorization', `Bearer ${used}`);
  if (!headers.has('Accept')) headers.set('Accept', 'application/json');
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers, cache: 'no-store', credentials: 'omit' });
  } catch (e) {
    if (init.signal?.aborted) throw e;
    throw new ApiError(0, 'Unreachable', 'The server cannot be reached.');
  }
  // Of what the page reads by itself nobody has to be warned.
  if (init.method && init.method !== 'GET') noteWarnings(response);
  if (response.ok) return response;
  const error = await failure(response);
  // Only for the token that was refused: another may have been entered meanwhile.
  if (error.code === 401 && used && used === token.value) {
    signOut('The server does not accept this token: it is wrong, or its time is over.');
  }
  throw error;
}

function noteWarnings(response: Response): void {
  const text = response.headers.get('Warning');
  if (!text) return;
  const found = [...text.matchAll(/299 \S+ "((?:[^"\\]|\\.)*)"/g)];
  const fresh = found.map((m) => (m[1] ?? '').replace(/\\(.)/g, '$1'));
  const others = warnings.value.filter((w) => !fresh.includes(w));
  warnings.value = [...others, ...fresh].slice(-5);
}

export async function get<T>(path: string, accept?: string, signal?: AbortSignal): Promise<T> {
  const init: RequestInit = { signal: signal ?? null };
  if (accept) init.headers = { Accept: accept };
  const response = await send(path, init);
  return (await response.json()) as T;
}

export async function post<T>(path: string, body: unknown): Promise<T> {
  const headers = { 'Content-Type': 'application/json' };
  const response = await send(path, { method: 'POST', headers, body: JSON.stringify(body) });
  return (await response.json()) as T;
}

export type PatchType = 'json' | 'merge' | 'strategic-merge' | 'apply';

export async function patch<T>(path: string, type: PatchType, body: unknown): Promise<T> {
  const mime = type === 'apply' ? 'application/apply-patch+yaml' : `application/${type}-patch+json`;
  const headers = { 'Content-Type': mime };
  const response = await send(path, { method: 'PATCH', headers, body: JSON.stringify(body) });
  return (await response.json()) as T;
}

export async function put<T>(path: string, body: unknown): Promise<T> {
  const headers = { 'Content-Type': 'application/json' };
  const response = await send(path, { method: 'PUT', headers, body: JSON.stringify(body) });
  return (await response.json()) as T;
}

export async function remove(path: string): Promise<void> {
  const headers = { 'Content-Type': 'application/json' };
  const body = JSON.stringify({ propagationPolicy: 'Background' });
  await send(path, { method: 'DELETE', headers, body });
}

/** The path of a resource's objects, or of one of them. */
export function pathOf(
  group: string,
  version: string,
  plural: string,
  namespace = '',
  name = '',
): string {
  const root = group ? `/apis/${group}/${version}` : `/api/${version}`;
  const within = namespace ? `/namespaces/${encodeURIComponent(namespace)}` : '';
  return `${root}${within}/${plural}${name ? `/${encodeURIComponent(name)}` : ''}`;
}

/** An error in words for people. */
export function words(e: unknown): string {
  return e instanceof Error ? e.message : String(e);
}
