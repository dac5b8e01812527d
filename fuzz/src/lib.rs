//! Throws broken input at decoders of bytes from outside: mutations of good examples, the same
//! ones in every run. It needs no other compiler and no instrumentation, so that it runs with the
//! ordinary tests; what it lacks in cunning it makes up by beginning with examples that reach
//! deep. `TIPHYS_SOAK=1` makes it long.
//!
//! A decoder may say anything but must come back: a panic fails the test, and the input that
//! caused it is written to a file that its message names.
#![forbid(unsafe_code)]

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Inputs per decoder in an ordinary run: well under a second each.
const SHORT: u64 = 3_000;
/// Inputs per decoder in a long run.
const LONG: u64 = 1_000_000;
/// Most changes to one example.
const MOST_CHANGES: u64 = 6;
/// An input grows to no more bytes than this.
const MOST_BYTES: usize = 256 * 1024;
/// Deepest nesting that is tried.
const MOST_NESTED: u64 = 50_000;

/// How many inputs a decoder gets.
pub fn rounds() -> u64 {
    match std::env::var("TIPHYS_SOAK") {
        Ok(value) if value == "1" => LONG,
        _ => SHORT,
    }
}

/// Pseudo-random numbers (SplitMix64): the same ones from the same seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, 0 when that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.roll().checked_rem(end).unwrap_or(0)
    }

    fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }
}

/// Values at which lengths and numbers go wrong.
const EDGES: [&[u8]; 10] = [
    b"\x00\x00\x00\x00",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x7f\xff\xff\xff",
    b"\x80\x00\x00\x00",
    b"-9223372036854775808",
    b"18446744073709551616",
    b"1e400",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"~1~0/-",
];

/// Words that open something, to be repeated.
const OPENERS: [&[u8]; 10] = [
    b"[",
    b"{\"a\":",
    b"[[",
    b"- ",
    b"? ",
    b"(",
    b"&a [*a,",
    b"\x0a\x7f",
    b"\"",
    b"~1",
];

/// A broken copy of an example; parts may come from another one.
pub fn mutate(dice: &mut Dice, example: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = example.to_vec();
    for _ in 0..=dice.below(MOST_CHANGES) {
        change(dice, &mut bytes, other);
    }
    bytes.truncate(MOST_BYTES);
    bytes
}

fn change(dice: &mut Dice, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = dice.index(bytes.len() + 1);
    let end = at + dice.index((bytes.len() - at).min(64) + 1);
    match dice.below(9) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << dice.below(8);
            }
        }
        1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = dice.roll().to_le_bytes()[0];
            }
        }
        2 => drop(bytes.drain(at..end)),
        3 => bytes.truncate(at),
        4 => {
            let piece = bytes[at..end].to_vec();
            let times = 1 + dice.index(64);
            let room = MOST_BYTES.saturating_sub(bytes.len());
            let piece = piece.repeat(times);
            let piece = &piece[..piece.len().min(room)];
            bytes.splice(at..at, piece.iter().copied());
        }
        5 => {
            let from = dice.index(other.len() + 1);
            let to = from + dice.index((other.len() - from).min(256) + 1);
            bytes.splice(at..end, other[from..to].iter().copied());
        }
        6 => {
            let edge = EDGES[dice.index(EDGES.len())];
            bytes.splice(at..end, edge.iter().copied());
        }
        7 => {
            // Deep nesting is rare, since it is slow to make.
            let most = if dice.below(64) == 0 { MOST_NESTED } else { 40 };
            let times = usize::try_from(dice.below(most)).unwrap_or(0);
            let opener = OPENERS[dice.index(OPENERS.len())].repeat(times);
            bytes.splice(at..at, opener);
        }
        _ => {
            let other_end = dice.index(bytes.len() + 1);
            let (low, high) = (at.min(other_end), at.max(other_end));
            bytes[low..high].reverse();
        }
    }
}

/// Gives a decoder its examples, and then mutations of them.
pub fn throw(name: &str, examples: &[Vec<u8>], decode: impl Fn(&[u8])) {
    assert!(
        !examples.is_empty(),
        "{name}: without examples nothing is tried"
    );
    for example in examples {
        one(name, example, &decode);
    }
    // Each decoder has a sequence of its own.
    let seed = name.bytes().fold(7, |sum: u64, b| {
        sum.wrapping_mul(31).wrapping_add(u64::from(b))
    });
    let mut dice = Dice::new(seed);
    let (rounds, mut bytes) = (rounds(), 0);
    for _ in 0..rounds {
        let example = &examples[dice.index(examples.len())];
        let other = &examples[dice.index(examples.len())];
        let input = mutate(&mut dice, example, other);
        bytes += input.len();
        one(name, &input, &decode);
    }
    // Past the test program, which keeps what is printed from those that pass.
    let tried = examples.len();
    let _ = writeln!(
        std::io::stderr(),
        "fuzz: {name} came back from {tried} examples and {rounds} broken copies of {bytes} bytes"
    );
}

fn one(name: &str, input: &[u8], decode: &impl Fn(&[u8])) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| decode(input))) {
        let file = std::env::temp_dir().join(format!("tiphys-fuzz-{name}.input"));
        match std::fs::write(&file, input) {
            Ok(()) => eprintln!("{name}: the input that broke it is in {}", file.display()),
            Err(e) => eprintln!("{name}: {e}; the input that broke it: {input:?}"),
        }
        resume_unwind(panic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_inputs_and_each_differs() {
        let make = |seed| {
            let mut dice = Dice::new(seed);
            let mut all = Vec::new();
            for _ in 0..200 {
                all.push(mutate(&mut dice, b"{\"a\": [1, 2, 3]}", b"- b\n"));
            }
            all
        };
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
        let distinct: std::collections::BTreeSet<_> = make(1).into_iter().collect();
        assert!(distinct.len() > 150, "{}", distinct.len());
    }

    #[test]
    fn a_panic_is_not_swallowed() {
        let broken = catch_unwind(|| {
            throw("self-test", &[b"abc".to_vec()], |bytes| {
                assert!(bytes.len() < 4, "too long");
            });
        });
        assert!(broken.is_err());
    }
}
