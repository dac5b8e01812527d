//! The cache of a resource: its lists, its watches, and what a slow one misses.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::cache::EventType;

/// A write of one of a few pods: where it then is, with which label; or that it is deleted.
#[derive(Clone, Debug)]
enum Step {
    Put {
        key: &'static str,
        node: &'static str,
        label: &'static str,
    },
    Delete(&'static str),
    /// The nth cursor takes this many events at most.
    Take(usize, usize),
    /// A new cursor for this selection, at an earlier revision (counted back) or now.
    Open(usize, u64),
    /// The store's watch had a gap.
    Replace,
}

const SELECTIONS: [(&str, &str, &str); 7] = [
    ("", "", "spec.nodeName=n1"),
    ("", "app=a", "spec.nodeName=n2"),
    ("x", "", "spec.nodeName="),
    ("x", "", "metadata.name=p"),
    ("x", "app=b", ""),
    ("", "", "metadata.namespace=y"),
    ("", "app=a", "spec.nodeName!=n1"),
];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || prop::sample::select(vec!["x/p", "x/q", "y/p"]);
    let put = (
        key(),
        prop::sample::select(vec!["", "n1", "n2"]),
        prop::sample::select(vec!["a", "b"]),
    )
        .prop_map(|(key, node, label)| Step::Put { key, node, label });
    let step = prop_oneof![
        12 => put,
        3 => key().prop_map(Step::Delete),
        4 => (0..20_usize, 1..4_usize).prop_map(|(nth, max)| Step::Take(nth, max)),
        3 => (0..SELECTIONS.len(), 0..6_u64).prop_map(|(nth, back)| Step::Open(nth, back)),
        1 => Just(Step::Replace),
    ];
    prop::collection::vec(step, 0..80)
}

/// A watcher with a lane, and what it has been given.
struct Watcher {
    selection: Selection,
    cursor: Cursor,
    begun: Revision,
    seen: Vec<SeenEvent>,
    failed: bool,
}
type SeenEvent = (Revision, EventType, String);

fn seen(event: &Event, selection: &Selection) -> Option<SeenEvent> {
    let (kind, object) = event.seen(selection)?;
    Some((event.revision, kind, object.key.to_string()))
}

fn pod(row: &Row, key: &str, node: &str, label: &str, revision: Revision) -> Arc<Object> {
    let (namespace, name) = key.split_once('/').expect("a namespaced key");
    let value: Value = json!({ "kind": "Pod", "apiVersion": "v1",
        "metadata": { "name": name, "namespace": namespace, "labels": { "app": label } },
        "spec": { "nodeName": node } });
    let bytes = super::super::encode(&value);
    Arc::new(Object::written(row, key, &value, bytes, revision).expect("pod"))
}

fn pods(window: Window) -> (Arc<Row>, Arc<ResourceCache>) {
    let row = registry::kinds()
        .resource("", "pods")
        .expect("pods")
        .clone();
    let cache = ResourceCache::with_window(row.clone(), 0, window);
    (row, Arc::new(cache))
}

