//! From a question's bytes to an answer's. What is known here is answered at once; other questions
//! wait for those who know, a bounded number at a time, and the same question once. It knows no
//! sockets of clients.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use api::corefile::is_within;
use clock::{Instant, Random};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, Record};
use tokio::sync::{OnceCell, Semaphore};

use crate::answer::{Answer, QueryType, Zone, answer, reverse_address};
use crate::cache::{self, Cache, CachedAnswer, Key};
use crate::client_query::{ClientQuery, key_of};
use crate::forward::{Failing, ForwardContext, ForwardError, forward};
use crate::index::Index;
use crate::message::{Refusal, error, open_alias, question, response, round};
use crate::metrics::{CountedQuestion, METRICS};
use crate::packet::{Client, Layout};
use crate::prepared::{Prepared, Round};
use crate::recent::{Manner, Recent, Said};
use crate::settings::{Led, Settings, Ways};
use crate::template::{TemplateAnswer, TemplateOutcome};
use crate::tls::Dialer;

/// So many questions at most wait for others; more are refused at once. At two kilobytes and a socket
/// each this stays far below the usual limit of descriptors.
const FORWARDED_AT_ONCE: usize = 512;
/// The last of these places are for servers that few wait for: some that never answer must not take
/// all others' names away.
const LAST_PLACES: usize = 128;
const FEW: usize = 32;
/// An alias leads to another one so many times at most.
const ALIASES: usize = 8;
/// With an answer at hand whose time has ended others are waited for so long (RFC 8767).
const STALE_WAIT: Duration = Duration::from_millis(1800);
/// How long such an answer may be believed (RFC 8767).
const STALE_TTL_SECONDS: u32 = 30;

/// An answer of others, how old it is, and how long it is believed at least.
type Got = (Arc<cache::Answer>, (u32, u32));
/// A question that is on its way.
type Flight = Arc<OnceCell<Option<Arc<cache::Answer>>>>;

/// What all sockets share.
pub struct Answerer {
    /// What names stand for.
    pub index: RwLock<Index>,
    /// Whether the index is complete: before, it cannot be said that a name does not exist.
    pub complete: AtomicBool,
    settings: RwLock<Arc<Settings>>,
    domain: String,
    trusted: Vec<(IpAddr, u8)>,
    turn: AtomicUsize,
    random: Random,
    forwarded: Semaphore,
    kept: Mutex<Cache>,
    /// Counts changes of what names stand for.
    state: AtomicU64,
    recent: Mutex<Recent>,
    flights: Mutex<HashMap<Key, Flight>>,
    failing: Failing,
    dialer: Dialer,
}

/// Where an answer is kept for the next time: the state of names, the manner, and the question.
type Place<'a> = (u64, Manner, &'a [u8]);

/// What can be said at once.
pub enum ImmediateReply {
    /// The answer.
    Answer(Box<Message>),
    /// The answer until something changes of what names stand for, and the addresses that go round
    /// in it.
    Always(Box<Message>, Option<Round>),
    /// The beginning of an answer, to which the addresses of this name belong.
    Alias(Box<Message>, Name),
    /// Others are to be asked.
    Ask,
}

/// What becomes of a request.
pub enum Handled {
    /// It is answered, or not at all.
    Done(Option<Vec<u8>>),
    /// It waits for others.
    Waits(Box<ClientQuery>, ImmediateReply),
}

impl Answerer {
    /// With an empty index.
    pub fn new(
        zone: &Zone,
        settings: Settings,
        trusted: Vec<(IpAddr, u8)>,
        (random, dialer): (Random, Dialer),
    ) -> Self {
        Self {
            index: RwLock::default(),
            complete: AtomicBool::new(false),
            settings: RwLock::new(Arc::new(settings)),
            domain: zone.domain.clone(),
            trusted,
            turn: AtomicUsize::new(0),
            random,
            forwarded: Semaphore::new(FORWARDED_AT_ONCE),
            kept: Mutex::default(),
            state: AtomicU64::new(0),
            recent: Mutex::default(),
            flights: Mutex::default(),
            failing: Failing::default(),
            dialer,
        }
    }

    /// From now on questions are led so. What others said before is forgotten.
    pub fn set(&self, settings: Settings) {
        let mut now = self
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *now = Arc::new(settings);
        self.kept().clear();
        drop(now);
        self.changed();
    }

