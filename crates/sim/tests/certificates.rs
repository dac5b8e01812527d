//! Volumes that show certificates: trust anchors that change while the pod runs, and a pod's own
//! certificate, which a signer of the story issues, and which is exchanged before it expires; hours in
//! virtual time.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1beta1::{ClusterTrustBundle, PodCertificateRequest};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use sim::{Cluster, Plan};
use wire::pki::{Ca, Validity};

/// Longest that anything may take, in virtual time.
const MOST: Duration = Duration::from_secs(120);
const HOUR: i64 = 3600;

fn with_gates(config: &mut apiserver::Config) {
    let gates =
        ["ClusterTrustBundle=true,ClusterTrustBundleProjection=true,PodCertificateRequest=true"];
    let features = registry::Features::read(&gates).expect("known gates");
    let apis = ["certificates.k8s.io/v1beta1=true"];
    let served = registry::served_versions::configured(&apis, &features).expect("known APIs");
    config.settings.kinds = served.kinds;
    config.settings.features = std::sync::Arc::new(features);
}

struct Story {
    cluster: Cluster,
    ca: Ca,
    pods: Api<Pod>,
    requests: Api<PodCertificateRequest>,
    bundles: Api<ClusterTrustBundle>,
}

impl Story {
    fn client(&self) -> Client {
        self.cluster.admin().clone()
    }

    async fn make_bundle(&self, name: &str, signer: Option<&str>, text: &str) {
        let bundle = json!({
            "apiVersion": "certificates.k8s.io/v1beta1", "kind": "ClusterTrustBundle",
            "metadata": { "name": name, "labels": { "live": "yes" } },
            "spec": { "signerName": signer, "trustBundle": text } });
        let bundle = serde_json::from_value(bundle).unwrap();
        self.bundles
            .create(&PostParams::default(), &bundle)
            .await
            .unwrap();
    }

    /// What a file of the pod's volumes says now.
    fn file(&self, name: &str) -> Option<String> {
        let pods = self.cluster.nodes()[0].folder().join("kubelet/pods");
        let mut found = Vec::new();
        find(&pods, name, &mut found);
        std::fs::read_to_string(found.first()?).ok()
    }

    async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let waited = self
            .cluster
            .until(what, MOST, || std::future::ready(is_so()));
        waited.await.unwrap();
    }

    /// Requests that nobody has answered.
    async fn open(&self) -> Vec<PodCertificateRequest> {
        let all = self.requests.list(&ListParams::default()).await.unwrap();
        let waits = |r: &PodCertificateRequest| {
            let status = r.status.as_ref();
            status
                .and_then(|s| s.conditions.as_ref())
                .is_none_or(Vec::is_empty)
        };
        all.items.into_iter().filter(waits).collect()
    }

    async fn next_request(&self) -> PodCertificateRequest {
        let open = || async { !self.open().await.is_empty() };
        self.cluster.until("a request", MOST, open).await.unwrap();
        self.open().await.remove(0)
    }

    async fn answer(&self, request: &PodCertificateRequest, status: Value) -> kube::Result<()> {
        let name = request.metadata.name.as_deref().unwrap();
        let patch = Patch::Merge(json!({ "status": status }));
        let how = PatchParams::default();
        let done = self.requests.patch_status(name, &how, &patch).await;
        done.map(drop)
    }

    /// A certificate of an hour, to be exchanged after half of it.
    fn certificate(&self, request: &PodCertificateRequest, now: i64) -> Value {
        let der = request.spec.stub_pkc_s10_request.0.clone();
        let text = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der));
        let validity = Validity {
            not_before: now,
            not_after: now + HOUR,
        };
        let leaf = self
            .ca
            .sign_request(&text, &["client auth"], validity)
            .unwrap();
        let at = |seconds: i64| Timestamp::from_second(seconds).unwrap().to_string();
        json!({ "certificateChain": format!("{leaf}{}", self.ca.pair.cert_pem),
            "notBefore": at(now), "notAfter": at(now + HOUR), "beginRefreshAt": at(now + HOUR / 2),
            "conditions": [condition("Issued", now)] })
    }
}

