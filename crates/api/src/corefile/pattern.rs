//! Regular expressions of a Corefile. They are written for Go's library, whose language this one's
//! contains as far as names need it, and take time in proportion to what is read, as there.

use regex::{Regex, RegexBuilder};

/// No expression is longer, as in CoreDNS.
const MOST_BYTES: usize = 10_000;
/// What one may take in memory.
const COMPILED_BYTES: usize = 1 << 20;

/// A regular expression.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

impl Pattern {
    /// Reads one.
    ///
    /// # Errors
    /// Why it is none.
    pub fn of(text: &str) -> Result<Self, String> {
        if text.len() > MOST_BYTES {
            return Err(format!("an expression of more than {MOST_BYTES} bytes"));
        }
        let built = RegexBuilder::new(text).size_limit(COMPILED_BYTES).build();
        built
            .map(Self)
            .map_err(|_| format!("{text}: not a regular expression that is possible here"))
    }

    /// As it is looked for.
    pub fn regex(&self) -> &Regex {
        &self.0
    }

    /// A text with what the groups of this expression hold in a name in place of their numbers in
    /// braces, such as `{1}`; none when the expression is not found in it.
    pub fn filled(&self, name: &str, text: &str) -> Option<String> {
        let groups = self.0.captures(name)?;
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, from)) = rest.split_once('{') {
            filled.push_str(before);
            let group = from.split_once('}').and_then(|(number, after)| {
                let number: usize = number.parse().ok()?;
                (number < groups.len()).then_some((number, after))
            });
            match group {
                Some((number, after)) => {
                    filled.push_str(groups.get(number).map_or("", |g| g.as_str()));
                    rest = after;
                }
                None => {
                    filled.push('{');
                    rest = from;
                }
            }
        }
        filled.push_str(rest);
        Some(filled)
    }

    /// How many different groups a text names in braces, and whether there are as many here.
    pub fn has_groups_of(&self, text: &str) -> bool {
        let named = (0..=100).filter(|n| text.contains(&format!("{{{n}}}")));
        named.count() < self.0.captures_len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_filled_in() {
        let pattern = Pattern::of(r"(.*)-(us-west-1)\.example\.org").expect("a pattern");
        let filled = |text| pattern.filled("ftp-us-west-1.example.org.", text);
        let found = filled("{1}.service.{2}.consul.").expect("found");
        assert_eq!(found, "ftp.service.us-west-1.consul.");
        assert_eq!(filled("{x}{9}{").as_deref(), Some("{x}{9}{"));
        assert_eq!(pattern.filled("other.", "{1}"), None);
        assert!(pattern.has_groups_of("{1}{2}") && !pattern.has_groups_of("{0}{1}{2}{3}"));
        for wrong in ["(", &"a".repeat(MOST_BYTES + 1)] {
            assert!(Pattern::of(wrong).is_err(), "{wrong}");
        }
    }
}
