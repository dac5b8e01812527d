//! The search for an order against one that tries all of them, on short histories; and how far it
//! comes where many writes have no answer and overlap all that follows.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// How a store and its clients behave.
#[derive(Clone, Copy)]
struct Course {
    clients: usize,
    operations: usize,
    /// Longest time from a request to its effect.
    longest: Time,
    /// How long a client waits for an answer.
    patience: Time,
    /// Of a hundred requests, so many never reach the store.
    lost: u32,
    /// Of a hundred reads, so many see what was there before.
    stale: u32,
}

#[derive(Clone, Copy)]
enum Step {
    Begins(usize),
    Happens(usize),
    Ends(usize),
}

/// What clients are answered by a store of one object.
struct Store {
    course: Course,
    random: StdRng,
    now: Option<(Value, Revision)>,
    before: Option<(Value, Revision)>,
    revision: Revision,
    operations: Vec<Operation>,
    /// The true outcomes.
    outcomes: Vec<Outcome>,
    /// What each client last saw.
    seen: Vec<Option<Revision>>,
}

impl Store {
    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn input(&mut self, client: usize) -> Input {
        let value = self.operations.len() as Value + 1;
        match (self.random.random_range(0..10), self.seen[client]) {
            (0..3, None) | (0, _) => Input::Create(value),
            (1..5, Some(at)) => Input::Update(value, at),
            (5, Some(at)) => Input::Delete(Some(at)),
            (6, _) => Input::Delete(None),
            _ => Input::Get,
        }
    }

    fn apply(&mut self, input: Input) -> Outcome {
        let at = self.now.map(|(_, r)| r);
        let wrong = |wanted: Option<Revision>| wanted.is_some() && wanted != at;
        match input {
            Input::Create(_) if at.is_some() => Outcome::Exists,
            Input::Update(..) | Input::Delete(_) if at.is_none() => Outcome::Absent,
            Input::Update(_, wanted) if wrong(Some(wanted)) => Outcome::Conflict,
            Input::Delete(wanted) if wrong(wanted) => Outcome::Conflict,
            Input::Get => {
                let stale = self.chance(self.course.stale);
                let seen = if stale { self.before } else { self.now };
                seen.map_or(Outcome::Absent, |(v, r)| Outcome::Found(v, r))
            }
            Input::Create(v) | Input::Update(v, _) => {
                self.revision += 1;
                self.before = self.now.replace((v, self.revision));
                Outcome::Written(self.revision)
            }
            Input::Delete(_) => {
                self.revision += 1;
                self.before = self.now.take();
                Outcome::Deleted
            }
        }
    }

    fn history(course: Course, seed: u64) -> Vec<Operation> {
        let mut all = Self {
            course,
            random: StdRng::seed_from_u64(seed),
            now: None,
            before: None,
            revision: 0,
            operations: Vec::new(),
            outcomes: Vec::new(),
            seen: vec![None; course.clients],
        };
        let mut steps: Vec<Step> = (0..course.clients).map(Step::Begins).collect();
        let mut agenda: BinaryHeap<Reverse<(Time, usize)>> =
            (0..course.clients).map(|n| Reverse((1, n))).collect();
        while let Some(Reverse((now, step))) = agenda.pop() {
            let what = steps[step];
            let mut plan = |at: Time, step: Step| {
                agenda.push(Reverse((at, steps.len())));
                steps.push(step);
            };
            match what {
                Step::Begins(client) if all.operations.len() < course.operations => {
                    let n = all.operations.len();
                    let input = all.input(client);
                    let happens = now + all.random.random_range(1..course.longest);
                    let answered = happens + all.random.random_range(1..=course.longest / 4);
                    let ends = answered.min(now + course.patience);
                    let is_lost = all.chance(course.lost);
                    if !is_lost {
                        plan(happens, Step::Happens(n));
                    }
                    plan(ends, Step::Ends(n));
                    all.operations.push(Operation {
                        client,
                        key: "key-0".to_owned(),
                        start: now,
                        end: ends,
                        input,
                        outcome: Outcome::Unknown,
                    });
                    // Known only if the answer comes in time.
                    all.outcomes.push(Outcome::Unknown);
                    let is_heard = !is_lost && answered == ends;
                    all.operations[n].outcome = match is_heard {
                        true => Outcome::Absent,
                        false => Outcome::Unknown,
                    };
                }
                Step::Begins(_) => {}
                Step::Happens(n) => {
                    let input = all.operations[n].input;
                    all.outcomes[n] = all.apply(input);
                }
                Step::Ends(n) => {
                    let client = all.operations[n].client;
                    if all.operations[n].outcome != Outcome::Unknown {
                        all.operations[n].outcome = all.outcomes[n];
                        all.seen[client] = match all.outcomes[n] {
                            Outcome::Written(r) | Outcome::Found(_, r) => Some(r),
                            Outcome::Absent | Outcome::Deleted => None,
                            _ => all.seen[client],
                        };
                    }
                    let rest = all.random.random_range(1..10);
                    plan(now + rest, Step::Begins(client));
                }
            }
        }
        all.operations
    }
}

