//! Is a history of concurrent calls linearizable? Each key is a register that is created, compared
//! and updated, deleted and read; calls without an answer may have worked, at any time after they
//! were made, or never. It knows nothing of servers.
//!
//! The search is that of Wing and Gong with the memory of Lowe: from a state and the set of calls
//! that are already in order, any call may be next that began before all others have ended.

use std::collections::HashSet;

/// Configurations after which the search gives up: some hundred MiB. Histories of tests are kept
/// short enough to stay far below.
const CONFIGURATIONS: usize = 2_000_000;

/// What was asked of a key. Values are unique: no two calls write the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Create(u64),
    /// Writes `new` where the register still has `expect`.
    Update {
        expect: u64,
        new: u64,
    },
    Delete,
    Get,
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A write was acknowledged.
    Done,
    /// A creation found the key there already.
    Exists,
    /// An update found another value.
    Conflict,
    /// There was no such key.
    Absent,
    Value(u64),
    /// None, or an error that leaves open whether the call worked.
    Unknown,
}

/// A call with its answer; times are of one clock, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    pub call: Call,
    pub answer: Answer,
    pub begun: u64,
    pub ended: u64,
}

impl Op {
    fn is_open(&self) -> bool {
        self.answer == Answer::Unknown
    }

    /// The register after this call on `state`; None where its answer contradicts that state, or
    /// where an open call would change nothing.
    fn apply(&self, state: Option<u64>) -> Option<Option<u64>> {
        let (now, legal) = match (self.call, self.answer) {
            (Call::Create(v), Answer::Done | Answer::Unknown) => (Some(v), state.is_none()),
            (Call::Create(_), Answer::Exists) => (state, state.is_some()),
            (Call::Update { expect, new }, Answer::Done | Answer::Unknown) => {
                (Some(new), state == Some(expect))
            }
            (Call::Update { expect, .. }, Answer::Conflict) => {
                (state, state.is_some_and(|v| v != expect))
            }
            (Call::Delete, Answer::Done | Answer::Unknown) => (None, state.is_some()),
            (Call::Get, Answer::Value(v)) => (state, state == Some(v)),
            (Call::Update { .. } | Call::Delete | Call::Get, Answer::Absent) => {
                (state, state.is_none())
            }
            _ => (state, false),
        };
        legal.then_some(now)
    }
}

/// Why a history is refused.
#[derive(Debug)]
pub enum Fault {
    /// No order explains the answers; the calls that could not be put in order, at best.
    Impossible(Vec<Op>),
    /// The history is too long.
    Undecided,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Impossible(stuck) => {
                write!(f, "no order explains the answers; stuck at {stuck:?}")
            }
            Self::Undecided => write!(f, "undecided after {CONFIGURATIONS} configurations"),
        }
    }
}

impl std::error::Error for Fault {}

/// A set of calls by their place in the history.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Placed(Vec<u64>);

impl Placed {
    fn has(&self, i: usize) -> bool {
        self.0.get(i / 64).is_some_and(|w| w >> (i % 64) & 1 == 1)
    }
    fn add(&mut self, i: usize) {
        if let Some(word) = self.0.get_mut(i / 64) {
            *word |= 1 << (i % 64);
        }
    }
}

/// Looks for an order of the calls on one key, which begins absent, that explains all answers.
pub fn check(history: &[Op]) -> Result<(), Fault> {
    let mut ops: Vec<Op> = history.to_vec();
    // A read without an answer says nothing.
    ops.retain(|op| !(op.is_open() && op.call == Call::Get));
    ops.sort_by_key(|op| op.begun);
    let mut search = Search {
        ops: &ops,
        seen: HashSet::new(),
        best: (0, Vec::new()),
    };
    search.run()
}

struct Search<'a> {
    ops: &'a [Op],
    seen: HashSet<(Placed, Option<u64>)>,
    /// The most answered calls in order so far, and what could not follow.
    best: (usize, Vec<Op>),
}

