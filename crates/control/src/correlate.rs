//! Which events are written, and as what: those that repeat are counted in one object, those that
//! are alike but for their messages are combined, and about one object only so many are said. As
//! upstream's, and without clock or client.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use api::names;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;

/// What is remembered of each sort at most; upstream's cache size.
const REMEMBERED: usize = 4_096;
/// So many events about one object at once …
const BURST: f64 = 25.0;
/// … and one more per this many seconds after.
const REFILL_SECONDS: f64 = 300.0;
/// So many different messages of one reason are kept separate …
const MESSAGES: usize = 10;
/// … until this many seconds have passed without one.
const APART_SECONDS: f64 = 600.0;
/// How a combined event's message begins.
const COMBINED: &str = "(combined from similar events): ";
/// Characters of the object's name that go into an event's name: with the time it must not be
/// longer than a name may be (253).
const NAME_CHARS: usize = 230;
/// In place of an object's name that cannot be in another one.
const NAMELESS: &str = "event";
/// By up to so many nanoseconds the names of what different components say are apart.
const APART_NANOS: u64 = 1_000;

/// What somebody has to say.
#[derive(Clone, PartialEq, Debug)]
pub struct Note {
    pub about: ObjectReference,
    pub warning: bool,
    pub reason: String,
    pub message: String,
    pub at: Timestamp,
}

/// How it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Of the event's object.
    pub name: String,
    /// How often it was said; the object is there already if more than once.
    pub count: i32,
    pub first: Timestamp,
    pub message: String,
}

/// An object, by what identifies it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct About {
    kind: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
}

/// What makes events alike.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Alike {
    about: About,
    field: Option<String>,
    warning: bool,
    reason: String,
}

/// A table that forgets what was not used for the longest time.
#[derive(Debug)]
struct Recent<K, V> {
    values: HashMap<K, (V, u64)>,
    uses: u64,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self {
            values: HashMap::new(),
            uses: 0,
        }
    }
}

impl<K: Eq + Hash, V> Recent<K, V> {
    /// The value of a key, made when there is none.
    fn of(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        self.uses += 1;
        if self.values.len() >= REMEMBERED && !self.values.contains_key(&key) {
            self.forget();
        }
        let (value, used) = self.values.entry(key).or_insert_with(|| (make(), 0));
        *used = self.uses;
        value
    }

    /// Drops the half that was not used for longer than the other: one look at all for many new.
    fn forget(&mut self) {
        let mut uses: Vec<u64> = self.values.values().map(|(_, used)| *used).collect();
        let half = uses.len() / 2;
        let (_, middle, _) = uses.select_nth_unstable(half);
        let middle = *middle;
        self.values.retain(|_, (_, used)| *used >= middle);
    }
}

/// Messages that events of one sort had of late.
#[derive(Debug)]
struct Messages {
    seen: BTreeSet<String>,
    last: Timestamp,
}

#[derive(Debug)]
struct Tokens {
    left: f64,
    last: Timestamp,
}

/// An event that was written.
#[derive(Debug)]
struct WrittenEvent {
    name: String,
    count: i32,
    first: Timestamp,
}

/// Remembers what one component said.
#[derive(Debug, Default)]
pub struct Correlator {
    messages: Recent<Alike, Messages>,
    /// By the message, or without one where they are combined.
    said: Recent<(Alike, Option<String>), WrittenEvent>,
    tokens: Recent<About, Tokens>,
    /// The number that the next event about an object may have, by the object's name.
    numbers: Recent<String, i128>,
    /// Added to times in names.
    apart_nanos: i128,
}

impl Correlator {
    /// Of a component that is called so.
    pub fn of(source: &impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        source.hash(&mut hasher);
        Self {
            apart_nanos: i128::from(hasher.finish() % APART_NANOS),
            ..Self::default()
        }
    }

