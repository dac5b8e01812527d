//! Field management over the built-in types: who owns what after updates and applies.

use patch::{PatchError, Request, Set};
use proptest::prelude::*;
use schema::TypeId;
use serde_json::{Value, json};

/// Managed fields as they are stored.
fn stored(object: &Value) -> Vec<u8> {
    match api::meta::managed_fields(object) {
        [] => Vec::new(),
        list => json!(list).to_string().into(),
    }
}

fn with_managed(object: &mut Value, managed: &[u8]) {
    if !managed.is_empty() {
        object["metadata"]["managedFields"] = serde_json::from_slice(managed).expect("JSON");
    }
}

/// [`patch::update`] of whole objects.
fn update(rq: &Request<'_>, old: &Value, new: &mut Value) {
    let live = stored(old);
    let managed = patch::update(rq, old, &live, new);
    with_managed(new, &managed);
}

/// [`patch::apply`] to whole objects.
fn apply(rq: &Request<'_>, live: &Value, config: &Value, force: bool) -> Result<Value, PatchError> {
    let (mut new, managed) = patch::apply(rq, live, &stored(live), config, force)?;
    with_managed(&mut new, &managed);
    Ok(new)
}

static NONE: std::sync::LazyLock<Set> = std::sync::LazyLock::new(Set::new);

fn rq<'a>(
    ty: TypeId,
    kind: &'a str,
    api_version: &'a str,
    manager: &'a str,
    time: &'a str,
) -> Request<'a> {
    Request {
        table: schema::builtin(),
        ty,
        api_version,
        kind,
        subresource: "",
        manager,
        time,
        ignored: &NONE,
        convert: None,
    }
}

fn deployment<'a>(manager: &'a str, time: &'a str) -> Request<'a> {
    let ty = schema::builtin()
        .by_gvk("apps", "v1", "Deployment")
        .expect("Deployment");
    rq(ty, "Deployment", "apps/v1", manager, time)
}

fn config_map<'a>(manager: &'a str) -> Request<'a> {
    let ty = schema::builtin()
        .by_gvk("", "v1", "ConfigMap")
        .expect("ConfigMap");
    rq(ty, "ConfigMap", "v1", manager, "2026-01-01T00:00:00Z")
}

/// `fieldsV1` of a manager.
fn owned(object: &Value, manager: &str) -> Value {
    api::meta::managed_fields(object)
        .iter()
        .find(|e| e["manager"] == manager)
        .map_or(Value::Null, |e| e["fieldsV1"].clone())
}

fn data(pairs: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "n"}, "data": pairs})
}

fn web(replicas: Option<i64>) -> Value {
    let mut d = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "n", "labels": {"app": "web"}},
        "spec": {"selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]}}}});
    if let Some(n) = replicas {
        d["spec"]["replicas"] = n.into();
    }
    d
}

#[test]
fn a_creation_owns_all_it_sets() {
    let mut d = web(Some(1));
    update(
        &deployment("me", "2026-01-01T00:00:00Z"),
        &Value::Null,
        &mut d,
    );
    assert_eq!(
        owned(&d, "me"),
        json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:replicas": {}, "f:selector": {},
                "f:template": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                    "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {},
                        "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}}}
        })
    );
    let entry = &api::meta::managed_fields(&d)[0];
    assert_eq!(entry["operation"], "Update");
    assert_eq!(entry["time"], "2026-01-01T00:00:00Z");
    // Nothing changed: nothing is touched, whoever writes.
    let mut again = d.clone();
    update(&deployment("other", "2026-01-02T00:00:00Z"), &d, &mut again);
    assert_eq!(again, d);
    // Another one changes a field and takes it over.
    let mut scaled = d.clone();
    scaled["spec"]["replicas"] = 3.into();
    update(
        &deployment("other", "2026-01-02T00:00:00Z"),
        &d,
        &mut scaled,
    );
    assert_eq!(
        owned(&scaled, "other"),
        json!({"f:spec": {"f:replicas": {}}})
    );
    assert_eq!(owned(&scaled, "me").pointer("/f:spec/f:replicas"), None);
}

#[test]
fn conflicts_are_named_and_can_be_forced() {
    let live = apply(
        &deployment("one", "2026-01-01T00:00:00Z"),
        &Value::Null,
        &web(Some(1)),
        false,
    )
    .unwrap();
    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = 5.into();
    update(
        &deployment("hpa", "2026-01-01T00:00:01Z"),
        &live,
        &mut scaled,
    );
    let e = apply(
        &deployment("one", "2026-01-01T00:00:02Z"),
        &scaled,
        &web(Some(1)),
        false,
    )
    .unwrap_err();
    assert_eq!(
        e.to_string(),
        "Apply failed with 1 conflict: conflict with \"hpa\" using apps/v1: .spec.replicas"
    );
    let PatchError::Conflict { causes, .. } = &e else {
        panic!("{e:?}")
    };
    assert_eq!(causes[0].field, ".spec.replicas");
    assert_eq!(causes[0].message, "conflict with \"hpa\" using apps/v1");
    assert_eq!(e.status().code, 409);
    let forced = apply(
        &deployment("one", "2026-01-01T00:00:02Z"),
        &scaled,
        &web(Some(1)),
        true,
    )
    .unwrap();
    assert_eq!(forced["spec"]["replicas"], 1);
    assert_eq!(owned(&forced, "hpa"), Value::Null);
    // The same value is shared, not in conflict.
    let shared = apply(
        &deployment("two", "2026-01-01T00:00:03Z"),
        &forced,
        &web(Some(1)),
        false,
    )
    .unwrap();
    assert_eq!(owned(&shared, "two"), owned(&shared, "one"));
}

