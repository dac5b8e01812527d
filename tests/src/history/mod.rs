//! Whether a history of concurrent clients could have come from one correct store: each object a
//! linearizable register, each list a snapshot at its revision, each watch complete and in order.
//! Pure: it knows neither how the history was made nor the cluster.

mod register;
#[cfg(test)]
mod search_tests;
mod streams;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

/// A resourceVersion as a number: both stores count their writes.
pub type Revision = u64;

/// What a write puts into an object; no two writes of a history share one.
pub type Value = u64;

/// Nanoseconds since the history began, on one clock.
pub type Time = u64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    Create(Value),
    /// Holds only where the object is at this revision.
    Update(Value, Revision),
    /// The same; none deletes whatever there is.
    Delete(Option<Revision>),
    Get,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Created or updated at this revision.
    Written(Revision),
    Deleted,
    Found(Value, Revision),
    /// There was no such object.
    Absent,
    /// Refused: it exists.
    Exists,
    /// Refused: it is at another revision.
    Conflict,
    /// No clear answer: it happens at any time after its start, or never.
    Unknown,
}

/// One request for one object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    pub client: usize,
    pub key: String,
    pub start: Time,
    /// When the answer came; has no meaning for an unknown outcome.
    pub end: Time,
    pub input: Input,
    pub outcome: Outcome,
}

/// An answered list of all objects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List {
    pub client: usize,
    pub start: Time,
    pub end: Time,
    pub revision: Revision,
    pub items: BTreeMap<String, (Value, Revision)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    Added,
    Modified,
    Deleted,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    pub at: Time,
    pub change: Change,
    pub key: String,
    /// Of a deletion: the last one.
    pub value: Value,
    pub revision: Revision,
}

/// What one watcher saw, over all its connections, from before the first write to after the last.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Watch {
    pub connections: usize,
    pub events: Vec<Event>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct History {
    pub operations: Vec<Operation>,
    pub lists: Vec<List>,
    pub watches: Vec<Watch>,
}

/// Why no correct store gives this history, with the piece of it that shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    pub what: String,
    pub piece: Vec<String>,
}

impl Violation {
    fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            piece: Vec::new(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        self.piece
            .iter()
            .try_for_each(|line| write!(f, "\n    {line}"))
    }
}

impl std::error::Error for Violation {}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |t: Time| t as f64 / 1e6;
        let end = match self.outcome {
            Outcome::Unknown => "...".to_owned(),
            _ => format!("{:.3}", ms(self.end)),
        };
        write!(
            f,
            "{:.3}..{end} ms client {} {}: {:?} -> {:?}",
            ms(self.start),
            self.client,
            self.key,
            self.input,
            self.outcome
        )
    }
}

/// Which revision wrote which value, as far as anybody saw it.
type RevisionByValue = BTreeMap<Value, Revision>;

/// Judges a history.
///
/// # Errors
/// The first contradiction that is found.
pub fn check(history: &History) -> Result<(), Violation> {
    let known = known(history)?;
    real_time(history)?;
    streams::check(history, &known)?;
    let mut by_key: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        by_key.entry(&operation.key).or_default().push(operation);
    }
    by_key
        .into_values()
        .try_for_each(|operations| register::check(operations, &known))
}

/// A value is written once, and every answer that has it agrees on the revision.
fn known(history: &History) -> Result<RevisionByValue, Violation> {
    let mut known = RevisionByValue::new();
    let mut learn = |value: Value, revision: Revision| match known.insert(value, revision) {
        Some(before) if before != revision => Err(Violation::new(format!(
            "value {value} was seen at revision {before} and at {revision}"
        ))),
        _ => Ok(()),
    };
    for operation in &history.operations {
        match (operation.input, operation.outcome) {
            (Input::Create(v) | Input::Update(v, _), Outcome::Written(r)) => learn(v, r)?,
            (_, Outcome::Found(v, r)) => learn(v, r)?,
            _ => {}
        }
    }
    for (value, revision) in history.lists.iter().flat_map(|l| l.items.values()) {
        learn(*value, *revision)?;
    }
    for event in history.watches.iter().flat_map(|w| &w.events) {
        if event.change != Change::Deleted {
            learn(event.value, event.revision)?;
        }
    }
    Ok(known)
}

/// Revisions follow the clock: a write has a greater one than any that was answered before it was
/// asked for, of whatever object; a list is not older.
fn real_time(history: &History) -> Result<(), Violation> {
    let written = |o: &Operation| match o.outcome {
        Outcome::Written(r) => Some(r),
        _ => None,
    };
    let answered = |o: &Operation| match o.outcome {
        Outcome::Written(r) | Outcome::Found(_, r) => Some(r),
        _ => None,
    };
    // When a revision was answered, and by what.
    let mut answers: Vec<(Time, Revision, String)> = history
        .operations
        .iter()
        .filter_map(|o| Some((o.end, answered(o)?, o.to_string())))
        .chain(history.lists.iter().map(|l| {
            let by = format!("list of client {} at {}", l.client, l.revision);
            (l.end, l.revision, by)
        }))
        .collect();
    answers.sort();
    // When one was needed: start, revision, the least that is above what was answered, and which
    // request.
    let mut needs: Vec<(Time, Revision, Revision, String)> = history
        .operations
        .iter()
        .filter_map(|o| Some((o.start, written(o)?, 1, o.to_string())))
        .chain(history.lists.iter().map(|l| {
            let by = format!("list of client {} at {}", l.client, l.revision);
            (l.start, l.revision, 0, by)
        }))
        .collect();
    needs.sort();
    let mut newest: (Revision, &str) = (0, "");
    let mut answers = answers.iter().peekable();
    for (start, revision, above, who) in &needs {
        while let Some((_, answered, by)) = answers.next_if(|(end, ..)| end < start) {
            if *answered > newest.0 {
                newest = (*answered, by);
            }
        }
        if *revision < newest.0 + above {
            return Err(Violation {
                what: "revisions go back: the second was asked for after the first was answered"
                    .to_owned(),
                piece: vec![newest.1.to_owned(), who.clone()],
            });
        }
    }
    Ok(())
}
