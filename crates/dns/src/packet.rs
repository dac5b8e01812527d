//! An answer of somebody else as bytes: where its records lie, how long it may be believed, and the
//! same bytes for another client: with his identifier, an age, and cut to what he takes. Pure.
//!
//! Records are passed on as they are, also of types that nobody here knows.

/// The bytes before the question.
const HEADER_BYTES: usize = 12;
/// The record of EDNS, whose time to live is none.
const OPT: u16 = 41;
/// The zone's record, whose last number says how long absence is believed.
const SOA: u16 = 6;
/// The records of addresses.
const ADDRESSES: [u16; 2] = [1, 28];
/// A name is not longer.
const NAME_BYTES: usize = 255;
/// A name of an answer goes on elsewhere so many times at most.
const REFERENCES: usize = 64;
/// So many records of one answer are looked at; one of 64 KiB has fewer.
const RECORDS: usize = 6000;

/// No message is longer: so much can be said before one by TCP. Places in it are kept in two bytes,
/// since there are thousands of answers.
const MESSAGE_BYTES: usize = 65_535;

/// A record's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RecordLocation {
    start: u16,
    end: u16,
    /// Where its four bytes of time to live are.
    ttl_at: u16,
    kind: u16,
}

/// Where things lie in an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The end of the question.
    question_end: usize,
    /// Answers, authorities, additional records, one behind the other.
    records: Box<[RecordLocation]>,
    /// How many of them are answers, and how many are answers or authorities.
    ends: [usize; 2],
    /// Where the addresses lie that the answer gives one name: several, or none.
    addresses: Box<[(u16, u16)]>,
}

impl RecordLocation {
    fn start(&self) -> usize {
        self.start.into()
    }

    fn end(&self) -> usize {
        self.end.into()
    }

    fn ttl_at(&self) -> usize {
        self.ttl_at.into()
    }

    /// Where that lies what it says: behind the time to live and the length.
    fn data(&self) -> (u16, u16) {
        (self.ttl_at.saturating_add(6), self.end)
    }
}

/// What an answer is to whoever keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerKind {
    /// Records, believed so many seconds.
    Success(u32),
    /// That there is nothing, believed so many seconds where the zone says.
    Denial(Option<u32>),
    /// That somebody could not answer.
    Failure,
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(two.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(four.try_into().ok()?))
}

/// The place behind a name; one that goes on elsewhere ends with the reference.
fn behind_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xc0 == 0xc0 => return Some(at + 2),
            length if length & 0xc0 == 0 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

/// The labels of a name that begins here, in lower case.
fn name_at(bytes: &[u8], mut at: usize) -> Option<Vec<u8>> {
    let (mut name, mut references) = (Vec::new(), 0);
    loop {
        let length = *bytes.get(at)?;
        match length {
            0 => return Some(name),
            length if length & 0xc0 == 0xc0 => {
                references += 1;
                at = usize::from(number(bytes, at)? & 0x3fff);
                if references > REFERENCES {
                    return None;
                }
            }
            length if length & 0xc0 == 0 => {
                let end = at + 1 + usize::from(length);
                name.extend(bytes.get(at..end)?.to_ascii_lowercase());
                at = end;
                if name.len() > NAME_BYTES {
                    return None;
                }
            }
            _ => return None,
        }
    }
}

/// Where the addresses lie that records give the name of the first such record, if there are several.
fn addresses(bytes: &[u8], answers: &[RecordLocation]) -> Vec<(u16, u16)> {
    let is_address = |r: &&RecordLocation| ADDRESSES.contains(&r.kind);
    let Some(first) = answers.iter().find(is_address) else {
        return Vec::new();
    };
    let name = name_at(bytes, first.start());
    let same = |r: &&RecordLocation| {
        r.kind == first.kind && name.is_some() && name_at(bytes, r.start()) == name
    };
    let same = answers.iter().filter(same);
    let found: Vec<_> = same.map(RecordLocation::data).collect();
    match found.len() {
        0 | 1 => Vec::new(),
        _ => found,
    }
}

