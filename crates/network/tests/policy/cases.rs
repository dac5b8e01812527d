//! Single cases: pods that are not known, words that cannot be read, the table as it is.

use host::nft::{Dirty, Ruleset};
use network::policy::world::Tenant;
use serde_json::{Value as Json, json};

use crate::planned::{Call, Node};
use crate::spoken::Change;

fn tenant(uid: &str, sandbox: &str) -> Tenant {
    Tenant {
        name: ("red".into(), "p6".into()),
        uid: uid.into(),
        sandbox: sandbox.into(),
    }
}

fn a_policy(namespace: &str, spec: Json) -> Change {
    let object = json!({ "metadata": { "name": "p", "namespace": namespace }, "spec": spec });
    Change::Policy(Box::new(serde_json::from_value(object).expect("a policy")))
}

fn a_pod(number: u8, namespace: &str, ip: Option<&str>) -> Change {
    let ips: Vec<Json> = ip.iter().map(|ip| json!({ "ip": ip })).collect();
    let object = json!({
        "metadata": { "name": format!("p{number}"), "uid": format!("u{number}"),
                      "namespace": namespace, "labels": { "app": "v1" } },
        "spec": { "nodeName": "n0", "containers": [{ "name": "c" }] },
        "status": { "phase": "Running", "podIPs": ips },
    });
    Change::Pod(Box::new(serde_json::from_value(object).expect("a pod")))
}

fn to(server: &str) -> Call {
    Call {
        client: "192.0.2.9".parse().expect("an address"),
        server: server.parse().expect("an address"),
        protocol: 6,
        port: 80,
    }
}

#[test]
fn a_pod_is_in_the_dark_until_it_is_known_and_when_it_is_gone() {
    let ip = "10.0.0.6";
    let mut node = Node::new("n0");
    let step = |node: &mut Node, what: &dyn Fn(&mut Node)| {
        what(node);
        node.sync();
        node.allows(&to(ip))
    };
    let moved_in = |uid: &'static str, sandbox: &'static str| {
        move |node: &mut Node| {
            let address = ip.parse().expect("an address");
            node.world.moved_in(address, tenant(uid, sandbox));
        }
    };
    assert!(
        step(&mut node, &moved_in("u6", "a")),
        "without policies all are open"
    );
    let other =
        json!({ "podSelector": { "matchLabels": { "app": "v2" } }, "policyTypes": ["Ingress"] });
    let hear = |change: Change| move |node: &mut Node| node.hear(&change);
    assert!(
        step(&mut node, &hear(a_policy("green", other.clone()))),
        "a policy of another namespace is not meant for it"
    );
    assert!(
        !step(&mut node, &hear(a_policy("red", other))),
        "one of its own may be"
    );
    assert!(!node.world.is_known(&tenant("u6", "a")));
    assert!(
        step(&mut node, &hear(a_pod(6, "red", None))),
        "now that its labels are known, it is not meant: before its status has an address"
    );
    assert!(node.world.is_known(&tenant("u6", "a")));
    assert!(
        !step(&mut node, &moved_in("u7", "b")),
        "the next pod of this name and address is another one"
    );
    let removed = |sandbox: &'static str| {
        move |node: &mut Node| {
            node.world
                .moved_out(ip.parse().expect("an address"), sandbox);
        }
    };
    assert!(
        !step(&mut node, &removed("a")),
        "what is said late of the one before"
    );
    assert!(step(&mut node, &removed("b")), "an address of nobody");
}

#[test]
fn a_pod_that_starts_is_one_transaction_where_others_are_allowed_the_same() {
    let mut node = Node::new("n0");
    node.hear(&a_policy("red", json!({ "podSelector": {} })));
    node.hear(&a_pod(6, "red", Some("10.0.0.6")));
    node.sync();
    node.hear(&a_pod(7, "red", Some("10.0.0.7")));
    assert_eq!(node.sync().len(), 1);
    assert!(!node.allows(&to("10.0.0.7")));
}

