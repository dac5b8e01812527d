//! What is known of a size or a cost: from how much to how much.

/// From, to: of a size or of a cost. `u64::MAX` is without bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Range {
    pub min: u64,
    pub max: u64,
}

/// Nothing is known of it.
pub(super) const UNKNOWN: Range = Range {
    min: 0,
    max: u64::MAX,
};

pub(crate) fn times(n: u64, factor: f64) -> u64 {
    // Saturates, as a cast does.
    (n as f64 * factor).ceil() as u64
}

impl Range {
    pub(super) fn fixed(n: u64) -> Self {
        Self { min: n, max: n }
    }
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            min: self.min.saturating_add(other.min),
            max: self.max.saturating_add(other.max),
        }
    }
    pub(super) fn times(self, other: Self) -> Self {
        Self {
            min: self.min.saturating_mul(other.min),
            max: self.max.saturating_mul(other.max),
        }
    }
    pub(super) fn factor(self, factor: f64) -> Self {
        Self {
            min: times(self.min, factor),
            max: times(self.max, factor),
        }
    }
    pub(super) fn union(self, other: Self) -> Self {
        Self {
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        }
    }
}

/// Sizes of what a list or a map holds.
#[derive(Clone, Copy)]
pub(super) struct Entries {
    pub(super) is_list: bool,
    pub(super) key: Range,
    pub(super) value: Range,
}

impl Entries {
    pub(super) fn union(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        let (a, b) = (a?, b?);
        Some(Self {
            is_list: a.is_list,
            key: a.key.union(b.key),
            value: a.value.union(b.value),
        })
    }
}