    /// What names stand for has changed.
    pub fn changed(&self) {
        self.state.fetch_add(1, Ordering::Release);
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settings(&self) -> Arc<Settings> {
        let settings = self.settings.read();
        Arc::clone(&settings.unwrap_or_else(PoisonError::into_inner))
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers from what is known here, or says what is still needed.
    fn say(&self, settings: &Settings, asked: &ClientQuery) -> ImmediateReply {
        let (request, kind) = (&asked.question.request, asked.question.kind);
        let refuse = |code| ImmediateReply::Answer(Box::new(error(request, code)));
        let Some((_, ways, zone)) = settings.ways(&asked.came_by) else {
            return refuse(ResponseCode::Refused);
        };
        match ways.made(&asked.name, asked.question.query.query_type) {
            TemplateOutcome::Nothing => {}
            TemplateOutcome::Failure => return refuse(ResponseCode::ServFail),
            TemplateOutcome::Unreadable => {
                METRICS.not_made(kind);
                return refuse(ResponseCode::ServFail);
            }
            TemplateOutcome::Answer(made) => return templated(asked, *made),
        }
        match ways.lead(&asked.name, kind) {
            Led::On => {}
            Led::Unlisted => return refuse(ResponseCode::ServFail),
            Led::Listed(answer) => return self.own(asked, &answer),
        }
        let inside = is_within(&asked.name, &self.domain);
        let others = inside && zone.len() > self.domain.len() && is_within(zone, &self.domain);
        let Some(names) = ways.cluster().filter(|_| !others) else {
            return ImmediateReply::Ask;
        };
        let found = {
            let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
            answer(&index, &names.zone, &asked.name, kind)
        };
        let complete = self.complete.load(Ordering::Acquire);
        let Some(found) = found else {
            // Whose an address is cannot be said yet.
            return match complete || reverse_address(&asked.name).is_none() {
                true => ImmediateReply::Ask,
                false => refuse(ResponseCode::ServFail),
            };
        };
        if !complete {
            return refuse(ResponseCode::ServFail);
        }
        if found.nonexistent && names.falls.has(&asked.name) && ways.route(&asked.name).is_some() {
            return ImmediateReply::Ask;
        }
        self.own(asked, &found)
    }

    /// An answer of this server's.
    fn own(&self, asked: &ClientQuery, found: &Answer) -> ImmediateReply {
        let addresses = round(found);
        let round = (!addresses.is_empty()).then(|| Round {
            addresses,
            turn: self.next_turn(),
        });
        let turn = round.as_ref().map_or(0, |round| round.turn);
        let message = Box::new(response(&asked.question, found, turn));
        match open_alias(found, asked.question.kind) {
            Some(name) => ImmediateReply::Alias(message, name),
            None => ImmediateReply::Always(message, round),
        }
    }

    /// Answers a request, as far as that needs nobody else.
    pub fn handle(
        &self,
        bytes: &[u8],
        (from, by_udp): (SocketAddr, bool),
        now: Instant,
    ) -> (Option<CountedQuestion>, Handled) {
        let stranger = !self.trusts(from.ip());
        let (state, manner) = (self.state.load(Ordering::Acquire), (by_udp, stranger));
        let known = self.recent().get(state, manner, bytes, now);
        if let Some(known) = known {
            let taken = METRICS.asked(known.kind, by_udp, from.is_ipv4(), bytes.len());
            if known.of_others {
                METRICS.looked(true);
            }
            return (Some(taken), Handled::Done(Some(known.answer)));
        }
        let question = match question(bytes) {
            Ok(question) => question,
            Err(Refusal::Silence) => return (None, Handled::Done(None)),
            Err(Refusal::Answer(message)) => {
                return (None, Handled::Done(message.to_vec().ok()));
            }
        };
        let taken = METRICS.asked(question.kind, by_udp, from.is_ipv4(), bytes.len());
        let stranger = stranger.then_some(bytes.len());
        let mut asked = ClientQuery::new(question, bytes, by_udp, stranger);
        let settings = self.settings();
        let ways = settings.ways(&asked.name);
        let rewritten = ways.and_then(|(_, ways, _)| ways.rewritten(&asked.name));
        let is_name = rewritten.is_none_or(|rewritten| asked.rename(rewritten));
        let said = match is_name {
            true => self.say(&settings, &asked),
            false => {
                let failed = error(&asked.question.request, ResponseCode::ServFail);
                ImmediateReply::Answer(Box::new(failed))
            }
        };
        let handled = match said {
            ImmediateReply::Answer(message) => Handled::Done(asked.encoded(*message)),
            ImmediateReply::Always(message, round) => {
                let answer = asked.encoded(*message);
                let prepared = answer.as_deref();
                let prepared = prepared.and_then(|a| Prepared::of(a, round.as_ref()));
                if let Some(prepared) = prepared {
                    self.keep((state, manner, bytes), &asked, Said::Own(prepared));
                }
                Handled::Done(answer)
            }
            said => match self.fresh(&settings, &asked, &said, (state, manner, bytes), now) {
                Some(answer) => Handled::Done(Some(answer)),
                None => Handled::Waits(Box::new(asked), said),
            },
        };
        (Some(taken), handled)
    }

    fn trusts(&self, from: IpAddr) -> bool {
        let from = from.to_canonical();
        from.is_loopback() || self.trusted.iter().any(|net| network_has(*net, from))
    }

    /// Keeps what was said to a question, for the next time that it comes.
    fn keep(&self, (state, manner, bytes): Place<'_>, asked: &ClientQuery, said: Said) {
        if asked.may_come_again() {
            let said = (asked.question.kind, said);
            self.recent().keep(state, manner, bytes, said);
        }
    }

    /// What others said, if it is kept and still good: nobody has to wait for that.
    fn fresh(
        &self,
        settings: &Settings,
        asked: &ClientQuery,
        said: &ImmediateReply,
        place: Place<'_>,
        now: Instant,
    ) -> Option<Vec<u8>> {
        if !matches!(said, ImmediateReply::Ask) {
            return None;
        }
        let (block, ways, _) = settings.ways(&asked.came_by)?;
        ways.terms.as_ref()?;
        let key = key_of(block, &asked.written, asked.wants());
        let found = self.kept().get(&key, now);
        let CachedAnswer::Fresh(kept) = found else {
            return None;
        };
        let age_seconds = kept.age_seconds(now)?;
        METRICS.looked(true);
        let turn = self.next_turn();
        let answer = asked.served(&kept.answer, (age_seconds, 0), turn);
        if let Some(said) = asked.said_by_others(kept, turn) {
            self.keep(place, asked, said);
        }
        answer
    }

    /// Goes on where others are needed.
    pub async fn go_on(&self, asked: ClientQuery, said: ImmediateReply) -> Option<Vec<u8>> {
        let request = &asked.question.request;
        let settings = self.settings();
        match said {
            ImmediateReply::Answer(message) | ImmediateReply::Always(message, _) => {
                asked.encoded(*message)
            }
            ImmediateReply::Alias(message, name) => {
                let whole = self.follow(&settings, *message, name, &asked).await;
                asked.encoded(whole)
            }
            ImmediateReply::Ask => {
                let names = (asked.came_by.as_str(), asked.name.as_str());
                let got = self.ask(&settings, names, &asked.written, asked.wants());
                match got.await {
                    Ok((answer, times)) => asked.served(&answer, times, self.next_turn()),
                    Err(code) => asked.encoded(error(request, code)),
                }
            }
        }
    }

    /// Adds what the name stands for that an answer's last alias leads to, of the cluster or outside:
    /// simple resolvers do not ask again.
    async fn follow(
        &self,
        settings: &Settings,
        mut message: Message,
        name: Name,
        asked: &ClientQuery,
    ) -> Message {
        let mut next = asked.led_to(name);
        for _ in 0..ALIASES {
            let to = &next.question.query.name;
            // It leads in a circle.
            if message.answers.iter().any(|record| record.name == *to) {
                return message;
            }
            match self.say(settings, &next) {
                ImmediateReply::Answer(more) | ImmediateReply::Always(more, _) => {
                    message.answers.extend(more.answers);
                    return message;
                }
                ImmediateReply::Alias(more, name) => {
                    message.answers.extend(more.answers);
                    next = next.led_to(name);
                }
                ImmediateReply::Ask => {
                    message
                        .answers
                        .extend(self.of_others(settings, &next).await);
                    return message;
                }
            }
        }
        message
    }

    /// The records that others have of a name to which an alias leads.
    async fn of_others(&self, settings: &Settings, asked: &ClientQuery) -> Vec<Record> {
        let names = (asked.name.as_str(), asked.name.as_str());
        let got = self.ask(settings, names, &asked.written, (None, false));
        let Ok((answer, times)) = got.await else {
            return Vec::new();
        };
        let client = Client {
            id: 0,
            question: &asked.written,
            recursion_desired: true,
            limit: usize::MAX,
            turn: self.next_turn(),
        };
        let bytes = answer.layout.serve(&answer.bytes, &client, times);
        let more = Message::from_vec(&bytes);
        more.map(|more| more.answers).unwrap_or_default()
    }

    /// Which of several is the first this time.
    fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// What others say of a name, which came by another one: kept, or asked for.
    async fn ask(
        &self,
        settings: &Settings,
        (came_by, name): (&str, &str),
        written: &[u8],
        wants: (Option<bool>, bool),
    ) -> Result<Got, ResponseCode> {
        let (block, ways, _) = settings.ways(came_by).ok_or(ResponseCode::Refused)?;
        let key = key_of(block, written, wants);
        let now = Instant::now();
        let kept = match ways.terms {
            Some(_) => self.kept().get(&key, now),
            None => CachedAnswer::Nothing,
        };
        match kept {
            CachedAnswer::Fresh(kept) => {
                METRICS.looked(true);
                Ok((kept.answer.clone(), (kept.age_seconds(now).unwrap_or(0), 0)))
            }
            CachedAnswer::Stale(answer) => {
                METRICS.looked(false);
                let servers = ways.route(name).map_or(&[][..], |r| &r.servers);
                if !self.failing.has_all(servers, Instant::now())
                    && let Ok(Ok(new)) =
                        tokio::time::timeout(STALE_WAIT, self.fetch((settings, ways), name, key))
                            .await
                    && new.layout.kind(&new.bytes) != crate::packet::AnswerKind::Failure
                {
                    return Ok((new, (0, 0)));
                }
                METRICS.served_stale();
                Ok((answer, (u32::MAX, STALE_TTL_SECONDS)))
            }
            CachedAnswer::Nothing => {
                METRICS.looked(false);
                self.fetch((settings, ways), name, key)
                    .await
                    .map(|new| (new, (0, 0)))
            }
        }
    }

    /// Asks others; who asks the same meanwhile waits for the same answer.
    async fn fetch(
        &self,
        (settings, ways): (&Settings, &Ways),
        name: &str,
        key: Key,
    ) -> Result<Arc<cache::Answer>, ResponseCode> {
        let route = ways.route(name).ok_or(ResponseCode::Refused)?;
        let has_place = has_place(self.forwarded.available_permits(), route.waits());
        let (true, Ok(_all), Ok(_own)) = (
            has_place,
            self.forwarded.try_acquire(),
            route.waiting.try_acquire(),
        ) else {
            METRICS.rejected();
            return Err(ResponseCode::ServFail);
        };
        if route.servers.is_empty() {
            return Err(ResponseCode::Refused);
        }
        let flight = {
            let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(flights.entry(key.clone()).or_default())
        };
        let _landing = Landing {
            answerer: self,
            key: &key,
            flight: &flight,
        };
        let asked = async {
            let means = ForwardContext {
                failing: &self.failing,
                turn: self.next_turn(),
                random: &self.random,
                dialer: &self.dialer,
            };
            let bytes = match forward(&key, route, means).await {
                Ok(bytes) => bytes,
                Err(error @ (ForwardError::NoUpstream | ForwardError::Failed(_))) => {
                    tracing::debug!(%error, "question not answered upstream");
                    return None;
                }
            };
            let layout = Layout::of(&bytes)?;
            let answer = Arc::new(cache::Answer { bytes, layout });
            // What is cut is not all that there is.
            if let Some(terms) = ways.terms_of(name)
                && !crate::packet::is_cut(&answer.bytes)
            {
                let now = self.settings.read().unwrap_or_else(PoisonError::into_inner);
                // Whom nobody is led to any more has the last word of a question, but not of the next.
                if std::ptr::eq(&**now, settings) {
                    let mut kept = self.kept();
                    kept.put(key.clone(), &answer, &terms, Instant::now());
                    METRICS.kept(kept.len());
                }
            }
            Some(answer)
        };
        let answer = flight.get_or_init(|| asked).await;
        answer.clone().ok_or(ResponseCode::ServFail)
    }
}

/// Whether one more may wait for the same servers as so many already, when so many places are free.
fn has_place(free: usize, waits: usize) -> bool {
    free > LAST_PLACES || waits < FEW
}

/// What a template made; an alias that it ends with is followed.
fn templated(asked: &ClientQuery, made: TemplateAnswer) -> ImmediateReply {
    let kind = asked.question.kind;
    METRICS.made(kind);
    let mut message = Box::new(error(&asked.question.request, made.code));
    message.metadata.authoritative = true;
    let last = made.answers.last().map(|record| &record.data);
    let alias = match last {
        Some(RData::CNAME(target)) if matches!(kind, QueryType::A | QueryType::Aaaa) => {
            let mut target = target.0.clone();
            target.set_fqdn(true);
            Some(target)
        }
        _ => None,
    };
    message.answers = made.answers;
    message.authorities = made.authorities;
    message.additionals = made.additionals;
    match alias {
        Some(name) => ImmediateReply::Alias(message, name),
        None => ImmediateReply::Answer(message),
    }
}

/// Ends a flight when the one who waits has its answer, or waits no more and was the last.
struct Landing<'a> {
    answerer: &'a Answerer,
    key: &'a Key,
    flight: &'a Flight,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let flights = self.answerer.flights.lock();
        let mut flights = flights.unwrap_or_else(PoisonError::into_inner);
        // The table and this one hold it.
        let last = Arc::strong_count(self.flight) <= 2;
        let same = |f: &Flight| Arc::ptr_eq(f, self.flight);
        if (self.flight.initialized() || last) && flights.get(self.key).is_some_and(same) {
            flights.remove(self.key);
        }
    }
}

