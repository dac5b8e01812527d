//! Regular expressions as upstream's engine (RE2) reads them, on a linear-time engine of our own
//! world: what means the same passes, what means something else is written differently.
//!
//! `\d`, `\w`, `\s` and `\b` know ASCII only, brackets in classes have no operators, `\Q…\E`
//! quotes, and a brace that is not a repetition is a brace.

use regex::{Regex, RegexBuilder};

/// Most bytes of a compiled expression.
const MAX_COMPILED: usize = 1 << 20;
/// Most repetitions that may be asked for, as upstream.
const MAX_REPEAT: u32 = 1000;

/// Compiles a pattern. The error is a short text for the client.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    let translated = translate(pattern)?;
    RegexBuilder::new(&translated)
        .size_limit(MAX_COMPILED)
        .build()
        .map_err(|error| reason(pattern, &error))
}

fn reason(pattern: &str, error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(_) => {
            format!(
                "error parsing regexp: expression nests too deeply or is too large: `{pattern}`"
            )
        }
        error => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            let last = last.strip_prefix("error: ").unwrap_or(last);
            format!("error parsing regexp: {last}: `{pattern}`")
        }
    }
}

fn translate(pattern: &str) -> Result<String, String> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern;
    let mut in_class = false;
    // Right after the opening of a class, where `]` is an ordinary character.
    let mut first = false;
    // The pattern from a repetition on that stands right before.
    let mut repeated: Option<&str> = None;
    while let Some(c) = rest.chars().next() {
        let (from, after) = (rest, &rest[c.len_utf8()..]);
        let was_first = std::mem::replace(&mut first, false);
        let before = repeated.take();
        if c == '\\' {
            rest = escape(after, in_class, &mut out);
            continue;
        }
        rest = after;
        match c {
            '[' if !in_class => {
                in_class = true;
                first = true;
                out.push('[');
                if let Some(after) = rest.strip_prefix('^') {
                    out.push('^');
                    rest = after;
                }
            }
            '[' => match rest.strip_prefix(':').and_then(|r| r.find(":]")) {
                Some(end) => {
                    let whole = &rest[..end + 3];
                    out.push('[');
                    out.push_str(whole);
                    rest = &rest[end + 3..];
                }
                None => out.push_str("\\["),
            },
            ']' if was_first => out.push_str("\\]"),
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            '&' | '~' if in_class => {
                out.push('\\');
                out.push(c);
            }
            '-' if in_class && rest.starts_with('-') => {
                out.push_str("-\\-");
                rest = &rest[1..];
            }
            // What follows says what the group is.
            '(' if !in_class && rest.starts_with('?') => {
                out.push_str("(?");
                rest = &rest[1..];
            }
            '*' | '+' | '?' if !in_class => {
                out.push(c);
                rest = repetition(before, rest, &mut out)?;
                repeated = Some(from);
            }
            '{' if !in_class => match brace(rest)? {
                Some(counts) => {
                    out.push('{');
                    out.push_str(&rest[..counts]);
                    rest = repetition(before, &rest[counts..], &mut out)?;
                    repeated = Some(from);
                }
                None => out.push_str("\\{"),
            },
            c => out.push(c),
        }
    }
    Ok(out)
}

/// What stands behind a repetition, which takes along the mark that makes it short. One of a repetition
/// (`a**`) is refused, as upstream.
fn repetition<'p>(
    before: Option<&str>,
    rest: &'p str,
    out: &mut String,
) -> Result<&'p str, String> {
    let rest = match rest.strip_prefix('?') {
        Some(after) => {
            out.push('?');
            after
        }
        None => rest,
    };
    let Some(before) = before else {
        return Ok(rest);
    };
    let both = &before[..before.len() - rest.len()];
    Err(format!(
        "error parsing regexp: invalid nested repetition operator: `{both}`"
    ))
}

/// How long the counts of a repetition are that stand behind a brace, with the brace that ends them;
/// none where it is a plain one.
fn brace(rest: &str) -> Result<Option<usize>, String> {
    let Some((inner, _)) = rest.split_once('}') else {
        return Ok(None);
    };
    let (low, high) = inner.split_once(',').unwrap_or((inner, ""));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if low.is_empty() || !digits(low) || !digits(high) {
        return Ok(None);
    }
    for count in [low, high] {
        let fits = count.is_empty() || count.parse::<u32>().is_ok_and(|n| n <= MAX_REPEAT);
        if !fits {
            return Err(format!(
                "error parsing regexp: invalid repeat count: `{{{inner}}}`"
            ));
        }
    }
    Ok(Some(inner.len() + 1))
}

