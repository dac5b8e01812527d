// Where a field of an error stands in the text. Paths are those of the API: `spec.ports[0].port`,
// `metadata.labels[a.b/c]`, and of conflicts `.spec.containers[name="web"].image`. Pure.

import { isMap, isSeq, type Document, type LineCounter, type Node } from 'yaml';

export function steps(path: string): string[] {
  const out: string[] = [];
  for (const [, plain, inner] of path.matchAll(/([^.[\]]+)|\[([^\]]*)\]/g)) out.push(plain ?? inner ?? '');
  return out;
}

function within(node: unknown, step: string): Node | null {
  if (isSeq(node)) {
    if (/^\d+$/.test(step)) return (node.items[Number(step)] as Node | undefined) ?? null;
    const keys = [...step.matchAll(/(\w+)=("(?:[^"\\]|\\.)*"|[^,]+)/g)].map(([, k, v]) => [k, String(v).replace(/^"|"$/g, '')]);
    const found = node.items.find((item) => isMap(item) && keys.length && keys.every(([k, v]) => !item.has(k) || String(item.get(k)) === v));
    return (found as Node | undefined) ?? null;
  }
  if (isMap(node)) {
    const name = step.replace(/^"|"$/g, '');
    const pair = node.items.find((p) => String((p.key as { value?: unknown })?.value) === name);
    if (!pair) return null;
    // The key's place is where one looks; what is below goes on from the value.
    return (pair.value as Node | null) ?? (pair.key as Node);
  }
  return null;
}

/** The line, from 1, of a field, or of what is nearest above it. */
export function lineOf(doc: Document, lines: LineCounter, path: string): number {
  let node: Node | null = doc.contents as Node | null;
  let at = 0;
  for (const step of steps(path)) {
    const pair = isMap(node) ? node.items.find((p) => String((p.key as { value?: unknown })?.value) === step.replace(/^"|"$/g, '')) : undefined;
    const next = within(node, step);
    if (!next) break;
    const start = (pair?.key as Node | undefined)?.range?.[0] ?? next.range?.[0];
    if (start !== undefined) at = start;
    node = next;
  }
  return lines.linePos(at).line;
}
