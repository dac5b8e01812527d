//! Search paths of pods: one question where there were four, and the same in the end.

mod asking;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use clock::Random;
use dns::{Config, DnsEvent, Resolvers, run_on};
use futures::StreamExt;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use hickory_proto::op::{Edns, Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;

use asking::{ask_tcp, ask_udp, free_address, question};

/// The address that others give each name which they know.
const OUTSIDE: &str = "192.0.2.1";

/// An event, and who waits until it is taken.
type Sent = (DnsEvent, oneshot::Sender<()>);

/// A server that knows the namespaces `default` and `dev`.
struct Cluster {
    server: SocketAddr,
    events: UnboundedSender<Sent>,
}

impl Cluster {
    async fn start(upstreams: Resolvers, corefile: Option<String>) -> Self {
        let server = free_address().await;
        let config = Config {
            upstreams,
            ..Config::new(vec![server])
        };
        let (events, taken) = unbounded::<Sent>();
        // Whoever waits goes on when the server waits again: all of this runs in one thread.
        let taken = taken.map(|(event, _done)| event);
        tokio::spawn(async move {
            run_on(
                Box::pin(taken),
                config,
                Random::seeded(1),
                std::future::pending(),
            )
            .await
            .expect("run")
        });
        let cluster = Self { server, events };
        if let Some(text) = corefile {
            let object = json!({"metadata": {"name": "coredns"}, "data": {"Corefile": text}});
            let map = serde_json::from_value(object).expect("a ConfigMap");
            let event = DnsEvent::Configuration("coredns", Box::new(Event::Apply(map)));
            cluster.send(event).await;
        }
        cluster.send(DnsEvent::Service(Event::Init)).await;
        cluster.send(DnsEvent::Service(Event::InitDone)).await;
        cluster.send(DnsEvent::Slice(Event::Init)).await;
        cluster.send(DnsEvent::Slice(Event::InitDone)).await;
        cluster.send(DnsEvent::Namespace(Event::Init)).await;
        for name in ["default", "dev"] {
            let object = json!({"metadata": {"name": name}});
            let namespace = serde_json::from_value(object).expect("a Namespace");
            let event = DnsEvent::Namespace(Event::InitApply(namespace));
            cluster.send(event).await;
        }
        cluster.send(DnsEvent::Namespace(Event::InitDone)).await;
        cluster
    }

    /// It asks one server about the world outside.
    async fn of(outside: SocketAddr) -> Self {
        Self::start(Resolvers::These(vec![outside]), None).await
    }

    async fn send(&self, event: DnsEvent) {
        let (done, taken) = oneshot::channel();
        let sent = self.events.unbounded_send((event, done));
        assert!(sent.is_ok(), "the server has ended");
        let _ = taken.await;
    }

    async fn ask(&self, name: &str) -> Message {
        ask_udp(self.server, &question(name)).await
    }

    /// What a client finds that goes down the search path of a pod in `default`.
    async fn walk(&self, rest: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        let mut code = ResponseCode::NXDomain;
        for domain in [
            "default.svc.cluster.local.",
            "svc.cluster.local.",
            "cluster.local.",
            "",
        ] {
            let mut asked = question(&format!("{rest}.{domain}"));
            asked.queries[0].query_type = kind;
            let answer = ask_udp(self.server, &asked).await;
            code = answer.metadata.response_code;
            let found = addresses(&answer);
            if !found.is_empty() {
                return (code, found);
            }
        }
        (code, Vec::new())
    }
}

fn service(namespace: &str, name: &str, spec: Value) -> Value {
    json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec})
}

fn addresses(answer: &Message) -> Vec<String> {
    let kinds = [RecordType::A, RecordType::AAAA];
    let all = answer.answers.iter();
    let all = all.filter(|record| kinds.contains(&record.record_type()));
    all.map(|record| record.data.to_string()).collect()
}

/// The names and types that others were asked about.
type Asked = Arc<Mutex<Vec<String>>>;

fn sorted(asked: &Asked) -> Vec<String> {
    let mut all = asked.lock().expect("what was asked").clone();
    all.sort();
    all
}

/// A server of others, which knows one address of each of these names.
async fn others(known: &'static [&'static str]) -> (SocketAddr, Asked) {
    let address = free_address().await;
    let socket = UdpSocket::bind(address).await.expect("bind");
    let asked = Asked::default();
    let notes = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.expect("receive");
            let request = Message::from_vec(&buffer[..length]).expect("a question");
            let query = request.queries[0].clone();
            let name = query.name.to_lowercase().to_ascii();
            let note = format!("{name} {}", query.query_type);
            notes.lock().expect("what was asked").push(note);
            let mut response = Message::response(request.metadata.id, OpCode::Query);
            response.queries = request.queries.clone();
            response.edns = request.edns.clone();
            let below = format!(".{name}");
            if known.iter().any(|other| *other == name) {
                if query.query_type == RecordType::A {
                    let data = RData::A(A(OUTSIDE.parse().expect("an address")));
                    let record = Record::from_rdata(query.name.clone(), 300, data);
                    response.answers.push(record);
                }
            } else if !known.iter().any(|other| other.ends_with(&below)) {
                response.metadata.response_code = ResponseCode::NXDomain;
            }
            let bytes = response.to_vec().expect("encode");
            socket.send_to(&bytes, from).await.expect("send");
        }
    });
    (address, asked)
}

