//! The sockets: questions in, answers out. What is known here is answered at once; other questions
//! wait for those who know, a bounded number at a time, and the same question once.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use api::corefile::is_within;
use clock::{Instant, Random};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, Record};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OnceCell, Semaphore};
use wire::serve::{Connections, Limits, serve_streams};

use crate::answer::{QueryType, Zone, answer, reverse_address};
use crate::cache::{self, Cache, CachedAnswer, Key};
use crate::client_query::{ClientQuery, key_of};
use crate::forward::{Failing, ForwardContext, ForwardError, forward, read_framed, write_framed};
use crate::index::Index;
use crate::message::{Refusal, error, open_alias, question, response};
use crate::metrics::{CountedQuestion, METRICS};
use crate::packet::{Client, Layout};
use crate::recent::Recent;
use crate::settings::{Led, Settings, Ways};
use crate::template::{TemplateAnswer, TemplateOutcome};
use crate::tls::Dialer;

/// So many questions at most wait for others; more are refused at once. At two kilobytes and a socket
/// each this stays far below the usual limit of descriptors.
const FORWARDED_AT_ONCE: usize = 512;
/// So many TCP connections at most are open; one more ends one of the address that has most, so that
/// a pod that holds many takes none of the others'. Each has at most a question and an answer of
/// 64 KiB in memory.
const CONNECTIONS: usize = 256;
/// A connection that has not brought a whole question, or taken its answer, for this long is closed.
const IDLE_SECONDS: u64 = 10;
/// No question is longer than this, by UDP or TCP: a name has 255 bytes.
const QUESTION_BYTES: usize = 4096;
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

/// What can be said at once.
enum ImmediateReply {
    /// The answer.
    Answer(Box<Message>),
    /// The answer until something changes of what names stand for.
    Always(Box<Message>),
    /// The beginning of an answer, to which the addresses of this name belong.
    Alias(Box<Message>, Name),
    /// Others are to be asked.
    Ask,
}

/// What becomes of a request.
enum Handled {
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
            Led::Listed(answer) => {
                let turn = self.next_turn();
                return ImmediateReply::Answer(Box::new(response(&asked.question, &answer, turn)));
            }
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
        let turn = self.next_turn();
        let message = Box::new(response(&asked.question, &found, turn));
        // Several records go round.
        let always = found.answers.len() <= 1 && found.additional.len() <= 1;
        match open_alias(&found, kind) {
            Some(name) => ImmediateReply::Alias(message, name),
            None if always => ImmediateReply::Always(message),
            None => ImmediateReply::Answer(message),
        }
    }

    /// Answers a request, as far as that needs nobody else.
    fn handle(
        &self,
        bytes: &[u8],
        from: SocketAddr,
        by_udp: bool,
    ) -> (Option<CountedQuestion>, Handled) {
        let stranger = !self.trusts(from.ip());
        let (state, manner) = (self.state.load(Ordering::Acquire), (by_udp, stranger));
        let known = self.recent().get(state, manner, bytes);
        if let Some((kind, answer)) = known {
            let taken = METRICS.asked(kind, by_udp, from.is_ipv4(), bytes.len());
            return (Some(taken), Handled::Done(Some(answer)));
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
            ImmediateReply::Always(message) => {
                let answer = asked.encoded(*message);
                if let Some(answer) = &answer {
                    let said = (asked.question.kind, answer.as_slice());
                    self.recent().keep(state, manner, bytes, said);
                }
                Handled::Done(answer)
            }
            said => match self.fresh(&settings, &asked, &said) {
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

    /// What others said, if it is kept and still good: nobody has to wait for that.
    fn fresh(
        &self,
        settings: &Settings,
        asked: &ClientQuery,
        said: &ImmediateReply,
    ) -> Option<Vec<u8>> {
        if !matches!(said, ImmediateReply::Ask) {
            return None;
        }
        let (block, ways, _) = settings.ways(&asked.came_by)?;
        ways.terms.as_ref()?;
        let key = key_of(block, &asked.written, asked.wants());
        match self.kept().get(&key, Instant::now()) {
            CachedAnswer::Fresh(answer, age_seconds) => {
                METRICS.looked(true);
                asked.served(&answer, (age_seconds, 0), self.next_turn())
            }
            _ => None,
        }
    }

    /// Goes on where others are needed.
    async fn go_on(&self, asked: ClientQuery, said: ImmediateReply) -> Option<Vec<u8>> {
        let request = &asked.question.request;
        let settings = self.settings();
        match said {
            ImmediateReply::Answer(message) | ImmediateReply::Always(message) => {
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
                ImmediateReply::Answer(more) | ImmediateReply::Always(more) => {
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
        let kept = match ways.terms {
            Some(_) => self.kept().get(&key, Instant::now()),
            None => CachedAnswer::Nothing,
        };
        match kept {
            CachedAnswer::Fresh(answer, age_seconds) => {
                METRICS.looked(true);
                Ok((answer, (age_seconds, 0)))
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
        let (Ok(_all), Ok(_own)) = (self.forwarded.try_acquire(), route.waiting.try_acquire())
        else {
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

/// Counts an answer, if there was a question.
fn note(taken: Option<CountedQuestion>, answer: Option<&[u8]>, start: Instant) {
    if let Some(taken) = taken {
        taken.answered(answer, start.elapsed());
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

/// Serves questions by UDP until dropped.
pub async fn serve_udp(socket: UdpSocket, answerer: Arc<Answerer>) {
    let socket = Arc::new(socket);
    let mut buffer = vec![0; QUESTION_BYTES];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An answer to somebody could not be delivered.
            Err(_) => continue,
        };
        let start = Instant::now();
        let bytes = buffer.get(..length).unwrap_or_default();
        let (taken, handled) = answerer.handle(bytes, from, true);
        match handled {
            Handled::Done(answer) => {
                note(taken, answer.as_deref(), start);
                if let Some(answer) = answer {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
            // Each waits for others by itself; `Answerer` bounds how many do.
            Handled::Waits(asked, said) => {
                let (socket, answerer) = (Arc::clone(&socket), Arc::clone(&answerer));
                tokio::spawn(async move {
                    let answer = answerer.go_on(*asked, said).await;
                    note(taken, answer.as_deref(), start);
                    if let Some(answer) = answer {
                        let _ = socket.send_to(&answer, from).await;
                    }
                });
            }
        }
    }
}

/// Serves questions by TCP until dropped; the connections end with it.
pub async fn serve_tcp(listener: TcpListener, answerer: Arc<Answerer>) {
    let room = Connections::new(Limits::of_strangers(CONNECTIONS));
    let handle = move |stream| connection(stream, Arc::clone(&answerer));
    serve_streams(room, listener, handle).await;
}

async fn connection(mut stream: TcpStream, answerer: Arc<Answerer>) {
    let idle = Duration::from_secs(IDLE_SECONDS);
    let Ok(from) = stream.peer_addr() else { return };
    while let Ok(Ok(bytes)) = tokio::time::timeout(idle, read_framed(&mut stream)).await {
        if bytes.len() > QUESTION_BYTES {
            return;
        }
        let start = Instant::now();
        let (taken, handled) = answerer.handle(&bytes, from, false);
        let answer = match handled {
            Handled::Done(answer) => answer,
            Handled::Waits(asked, said) => answerer.go_on(*asked, said).await,
        };
        note(taken, answer.as_deref(), start);
        let Some(answer) = answer else { return };
        match tokio::time::timeout(idle, write_framed(&mut stream, &answer)).await {
            Ok(Ok(())) => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
