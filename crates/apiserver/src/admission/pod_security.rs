//! PodSecurity: the Pod Security Standards, as a namespace's labels ask for them. Pods that violate
//! what is enforced are refused; of templates and of existing pods people are warned. The standards
//! are the crate `podsecurity`'s.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use api::{FieldError, GroupKind, Status};
use futures::future::BoxFuture;
use podsecurity::{Level, Policy, Standard, evaluate, reasons, show};
use registry::Row;
use serde_json::Value;

use super::{AdmissionAttributes, Admit, Need, Operation, Review, list, text};
use crate::cache::Object;
use crate::state::State;

/// Before the keys of notes for the audit log.
const NOTES: &str = "pod-security.kubernetes.io/";
/// The label of the namespace.
const NAMESPACE: &str = "namespace of pods";
/// Pods of a namespace that are looked at when its level is raised; as upstream. A look at one
/// takes some 50 µs.
const PODS_MAX: usize = 3000;
/// After so many of them others get their turn.
const AT_ONCE: usize = 50;

/// What holds where a namespace says nothing, and who is exempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    pub defaults: Policy,
    pub users: Vec<String>,
    pub namespaces: Vec<String>,
    pub runtime_classes: Vec<String>,
}

impl Default for Configuration {
    fn default() -> Self {
        Self {
            defaults: Policy::PRIVILEGED,
            users: Vec::new(),
            namespaces: Vec::new(),
            runtime_classes: Vec::new(),
        }
    }
}

pub struct PodSecurity {
    configuration: Configuration,
}

impl PodSecurity {
    pub fn new(configuration: Configuration) -> Self {
        Self { configuration }
    }
}

/// Subresources of pods that do not change what a pod may do.
const HARMLESS: &[&str] = &["binding", "eviction", "status"];

/// Where a kind has the template of its pods.
fn template(row: &Row) -> Option<&'static str> {
    match (&*row.group, &*row.resource) {
        ("", "podtemplates") => Some("/template"),
        ("", "replicationcontrollers") => Some("/spec/template"),
        ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets") => {
            Some("/spec/template")
        }
        ("batch", "jobs") => Some("/spec/template"),
        ("batch", "cronjobs") => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

fn is_core(row: &Row, resource: &str) -> bool {
    row.group.is_empty() && &*row.resource == resource
}

impl Admit for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        if !matches!(operation, Operation::Create | Operation::Update) {
            return false;
        }
        if is_core(row, "pods") {
            return !HARMLESS.contains(&subresource);
        }
        subresource.is_empty() && (is_core(row, "namespaces") || template(row).is_some())
    }
    fn needs(&self, asked: &AdmissionAttributes<'_>) -> Vec<Need> {
        if asked.is("", "namespaces") {
            return Vec::new();
        }
        let kind = ("", "namespaces");
        vec![Need::seen(NAMESPACE, kind, "", asked.namespace)]
    }
    fn validate<'a>(
        &'a self,
        state: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            if is_core(review.row, "namespaces") {
                return self.namespace(state, review).await;
            }
            self.pod(review)
        })
    }
}

fn labels(object: &Value) -> Option<&Value> {
    object.pointer("/metadata/labels")
}

impl PodSecurity {
    fn exempts_namespace(&self, name: &str) -> bool {
        self.configuration.namespaces.iter().any(|n| n == name)
    }

    fn exempts_class(&self, spec: &Value) -> bool {
        let class = text(spec, "/runtimeClassName");
        let exempt = &self.configuration.runtime_classes;
        !class.is_empty() && exempt.iter().any(|c| c == class)
    }

    fn policy(&self, object: &Value) -> (Policy, Vec<FieldError>) {
        Policy::of(labels(object), &self.configuration.defaults)
    }

