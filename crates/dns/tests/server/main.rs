//! The server on loopback sockets, asked in both transports.

#[path = "../asking/mod.rs"]
mod asking;
mod resolvers;
mod upstream;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;

use clock::Random;
use dns::{Config, DnsEvent, Resolvers, run_on};
use futures::StreamExt;
use hickory_proto::op::{Edns, Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, RecordType};
use kube::runtime::watcher::Event;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use asking::{ask_tcp, ask_udp, free_address, question};
use upstream::upstream;

/// A server that knows a headless Service `many` with this many endpoints.
async fn start(endpoints: u8, upstreams: Vec<SocketAddr>) -> SocketAddr {
    start_with(endpoints, upstreams, Vec::new()).await
}

/// The same with ConfigMaps: their names, keys and texts.
async fn start_with(
    endpoints: u8,
    upstreams: Vec<SocketAddr>,
    maps: Vec<(&'static str, &str, String)>,
) -> SocketAddr {
    start_from(endpoints, Resolvers::These(upstreams), maps).await
}

/// The same with resolvers from anywhere.
async fn start_from(
    endpoints: u8,
    upstreams: Resolvers,
    maps: Vec<(&'static str, &str, String)>,
) -> SocketAddr {
    let address = free_address().await;
    let endpoints: Vec<_> = (0..endpoints)
        .map(|last| json!({"addresses": [format!("10.244.0.{last}")]}))
        .collect();
    let service = serde_json::from_value(json!({
        "metadata": {"name": "many", "namespace": "default"}, "spec": {"clusterIP": "None"},
    }));
    let slice = serde_json::from_value(json!({
        "metadata": {"name": "many-1", "namespace": "default",
                     "labels": {"kubernetes.io/service-name": "many"}},
        "addressType": "IPv4", "endpoints": endpoints,
    }));
    let configured = maps.into_iter().map(|(name, key, text)| {
        let object = json!({"metadata": {"name": name}, "data": {key: text}});
        let map = serde_json::from_value(object).expect("a ConfigMap");
        DnsEvent::Configuration(name, Box::new(Event::Apply(map)))
    });
    let mut events: Vec<DnsEvent> = configured.collect();
    events.extend([
        DnsEvent::Service(Event::Init),
        DnsEvent::Service(Event::InitApply(service.expect("a Service"))),
        DnsEvent::Service(Event::InitDone),
        DnsEvent::Slice(Event::Init),
        DnsEvent::Slice(Event::InitApply(slice.expect("an EndpointSlice"))),
        DnsEvent::Slice(Event::InitDone),
        DnsEvent::Namespace(Event::Init),
        DnsEvent::Namespace(Event::InitDone),
    ]);
    let config = Config {
        upstreams,
        ..Config::new(vec![address])
    };
    let (taken, all_taken) = tokio::sync::oneshot::channel::<()>();
    let mut taken = Some(taken);
    let count = events.len();
    let events = futures::stream::iter(events)
        .enumerate()
        .map(move |(index, event)| {
            if index + 1 == count {
                drop(taken.take());
            }
            event
        });
    tokio::spawn(async move {
        run_on(
            Box::pin(events),
            config,
            Random::seeded(1),
            std::future::pending(),
        )
        .await
        .expect("run")
    });
    let _ = all_taken.await;
    address
}

#[tokio::test]
async fn answers_are_cut_for_udp_and_whole_by_tcp() {
    let server = start(100, Vec::new()).await;
    let asked = question("Many.Default.svc.cluster.local.");
    let by_udp = ask_udp(server, &asked).await;
    assert_eq!(by_udp.metadata.id, 7);
    assert!(by_udp.metadata.truncation && by_udp.metadata.authoritative);
    assert!((1..100).contains(&by_udp.answers.len()));
    let by_tcp = ask_tcp(server, &asked).await;
    assert_eq!(by_tcp.answers.len(), 100);
    assert!(!by_tcp.metadata.truncation);
    assert_eq!(
        by_tcp.answers[0].name.to_ascii(),
        "Many.Default.svc.cluster.local."
    );
}

#[tokio::test]
async fn silent_connections_keep_nobody_out_and_no_question_is_endless() {
    let server = start(1, Vec::new()).await;
    let mut silent = Vec::new();
    // More than there are places.
    for _ in 0..300 {
        silent.push(TcpStream::connect(server).await.expect("connect"));
    }
    let asked = question("many.default.svc.cluster.local.");
    assert_eq!(ask_tcp(server, &asked).await.answers.len(), 1);
    let mut long = TcpStream::connect(server).await.expect("connect");
    long.write_u16(5_000).await.expect("write");
    // The server may have left before all was sent.
    let _ = long.write_all(&[0; 5_000]).await;
    assert!(long.read_u16().await.is_err(), "it ends without an answer");
}

#[tokio::test]
async fn the_first_address_changes() {
    let server = start(2, Vec::new()).await;
    let asked = question("many.default.svc.cluster.local.");
    let one = ask_udp(server, &asked).await;
    let two = ask_udp(server, &asked).await;
    assert_ne!(one.answers[0].data, two.answers[0].data);
}

#[tokio::test]
async fn without_upstream_or_index_the_answer_comes_at_once() {
    let server = start(1, Vec::new()).await;
    let code = |message: Message| message.metadata.response_code;
    assert_eq!(
        code(ask_udp(server, &question("example.com.")).await),
        ResponseCode::Refused
    );
    let nothing = question("nothing.default.svc.cluster.local.");
    assert_eq!(
        code(ask_udp(server, &nothing).await),
        ResponseCode::NXDomain
    );
    let mut update = question("example.com.");
    update.metadata.op_code = OpCode::Update;
    update.queries.clear();
    let update = ask_udp(server, &update).await;
    assert_ne!(code(update), ResponseCode::NoError);
    // A closed port upstream is noticed, not waited for.
    let closed = free_address().await;
    let server = start(1, vec![closed]).await;
    assert_eq!(
        code(ask_udp(server, &question("example.com.")).await),
        ResponseCode::ServFail
    );
}

#[tokio::test]
async fn config_maps_lead_questions() {
    let (all, to_all, _a) = upstream(1, 300).await;
    let (corp, to_corp, _b) = upstream(3, 300).await;
    let main = format!(
        ".:53 {{\nerrors\nkubernetes cluster.local {{\npods insecure\n}}\nforward . {all}\n}}"
    );
    let stub = format!(
        "corp.example {{\nhosts {{\n192.0.2.99 db.corp.example\nfallthrough\n}}\nforward . {corp}\n}}"
    );
    let maps = vec![
        ("coredns", "Corefile", main),
        ("coredns-custom", "corp.server", stub),
    ];
    let server = start_with(1, Vec::new(), maps).await;
    for (name, expected) in [
        ("www.example.com.", 1),
        ("www.corp.example.", 3),
        ("many.default.svc.cluster.local.", 1),
    ] {
        let answer = ask_udp(server, &question(name)).await;
        assert_eq!(answer.answers.len(), expected, "{name}");
    }
    let listed = ask_udp(server, &question("DB.corp.example.")).await;
    let expected = RData::A(A(Ipv4Addr::new(192, 0, 2, 99)));
    assert_eq!(listed.answers[0].data, expected);
    let asked = (
        to_all.load(Ordering::Relaxed),
        to_corp.load(Ordering::Relaxed),
    );
    assert_eq!(asked, (1, 1), "the list and the index need nobody");
}

#[tokio::test]
async fn versions_of_edns_to_come_are_refused() {
    let server = start(1, Vec::new()).await;
    let mut asked = question("many.default.svc.cluster.local.");
    let mut edns = Edns::new();
    edns.set_version(1);
    asked.edns = Some(edns);
    let answer = ask_udp(server, &asked).await;
    // The number has another meaning, too.
    assert_eq!(u16::from(answer.metadata.response_code), 16);
}

#[tokio::test]
async fn names_are_asked_for_in_place_of_others() {
    let (other, count, _serve) = upstream(2, 300).await;
    let file = format!(
        ". {{
           kubernetes cluster.local
           rewrite name suffix .shop.example .default.svc.cluster.local answer auto
           rewrite name Www.old.example www.new.example
           template IN A ip.example {{
             match ^a-(?P<last>[0-9]+)[.]ip[.]example[.]$
             answer \"{{{{ .Name }}}} 60 IN A 192.0.2.{{{{ .Group.last }}}}\"
           }}
           forward . {other}
           cache 30
         }}"
    );
    let server = start_with(1, Vec::new(), vec![("coredns", "Corefile", file)]).await;
    // Of the cluster, of others, of others from what is kept; each under the name that was asked for.
    for name in [
        "Many.Shop.example.",
        "www.Old.example.",
        "www.Old.example.",
        "a-7.ip.example.",
    ] {
        let answer = ask_udp(server, &question(name)).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert_eq!(answer.queries[0].name.to_ascii(), name);
        assert!(!answer.answers.is_empty(), "{name}");
        for record in &answer.answers {
            assert_eq!(record.name.to_ascii(), name);
        }
    }
    let made = ask_udp(server, &question("a-7.ip.example.")).await;
    assert_eq!(
        made.answers[0].data,
        RData::A(A(Ipv4Addr::new(192, 0, 2, 7)))
    );
    for (name, code) in [
        ("none.shop.example.", ResponseCode::NXDomain),
        ("b.ip.example.", ResponseCode::ServFail),
        ("a-999.ip.example.", ResponseCode::ServFail),
    ] {
        let answer = ask_udp(server, &question(name)).await;
        assert_eq!(answer.metadata.response_code, code, "{name}");
    }
    assert_eq!(
        count.load(Ordering::Relaxed),
        1,
        "the rest is answered here"
    );
}

