//! What a command prints for its user. The user's end of a pipe may be gone (`tiphys up | tee log`,
//! where Ctrl-C ends `tee` first): then nothing is printed, and the work goes on, since a cluster
//! has to be ended all the same.

/// A line on standard output.
macro_rules! say {
    ($($word:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout().lock(), $($word)*);
    }};
}

/// A line on standard error.
macro_rules! complain {
    ($($word:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr().lock(), $($word)*);
    }};
}

pub(crate) use {complain, say};

/// An error with its causes, each of them once: many an error names its cause in its own text.
pub(crate) fn with_causes(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(|cause| cause.to_string()) {
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow!("no such file");
        let named = error.context("opening a: no such file").context("saving");
        assert_eq!(with_causes(&named), "saving: opening a: no such file");
        let plain = anyhow!("no such file").context("opening a");
        assert_eq!(with_causes(&plain), "opening a: no such file");
    }
}
