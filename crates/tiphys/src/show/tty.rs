//! The terminal: its size, and how it is lent to a program that draws all of it.

use std::io::{IsTerminal, Write};

use anyhow::{Context, Result};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Columns and lines, of a terminal that does not say.
const USUAL: (usize, usize) = (80, 24);

/// Columns and lines of the terminal that is standard output.
pub fn size() -> (usize, usize) {
    match tcgetwinsize(rustix::stdio::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => USUAL,
    }
}

/// Columns of the terminal that is standard error.
pub fn errors_width() -> usize {
    match tcgetwinsize(rustix::stdio::stderr()) {
        Ok(size) if size.ws_col > 0 => size.ws_col.into(),
        _ => USUAL.0,
    }
}

/// Another screen of the terminal, without a cursor, whose lines are cut at its edge; and keys as
/// they are pressed. What was there before comes back when this is dropped.
pub struct Screen {
    before: Option<Termios>,
}

const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

impl Screen {
    pub fn enter() -> Result<Self> {
        let before = keys_at_once()?;
        let screen = Self { before };
        screen.write(ENTER)?;
        Ok(screen)
    }

    /// Draws lines from the top.
    pub fn draw(&self, lines: &[String]) -> Result<()> {
        let mut text = String::from("\x1b[H");
        for (at, line) in lines.iter().enumerate() {
            if at > 0 {
                text.push_str("\r\n");
            }
            text.push_str(line);
            // The rest of the line may show what was there before.
            text.push_str("\x1b[K");
        }
        text.push_str("\x1b[J");
        self.write(&text)
    }

    fn write(&self, text: &str) -> Result<()> {
        let mut out = std::io::stdout().lock();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        written.context("writing to the terminal")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = self.write(LEAVE);
        if let Some(before) = &self.before {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, before);
        }
    }
}

/// Keys come without Enter and are not shown; Ctrl-C stays what it is. None without a keyboard.
fn keys_at_once() -> Result<Option<Termios>> {
    if !std::io::stdin().is_terminal() {
        return Ok(None);
    }
    let before = tcgetattr(rustix::stdio::stdin()).context("reading the terminal's modes")?;
    let mut modes = before.clone();
    modes
        .local_modes
        .remove(LocalModes::ICANON | LocalModes::ECHO);
    tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &modes)
        .context("setting the terminal's modes")?;
    Ok(Some(before))
}
