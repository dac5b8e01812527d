//! Prometheus' text form. Samples of statistics carry their own time, which client libraries do not
//! write; so this text is written by hand.

use jiff::Timestamp;
use std::fmt::Write;

/// A text of families of samples.
#[derive(Debug, Default)]
pub(super) struct Text {
    out: String,
}

impl Text {
    /// Begins a family; its samples follow.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A sample of the family that was begun.
    pub fn sample(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        value: f64,
        at: Option<Timestamp>,
    ) {
        self.out.push_str(name);
        let mut before = '{';
        for (label, value) in labels {
            self.out.push(before);
            before = ',';
            let _ = write!(self.out, "{label}=\"{}\"", Escaped(value));
        }
        if before == ',' {
            self.out.push('}');
        }
        let _ = write!(self.out, " {value}");
        if let Some(at) = at {
            let _ = write!(self.out, " {}", at.as_millisecond());
        }
        self.out.push('\n');
    }

    /// A family of one sample without labels.
    pub fn one(&mut self, (name, kind, help): (&str, &str, &str), value: f64) {
        self.family(name, kind, help);
        self.sample(name, &[], value, None);
    }

    /// The text.
    pub fn done(self) -> String {
        self.out
    }
}

/// A label's value as the form wants it.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Nanoseconds as seconds.
pub(super) fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_carry_labels_and_times() {
        let mut t = Text::default();
        let at = Timestamp::from_second(2).ok();
        t.sample("a", &[("l", "x\"y"), ("m", "")], 1.5, at);
        t.sample("b", &[], 3.0, None);
        assert_eq!(t.done(), "a{l=\"x\\\"y\",m=\"\"} 1.5 2000\nb 3\n");
    }
}