/// Whether an address lies in a network.
fn network_has((network, length): (IpAddr, u8), address: IpAddr) -> bool {
    let differs = |bits: u32, differ: u128| {
        let kept = u32::from(length).min(bits);
        kept > 0 && differ >> (bits - kept) != 0
    };
    match (network, address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => !differs(32, u128::from(a.to_bits() ^ b.to_bits())),
        (IpAddr::V6(a), IpAddr::V6(b)) => !differs(128, a.to_bits() ^ b.to_bits()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use api::corefile::Corefile;
    use hickory_proto::op::{MessageType, OpCode, Query};
    use hickory_proto::rr::RecordType;
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::*;

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

    /// The first address of the answer, and how many there are.
    fn asked(answerer: &Answerer, id: u16, kind: RecordType) -> (String, usize) {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        let name = Name::from_ascii("Many.default.svc.cluster.local.").expect("a name");
        message.queries.push(Query::query(name.clone(), kind));
        let bytes = message.to_vec().expect("encode");
        let from = (SocketAddr::from(([127, 0, 0, 1], 9)), true);
        let (_, handled) = answerer.handle(&bytes, from, Instant::now());
        let Handled::Done(Some(answer)) = handled else {
            panic!("it waits for others, or nobody gets an answer");
        };
        let answer = Message::from_vec(&answer).expect("decode");
        assert_eq!(answer.metadata.id, id);
        let first = answer.answers.first().expect("an address");
        assert_eq!(first.name.to_ascii(), name.to_ascii());
        (first.data.to_string(), answer.answers.len())
    }

    #[test]
    fn addresses_of_each_family_go_round_by_themselves_until_they_change() {
        let zone = Zone::new("cluster.local", 30, 5);
        let (settings, _) = Settings::of(&Corefile::default(), false, &zone, &[]);
        let means = (Random::seeded(1), Dialer::new(None));
        let answerer = Answerer::new(&zone, settings, Vec::new(), means);
        answerer.complete.store(true, Ordering::Release);
        let metadata = json!({"name": "many", "namespace": "default"});
        let service = json!({"metadata": metadata, "spec": {"clusterIP": "None"}});
        let service = serde_json::from_value(service).expect("a Service");
        let mut index = answerer.index.write().expect("the index");
        index.service_event(Event::Apply(service));
        drop(index);
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

    #[test]
    fn an_address_lies_in_a_network() {
        for (network, length, address, expected) in [
            ("10.244.0.0", 16, "10.244.3.4", true),
            ("10.244.0.0", 16, "10.245.3.4", false),
            ("0.0.0.0", 0, "203.0.113.1", true),
            ("192.0.2.1", 32, "192.0.2.1", true),
            ("192.0.2.1", 32, "192.0.2.0", false),
            ("fd00::", 8, "fd12::1", true),
            ("fd00::", 8, "2001:db8::1", false),
            ("::", 0, "10.0.0.1", false),
        ] {
            let network = (network.parse().expect("an address"), length);
            let address = address.parse().expect("an address");
            assert_eq!(
                network_has(network, address),
                expected,
                "{network:?} {address}"
            );
        }
    }
}
