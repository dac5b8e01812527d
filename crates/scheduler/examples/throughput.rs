//! How many decisions a second: 5,000 pods over 500 nodes, no API.
//! `cargo run --release -p scheduler --example throughput`

use clock::Instant;

use k8s_openapi::api::core::v1::{Node, Pod};
use scheduler::core::{Core, Step};
use scheduler::decide::Profile;
use scheduler::queue::Waits;
use serde_json::json;

const NODES: usize = 500;
const PODS: usize = 5_000;

fn main() -> Result<(), serde_json::Error> {
    for (what, cpu) in [("all fit", "100m"), ("half do not fit", "800m")] {
        let mut core = Core::new(vec![Profile::default()], Waits::default());
        for i in 0..NODES {
            let node: Node = serde_json::from_value(json!({
                "metadata": {"name": format!("node-{i}"), "labels": {
                    "kubernetes.io/hostname": format!("node-{i}"), "zone": format!("z{}", i % 3)}},
                "status": {"allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"}}
            }))?;
            core.node_changed(None, Some(&node));
        }
        let pods = (0..PODS).map(|i| {
            serde_json::from_value(json!({
                "metadata": {"name": format!("pod-{i}"), "namespace": "default",
                             "uid": format!("uid-{i}"), "labels": {"app": "x"}},
                "spec": {"containers": [{"name": "c", "image": "pause",
                    "resources": {"requests": {"cpu": cpu, "memory": "500Mi"}}}]}
            }))
        });
        let pods: Vec<Pod> = pods.collect::<Result<_, _>>()?;
        let start = Instant::now();
        for pod in &pods {
            core.pod_changed(None, Some(pod), 0);
        }
        let read = start.elapsed();
        let start = Instant::now();
        let (mut bound, mut tried) = (0u32, 0u32);
        while let Some(step) = core.step(u64::from(tried), 0) {
            tried += 1;
            bound += u32::from(matches!(step, Step::Bind { .. }));
        }
        let took = start.elapsed();
        println!(
            "{what}: {bound} of {tried} pods placed, {:.1} µs each, {:.0} decisions/s \
             (reading a pod: {:.1} µs)",
            took.as_secs_f64() * 1e6 / f64::from(tried.max(1)),
            f64::from(tried) / took.as_secs_f64(),
            read.as_secs_f64() * 1e6 / PODS as f64,
        );
    }
    Ok(())
}
