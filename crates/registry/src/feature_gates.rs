//! Feature gates of Kubernetes v1.36: which there are, what is on, and what may be changed. Pure; who
//! acts on a gate asks [`Features::on`] by its name.

use std::collections::BTreeMap;
use std::sync::OnceLock;

const TABLE: &str = include_str!("../data/feature_gates.txt");

/// How far a feature has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Alpha,
    Beta,
    Ga,
    Deprecated,
}

struct Gate {
    stage: Stage,
    default: bool,
    locked: bool,
    /// Whether something here acts on it.
    acts: bool,
    /// What is done where nothing acts on it: mostly upstream's default.
    does: bool,
    needs: Vec<&'static str>,
}

fn gates() -> &'static BTreeMap<&'static str, Gate> {
    static GATES: OnceLock<BTreeMap<&'static str, Gate>> = OnceLock::new();
    GATES.get_or_init(|| {
        let lines = TABLE.lines().filter(|l| !l.starts_with('#'));
        lines.filter_map(gate).collect()
    })
}

fn gate(line: &'static str) -> Option<(&'static str, Gate)> {
    let mut words = line.split(' ');
    let name = words.next()?;
    let stage = match words.next()? {
        "alpha" => Stage::Alpha,
        "beta" => Stage::Beta,
        "ga" => Stage::Ga,
        "deprecated" => Stage::Deprecated,
        _ => return None,
    };
    let default = words.next()? == "on";
    let rest: Vec<&str> = words.collect();
    let needs = rest.iter().find_map(|w| w.strip_prefix("needs="));
    let does = rest.iter().find_map(|w| w.strip_prefix("does="));
    let gate = Gate {
        stage,
        default,
        locked: rest.contains(&"locked"),
        acts: rest.contains(&"acts"),
        does: does.map_or(default, |word| word == "on"),
        needs: needs.map_or_else(Vec::new, |n| n.split(',').collect()),
    };
    Some((name, gate))
}

/// Which features are on. By default those that are upstream's default.
#[derive(Clone, Debug, Default)]
pub struct Features {
    /// Those that somebody set, or that AllAlpha or AllBeta did.
    set: BTreeMap<&'static str, bool>,
}

/// Whether somebody can turn a gate on or off here, and something acts on that.
#[cfg(test)]
pub(crate) fn decides(name: &str) -> bool {
    gates().get(name).is_some_and(|g| g.acts && !g.locked)
}

/// Whether a part that asks for no gate does what one says anyway.
///
/// # Errors
/// There is no such gate, or it is locked to something else: in upstream's words.
pub fn is_what_we_do(name: &str, on: bool) -> Result<bool, String> {
    Features::set(&BTreeMap::from([(name, on)])).map_err(|errors| errors.join("; "))?;
    Ok(gates().get(name).is_some_and(|gate| gate.does == on))
}

/// Go's words for booleans.
pub(crate) fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

pub(crate) fn not_a_bool(text: &str) -> String {
    format!("strconv.ParseBool: parsing {text:?}: invalid syntax")
}

