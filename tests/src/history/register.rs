//! The search for an order of one object's operations: Wing and Gong's, with Lowe's memory of
//! the states that were tried. An order is found as soon as all answered operations are in it.
//!
//! What need not be guessed is not, so that it takes about as many steps as there are operations,
//! however long they overlap:
//! - Writes whose revision somebody saw come in the order of their revisions, answered or not.
//! - What changes nothing is taken as soon as it can be: that takes no way from what is left.
//! - A value is not left while an answer that needs it is still to come.
//! - Writes without an answer that nobody saw are all alike to those who were answered, so the first
//!   that began is taken, and only how many were is remembered.

use std::collections::{BTreeMap, HashSet};

use super::{Input, Operation, Outcome, Revision, RevisionByValue, Time, Value, Violation};

/// Steps of one search, a bound on time and memory (some 100 bytes each). A history of thousands
/// of operations takes about as many steps; one that needs more than this is reported, not passed.
const MOST_STEPS: usize = 2_000_000;

/// Operations that a violation prints before the point where no order goes on.
const SHOWN_BEFORE: usize = 6;

/// What there is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
enum Is {
    #[default]
    Gone,
    /// What the last write with a known revision made.
    Known,
    /// What a write without an answer made, that nobody ever saw.
    Unseen,
}

/// The object, and what of the writes without an answer was needed to come there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct State {
    is: Is,
    /// How many of the writes with a known revision have been.
    writes: usize,
    /// How many of the creations that nobody saw.
    creations: usize,
    /// How many of the deletions, of whatever there is, without an answer.
    deletions: usize,
}

/// A write whose revision is known.
struct Write<'a> {
    revision: Revision,
    value: Value,
    operation: &'a Operation,
    /// Its place among the answered operations, if it is one.
    answered: Option<usize>,
}

/// The first that began of those that do the same to one revision.
type AtRevision<'a> = BTreeMap<Revision, &'a Operation>;

/// The operations, by what they can be in an order.
#[derive(Default)]
struct Operations<'a> {
    /// By start.
    answered: Vec<&'a Operation>,
    /// By revision.
    writes: Vec<Write<'a>>,
    /// Those without an answer that nobody saw, by start.
    creations: Vec<&'a Operation>,
    deletions: Vec<&'a Operation>,
    updates_at: AtRevision<'a>,
    deletions_at: AtRevision<'a>,
    /// The place of an answered operation's value among the writes: it can only be while that is
    /// there.
    needs: Vec<Option<usize>>,
}

impl<'a> Operations<'a> {
    fn of(all: Vec<&'a Operation>, known: &RevisionByValue) -> Self {
        let mut all = all;
        all.sort_by_key(|o| o.start);
        let mut found = Self::default();
        for operation in all {
            let is_answered = operation.outcome != Outcome::Unknown;
            let answered = is_answered.then_some(found.answered.len());
            let value = match operation.input {
                Input::Create(v) | Input::Update(v, _) => Some(v),
                Input::Delete(_) | Input::Get => None,
            };
            let revision = match operation.outcome {
                Outcome::Written(r) => Some(r),
                Outcome::Unknown => value.and_then(|v| known.get(&v).copied()),
                _ => None,
            };
            match (operation.input, value.zip(revision)) {
                (_, Some((value, revision))) => found.writes.push(Write {
                    revision,
                    value,
                    operation,
                    answered,
                }),
                _ if is_answered => {}
                (Input::Create(_), _) => found.creations.push(operation),
                (Input::Delete(None), _) => found.deletions.push(operation),
                (Input::Update(_, at), _) => _ = found.updates_at.entry(at).or_insert(operation),
                (Input::Delete(Some(at)), _) => {
                    found.deletions_at.entry(at).or_insert(operation);
                }
                (Input::Get, _) => {}
            }
            if is_answered {
                found.answered.push(operation);
            }
        }
        found.writes.sort_by_key(|w| w.revision);
        let places = || found.writes.iter().enumerate();
        let by_value: BTreeMap<Value, usize> = places().map(|(i, w)| (w.value, i)).collect();
        let by_revision: BTreeMap<Revision, usize> =
            places().map(|(i, w)| (w.revision, i)).collect();
        let needs = found.answered.iter().map(|o| match (o.input, o.outcome) {
            (Input::Get, Outcome::Found(v, _)) => by_value.get(&v).copied(),
            (Input::Delete(Some(at)), Outcome::Deleted) => by_revision.get(&at).copied(),
            _ => None,
        });
        found.needs = needs.collect();
        found
    }
}