#[test]
fn what_cannot_be_read_allows_nothing() {
    let mut node = Node::new("n0");
    node.hear(&a_pod(6, "red", Some("10.0.0.6")));
    let open =
        [json!({ "from": [{ "ipBlock": { "cidr": "0.0.0.0/0" } }], "ports": [{ "port": 80 }] })];
    for (what, broken) in [
        ("/from/0/ipBlock/cidr", json!("10.0.0.0/33")),
        ("/from/0/ipBlock/except", json!(["10.0.0.0/33"])),
        ("/from/0", json!({})),
        ("/ports/0/protocol", json!("ICMP")),
        ("/ports/0/endPort", json!(70_000)),
    ] {
        let mut rule = open[0].clone();
        node.hear(&a_policy(
            "red",
            json!({ "podSelector": {}, "ingress": [rule.clone()] }),
        ));
        node.sync();
        assert!(node.allows(&to("10.0.0.6")), "{what} before");
        let (parent, last) = what.rsplit_once('/').expect("a path");
        match rule.pointer_mut(parent).expect("the parent") {
            Json::Array(list) => list[0] = broken,
            object => object[last] = broken,
        }
        node.hear(&a_policy(
            "red",
            json!({ "podSelector": {}, "ingress": [rule] }),
        ));
        node.sync();
        assert!(!node.allows(&to("10.0.0.6")), "{what}");
        assert_eq!(node.world.unreadable(), 1, "{what}");
    }
}

#[test]
fn a_table_without_anybody_in_it_is_empty_and_one_with_is_this() {
    let mut node = Node::new("n0");
    node.hear(&a_pod(6, "red", Some("10.0.0.6")));
    let _: Dirty = {
        node.sync();
        let [v4, v6] = node.tables.families();
        assert_eq!(
            (v4.ruleset(), v6.ruleset()),
            (&Ruleset::default(), &Ruleset::default())
        );
        v4.take_dirty()
    };
    let rule = json!({
        "from": [{ "podSelector": {} }, { "ipBlock": { "cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"] } }],
        "ports": [{ "port": 80, "endPort": 90 }, { "protocol": "UDP" }],
    });
    node.hear(&a_policy(
        "red",
        json!({ "podSelector": {}, "ingress": [rule], "policyTypes": ["Ingress"] }),
    ));
    node.sync();
    let [v4, v6] = node.tables.families();
    assert_eq!(
        v6.ruleset(),
        &Ruleset::default(),
        "nobody has such an address"
    );
    expect_test::expect![[r#"
        set blocks-61a6dbed472524fde51dce3405900856 { ct original saddr, interval
          192.0.2.0
          192.0.2.128 end
        }
        set egress { ct original saddr : verdict
        }
        set ingress { ct reply saddr : verdict
          10.0.0.6 : jump in-fcc919486b067c3a54cd95ec54b75bce
        }
        set isolated { ip saddr
          10.0.0.6
        }
        set itself { ct original saddr . ct reply saddr
          10.0.0.6 . 10.0.0.6
        }
        set pods-b10d2f2b6cf312056f8def1612e6a7e7 { ct original saddr
          10.0.0.6
        }
        chain forward { type filter hook forward priority 0
          ct state invalid,untracked goto lost
          ct original saddr != @isolated ct reply saddr != @isolated accept
          ct original saddr vmap @egress
          ct reply saddr vmap @ingress
          ct original saddr vmap @egress
          ct reply saddr vmap @ingress
        }
        chain in-fcc919486b067c3a54cd95ec54b75bce {
          ct protocol udp ct original saddr @blocks-61a6dbed472524fde51dce3405900856 return
          ct protocol udp ct original saddr @pods-b10d2f2b6cf312056f8def1612e6a7e7 return
          ct protocol tcp ct reply sport 80-90 ct original saddr @blocks-61a6dbed472524fde51dce3405900856 return
          ct protocol tcp ct reply sport 80-90 ct original saddr @pods-b10d2f2b6cf312056f8def1612e6a7e7 return
          counter goto refused
        }
        chain lost {
          ip saddr @isolated counter drop
          ip daddr @isolated counter drop
        }
        chain refused {
          ct original saddr . ct reply saddr @itself return
          counter drop
        }
    "#]].assert_eq(&v4.ruleset().to_string());
    let [isolated, others] = ["10.0.0.6", "10.0.0.7"].map(|server| node.look_ups(&to(server)));
    assert_eq!(others, 2, "nobody pays for others' policies");
    assert!(isolated > 2, "{isolated}");
    node.hear(&Change::NoPolicy(Box::new(
        serde_json::from_value(json!({ "metadata": { "name": "p", "namespace": "red" } }))
            .expect("a policy"),
    )));
    node.sync();
    assert_eq!(node.tables.families()[0].ruleset(), &Ruleset::default());
}
