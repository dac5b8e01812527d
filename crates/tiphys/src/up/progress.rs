//! What `up` says: what is ready, and how long after the start; and meanwhile what is waited for.

use std::time::Instant;

use serde::Serialize;
use terminal::progress::Unit;

use crate::show::Output;
use crate::show::progress::Work;

pub struct Progress {
    started: Instant,
    output: Output,
    work: Work,
}

/// A line for programs.
#[derive(Serialize)]
struct Event<'a> {
    /// Since the start.
    seconds: f64,
    message: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    failed: bool,
}

impl Progress {
    pub fn start(output: Output) -> Self {
        Self {
            started: Instant::now(),
            output,
            work: Work::begin(),
        }
    }

    /// The form, and whether it is people who read.
    pub fn is_for_people(&self) -> bool {
        self.output == Output::Text
    }

    /// This is waited for, until something is said of the next.
    pub fn waits(&self, what: &str) {
        self.work.waits(what);
    }
    /// As [`Progress::waits`], where parts of it can be counted: so many, of so many.
    pub fn waits_for(&self, what: &str, count: impl Fn() -> (u64, u64) + Send + 'static) {
        self.work.step(what, Unit::Things("ready"), count);
    }
    /// Nothing is waited for.
    pub fn rests(&self) {
        self.work.rests();
    }

    pub fn done(&self, what: &str) {
        let text = self.line(what, false, true);
        self.work.say(&text);
    }
    pub fn failed(&self, what: &str) {
        let text = self.line(what, true, true);
        // Programs read it where they read the rest.
        match self.is_for_people() {
            true => self.work.complain(&text),
            false => self.work.say(&text),
        }
    }
    /// Something that people read without its time.
    pub fn says(&self, what: &str) {
        let text = self.line(what, false, false);
        self.work.say(&text);
    }

    fn line(&self, message: &str, failed: bool, timed: bool) -> String {
        let seconds = self.started.elapsed().as_secs_f64();
        let event = Event {
            seconds: (seconds * 1_000.0).round() / 1_000.0,
            message,
            failed,
        };
        let text = || match timed {
            true => format!("[{seconds:6.2} s] {message}"),
            false => message.to_owned(),
        };
        // Text and numbers can always be written.
        self.output
            .one_of_many(&event, text)
            .unwrap_or_else(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_says_the_same() {
        let people = Progress::start(Output::Text);
        assert!(
            people
                .line("node-1 ready", false, true)
                .ends_with(" s] node-1 ready")
        );
        assert_eq!(people.line("it ends", false, false), "it ends");
        let json = Progress::start(Output::Json).line("node-1 ready", false, true);
        let read: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(read["message"], "node-1 ready");
        assert!(read["seconds"].is_number() && read.get("failed").is_none());
        let yaml = Progress::start(Output::Yaml).line("no", true, true);
        assert!(
            yaml.starts_with("---\n") && yaml.ends_with("failed: true"),
            "{yaml}"
        );
    }
}
