//! Webhooks that say who asks and what he may do: over TLS, with webhooks that answer on this
//! machine.

mod common;
#[path = "common/over_tls.rs"]
mod over_tls;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use apiserver::Config;
use apiserver::filters::authorization::Chain;
use apiserver::filters::authorization::config::AuthorizationConfiguration;
use apiserver::filters::authz::Masters;
use apiserver::filters::files::Followed;
use apiserver::filters::static_tokens::StaticTokens;
use apiserver::filters::token_webhook::{TokenWebhook, Version};
use apiserver::filters::webhook::Webhook;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use over_tls::{ask, start, who};
use parking_lot::Mutex;
use serde_json::{Value, json};
use wire::serve::RequestBody;

/// A webhook; what it was asked, and a kubeconfig that names it.
struct Hook {
    asked: Arc<Mutex<Vec<Value>>>,
    kubeconfig: PathBuf,
    _folder: tempfile::TempDir,
}

/// Answers reviews by what `judge` makes of their spec; nothing is an answer of 500.
async fn hook(judge: impl Fn(&Value) -> Option<Value> + Clone + Send + Sync + 'static) -> Hook {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = asked.clone();
    let handle = move |request: Request<RequestBody>| {
        let (noted, judge) = (noted.clone(), judge.clone());
        async move {
            let shown = request.headers().get("authorization").cloned();
            let body = request
                .into_body()
                .collect()
                .await
                .expect("body")
                .to_bytes();
            let mut review: Value = serde_json::from_slice(&body).expect("a review");
            assert_eq!(shown.expect("a token"), "Bearer secret");
            noted.lock().push(review.clone());
            match judge(&review["spec"]) {
                Some(status) => {
                    review["status"] = status;
                    Response::new(Full::from(review.to_string()))
                }
                None => {
                    let mut response = Response::new(Full::from("out of order"));
                    *response.status_mut() = http::StatusCode::BAD_GATEWAY;
                    response
                }
            }
        }
    };
    let outside = common::outside::start("hook", None, handle).await;
    let folder = tempfile::tempdir().expect("folder");
    let kubeconfig = folder.path().join("hook.yaml");
    let file = json!({
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "x", "user": "u"}}],
        "clusters": [{"name": "x", "cluster": {
            "server": format!("https://127.0.0.1:{}/judge", outside.port),
            "certificate-authority-data": outside.bundle,
        }}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
    });
    std::fs::write(&kubeconfig, file.to_string()).expect("file");
    Hook {
        asked,
        kubeconfig,
        _folder: folder,
    }
}

fn document(authorizers: &Value) -> Vec<u8> {
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration",
        "authorizers": authorizers,
    })
    .to_string()
    .into_bytes()
}

fn webhook(name: &str, kubeconfig: &Path, changes: &Value) -> Value {
    let mut webhook = json!({
        "timeout": "20s", "subjectAccessReviewVersion": "v1", "failurePolicy": "Deny",
        "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": kubeconfig},
    });
    for (field, value) in changes.as_object().into_iter().flatten() {
        webhook[field] = value.clone();
    }
    json!({"type": "Webhook", "name": name, "webhook": webhook})
}

fn node_and_rbac() -> [Value; 2] {
    [
        json!({"type": "Node", "name": "node"}),
        json!({"type": "RBAC", "name": "rbac"}),
    ]
}

