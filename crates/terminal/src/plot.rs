//! A plot of values over time, in lines of text. Where there are more values than columns, each
//! column shows the highest of its part of the time, so that no peak is missed.

/// Lines of one plot, without its title and its axis.
const HEIGHT: usize = 4;
/// Columns left of it, for what its top means.
const MARGIN: usize = 10;
/// Without a terminal.
const USUAL_WIDTH: usize = 80;
/// From nothing to a whole place, in eighths.
const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What is plotted.
#[derive(Clone, Copy, Debug)]
pub struct Plot<'a> {
    pub title: &'a str,
    pub values: &'a [f64],
    /// The value at the top, and how it is written.
    pub top: (f64, &'a str),
    /// What the first and the last moment are called.
    pub times: (&'a str, &'a str),
}

/// Its lines, at most as wide as the terminal.
pub fn lines(plot: &Plot<'_>, width: Option<usize>) -> Vec<String> {
    let room = width
        .unwrap_or(USUAL_WIDTH)
        .saturating_sub(MARGIN + 2)
        .max(10);
    let columns = columns(plot.values, room);
    let mut out = vec![plot.title.to_owned()];
    for line in 0..HEIGHT {
        let below = (HEIGHT - 1 - line) * 8;
        let label = if line == 0 { plot.top.1 } else { "" };
        let blocks = columns.iter().map(|value| {
            let eighths = eighths(*value, plot.top.0);
            BLOCKS
                .get(eighths.saturating_sub(below).min(8))
                .copied()
                .unwrap_or(' ')
        });
        let text: String = blocks.collect();
        out.push(format!("{label:>MARGIN$} │{text}").trim_end().to_owned());
    }
    out.push(format!("{:>MARGIN$} └{}", "0", "─".repeat(columns.len())));
    let (first, last) = plot.times;
    let gap = columns
        .len()
        .saturating_sub(first.chars().count() + last.chars().count());
    out.push(format!(
        "{:>MARGIN$}  {first}{}{last}",
        "",
        " ".repeat(gap.max(1))
    ));
    out
}

fn columns(values: &[f64], room: usize) -> Vec<f64> {
    let count = values.len().min(room);
    let part = |at: usize| at * values.len() / count.max(1);
    let highest = |at: usize| {
        let of = values.get(part(at)..part(at + 1)).unwrap_or_default();
        of.iter().copied().fold(0.0, f64::max)
    };
    (0..count).map(highest).collect()
}

/// What is more than nothing is seen.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 0 and 32"
)]
fn eighths(value: f64, top: f64) -> usize {
    if value <= 0.0 || top <= 0.0 {
        return 0;
    }
    let whole = (HEIGHT * 8) as f64;
    (value / top * whole).round().clamp(1.0, whole) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_column_shows_the_highest_of_its_part() {
        let mut values = vec![0.0; 1_000];
        if let Some(peak) = values.get_mut(500) {
            *peak = 8.0;
        }
        let plot = Plot {
            title: "t",
            values: &values,
            top: (8.0, "8"),
            times: ("0s", "1h"),
        };
        let all = lines(&plot, Some(32));
        let top = all.get(1).map(String::as_str).unwrap_or_default();
        assert_eq!(top, "         8 │          █");
        assert!(all.iter().all(|l| l.chars().count() <= 32), "{all:?}");
        assert_eq!(all.len(), HEIGHT + 3);
        assert_eq!(
            all.last().map(String::as_str),
            Some("            0s                1h")
        );
    }

    #[test]
    fn what_is_little_is_seen_and_what_is_nothing_is_not() {
        let values = [0.0, 0.001, 4.0];
        let plot = Plot {
            title: "t",
            values: &values,
            top: (8.0, "8"),
            times: ("0s", "1m"),
        };
        let all = lines(&plot, None);
        let line = |at: usize| all.get(at).map(String::as_str).unwrap_or_default();
        assert_eq!(line(4), "           │ ▁█");
        assert_eq!(line(3), "           │  █");
        assert_eq!(line(2), "           │");
    }
}
