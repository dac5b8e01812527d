//! `tiphys logs`: which containers' logs there are, which lines are new, and how a line of many
//! sources looks.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde::Serialize;

use crate::style::Style;

/// A container whose log is read.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Source {
    pub namespace: String,
    pub pod: String,
    /// A pod that was deleted and made again is another one.
    pub uid: String,
    pub container: String,
}

/// A container that has run, and which of its runs is the newest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    pub source: Source,
    /// The runtime's name of the run.
    pub id: String,
    /// Of the run before it, where the cluster still knows it.
    pub previous: Option<String>,
}

/// The containers of a pod that have a log: all of them, or the one of this name.
pub fn runs(pod: &Pod, container: Option<&str>) -> Vec<Run> {
    let meta = &pod.metadata;
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let all = [
        &status.init_container_statuses,
        &status.container_statuses,
        &status.ephemeral_container_statuses,
    ];
    let all = all.into_iter().flatten().flatten();
    all.filter(|c| container.is_none_or(|wanted| c.name == wanted))
        .filter_map(|c| {
            Some(Run {
                source: Source {
                    namespace: meta.namespace.clone().unwrap_or_default(),
                    pod: meta.name.clone().unwrap_or_default(),
                    uid: meta.uid.clone().unwrap_or_default(),
                    container: c.name.clone(),
                },
                id: c.container_id.clone().filter(|id| !id.is_empty())?,
                previous: previous(c),
            })
        })
        .collect()
}

fn previous(c: &ContainerStatus) -> Option<String> {
    let last = c.last_state.as_ref()?.terminated.as_ref()?;
    let id = last.container_id.clone()?;
    // While it waits to be started again, the last run is the newest, too.
    (Some(&id) != c.container_id.as_ref()).then_some(id)
}

/// What has to be opened when pods change: each run once.
#[derive(Default)]
pub struct Opened {
    runs: HashMap<Source, String>,
}

/// A log to open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Open {
    pub source: Source,
    /// A run that came and went between two looks is read, too, before the one after it.
    pub missed: bool,
    /// It is the first that is seen of this container.
    pub first: bool,
}

impl Opened {
    /// Notes a run; what has to be opened for it, if anything.
    pub fn note(&mut self, run: &Run) -> Option<Open> {
        let known = self.runs.insert(run.source.clone(), run.id.clone());
        if known.as_ref() == Some(&run.id) {
            return None;
        }
        let missed = match (&known, &run.previous) {
            (Some(known), Some(previous)) => known != previous,
            _ => false,
        };
        Some(Open {
            source: run.source.clone(),
            missed,
            first: known.is_none(),
        })
    }
}

/// A line as the server sends it, with its time in front.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// None for what has no time, such as a message of the server's own.
    pub time: Option<Timestamp>,
    pub text: String,
}

impl Line {
    pub fn parse(line: &str) -> Self {
        let line = line.strip_suffix('\n').unwrap_or(line);
        let split = line.split_once(' ').unwrap_or((line, ""));
        match split.0.parse() {
            Ok(time) => Self {
                time: Some(time),
                text: split.1.to_owned(),
            },
            Err(_) => Self {
                time: None,
                text: line.to_owned(),
            },
        }
    }
}

/// How far a container's log has been shown. Reading begins again where a connection broke, which
/// is asked for in whole seconds: lines that were shown come once more, and are left out.
#[derive(Clone, Default, Debug)]
pub struct Mark {
    time: Option<Timestamp>,
    /// Lines shown of that time.
    shown: usize,
    /// Lines of that time that came since reading began again.
    again: usize,
}

impl Mark {
    /// From when on to ask for lines.
    pub const fn since(&self) -> Option<Timestamp> {
        self.time
    }

    /// Reading begins again.
    pub const fn begin(&mut self) {
        self.again = 0;
    }

    /// Whether a line has not been shown yet; it is noted.
    pub fn is_new(&mut self, line: &Line) -> bool {
        let Some(time) = line.time else { return true };
        match self.time {
            Some(last) if time < last => false,
            Some(last) if time == last => {
                self.again += 1;
                let new = self.again > self.shown;
                if new {
                    self.shown = self.again;
                }
                new
            }
            _ => {
                *self = Self {
                    time: Some(time),
                    shown: 1,
                    again: 1,
                };
                true
            }
        }
    }
}

/// The next line of several logs, each in the order of its times: which of the heads comes first.
/// One without a time goes with what was before it.
pub fn earliest<'a>(heads: impl Iterator<Item = (usize, &'a Line)>) -> Option<usize> {
    heads
        .min_by_key(|(at, line)| (line.time.unwrap_or(Timestamp::MIN), *at))
        .map(|(at, _)| at)
}

/// What stands before a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Naming {
    pub namespace: bool,
    pub pod: bool,
    pub container: bool,
}

impl Naming {
    fn name(self, source: &Source) -> String {
        let parts = [
            (self.namespace, source.namespace.as_str()),
            (self.pod, source.pod.as_str()),
            (self.container, source.container.as_str()),
        ];
        let parts = parts.into_iter().filter(|(shown, _)| *shown);
        parts.map(|(_, name)| name).collect::<Vec<_>>().join("/")
    }
}

/// Gives each source its colour, in the order in which they come.
pub struct Writer {
    pub naming: Naming,
    pub style: Style,
    pub timestamps: bool,
    colours: HashMap<Source, usize>,
}

impl Writer {
    pub fn new(naming: Naming, style: Style, timestamps: bool) -> Self {
        Self {
            naming,
            style,
            timestamps,
            colours: HashMap::new(),
        }
    }

