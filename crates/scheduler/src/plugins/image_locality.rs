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

    /// What the pod runs, and mounts; of each node its images, by their size in MiB, which is their name.
    #[test]
    fn the_score_follows_size_and_spread() {
        let images = |sizes: &[i64]| -> Vec<serde_json::Value> {
            let image = |size: &i64| json!({"names": [format!("r.example/{size}:latest")], "sizeBytes": size << 20});
            sizes.iter().map(image).collect()
        };
        let run = |sizes: &[i64]| -> Vec<serde_json::Value> {
            let container = |size: &i64| json!({"name": size.to_string(), "image": format!("r.example/{size}")});
            sizes.iter().map(container).collect()
        };
        let pod = |sizes: &[i64]| json!({"containers": run(sizes)});
        let mounts = json!({"containers": run(&[30]), "volumes": [
            {"name": "v", "image": {"reference": "r.example/300"}}]});
        let before = json!({"containers": run(&[30]), "initContainers": run(&[300])});
        let (small, few) = (vec![20, 30, 40], vec![250, 10]);
        for (pod, nodes, expected) in [
            (
                pod(&[40, 250]),
                vec![vec![40, 300, 2000], few.clone()],
                vec![0_i64, 5],
            ),
            (
                pod(&[40, 300]),
                vec![vec![40, 300, 2000], few.clone()],
                vec![7, 0],
            ),
            (
                pod(&[10, 4000]),
                vec![vec![4000, 30], few.clone()],
                vec![100, 0],
            ),
            (
                pod(&[10, 4000]),
                vec![vec![4000, 30], few, vec![]],
                vec![66, 0, 0],
            ),
            (
                pod(&[300, 600, 900]),
                vec![vec![600, 40, 900], vec![300, 600, 900], vec![]],
                vec![32, 36, 0],
            ),
            (
                pod(&[30, 40]),
                vec![small.clone(), vec![4000, 30]],
                vec![1, 0],
            ),
            (
                mounts,
                vec![vec![300, 600, 900], vec![4000, 30]],
                vec![12, 0],
            ),
            (before, vec![vec![40, 300, 2000], small], vec![6, 0]),
        ] {
            let cluster = Cluster::new(nodes.iter().enumerate().map(|(i, sizes)| {
                json!({"metadata": {"name": format!("n{i}")}, "status": {"images": images(sizes)}})
            }));
            let out = scores(&ImageLocality, &cluster, pod.clone());
            assert_eq!(out, expected, "{pod} {nodes:?}");
        }
    }
}
