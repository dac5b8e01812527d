//! Policies with their bindings as they are stored, compiled. A policy that did not change is not
//! compiled again.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use crate::admission::matching::Criteria;
use crate::admission::{list, text};
use crate::configuration_objects::{Compiled, ObjectsByName};
use crate::object::meta_text;

/// A policy that has a binding.
pub struct Hook<E> {
    pub name: String,
    pub criteria: Criteria,
    /// apiVersion and kind.
    pub param_kind: Option<(String, String)>,
    pub evaluator: Arc<E>,
    pub bindings: Vec<Binding>,
}

pub struct Binding {
    pub name: String,
    /// None: all that the policy names.
    pub criteria: Option<Criteria>,
    pub params: Option<ParamRef>,
    /// Of a validating one: Deny, Warn, Audit.
    pub actions: Vec<String>,
}

/// Which parameters a binding uses.
pub struct ParamRef {
    pub name: String,
    pub namespace: String,
    pub selector: Option<Value>,
    /// Without any, the write is refused.
    pub deny: bool,
}

/// All policies of one kind that have bindings, in the order of their names. `E` is a compiled
/// one.
pub struct Hooks<E> {
    pub all: Vec<Hook<E>>,
    compiled: Vec<(Arc<Value>, Arc<E>)>,
}

/// The policies of one kind, as they are now.
pub struct Source<E> {
    made: Compiled<Hooks<E>>,
    compile: fn(&Value) -> E,
}

impl<E> Source<E> {
    /// `compile` gets the `spec` of a policy.
    pub fn new(compile: fn(&Value) -> E) -> Self {
        Self {
            made: Compiled::default(),
            compile,
        }
    }

    pub fn hooks(
        &self,
        policies: &ObjectsByName,
        bindings: &ObjectsByName,
    ) -> Arc<(u64, Hooks<E>)> {
        let change = policies.change() + bindings.change();
        self.made
            .get(change, |before| self.make(policies, bindings, before))
    }

    fn make(
        &self,
        policies: &ObjectsByName,
        bindings: &ObjectsByName,
        before: Option<&Hooks<E>>,
    ) -> Hooks<E> {
        let mut of: HashMap<String, Vec<Binding>> = HashMap::new();
        for value in bindings.all() {
            let policy = text(&value, "/spec/policyName").to_owned();
            of.entry(policy).or_default().push(Binding::read(&value));
        }
        let mut made = Hooks {
            all: Vec::new(),
            compiled: Vec::new(),
        };
        for policy in policies.all() {
            let name = meta_text(&policy, "name").to_owned();
            let Some(bindings) = of.remove(&name) else {
                continue;
            };
            let known = before.and_then(|b| b.compiled_from(&policy));
            let evaluator = known.unwrap_or_else(|| Arc::new((self.compile)(&policy["spec"])));
            made.all.push(Hook::read(
                name,
                &policy["spec"],
                evaluator.clone(),
                bindings,
            ));
            made.compiled.push((policy, evaluator));
        }
        made
    }
}

impl<E> Hooks<E> {
    fn compiled_from(&self, policy: &Arc<Value>) -> Option<Arc<E>> {
        let mut all = self.compiled.iter();
        let found = all.find(|(from, _)| Arc::ptr_eq(from, policy))?;
        Some(found.1.clone())
    }
}

impl<E> Hook<E> {
    fn read(name: String, spec: &Value, evaluator: Arc<E>, bindings: Vec<Binding>) -> Self {
        let param_kind = spec.get("paramKind").filter(|k| k.is_object());
        Self {
            name,
            criteria: Criteria::of_policy(&spec["matchConstraints"]),
            param_kind: param_kind.map(|kind| {
                let field = |f| text(kind, f).to_owned();
                (field("/apiVersion"), field("/kind"))
            }),
            evaluator,
            bindings,
        }
    }
}

impl Binding {
    fn read(value: &Value) -> Self {
        let spec = value.get("spec").unwrap_or(&Value::Null);
        let some = |field: &str| spec.get(field).filter(|m| m.is_object());
        let params = some("paramRef").map(|param| ParamRef {
            name: text(param, "/name").to_owned(),
            namespace: text(param, "/namespace").to_owned(),
            selector: param.get("selector").filter(|s| s.is_object()).cloned(),
            deny: text(param, "/parameterNotFoundAction") == "Deny",
        });
        let actions = list(spec, "/validationActions").iter();
        Self {
            name: meta_text(value, "name").to_owned(),
            criteria: some("matchResources").map(Criteria::of_policy),
            params,
            actions: actions
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
        }
    }
}
