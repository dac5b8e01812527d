//! Signing in with tokens of an issuer outside, as an AuthenticationConfiguration names it: over TLS,
//! with an issuer that answers on this machine.
#![expect(clippy::disallowed_methods, reason = "a real server, in real time")]

mod common;
#[path = "common/over_tls.rs"]
mod over_tls;

use std::sync::Arc;
use std::time::Duration;

use apiserver::Config;
use apiserver::filters::files::Followed;
use apiserver::filters::oidc::Jwt;
use apiserver::filters::oidc::config::AuthenticationConfiguration;
use apiserver::settings::Anonymous;
use base64::Engine;
use http::{Method, Request, Response};
use http_body_util::Full;
use over_tls::{ISSUER, ask, start, who};
use parking_lot::Mutex;
use serde_json::{Value, json};
use wire::jwks::Algorithm;
use wire::jwt::Signer;
use wire::serve::RequestBody;

/// An issuer, whose keys may be exchanged.
struct Issuer {
    url: String,
    ca_pem: String,
    signer: Arc<Mutex<Arc<Signer>>>,
    /// Paths that were asked for.
    asked: Arc<Mutex<Vec<String>>>,
}

fn new_key() -> Arc<Signer> {
    Arc::new(Signer::generate().expect("key").0)
}

async fn issuer() -> Issuer {
    let signer = Arc::new(Mutex::new(new_key()));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (shown, noted) = (signer.clone(), asked.clone());
    let handle = move |request: Request<RequestBody>| {
        let (shown, noted) = (shown.clone(), noted.clone());
        async move {
            let path = request.uri().path().to_owned();
            let host = request.headers()["host"].to_str().expect("host").to_owned();
            noted.lock().push(path.clone());
            let said = match &*path {
                "/.well-known/openid-configuration" => json!({
                    "issuer": format!("https://{host}"),
                    "jwks_uri": format!("https://{host}/keys?for=all"),
                }),
                _ => shown.lock().jwks(),
            };
            Response::new(Full::from(said.to_string()))
        }
    };
    let outside = common::outside::start("issuer", None, handle).await;
    let ca_pem = base64::engine::general_purpose::STANDARD.decode(outside.bundle);
    Issuer {
        url: format!("https://127.0.0.1:{}", outside.port),
        ca_pem: String::from_utf8(ca_pem.expect("base64")).expect("PEM"),
        signer,
        asked,
    }
}

impl Issuer {
    fn configuration(&self) -> Value {
        json!({
            "issuer": {
                "url": self.url, "audiences": ["cluster", "other"],
                "audienceMatchPolicy": "MatchAny", "certificateAuthority": self.ca_pem,
            },
            "claimMappings": {
                "username": {"claim": "sub", "prefix": "oidc:"},
                "groups": {"expression": "claims.roles.map(r, 'oidc:' + r)"},
                "extra": [{"key": "x.io/team", "valueExpression": "claims.?team.orValue('')"}],
            },
            "userValidationRules": [{"expression": "user.username != 'oidc:root'", "message": "not root"}],
        })
    }

    fn token(&self, change: impl FnOnce(&mut Value)) -> String {
        let now = clock::Clock::system().seconds();
        let mut claims = json!({
            "iss": self.url, "aud": "cluster", "exp": now + 600, "sub": "jane",
            "roles": ["dev"], "team": "blue", "jti": "t1",
        });
        change(&mut claims);
        self.signer.lock().sign(&claims).expect("token")
    }
}

fn document(jwt: &[Value]) -> Vec<u8> {
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
        "jwt": jwt,
    })
    .to_string()
    .into_bytes()
}

fn believe(config: &mut Config, bytes: &[u8]) -> Arc<Jwt> {
    let read = AuthenticationConfiguration::read(bytes).expect("readable");
    let jwt = Jwt::new(&read, Algorithm::ALL.to_vec(), vec![ISSUER.to_owned()]);
    let jwt = Arc::new(jwt.expect("good"));
    config.authenticators.push(jwt.clone());
    config.background.push(jwt.clone());
    jwt
}

#[tokio::test]
async fn a_token_of_an_issuer_is_a_user_with_groups() {
    let issuer = issuer().await;
    let running = start(|c| drop(believe(c, &document(&[issuer.configuration()])))).await;
    let token = issuer.token(|_| {});
    let jane = running.with_token(&token).await;
    let user = json!({
        "username": "oidc:jane", "groups": ["oidc:dev", "system:authenticated"],
        "extra": {
            "authentication.kubernetes.io/credential-id": ["JTI=t1"], "x.io/team": ["blue"],
        },
    });
    assert_eq!(who(&jane).await, (200, user.clone()));

    // A role of a group is a role of its members.
    let pods = "/api/v1/namespaces/default/pods";
    assert_eq!(ask(&jane, Method::GET, pods, &Value::Null).await.0, 403);
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "devs"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "oidc:dev"}],
    });
    let admin = running.admin().await;
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    assert_eq!(ask(&admin, Method::POST, bindings, &binding).await.0, 200);
    assert_eq!(ask(&jane, Method::GET, pods, &Value::Null).await.0, 200);

    // A TokenReview asks the same.
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": token},
    });
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let (_, said) = ask(&admin, Method::POST, reviews, &review).await;
    let status = json!({"authenticated": true, "user": user, "audiences": [ISSUER]});
    assert_eq!(said["status"], status);
}

