//! Sets of completion indexes as a Job's status writes them: `1,3-5,7`.

use std::fmt;

/// Ranges with both ends, in order, with gaps between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Reads the text form; what cannot be read is left out, and indexes from `completions` on.
    pub fn parse(text: &str, completions: i32) -> Self {
        let read = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: i32 = first
                .parse()
                .ok()
                .filter(|n| (0..completions).contains(n))?;
            let last: i32 = last.parse().ok().filter(|n| *n >= first)?;
            Some((first, last.min(completions - 1)))
        };
        let mut all: Vec<_> = text.split(',').filter_map(read).collect();
        all.sort_unstable();
        Self::joined(all)
    }

    fn joined(sorted: Vec<(i32, i32)>) -> Self {
        let mut out: Vec<(i32, i32)> = Vec::with_capacity(sorted.len());
        for (first, last) in sorted {
            match out.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => {
                    before.1 = before.1.max(last);
                }
                _ => out.push((first, last)),
            }
        }
        Self(out)
    }

    #[must_use]
    pub fn with(&self, more: impl IntoIterator<Item = i32>) -> Self {
        self.merge(&Self(more.into_iter().map(|n| (n, n)).collect()))
    }

    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        let mut all: Vec<_> = self.0.iter().chain(&other.0).copied().collect();
        all.sort_unstable();
        Self::joined(all)
    }

    pub fn total(&self) -> i32 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn has(&self, index: i32) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// How many are in both.
    pub fn in_both(&self, other: &Self) -> i32 {
        let mut total = 0;
        for (first, last) in &self.0 {
            let from = other.0.partition_point(|(_, l)| l < first);
            let overlapping = other.0[from..].iter().take_while(|(f, _)| f <= last);
            total += overlapping
                .map(|(f, l)| last.min(l) - first.max(f) + 1)
                .sum::<i32>();
        }
        total
    }

    /// The first `count` below `completions` that are not in the set.
    pub fn missing(&self, count: usize, completions: i32) -> Vec<i32> {
        let mut out = Vec::new();
        let mut next = 0;
        for (first, last) in self.0.iter().copied().chain([(completions, completions)]) {
            let gap = next..first.min(completions);
            out.extend(gap.take(count - out.len()));
            next = last.saturating_add(1);
            if out.len() >= count {
                break;
            }
        }
        out
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_is_read_and_written() {
        for (text, completions, written) in [
            ("", 5, ""),
            ("0", 5, "0"),
            ("0,1", 5, "0,1"),
            ("0-2,4", 5, "0-2,4"),
            ("0,1,2,3", 5, "0-3"),
            ("3-9", 5, "3,4"),
            ("7", 5, ""),
            ("x,2,-1,4-3", 5, "2"),
        ] {
            assert_eq!(
                Indexes::parse(text, completions).to_string(),
                written,
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn they_are_sets(a in prop::collection::btree_set(0i32..40, 0..20), b in prop::collection::btree_set(0i32..40, 0..20), n in 0usize..10) {
            let of = |s: &BTreeSet<i32>| Indexes::default().with(s.iter().copied());
            let (x, y) = (of(&a), of(&b));
            prop_assert_eq!(Indexes::parse(&x.to_string(), 40), x.clone());
            prop_assert_eq!(x.total() as usize, a.len());
            prop_assert_eq!(x.merge(&y), of(&(&a | &b)));
            prop_assert_eq!(x.in_both(&y) as usize, (&a & &b).len());
            let missing: Vec<i32> = (0..40).filter(|i| !a.contains(i)).take(n).collect();
            prop_assert_eq!(x.missing(n, 40), missing);
            for i in 0..40 {
                prop_assert_eq!(x.has(i), a.contains(&i));
            }
        }
    }
}