/// Which answered operations are in the order so far, one bit each.
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

/// What can be next: an answered operation by its place, or one without an answer.
#[derive(Clone, Copy)]
enum Next<'a> {
    Answered(usize),
    Unanswered(&'a Operation),
}

struct Search<'a> {
    all: Operations<'a>,
    done: Done,
    /// The order so far.
    order: Vec<Next<'a>>,
    /// The first answered operation that is not in the order.
    low: usize,
    /// How many answered operations that are not in the order need each write's value.
    needed: Vec<usize>,
}

impl<'a> Search<'a> {
    fn new(all: Operations<'a>) -> Self {
        let mut needed = vec![0; all.writes.len()];
        for place in all.needs.iter().flatten() {
            needed[*place] += 1;
        }
        Self {
            done: Done(vec![0; all.answered.len().div_ceil(64)]),
            all,
            order: Vec::new(),
            low: 0,
            needed,
        }
    }

    fn is_complete(&self) -> bool {
        self.low == self.all.answered.len()
    }

    fn revision(&self, state: State) -> Option<Revision> {
        let last = state.writes.checked_sub(1)?;
        (state.is == Is::Known).then(|| self.all.writes[last].revision)
    }

    /// The answered operations that can be next as far as the clock goes: nothing that is left
    /// ended before they began. With the time by which others must have begun to be so, too.
    fn in_time(&self) -> (Vec<usize>, Time) {
        let mut deadline = Time::MAX;
        let mut found = Vec::new();
        for i in (self.low..self.all.answered.len()).filter(|i| !self.done.has(*i)) {
            let operation = self.all.answered[i];
            if operation.start > deadline {
                break;
            }
            deadline = deadline.min(operation.end);
            found.push(i);
        }
        found.retain(|i| self.all.answered[*i].start <= deadline);
        (found, deadline)
    }

    /// Whether an answered operation has its outcome on this state, and leaves it as it is.
    fn only_looks(&self, state: State, operation: &Operation) -> bool {
        let (exists, revision) = (state.is != Is::Gone, self.revision(state));
        match (operation.input, operation.outcome) {
            (Input::Create(_), Outcome::Exists) => exists,
            (Input::Update(_, at) | Input::Delete(Some(at)), Outcome::Conflict) => {
                exists && revision != Some(at)
            }
            (Input::Update(..) | Input::Delete(_) | Input::Get, Outcome::Absent) => !exists,
            (Input::Get, Outcome::Found(v, _)) => {
                let last = state.writes.checked_sub(1);
                let value = last.map(|last| self.all.writes[last].value);
                state.is == Is::Known && value == Some(v)
            }
            _ => false,
        }
    }

    /// Takes all that only looks, and gives what is in time then.
    fn look(&mut self, state: State) -> (Vec<usize>, Time) {
        loop {
            let (mut found, deadline) = self.in_time();
            let before = found.len();
            found.retain(|i| {
                let looks = self.only_looks(state, self.all.answered[*i]);
                if looks {
                    self.take(Next::Answered(*i));
                }
                !looks
            });
            if found.len() == before {
                return (found, deadline);
            }
        }
    }