    /// A line as it is printed. Its text stays as the container wrote it: colours are its own.
    pub fn line(&mut self, source: &Source, line: &Line) -> String {
        let name = self.naming.name(source);
        let mut out = String::new();
        if !name.is_empty() {
            let next = self.colours.len();
            let number = *self.colours.entry(source.clone()).or_insert(next);
            out.push_str(&self.style.source(number, &name));
            out.push(' ');
        }
        if let Some(time) = line.time.filter(|_| self.timestamps) {
            out.push_str(&time.to_string());
            out.push(' ');
        }
        out.push_str(&line.text);
        out
    }
}

/// A line for programs.
#[derive(Serialize)]
pub struct Record<'a> {
    pub namespace: &'a str,
    pub pod: &'a str,
    pub container: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    pub message: &'a str,
}

impl<'a> Record<'a> {
    pub fn new(source: &'a Source, line: &'a Line) -> Self {
        Self {
            namespace: &source.namespace,
            pod: &source.pod,
            container: &source.container,
            time: line.time,
            message: &line.text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(pod: &str, container: &str) -> Source {
        Source {
            namespace: "shop".to_owned(),
            pod: pod.to_owned(),
            uid: pod.to_owned(),
            container: container.to_owned(),
        }
    }

    fn run(id: &str, previous: Option<&str>) -> Run {
        Run {
            source: source("web", "main"),
            id: id.to_owned(),
            previous: previous.map(str::to_owned),
        }
    }

    #[test]
    fn each_run_is_opened_once_and_none_is_missed() {
        let mut opened = Opened::default();
        let open = |o: Option<Open>| o.map(|o| (o.first, o.missed));
        assert_eq!(open(opened.note(&run("a", None))), Some((true, false)));
        assert_eq!(opened.note(&run("a", None)), None);
        assert_eq!(
            open(opened.note(&run("b", Some("a")))),
            Some((false, false))
        );
        // c was never seen to run.
        assert_eq!(open(opened.note(&run("d", Some("c")))), Some((false, true)));
    }

    #[test]
    fn containers_that_never_ran_have_no_log() {
        let status = |name: &str, id: &str| {
            serde_json::json!({ "name": name, "image": "", "imageID": "", "ready": true,
                "restartCount": 1, "containerID": id,
                "lastState": { "terminated": { "exitCode": 0, "containerID": "x://0" } } })
        };
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "web", "namespace": "shop", "uid": "web" },
            "status": { "containerStatuses": [status("main", "x://1"), status("late", "")] } }))
        .expect("pod");
        let all = runs(&pod, None);
        assert_eq!(all, [run("x://1", Some("x://0"))]);
        assert_eq!(runs(&pod, Some("late")), []);
    }

    #[test]
    fn lines_that_come_again_are_not_shown_again() {
        let line = |t: &str| Line::parse(&format!("2026-01-01T00:00:{t}Z x\n"));
        let mut mark = Mark::default();
        let new = |mark: &mut Mark, all: &[&str]| -> Vec<bool> {
            all.iter().map(|t| mark.is_new(&line(t))).collect()
        };
        assert_eq!(
            new(&mut mark, &["01.1", "01.25", "01.25"]),
            [true, true, true]
        );
        // The connection broke; one line more has been written at that very time.
        mark.begin();
        let again = new(&mut mark, &["01.1", "01.250000000", "01.25", "01.25", "02"]);
        assert_eq!(again, [false, false, false, true, true]);
        assert_eq!(mark.since(), line("02").time);
    }

    #[test]
    fn lines_of_several_logs_are_in_the_order_of_their_times() {
        let heads = [
            "2026-01-01T00:00:02Z b",
            "2026-01-01T00:00:01.5Z a",
            "no time",
        ];
        let heads: Vec<Line> = heads.iter().map(|l| Line::parse(l)).collect();
        let all = || heads.iter().enumerate();
        assert_eq!(earliest(all()), Some(2));
        assert_eq!(earliest(all().take(2)), Some(1));
        assert_eq!(earliest(all().take(0)), None);
    }

    #[test]
    fn names_stand_before_lines_in_colours_that_differ() {
        let naming = Naming {
            namespace: false,
            pod: true,
            container: true,
        };
        let mut writer = Writer::new(naming, Style::COLOURED, false);
        let line = Line::parse("2026-01-01T00:00:01Z \x1b[1mhello\x1b[0m ");
        let first = writer.line(&source("a", "main"), &line);
        assert_eq!(first, "\x1b[36ma/main\x1b[0m \x1b[1mhello\x1b[0m ");
        let second = writer.line(&source("b", "main"), &line);
        assert!(second.starts_with("\x1b[32mb/main\x1b[0m "), "{second}");
        assert_eq!(writer.line(&source("a", "main"), &line), first);
        let none = Naming {
            pod: false,
            container: false,
            ..naming
        };
        let mut writer = Writer::new(none, Style::PLAIN, true);
        let text = writer.line(&source("a", "main"), &Line::parse("2026-01-01T00:00:01Z x"));
        assert_eq!(text, "2026-01-01T00:00:01Z x");
    }

    #[test]
    fn a_line_for_programs_names_its_source() {
        let (source, line) = (source("a", "main"), Line::parse("no time at all"));
        let text = serde_json::to_string(&Record::new(&source, &line)).expect("json");
        assert_eq!(
            text,
            r#"{"namespace":"shop","pod":"a","container":"main","message":"no time at all"}"#
        );
    }
}
