//! What others know: whom the server asks for it, how often, and what becomes of their answers.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;

use clock::Random;
use dns::{Config, DnsEvent, Resolvers, run_on};
use futures::StreamExt;
use hickory_proto::op::{Edns, ResponseCode};
use hickory_proto::rr::RecordType;
use kube::runtime::watcher::Event;
use serde_json::json;
use tokio::net::UdpSocket;

use crate::asking::{ask_tcp, ask_udp, free_address, question};
use crate::upstream::{upstream, upstream_over_tls};
use crate::{start, start_from, start_with};

#[tokio::test]
async fn the_rest_of_the_world_is_asked_upstream() {
    // The upstream is a server of another cluster domain.
    let upstream = start(3, Vec::new()).await;
    let address = free_address().await;
    let config = Config {
        cluster_domain: "other.example".into(),
        upstreams: Resolvers::These(vec![upstream]),
        ..Config::new(vec![address])
    };
    let mut running = std::pin::pin!(run_on(
        futures::stream::pending(),
        config,
        Random::seeded(1),
        std::future::pending()
    ));
    let asked = question("many.default.svc.cluster.local.");
    let answers = async {
        (
            ask_udp(address, &asked).await,
            ask_tcp(address, &asked).await,
        )
    };
    tokio::select! {
        biased;
        _ = &mut running => panic!("the server ended"),
        (by_udp, by_tcp) = answers => {
            assert_eq!((by_udp.metadata.id, by_udp.answers.len()), (7, 3));
            assert_eq!(by_tcp.answers.len(), 3);
        }
    }
}

/// The file that names this resolver takes the place of another, as whoever writes it has it.
fn name_resolver(path: &std::path::Path, server: SocketAddr) {
    let new = path.with_extension("new");
    let (ip, port) = (server.ip(), server.port());
    std::fs::write(&new, format!("nameserver [{ip}]:{port}\n")).expect("write");
    std::fs::rename(&new, path).expect("rename");
}

/// Asks until there are so many answers; of a code alone where there are none.
async fn ask_until(server: SocketAddr, name: &str, code: ResponseCode, count: usize) {
    loop {
        let answer = ask_udp(server, &question(name)).await;
        if (answer.metadata.response_code, answer.answers.len()) == (code, count) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn resolvers_are_those_that_the_file_names_now() {
    let (one, _, _one) = upstream(1, 300).await;
    let (two, _, _two) = upstream(2, 300).await;
    let (three, _, _three) = upstream(3, 300).await;
    // A link, as systemd-resolved has it, to a file that is still to come.
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("run/resolv.conf");
    let link = folder.path().join("resolv.conf");
    std::fs::create_dir(folder.path().join("run")).expect("a folder");
    std::os::unix::fs::symlink(&file, &link).expect("a link");
    let server = start_from(1, Resolvers::File(link.clone()), Vec::new()).await;
    let name = "www.example.com.";
    ask_until(server, name, ResponseCode::Refused, 0).await;
    name_resolver(&file, one);
    ask_until(server, name, ResponseCode::NoError, 1).await;
    name_resolver(&file, two);
    ask_until(server, name, ResponseCode::NoError, 2).await;
    // A file in its place, and one that names nobody.
    name_resolver(&link, three);
    ask_until(server, name, ResponseCode::NoError, 3).await;
    std::fs::write(&link, "").expect("write");
    ask_until(server, "other.example.com.", ResponseCode::NoError, 3).await;
    name_resolver(&link, one);
    ask_until(server, name, ResponseCode::NoError, 1).await;
}

#[tokio::test]
async fn resolvers_change_also_while_the_corefile_cannot_be_read() {
    let (one, _, _one) = upstream(1, 300).await;
    let (two, _, _two) = upstream(2, 300).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("resolv.conf");
    name_resolver(&file, one);
    // Only names of one zone go to the node's resolvers; what came then says nothing.
    let good = "corp.example {\nforward . /etc/resolv.conf\n}".to_owned();
    let maps = vec![
        ("coredns", "Corefile", good),
        ("coredns", "Corefile", ". {".to_owned()),
    ];
    let server = start_from(1, Resolvers::File(file.clone()), maps).await;
    ask_until(server, "www.corp.example.", ResponseCode::NoError, 1).await;
    name_resolver(&file, two);
    ask_until(server, "www.corp.example.", ResponseCode::NoError, 2).await;
    ask_until(server, "www.example.com.", ResponseCode::Refused, 0).await;
}

#[tokio::test]
async fn a_lost_datagram_to_the_only_resolver_is_repeated() {
    let (other, _, _serve) = upstream(1, 300).await;
    let address = free_address().await;
    let lossy = UdpSocket::bind(address).await.expect("bind");
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        // The first is lost.
        lossy.recv_from(&mut buffer).await.expect("receive");
        loop {
            let (length, from) = lossy.recv_from(&mut buffer).await.expect("receive");
            let behind = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
                .await
                .expect("bind");
            let asked = &buffer[..length];
            behind.send_to(asked, other).await.expect("send");
            let (length, _) = behind.recv_from(&mut buffer).await.expect("receive");
            lossy.send_to(&buffer[..length], from).await.expect("send");
        }
    });
    let server = start(1, vec![address]).await;
    let answer = ask_udp(server, &question("www.example.com.")).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert_eq!(answer.answers.len(), 1);
}

