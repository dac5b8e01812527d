//! Names that are asked for in place of others, and names of answers that become what was asked for:
//! the plugin `rewrite`. Pure.

use std::sync::Arc;

use api::corefile::{AnswerPart, NameMatch, Rewrite};
use hickory_proto::op::Message;
use hickory_proto::rr::{Name, RData, Record};

/// A name has no more characters, however many of its bytes are written by numbers.
const NAME_CHARACTERS: usize = 1024;

/// A rule that has changed a name.
#[derive(Debug)]
struct Step {
    /// Its number.
    rule: usize,
    before: String,
    after: String,
}

/// What has become of a name, and how.
#[derive(Debug)]
pub struct RewrittenName {
    rules: Arc<[Rewrite]>,
    steps: Vec<Step>,
}

/// Applies rules to a name in lower case, with or without its final dot; none when none is for it.
pub fn rewritten(rules: &Arc<[Rewrite]>, name: &str) -> Option<RewrittenName> {
    let mut now = format!("{}.", name.trim_end_matches('.'));
    let mut steps = Vec::new();
    for (number, rule) in rules.iter().enumerate() {
        let Some(after) = applied(rule, &now) else {
            continue;
        };
        let before = std::mem::replace(&mut now, after.clone());
        steps.push(Step {
            rule: number,
            before,
            after,
        });
        // Rules in a row could make a name longer and longer.
        if !rule.goes_on || now.len() > NAME_CHARACTERS {
            break;
        }
    }
    (!steps.is_empty()).then(|| RewrittenName {
        rules: Arc::clone(rules),
        steps,
    })
}

fn applied(rule: &Rewrite, name: &str) -> Option<String> {
    let to = &rule.to;
    match &rule.from {
        NameMatch::Exact(from) => (name == from).then(|| to.clone()),
        NameMatch::Prefix(from) => {
            let rest = name.strip_prefix(from.as_str())?;
            Some(format!("{to}{rest}"))
        }
        NameMatch::Suffix(from) => {
            let rest = name.strip_suffix(from.as_str())?;
            Some(format!("{rest}{to}"))
        }
        NameMatch::Substring(from) => name
            .contains(from.as_str())
            .then(|| name.replace(from.as_str(), to)),
        NameMatch::Pattern(from) => from.filled(name, to),
    }
}

/// What a name of an answer was before its rule, where the rule leads names back by itself.
fn led_back(rule: &Rewrite, step: &Step, name: &str) -> Option<String> {
    if let NameMatch::Suffix(from) = &rule.from {
        let rest = name.strip_suffix(rule.to.as_str())?;
        return Some(format!("{rest}{from}"));
    }
    let rest = name.strip_suffix(step.after.as_str())?;
    // The name itself, or one below it.
    (rest.is_empty() || rest.ends_with('.')).then(|| format!("{rest}{}", step.before))
}

impl RewrittenName {
    /// The name that is asked for now, with its final dot.
    pub fn name(&self) -> &str {
        self.steps.last().map_or(".", |step| step.after.as_str())
    }

    /// Leads the names of an answer back, the last rule first.
    pub fn revert(&self, message: &mut Message) {
        let authorities = message.authorities.iter_mut();
        let answers = message.answers.iter_mut();
        let records = authorities
            .chain(answers)
            .chain(message.additionals.iter_mut());
        for record in records {
            for step in self.steps.iter().rev() {
                if let Some(rule) = self.rules.get(step.rule) {
                    revert_record(rule, step, record);
                }
            }
        }
    }
}

fn revert_record(rule: &Rewrite, step: &Step, record: &mut Record) {
    for answer in rule.answers.iter().rev() {
        let name = match answer.part {
            AnswerPart::Name => Some(&mut record.name),
            AnswerPart::Value => name_in(&mut record.data),
        };
        if let Some(name) = name {
            change(name, |now| answer.from.filled(now, &answer.to));
        }
    }
    if rule.auto {
        if let Some(name) = name_in(&mut record.data) {
            change(name, |now| led_back(rule, step, now));
        }
        change(&mut record.name, |now| led_back(rule, step, now));
    }
}

/// A name stays what it was where the new one would not be a name.
fn change(name: &mut Name, new: impl Fn(&str) -> Option<String>) {
    let now = name.to_lowercase().to_ascii();
    if let Some(changed) = new(&now).and_then(|text| Name::from_ascii(text).ok()) {
        *name = changed;
    }
}

