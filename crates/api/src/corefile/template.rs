//! The plugin `template`: answers made of the names that are asked for. Of Go's templates the
//! actions that put in what the question holds are known. Pure.

use super::pattern::Pattern;
use super::zones::Falls;

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// As it stands there.
    Text(String),
    /// The name, in lower case with its final dot.
    Name,
    /// The zone in which it was looked for, with its final dot.
    Zone,
    /// The class that is asked for.
    Class,
    /// The type that is asked for.
    Type,
    /// A group of the expression that was found, by its name or number.
    Group(String),
    /// The same, as a number of this base.
    Number(String, u32),
}

/// A record as zone files have it, with what the question holds put in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordText(pub Vec<Piece>);

/// The plugin `template`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// The type of question that it is for; none for all.
    pub kind: Option<String>,
    /// The zones that it is for; empty for those of its block.
    pub zones: Vec<String>,
    /// One of them must be found in the name; the first that is gives the groups. None: all names.
    pub patterns: Vec<Pattern>,
    /// The records of the answer.
    pub answers: Vec<RecordText>,
    /// Those about who knows.
    pub authorities: Vec<RecordText>,
    /// Those that help.
    pub additionals: Vec<RecordText>,
    /// What came of it, as the header's number.
    pub code: u8,
    /// Names in its zones in which nothing was found are passed on.
    pub falls: Falls,
}

/// Types of questions that a template may name.
const TYPES: [&str; 16] = [
    "A", "AAAA", "CAA", "CNAME", "DNSKEY", "DS", "HINFO", "HTTPS", "MX", "NAPTR", "NS", "PTR",
    "SOA", "SRV", "SVCB", "TXT",
];
/// What may come of a question.
const CODES: [&str; 11] = [
    "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET",
    "NXRRSET", "NOTAUTH", "NOTZONE",
];
/// A block of templates is somebody's work by hand.
const PATTERNS: usize = 64;

impl Template {
    /// For a class and a type, without its lines.
    ///
    /// # Errors
    /// When questions of such a class or type do not come here.
    pub fn of(class: &str, kind: &str) -> Result<Self, String> {
        if !["IN", "ANY"].contains(&class) {
            return Err(format!("class {class}: only questions of IN are answered"));
        }
        let kind = match kind {
            "ANY" => None,
            known if TYPES.contains(&known) => Some(known.to_owned()),
            other => return Err(format!("{other}: there is no such type here")),
        };
        Ok(Self {
            kind,
            zones: Vec::new(),
            patterns: Vec::new(),
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
            code: 0,
            falls: Falls::Never,
        })
    }

    /// Takes one of its lines.
    ///
    /// # Errors
    /// What nobody acts on.
    pub fn line(&mut self, name: &str, arguments: &[String]) -> Result<(), String> {
        let texts = || arguments.iter().map(|text| RecordText::of(text));
        match name {
            "match" => {
                let patterns = arguments.iter().map(|text| Pattern::of(text));
                self.patterns
                    .extend(patterns.collect::<Result<Vec<_>, _>>()?);
                if self.patterns.len() > PATTERNS {
                    return Err(format!("more than {PATTERNS} expressions"));
                }
            }
            "answer" => self.answers.extend(texts().collect::<Result<Vec<_>, _>>()?),
            "authority" => {
                self.authorities
                    .extend(texts().collect::<Result<Vec<_>, _>>()?);
            }
            "additional" => {
                self.additionals
                    .extend(texts().collect::<Result<Vec<_>, _>>()?);
            }
            "rcode" => {
                let word = arguments.first().map_or("", String::as_str);
                let number = CODES.iter().position(|code| *code == word);
                let number = number.and_then(|number| u8::try_from(number).ok());
                self.code = number.ok_or_else(|| format!("rcode {word}: not known"))?;
            }
            // Aliases are always followed.
            "upstream" => {}
            other => return Err(format!("{other}: nobody acts on it")),
        }
        Ok(())
    }
}

impl RecordText {
    /// Reads a text.
    ///
    /// # Errors
    /// When it holds an action that is not understood.
    pub fn of(text: &str) -> Result<Self, String> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some((before, from)) = rest.split_once("{{") {
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            let (action, after) = from
                .split_once("}}")
                .ok_or_else(|| format!("{text}: an action has no end"))?;
            pieces.push(
                piece(action)
                    .ok_or_else(|| format!("{{{{{action}}}}}: this action is not understood"))?,
            );
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self(pieces))
    }
}

fn piece(action: &str) -> Option<Piece> {
    let words: Vec<&str> = action.split_whitespace().collect();
    let group = |word: &str| word.strip_prefix(".Group.").map(str::to_owned);
    Some(match words.as_slice() {
        [".Name"] => Piece::Name,
        [".Zone"] => Piece::Zone,
        [".Class"] => Piece::Class,
        [".Type"] => Piece::Type,
        ["index", ".Match", number] => {
            number.parse::<usize>().ok()?;
            Piece::Group((*number).to_owned())
        }
        ["index", ".Group", name] => {
            let name = name.strip_prefix('"')?.strip_suffix('"')?;
            Piece::Group(name.to_owned())
        }
        ["parseInt", name, base, _bits] => {
            let base = base.parse::<u32>().ok().filter(|b| (2..=36).contains(b))?;
            Piece::Number(group(name)?, base)
        }
        [name] => Piece::Group(group(name)?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_hold_what_the_question_holds() {
        let text =
            "{{ .Name }} 60 IN A 10.{{ .Group.a }}.{{ parseInt .Group.b 16 8 }}.{{index .Match 1}}";
        let read = RecordText::of(text).expect("a text");
        let words = |text: &str| Piece::Text(text.to_owned());
        assert_eq!(
            read.0,
            [
                Piece::Name,
                words(" 60 IN A 10."),
                Piece::Group("a".into()),
                words("."),
                Piece::Number("b".into(), 16),
                words("."),
                Piece::Group("1".into()),
            ]
        );
        for wrong in [
            "{{ .Message }}",
            "{{ .Name",
            "{{ if .Name }}",
            "{{ index .Match x }}",
        ] {
            assert!(RecordText::of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn lines_are_read_or_named() {
        assert!(Template::of("CH", "ANY").is_err() && Template::of("IN", "NOPE").is_err());
        let mut template = Template::of("ANY", "ANY").expect("a template");
        let args = |all: &[&str]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (name, arguments) in [
            ("match", &[r"^a\.example\.$"][..]),
            ("answer", &["{{ .Name }} 60 IN A 192.0.2.1"]),
            ("rcode", &["NXDOMAIN"]),
        ] {
            assert_eq!(template.line(name, &args(arguments)), Ok(()), "{name}");
        }
        assert_eq!((template.kind.as_deref(), template.code), (None, 3));
        for (name, arguments) in [
            ("match", &["("][..]),
            ("rcode", &["NO"]),
            ("expr", &["true"]),
            ("answer", &["{{ .Remote }}"]),
        ] {
            assert!(template.line(name, &args(arguments)).is_err(), "{name}");
        }
    }
}