fn judge_by(config: &mut Config, bytes: &[u8]) -> Arc<Chain> {
    let (read, conditions) = AuthorizationConfiguration::read(bytes).expect("good");
    let chain = Arc::new(Chain::new(&read, conditions).expect("a chain"));
    config.authorizers = vec![Arc::new(Masters), chain.clone()];
    chain
}

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn a_webhook_allows_denies_and_leaves_the_rest_to_others() {
    let hook = hook(|spec| {
        let verb = &spec["resourceAttributes"]["verb"];
        Some(match verb.as_str().unwrap_or_default() {
            "list" => json!({"allowed": true}),
            "delete" => json!({"allowed": false, "denied": true, "reason": "not you"}),
            _ => json!({"allowed": false, "reason": "no opinion"}),
        })
    })
    .await;
    let condition = json!({
        "matchConditionSubjectAccessReviewVersion": "v1",
        "matchConditions": [{"expression": "has(request.resourceAttributes) && request.resourceAttributes.resource == 'pods'"}],
    });
    let [node, rbac] = node_and_rbac();
    let authorizers = json!([node, webhook("hook", &hook.kubeconfig, &condition), rbac]);
    let running = start(|c| drop(judge_by(c, &document(&authorizers)))).await;
    let jane = running.as_user("jane", &["dev"]).await;
    let list = format!("{PODS}?labelSelector=a%3Db&fieldSelector=spec.nodeName%3Dn");
    for _ in 0..2 {
        assert_eq!(ask(&jane, Method::GET, &list, &Value::Null).await.0, 200);
    }
    {
        let asked = hook.asked.lock();
        assert_eq!(asked.len(), 1, "the answer is kept");
        assert_eq!(asked[0]["apiVersion"], "authorization.k8s.io/v1");
        let mut spec = asked[0]["spec"].clone();
        // Which certificate it was: another one in each run.
        let extra = spec.as_object_mut().and_then(|s| s.remove("extra"));
        let id = &extra.unwrap_or_default()["authentication.kubernetes.io/credential-id"][0];
        assert!(id.as_str().is_some_and(|id| id.starts_with("X509SHA256=")));
        assert_eq!(
            spec,
            json!({
                "user": "jane", "groups": ["dev", "system:authenticated"],
                "resourceAttributes": {
                    "verb": "list", "version": "v1", "resource": "pods", "namespace": "default",
                    "fieldSelector": {"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n"]}]},
                    "labelSelector": {"requirements": [{"key": "a", "operator": "In", "values": ["b"]}]},
                },
            })
        );
    }
    let one = format!("{PODS}/x");
    let (code, said) = ask(&jane, Method::DELETE, &one, &Value::Null).await;
    let refusal = "pods \"x\" is forbidden: User \"jane\" cannot delete resource \"pods\" in API group \"\" in the namespace \"default\": not you";
    assert_eq!((code, said["message"].as_str()), (403, Some(refusal)));
    let (code, said) = ask(&jane, Method::GET, &one, &Value::Null).await;
    let refusal = "pods \"x\" is forbidden: User \"jane\" cannot get resource \"pods\" in API group \"\" in the namespace \"default\": no opinion";
    assert_eq!((code, said["message"].as_str()), (403, Some(refusal)));
    // What its conditions leave out it is not asked.
    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!(ask(&jane, Method::GET, secrets, &Value::Null).await.0, 403);
    assert!(
        hook.asked
            .lock()
            .iter()
            .all(|r| r["spec"]["resourceAttributes"]["resource"] == "pods")
    );

    // Reviews ask the same chain.
    let admin = running.admin().await;
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": "john", "resourceAttributes": {"verb": "delete", "resource": "pods", "namespace": "a"}},
    });
    let reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let (_, said) = ask(&admin, Method::POST, reviews, &review).await;
    assert_eq!(
        said["status"],
        json!({"allowed": false, "denied": true, "reason": "not you"})
    );
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": "default"},
    });
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let (_, said) = ask(&jane, Method::POST, reviews, &review).await;
    assert_eq!(said["status"]["incomplete"], true);
    assert_eq!(
        said["status"]["evaluationError"],
        "webhook authorizer does not support user rule resolution"
    );

    let metrics = running.metrics().await;
    for line in [
        "apiserver_authorization_decisions_total{type=\"Webhook\",name=\"hook\",decision=\"denied\"}",
        "apiserver_authorization_decisions_total{type=\"Webhook\",name=\"hook\",decision=\"allowed\"} 2",
        "apiserver_authorization_webhook_evaluations_total{name=\"hook\",result=\"success\"}",
        "apiserver_authorization_match_condition_exclusions_total{type=\"Webhook\",name=\"hook\"}",
        "authorization_attempts_total{result=\"denied\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[tokio::test]
async fn a_webhook_that_fails_denies_or_has_no_opinion() {
    let broken = hook(|_| None).await;
    let [_, rbac] = node_and_rbac();
    let with = |policy: &str| {
        let policy = json!({"failurePolicy": policy, "subjectAccessReviewVersion": "v1beta1"});
        document(&json!([webhook("hook", &broken.kubeconfig, &policy), rbac]))
    };
    let denying = start(|c| drop(judge_by(c, &with("Deny")))).await;
    let page = "/api";
    let jane = denying.as_user("jane", &[]).await;
    let (code, said) = ask(&jane, Method::GET, page, &Value::Null).await;
    assert_eq!(code, 500, "{said}");
    assert_eq!(
        broken.asked.lock()[0]["spec"]["group"],
        json!(["system:authenticated"])
    );

    // Discovery is what roles grant to everyone that is known.
    let open = start(|c| drop(judge_by(c, &with("NoOpinion")))).await;
    let jane = open.as_user("jane", &[]).await;
    assert_eq!(ask(&jane, Method::GET, page, &Value::Null).await.0, 200);
    assert_eq!(ask(&jane, Method::GET, PODS, &Value::Null).await.0, 500);
    let metrics = open.metrics().await;
    let line = "apiserver_authorization_webhook_evaluations_fail_open_total{name=\"hook\",result=\"error\"} 2";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn the_chain_follows_its_file() {
    let allowing = hook(|_| Some(json!({"allowed": true}))).await;
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("authz.json");
    let [node, rbac] = node_and_rbac();
    let first = document(&json!([node, rbac]));
    std::fs::write(&path, &first).expect("file");
    let running = start(|c| {
        let chain = judge_by(c, &first);
        c.background.push(Arc::new(Followed {
            path: path.clone(),
            first: first.clone(),
            configures: chain,
        }));
    })
    .await;
    let reloaded = async |status: &str| {
        let name = "apiserver_authorization_config_controller_automatic_reloads_total";
        let line = format!("{name}{{status=\"{status}\"");
        let waiting = async {
            while !running.metrics().await.contains(&line) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(120), waiting).await;
        assert!(waited.is_ok(), "{status}");
    };
    let jane = running.as_user("jane", &[]).await;
    assert_eq!(ask(&jane, Method::GET, PODS, &Value::Null).await.0, 403);
    // Roles must stay.
    let hook = webhook("hook", &allowing.kubeconfig, &json!({}));
    common::replace_file(&path, document(&json!([node, hook])));
    reloaded("failure").await;
    assert_eq!(ask(&jane, Method::GET, PODS, &Value::Null).await.0, 403);
    common::replace_file(&path, document(&json!([node, rbac, hook])));
    reloaded("success").await;
    assert_eq!(ask(&jane, Method::GET, PODS, &Value::Null).await.0, 200);
}

#[tokio::test]
async fn a_webhook_says_whose_token_it_is() {
    let hook = hook(|spec| match spec["token"].as_str().unwrap_or_default() {
        "good" => Some(json!({
            "authenticated": true,
            "user": {"username": "jane", "uid": "7", "groups": ["dev"], "extra": {"k": ["v"]}},
        })),
        "broken" => None,
        _ => Some(json!({"authenticated": false, "error": "who is that?"})),
    })
    .await;
    let running = start(|c| {
        let webhook = Webhook::read(&hook.kubeconfig).expect("good");
        let hold = Duration::from_secs(120);
        let webhook = TokenWebhook::new(webhook, Version::V1, hold);
        c.authenticators.push(Arc::new(webhook));
    })
    .await;
    let jane = running.with_token("good").await;
    let user = json!({
        "username": "jane", "uid": "7", "groups": ["dev", "system:authenticated"],
        "extra": {"k": ["v"]},
    });
    for _ in 0..2 {
        assert_eq!(who(&jane).await, (200, user.clone()));
    }
    {
        let asked = hook.asked.lock();
        assert_eq!(asked.len(), 1, "the answer is kept");
        assert_eq!(asked[0]["apiVersion"], "authentication.k8s.io/v1");
        assert_eq!(
            asked[0]["spec"],
            json!({"token": "good", "audiences": [over_tls::ISSUER]})
        );
    }
    for wrong in ["stranger", "broken"] {
        assert_eq!(
            who(&running.with_token(wrong).await).await.0,
            401,
            "{wrong}"
        );
    }
    // TokenReview goes the same way.
    let admin = running.admin().await;
    for (token, status) in [
        (
            "good",
            json!({"authenticated": true, "user": user, "audiences": [over_tls::ISSUER]}),
        ),
        ("stranger", json!({"error": "[who is that?]", "user": {}})),
    ] {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token},
        });
        let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
        let (_, said) = ask(&admin, Method::POST, reviews, &review).await;
        let mut got = said["status"].clone();
        if got["user"] == json!({"username": ""}) {
            got["user"] = json!({});
        }
        assert_eq!(got, status, "{token}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_file_names_a_user() {
    let running = start(|c| {
        let file = "secret,jane,7,\"dev,ops\"\n";
        let (tokens, warnings) = StaticTokens::read(file).expect("a token file");
        assert!(warnings.is_empty());
        c.authenticators.push(Arc::new(tokens));
    })
    .await;
    let user = json!({
        "username": "jane", "uid": "7", "groups": ["dev", "ops", "system:authenticated"],
    });
    let jane = running.with_token("secret").await;
    assert_eq!(who(&jane).await, (200, user));
    let stranger = running.with_token("secre").await;
    assert_eq!(who(&stranger).await.0, 401);
}
