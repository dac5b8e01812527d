// What the page keeps in the browser. One that forbids it throws at every touch, even at a look: then
// things are kept for as long as the page is open, and the page says so.

export class Store {
  /** What the browser did not take. */
  private readonly own = new Map<string, string>();
  /** Whether the browser has taken everything so far. */
  lasts = true;

  constructor(private readonly area: () => Pick<Storage, 'getItem' | 'setItem' | 'removeItem'>) {}

  get(key: string): string | null {
    return this.own.get(key) ?? this.tried((area) => area.getItem(key)) ?? null;
  }

  set(key: string, value: string): void {
    this.own.delete(key);
    const taken = this.tried((area) => (area.setItem(key, value), true));
    if (!taken) this.own.set(key, value);
  }

  remove(key: string): void {
    this.own.delete(key);
    this.tried((area) => area.removeItem(key));
  }

  private tried<T>(what: (area: Pick<Storage, 'getItem' | 'setItem' | 'removeItem'>) => T): T | undefined {
    try {
      return what(this.area());
    } catch {
      this.lasts = false;
      return undefined;
    }
  }
}
