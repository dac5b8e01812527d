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
