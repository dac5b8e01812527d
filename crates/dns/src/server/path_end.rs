//! The end of a client's search path, for a name of it that does not exist: with it one question is
//! answered that would be followed by three others. Which names those are is known to `search_path`.
//!
//! What is inside is found at once. Of a name outside others are asked, and also whether the namespace
//! is called as a domain of theirs: for a client of another namespace the same question is the second
//! one of his path, about a longer name, and he must not get the address of a shorter one.

use std::sync::PoisonError;
use std::time::Duration;

use clock::Instant;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

use super::{Answerer, ImmediateReply};
use crate::answer::QueryType;
use crate::cache::CachedAnswer;
use crate::client_query::{ClientQuery, key_of, written};
use crate::message::{open_alias, response};
use crate::search_path::{alias, following};
use crate::settings::Settings;

/// At the end of a search path others are waited for so long: whoever asks has names left to ask for, and
/// asks for this one again before long (some C libraries after 2.5 seconds).
const PATH_WAIT: Duration = Duration::from_secs(2);

/// The end of a search path.
pub struct PathEnd {
    /// The answer where others have nothing.
    pub(super) absent: Message,
    /// The beginning of the answer where they have something.
    alias: Message,
    /// The name that they are asked about.
    name: Name,
    /// What another client may mean by the same question, and the last label of that.
    longer: Name,
    top: Name,
}

impl Answerer {
    /// What is said to a client that has been said something: where the name does not exist, what he
    /// would find in the end, going down his search path.
    pub(super) fn beyond(
        &self,
        settings: &Settings,
        asked: &ClientQuery,
        said: ImmediateReply,
    ) -> ImmediateReply {
        match said {
            ImmediateReply::Always(absent, None)
                if absent.metadata.response_code == ResponseCode::NXDomain =>
            {
                let found = self.path_end(settings, asked, &absent);
                found.unwrap_or(ImmediateReply::Always(absent, None))
            }
            said => said,
        }
    }

    /// The first name of a search path that stands for something, or may do so for others; none where
    /// each is to be asked for by itself. That depends on nothing but the settings and the state of names.
    fn path_end(
        &self,
        settings: &Settings,
        asked: &ClientQuery,
        absent: &Message,
    ) -> Option<ImmediateReply> {
        let kind = asked.question.kind;
        let (_, ways, _) = settings.ways(&asked.came_by)?;
        let zone = &ways.cluster()?.zone;
        // A name that a rule made is none of a client's path.
        let is_first = asked.came_by == asked.name && ways.has_path(&asked.name);
        if !is_first || !matches!(kind, QueryType::A | QueryType::Aaaa) {
            return None;
        }
        let following = {
            let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
            following(&index, zone, &asked.name)?
        };
        let named = |name: &str| Name::from_ascii(format!("{name}.")).ok();
        let longer = asked.led_to(named(&following.longer)?);
        let (_, led, _) = settings.ways(&longer.name)?;
        let is_plain = led.rewritten(&longer.name).is_none()
            && matches!(self.say(settings, &longer), ImmediateReply::Ask);
        if !is_plain {
            return None;
        }
        for target in following.names {
            let (_, ways, _) = settings.ways(&target)?;
            if ways.rewritten(&target).is_some() {
                return None;
            }
            let answer = alias(zone, &asked.name, &target);
            let name = open_alias(&answer, kind)?;
            let message = response(&asked.question, &answer, 0);
            let code = match self.say(settings, &asked.led_to(name.clone())) {
                ImmediateReply::Answer(said) | ImmediateReply::Always(said, _) => {
                    said.metadata.response_code
                }
                ImmediateReply::Alias(..) => ResponseCode::NoError,
                ImmediateReply::Path(_) => return None,
                ImmediateReply::Ask => {
                    // Who is asked about the longer name is asked about its last label: it cannot exist
                    // when that does not (RFC 8020).
                    let top = following.namespace.as_str();
                    let (_, above, _) = settings.ways(top)?;
                    let both = led.route(&longer.name).zip(above.route(top));
                    let is_one = both.is_some_and(|(one, other)| std::ptr::eq(one, other));
                    if !is_one || ways.route(&target)?.servers.is_empty() {
                        return None;
                    }
                    return Some(ImmediateReply::Path(Box::new(PathEnd {
                        absent: absent.clone(),
                        alias: message,
                        name,
                        longer: longer.question.query.name.clone(),
                        top: named(top)?,
                    })));
                }
            };
            match code {
                ResponseCode::NXDomain => {}
                // For this time alone: it is kept of others, not of names.
                ResponseCode::NoError if self.may_be_meant(settings, &longer) => {
                    return Some(ImmediateReply::Answer(Box::new(absent.clone())));
                }
                ResponseCode::NoError => {
                    return Some(ImmediateReply::Alias(Box::new(message), name));
                }
                _ => return None,
            }
        }
        None
    }

    /// The end of a search path as others know it; none where the name does not exist, where nobody
    /// answers in time, or where a longer name may be meant.
    pub(super) async fn outside(
        &self,
        settings: &Settings,
        end: &PathEnd,
        asked: &ClientQuery,
    ) -> Option<Message> {
        let target = asked.led_to(end.name.clone());
        let (_, ways, _) = settings.ways(&target.came_by)?;
        let servers = &ways.route(&target.name)?.servers;
        // While they are silent, whoever asks waits for them once, under the name's own question.
        let longer = asked.led_to(end.longer.clone());
        if self.failing.has_all(servers, Instant::now()) || self.may_be_meant(settings, &longer) {
            return None;
        }
        // Whether there is such a domain, and not which addresses it has: some resolvers pass no
        // question of one label on that is about addresses.
        let mut top = asked.led_to(end.top.clone());
        top.question.query.query_type = RecordType::SOA;
        top.written = written(top.question.query.clone());
        let top = self.of_others(settings, &top);
        let whole = self.follow(settings, end.alias.clone(), end.name.clone(), asked);
        match tokio::time::timeout(PATH_WAIT, futures::future::join(top, whole)).await {
            Ok(((_, ResponseCode::NXDomain), (whole, ResponseCode::NoError))) => Some(whole),
            _ => None,
        }
    }

    /// Whether a client may mean the longer name. Then it has been asked for just before, as the first
    /// one of his path: something is kept of it, or those who were asked are silent.
    fn may_be_meant(&self, settings: &Settings, longer: &ClientQuery) -> bool {
        let Some((block, ways, _)) = settings.ways(&longer.came_by) else {
            return false;
        };
        let now = Instant::now();
        let servers = ways
            .route(&longer.name)
            .map_or(&[][..], |route| &route.servers);
        let is_silent = !servers.is_empty() && self.failing.has_all(servers, now);
        let key = key_of(block, &longer.written, (None, false));
        is_silent || !matches!(self.kept().get(&key, now), CachedAnswer::Nothing)
    }
}
