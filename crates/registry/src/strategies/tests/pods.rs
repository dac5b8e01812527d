//! Pods: what is filled in, refused, warned of, and may be changed.

use super::*;

#[test]
fn pod_defaults() {
    let s = strategy("", "pods");
    let base = with(
        &pod(),
        &[
            (
                "/spec/containers/0/resources",
                json!({"limits": {"cpu": "1"}}),
            ),
            (
                "/spec/containers/0/readinessProbe",
                json!({"httpGet": {"port": 80}}),
            ),
            (
                "/spec/volumes",
                json!([{"name": "v", "secret": {"secretName": "s"}}, {"name": "e"}]),
            ),
        ],
    );
    expect_test::expect![[r#"
        {"metadata":{"name":"p","namespace":"default"},"spec":{"containers":[{"image":"nginx","imagePullPolicy":"Always","name":"a","readinessProbe":{"failureThreshold":3,"httpGet":{"path":"/","port":80,"scheme":"HTTP"},"periodSeconds":10,"successThreshold":1,"timeoutSeconds":1},"resources":{"limits":{"cpu":"1"},"requests":{"cpu":"1"}},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File"}],"dnsPolicy":"ClusterFirst","enableServiceLinks":true,"restartPolicy":"Always","schedulerName":"default-scheduler","securityContext":{},"terminationGracePeriodSeconds":30,"volumes":[{"name":"v","secret":{"defaultMode":420,"secretName":"s"}},{"emptyDir":{},"name":"e"}]},"status":{"phase":"Pending","qosClass":"Burstable"}}"#]]
    .assert_eq(&created(s, &base).to_string());
}

#[test]
fn pod_level_requests() {
    let s = strategy("", "pods");
    let base = with(
        &pod(),
        &[
            (
                "/spec/resources",
                json!({"limits": {"cpu": "2", "memory": "1Gi"}}),
            ),
            (
                "/spec/containers/0/resources",
                json!({"requests": {"cpu": "500m"}}),
            ),
            (
                "/spec/containers/1",
                json!({"name": "b", "image": "x", "resources": {"requests": {"cpu": "250m"}}}),
            ),
            (
                "/spec/initContainers",
                json!([{"name": "i", "image": "x", "resources": {"requests": {"cpu": "1"}}}]),
            ),
        ],
    );
    let made = created(s, &base);
    let wanted = json!({"cpu": "1", "memory": "1Gi"});
    assert_eq!(made.pointer("/spec/resources/requests"), Some(&wanted));
}

#[test]
fn quality_of_service() {
    let s = strategy("", "pods");
    for (resources, class) in [
        (json!({}), "BestEffort"),
        (json!({"requests": {"cpu": "1"}}), "Burstable"),
        (
            json!({"limits": {"cpu": "1", "memory": "1Gi"}}),
            "Guaranteed",
        ),
        (
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}),
            "Guaranteed",
        ),
        (
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}),
            "Burstable",
        ),
        // Of CPU and memory alone.
        (
            json!({"requests": {"ephemeral-storage": "1Gi"}, "limits": {"ephemeral-storage": "1Gi"}}),
            "BestEffort",
        ),
        (
            json!({"limits": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "2Gi"}, "requests": {"ephemeral-storage": "1Gi"}}),
            "Guaranteed",
        ),
    ] {
        let obj = created(
            s,
            &with(
                &pod(),
                &[("/spec/containers/0/resources", resources.clone())],
            ),
        );
        assert_eq!(
            obj.pointer("/status/qosClass"),
            Some(&json!(class)),
            "{resources}"
        );
    }
    // A pod's own resources stand before those of its containers.
    let fixed = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
    let huge = json!({"limits": {"hugepages-2Mi": "2Mi"}});
    for (own, class) in [(&fixed, "Guaranteed"), (&huge, "BestEffort")] {
        let obj = created(s, &with(&pod(), &[("/spec/resources", own.clone())]));
        assert_eq!(
            obj.pointer("/status/qosClass"),
            Some(&json!(class)),
            "{own}"
        );
    }
}

#[test]
fn pod_checks() {
    let c = "/spec/containers/0";
    let at = |f: &str| format!("{c}/{f}");
    let (ports, env, mounts) = (at("ports"), at("env"), at("volumeMounts"));
    let (image, name, resources) = (at("image"), at("name"), at("resources"));
    let probe = at("livenessProbe");
    check(
        "",
        "pods",
        &pod(),
        &[
            (
                &[("/spec/containers", json!([]))],
                &["spec.containers: Required value"],
            ),
            (
                &[(&image, json!(""))],
                &["spec.containers[0].image: Required value"],
            ),
            (
                &[("/spec/containers/1", json!({"name": "a", "image": "x"}))],
                &["spec.containers[1].name: Duplicate value: \"a\""],
            ),
            (
                &[(&name, Value::Null)],
                &["spec.containers[0].name: Required value"],
            ),
            (
                &[(
                    "/spec/securityContext",
                    json!({"sysctls": [{"name": "foo-", "value": "x"}, {"name": "net/ipv4.a_b", "value": "1"}]}),
                )],
                &[
                    "spec.securityContext.sysctls[0].name: Invalid value: \"foo-\": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
                ],
            ),
            (
                &[(
                    &at("envFrom"),
                    json!([{"prefix": "data-1.", "configMapRef": {"name": "m"}}]),
                )],
                &[],
            ),
            (
                &[("/spec/restartPolicy", json!("Sometimes"))],
                &[
                    "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
                ],
            ),
            (
                &[(
                    &ports,
                    json!([{"containerPort": 70000}, {"containerPort": 1, "protocol": "X"}]),
                )],
                &[
                    "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
                    "spec.containers[0].ports[1].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                ],
            ),
            (
                &[(&env, json!([{"value": "x"}]))],
                &["spec.containers[0].env[0].name: Required value"],
            ),
            (
                &[(&mounts, json!([{"name": "v", "mountPath": "/x"}]))],
                &["spec.containers[0].volumeMounts[0].name: Not found: \"v\""],
            ),
            (
                &[(
                    &resources,
                    json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}),
                )],
                &[
                    "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
                ],
            ),
            (
                &[(&probe, json!({}))],
                &["spec.containers[0].livenessProbe: Required value: must specify a handler type"],
            ),
            (
                &[(
                    &probe,
                    json!({"tcpSocket": {"port": 1}, "successThreshold": 2}),
                )],
                &["spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"],
            ),
            (
                &[(
                    "/spec/volumes",
                    json!([{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]),
                )],
                &["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"],
            ),
            (
                &[(
                    "/spec/tolerations",
                    json!([{"operator": "Exists", "tolerationSeconds": 1}]),
                )],
                &[
                    "spec.tolerations[0].effect: Invalid value: \"\": effect must be 'NoExecute' when `tolerationSeconds` is set",
                ],
            ),
            (
                &[(&at("securityContext"), json!({"procMount": "Unmasked"}))],
                &[
                    "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`",
                ],
            ),
            (
                &[
                    (&at("securityContext"), json!({"procMount": "Unmasked"})),
                    ("/spec/hostUsers", json!(false)),
                ],
                &[],
            ),
            (
                &[(
                    "/spec/securityContext",
                    json!({"seLinuxChangePolicy": "MountOption", "supplementalGroupsPolicy": "None"}),
                )],
                &[
                    "spec.securityContext.supplementalGroupsPolicy: Unsupported value: \"None\": supported values: \"Merge\", \"Strict\"",
                    "spec.securityContext.seLinuxChangePolicy: Unsupported value: \"MountOption\": supported values: \"Recursive\"",
                ],
            ),
            (
                &[(
                    "/spec/securityContext",
                    json!({"seLinuxChangePolicy": "Recursive", "supplementalGroupsPolicy": "Strict"}),
                )],
                &[],
            ),
            (
                &[("/spec/activeDeadlineSeconds", json!(0))],
                &[
                    "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
                ],
            ),
        ],
    );
}

#[test]
fn a_pods_labels_narrow_the_selectors_that_name_their_keys() {
    let spread = |keys: Value| {
        json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app": "a"}}, "matchLabelKeys": keys}])
    };
    let of = |keys: Value| {
        let changes = [
            ("/metadata/labels", json!({"app": "a", "rev": "2"})),
            ("/spec/topologySpreadConstraints", spread(keys)),
        ];
        with(&pod(), &changes)
    };
    let made = created(strategy("", "pods"), &of(json!(["rev", "not-there"])));
    assert_eq!(
        made["spec"]["topologySpreadConstraints"][0]["labelSelector"],
        json!({"matchLabels": {"app": "a"},
            "matchExpressions": [{"key": "rev", "operator": "In", "values": ["2"]}]})
    );
    assert!(errors_of(strategy("", "pods"), &of(json!(["rev"]))).is_empty());
    for (key, wanted) in [("a b", 0), ("", 1)] {
        let mut keyed = of(json!(["rev"]));
        keyed["spec"]["topologySpreadConstraints"][0]["topologyKey"] = json!(key);
        let errs = errors_of(strategy("", "pods"), &keyed);
        assert_eq!(errs.len(), wanted, "{errs:?}");
    }
    // Seen when the pod's own value has joined what was asked for; the path is upstream's.
    assert_eq!(
        errors_of(strategy("", "pods"), &of(json!(["app"]))),
        [
            "spec.topologySpreadConstraints[0][0]: Invalid value: \"app\": exists in both matchLabelKeys and labelSelector"
        ]
    );
}

#[test]
fn variables_in_files_are_read_from_volumes_that_the_pod_fills() {
    let source = |volume: &str, inside: &str, key: &str| {
        json!([{"name": "A", "valueFrom": {"fileKeyRef":
            {"volumeName": volume, "path": inside, "key": key}}}])
    };
    let mut good = pod();
    good["spec"]["volumes"] = json!([
        {"name": "e", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "s"}}]);
    let at = "spec.containers[0].env[0].valueFrom.fileKeyRef";
    let env = "/spec/containers/0/env";
    let is = |text: &str| format!("{at}.{text}");
    let [missing, other, path, key] = [
        is("volumeName: Not found: \"x\""),
        is("volumeName: Invalid value: \"s\": referenced volume must be of type emptyDir"),
        is("path: Invalid value: \"a/../b\": must not contain '..'"),
        is("key: Required value"),
    ];
    check(
        "",
        "pods",
        &good,
        &[
            (&[(env, source("e", "a/b", "K"))], &[]),
            (&[(env, source("x", "a", "K"))], &[&missing]),
            (&[(env, source("s", "a", "K"))], &[&other]),
            (&[(env, source("e", "a/../b", "K"))], &[&path]),
            (&[(env, source("e", "a", ""))], &[&key]),
        ],
    );
}

