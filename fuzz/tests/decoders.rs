//! One test for each decoder of bytes from outside. What must hold beyond not panicking stands
//! in the test: what is decoded can be encoded, and is the same when decoded again.

use api::{FieldSelector, GroupVersion, LabelSelector, Quantity};
use fuzz::throw;
use serde_json::{Value, json};

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "web", "namespace": "default", "labels": {"app": "web"},
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "managedFields": [{"manager": "kubectl", "operation": "Apply", "apiVersion": "v1",
                "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:containers":
                    {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}}}}}}],
        },
        "spec": {
            "containers": [{"name": "a", "image": "x:1", "args": ["a\u{e9}\n", "\"q\""],
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
                "readinessProbe": {"httpGet": {"path": "/", "port": "http"}}}],
            "tolerations": [{"key": "a", "operator": "Exists", "tolerationSeconds": 300}],
        },
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    })
}

fn texts(all: &[&str]) -> Vec<Vec<u8>> {
    all.iter().map(|t| t.as_bytes().to_vec()).collect()
}

fn pod_type() -> (&'static schema::TypeTable, schema::TypeId) {
    let table = schema::builtin();
    let id = table.by_name("io.k8s.api.core.v1.Pod").expect("Pod");
    (table, id)
}

#[test]
fn json() {
    let (table, id) = pod_type();
    let examples = [
        pod().to_string(),
        r#"{"a": [1, -2.5e3, true, null, "A😀"], "a": {}}"#.into(),
        "[[[[[[1]]]]]]".into(),
    ];
    let examples = texts(&examples.each_ref().map(String::as_str));
    throw("json", &examples, |bytes| {
        let _ = schema::decode::untyped(bytes);
        if let Ok(decoded) = schema::decode::json(table, id, bytes) {
            let again = schema::decode::json(table, id, decoded.value.to_string().as_bytes());
            assert_eq!(again.expect("what was decoded").value, decoded.value);
        }
    });
}

#[test]
fn yaml() {
    let examples = texts(&[
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  labels: {app: web, n: '1'}\nspec:\n  containers:\n  - name: a\n    image: x\n    args: [\"a\", 0x1f, 1_000, ~]\n",
        "a: &x {b: 1}\nc: *x\nd: |\n  text\n  more\ne: >-\n  folded\n",
        "? complex\n: !!str tagged\n<<: {a: 1}\n...\n---\nnext: 2\n",
    ]);
    throw("yaml", &examples, |bytes| {
        let _ = schema::decode::yaml(bytes);
    });
}

#[test]
fn protobuf() {
    let (table, id) = pod_type();
    let raw = schema::proto::encode(table, id, &pod()).expect("encoded");
    let examples = vec![schema::proto::wrap_unknown("v1", "Pod", &raw), raw];
    throw("protobuf", &examples, |bytes| {
        let unwrapped = schema::proto::unwrap_unknown(bytes);
        let raw = unwrapped.as_ref().map_or(bytes, |u| &u.raw[..]);
        let Ok(value) = schema::proto::decode(table, id, raw) else {
            return;
        };
        if let Ok(again) = schema::proto::encode(table, id, &value) {
            let again = schema::proto::decode(table, id, &again).expect("our own bytes");
            assert_eq!(again, value);
        }
    });
}

#[test]
fn selectors_and_other_words() {
    let examples = texts(&[
        "app=web,tier!=db,x in (a, b),y notin (c),z,!w",
        "metadata.name=a,spec.nodeName!=b\\,c",
        "1.5Gi",
        "-12e3",
        "apps/v1",
        "2026-01-02T03:04:05.123456Z",
        "limit=5&continue=eyJ2Ijox&labelSelector=a%3Db&watch=1",
        "/api/v1/namespaces/default/pods/web/log",
        "abcdef.0123456789abcdef::x",
        "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.AAAA",
    ]);
    throw("words", &examples, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let _ = LabelSelector::parse(&text);
        let _ = FieldSelector::parse(&text);
        let _ = GroupVersion::parse(&text);
        let _ = api::time::parse_micros(&text);
        if let Ok(quantity) = text.parse::<Quantity>() {
            let shown = quantity.to_string();
            let again = shown.parse::<Quantity>().expect("our own text");
            assert_eq!(again.to_string(), shown, "{text:?}");
        }
        let query = apiserver::http::request::Query::parse(&text);
        let _ = apiserver::http::request::RequestInfo::parse(&http::Method::GET, &text, &query);
        let _ = wire::join::JoinToken::parse(&text);
        let _ = wire::jwt::peek(&text);
    });
}