#[tokio::test]
async fn aliases_of_templates_lead_into_the_cluster_and_out_of_it() {
    let (other, count, _serve) = upstream(1, 300).await;
    let alias = |from: &str, to: &str| {
        format!(
            "template IN A {from} {{
               answer \"{{{{ .Name }}}} 60 IN CNAME {to}\"
             }}"
        )
    };
    let file = format!(
        ". {{
           kubernetes cluster.local
           {}
           {}
           {}
           {}
           {}
           forward . {other}
         }}",
        alias("inside.example", "many.default.svc.cluster.local."),
        alias("none.example", "none.default.svc.cluster.local."),
        alias("twice.example", "inside.example."),
        alias("round.example", "round.example."),
        alias("outside.example", "www.example.com."),
    );
    let server = start_with(2, Vec::new(), vec![("coredns", "Corefile", file)]).await;
    for (name, aliases, addresses) in [
        ("inside.example.", 1, 2),
        ("twice.example.", 2, 2),
        ("none.example.", 1, 0),
        ("round.example.", 1, 0),
    ] {
        let answer = ask_udp(server, &question(name)).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        let of = |wanted: RecordType| {
            let all = answer.answers.iter();
            all.filter(|r| r.record_type() == wanted).count()
        };
        let found = (of(RecordType::CNAME), of(RecordType::A));
        assert_eq!(found, (aliases, addresses), "{name}: {answer}");
    }
    assert_eq!(count.load(Ordering::Relaxed), 0, "nobody else is asked");
    let answer = ask_udp(server, &question("outside.example.")).await;
    assert_eq!(answer.answers.len(), 2, "{answer}");
    assert_eq!(count.load(Ordering::Relaxed), 1);
}
