//! Namespaces that end: what is deleted in which round, and what the conditions say meanwhile.

use jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::common::time_at;

fn time(seconds: i64) -> Time {
    Time(Timestamp::from_second(seconds).expect("time"))
}

fn served(group: &str, version: &str, plural: &str, namespaced: bool, verbs: &[&str]) -> Served {
    Served {
        resource: kube::core::ApiResource {
            group: group.into(),
            version: version.into(),
            api_version: String::new(),
            kind: String::new(),
            plural: plural.into(),
        },
        namespaced,
        verbs: verbs.iter().map(|v| (*v).to_owned()).collect(),
    }
}

fn left(resource: &str, count: usize, finalizers: &[(&str, usize)]) -> Left {
    Left {
        resource: resource.into(),
        count,
        finalizers: finalizers
            .iter()
            .map(|(f, n)| ((*f).to_owned(), *n))
            .collect(),
    }
}

#[test]
fn conditions_say_what_is_wrong_and_what_is_left() {
    let round = Round {
        content_failures: vec!["b".into(), "a".into()],
        left: vec![
            left("pods.", 2, &[("x/y", 1)]),
            left("jobs.batch", 1, &[("a/b", 1), ("x/y", 1)]),
        ],
        ..Round::of(&DiscoveredResources {
            failed: vec!["g/v1".into()],
            ..DiscoveredResources::default()
        })
    };
    assert!(!round.is_clean());
    assert_eq!(round.count(), 3);
    let made = conditions(&[], &round, &time(5));
    let text: Vec<String> = made
        .iter()
        .map(|c| {
            let part = |p: &Option<String>| p.clone().unwrap_or_default();
            format!(
                "{}={} {}: {}",
                c.type_,
                c.status,
                part(&c.reason),
                part(&c.message)
            )
        })
        .collect();
    assert_eq!(
        text,
        [
            "NamespaceDeletionDiscoveryFailure=True DiscoveryFailed: Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: g/v1: stale GroupVersion discovery: g/v1",
            "NamespaceDeletionGroupVersionParsingFailure=False ParsedGroupVersions: All legacy kube types successfully parsed",
            "NamespaceDeletionContentFailure=True ContentDeletionFailed: Failed to delete all resource types, 2 remaining: a, b",
            "NamespaceContentRemaining=True SomeResourcesRemain: Some resources are remaining: jobs.batch has 1 resource instances, pods. has 2 resource instances",
            "NamespaceFinalizersRemaining=True SomeFinalizersRemain: Some content in the namespace has finalizers remaining: a/b in 1 resource instances, x/y in 2 resource instances",
        ]
    );
}

#[test]
fn conditions_are_written_when_they_change() {
    let bad = Round {
        left: vec![left("pods.", 2, &[])],
        ..Round::default()
    };
    let old = conditions(&[], &bad, &time(5));
    assert_eq!(old.len(), 5);
    assert!(conditions(&old, &bad, &time(6)).is_empty());
    // Another message with the same status keeps its time.
    let fewer = Round {
        left: vec![left("pods.", 1, &[])],
        ..Round::default()
    };
    let changed = conditions(&old, &fewer, &time(7));
    assert_eq!(changed.len(), 1);
    assert_eq!(changed[0].last_transition_time, Some(time(5)));
    // Another status has its own.
    let changed = conditions(&old, &Round::default(), &time(8));
    assert_eq!(changed.len(), 1);
    assert_eq!(changed[0].status, "False");
    assert_eq!(changed[0].last_transition_time, Some(time(8)));
}

#[test]
fn conditions_keep_their_places() {
    let one = |type_: &str, status: &str| NamespaceCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        ..NamespaceCondition::default()
    };
    let mut all = vec![one("a", "True"), one("others", "True"), one("b", "True")];
    merge(
        &mut all,
        vec![one("c", "True"), one("a", "False"), one("b", "False")],
    );
    let got: Vec<(&str, &str)> = all.iter().map(|c| (&*c.type_, &*c.status)).collect();
    let want = [
        ("a", "False"),
        ("others", "True"),
        ("b", "False"),
        ("c", "True"),
    ];
    assert_eq!(got, want);
}

#[test]
fn running_pods_have_their_grace() {
    let pod = |phase: &str, grace: i64| -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "p" },
            "spec": { "terminationGracePeriodSeconds": grace, "containers": [] },
            "status": { "phase": phase },
        }))
        .expect("pod")
    };
    for (pods, passed, linger) in [
        (vec![], 0, false),
        (vec![pod("Running", 30)], 29_999, true),
        (vec![pod("Running", 30)], 30_000, false),
        (vec![pod("Running", 5), pod("Pending", 60)], 59_000, true),
        (vec![pod("Failed", 60), pod("Succeeded", 60)], 1_000, false),
    ] {
        assert_eq!(passed < longest_grace(&pods) * 1_000, linger, "{pods:?}");
    }
    assert_eq!(time_at(1_000), time(1));
}

#[test]
fn what_is_left_is_judged() {
    let pods = served("", "v1", "pods", true, &[]);
    let none: [&[String]; 0] = [];
    assert_eq!(judge(&pods, "n", false, none), (None, None));
    let free: &[String] = &[];
    let (some, wrong) = judge(&pods, "n", true, [free, free]);
    assert_eq!((some, wrong), (Some(left("pods.", 2, &[])), None));
    let (_, wrong) = judge(&pods, "n", false, [free]);
    assert_eq!(
        wrong.as_deref(),
        Some("unexpected items still remain in namespace: n for gvr: /v1, Resource=pods")
    );
    let held: &[String] = &["f".to_owned()];
    let (some, wrong) = judge(&pods, "n", false, [held, free]);
    assert_eq!((some, wrong), (Some(left("pods.", 2, &[("f", 1)])), None));
}

