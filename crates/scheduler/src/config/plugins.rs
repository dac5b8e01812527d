//! The plugins of a profile: the default ones, without those that the file disables, with those
//! and with the weights that it asks for.

use std::collections::BTreeMap;

use api::FieldPath;
use serde::Deserialize;
use serde_json::Value;

use super::partly::{Partly, Phases};
use super::{args, percentage};
use crate::decide::Profile;
use crate::plugins::{self, Plugin};

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProfileFile {
    pub scheduler_name: Option<String>,
    percentage_of_nodes_to_score: Option<i64>,
    #[serde(default)]
    plugins: BTreeMap<String, Set>,
    #[serde(default)]
    plugin_config: Vec<Arguments>,
}

#[derive(Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Set {
    #[serde(default)]
    enabled: Vec<Named>,
    #[serde(default)]
    disabled: Vec<Named>,
}

#[derive(Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
    weight: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    name: String,
    #[serde(default)]
    args: Value,
}

/// Upstream's extension points, and what they are here. Those without phases have no plugin that
/// could be switched off there.
const POINTS: &[(&str, Phases)] = &[
    ("multiPoint", Phases::ALL),
    ("preEnqueue", Phases::QUEUE),
    ("queueSort", Phases::NONE),
    ("preFilter", Phases::FILTER),
    ("filter", Phases::FILTER),
    ("postFilter", Phases::PREEMPT),
    ("preScore", Phases::SCORE),
    ("score", Phases::SCORE),
    ("reserve", Phases::RESERVE),
    ("permit", Phases::PERMIT),
    ("preBind", Phases::PRE_BIND),
    ("bind", Phases::BIND),
    ("postBind", Phases::NONE),
    ("placementGenerate", Phases::NONE),
    ("placementScore", Phases::NONE),
];

/// It orders the queue, and is not a plugin here: nothing else can.
const SORT: &str = "PrioritySort";
const PREEMPTION: &str = "DefaultPreemption";

/// A plugin as the file wants it.
struct ConfiguredPlugin {
    plugin: Box<dyn Plugin>,
    weight: i64,
    phases: Phases,
}

impl ProfileFile {
    pub fn read(
        self,
        path: &str,
        percent: u8,
        ignored: &[String],
        faults: &mut Vec<String>,
        warnings: &mut Vec<String>,
    ) -> Profile {
        let mut profile = Profile {
            scheduler: self
                .scheduler_name
                .unwrap_or_else(|| "default-scheduler".to_owned()),
            percentage_of_nodes: percent,
            ..Profile::default()
        };
        if profile.scheduler.is_empty() {
            faults.push(format!("{path}.schedulerName: Required value"));
        }
        if let Some(own) = self.percentage_of_nodes_to_score {
            let path = format!("{path}.percentageOfNodesToScore");
            profile.percentage_of_nodes = percentage(Some(own), &path, faults);
        }
        let mut wanted: Vec<ConfiguredPlugin> = plugins::defaults()
            .into_iter()
            .map(|(plugin, weight)| ConfiguredPlugin {
                plugin,
                weight,
                phases: Phases::ALL,
            })
            .collect();
        // What extenders alone look after.
        if !ignored.is_empty() {
            let fit = plugins::NodeResourcesFit {
                ignored: ignored.to_vec(),
                ..plugins::NodeResourcesFit::default()
            };
            replace(&mut wanted, Box::new(fit));
        }
        let mut preempts = true;
        for (point, set) in &self.plugins {
            let path = format!("{path}.plugins.{point}");
            let Some((_, phases)) = POINTS.iter().find(|(name, _)| name == point) else {
                faults.push(format!("{path}: no such extension point"));
                continue;
            };
            switch(set, *phases, &mut wanted, &mut preempts, &path, faults);
        }
        let mut configured: Vec<String> = Vec::new();
        for (i, given) in self.plugin_config.into_iter().enumerate() {
            let path = format!("{path}.pluginConfig[{i}]");
            if configured.contains(&given.name) {
                faults.push(format!("{path}: Duplicate value: {:?}", given.name));
            }
            configured.push(given.name.clone());
            let args_path = FieldPath::new(&path).child("args");
            if given.name == PREEMPTION {
                let read = args::candidates(&args_path, &given.args);
                keep(read, faults, |c| profile.candidates = Some(c));
            } else {
                if given.name == "DynamicResources" && given.args.get("filterTimeout").is_some() {
                    warnings.push(format!(
                        "{path}.args.filterTimeout: no effect: searches for devices are bounded \
                         by what they try, not by time"
                    ));
                }
                let slot = wanted.iter_mut().find(|w| w.plugin.name() == given.name);
                let Some(slot) = slot else {
                    faults.push(format!("{path}.name: {:?}: no such plugin", given.name));
                    continue;
                };
                let read = args::plugin(&args_path, &given.name, &given.args, ignored);
                keep(read, faults, |plugin| slot.plugin = plugin);
            }
        }
        if !preempts {
            profile.candidates = None;
        }
        let wanted = wanted.into_iter().filter(|w| w.phases != Phases::NONE);
        profile.plugins = wanted
            .map(|w| (Partly::of(w.plugin, w.phases), w.weight))
            .collect();
        if !profile
            .plugins
            .iter()
            .any(|(p, _)| p.name() == "DefaultBinder")
        {
            faults.push(format!(
                "{path}.plugins.bind: at least one bind plugin is needed"
            ));
        }
        profile
    }
}

