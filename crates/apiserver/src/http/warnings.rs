//! The texts for `Warning` headers of one answer, each once, and as many as a client can take.

use std::collections::HashSet;

/// All texts together have this many characters; from there on each is cut, as upstream.
const ALL_CHARS: usize = 4096;
/// Characters of a text that is cut.
const CUT_CHARS: usize = 256;

/// What was warned of so far.
#[derive(Debug, Default)]
pub struct Warnings {
    known: HashSet<String>,
    texts: Vec<String>,
    /// Characters of `texts`.
    chars: usize,
    is_cut: bool,
}

impl Warnings {
    /// Adds a text that was not said before, if there is room. A text for which there is none cuts
    /// all of them.
    pub fn add(&mut self, text: String) {
        let full = self.is_cut && self.chars >= ALL_CHARS;
        if text.is_empty() || full || self.known.contains(&text) {
            return;
        }
        let chars = text.chars().count();
        self.known.insert(text.clone());
        self.texts.push(text);
        self.chars += chars;
        if self.is_cut {
            self.cut_from(self.texts.len() - 1);
        } else if self.chars > ALL_CHARS {
            tracing::info!("a request has more warnings than an answer holds; they are cut");
            self.is_cut = true;
            self.cut_from(0);
        }
    }

    /// In the order in which they came.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    fn cut_from(&mut self, first: usize) {
        for text in self.texts.iter_mut().skip(first) {
            if let Some((end, _)) = text.char_indices().nth(CUT_CHARS) {
                let left = text.split_off(end);
                self.chars -= left.chars().count();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: impl IntoIterator<Item = String>) -> Warnings {
        let mut all = Warnings::default();
        texts.into_iter().for_each(|text| all.add(text));
        all
    }

    #[test]
    fn each_is_said_once_and_in_order() {
        let all = of(["b", "a", "", "b", "c", "a"].map(str::to_owned));
        assert_eq!(all.texts(), ["b", "a", "c"]);
    }

    #[test]
    fn long_ones_are_whole_as_long_as_all_fit() {
        let (long, short) = ("ä".repeat(4_000), "s".repeat(96));
        let all = of([long.clone(), short.clone()]);
        assert_eq!(all.texts(), [long.clone(), short.clone()]);
        let all = of([long.clone(), short.clone(), "x".to_owned()]);
        assert_eq!(all.texts(), ["ä".repeat(256), short, "x".to_owned()]);
        // What was cut is still known.
        let all = of([long.clone(), "y".repeat(4_000), long]);
        assert_eq!(all.texts().len(), 2);
    }

    #[test]
    fn many_end_where_an_answer_is_full() {
        let all = of((0..100_000).map(|i| format!("{i:0300}")));
        assert_eq!(all.texts().len(), 16);
        assert!(all.texts().iter().all(|t| t.len() == 256));
        let all = of((0..100_000).map(|i| format!("warning {i:06}")));
        let chars: usize = all.texts().iter().map(String::len).sum();
        assert!((4_096..4_096 + 256).contains(&chars), "{chars}");
    }
}