impl Search<'_> {
    fn run(&mut self) -> Result<(), Fault> {
        let none = Placed(vec![0; self.ops.len().div_ceil(64)]);
        let mut stack = vec![(none, None)];
        while let Some((mut placed, state)) = stack.pop() {
            let next = self.settle(&mut placed, state);
            if self.is_complete(&placed) {
                return Ok(());
            }
            if !self.seen.insert((placed.clone(), state)) {
                continue;
            }
            if self.seen.len() > CONFIGURATIONS {
                return Err(Fault::Undecided);
            }
            self.note(&placed, &next);
            // The earliest is tried first: it is the last on the stack.
            for i in next.into_iter().rev() {
                let Some(after) = self.ops.get(i).and_then(|op| op.apply(state)) else {
                    continue;
                };
                let mut placed = placed.clone();
                placed.add(i);
                stack.push((placed, after));
            }
        }
        Err(Fault::Impossible(std::mem::take(&mut self.best.1)))
    }

    /// Puts in order what agrees with the state and leaves it as it is, which never shuts a way
    /// off; gives what may come next.
    fn settle(&self, placed: &mut Placed, state: Option<u64>) -> Vec<usize> {
        loop {
            let next = self.next(placed);
            let before = next.len();
            let quiet = |i: &usize| {
                let op = self.ops.get(*i);
                op.is_some_and(|op| !op.is_open() && op.apply(state) == Some(state))
            };
            let (now, later): (Vec<usize>, Vec<usize>) = next.into_iter().partition(quiet);
            now.iter().for_each(|i| placed.add(*i));
            if later.len() == before {
                return later;
            }
        }
    }

    /// The calls that began before any other that is not in order yet has ended.
    fn next(&self, placed: &Placed) -> Vec<usize> {
        let rest = || {
            let all = self.ops.iter().enumerate();
            all.filter(|(i, _)| !placed.has(*i))
        };
        let answered = rest().filter(|(_, op)| !op.is_open());
        let limit = answered.map(|(_, op)| op.ended).min().unwrap_or(u64::MAX);
        rest()
            .take_while(|(_, op)| op.begun <= limit)
            .map(|(i, _)| i)
            .collect()
    }

    fn is_complete(&self, placed: &Placed) -> bool {
        let mut all = self.ops.iter().enumerate();
        all.all(|(i, op)| op.is_open() || placed.has(i))
    }

    fn note(&mut self, placed: &Placed, next: &[usize]) {
        let all = self.ops.iter().enumerate();
        let count = all
            .filter(|(i, op)| !op.is_open() && placed.has(*i))
            .count();
        if count >= self.best.0 {
            let stuck = next.iter().filter_map(|i| self.ops.get(*i)).copied();
            self.best = (count, stuck.collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(call: Call, answer: Answer, begun: u64, ended: u64) -> Op {
        Op {
            call,
            answer,
            begun,
            ended,
        }
    }
    fn update(expect: u64, new: u64) -> Call {
        Call::Update { expect, new }
    }

    #[test]
    fn calls_one_after_another() {
        let history = [
            op(Call::Get, Answer::Absent, 0, 1),
            op(Call::Create(1), Answer::Done, 2, 3),
            op(Call::Create(2), Answer::Exists, 4, 5),
            op(update(1, 3), Answer::Done, 6, 7),
            op(update(1, 4), Answer::Conflict, 8, 9),
            op(Call::Get, Answer::Value(3), 10, 11),
            op(Call::Delete, Answer::Done, 12, 13),
            op(Call::Delete, Answer::Absent, 14, 15),
            op(update(3, 5), Answer::Absent, 16, 17),
        ];
        check(&history).expect("in order");
    }

    #[test]
    fn a_read_of_the_past_is_found() {
        let history = [
            op(Call::Create(1), Answer::Done, 0, 1),
            op(update(1, 2), Answer::Done, 2, 3),
            op(Call::Get, Answer::Value(1), 4, 5),
        ];
        assert!(matches!(check(&history), Err(Fault::Impossible(stuck)) if stuck.len() == 1));
        // While the update is on its way, either value is right, but not the new before the old.
        let during = |first, second| {
            check(&[
                op(Call::Create(1), Answer::Done, 0, 1),
                op(update(1, 2), Answer::Done, 2, 9),
                op(Call::Get, Answer::Value(first), 3, 4),
                op(Call::Get, Answer::Value(second), 5, 6),
            ])
        };
        during(1, 1).expect("old");
        during(1, 2).expect("old, new");
        assert!(during(2, 1).is_err());
    }

    #[test]
    fn a_lost_write_is_found() {
        let lost = [
            op(Call::Create(1), Answer::Done, 0, 1),
            op(Call::Get, Answer::Absent, 2, 3),
        ];
        assert!(check(&lost).is_err());
        // Two updates of the same value cannot both have worked.
        let both = [
            op(Call::Create(1), Answer::Done, 0, 1),
            op(update(1, 2), Answer::Done, 2, 5),
            op(update(1, 3), Answer::Done, 2, 5),
        ];
        assert!(check(&both).is_err());
    }

    #[test]
    fn an_open_call_may_work_late_or_never_but_once() {
        let open = op(update(1, 2), Answer::Unknown, 2, 3);
        let created = op(Call::Create(1), Answer::Done, 0, 1);
        let read = |value, at| op(Call::Get, Answer::Value(value), at, at + 1);
        check(&[created, open, read(1, 10)]).expect("never");
        check(&[created, open, read(1, 10), read(2, 20)]).expect("late");
        assert!(check(&[created, open, read(2, 10), read(1, 20)]).is_err());
        let again = op(update(1, 3), Answer::Done, 20, 21);
        assert!(check(&[created, open, read(2, 10), again]).is_err());
        // It cannot work before it was made.
        assert!(check(&[created, read(2, 1), op(update(1, 2), Answer::Unknown, 3, 4)]).is_err());
    }

    #[test]
    fn a_creation_that_meets_itself_is_found() {
        // As when a server repeats a write whose outcome it does not know.
        let history = [
            op(Call::Create(1), Answer::Exists, 0, 5),
            op(Call::Get, Answer::Value(1), 6, 7),
        ];
        assert!(check(&history).is_err());
    }

    #[test]
    fn many_clients_and_open_calls_are_decided() {
        // 40 rounds: eight clients race for one update, one wins; every tenth outcome is open.
        let mut history = vec![op(Call::Create(1), Answer::Done, 0, 1)];
        let (mut value, mut at) = (1, 2);
        for round in 0..40_u64 {
            for client in 0..8 {
                let new = 100 + round * 8 + client;
                let answer = match client {
                    3 if round % 10 == 9 => Answer::Unknown,
                    3 => Answer::Done,
                    _ => Answer::Conflict,
                };
                history.push(op(update(value, new), answer, at, at + 50));
            }
            value = 100 + round * 8 + 3;
            at += 100;
        }
        check(&history).expect("an order");
        history.push(op(Call::Get, Answer::Value(1), at, at + 1));
        assert!(check(&history).is_err());
    }
}
