//! Tokens of accounts, of bootstrap and of issuers elsewhere: whom they name, and until when.

use super::*;

#[tokio::test]
async fn tokens_live_as_long_as_what_they_are_bound_to() {
    let (s, signer) = secured().await;
    make(
        &s,
        "/api/v1/namespaces/default/serviceaccounts",
        account("default"),
    )
    .await;
    let pod = make(&s, "/api/v1/namespaces/default/pods", pod("p")).await;
    let uri = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let ask = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {
        "expirationSeconds": 3607,
        "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": "p" },
    }});
    let (code, made) = by(&s, &admin(), Method::POST, uri, ask.clone()).await;
    assert_eq!(code, 201, "{made}");
    let token = made["status"]["token"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let claims = signer.verify(&token).expect("ours");
    assert_eq!(claims["kubernetes.io"]["pod"]["name"], "p");
    assert_eq!(claims["aud"], json!([ISSUER]));
    assert!(claims["kubernetes.io"]["warnafter"].is_i64());

    let review = |audiences: Value| {
        let spec = json!({ "token": token, "audiences": audiences });
        let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec });
        let s = s.clone();
        async move {
            let uri = "/apis/authentication.k8s.io/v1/tokenreviews";
            by(&s, &admin(), Method::POST, uri, body).await.1["status"].clone()
        }
    };
    let status = review(json!([])).await;
    assert_eq!(status["authenticated"], true, "{status}");
    assert_eq!(status["audiences"], json!([ISSUER]));
    assert_eq!(
        status["user"]["username"],
        "system:serviceaccount:default:default"
    );
    assert_eq!(
        status["user"]["extra"]["authentication.kubernetes.io/pod-uid"],
        json!([pod["metadata"]["uid"]])
    );
    let status = review(json!(["vault"])).await;
    assert_ne!(status["authenticated"], true, "{status}");

    // The account may do what is bound to it, at once.
    let pods = "/api/v1/namespaces/default/pods";
    let (code, refused) = with_token(&s, &token, Method::GET, pods).await;
    assert_eq!(code, 403);
    assert!(
        message(&refused).contains("User \"system:serviceaccount:default:default\" cannot list")
    );
    let mut grant = binding("b", "ClusterRole", "view", "");
    grant["subjects"] =
        json!([{ "kind": "ServiceAccount", "name": "default", "namespace": "default" }]);
    make(
        &s,
        &format!("{RBAC}/namespaces/default/rolebindings"),
        grant,
    )
    .await;
    assert_eq!(with_token(&s, &token, Method::GET, pods).await.0, 200);

    // As a WebSocket's protocol too.
    let protocol = format!(
        "base64url.bearer.authorization.k8s.io.{}, v5.channel.k8s.io",
        URL_SAFE_NO_PAD.encode(&token)
    );
    let headers = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-protocol", protocol.as_str()),
    ];
    assert_eq!(
        with(&s, &headers, Method::GET, pods, Value::Null).await.0,
        200
    );

    for bad in [
        json!({ "expirationSeconds": 10 }),
        json!({ "boundObjectRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "x" } }),
        json!({ "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "x" } }),
        json!({ "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": "none" } }),
    ] {
        let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": bad });
        let (code, _) = by(&s, &admin(), Method::POST, uri, body).await;
        assert!((400..500).contains(&code), "{bad}: {code}");
    }

    let gone = "/api/v1/namespaces/default/pods/p?gracePeriodSeconds=0";
    assert_eq!(
        by(&s, &admin(), Method::DELETE, gone, Value::Null).await.0,
        200
    );
    assert_eq!(with_token(&s, &token, Method::GET, pods).await.0, 401);
}

async fn figure(s: &ApiServer, name: &str) -> String {
    let service = s.local_service(admin());
    let request = plain(Method::GET, "/metrics", &Value::Null);
    let answer = service.oneshot(request).await.expect("infallible");
    let bytes = answer.into_body().collect().await.expect("body").to_bytes();
    let text = String::from_utf8(bytes.to_vec()).expect("text");
    let mut lines = text.lines().filter_map(|l| l.strip_prefix(name));
    lines.next().unwrap_or_default().trim().to_owned()
}

#[tokio::test]
async fn uses_of_stale_tokens_are_counted() {
    let (s, signer) = secured().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let made = make(&s, accounts, account("default")).await;
    let now = s.now();
    let token = |warn_after: i64| {
        let claims = json!({
            "aud": [ISSUER], "iss": ISSUER, "exp": now + 1_000, "iat": now - 5_000, "nbf": now - 5_000,
            "sub": "system:serviceaccount:default:default",
            "kubernetes.io": {
                "namespace": "default", "warnafter": warn_after,
                "serviceaccount": { "name": "default", "uid": made["metadata"]["uid"] },
            },
        });
        signer.sign(&claims).expect("token")
    };
    let (fresh, stale) = (token(now + 500), token(now - 500));
    for token in [&fresh, &stale, &stale] {
        // Known, and allowed nothing.
        let pods = "/api/v1/namespaces/default/pods";
        assert_eq!(with_token(&s, token, Method::GET, pods).await.0, 403);
    }
    assert_eq!(figure(&s, "serviceaccount_stale_tokens_total").await, "2");
    assert_eq!(figure(&s, "serviceaccount_valid_tokens_total").await, "1");
}

#[tokio::test]
async fn an_accounts_token_ends_with_the_account() {
    let (s, _) = secured().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    make(&s, accounts, account("x")).await;
    let ask =
        json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {} });
    let (_, made) = by(
        &s,
        &admin(),
        Method::POST,
        &format!("{accounts}/x/token"),
        ask,
    )
    .await;
    let token = made["status"]["token"].as_str().unwrap_or_default();
    assert_eq!(with_token(&s, token, Method::GET, "/version").await.0, 200);
    let uri = format!("{accounts}/x");
    assert_eq!(
        by(&s, &admin(), Method::DELETE, &uri, Value::Null).await.0,
        200
    );
    assert_eq!(with_token(&s, token, Method::GET, "/version").await.0, 401);
    make(&s, accounts, account("x")).await;
    assert_eq!(with_token(&s, token, Method::GET, "/version").await.0, 401);
}

