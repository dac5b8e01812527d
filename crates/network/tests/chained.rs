//! The plugin behind plugins of others: a pod waits at the door, and who has its address is on record.

use std::net::IpAddr;
use std::path::Path;

use network::cni::{CniError, call, chained, tenants};
use network::policy::door::{Door, Notice};
use serde_json::{Value, json};

/// One call for a container, as a runtime makes it.
fn asked(command: &str, container: &str, conf: &Value) -> Result<Option<Value>, CniError> {
    let variable = |name: &str| match name {
        "CNI_COMMAND" => Some(command.to_owned()),
        "CNI_CONTAINERID" => Some(container.to_owned()),
        "CNI_IFNAME" => Some("eth0".to_owned()),
        "CNI_NETNS" => Some("/var/run/netns/none".to_owned()),
        "CNI_ARGS" => Some(format!(
            "K8S_POD_NAMESPACE=default;K8S_POD_NAME={container};K8S_POD_UID=u-{container}"
        )),
        _ => None,
    };
    call(variable, &conf.to_string())
}

fn conf(folder: &Path, door: &Path) -> Value {
    json!({
        "cniVersion": "0.4.0", "name": "theirs", "type": "ours", "chained": true,
        "stateDir": folder, "policySocket": door,
        "prevResult": {
            "cniVersion": "0.4.0",
            "interfaces": [{ "name": "veth1" }, { "name": "eth0", "sandbox": "/var/run/netns/none" }],
            "ips": [{ "version": "4", "address": "10.1.2.3/24", "interface": 1 }],
        },
    })
}

/// Who has addresses, as an agent that starts hears it.
fn known(folder: &Path) -> Vec<(IpAddr, String)> {
    let all = tenants(folder, chained::NETWORK).expect("read");
    let named = all.into_iter().map(|(ip, tenant)| (ip, tenant.name.1));
    named.collect()
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the plugin blocks its process, which is a thread here; it is waited for"
)]
fn a_pod_of_others_starts_when_its_rules_stand() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("door");
    let conf = conf(folder.path(), &socket);
    let ip: IpAddr = "10.1.2.3".parse().expect("an address");
    // The door is answered beside the calls.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let opened = runtime.block_on(async { Door::open(&socket) });
    let (_door, mut questions) = opened.expect("a door");
    for container in ["one", "two"] {
        std::thread::scope(|scope| {
            let added = scope.spawn(|| asked("ADD", container, &conf));
            let (notice, done) = runtime.block_on(questions.recv()).expect("a question");
            let Notice::Added {
                name, addresses, ..
            } = notice
            else {
                panic!("{notice:?}");
            };
            assert_eq!((name.as_str(), addresses), (container, vec![ip]));
            assert!(!added.is_finished(), "it waits");
            done.send(()).expect("somebody waits");
            let result = added.join().expect("it ends").expect("added");
            // What the others said is said on.
            assert_eq!(result.as_ref(), Some(&conf["prevResult"]));
        });
        // Whoever had the address before has it no more.
        assert_eq!(known(folder.path()), [(ip, container.to_owned())]);
    }
}

#[test]
fn without_the_agent_no_pod_of_others_starts() {
    let folder = tempfile::tempdir().expect("a folder");
    let conf = conf(folder.path(), &folder.path().join("door"));
    let refused = asked("ADD", "one", &conf).expect_err("nobody is there");
    assert_eq!(refused.code, 103);
    assert_eq!(known(folder.path()), []);
    let mut alone = conf.clone();
    alone["prevResult"] = json!(null);
    let refused = asked("ADD", "one", &alone).expect_err("nobody is in front of it");
    assert_eq!(refused.code, 7);
}

#[test]
fn what_is_gone_is_forgotten() {
    let folder = tempfile::tempdir().expect("a folder");
    // Without a door nobody is asked.
    let mut conf = conf(folder.path(), Path::new(""));
    asked("ADD", "one", &conf).expect("added");
    conf["prevResult"]["ips"][0]["address"] = json!("10.1.2.4/24");
    asked("ADD", "two", &conf).expect("added");
    assert_eq!(known(folder.path()).len(), 2);
    assert_eq!(asked("CHECK", "one", &conf), Ok(None));
    assert_eq!(asked("STATUS", "", &conf), Ok(None));
    for _ in 0..2 {
        assert_eq!(asked("DEL", "one", &conf), Ok(None));
        assert_eq!(known(folder.path()).len(), 1);
    }
    conf["cni.dev/valid-attachments"] = json!([{ "containerID": "two", "ifname": "eth0" }]);
    assert_eq!(asked("GC", "", &conf), Ok(None));
    assert_eq!(known(folder.path()).len(), 1);
    conf["cni.dev/valid-attachments"] = json!([]);
    assert_eq!(asked("GC", "", &conf), Ok(None));
    assert_eq!(known(folder.path()), []);
    chained::forget(folder.path()).expect("forgotten");
    chained::forget(folder.path()).expect("also what is not there");
}