#[test]
fn patches() {
    let (table, id) = pod_type();
    let examples = texts(&[
        r#"[{"op": "add", "path": "/metadata/labels/a~1b", "value": "c"}, {"op": "copy", "from": "/spec", "path": "/metadata/x"}, {"op": "move", "from": "/metadata/labels", "path": "/a"}, {"op": "test", "path": "/kind", "value": "Pod"}, {"op": "remove", "path": "/spec/containers/0"}]"#,
        r#"{"metadata": {"labels": {"app": null, "b": "c"}}, "spec": {"containers": [{"name": "a", "image": "y"}, {"$patch": "delete", "name": "b"}], "$setElementOrder/containers": [{"name": "a"}]}}"#,
        r#"{"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:args": {"v:\"x\"": {}, "i:3": {}}}}}}"#,
        r#"{"spec": {"$retainKeys": ["containers"], "tolerations": [{"$patch": "replace"}], "$deleteFromPrimitiveList/args": ["a"]}}"#,
    ]);
    throw("patches", &examples, |bytes| {
        let Ok(patch) = serde_json::from_slice::<Value>(bytes) else {
            return;
        };
        let _ = patch::json_patch(&mut pod(), &patch);
        let _ = patch::merge_patch(&mut pod(), &patch);
        let _ = patch::strategic(table, id, &mut pod(), &patch);
        let _ = patch::validate(table, id, &patch);
        if let Ok(set) = patch::Set::from_json(&patch) {
            let again = patch::Set::from_json(&set.to_json()).expect("our own set");
            assert_eq!(again.to_json(), set.to_json());
        }
    });
}

#[test]
fn dns() {
    use hickory_proto::op::{Message, MessageType, OpCode, Query};
    use hickory_proto::rr::{Name, RecordType};
    let ask = |name: &str, kind| {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        let name = Name::from_ascii(name).expect("name");
        message.add_query(Query::query(name, kind));
        message.to_vec().expect("bytes")
    };
    let examples = [
        ask("web.default.svc.cluster.local.", RecordType::A),
        ask("4.3.2.1.in-addr.arpa.", RecordType::PTR),
        ask("_http._tcp.web.default.svc.cluster.local.", RecordType::SRV),
    ];
    throw("dns", &examples, |bytes| {
        let _ = dns::message::question(bytes);
    });
    // Somebody else's answers, which are passed on as bytes.
    let answer = |records: u8| {
        let mut bytes = ask("web.example.", RecordType::A);
        bytes[2] |= 0x80;
        bytes[7] = records;
        for n in 0..records {
            bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 0, 0, 4, 192, 0, 2, n]);
        }
        bytes
    };
    // An alias, whose name the addresses' refer to.
    let alias = || {
        let mut bytes = ask("web.example.", RecordType::A);
        bytes[2] |= 0x80;
        bytes[7] = 3;
        let at = u8::try_from(bytes.len() + 12).expect("short");
        bytes.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 1, 0, 0, 4, 1, b'a', 0xc0, 16]);
        for n in 0..2 {
            bytes.extend([0xc0, at, 0, 1, 0, 1, 0, 0, 1, 0, 0, 4, 192, 0, 2, n]);
        }
        bytes
    };
    throw(
        "dns answers",
        &[answer(0), answer(1), answer(40), alias()],
        |bytes| {
            if let Some(layout) = dns::packet::Layout::of(bytes) {
                let client = dns::packet::Client {
                    id: 1,
                    question: layout.question(bytes),
                    recursion_desired: true,
                    limit: 512,
                    turn: 1,
                };
                let _ = layout.kind(bytes);
                let served = layout.serve(bytes, &client, (5, 0));
                assert!(served.len() <= bytes.len().max(512));
            }
        },
    );
}

