//! Questions and answers without a socket.

use api::corefile::Corefile;
use hickory_proto::op::{MessageType, OpCode, Query};
use hickory_proto::rr::RecordType;
use kube::runtime::watcher::Event;
use serde_json::json;

use super::*;
use crate::settings::NodeResolvers;

/// A headless Service gets these addresses.
fn set_endpoints(answerer: &Answerer, family: &str, addresses: &[&str]) {
    let endpoints: Vec<_> = addresses
        .iter()
        .map(|a| json!({"addresses": [a]}))
        .collect();
    let slice = json!({
        "metadata": {"name": family, "namespace": "default",
                     "labels": {"kubernetes.io/service-name": "many"}},
        "addressType": family, "endpoints": endpoints,
    });
    let slice = serde_json::from_value(slice).expect("an EndpointSlice");
    let mut index = answerer.index.write().expect("the index");
    index.slice_event(Event::Apply(slice));
    drop(index);
    answerer.changed();
}

/// It knows a headless Service, and believes one network.
fn with_many() -> Answerer {
    let zone = Zone::new("cluster.local", 30, 5);
    let node = NodeResolvers::default();
    let (settings, _) = Settings::of(&Corefile::default(), false, &zone, &node);
    let means = (Random::seeded(1), Dialer::new(None));
    let trusted = Trusted::new(vec![([10, 244, 0, 0].into(), 16)], &[]);
    let answerer = Answerer::new(&zone, settings, trusted, means);
    answerer.complete.store(true, Ordering::Release);
    let metadata = json!({"name": "many", "namespace": "default"});
    let service = json!({"metadata": metadata, "spec": {"clusterIP": "None"}});
    let service = serde_json::from_value(service).expect("a Service");
    let mut index = answerer.index.write().expect("the index");
    index.service_event(Event::Apply(service));
    drop(index);
    answerer
}

/// The bytes of a question about it.
fn question_about_many(id: u16, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    let name = Name::from_ascii(MANY).expect("a name");
    message.queries.push(Query::query(name, kind));
    message.to_vec().expect("encode")
}

const MANY: &str = "Many.default.svc.cluster.local.";

/// The answer to somebody, by UDP or not.
fn said_to(answerer: &Answerer, bytes: &[u8], from: [u8; 4], by_udp: bool) -> Vec<u8> {
    let from = (SocketAddr::from((from, 9)), by_udp);
    let (_, handled) = answerer.handle(bytes, from, Instant::now());
    let Handled::Done(Some(answer)) = handled else {
        panic!("it waits for others, or nobody gets an answer");
    };
    answer
}

/// The first address of the answer, and how many there are.
fn asked(answerer: &Answerer, id: u16, kind: RecordType) -> (String, usize) {
    let bytes = question_about_many(id, kind);
    let answer = said_to(answerer, &bytes, [127, 0, 0, 1], true);
    let answer = Message::from_vec(&answer).expect("decode");
    assert_eq!(answer.metadata.id, id);
    let first = answer.answers.first().expect("an address");
    assert_eq!(first.name.to_ascii(), MANY);
    (first.data.to_string(), answer.answers.len())
}

#[test]
fn addresses_of_each_family_go_round_by_themselves_until_they_change() {
    let answerer = with_many();
    set_endpoints(&answerer, "IPv4", &["10.244.0.1", "10.244.0.2"]);
    set_endpoints(&answerer, "IPv6", &["fd00::1", "fd00::2", "fd00::3"]);
    // As resolvers do: both families, again and again.
    let (mut four, mut six) = (Vec::new(), Vec::new());
    for id in 0..60 {
        four.push(asked(&answerer, id, RecordType::A).0);
        six.push(asked(&answerer, id + 100, RecordType::AAAA).0);
    }
    for (firsts, count) in [(four, 2), (six, 3)] {
        for (now, then) in firsts.iter().zip(firsts.iter().skip(count)) {
            assert_eq!(now, then);
        }
        let different: std::collections::BTreeSet<_> = firsts.iter().collect();
        assert_eq!(different.len(), count);
    }
    set_endpoints(&answerer, "IPv4", &["10.244.0.9"]);
    let only = ("10.244.0.9".to_owned(), 1);
    assert_eq!(asked(&answerer, 7, RecordType::A), only);
    assert_eq!(asked(&answerer, 8, RecordType::AAAA).1, 3);
}

#[test]
fn whoever_may_have_forged_his_address_gets_little_by_udp() {
    let answerer = with_many();
    let all: Vec<String> = (1..=20).map(|last| format!("10.244.1.{last}")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    set_endpoints(&answerer, "IPv4", &all);
    let question = question_about_many(1, RecordType::A);
    let (pod, stranger) = ([10, 244, 3, 4], [203, 0, 113, 9]);
    // Also from what is kept: what was said to one is not said to the other.
    for _ in 0..3 {
        for (from, by_udp, is_short) in [
            (pod, true, false),
            (stranger, true, true),
            (stranger, false, false),
        ] {
            let bytes = said_to(&answerer, &question, from, by_udp);
            let answer = Message::from_vec(&bytes).expect("decode");
            assert_eq!(answer.metadata.truncation, is_short, "{from:?} {by_udp}");
            assert_eq!(answer.answers.len() < all.len(), is_short);
            assert_eq!(bytes.len() <= 3 * question.len(), is_short);
        }
    }
}

#[test]
fn servers_that_never_answer_leave_places_for_others() {
    let (mut free, mut silent) = (FORWARDED_AT_ONCE, 0);
    while has_place(free, silent) {
        (free, silent) = (free - 1, silent + 1);
    }
    assert_eq!(
        (free, silent),
        (LAST_PLACES, FORWARDED_AT_ONCE - LAST_PLACES)
    );
    // Several of them, and some that few ask for.
    for waits in 0..FEW {
        assert!(has_place(1, waits));
    }
    assert!(!has_place(1, FEW) && has_place(LAST_PLACES + 1, FEW));
}
