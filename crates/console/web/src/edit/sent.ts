// What is sent when YAML was changed: which fields of the object, to server-side apply. Those that were
// changed, and those that this page has set before, since a manager that leaves a field out gives it up. So the
// page never becomes the owner of what nobody changed. Pure.

/** What OpenAPI says of a type, as far as it matters for merging. */
export interface Schema {
  $ref?: string;
  allOf?: Schema[];
  properties?: Record<string, Schema>;
  additionalProperties?: Schema | boolean;
  items?: Schema;
  'x-kubernetes-list-type'?: 'atomic' | 'set' | 'map';
  'x-kubernetes-list-map-keys'?: string[];
  'x-kubernetes-map-type'?: 'granular' | 'atomic';
  'x-kubernetes-group-version-kind'?: { group: string; version: string; kind: string }[];
}

/** A node of fieldsV1: `f:name`, `k:{keys}` and `v:value` lead further down. */
export type Fields = { [step: string]: Fields };

export type Value = null | boolean | number | string | Value[] | { [name: string]: Value };

export const NOTHING = Symbol('nothing');

export class Schemas {
  constructor(private readonly all: Record<string, Schema>) {}

  of(group: string, version: string, kind: string): Schema | undefined {
    return Object.values(this.all).find((s) =>
      s['x-kubernetes-group-version-kind']?.some((g) => g.group === group && g.version === version && g.kind === kind),
    );
  }

  /** A type with what it refers to; what stands beside the reference counts. */
  resolved(schema: Schema | undefined): Schema | undefined {
    const ref = schema?.$ref ?? schema?.allOf?.[0]?.$ref;
    if (!ref) return schema;
    const found = this.all[ref.replace('#/components/schemas/', '')];
    return found ? { ...found, ...schema } : schema;
  }

  property(schema: Schema | undefined, name: string): Schema | undefined {
    const own = schema?.properties?.[name];
    const other = typeof schema?.additionalProperties === 'object' ? schema.additionalProperties : undefined;
    return this.resolved(own ?? other);
  }
}

const isMap = (v: unknown): v is { [name: string]: Value } => typeof v === 'object' && v !== null && !Array.isArray(v);

export function same(a: unknown, b: unknown): boolean {
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((x, i) => same(x, b[i]));
  if (isMap(a) && isMap(b)) {
    const [x, y] = [Object.keys(a), Object.keys(b)];
    return x.length === y.length && x.every((k) => k in b && same(a[k], b[k]));
  }
  return a === b;
}

/** The part of `edited` that is sent: what differs from `base`, and what is owned already. */
export function chosen(schemas: Schemas, base: Value | undefined, edited: Value, schema: Schema | undefined, owned: Fields | undefined): Value | typeof NOTHING {
  if (isMap(edited) && schema?.['x-kubernetes-map-type'] !== 'atomic') {
    if (!isMap(base)) return edited;
    const out: { [name: string]: Value } = {};
    for (const [name, value] of Object.entries(edited)) {
      const part = chosen(schemas, base[name], value, schemas.property(schema, name), owned?.[`f:${name}`]);
      if (part !== NOTHING) out[name] = part;
    }
    return Object.keys(out).length ? out : NOTHING;
  }
  if (Array.isArray(edited) && Array.isArray(base)) {
    const keys = schema?.['x-kubernetes-list-map-keys'];
    if (schema?.['x-kubernetes-list-type'] === 'map' && keys) return items(schemas, base, edited, schema, keys, owned);
    if (schema?.['x-kubernetes-list-type'] === 'set') {
      const fresh = edited.filter((v) => !base.some((b) => same(b, v)) || owned?.[`v:${JSON.stringify(v)}`]);
      return fresh.length ? fresh : NOTHING;
    }
  }
  return same(base, edited) && owned === undefined ? NOTHING : edited;
}

function items(schemas: Schemas, base: Value[], edited: Value[], schema: Schema, keys: string[], owned: Fields | undefined): Value | typeof NOTHING {
  const inner = schemas.resolved(schema.items);
  const out: Value[] = [];
  for (const item of edited) {
    const name = keyOf(item, keys);
    const before = base.find((b) => same(keyOf(b, keys), name));
    const step = Object.keys(owned ?? {}).find((s) => s.startsWith('k:') && covers(JSON.parse(s.slice(2)) as Value, name));
    const part = before === undefined ? item : chosen(schemas, before, item, inner, step ? owned?.[step] : undefined);
    if (part === NOTHING && step) out.push(name);
    else if (part !== NOTHING) out.push(isMap(part) ? { ...name, ...part } : part);
  }
  return out.length ? out : NOTHING;
}

/** The keys of an item as far as it has them; others have defaults. */
function keyOf(item: Value, keys: string[]): { [name: string]: Value } {
  if (!isMap(item)) return {};
  return Object.fromEntries(keys.filter((k) => item[k] !== undefined).map((k) => [k, item[k]!]));
}

function covers(full: Value, part: { [name: string]: Value }): boolean {
  return isMap(full) && Object.entries(part).every(([k, v]) => same(full[k], v));
}

/** Paths that were taken out of `edited` and are still in `result`: others set them, so apply does
 * not remove them. */
export function kept(base: Value | undefined, edited: Value | undefined, result: Value | undefined, path = ''): string[] {
  if (edited === undefined) return base !== undefined && result !== undefined ? [path] : [];
  if (isMap(edited) && isMap(result)) {
    const of = isMap(base) ? base : {};
    return Object.keys(result).flatMap((k) => kept(of[k], edited[k], result[k], path ? `${path}.${k}` : k));
  }
  if (Array.isArray(edited) && Array.isArray(result) && Array.isArray(base)) {
    if (edited.length < base.length && result.length > edited.length) return [path];
    return edited.length === result.length ? edited.flatMap((v, i) => kept(base[i], v, result[i], `${path}[${i}]`)) : [];
  }
  return [];
}
