//! Field selectors: parsing, matching, printing (documentation "Field Selectors").

use std::fmt;

/// One term of a field selector.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldRequirement {
    pub field: String,
    pub value: String,
    /// `!=`.
    pub not: bool,
}

/// All terms must hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FieldSelector {
    pub requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// `a=b,c!=d`; backslash escapes comma, equals sign and itself.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = Vec::new();
        for term in split_unescaped(text, ',') {
            if term.is_empty() {
                continue;
            }
            let bad = || format!("invalid selector: '{text}'; can't understand '{term}'");
            let at = find_operator(term).ok_or_else(bad)?;
            let (field, rest) = term.split_at(at);
            let (not, value) = match (rest.strip_prefix("!="), rest.strip_prefix("==")) {
                (Some(v), _) => (true, v),
                (_, Some(v)) => (false, v),
                _ => (false, rest.strip_prefix('=').ok_or_else(bad)?),
            };
            let value = unescape(value).ok_or_else(bad)?;
            requirements.push(FieldRequirement {
                field: field.to_owned(),
                value,
                not,
            });
        }
        Ok(Self { requirements })
    }
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }
    /// `read` gives a field's value.
    pub fn matches<'a>(&self, read: impl Fn(&str) -> std::borrow::Cow<'a, str>) -> bool {
        self.requirements
            .iter()
            .all(|r| (read(&r.field) == r.value) != r.not)
    }
    /// The value that `field` must have, if the selector says so: for indexes.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.requirements
            .iter()
            .find(|r| r.field == field && !r.not)
            .map(|r| r.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            let value = r
                .value
                .replace('\\', "\\\\")
                .replace(',', "\\,")
                .replace('=', "\\=");
            let comma = if i > 0 { "," } else { "" };
            write!(
                f,
                "{comma}{}{}{value}",
                r.field,
                if r.not { "!=" } else { "=" }
            )?;
        }
        Ok(())
    }
}

fn split_unescaped(text: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == separator {
            parts.push(&text[start..i]);
            start = i + c.len_utf8();
        }
    }
    parts.push(&text[start..]);
    parts
}

fn find_operator(term: &str) -> Option<usize> {
    let mut escaped = false;
    for (i, c) in term.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == '=' || term[i..].starts_with("!=") {
            return Some(i);
        }
    }
    None
}

fn unescape(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next().filter(|c| "\\,=".contains(*c))?),
            ',' | '=' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}
