//! Network policies: what holds in one family holds in the other.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::Context;
use tests::command::{eventually, run};

use crate::pods::{client, pod_ips, server};

/// Whether a pod gets an answer.
fn expect(cx: &Context, from: &str, to: IpAddr, wanted: bool) -> Result<()> {
    let word = if wanted { "reaches" } else { "does not reach" };
    eventually(&format!("{from} {word} {to}"), || {
        let at = std::net::SocketAddr::new(to, 8080);
        let line = format!("timeout 2 wget -q -O - http://{at}/hostname");
        let mut command = cx.command(&format!("exec {from}"));
        command.args(["--", "sh", "-c", &line]);
        ensure!((run(command, "")?.code == 0) == wanted);
        Ok(())
    })
}

fn policy(spec: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "guarded" },
        "spec": spec,
    })
}

pub fn policies_hold_in_both_families(cx: &Context) -> Result<()> {
    cx.apply_json(&server("guarded", "node-1"))?;
    cx.apply_json(&client("friend", "node-2"))?;
    cx.apply_json(&client("stranger", "node-2"))?;
    for name in ["guarded", "friend", "stranger"] {
        cx.wait_ready(name)?;
    }
    let to = pod_ips(cx, "guarded")?;
    let each = |friend: bool, stranger: bool| -> Result<()> {
        for ip in &to {
            expect(cx, "friend", *ip, friend)?;
            expect(cx, "stranger", *ip, stranger)?;
        }
        Ok(())
    };
    each(true, true)?;
    let guarded = json!({ "matchLabels": { "app": "guarded" } });
    let from =
        |peers: Value| policy(json!({ "podSelector": guarded, "ingress": [{ "from": peers }] }));
    let friends = json!([{ "podSelector": { "matchLabels": { "app": "friend" } } }]);
    cx.apply_json(&from(friends))?;
    each(true, false)?;
    // All of IPv6, without the stranger; nobody of IPv4.
    let stranger = pod_ips(cx, "stranger")?;
    let blocks =
        json!([{ "ipBlock": { "cidr": "::/0", "except": [format!("{}/128", stranger[1])] } }]);
    cx.apply_json(&from(blocks))?;
    for (ip, friend) in to.iter().zip([false, true]) {
        expect(cx, "friend", *ip, friend)?;
        expect(cx, "stranger", *ip, false)?;
    }
    cx.kubectl("delete networkpolicy guarded")?;
    each(true, true)?;
    // What goes out.
    let to_whom = json!([{ "ipBlock": { "cidr": format!("{}/128", to[1]) } }]);
    cx.apply_json(&policy(json!({
        "podSelector": { "matchLabels": { "app": "friend" } },
        "policyTypes": ["Egress"], "egress": [{ "to": to_whom }],
    })))?;
    expect(cx, "friend", to[0], false)?;
    expect(cx, "friend", to[1], true)?;
    expect(cx, "stranger", to[0], true)
}
