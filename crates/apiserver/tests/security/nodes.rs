//! What a node may read, write and be given, and which certificates it may ask for.

use super::*;

#[tokio::test]
async fn a_node_has_its_own_and_no_more() {
    let (s, _) = secured().await;
    let (n1, n2) = (node("n1"), node("n2"));
    make(
        &s,
        "/api/v1/namespaces/default/serviceaccounts",
        account("default"),
    )
    .await;
    for secret in ["used", "other"] {
        let object =
            json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": secret } });
        make(&s, "/api/v1/namespaces/default/secrets", object).await;
    }
    // Its Node, tainted until it is ready.
    let (code, made) = by(&s, &n1, Method::POST, "/api/v1/nodes", node_object("n1")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(
        made["spec"]["taints"],
        json!([{ "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" }])
    );
    assert_eq!(
        by(&s, &n1, Method::POST, "/api/v1/nodes", node_object("n2"))
            .await
            .0,
        403
    );
    assert_eq!(
        by(&s, &n2, Method::DELETE, "/api/v1/nodes/n1", Value::Null)
            .await
            .0,
        403
    );
    let labels =
        json!({ "metadata": { "labels": { "node-role.kubernetes.io/control-plane": "" } } });
    let (code, refused) = by(&s, &n1, Method::PATCH, "/api/v1/nodes/n1", labels).await;
    assert_eq!(code, 403);
    assert!(
        message(&refused).contains("is not allowed to modify labels"),
        "{refused}"
    );
    let taints = json!({ "spec": { "taints": [] } });
    assert_eq!(
        by(&s, &n1, Method::PATCH, "/api/v1/nodes/n1", taints)
            .await
            .0,
        403
    );
    let status = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
    let uri = "/api/v1/nodes/n1/status";
    assert_eq!(by(&s, &n1, Method::PATCH, uri, status.clone()).await.0, 200);
    assert_eq!(by(&s, &n2, Method::PATCH, uri, status).await.0, 403);

    // What its pods use.
    let secret = "/api/v1/namespaces/default/secrets/used";
    assert_eq!(by(&s, &n1, Method::GET, secret, Value::Null).await.0, 403);
    let mut own = bound_pod("p", "n1");
    own["spec"]["volumes"] = json!([{ "name": "v", "secret": { "secretName": "used" } }]);
    let pod = make(&s, "/api/v1/namespaces/default/pods", own).await;
    assert_eq!(by(&s, &n1, Method::GET, secret, Value::Null).await.0, 200);
    assert_eq!(by(&s, &n2, Method::GET, secret, Value::Null).await.0, 403);
    let other = "/api/v1/namespaces/default/secrets/other";
    assert_eq!(by(&s, &n1, Method::GET, other, Value::Null).await.0, 403);
    let listed = |u, q: &'static str| {
        let s = s.clone();
        async move { by(&s, u, Method::GET, q, Value::Null).await.0 }
    };
    assert_eq!(
        listed(&n1, "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await,
        200
    );
    assert_eq!(
        listed(&n2, "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await,
        403
    );
    assert_eq!(listed(&n1, "/api/v1/pods").await, 403);
    let phase = json!({ "status": { "phase": "Running" } });
    let uri = "/api/v1/namespaces/default/pods/p/status";
    assert_eq!(by(&s, &n2, Method::PATCH, uri, phase.clone()).await.0, 403);
    assert_eq!(by(&s, &n1, Method::PATCH, uri, phase).await.0, 200);
    let uri = "/api/v1/namespaces/default/pods/p";
    assert_eq!(by(&s, &n2, Method::DELETE, uri, Value::Null).await.0, 403);

    // Tokens of its pods' accounts.
    let ask = |uid: &str| {
        json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {
            "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid },
        }})
    };
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    let uri = "/api/v1/namespaces/default/serviceaccounts/default/token";
    assert_eq!(by(&s, &n1, Method::POST, uri, ask(uid)).await.0, 201);
    assert_eq!(by(&s, &n2, Method::POST, uri, ask(uid)).await.0, 403);
    assert_eq!(by(&s, &n1, Method::POST, uri, ask("wrong")).await.0, 403);
    let unbound =
        json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {} });
    assert_eq!(by(&s, &n1, Method::POST, uri, unbound).await.0, 403);

    // Its lease.
    let lease = |name: &str| json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": name } });
    let uri = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    assert_eq!(by(&s, &n1, Method::POST, uri, lease("n2")).await.0, 403);
    assert_eq!(by(&s, &n1, Method::POST, uri, lease("n1")).await.0, 201);
}

