//! Whole answers by the bytes of their questions: pods ask for the same names again and again, in the
//! same words. Pure. They hold until anything changes of what names stand for; those of others as long
//! as they are good.
//!
//! There are two generations. What is new, and what is used, is in the younger one; when that is full
//! the older one goes, with all that nobody asked for meanwhile.

use std::collections::HashMap;

use clock::Instant;

use crate::answer::QueryType;
use crate::cache::Kept;
use crate::packet::{Client, question_of};
use crate::prepared::Prepared;

/// A generation takes so many bytes at most: enough for some thousand names.
const GENERATION_BYTES: usize = 2 << 20;
/// What an answer takes beside its bytes: its place in a table, which is never full, and allocations.
const ENTRY_BYTES: usize = 176;
/// Longer questions and answers are made each time: they are few.
const QUESTION_BYTES: usize = 512;
const ANSWER_BYTES: usize = 16 << 10;

/// What else an answer depends on: by UDP or not, and whether somebody outside the cluster asks.
pub type Manner = (bool, bool);

/// What is said to a question.
#[derive(Debug)]
pub enum Said {
    /// An answer of this server's.
    Own(Prepared),
    /// One of others.
    Others {
        /// The answer.
        kept: Kept,
        /// How long it may be, in bytes.
        limit: usize,
        /// Which of its addresses is the first.
        turn: usize,
    },
}

/// An answer that is given once more.
#[derive(Debug, PartialEq, Eq)]
pub struct Repeated {
    /// What was asked for.
    pub kind: QueryType,
    /// The answer.
    pub answer: Vec<u8>,
    /// It is one of others.
    pub of_others: bool,
}

/// Answers by their questions without identifiers.
type Answers = HashMap<Box<[u8]>, (QueryType, Said)>;

#[derive(Debug, Default)]
struct Generation {
    /// By the number of the manner.
    answers: [Answers; 4],
    bytes: usize,
}

/// Answers.
#[derive(Debug, Default)]
pub struct Recent {
    young: Generation,
    old: Generation,
    /// The state of names that they hold for.
    state: u64,
}

fn number_of((by_udp, stranger): Manner) -> usize {
    usize::from(by_udp) + 2 * usize::from(stranger)
}

impl Said {
    fn cost(&self) -> usize {
        match self {
            Self::Own(prepared) => prepared.cost(),
            // All of it: it may be kept nowhere else any more.
            Self::Others { kept, .. } => kept.answer.cost(),
        }
    }

    /// The answer to a question of the same bytes; none when its time has ended.
    fn again(&mut self, question: &[u8], now: Instant) -> Option<Vec<u8>> {
        let id: [u8; 2] = question.get(..2)?.try_into().ok()?;
        match self {
            Self::Own(prepared) => Some(prepared.answer(id)),
            Self::Others { kept, limit, turn } => {
                let age_seconds = kept.age_seconds(now)?;
                *turn = turn.wrapping_add(1);
                let client = Client {
                    id: u16::from_be_bytes(id),
                    question: question_of(question)?,
                    recursion_desired: question.get(2)? & 1 != 0,
                    limit: *limit,
                    turn: *turn,
                };
                let answer = &kept.answer;
                Some(
                    answer
                        .layout
                        .serve(&answer.bytes, &client, (age_seconds, 0)),
                )
            }
        }
    }
}

impl Recent {
    /// The answer to a question in the state of names of this number.
    pub fn get(
        &mut self,
        state: u64,
        manner: Manner,
        question: &[u8],
        now: Instant,
    ) -> Option<Repeated> {
        if state != self.state {
            return None;
        }
        let rest = question.get(2..)?;
        let number = number_of(manner);
        if let Some((kind, said)) = self.young.answers.get_mut(number)?.get_mut(rest) {
            return repeated(*kind, said, question, now);
        }
        let old = self.old.answers.get_mut(number)?;
        let (key, (kind, mut said)) = old.remove_entry(rest)?;
        let repeated = repeated(kind, &mut said, question, now)?;
        self.insert(number, key, (kind, said));
        Some(repeated)
    }

    /// Keeps what was said in the state of this number.
    pub fn keep(
        &mut self,
        state: u64,
        manner: Manner,
        question: &[u8],
        (kind, said): (QueryType, Said),
    ) {
        let Some(rest) = question.get(2..) else {
            return;
        };
        if state < self.state || rest.len() > QUESTION_BYTES || said.cost() > ANSWER_BYTES {
            return;
        }
        if state > self.state {
            *self = Self {
                state,
                ..Self::default()
            };
        }
        self.insert(number_of(manner), rest.into(), (kind, said));
    }

    fn insert(&mut self, number: usize, key: Box<[u8]>, said: (QueryType, Said)) {
        let beside = ENTRY_BYTES + key.len();
        let cost = beside + said.1.cost();
        if self.young.bytes + cost > GENERATION_BYTES {
            self.old = std::mem::take(&mut self.young);
        }
        let Some(answers) = self.young.answers.get_mut(number) else {
            return;
        };
        self.young.bytes += cost;
        if let Some((_, replaced)) = answers.insert(key, said) {
            self.young.bytes -= beside + replaced.cost();
        }
    }
}

