//! An answer that is given again and again: its bytes, of which the identifier changes, and addresses
//! that go round. Pure.
//!
//! It knows no questions: whoever keeps it knows that the same bytes ask for it.

use std::net::IpAddr;

use crate::packet::Layout;

/// The addresses of an answer that begins with another one each time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// All of them, in their order.
    pub addresses: Vec<IpAddr>,
    /// With which of them the answer begins, counted round and round.
    pub turn: usize,
}

/// An answer.
#[derive(Debug)]
pub struct Prepared {
    bytes: Box<[u8]>,
    turning: Option<Box<Turning>>,
}

/// Addresses that go round in an answer whose records have equal lengths. Of a very long answer the last
/// records have their names written out, since the encoder refers to earlier names only so often: it is
/// made again for each question.
#[derive(Debug)]
struct Turning {
    /// All of them, one behind the other; also those that the answer has no room for.
    addresses: Box<[u8]>,
    /// The bytes of one.
    size: usize,
    /// Where the first one lies in the answer.
    first: usize,
    /// From one to the next.
    step: usize,
    /// How many the answer has.
    shown: usize,
    /// With which the next answer begins.
    next: usize,
}

impl Prepared {
    /// Of an answer as it is sent, in which these addresses go round; `None` when it is not one of
    /// theirs.
    pub fn of(answer: &[u8], round: Option<&Round>) -> Option<Self> {
        let turning = match round {
            None => None,
            Some(round) => Some(Box::new(Turning::of(answer, round)?)),
        };
        Some(Self {
            bytes: answer.into(),
            turning,
        })
    }

    /// The bytes that it takes.
    pub fn cost(&self) -> usize {
        let addresses = self.turning.as_ref().map_or(0, |t| t.addresses.len());
        self.bytes.len() + addresses
    }

    /// The answer to a question of this identifier. The next one begins with the next address.
    pub fn answer(&mut self, id: [u8; 2]) -> Vec<u8> {
        let mut answer = self.bytes.to_vec();
        if let Some(place) = answer.get_mut(..2) {
            place.copy_from_slice(&id);
        }
        if let Some(turning) = &mut self.turning {
            turning.turn(&mut answer);
        }
        answer
    }
}

/// An address as records have it.
fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

impl Turning {
    /// Nothing is believed of how the answer was made: each of its records is compared.
    fn of(answer: &[u8], round: &Round) -> Option<Self> {
        let all: Vec<Vec<u8>> = round.addresses.iter().copied().map(octets).collect();
        let size = all.first()?.len();
        if all.iter().any(|one| one.len() != size) {
            return None;
        }
        let layout = Layout::of(answer)?;
        let places: Vec<(usize, usize)> = layout.answers().collect();
        let (first, _) = *places.first()?;
        let step = places.get(1).map_or(size, |(second, _)| second - first);
        let begins = round.turn % all.len();
        let fits = |(number, (start, end)): (usize, &(usize, usize))| {
            let expected = all.get((begins + number) % all.len());
            *start == first + number * step
                && end - start == size
                && answer.get(*start..*end) == expected.map(Vec::as_slice)
        };
        if step < size || !places.iter().enumerate().all(fits) {
            return None;
        }
        Some(Self {
            next: (begins + 1) % all.len(),
            addresses: all.concat().into(),
            size,
            first,
            step,
            shown: places.len(),
        })
    }

    fn turn(&mut self, answer: &mut [u8]) {
        let size = self.size;
        let parts = self.addresses.split_at_checked(self.next * size);
        let (behind, ahead) = parts.unwrap_or_default();
        let addresses = ahead.chunks_exact(size).chain(behind.chunks_exact(size));
        let records = answer.get_mut(self.first..).unwrap_or_default();
        let records = records.chunks_mut(self.step).take(self.shown);
        for (record, address) in records.zip(addresses) {
            if let Some(place) = record.get_mut(..size) {
                place.copy_from_slice(address);
            }
        }
        self.next = (self.next + 1) % (self.addresses.len() / size).max(1);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
    use hickory_proto::rr::{Name, RecordType};
    use kube::runtime::watcher::Event;
    use serde_json::{Value, json};

    use super::*;
    use crate::answer::{Zone, answer};
    use crate::index::Index;
    use crate::message::{encode, limit, question, response, round};

    /// Headless Services with so many endpoints in both families, and one with an address.
    const COUNTS: [usize; 6] = [1, 2, 3, 25, 70, 100];

    fn index() -> Index {
        let mut index = Index::default();
        let service = |name: &str, spec: Value| {
            let metadata = json!({"name": name, "namespace": "default"});
            let object = json!({"metadata": metadata, "spec": spec});
            Event::Apply(serde_json::from_value(object).expect("a Service"))
        };
        let ports = json!([{"name": "http", "port": 80}]);
        let spec = json!({"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd00::10"], "ports": ports});
        index.service_event(service("web", spec));
        for count in COUNTS {
            let name = format!("h{count}");
            index.service_event(service(&name, json!({"clusterIP": "None"})));
            for (family, prefix) in [("IPv4", "10.244."), ("IPv6", "fd00::")] {
                let address = |n: usize| match family {
                    "IPv4" => format!("{prefix}{}.{}", n / 200, n % 200),
                    _ => format!("{prefix}{n:x}"),
                };
                let endpoint = |n: usize| json!({"addresses": [address(n)]});
                let endpoints: Vec<Value> = (0..count).map(endpoint).collect();
                let slice = json!({
                    "metadata": {
                        "name": format!("{name}-{family}"), "namespace": "default",
                        "labels": {"kubernetes.io/service-name": name},
                    },
                    "addressType": family, "ports": ports, "endpoints": endpoints,
                });
                let slice = serde_json::from_value(slice).expect("an EndpointSlice");
                index.slice_event(Event::Apply(slice));
            }
        }
        index
    }

