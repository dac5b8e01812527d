//! Which rule fits which request, and which policies are refused.

use super::*;

fn policy(rules: &str) -> Policy {
    let text = format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rules}");
    Policy::read(text.as_bytes()).expect("a policy")
}

fn wrong(rules: &str) -> String {
    let text = format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rules}");
    Policy::read(text.as_bytes())
        .expect_err("wrong")
        .to_string()
}

/// A request, as `verb group/resource/sub namespace/name`, or `verb /path`.
fn asked(text: &str) -> Attributes<'_> {
    let mut words = text.split(' ');
    let mut next = || words.next().unwrap_or_default();
    let (verb, what) = (next(), next());
    if !text.contains(" in ") {
        return Attributes {
            verb,
            path: what,
            ..Attributes::default()
        };
    }
    next();
    let mut parts = what.split('/');
    let mut part = || parts.next().unwrap_or_default();
    let (group, resource, subresource) = (part(), part(), part());
    let (namespace, name) = next().split_once('/').unwrap_or_default();
    Attributes {
        verb,
        is_resource: true,
        group,
        resource,
        subresource,
        namespace,
        name,
        ..Attributes::default()
    }
}

#[test]
fn a_rule_fits_when_all_of_it_does() {
    let user = UserInfo::new("ann", &["staff", "system:authenticated"]);
    let get = "get /pods in a/p";
    let cases: &[(&str, &str, bool)] = &[
        ("", get, true),
        ("users: [ann]", get, true),
        ("users: [bob]", get, false),
        ("userGroups: [a, staff]", get, true),
        ("userGroups: [a]", get, false),
        ("users: [ann], userGroups: [a]", get, false),
        ("verbs: [list, get]", get, true),
        ("verbs: [list]", get, false),
        ("namespaces: [a]", get, true),
        ("namespaces: [b]", get, false),
        ("namespaces: ['']", "get /nodes in /n", true),
        ("namespaces: ['']", get, false),
        ("namespaces: [a]", "get /healthz", false),
        ("resources: [{}]", get, true),
        ("resources: [{}]", "get apps/deployments in a/d", false),
        (
            "resources: [{group: '*'}]",
            "get apps/deployments in a/d",
            true,
        ),
        ("resources: [{group: '*'}]", "get /healthz", false),
        ("resources: [{group: apps}]", get, false),
        ("resources: [{resources: [pods]}]", get, true),
        (
            "resources: [{resources: [pods]}]",
            "get /pods/log in a/p",
            false,
        ),
        (
            "resources: [{resources: [pods/log]}]",
            "get /pods/log in a/p",
            true,
        ),
        ("resources: [{resources: [pods/log]}]", get, false),
        (
            "resources: [{resources: [pods/*]}]",
            "get /pods/log in a/p",
            true,
        ),
        ("resources: [{resources: [pods/*]}]", get, true),
        (
            "resources: [{resources: ['*']}]",
            "get /pods/log in a/p",
            true,
        ),
        (
            "resources: [{resources: ['*/log']}]",
            "get /pods/log in a/p",
            true,
        ),
        ("resources: [{resources: ['*/log']}]", get, false),
        (
            "resources: [{resources: [pods], resourceNames: [p]}]",
            get,
            true,
        ),
        (
            "resources: [{resources: [pods], resourceNames: [q]}]",
            get,
            false,
        ),
        (
            "namespaces: [a], resources: [{resources: [pods]}]",
            get,
            true,
        ),
        (
            "namespaces: [b], resources: [{resources: [pods]}]",
            get,
            false,
        ),
        ("nonResourceURLs: [/healthz]", "get /healthz", true),
        ("nonResourceURLs: [/healthz]", "get /healthz/etcd", false),
        ("nonResourceURLs: [/healthz*]", "get /healthz/etcd", true),
        ("nonResourceURLs: ['*']", "get /metrics", true),
        ("nonResourceURLs: ['*']", get, false),
    ];
    for (rule, request, fits) in cases {
        let comma = if rule.is_empty() { "" } else { ", " };
        let policy = policy(&format!("rules: [{{level: Request{comma}{rule}}}]"));
        let got = policy.judge(Some(&user), &asked(request)).level;
        let want = if *fits { Level::Request } else { Level::None };
        assert_eq!(got, want, "{rule}: {request}");
    }
}

