//! A backup from a running server, restored for another one.

use anyhow::{Context as _, Result, ensure};
use tests::command::{self, Running, words};
use tests::slot::Slot;
use tests::{Cluster, Context};

fn tiphys(cluster: &Cluster, line: &str) -> Result<String> {
    command::run(
        cluster.tiphys(&words(line).iter().map(String::as_str).collect::<Vec<_>>()),
        "",
    )?
    .ok()
}

pub fn a_backup_of_a_running_server_is_restored(cx: &Context) -> Result<()> {
    cx.kubectl("create configmap kept --from-literal=a=b")?;
    cx.kubectl("create secret generic hidden --from-literal=a=b")?;
    let version = |text: String| text.parse::<u64>().context("resourceVersion");
    let seen = version(cx.field("configmap kept", ".metadata.resourceVersion")?)?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("backup");
    let kubeconfig = cx.cluster.kubeconfig();
    let (file, kubeconfig) = (file.display(), kubeconfig.display());
    let output = tiphys(
        cx.cluster,
        &format!("snapshot save {file} --kubeconfig {kubeconfig}"),
    )?;
    ensure!(output.contains("keys at revision"), "{output}");
    let status = tiphys(cx.cluster, &format!("snapshot status {file}"))?;
    ensure!(output.contains(status.trim()), "{output} {status}");
    // A user that may not read everything may not read a backup.
    let refused = cx.refused("get --raw /tiphys/snapshot --as=jane")?;
    ensure!(refused.to_lowercase().contains("forbidden"), "{refused}");

    // Another server, with the keys of the first.
    let (slot, data) = (Slot::take()?, dir.path().join("data"));
    let pki = cx.cluster.data().join("server/pki");
    std::fs::create_dir_all(data.join("pki"))?;
    for name in ["ca.crt", "ca.key", "service-account.key"] {
        std::fs::copy(pki.join(name), data.join("pki").join(name))?;
    }
    let data = data.display();
    let answer = tiphys(
        cx.cluster,
        &format!("snapshot restore {file} --data-dir {data} --output json"),
    )?;
    let answer: serde_json::Value = serde_json::from_str(&answer)?;
    ensure!(answer["backup"]["keys"].as_u64() > Some(0), "{answer}");
    ensure!(answer["revision"].as_u64() > answer["backup"]["revision"].as_u64());
    let mut server = cx.cluster.tiphys(&["server", "--bind-address=127.0.0.1"]);
    server
        .arg("--advertise-address=127.0.0.1")
        .arg(format!("--data-dir={data}"))
        .arg(format!("--port={}", slot.port()))
        .arg(format!("--service-cidr={}", cx.cluster.slot.service_cidr()))
        .arg(format!("--pod-cidr={}", cx.cluster.slot.pod_cidr()));
    let server = Running::start(server)?;
    server.line(|l| l.contains("serving at"))?;
    let field = |what: &str| -> Result<String> {
        let mut kubectl = cx.cluster.kubectl_command();
        kubectl.env("KUBECONFIG", format!("{data}/admin.kubeconfig"));
        kubectl.args(["--namespace", &cx.ns, "get"]);
        kubectl.args(words(what));
        command::run(kubectl, "")?.ok()
    };
    ensure!(field("configmap kept -o jsonpath={.data.a}")? == "b");
    ensure!(field("secret hidden -o jsonpath={.data.a}")? == "Yg==");
    let restored = version(field(
        "configmap kept -o jsonpath={.metadata.resourceVersion}",
    )?)?;
    ensure!(restored > seen, "{restored} is not above {seen}");
    // Into what holds objects nothing is restored.
    drop(server);
    let mut again = cx.cluster.tiphys(&["snapshot", "restore"]);
    again
        .arg(file.to_string())
        .arg(format!("--data-dir={data}"));
    let refused = command::run(again, "")?.failed()?;
    ensure!(refused.contains("not empty"), "{refused}");
    Ok(())
}