/// What stands behind a backslash; returns what is left.
fn escape<'p>(after: &'p str, in_class: bool, out: &mut String) -> &'p str {
    let Some(c) = after.chars().next() else {
        out.push('\\');
        return after;
    };
    let rest = &after[c.len_utf8()..];
    if c == 'Q' {
        let end = rest.find("\\E").unwrap_or(rest.len());
        out.push_str(&regex::escape(&rest[..end]));
        return rest.get(end + 2..).unwrap_or_default();
    }
    if let Some((code, rest)) = octal(after) {
        out.push_str(&format!("\\x{{{code:x}}}"));
        return rest;
    }
    let (set, negated) = match c {
        'd' => ("0-9", false),
        'D' => ("0-9", true),
        'w' => ("0-9A-Za-z_", false),
        'W' => ("0-9A-Za-z_", true),
        's' => ("\\t\\n\\f\\r ", false),
        'S' => ("\\t\\n\\f\\r ", true),
        'b' if !in_class => {
            out.push_str("(?-u:\\b)");
            return rest;
        }
        '<' | '>' => {
            out.push(c);
            return rest;
        }
        c => {
            out.push('\\');
            out.push(c);
            return rest;
        }
    };
    match (in_class, negated) {
        (true, false) => out.push_str(set),
        (_, negated) => {
            out.push_str(if negated { "[^" } else { "[" });
            out.push_str(set);
            out.push(']');
        }
    }
    rest
}

/// A character by its number in octal digits, and what follows: up to three of them, and at least two
/// where the first is not zero, since one alone would refer to a group.
fn octal(text: &str) -> Option<(u32, &str)> {
    let is_octal = |b: &u8| (b'0'..=b'7').contains(b);
    let digits = text.bytes().take(3).take_while(is_octal).count();
    if digits == 0 || (digits == 1 && !text.starts_with('0')) {
        return None;
    }
    let (code, rest) = text.split_at(digits);
    Some((u32::from_str_radix(code, 8).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_upstream() {
        for (pattern, text, matches) in [
            (r"^\d+$", "12", true),
            (r"^\d+$", "١٢", false),
            (r"^[\d-]+$", "1-2", true),
            (r"^[\w.]+$", "a_b.c", true),
            (r"^\w+$", "ä", false),
            (r"^[^\d]$", "x", true),
            (r"^[\D]$", "1", false),
            (r"^[[a]+$", "[a", true),
            (r"^[a&&b]+$", "a&b", true),
            (r"^[]a]+$", "]a", true),
            (r"^[^]a]$", "b", true),
            (r"^[[:alpha:]]+$", "ab", true),
            (r"^[+--]+$", "+,-", true),
            (r"^a{b}$", "a{b}", true),
            (r"^a{2}$", "aa", true),
            (r"^{x}$", "{x}", true),
            (r"^\Qa.b\E$", "a.b", true),
            (r"^\Qa.b\E$", "axb", false),
            (r"\bfoo\b", "a foo b", true),
            (r"^.$", "ä", true),
            (r"^(?i)abc$", "ABC", true),
            (r"a$", "a\n", false),
            (r"\<", "<", true),
            (r"^\101$", "A", true),
            (r"^[\060-\071]+$", "0189", true),
            (r"^\0$", "\0", true),
            (r"^a??b+?$", "abb", true),
            (r"^(?:a*)*$", "aa", true),
            (r"^a{2}?$", "aa", true),
        ] {
            let re = compile(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}"));
            assert_eq!(re.is_match(text), matches, "{pattern} {text:?}");
        }
        for pattern in [
            "(",
            "[",
            "a{1001}",
            "(?=a)",
            r"\1",
            "a**",
            "a+*",
            "a{2}{3}",
            "a???",
            "((((a{1000}){1000}){1000})",
        ] {
            assert!(compile(pattern).is_err(), "{pattern}");
        }
    }
}