#[test]
fn nobody_is_in_no_list_of_users() {
    let by_user =
        policy("rules: [{level: Metadata, users: ['']}, {level: Request, userGroups: [g]}]");
    let request = asked("get /pods in a/p");
    assert_eq!(by_user.judge(None, &request).level, Level::None);
    let by_verb = policy("rules: [{level: Metadata, verbs: [get]}]");
    assert_eq!(by_verb.judge(None, &request).level, Level::Metadata);
}

#[test]
fn the_first_rule_decides_and_adds_to_what_all_say() {
    let policy = policy(
        "omitStages: [RequestReceived]\nomitManagedFields: true\nrules:\n\
         - {level: None, verbs: [watch]}\n\
         - {level: RequestResponse, verbs: [get], omitStages: [Panic], omitManagedFields: false}\n\
         - {level: Metadata, verbs: [get, list]}\n",
    );
    let of = |verb: &str| {
        let request = format!("{verb} /pods in a/p");
        policy.judge(None, &asked(&request))
    };
    let get = of("get");
    assert_eq!(get.level, Level::RequestResponse);
    assert!(!get.omits_managed_fields);
    let omitted = Stage::ALL.map(|s| get.omitted.has(s));
    assert_eq!(omitted, [true, false, false, true]);
    let list = of("list");
    assert_eq!(list.level, Level::Metadata);
    assert!(list.omits_managed_fields && !list.omitted.has(Stage::Panic));
    assert_eq!(of("watch").level, Level::None);
    assert_eq!(of("delete").level, Level::None);
}

#[test]
fn what_is_wrong_is_named() {
    let cases = [
        ("rules: []", "no rules"),
        ("rules: [{}]", "rules[0].level: Required value"),
        (
            "rules: [{level: All}]",
            "rules[0].level: Unsupported value: \"All\"",
        ),
        ("rules: [{level: None, user: [a]}]", "unknown field `user`"),
        (
            "rules: [{level: None}]\nomitStages: [Never]",
            "omitStages[0]: Invalid value: \"Never\": allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic",
        ),
        (
            "rules: [{level: None, nonResourceURLs: [healthz, /a*b]}]",
            "rules[0].nonResourceURLs[0]: Invalid value: \"healthz\": non-resource URL rules must begin with a '/' character, rules[0].nonResourceURLs[1]: Invalid value: \"/a*b\": non-resource URL wildcards '*' must be the final character of the rule",
        ),
        (
            "rules: [{level: None, nonResourceURLs: [/a], namespaces: [b]}]",
            "rules cannot apply to both regular resources and non-resource URLs",
        ),
        (
            "rules: [{level: None, resources: [{group: rbac.authorization.k8s.io/v1}]}]",
            "rules[0].resources.group: Invalid value",
        ),
        (
            "rules: [{level: None, resources: [{resourceNames: [a]}]}]",
            "using resourceNames requires at least one resource",
        ),
    ];
    for (rules, why) in cases {
        let said = wrong(rules);
        assert!(said.contains(why), "{rules}: {said}");
    }
    let version =
        Policy::read(b"apiVersion: audit.k8s.io/v1beta1\nkind: Policy\nrules: [{level: None}]");
    let said = version.expect_err("an old version").to_string();
    assert!(said.contains("audit.k8s.io/v1beta1"), "{said}");
}

#[test]
fn by_default_writes_are_recorded_without_bodies() {
    let policy = Policy::read(DEFAULT.as_bytes()).expect("good");
    let node = UserInfo::new("system:node:n", &["system:nodes"]);
    let user = UserInfo::new("ann", &["system:authenticated"]);
    let cases = [
        (&user, "create /secrets in a/s", Level::Metadata),
        (&user, "deletecollection /pods in a/", Level::Metadata),
        (&user, "get /secrets in a/s", Level::None),
        (&user, "get /pods/exec in a/p", Level::Metadata),
        (&user, "update /pods/status in a/p", Level::Metadata),
        (
            &user,
            "create authorization.k8s.io/subjectaccessreviews in /",
            Level::None,
        ),
        (&user, "get /healthz", Level::None),
        (&node, "patch /pods/status in a/p", Level::None),
        (
            &node,
            "update coordination.k8s.io/leases in kube-node-lease/n",
            Level::None,
        ),
        (&node, "delete /pods in a/p", Level::Metadata),
    ];
    for (who, request, want) in cases {
        let verdict = policy.judge(Some(who), &asked(request));
        assert_eq!(verdict.level, want, "{request}");
        assert!(verdict.omitted.has(Stage::RequestReceived));
    }
}
