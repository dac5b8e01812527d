//! Shuffle sharding: a flow is dealt a few of all queues, by a number that is its own. Two flows
//! seldom have all queues in common, so one that floods seldom stands in every queue of another.

/// Cards that a hand has at most: more would take more bits than the number has.
pub const HAND_MAX: usize = 15;
/// Bits of a flow's number that may be used: with four of its 64 to spare, each queue is dealt about
/// as often as another; as upstream.
pub const ENTROPY_BITS: u32 = 60;
/// Queues that a level may have; as upstream.
pub const QUEUES_MAX: u32 = 10_000_000;

/// How many bits of a flow's number a hand takes.
pub fn entropy_bits(queues: u32, hand_size: u32) -> u32 {
    let bits = f64::from(queues).log2() * f64::from(hand_size);
    bits.ceil().min(f64::from(u32::MAX)) as u32
}

/// Whether a hand of this size can be dealt.
pub fn is_possible(queues: u32, hand_size: u32) -> bool {
    (1..=QUEUES_MAX).contains(&queues)
        && (1..=queues).contains(&hand_size)
        && hand_size as usize <= HAND_MAX
        && entropy_bits(queues, hand_size) <= ENTROPY_BITS
}

/// A hand; only the first `size` of it are queues.
#[derive(Clone, Copy, Debug)]
pub struct Hand {
    cards: [u32; HAND_MAX],
    size: usize,
}

impl Hand {
    pub fn queues(&self) -> &[u32] {
        self.cards.get(..self.size).unwrap_or_default()
    }
}

/// Deals `hand_size` different ones of `queues`. [`is_possible`] must hold of both; otherwise the
/// hand is as large as it can be.
pub fn deal(mut flow: u64, queues: u32, hand_size: u32) -> Hand {
    let size = (hand_size.min(queues) as usize).min(HAND_MAX);
    let mut cards = [0; HAND_MAX];
    let mut left = u64::from(queues);
    for at in 0..size {
        // One of those that are left, counted without those that were dealt.
        let mut card = (flow % left) as u32;
        flow /= left;
        left -= 1;
        // The dealt ones, in order, push it up past themselves.
        let dealt = cards.get_mut(..at).unwrap_or_default();
        dealt.sort_unstable();
        for before in &*dealt {
            card += u32::from(card >= *before);
        }
        if let Some(place) = cards.get_mut(at) {
            *place = card;
        }
    }
    Hand { cards, size }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_hand_has_different_queues(flow: u64, queues in 1_u32..2000, hand in 1_u32..9) {
            prop_assume!(is_possible(queues, hand));
            let dealt = deal(flow, queues, hand);
            let mut all = dealt.queues().to_vec();
            prop_assert_eq!(all.len(), hand as usize);
            prop_assert!(all.iter().all(|q| *q < queues));
            all.sort_unstable();
            all.dedup();
            prop_assert_eq!(all.len(), hand as usize);
        }
    }

    #[test]
    fn each_queue_is_dealt_about_as_often() {
        let (queues, hand) = (16, 4);
        let mut seen = vec![0_u32; queues as usize];
        let mut flow = 1_u64;
        for _ in 0..40_000 {
            flow = flow
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let mixed = flow ^ (flow >> 31);
            for q in deal(mixed, queues, hand).queues() {
                seen[*q as usize] += 1;
            }
        }
        for n in seen {
            assert!((9_000..11_000).contains(&n), "{n}");
        }
    }

    #[test]
    fn entropy_is_counted_as_upstream_counts_it() {
        assert_eq!(entropy_bits(64, 6), 36);
        assert_eq!(entropy_bits(128, 6), 42);
        assert!(is_possible(1024, 6) && !is_possible(1025, 6));
        assert!(!is_possible(4, 5) && !is_possible(0, 0) && is_possible(1, 1));
    }
}