/// The name that a record holds.
fn name_in(data: &mut RData) -> Option<&mut Name> {
    match data {
        RData::CNAME(held) => Some(&mut held.0),
        RData::NS(held) => Some(&mut held.0),
        RData::PTR(held) => Some(&mut held.0),
        RData::SRV(held) => Some(&mut held.target),
        RData::MX(held) => Some(&mut held.exchange),
        RData::NAPTR(held) => Some(&mut held.replacement),
        RData::SOA(held) => Some(&mut held.mname),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{MessageType, OpCode};
    use hickory_proto::rr::rdata::CNAME;

    fn rules(lines: &[&str]) -> Arc<[Rewrite]> {
        let read = |line: &&str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            Rewrite::of(&words).expect("a rule")
        };
        lines.iter().map(read).collect()
    }

    #[test]
    fn names_are_rewritten_as_coredns_does() {
        for (lines, name, expected) in [
            (
                &["name a.example b.example"][..],
                "a.example",
                Some("b.example."),
            ),
            (&["name a.example b.example"], "x.a.example", None),
            (
                &["name prefix a.b x.y"],
                "a.b.example",
                Some("x.y.example."),
            ),
            (
                &["name suffix .example .svc.cluster.local"],
                "web.default.example",
                Some("web.default.svc.cluster.local."),
            ),
            (
                &["name substring us.example eu.example"],
                "a.us.example",
                Some("a.eu.example."),
            ),
            (
                &[r"name regex (.*)-(us-west-1)\.example\.org {1}.service.{2}.consul"],
                "ftp-us-west-1.example.org",
                Some("ftp.service.us-west-1.consul."),
            ),
            // The first that does not go on is the last.
            (
                &["continue name a b", "name b c", "name c d"],
                "a",
                Some("c."),
            ),
            (&["name x y", "name a c"], "a", Some("c.")),
        ] {
            let made = rewritten(&rules(lines), name);
            let made = made.as_ref().map(RewrittenName::name);
            assert_eq!(made, expected, "{lines:?} {name}");
        }
        let grows: Vec<&str> = vec!["continue name substring a. a.a."; 64];
        let made = rewritten(&rules(&grows), "a").expect("rewritten");
        assert!(made.name().len() < 3 * NAME_CHARACTERS);
    }

    /// The names of an answer, `owner` with an alias to `value`, led back.
    fn reverted(lines: &[&str], asked: &str, owner: &str, value: &str) -> String {
        let rewritten = rewritten(&rules(lines), asked).expect("rewritten");
        let name = |text: &str| Name::from_ascii(text).expect("a name");
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        let data = RData::CNAME(CNAME(name(value)));
        message
            .answers
            .push(Record::from_rdata(name(owner), 5, data));
        rewritten.revert(&mut message);
        let record = &message.answers[0];
        let RData::CNAME(alias) = &record.data else {
            panic!("{record:?}");
        };
        format!("{} {}", record.name.to_ascii(), alias.0.to_ascii())
    }

    #[test]
    fn answers_have_the_names_that_were_asked_for() {
        for (lines, asked, owner, value, expected) in [
            // Always led back, also below it.
            (
                &["name a.example b.example"][..],
                "a.example",
                "b.example.",
                "x.b.example.",
                "a.example. x.a.example.",
            ),
            (
                &["name suffix .a .b answer auto"],
                "x.a",
                "x.b.",
                "other.b.",
                "x.a. other.a.",
            ),
            // Nobody asked for it.
            (&["name suffix .a .b"], "x.a", "x.b.", "y.b.", "x.b. y.b."),
            (
                &[
                    r"name regex (.*)-x\.a {1}.b answer name (.*)\.b {1}-x.a answer value (.*)\.b {1}.c",
                ],
                "f-x.a",
                "f.b.",
                "g.b.",
                "f-x.a. g.c.",
            ),
            (
                &["continue name a b", "name b c"],
                "a",
                "c.",
                "y.c.",
                "a. y.a.",
            ),
            (&["name a b"], "a", "B.", "bb.", "a. bb."),
        ] {
            let said = reverted(lines, asked, owner, value);
            assert_eq!(said, expected, "{lines:?} {asked}");
        }
    }
}