#[test]
fn what_is_no_longer_applied_goes_unless_somebody_owns_it() {
    let live = apply(
        &config_map("one"),
        &Value::Null,
        &data(json!({"a": "1", "b": "2"})),
        false,
    )
    .unwrap();
    let live = apply(
        &config_map("two"),
        &live,
        &data(json!({"b": "2", "c": "3"})),
        false,
    )
    .unwrap();
    let live = apply(&config_map("one"), &live, &data(json!({})), false).unwrap();
    assert_eq!(live["data"], json!({"b": "2", "c": "3"}));
    let live = apply(&config_map("two"), &live, &data(json!({"c": "3"})), false).unwrap();
    assert_eq!(live["data"], json!({"c": "3"}));
}

#[test]
fn who_sets_anothers_field_to_null_conflicts_and_may_force_it() {
    let live = apply(
        &config_map("one"),
        &Value::Null,
        &data(json!({"a": "1", "b": "2"})),
        false,
    )
    .unwrap();
    let none = data(json!({"a": null}));
    let refused = apply(&config_map("two"), &live, &none, false).unwrap_err();
    assert!(refused.to_string().contains(".data.a"), "{refused}");
    let forced = apply(&config_map("two"), &live, &none, true).unwrap();
    assert_eq!(forced["data"], json!({"b": "2"}));
    assert_eq!(owned(&forced, "one"), json!({"f:data": {"f:b": {}}}));
    // Of what is nobody else's it is gone at once.
    let own = apply(&config_map("one"), &live, &none, false).unwrap();
    assert_eq!(own["data"], json!({}));
    assert_eq!(apply(&config_map("one"), &own, &none, false).unwrap(), own);
}

