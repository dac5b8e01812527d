//! Bad input: code, reason and field path of the answer, and that nothing was written.

use anyhow::{Context as _, Result, ensure};
use http::Method;
use serde_json::{Value, json};
use tests::Context;

/// A request that must fail.
struct Bad {
    method: Method,
    path: String,
    kind: &'static str,
    body: Vec<u8>,
    code: u16,
    reason: &'static str,
    /// What the message must contain.
    says: &'static str,
    /// Fields that the causes must name.
    fields: &'static [&'static str],
}

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";

impl Bad {
    fn new(
        method: Method,
        path: String,
        body: impl Into<Vec<u8>>,
        code: u16,
        reason: &'static str,
    ) -> Self {
        let kind = if method == Method::PATCH { MERGE } else { JSON };
        Self {
            method,
            path,
            kind,
            body: body.into(),
            code,
            reason,
            says: "",
            fields: &[],
        }
    }
    fn post(path: String, body: impl Into<Vec<u8>>, code: u16, reason: &'static str) -> Self {
        Self::new(Method::POST, path, body, code, reason)
    }
    fn says(self, says: &'static str) -> Self {
        Self { says, ..self }
    }
    fn fields(self, fields: &'static [&'static str]) -> Self {
        Self { fields, ..self }
    }
    fn kind(self, kind: &'static str) -> Self {
        Self { kind, ..self }
    }

    fn check(&self, cx: &Context) -> Result<()> {
        let (code, status) = cx.raw(
            self.method.clone(),
            &self.path,
            self.kind,
            self.body.clone(),
        )?;
        let shown = String::from_utf8_lossy(&self.body[..self.body.len().min(300)]).into_owned();
        let what = || {
            format!(
                "{} {} {shown}\nanswered {code} {status:#}",
                self.method, self.path
            )
        };
        ensure!(code == self.code, "expected {}: {}", self.code, what());
        ensure!(
            status["kind"] == "Status" && status["status"] == "Failure",
            "no Status: {}",
            what()
        );
        ensure!(status["code"] == self.code, "code within: {}", what());
        let reason = status["reason"].as_str().unwrap_or_default();
        ensure!(
            reason == self.reason,
            "expected reason {:?}: {}",
            self.reason,
            what()
        );
        let message = status["message"].as_str().unwrap_or_default();
        ensure!(
            message.contains(self.says),
            "expected to say {:?}: {}",
            self.says,
            what()
        );
        let causes = status["details"]["causes"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        for field in self.fields {
            ensure!(
                causes.iter().any(|c| c["field"] == *field),
                "expected field {field}: {}",
                what()
            );
        }
        Ok(())
    }
}

/// What users write of objects.
const WRITTEN: [&str; 8] = [
    ".metadata.name",
    ".metadata.uid",
    ".metadata.labels",
    ".metadata.deletionTimestamp",
    ".spec",
    ".data",
    ".type",
    ".immutable",
];

/// All are refused, what users write of the resources stays as it is, and the server stays well. What
/// controllers write may still come.
fn all_refused(cx: &Context, watched: &[&str], bad: &[Bad]) -> Result<()> {
    let state = || -> Result<Vec<String>> {
        let lists = watched.iter().map(|resource| {
            let fields: String = WRITTEN
                .iter()
                .map(|field| format!("{{{field}}} "))
                .collect();
            cx.kubectl(&format!(
                "get {resource} -o 'jsonpath={{range .items[*]}}{fields},{{end}}'"
            ))
        });
        lists.collect()
    };
    // What controllers make of a namespace that is new, and of what is in it, is there.
    cx.wait("configmap/kube-root-ca.crt", "create")?;
    let before = state()?;
    // All failures of a table are worth seeing at once.
    let wrong: Vec<String> = bad
        .iter()
        .filter_map(|b| b.check(cx).err())
        .map(|e| format!("{e:#}"))
        .collect();
    ensure!(
        wrong.is_empty(),
        "{} of {} differ:\n{}",
        wrong.len(),
        bad.len(),
        wrong.join("\n\n")
    );
    let after = state()?;
    ensure!(
        before == after,
        "something was written: {before:?} {after:?}"
    );
    cx.kubectl("get --raw /readyz").map(drop)
}

fn core(cx: &Context, rest: &str) -> String {
    format!("/api/v1/namespaces/{}/{rest}", cx.ns)
}

fn apps(cx: &Context, rest: &str) -> String {
    format!("/apis/apps/v1/namespaces/{}/{rest}", cx.ns)
}

