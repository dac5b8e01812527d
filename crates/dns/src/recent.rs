//! Whole answers about the cluster, by the bytes of their questions: pods ask for the same names again
//! and again, in the same words. Pure. They hold until anything changes of what names stand for;
//! answers that differ from time to time are not kept here, nor are those of others.

use std::collections::HashMap;

use crate::answer::QueryType;

/// So many at most; then all are dropped, since most questions are few. A question and its answer have
/// no more than half a kilobyte each.
const MOST: usize = 4096;
const BYTES: usize = 512;

/// What else an answer depends on: by UDP or not, and whether somebody outside the cluster asks.
pub type Manner = (bool, bool);

/// Answers by their questions without identifiers.
type Answers = HashMap<Box<[u8]>, (QueryType, Vec<u8>)>;

/// Answers.
#[derive(Debug, Default)]
pub struct Recent {
    answers: HashMap<Manner, Answers>,
    count: usize,
    /// The state of names that they hold for.
    state: u64,
}

impl Recent {
    /// The answer to a question in the state of names of this number.
    pub fn get(&self, state: u64, manner: Manner, question: &[u8]) -> Option<(QueryType, Vec<u8>)> {
        if state != self.state {
            return None;
        }
        let (id, rest) = question.split_at_checked(2)?;
        let (kind, answer) = self.answers.get(&manner)?.get(rest)?;
        let mut answer = answer.clone();
        answer.get_mut(..2)?.copy_from_slice(id);
        Some((*kind, answer))
    }

    /// Keeps an answer that was found in the state of this number.
    pub fn keep(
        &mut self,
        state: u64,
        manner: Manner,
        question: &[u8],
        (kind, answer): (QueryType, &[u8]),
    ) {
        let Some(rest) = question.get(2..) else {
            return;
        };
        if state < self.state || rest.len() > BYTES || answer.len() > BYTES {
            return;
        }
        if state > self.state || self.count >= MOST {
            self.answers.clear();
            self.count = 0;
            self.state = state;
        }
        let of_manner = self.answers.entry(manner).or_default();
        if of_manner
            .insert(rest.into(), (kind, answer.to_vec()))
            .is_none()
        {
            self.count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UDP: Manner = (true, false);

    #[test]
    fn an_answer_holds_for_its_state_and_manner_under_each_identifier() {
        let mut recent = Recent::default();
        recent.keep(1, UDP, b"\x01\x02ask", (QueryType::A, b"\x01\x02say"));
        let got = recent.get(1, UDP, b"\x07\x08ask");
        assert_eq!(got, Some((QueryType::A, b"\x07\x08say".to_vec())));
        assert_eq!(recent.get(1, UDP, b"\x01\x02asked"), None);
        assert_eq!(recent.get(1, (true, true), b"\x01\x02ask"), None);
        assert_eq!(recent.get(2, UDP, b"\x01\x02ask"), None);
        assert_eq!(recent.get(1, UDP, b"\x01"), None);
        // Of a state that has passed nothing is kept.
        recent.keep(2, UDP, b"\x01\x02b", (QueryType::A, b"\x01\x02c"));
        recent.keep(1, UDP, b"\x01\x02d", (QueryType::A, b"\x01\x02e"));
        assert_eq!(recent.count, 1);
        assert!(recent.get(2, UDP, b"\x01\x02b").is_some());
    }

    #[test]
    fn answers_are_bounded_in_number_and_size() {
        let mut recent = Recent::default();
        for n in 0..10_000u32 {
            let mut question = vec![0, 0];
            question.extend(n.to_be_bytes());
            recent.keep(1, UDP, &question, (QueryType::A, &question));
            assert!(recent.count <= MOST);
            assert!(recent.get(1, UDP, &question).is_some());
        }
        let long = vec![0; BYTES + 3];
        recent.keep(1, UDP, &long, (QueryType::A, &long));
        assert_eq!(recent.get(1, UDP, &long), None);
    }
}