    /// What is to be written; `None` when too much was said about the object.
    pub fn decide(&mut self, note: &Note) -> Option<Verdict> {
        let about = About {
            kind: note.about.kind.clone(),
            namespace: note.about.namespace.clone(),
            name: note.about.name.clone(),
            uid: note.about.uid.clone(),
        };
        let alike = Alike {
            about: about.clone(),
            field: note.about.field_path.clone(),
            warning: note.warning,
            reason: note.reason.clone(),
        };
        let (message, separate) = if self.is_combined(&alike, note) {
            (format!("{COMBINED}{}", note.message), None)
        } else {
            (note.message.clone(), Some(note.message.clone()))
        };
        let (numbers, apart) = (&mut self.numbers, self.apart_nanos);
        let make = || WrittenEvent {
            name: name_of(note, numbers, apart),
            count: 0,
            first: note.at,
        };
        let said = self.said.of((alike, separate), make);
        // It is counted even if it is not written now: the next one says how many there were.
        said.count = said.count.saturating_add(1);
        let verdict = Verdict {
            name: said.name.clone(),
            count: said.count,
            first: said.first,
            message,
        };
        self.may_say(about, note.at).then_some(verdict)
    }

    fn is_combined(&mut self, alike: &Alike, note: &Note) -> bool {
        let make = || Messages {
            seen: BTreeSet::new(),
            last: note.at,
        };
        let messages = self.messages.of(alike.clone(), make);
        if seconds_between(messages.last, note.at) > APART_SECONDS {
            messages.seen.clear();
        }
        messages.last = note.at;
        messages.seen.insert(note.message.clone());
        if messages.seen.len() < MESSAGES {
            return false;
        }
        messages.seen.pop_first();
        true
    }

    fn may_say(&mut self, about: About, now: Timestamp) -> bool {
        let make = || Tokens {
            left: BURST,
            last: now,
        };
        let tokens = self.tokens.of(about, make);
        let gained = seconds_between(tokens.last, now).max(0.0) / REFILL_SECONDS;
        tokens.left = (tokens.left + gained).min(BURST);
        tokens.last = now;
        let may = tokens.left >= 1.0;
        if may {
            tokens.left -= 1.0;
        }
        may
    }
}

fn seconds_between(before: Timestamp, after: Timestamp) -> f64 {
    after.duration_since(before).as_secs_f64()
}

