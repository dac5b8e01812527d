// A question before what cannot be undone.

import type { ComponentChildren } from 'preact';
import { Dialog } from './parts';

export function Confirm({ title, verb, act, close, children }: { title: string; verb: string; act: () => void; close: () => void; children?: ComponentChildren }) {
  return (
    <Dialog title={title} close={close}>
      {children && <p>{children}</p>}
      <div class="dialog-actions">
        <button onClick={close}>Cancel</button>
        <button class="danger" onClick={act}>{verb}</button>
      </div>
    </Dialog>
  );
}
