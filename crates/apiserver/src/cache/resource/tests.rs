//! The cache of a resource: its lists, its watches, and what a slow one misses.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::cache::EventType;

/// A write of one of a few pods: where it then is, with which labels; or that it is deleted.
#[derive(Clone, Debug)]
enum Step {
    Put {
        key: &'static str,
        node: &'static str,
        labels: Labels,
    },
    Delete(&'static str),
    /// The nth cursor takes this many events at most.
    Take(usize, usize),
    /// A new cursor for a selection, at an earlier revision (counted back) or now.
    Open(Asked, u64),
    /// The store's watch had a gap.
    Replace,
}

type Labels = Vec<(&'static str, &'static str)>;

/// Namespace, labels and fields that a watch asks for.
type Asked = (&'static str, String, &'static str);

static VALUES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn selectors() -> impl Strategy<Value = String> {
    let key = || prop::sample::select(vec!["app", "tier"]);
    let value = || prop::sample::select(&VALUES[..3]);
    // More of them than there are lanes for, too.
    let values = prop::sample::subsequence(&VALUES[..], 1..=VALUES.len());
    let requirement = prop_oneof![
        4 => (key(), value()).prop_map(|(k, v)| format!("{k}={v}")),
        3 => (key(), values).prop_map(|(k, all)| format!("{k} in ({})", all.join(","))),
        1 => (key(), value()).prop_map(|(k, v)| format!("{k}!={v}")),
        1 => (key(), value()).prop_map(|(k, v)| format!("{k} notin ({v})")),
        1 => key().prop_map(str::to_owned),
        1 => key().prop_map(|k| format!("!{k}")),
    ];
    prop::collection::vec(requirement, 0..3).prop_map(|all| all.join(","))
}

fn asked() -> impl Strategy<Value = Asked> {
    let fields = vec![
        "",
        "",
        "",
        "spec.nodeName=n1",
        "spec.nodeName=",
        "spec.nodeName!=n1",
        "metadata.name=p",
        "metadata.namespace=y",
    ];
    let namespace = prop::sample::select(vec!["", "", "x"]);
    (namespace, selectors(), prop::sample::select(fields))
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || prop::sample::select(vec!["x/p", "x/q", "y/p"]);
    let value = || prop::option::of(prop::sample::select(&VALUES[..3]));
    let labels = (value(), value()).prop_map(|(app, tier)| {
        let both = [app.map(|v| ("app", v)), tier.map(|v| ("tier", v))];
        both.into_iter().flatten().collect::<Labels>()
    });
    let put = (key(), prop::sample::select(vec!["", "n1", "n2"]), labels)
        .prop_map(|(key, node, labels)| Step::Put { key, node, labels });
    let step = prop_oneof![
        12 => put,
        3 => key().prop_map(Step::Delete),
        4 => (0..20_usize, 1..4_usize).prop_map(|(nth, max)| Step::Take(nth, max)),
        3 => (asked(), 0..6_u64).prop_map(|(asked, back)| Step::Open(asked, back)),
        1 => Just(Step::Replace),
    ];
    prop::collection::vec(step, 0..80)
}

/// A watcher, and what it has been given.
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

fn pod(
    row: &Row,
    key: &str,
    node: &str,
    labels: &[(&str, &str)],
    revision: Revision,
) -> Arc<Object> {
    let (namespace, name) = key.split_once('/').expect("a namespaced key");
    let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
    let value: Value = json!({ "kind": "Pod", "apiVersion": "v1",
        "metadata": { "name": name, "namespace": namespace, "labels": labels },
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
                let keys = w.selection.keys(&row);
                let missed = all.iter().any(|e| {
                    e.revision > last
                        && e.revision <= oldest
                        && (keys.is_empty() || keys.iter().any(|k| e.concerns(k)))
                });
                assert!(missed || w.begun < replaced, "nothing was missed");
                w.failed = true;
            }
        }
    };
    for step in steps {
        match step {
            Step::Put { key, node, labels } => {
                revision += 1;
                cache.apply("", Some(pod(&row, key, node, labels, revision)), revision);
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
            Step::Open((namespace, labels, fields), back) => {
                let selection = Selection::new(&row, namespace, labels, fields).expect("selection");
                let begun = revision.saturating_sub(*back);
                let cursor = if *back == 0 {
                    cache.from_now(&selection)
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
                let contents = Contents {
                    objects: cache.snapshot().values().cloned().collect(),
                    ..Contents::default()
                };
                cache.replace(contents, revision);
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
    assert!(
        cache.state.read().lanes.is_empty(),
        "a lane without cursors"
    );
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
        cache.apply("", Some(pod(&row, key, "", &[], revision)), revision);
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

/// It has listed in the store, or at another server, what this cache comes to only later.
#[test]
fn a_client_that_is_ahead_of_the_cache_is_shown_nothing_that_it_knows() {
    let (row, cache) = pods(WINDOW);
    let put = |key: &str, revision| {
        cache.apply("", Some(pod(&row, key, "", &[], revision)), revision);
    };
    let all = Selection::new(&row, "", "", "").expect("selection");
    put("x/a", 1);
    let mut one = cache.after(3, &all).expect("in the ring");
    let mut of_a_change_before = cache.after(1, &all).expect("in the ring");
    for (key, revision) in [("x/b", 2), ("x/c", 3), ("x/d", 3), ("x/e", 4)] {
        put(key, revision);
    }
    let news = |cursor: &mut Cursor| {
        let mut events = cursor.take(usize::MAX).expect("events");
        events.retain(|e| cursor.is_news(e));
        let keys = events.iter().map(|e| e.object.key.to_string());
        keys.collect::<Vec<_>>()
    };
    // Of two changes at once it may have seen but the first.
    assert_eq!(news(&mut one), ["x/d", "x/e"]);
    assert_eq!(news(&mut of_a_change_before), ["x/b", "x/c", "x/d", "x/e"]);
    put("x/a", 5);
    assert_eq!(news(&mut one), ["x/a"]);
}

/// Cursors of which one asks, one after the other, which of them were woken.
struct Woken(Vec<Cursor>);

impl Woken {
    fn open(row: &Row, cache: &Arc<ResourceCache>, asked: &[(&str, &str, &str)]) -> Self {
        let open = |(namespace, labels, fields): &(&str, &str, &str)| {
            let selection = Selection::new(row, namespace, labels, fields).expect("selection");
            cache.from_now(&selection)
        };
        Self(asked.iter().map(open).collect())
    }

    fn now(&mut self) -> Vec<bool> {
        let woken = |cursor: &mut Cursor| {
            let woken = cursor.wakes.iter().any(|w| w.has_changed().expect("open"));
            let _ = cursor.take(usize::MAX);
            woken
        };
        self.0.iter_mut().map(woken).collect()
    }
}

#[test]
fn only_who_is_concerned_is_woken() {
    let (row, cache) = pods(WINDOW);
    let asked = [
        ("", "", "spec.nodeName=n1"),
        ("", "", "spec.nodeName=n2"),
        ("", "", ""),
    ];
    let mut woken = Woken::open(&row, &cache, &asked);
    let put =
        |node, revision| cache.apply("", Some(pod(&row, "x/p", node, &[], revision)), revision);
    put("", 1);
    assert_eq!(woken.now(), [false, false, true]);
    put("n1", 2);
    assert_eq!(woken.now(), [true, false, true]);
    put("n2", 3);
    assert_eq!(woken.now(), [true, true, true], "it left one for the other");
    cache.apply("x/p", None, 4);
    assert_eq!(woken.now(), [false, true, true]);
    cache.replace(Contents::default(), 5);
    assert_eq!(woken.now(), [true; 3]);
    cache.close();
    assert_eq!(woken.now(), [true; 3]);
    assert!(woken.0.iter().all(Cursor::is_closed));
}

#[test]
fn a_label_wakes_those_who_ask_for_it() {
    let (row, cache) = pods(WINDOW);
    let asked = [
        ("", "app=a", ""),
        ("", "app=b,tier", ""),
        ("", "app in (a,b)", ""),
        ("y", "app=a", ""),
        ("", "app!=a", ""),
    ];
    let mut woken = Woken::open(&row, &cache, &asked);
    let put = |key, labels: &[(&str, &str)], revision| {
        cache.apply("", Some(pod(&row, key, "", labels, revision)), revision);
    };
    put("x/p", &[], 1);
    assert_eq!(woken.now(), [false, false, false, false, true]);
    put("x/p", &[("app", "a")], 2);
    assert_eq!(woken.now(), [true, false, true, false, true]);
    put("x/p", &[("app", "a"), ("tier", "t")], 3);
    assert_eq!(woken.now(), [true, false, true, false, true]);
    put("x/p", &[("app", "b")], 4);
    let why = "it left one for the other";
    assert_eq!(woken.now(), [true, true, true, false, true], "{why}");
    put("x/p", &[("app", "c")], 5);
    assert_eq!(woken.now(), [false, true, true, false, true]);
    put("y/p", &[("app", "a")], 6);
    assert_eq!(woken.now(), [true, false, true, true, true]);
    cache.apply("y/p", None, 7);
    assert_eq!(woken.now(), [true, false, true, true, true]);
}

#[test]
fn what_others_change_makes_no_watch_too_old() {
    let (row, cache) = pods(Window {
        min: 1,
        max: 4,
        ..WINDOW
    });
    let asked = [
        ("", "app=a", ""),
        ("", "app=b", ""),
        ("", "app in (a,b)", ""),
    ];
    let mut cursors = Woken::open(&row, &cache, &asked).0;
    for revision in 1..=10 {
        let object = pod(&row, "x/p", "", &[("app", "b")], revision);
        cache.apply("", Some(object), revision);
    }
    let taken: Vec<_> = cursors
        .iter_mut()
        .map(|c| c.take(usize::MAX).map(|events| events.len()).ok())
        .collect();
    assert_eq!(taken, [Some(0), None, None], "only who is slow is dropped");
}

/// A stored pod whose bytes make up none.
fn torn(row: &Row, key: &str, revision: Revision) -> Unreadable {
    let kv = store::KeyValue {
        key: format!("{}/{key}", row.storage_prefix).into(),
        value: "?".into(),
        create_revision: 1,
        mod_revision: revision,
        version: 2,
    };
    let mut contents = Contents::of(row, vec![kv]);
    contents.unreadable.pop().expect("it cannot be read")
}

fn keys(objects: &Objects) -> Vec<&str> {
    objects.keys().map(|key| &**key).collect()
}

#[test]
fn nothing_goes_on_as_if_what_cannot_be_read_were_not_there() {
    let (row, cache) = pods(WINDOW);
    let selection = |namespace| Selection::new(&row, namespace, "", "").expect("selection");
    let (all, x, y) = (selection(""), selection("x"), selection("y"));
    for (key, revision) in [("x/p", 1), ("y/p", 2)] {
        cache.apply("", Some(pod(&row, key, "n1", &[], revision)), revision);
    }
    let mut cursor = cache.after(1, &all).expect("in the ring");
    cache.lose(torn(&row, "x/p", 3));
    assert!(cursor.take(9).is_err() && cursor.is_whole(&all).is_err());
    assert!(cursor.is_whole(&y).is_ok());
    assert_eq!(cache.find("x/p").err().map(|s| s.code), Some(500));
    assert!(matches!(cache.find("x/q"), Ok(None)));
    assert_eq!(cache.last_known("x/p").map(|o| o.revision), Some(1));
    assert!(cache.candidates(&all).is_err() && cache.candidates(&x).is_err());
    assert_eq!(keys(&cache.candidates(&y).expect("others").0), ["y/p"]);
    assert!(cache.shown(&all).is_err());
    // Neither of now nor of before can the ring say what there was.
    assert!(cache.at(3).is_err() && cache.at(2).is_err());
    // What comes in the same revision is not lost.
    cache.apply("", Some(pod(&row, "x/q", "n1", &[], 3)), 3);
    assert!(matches!(cache.find("x/q"), Ok(Some(_))));
    // It is written again, no better than before.
    cache.lose(torn(&row, "x/p", 4));
    assert_eq!(cache.last_known("x/p").map(|o| o.revision), Some(1));

    let mut cursor = cache.after(4, &y).expect("from now on");
    cache.apply("", Some(pod(&row, "x/p", "n2", &[], 5)), 5);
    assert!(cursor.take(9).is_err());
    assert_eq!(
        keys(&cache.at(5).expect("it is whole")),
        ["x/p", "x/q", "y/p"]
    );
    assert_eq!(cache.at(4).err(), Some(TooOld { oldest: 5 }));
    let by_node = Selection::new(&row, "", "", "spec.nodeName=n2").expect("selection");
    assert_eq!(keys(&cache.candidates(&by_node).expect("whole").0), ["x/p"]);

    // Another one is removed, and a third can be read again without having changed.
    cache.lose(torn(&row, "x/q", 6));
    cache.apply("x/q", None, 7);
    assert_eq!(
        keys(&cache.candidates(&all).expect("whole").0),
        ["x/p", "y/p"]
    );
    cache.lose(torn(&row, "y/p", 8));
    cache.regain(pod(&row, "y/p", "n1", &[], 7));
    assert!(
        cache.candidates(&all).is_err(),
        "what it was is not what it is"
    );
    cache.regain(pod(&row, "y/p", "n3", &[], 8));
    let (objects, revision) = cache.candidates(&all).expect("whole");
    assert_eq!((keys(&objects), revision), (vec!["x/p", "y/p"], 8));
    assert!(cache.unreadable().is_empty());
}
