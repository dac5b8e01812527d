//! What is wrong with claims, classes, slices and taints, and their shapes in all versions.

use serde_json::{Value, json};

use super::*;

#[test]
fn claims_in_all_versions() {
    let s = DeviceClaim { spec: "/spec" };
    let one = json!({"apiVersion": "resource.k8s.io/v1", "spec": {"devices": {"requests": [
        {"name": "r", "exactly": {"deviceClassName": "c", "count": 2}}]}}});
    let mut obj = one.clone();
    s.convert(&mut obj, "v1beta1", "resource.k8s.io");
    assert_eq!(
        obj.pointer("/spec/devices/requests/0"),
        Some(&json!({"name": "r", "deviceClassName": "c", "count": 2}))
    );
    s.convert(&mut obj, "v1", "resource.k8s.io");
    assert_eq!(obj, one);
}

#[test]
fn slices_in_all_versions() {
    let one = json!({"apiVersion": "resource.k8s.io/v1", "spec": {"devices": [
        {"name": "d", "capacity": {"memory": {"value": "1Gi"}}}]}});
    let mut obj = one.clone();
    ResourceSlice.convert(&mut obj, "v1beta1", "resource.k8s.io");
    assert_eq!(
        obj.pointer("/spec/devices/0"),
        Some(&json!({"name": "d", "basic": {"capacity": {"memory": {"value": "1Gi"}}}}))
    );
    ResourceSlice.convert(&mut obj, "v1", "resource.k8s.io");
    assert_eq!(obj, one);
}

