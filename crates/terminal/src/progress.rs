//! How far a long piece of work is, as one line: it is drawn over and over in a terminal, and written
//! now and then elsewhere.

use crate::style::{Style, Tone, harmless};
use crate::table::cut;
use crate::words;

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    Bytes,
    /// Things with this name, as in `3 of 5 pods`.
    Things(&'static str),
    /// Nothing: only the time passes.
    Time,
}

/// Where a piece of work is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step<'a> {
    /// What is being done, such as `importing web.tar`.
    pub what: &'a str,
    pub unit: Unit,
    pub done: u64,
    /// Of how much; 0 where nobody knows.
    pub all: u64,
    /// Since it began.
    pub seconds: u64,
}

/// Columns of the bar.
const BAR: usize = 20;
/// Columns below which there is no bar.
const ROOM_FOR_BAR: usize = 70;

impl Step<'_> {
    /// `31 MiB of 50 MiB`, `3 pods`; empty where nothing is counted.
    fn amount(&self) -> String {
        let bytes = |n: u64| words::bytes(i64::try_from(n).unwrap_or(i64::MAX));
        match (self.unit, self.all) {
            (Unit::Time, _) => String::new(),
            (Unit::Bytes, 0) => bytes(self.done),
            (Unit::Bytes, all) => format!("{} of {}", bytes(self.done.min(all)), bytes(all)),
            (Unit::Things(name), 0) => format!("{} {name}", self.done),
            (Unit::Things(name), all) => format!("{} of {all} {name}", self.done.min(all)),
        }
    }

    /// In hundredths of all; none where nobody knows how much that is.
    fn percent(&self) -> Option<u64> {
        if self.unit == Unit::Time {
            return None;
        }
        self.done
            .min(self.all)
            .saturating_mul(100)
            .checked_div(self.all)
    }

    /// For a terminal of so many columns: what is done, a bar where there is room for it, how much, and
    /// for how long.
    pub fn live(&self, width: usize, style: Style) -> String {
        let mut rest = String::new();
        let mut bar = String::new();
        if let Some(percent) = self.percent() {
            if width >= ROOM_FOR_BAR {
                let full = usize::try_from(percent).unwrap_or(0) * BAR / 100;
                bar = format!("[{}{}] ", "=".repeat(full), " ".repeat(BAR - full));
            }
            rest = format!("{percent:3} %  ");
        }
        let amount = self.amount();
        if !amount.is_empty() {
            rest = format!("{rest}{amount}  ");
        }
        rest = format!("{rest}{} s", self.seconds);
        // The last column stays free: a terminal may begin a new line behind it.
        let room = width.saturating_sub(1);
        let taken = bar.chars().count() + rest.chars().count() + 2;
        let what = fitting(&harmless(self.what), room.saturating_sub(taken));
        let line = format!(
            "{what}  {}{}",
            style.paint(Tone::Way, &bar),
            style.paint(Tone::Quiet, &rest)
        );
        match taken < room {
            true => line,
            // So narrow that only some of it can be seen: without colours, which would be cut.
            false => fitting(&rest, room),
        }
    }

    /// For a pipe or a file.
    pub fn plain(&self) -> String {
        let what = harmless(self.what);
        let amount = match (self.amount(), self.percent()) {
            (amount, _) if amount.is_empty() => String::new(),
            (amount, Some(percent)) => format!("{amount} ({percent} %), "),
            (amount, None) => format!("{amount}, "),
        };
        format!("{what}: {amount}{} s", self.seconds)
    }
}

/// What of a text fits; nothing where there is no room at all.
fn fitting(text: &str, room: usize) -> String {
    match room {
        0 => String::new(),
        room => cut(text, room),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMPORT: Step<'_> = Step {
        what: "importing web.tar to node-1",
        unit: Unit::Bytes,
        done: 31 << 20,
        all: 50 << 20,
        seconds: 4,
    };

    #[test]
    fn a_line_says_what_how_much_and_how_long() {
        assert_eq!(
            IMPORT.live(100, Style::PLAIN),
            "importing web.tar to node-1  [============        ]  62 %  31 MiB of 50 MiB  4 s"
        );
        let coloured = IMPORT.live(100, Style::COLOURED);
        assert!(coloured.contains("\x1b["), "{coloured}");
        assert_eq!(
            IMPORT.plain(),
            "importing web.tar to node-1: 31 MiB of 50 MiB (62 %), 4 s"
        );
    }

    #[test]
    fn it_stays_within_its_terminal() {
        for width in 0..120 {
            let line = IMPORT.live(width, Style::PLAIN);
            assert!(line.chars().count() < width.max(1), "{width}: {line:?}");
        }
        assert_eq!(
            IMPORT.live(60, Style::PLAIN),
            "importing web.tar to node-1   62 %  31 MiB of 50 MiB  4 s"
        );
    }

    #[test]
    fn what_nobody_knows_is_not_said() {
        let waits = Step {
            what: "the control plane",
            unit: Unit::Time,
            done: 0,
            all: 0,
            seconds: 2,
        };
        assert_eq!(waits.live(80, Style::PLAIN), "the control plane  2 s");
        assert_eq!(waits.plain(), "the control plane: 2 s");
        let keys = Step {
            unit: Unit::Things("keys"),
            done: 7,
            ..waits
        };
        assert_eq!(keys.plain(), "the control plane: 7 keys, 2 s");
        let all = Step { all: 5, ..keys };
        assert_eq!(all.plain(), "the control plane: 5 of 5 keys (100 %), 2 s");
    }
}
