// A field for YAML: a plain text field, so that every keyboard, phone and reader works with it, over
// a coloured copy of its text, with line numbers and marks.

import { useMemo, useRef } from 'preact/hooks';

interface Props {
  value: string;
  set: (value: string) => void;
  label: string;
  /** Lines, from 1, that something is wrong with. */
  marks: ReadonlySet<number>;
  readOnly?: boolean;
  review: () => void;
}

export function YamlText({ value, set, label, marks, readOnly, review }: Props) {
  const at = useRef<HTMLTextAreaElement>(null);
  const lines = useMemo(() => value.split('\n'), [value]);
  const key = (e: KeyboardEvent) => {
    if ((e.ctrlKey || e.metaKey) && (e.key === 's' || e.key === 'Enter')) {
      e.preventDefault();
      review();
    } else if (e.key === 'Enter' && at.current && !readOnly) {
      e.preventDefault();
      indent(at.current);
      set(at.current.value);
    }
  };
  return (
    <div class="yaml">
      <div class="yaml-inner">
        <div class="gutter" aria-hidden="true">{lines.map((_, i) => <div key={i} class={marks.has(i + 1) ? 'marked' : ''}>{i + 1}</div>)}</div>
        <div class="yaml-text">
          <pre aria-hidden="true">{lines.map((l, i) => <Line key={i} text={l} wrong={marks.has(i + 1)} />)}</pre>
          <textarea ref={at} aria-label={label} value={value} readOnly={readOnly} spellcheck={false} autocapitalize="off" autocomplete="off"
            wrap="off" onInput={(e) => set(e.currentTarget.value)} onKeyDown={key} />
        </div>
      </div>
    </div>
  );
}

/** A new line begins where the last one did. */
function indent(field: HTMLTextAreaElement): void {
  const before = field.value.slice(0, field.selectionStart);
  const line = before.slice(before.lastIndexOf('\n') + 1);
  const space = /^ */.exec(line)?.[0] ?? '';
  field.setRangeText(`\n${space}${line.trimEnd().endsWith(':') ? '  ' : ''}`, field.selectionStart, field.selectionEnd, 'end');
}

const PARTS = /^(\s*(?:- )*)([^\s:#'"][^:#]*:|"[^"]*":|'[^']*':)?(\s*)(.*)$/;

function Line({ text, wrong }: { text: string; wrong: boolean }) {
  const [, space = '', key = '', gap = '', rest = ''] = PARTS.exec(text) ?? [];
  const kind = /^#/.test(rest) ? 'y-note' : /^(-?[\d.]+|true|false|null)$/.test(rest) ? 'y-number' : /^["']/.test(rest) ? 'y-text' : '';
  const inner = <>{space}{key && <span class="y-key">{key}</span>}{gap}{kind ? <span class={kind}>{rest}</span> : rest}{'\n'}</>;
  return wrong ? <span class="y-wrong">{inner}</span> : inner;
}

/** Moves the cursor to a line, and the line into sight. */
export function goToLine(line: number): void {
  const field = document.querySelector<HTMLTextAreaElement>('.yaml textarea');
  if (!field) return;
  const lines = field.value.split('\n');
  const start = lines.slice(0, line - 1).reduce((sum, l) => sum + l.length + 1, 0);
  field.focus();
  field.setSelectionRange(start, start + (lines[line - 1]?.length ?? 0));
  const box = field.closest('.yaml');
  if (box) box.scrollTop = Math.max(0, (line - 6) * 20);
}
