//! Errors of parsing and checking, shown as upstream shows them: with the line and a caret.

use std::fmt::Write;

/// Longest source line that is shown below an error, in bytes.
const MAX_SNIPPET: usize = 16 * 1024;
/// Most errors that are shown of one expression.
const MAX_SHOWN: usize = 100;

/// One thing wrong with an expression's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// Byte offset in the source; [`Issue::NOWHERE`] of what is wrong with all of it.
    pub at: u32,
    pub message: String,
}

impl Issue {
    /// What is wrong is not in one place: upstream says line -1.
    pub const NOWHERE: u32 = u32::MAX;

    pub(crate) fn nowhere(message: String) -> Self {
        let at = Self::NOWHERE;
        Self { at, message }
    }
}

/// Why an expression does not compile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct CompileError {
    pub issues: Vec<Issue>,
    text: String,
}

impl CompileError {
    pub(crate) fn new(source: &str, mut issues: Vec<Issue>) -> Self {
        issues.sort_by_key(|i| i.at);
        let mut text = String::new();
        for issue in issues.iter().take(MAX_SHOWN) {
            if !text.is_empty() {
                text.push('\n');
            }
            show(&mut text, source, issue);
        }
        if issues.len() > MAX_SHOWN {
            let _ = write!(
                text,
                "\n{} more errors were truncated",
                issues.len() - MAX_SHOWN
            );
        }
        Self { issues, text }
    }
}

fn show(out: &mut String, source: &str, issue: &Issue) {
    if issue.at == Issue::NOWHERE {
        let _ = write!(out, "ERROR: <input>:-1:0: {}", issue.message);
        return;
    }
    let at = (issue.at as usize).min(source.len());
    let before = source.get(..at).unwrap_or(source);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |i| i + 1);
    let head = &before[start..];
    let column = head.chars().count();
    let _ = write!(
        out,
        "ERROR: <input>:{line}:{}: {}",
        column + 1,
        issue.message
    );
    let text = source[start..].split('\n').next().unwrap_or_default();
    if text.len() > MAX_SNIPPET {
        return;
    }
    let wide = |c: char| c.len_utf8() > 1;
    let _ = write!(out, "\n | {}\n | ", text.replace('\t', " "));
    for c in head.chars() {
        out.push(if wide(c) { '\u{ff0e}' } else { '.' });
    }
    let under = text[head.len().min(text.len())..].chars().next();
    out.push(if under.is_some_and(wide) {
        '\u{ff3e}'
    } else {
        '^'
    });
}