#[test]
fn rules_of_exit_codes_are_checked_and_allow_new_starts() {
    let rule = |action: &str, operator: &str| json!([{"action": action, "exitCodes": {"operator": operator, "values": [42]}}]);
    let [policy, rules] =
        ["restartPolicy", "restartPolicyRules"].map(|f| format!("/spec/containers/0/{f}"));
    let (policy, rules) = (policy.as_str(), rules.as_str());
    let never = (policy, json!("Never"));
    let at = "spec.containers[0].restartPolicyRules";
    let [action, operator, codes, many] = [
        format!(
            "{at}[0].action: Unsupported value: \"Stop\": supported values: \"Restart\", \"RestartAllContainers\""
        ),
        format!(
            "{at}[0].exitCodes.operator: Unsupported value: \"Is\": supported values: \"In\", \"NotIn\""
        ),
        format!("{at}[0].exitCodes: Required value: must be specified"),
        format!("{at}: Too many: 21: must have at most 20 items"),
    ];
    let one = rule("Restart", "In")[0].clone();
    check(
        "",
        "pods",
        &pod(),
        &[
            (
                &[never.clone(), (rules, rule("RestartAllContainers", "In"))],
                &[],
            ),
            (&[never.clone(), (rules, rule("Stop", "In"))], &[&action]),
            (
                &[never.clone(), (rules, rule("Restart", "Is"))],
                &[&operator],
            ),
            (
                &[never.clone(), (rules, json!([{"action": "Restart"}]))],
                &[&codes],
            ),
            (&[never.clone(), (rules, json!(vec![one; 21]))], &[&many]),
            (
                &[(rules, rule("Restart", "In"))],
                &[
                    "spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
                ],
            ),
        ],
    );

    // What ended may run again only where its rules, its policy or its pod's say so.
    let allowed = |changes: &[(&str, Value)], exit_code: i64| {
        let mut all = vec![("/spec/restartPolicy", json!("Never"))];
        all.extend(changes.iter().cloned());
        let state = |state: Value| json!([{"name": "a", "state": state}]);
        let mut old = created(strategy("", "pods"), &with(&pod(), &all));
        old["status"]["containerStatuses"] = state(json!({"terminated": {"exitCode": exit_code}}));
        let mut new = old.clone();
        new["status"]["containerStatuses"] = state(json!({"running": {}}));
        let errs = strategy("", "pods").validate_update(&new, &old, &cx("status"));
        errs.is_empty()
    };
    assert!(!allowed(&[], 42));
    assert!(allowed(&[(policy, json!("OnFailure"))], 42));
    assert!(!allowed(&[(policy, json!("OnFailure"))], 0));
    assert!(allowed(
        &[never.clone(), (rules, rule("Restart", "In"))],
        42
    ));
    assert!(!allowed(
        &[never.clone(), (rules, rule("Restart", "In"))],
        1
    ));
    assert!(allowed(
        &[never.clone(), (rules, rule("Restart", "NotIn"))],
        1
    ));
    // Any container of such a pod may be started again with the others.
    assert!(allowed(
        &[never, (rules, rule("RestartAllContainers", "In"))],
        1
    ));
}

