//! PodNodeSelector: the nodes that a namespace's pods may use, by an annotation of the namespace or
//! the cluster's configuration.

use std::collections::BTreeMap;

use api::Status;
use futures::future::BoxFuture;
use registry::Row;
use serde_json::Value;

use super::{AdmissionAttributes, Admit, Need, Operation, Review, is_new_pod};
use crate::state::State;

const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";
/// The label of the namespace.
const NAMESPACE: &str = "namespace with a node selector";

pub type Labels = BTreeMap<String, String>;

/// What the configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selectors {
    /// For pods of namespaces without the annotation.
    pub default: Labels,
    /// By namespace: pods may select by these labels alone.
    pub allowed: BTreeMap<String, Labels>,
}

/// Reads `a=b,c=d`.
pub fn parse(text: &str) -> Result<Labels, String> {
    let parts = text.split(',').map(str::trim).filter(|p| !p.is_empty());
    let read = |part: &str| match part.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_owned(), value.trim().to_owned())),
        None => Err(format!("invalid selector: {part}")),
    };
    parts.map(read).collect()
}

pub struct PodNodeSelector(pub Selectors);

impl Admit for PodNodeSelector {
    fn name(&self) -> &'static str {
        "PodNodeSelector"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        is_new_pod(operation, row, subresource)
    }
    fn needs(&self, asked: &AdmissionAttributes<'_>) -> Vec<Need> {
        let kind = ("", "namespaces");
        vec![Need::seen(NAMESPACE, kind, "", asked.namespace)]
    }
    fn mutate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(self.apply(review)))
    }
    fn validate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(self.check(review)))
    }
}

fn own(pod: &Value) -> Labels {
    let selector = pod.pointer("/spec/nodeSelector").and_then(Value::as_object);
    let each = selector.into_iter().flatten();
    each.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
        .collect()
}

fn conflicts(a: &Labels, b: &Labels) -> bool {
    a.iter().any(|(k, v)| b.get(k).is_some_and(|w| w != v))
}

impl PodNodeSelector {
    fn of_namespace(&self, review: &Review<'_>) -> Result<Labels, Status> {
        match review.found.annotation(NAMESPACE, ANNOTATION) {
            Some(text) => parse(&text).map_err(Status::internal),
            None => Ok(self.0.default.clone()),
        }
    }

    fn apply(&self, review: &mut Review<'_>) -> Result<(), Status> {
        self.check(review)?;
        let theirs = self.of_namespace(review)?;
        if let Some(pod) = review.object.as_deref_mut() {
            for (key, value) in theirs {
                pod["spec"]["nodeSelector"][key.as_str()] = value.into();
            }
        }
        self.check(review)
    }

    fn check(&self, review: &Review<'_>) -> Result<(), Status> {
        let Some(pod) = review.object.as_deref() else {
            return Ok(());
        };
        let (own, theirs) = (own(pod), self.of_namespace(review)?);
        if conflicts(&theirs, &own) {
            let why = "pod node label selector conflicts with its namespace node label selector";
            return Err(review.forbidden(why));
        }
        let allowed = self.0.allowed.get(review.namespace);
        let beyond = |allowed: &Labels| own.iter().any(|(k, v)| allowed.get(k) != Some(v));
        if allowed.is_some_and(|all| !all.is_empty() && beyond(all)) {
            let why = "pod node label selector labels conflict with its namespace whitelist";
            return Err(review.forbidden(why));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_read_and_compared() {
        let a = parse("a=b, c=d").expect("labels");
        assert_eq!(a.get("c").map(String::as_str), Some("d"));
        assert!(parse("a").is_err() && parse("").is_ok_and(|l| l.is_empty()));
        let other = |text| parse(text).expect("labels");
        assert!(conflicts(&a, &other("a=c")) && !conflicts(&a, &other("x=y,a=b")));
    }
}