fn condition(kind: &str, now: i64) -> Value {
    json!({ "type": kind, "status": "True", "reason": "Story", "message": "by the story",
        "lastTransitionTime": Timestamp::from_second(now).unwrap().to_string() })
}

fn find(dir: &Path, name: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        // Links lead to the same files once more.
        let kind = entry.file_type().unwrap();
        if entry.file_name() == name && !kind.is_dir() {
            found.push(path);
        } else if kind.is_dir() && !entry.file_name().to_string_lossy().starts_with("..") {
            find(&path, name, found);
        }
    }
}

fn pod(name: &str, sources: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "automountServiceAccountToken": false,
            "containers": [{ "name": "c", "image": "web:1",
                "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }],
            "volumes": [{ "name": "v", "projected": { "sources": sources } }] } }))
    .unwrap()
}

fn authority(name: &str) -> String {
    Ca::generate(name, 0).unwrap().pair.cert_pem
}

/// Runs a story in a runtime of its own, and takes away what its nodes have mounted.
fn run<F: Future<Output = ()>>(story: impl FnOnce(Story) -> F) {
    let folder = tempfile::tempdir().expect("a folder");
    let mounts = Mounts(folder.path().to_owned());
    let runtime = sim::runtime().expect("runtime");
    runtime.block_on(async {
        let cluster = Cluster::start_with(&Plan::steady(folder.path()), with_gates)
            .await
            .expect("a cluster");
        let client = cluster.admin().clone();
        story(Story {
            ca: Ca::generate("story", 0).unwrap(),
            pods: Api::default_namespaced(client.clone()),
            requests: Api::default_namespaced(client.clone()),
            bundles: Api::all(client),
            cluster,
        })
        .await;
    });
    drop(mounts);
}

struct Mounts(PathBuf);

impl Drop for Mounts {
    fn drop(&mut self) {
        for mount in host::mounts::below(&self.0).into_iter().flatten() {
            let _ = host::mounts::unmount(&mount);
        }
    }
}

#[test]
fn trust_anchors_follow_their_bundles() {
    run(|story| async move {
        let (a, b, c) = (authority("a"), authority("b"), authority("c"));
        let bundle = |by: Value, path: &str| {
            let mut source = by;
            source["path"] = path.into();
            json!({ "clusterTrustBundle": source })
        };
        let live = json!({ "matchLabels": { "live": "yes" } });
        let sources = json!([
            bundle(json!({ "name": "plain" }), "plain.pem"),
            bundle(
                json!({ "signerName": "x.io/s", "labelSelector": live }),
                "signer.pem"
            ),
            bundle(json!({ "name": "none", "optional": true }), "none.pem"),
        ]);
        story.make_bundle("x.io:s:1", Some("x.io/s"), &a).await;
        story
            .make_bundle("x.io:s:2", Some("x.io/s"), &format!("{a}{b}"))
            .await;
        let made = story
            .pods
            .create(&PostParams::default(), &pod("p", sources))
            .await;
        made.unwrap();
        // The pod waits for the bundle that it needs, and says so.
        let events: Api<Event> = Api::default_namespaced(story.client());
        let told = || async {
            let all = events.list(&ListParams::default()).await.unwrap();
            let missing = "clustertrustbundle \"plain\" not found";
            all.iter()
                .any(|e| e.message.as_deref().unwrap_or_default().contains(missing))
        };
        story.cluster.until("an event", MOST, told).await.unwrap();
        story.make_bundle("plain", None, &a).await;
        story
            .until("the first anchors", || {
                story.file("plain.pem").as_deref() == Some(&a)
            })
            .await;
        let anchors = story.file("signer.pem").unwrap();
        assert!(anchors.contains(&a) && anchors.contains(&b));
        assert_eq!(anchors.matches("BEGIN").count(), 2);
        assert_eq!(story.file("none.pem").as_deref(), Some(""));
        // Another bundle of the signer, another text of the one by name: the volume follows.
        story.make_bundle("x.io:s:3", Some("x.io/s"), &c).await;
        let patch = Patch::Merge(json!({ "spec": { "trustBundle": c } }));
        story
            .bundles
            .patch("plain", &PatchParams::default(), &patch)
            .await
            .unwrap();
        story
            .until("the next anchors", || {
                let signer = story.file("signer.pem").unwrap_or_default();
                story.file("plain.pem").as_deref() == Some(&c) && signer.contains(&c)
            })
            .await;
        story
            .pods
            .delete("p", &DeleteParams::default())
            .await
            .unwrap();
        story
            .until("the end", || story.file("plain.pem").is_none())
            .await;
    });
}

