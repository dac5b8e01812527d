// Events, the newest first.

import type { Live } from '../live';
import { kindNamed } from '../discovery';
import { eventCount, eventTime } from '../model/pods';
import { href } from '../state';
import type { Event } from '../types';
import { Age, Dot, Shown } from './parts';

interface Props {
  live: Live<Event>;
  most: number;
  /** Whether each says what it is about. */
  named?: boolean;
}

export function Events({ live, most, named }: Props) {
  return (
    <Shown live={live} what="events" empty={<p class="quiet">No events. They are kept for an hour.</p>}>
      {() => {
        const all = [...live.items.value.values()].sort((a, b) => eventTime(b) - eventTime(a));
        return (
          <ol class="events">
            {all.slice(0, most).map((e) => <Row key={e.metadata.uid} event={e} named={!!named} />)}
          </ol>
        );
      }}
    </Shown>
  );
}

function Row({ event: e, named }: { event: Event; named: boolean }) {
  const about = e.involvedObject;
  const count = eventCount(e);
  return (
    <li>
      <Age of={new Date(eventTime(e)).toISOString()} />
      <span class="event-reason">{e.type === 'Warning' ? <><Dot tone="warn" /><span class="hidden">Warning: </span></> : <Dot tone="done" />}{e.reason}{count > 1 && <span class="quiet"> ×{count}</span>}</span>
      <span class="event-text">
        {named && about.name && <a href={linkOf(about.apiVersion ?? 'v1', about.kind ?? '', about.namespace ?? '', about.name)}>{about.kind} {about.name}</a>}
        {named && ' '}{e.message}
      </span>
    </li>
  );
}

const OWN: Record<string, string> = { Deployment: 'deployments', StatefulSet: 'statefulsets', DaemonSet: 'daemonsets', Job: 'jobs', CronJob: 'cronjobs' };

/** The page of an object that something refers to. */
export function linkOf(apiVersion: string, kind: string, namespace: string, name: string): string {
  if (kind === 'Pod' && apiVersion === 'v1') return href('pods', namespace, name);
  if (kind === 'Node' && apiVersion === 'v1') return href('nodes', name);
  if (kind === 'Service' && apiVersion === 'v1') return href('services', namespace, name);
  if (OWN[kind] && /^(apps|batch)\//.test(apiVersion)) return href('workloads', OWN[kind], namespace, name);
  const known = kindNamed(apiVersion, kind);
  if (!known) return href('kinds');
  return objectLink(known.group, known.version, known.plural, known.namespaced ? namespace : '', name);
}

export function objectLink(group: string, version: string, plural: string, namespace: string, name: string): string {
  return href('o', group || 'core', version, plural, ...(namespace ? [namespace] : []), name);
}
