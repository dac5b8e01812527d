//! Random numbers: the operating system's, or from a seed. Not for keys: see the crate's head.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng, TryRng};

/// A source of random numbers; clones draw from the same one. It is a [`rand::Rng`], so all of
/// `rand::RngExt` works on a clone.
#[derive(Clone)]
pub struct Random(Option<Arc<Mutex<StdRng>>>);

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            None => "Random::system",
            Some(_) => "Random::seeded",
        })
    }
}

impl Random {
    /// Numbers that nobody can foresee. For the wiring: all others are given a source.
    pub const fn system() -> Self {
        Self(None)
    }

    /// The same seed gives the same numbers.
    pub fn seeded(seed: u64) -> Self {
        Self(Some(Arc::new(Mutex::new(StdRng::seed_from_u64(seed)))))
    }

    /// A source of its own for one part: how much that part draws changes nothing for others.
    #[must_use]
    pub fn fork(&self) -> Self {
        match &self.0 {
            None => Self(None),
            Some(rng) => Self::seeded(rng.lock().next_u64()),
        }
    }

    pub fn number(&self) -> u64 {
        self.draw(|rng| rng.next_u64())
    }

    /// From 0 up to, but not including, 1.
    pub fn fraction(&self) -> f64 {
        // As many bits as the fraction of a double has.
        let bits = (self.number() >> 11) as f64;
        bits / (1_u64 << 53) as f64
    }

    /// A UUID of version 4, as text.
    pub fn uuid(&self) -> String {
        let mut bytes = [0; 16];
        self.draw(|rng| rng.fill_bytes(&mut bytes));
        let made = uuid::Builder::from_random_bytes(bytes).into_uuid();
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        made.hyphenated().encode_lower(&mut text).to_owned()
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is the place from which everyone has random numbers"
    )]
    fn draw<T>(&self, draw: impl FnOnce(&mut dyn Rng) -> T) -> T {
        match &self.0 {
            None => draw(&mut rand::rng()),
            Some(rng) => draw(&mut *rng.lock()),
        }
    }
}

impl TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.draw(|rng| rng.next_u32()))
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.draw(|rng| rng.next_u64()))
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.draw(|rng| rng.fill_bytes(bytes));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;

    fn some(random: &Random) -> (String, u64, u8, bool) {
        let mut rng = random.clone();
        let (uuid, number) = (random.uuid(), random.number());
        let fraction = random.fraction();
        (uuid, number, rng.random_range(0..100), fraction < 1.0)
    }

    #[expect(clippy::disallowed_methods, reason = "it is what is tested")]
    #[test]
    fn a_seed_decides_all_numbers_and_only_a_seed_does() {
        let of = |seed| some(&Random::seeded(seed));
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
        assert_ne!(some(&Random::system()), some(&Random::system()));
        assert_eq!(of(7).0.as_bytes()[14], b'4', "its version");
    }

    #[test]
    fn what_a_fork_draws_changes_nothing_for_others() {
        let (one, two) = (Random::seeded(1), Random::seeded(1));
        let (first, second) = (one.fork(), two.fork());
        for _ in 0..10 {
            first.number();
        }
        assert_eq!(one.number(), two.number());
        assert_ne!(first.number(), second.number());
    }
}