    /// What may change the object next, and what it is then. Those without an answer last, since
    /// mostly they never happened.
    fn changes(&self, state: State, in_time: &[usize], deadline: Time) -> Vec<(Next<'a>, State)> {
        let mut found = Vec::new();
        let (exists, revision) = (state.is != Is::Gone, self.revision(state));
        let began = |o: &&'a Operation| o.start <= deadline;
        let to = |is: Is| State { is, ..state };
        if let Some(next) = self.next_write(state, in_time, deadline) {
            let writes = state.writes + 1;
            found.push((
                next,
                State {
                    writes,
                    ..to(Is::Known)
                },
            ));
        }
        let deletes = |at: Option<Revision>| {
            let is_so = move |i: &&usize| {
                let operation = self.all.answered[**i];
                operation.input == Input::Delete(at) && operation.outcome == Outcome::Deleted
            };
            // Of those that do the same the one goes first that must.
            let found = in_time.iter().filter(is_so);
            found.min_by_key(|i| self.all.answered[**i].end)
        };
        let at = revision.and_then(|at| deletes(Some(at)));
        let any = exists.then(|| deletes(None)).flatten();
        let answered = at.into_iter().chain(any);
        found.extend(answered.map(|i| (Next::Answered(*i), to(Is::Gone))));
        let at = |of: &AtRevision<'a>| of.get(&revision?).copied().filter(began);
        let update = at(&self.all.updates_at);
        found.extend(update.map(|o| (Next::Unanswered(o), to(Is::Unseen))));
        if let Some(deletion) = at(&self.all.deletions_at) {
            // It does nothing later: others that could are kept.
            found.push((Next::Unanswered(deletion), to(Is::Gone)));
        } else if exists {
            let deletion = self
                .all
                .deletions
                .get(state.deletions)
                .copied()
                .filter(began);
            let deletions = state.deletions + 1;
            let then = State {
                deletions,
                ..to(Is::Gone)
            };
            found.extend(deletion.map(|o| (Next::Unanswered(o), then)));
        } else {
            let creation = self
                .all
                .creations
                .get(state.creations)
                .copied()
                .filter(began);
            let creations = state.creations + 1;
            let then = State {
                creations,
                ..to(Is::Unseen)
            };
            found.extend(creation.map(|o| (Next::Unanswered(o), then)));
        }
        found
    }

    /// The next write with a known revision, if it can be next.
    fn next_write(&self, state: State, in_time: &[usize], deadline: Time) -> Option<Next<'a>> {
        let write = self.all.writes.get(state.writes)?;
        let last = state.writes.checked_sub(1);
        let before = last.map_or(0, |last| self.all.writes[last].revision);
        let fits = match write.operation.input {
            Input::Create(_) => state.is == Is::Gone,
            Input::Update(_, at) => self.revision(state) == Some(at),
            Input::Delete(_) | Input::Get => false,
        };
        let next = match write.answered {
            Some(i) => in_time.contains(&i).then_some(Next::Answered(i)),
            None => {
                (write.operation.start <= deadline).then_some(Next::Unanswered(write.operation))
            }
        };
        next.filter(|_| fits && write.revision > before)
    }

    fn take(&mut self, next: Next<'a>) {
        self.order.push(next);
        let Next::Answered(i) = next else { return };
        self.done.flip(i);
        if let Some(write) = self.all.needs[i] {
            self.needed[write] -= 1;
        }
        while !self.is_complete() && self.done.has(self.low) {
            self.low += 1;
        }
    }

    fn undo_to(&mut self, length: usize) {
        while self.order.len() > length {
            let Some(Next::Answered(i)) = self.order.pop() else {
                continue;
            };
            self.done.flip(i);
            if let Some(write) = self.all.needs[i] {
                self.needed[write] += 1;
            }
            self.low = self.low.min(i);
        }
    }

    /// Changes the object and takes what only looks then. `None` if that leads nowhere.
    fn go(&mut self, before: State, next: Next<'a>, then: State) -> Option<Vec<(Next<'a>, State)>> {
        self.take(next);
        if before.is == Is::Known && self.needed[before.writes - 1] > 0 {
            return None;
        }
        let length = self.order.len();
        let (in_time, deadline) = self.look(then);
        let changes = self.changes(then, &in_time, deadline);
        // Without an answer that comes of it, a creation that nobody saw explains nothing.
        let is_answered = |(next, _): &(Next<'_>, State)| matches!(next, Next::Answered(_));
        let explains = self.order.len() > length || changes.iter().any(is_answered);
        (then.is != Is::Unseen || explains).then_some(changes)
    }

    /// The answered operations that are in the order, apart from those that all orders have.
    fn done(&self) -> (usize, Vec<usize>) {
        let mut later = Vec::new();
        let words = self.done.0.iter().enumerate().skip(self.low / 64);
        for (at, word) in words {
            let mut left = *word;
            while left != 0 {
                let i = at * 64 + left.trailing_zeros() as usize;
                if i > self.low {
                    later.push(i);
                }
                left &= left - 1;
            }
        }
        (self.low, later)
    }
}

