//! The live form of `top`: which keys do what, and what stands on the screen.

use super::{Sort, UsageSnapshot, View, rows, table};
use crate::style::{Style, Tone, harmless};
use crate::table::cut;
use crate::words;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key {
    Char(char),
    Enter,
    Escape,
    Backspace,
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
}

/// The keys in what a terminal has sent at once; a sequence that means none of them is left out.
pub fn keys(bytes: &[u8]) -> Vec<Key> {
    const SEQUENCES: [(&str, Key); 12] = [
        ("\x1b[A", Key::Up),
        ("\x1bOA", Key::Up),
        ("\x1b[B", Key::Down),
        ("\x1bOB", Key::Down),
        ("\x1b[5~", Key::PageUp),
        ("\x1b[6~", Key::PageDown),
        ("\x1b[H", Key::Home),
        ("\x1b[1~", Key::Home),
        ("\x1bOH", Key::Home),
        ("\x1b[F", Key::End),
        ("\x1b[4~", Key::End),
        ("\x1bOF", Key::End),
    ];
    let text = String::from_utf8_lossy(bytes);
    let (mut rest, mut out) = (text.as_ref(), Vec::new());
    while let Some(first) = rest.chars().next() {
        if let Some((sequence, key)) = SEQUENCES.iter().find(|(s, _)| rest.starts_with(s)) {
            out.push(*key);
            rest = rest.get(sequence.len()..).unwrap_or_default();
            continue;
        }
        rest = rest.get(first.len_utf8()..).unwrap_or_default();
        match first {
            '\x1b' if rest.starts_with(['[', 'O']) => {
                // Up to the letter or tilde that ends it.
                let end = rest
                    .char_indices()
                    .skip(1)
                    .find(|(_, c)| ('@'..='~').contains(c));
                rest = end
                    .and_then(|(at, c)| rest.get(at + c.len_utf8()..))
                    .unwrap_or_default();
            }
            '\x1b' => out.push(Key::Escape),
            '\r' | '\n' => out.push(Key::Enter),
            '\x7f' | '\x08' => out.push(Key::Backspace),
            c if c.is_control() => {}
            c => out.push(Key::Char(c)),
        }
    }
    out
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    Draw,
    Quit,
}

/// What a person has chosen to see.
pub struct Screen {
    pub view: View,
    pub sort: Sort,
    pub filter: String,
    /// Whether namespaces differ.
    pub many: bool,
    /// The filter is being written.
    writing: bool,
    /// Rows above the first that is shown.
    above: usize,
}

/// Characters of a filter: a name has 253 at most.
const LONGEST_FILTER: usize = 253;

impl Screen {
    pub const fn new(view: View, sort: Sort, filter: String, many: bool) -> Self {
        Self {
            view,
            sort,
            filter,
            many,
            writing: false,
            above: 0,
        }
    }

    pub fn press(&mut self, key: Key, height: usize) -> Next {
        if self.writing {
            self.write(key);
            return Next::Draw;
        }
        let page = self.room(height).max(1);
        match key {
            Key::Char('q') => return Next::Quit,
            Key::Char('n') => self.show(View::Nodes),
            Key::Char('p') => self.show(View::Pods),
            Key::Char('c') => self.show(View::Containers),
            Key::Char('s') => {
                self.sort = match self.sort {
                    Sort::Cpu => Sort::Memory,
                    Sort::Memory => Sort::Name,
                    Sort::Name => Sort::Cpu,
                };
                self.above = 0;
            }
            Key::Char('/') => self.writing = true,
            Key::Escape => self.filter.clear(),
            Key::Up | Key::Char('k') => self.above = self.above.saturating_sub(1),
            // The end is known when it is drawn.
            Key::Down | Key::Char('j') => self.above = self.above.saturating_add(1),
            Key::PageUp => self.above = self.above.saturating_sub(page),
            Key::PageDown | Key::Char(' ') => self.above = self.above.saturating_add(page),
            Key::Home => self.above = 0,
            Key::End => self.above = usize::MAX,
            Key::Char(_) | Key::Enter | Key::Backspace => {}
        }
        Next::Draw
    }

    const fn show(&mut self, view: View) {
        self.view = view;
        self.above = 0;
    }

    fn write(&mut self, key: Key) {
        self.above = 0;
        match key {
            Key::Enter => self.writing = false,
            Key::Escape => {
                self.writing = false;
                self.filter.clear();
            }
            Key::Backspace => drop(self.filter.pop()),
            Key::Char(c) if self.filter.chars().count() < LONGEST_FILTER => self.filter.push(c),
            _ => {}
        }
    }

    /// Lines for rows: without the two above, the titles, and the last.
    const fn room(&self, height: usize) -> usize {
        height.saturating_sub(5)
    }

    /// The lines of the screen, `height` at most.
    pub fn draw(
        &mut self,
        seen: &UsageSnapshot,
        width: usize,
        height: usize,
        style: Style,
    ) -> Vec<String> {
        let (all, lacks) = rows(seen, self.view, self.sort, &self.filter);
        let room = self.room(height);
        self.above = self.above.min(all.len().saturating_sub(room));
        let shown: Vec<_> = all.iter().skip(self.above).take(room).cloned().collect();
        let mut out = vec![self.head(all.len(), width, style), String::new()];
        // Titles as wide as what is not in sight needs, too, would move less, but cut more.
        out.extend(table(&shown, self.view, self.many, Some(width), style));
        if all.is_empty() {
            let text = match self.filter.as_str() {
                "" => "There are none.".to_owned(),
                filter => format!("None is named like {filter:?}."),
            };
            out.push(style.paint(Tone::Quiet, &text));
        }
        out.truncate(height.saturating_sub(1));
        out.resize(height.saturating_sub(1), String::new());
        out.push(self.foot(&lacks, width, style));
        out
    }

    fn head(&self, count: usize, width: usize, style: Style) -> String {
        let what = match self.view {
            View::Nodes => "node",
            View::Pods => "pod",
            View::Containers => "container",
        };
        let text = format!("{} by {}", words::count(count, what), self.sort.word());
        style.paint(Tone::Strong, &cut(&text, width))
    }

    fn foot(&self, lacks: &[String], width: usize, style: Style) -> String {
        if self.writing {
            return cut(&format!("/{}", harmless(&self.filter)), width);
        }
        if let Some(lack) = lacks.first() {
            return style.paint(Tone::Warn, &cut(&harmless(lack), width));
        }
        let filter = match self.filter.as_str() {
            "" => String::new(),
            filter => format!("filter {}  ", harmless(filter)),
        };
        let text = format!("{filter}n nodes  p pods  c containers  s sort  / filter  q quit");
        style.paint(Tone::Quiet, &cut(&text, width))
    }
}