    fn asked(id: u16, name: &str, kind: RecordType, edns: Option<u16>) -> Vec<u8> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        let name = Name::from_ascii(name).expect("a name");
        message.queries.push(Query::query(name, kind));
        message.edns = edns.map(|bytes| {
            let mut edns = Edns::new();
            edns.set_max_payload(bytes);
            edns
        });
        message.to_vec().expect("encode")
    }

    /// The answer as it is made without anything that was kept, and its addresses.
    fn fresh(index: &Index, bytes: &[u8], by_udp: bool, turn: usize) -> (Vec<u8>, Vec<IpAddr>) {
        let question = question(bytes).expect("a question");
        let zone = Zone::new("cluster.local", 30, 5);
        let found = answer(index, &zone, &question.name, question.kind).expect("ours");
        let limit = limit(&question.request, by_udp, None);
        let answer = encode(response(&question, &found, turn), limit).expect("encode");
        (answer, round(&found))
    }

    #[test]
    fn a_patched_answer_is_the_one_that_would_be_made() {
        let index = index();
        let mut names: Vec<String> = COUNTS.iter().map(|n| format!("h{n}.default")).collect();
        names.extend(
            [
                "web.default",
                "H25.Default",
                "nothing.default",
                "_http._tcp.web.default",
            ]
            .map(String::from),
        );
        let kinds = [
            RecordType::A,
            RecordType::AAAA,
            RecordType::SRV,
            RecordType::ANY,
            RecordType::TXT,
        ];
        let (mut turned, mut cut) = (BTreeSet::new(), 0);
        for name in &names {
            let name = format!("{name}.svc.cluster.local.");
            for kind in kinds {
                for (edns, by_udp) in [
                    (None, true),
                    (Some(512), true),
                    (Some(1000), true),
                    (Some(4096), true),
                    (None, false),
                ] {
                    let case = format!("{name} {kind} {edns:?} {by_udp}");
                    let made =
                        |id, turn| fresh(&index, &asked(id, &name, kind, edns), by_udp, turn);
                    let begins = usize::from(edns.unwrap_or(3));
                    let (first, addresses) = made(7, begins);
                    let is_mixed = addresses.iter().any(IpAddr::is_ipv4)
                        && addresses.iter().any(IpAddr::is_ipv6);
                    let round = (!addresses.is_empty()).then_some(Round {
                        addresses,
                        turn: begins,
                    });
                    let prepared = Prepared::of(&first, round.as_ref());
                    assert_eq!(prepared.is_none(), is_mixed, "{case}");
                    let Some(mut prepared) = prepared else {
                        continue;
                    };
                    let rounds = round.as_ref().map_or(1, |round| round.addresses.len());
                    for step in 1..=rounds.min(30) + 2 {
                        let id = u16::try_from(step * 300 % 65_000).expect("short");
                        let (expected, _) = made(id, begins + step);
                        assert_eq!(prepared.answer(id.to_be_bytes()), expected, "{case} {step}");
                        cut += usize::from(crate::packet::is_cut(&expected));
                    }
                    if round.is_some() {
                        turned.insert(rounds);
                    }
                }
            }
        }
        // The cases are there that are the reason of all this.
        assert_eq!(Vec::from_iter(turned), COUNTS[1..], "rounds");
        assert!(cut > 100, "{cut} answers that were cut");
    }

    #[test]
    fn an_answer_of_other_addresses_is_not_turned() {
        let index = index();
        let bytes = asked(7, "h3.default.svc.cluster.local.", RecordType::A, None);
        let (answer, addresses) = fresh(&index, &bytes, true, 1);
        let of = |addresses: &[IpAddr], turn| {
            let addresses = addresses.to_vec();
            Prepared::of(&answer, Some(&Round { addresses, turn })).is_some()
        };
        assert!(of(&addresses, 1) && of(&addresses, 4));
        assert!(!of(&addresses, 2), "it begins with another one");
        assert!(!of(&addresses[..2], 1) && !of(&[], 0));
        let other = ["10.244.9.9", "10.244.9.8", "10.244.9.7"]
            .map(|ip| ip.parse::<IpAddr>().expect("an address"));
        assert!(!of(&other, 1));
        assert!(Prepared::of(&answer, None).is_some());
    }
}
