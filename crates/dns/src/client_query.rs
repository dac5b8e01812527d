//! A client's question on its way through the server: under the name that is asked for now, which the
//! plugin `rewrite` may have changed; and its answer, in the words of whoever asked.

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::Name;

use crate::cache::{self, Kept, Key};
use crate::message::{Question, encode, error, limit};
use crate::packet::{Client, question_of};
use crate::recent::Said;
use crate::rewrite::RewrittenName;

/// A question with where it came from.
pub struct ClientQuery {
    /// What is asked for now; the request in it is as it came.
    pub question: Question,
    /// Its name without the final dot.
    pub name: String,
    /// The name by which it is led.
    pub came_by: String,
    /// As it is written, with type and class.
    pub written: Vec<u8>,
    /// How long the answer may be.
    limit: usize,
    rewritten: Option<RewrittenName>,
}

/// A question's name, type and class as they are written.
pub fn written(query: Query) -> Vec<u8> {
    let mut message = Message::new(
        0,
        hickory_proto::op::MessageType::Query,
        hickory_proto::op::OpCode::Query,
    );
    message.queries.push(query);
    let bytes = message.to_vec().unwrap_or_default();
    question_of(&bytes).unwrap_or_default().to_vec()
}

/// Under which an answer of others is kept.
pub fn key_of(
    block: usize,
    written: &[u8],
    (edns, checking_disabled): (Option<bool>, bool),
) -> Key {
    let mut question = written.to_vec();
    // Type and class are numbers, not letters.
    let letters = question.len().saturating_sub(4);
    if let Some(letters) = question.get_mut(..letters) {
        letters.make_ascii_lowercase();
    }
    Key {
        block,
        question,
        edns,
        checking_disabled,
    }
}

impl ClientQuery {
    /// Of a request's bytes; `stranger` as of [`limit`].
    pub fn new(question: Question, bytes: &[u8], by_udp: bool, stranger: Option<usize>) -> Self {
        let name = question.name.trim_end_matches('.').to_owned();
        Self {
            came_by: name.clone(),
            name,
            written: question_of(bytes).unwrap_or_default().to_vec(),
            limit: limit(&question.request, by_udp, stranger),
            question,
            rewritten: None,
        }
    }

    /// Asks for another name from now on. False when that is not a name.
    pub fn rename(&mut self, rewritten: RewrittenName) -> bool {
        let Ok(name) = Name::from_ascii(rewritten.name()) else {
            return false;
        };
        rewritten.name().clone_into(&mut self.question.name);
        rewritten
            .name()
            .trim_end_matches('.')
            .clone_into(&mut self.name);
        self.question.query.name = name;
        self.written = written(self.question.query.clone());
        self.rewritten = Some(rewritten);
        true
    }

    /// The question for the name that an alias in its answer leads to.
    pub fn led_to(&self, mut name: Name) -> Self {
        name.set_fqdn(true);
        let mut question = self.question.clone();
        question.name = name.to_lowercase().to_ascii();
        question.query.name = name;
        let name = question.name.trim_end_matches('.').to_owned();
        Self {
            came_by: name.clone(),
            name,
            written: written(question.query.clone()),
            limit: self.limit,
            question,
            rewritten: None,
        }
    }

    /// Whether EDNS is spoken and then whether signatures are wanted, and that they are not checked.
    pub fn wants(&self) -> (Option<bool>, bool) {
        let request = &self.question.request;
        let edns = request.edns.as_ref().map(|edns| edns.flags().dnssec_ok);
        (edns, request.metadata.checking_disabled)
    }

    /// Whether it may come again in the same bytes: what options of EDNS say, such as cookies, is
    /// something else each time.
    pub fn may_come_again(&self) -> bool {
        let edns = self.question.request.edns.as_ref();
        edns.is_none_or(|edns| edns.options().options.is_empty())
    }

    /// What is said to it the next time, where an answer of others is passed on as it is; the one of
    /// now began with the address of this number.
    pub fn said_by_others(&self, kept: Kept, turn: usize) -> Option<Said> {
        let limit = self.limit;
        let as_it_is = self.rewritten.is_none();
        as_it_is.then_some(Said::Others { kept, limit, turn })
    }

    /// The bytes of an answer of this server's.
    pub fn encoded(&self, mut message: Message) -> Option<Vec<u8>> {
        if let Some(rewritten) = &self.rewritten {
            rewritten.revert(&mut message);
            message.queries.clone_from(&self.question.request.queries);
            // Letters of names are repeated as they were written: some clients compare them.
            let asked = message.queries.first().map(|query| query.name.clone());
            for record in &mut message.answers {
                if let Some(asked) = asked.as_ref().filter(|asked| record.name == **asked) {
                    record.name = asked.clone();
                }
            }
        }
        encode(message, self.limit)
    }

    /// An answer of others, in this one's words; `times` as of [`crate::packet::Layout::serve`], and
    /// which address is the first by `turn`.
    pub fn served(
        &self,
        answer: &cache::Answer,
        times: (u32, u32),
        turn: usize,
    ) -> Option<Vec<u8>> {
        let request = &self.question.request;
        let client = |limit| Client {
            id: request.metadata.id,
            question: &self.written,
            recursion_desired: request.metadata.recursion_desired,
            limit,
            turn,
        };
        let serve = |limit| answer.layout.serve(&answer.bytes, &client(limit), times);
        if self.rewritten.is_none() {
            return Some(serve(self.limit));
        }
        // Names are longer or shorter then: all of it is taken apart.
        let whole = Message::from_vec(&serve(usize::MAX));
        self.encoded(whole.unwrap_or_else(|_| error(request, ResponseCode::ServFail)))
    }
}