fn cx(subresource: &'static str) -> Context<'static> {
    Context {
        now: 60,
        namespace: "a",
        user: "alice",
        subresource,
        ..Context::of_nobody()
    }
}

fn told(errs: &[FieldError]) -> Vec<String> {
    errs.iter().map(ToString::to_string).collect()
}

/// A good object, with one value of it replaced, gives exactly these errors.
#[track_caller]
fn wrong(s: &dyn Strategy, good: &Value, pointer: &str, value: Value, expected: &[&str]) {
    let check = |obj: &Value| {
        let mut obj = obj.clone();
        s.default(&mut obj);
        told(&s.validate(&obj, &cx("")))
    };
    assert_eq!(check(good), Vec::<String>::new(), "{good}");
    let mut bad = good.clone();
    let (parent, last) = pointer.rsplit_once('/').unwrap_or_default();
    match bad.pointer_mut(parent) {
        Some(Value::Object(o)) => drop(o.insert(last.to_owned(), value)),
        Some(Value::Array(a)) => a.push(value),
        _ => panic!("no {parent} in {good}"),
    }
    assert_eq!(check(&bad), expected, "{pointer}");
}

fn claim() -> Value {
    json!({"metadata": {"name": "c", "namespace": "a"}, "spec": {"devices": {
        "requests": [
            {"name": "one", "exactly": {"deviceClassName": "gpu",
                "selectors": [{"cel": {"expression": "device.driver == 'x'"}}],
                "tolerations": [{"key": "k", "operator": "Exists"}]}},
            {"name": "any", "firstAvailable": [{"name": "big", "deviceClassName": "gpu"}]}],
        "constraints": [{"requests": ["one", "any/big"], "matchAttribute": "x.y/numa"}],
        "config": [{"requests": ["one"], "opaque": {"driver": "x", "parameters": {"a": 1}}}]}}})
}

#[test]
fn what_is_wrong_with_a_claim_is_said_at_its_path() {
    let s = DeviceClaim { spec: "/spec" };
    let reference = "must be the name of a request in the claim or the name of a request and a \
                     subrequest separated by '/'";
    let cases: Vec<(&str, Value, Vec<String>)> = vec![
        (
            "/spec/devices/requests/0/name",
            json!("A"),
            vec![
                "spec.devices.requests[0].name: Invalid value: \"A\": a lowercase RFC 1123 label must \
                 consist of lower case alphanumeric characters or '-', and must start and end with an \
                 alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
                 '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
                    .into(),
                format!("spec.devices.constraints[0].requests[0]: Invalid value: \"one\": {reference}"),
                format!("spec.devices.config[0].requests[0]: Invalid value: \"one\": {reference}"),
            ],
        ),
        (
            "/spec/devices/requests/0/exactly",
            Value::Null,
            vec![
                "spec.devices.requests[0]: Required value: exactly one of `exactly` or \
                 `firstAvailable` is required"
                    .into(),
            ],
        ),
        (
            "/spec/devices/requests/0/exactly/deviceClassName",
            json!(""),
            vec!["spec.devices.requests[0].exactly.deviceClassName: Required value".into()],
        ),
        (
            "/spec/devices/requests/0/exactly/count",
            json!(-1),
            vec![
                "spec.devices.requests[0].exactly.count: Invalid value: -1: must be greater than zero"
                    .into(),
            ],
        ),
        (
            "/spec/devices/requests/0/exactly/allocationMode",
            json!("Some"),
            vec![
                "spec.devices.requests[0].exactly.allocationMode: Unsupported value: \"Some\": \
                 supported values: \"All\", \"ExactCount\""
                    .into(),
            ],
        ),
        (
            "/spec/devices/requests/0/exactly/adminAccess",
            json!(true),
            vec![
                "spec.devices.requests[0].adminAccess: Forbidden: admin access to devices requires \
                 the `resource.kubernetes.io/admin-access: true` label on the containing namespace"
                    .into(),
            ],
        ),
        (
            "/spec/devices/requests/0/exactly/selectors/0/cel",
            json!({"expression": "device.driver"}),
            vec![
                "spec.devices.requests[0].exactly.selectors[0].cel.expression: Invalid value: \
                 \"device.driver\": must evaluate to bool or the unknown type, not string"
                    .into(),
            ],
        ),
        (
            "/spec/devices/requests/0/exactly/tolerations/0/value",
            json!("v"),
            vec![
                "spec.devices.requests[0].exactly.tolerations[0].value: Invalid value: \"v\": must \
                 be empty for operator `Exists`"
                    .into(),
            ],
        ),
        (
            "/spec/devices/requests/-",
            json!({"name": "one", "exactly": {"deviceClassName": "gpu"}}),
            vec!["spec.devices.requests[2]: Duplicate value: \"one\"".into()],
        ),
        (
            "/spec/devices/constraints/0/matchAttribute",
            json!("numa"),
            vec![
                "spec.devices.constraints[0].matchAttribute: Invalid value: \"numa\": a fully \
                 qualified name must be a domain and a name separated by a slash"
                    .into(),
            ],
        ),
        (
            "/spec/devices/constraints/0/requests/-",
            json!("any/small"),
            vec![format!(
                "spec.devices.constraints[0].requests[2]: Invalid value: \"any/small\": {reference}"
            )],
        ),
        (
            "/spec/devices/config/0/opaque",
            Value::Null,
            vec!["spec.devices.config[0].opaque: Required value".into()],
        ),
        (
            "/spec/devices/config/0/opaque/parameters",
            json!({"a": "x".repeat(11_000)}),
            vec![
                "spec.devices.config[0].opaque.parameters: Too long: may not be more than 10240 bytes"
                    .into(),
            ],
        ),
    ];
    for (pointer, value, expected) in cases {
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        wrong(&s, &claim(), pointer, value, &expected);
    }
}

#[test]
fn administrators_are_let_in_by_their_namespace() {
    let s = DeviceClaim { spec: "/spec" };
    let mut claim = claim();
    assert_eq!(s.reads(&claim, None), Vec::new());
    claim["spec"]["devices"]["requests"][0]["exactly"]["adminAccess"] = json!(true);
    s.default(&mut claim);
    let read = s.reads(&claim, None);
    assert_eq!(read.first().map(|r| r.name.as_str()), Some("a"));
    let mut cx = cx("");
    let labels = json!({"metadata": {"labels": {ADMIN_LABEL: "true"}}});
    cx.read.insert(NAMESPACE.to_owned(), labels);
    assert_eq!(told(&s.validate(&claim, &cx)), Vec::<String>::new());
}

fn allocated() -> Value {
    let result = json!({"request": "one", "driver": "x", "pool": "n/p", "device": "d"});
    json!({"allocation": {"devices": {"results": [result]}},
        "reservedFor": [{"resource": "pods", "name": "p", "uid": "1"}]})
}

#[test]
fn a_status_holds_what_is_the_claims_and_keeps_its_allocation() {
    let s = DeviceClaim { spec: "/spec" };
    let with = |status: Value| {
        let mut claim = claim();
        claim["status"] = status;
        claim
    };
    let check = |new: Value, old: Value| {
        let (mut new, old) = (with(new), with(old));
        s.prepare_update(&mut new, &old, &cx("status"));
        told(&s.validate_update(&new, &old, &cx("status")))
    };
    let none: Vec<String> = Vec::new();
    assert_eq!(check(allocated(), json!({})), none);
    let mut other = allocated();
    other["allocation"]["devices"]["results"][0]["device"] = json!("e");
    let errs = check(other.clone(), allocated());
    assert!(
        errs.first()
            .is_some_and(|e| e.starts_with("status.allocation: Invalid value:")
                && e.ends_with("field is immutable")),
        "{errs:?}"
    );
    let reserved = json!({"reservedFor": allocated()["reservedFor"]});
    assert_eq!(
        check(reserved, allocated()),
        ["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"]
    );
    let mut spoken = allocated();
    spoken["devices"] = json!([{"driver": "x", "pool": "n/p", "device": "f"}]);
    assert_eq!(
        check(spoken.clone(), allocated()),
        ["status.devices[0]: Invalid value: x/n/p/f: must be an allocated device in the claim"]
    );
    spoken["devices"][0]["device"] = json!("d");
    assert_eq!(check(spoken.clone(), allocated()), none);
    // What a driver said of a device goes with the device.
    let mut freed = with(json!({"devices": spoken["devices"]}));
    s.prepare_update(&mut freed, &with(spoken), &cx("status"));
    assert_eq!(freed["status"]["devices"], json!([]));
    let mut wrong = allocated();
    wrong["allocation"]["devices"]["results"][0]["pool"] = json!("");
    wrong["allocation"]["devices"]["results"][0]["bindingConditions"] = json!(["a"]);
    assert_eq!(
        check(wrong, json!({})),
        [
            "status.allocation.devices.results[0].pool: Required value",
            "status.allocation.devices.results[0].bindingFailureConditions: Invalid value: null: \
             bindingFailureConditions are required to use bindingConditions"
        ]
    );
}

#[test]
fn what_is_wrong_with_a_class_is_said_at_its_path() {
    let class = json!({"metadata": {"name": "gpu"}, "spec": {
        "selectors": [{"cel": {"expression": "device.driver == 'x'"}}],
        "config": [{"opaque": {"driver": "x", "parameters": {}}}],
        "extendedResourceName": "example.com/gpu"}});
    let s = DeviceClass;
    wrong(
        &s,
        &class,
        "/spec/extendedResourceName",
        json!("cpu"),
        &[
            "spec.extendedResourceName: Invalid value: \"cpu\": must be a valid extended resource name",
        ],
    );
    wrong(
        &s,
        &class,
        "/spec/selectors/0/cel",
        Value::Null,
        &["spec.selectors[0].cel: Required value"],
    );
    wrong(
        &s,
        &class,
        "/spec/config/0/opaque/parameters",
        json!([]),
        &[
            "spec.config[0].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid JSON object",
        ],
    );
    wrong(
        &s,
        &class,
        "/spec/selectors",
        Value::Array(vec![json!({"cel": {"expression": "true"}}); 33]),
        &["spec.selectors: Too many: 33: must have at most 32 items"],
    );
}

fn slice() -> Value {
    json!({"metadata": {"name": "s"}, "spec": {"driver": "x", "nodeName": "n",
        "pool": {"name": "p", "resourceSliceCount": 1, "generation": 0},
        "devices": [{"name": "d", "attributes": {"model": {"string": "a"}, "x.y/v": {"version": "1.2.3"}},
            "capacity": {"memory": {"value": "8Gi", "requestPolicy": {"default": "1Gi",
                "validRange": {"min": "1Gi", "max": "4Gi", "step": "1Gi"}}}},
            "allowMultipleAllocations": true,
            "taints": [{"key": "k", "effect": "NoSchedule"}],
            "consumesCounters": [{"counterSet": "c", "counters": {"m": {"value": "1"}}}]}]}})
}

#[test]
fn what_is_wrong_with_a_slice_is_said_at_its_path() {
    let memory = "spec.devices[0].capacity[memory].requestPolicy";
    let cases: Vec<(&str, Value, Vec<String>)> = vec![
        ("/spec/driver", json!(""), vec!["spec.driver: Required value".into()]),
        (
            "/spec/pool/resourceSliceCount",
            json!(0),
            vec!["spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero".into()],
        ),
        (
            "/spec/allNodes",
            json!(true),
            vec![
                "spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of `nodeName`, \
                 `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple \
                 fields are set"
                    .into(),
            ],
        ),
        (
            "/spec/sharedCounters",
            json!([]),
            vec!["spec: Invalid value: \"\": only one of `sharedCounters` or `devices` is allowed".into()],
        ),
        (
            "/spec/devices/-",
            json!({"name": "d"}),
            vec!["spec.devices[1]: Duplicate value: \"d\"".into()],
        ),
        (
            "/spec/devices/0/attributes/model",
            json!({"string": "a", "int": 1}),
            vec![
                "spec.devices[0].attributes[model]: Invalid value: {\"int\":1,\"string\":\"a\"}: \
                 exactly one value must be specified"
                    .into(),
            ],
        ),
        (
            "/spec/devices/0/attributes/model",
            json!({"version": "1.2"}),
            vec![
                "spec.devices[0].attributes[model].version: Invalid value: \"1.2\": must be a \
                 string compatible with semver.org spec 2.0.0"
                    .into(),
            ],
        ),
        (
            "/spec/devices/0/taints/0/effect",
            json!("Never"),
            vec![
                "spec.devices[0].taints[0].effect: Unsupported value: \"Never\": supported values: \
                 \"NoExecute\", \"NoSchedule\", \"None\""
                    .into(),
            ],
        ),
        (
            "/spec/devices/0/consumesCounters/0/counters",
            json!({}),
            vec!["spec.devices[0].consumesCounters[0].counters: Required value".into()],
        ),
        (
            "/spec/devices/0/nodeName",
            json!("n"),
            vec![
                "spec.devices[0]: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` \
                 can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
                    .into(),
            ],
        ),
        (
            "/spec/devices/0/allowMultipleAllocations",
            json!(false),
            vec![format!("{memory}: Forbidden: allowMultipleAllocations must be true")],
        ),
        (
            "/spec/devices/0/capacity/memory/requestPolicy/default",
            json!("1536Mi"),
            vec![format!(
                "{memory}.validRange.step: Invalid value: \"1536Mi\": value is not a multiple of a \
                 given step (1Gi) from (1Gi)"
            )],
        ),
        (
            "/spec/devices/0/capacity/memory/requestPolicy/validRange/max",
            json!("16Gi"),
            vec![format!(
                "{memory}.validRange.max: Invalid value: \"16Gi\": max is larger than capacity \
                 value: 8Gi"
            )],
        ),
        (
            "/spec/devices/0/bindingFailureConditions",
            json!(["f"]),
            vec![
                "spec.devices[0].bindingConditions: Invalid value: null: bindingConditions are \
                 required to use bindingFailureConditions"
                    .into(),
            ],
        ),
    ];
    for (pointer, value, expected) in cases {
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        wrong(&ResourceSlice, &slice(), pointer, value, &expected);
    }
    let many: Vec<Value> = (0..65).map(|i| json!({"name": format!("d{i}")})).collect();
    let mut plain = slice();
    plain["spec"]["devices"] = json!(many);
    assert_eq!(
        told(&ResourceSlice.validate(&plain, &cx(""))),
        Vec::<String>::new()
    );
    plain["spec"]["devices"][0]["taints"] = slice()["spec"]["devices"][0]["taints"].clone();
    assert_eq!(
        told(&ResourceSlice.validate(&plain, &cx(""))),
        ["spec.devices: Too many: 65: must have at most 64 items"]
    );
    let mut moved = slice();
    moved["spec"]["nodeName"] = json!("m");
    assert_eq!(
        told(&ResourceSlice.validate_update(&moved, &slice(), &cx(""))),
        ["spec.nodeName: Invalid value: \"m\": field is immutable"]
    );
}

#[test]
fn taints_have_the_time_at_which_they_came() {
    let mut slice = slice();
    ResourceSlice.prepare_create(&mut slice, &cx(""));
    let taint = &slice["spec"]["devices"][0]["taints"][0];
    assert_eq!(taint["timeAdded"], "1970-01-01T00:01:00Z");
    let rule = |effect: &str, added: &str| {
        json!({"spec": {"deviceSelector": {"driver": "x"},
            "taint": {"key": "k", "effect": effect, "timeAdded": added}}})
    };
    let old = rule("NoSchedule", "1970-01-01T00:00:01Z");
    for (new, added) in [
        (
            rule("NoSchedule", "1970-01-01T00:00:01Z"),
            "1970-01-01T00:00:01Z",
        ),
        (
            rule("NoExecute", "1970-01-01T00:00:01Z"),
            "1970-01-01T00:01:00Z",
        ),
        (
            rule("NoExecute", "1970-01-01T00:00:02Z"),
            "1970-01-01T00:00:02Z",
        ),
    ] {
        let mut new = new;
        DeviceTaintRule.prepare_update(&mut new, &old, &cx(""));
        assert_eq!(new["spec"]["taint"]["timeAdded"], added);
    }
    wrong(
        &DeviceTaintRule,
        &old,
        "/spec/taint/key",
        json!(""),
        &[
            "spec.taint.key: Invalid value: \"\": name part must be non-empty",
            "spec.taint.key: Invalid value: \"\": name part must consist of alphanumeric characters, \
             '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  \
             or 'my.name',  or '123-abc', regex used for validation is \
             '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
        ],
    );
}