#[test]
fn a_pods_certificate_is_exchanged_before_it_expires() {
    run(|story| async move {
        let source = |more: Value| {
            let mut source = more;
            source["signerName"] = "x.io/s".into();
            source["keyType"] = "ECDSAP256".into();
            json!([{ "podCertificate": source }])
        };
        let sources = source(
            json!({ "credentialBundlePath": "both.pem", "keyPath": "key.pem",
            "certificateChainPath": "chain.pem", "userAnnotations": { "x.io/a": "b" } }),
        );
        story
            .pods
            .create(&PostParams::default(), &pod("p", sources))
            .await
            .unwrap();
        let first = story.next_request().await;
        let spec = &first.spec;
        assert_eq!(
            (spec.pod_name.as_str(), spec.node_name.as_str()),
            ("p", "node-0")
        );
        assert_eq!(
            (
                spec.service_account_name.as_str(),
                spec.max_expiration_seconds
            ),
            ("default", Some(86_400))
        );
        assert_eq!(
            spec.unverified_user_annotations.as_ref().unwrap()["x.io/a"],
            "b"
        );
        // A certificate for another key is not taken, nor one with other times.
        let now = story.cluster.now();
        let good = story.certificate(&first, now);
        for (field, value) in [
            ("certificateChain", json!(story.ca.pair.cert_pem)),
            ("notAfter", json!("2027-01-01T00:00:00Z")),
            ("beginRefreshAt", good["notAfter"].clone()),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            let refused = story.answer(&first, bad).await.unwrap_err().to_string();
            assert!(refused.contains(field), "{field}: {refused}");
        }
        let chain = good["certificateChain"].as_str().unwrap().to_owned();
        story.answer(&first, good).await.unwrap();
        story
            .until("the certificate", || {
                story.file("chain.pem").as_deref() == Some(&chain)
            })
            .await;
        let key = story.file("key.pem").unwrap();
        assert_eq!(story.file("both.pem"), Some(format!("{key}{chain}")));
        // Half an hour and at most five minutes later another one is asked for, with another key.
        tokio::time::sleep(Duration::from_secs(29 * 60)).await;
        assert!(story.open().await.is_empty());
        tokio::time::sleep(Duration::from_secs(7 * 60)).await;
        let second = story.next_request().await;
        assert_eq!(story.file("key.pem").as_deref(), Some(key.as_str()));
        let next = story.certificate(&second, story.cluster.now());
        let chain = next["certificateChain"].as_str().unwrap().to_owned();
        story.answer(&second, next).await.unwrap();
        story
            .until("the next certificate", || {
                story.file("chain.pem").as_deref() == Some(&chain)
            })
            .await;
        assert_ne!(story.file("key.pem").unwrap(), key);
        // What is denied is for good.
        let sources = source(json!({ "keyPath": "denied.pem" }));
        story
            .pods
            .create(&PostParams::default(), &pod("q", sources))
            .await
            .unwrap();
        let third = story.next_request().await;
        let denied = json!({ "conditions": [condition("Denied", story.cluster.now())] });
        story.answer(&third, denied).await.unwrap();
        let events: Api<Event> = Api::default_namespaced(story.client());
        let told = || async {
            let all = events.list(&ListParams::default()).await.unwrap();
            all.iter().any(|e| e.reason.as_deref() == Some("Denied"))
        };
        story.cluster.until("an event", MOST, told).await.unwrap();
        assert_eq!(story.file("denied.pem"), None);
        for name in ["p", "q"] {
            story
                .pods
                .delete(name, &DeleteParams::default())
                .await
                .unwrap();
        }
        story
            .until("the end", || story.file("key.pem").is_none())
            .await;
    });
}