    /// A pod, or what makes pods: of that nothing is refused.
    fn pod(&self, review: &mut Review<'_>) -> Result<(), Status> {
        let note = |review: &mut Review<'_>, key: &str, text: String| {
            review.annotations.push((format!("{NOTES}{key}"), text));
        };
        if self.exempts_namespace(review.namespace) {
            note(review, "exempt", "namespace".into());
            return Ok(());
        }
        if self.configuration.users.contains(&review.user.name) {
            note(review, "exempt", "user".into());
            return Ok(());
        }
        let itself = is_core(review.row, "pods");
        let namespace = review.found.get(NAMESPACE).map(|o| o.to_value());
        let Some(namespace) = namespace else {
            // NamespaceLifecycle has said so, where it is asked.
            let why = format!("failed to lookup namespace {:?}", review.namespace);
            return if itself {
                Err(Status::internal(why))
            } else {
                note(review, "error", why);
                Ok(())
            };
        };
        let (policy, errors) = self.policy(&namespace);
        let quiet = policy.warn.is_privileged() && policy.audit.is_privileged();
        if errors.is_empty() && quiet && (!itself || policy.enforce.is_privileged()) {
            if itself {
                note(review, "enforce-policy", Standard::PRIVILEGED.to_string());
            }
            return Ok(());
        }
        let Some(object) = review.object.as_deref() else {
            return Ok(());
        };
        if itself && review.old.is_some_and(|old| !brings_images(object, old)) {
            return Ok(());
        }
        let of = template(review.row).map_or(Some(object), |at| object.pointer(at));
        let Some(of) = of.filter(|o| !o.is_null()) else {
            return Ok(());
        };
        let (metadata, spec) = (member(of, "metadata"), member(of, "spec"));
        if self.exempts_class(spec) {
            note(review, "exempt", "runtimeClass".into());
            return Ok(());
        }
        let seen = PodEvaluation::new(&policy, itself, metadata, spec);
        if !errors.is_empty() {
            let each: Vec<String> = errors.iter().map(ToString::to_string).collect();
            let why = format!("Failed to parse policy: {}", super::joined(each));
            note(review, "error", why);
        }
        if itself {
            note(review, "enforce-policy", policy.enforce.to_string());
        }
        if let Some(what) = seen.audited {
            note(review, "audit-violations", what);
        }
        if let Some(why) = seen.refused {
            return Err(review.forbidden(&why));
        }
        review.warnings.extend(seen.warned);
        Ok(())
    }

    async fn namespace(&self, state: &State, review: &mut Review<'_>) -> Result<(), Status> {
        let Some(namespace) = review.object.as_deref() else {
            return Ok(());
        };
        let name = review.name.to_owned();
        let (policy, errors) = self.policy(namespace);
        let before = review.old.map(|old| self.policy(old));
        let same = |(_, old): &(Policy, Vec<FieldError>)| {
            let show = |all: &[FieldError]| -> Vec<String> {
                all.iter().map(ToString::to_string).collect()
            };
            show(old) == show(&errors)
        };
        // What was wrong before may stay, until somebody changes it.
        if !errors.is_empty() && !before.as_ref().is_some_and(same) {
            let kind = GroupKind::new("", "Namespace");
            return Err(Status::invalid(&kind, &name, &errors));
        }
        if let Some((before, _)) = &before {
            let (new, old) = (policy.enforce, before.enforce);
            let relaxed = new.version == old.version && new.level <= old.level;
            if new == old || new.is_privileged() || relaxed {
                return Ok(());
            }
        }
        if self.exempts_namespace(&name) {
            review
                .warnings
                .extend(self.ignored(&name, &policy, namespace));
        } else if before.is_some() {
            let pods = state.lookup_all("", "pods", &name);
            let warnings = self.existing(&name, policy.enforce, pods).await;
            review.warnings.extend(warnings);
        }
        Ok(())
    }

    /// The labels of a namespace that is exempt say something else.
    fn ignored(&self, name: &str, policy: &Policy, namespace: &Value) -> Option<String> {
        if policy.is_privileged() || policy.equals(&self.configuration.defaults) {
            return None;
        }
        let says = |keys: [&str; 2]| {
            let labels = labels(namespace);
            keys.iter()
                .any(|k| labels.is_some_and(|l| l.get(*k).is_some()))
        };
        let parts = [
            (
                "enforce",
                policy.enforce,
                [podsecurity::ENFORCE, podsecurity::ENFORCE_VERSION],
            ),
            (
                "audit",
                policy.audit,
                [podsecurity::AUDIT, podsecurity::AUDIT_VERSION],
            ),
            (
                "warn",
                policy.warn,
                [podsecurity::WARN, podsecurity::WARN_VERSION],
            ),
        ];
        let said = parts
            .iter()
            .filter(|(_, standard, keys)| standard.level != Level::Privileged && says(*keys));
        let said: Vec<String> = said.map(|(part, s, _)| format!("{part}={s}")).collect();
        Some(format!(
            "namespace {name:?} is exempt from Pod Security, and the policy ({}) will be ignored",
            said.join(", ")
        ))
    }

    /// What existing pods violate of a new level: one of each owner first, since its others are
    /// alike.
    async fn existing(
        &self,
        namespace: &str,
        enforce: Standard,
        pods: Vec<Arc<Object>>,
    ) -> Vec<String> {
        let (mut first, mut others, mut owners) = (Vec::new(), Vec::new(), HashSet::new());
        for (n, pod) in pods.iter().enumerate() {
            if n % AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
            let pod = pod.to_value();
            if self.exempts_class(member(&pod, "spec")) {
                continue;
            }
            let refs = list(&pod, "/metadata/ownerReferences").iter();
            let mut refs = refs.filter(|r| r.get("controller") == Some(&Value::Bool(true)));
            let owner = refs.next().map(|r| text(r, "/uid").to_owned());
            if owner.is_none_or(|uid| owners.insert(uid)) {
                first.push(pod);
            } else {
                others.push(pod);
            }
            // Those that are not looked at need not be kept.
            if first.len() + others.len() > 2 * PODS_MAX {
                others.truncate(PODS_MAX);
            }
        }
        let all = pods.len();
        first.append(&mut others);
        let looked = first.len().min(PODS_MAX);
        // What is wrong → the first pod by name and how many there are.
        let mut found: BTreeMap<String, (String, usize)> = BTreeMap::new();
        for (n, pod) in first.iter().take(PODS_MAX).enumerate() {
            if n % AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
            let violations = evaluate(enforce, member(pod, "metadata"), member(pod, "spec"));
            if violations.is_empty() {
                continue;
            }
            let name = text(pod, "/metadata/name").to_owned();
            let entry = found
                .entry(reasons(&violations))
                .or_insert_with(|| (name.clone(), 0));
            entry.1 += 1;
            if name < entry.0 {
                entry.0 = name;
            }
        }
        let mut warnings = Vec::new();
        if first.len() > PODS_MAX {
            warnings.push(format!(
                "new PodSecurity enforce level only checked against the first {looked} of {all} existing pods"
            ));
        }
        if !found.is_empty() {
            warnings.push(format!(
                "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{enforce}\""
            ));
        }
        let mut each: Vec<String> = found
            .into_iter()
            .map(|(what, (name, n))| match n {
                1 => format!("{name}: {what}"),
                2 => format!("{name} (and 1 other pod): {what}"),
                n => format!("{name} (and {} other pods): {what}", n - 1),
            })
            .collect();
        each.sort();
        warnings.extend(each);
        warnings
    }
}

