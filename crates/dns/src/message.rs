//! Messages: questions taken apart, answers put together and fitted to their size.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record as Wire, RecordType};

use crate::answer::{Answer, Data, QueryType, Record};

/// What fits into UDP without EDNS.
const PLAIN_BYTES: u16 = 512;
/// The most that we send by UDP, so that it is not fragmented on common links.
pub const UDP_BYTES: u16 = 1232;
/// What the length before a message by TCP can say.
pub const TCP_BYTES: usize = 65_535;
/// By UDP somebody outside the cluster gets so many times the bytes of his question at most, as QUIC
/// has it (RFC 9000): his address may be forged. He has to come by TCP, which shows that it is
/// his.
const STRANGER_FACTOR: usize = 3;

/// A question that can be answered.
#[derive(Debug, Clone)]
pub struct Question {
    /// The request, for its identifier and flags.
    pub request: Message,
    /// What is asked.
    pub query: Query,
    /// The name in lower case, with its final dot.
    pub name: String,
    /// The asked type.
    pub kind: QueryType,
}

/// Why bytes are not a question.
#[derive(Debug, Clone)]
pub enum Refusal {
    /// Not even a message: no answer.
    Silence,
    /// A message that is answered with this code.
    Answer(Box<Message>),
}

/// Takes a request apart.
pub fn question(bytes: &[u8]) -> Result<Question, Refusal> {
    let request = Message::from_vec(bytes).map_err(|_| Refusal::Silence)?;
    if request.metadata.message_type != hickory_proto::op::MessageType::Query {
        return Err(Refusal::Silence);
    }
    let refuse = |code| Refusal::Answer(Box::new(error(&request, code)));
    if request.metadata.op_code != OpCode::Query {
        return Err(refuse(ResponseCode::NotImp));
    }
    let [query] = request.queries.as_slice() else {
        return Err(refuse(ResponseCode::FormErr));
    };
    if request
        .edns
        .as_ref()
        .is_some_and(|edns| edns.version() != 0)
    {
        return Err(refuse(ResponseCode::BADVERS));
    }
    if !matches!(query.query_class, DNSClass::IN | DNSClass::ANY) {
        return Err(refuse(ResponseCode::Refused));
    }
    let name = query.name.to_lowercase().to_ascii();
    let kind = match query.query_type {
        RecordType::A => QueryType::A,
        RecordType::AAAA => QueryType::Aaaa,
        RecordType::SRV => QueryType::Srv,
        RecordType::PTR => QueryType::Ptr,
        RecordType::CNAME => QueryType::Cname,
        RecordType::NS => QueryType::Ns,
        RecordType::TXT => QueryType::Txt,
        RecordType::SOA => QueryType::Soa,
        RecordType::ANY => QueryType::Any,
        _ => QueryType::Other,
    };
    Ok(Question {
        query: query.clone(),
        name,
        kind,
        request,
    })
}

/// A response without records.
pub fn error(request: &Message, code: ResponseCode) -> Message {
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.metadata.response_code = code;
    response.queries = request.queries.clone();
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_BYTES);
        response.edns = Some(edns);
    }
    response
}

/// The response to a question about the cluster. Addresses are turned around by `turn`, so that
/// clients that take the first one spread.
pub fn response(question: &Question, answer: &Answer, turn: usize) -> Message {
    let code = if answer.nonexistent {
        ResponseCode::NXDomain
    } else {
        ResponseCode::NoError
    };
    let mut response = error(&question.request, code);
    response.metadata.authoritative = true;
    response.answers = answer.answers.iter().filter_map(wire).collect();
    // Names are repeated as they were written: some clients compare letter by letter.
    for record in &mut response.answers {
        if record.name == question.query.name {
            record.name = question.query.name.clone();
        }
    }
    if !round(answer).is_empty() && !response.answers.is_empty() {
        let by = turn % response.answers.len();
        response.answers.rotate_left(by);
    }
    response.authorities = answer.authority.iter().filter_map(wire).collect();
    response.additionals = answer.additional.iter().filter_map(wire).collect();
    response
}

