//! How two texts differ, line by line, in the unified form: the longest run of lines that both have
//! stays, and so on before and after it; as Python's difflib and its translations do it.

use std::collections::HashMap;
use std::ops::Range;

/// So many lines around a change are shown.
const CONTEXT: usize = 3;
/// Of texts with more lines only the equal beginning and end are looked for: the whole search costs up
/// to the square of this.
const MOST_SEARCHED: usize = 500;
/// From so many lines on, lines that stand in more than a hundredth of them are not searched by.
const MANY: usize = 200;

/// A piece of both texts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    equal: bool,
    old: Range<usize>,
    new: Range<usize>,
}

/// The difference, each line ended by a new line; empty where there is none.
pub fn unified(old: &[String], new: &[String]) -> String {
    let mut out = String::new();
    for group in grouped(runs(old, new)) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else {
            continue;
        };
        let range = |start: usize, end: usize| match end.saturating_sub(start) {
            1 => format!("{}", start + 1),
            0 => format!("{start},0"),
            n => format!("{},{n}", start + 1),
        };
        let before = range(first.old.start, last.old.end);
        let after = range(first.new.start, last.new.end);
        out.push_str(&format!("@@ -{before} +{after} @@\n"));
        for run in &group {
            let removed = if run.equal { ' ' } else { '-' };
            write(&mut out, removed, old, &run.old);
            if !run.equal {
                write(&mut out, '+', new, &run.new);
            }
        }
    }
    out
}

fn write(out: &mut String, mark: char, lines: &[String], range: &Range<usize>) {
    for line in lines.get(range.clone()).unwrap_or_default() {
        out.push(mark);
        out.push_str(line);
        out.push('\n');
    }
}

/// Both texts from beginning to end, equal and different pieces in turn.
fn runs(old: &[String], new: &[String]) -> Vec<Run> {
    let mut equal = Vec::new();
    if old.len().max(new.len()) > MOST_SEARCHED {
        ends(old, new, &mut equal);
    } else {
        search(old, new, &mut equal);
    }
    equal.push((old.len(), new.len(), 0));
    let mut out: Vec<Run> = Vec::new();
    let (mut i, mut j) = (0, 0);
    for (a, b, size) in equal {
        if i < a || j < b {
            out.push(Run {
                equal: false,
                old: i..a,
                new: j..b,
            });
        }
        (i, j) = (a + size, b + size);
        match out.last_mut() {
            // Of two that touch one is made.
            Some(last) if last.equal && size > 0 => {
                (last.old.end, last.new.end) = (i, j);
            }
            _ if size > 0 => out.push(Run {
                equal: true,
                old: a..i,
                new: b..j,
            }),
            _ => {}
        }
    }
    out
}

/// The beginning and the end that both have.
fn ends(old: &[String], new: &[String], equal: &mut Vec<(usize, usize, usize)>) {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (left, right) = (old.iter().skip(head).rev(), new.iter().skip(head).rev());
    let tail = left.zip(right).take_while(|(a, b)| a == b).count();
    for (from_old, from_new, size) in [(0, 0, head), (old.len() - tail, new.len() - tail, tail)] {
        if size > 0 {
            equal.push((from_old, from_new, size));
        }
    }
}

/// The pieces that both have, in order: of each stretch the longest, then those before and after it.
fn search(old: &[String], new: &[String], equal: &mut Vec<(usize, usize, usize)>) {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (j, line) in new.iter().enumerate() {
        places.entry(line).or_default().push(j);
    }
    if new.len() >= MANY {
        places.retain(|_, at| at.len() <= new.len() / 100 + 1);
    }
    let mut open = vec![(0..old.len(), 0..new.len())];
    while let Some((in_old, in_new)) = open.pop() {
        let (a, b, size) = longest(old, new, &places, &in_old, &in_new);
        if size > 0 {
            equal.push((a, b, size));
            open.push((in_old.start..a, in_new.start..b));
            open.push((a + size..in_old.end, b + size..in_new.end));
        }
    }
    equal.sort_unstable();
}