fn member<'a>(of: &'a Value, field: &str) -> &'a Value {
    of.get(field).unwrap_or(&Value::Null)
}

/// Whether something that is checked has changed: of a running pod only images can, and containers
/// for debugging can come.
fn brings_images(pod: &Value, old: &Value) -> bool {
    let of = |pod: &Value, field: &str| -> Vec<(String, String)> {
        let all = list(pod, &format!("/spec/{field}")).iter();
        all.map(|c| (text(c, "/name").to_owned(), text(c, "/image").to_owned()))
            .collect()
    };
    let images = |pod: &Value, field: &str| -> Vec<String> {
        of(pod, field).into_iter().map(|(_, image)| image).collect()
    };
    let changed = |field: &&str| images(pod, field) != images(old, field);
    let before = of(old, "ephemeralContainers");
    ["containers", "initContainers"].iter().any(changed)
        || of(pod, "ephemeralContainers")
            .iter()
            .any(|c| !before.contains(c))
}

/// What the three parts of a policy say of one pod.
struct PodEvaluation {
    refused: Option<String>,
    audited: Option<String>,
    warned: Option<String>,
}

impl PodEvaluation {
    fn new(policy: &Policy, enforced: bool, metadata: &Value, spec: &Value) -> Self {
        let says = |standard: Standard, how: &str| {
            let violations = evaluate(standard, metadata, spec);
            let what = show(&violations);
            (!what.is_empty()).then(|| format!("{how} PodSecurity \"{standard}\": {what}"))
        };
        let refused = enforced.then(|| says(policy.enforce, "violates")).flatten();
        Self {
            audited: says(policy.audit, "would violate"),
            // What is refused stands in the answer already.
            warned: match refused {
                Some(_) => None,
                None => says(policy.warn, "would violate"),
            },
            refused,
        }
    }
}
