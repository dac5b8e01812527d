//! The table against the schema: no field without a line, no line without a field.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::*;
use crate::kinds::kinds;

/// The crates that act on what others wrote.
const PARTS: &[&str] = &[
    "apiserver",
    "scheduler",
    "controllers",
    "kubelet",
    "network",
    "proxy",
    "dns",
];

fn roots() -> BTreeMap<&'static str, String> {
    content()
        .filter_map(|l| l.strip_prefix("R ")?.split_once(' '))
        .map(|(kind, ty)| (kind, format!("{PREFIX}{ty}")))
        .collect()
}

/// The type of what a kind specifies: its `spec`, or the `template` of one without.
fn specification(type_name: &str) -> Option<TypeId> {
    let types = schema::builtin();
    let def = types.get(types.by_name(type_name)?);
    let field = def.field("spec").or_else(|| def.field("template"))?;
    object_of(&field.ty)
}

#[test]
fn each_field_has_one_line_and_each_line_a_field() {
    let types = schema::builtin();
    let mut fates: BTreeMap<(String, &str), Fate> = BTreeMap::new();
    for (name, field, fate) in lines() {
        let twice = fates.insert((name.clone(), field), fate);
        assert!(twice.is_none(), "{name} {field} has two lines");
    }
    let mut open: Vec<String> = roots().into_values().collect();
    let (mut seen, mut missing) = (BTreeSet::new(), Vec::new());
    while let Some(name) = open.pop() {
        if !name.starts_with(PREFIX) || !seen.insert(name.clone()) {
            continue;
        }
        let id = types.by_name(&name).expect("a type of the schema");
        for field in &types.get(id).fields {
            match fates.remove(&(name.clone(), &*field.json)) {
                None => missing.push(format!("{name} {}", field.json)),
                Some(Fate::Acted(_) | Fate::Info) => {
                    let inner = object_of(&field.ty).map(|id| types.get(id).name.to_string());
                    open.extend(inner);
                }
                Some(Fate::Refused(_) | Fate::Inert | Fate::Warned { .. }) => {}
            }
        }
    }
    assert!(missing.is_empty(), "fields without a line: {missing:#?}");
    let left: Vec<_> = fates.keys().collect();
    assert!(left.is_empty(), "lines without a field: {left:#?}");
}

#[test]
fn lines_say_what_they_must() {
    for line in content().filter(|l| !l.starts_with("R ") && !l.starts_with("T ")) {
        let (_, fate) = read(line).unwrap_or_else(|| panic!("{line:?} is not a line"));
        match fate {
            Fate::Acted(parts) => assert!(parts.iter().all(|p| PARTS.contains(p)), "{line}"),
            Fate::Refused(part) => assert!(PARTS.contains(&part), "{line}"),
            Fate::Warned { text, .. } => assert!(text.len() > 10, "{line}"),
            Fate::Info | Fate::Inert => {}
        }
    }
}

/// A kind that holds a template of pods, and pods and Services themselves, are roots; the fields
/// of a kind are its own only while no controller acts on it.
#[test]
fn kinds_that_make_pods_are_roots() {
    let types = schema::builtin();
    let (roots, mut fates) = (roots(), BTreeMap::<String, Vec<Fate>>::new());
    for (name, _, fate) in lines() {
        fates.entry(name).or_default().push(fate);
    }
    for row in kinds().rows().iter().filter(|r| !r.virtual_kind) {
        let name = type_name(&row.storage_group, &row.storage_version, &row.kind);
        let Some(id) = specification(&name) else {
            continue;
        };
        let def = types.get(id);
        let holds = |inner: &str| {
            let of = |f: &schema::FieldDef| object_of(&f.ty).map(|id| types.get(id).name.clone());
            def.fields
                .iter()
                .any(|f| of(f).is_some_and(|n| n.ends_with(inner)))
        };
        let makes_pods = holds("v1.PodTemplateSpec") || holds("v1.JobTemplateSpec");
        match roots.get(&*row.kind) {
            Some(root) => assert_eq!(root, &*def.name, "{}", row.kind),
            None => assert!(!makes_pods, "{} has no line R", row.kind),
        }
        if roots.contains_key(&*row.kind) && &*row.kind != "PodTemplate" {
            let all = fates.get(&*def.name).expect("its fields");
            let as_kind = all.iter().all(|f| *f == Fate::Inert);
            assert_eq!(as_kind, row.inert, "{}: the fate `kind`", row.kind);
        }
    }
    for kind in ["Pod", "Service"] {
        assert!(roots.contains_key(kind), "{kind}");
    }
}

fn of(resource: (&str, &str), new: &Value, old: Option<&Value>) -> Vec<String> {
    let row = kinds().resource(resource.0, resource.1).expect("a kind");
    warnings(row, new, old, "")
}

#[test]
fn what_is_set_without_effect_is_warned_of_wherever_it_stands() {
    let spec = json!({
        "schedulingGroup": {"podGroupName": "g"},
        "containers": [{"name": "c"}, {"name": "d", "securityContext": {"windowsOptions": {"hostProcess": true}}}],
    });
    let pod = json!({"metadata": {"name": "p"}, "spec": spec});
    let texts = [
        ("schedulingGroup", "the pod is scheduled by itself"),
        (
            "containers[1].securityContext.windowsOptions",
            "nodes of this cluster run Linux",
        ),
    ];
    let found = of(("", "pods"), &pod, None);
    for (path, text) in texts {
        let begin = format!("spec.{path}: {text}");
        assert!(found.iter().any(|w| w.starts_with(&begin)), "{found:?}");
    }
    let deployment = json!({"spec": {"template": {"spec": spec}}});
    let found = of(("apps", "deployments"), &deployment, None);
    for (path, text) in texts {
        let begin = format!("spec.template.spec.{path}: {text}");
        assert!(found.iter().any(|w| w.starts_with(&begin)), "{found:?}");
    }
}

#[test]
fn an_update_warns_only_of_what_is_new() {
    let old = json!({"metadata": {"name": "a"}, "spec": {"securityContext": {"windowsOptions": {"hostProcess": true}}}});
    let warnings = of(("", "pods"), &old, None);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let mut new = old.clone();
    new["spec"]["schedulingGroup"] = json!({"podGroupName": "g"});
    let warnings = of(("", "pods"), &new, Some(&old));
    assert_eq!(
        warnings,
        [
            "spec.schedulingGroup: the pod is scheduled by itself unless its cluster serves PodGroups (scheduling.k8s.io/v1alpha2), whose gang policy is acted on and nothing else of them"
        ]
    );
}