/// The alias of a name of the path, and the address outside.
fn check_found(answer: &Message, name: &str, target: &str) {
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    let [alias, address] = answer.answers.as_slice() else {
        panic!("{answer}");
    };
    assert_eq!(alias.record_type(), RecordType::CNAME);
    assert_eq!((alias.name.to_ascii().as_str(), alias.ttl), (name, 5));
    assert_eq!(address.name.to_ascii(), target);
    assert_eq!(address.data.to_string(), OUTSIDE);
}

#[tokio::test]
async fn one_question_answers_what_took_four() {
    let (address, asked) = others(&["www.example.com."]).await;
    let cluster = Cluster::of(address).await;
    let name = "WWW.example.com.default.svc.cluster.local.";
    let target = "www.example.com.";
    check_found(&cluster.ask(name).await, name, target);
    assert_eq!(sorted(&asked), ["default. SOA", "www.example.com. A"]);
    // By TCP, and with EDNS: from what is kept.
    let mut with_edns = question(name);
    with_edns.edns = Some(Edns::new());
    for asked in [question(name), with_edns] {
        for answer in [
            ask_udp(cluster.server, &asked).await,
            ask_tcp(cluster.server, &asked).await,
        ] {
            check_found(&answer, name, target);
            assert_eq!(answer.edns.is_some(), asked.edns.is_some());
        }
    }
    // The name exists and has no address of the other family.
    let mut other_family = question(name);
    other_family.queries[0].query_type = RecordType::AAAA;
    let answer = ask_udp(cluster.server, &other_family).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert_eq!((answer.answers.len(), addresses(&answer).len()), (1, 0));
    assert_eq!(sorted(&asked).len(), 3, "the namespace is known");
    // Other types are answered as ever.
    let mut text = question(name);
    text.queries[0].query_type = RecordType::TXT;
    let answer = ask_udp(cluster.server, &text).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(sorted(&asked).len(), 3);
    // They are counted as all that are passed on.
    let line = format!("coredns_forward_requests_total{{to=\"{address}\"}} 3");
    let page = metrics::prometheus(&metrics::lines());
    assert!(page.contains(&line), "{line} in {page}");
}

#[tokio::test]
async fn what_comes_into_the_cluster_wins_at_once() {
    let (address, _) = others(&["api.dev."]).await;
    let cluster = Cluster::of(address).await;
    let name = "api.dev.default.svc.cluster.local.";
    // As kept answers would be given: twice each.
    for _ in 0..2 {
        check_found(&cluster.ask(name).await, name, "api.dev.");
    }
    let far = service("dev", "api", json!({"clusterIP": "10.96.0.7"}));
    let far = serde_json::from_value(far).expect("a Service");
    cluster.send(DnsEvent::Service(Event::Apply(far))).await;
    for _ in 0..2 {
        let answer = cluster.ask(name).await;
        assert_eq!(answer.answers.len(), 2, "{answer}");
        let own = answer.answers[1].name.to_ascii();
        assert_eq!(own, "api.dev.svc.cluster.local.");
        assert_eq!(addresses(&answer), ["10.96.0.7"]);
    }
    // An endpoint `api` of a Service `dev`: the first name of the path.
    let near = service("default", "dev", json!({"clusterIP": "None"}));
    let near: k8s_openapi::api::core::v1::Service =
        serde_json::from_value(near).expect("a Service");
    let slice: k8s_openapi::api::discovery::v1::EndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": "dev-1", "namespace": "default",
                     "labels": {"kubernetes.io/service-name": "dev"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.244.0.9"], "hostname": "api"}],
    }))
    .expect("an EndpointSlice");
    let event = DnsEvent::Service(Event::Apply(near.clone()));
    cluster.send(event).await;
    cluster
        .send(DnsEvent::Slice(Event::Apply(slice.clone())))
        .await;
    for _ in 0..2 {
        let answer = cluster.ask(name).await;
        assert_eq!(answer.answers.len(), 1, "{answer}");
        assert_eq!(addresses(&answer), ["10.244.0.9"]);
    }
    // Gone: the next of the path.
    cluster.send(DnsEvent::Slice(Event::Delete(slice))).await;
    cluster.send(DnsEvent::Service(Event::Delete(near))).await;
    assert_eq!(addresses(&cluster.ask(name).await), ["10.96.0.7"]);
}

