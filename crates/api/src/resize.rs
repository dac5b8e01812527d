//! What a pod holds while it is resized in place: quotas and the scheduler count it alike.

/// The condition of a pod whose resize waits, and its reason where its node can never do it.
pub const PENDING: &str = "PodResizePending";
pub const INFEASIBLE: &str = "Infeasible";

/// Of the lists of amounts that a container has, those whose greatest amounts it holds: what it asks
/// for, and what its node says of it (what is in effect, and what was set aside for it), if anything.
/// Of what the node can never give nothing is held.
pub fn held<L>(
    asked: L,
    of_node: Option<(L, L)>,
    is_infeasible: bool,
) -> impl Iterator<Item = L> + Clone
where
    L: Clone,
{
    let asked = Some(asked).filter(|_| of_node.is_none() || !is_infeasible);
    let of_node = of_node.map(|(in_effect, set_aside)| [in_effect, set_aside]);
    asked.into_iter().chain(of_node.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_depends_on_what_the_node_says() {
        for (of_node, is_infeasible, expected) in [
            (None, false, vec![1]),
            (None, true, vec![1]),
            (Some((2, 3)), false, vec![1, 2, 3]),
            (Some((2, 3)), true, vec![2, 3]),
        ] {
            let lists: Vec<i32> = held(1, of_node, is_infeasible).collect();
            assert_eq!(lists, expected, "{of_node:?} {is_infeasible}");
        }
    }
}
