// All kinds that the server has, custom ones too, and what of them this user may see.

import { computed, effect, signal } from '@preact/signals';
import { ApiError, get, pathOf, post } from './api';
import { claims, scope, setScope, token } from './state';

export interface Kind {
  group: string;
  version: string;
  kind: string;
  plural: string;
  namespaced: boolean;
  verbs: string[];
  shortNames: string[];
  subresources: string[];
}

interface Discovered {
  items?: {
    metadata?: { name?: string };
    versions?: {
      version: string;
      resources?: {
        resource: string;
        responseKind?: { kind?: string };
        scope?: string;
        verbs?: string[];
        shortNames?: string[];
        subresources?: { subresource: string }[];
      }[];
    }[];
  }[];
}

const AGGREGATED = 'application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList';

/** Kinds in their preferred versions. */
export const kinds = signal<Kind[]>([]);
export const kindsError = signal<ApiError | null>(null);

interface Rule {
  verbs: string[];
  apiGroups?: string[];
  resources?: string[];
  resourceNames?: string[];
}

/** What this user may do in the scope, as the server says; null until it is known. */
export const rules = signal<Rule[] | null>(null);
/** Who the server takes this user for. */
export const userName = signal('');
/** Whether this user may list pods of all namespaces: whether there is a scope "all". */
export const seesAll = signal<boolean | null>(null);

export async function discover(): Promise<void> {
  try {
    const [core, groups] = await Promise.all([
      get<Discovered>('/api', AGGREGATED),
      get<Discovered>('/apis', AGGREGATED),
    ]);
    kinds.value = [...read(core), ...read(groups)];
    kindsError.value = null;
  } catch (e) {
    kindsError.value = e instanceof ApiError ? e : new ApiError(0, '', String(e));
  }
}

function read(found: Discovered): Kind[] {
  const out: Kind[] = [];
  for (const group of found.items ?? []) {
    const seen = new Set<string>();
    // Versions come in the server's order of preference.
    for (const version of group.versions ?? []) {
      for (const r of version.resources ?? []) {
        if (seen.has(r.resource)) continue;
        seen.add(r.resource);
        out.push({
          group: group.metadata?.name ?? '',
          version: version.version,
          kind: r.responseKind?.kind ?? r.resource,
          plural: r.resource,
          namespaced: r.scope === 'Namespaced',
          verbs: r.verbs ?? [],
          shortNames: r.shortNames ?? [],
          subresources: (r.subresources ?? []).map((s) => s.subresource),
        });
      }
    }
  }
  return out;
}

export function kindOf(group: string, plural: string): Kind | undefined {
  return kinds.value.find((k) => k.group === group && k.plural === plural);
}

export function kindNamed(apiVersion: string, kind: string): Kind | undefined {
  const group = apiVersion.includes('/') ? (apiVersion.split('/')[0] ?? '') : '';
  return kinds.value.find((k) => k.group === group && k.kind === kind);
}

const REVIEW = '/apis/authorization.k8s.io/v1';

async function readRules(namespace: string): Promise<Rule[]> {
  const body = { apiVersion: 'authorization.k8s.io/v1', kind: 'SelfSubjectRulesReview', spec: { namespace } };
  const answer = await post<{ status: { resourceRules?: Rule[] } }>(`${REVIEW}/selfsubjectrulesreviews`, body);
  return answer.status.resourceRules ?? [];
}

async function allowed(attributes: Record<string, string>): Promise<boolean> {
  const body = { apiVersion: 'authorization.k8s.io/v1', kind: 'SelfSubjectAccessReview', spec: { resourceAttributes: attributes } };
  const answer = await post<{ status: { allowed: boolean } }>(`${REVIEW}/selfsubjectaccessreviews`, body);
  return answer.status.allowed;
}

async function readName(): Promise<string> {
  const body = { apiVersion: 'authentication.k8s.io/v1', kind: 'SelfSubjectReview' };
  const path = '/apis/authentication.k8s.io/v1/selfsubjectreviews';
  const answer = await post<{ status: { userInfo: { username: string } } }>(path, body);
  return answer.status.userInfo.username;
}

/** Whether a rule allows this in the scope. True while it is not known: the request itself says. */
export function may(verb: string, group: string, resource: string, name = ''): boolean {
  const known = rules.value;
  if (!known) return true;
  const has = (all: string[] | undefined, one: string) => !!all && (all.includes('*') || all.includes(one));
  const sub = resource.split('/')[1];
  return known.some(
    (r) =>
      has(r.verbs, verb) &&
      has(r.apiGroups, group) &&
      (has(r.resources, resource) || (sub !== undefined && !!r.resources?.includes(`*/${sub}`))) &&
      (!r.resourceNames?.length || r.resourceNames.includes(name)),
  );
}

/** Learns who is signed in and what he may see; chooses a namespace for who may not see all. */
export async function signedIn(): Promise<void> {
  const used = token.value;
  const [all, name] = await Promise.all([
    allowed({ verb: 'list', resource: 'pods' }),
    readName().catch(() => ''),
    discover(),
  ]);
  if (used !== token.value) return;
  userName.value = name || claims(used).name;
  seesAll.value = all;
  if (!all && !scope.value) setScope(claims(used).namespace || 'default');
}

/** Bounds a list's path to the scope. */
export function scoped(group: string, version: string, plural: string, namespaced = true): string {
  return pathOf(group, version, plural, namespaced ? scope.value : '');
}

/** Lists nothing where this user may not: the page then says so without asking. */
export const mayList = (group: string, plural: string) => may('list', group, plural);

const reviewed = computed(() => (token.value && seesAll.value !== null ? `${token.value} ${scope.value}` : ''));

/** Keeps `rules` in line with the scope. */
export function followRules(): void {
  effect(() => {
    const key = reviewed.value;
    rules.value = null;
    if (!key) return;
    readRules(scope.value || 'default')
      .then((found) => {
        if (key === reviewed.value) rules.value = found;
      })
      .catch(() => undefined);
  });
  effect(() => {
    if (!token.value) {
      seesAll.value = null;
      userName.value = '';
    }
  });
}
