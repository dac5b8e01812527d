//! The search for an order of one object's operations: Wing and Gong's, with Lowe's memory of
//! the states that were tried. An order is found as soon as all answered operations are in it;
//! those without an answer are taken only where they change the object.

use std::collections::HashSet;

use super::{Input, Known, Operation, Outcome, Revision, Value, Violation};

/// Steps of one search, a bound on time and memory (some 100 bytes each). A history of thousands
/// of operations takes about as many steps; one that needs more than this is reported, not passed.
const MOST_STEPS: usize = 2_000_000;

/// Operations that a violation prints before the point where no order goes on.
const SHOWN_BEFORE: usize = 6;

/// The object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct State {
    value: Option<Value>,
    /// The greatest revision that a write to it is known to have had.
    newest: Revision,
}

/// Which operations are in the order so far, one bit each.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Done(Vec<u64>);

impl Done {
    fn has(&self, i: usize) -> bool {
        self.0.get(i / 64).is_some_and(|w| w & (1 << (i % 64)) != 0)
    }
    fn flip(&mut self, i: usize) {
        if let Some(word) = self.0.get_mut(i / 64) {
            *word ^= 1 << (i % 64);
        }
    }
}

/// What the object is after the operation, if it can have had its outcome on this state.
fn step(state: State, operation: &Operation, known: &Known) -> Option<State> {
    let revision = state.value.and_then(|v| known.get(&v).copied());
    let write = |value: Value, at: Option<Revision>| {
        // Nobody saw the revision of a value that is not known.
        let newest = at.or(known.get(&value).copied());
        let later = newest.is_none_or(|r| r > state.newest);
        later.then_some(State {
            value: Some(value),
            newest: newest.unwrap_or(state.newest),
        })
    };
    let gone = State {
        value: None,
        newest: state.newest,
    };
    let (exists, same) = (state.value.is_some(), Some(state));
    match (operation.input, operation.outcome) {
        (Input::Create(v), Outcome::Written(r)) if !exists => write(v, Some(r)),
        (Input::Create(v), Outcome::Unknown) if !exists => write(v, None),
        (Input::Create(_), Outcome::Exists) if exists => same,
        (Input::Update(v, at), Outcome::Written(r)) if revision == Some(at) => write(v, Some(r)),
        (Input::Update(v, at), Outcome::Unknown) if revision == Some(at) => write(v, None),
        (Input::Update(_, at), Outcome::Conflict) if exists && revision != Some(at) => same,
        (Input::Delete(None), Outcome::Deleted | Outcome::Unknown) if exists => Some(gone),
        (Input::Delete(Some(at)), Outcome::Deleted | Outcome::Unknown) if revision == Some(at) => {
            Some(gone)
        }
        (Input::Delete(Some(at)), Outcome::Conflict) if exists && revision != Some(at) => same,
        (Input::Update(..) | Input::Delete(_) | Input::Get, Outcome::Absent) if !exists => same,
        (Input::Get, Outcome::Found(v, _)) if state.value == Some(v) => same,
        _ => None,
    }
}

struct Search<'a> {
    /// By start: first those with an answer, then those without.
    operations: Vec<&'a Operation>,
    /// How many have an answer.
    answered: usize,
    known: &'a Known,
    state: State,
    done: Done,
    /// The order so far.
    order: Vec<usize>,
    /// The first answered operation that is not in the order.
    low: usize,
}

