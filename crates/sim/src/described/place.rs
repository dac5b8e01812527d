//! Where in a YAML text a path such as `events[3].fail.zone` leads: whoever reads of an error wants to
//! go there. It knows no field.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The line and column of what the path leads to, each from 1; of the last part of it that is there.
/// None where not even its first part is.
pub fn of(text: &str, path: &str) -> Option<(usize, usize)> {
    let steps = path.split(['.', '[']).map(|s| s.trim_end_matches(']'));
    let steps: Vec<&str> = steps.collect();
    let taken = Cell::new(0);
    let way = Way {
        steps: &steps,
        taken: &taken,
    };
    let walked = way.deserialize(serde_norway::Deserializer::from_str(text));
    let place = walked.err()?.location()?;
    (taken.get() > 0).then(|| (place.line(), place.column()))
}

/// What is left of the way. It always ends with an error, which the reader gives its place.
#[derive(Clone, Copy)]
struct Way<'a> {
    steps: &'a [&'a str],
    taken: &'a Cell<usize>,
}

impl<'a> Way<'a> {
    /// The next step, and the way after it.
    fn next(self) -> Option<(&'a str, Self)> {
        let (step, steps) = self.steps.split_first()?;
        Some((step, Self { steps, ..self }))
    }

    fn step(self) -> Self {
        self.taken.set(self.taken.get() + 1);
        self
    }
}

fn arrived<E: Error>() -> E {
    E::custom("it is here")
}

impl<'de> DeserializeSeed<'de> for Way<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Way<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the end of the way")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((name, rest)) = self.next() else {
            return Err(arrived());
        };
        while let Some(key) = map.next_key::<String>()? {
            if key == name {
                return map.next_value_seed(rest.step());
            }
            map.next_value::<IgnoredAny>()?;
        }
        Err(arrived())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let next = self.next();
        let next = next.and_then(|(number, rest)| Some((number.parse::<usize>().ok()?, rest)));
        let Some((number, rest)) = next else {
            return Err(arrived());
        };
        for _ in 0..number {
            if seq.next_element::<IgnoredAny>()?.is_none() {
                return Err(arrived());
            }
        }
        seq.next_element_seed(rest.step())?;
        Err(arrived())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_to_its_line() {
        let text = "
nodes:
- { name: n, count: 2 }
- name: m
  capacity: { cpu: '1' }
events:
- at: 1m
  fail: { zone: a }
- at: 2m
";
        for (path, place) in [
            ("nodes[0].count", (3, 21)),
            ("nodes[1]", (4, 3)),
            ("nodes[1].capacity", (5, 13)),
            ("events[0].fail.zone", (8, 17)),
            // What is not there is missing somewhere.
            ("nodes[1].capacity.pods", (5, 13)),
            ("events[1].fail", (9, 3)),
        ] {
            assert_eq!(of(text, path), Some(place), "{path}");
        }
        assert_eq!(of(text, "duration"), None);
        assert_eq!(of("", "nodes"), None);
    }
}
