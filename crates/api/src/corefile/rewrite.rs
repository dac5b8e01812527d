//! The plugin `rewrite`, as far as it is about names: a name is asked for in place of another one,
//! and in the answer the names are what they were again. Pure.

use super::pattern::Pattern;

/// Which names a rule is for. Names are in lower case, with their final dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameMatch {
    /// This one.
    Exact(String),
    /// Those that begin so; the rest stays.
    Prefix(String),
    /// Those that end so; the rest stays.
    Suffix(String),
    /// Those that have it in them; the rest stays.
    Substring(String),
    /// Those in which it is found.
    Pattern(Pattern),
}

/// What of a record a rule for answers is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerPart {
    /// Whose it is.
    Name,
    /// The name that it holds.
    Value,
}

/// A rule for the names of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerRule {
    /// Where the name stands.
    pub part: AnswerPart,
    /// Which names it is for.
    pub from: Pattern,
    /// What they become, with numbers of groups in braces.
    pub to: String,
}

/// A rule of `rewrite`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// Rules behind it are asked, too.
    pub goes_on: bool,
    /// Which names it is for.
    pub from: NameMatch,
    /// What they become, or what of them.
    pub to: String,
    /// Names of the answer are led back by themselves.
    pub auto: bool,
    /// And by these rules.
    pub answers: Vec<AnswerRule>,
}

/// A name as CoreDNS takes it: in lower case, with its final dot.
fn full(name: &str) -> String {
    let mut name = name.to_lowercase();
    if !name.ends_with('.') {
        name.push('.');
    }
    name
}

impl Rewrite {
    /// Reads what stands behind the plugin's name, line by line.
    ///
    /// # Errors
    /// What nobody acts on.
    pub fn of(words: &[&str]) -> Result<Self, String> {
        let (goes_on, rest) = match words {
            ["continue", rest @ ..] => (true, rest),
            ["stop", rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        let ["name", rest @ ..] = rest else {
            let field = rest.first().unwrap_or(&"");
            return Err(format!("{field}: nobody acts on it, only on names"));
        };
        let (kind, from, to, options) = match rest {
            [from, to] => ("exact", *from, *to, &[][..]),
            [kind, from, to, options @ ..] => (*kind, *from, *to, options),
            _ => return Err("which name becomes which?".into()),
        };
        let to = full(to);
        let name = match kind.to_lowercase().as_str() {
            "exact" => NameMatch::Exact(full(from)),
            "prefix" => NameMatch::Prefix(full(from)),
            "suffix" => NameMatch::Suffix(full(from)),
            "substring" => NameMatch::Substring(full(from)),
            "regex" => {
                let pattern = Pattern::of(from)?;
                if !pattern.has_groups_of(&to) {
                    return Err(format!("{to} names more groups than {from} has"));
                }
                NameMatch::Pattern(pattern)
            }
            other => return Err(format!("{other}: there is no such match")),
        };
        let (auto, answers) = answers(options)?;
        Ok(Self {
            goes_on,
            // An exact name is always led back.
            auto: auto || matches!(name, NameMatch::Exact(_)),
            from: name,
            to,
            answers,
        })
    }
}

/// `answer auto`, `answer name FROM TO`, `answer value FROM TO`; the word `answer` is needed once.
fn answers(mut options: &[&str]) -> Result<(bool, Vec<AnswerRule>), String> {
    let (mut auto, mut rules) = (false, Vec::new());
    if !options.is_empty() && options.first() != Some(&"answer") {
        return Err(format!("{}: nobody acts on it", options.join(" ")));
    }
    while !options.is_empty() {
        let words = match options {
            ["answer", rest @ ..] => rest,
            rest => rest,
        };
        options = match words {
            ["auto", rest @ ..] => {
                auto = true;
                rest
            }
            [part @ ("name" | "value"), from, to, rest @ ..] => {
                let (from, to) = (Pattern::of(from)?, full(to));
                if !from.has_groups_of(&to) {
                    return Err(format!("{to} names groups that there are not"));
                }
                let part = match *part {
                    "name" => AnswerPart::Name,
                    _ => AnswerPart::Value,
                };
                rules.push(AnswerRule { part, from, to });
                rest
            }
            other => return Err(format!("answer {}: nobody acts on it", other.join(" "))),
        };
    }
    if auto && rules.iter().any(|rule| rule.part == AnswerPart::Name) {
        return Err("answer: either auto, or names by their rules".into());
    }
    Ok((auto, rules))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Rewrite, String> {
        Rewrite::of(&text.split_whitespace().collect::<Vec<_>>())
    }

    #[test]
    fn rules_are_read_in_all_their_forms() {
        let exact = read("name Foo.example bar.example.").expect("a rule");
        assert_eq!(exact.from, NameMatch::Exact("foo.example.".into()));
        assert_eq!((exact.to.as_str(), exact.auto), ("bar.example.", true));
        let suffix = read("continue name suffix .a.example .b.example answer auto");
        let suffix = suffix.expect("a rule");
        assert!(suffix.goes_on && suffix.auto && suffix.answers.is_empty());
        assert_eq!(suffix.from, NameMatch::Suffix(".a.example.".into()));
        let regex = read(
            r"stop name regex (.*)-x\.example {1}.example answer name (.*)\.example {1}-x.example value y z",
        );
        let regex = regex.expect("a rule");
        assert!(!regex.goes_on && !regex.auto);
        let parts: Vec<AnswerPart> = regex.answers.iter().map(|a| a.part).collect();
        assert_eq!(parts, [AnswerPart::Name, AnswerPart::Value]);
        assert!(!read("name prefix a b").expect("a rule").auto);
    }

    #[test]
    fn what_nobody_acts_on_is_an_error() {
        for (text, what) in [
            ("", "nobody acts on it"),
            ("ttl example.com 30", "ttl: nobody acts on it"),
            ("name a", "which name"),
            ("name glob a b", "no such match"),
            ("name regex ( b", "not a regular expression"),
            ("name regex a {1}", "more groups"),
            ("name exact a b auto", "auto: nobody acts on it"),
            ("name exact a b answer ttl", "answer ttl"),
            ("name prefix a b answer auto name c d", "either auto"),
            ("name regex (a) b answer name a {1}{2}", "groups"),
        ] {
            let said = read(text).map(|rule| format!("{rule:?}"));
            assert!(
                said.as_ref().is_err_and(|e| e.contains(what)),
                "{text}: {said:?}"
            );
        }
    }
}