/// # Errors
/// There is no order, or none was found in the bound's steps.
pub fn check(operations: Vec<&Operation>, known: &RevisionByValue) -> Result<(), Violation> {
    search(operations, known, MOST_STEPS).map(drop)
}

/// Gives the steps that it took.
pub fn search(
    operations: Vec<&Operation>,
    known: &RevisionByValue,
    most_steps: usize,
) -> Result<usize, Violation> {
    let mut search = Search::new(Operations::of(operations, known));
    let mut seen = HashSet::new();
    let (in_time, deadline) = search.look(State::default());
    let changes = search.changes(State::default(), &in_time, deadline);
    let mut deepest = (search.order.clone(), State::default());
    // What is still to be tried at each depth, the state there, and the order's length.
    let mut stack = vec![(State::default(), search.order.len(), reversed(changes))];
    for steps in 0..most_steps {
        if search.is_complete() {
            return Ok(steps);
        }
        let Some((before, length, changes)) = stack.last_mut() else {
            return Err(explain(search, &deepest.0, deepest.1, "no order explains"));
        };
        let (before, length) = (*before, *length);
        search.undo_to(length);
        let Some((next, then)) = changes.pop() else {
            stack.pop();
            continue;
        };
        let Some(changes) = search.go(before, next, then) else {
            continue;
        };
        if search.order.len() > deepest.0.len() {
            deepest = (search.order.clone(), then);
        }
        if seen.insert((search.done(), then)) {
            stack.push((then, search.order.len(), reversed(changes)));
        }
    }
    let what = "no order was found in the steps allowed for";
    Err(explain(search, &deepest.0, deepest.1, what))
}

/// The first is to be tried first, and is popped from the end.
fn reversed<T>(mut candidates: Vec<T>) -> Vec<T> {
    candidates.reverse();
    candidates
}

/// The end of the longest order, and what could not follow it.
fn explain<'a>(search: Search<'a>, order: &[Next<'a>], state: State, what: &str) -> Violation {
    let mut at = search;
    at.undo_to(0);
    order.iter().for_each(|next| at.take(*next));
    let last = &order[order.len().saturating_sub(SHOWN_BEFORE)..];
    let text = |next: &Next<'_>| match next {
        Next::Answered(i) => at.all.answered[*i].to_string(),
        Next::Unanswered(operation) => operation.to_string(),
    };
    let mut piece: Vec<String> = last.iter().map(text).collect();
    let written = state.writes.checked_sub(1).map(|i| &at.all.writes[i]);
    let there = match (state.is, written) {
        (Is::Gone, _) => "gone".to_owned(),
        (Is::Known, Some(write)) => format!("{} at revision {}", write.value, write.revision),
        _ => "what nobody saw".to_owned(),
    };
    piece.push(format!(
        "here it is {there}, and none of these can be next:"
    ));
    let (in_time, _) = at.in_time();
    piece.extend(in_time.iter().map(|i| at.all.answered[*i].to_string()));
    let needs = |i: &usize| {
        let is_left = !at.done.has(*i) && !in_time.contains(i);
        is_left && state.is == Is::Known && at.all.needs[*i] == state.writes.checked_sub(1)
    };
    let needing: Vec<usize> = (at.low..at.all.answered.len()).filter(needs).collect();
    if !needing.is_empty() {
        piece.push("these need what is there:".to_owned());
        let shown = needing.iter().take(SHOWN_BEFORE);
        piece.extend(shown.map(|i| at.all.answered[*i].to_string()));
    }
    let key = at.all.answered.first().map_or("", |o| o.key.as_str());
    Violation {
        what: format!(
            "{what} the {} answered operations on {key}; the longest order has {} of all",
            at.all.answered.len(),
            order.len()
        ),
        piece,
    }
}