#[test]
fn the_longer_something_stays_the_later_is_the_next_look() {
    let waits = [0, 100, 1_000, 6_000, 16_000, 900_000].map(|age| wait_millis(5, 5 + age));
    assert_eq!(waits, [100, 100, 500, 3_000, 8_000, 8_000]);
    assert_eq!(wait_millis(5_000, 1_000), 100);
}

fn ending(finalizers: &[&str]) -> Arc<Namespace> {
    let namespace = json!({
        "metadata": { "name": "n", "deletionTimestamp": "2026-01-01T00:00:00Z",
            "resourceVersion": "7", "finalizers": finalizers },
        "spec": { "finalizers": ["kubernetes"] }, "status": { "phase": "Terminating" },
    });
    Arc::new(serde_json::from_value(namespace).expect("a namespace"))
}

/// Half a second after the namespace was deleted.
const NOW: i64 = 1_767_225_600_500;
const VERBS: &[&str] = &["delete", "deletecollection", "list"];

fn holding(items: &[(&str, bool, &[&str])]) -> Observed {
    let items = items.iter().map(|(name, deleting, finalizers)| Item {
        name: (*name).to_owned(),
        deleting: *deleting,
        finalizers: finalizers.iter().map(|f| (*f).to_owned()).collect(),
    });
    let items = Items {
        items: items.collect(),
        grace_seconds: 0,
    };
    let mut content = Content::default();
    content.add(&served("", "v1", "configmaps", true, VERBS), Ok(items));
    Observed {
        namespace: ending(&[]),
        content,
        failures: BTreeMap::new(),
        again: false,
    }
}

fn short(actions: &[Action]) -> Vec<String> {
    let one = |action: &Action| match action {
        Action::DeleteCollection { target, .. } => format!("delete {}", target.resource.plural),
        Action::Delete { target, .. } => format!("delete {}", target.name),
        Action::Update {
            subresource,
            object,
            ..
        } => {
            let conditions = object["status"]["conditions"].as_array();
            let wrong = conditions.into_iter().flatten();
            let wrong = wrong.filter(|c| c["status"] == "True");
            let wrong: Vec<_> = wrong.filter_map(|c| c["reason"].as_str()).collect();
            format!("{subresource} {}", wrong.join(" "))
        }
        other => format!("{other:?}"),
    };
    actions.iter().map(one).collect()
}

#[test]
fn content_is_deleted_and_what_stays_is_reported() {
    // New objects: deleted, and looked at again at once, with nothing to say yet.
    let mut observed = holding(&[("a", false, &[]), ("b", false, &[])]);
    let first = plan(&observed, NOW);
    assert_eq!(short(&first.actions), ["delete configmaps"]);
    assert_eq!((first.then.len(), first.wake_after_millis), (0, Some(0)));
    // The same ones again: the deletion did nothing.
    observed.again = true;
    let second = plan(&observed, NOW);
    assert_eq!(
        short(&second.actions),
        [
            "delete configmaps",
            "status ContentDeletionFailed SomeResourcesRemain"
        ]
    );
    assert_eq!(
        (second.then.len(), second.wake_after_millis),
        (0, Some(250))
    );
    // Held by a finalizer: nobody's fault.
    let held = plan(&holding(&[("a", true, &["f"])]), NOW);
    assert_eq!(
        short(&held.actions),
        ["status SomeResourcesRemain SomeFinalizersRemain"]
    );
    // Gone: the finalizer goes, and the namespace need not say so.
    let done = plan(&holding(&[]), NOW);
    assert_eq!(
        (short(&done.actions).len(), short(&done.then)),
        (0, vec!["finalize ".into()])
    );
    let Some(Action::Update { object, .. }) = done.then.first() else {
        panic!("{:?}", done.then);
    };
    assert_eq!(object["spec"]["finalizers"], json!([]));
    assert_eq!(object["metadata"].get("resourceVersion"), None);
    // One that somebody else holds says that it is empty.
    let others = Observed {
        namespace: ending(&["theirs"]),
        ..holding(&[])
    };
    assert_eq!(short(&plan(&others, NOW).actions), ["status "]);
}

#[test]
fn a_failed_deletion_is_said_and_tried_again() {
    let mut observed = holding(&[("a", false, &[])]);
    let key = ("".to_owned(), "configmaps".to_owned());
    observed.failures.insert(key, "no".into());
    let plan = plan(&observed, NOW);
    assert_eq!(
        short(&plan.actions),
        ["delete configmaps", "status ContentDeletionFailed"]
    );
    assert!(plan.then.is_empty());
}

#[test]
fn pods_come_first_and_alone() {
    let found = DiscoveredResources {
        served: vec![
            served("", "v1", "configmaps", true, &["delete", "list"]),
            served("", "v1", "pods", true, &["delete", "list"]),
            served("", "v1", "bindings", true, &["create"]),
            served("", "v1", "nodes", false, &["delete", "list"]),
            served("metrics.k8s.io", "v1", "pods", true, &["delete"]),
        ],
        ..DiscoveredResources::default()
    };
    let (pods, rest) = content(&found);
    assert_eq!(pods.map(|p| p.resource.group.as_str()), Some(""));
    let names: Vec<_> = rest
        .iter()
        .map(|s| (s.resource.group.as_str(), s.resource.plural.as_str()))
        .collect();
    assert_eq!(names, [("", "configmaps"), ("metrics.k8s.io", "pods")]);
}