#[test]
fn pod_updates() {
    let forbidden = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\nchanged: spec.nodeName";
    check_update(
        "",
        "pods",
        &pod(),
        &[
            (&[], &[]),
            (&[("/spec/containers/0/image", json!("other"))], &[]),
            (
                &[("/spec/tolerations", json!([{"operator": "Exists"}]))],
                &[],
            ),
            (&[("/spec/nodeName", json!("n"))], &[forbidden]),
            (
                &[("/spec/containers/1", json!({"name": "b", "image": "x"}))],
                &["spec.containers: Forbidden: pod updates may not add or remove containers"],
            ),
        ],
    );
}

/// Where a rule is newer than an object: the rest of that can be changed, and it can be let go.
#[test]
fn what_was_wrong_before_may_stay() {
    let mut kinds = 0;
    for (group, resource, good) in minimal() {
        let spec = match resource {
            "pods" => "/spec",
            "podtemplates" => "/template/spec",
            "cronjobs" => "/spec/jobTemplate/spec/template/spec",
            _ => "/spec/template/spec",
        };
        let s = strategy(group, resource);
        let made = created(s, &good);
        if made.pointer(&format!("{spec}/containers")).is_none() {
            continue;
        }
        kinds += 1;
        let place = format!("{spec}/securityContext");
        let policy = |word: &str| json!({ "seLinuxChangePolicy": word });
        let old = with(&made, &[(&*place, policy("MountOption"))]);
        assert!(!s.validate(&old, &cx("")).is_empty(), "{resource}");
        let said = |new: &Value| s.validate_change(new, &old, &cx(""));
        let labelled = with(&old, &[("/metadata/labels", json!({"a": "b"}))]);
        assert_eq!(said(&labelled), [], "{resource}");
        let worse = with(&old, &[(&*place, policy("Other"))]);
        assert!(!said(&worse).is_empty(), "{resource}");
    }
    assert_eq!(kinds, 9);
}