fn repeated(kind: QueryType, said: &mut Said, question: &[u8], now: Instant) -> Option<Repeated> {
    Some(Repeated {
        kind,
        answer: said.again(question, now)?,
        of_others: matches!(said, Said::Others { .. }),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::cache::Answer;
    use crate::packet::Layout;

    const UDP: Manner = (true, false);

    fn own(answer: &[u8]) -> (QueryType, Said) {
        let prepared = Prepared::of(answer, None).expect("an answer");
        (QueryType::A, Said::Own(prepared))
    }

    fn said(recent: &mut Recent, state: u64, manner: Manner, question: &[u8]) -> Option<Vec<u8>> {
        let got = recent.get(state, manner, question, Instant::now())?;
        assert!(!got.of_others);
        Some(got.answer)
    }

    #[test]
    fn an_answer_holds_for_its_state_and_manner_under_each_identifier() {
        let mut recent = Recent::default();
        recent.keep(1, UDP, b"\x01\x02ask", own(b"\x01\x02say"));
        let got = said(&mut recent, 1, UDP, b"\x07\x08ask");
        assert_eq!(got, Some(b"\x07\x08say".to_vec()));
        for (state, manner, question) in [
            (1, UDP, &b"\x01\x02asked"[..]),
            (1, (true, true), b"\x01\x02ask"),
            (1, (false, false), b"\x01\x02ask"),
            (2, UDP, b"\x01\x02ask"),
            (1, UDP, b"\x01"),
        ] {
            assert_eq!(said(&mut recent, state, manner, question), None);
        }
        // Of a state that has passed nothing is kept.
        recent.keep(2, UDP, b"\x01\x02b", own(b"\x01\x02c"));
        recent.keep(1, UDP, b"\x01\x02d", own(b"\x01\x02e"));
        assert!(said(&mut recent, 2, UDP, b"\x01\x02b").is_some());
        for question in [b"\x01\x02d", b"\x01\x02b"] {
            assert_eq!(said(&mut recent, 1, UDP, question), None);
        }
    }

    #[test]
    fn what_is_used_stays_and_all_has_a_bound() {
        let mut recent = Recent::default();
        let used = b"\0\0used";
        recent.keep(1, UDP, used, own(used));
        for n in 0..100_000u32 {
            let mut question = vec![0, 0];
            question.extend(n.to_be_bytes());
            recent.keep(1, UDP, &question, own(&question));
            assert!(recent.young.bytes <= GENERATION_BYTES);
            assert!(said(&mut recent, 1, UDP, &question).is_some());
            assert!(said(&mut recent, 1, UDP, used).is_some());
        }
        assert_eq!(
            said(&mut recent, 1, UDP, &[0; 6]),
            None,
            "nobody asked for it"
        );
        let of_all = |generation: &Generation| -> usize {
            let all = generation.answers.iter().flatten();
            all.map(|(key, (_, said))| ENTRY_BYTES + key.len() + said.cost())
                .sum()
        };
        assert_eq!(recent.young.bytes, of_all(&recent.young));
        let long = vec![0; ANSWER_BYTES + 1];
        recent.keep(1, UDP, b"\0\0long", own(&long));
        recent.keep(1, UDP, &long, own(b"\0\0"));
        for question in [&b"\0\0long"[..], &long] {
            assert_eq!(said(&mut recent, 1, UDP, question), None);
        }
        // Another answer in the place of one takes no more than itself.
        let before = recent.young.bytes;
        recent.keep(1, UDP, used, own(used));
        assert_eq!(recent.young.bytes, before);
    }

    #[test]
    fn an_answer_of_others_grows_older_and_ends() {
        let mut question: Vec<u8> = vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        question.extend(b"\x01A\0\0\x01\0\x01");
        let mut bytes: Vec<u8> = vec![0, 0, 0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0];
        bytes.extend(b"\x01a\0\0\x01\0\x01");
        for last in [1, 2] {
            bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 0, 0, 4, 192, 0, 2, last]);
        }
        let layout = Layout::of(&bytes).expect("an answer");
        let came = Instant::now();
        let kept = Kept {
            answer: Arc::new(Answer { bytes, layout }),
            came,
            ends: came + Duration::from_secs(60),
        };
        let mut recent = Recent::default();
        let limit = 512;
        let said = Said::Others {
            kept,
            limit,
            turn: 0,
        };
        recent.keep(0, UDP, &question, (QueryType::A, said));
        let mut served = |id: u8, seconds| {
            if let Some(first) = question.first_mut() {
                *first = id;
            }
            let now = came + Duration::from_secs(seconds);
            recent.get(0, UDP, &question, now)
        };
        for (id, seconds, ttl, first) in [(3, 0, 256u32, 2), (4, 6, 250, 1), (5, 59, 197, 2)] {
            let got = served(id, seconds).expect("an answer");
            assert!(got.of_others);
            assert_eq!(got.answer[..2], [id, 2]);
            assert_eq!(got.answer[12..15], *b"\x01A\0", "the client's own letters");
            assert_eq!(got.answer[25..29], ttl.to_be_bytes());
            assert_eq!(got.answer[34], first);
        }
        assert_eq!(served(6, 60), None);
    }
}
