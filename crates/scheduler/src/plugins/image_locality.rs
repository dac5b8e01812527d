//! Prefers nodes that have the pod's images, the larger the better, and the more the more nodes
//! have them, so that one node with a rare image does not get all pods.

use super::{Check, Events, MAX_SCORE, Plugin, Prepare};
use crate::node::Node;
use crate::pod::Pod;
use crate::snapshot::Snapshot;

/// Less in bytes is not worth a point.
const LEAST: i64 = 23 * 1024 * 1024;
/// More per container earns nothing more.
const MOST_EACH: i64 = 1000 * 1024 * 1024;

pub struct ImageLocality;

struct Images<'a> {
    /// Name, and on which share of the nodes it is.
    images: Vec<(&'a str, f64)>,
    containers: i64,
}

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }
    fn wakes_on(&self) -> Events {
        Events::NONE
    }
    fn prepare<'a>(&'a self, pod: &'a Pod, snapshot: &'a Snapshot) -> Prepare<'a> {
        let all = snapshot.len().max(1);
        let found = pod.wants.images.iter();
        let found: Vec<_> = found
            .map(|image| (image.as_str(), snapshot.nodes_with_image(image)))
            .filter(|(_, on)| *on > 0)
            .collect();
        // Images that all nodes have decide nothing by themselves.
        if found.iter().all(|(_, on)| *on >= all) {
            return Ok(None);
        }
        let share = |on: usize| on as f64 / all as f64;
        let images = found.into_iter().map(|(image, on)| (image, share(on)));
        let images = images.collect();
        let containers = i64::try_from(pod.wants.containers).unwrap_or(1).max(1);
        Ok(Some(Box::new(Images { images, containers })))
    }
}

impl Check for Images<'_> {
    /// On how many nodes an image is changes with the nodes.
    fn is_steady(&self) -> bool {
        true
    }

    fn score(&self, nodes: &[&Node], scores: &mut [i64]) -> bool {
        let most = MOST_EACH.saturating_mul(self.containers);
        for (node, score) in nodes.iter().zip(scores.iter_mut()) {
            let present = self.images.iter().filter_map(|(image, share)| {
                let size = *node.images.get(*image)?;
                Some((size as f64 * share) as i64)
            });
            let sum = present.sum::<i64>().clamp(LEAST, most);
            *score = MAX_SCORE * (sum - LEAST) / (most - LEAST);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::{Cluster, scores};

    #[test]
    fn large_images_that_are_there_earn_points() {
        let node = |name: &str, images: serde_json::Value| json!({"metadata": {"name": name}, "status": {"images": images}});
        let cluster = Cluster::new([
            node(
                "has",
                json!([{"names": ["big:latest"], "sizeBytes": 1_000_000_000i64}]),
            ),
            node(
                "small",
                json!([{"names": ["tiny:1"], "sizeBytes": 1_000_000}]),
            ),
        ]);
        let pod = |image: &str| json!({"containers": [{"name": "c", "image": image}]});
        assert_eq!(scores(&ImageLocality, &cluster, pod("big")), [46, 0]);
        // An image that is mounted counts as one that runs, and no more may come of it.
        let mounted = json!({"containers": [{"name": "c", "image": "other"}],
            "volumes": [{"name": "v", "image": {"reference": "big"}}]});
        assert_eq!(scores(&ImageLocality, &cluster, mounted), [46, 0]);
        assert_eq!(scores(&ImageLocality, &cluster, pod("tiny:1")), [0, 0]);
    }
}