impl Features {
    /// From what `--feature-gates` was given (`A=true`, `B=false`); errors in upstream's words.
    pub fn read<S: AsRef<str>>(given: &[S]) -> Result<Self, Vec<String>> {
        let mut wanted = BTreeMap::new();
        let pairs = given.iter().flat_map(|g| g.as_ref().split(','));
        for pair in pairs.filter(|p| !p.is_empty()) {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(vec![format!("missing bool value for {}", pair.trim())]);
            };
            let (name, value) = (name.trim(), value.trim());
            let Some(on) = go_bool(value) else {
                let why = not_a_bool(value);
                return Err(vec![format!("invalid value of {name}={value}, err: {why}")]);
            };
            wanted.insert(name, on);
        }
        let features = Self::set(&wanted)?;
        let errors = features.unmet();
        if errors.is_empty() {
            Ok(features)
        } else {
            Err(errors)
        }
    }

    fn set(wanted: &BTreeMap<&str, bool>) -> Result<Self, Vec<String>> {
        let (mut set, mut errors) = (BTreeMap::new(), Vec::new());
        for (name, on) in wanted {
            let Some((name, gate)) = gates().get_key_value(*name) else {
                errors.push(format!("unrecognized feature gate: {name}"));
                continue;
            };
            if gate.locked && gate.default != *on {
                let locked = gate.default;
                errors.push(format!(
                    "cannot set feature gate {name} to {on}, feature is locked to {locked}"
                ));
                continue;
            }
            set.insert(*name, *on);
        }
        for (all, stage) in [("AllAlpha", Stage::Alpha), ("AllBeta", Stage::Beta)] {
            let Some(on) = wanted.get(all) else { continue };
            for (name, _) in gates().iter().filter(|(_, g)| g.stage == stage) {
                if !matches!(*name, "AllAlpha" | "AllBeta") {
                    set.entry(name).or_insert(*on);
                }
            }
        }
        if errors.is_empty() {
            Ok(Self { set })
        } else {
            Err(errors)
        }
    }

    /// Gates that are on without others that they need.
    fn unmet(&self) -> Vec<String> {
        let on = gates().iter().filter(|(name, _)| self.on(name));
        on.filter_map(|(name, gate)| {
            let off: Vec<&str> = gate.needs.iter().copied().filter(|n| !self.on(n)).collect();
            (!off.is_empty()).then(|| {
                let off = off.join(" ");
                format!("{name} is enabled, but depends on features that are disabled: [{off}]")
            })
        })
        .collect()
    }

    /// Whether a feature is on. A gate that is not in the table is off.
    pub fn on(&self, name: &str) -> bool {
        match self.set.get(name) {
            Some(on) => *on,
            None => gates().get(name).is_some_and(|g| g.default),
        }
    }

    /// All gates by name: upstream's word for how far each has come, which is empty for what is
    /// generally available, and whether it is on.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &'static str, bool)> + '_ {
        gates().iter().map(|(name, gate)| {
            let stage = match gate.stage {
                Stage::Alpha => "ALPHA",
                Stage::Beta => "BETA",
                Stage::Ga => "",
                Stage::Deprecated => "DEPRECATED",
            };
            (*name, stage, self.on(name))
        })
    }

    /// What whoever set gates should know: those that change nothing here, and those that go.
    pub fn warnings(&self) -> Vec<String> {
        let mut out = Vec::new();
        let mut without_effect = Vec::new();
        for (name, on) in &self.set {
            let Some(gate) = gates().get(name) else {
                continue;
            };
            if gate.does != *on && !gate.acts {
                without_effect.push(format!("{name}={on}"));
            }
            match gate.stage {
                Stage::Ga => out.push(format!(
                    "setting GA feature gate {name}={on}. It will be removed in a future release."
                )),
                Stage::Deprecated => out.push(format!(
                    "setting deprecated feature gate {name}={on}. It will be removed in a future release."
                )),
                Stage::Alpha | Stage::Beta => {}
            }
        }
        if !without_effect.is_empty() {
            out.push(format!(
                "feature gates that are accepted and change nothing here: {}",
                without_effect.join(",")
            ));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_whole() {
        let lines = TABLE.lines().filter(|l| !l.starts_with('#')).count();
        assert_eq!(gates().len(), lines);
        for (name, gate) in gates() {
            for needed in &gate.needs {
                assert!(gates().contains_key(needed), "{name} needs {needed}");
            }
            assert!(gate.stage != Stage::Alpha || !gate.default, "{name}");
            assert!(!gate.acts || gate.does == gate.default, "{name}");
        }
        assert!(Features::default().unmet().is_empty());
    }

    #[test]
    fn gates_are_set_or_refused_as_upstream() {
        let refused = |text: &str| Features::read(&[text]).expect_err(text).join("; ");
        assert_eq!(refused("NoSuch=true"), "unrecognized feature gate: NoSuch");
        assert_eq!(refused("WatchList"), "missing bool value for WatchList");
        assert_eq!(
            refused("WatchList=yes"),
            "invalid value of WatchList=yes, err: strconv.ParseBool: parsing \"yes\": invalid syntax"
        );
        assert_eq!(
            refused("RetryGenerateName=false"),
            "cannot set feature gate RetryGenerateName to false, feature is locked to true"
        );
        assert_eq!(
            refused("GangScheduling=true"),
            "GangScheduling is enabled, but depends on features that are disabled: [GenericWorkload]"
        );
        let read = |text: &str| Features::read(&[text]).expect(text);
        assert!(Features::default().on("WatchList"));
        assert!(!read("WatchList=false").on("WatchList"));
        let all = read("AllAlpha=true,GangScheduling=0,WorkloadAwarePreemption=false");
        assert!(all.on("GenericWorkload") && !all.on("GangScheduling"));
        assert!(!Features::default().on("NoSuch"));
    }

    #[test]
    fn what_changes_nothing_is_warned_of() {
        let warned = |text: &str| Features::read(&[text]).expect(text).warnings();
        assert!(warned("WatchList=false").is_empty());
        assert!(warned("HPAScaleToZero=false").is_empty());
        let said = warned("HPAScaleToZero=true,ContainerCheckpoint=false");
        assert_eq!(
            said,
            [
                "feature gates that are accepted and change nothing here: ContainerCheckpoint=false,HPAScaleToZero=true"
            ]
        );
        assert_eq!(warned("RetryGenerateName=true").len(), 1);
    }

    /// Each gate, at each value that it may have: where nothing asks for it, one of the two is not what
    /// is done, and whoever sets that is warned.
    #[test]
    fn no_gate_is_passed_over_in_silence() {
        for (name, gate) in gates() {
            for on in [false, true] {
                let is_done = is_what_we_do(name, on);
                let wanted = BTreeMap::from([(*name, on)]);
                let Ok(features) = Features::set(&wanted) else {
                    assert!(gate.locked && is_done.is_err(), "{name}={on}");
                    continue;
                };
                let said = features.warnings().join("\n");
                let is_told =
                    said.contains(&format!("{name}={on}")) && said.contains("change nothing here");
                let is_of_all = matches!(*name, "AllAlpha" | "AllBeta");
                assert_eq!(is_done, Ok(gate.does == on), "{name}={on}");
                assert!(
                    is_of_all || is_told != (gate.acts || gate.does == on),
                    "{name}={on}"
                );
            }
        }
        assert_eq!(
            is_what_we_do("NoSuch", true),
            Err("unrecognized feature gate: NoSuch".to_owned())
        );
    }
}
