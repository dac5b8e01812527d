//! Environments of containers, made of values.

use super::*;
use serde_json::json;

#[test]
fn references_expand_once_and_unknown_ones_stay() {
    let known = |name: &str| (name == "A").then(|| "1".to_owned());
    for (text, want) in [
        ("x$(A)y", "x1y"),
        ("$$(A)", "$(A)"),
        ("$(B)", "$(B)"),
        ("$", "$"),
        ("$(A", "$(A"),
        ("$A", "$A"),
    ] {
        assert_eq!(expand(text, known), want, "{text}");
    }
}

#[test]
fn sources_are_read_in_order() {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c",
            "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}},
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}],
            "env": [
                {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}},
                {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
                {"name": "BOTH", "value": "$(P_k)-$(NAME)-$(KUBERNETES_SERVICE_HOST)"},
                {"name": "GONE", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": true}}}
            ]}]}
    }))
    .unwrap();
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": "kubernetes", "namespace": "default"},
        "spec": {"clusterIP": "10.0.0.1", "ports": [{"name": "https", "port": 443}]}
    }))
    .unwrap();
    let key = Key {
        kind: ObjectKind::ConfigMap,
        namespace: "n".into(),
        name: "m".into(),
    };
    let data = Data {
        values: [("k".to_owned(), b"v".to_vec())].into(),
        ..Default::default()
    };
    let sources = Sources {
        objects: HashMap::from([(key, Arc::new(data))]),
        ..Default::default()
    };
    let c = &spec::containers(&pod)[0];
    let env = environment(&pod, c, &sources, &[Arc::new(service)], &Around::default()).unwrap();
    let lines: Vec<String> = env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    expect_test::expect![[r#"
        P_k=v
        NAME=p
        LABEL=b
        CPU=2
        MEM=64
        BOTH=v-p-10.0.0.1
        KUBERNETES_PORT=tcp://10.0.0.1:443
        KUBERNETES_PORT_443_TCP=tcp://10.0.0.1:443
        KUBERNETES_PORT_443_TCP_ADDR=10.0.0.1
        KUBERNETES_PORT_443_TCP_PORT=443
        KUBERNETES_PORT_443_TCP_PROTO=tcp
        KUBERNETES_SERVICE_HOST=10.0.0.1
        KUBERNETES_SERVICE_PORT=443
        KUBERNETES_SERVICE_PORT_HTTPS=443"#]]
    .assert_eq(&lines.join("\n"));
}

#[test]
fn resources_that_nothing_limits_are_those_of_the_pod_or_the_node() {
    let around = Around {
        allocatable_cpu_millis: 3500,
        allocatable_memory_bytes: 4 << 30,
        allocatable_storage_bytes: 10 << 30,
        ..Default::default()
    };
    let of = |own: serde_json::Value, of_pod: serde_json::Value, resource: &str| {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "resources": {"limits": of_pod},
            "containers": [{"name": "c", "resources": own}]}}))
        .unwrap();
        let selector = ResourceFieldSelector {
            resource: resource.into(),
            ..Default::default()
        };
        let c = &spec::containers(&pod)[0];
        super::resource(&pod, c, &selector, &around).map_err(|e| e.0)
    };
    let gib = |n: i64| Ok((n << 30).to_string());
    let none = || json!({});
    let limits = |name: &str, value: &str| json!({"limits": {name: value}});
    let storage = "limits.ephemeral-storage";
    assert_eq!(of(none(), none(), "limits.cpu"), Ok("4".into()));
    assert_eq!(of(limits("cpu", "2"), none(), "limits.cpu"), Ok("2".into()));
    assert_eq!(
        of(limits("cpu", "0"), json!({"cpu": "3"}), "limits.cpu"),
        Ok("3".into())
    );
    assert_eq!(
        of(none(), json!({"memory": "1Gi"}), "limits.memory"),
        gib(1)
    );
    assert_eq!(of(none(), none(), "limits.memory"), gib(4));
    assert_eq!(of(none(), json!({"memory": "1Gi"}), storage), gib(10));
    assert_eq!(
        of(limits("ephemeral-storage", "2Gi"), none(), storage),
        gib(2)
    );
    let pages = "limits.hugepages-2Mi";
    assert_eq!(
        of(limits("hugepages-2Mi", "4Mi"), none(), pages),
        Ok("4194304".into())
    );
    assert_eq!(of(none(), none(), "requests.hugepages-1Gi"), Ok("0".into()));
    for wrong in ["limits.x/y", "hugepages-2Mi", "claims.hugepages-2Mi"] {
        let want = format!("unsupported container resource : {wrong}");
        assert_eq!(of(none(), none(), wrong), Err(want));
    }
}

#[test]
fn variables_come_from_files_of_volumes() {
    let files = [
        ("e", "good", Some("A='1'\n")),
        ("e", "bad", Some("A=1\n")),
        ("e", "gone", None),
    ];
    let files = files.map(|(volume, path, text)| {
        let found = text.map_or(EnvFile::Unreadable, |text| EnvFile::File {
            path: format!("/v/{path}"),
            text: text.into(),
        });
        ((volume.to_owned(), path.to_owned()), found)
    });
    let sources = Sources {
        files: files.into(),
        ..Default::default()
    };
    let of = |volume: &str, path: &str, key: &str, optional: bool| {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "enableServiceLinks": false, "containers": [{"name": "c", "env": [
                {"name": "V", "valueFrom": {"fileKeyRef": {"volumeName": volume,
                    "path": path, "key": key, "optional": optional}}},
                {"name": "W", "value": "$(V)"}]}]}}))
        .unwrap();
        let c = &spec::containers(&pod)[0];
        environment(&pod, c, &sources, &[], &Around::default())
            .map(|env| {
                env.iter()
                    .map(|(k, v)| format!("{k}={v}"))
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .map_err(|e| e.0)
    };
    let unparsed = Err("couldn't parse env file".to_owned());
    assert_eq!(of("e", "good", "A", false), Ok("V=1 W=1".into()));
    assert_eq!(of("e", "good", "B", true), Ok("W=$(V)".into()));
    let missing = "environment variable key \"B\" not found in file \"/v/good\"";
    assert_eq!(of("e", "good", "B", false), Err(missing.into()));
    assert_eq!(of("e", "bad", "A", true), unparsed);
    assert_eq!(of("e", "gone", "A", true), unparsed);
    let none = "cannot find the volume \"x\" referenced by FileKeyRef";
    assert_eq!(of("x", "good", "A", true), Err(none.into()));
}
