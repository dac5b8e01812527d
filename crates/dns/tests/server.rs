//! The server on loopback sockets, asked in both transports.

mod asking;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use clock::Random;
use dns::{Config, DnsEvent, Resolvers, run_on};
use futures::StreamExt;
use hickory_proto::op::{Edns, Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use kube::runtime::watcher::Event;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use asking::{ask_tcp, ask_udp, free_address, question};

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

/// A server of others, which answers each question with this many addresses after a moment, and
/// counts the questions. It ends with the handle.
async fn upstream(
    records: u8,
    ttl: u32,
) -> (SocketAddr, Arc<AtomicUsize>, tokio::task::JoinHandle<()>) {
    let address = free_address().await;
    let udp = UdpSocket::bind(address).await.expect("bind");
    let tcp = TcpListener::bind(address).await.expect("bind");
    let count = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&count);
    let answer = move |bytes: &[u8], limit: usize| -> Vec<u8> {
        let request = Message::from_vec(bytes).expect("a question");
        asked.fetch_add(1, Ordering::Relaxed);
        let mut response = Message::response(request.metadata.id, OpCode::Query);
        response.metadata.recursion_available = true;
        response.queries = request.queries.clone();
        response.edns = request.edns.clone();
        let name = request.queries[0].name.clone();
        for n in 0..records {
            let data = RData::A(A(Ipv4Addr::new(192, 0, 2, n)));
            response
                .answers
                .push(Record::from_rdata(name.clone(), ttl, data));
        }
        let whole = response.to_vec().expect("encode");
        if whole.len() <= limit {
            return whole;
        }
        response.answers.clear();
        response.metadata.truncation = true;
        response.to_vec().expect("encode")
    };
    let serve = tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            tokio::select! {
                biased;
                Ok((length, from)) = udp.recv_from(&mut buffer) => {
                    let answer = answer(&buffer[..length], 1232);
                    udp.send_to(&answer, from).await.expect("send");
                }
                Ok((mut stream, _)) = tcp.accept() => {
                    let length = stream.read_u16().await.expect("read");
                    let mut bytes = vec![0; usize::from(length)];
                    stream.read_exact(&mut bytes).await.expect("read");
                    let answer = answer(&bytes, 65_535);
                    let length = u16::try_from(answer.len()).expect("short");
                    stream.write_u16(length).await.expect("write");
                    stream.write_all(&answer).await.expect("write");
                }
            }
        }
    });
    (address, count, serve)
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

/// A server over TLS with a certificate for `dns.example`, which knows an address for every name: where
/// it is, whom to believe, and how many connections it has taken.
#[expect(clippy::disallowed_methods, reason = "a real server, in real time")]
async fn upstream_over_tls() -> (SocketAddr, Vec<u8>, Arc<AtomicUsize>) {
    let now = clock::Clock::system().seconds();
    let ca = wire::pki::Ca::generate("of the test", now).expect("an authority");
    let subject = wire::pki::Subject::server("dns", &["dns.example"], &[]);
    let pair = ca.issue(&subject, now, 1).expect("a certificate");
    let config = wire::tls::server_config(&pair, None).expect("a configuration");
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("bind");
    let address = listener.local_addr().expect("address");
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // Whoever does not believe the certificate ends here.
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                while let Ok(length) = stream.read_u16().await {
                    let mut bytes = vec![0; usize::from(length)];
                    stream.read_exact(&mut bytes).await.expect("read");
                    let request = Message::from_vec(&bytes).expect("a question");
                    let mut response = Message::response(request.metadata.id, OpCode::Query);
                    response.queries = request.queries.clone();
                    let data = RData::A(A(Ipv4Addr::new(192, 0, 2, 1)));
                    let name = request.queries[0].name.clone();
                    response.answers.push(Record::from_rdata(name, 300, data));
                    let answer = response.to_vec().expect("encode");
                    let length = u16::try_from(answer.len()).expect("short");
                    stream.write_u16(length).await.expect("write");
                    stream.write_all(&answer).await.expect("write");
                    stream.flush().await.expect("write");
                }
            });
        }
    });
    (address, ca.pair.cert_pem.into_bytes(), taken)
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