impl Search<'_> {
    /// What can be next: nothing that is left ended before it began. Those without an answer
    /// last, since mostly they never happened.
    fn candidates(&self) -> Vec<usize> {
        let left = |i: &usize| !self.done.has(*i);
        let starts_by = |i: &usize, t: u64| self.operations[*i].start <= t;
        let mut deadline = u64::MAX;
        let mut found = Vec::new();
        for i in (self.low..self.answered).filter(left) {
            if !starts_by(&i, deadline) {
                break;
            }
            deadline = deadline.min(self.operations[i].end);
            found.push(i);
        }
        found.retain(|i| starts_by(i, deadline));
        let unknown = self.answered..self.operations.len();
        found.extend(unknown.take_while(|i| starts_by(i, deadline)).filter(left));
        found
    }

    fn take(&mut self, i: usize, state: State) {
        self.done.flip(i);
        self.order.push(i);
        self.state = state;
        while self.low < self.answered && self.done.has(self.low) {
            self.low += 1;
        }
    }

    fn undo(&mut self, state: State) {
        if let Some(i) = self.order.pop() {
            self.done.flip(i);
            self.low = self.low.min(i);
            self.state = state;
        }
    }
}

/// # Errors
/// There is no order, or none was found in the bound's steps.
pub fn check(operations: Vec<&Operation>, known: &Known) -> Result<(), Violation> {
    let unknown = |o: &&Operation| o.outcome == Outcome::Unknown;
    let mut operations = operations;
    operations.retain(|o| !(o.input == Input::Get && unknown(o)));
    operations.sort_by_key(|o| (unknown(o), o.start));
    let mut search = Search {
        answered: operations.iter().filter(|o| !unknown(o)).count(),
        done: Done(vec![0; operations.len().div_ceil(64)]),
        operations,
        known,
        state: State::default(),
        order: Vec::new(),
        low: 0,
    };
    let mut seen = HashSet::new();
    // The candidates that are still to be tried at each depth, and the state there.
    let mut stack = vec![(search.state, reversed(search.candidates()))];
    let mut deepest = (Vec::new(), State::default());
    for _ in 0..MOST_STEPS {
        if search.low == search.answered {
            return Ok(());
        }
        let Some((state, candidates)) = stack.last_mut() else {
            return Err(explain(&search, &deepest.0, deepest.1, "no order explains"));
        };
        let before = *state;
        let Some(i) = candidates.pop() else {
            stack.pop();
            // The state below is that of the depth that goes on.
            let below = stack.last().map_or(before, |(s, _)| *s);
            search.undo(below);
            continue;
        };
        let Some(next) = step(before, search.operations[i], known) else {
            continue;
        };
        search.take(i, next);
        if !seen.insert((search.done.clone(), next)) {
            search.undo(before);
            continue;
        }
        if search.order.len() > deepest.0.len() {
            deepest = (search.order.clone(), next);
        }
        stack.push((next, reversed(search.candidates())));
    }
    let what = "no order was found in the steps allowed for";
    Err(explain(&search, &deepest.0, deepest.1, what))
}

/// The first is to be tried first, and is popped from the end.
fn reversed(mut candidates: Vec<usize>) -> Vec<usize> {
    candidates.reverse();
    candidates
}

/// The end of the longest order, and what could not follow it.
fn explain(search: &Search<'_>, order: &[usize], state: State, what: &str) -> Violation {
    let key = search.operations.first().map_or("", |o| o.key.as_str());
    let mut at = Search {
        operations: search.operations.clone(),
        answered: search.answered,
        known: search.known,
        state: State::default(),
        done: Done(vec![0; search.done.0.len()]),
        order: Vec::new(),
        low: 0,
    };
    order.iter().for_each(|i| at.take(*i, state));
    let text = |i: &usize| search.operations[*i].to_string();
    let last = &order[order.len().saturating_sub(SHOWN_BEFORE)..];
    let mut piece: Vec<String> = last.iter().map(text).collect();
    let revision = state.value.and_then(|v| search.known.get(&v));
    piece.push(format!(
        "here it is {:?} at revision {revision:?}, and none of these can be next:",
        state.value
    ));
    let next = at.candidates();
    piece.extend(next.iter().filter(|i| **i < search.answered).map(text));
    Violation {
        what: format!(
            "{what} the {} operations on {key}; the longest order has {} of them",
            search.operations.len(),
            order.len()
        ),
        piece,
    }
}
