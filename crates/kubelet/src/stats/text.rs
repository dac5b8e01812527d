//! Prometheus' text form. Samples of statistics carry their own time, which client libraries do not
//! write; so this text is written by hand. A page has tens of thousands of samples of few things: what
//! many samples have in common is written once, as [`Labels`], and copied.

use jiff::Timestamp;
use std::fmt::Write;

/// Whole numbers below this one are exact as floating point numbers: 2^53.
const EXACT: u64 = 1 << 53;

/// A text of families of samples.
#[derive(Debug, Default)]
pub(super) struct Text {
    out: String,
}

/// Labels as the form wants them, for all samples that have them.
#[derive(Debug, Default)]
pub(super) struct Labels(String);

impl Labels {
    /// In this order.
    pub fn of(labels: &[(&str, &str)]) -> Self {
        let mut out = String::new();
        for (label, value) in labels {
            if !out.is_empty() {
                out.push(',');
            }
            out.push_str(label);
            out.push_str("=\"");
            escape(&mut out, value);
            out.push('"');
        }
        Self(out)
    }

    /// How many bytes they take.
    pub fn size(&self) -> usize {
        self.0.len()
    }
}

impl Text {
    /// With room for about as many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            out: String::with_capacity(bytes),
        }
    }

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
        self.labelled(name, &[&Labels::of(labels)], value, at);
    }

    /// A sample of the family that was begun, with all these labels.
    pub fn labelled(&mut self, name: &str, labels: &[&Labels], value: f64, at: Option<Timestamp>) {
        self.out.push_str(name);
        let mut before = '{';
        for Labels(some) in labels {
            if !some.is_empty() {
                self.out.push(before);
                before = ',';
                self.out.push_str(some);
            }
        }
        if before == ',' {
            self.out.push('}');
        }
        self.out.push(' ');
        number(&mut self.out, value);
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

/// Most values are whole numbers; as such they are written faster, and the same.
fn number(out: &mut String, value: f64) {
    let whole = value as u64;
    let _ = match whole < EXACT && whole as f64 == value && value.is_sign_positive() {
        true => write!(out, "{whole}"),
        false => write!(out, "{value}"),
    };
}

/// A label's value as the form wants it.
fn escape(out: &mut String, value: &str) {
    let mut rest = value;
    while let Some(at) = rest.find(['\\', '"', '\n']) {
        let (plain, from) = rest.split_at(at);
        out.push_str(plain);
        let mut chars = from.chars();
        match chars.next() {
            Some('\n') => out.push_str("\\n"),
            Some(special) => out.extend(['\\', special]),
            None => {}
        }
        rest = chars.as_str();
    }
    out.push_str(rest);
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

    #[test]
    fn labels_are_joined_and_none_leave_no_trace() {
        let (some, more) = (Labels::of(&[("l", "x"), ("m", "y")]), Labels::of(&[]));
        let mut t = Text::with_capacity(0);
        t.labelled("a", &[&some, &Labels::of(&[("n", "z")])], 1.0, None);
        t.labelled("b", &[&more, &some], 2.0, None);
        t.labelled("c", &[&more, &more], 3.0, None);
        let text = "a{l=\"x\",m=\"y\",n=\"z\"} 1\nb{l=\"x\",m=\"y\"} 2\nc 3\n";
        assert_eq!(t.done(), text);
        assert_eq!(some.size(), r#"l="x",m="y""#.len());
    }

    #[test]
    fn what_has_a_meaning_in_the_form_is_escaped_wherever_it_stands() {
        for (value, form) in [
            ("", ""),
            ("plain", "plain"),
            ("\\", "\\\\"),
            ("\"a\n\n", "\\\"a\\n\\n"),
            ("a\\nb", "a\\\\nb"),
            ("über\"ü", "über\\\"ü"),
        ] {
            let Labels(text) = Labels::of(&[("l", value)]);
            assert_eq!(text, format!("l=\"{form}\""));
        }
    }

    #[test]
    fn numbers_are_written_as_the_language_writes_them() {
        let most = EXACT as f64;
        for value in [
            0.0,
            -0.0,
            1.0,
            -1.0,
            0.5,
            1e-7,
            1024.0,
            most - 1.0,
            most,
            most * 3.0,
            1e22,
            f64::MAX,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
        ] {
            let mut text = String::new();
            number(&mut text, value);
            assert_eq!(text, value.to_string());
        }
    }
}
