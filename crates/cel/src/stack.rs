//! Room on the stack for walks that follow an expression's nesting: of the text while it is parsed,
//! of the tree afterwards. The parser bounds how deep both are, but not for the stack of whichever
//! thread compiles or runs what a client wrote; where that is too small, a larger one is taken for
//! as long as the walk lasts.

use crate::env::Env;

/// Bytes that one level takes at most: less than 6 KiB in a build without optimisation (of
/// brackets, through all rules of the grammar), measured by `tests/deep.rs`, and more than doubled.
const LEVEL: usize = 16 * 1024;
/// Bytes that functions take which do not follow the nesting: patterns, formats, numbers.
const BASE: usize = 192 * 1024;

/// Runs `f`, which goes down so many levels, where they fit.
pub(crate) fn with_room<R>(levels: usize, f: impl FnOnce() -> R) -> R {
    let room = BASE + levels * LEVEL;
    stacker::maybe_grow(room, room, f)
}

/// As [`with_room`], one level at a time: for values, which may be deeper than the expression that
/// reads them, since it may read variables.
pub(crate) fn deeper<R>(f: impl FnOnce() -> R) -> R {
    stacker::maybe_grow(BASE, BASE + 256 * LEVEL, f)
}

/// How many levels a text may have at most: each begins with one of these, and macros make up to
/// four of one.
pub(crate) fn levels(source: &str, env: &Env) -> usize {
    let most = usize::from(crate::parser::MAX_TREE);
    if env.composed.is_some() {
        // Types of variables are as deep as what those were made of.
        return most;
    }
    let opens = |b: &u8| b"([{?.:,!-+*/%<>=&|n".contains(b);
    let count = source.as_bytes().iter().filter(|b| opens(b)).count();
    (4 * count + 4).min(most)
}