/// The longest piece that both have in a stretch, the first of several.
fn longest(
    old: &[String],
    new: &[String],
    places: &HashMap<&str, Vec<usize>>,
    in_old: &Range<usize>,
    in_new: &Range<usize>,
) -> (usize, usize, usize) {
    let (mut a, mut b, mut size) = (in_old.start, in_new.start, 0);
    // How long the piece is that ends with the line before and a line of the new text.
    let mut lengths: HashMap<usize, usize> = HashMap::new();
    for i in in_old.clone() {
        let mut now = HashMap::new();
        let at = old.get(i).and_then(|line| places.get(line.as_str()));
        for j in at.into_iter().flatten().copied() {
            if !in_new.contains(&j) {
                continue;
            }
            let before = j.checked_sub(1).and_then(|j| lengths.get(&j));
            let length = before.copied().unwrap_or(0) + 1;
            now.insert(j, length);
            if length > size {
                (a, b, size) = (i + 1 - length, j + 1 - length, length);
            }
        }
        lengths = now;
    }
    // Lines that are not searched by may lie beside it.
    let same = |i: usize, j: usize| old.get(i) == new.get(j);
    while a > in_old.start && b > in_new.start && same(a - 1, b - 1) {
        (a, b, size) = (a - 1, b - 1, size + 1);
    }
    while a + size < in_old.end && b + size < in_new.end && same(a + size, b + size) {
        size += 1;
    }
    (a, b, size)
}

/// Changes with what is around them, those that are near each other together.
fn grouped(mut runs: Vec<Run>) -> Vec<Vec<Run>> {
    if let Some(first) = runs.first_mut().filter(|r| r.equal) {
        let skipped = first.old.len().saturating_sub(CONTEXT);
        first.old.start += skipped;
        first.new.start += skipped;
    }
    if let Some(last) = runs.last_mut().filter(|r| r.equal) {
        let skipped = last.old.len().saturating_sub(CONTEXT);
        last.old.end -= skipped;
        last.new.end -= skipped;
    }
    let mut out = Vec::new();
    let mut group: Vec<Run> = Vec::new();
    for mut run in runs {
        let length = run.old.len();
        if run.equal && length > 2 * CONTEXT {
            group.push(Run {
                equal: true,
                old: run.old.start..run.old.start + CONTEXT,
                new: run.new.start..run.new.start + CONTEXT,
            });
            out.push(std::mem::take(&mut group));
            run.old.start += length - CONTEXT;
            run.new.start += length - CONTEXT;
        }
        group.push(run);
    }
    out.push(group);
    out.retain(|group| group.iter().any(|run| !run.equal));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    fn of(old: &str, new: &str) -> Vec<String> {
        let text = unified(&lines(old), &lines(new));
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn changes_are_shown_with_what_is_around_them() {
        assert_eq!(of("a b c", "a b c"), Vec::<String>::new());
        assert_eq!(
            of("a b c d e f g", "a b c d x f g"),
            ["@@ -2,6 +2,6 @@", " b", " c", " d", "-e", "+x", " f", " g"]
        );
        assert_eq!(of("a", "b"), ["@@ -1 +1 @@", "-a", "+b"]);
        assert_eq!(of("a b", "b"), ["@@ -1,2 +1 @@", "-a", " b"]);
        // What is far apart stands apart.
        assert_eq!(
            of("a 1 2 3 4 5 6 7 b", "x 1 2 3 4 5 6 7 y"),
            [
                "@@ -1,4 +1,4 @@",
                "-a",
                "+x",
                " 1",
                " 2",
                " 3",
                "@@ -6,4 +6,4 @@",
                " 5",
                " 6",
                " 7",
                "-b",
                "+y"
            ]
        );
        assert_eq!(
            of("a 1 2 3 4 5 6 b", "x 1 2 3 4 5 6 y")
                .first()
                .map(String::as_str),
            Some("@@ -1,8 +1,8 @@")
        );
        let none: &[String] = &[];
        assert_eq!(unified(none, none), "");
        assert_eq!(unified(none, &lines("a")), "@@ -0,0 +1 @@\n+a\n");
    }

    #[test]
    fn the_longest_piece_stays() {
        assert_eq!(
            of("a b", "a c a b"),
            ["@@ -1,2 +1,4 @@", "+a", "+c", " a", " b"]
        );
        assert_eq!(
            of("p a b c q a b", "a b p a b c"),
            [
                "@@ -1,7 +1,6 @@",
                "+a",
                "+b",
                " p",
                " a",
                " b",
                " c",
                "-q",
                "-a",
                "-b"
            ]
        );
    }

    #[test]
    fn long_texts_cost_no_square() {
        let long = |middle: &str| {
            let mut all: Vec<String> = (0..100_000).map(|n| (n % 7).to_string()).collect();
            all[50_000] = middle.to_owned();
            all
        };
        let text = unified(&long("a"), &long("b"));
        assert_eq!(text.lines().count(), 9, "{text}");
        assert!(text.starts_with("@@ -49998,7 +49998,7 @@\n"), "{text}");
    }
}