#[tokio::test]
async fn foreign_and_expired_tokens_are_refused() {
    let (s, signer) = secured().await;
    let made = make(
        &s,
        "/api/v1/namespaces/default/serviceaccounts",
        account("x"),
    )
    .await;
    let claims = |exp: i64, audience: &str| {
        json!({
            "iss": ISSUER, "aud": [audience], "exp": exp, "iat": exp - 600, "nbf": exp - 600,
            "sub": "system:serviceaccount:default:x",
            "kubernetes.io": { "namespace": "default",
                "serviceaccount": { "name": "x", "uid": made["metadata"]["uid"] } },
        })
    };
    let (other, _) = Signer::generate().expect("key");
    let now = s.now();
    let cases = [
        (signer.sign(&claims(now + 100, ISSUER)), 200),
        (signer.sign(&claims(now - 100, ISSUER)), 401),
        (signer.sign(&claims(now + 2000, ISSUER)), 401),
        (signer.sign(&claims(now + 100, "vault")), 401),
        (other.sign(&claims(now + 100, ISSUER)), 401),
    ];
    for (nth, (token, want)) in cases.into_iter().enumerate() {
        let token = token.expect("token");
        assert_eq!(
            with_token(&s, &token, Method::GET, "/version").await.0,
            want,
            "{nth}"
        );
    }
}

#[tokio::test]
async fn bootstrap_tokens_make_a_bootstrapper() {
    let (s, _) = secured().await;
    let data = |k: &str| STANDARD.encode(k);
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": { "name": "bootstrap-token-abcdef" },
        "data": {
            "token-id": data("abcdef"), "token-secret": data("0123456789abcdef"),
            "usage-bootstrap-authentication": data("true"),
            "auth-extra-groups": data("system:bootstrappers:nodes"),
        },
    });
    make(&s, "/api/v1/namespaces/kube-system/secrets", secret).await;
    let token = "abcdef.0123456789abcdef";
    let (code, refused) = with_token(&s, token, Method::GET, "/api/v1/nodes").await;
    assert_eq!(code, 403);
    assert!(
        message(&refused).contains("system:bootstrap:abcdef"),
        "{refused}"
    );
    let wrong = "abcdef.0123456789abcdeg";
    assert_eq!(with_token(&s, wrong, Method::GET, "/version").await.0, 401);
}

#[tokio::test]
async fn others_can_check_our_tokens() {
    let (s, signer) = secured().await;
    let (code, keys) = by(&s, &admin(), Method::GET, "/openid/v1/jwks", Value::Null).await;
    assert_eq!((code, keys), (200, signer.jwks()));
    let uri = "/.well-known/openid-configuration";
    let (code, document) = by(&s, &admin(), Method::GET, uri, Value::Null).await;
    assert_eq!((code, &document["issuer"]), (200, &json!(ISSUER)));
}
