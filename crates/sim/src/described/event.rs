//! What happens to a described cluster, and when: one event of its file.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::chance::Drawn;
use super::form::{DescriptionError, Span, object, wrong};
use super::load::{self, Load};

/// Something that happens: exactly one of the things that it may do.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Event {
    pub at: Span,
    /// It happens again and again, so often.
    pub every: Option<Span>,
    /// How many times altogether.
    pub times: Option<u32>,
    /// It happens by chance, so often an hour on the average.
    pub per_hour: Option<f64>,
    /// And so up to this time; to the end, if it does not say.
    pub until: Option<Span>,
    /// How long each of the pods runs that are made, if they run to their end.
    pub runs_for: Option<Drawn>,
    /// After how long each of the nodes that fail comes back; none by itself, if it does not say.
    pub lasts: Option<Drawn>,
    /// An object, or a List of them. What is made several times has the number at its name's end.
    #[serde(default, deserialize_with = "object")]
    pub create: Option<Value>,
    pub delete: Option<Named>,
    pub scale: Option<Scale>,
    /// Pods have this much to do, all together, from now on.
    pub load: Option<Load>,
    /// Nodes fall silent, with all that runs on them.
    pub fail: Option<Which>,
    /// They come back.
    pub restore: Option<Which>,
    /// They are cordoned, and their pods evicted as budgets allow.
    pub drain: Option<Which>,
    /// Nodes join a pool.
    pub add: Option<More>,
    /// Nodes are gone for good.
    pub remove: Option<Which>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Named {
    pub api_version: String,
    pub kind: String,
    #[serde(default = "load::default_namespace")]
    pub namespace: String,
    pub name: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Scale {
    /// Deployment, StatefulSet or ReplicaSet.
    pub kind: String,
    #[serde(default = "load::default_namespace")]
    pub namespace: String,
    pub name: String,
    pub replicas: u32,
}

/// Which nodes: by name, or some of a pool.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Which {
    pub nodes: Vec<String>,
    pub pool: Option<String>,
    pub zone: Option<String>,
    /// How many of them, by chance; all, if it does not say.
    pub count: Option<usize>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct More {
    pub pool: String,
    pub count: usize,
}

/// What an event does.
#[derive(Clone, Copy, Debug)]
pub enum Deed<'a> {
    Create(&'a Value),
    Delete(&'a Named),
    Scale(&'a Scale),
    Load(&'a Load),
    Fail(&'a Which),
    Restore(&'a Which),
    Drain(&'a Which),
    Add(&'a More),
    Remove(&'a Which),
}

impl fmt::Display for Deed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create(_) => "create",
            Self::Delete(_) => "delete",
            Self::Scale(_) => "scale",
            Self::Load(_) => "load",
            Self::Fail(_) => "fail",
            Self::Restore(_) => "restore",
            Self::Drain(_) => "drain",
            Self::Add(_) => "add",
            Self::Remove(_) => "remove",
        })
    }
}

impl<'a> Deed<'a> {
    /// The nodes that it is about.
    pub(super) fn which(self) -> Option<&'a Which> {
        match self {
            Self::Fail(w) | Self::Restore(w) | Self::Drain(w) | Self::Remove(w) => Some(w),
            Self::Create(_) | Self::Delete(_) | Self::Scale(_) | Self::Load(_) | Self::Add(_) => {
                None
            }
        }
    }
}

impl Event {
    pub(super) fn deeds(&self) -> Vec<Deed<'_>> {
        let all = [
            self.create.as_ref().map(Deed::Create),
            self.delete.as_ref().map(Deed::Delete),
            self.scale.as_ref().map(Deed::Scale),
            self.load.as_ref().map(Deed::Load),
            self.fail.as_ref().map(Deed::Fail),
            self.restore.as_ref().map(Deed::Restore),
            self.drain.as_ref().map(Deed::Drain),
            self.add.as_ref().map(Deed::Add),
            self.remove.as_ref().map(Deed::Remove),
        ];
        all.into_iter().flatten().collect()
    }

    /// What it does; none only of one that was not checked.
    pub fn deed(&self) -> Option<Deed<'_>> {
        self.deeds().into_iter().next()
    }

    pub fn turns(&self) -> u32 {
        self.times.unwrap_or(1)
    }

    /// Whether it may happen more than once: then what it makes is numbered.
    pub fn repeats(&self) -> bool {
        self.turns() > 1 || self.per_hour.is_some()
    }

    /// When it happens for the `turn`th time, counted from 0.
    pub(super) fn time(&self, turn: u32) -> Duration {
        let every = self.every.map_or(Duration::ZERO, |s| s.0);
        self.at.0.saturating_add(every.saturating_mul(turn))
    }

    /// What is wrong with how often it happens and with what is drawn for it.
    pub(super) fn check_chance(&self, path: &str, deed: Deed<'_>) -> Result<(), DescriptionError> {
        if let Some(rate) = self.per_hour {
            if !(rate.is_finite() && rate > 0.0) {
                return wrong(format!("{path}.perHour"), "must be a number above 0");
            }
            if self.every.is_some() || self.times.is_some() {
                return wrong(path, "perHour goes with neither every nor times");
            }
        } else if self.until.is_some() {
            return wrong(format!("{path}.until"), "goes with perHour alone");
        }
        if self.until.is_some_and(|until| until <= self.at) {
            return wrong(format!("{path}.until"), "must be after at");
        }
        if self.runs_for.is_some() && !matches!(deed, Deed::Create(_)) {
            return wrong(format!("{path}.runsFor"), "goes with create alone");
        }
        if self.lasts.is_some() && !matches!(deed, Deed::Fail(_)) {
            return wrong(format!("{path}.lasts"), "goes with fail alone");
        }
        for (field, drawn) in [("runsFor", &self.runs_for), ("lasts", &self.lasts)] {
            if let Some(why) = drawn.as_ref().and_then(Drawn::wrong) {
                return wrong(format!("{path}.{field}"), why);
            }
        }
        Ok(())
    }
}