impl Layout {
    /// Of an answer to one question; `None` when it is none.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let is_answer = bytes.get(2)? & 0x80 != 0;
        if !is_answer || number(bytes, 4)? != 1 || bytes.len() > MESSAGE_BYTES {
            return None;
        }
        let question_end = behind_name(bytes, HEADER_BYTES)? + 4;
        let mut at = question_end;
        let mut records = Vec::new();
        let mut counts = [0; 3];
        for (index, count) in counts.iter_mut().enumerate() {
            *count = usize::from(number(bytes, 6 + 2 * index)?);
            for _ in 0..*count {
                let named = behind_name(bytes, at)?;
                let end = named + 10 + usize::from(number(bytes, named + 8)?);
                if end > bytes.len() || records.len() >= RECORDS {
                    return None;
                }
                records.push(RecordLocation {
                    start: u16::try_from(at).ok()?,
                    end: u16::try_from(end).ok()?,
                    ttl_at: u16::try_from(named + 4).ok()?,
                    kind: number(bytes, named)?,
                });
                at = end;
            }
        }
        let [answers, authorities, _] = counts;
        let addresses = addresses(bytes, records.get(..answers)?);
        Some(Self {
            question_end,
            records: records.into(),
            ends: [answers, answers + authorities],
            addresses: addresses.into(),
        })
    }

    /// Answers, authorities, additional records.
    fn sections(&self) -> [&[RecordLocation]; 3] {
        let [answers, authorities] = self.ends;
        let all = &self.records;
        let part = |from: usize, to: usize| all.get(from..to).unwrap_or_default();
        [
            part(0, answers),
            part(answers, authorities),
            part(authorities, all.len()),
        ]
    }

    /// Where that lies what the answers say.
    pub fn answers(&self) -> impl Iterator<Item = (usize, usize)> {
        let [answers, ..] = self.sections();
        answers.iter().map(|record| {
            let (start, end) = record.data();
            (start.into(), end.into())
        })
    }

    fn records(&self) -> impl Iterator<Item = &RecordLocation> {
        self.records.iter().filter(|p| p.kind != OPT)
    }

    /// What the answer says, and for how long.
    pub fn kind(&self, bytes: &[u8]) -> AnswerKind {
        let [answers, authorities, _] = self.sections();
        let ttl = |place: &RecordLocation| long(bytes, place.ttl_at());
        let least = self.records().filter_map(ttl).min();
        match bytes.get(3).map(|flags| flags & 0x0f) {
            Some(0) if !answers.is_empty() => AnswerKind::Success(least.unwrap_or(0)),
            Some(0 | 3) => {
                let zone = authorities.iter().find(|p| p.kind == SOA);
                let believed = zone.and_then(|p| {
                    let minimum = long(bytes, p.end().checked_sub(4)?)?;
                    Some(minimum.min(ttl(p)?))
                });
                AnswerKind::Denial(believed)
            }
            _ => AnswerKind::Failure,
        }
    }

    /// The question's type and class alone are looked at by who compares; its name by itself.
    pub fn question<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        bytes
            .get(HEADER_BYTES..self.question_end)
            .unwrap_or_default()
    }

    /// The answer for a client: his identifier and question, `age_seconds` older, and no longer than
    /// `limit`. `least_seconds` is what records are believed at least, for those that are older than
    /// they should be.
    pub fn serve(
        &self,
        bytes: &[u8],
        client: &Client<'_>,
        (age_seconds, least_seconds): (u32, u32),
    ) -> Vec<u8> {
        let (mut answer, end) = match bytes.len() <= client.limit {
            true => (bytes.to_vec(), bytes.len()),
            false => self.cut(bytes, client.limit),
        };
        self.turn(bytes, (answer.as_mut_slice(), end), client.turn);
        for place in self.records() {
            let at = place.ttl_at();
            let old = long(bytes, at).unwrap_or(0);
            let new = old.saturating_sub(age_seconds).max(old.min(least_seconds));
            if place.end() <= end
                && let Some(ttl) = answer.get_mut(at..at + 4)
            {
                ttl.copy_from_slice(&new.to_be_bytes());
            }
        }
        if let Some(id) = answer.get_mut(..2) {
            id.copy_from_slice(&client.id.to_be_bytes());
        }
        // Recursion is desired or not by this client.
        if let Some(flags) = answer.get_mut(2) {
            *flags = *flags & !1 | u8::from(client.recursion_desired);
        }
        // Letters of names are repeated as they were written: some clients compare them.
        let question = answer.get_mut(HEADER_BYTES..self.question_end);
        if let Some(question) = question
            && question.eq_ignore_ascii_case(client.question)
        {
            question.copy_from_slice(client.question);
        }
        answer
    }

    /// Turns the addresses of an answer that ends there, so that clients that take the first one
    /// spread. The records stay where they are: names of others may refer to theirs.
    fn turn(&self, bytes: &[u8], (answer, end): (&mut [u8], usize), by: usize) {
        let there = self.addresses.iter();
        let there = there.map(|(from, to)| usize::from(*from)..usize::from(*to));
        let there: Vec<_> = there.filter(|place| place.end <= end).collect();
        for (index, place) in there.iter().enumerate() {
            let other = (index + by % there.len()) % there.len();
            if let Some(other) = there.get(other)
                && let Some(address) = bytes.get(other.clone())
                && let Some(place) = answer.get_mut(place.clone())
                && place.len() == address.len()
            {
                place.copy_from_slice(address);
            }
        }
    }

    /// The answers that fit, and the mark that there are more; and where they end.
    fn cut(&self, bytes: &[u8], limit: usize) -> (Vec<u8>, usize) {
        let [answers, _, additional] = self.sections();
        let options = additional.iter().find(|p| p.kind == OPT);
        let options = options.and_then(|p| bytes.get(p.start()..p.end()));
        let options = options.unwrap_or_default();
        let room = limit.saturating_sub(options.len());
        let kept = answers.iter().take_while(|p| p.end() <= room);
        let (mut count, mut end) = (0u16, self.question_end);
        for place in kept {
            count = count.saturating_add(1);
            end = place.end();
        }
        let mut answer = bytes.get(..end).unwrap_or_default().to_vec();
        answer.extend_from_slice(options);
        if let Some(flags) = answer.get_mut(2) {
            *flags |= 0x02;
        }
        let additional = u16::from(!options.is_empty());
        if let Some(counts) = answer.get_mut(6..HEADER_BYTES) {
            let [a, b] = count.to_be_bytes();
            let [c, d] = additional.to_be_bytes();
            counts.copy_from_slice(&[a, b, 0, 0, c, d]);
        }
        (answer, end)
    }
}