#[test]
fn corefiles() {
    let examples = texts(&[
        ".:53 {\n  errors\n  kubernetes cluster.local in-addr.arpa {\n    pods insecure\n    fallthrough in-addr.arpa\n  }\n  forward . /etc/resolv.conf {\n    except a.b\n  }\n  cache 30\n}\n",
        "10.0.0.0/8, a.example:53 {\n  hosts {\n    192.0.2.1 a \"b\"\n    fallthrough\n  }\n}\n",
        "example {\n  rewrite stop {\n    name regex (.*)-x[.]example {1}.example\n    answer name (.*)[.]example {1}-x.example\n  }\n  template IN A example {\n    match ^ip-(?P<a>[0-9]+)[.]\n    answer \"{{ .Name }} 60 IN A 10.0.0.{{ parseInt .Group.a 16 8 }}\"\n    rcode NXDOMAIN\n  }\n  forward . tls://192.0.2.1%a.example:853\n  loadbalance\n}\nimport a/*.server\n",
    ]);
    throw("corefile", &examples, |bytes| {
        let _ = api::corefile::Corefile::parse(&String::from_utf8_lossy(bytes));
    });
}

#[test]
fn network_plugin() {
    let examples = texts(&[
        r#"{"cniVersion": "1.0.0", "name": "pods", "type": "tiphys-cni", "podCidrs": ["10.0.0.0/24", "fd00::/64"], "runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 8080, "protocol": "tcp", "hostIP": "127.0.0.1"}]}, "prevResult": {"ips": [{"address": "10.0.0.2/24"}]}}"#,
        r#"{"cniVersion": "0.4.0", "name": "loopback", "type": "loopback"}"#,
    ]);
    throw("cni", &examples, |bytes| {
        let _ = network::cni::conf::NetConf::parse(&String::from_utf8_lossy(bytes));
    });
}

#[test]
fn kubeconfig() {
    let examples = texts(&[
        "apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters:\n- name: a\n  cluster: {server: 'https://127.0.0.1:6443', certificate-authority-data: QQ==}\nusers:\n- name: a\n  user: {token: abc, client-key-data: QQ==}\ncontexts:\n- name: a\n  context: {cluster: a, user: a, namespace: x}\n",
    ]);
    throw("kubeconfig", &examples, |bytes| {
        let _ = kube::config::Kubeconfig::from_yaml(&String::from_utf8_lossy(bytes));
    });
}

#[test]
fn certificates() {
    let ca = wire::pki::Ca::generate("test", 1_700_000_000).expect("ca");
    let subject = wire::pki::Subject::client("jane", &["a", "b"]);
    let (csr, _) = wire::pki::make_request(&subject).expect("request");
    let examples = texts(&[&ca.pair.cert_pem, &csr]);
    let requests = registry::kinds()
        .resource("certificates.k8s.io", "certificatesigningrequests")
        .expect("a row");
    let none = json!({});
    throw("certificates", &examples, |bytes| {
        use base64::Engine;
        let text = base64::engine::general_purpose::STANDARD.encode(bytes);
        let object = json!({"spec": {"request": text}, "status": {"certificate": text}});
        let nobody = registry::Context::of_nobody();
        let _ = requests.strategy.validate(&object, &nobody);
        let _ = requests.strategy.validate_update(&object, &none, &nobody);
        let _ = wire::pki::certificate_names(bytes);
        let text = String::from_utf8_lossy(bytes);
        let _ = wire::pki::certificate_names_pem(&text);
        let _ = wire::pki::request_names(&text);
        let _ = wire::pki::ca_hash(&text);
    });
}

#[test]
fn cel() {
    let env = cel::Env::new().variable("self", cel::Decl::any());
    let examples = texts(&[
        "self.spec.containers.all(c, c.image.startsWith('x') && has(c.ports)) || self.n > 1.5e3",
        "[1, -2, 0x1f].map(i, i > 0, i * 2).exists(i, i in {'a': [1u], 'b': []}.b) ? 'é\\n' : r'\\d'",
        "self.?a[?0].optMap(x, {x: b'\\x41'}).orValue({}).size() == '%s'.format([duration('1h')]).size()",
        "self.list.transformMap(i, v, v.matches('^[a-z]{1,3}$'), quantity('1Gi').add(i)) == {}",
    ]);
    let object = pod();
    throw("cel", &examples, |bytes| {
        let Ok(source) = std::str::from_utf8(bytes) else {
            return;
        };
        let Ok(program) = cel::Program::compile(source, &env) else {
            return;
        };
        let any = cel::Decl::any();
        let value = cel::Value::read(&object, &any).ok();
        let limit = 100_000;
        let done = program.evaluate(&[value], limit);
        assert!(done.result.is_err() || done.cost <= limit);
    });
}