#[tokio::test]
async fn other_tokens_are_refused_and_counted() {
    let issuer = issuer().await;
    let running = start(|c| drop(believe(c, &document(&[issuer.configuration()])))).await;
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let admin = running.admin().await;
    let stranger = new_key();
    let table = [
        (
            issuer.token(|c| c["aud"] = "elsewhere".into()),
            "expected audience",
        ),
        (issuer.token(|c| c["exp"] = 5.into()), "token is expired"),
        (
            issuer.token(|c| c["nbf"] = 99_999_999_999_i64.into()),
            "nbf",
        ),
        (
            issuer.token(|c| c["sub"] = "root".into()),
            "failed: not root",
        ),
        (issuer.token(|c| c["roles"] = 1.into()), "group claim"),
        (
            stranger
                .sign(&json!({
                    "iss": issuer.url, "aud": "cluster", "exp": 99_999_999_999_i64, "sub": "jane",
                }))
                .expect("token"),
            "failed to verify signature",
        ),
        (
            issuer.token(|c| c["iss"] = "https://nobody.example".into()),
            "invalid bearer token",
        ),
    ];
    for (token, why) in table {
        let client = running.with_token(&token).await;
        assert_eq!(who(&client).await.0, 401, "{why}");
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token},
        });
        let (_, said) = ask(&admin, Method::POST, reviews, &review).await;
        let error = said["status"]["error"].as_str().unwrap_or_default();
        assert!(error.contains(why), "{why}: {said}");
        assert_ne!(said["status"]["authenticated"], json!(true));
    }
    let metrics = running.metrics().await;
    assert!(
        metrics.contains("authentication_attempts{result=\"error\"} 7"),
        "{metrics}"
    );
    assert!(metrics.contains(
        "apiserver_authentication_jwt_authenticator_latency_seconds_count{result=\"failure\""
    ));
    // Whoever shows tokens of unknown keys costs the issuer little.
    let asked = issuer.asked.lock().iter().filter(|p| *p == "/keys").count();
    assert!((1..=3).contains(&asked), "{asked}");
}

#[tokio::test]
async fn a_new_key_is_fetched() {
    let issuer = issuer().await;
    let running = start(|c| drop(believe(c, &document(&[issuer.configuration()])))).await;
    let before = issuer.token(|_| {});
    assert_eq!(who(&running.with_token(&before).await).await.0, 200);
    *issuer.signer.lock() = new_key();
    let after = issuer.token(|c| c["sub"] = "john".into());
    let (code, user) = who(&running.with_token(&after).await).await;
    assert_eq!((code, &user["username"]), (200, &json!("oidc:john")));
    // What the issuer does not vouch for any more is forgotten with its key.
    let renewed = issuer.token(|_| {});
    assert_eq!(who(&running.with_token(&renewed).await).await.0, 200);
}

#[tokio::test]
async fn the_file_is_read_again_when_it_changes() {
    let (one, two) = (issuer().await, issuer().await);
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("authentication.json");
    let first = document(&[one.configuration()]);
    std::fs::write(&path, &first).expect("file");
    let running = start(|c| {
        let jwt = believe(c, &first);
        c.background.push(Arc::new(Followed {
            path: path.clone(),
            first: first.clone(),
            configures: jwt,
        }));
    })
    .await;
    let tokens = [one.token(|_| {}), two.token(|_| {})];
    let codes = async || {
        let mut all = Vec::new();
        for token in &tokens {
            all.push(who(&running.with_token(token).await).await.0);
        }
        all
    };
    let become_so = async |want: &str, check: &dyn Fn(&str) -> bool| {
        let waiting = async {
            while !check(&running.metrics().await) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(120), waiting).await;
        assert!(waited.is_ok(), "{want}");
    };
    let reloads = |status: &str, text: &str| {
        let name = "apiserver_authentication_config_controller_automatic_reloads_total";
        let line = format!("{name}{{status=\"{status}\"");
        text.lines().any(|l| l.starts_with(&line))
    };
    assert_eq!(codes().await, [200, 401]);
    // What is wrong changes nothing.
    let mut wrong = one.configuration();
    wrong["issuer"]["url"] = "http://x".into();
    common::replace_file(&path, document(&[wrong]));
    become_so("a failure", &|text| reloads("failure", text)).await;
    assert_eq!(codes().await, [200, 401]);
    common::replace_file(&path, document(&[two.configuration()]));
    become_so("a success", &|text| reloads("success", text)).await;
    assert_eq!(codes().await, [401, 200]);
}

#[tokio::test]
async fn strangers_see_the_paths_that_are_named() {
    let running = start(|c| {
        c.settings.anonymous = Anonymous {
            enabled: true,
            paths: vec!["/livez".into()],
        };
    })
    .await;
    let code = async |path: &str, headers: &[(&str, &str)]| {
        let mut request = common::request(Method::GET, path, common::JSON, "");
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().expect("name");
            request
                .headers_mut()
                .insert(name, value.parse().expect("value"));
        }
        running.server.handle(request).await.status().as_u16()
    };
    assert_eq!(code("/livez", &[]).await, 200);
    assert_eq!(code("/readyz", &[]).await, 401);
    assert_eq!(code("/api", &[]).await, 401);
    assert_eq!(
        code("/livez", &[("authorization", "Bearer wrong")]).await,
        401
    );
    let metrics = running.metrics().await;
    assert!(
        metrics.contains("authentication_attempts{result=\"failure\"} 2"),
        "{metrics}"
    );
}