/// For whom an answer is.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// His identifier.
    pub id: u16,
    /// His question as he wrote it, with type and class.
    pub question: &'a [u8],
    /// What he said of recursion.
    pub recursion_desired: bool,
    /// The longest answer that he takes, in bytes.
    pub limit: usize,
    /// Which of several addresses is the first.
    pub turn: usize,
}

/// Whether the answer was cut by who sent it.
pub fn is_cut(bytes: &[u8]) -> bool {
    bytes.get(2).is_some_and(|flags| flags & 0x02 != 0)
}

/// The question of a message, as it is written: its name, type and class; `None` if there is none.
pub fn question_of(bytes: &[u8]) -> Option<&[u8]> {
    bytes.get(HEADER_BYTES..behind_name(bytes, HEADER_BYTES)? + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name of the question, or a reference to it.
    const NAME: &[u8] = b"\x01a\x07example\0";
    const SAME: &[u8] = &[0xc0, 12];

    fn record(kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
        let mut record = SAME.to_vec();
        record.extend(kind.to_be_bytes());
        record.extend([0, 1]);
        record.extend(ttl.to_be_bytes());
        record.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        record.extend(data);
        record
    }

    fn options() -> Vec<u8> {
        vec![0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]
    }

    fn message(code: u8, sections: [&[Vec<u8>]; 3]) -> Vec<u8> {
        let mut bytes = vec![7, 7, 0x81, 0x80 | code, 0, 1];
        for section in sections {
            bytes.extend(u16::try_from(section.len()).unwrap().to_be_bytes());
        }
        bytes.extend(NAME);
        bytes.extend([0, 1, 0, 1]);
        sections.iter().for_each(|s| bytes.extend(s.concat()));
        bytes
    }

    fn client(limit: usize) -> Client<'static> {
        Client {
            id: 0x0102,
            question: b"\x01A\x07eXample\0\0\x01\0\x01",
            recursion_desired: false,
            limit,
            turn: 0,
        }
    }

    #[test]
    fn an_answer_is_believed_as_long_as_its_shortest_record() {
        let soa = |ttl, minimum: u32| {
            let mut data = vec![0, 0];
            data.extend([0; 16]);
            data.extend(minimum.to_be_bytes());
            record(SOA, ttl, &data)
        };
        let (long, short) = (
            record(1, 300, &[192, 0, 2, 1]),
            record(1, 60, &[192, 0, 2, 2]),
        );
        for (bytes, expected) in [
            (
                message(0, [&[long.clone(), short.clone()], &[], &[options()]]),
                AnswerKind::Success(60),
            ),
            (
                message(0, [std::slice::from_ref(&long), &[short], &[]]),
                AnswerKind::Success(60),
            ),
            (
                message(3, [&[], &[soa(900, 30)], &[]]),
                AnswerKind::Denial(Some(30)),
            ),
            (
                message(0, [&[], &[soa(20, 30)], &[]]),
                AnswerKind::Denial(Some(20)),
            ),
            (message(3, [&[], &[], &[]]), AnswerKind::Denial(None)),
            (message(2, [&[], &[], &[]]), AnswerKind::Failure),
            (
                message(5, [std::slice::from_ref(&long), &[], &[]]),
                AnswerKind::Failure,
            ),
        ] {
            let layout = Layout::of(&bytes).unwrap();
            assert_eq!(layout.kind(&bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn it_is_served_older_under_the_clients_own_words() {
        let bytes = message(0, [&[record(1, 300, &[192, 0, 2, 1])], &[], &[options()]]);
        let layout = Layout::of(&bytes).unwrap();
        for (times, expected) in [((100, 0), 200), ((1000, 0), 0), ((1000, 30), 30)] {
            let served = layout.serve(&bytes, &client(1232), times);
            assert_eq!(served.len(), bytes.len());
            assert_eq!(served[..4], [1, 2, 0x80, 0x80]);
            assert_eq!(question_of(&served), Some(client(0).question));
            let again = Layout::of(&served).unwrap();
            assert_eq!(again.kind(&served), AnswerKind::Success(expected));
            // What the record of EDNS has there are flags.
            assert_eq!(served[served.len() - 11..], options());
        }
    }

    #[test]
    fn addresses_go_round_and_names_stay() {
        let address = |n| record(1, 300, &[192, 0, 2, n]);
        // An alias first, whose name is the question's; the addresses' is written out once.
        let alias = record(5, 300, b"\x01b\0");
        let mut first = b"\x01b\0".to_vec();
        first.extend(&address(1)[2..]);
        let at = 12 + NAME.len() + 4 + alias.len();
        let again = |n| {
            let mut again = vec![0xc0, u8::try_from(at).unwrap()];
            again.extend(&address(n)[2..]);
            again
        };
        let bytes = message(0, [&[alias, first, again(2), again(3)], &[], &[options()]]);
        let layout = Layout::of(&bytes).unwrap();
        let served = |turn, limit| {
            let client = Client {
                turn,
                ..client(limit)
            };
            let served = layout.serve(&bytes, &client, (0, 0));
            let places = Layout::of(&served).unwrap();
            let last = |(_, end): (usize, usize)| served[end - 1];
            places.answers().skip(1).map(last).collect::<Vec<_>>()
        };
        assert_eq!(served(0, 1232), [1, 2, 3]);
        assert_eq!(served(1, 1232), [2, 3, 1]);
        assert_eq!(served(5, 1232), [3, 1, 2]);
        // Those that fit.
        assert_eq!(served(1, bytes.len() - 1), [2, 1]);
        let other = message(0, [&[address(1), again(2)], &[], &[]]);
        let other = Layout::of(&other).map(|layout| layout.addresses);
        assert_eq!(other, Some(Box::default()), "of two names");
    }

    #[test]
    fn what_is_too_long_is_cut_between_records() {
        let records: Vec<_> = (0..40).map(|n| record(1, 300, &[192, 0, 2, n])).collect();
        let bytes = message(0, [&records, &records, &[options()]]);
        let layout = Layout::of(&bytes).unwrap();
        for limit in [512, 300, 40, 0] {
            let served = layout.serve(&bytes, &client(limit), (10, 0));
            assert!(
                served.len() <= limit.max(12 + NAME.len() + 4 + 11),
                "{limit}"
            );
            assert!(is_cut(&served) && !is_cut(&bytes));
            let again = Layout::of(&served).unwrap();
            let fit = limit.saturating_sub(12 + NAME.len() + 4 + 11) / 16;
            assert_eq!(again.sections().map(<[_]>::len), [fit, 0, 1], "{limit}");
        }
    }

    #[test]
    fn what_is_no_answer_has_no_layout() {
        let bytes = message(0, [&[record(1, 300, &[192, 0, 2, 1])], &[], &[options()]]);
        for length in 0..bytes.len() {
            assert_eq!(Layout::of(&bytes[..length]), None, "{length}");
        }
        let mut question = bytes.clone();
        question[2] &= 0x7f;
        assert_eq!(Layout::of(&question), None);
    }
}