/// The object's name, and the time as a number that nothing else has. Where several things are said of
/// an object at one moment, as they are while a clock stands still, the number counts up; and other
/// components begin with another one.
fn name_of(note: &Note, numbers: &mut Recent<String, i128>, apart: i128) -> String {
    let name = note.about.name.as_deref().unwrap_or_default();
    let name: String = name.chars().take(NAME_CHARS).collect();
    // Where it was cut off there may be what no name ends with.
    let name = name.trim_end_matches(['-', '.']);
    let fits = names::is_dns1123_subdomain(name).is_empty();
    let name = if fits { name } else { NAMELESS };
    let now = note.at.as_nanosecond() + apart;
    let next = numbers.of(name.to_owned(), || now);
    let number = now.max(*next);
    *next = number + 1;
    format!("{name}.{number:x}")
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;

    use super::*;

    fn note(name: &str, message: &str, seconds: i64) -> Note {
        Note {
            about: ObjectReference {
                name: Some(name.into()),
                uid: Some(format!("uid of {name}")),
                ..ObjectReference::default()
            },
            warning: false,
            reason: "Pulled".into(),
            message: message.into(),
            at: Timestamp::UNIX_EPOCH + seconds.seconds(),
        }
    }

    #[test]
    fn repeats_are_counted_in_one_object() {
        let mut c = Correlator::default();
        let first = c.decide(&note("p", "a", 1)).expect("said");
        let again = c.decide(&note("p", "a", 9)).expect("said");
        assert_eq!((first.count, again.count), (1, 2));
        assert_eq!((&first.name, first.first), (&again.name, again.first));
        let other = c.decide(&note("p", "b", 9)).expect("said");
        assert_ne!(other.name, again.name);
        assert_eq!(other.count, 1);
        let mut warning = note("p", "a", 10);
        warning.warning = true;
        assert_eq!(c.decide(&warning).expect("said").count, 1);
    }

    #[test]
    fn about_one_object_only_so_many_are_said() {
        let mut c = Correlator::default();
        let said = (0..100).filter_map(|_| c.decide(&note("p", "a", 0)));
        assert_eq!(said.count(), 25);
        assert!(c.decide(&note("q", "a", 0)).is_some());
        assert_eq!(c.decide(&note("p", "a", 299)), None);
        // What was not written counts all the same.
        let later = c.decide(&note("p", "a", 301)).expect("said");
        assert_eq!(later.count, 102);
    }

    #[test]
    fn events_that_differ_in_their_messages_only_are_combined() {
        let mut c = Correlator::default();
        let mut said = |n: usize, at| c.decide(&note("p", &format!("pod {n}"), at)).expect("said");
        for n in 0..9 {
            let one = said(n, 1);
            assert_eq!((one.count, one.message), (1, format!("pod {n}")));
        }
        let (tenth, eleventh) = (said(9, 2), said(10, 3));
        assert_eq!(tenth.message, "(combined from similar events): pod 9");
        assert_eq!(eleventh.message, "(combined from similar events): pod 10");
        assert_eq!(tenth.name, eleventh.name);
        assert_eq!((tenth.count, eleventh.count), (1, 2));
        // Long after, they are kept separate again.
        assert_eq!(said(11, 700).message, "pod 11");
    }

    #[test]
    fn what_was_not_used_for_the_longest_is_forgotten() {
        let mut recent = Recent::default();
        for n in 0..REMEMBERED {
            *recent.of(n, || 0) += 1;
        }
        *recent.of(0, || 0) += 1;
        *recent.of(REMEMBERED, || 0) += 1;
        assert!(recent.values.len() <= REMEMBERED / 2 + 1);
        assert_eq!(*recent.of(0, || 0), 2);
        assert_eq!(*recent.of(1, || 0), 0);
        assert_eq!(*recent.of(REMEMBERED, || 0), 1);
    }

    #[test]
    fn whatever_an_object_is_called_its_events_have_names() {
        let cut_at_a_dash = "a".repeat(NAME_CHARS - 1) + "-b";
        for (object, begins) in [
            ("a".repeat(NAME_CHARS + 9), "a".repeat(NAME_CHARS)),
            (cut_at_a_dash, "a".repeat(NAME_CHARS - 1)),
            ("system:node".to_owned(), NAMELESS.to_owned()),
            ("2001:db8::1".to_owned(), NAMELESS.to_owned()),
            (String::new(), NAMELESS.to_owned()),
        ] {
            let said = note(&object, "a", 1_700_000_000);
            let name = name_of(&said, &mut Recent::default(), 0);
            assert!(name.starts_with(&format!("{begins}.")), "{name}");
            let wrong = names::is_dns1123_subdomain(&name);
            assert!(wrong.is_empty(), "{name}: {wrong:?}");
        }
    }

    #[test]
    fn what_is_said_at_one_moment_has_a_name_of_its_own() {
        let mut c = Correlator::default();
        let mut name = |object: &str, message: &str, at| {
            let said = c.decide(&note(object, message, at));
            said.expect("said").name
        };
        let second = 1_000_000_000_i64;
        for (object, message, at, number) in [
            ("p", "a", 5, 5 * second),
            ("p", "b", 5, 5 * second + 1),
            ("q", "a", 5, 5 * second),
            ("p", "c", 5, 5 * second + 2),
            // What repeats is one object.
            ("p", "b", 5, 5 * second + 1),
            ("p", "d", 6, 6 * second),
            // A clock that was set back.
            ("p", "e", 4, 6 * second + 1),
        ] {
            let expected = format!("{object}.{number:x}");
            assert_eq!(name(object, message, at), expected, "{message}");
        }
        // What components say at the same moment has other names, too.
        let of = |source: &str| {
            let said = Correlator::of(&source).decide(&note("p", "a", 5));
            said.expect("said").name
        };
        assert_ne!(of("default-scheduler"), of("kubelet"));
        assert_eq!(of("kubelet"), of("kubelet"));
    }
}