fn run(steps: &[Step], window: Window) {
    let (row, cache) = pods(window);
    // All events ever, with the revision at which everything was replaced last before them.
    let (mut all, mut revision, mut replaced) = (Vec::<Arc<Event>>::new(), 0, 0);
    let mut watchers: Vec<Watcher> = Vec::new();
    let take = |w: &mut Watcher, max: usize, all: &[Arc<Event>], replaced: Revision| {
        match w.cursor.take(max) {
            Ok(events) => {
                assert!(!w.failed, "a cursor that fell behind goes on");
                let new = events.iter().filter_map(|e| seen(e, &w.selection));
                w.seen.extend(new);
            }
            // Only when something that it should have seen is gone.
            Err(_) => {
                let oldest = cache.state.read().oldest.max(replaced);
                let last = w.seen.last().map_or(w.begun, |(r, ..)| *r);
                let key = w.selection.key(&row);
                let missed = all.iter().any(|e| {
                    e.revision > last
                        && e.revision <= oldest
                        && key.as_ref().is_none_or(|k| e.concerns(k))
                });
                assert!(missed || w.begun < replaced, "nothing was missed");
                w.failed = true;
            }
        }
    };
    for step in steps {
        match step {
            Step::Put { key, node, label } => {
                revision += 1;
                cache.apply("", Some(pod(&row, key, node, label, revision)), revision);
                all.extend(cache.state.read().events.back().cloned());
            }
            Step::Delete(key) => {
                if cache.get(key).is_some() {
                    revision += 1;
                    cache.apply(key, None, revision);
                    all.extend(cache.state.read().events.back().cloned());
                }
            }
            Step::Take(nth, max) => {
                let count = watchers.len().max(1);
                if let Some(w) = watchers.get_mut(nth % count) {
                    take(w, *max, &all, replaced);
                }
            }
            Step::Open(nth, back) => {
                let (namespace, labels, fields) = SELECTIONS[*nth];
                let selection = Selection::new(&row, namespace, labels, fields).expect("selection");
                let begun = revision.saturating_sub(*back);
                let cursor = if *back == 0 {
                    cache.shown(&selection).1
                } else if let Ok(cursor) = cache.after(begun, &selection) {
                    cursor
                } else {
                    continue;
                };
                watchers.push(Watcher {
                    selection,
                    cursor,
                    begun,
                    seen: Vec::new(),
                    failed: false,
                });
            }
            Step::Replace => {
                revision += 1;
                replaced = revision;
                let objects = cache.snapshot().values().cloned().collect();
                cache.replace(objects, revision);
            }
        }
    }
    for w in &mut watchers {
        while !w.failed {
            let before = w.cursor.next;
            take(w, 2, &all, replaced);
            if w.cursor.next == before {
                break;
            }
        }
        let all_seen = all
            .iter()
            .filter(|e| e.revision > w.begun)
            .filter_map(|e| seen(e, &w.selection));
        let want: Vec<SeenEvent> = all_seen.take(w.seen.len()).collect();
        assert_eq!(w.seen, want, "in order, each once");
        if !w.failed {
            let last = w.seen.last().map_or(w.begun, |(r, ..)| *r);
            let more = all
                .iter()
                .filter(|e| e.revision > last && e.revision > w.begun)
                .filter_map(|e| seen(e, &w.selection))
                .count();
            assert_eq!(more, 0, "nothing is left out");
        }
    }
    drop(watchers);
    let state = cache.state.read();
    for (namespace, labels, fields) in SELECTIONS {
        let selection = Selection::new(&row, namespace, labels, fields).expect("selection");
        let lane = selection
            .key(&row)
            .map(|key| state.lanes.get(&key).is_some());
        assert_ne!(lane, Some(true), "a lane without cursors");
    }
}

proptest! {
    #[test]
    fn a_lane_has_what_its_watchers_are_to_see(steps in steps()) {
        run(&steps, WINDOW);
    }

    #[test]
    fn a_watch_that_missed_something_in_a_short_ring_ends(steps in steps()) {
        run(&steps, Window { min: 1, max: 4, ..WINDOW });
    }
}

#[test]
fn changes_of_one_revision_are_not_torn_apart() {
    let (row, cache) = pods(WINDOW);
    for (key, revision) in [("x/p", 1), ("x/q", 2), ("y/p", 2)] {
        cache.apply("", Some(pod(&row, key, "", "a", revision)), revision);
    }
    let all = Selection::new(&row, "", "", "").expect("selection");
    let after = |revision| {
        let mut cursor = cache.after(revision, &all).expect("in the ring");
        let events = cursor.take(usize::MAX).expect("events");
        events
            .iter()
            .map(|e| e.object.key.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(after(0), ["x/p", "x/q", "y/p"]);
    // Who saw one change of a revision has seen all of it, unless there are more.
    assert_eq!(after(1), ["x/q", "y/p"]);
    assert_eq!(after(2), ["x/q", "y/p"]);
}

#[test]
fn only_who_is_concerned_is_woken() {
    let (row, cache) = pods(WINDOW);
    let open = |fields: &str| {
        let selection = Selection::new(&row, "", "", fields).expect("selection");
        cache.shown(&selection).1
    };
    let (mut n1, mut n2, mut all) = (open("spec.nodeName=n1"), open("spec.nodeName=n2"), open(""));
    let mut woken = || {
        [&mut n1, &mut n2, &mut all].map(|c| {
            let woken = c.wake.has_changed().expect("open");
            let _ = c.take(usize::MAX);
            woken
        })
    };
    cache.apply("", Some(pod(&row, "x/p", "", "a", 1)), 1);
    assert_eq!(woken(), [false, false, true]);
    cache.apply("", Some(pod(&row, "x/p", "n1", "a", 2)), 2);
    assert_eq!(woken(), [true, false, true]);
    cache.apply("", Some(pod(&row, "x/p", "n2", "a", 3)), 3);
    assert_eq!(woken(), [true, true, true], "it left one for the other");
    cache.apply("x/p", None, 4);
    assert_eq!(woken(), [false, true, true]);
    cache.replace(Vec::new(), 5);
    assert_eq!(woken(), [true; 3]);
    cache.close();
    assert_eq!(woken(), [true; 3]);
}