#[tokio::test]
async fn where_others_have_nothing_the_name_does_not_exist() {
    let (address, asked) = others(&[]).await;
    let cluster = Cluster::of(address).await;
    let absent = cluster.ask("nobody.default.svc.cluster.local.").await;
    assert_eq!(absent.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(absent.authorities.len(), 1);
    assert_eq!(sorted(&asked), Vec::<String>::new(), "one label is ours");
    let name = "nobody.example.default.svc.cluster.local.";
    for answer in [
        cluster.ask(name).await,
        ask_tcp(cluster.server, &question(name)).await,
    ] {
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        assert!(answer.answers.is_empty(), "{answer}");
        assert_eq!(answer.authorities, absent.authorities);
    }
    assert_eq!(sorted(&asked), ["default. SOA", "nobody.example. A"]);
}

#[tokio::test]
async fn where_others_are_silent_the_name_does_not_exist() {
    let silent = free_address().await;
    let _socket = UdpSocket::bind(silent).await.expect("bind");
    for outside in [silent, free_address().await] {
        let cluster = Cluster::of(outside).await;
        for name in ["www.example.com", "www.example.org"] {
            let name = format!("{name}.default.svc.cluster.local.");
            let answer = cluster.ask(&name).await;
            assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
            assert_eq!((answer.answers.len(), answer.authorities.len()), (0, 1));
        }
    }
}

#[tokio::test]
async fn the_second_name_of_another_path_is_no_shorter_name() {
    let first = "shop.example.dev.default.svc.cluster.local.";
    let second = "shop.example.dev.svc.cluster.local.";
    // A domain outside is called as the namespace is.
    let (address, _) = others(&["shop.example.", "shop.example.dev."]).await;
    let cluster = Cluster::of(address).await;
    let answer = cluster.ask(second).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    check_found(&cluster.ask(first).await, first, "shop.example.dev.");
    // None is: who asks for the second name alone is a pod of that namespace.
    let (address, _) = others(&["shop.example."]).await;
    let cluster = Cluster::of(address).await;
    check_found(&cluster.ask(second).await, second, "shop.example.");
    // And who has asked for the first before is not.
    let cluster = Cluster::of(address).await;
    for name in [first, second] {
        let answer = cluster.ask(name).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    }
    // The same of a Service of the cluster.
    let web = service("dev", "web", json!({"clusterIP": "10.96.0.8"}));
    let web = serde_json::from_value(web).expect("a Service");
    cluster.send(DnsEvent::Service(Event::Apply(web))).await;
    let inner = "web.dev.default.svc.cluster.local.";
    assert_eq!(addresses(&cluster.ask(inner).await), ["10.96.0.8"]);
    for name in ["web.dev.default.dev.svc.cluster.local.", inner] {
        let answer = cluster.ask(name).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    }
}

#[tokio::test]
async fn going_down_the_path_leads_to_the_same_as_ever() {
    let (address, _) = others(&["www.example.com.", "shop.example.", "shop.example.dev."]).await;
    let file = format!(". {{\nkubernetes cluster.local\nautopath off\nforward . {address}\n}}");
    let by_path = Cluster::of(address).await;
    let by_name = Cluster::start(Resolvers::These(Vec::new()), Some(file)).await;
    for cluster in [&by_path, &by_name] {
        for (namespace, name, spec) in [
            ("dev", "web", json!({"clusterIP": "10.96.0.8"})),
            (
                "dev",
                "away",
                json!({"type": "ExternalName", "externalName": "www.example.com"}),
            ),
        ] {
            let object = service(namespace, name, spec);
            let object = serde_json::from_value(object).expect("a Service");
            cluster.send(DnsEvent::Service(Event::Apply(object))).await;
        }
    }
    for rest in [
        "www.example.com",
        "shop.example",
        "shop.example.dev",
        "nobody.example.dev",
        "nobody.example",
        "web.dev",
        "web.dev.svc",
        "away.dev",
        "gone.dev",
        "nobody",
        "_http._tcp.web.dev",
        "4.3.2.1.in-addr.arpa",
        "web.dev.svc.cluster.local",
    ] {
        for kind in [RecordType::A, RecordType::AAAA] {
            let expected = by_name.walk(rest, kind).await;
            assert_eq!(by_path.walk(rest, kind).await, expected, "{rest} {kind}");
        }
    }
    let outside = "www.example.com.default.svc.cluster.local.";
    let answer = by_name.ask(outside).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn search_domains_of_the_node_are_left_to_those_who_have_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let (address, asked) = others(&["www.example.com."]).await;
    let (ip, port) = (address.ip(), address.port());
    let name = "www.example.com.default.svc.cluster.local.";
    for (search, expected) in [
        ("corp.example", ResponseCode::NXDomain),
        (".", ResponseCode::NoError),
    ] {
        let path = folder.path().join(format!("of {search}"));
        let text = format!("search {search}\nnameserver [{ip}]:{port}\n");
        std::fs::write(&path, text).expect("write");
        let is_asked = expected == ResponseCode::NoError;
        let cluster = Cluster::start(Resolvers::File(path), None).await;
        let answer = cluster.ask(name).await;
        assert_eq!(answer.metadata.response_code, expected, "{search}");
        assert_eq!(!sorted(&asked).is_empty(), is_asked, "{search}");
    }
}
