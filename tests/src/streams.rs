//! What a watch saw, held against what clients were told: every revision once and in order, all
//! that was acknowledged and nothing that nobody wrote, lists as the events make them. A server
//! that has just started may know no older revisions and send its watchers to list again; what
//! happened in between is their gap. It knows nothing of servers.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};

/// A change of a key at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub revision: u64,
    pub key: String,
    pub change: Change,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Added(u64),
    Modified(u64),
    Deleted,
}

/// An acknowledged write and the revision that its answer named; times in nanoseconds.
#[derive(Clone, Debug)]
pub struct Written {
    pub key: String,
    pub value: u64,
    pub revision: u64,
    pub begun: u64,
    pub ended: u64,
}

/// A list as it was answered.
#[derive(Clone, Debug)]
pub struct Listed {
    pub revision: u64,
    pub values: BTreeMap<String, u64>,
}

/// What a watcher was told.
#[derive(Clone, Debug)]
pub enum Step {
    Event(Event),
    /// It had to list, having seen all up to the revision `after`; the first step, too.
    Relisted {
        after: u64,
        list: Listed,
    },
}

/// Events come in the order of their revisions, none twice, each possible after the one before.
pub fn is_in_order(steps: &[Step]) -> Result<()> {
    let (mut last, mut state) = (0, BTreeMap::new());
    for step in steps {
        let event = match step {
            Step::Event(event) => event,
            Step::Relisted { after, list } => {
                let back = list.revision < last.max(*after);
                ensure!(!back, "a list at {} after {last}", list.revision);
                last = list.revision;
                state.clone_from(&list.values);
                continue;
            }
        };
        let revision = event.revision;
        ensure!(
            revision > last,
            "revision {revision} after {last}: {event:?}"
        );
        last = revision;
        let before = match event.change {
            Change::Added(v) | Change::Modified(v) => state.insert(event.key.clone(), v),
            Change::Deleted => state.remove(&event.key),
        };
        let was_there = !matches!(event.change, Change::Added(_));
        ensure!(
            before.is_some() == was_there,
            "an event is missing before {event:?}"
        );
    }
    Ok(())
}

/// Every acknowledged write outside the gaps is an event at its revision, and every event was
/// asked for by somebody (`attempted`: all values that were ever sent). Returns how many of the
/// writes were told.
pub fn tells_all(steps: &[Step], written: &[Written], attempted: &BTreeSet<u64>) -> Result<usize> {
    let (mut by_revision, mut gaps) = (BTreeMap::new(), Vec::new());
    for step in steps {
        match step {
            Step::Relisted { after, list } => gaps.push(after + 1..=list.revision),
            Step::Event(event) => {
                by_revision.insert(event.revision, event);
                if let Change::Added(v) | Change::Modified(v) = event.change {
                    ensure!(attempted.contains(&v), "nobody wrote {event:?}");
                }
            }
        }
    }
    let mut told = 0;
    for write in written {
        if gaps.iter().any(|g| g.contains(&write.revision)) {
            continue;
        }
        let event = by_revision
            .get(&write.revision)
            .with_context(|| format!("the watch did not tell {write:?}"))?;
        let value = match event.change {
            Change::Added(v) | Change::Modified(v) => Some(v),
            Change::Deleted => None,
        };
        let same = value == Some(write.value) && event.key == write.key;
        ensure!(same, "{write:?} became {event:?}");
        told += 1;
    }
    Ok(told)
}

/// Who wrote after another's answer has the higher revision, whatever the key.
pub fn revisions_follow_time(written: &[Written]) -> Result<()> {
    let mut by_end: Vec<&Written> = written.iter().collect();
    by_end.sort_by_key(|w| w.ended);
    let mut by_begin: Vec<&Written> = written.iter().collect();
    by_begin.sort_by_key(|w| w.begun);
    let mut ended = by_end.into_iter().peekable();
    let mut highest: Option<&Written> = None;
    for write in by_begin {
        while let Some(before) = ended.next_if(|e| e.ended < write.begun) {
            if highest.is_none_or(|h| before.revision > h.revision) {
                highest = Some(before);
            }
        }
        if let Some(before) = highest {
            ensure!(
                write.revision > before.revision,
                "{write:?} came after {before:?}"
            );
        }
    }
    Ok(())
}

