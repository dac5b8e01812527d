//! Names by a Corefile: where the ConfigMap that clusters with CoreDNS have leads questions.

use std::net::{Ipv4Addr, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use host::netns::NetNs;
use serde_json::{Value, json};
use tests::Context;
use tests::command::{eventually, run};
use tests::context::STAY;
use tests::machine::Machine;

const SILENT_PORT: u16 = 54;
/// What the other server says of every name.
const SAID: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const LISTED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);

/// Another DNS server, which knows an address for every name, until its machine ends.
fn answer_all(socket: &UdpSocket) {
    let mut buffer = [0; 1500];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let asked = buffer.get(..length).unwrap_or_default();
        // The question ends behind the first empty label, with type and class.
        let Some(end) = asked.iter().skip(12).position(|b| *b == 0) else {
            continue;
        };
        let Some(question) = asked.get(12..12 + end + 5) else {
            continue;
        };
        let is_a = question.ends_with(&[0, 1, 0, 1]);
        let mut answer = asked.get(..2).unwrap_or_default().to_vec();
        answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
        answer.extend(question);
        if is_a {
            // The name of the question, type A, class IN, a minute.
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            answer.extend(SAID.octets());
        }
        let _ = socket.send_to(&answer, from);
    }
}

fn config_map(corefile: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "coredns", "namespace": "kube-system" },
        "data": { "Corefile": corefile },
    })
}

/// Applies it, and gives what was warned of.
fn apply(cx: &Context, corefile: &str) -> Result<String> {
    let mut command = cx.cluster.kubectl_command();
    command.args(["apply", "-f", "-"]);
    let said = run(command, &config_map(corefile).to_string())?;
    let warned = said.err.clone();
    said.ok()?;
    Ok(warned)
}

pub fn a_corefile_leads_questions(cx: &Context) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let machine = Machine::idle(cx.cluster, "resolver", dir.path())?;
    let netns = NetNs::of_process(machine.init.child_pid()?)?;
    let bind = |port: u16| netns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)));
    let socket = bind(53)??;
    std::thread::spawn(move || answer_all(&socket));
    // Takes questions, and says nothing.
    let _silent = bind(SILENT_PORT)??;
    cx.shell_pod("p", STAY)?;
    let outcome = names_are_led(cx);
    let deleted = cx
        .cluster
        .kubectl("delete configmap coredns --namespace kube-system --ignore-not-found")?;
    outcome?;
    deleted.ok()?;
    resolves(cx, &own_name(), &own_address(cx)?)
}

fn own_name() -> String {
    "kubernetes.default.svc.cluster.local".into()
}

fn own_address(cx: &Context) -> Result<String> {
    let line = "get service kubernetes -n default -o 'jsonpath={.spec.clusterIP}'";
    cx.cluster.kubectl(line)?.ok()
}

fn ask(cx: &Context, name: &str) -> Result<String> {
    cx.sh("p", &format!("nslookup -type=a {name}. 2>&1; true"))
}

fn resolves(cx: &Context, name: &str, address: &str) -> Result<()> {
    eventually(&format!("{name} resolves to {address}"), || {
        let answer = ask(cx, name)?;
        ensure!(has(&answer, address), "{answer}");
        Ok(())
    })
}

/// As a word: the address of the server that is asked, which is said as well, begins with another one.
fn has(answer: &str, address: &str) -> bool {
    answer.split_whitespace().any(|word| word == address)
}

fn names_are_led(cx: &Context) -> Result<()> {
    let other = cx.cluster.slot.spare_node_ip();
    let file = format!(
        ".:53 {{
            errors
            health
            kubernetes cluster.local in-addr.arpa ip6.arpa {{
                pods insecure
                fallthrough in-addr.arpa ip6.arpa
            }}
            hosts {{
                {LISTED} db.corp.example
                fallthrough
            }}
            rewrite ttl a.example 30
            rewrite name suffix .corp.internal .default.svc.cluster.local answer auto
            template IN A made.example {{
                match ^of-(?P<last>[0-9]+)[.]made[.]example[.]$
                answer \"{{{{ .Name }}}} 60 IN A 198.51.100.{{{{ .Group.last }}}}\"
                fallthrough
            }}
            forward . {other}:{SILENT_PORT}
            cache 30
        }}
        corp.test:53 {{
            forward . {other}
        }}
        silent.test:53 {{
            forward . {other}:{SILENT_PORT} {other}
        }}"
    );
    let warned = apply(cx, &file)?;
    ensure!(
        warned.contains("Warning") && warned.contains("rewrite"),
        "what is not done is said: {warned:?}"
    );
    let (said, listed) = (SAID.to_string(), LISTED.to_string());
    resolves(cx, "db.corp.example", &listed)?;
    resolves(cx, "www.corp.test", &said)?;
    // One of two servers says nothing: the other one is asked.
    resolves(cx, "www.silent.test", &said)?;
    resolves(cx, &own_name(), &own_address(cx)?)?;
    resolves(cx, "kubernetes.corp.internal", &own_address(cx)?)?;
    resolves(cx, "of-77.made.example", "198.51.100.77")?;

    // Who never answers keeps nobody waiting for other names. Where the machine does, there are more who wait.
    let mut turn = 0;
    eventually("others are answered meanwhile", || {
        turn += 1;
        let line = format!(
            "(for i in $(seq 40); do nslookup -type=a n$i.nowhere.example. & done; wait; touch /tmp/asked-{turn}) \
             > /tmp/nowhere-{turn} 2>&1 < /dev/null & sleep 0"
        );
        cx.sh("p", &line)?;
        let answer = ask(cx, &own_name())?;
        ensure!(has(&answer, &own_address(cx)?), "{answer}");
        let answer = ask(cx, "www.corp.test")?;
        ensure!(has(&answer, &said), "{answer}");
        Ok(())
    })?;
    eventually("the others have been told that nobody answers", || {
        cx.sh("p", &format!("cat /tmp/asked-{turn}"))
    })?;
    let text = cx.sh("p", &format!("cat /tmp/nowhere-{turn}"))?;
    ensure!(!text.contains(&said), "{text}");

    // A file that cannot be read is said to be none, and changes nothing.
    let warned = apply(cx, ". {")?;
    ensure!(warned.contains("goes on as before"), "{warned:?}");
    resolves(cx, "db.corp.example", &listed)?;
    // Without the list the name is asked of others.
    let file = format!(".:53 {{\nkubernetes cluster.local\nforward . {other}\n}}");
    let warned = apply(cx, &file)?;
    ensure!(!warned.contains("Warning"), "{warned:?}");
    resolves(cx, "db.corp.example", &said).context("the list is gone")
}
