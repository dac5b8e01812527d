//! The two passes of the mutating step: when somebody outside (a webhook, a policy) has changed an
//! object, all plugins see it once more, and of those outside the ones that ask for that and that
//! ran before the change. Never more than twice, as upstream.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// What is remembered from one pass to the next.
#[derive(Default)]
pub struct Passes {
    second: bool,
    wanted: bool,
    by_plugin: BTreeMap<&'static str, Pass>,
}

/// What one plugin remembers.
#[derive(Default)]
pub struct Pass {
    /// The object when the plugin was done with it.
    left: Option<Value>,
    /// Those that ask to run again, since the latest change.
    ran: BTreeSet<String>,
    /// Those that run again in the second pass.
    again: BTreeSet<String>,
}

impl Passes {
    /// Begins the second pass, if it is wanted; whether it is.
    pub(super) fn begin_second(&mut self) -> bool {
        self.second = self.wanted && !self.second;
        self.second
    }

    pub fn is_second(&self) -> bool {
        self.second
    }

    /// A plugin begins with an object.
    pub fn begin(&mut self, plugin: &'static str, object: Option<&Value>) {
        let second = self.second;
        let pass = self.by_plugin.entry(plugin).or_default();
        if second && pass.left.is_some() && pass.left.as_ref() != object {
            // Others have changed it in between.
            pass.require();
        }
    }

    /// Whether somebody runs in this pass: everybody in the first, in the second who must.
    pub fn runs(&self, plugin: &'static str, id: &str) -> bool {
        let pass = self.by_plugin.get(plugin);
        !self.second || pass.is_some_and(|p| p.again.contains(id))
    }

    /// Somebody has run: `again`, if he wants to see what others change after him; `changed`, if he
    /// has changed the object.
    pub fn ran(&mut self, plugin: &'static str, id: &str, again: bool, changed: bool) {
        self.wanted |= changed;
        let pass = self.by_plugin.entry(plugin).or_default();
        if changed {
            pass.require();
        }
        if again {
            pass.ran.insert(id.to_owned());
        }
    }

    /// All that asked for it run again, also those that made the latest change.
    pub fn require(&mut self, plugin: &'static str) {
        self.by_plugin.entry(plugin).or_default().require();
    }

    /// A plugin is done with an object.
    pub fn end(&mut self, plugin: &'static str, object: Option<&Value>) {
        if let Some(pass) = self.by_plugin.get_mut(plugin) {
            // Nobody would run again for what others change.
            pass.left = object.filter(|_| !pass.ran.is_empty()).cloned();
        }
    }
}

impl Pass {
    fn require(&mut self) {
        self.again.append(&mut self.ran);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_ran_before_a_change_runs_again() {
        let mut passes = Passes::default();
        let object = json!({});
        passes.begin("p", Some(&object));
        passes.ran("p", "a", true, false);
        passes.ran("p", "b", false, true);
        passes.ran("p", "c", true, false);
        passes.end("p", Some(&object));
        assert!(passes.begin_second());
        passes.begin("p", Some(&object));
        let runs = |passes: &Passes| ["a", "b", "c"].map(|id| passes.runs("p", id));
        assert_eq!(runs(&passes), [true, false, false]);
        assert!(!passes.begin_second(), "no third one");
    }

    #[test]
    fn what_others_change_counts_too() {
        let mut passes = Passes::default();
        passes.begin("p", Some(&json!({})));
        passes.ran("p", "c", true, true);
        passes.end("p", Some(&json!({})));
        assert!(passes.begin_second());
        passes.begin("p", Some(&json!({"a": 1})));
        assert!(passes.runs("p", "c"));
        let mut nobody = Passes::default();
        nobody.begin("p", None);
        assert!(!nobody.begin_second());
    }
}