/// Tries everything.
fn has_an_order(
    left: &[&Operation],
    value: Option<Value>,
    newest: Revision,
    known: &RevisionByValue,
) -> bool {
    let is_answered = |o: &&Operation| o.outcome != Outcome::Unknown;
    let answered = left.iter().filter(|o| is_answered(o));
    let Some(deadline) = answered.map(|o| o.end).min() else {
        return true;
    };
    let at = value.and_then(|v| known.get(&v).copied());
    (0..left.len()).any(|i| {
        let operation = left[i];
        let sees = |is_so: bool| is_so.then_some((value, newest));
        let write = |v: Value| {
            let revision = known.get(&v).copied();
            let is_later = revision.is_none_or(|r| r > newest);
            is_later.then_some((Some(v), revision.unwrap_or(newest)))
        };
        let then = match (operation.input, operation.outcome) {
            _ if operation.start > deadline => None,
            (Input::Create(v), Outcome::Written(_) | Outcome::Unknown) if value.is_none() => {
                write(v)
            }
            (Input::Update(v, wanted), Outcome::Written(_) | Outcome::Unknown)
                if at == Some(wanted) =>
            {
                write(v)
            }
            (Input::Delete(wanted), Outcome::Deleted | Outcome::Unknown)
                if value.is_some() && (wanted.is_none() || wanted == at) =>
            {
                Some((None, newest))
            }
            (Input::Create(_), Outcome::Exists) => sees(value.is_some()),
            (Input::Update(_, wanted), Outcome::Conflict)
            | (Input::Delete(Some(wanted)), Outcome::Conflict) => {
                sees(value.is_some() && at != Some(wanted))
            }
            (_, Outcome::Absent) => sees(value.is_none()),
            (Input::Get, Outcome::Found(v, _)) => sees(value == Some(v)),
            _ => None,
        };
        then.is_some_and(|(value, newest)| {
            let mut rest = left.to_vec();
            rest.remove(i);
            has_an_order(&rest, value, newest, known)
        })
    })
}

#[test]
fn it_finds_an_order_exactly_where_there_is_one() {
    let (mut right, mut wrong) = (0, 0);
    for seed in 0..1_000 {
        let is_stale = seed % 2 == 0;
        let course = Course {
            clients: 4,
            operations: 9,
            longest: if seed % 4 < 2 { 12 } else { 60 },
            patience: if is_stale { 40 } else { 20 },
            lost: if is_stale { 5 } else { 20 },
            stale: if is_stale { 100 } else { 0 },
        };
        let history = History {
            operations: Store::history(course, seed),
            ..History::default()
        };
        let known = known(&history).expect("values have one revision each");
        let all: Vec<&Operation> = history.operations.iter().collect();
        let is_right = has_an_order(&all, None, 0, &known);
        assert!(is_right || course.stale > 0, "seed {seed}");
        let found = register::check(all, &known);
        assert_eq!(found.is_ok(), is_right, "seed {seed}: {found:?}");
        right += usize::from(is_right);
        wrong += usize::from(!is_right);
    }
    assert!(right > 500 && wrong > 80, "{right} right, {wrong} wrong");
}

/// Of a machine that is loaded: most answers come too late, and requests happen long after.
fn loaded(operations: usize, stale: u32, seed: u64) -> Vec<Operation> {
    let course = Course {
        clients: 8,
        operations,
        longest: 4_000,
        patience: 2_000,
        lost: 30,
        stale,
    };
    Store::history(course, seed)
}

fn steps(operations: Vec<Operation>) -> Result<usize, Violation> {
    let history = History {
        operations,
        ..History::default()
    };
    let known = known(&history).expect("values have one revision each");
    register::search(history.operations.iter().collect(), &known, 2_000_000)
}

#[test]
fn it_takes_about_as_many_steps_as_there_are_operations() {
    for seed in 0..20 {
        let operations = loaded(3_000, 0, seed);
        let unknown = operations
            .iter()
            .filter(|o| o.outcome == Outcome::Unknown && o.input != Input::Get);
        assert!(unknown.count() > 500, "of them, many have no answer");
        let steps = steps(operations).expect("right");
        assert!(steps < 30_000, "seed {seed}: {steps} steps");
    }
}

#[test]
fn what_is_wrong_among_writes_without_an_answer_is_found() {
    for seed in 0..20 {
        let wrong = steps(loaded(3_000, 20, seed)).expect_err("it reads stale data");
        assert!(wrong.what.starts_with("no order explains"), "{wrong}");
    }
}

/// Hundreds of writes of all kinds that began before all else and have no answer: each may happen
/// at any time, or never.
#[test]
fn writes_without_an_answer_that_overlap_everything_cost_little() {
    let op = |start: Time, input: Input, outcome: Outcome| Operation {
        client: 0,
        key: "key-0".to_owned(),
        start,
        end: start + 5,
        input,
        outcome,
    };
    let of = |rounds: u64| {
        let mut all = Vec::new();
        for n in 0..300 {
            all.push(op(n, Input::Create(10_000 + n), Outcome::Unknown));
            all.push(op(n, Input::Delete(None), Outcome::Unknown));
        }
        for n in 0..rounds {
            let (start, revision) = (1_000 + n * 20, n + 1);
            all.push(op(start, Input::Create(n + 1), Outcome::Written(revision)));
            let update = Input::Update(20_000 + n, revision);
            all.push(op(start, update, Outcome::Unknown));
            all.push(op(start, Input::Delete(Some(revision)), Outcome::Unknown));
            // Somebody deleted it, and somebody made another, which went, too.
            all.push(op(start + 6, Input::Get, Outcome::Absent));
            let refused = Input::Create(30_000 + n);
            all.push(op(start + 12, refused, Outcome::Exists));
        }
        all
    };
    let taken = steps(of(300)).expect("right");
    assert!(taken < 5_000, "{taken} steps");
    // There are not as many creations.
    let wrong = steps(of(301)).expect_err("nobody made it");
    assert!(wrong.what.starts_with("no order explains"), "{wrong}");
    // No way leads back to what was replaced.
    let mut all = of(200);
    all.push(op(100_000, Input::Get, Outcome::Found(1, 1)));
    let wrong = steps(all).expect_err("it had been replaced");
    assert!(wrong.what.starts_with("no order explains"), "{wrong}");
}
