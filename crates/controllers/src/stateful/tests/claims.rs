//! Claims of a set's pods: when they come, whose they are, and with whom they go.

use serde_json::{Value, json};

use super::Sets;

fn with_claims(policy: Value) -> Sets {
    Sets::new(
        json!({ "replicas": 2, "persistentVolumeClaimRetentionPolicy": policy,
        "volumeClaimTemplates": [{ "metadata": { "name": "data" }, "spec": { "accessModes": ["ReadWriteOnce"] } }],
        "template": { "spec": { "volumes": [{ "name": "data", "emptyDir": {} }, { "name": "x", "emptyDir": {} }] } } }),
    )
}

fn owners(s: &mut Sets, claim: &str) -> Vec<String> {
    let claim = s.world.at("PersistentVolumeClaim", claim);
    let all = claim["metadata"]["ownerReferences"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    all.iter()
        .map(|o| {
            format!(
                "{}/{}",
                o["kind"].as_str().unwrap(),
                o["name"].as_str().unwrap()
            )
        })
        .collect()
}

#[test]
fn every_pod_has_its_claims_before_it_comes() {
    let mut s = with_claims(json!({ "whenDeleted": "Retain", "whenScaled": "Retain" }));
    s.settle();
    let all: Vec<String> = s
        .world
        .done()
        .into_iter()
        .filter(|l| l.starts_with("Create P"))
        .collect();
    let claim = "Create PersistentVolumeClaim/data-web-";
    let expected = [
        format!("{claim}0"),
        "Create Pod/web-0".into(),
        format!("{claim}1"),
        "Create Pod/web-1".into(),
    ];
    assert_eq!(all, expected);
    let pod = s.world.at("Pod", "web-1").clone();
    assert_eq!(
        pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"],
        "data-web-1"
    );
    assert_eq!(pod["spec"]["volumes"][1]["name"], "x");
    assert_eq!(pod["spec"]["volumes"].as_array().unwrap().len(), 2);
    let claim = s.world.at("PersistentVolumeClaim", "data-web-1").clone();
    assert_eq!(claim["metadata"]["labels"]["app"], "a");
    // Scaled down and up: the claim is the same.
    s.spec(json!({ "replicas": 1 }));
    s.settle();
    assert_eq!(owners(&mut s, "data-web-1"), Vec::<String>::new());
    s.spec(json!({ "replicas": 2 }));
    s.settle();
    assert_eq!(
        s.world.at("PersistentVolumeClaim", "data-web-1")["metadata"]["uid"],
        claim["metadata"]["uid"]
    );
}

#[test]
fn claims_go_with_what_the_policy_says() {
    let cases = [
        ("Retain", "Retain", vec![], vec![]),
        (
            "Delete",
            "Retain",
            vec!["StatefulSet/web"],
            vec!["StatefulSet/web"],
        ),
        ("Retain", "Delete", vec![], vec!["Pod/web-1"]),
        (
            "Delete",
            "Delete",
            vec!["StatefulSet/web"],
            vec!["Pod/web-1"],
        ),
    ];
    for (deleted, scaled, running, condemned) in cases {
        let mut s = with_claims(json!({ "whenDeleted": deleted, "whenScaled": scaled }));
        s.settle();
        assert_eq!(owners(&mut s, "data-web-1"), running, "{deleted} {scaled}");
        s.spec(json!({ "replicas": 1 }));
        s.lives = false;
        s.settle();
        assert_eq!(
            owners(&mut s, "data-web-1"),
            condemned,
            "{deleted} {scaled}"
        );
    }
}

#[test]
fn a_claim_that_goes_with_its_pod_is_not_used_again() {
    let mut s = with_claims(json!({ "whenDeleted": "Retain", "whenScaled": "Delete" }));
    s.settle();
    s.spec(json!({ "replicas": 1 }));
    s.settle();
    s.spec(json!({ "replicas": 2 }));
    s.settle();
    assert_eq!(
        s.world.names("Pod"),
        ["web-0"],
        "the claim is still owned by the pod that went"
    );
    s.world
        .objects
        .remove(&("PersistentVolumeClaim".into(), "data-web-1".into()));
    s.settle();
    assert_eq!(s.world.names("Pod"), ["web-0", "web-1"]);
}
