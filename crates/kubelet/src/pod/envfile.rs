//! Environment variables in a file that a pod wrote (`fileKeyRef`): upstream's format, which is a
//! strict part of what a POSIX shell reads. Pure.
//!
//! `NAME='value'`, one after another. A value stands in single quotes and is taken as it is, over
//! several lines too. Empty lines and lines that begin with `#` mean nothing, nor does a comment
//! after the closing quote. A space after `=` makes the value empty, as in a shell.

/// The longest line in bytes, as upstream: what is longer is not a file of variables.
const LONGEST_LINE: usize = 64 << 10;

/// What is wrong with a file, with the line at which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No `=` in a line.
    #[error("line {0}: missing '='")]
    NoAssignment(usize),
    /// Nothing before the `=`.
    #[error("line {0}: empty variable name")]
    NoName(usize),
    /// A space before the `=`.
    #[error("line {0}: whitespace before '=' is not allowed")]
    SpaceBefore(usize),
    /// A value without quotes, or with others.
    #[error("line {0}: value must be enclosed in single quotes")]
    NoQuote(usize),
    /// Something else than a comment after the value.
    #[error("line {0}: unexpected content after closing quote")]
    After(usize),
    /// A value without an end; the line is that of its beginning.
    #[error("line {0}: unclosed single quote")]
    Unclosed(usize),
    /// A line that is too long.
    #[error("line {0}: longer than {LONGEST_LINE} bytes")]
    TooLong(usize),
}

/// The value of a variable: the first of that name; none if there is none, or it is empty. What
/// comes after it is not looked at, as upstream.
pub fn value(text: &str, name: &str) -> Result<Option<String>, Error> {
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let number = index + 1;
        let line = checked(line, number)?.trim_start_matches(SPACE);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (before, after) = line.split_once('=').ok_or(Error::NoAssignment(number))?;
        let found = before.trim_end_matches(SPACE);
        if found.is_empty() {
            return Err(Error::NoName(number));
        }
        if found != before {
            return Err(Error::SpaceBefore(number));
        }
        let value = if after.starts_with(SPACE) {
            String::new()
        } else {
            let first = after.strip_prefix('\'').ok_or(Error::NoQuote(number))?;
            quoted(first, number, &mut lines)?
        };
        if found == name {
            return Ok(Some(value).filter(|v| !v.is_empty()));
        }
    }
    Ok(None)
}

const SPACE: [char; 2] = [' ', '\t'];

fn checked(line: &str, number: usize) -> Result<&str, Error> {
    if line.len() >= LONGEST_LINE {
        return Err(Error::TooLong(number));
    }
    Ok(line)
}

/// What stands before the closing quote, which may be some lines away.
fn quoted<'a>(
    first: &str,
    begin: usize,
    lines: &mut impl Iterator<Item = (usize, &'a str)>,
) -> Result<String, Error> {
    let mut out = String::new();
    let mut number = begin;
    let mut rest = first;
    loop {
        if let Some((value, after)) = rest.split_once('\'') {
            out.push_str(value);
            let after = after.trim_start_matches(SPACE);
            if after.is_empty() || after.starts_with('#') {
                return Ok(out);
            }
            return Err(Error::After(number));
        }
        out.push_str(rest);
        out.push('\n');
        let (index, line) = lines.next().ok_or(Error::Unclosed(begin))?;
        number = index + 1;
        rest = checked(line, number)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_in_single_quotes_and_are_taken_as_they_are() {
        let text = "# a comment\n\n  A='1'\nB='two $words \\n' # why\nLINES='x\n y\n'\n\
            EMPTY=''\nNONE= 'later'\nA='2'\nC='cr'\r\n";
        let is = |name: &str, want: Option<&str>| {
            assert_eq!(value(text, name), Ok(want.map(str::to_owned)), "{name}");
        };
        is("A", Some("1"));
        is("B", Some("two $words \\n"));
        is("LINES", Some("x\n y\n"));
        is("C", Some("cr"));
        is("EMPTY", None);
        is("NONE", None);
        is("D", None);
    }

    #[test]
    fn anything_else_is_an_error_at_its_line() {
        let long = format!("A='{}'", "x".repeat(LONGEST_LINE));
        for (text, want) in [
            ("A='1'\nB", Error::NoAssignment(2)),
            ("='1'", Error::NoName(1)),
            ("A ='1'", Error::SpaceBefore(1)),
            ("A=1", Error::NoQuote(1)),
            ("A=\"1\"", Error::NoQuote(1)),
            ("A='1'2", Error::After(1)),
            ("A='1\n2' 3", Error::After(2)),
            ("\nA='1\n2", Error::Unclosed(2)),
            (long.as_str(), Error::TooLong(1)),
        ] {
            assert_eq!(value(text, "K"), Err(want), "{text:.20}");
        }
        // What follows the wanted one does not matter.
        assert_eq!(value("A='1'\nB", "A"), Ok(Some("1".into())));
    }

    /// Twice the file, at most twice the work: no line is looked at again.
    #[test]
    fn the_cost_is_linear() {
        let text = |lines: usize| "A='x\n".to_owned() + &"y\n".repeat(lines) + "'\n";
        for lines in [1_000, 100_000] {
            let found = value(&text(lines), "A").unwrap().unwrap();
            assert_eq!(found.len(), 2 + 2 * lines);
        }
    }
}