#[test]
fn pod_grace() {
    let s = strategy("", "pods");
    let base = json!({"spec": {"terminationGracePeriodSeconds": 30, "nodeName": "n"}, "status": {"phase": "Running"}});
    for (changes, asked, grace) in [
        (vec![], None, 30),
        (vec![], Some(5), 5),
        (vec![], Some(-1), 1),
        (vec![("/spec/nodeName", json!(""))], Some(5), 0),
        (vec![("/status/phase", json!("Failed"))], None, 0),
    ] {
        assert_eq!(
            s.effective_grace(&with(&base, &changes), asked),
            Some(grace),
            "{changes:?}"
        );
    }
}

#[test]
fn pod_warnings() {
    let s = strategy("", "pods");
    let obj = with(
        &pod(),
        &[
            (
                "/spec/containers/0/env",
                json!([{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]),
            ),
            (
                "/spec/containers/0/ports",
                json!([{"name": "x", "containerPort": 1, "protocol": "TCP"}]),
            ),
            (
                "/spec/containers/1",
                json!({"name": "b", "image": "x", "ports": [{"name": "x", "containerPort": 1, "protocol": "TCP"}]}),
            ),
        ],
    );
    assert_eq!(
        s.warnings(&obj, None),
        [
            "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
            "spec.containers[1].ports[0]: duplicate port definition with spec.containers[0].ports[0]",
            "spec.containers[1].ports[0]: duplicate port name \"x\" with spec.containers[0].ports[0], services and probes that select ports by name will use spec.containers[0].ports[0]",
        ]
    );
}