fn cm(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "a": "1" } })
}

fn pod(change: impl FnOnce(&mut Value)) -> String {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" },
        "spec": { "automountServiceAccountToken": false, "containers": [{ "name": "c", "image": "i" }] },
    });
    change(&mut pod);
    pod.to_string()
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "d" },
        "spec": {
            "replicas": 0,
            "selector": { "matchLabels": { "app": "d" } },
            "template": {
                "metadata": { "labels": { "app": "d" } },
                "spec": { "containers": [{ "name": "c", "image": "i" }] },
            },
        },
    })
}

pub fn bodies_that_cannot_be_read_are_refused(cx: &Context) -> Result<()> {
    let cms = core(cx, "configmaps");
    let strict = format!("{cms}?fieldValidation=Strict");
    all_refused(cx, &["configmaps", "pods"], &[
        Bad::post(cms.clone(), "{\"apiVersion\": ", 400, "BadRequest"),
        Bad::post(cms.clone(), "", 400, "BadRequest"),
        Bad::post(cms.clone(), "[]", 400, "BadRequest"),
        Bad::post(cms.clone(), "\"text\"", 400, "BadRequest"),
        Bad::post(cms.clone(), [0xff, 0xfe, 0x00], 400, "BadRequest"),
        Bad::post(cms.clone(), "a: b: c", 400, "BadRequest").kind("application/yaml"),
        Bad::post(cms.clone(), "k8s\0junk", 400, "BadRequest").kind("application/vnd.kubernetes.protobuf"),
        Bad::post(cms.clone(), r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"a":1}}"#, 400, "BadRequest")
            .says("cannot unmarshal number into Go struct field ConfigMap.data of type string"),
        Bad::post(cms.clone(), r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":["x"]}}"#, 400, "BadRequest"),
        Bad::post(core(cx, "pods"), pod(|p| p["spec"]["containers"] = json!({})), 400, "BadRequest"),
        Bad::post(core(cx, "pods"), pod(|p| p["spec"]["containers"][0]["ports"] = json!([{ "containerPort": "80" }])), 400, "BadRequest"),
        Bad::post(strict, r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"a":"1","a":"2"}}"#, 400, "BadRequest")
            .says("duplicate field"),
        Bad::post(cms.clone(), r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"}}"#, 400, "BadRequest"),
        Bad::post(cms.clone(), "x=1", 415, "UnsupportedMediaType").kind("application/x-www-form-urlencoded"),
        Bad::new(Method::PATCH, format!("{cms}/kube-root-ca.crt"), "{", 400, "BadRequest"),
        Bad::new(Method::PATCH, format!("{cms}/kube-root-ca.crt"), "{}", 415, "UnsupportedMediaType").kind(JSON),
    ])
}

pub fn unknown_fields_are_refused_warned_or_ignored(cx: &Context) -> Result<()> {
    let body = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "d", "labelz": {} },
        "spec": {
            "replicas": 0, "replica": 2,
            "selector": { "matchLabels": { "app": "d" } },
            "template": {
                "metadata": { "labels": { "app": "d" } },
                "spec": { "containers": [{ "name": "c", "image": "i", "imagePullPolice": "Never" }] },
            },
        },
    })
    .to_string();
    let path = |validation: &str| apps(cx, &format!("deployments?fieldValidation={validation}"));
    let strict = |says| Bad::post(path("Strict"), body.clone(), 400, "BadRequest").says(says);
    all_refused(
        cx,
        &["deployments"],
        &[
            strict("strict decoding error"),
            strict("unknown field \"spec.replica\""),
            strict("unknown field \"metadata.labelz\""),
            strict("unknown field \"spec.template.spec.containers[0].imagePullPolice\""),
            Bad::post(path("Sometimes"), body.clone(), 422, "Invalid"),
        ],
    )?;
    let warned = cx.run_with("create --validate=warn -f -", &body)?;
    ensure!(
        warned
            .err
            .contains("Warning: unknown field \"spec.replica\""),
        "no warning: {warned:?}"
    );
    warned.ok()?;
    cx.kubectl("delete deployment d --wait=false")?;
    let ignored = cx.run_with("create --validate=ignore -f -", &body)?;
    ensure!(
        !ignored.err.contains("unknown field"),
        "a warning: {ignored:?}"
    );
    ignored.ok()?;
    let kept = cx.json("get deployment d")?;
    ensure!(
        kept["spec"].get("replica").is_none(),
        "kept an unknown field: {kept:#}"
    );
    let refused = cx.run_with("create -f -", &body)?.failed()?;
    ensure!(
        refused.contains("unknown field \"spec.replica\""),
        "{refused}"
    );
    Ok(())
}

