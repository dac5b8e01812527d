//! From a question's bytes to an answer's. What is known here is answered at once; other questions
//! wait for those who know, a bounded number at a time, and the same question once. It knows no
//! sockets of clients. `path_end` goes down search paths.

mod path_end;

use std::collections::HashMap;
use std::net::SocketAddr;
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
use crate::trusted::Trusted;

use path_end::PathEnd;

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
    trusted: Trusted,
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
    /// The name does not exist, and whoever asks will ask others for another one.
    Path(Box<PathEnd>),
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
        trusted: Trusted,
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
        let stranger = !self.trusted.has(from.ip());
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
            true => self.beyond(&settings, &asked, self.say(&settings, &asked)),
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
                let (whole, _) = self.follow(&settings, *message, name, &asked).await;
                asked.encoded(whole)
            }
            ImmediateReply::Path(end) => {
                let found = self.outside(&settings, &end, &asked).await;
                asked.encoded(found.unwrap_or(end.absent))
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
    /// simple resolvers do not ask again. Gives what was said of that name, too.
    async fn follow(
        &self,
        settings: &Settings,
        mut message: Message,
        name: Name,
        asked: &ClientQuery,
    ) -> (Message, ResponseCode) {
        let mut next = asked.led_to(name);
        for _ in 0..ALIASES {
            let to = &next.question.query.name;
            // It leads in a circle.
            if message.answers.iter().any(|record| record.name == *to) {
                break;
            }
            match self.say(settings, &next) {
                ImmediateReply::Answer(more) | ImmediateReply::Always(more, _) => {
                    let code = more.metadata.response_code;
                    message.answers.extend(more.answers);
                    return (message, code);
                }
                ImmediateReply::Alias(more, name) => {
                    message.answers.extend(more.answers);
                    next = next.led_to(name);
                }
                // Only clients have search paths.
                ImmediateReply::Path(end) => return (message, end.absent.metadata.response_code),
                ImmediateReply::Ask => {
                    let (more, code) = self.of_others(settings, &next).await;
                    message.answers.extend(more);
                    return (message, code);
                }
            }
        }
        (message, ResponseCode::ServFail)
    }

    /// The records that others have of a name to which an alias leads.
    async fn of_others(
        &self,
        settings: &Settings,
        asked: &ClientQuery,
    ) -> (Vec<Record>, ResponseCode) {
        let names = (asked.name.as_str(), asked.name.as_str());
        let got = self.ask(settings, names, &asked.written, (None, false));
        let (answer, times) = match got.await {
            Ok(got) => got,
            Err(code) => return (Vec::new(), code),
        };
        let client = Client {
            id: 0,
            question: &asked.written,
            recursion_desired: true,
            limit: usize::MAX,
            turn: self.next_turn(),
        };
        let bytes = answer.layout.serve(&answer.bytes, &client, times);
        match Message::from_vec(&bytes) {
            Ok(more) => (more.answers, more.metadata.response_code),
            Err(_) => (Vec::new(), ResponseCode::ServFail),
        }
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

#[cfg(test)]
mod tests;
