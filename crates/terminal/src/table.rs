//! Tables as kubectl prints them: titles, columns as wide as their widest cell, and nothing wider
//! than the terminal.

use crate::style::{Style, Tone, harmless};

/// Blanks between columns.
const GAP: usize = 3;
/// The narrowest that the column that gives way becomes.
const NARROWEST: usize = 8;

#[derive(Clone, Copy, Debug)]
pub struct Column {
    pub title: &'static str,
    /// Numbers stand right.
    pub right: bool,
    /// Whether it gives way where the terminal is too narrow.
    pub yields: bool,
}

impl Column {
    pub const fn left(title: &'static str) -> Self {
        Self {
            title,
            right: false,
            yields: false,
        }
    }
    pub const fn right(title: &'static str) -> Self {
        Self {
            title,
            right: true,
            yields: false,
        }
    }
    /// A text that may be cut.
    pub const fn text(title: &'static str) -> Self {
        Self {
            title,
            right: false,
            yields: true,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cell {
    text: String,
    tone: Option<Tone>,
}

impl Cell {
    pub fn toned(text: &str, tone: Tone) -> Self {
        Self {
            text: harmless(text),
            tone: Some(tone),
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self {
            text: harmless(text),
            tone: None,
        }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

/// Its lines, the titles first. `width` is the terminal's, in columns; without one nothing is cut.
pub fn lines(
    columns: &[Column],
    rows: &[Vec<Cell>],
    width: Option<usize>,
    style: Style,
) -> Vec<String> {
    let widths = widths(columns, rows, width);
    let titles: Vec<Cell> = columns.iter().map(|c| Cell::from(c.title)).collect();
    let mut out = vec![style.paint(Tone::Strong, &line(columns, &titles, &widths, Style::PLAIN))];
    out.extend(rows.iter().map(|row| line(columns, row, &widths, style)));
    out
}

fn widths(columns: &[Column], rows: &[Vec<Cell>], limit: Option<usize>) -> Vec<usize> {
    let widest = |at: usize, title: &str| {
        let cells = rows.iter().filter_map(|row| row.get(at));
        let widest = cells.map(|c| length(&c.text)).max();
        widest.unwrap_or(0).max(length(title))
    };
    let mut out: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(at, c)| widest(at, c.title))
        .collect();
    let Some(limit) = limit else { return out };
    let whole = out.iter().sum::<usize>() + GAP * columns.len().saturating_sub(1);
    let mut over = whole.saturating_sub(limit);
    // The last one first: what explains stands at the end.
    for (column, width) in columns.iter().zip(out.iter_mut()).rev() {
        if column.yields {
            let less = over.min(width.saturating_sub(NARROWEST));
            *width -= less;
            over -= less;
        }
    }
    out
}

fn line(columns: &[Column], row: &[Cell], widths: &[usize], style: Style) -> String {
    let mut out = String::new();
    for (at, ((column, cell), width)) in columns.iter().zip(row).zip(widths).enumerate() {
        let text = cut(&cell.text, *width);
        let blanks = " ".repeat(width.saturating_sub(length(&text)));
        let text = match cell.tone {
            Some(tone) => style.paint(tone, &text),
            None => text,
        };
        if at > 0 {
            out.push_str(&" ".repeat(GAP));
        }
        if column.right {
            out.push_str(&blanks);
            out.push_str(&text);
        } else {
            out.push_str(&text);
            out.push_str(&blanks);
        }
    }
    out.truncate(out.trim_end().len());
    out
}

/// Columns that a text takes. Names and messages of a cluster are of narrow characters, but for
/// rare ones, which cost a column of alignment.
fn length(text: &str) -> usize {
    text.chars().count()
}

/// What of a text fits.
pub fn cut(text: &str, width: usize) -> String {
    if length(text) <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [
        Column::left("NAME"),
        Column::right("CPU"),
        Column::text("WHY"),
    ];

    fn rows() -> Vec<Vec<Cell>> {
        vec![
            vec!["web".into(), "5m".into(), "".into()],
            vec![
                "database-0".into(),
                "1250m".into(),
                Cell::toned("out of memory", Tone::Bad),
            ],
        ]
    }

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let text = lines(&COLUMNS, &rows(), None, Style::PLAIN).join("\n");
        expect_test::expect![[r#"
            NAME           CPU   WHY
            web             5m
            database-0   1250m   out of memory"#]]
        .assert_eq(&text);
    }

    #[test]
    fn what_may_yield_is_cut_to_the_terminal() {
        let all = lines(&COLUMNS, &rows(), Some(30), Style::PLAIN);
        assert_eq!(all[2], "database-0   1250m   out of m…");
        // Nothing is cut to nothing.
        let all = lines(&COLUMNS, &rows(), Some(5), Style::PLAIN);
        assert_eq!(all[2], "database-0   1250m   out of …");
    }

    #[test]
    fn colours_take_no_room() {
        let all = lines(&COLUMNS, &rows(), None, Style::COLOURED);
        assert_eq!(all[2], "database-0   1250m   \x1b[31mout of memory\x1b[0m");
    }
}
