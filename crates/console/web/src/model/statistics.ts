// What a node's statistics say (the kubelet's summary, one request to each node): which nodes are
// asked for them, why none is, and how full claims are.

/** Nodes that are asked at once. */
export const MOST_NODES = 30;

export interface Counters {
  time?: string;
  rxBytes?: number;
  txBytes?: number;
}

export interface Summary {
  node?: { network?: Counters };
  pods?: {
    podRef: { name: string; namespace: string };
    network?: Counters;
    volume?: { pvcRef?: { name: string; namespace: string }; usedBytes?: number; capacityBytes?: number }[];
  }[];
}

export interface Asked {
  names: readonly string[];
  /** How many it would have to be. */
  of: number;
}

/** Which nodes are asked: those that the page is about, the first of many; of a page about all, all
 * or none, since a sum of some is no sum. */
export function toAsk(known: readonly string[] | null | undefined, about: readonly string[] | null): Asked {
  if (about) return { names: about.slice(0, MOST_NODES), of: about.length };
  const all = known ?? [];
  return { names: all.length > MOST_NODES ? [] : all, of: all.length };
}

const NO_RIGHT = 'You have no right to ask nodes for their statistics (get nodes/proxy).';

/** Why there are no figures of nodes' statistics, in a sentence; empty where they come. `known` is
 * null where this user may not see what nodes use. */
export function whyNone(refused: boolean, known: readonly string[] | null | undefined, asked: Asked, about: readonly string[] | null): string {
  if (refused) return NO_RIGHT;
  if (!about && known === null) return 'You have no right to see what nodes use.';
  if (asked.of > asked.names.length && !asked.names.length) {
    return `There are ${asked.of} nodes, and each would have to be asked; this page asks ${MOST_NODES} at most. A node's own page shows its network.`;
  }
  return '';
}

export interface Fill {
  used: number;
  capacity: number;
}

/** How full the claims are that a node's pods have mounted, by `namespace/claim`. */
export function fills(summary: Summary | null): [string, Fill][] {
  return (summary?.pods ?? []).flatMap((p) =>
    (p.volume ?? []).flatMap((v): [string, Fill][] =>
      v.pvcRef && v.usedBytes !== undefined && v.capacityBytes
        ? [[`${v.pvcRef.namespace}/${v.pvcRef.name}`, { used: v.usedBytes, capacity: v.capacityBytes }]]
        : [],
    ),
  );
}

interface Mounting {
  metadata: { name: string; namespace?: string };
  spec: { nodeName?: string; volumes?: ({ name: string } & Record<string, unknown>)[] };
  status?: { phase?: string };
}

/** Where claims are mounted: each claim's node, by `namespace/claim`; of one on several, one. */
export function mountedOn(pods: Iterable<Mounting>): Map<string, string> {
  const out = new Map<string, string>();
  for (const { metadata, spec, status } of pods) {
    if (!spec.nodeName || status?.phase === 'Succeeded' || status?.phase === 'Failed') continue;
    for (const v of spec.volumes ?? []) {
      const named = (v.persistentVolumeClaim as { claimName?: string } | undefined)?.claimName;
      // The claim of an ephemeral volume has the names of pod and volume.
      const claim = named ?? (v.ephemeral ? `${metadata.name}-${v.name}` : undefined);
      if (claim) out.set(`${metadata.namespace}/${claim}`, spec.nodeName);
    }
  }
  return out;
}