/// Each list of the keys that begin with `prefix` shows what the events up to its revision make;
/// of lists in a gap nothing is known.
pub fn lists_agree(steps: &[Step], prefix: &str, lists: &[Listed]) -> Result<()> {
    let mut lists: Vec<&Listed> = lists.iter().collect();
    lists.sort_by_key(|l| l.revision);
    let mut lists = lists.into_iter().peekable();
    let mut state: BTreeMap<String, u64> = BTreeMap::new();
    for step in steps {
        let (until, next) = match step {
            Step::Event(event) => (event.revision, None),
            Step::Relisted { after, list } => (after + 1, Some(list)),
        };
        while let Some(list) = lists.next_if(|l| l.revision < until) {
            shows(list, &state)?;
        }
        if let Some(list) = next {
            while lists.next_if(|l| l.revision < list.revision).is_some() {}
            state.clone_from(&list.values);
            state.retain(|key, _| key.starts_with(prefix));
        } else if let Step::Event(event) = step
            && event.key.starts_with(prefix)
        {
            match event.change {
                Change::Added(v) | Change::Modified(v) => state.insert(event.key.clone(), v),
                Change::Deleted => state.remove(&event.key),
            };
        }
    }
    lists.try_for_each(|list| shows(list, &state))
}

fn shows(list: &Listed, state: &BTreeMap<String, u64>) -> Result<()> {
    ensure!(
        state == &list.values,
        "a list at {} shows {:?}, the events make {state:?}",
        list.revision,
        list.values
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: u64, change: Change) -> Step {
        Step::Event(Event {
            revision,
            key: "k".into(),
            change,
        })
    }
    fn list(revision: u64, value: Option<u64>) -> Listed {
        Listed {
            revision,
            values: value.map(|v| ("k".to_owned(), v)).into_iter().collect(),
        }
    }
    fn relisted(after: u64, list: Listed) -> Step {
        Step::Relisted { after, list }
    }
    fn written(value: u64, revision: u64, begun: u64, ended: u64) -> Written {
        Written {
            key: "k".into(),
            value,
            revision,
            begun,
            ended,
        }
    }

    #[test]
    fn repeated_and_missing_events_are_found() {
        let (added, changed) = (event(3, Change::Added(1)), event(5, Change::Modified(2)));
        let gone = event(6, Change::Deleted);
        is_in_order(&[added.clone(), changed.clone(), gone.clone()]).expect("in order");
        assert!(is_in_order(&[added.clone(), added.clone()]).is_err());
        assert!(is_in_order(&[changed.clone(), added.clone()]).is_err());
        assert!(is_in_order(std::slice::from_ref(&changed)).is_err());
        assert!(is_in_order(&[added.clone(), gone, event(7, Change::Modified(3))]).is_err());
        // A list stands for what was missed, but is not of the past.
        let missed = relisted(3, list(9, Some(4)));
        is_in_order(&[added.clone(), missed, event(10, Change::Modified(5))]).expect("a gap");
        assert!(is_in_order(&[added, relisted(3, list(2, None))]).is_err());
    }

    #[test]
    fn the_watch_tells_what_was_written() {
        let steps = [event(3, Change::Added(1)), event(5, Change::Modified(2))];
        let all = BTreeSet::from([1, 2]);
        assert_eq!(
            tells_all(&steps, &[written(1, 3, 0, 1)], &all).expect("told"),
            1
        );
        assert!(tells_all(&steps, &[written(1, 4, 0, 1)], &all).is_err());
        assert!(tells_all(&steps, &[written(1, 5, 0, 1)], &all).is_err());
        assert!(tells_all(&steps, &[], &BTreeSet::from([1])).is_err());
        let gap = [relisted(3, list(5, Some(2)))];
        let told = |revision| tells_all(&gap, &[written(1, revision, 0, 1)], &all);
        assert_eq!(told(4).expect("in the gap"), 0);
        assert!(told(3).is_err() && told(6).is_err());
    }

    #[test]
    fn revisions_that_go_back_are_found() {
        let first = written(1, 9, 0, 5);
        revisions_follow_time(&[first.clone(), written(2, 8, 5, 6)]).expect("at the same time");
        assert!(revisions_follow_time(&[first, written(2, 8, 6, 7)]).is_err());
    }

    #[test]
    fn a_list_that_is_not_of_its_revision_is_found() {
        let steps = [event(3, Change::Added(1)), event(5, Change::Deleted)];
        let agree = |lists: &[Listed]| lists_agree(&steps, "k", lists);
        agree(&[list(5, None), list(4, Some(1)), list(2, None)]).expect("agree");
        assert!(agree(&[list(4, None)]).is_err());
        assert!(agree(&[list(6, Some(1))]).is_err());
        let gap = [event(3, Change::Added(1)), relisted(3, list(9, Some(2)))];
        let agree = |list: Listed| lists_agree(&gap, "k", &[list]);
        agree(list(5, Some(7))).expect("in the gap");
        agree(list(9, Some(2))).expect("after it");
        assert!(agree(list(3, Some(7))).is_err() && agree(list(9, Some(1))).is_err());
    }
}
