//! Which out-of-memory scores this process may give to others.
//!
//! Lowering a score below one's own needs CAP_SYS_RESOURCE; without it the runtime fails to
//! start such a container. So it is tried once on ourselves, and scores are clamped.

use std::fs;

/// The lowest score that may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OomScores {
    lowest: i64,
}

impl OomScores {
    /// Tries to lower our own score and puts it back.
    #[must_use]
    pub fn probe() -> Self {
        const FILE: &str = "/proc/self/oom_score_adj";
        let own: i64 = fs::read_to_string(FILE)
            .ok()
            .and_then(|t| t.trim().parse().ok())
            .unwrap_or(0);
        if fs::write(FILE, "-999").is_ok() {
            // Raising is always allowed.
            let _ = fs::write(FILE, own.to_string());
            return Self { lowest: -1000 };
        }
        Self { lowest: own }
    }

    /// All scores may be given.
    #[must_use]
    pub fn all() -> Self {
        Self { lowest: -1000 }
    }

    /// Whether negative scores are out of reach.
    #[must_use]
    pub fn is_restricted(self) -> bool {
        self.lowest > -1000
    }

    /// The nearest score that may be given.
    #[must_use]
    pub fn clamp(self, score: i64) -> i64 {
        score.clamp(self.lowest, 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_below_reach_are_raised() {
        let scores = OomScores { lowest: 0 };
        assert_eq!(
            (scores.clamp(-997), scores.clamp(500), scores.clamp(2000)),
            (0, 500, 1000)
        );
    }
}
