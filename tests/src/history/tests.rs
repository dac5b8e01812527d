//! The judge is judged: histories that a correct store gives pass, and each kind of wrong one
//! is found.

use super::*;

fn op(client: usize, start: Time, end: Time, input: Input, outcome: Outcome) -> Operation {
    Operation {
        client,
        key: "key-0".to_owned(),
        start,
        end,
        input,
        outcome,
    }
}

fn of(operations: Vec<Operation>) -> History {
    History {
        operations,
        ..History::default()
    }
}

fn created() -> Operation {
    op(0, 0, 10, Input::Create(1), Outcome::Written(5))
}

fn event(change: Change, value: Value, revision: Revision) -> Event {
    Event {
        at: 1_000,
        change,
        key: "key-0".to_owned(),
        value,
        revision,
    }
}

fn watch(events: &[Event]) -> Watch {
    Watch {
        connections: 1,
        events: events.to_vec(),
    }
}

fn violation(history: &History) -> String {
    check(history).expect_err("it is wrong").to_string()
}

#[test]
fn nothing_is_right() {
    check(&History::default()).expect("right");
}

#[test]
fn a_plain_life_is_right() {
    check(&of(vec![
        created(),
        op(1, 20, 30, Input::Create(2), Outcome::Exists),
        op(1, 40, 50, Input::Get, Outcome::Found(1, 5)),
        op(1, 60, 70, Input::Update(3, 5), Outcome::Written(8)),
        op(0, 80, 90, Input::Update(4, 5), Outcome::Conflict),
        op(0, 80, 90, Input::Delete(Some(5)), Outcome::Conflict),
        op(0, 100, 110, Input::Delete(Some(8)), Outcome::Deleted),
        op(0, 120, 130, Input::Get, Outcome::Absent),
        op(0, 140, 150, Input::Create(5), Outcome::Written(12)),
        op(0, 160, 170, Input::Delete(None), Outcome::Deleted),
    ]))
    .expect("right");
}

#[test]
fn an_overlapping_read_sees_either() {
    for seen in [Outcome::Absent, Outcome::Found(1, 5)] {
        check(&of(vec![created(), op(1, 5, 15, Input::Get, seen)])).expect("right");
    }
}

#[test]
fn a_stale_read_is_found() {
    let update = op(0, 20, 30, Input::Update(2, 5), Outcome::Written(6));
    let stale = op(1, 40, 50, Input::Get, Outcome::Found(1, 5));
    let text = violation(&of(vec![created(), update, stale.clone()]));
    assert!(text.contains(&stale.to_string()), "{text}");
    // So is a read of nothing after an acknowledged creation.
    violation(&of(vec![
        created(),
        op(1, 40, 50, Input::Get, Outcome::Absent),
    ]));
}

#[test]
fn reads_that_turn_back_are_found() {
    // Each alone would do: the update overlaps both.
    violation(&of(vec![
        created(),
        op(0, 20, 90, Input::Update(2, 5), Outcome::Written(6)),
        op(1, 30, 40, Input::Get, Outcome::Found(2, 6)),
        op(2, 50, 60, Input::Get, Outcome::Found(1, 5)),
    ]));
}

#[test]
fn two_updates_of_one_revision_are_found() {
    violation(&of(vec![
        created(),
        op(0, 20, 50, Input::Update(2, 5), Outcome::Written(6)),
        op(1, 20, 50, Input::Update(3, 5), Outcome::Written(7)),
    ]));
}

#[test]
fn a_conflict_without_cause_is_found() {
    violation(&of(vec![
        created(),
        op(0, 20, 50, Input::Update(2, 5), Outcome::Conflict),
    ]));
}

#[test]
fn an_unknown_write_happens_late_or_never() {
    let unknown = op(0, 20, 0, Input::Update(2, 5), Outcome::Unknown);
    let old = op(1, 100, 110, Input::Get, Outcome::Found(1, 5));
    let new = op(1, 200, 210, Input::Get, Outcome::Found(2, 6));
    let again = op(1, 300, 310, Input::Get, Outcome::Found(1, 5));
    check(&of(vec![created(), unknown.clone(), old.clone()])).expect("right");
    check(&of(vec![
        created(),
        unknown.clone(),
        old.clone(),
        new.clone(),
    ]))
    .expect("right");
    violation(&of(vec![created(), unknown, old, new, again]));
}

#[test]
fn an_unknown_write_is_not_seen_before_it_begins() {
    violation(&of(vec![
        created(),
        op(1, 20, 30, Input::Get, Outcome::Found(2, 6)),
        op(0, 40, 0, Input::Update(2, 5), Outcome::Unknown),
    ]));
}

#[test]
fn unknown_writes_that_nobody_saw_explain_refusals() {
    check(&of(vec![
        op(0, 0, 0, Input::Create(1), Outcome::Unknown),
        op(1, 10, 20, Input::Create(2), Outcome::Exists),
        op(2, 30, 0, Input::Delete(None), Outcome::Unknown),
        op(1, 40, 50, Input::Get, Outcome::Absent),
    ]))
    .expect("right");
    violation(&of(vec![
        op(0, 0, 0, Input::Create(1), Outcome::Unknown),
        op(1, 10, 20, Input::Create(2), Outcome::Exists),
        op(1, 40, 50, Input::Get, Outcome::Absent),
    ]));
}