#[test]
fn list_items_are_merged_by_keys_and_leave_with_their_manager() {
    let mut more = web(None);
    more["spec"]["template"]["spec"]["containers"] = json!([{"name": "side", "image": "s"}]);
    let live = apply(&deployment("one", "t"), &Value::Null, &web(None), false).unwrap();
    let both = apply(&deployment("two", "t"), &live, &more, false).unwrap();
    let names = |o: &Value| -> Vec<String> {
        let list = o["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap();
        list.iter()
            .map(|c| c["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(&both), ["c", "side"]);
    more["spec"]["template"]["spec"]
        .as_object_mut()
        .unwrap()
        .remove("containers");
    let back = apply(&deployment("two", "t"), &both, &more, false).unwrap();
    assert_eq!(names(&back), ["c"]);
}

#[test]
fn the_first_apply_records_what_was_there() {
    let mut live = web(Some(2));
    live["metadata"]["uid"] = "u".into();
    let e = apply(&deployment("me", "t"), &live, &web(Some(3)), false).unwrap_err();
    assert_eq!(
        e.to_string(),
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using apps/v1: .spec.replicas"
    );
}

#[test]
fn bad_configurations_are_refused() {
    let refuse =
        |config: &Value| apply(&deployment("me", "t"), &Value::Null, config, false).unwrap_err();
    let mut c = web(None);
    c["spec"]["nonsense"] = 1.into();
    assert_eq!(
        refuse(&c).to_string(),
        "failed to create typed patch object (n/web; apps/v1, Kind=Deployment): .spec.nonsense: field not declared in schema"
    );
    let mut c = web(None);
    c["metadata"]["managedFields"] = json!([]);
    assert_eq!(refuse(&c).to_string(), "metadata.managedFields must be nil");
    let mut c = web(None);
    let list = c["spec"]["template"]["spec"]["containers"]
        .as_array_mut()
        .unwrap();
    list.push(list[0].clone());
    assert!(
        refuse(&c)
            .to_string()
            .contains("duplicate entries for key [name=\"c\"]")
    );
}

#[test]
fn updaters_are_capped_and_managers_can_be_cleared() {
    let mut live = data(json!({}));
    live["data"] = json!({"k": "v"});
    update(&config_map("m0"), &Value::Null, &mut live);
    live["metadata"]["uid"] = "u".into();
    for i in 0..20 {
        let mut next = live.clone();
        next["data"][format!("k{i}")] = "v".into();
        let time = format!("2026-01-01T00:00:{i:02}Z");
        let manager = format!("m{i}");
        let rq = Request {
            time: &time,
            manager: &manager,
            ..config_map("")
        };
        update(&rq, &live, &mut next);
        live = next;
    }
    let list = api::meta::managed_fields(&live);
    assert_eq!(list.len(), 10);
    assert!(list.iter().any(|e| e["manager"] == "ancient-changes"));
    let mut cleared = live.clone();
    cleared["metadata"]["managedFields"] = json!([{}]);
    update(&config_map("x"), &live, &mut cleared);
    assert!(api::meta::managed_fields(&cleared).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    /// Whatever the live list holds, items that are there twice too: nothing applied is lost, and
    /// the applied items are in the order of the configuration.
    #[test]
    fn merged_lists_hold_all_items(
        live in prop::collection::vec(0..6u8, 0..8),
        mine in prop::sample::subsequence(vec![5u8, 4, 3, 2, 1, 0], 0..6),
    ) {
        let ports = |list: &[u8]| {
            let items: Vec<Value> = list.iter().map(|p| json!({"containerPort": p})).collect();
            json!({"containers": [{"name": "c", "ports": items}]})
        };
        let table = schema::builtin();
        let ty = table.by_name("io.k8s.api.core.v1.PodSpec").expect("PodSpec");
        let mut merged = ports(&live);
        patch::merge(table, ty, &mut merged, &ports(&mine));
        let list = merged["containers"][0]["ports"].as_array().cloned().unwrap_or_default();
        let seen: Vec<u8> = list
            .iter()
            .filter_map(|p| u8::try_from(p["containerPort"].as_u64()?).ok())
            .collect();
        prop_assert!(live.iter().all(|p| seen.contains(p)));
        let applied: Vec<u8> = seen.into_iter().filter(|p| mine.contains(p)).collect();
        prop_assert_eq!(applied, mine);
    }
}

#[test]
fn kubectl_moves_from_client_side_to_server_side_apply() {
    const NOTE: &str = "kubectl.kubernetes.io/last-applied-configuration";
    let config = data(json!({"a": "1"}));
    let mut live = config.clone();
    live["metadata"]["annotations"] = json!({ NOTE: config.to_string() });
    update(
        &config_map("kubectl-client-side-apply"),
        &Value::Null,
        &mut live,
    );
    // What the annotation says passes over without force, and the annotation follows.
    let next = apply(
        &config_map("kubectl"),
        &live,
        &data(json!({"a": "2"})),
        false,
    )
    .unwrap();
    assert_eq!(next["data"]["a"], "2");
    let note = next["metadata"]["annotations"][NOTE]
        .as_str()
        .unwrap_or_default();
    assert!(note.contains(r#""a":"2""#), "{note}");
    // What somebody else has changed since then does not; nor does another manager get it.
    let mut changed = live.clone();
    changed["data"]["a"] = json!("3");
    let by_other = live.clone();
    update(&config_map("other"), &by_other, &mut changed);
    assert!(
        apply(
            &config_map("kubectl"),
            &changed,
            &data(json!({"a": "2"})),
            false
        )
        .is_err()
    );
    assert!(apply(&config_map("else"), &live, &data(json!({"a": "2"})), false).is_err());
}

fn pairs() -> impl Strategy<Value = std::collections::BTreeMap<String, String>> {
    prop::collection::btree_map("[a-e]", "[xy]", 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn applying_twice_changes_nothing(a in pairs(), b in pairs()) {
        let live = apply(&config_map("one"), &Value::Null, &data(json!(a)), false).unwrap();
        let live = apply(&config_map("two"), &live, &data(json!(b)), true).unwrap();
        let again = apply(&config_map("two"), &live, &data(json!(b)), true).unwrap();
        prop_assert_eq!(again, live);
    }

    #[test]
    fn disjoint_fields_commute(a in pairs(), b in pairs()) {
        let b: std::collections::BTreeMap<String, String> =
            b.into_iter().map(|(k, v)| (format!("{k}2"), v)).collect();
        // Entries are in the order of their times, and an apply without effect has none.
        let go = |first: (&str, Value), second: (&str, Value)| {
            let live = apply(&config_map(first.0), &Value::Null, &data(first.1), false).unwrap();
            let mut both = apply(&config_map(second.0), &live, &data(second.1), false).unwrap();
            let owners = ["one", "two"].map(|m| owned(&both, m));
            api::meta::set(&mut both, "managedFields", Value::Null);
            (both, owners)
        };
        prop_assert_eq!(
            go(("one", json!(a)), ("two", json!(b))),
            go(("two", json!(b)), ("one", json!(a)))
        );
    }

    #[test]
    fn sets_are_read_as_written(paths in prop::collection::vec(prop::collection::vec("[a-c]", 1..4), 0..8)) {
        let dotted: Vec<String> = paths.iter().map(|p| p.join(".")).collect();
        let set = Set::of_fields(&dotted.iter().map(String::as_str).collect::<Vec<_>>());
        prop_assert_eq!(Set::from_json(&set.to_json()).unwrap(), set.clone());
        prop_assert!(set.difference(&set).is_empty());
        prop_assert_eq!(set.union(&set), set.clone());
        prop_assert_eq!(set.intersection(&set), set);
    }
}