/// The addresses of an answer that go round: all that it says, when there are several.
pub fn round(answer: &Answer) -> Vec<IpAddr> {
    let address = |record: &Record| match record.data {
        Data::Address(ip) => Some(ip),
        _ => None,
    };
    let all: Option<Vec<IpAddr>> = answer.answers.iter().map(address).collect();
    all.filter(|all| all.len() > 1).unwrap_or_default()
}

fn wire(record: &Record) -> Option<Wire> {
    let name = |text: &str| Name::from_ascii(text).ok();
    let data = match &record.data {
        Data::Address(IpAddr::V4(ip)) => RData::A(A(*ip)),
        Data::Address(IpAddr::V6(ip)) => RData::AAAA(AAAA(*ip)),
        Data::Cname(target) => RData::CNAME(CNAME(name(target)?)),
        Data::Srv {
            weight,
            port,
            target,
        } => RData::SRV(SRV::new(0, *weight, *port, name(target)?)),
        Data::Ptr(target) => RData::PTR(PTR(name(target)?)),
        Data::Ns(target) => RData::NS(NS(name(target)?)),
        Data::Txt(text) => RData::TXT(TXT::new(vec![text.clone()])),
        Data::Soa {
            primary,
            contact,
            serial,
            minimum_seconds,
        } => RData::SOA(SOA::new(
            name(primary)?,
            name(contact)?,
            *serial,
            7200,
            1800,
            86_400,
            *minimum_seconds,
        )),
    };
    Some(Wire::from_rdata(
        name(&record.name)?,
        record.ttl_seconds,
        data,
    ))
}

/// How long an answer to a client may be, in bytes.
pub fn limit(request: &Message, by_udp: bool, stranger: Option<usize>) -> usize {
    if !by_udp {
        return TCP_BYTES;
    }
    let wanted = request.edns.as_ref().map_or(PLAIN_BYTES, Edns::max_payload);
    let limit = usize::from(wanted.clamp(PLAIN_BYTES, UDP_BYTES));
    match stranger {
        None => limit,
        Some(question_bytes) => limit.min(question_bytes.saturating_mul(STRANGER_FACTOR)),
    }
}

/// The bytes of a response, cut until they fit.
pub fn encode(mut response: Message, limit: usize) -> Option<Vec<u8>> {
    loop {
        // What does not even fit into a message is too long, too.
        let bytes = response.to_vec().ok();
        if let Some(bytes) = bytes.filter(|bytes| bytes.len() <= limit) {
            return Some(bytes);
        }
        // First what only helps; then half of the answers, since clients that cannot ask again by
        // TCP are served by some addresses as well as by all.
        if !response.additionals.is_empty() {
            response.additionals.clear();
        } else if response.answers.is_empty() {
            response.authorities.clear();
            response.metadata.truncation = true;
            return response.to_vec().ok();
        } else {
            response.answers.truncate(response.answers.len() / 2);
            response.metadata.truncation = true;
        }
    }
}

/// The name outside the cluster that an answer's last alias leads to, if nothing follows it.
pub fn open_alias(answer: &Answer, kind: QueryType) -> Option<Name> {
    match (kind, &answer.answers.last()?.data) {
        (QueryType::A | QueryType::Aaaa, Data::Cname(target)) => Name::from_ascii(target).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_an_answer_may_be() {
        let request = |bytes: Option<u16>| {
            let mut message = Message::new(1, hickory_proto::op::MessageType::Query, OpCode::Query);
            message.edns = bytes.map(|bytes| {
                let mut edns = Edns::new();
                edns.set_max_payload(bytes);
                edns
            });
            message
        };
        for (edns, by_udp, stranger, expected) in [
            (None, true, None, 512),
            (Some(100), true, None, 512),
            (Some(4096), true, None, 1232),
            (Some(4096), true, Some(40), 120),
            (None, true, Some(300), 512),
            (None, false, Some(40), TCP_BYTES),
        ] {
            let limit = limit(&request(edns), by_udp, stranger);
            assert_eq!(limit, expected, "{edns:?} {by_udp} {stranger:?}");
        }
    }
}
