// Quantities, times and numbers, read and written for people.

const FACTORS: Record<string, number> = {
  n: 1e-9, u: 1e-6, m: 1e-3, '': 1, k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15, E: 1e18,
  Ki: 2 ** 10, Mi: 2 ** 20, Gi: 2 ** 30, Ti: 2 ** 40, Pi: 2 ** 50, Ei: 2 ** 60,
};

/** A quantity such as `250m` or `64Mi` as a number; 0 for none. */
export function quantity(text: string | number | undefined): number {
  if (text === undefined) return 0;
  const found = /^([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([a-zA-Z]*)$/.exec(String(text));
  if (!found) return 0;
  return Number(found[1]) * (FACTORS[found[2] ?? ''] ?? 1);
}

/** Cores: `0.25` as "250m", `2` as "2". */
export function cores(value: number): string {
  if (value >= 10) return value.toFixed(0);
  if (value >= 1) return trim(value.toFixed(2));
  return value === 0 ? '0' : `${Math.max(1, Math.round(value * 1000))}m`;
}

export function bytes(value: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let at = 0;
  let rest = value;
  while (rest >= 1024 && at < units.length - 1) {
    rest /= 1024;
    at += 1;
  }
  return `${rest >= 100 || at === 0 ? rest.toFixed(0) : trim(rest.toFixed(1))} ${units[at]}`;
}

const trim = (text: string) => text.replace(/\.?0+$/, '');

export function percent(part: number, whole: number): number {
  return whole > 0 ? Math.min(100, Math.max(0, (part / whole) * 100)) : 0;
}

/** The time since, in two units at most, as kubectl prints it. */
export function age(since: string | undefined, now: number): string {
  if (!since) return '';
  return span(now - Date.parse(since));
}

export function span(ms: number): string {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 120) return `${s}s`;
  const m = Math.floor(s / 60);
  if (m < 10) return s % 60 ? `${m}m${s % 60}s` : `${m}m`;
  if (m < 180) return `${m}m`;
  const h = Math.floor(m / 60);
  if (h < 8) return m % 60 ? `${h}h${m % 60}m` : `${h}h`;
  if (h < 48) return `${h}h`;
  const d = Math.floor(h / 24);
  if (d < 8) return h % 24 ? `${d}d${h % 24}h` : `${d}d`;
  if (d < 730) return `${d}d`;
  return `${Math.floor(d / 365)}y`;
}

/** Seconds that a plot shows at least. */
const SHORTEST = 120;

/** The times that a plot shows: all there are, up to the newest. */
export function shownTimes(times: ArrayLike<number>): [number, number] {
  const last = times[times.length - 1] ?? 0;
  return [Math.min(times[0] ?? last, last - SHORTEST), last];
}

export function plural(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`;
}

/** `nginx:1.2` of `registry.example/library/nginx:1.2`. */
export function shortImage(image: string | undefined): string {
  return (image ?? '').replace(/^.*\//, '').replace(/@sha256:([0-9a-f]{8}).*$/, '@$1');
}
