//! Lists and watches of all objects: what the watchers saw is the log of the objects' changes,
//! which the acknowledged writes must be in, and the refused ones not; lists are its states.

use std::collections::{BTreeMap, BTreeSet};

use super::{Change, Event, History, Input, List, Operation, Outcome, Revision, RevisionByValue};
use super::{Value, Violation, Watch};

type Objects = BTreeMap<String, (Value, Revision)>;

/// # Errors
/// The first contradiction.
pub fn check(history: &History, known: &RevisionByValue) -> Result<(), Violation> {
    history
        .operations
        .iter()
        .try_for_each(|o| refused_is_unseen(o, known))?;
    let written: BTreeSet<Value> = history.operations.iter().filter_map(value).collect();
    if let Some(value) = known.keys().find(|v| !written.contains(v)) {
        return Err(Violation::new(format!("nobody wrote the value {value}")));
    }
    let Some(log) = history.watches.first() else {
        return Ok(());
    };
    for (i, watch) in history.watches.iter().enumerate() {
        in_order(i, watch)?;
        same(i, &log.events, &watch.events)?;
        not_early(i, watch, history)?;
    }
    consistent(&log.events)?;
    acknowledged(&log.events, &history.operations)?;
    history
        .lists
        .iter()
        .try_for_each(|list| is_snapshot(list, &log.events))
}

fn value(operation: &Operation) -> Option<Value> {
    match operation.input {
        Input::Create(v) | Input::Update(v, _) => Some(v),
        Input::Delete(_) | Input::Get => None,
    }
}

/// A write that was refused has no effect.
fn refused_is_unseen(operation: &Operation, known: &RevisionByValue) -> Result<(), Violation> {
    let refused = matches!(
        operation.outcome,
        Outcome::Exists | Outcome::Conflict | Outcome::Absent
    );
    match value(operation).and_then(|v| known.get(&v)) {
        Some(revision) if refused => Err(Violation::new(format!(
            "a refused write was seen at revision {revision}: {operation}"
        ))),
        _ => Ok(()),
    }
}

fn in_order(number: usize, watch: &Watch) -> Result<(), Violation> {
    let pairs = watch.events.iter().zip(watch.events.iter().skip(1));
    for (a, b) in pairs {
        if b.revision <= a.revision {
            return Err(Violation {
                what: format!("watch {number} repeats or goes back"),
                piece: vec![format!("{a:?}"), format!("{b:?}")],
            });
        }
    }
    Ok(())
}

/// All watchers saw the same: what one lost or changed, another shows.
fn same(number: usize, log: &[Event], other: &[Event]) -> Result<(), Violation> {
    let facts = |e: &Event| (e.revision, e.key.clone(), e.change as u8, e.value);
    let (a, b): (BTreeSet<_>, BTreeSet<_>) = (
        log.iter().map(facts).collect(),
        other.iter().map(facts).collect(),
    );
    if let Some((revision, key, ..)) = a.symmetric_difference(&b).next() {
        let at = |events: &[Event]| {
            let event = events.iter().find(|e| e.revision == *revision);
            format!("{event:?}")
        };
        return Err(Violation {
            what: format!("watches 0 and {number} differ on {key} at revision {revision}"),
            piece: vec![at(log), at(other)],
        });
    }
    Ok(())
}

/// No event is seen before its write was asked for.
fn not_early(number: usize, watch: &Watch, history: &History) -> Result<(), Violation> {
    let starts: BTreeMap<Value, &Operation> = history
        .operations
        .iter()
        .filter_map(|o| Some((value(o)?, o)))
        .collect();
    for event in watch.events.iter().filter(|e| e.change != Change::Deleted) {
        match starts.get(&event.value) {
            Some(o) if o.key == event.key && o.start <= event.at => {}
            other => {
                return Err(Violation {
                    what: format!("watch {number} shows what its write does not explain"),
                    piece: vec![format!("{event:?}"), format!("{other:?}")],
                });
            }
        }
    }
    Ok(())
}

/// Each change follows from the object as it was.
fn consistent(log: &[Event]) -> Result<(), Violation> {
    let mut objects = Objects::new();
    for event in log {
        let before = objects.get(&event.key).copied();
        let fits = match event.change {
            Change::Added => before.is_none(),
            Change::Modified => before.is_some(),
            Change::Deleted => before.is_some_and(|(v, _)| v == event.value),
        };
        if !fits {
            return Err(Violation {
                what: "an event does not follow from what was before: one is lost".to_owned(),
                piece: vec![format!("before: {before:?}"), format!("{event:?}")],
            });
        }
        apply(&mut objects, event);
    }
    Ok(())
}

fn apply(objects: &mut Objects, event: &Event) {
    if event.change == Change::Deleted {
        objects.remove(&event.key);
    } else {
        objects.insert(event.key.clone(), (event.value, event.revision));
    }
}

/// Every acknowledged write is in the log, at its revision.
fn acknowledged(log: &[Event], operations: &[Operation]) -> Result<(), Violation> {
    let by_revision: BTreeMap<Revision, &Event> = log.iter().map(|e| (e.revision, e)).collect();
    let mut deletions: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for operation in operations {
        if operation.outcome == Outcome::Deleted {
            deletions.entry(&operation.key).or_default().0 += 1;
        }
        let Outcome::Written(revision) = operation.outcome else {
            continue;
        };
        let (change, value) = match operation.input {
            Input::Create(v) => (Change::Added, v),
            Input::Update(v, _) => (Change::Modified, v),
            Input::Delete(_) | Input::Get => continue,
        };
        let seen = by_revision.get(&revision);
        if !seen.is_some_and(|e| e.key == operation.key && e.value == value && e.change == change) {
            return Err(Violation {
                what: "the watches do not show an acknowledged write".to_owned(),
                piece: vec![operation.to_string(), format!("{seen:?}")],
            });
        }
    }
    for event in log.iter().filter(|e| e.change == Change::Deleted) {
        deletions.entry(&event.key).or_default().1 += 1;
    }
    match deletions.iter().find(|(_, (done, seen))| done > seen) {
        Some((key, (done, seen))) => Err(Violation::new(format!(
            "{done} deletions of {key} were acknowledged, but watches show {seen}"
        ))),
        None => Ok(()),
    }
}

/// A list is what the log makes up to its revision.
fn is_snapshot(list: &List, log: &[Event]) -> Result<(), Violation> {
    let mut objects = Objects::new();
    log.iter()
        .take_while(|e| e.revision <= list.revision)
        .for_each(|event| apply(&mut objects, event));
    if objects == list.items {
        return Ok(());
    }
    let names: BTreeSet<&String> = objects.keys().chain(list.items.keys()).collect();
    let differs = names
        .into_iter()
        .filter(|name| objects.get(*name) != list.items.get(*name));
    Err(Violation {
        what: format!(
            "a list of client {} is not a snapshot at its revision {}",
            list.client, list.revision
        ),
        piece: differs
            .map(|name| {
                let (is, should) = (list.items.get(name), objects.get(name));
                format!("{name}: {is:?}, by the watches {should:?}")
            })
            .collect(),
    })
}