#[tokio::test]
async fn others_are_asked_once() {
    let (other, count, _serve) = upstream(2, 300).await;
    let server = start(1, vec![other]).await;
    let asked = question("www.Example.com.");
    // At the same time, and then from what is kept; in other letters, too.
    let (one, two) = tokio::join!(ask_udp(server, &asked), ask_udp(server, &asked));
    assert_eq!((one.answers.len(), two.answers.len()), (2, 2));
    let three = ask_tcp(server, &question("WWW.example.com.")).await;
    assert_eq!(three.answers.len(), 2);
    assert_eq!(three.queries[0].name.to_ascii(), "WWW.example.com.");
    assert_eq!(count.load(Ordering::Relaxed), 1);
    // Whoever speaks EDNS has another answer.
    let mut spoken = asked.clone();
    spoken.edns = Some(Edns::new());
    assert!(ask_udp(server, &spoken).await.edns.is_some());
    assert_eq!(count.load(Ordering::Relaxed), 2);
    // A type that nobody here knows is not taken for another.
    let mut https = asked;
    https.queries[0].query_type = RecordType::HTTPS;
    ask_udp(server, &https).await;
    let mut other_type = question("www.example.com.");
    other_type.queries[0].query_type = RecordType::from(97);
    ask_udp(server, &other_type).await;
    assert_eq!(count.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn long_answers_of_others_are_fetched_whole_and_cut_for_udp() {
    let (other, _, _serve) = upstream(200, 300).await;
    let server = start(1, vec![other]).await;
    let asked = question("many.example.com.");
    let cut = ask_udp(server, &asked).await;
    assert!(cut.metadata.truncation);
    assert!(
        (1..200).contains(&cut.answers.len()),
        "{}",
        cut.answers.len()
    );
    assert_eq!(ask_tcp(server, &asked).await.answers.len(), 200);
}

#[tokio::test]
async fn an_old_answer_is_better_than_none() {
    let (other, _, serve) = upstream(1, 300).await;
    // Believed for a second, and behind that as long as nobody answers.
    let file = format!(". {{\nforward . {other}\ncache {{\nsuccess 10 1 1\nserve_stale\n}}\n}}");
    let server = start_with(1, Vec::new(), vec![("coredns", "Corefile", file)]).await;
    let asked = question("www.example.com.");
    assert_eq!(ask_udp(server, &asked).await.answers.len(), 1);
    serve.abort();
    let _ = serve.await;
    loop {
        let answer = ask_udp(server, &asked).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        // An old one is believed for a while only.
        if answer.answers[0].ttl == 30 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let unknown = ask_udp(server, &question("new.example.com.")).await;
    assert_eq!(unknown.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn addresses_of_others_go_round() {
    let (other, _, _serve) = upstream(3, 300).await;
    let server = start(1, vec![other]).await;
    let asked = question("www.example.com.");
    let mut first = Vec::new();
    for _ in 0..3 {
        first.push(ask_udp(server, &asked).await.answers[0].data.to_string());
    }
    first.sort();
    assert_eq!(first, ["192.0.2.0", "192.0.2.1", "192.0.2.2"]);
}

/// Questions one after the other that a few connections have to do for.
const QUESTIONS: usize = 8;

#[tokio::test]
async fn servers_are_asked_over_tls_by_their_names() {
    let (other, authorities, taken) = upstream_over_tls().await;
    let port = other.port();
    let file = format!(
        ". {{
           forward good.example tls://127.0.0.1%dns.example:{port}
           forward bad.example tls://127.0.0.1%other.example:{port}
         }}"
    );
    let address = free_address().await;
    let config = Config {
        authorities: Some(authorities),
        upstreams: Resolvers::These(Vec::new()),
        ..Config::new(vec![address])
    };
    let object = json!({"metadata": {"name": "coredns"}, "data": {"Corefile": file}});
    let map = serde_json::from_value(object).expect("a ConfigMap");
    let event = DnsEvent::Configuration("coredns", Box::new(Event::Apply(map)));
    let events = futures::stream::iter([event]).chain(futures::stream::pending());
    let running = run_on(
        Box::pin(events),
        config,
        Random::seeded(1),
        std::future::pending(),
    );
    tokio::spawn(running);
    // Before it has read its configuration it asks nobody.
    ask_until(address, "a.good.example.", ResponseCode::NoError, 1).await;
    let before = taken.load(Ordering::Relaxed);
    for number in 0..QUESTIONS {
        let name = format!("b{number}.good.example.");
        let answer = ask_udp(address, &question(&name)).await;
        assert_eq!(answer.answers.len(), 1, "{name}");
    }
    // One that was slow to answer may have lost its connection.
    let more = taken.load(Ordering::Relaxed) - before;
    assert!(
        more < QUESTIONS,
        "{more} connections, not those that are there"
    );
    let bad = ask_udp(address, &question("a.bad.example.")).await;
    assert_eq!(bad.metadata.response_code, ResponseCode::ServFail);
}