#[test]
fn custom_resource_schemas() {
    let schema = json!({
        "type": "object", "required": ["spec"],
        "x-kubernetes-validations": [{"rule": "self.spec.n < 5 || has(self.spec.list)"}],
        "properties": {"spec": {"type": "object", "properties": {
            "n": {"type": "integer", "minimum": 1, "default": 3},
            "s": {"type": "string", "pattern": "^[a-z]+$", "enum": ["a", "b"], "nullable": true},
            "mixed": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
            "map": {"type": "object", "maxProperties": 3, "additionalProperties": {"type": "string"}},
            "list": {"type": "array", "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "required": ["k"],
                "properties": {"k": {"type": "string", "format": "date-time"}}}},
        }}},
    });
    let value = json!({"spec": {"n": 4, "s": null, "mixed": "5%", "map": {"a": "b"},
        "list": [{"k": "2026-01-02T03:04:05Z"}, {"k": "x", "y": 1}]}});
    let examples = texts(&[&schema.to_string()]);
    throw("custom resource schemas", &examples, |bytes| {
        let Ok(schema) = schema::decode::untyped(bytes) else {
            return;
        };
        let (schema, root) = (schema.value, api::FieldPath::root());
        let options = structural::check::Options {
            status_subresource: true,
            unlimited_costs: false,
        };
        let _ = structural::check::check(&schema, &root, options);
        let Ok(node) = structural::Structural::read(&schema) else {
            return;
        };
        let mut value = value.clone();
        structural::prune_and_default::default(&node, &mut value);
        structural::prune_and_default::prune(&node, &mut value, true);
        let _ = structural::validate(&node, &root, &value, None);
        if let Some(rules) = structural::Rules::compile(&node) {
            let _ = rules.run(&root, &value, None, 100_000);
        }
    });
}

#[test]
fn tokens_of_others() {
    let key = wire::jwt::Signer::generate().expect("key").0;
    let token = key.sign(&json!({"iss": "https://i", "aud": ["a"], "exp": 5, "sub": "x"}));
    let (token, keys) = (token.expect("token"), key.jwks().to_string());
    let known = wire::jwks::KeySet::parse(keys.as_bytes()).expect("keys");
    throw("tokens of others", &texts(&[&token]), |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return;
        };
        if let Ok(read) = wire::jwks::Token::parse(text)
            && read.verify(&known).is_ok()
        {
            // Nothing but the very token is believed.
            let signed = |t: &str| t.rsplit_once('.').map(|(signed, _)| signed.to_owned());
            assert_eq!(signed(text), signed(&token));
        }
    });
    throw("keys of others", &texts(&[&keys]), |bytes| {
        if let Ok(keys) = wire::jwks::KeySet::parse(bytes) {
            let read = wire::jwks::Token::parse(&token).expect("a token");
            let _ = read.verify(&keys);
        }
    });
}

#[test]
fn configurations_of_who_asks() {
    let jwt = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
        "jwt": [{"issuer": {"url": "https://i", "audiences": ["a"]},
            "claimMappings": {"username": {"expression": "claims.sub"}, "groups": {"claim": "g", "prefix": ""},
                "extra": [{"key": "x.io/a", "valueExpression": "claims.?a.orValue('')"}]},
            "claimValidationRules": [{"expression": "claims.level > 2", "message": "m"}]}],
    });
    let authorizers = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration",
        "authorizers": [{"type": "RBAC", "name": "rbac"}, {"type": "Webhook", "name": "w", "webhook":
            {"timeout": "3s", "matchConditions": [{"expression": "request.user == 'a'"}]}}],
    });
    use apiserver::filters::authorization::config::AuthorizationConfiguration;
    use apiserver::filters::oidc::{check::check, config::AuthenticationConfiguration};
    let claims = json!({"sub": "x", "g": ["a"], "level": 3});
    throw("who is believed", &texts(&[&jwt.to_string()]), |bytes| {
        if let Ok(read) = AuthenticationConfiguration::read(bytes)
            && let Ok(mappers) = check(&read, &[])
        {
            for mapper in &mappers {
                let _ = mapper.user(claims.as_object().expect("claims"));
            }
        }
    });
    throw(
        "who decides",
        &texts(&[&authorizers.to_string()]),
        |bytes| {
            let _ = AuthorizationConfiguration::read(bytes);
        },
    );
}
