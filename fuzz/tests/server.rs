//! What the API server and the scheduler read besides requests: values of the store, which others
//! may have written, and files that configure them.

use apiserver::storage::Layout;
use apiserver::storage::encryption::config;
use apiserver::verbs::paging::ContinueToken;
use bytes::Bytes;
use fuzz::throw;
use serde_json::{Value, json};

fn texts(all: &[&str]) -> Vec<Vec<u8>> {
    all.iter().map(|t| t.as_bytes().to_vec()).collect()
}

fn objects() -> Vec<(&'static str, Value)> {
    vec![
        (
            "/registry/pods/default/web",
            json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "web", "namespace": "default",
                "labels": {"a": "b"}, "creationTimestamp": "2026-01-02T03:04:05Z"},
                "spec": {"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 80}]}]}}),
        ),
        (
            "/registry/leases/kube-system/a",
            json!({"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": {"name": "a",
                "namespace": "kube-system"}, "spec": {"holderIdentity": "x",
                "renewTime": "2026-01-02T03:04:05.000006Z"}}),
        ),
        (
            "/registry/apiextensions.k8s.io/customresourcedefinitions/ships.sea.example.com",
            json!({"kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1beta1",
                "metadata": {"name": "ships.sea.example.com"}, "spec": {"group": "sea.example.com",
                "version": "v1", "scope": "Namespaced", "names": {"plural": "ships", "kind": "Ship"},
                "validation": {"openAPIV3Schema": {"type": "object"}}}}),
        ),
    ]
}

#[test]
fn values_of_the_store() {
    let layout = Layout::new(registry::kinds());
    for (key, object) in objects() {
        let form = layout.of(key.as_bytes()).expect("a form");
        let text = Bytes::from(object.to_string());
        let mut examples = vec![text.to_vec()];
        if let Ok(read) = form.read(&text) {
            examples.push(form.write(&read).expect("what was read").to_vec());
        }
        throw(key, &examples, |bytes| {
            let Ok(read) = form.read(&Bytes::copy_from_slice(bytes)) else {
                return;
            };
            // What is read can be written, and what was written once is written again as it is: the
            // first time it gets the fields that are always there.
            if let Ok(written) = form.write(&read) {
                let again = form.read(&written).expect("our own value");
                assert_eq!(form.write(&again).expect("the same"), written);
            }
        });
    }
}

#[test]
fn encrypted_values() {
    let secret = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    let keys = json!({"keys": [{"name": "k", "secret": secret}]});
    let file = |providers: Value| {
        json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
            "resources": [{"resources": ["secrets"], "providers": providers}]})
        .to_string()
    };
    let key: &[u8] = b"/registry/secrets/default/a";
    for cipher in ["aesgcm", "aescbc", "secretbox"] {
        let text = file(json!([{ cipher: keys }, {"identity": {}}]));
        let rules = config::read(text.as_bytes(), registry::kinds(), || None).expect("rules");
        let providers = rules.of(key).expect("Secrets");
        let plain = Bytes::from_static(b"k8s\0 a secret of some length");
        let sealed = providers.seal(key, &plain).expect("sealed");
        throw(cipher, &[sealed.to_vec()], |bytes| {
            let stored = Bytes::copy_from_slice(bytes);
            if let Ok(opened) = providers.open(key, &stored) {
                // AES-CBC alone does not notice what was changed.
                let untouched = stored == sealed || opened == stored || opened == plain;
                assert!(untouched || cipher == "aescbc", "{cipher} was deceived");
            }
        });
    }
    let all = json!([{"aesgcm": keys}, {"aescbc": keys}, {"secretbox": keys}, {"identity": {}},
        {"kms": {"apiVersion": "v2", "name": "x", "endpoint": "unix:///x.sock", "timeout": "3s"}}]);
    // A key service's connection belongs to a runtime, though it is made when it is first asked.
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().expect("a runtime");
    let _inside = runtime.enter();
    throw("encryption configuration", &texts(&[&file(all)]), |bytes| {
        let _ = config::read(bytes, registry::kinds(), || None);
    });
}

#[test]
fn places_in_lists() {
    let token = ContinueToken::behind("default/web", 1234).token();
    throw(
        "continue tokens",
        &texts(&[&token, "eyJ2IjoibWV0YS5rOHMuaW8vdjEifQ"]),
        |bytes| {
            let text = String::from_utf8_lossy(bytes);
            if let Ok(place) = ContinueToken::read(&text) {
                assert!(place.rv != 0, "{text}");
                let again = ContinueToken::read(&place.token()).expect("our own token");
                assert_eq!((again.rv, again.start), (place.rv, place.start));
            }
        },
    );
    // The same, behind its base64.
    throw(
        "continue tokens inside",
        &texts(&[r#"{"v":"meta.k8s.io/v1","rv":7,"start":"default/a\u0000"}"#]),
        |bytes| {
            use base64::Engine;
            let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
            if let Ok(place) = ContinueToken::read(&token) {
                assert!(!place.start.split('/').any(|part| part == ".."));
            }
        },
    );
}

#[test]
fn configurations() {
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "None", "users": ["a"], "verbs": ["watch"], "resources": [{"group": "",
                "resources": ["pods", "*/status"], "resourceNames": ["x"]}]},
            {"level": "RequestResponse", "nonResourceURLs": ["/healthz*"], "omitManagedFields": true},
        ],
    });
    throw("audit policy", &texts(&[&policy.to_string()]), |bytes| {
        let _ = apiserver::audit::policy::Policy::read(bytes);
    });
    let admission = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration",
        "plugins": [
            {"name": "PodSecurity", "configuration": {"apiVersion": "pod-security.admission.config.k8s.io/v1",
                "kind": "PodSecurityConfiguration", "defaults": {"enforce": "baseline"},
                "exemptions": {"namespaces": ["a"]}}},
            {"name": "EventRateLimit", "path": "x.yaml"},
        ],
    });
    throw(
        "admission configuration",
        &texts(&[&admission.to_string()]),
        |bytes| {
            if let Ok(document) = apiserver::admission::configuration::parse(bytes) {
                let mut options = apiserver::admission::Options::default();
                let none = |_: &str| Err("no file".to_owned());
                let _ = apiserver::admission::configuration::read(&mut options, document, none);
            }
        },
    );
    let scheduler = json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "podInitialBackoffSeconds": 1,
        "profiles": [{"schedulerName": "a", "percentageOfNodesToScore": 50,
            "plugins": {"score": {"disabled": [{"name": "*"}], "enabled": [{"name": "NodeResourcesFit", "weight": 3}]}},
            "pluginConfig": [{"name": "NodeResourcesFit", "args": {"scoringStrategy": {"type": "MostAllocated",
                "resources": [{"name": "cpu", "weight": 1}]}}}]}],
        "extenders": [{"urlPrefix": "http://x/", "filterVerb": "f", "httpTimeout": "3s", "weight": 1}],
    });
    throw(
        "scheduler configuration",
        &texts(&[&scheduler.to_string()]),
        |bytes| {
            if let Ok(decoded) = schema::decode::yaml(bytes) {
                let _ = scheduler::config::read(decoded.value);
            }
        },
    );
}