#[test]
fn a_lost_acknowledged_write_is_found() {
    violation(&of(vec![
        created(),
        op(0, 20, 30, Input::Update(2, 5), Outcome::Written(6)),
        op(1, 40, 50, Input::Update(3, 5), Outcome::Written(7)),
    ]));
}

#[test]
fn a_refused_write_that_happened_is_found() {
    let text = violation(&of(vec![
        op(0, 0, 10, Input::Create(1), Outcome::Absent),
        op(1, 20, 30, Input::Get, Outcome::Found(1, 5)),
    ]));
    assert!(text.contains("refused"), "{text}");
}

#[test]
fn revisions_that_go_back_are_found_across_objects() {
    let other = Operation {
        key: "key-1".to_owned(),
        ..op(1, 20, 30, Input::Create(2), Outcome::Written(4))
    };
    assert!(violation(&of(vec![created(), other])).contains("go back"));
}

/// A store of one object that can be made to read stale, as a cache that lags would.
fn random_history(seed: u64, count: u64, stale_every: Option<u64>) -> History {
    use rand::{RngExt, SeedableRng};
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let (mut current, mut previous) = (None, None);
    // Nobody can name a revision that no answer had.
    let mut answered = false;
    let mut operations = Vec::new();
    for n in 1..=count {
        // Clients overlap: each answer comes up to five operations later.
        let now = n * 100;
        let (start, end) = (
            now - random.random_range(0..250).min(now),
            now + random.random_range(0..250),
        );
        let (input, outcome) = match (random.random_range(0..4), current) {
            (0, Some((_, r))) if answered => {
                (previous, current) = (current, Some((n, n)));
                (Input::Update(n, r), Outcome::Written(n))
            }
            (0, None) | (1, None) => {
                (previous, current) = (None, Some((n, n)));
                (Input::Create(n), Outcome::Written(n))
            }
            (1, Some((_, r))) if answered && random.random_range(0..4) == 0 => {
                (previous, current) = (current, None);
                (Input::Delete(Some(r)), Outcome::Deleted)
            }
            (1, Some(_)) => (Input::Create(n), Outcome::Exists),
            _ => {
                let stale = stale_every.is_some_and(|every| n % every == 0);
                let seen = if stale { previous } else { current };
                let found = seen.map_or(Outcome::Absent, |(v, r)| Outcome::Found(v, r));
                (Input::Get, found)
            }
        };
        let changes = !matches!(input, Input::Get) && outcome != Outcome::Exists;
        let lost = changes && random.random_range(0..5) == 0;
        answered = if changes {
            !lost
        } else {
            answered || outcome != Outcome::Exists
        };
        let outcome = if lost { Outcome::Unknown } else { outcome };
        operations.push(op(n as usize % 10, start, end, input, outcome));
    }
    of(operations)
}

#[test]
fn thousands_of_operations_of_a_correct_store_pass() {
    for seed in 0..20 {
        check(&random_history(seed, 3_000, None)).expect("right");
    }
}

#[test]
fn stale_reads_among_thousands_are_found() {
    for seed in 0..20 {
        check(&random_history(seed, 3_000, Some(10))).expect_err("it reads stale data");
    }
}

fn listed(revision: Revision, items: &[(Value, Revision)]) -> List {
    List {
        client: 3,
        start: 500,
        end: 510,
        revision,
        items: items.iter().map(|i| ("key-0".to_owned(), *i)).collect(),
    }
}

/// Created, updated and deleted; two watchers and lists.
fn watched() -> History {
    let events = [
        event(Change::Added, 1, 5),
        event(Change::Modified, 2, 7),
        event(Change::Deleted, 2, 9),
    ];
    History {
        operations: vec![
            created(),
            op(0, 20, 600, Input::Update(2, 5), Outcome::Written(7)),
            op(0, 610, 700, Input::Delete(Some(7)), Outcome::Deleted),
        ],
        lists: vec![listed(6, &[(1, 5)]), listed(8, &[(2, 7)])],
        watches: vec![watch(&events), watch(&events)],
    }
}

#[test]
fn lists_and_watches_of_a_correct_store_pass() {
    check(&watched()).expect("right");
}

#[test]
fn a_list_that_is_no_snapshot_is_found() {
    for wrong in [
        listed(8, &[(1, 5)]),
        listed(8, &[]),
        listed(6, &[(2, 7)]),
        listed(10, &[(2, 7)]),
        // Older than what was acknowledged before.
        listed(4, &[]),
    ] {
        let mut history = watched();
        history.lists.push(wrong);
        violation(&history);
    }
}

#[test]
fn lost_repeated_and_disordered_events_are_found() {
    type Break = fn(&mut Vec<Event>);
    let breaks: [Break; 6] = [
        |e| drop(e.remove(1)),
        |e| drop(e.pop()),
        |e| e.push(e[2].clone()),
        |e| e.swap(0, 1),
        |e| e[1].value = 1,
        |e| e[0].at = 0,
    ];
    for (i, damage) in breaks.iter().enumerate() {
        // One watcher, then all of them alike.
        for watchers in [1, 2] {
            let mut history = watched();
            history.lists.clear();
            history.operations[0].start = 1;
            let all = history.watches.iter_mut().rev().take(watchers);
            all.for_each(|w| damage(&mut w.events));
            check(&history).expect_err(&format!("break {i} of {watchers}"));
        }
    }
}
