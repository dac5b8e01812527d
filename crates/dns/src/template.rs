//! Answers that are made of the names that are asked for: the plugin `template`. Pure.

use std::str::FromStr;

use api::corefile::{Piece, RecordText, Template, is_within};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// How long a record is believed that does not say so.
const TTL_SECONDS: u32 = 3600;

/// What templates make of a question.
#[derive(Debug, PartialEq, Eq)]
pub enum TemplateOutcome {
    /// They are not for it.
    Nothing,
    /// One is for it and does not know the name, or says so itself.
    Failure,
    /// One is for it, and what it makes is not a record.
    Unreadable,
    /// An answer.
    Answer(Box<TemplateAnswer>),
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct TemplateAnswer {
    /// What came of it.
    pub code: ResponseCode,
    /// The records.
    pub answers: Vec<Record>,
    /// Those about who knows.
    pub authorities: Vec<Record>,
    /// Those that help.
    pub additionals: Vec<Record>,
}

/// Asks the templates of a block about a name in lower case, without its final dot. `zones` are those
/// of the block.
pub fn make(
    templates: &[Template],
    zones: &[String],
    name: &str,
    kind: RecordType,
) -> TemplateOutcome {
    for template in templates {
        let own = match template.zones.as_slice() {
            [] => zones,
            own => own,
        };
        let inside = own.iter().filter(|zone| is_within(name, zone));
        let Some(zone) = inside.max_by_key(|zone| zone.len()) else {
            continue;
        };
        let is_other = |wanted: &String| RecordType::from_str(wanted).ok() != Some(kind);
        if kind != RecordType::ANY && template.kind.as_ref().is_some_and(is_other) {
            continue;
        }
        let full = format!("{name}.");
        let mut patterns = template.patterns.iter();
        let found = patterns.find_map(|pattern| pattern.regex().captures(&full));
        if found.is_none() && !template.patterns.is_empty() {
            match template.falls.has(name) {
                true => continue,
                false => return TemplateOutcome::Failure,
            }
        }
        let code = ResponseCode::from_low(template.code);
        if code == ResponseCode::ServFail {
            return TemplateOutcome::Failure;
        }
        let group = |group: &str| match (&found, group.parse::<usize>()) {
            (Some(found), Ok(number)) => found.get(number).map_or("", |g| g.as_str()),
            (Some(found), Err(_)) => found.name(group).map_or("", |g| g.as_str()),
            (None, Ok(0)) => full.as_str(),
            (None, _) => "",
        };
        let kind = match (kind, &template.kind) {
            (RecordType::ANY, Some(own)) => own.clone(),
            _ => kind.to_string(),
        };
        let fill = |piece: &Piece| -> Option<String> {
            Some(match piece {
                Piece::Text(text) => text.clone(),
                Piece::Name => full.clone(),
                Piece::Zone => format!("{zone}."),
                Piece::Class => "IN".to_owned(),
                Piece::Type => kind.clone(),
                Piece::Group(name) => group(name).to_owned(),
                Piece::Number(name, base) => {
                    u64::from_str_radix(group(name), *base).ok()?.to_string()
                }
            })
        };
        let records = |texts: &[RecordText]| -> Option<Vec<Record>> {
            let record = |text: &RecordText| {
                let filled: Option<String> = text.0.iter().map(fill).collect();
                record_of(&filled?)
            };
            texts.iter().map(record).collect()
        };
        let (Some(answers), Some(authorities), Some(additionals)) = (
            records(&template.answers),
            records(&template.authorities),
            records(&template.additionals),
        ) else {
            return TemplateOutcome::Unreadable;
        };
        return TemplateOutcome::Answer(Box::new(TemplateAnswer {
            code,
            answers,
            authorities,
            additionals,
        }));
    }
    TemplateOutcome::Nothing
}

/// The first word of a text, and the rest.
fn word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// A record as zone files have it: a name, perhaps a time to live and a class, a type and what it says.
fn record_of(text: &str) -> Option<Record> {
    let (name, mut rest) = word(text)?;
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    let mut ttl = TTL_SECONDS;
    loop {
        let (next, behind) = word(rest)?;
        rest = behind;
        if let Ok(seconds) = next.parse() {
            ttl = seconds;
            continue;
        }
        let next = next.to_ascii_uppercase();
        if next == "IN" {
            continue;
        }
        let kind = RecordType::from_str(&next).ok()?;
        let data = RData::try_from_str(kind, rest).ok()?;
        return Some(Record::from_rdata(name, ttl, data));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::corefile::{Corefile, Falls};

    fn templates(text: &str) -> Vec<Template> {
        let file = Corefile::parse(&format!(". {{\n{text}\n}}")).expect("a Corefile");
        assert_eq!(file.warnings, Vec::<String>::new());
        file.blocks[0].templates.clone()
    }

    /// What is made of a question, in words.
    fn said(templates: &[Template], name: &str, kind: RecordType) -> String {
        match make(templates, &[String::new()], name, kind) {
            TemplateOutcome::Answer(answer) => {
                let all = [&answer.answers, &answer.authorities, &answer.additionals];
                let records = all.into_iter().flatten();
                let words = |r: &Record| format!("{} {} {}", r.name.to_ascii(), r.ttl, r.data);
                let words: Vec<String> = records.map(words).collect();
                format!("{:?} {}", u16::from(answer.code), words.join(", "))
            }
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn answers_hold_what_the_name_holds() {
        let all = templates(
            "template IN A example {
               match (^|[.])ip-(?P<a>[0-9]*)-(?P<b>[0-9]*)-(?P<c>[0-9]*)-(?P<d>[0-9]*)[.]example[.]$
               answer \"{{ .Name }} 60 IN A {{ .Group.a }}.{{ .Group.b }}.{{ .Group.c }}.{{ .Group.d }}\"
               additional \"ns.example. IN A 192.0.2.53\"
               fallthrough
             }
             template IN A hex.example {
               match \"^ip(?P<d>[0-9a-f]{2})[.]hex\"
               answer \"{{ .Name }} 60 {{ .Class }} {{ .Type }} 10.0.0.{{ parseInt .Group.d 16 8 }}\"
             }
             template ANY ANY invalid {
               rcode NXDOMAIN
               authority \"{{ .Zone }} 60 {{ .Class }} SOA ns.invalid. hostmaster.invalid. (1 60 60 60 60)\"
             }",
        );
        assert_eq!(all[0].falls, Falls::Always);
        let a = RecordType::A;
        for (name, kind, expected) in [
            (
                "ip-10-1-2-3.example",
                a,
                "0 ip-10-1-2-3.example. 60 10.1.2.3, ns.example. 3600 192.0.2.53",
            ),
            ("ip-10-1-2-3.example", RecordType::AAAA, "Nothing"),
            ("other.example", a, "Nothing"),
            ("ip-999-1-2-3.example", a, "Unreadable"),
            ("ipff.hex.example", a, "0 ipff.hex.example. 60 10.0.0.255"),
            ("other.hex.example", a, "Failure"),
            ("other.test", a, "Nothing"),
        ] {
            assert_eq!(said(&all, name, kind), expected, "{name} {kind}");
        }
        let denied = said(&all, "x.invalid", RecordType::MX);
        assert!(denied.starts_with("3 invalid. 60 ns.invalid."), "{denied}");
    }

    #[test]
    fn what_is_not_a_record_is_none() {
        for text in [
            "",
            "a",
            "a 60",
            "a 60 IN",
            "a IN NOPE x",
            "$INCLUDE /etc/passwd",
            "a A x",
        ] {
            assert_eq!(record_of(text), None, "{text}");
        }
        assert!(record_of("a TXT \"two words\"").is_some());
    }
}
