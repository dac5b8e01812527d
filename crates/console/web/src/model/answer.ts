// What the server answers to "why" (`/tiphys/why`): the scheduler's and the controllers' own rules, asked
// about the state that one may read. Pure: an answer in, lines out.

export interface NodeAnswer {
  node: string;
  fits: boolean;
  refusals: { plugin: string; reasons: string[]; change?: string }[];
}

export interface Answer {
  about: string;
  cause: string;
  change?: string;
  nodes?: NodeAnswer[];
  notes?: string[];
}

/** An object that is asked about; its namespace is empty where it has none. */
export interface About {
  group: string;
  plural: string;
  namespace: string;
  name: string;
}

/** The kinds that can be asked about, by their resource with its group, and how a question calls them. */
export const ASKED: Readonly<Record<string, string>> = {
  pods: 'pod',
  'deployments.apps': 'deployment',
  'statefulsets.apps': 'statefulset',
  'daemonsets.apps': 'daemonset',
  'jobs.batch': 'job',
  'cronjobs.batch': 'cronjob',
  'horizontalpodautoscalers.autoscaling': 'hpa',
  'poddisruptionbudgets.policy': 'pdb',
  persistentvolumeclaims: 'pvc',
  namespaces: 'namespace',
  services: 'service',
  nodes: 'node',
};

/** Where an object is asked about; nothing for kinds that cannot be. */
export function questionOf({ group, plural, namespace, name }: About): string | undefined {
  const kind = ASKED[group ? `${plural}.${group}` : plural];
  if (!kind) return undefined;
  const query = new URLSearchParams({ of: `${kind}/${name}`, ...(namespace ? { namespace } : {}) });
  return `/tiphys/why?${query}`;
}

/** What one node has against a pod, and what would change its mind. */
export interface Objection {
  node: string;
  reasons: string;
  change: string;
}

/**
 * The nodes that refuse, those first where the least would have to change; none when some node takes
 * the pod: then its trouble is another one.
 */
export function objections(answer: Answer): Objection[] {
  const all = answer.nodes ?? [];
  if (all.some((n) => n.fits)) return [];
  const sorted = [...all].sort((a, b) => a.refusals.length - b.refusals.length);
  return sorted.map((n) => ({
    node: n.node,
    reasons: n.refusals.flatMap((r) => r.reasons).join('; '),
    change: n.refusals.map((r) => r.change ?? '').filter(Boolean).join('; '),
  }));
}