pub fn invalid_objects_name_their_fields(cx: &Context) -> Result<()> {
    let (cms, pods, services) = (
        core(cx, "configmaps"),
        core(cx, "pods"),
        core(cx, "services"),
    );
    let meta =
        |m: Value| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": m }).to_string();
    let invalid = |path: &str, body: String, fields| {
        Bad::post(path.to_owned(), body, 422, "Invalid").fields(fields)
    };
    let svc = |spec: Value| {
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "s" }, "spec": spec })
            .to_string()
    };
    let dep = |change: fn(&mut Value)| {
        let mut d = deployment();
        change(&mut d);
        d.to_string()
    };
    all_refused(cx, &["configmaps", "pods", "services", "deployments"], &[
        invalid(&cms, meta(json!({ "name": "Big_Name" })), &["metadata.name"])
            .says("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters"),
        invalid(&cms, meta(json!({ "name": "a".repeat(254) })), &["metadata.name"]),
        invalid(&cms, meta(json!({})), &["metadata.name"]).says("name or generateName is required"),
        invalid(&cms, meta(json!({ "name": "x", "labels": { "a b": "c" } })), &["metadata.labels"]),
        invalid(&cms, meta(json!({ "name": "x", "labels": { "a": "c d" } })), &["metadata.labels"]),
        invalid(&cms, meta(json!({ "name": "x", "labels": { "a": "b".repeat(64) } })), &["metadata.labels"]),
        invalid(&cms, meta(json!({ "name": "x", "annotations": { "a/b/c": "" } })), &["metadata.annotations"]),
        invalid(&cms, meta(json!({ "name": "x", "finalizers": ["no slash"] })), &["metadata.finalizers"]),
        invalid(&cms, meta(json!({ "name": "x", "ownerReferences": [{ "apiVersion": "v1", "kind": "Pod", "name": "", "uid": "" }] })), &["metadata.ownerReferences.uid", "metadata.ownerReferences.name"]),
        invalid(&cms, json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "x" }, "data": { "a/b": "" } }).to_string(), &["data[a/b]"]),
        invalid(&pods, pod(|p| p["spec"]["containers"] = json!([])), &["spec.containers"]).says("Required value"),
        invalid(&pods, pod(|p| p["spec"]["containers"][0]["name"] = "A".into()), &["spec.containers[0].name"]),
        invalid(&pods, pod(|p| p["spec"]["containers"][0]["image"] = "".into()), &["spec.containers[0].image"]),
        invalid(&pods, pod(|p| p["spec"]["restartPolicy"] = "Perhaps".into()), &["spec.restartPolicy"]).says("Unsupported value"),
        invalid(&pods, pod(|p| p["spec"]["containers"][0]["ports"] = json!([{ "containerPort": 70000 }])), &["spec.containers[0].ports[0].containerPort"]),
        invalid(&pods, pod(|p| p["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }])), &["spec.containers[0].volumeMounts[0].name"]).says("Not found"),
        invalid(&pods, pod(|p| p["spec"]["containers"][0]["env"] = json!([{ "name": "" }])), &["spec.containers[0].env[0].name"]),
        invalid(&pods, pod(|p| p["spec"]["containers"][0]["resources"] = json!({ "requests": { "cpu": "2" }, "limits": { "cpu": "1" } })), &["spec.containers[0].resources.requests"]),
        invalid(&pods, pod(|p| p["spec"]["nodeSelector"] = json!({ "a": "!" })), &["spec.nodeSelector"]),
        Bad::post(pods.clone(), pod(|p| p["spec"]["containers"][0]["resources"] = json!({ "limits": { "cpu": "much" } })), 400, "BadRequest").says("quantities must match"),
        invalid(&services, svc(json!({})), &["spec.ports"]),
        invalid(&services, svc(json!({ "ports": [{ "port": 0 }] })), &["spec.ports[0].port"]),
        invalid(&services, svc(json!({ "type": "Wide", "ports": [{ "port": 80 }] })), &["spec.type"]),
        invalid(&services, svc(json!({ "clusterIP": "1.2.3", "ports": [{ "port": 80 }] })), &["spec.clusterIPs[0]"]),
        invalid(&services, svc(json!({ "clusterIP": "192.0.2.77", "ports": [{ "port": 80 }] })), &["spec.clusterIPs"]),
        invalid(&services, svc(json!({ "type": "NodePort", "ports": [{ "port": 80, "nodePort": 80 }] })), &["spec.ports[0].nodePort"]),
        invalid(&apps(cx, "deployments"), dep(|d| d["spec"]["selector"] = json!({})), &["spec.selector"]),
        invalid(&apps(cx, "deployments"), dep(|d| d["spec"]["selector"]["matchLabels"]["app"] = "e".into()), &["spec.template.metadata.labels"])
            .says("`selector` does not match template `labels`"),
        invalid(&apps(cx, "deployments"), dep(|d| d["spec"]["replicas"] = (-1).into()), &["spec.replicas"]),
        invalid(&apps(cx, "deployments"), dep(|d| d["spec"]["template"]["spec"]["restartPolicy"] = "Never".into()), &["spec.template.spec.restartPolicy"]),
        invalid("/api/v1/namespaces", json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "a.b" } }).to_string(), &["metadata.name"]),
        invalid(&format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles", cx.ns),
            json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "name": "r" }, "rules": [{ "resources": ["pods"], "apiGroups": [""] }] }).to_string(),
            &["rules[0].verbs"]),
    ])
}