#[tokio::test]
async fn certificate_requests_are_guarded() {
    let (s, _) = secured().await;
    let uri = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let csr = |name: &str, user: &str, groups: &[&str], signer: &str| {
        let (pem, _) = wire::pki::make_request(&Subject::client(user, groups)).expect("request");
        json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": { "name": name },
            "spec": { "request": STANDARD.encode(pem), "signerName": signer, "usages": ["client auth"],
                "username": "somebody-else" },
        })
    };
    let client = "kubernetes.io/kube-apiserver-client";
    let made = make(&s, uri, csr("a", "jo", &["dev"], client)).await;
    assert_eq!(made["spec"]["username"], "admin");
    let (code, refused) = by(
        &s,
        &admin(),
        Method::POST,
        uri,
        csr("b", "jo", &["system:masters"], client),
    )
    .await;
    assert_eq!(code, 403, "{refused}");
    let kubelet = "kubernetes.io/kube-apiserver-client-kubelet";
    let n1 = node("n1");
    let (code, refused) = by(
        &s,
        &n1,
        Method::POST,
        uri,
        csr("c", "system:node:n2", &["system:nodes"], kubelet),
    )
    .await;
    assert_eq!(code, 403, "{refused}");
    let (code, made) = by(
        &s,
        &n1,
        Method::POST,
        uri,
        csr("c", "system:node:n1", &["system:nodes"], kubelet),
    )
    .await;
    assert_eq!(code, 201, "{made}");

    // May write approvals, but for no signer.
    let mut grant = role(
        "approver",
        "certificatesigningrequests/approval",
        &["update", "patch"],
    );
    grant["kind"] = "ClusterRole".into();
    grant["rules"][0]["apiGroups"] = json!(["certificates.k8s.io"]);
    make(&s, &format!("{RBAC}/clusterroles"), grant).await;
    let mut bind = binding("approver", "ClusterRole", "approver", "jo");
    bind["kind"] = "ClusterRoleBinding".into();
    make(&s, &format!("{RBAC}/clusterrolebindings"), bind).await;
    let approve = json!({ "status": { "conditions": [{ "type": "Approved", "status": "True", "reason": "r" }] } });
    let approval = format!("{uri}/a/approval");
    let jo = UserInfo::new("jo", &[]);
    let (code, refused) = by(&s, &jo, Method::PATCH, &approval, approve.clone()).await;
    assert_eq!(code, 403);
    assert!(
        message(&refused).contains("user not permitted to approve requests with signerName"),
        "{refused}"
    );
    let (code, done) = by(&s, &admin(), Method::PATCH, &approval, approve).await;
    assert_eq!(code, 200, "{done}");
}

#[tokio::test]
async fn a_node_asks_for_the_tokens_that_drivers_want() {
    let (s, _) = secured().await;
    make(&s, "/api/v1/nodes", node_object("n1")).await;
    let driver = |name: &str, audience: &str| {
        json!({ "apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": { "name": name },
            "spec": { "attachRequired": false, "requiresRepublish": true,
                "volumeLifecycleModes": ["Persistent", "Ephemeral"],
                "tokenRequests": [{ "audience": audience }] } })
    };
    let drivers = "/apis/storage.k8s.io/v1/csidrivers";
    make(&s, drivers, driver("own.io", "vault")).await;
    make(&s, drivers, driver("other.io", "bank")).await;
    make(&s, drivers, driver("claimed.io", "safe")).await;
    let volume = json!({ "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": { "name": "pv" },
        "spec": { "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"],
            "csi": { "driver": "claimed.io", "volumeHandle": "h" } } });
    make(&s, "/api/v1/persistentvolumes", volume).await;
    let claim = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": { "name": "c" },
        "spec": { "accessModes": ["ReadWriteOnce"], "volumeName": "pv", "storageClassName": "",
            "resources": { "requests": { "storage": "1Gi" } } } });
    make(
        &s,
        "/api/v1/namespaces/default/persistentvolumeclaims",
        claim,
    )
    .await;
    make(
        &s,
        "/api/v1/namespaces/default/serviceaccounts",
        account("app"),
    )
    .await;
    let mut pod = bound_pod("p", "n1");
    pod["spec"]["serviceAccountName"] = "app".into();
    pod["spec"]["volumes"] = json!([{ "name": "v", "csi": { "driver": "own.io" } },
        { "name": "c", "persistentVolumeClaim": { "claimName": "c" } }]);
    let pod = make(&s, "/api/v1/namespaces/default/pods", pod).await;
    let ask = |audience: &'static str| {
        let request = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": { "audiences": [audience], "boundObjectRef": { "apiVersion": "v1",
                "kind": "Pod", "name": "p", "uid": pod["metadata"]["uid"] } } });
        let uri = "/api/v1/namespaces/default/serviceaccounts/app/token";
        let (s, user) = (s.clone(), node("n1"));
        async move { by(&s, &user, Method::POST, uri, request).await.0 }
    };
    assert_eq!(ask("vault").await, 201);
    assert_eq!(ask("safe").await, 201);
    assert_eq!(ask("bank").await, 403);
}
