// Lines of a container's log, and which of them are new when reading begins again. The same rule as
// `Mark` of crates/terminal/src/logs.rs.

/** A line as the server sends it, with its time in front. */
export interface Line {
  /** None for what has no time, such as a message of the server's own. */
  time: string;
  text: string;
}

const TIME = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)$/;

export function parsed(line: string): Line {
  const at = line.indexOf(' ');
  const word = at < 0 ? line : line.slice(0, at);
  return TIME.test(word) ? { time: word, text: at < 0 ? '' : line.slice(at + 1) } : { time: '', text: line };
}

/** A time as a text whose order is that of times: seconds since the epoch, and nine digits. */
function order(time: string): string {
  const [, whole = '', part = '', zone = 'Z'] = TIME.exec(time) ?? [];
  return `${Date.parse(whole + zone) / 1_000}`.padStart(12, '0') + part.padEnd(9, '0');
}

/** How far a log has been shown. Reading begins again where a stream broke, which is asked for in
 * whole seconds: lines that were shown come once more, and are left out. */
export class Mark {
  private last = '';
  private lastOrder = '';
  /** Lines shown of that time. */
  private shown = 0;
  /** Lines of that time that came since reading began again. */
  private again = 0;

  /** From when on to ask for lines; nothing before the first. */
  get since(): string {
    return this.last.replace(/\.\d+/, '');
  }

  /** Reading begins again. */
  begin(): void {
    this.again = 0;
  }

  /** Whether a line has not been shown yet; it is noted. */
  isNew(line: Line): boolean {
    if (!line.time) return true;
    const at = order(line.time);
    if (at < this.lastOrder) return false;
    if (at === this.lastOrder) {
      this.again += 1;
      const isNew = this.again > this.shown;
      if (isNew) this.shown = this.again;
      return isNew;
    }
    [this.last, this.lastOrder, this.shown, this.again] = [line.time, at, 1, 1];
    return true;
  }
}
