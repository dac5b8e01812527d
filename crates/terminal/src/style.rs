//! Colours, where somebody reads them: the sixteen that each terminal has, so that they fit its
//! theme.

use std::fmt::Write as _;

/// What a colour means.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Tone {
    Bad,
    Warn,
    /// On its way.
    Way,
    Good,
    /// Less important than what is beside it.
    Quiet,
    /// A title.
    Strong,
}

impl Tone {
    /// Parameters of `CSI … m`.
    const fn code(self) -> &'static str {
        match self {
            Self::Bad => "31",
            Self::Warn => "33",
            Self::Way => "36",
            Self::Good => "32",
            Self::Quiet => "2",
            Self::Strong => "1",
        }
    }
}

/// Colours that distinguish sources: neither black nor white, which are paper or ink somewhere, nor
/// red, which means that something is wrong.
const SOURCES: [&str; 10] = ["36", "32", "35", "34", "33", "96", "92", "95", "94", "93"];

/// Whether there are colours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Style {
    colours: bool,
}

impl Style {
    pub const PLAIN: Self = Self { colours: false };
    pub const COLOURED: Self = Self { colours: true };

    /// As the environment wants it: `NO_COLOR` (<https://no-color.org>) and `TERM=dumb` refuse
    /// colours, and what does not go to a terminal has none.
    pub fn of(is_terminal: bool, no_color: Option<&str>, term: Option<&str>) -> Self {
        let refused = no_color.is_some_and(|v| !v.is_empty()) || term == Some("dumb");
        Self {
            colours: is_terminal && !refused,
        }
    }

    pub fn paint(self, tone: Tone, text: &str) -> String {
        self.coloured(tone.code(), text)
    }

    /// In the colour of the source with this number.
    pub fn source(self, number: usize, text: &str) -> String {
        let code = SOURCES.get(number % SOURCES.len()).copied();
        self.coloured(code.unwrap_or_default(), text)
    }

    fn coloured(self, code: &str, text: &str) -> String {
        if self.colours && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// A text of somebody else's that is safe to show: control characters, by which it could move the
/// cursor or change what was written before, are written out; lines become one.
pub fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.trim().chars() {
        match c {
            '\n' | '\r' | '\t' => out.push(' '),
            c if c.is_control() => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_that_do_not_refuse_them() {
        let of = |is, no, term| Style::of(is, no, term) == Style::COLOURED;
        assert!(of(true, None, Some("xterm-256color")));
        // The convention says that an empty value counts as none.
        assert!(of(true, Some(""), None));
        assert!(!of(true, Some("1"), None));
        assert!(!of(true, None, Some("dumb")));
        assert!(!of(false, None, Some("xterm")));
    }

    #[test]
    fn nothing_is_painted_without_colours() {
        assert_eq!(Style::PLAIN.paint(Tone::Bad, "x"), "x");
        assert_eq!(Style::COLOURED.paint(Tone::Bad, "x"), "\x1b[31mx\x1b[0m");
        assert_eq!(Style::COLOURED.source(11, "y"), "\x1b[32my\x1b[0m");
        assert_eq!(Style::COLOURED.paint(Tone::Bad, ""), "");
    }

    #[test]
    fn a_name_cannot_command_the_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\nc\td\u{9b}e"), "a\\x1b[2Jb c d\\x9be");
    }
}