fn replace(wanted: &mut [ConfiguredPlugin], plugin: Box<dyn Plugin>) {
    let slot = wanted.iter_mut().find(|w| w.plugin.name() == plugin.name());
    if let Some(slot) = slot {
        slot.plugin = plugin;
    }
}

/// All profiles share one queue: as upstream, they must say the same of it.
pub fn same_queue_sort(profiles: &[ProfileFile], faults: &mut Vec<String>) {
    const POINT: &str = "queueSort";
    let Some((first, others)) = profiles.split_first() else {
        return;
    };
    let canon = first.plugins.get(POINT);
    let enabled = canon.map_or(0, |set| set.enabled.len());
    if enabled > 1 {
        faults.push(format!(
            "profiles[0].plugins.queueSort.Enabled: Invalid value: {enabled}: only one queue sort \
             plugin can be enabled"
        ));
    }
    for (i, profile) in others.iter().enumerate() {
        if profile.plugins.get(POINT) != canon {
            let at = i + 1;
            faults.push(format!(
                "profiles[{at}].plugins.queueSort: Invalid value: must be the same for all profiles"
            ));
        }
    }
}

fn keep<T>(read: Result<T, Vec<String>>, faults: &mut Vec<String>, set: impl FnOnce(T)) {
    match read {
        Ok(value) => set(value),
        Err(wrong) => faults.extend(wrong),
    }
}

/// Switches plugins off and on at some phases.
fn switch(
    set: &Set,
    phases: Phases,
    wanted: &mut [ConfiguredPlugin],
    preempts: &mut bool,
    path: &str,
    faults: &mut Vec<String>,
) {
    let known = |wanted: &[ConfiguredPlugin], name: &str| {
        matches!(name, SORT | PREEMPTION) || wanted.iter().any(|w| w.plugin.name() == name)
    };
    for (i, off) in set.disabled.iter().enumerate() {
        if off.name != "*" && !known(wanted, &off.name) {
            faults.push(format!(
                "{path}.disabled[{i}].name: {:?}: no such plugin",
                off.name
            ));
        }
        for slot in wanted.iter_mut() {
            if off.name == "*" || slot.plugin.name() == off.name {
                slot.phases = slot.phases.without(phases);
            }
        }
        if (off.name == "*" || off.name == PREEMPTION) && phases.meets(Phases::PREEMPT) {
            *preempts = false;
        }
    }
    for (i, on) in set.enabled.iter().enumerate() {
        let path = format!("{path}.enabled[{i}]");
        if !known(wanted, &on.name) {
            faults.push(format!("{path}.name: {:?}: no such plugin", on.name));
        }
        if on
            .weight
            .is_some_and(|w| !(0..=i64::from(i32::MAX)).contains(&w))
        {
            faults.push(format!("{path}.weight: not in valid range [0-2147483647]"));
        }
        for slot in wanted.iter_mut().filter(|s| s.plugin.name() == on.name) {
            slot.phases = slot.phases.with(phases);
            // Zero is not a weight: upstream's default of one is meant.
            match on.weight {
                Some(weight) if weight > 0 => slot.weight = weight,
                _ if slot.weight == 0 => slot.weight = 1,
                _ => {}
            }
        }
        if on.name == PREEMPTION && phases.meets(Phases::PREEMPT) {
            *preempts = true;
        }
    }
}