pub fn immutable_fields_stay(cx: &Context) -> Result<()> {
    cx.apply(&json!({
        "apiVersion": "v1", "kind": "List", "items": [
            { "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "fixed" }, "immutable": true, "data": { "a": "1" } },
            { "apiVersion": "v1", "kind": "Service", "metadata": { "name": "s" }, "spec": { "ports": [{ "port": 80 }] } },
            deployment(),
        ],
    }).to_string())?;
    cx.wait_rollout("deployment/d")?;
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" }, "type": "Opaque" });
    cx.apply_json(&secret)?;
    let patch = |path: String, body: Value, fields| {
        Bad::new(Method::PATCH, path, body.to_string(), 422, "Invalid").fields(fields)
    };
    all_refused(cx, &["configmaps", "services", "deployments", "secrets"], &[
        patch(core(cx, "configmaps/fixed"), json!({ "data": { "a": "2" } }), &["data"]).says("field is immutable when `immutable` is set"),
        patch(core(cx, "services/s"), json!({ "spec": { "clusterIP": "192.0.2.1" } }), &["spec.clusterIPs[0]"]),
        patch(core(cx, "secrets/s"), json!({ "type": "other" }), &["type"]).says("field is immutable"),
        patch(apps(cx, "deployments/d"), json!({ "spec": { "selector": { "matchLabels": { "b": "c" } }, "template": { "metadata": { "labels": { "b": "c" } } } } }), &["spec.selector"]).says("field is immutable"),
        patch(core(cx, "configmaps/fixed"), json!({ "metadata": { "uid": "00000000-0000-0000-0000-000000000000" } }), &[]).conflict(),
    ])?;
    let (_, kept) = cx.api(
        Method::PATCH,
        &core(cx, "secrets/s"),
        &json!({ "metadata": { "creationTimestamp": "2001-01-01T00:00:00Z", "generation": 99 } }),
    )?;
    ensure!(
        kept["metadata"]["creationTimestamp"] != "2001-01-01T00:00:00Z",
        "the time of creation was changed: {kept:#}"
    );
    Ok(())
}

impl Bad {
    /// A wrong UID is a failed precondition, not an invalid object.
    fn conflict(self) -> Self {
        Self {
            code: 409,
            reason: "Conflict",
            ..self
        }
    }
}

pub fn conflicts_are_reported(cx: &Context) -> Result<()> {
    cx.apply_json(&cm("c"))?;
    let object = cx.json("get configmap c")?;
    let mut stale = object.clone();
    stale["metadata"]["resourceVersion"] = "1".into();
    let mut other = cm("c");
    other["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000".into();
    let path = core(cx, "configmaps/c");
    let delete = |preconditions: Value| {
        let options =
            json!({ "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions });
        Bad::new(
            Method::DELETE,
            path.clone(),
            options.to_string(),
            409,
            "Conflict",
        )
    };
    all_refused(cx, &["configmaps"], &[
        Bad::post(core(cx, "configmaps"), cm("c").to_string(), 409, "AlreadyExists").says("configmaps \"c\" already exists"),
        Bad::new(Method::PUT, path.clone(), stale.to_string(), 409, "Conflict")
            .says("the object has been modified; please apply your changes to the latest version and try again"),
        Bad::new(Method::PUT, path.clone(), other.to_string(), 409, "Conflict").says("Precondition failed: UID in precondition"),
        Bad::new(Method::PATCH, path.clone(), json!({ "metadata": { "resourceVersion": "1" } }).to_string(), 409, "Conflict"),
        delete(json!({ "uid": "00000000-0000-0000-0000-000000000000" })),
        delete(json!({ "resourceVersion": "1" })),
    ])?;
    let mut named = cm("new");
    named["metadata"]["resourceVersion"] = "5".into();
    let (code, status) = cx.api(Method::POST, &core(cx, "configmaps"), &named)?;
    ensure!(
        (code, status["message"].as_str())
            == (
                500,
                Some("resourceVersion should not be set on objects to be created")
            ),
        "{code} {status:#}"
    );
    Ok(())
}

pub fn unknown_things_are_not_found(cx: &Context) -> Result<()> {
    let not_found =
        |method: Method, path: String, body: &str| Bad::new(method, path, body, 404, "NotFound");
    let get = |path: String| not_found(Method::GET, path, "");
    all_refused(
        cx,
        &["configmaps"],
        &[
            get(core(cx, "configmaps/none")).says("configmaps \"none\" not found"),
            get(apps(cx, "deployments/none")).says("deployments.apps \"none\" not found"),
            not_found(Method::DELETE, core(cx, "configmaps/none"), ""),
            not_found(Method::PUT, core(cx, "configmaps/none"), &{
                let mut c = cm("none");
                c["metadata"]["resourceVersion"] = "7".into();
                c.to_string()
            }),
            not_found(Method::PATCH, core(cx, "configmaps/none"), "{}"),
            not_found(
                Method::POST,
                "/api/v1/namespaces/none-such/configmaps".into(),
                &cm("x").to_string(),
            )
            .says("namespaces \"none-such\" not found"),
        ],
    )?;
    // Paths that no resource has: the answer is a Status or plain text, the code counts.
    for path in [
        "/apis/apps/v9/deployments",
        "/apis/none.example/v1/things",
        "/api/v1/thingies",
        "/apis/apps/v1beta1/deployments",
        "/nowhere",
    ] {
        let (code, body) = cx.api(Method::GET, path, &Value::Null)?;
        ensure!(code == 404, "{path}: {code} {body}");
    }
    let manifest = "apiVersion: example.com/v1\nkind: Thing\nmetadata: {name: x}\n";
    let output = cx.run_with("apply -f -", manifest)?.failed()?;
    ensure!(
        output.contains("no matches for kind \"Thing\" in version \"example.com/v1\""),
        "{output}"
    );
    let output = cx.refused("get things")?;
    ensure!(
        output.contains("the server doesn't have a resource type \"things\""),
        "{output}"
    );
    let old = "apiVersion: extensions/v1beta1\nkind: Deployment\nmetadata: {name: x}\n";
    let output = cx.run_with("apply -f -", old)?.failed()?;
    ensure!(
        output.contains("no matches for kind \"Deployment\" in version \"extensions/v1beta1\""),
        "{output}"
    );
    Ok(())
}

pub fn bad_requests_are_refused(cx: &Context) -> Result<()> {
    cx.apply_json(&cm("c"))?;
    let get = |query: &str| {
        Bad::new(
            Method::GET,
            core(cx, &format!("configmaps?{query}")),
            "",
            400,
            "BadRequest",
        )
    };
    let mut elsewhere = cm("x");
    elsewhere["metadata"]["namespace"] = "default".into();
    all_refused(cx, &["configmaps"], &[
        get("labelSelector=a%3D%3D%3Db%21"),
        get("fieldSelector=metadata.name"),
        get("fieldSelector=data.a%3D1").says("is not a known field selector"),
        get("limit=many"),
        get("limit=1&continue=nonsense").says("continue key is not valid"),
        get("resourceVersion=old"),
        Bad::new(Method::GET, core(cx, "configmaps?resourceVersionMatch=Exact"), "", 422, "Invalid").fields(&["resourceVersionMatch"]),
        Bad::post(core(cx, "configmaps?dryRun=Some"), cm("x").to_string(), 422, "Invalid").fields(&["dryRun"]),
        Bad::post(core(cx, "configmaps"), elsewhere.to_string(), 400, "BadRequest")
            .says("the namespace of the provided object does not match the namespace sent on the request"),
        Bad::new(Method::PUT, core(cx, "configmaps/c"), cm("x").to_string(), 400, "BadRequest")
            .says("the name of the object (x) does not match the name on the URL (c)"),
        Bad::new(Method::PUT, core(cx, "configmaps"), cm("x").to_string(), 405, "MethodNotAllowed"),
        Bad::new(Method::POST, core(cx, "configmaps/c"), cm("c").to_string(), 405, "MethodNotAllowed"),
        Bad::new(Method::PATCH, core(cx, "configmaps/c"), r#"[{"op":"replace","path":"/none/x","value":1}]"#, 422, "Invalid").kind("application/json-patch+json"),
        Bad::new(Method::PATCH, core(cx, "configmaps/c"), r#"[{"op":"test","path":"/data/a","value":"9"}]"#, 422, "Invalid").kind("application/json-patch+json"),
        Bad::new(Method::PATCH, core(cx, "configmaps/c"), r#"{"op":"test"}"#, 400, "BadRequest").kind("application/json-patch+json"),
        Bad::new(Method::DELETE, core(cx, "configmaps/c"), r#"{"apiVersion":"v1","kind":"DeleteOptions","propagationPolicy":"Sideways"}"#, 422, "Invalid").fields(&["propagationPolicy"]),
        Bad::new(Method::DELETE, "/api/v1/namespaces/default/services/kubernetes".to_owned(), "nonsense", 400, "BadRequest"),
    ])
}

pub fn too_large_a_body_is_refused(cx: &Context) -> Result<()> {
    let mut large = cm("large");
    large["data"]["a"] = "x".repeat(3 << 20).into();
    // Within the limit of a request, beyond what a ConfigMap may hold.
    let mut heavy = cm("heavy");
    heavy["data"]["a"] = "x".repeat(1_100_000).into();
    all_refused(
        cx,
        &["configmaps"],
        &[
            Bad::post(
                core(cx, "configmaps"),
                large.to_string(),
                413,
                "RequestEntityTooLarge",
            )
            .says("limit is 3145728"),
            Bad::post(core(cx, "configmaps"), heavy.to_string(), 422, "Invalid").says("Too long"),
        ],
    )?;
    let (code, status) = cx.api(Method::POST, &core(cx, "configmaps"), &cm("small"))?;
    ensure!(
        code == 201,
        "the next request is served as ever: {code} {status}"
    );
    Ok(())
}

pub fn kubectl_says_what_is_wrong(cx: &Context) -> Result<()> {
    let output = cx
        .run_with("apply -f -", "apiVersion: v1\nkind: [\n")?
        .failed()?;
    ensure!(
        output.contains("error parsing STDIN") || output.contains("error converting YAML"),
        "{output}"
    );
    let output = cx
        .run_with(
            "apply -f -",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: A_B}\n",
        )?
        .failed()?;
    ensure!(
        output.contains("The ConfigMap \"A_B\" is invalid: metadata.name: Invalid value: \"A_B\""),
        "{output}"
    );
    let output = cx.refused("get pod none")?;
    ensure!(
        output.contains("Error from server (NotFound): pods \"none\" not found"),
        "{output}"
    );
    let output = cx.refused("create configmap 'a b'")?;
    ensure!(output.contains("is invalid"), "{output}");
    cx.kubectl("create configmap twice")?;
    let output = cx.refused("create configmap twice")?;
    ensure!(
        output.contains("configmaps \"twice\" already exists"),
        "{output}"
    );
    let output = cx.refused("label configmap twice 'a b=c'")?;
    ensure!(!output.is_empty(), "silent");
    let output = cx.refused("scale deployment none --replicas=1")?;
    ensure!(output.contains("not found"), "{output}");
    let output = cx
        .run_with(
            "apply -f -",
            &deployment()
                .to_string()
                .replace("\"replicas\":0", "\"replicas\":\"two\""),
        )?
        .failed()?;
    ensure!(output.contains("replicas"), "{output}");
    let output = cx.refused("logs none")?;
    ensure!(output.contains("NotFound"), "{output}");
    let output = cx.refused("delete namespace none-such")?;
    ensure!(
        output.contains("namespaces \"none-such\" not found"),
        "{output}"
    );
    let line = cx
        .refused("patch configmap twice -p 'no json'")
        .context("a patch that is not JSON")?;
    ensure!(!line.is_empty(), "silent");
    Ok(())
}
