// Parts of the page that are fetched when they are first shown.

import type { ComponentType } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { words } from '../api';
import { Loading } from './parts';

/** A component that comes with a file of its own; `what` is shown as loading until then. */
export function lazy<P extends object>(what: string, load: () => Promise<ComponentType<P>>): ComponentType<P> {
  let found: ComponentType<P> | null = null;
  return function Lazy(props: P) {
    const [, draw] = useState(0);
    const [error, setError] = useState('');
    useEffect(() => {
      if (found) return;
      const came = (c: ComponentType<P>) => {
        found = c;
        draw((n) => n + 1);
      };
      load().then(came, (e: unknown) => setError(words(e)));
    }, []);
    if (error) return <p class="notice" role="alert">This part of the page could not be loaded: {error}</p>;
    const Found = found;
    return Found ? <Found {...props} /> : <Loading what={what} />;
  };
}
