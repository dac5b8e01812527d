//! Families of addresses, in clusters of one and of two of them.

use std::collections::BTreeMap;

use api::cidr::{Families, IpFamily};
use serde_json::{Value, json};

use super::Service;
use crate::check::{at, items};
use crate::strategy::{Claim, Context, Strategy};

const FOUR: Families = Families {
    primary: IpFamily::Four,
    dual: false,
};
const BOTH: Families = Families {
    primary: IpFamily::Four,
    dual: true,
};
const SIX_FIRST: Families = Families {
    primary: IpFamily::Six,
    dual: true,
};

fn context(families: Families) -> Context<'static> {
    Context {
        now: 0,
        namespace: "default",
        user: "jane",
        groups: &[],
        uid: "",
        extra: crate::strategy::no_extra(),
        read: BTreeMap::new(),
        subresource: "",
        version: "v1",
        dry_run: false,
        families,
    }
}

/// A Service with these fields of its specification, or other ones where they are null.
fn service(spec: Value) -> Value {
    let mut whole = json!({
        "selector": {"app": "a"}, "ports": [{"port": 80}], "type": "ClusterIP",
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        whole[key] = value.clone();
    }
    json!({"metadata": {"name": "a", "namespace": "default"}, "spec": whole})
}

/// What becomes of it when it is written: policy, families and addresses, `4` and `6` for those that
/// the server chooses; or what is wrong.
fn written(mut object: Value, old: Option<&Value>, families: Families) -> Result<Value, String> {
    let cx = context(families);
    Service.default(&mut object);
    let errors = match old {
        None => {
            Service.prepare_create(&mut object, &cx);
            Service.validate(&object, &cx)
        }
        Some(old) => {
            Service.prepare_update(&mut object, old, &cx);
            Service.validate_update(&object, old, &cx)
        }
    };
    if !errors.is_empty() {
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        return Err(texts.join("; "));
    }
    for claim in Service.claims(&object, old) {
        if let Claim::ServiceIp {
            ip: None, family, ..
        } = claim
        {
            let ip = match family {
                IpFamily::Four => "10.96.0.9",
                IpFamily::Six => "fd00::9",
            };
            let mut ips = items(at(&object, "spec"), "clusterIPs").to_vec();
            ips.push(ip.into());
            object["spec"]["clusterIPs"] = ips.into();
        }
    }
    Service.after_claims(&mut object);
    Ok(object)
}

fn shown(object: Result<Value, String>) -> String {
    let object = match object {
        Ok(object) => object,
        Err(why) => return why,
    };
    let spec = at(&object, "spec");
    let list = |field: &str| {
        let texts = items(spec, field).iter().filter_map(Value::as_str);
        texts.collect::<Vec<_>>().join(",")
    };
    let first = items(spec, "clusterIPs").first().unwrap_or(&Value::Null);
    assert_eq!(at(spec, "clusterIP"), first, "{object}");
    format!(
        "{} {} {}",
        at(spec, "ipFamilyPolicy").as_str().unwrap_or("-"),
        list("ipFamilies"),
        list("clusterIPs"),
    )
}

fn created(spec: Value, families: Families) -> String {
    shown(written(service(spec), None, families))
}

const BOTH_IPS: &str = "IPv4,IPv6 10.96.0.9,fd00::9";

#[test]
fn a_new_service_gets_the_families_that_it_asks_for() {
    let policy = |word: &str| json!({"ipFamilyPolicy": word});
    assert_eq!(created(json!({}), BOTH), "SingleStack IPv4 10.96.0.9");
    assert_eq!(created(json!({}), SIX_FIRST), "SingleStack IPv6 fd00::9");
    for word in ["PreferDualStack", "RequireDualStack"] {
        assert_eq!(created(policy(word), BOTH), format!("{word} {BOTH_IPS}"));
        let six_first = format!("{word} IPv6,IPv4 fd00::9,10.96.0.9");
        assert_eq!(created(policy(word), SIX_FIRST), six_first);
        let mut asked = policy(word);
        asked["ipFamilies"] = json!(["IPv6"]);
        assert_eq!(created(asked, BOTH), six_first);
    }
    let six = json!({"ipFamilies": ["IPv6"]});
    assert_eq!(created(six, BOTH), "SingleStack IPv6 fd00::9");
    let prefers = policy("PreferDualStack");
    assert_eq!(created(prefers, FOUR), "PreferDualStack IPv4 10.96.0.9");
    let named = json!({"clusterIP": "fd00::5"});
    assert_eq!(created(named, BOTH), "SingleStack IPv6 fd00::5");
    let half = json!({"clusterIP": "fd00::5", "clusterIPs": ["fd00::5"], "ipFamilyPolicy": "PreferDualStack"});
    assert_eq!(
        created(half, BOTH),
        "PreferDualStack IPv6,IPv4 fd00::5,10.96.0.9"
    );
    let headless = json!({"clusterIP": "None", "ipFamilyPolicy": "PreferDualStack"});
    assert_eq!(created(headless, BOTH), "PreferDualStack IPv4,IPv6 None");
    // Without a selector its user knows its endpoints: on any cluster both.
    for cluster in [FOUR, BOTH] {
        let bare = json!({"clusterIP": "None", "selector": null});
        assert_eq!(created(bare, cluster), "RequireDualStack IPv4,IPv6 None");
    }
}

#[test]
fn families_that_the_cluster_has_not_are_refused() {
    for (spec, families, why) in [
        (
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            FOUR,
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
        ),
        (
            json!({"ipFamilies": ["IPv6"]}),
            FOUR,
            "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
        ),
        (
            json!({"ipFamilies": ["IPv4", "IPv6"]}),
            BOTH,
            "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
        ),
        (
            json!({"clusterIP": "None", "ipFamilyPolicy": "RequireDualStack"}),
            FOUR,
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
        ),
    ] {
        assert_eq!(created(spec.clone(), families), why, "{spec}");
    }
    let said = created(json!({"clusterIP": "fd00::5"}), FOUR);
    assert!(
        said.contains("IPv6 is not configured on this cluster"),
        "{said}"
    );
}

#[test]
fn a_service_gets_its_second_family_and_gives_it_back() {
    let one = written(service(json!({})), None, BOTH).expect("one");
    let change = |old: &Value, fields: &[(&str, Value)]| {
        let mut new = old.clone();
        for (field, value) in fields {
            new["spec"][*field] = value.clone();
        }
        written(new, Some(old), BOTH)
    };
    let required = ("ipFamilyPolicy", json!("RequireDualStack"));
    let two = change(&one, std::slice::from_ref(&required)).expect("two");
    assert_eq!(
        shown(Ok(two.clone())),
        format!("RequireDualStack {BOTH_IPS}")
    );
    // With the second address by name.
    let named = [
        required,
        ("ipFamilies", json!(["IPv4", "IPv6"])),
        ("clusterIPs", json!(["10.96.0.9", "fd00::7"])),
    ];
    let named = shown(change(&one, &named));
    assert_eq!(named, "RequireDualStack IPv4,IPv6 10.96.0.9,fd00::7");
    let single = ("ipFamilyPolicy", json!("SingleStack"));
    let back = shown(change(&two, std::slice::from_ref(&single)));
    assert_eq!(back, "SingleStack IPv4 10.96.0.9");
    let back = shown(change(&two, &[single, ("ipFamilies", json!(["IPv4"]))]));
    assert_eq!(back, "SingleStack IPv4 10.96.0.9");
    // The policy has to ask for it.
    let fewer = shown(change(&two, &[("clusterIPs", json!(["10.96.0.9"]))]));
    assert!(
        fewer.contains("must be 'SingleStack' to release the secondary cluster IP"),
        "{fewer}"
    );
    let fewer = shown(change(&two, &[("ipFamilies", json!(["IPv4"]))]));
    assert!(
        fewer.contains("must be 'SingleStack' to release the secondary IP family"),
        "{fewer}"
    );
    // The first one stays.
    let swapped = shown(change(&one, &[("ipFamilies", json!(["IPv6"]))]));
    assert!(swapped.contains("spec.ipFamilies[0]"), "{swapped}");
    // Leaving everything out keeps it.
    let bare = written(service(json!({})), Some(&two), BOTH);
    assert_eq!(shown(bare), format!("RequireDualStack {BOTH_IPS}"));
}

#[test]
fn a_service_that_prefers_two_families_keeps_what_it_has_when_the_cluster_changes() {
    let prefers = || service(json!({"ipFamilyPolicy": "PreferDualStack"}));
    let had_one = written(prefers(), None, FOUR).expect("one");
    let shown_one = "PreferDualStack IPv4 10.96.0.9";
    assert_eq!(
        shown(written(had_one.clone(), Some(&had_one), BOTH)),
        shown_one
    );
    let had_two = written(prefers(), None, BOTH).expect("two");
    let shown_two = format!("PreferDualStack {BOTH_IPS}");
    assert_eq!(
        shown(written(had_two.clone(), Some(&had_two), FOUR)),
        shown_two
    );
}

#[test]
fn a_balancers_class_and_health_port_stay() {
    let balanced = |more: Value| {
        let mut spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ipFamilies": ["IPv4"],
            "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "healthCheckNodePort": 30001, "loadBalancerClass": "a.example/b"});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        service(spec)
    };
    let old = written(balanced(json!({})), None, FOUR).expect("it is valid");
    let change = |more: Value| written(balanced(more), Some(&old), FOUR);
    let class = "may not change once set";
    assert_eq!(
        change(json!({"loadBalancerClass": "a.example/c"})),
        Err(format!(
            "spec.loadBalancerClass: Invalid value: \"a.example/c\": {class}"
        ))
    );
    assert_eq!(
        change(json!({"loadBalancerClass": null})),
        Err(format!(
            "spec.loadBalancerClass: Invalid value: null: {class}"
        ))
    );
    assert_eq!(
        change(json!({"healthCheckNodePort": 30002})),
        Err("spec.healthCheckNodePort: Forbidden: field is immutable".to_owned())
    );
    for fine in [
        json!({}),
        json!({"healthCheckNodePort": null}),
        json!({"type": "ClusterIP", "externalTrafficPolicy": null, "loadBalancerClass": null}),
    ] {
        assert!(change(fine.clone()).is_ok(), "{fine}");
    }
}

#[test]
fn a_balancers_status_has_addresses_with_their_modes() {
    let cx = Context {
        subresource: "status",
        ..context(FOUR)
    };
    let say = |ty: &str, ingress: Value| {
        let mut object = service(json!({"type": ty}));
        object["status"] = json!({"loadBalancer": {"ingress": [ingress]}});
        let found = Service.validate_update(&object, &json!({}), &cx);
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let at = "status.loadBalancer.ingress";
    let good = json!({"ip": "192.0.2.1", "ipMode": "VIP"});
    assert_eq!(say("LoadBalancer", good.clone()), Vec::<String>::new());
    assert_eq!(
        say("ClusterIP", good),
        [format!(
            "{at}: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"
        )]
    );
    assert_eq!(
        say("LoadBalancer", json!({"ip": "192.0.2.1"})),
        [format!(
            "{at}[0].ipMode: Required value: must be specified when `ip` is set"
        )]
    );
    assert_eq!(
        say(
            "LoadBalancer",
            json!({"hostname": "a.example", "ipMode": "VIP"})
        ),
        [format!(
            "{at}[0].ipMode: Forbidden: may not be specified when `ip` is not set"
        )]
    );
    assert_eq!(
        say("LoadBalancer", json!({"ip": "192.0.2.1", "ipMode": "Odd"})),
        [format!(
            "{at}[0].ipMode: Unsupported value: \"Odd\": supported values: \"Proxy\", \"VIP\""
        )]
    );
    let mut object = service(json!({"type": "LoadBalancer"}));
    object["status"] =
        json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "a.example"}]}});
    Service.default(&mut object);
    assert_eq!(
        object["status"]["loadBalancer"]["ingress"],
        json!([{"ip": "192.0.2.1", "ipMode": "VIP"}, {"hostname": "a.example"}])
    );
}
