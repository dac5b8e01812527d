//! This cluster brings no controller for ingresses along: one is installed, and shows itself by an
//! IngressClass. An ingress that none of these means gets a warning, since nothing will come of it.

use api::Status;
use futures::future::BoxFuture;
use registry::Row;
use serde_json::Value;

use super::{AdmissionAttributes, Admit, Need, Operation, Review, text};
use crate::state::State;

const NAME: &str = "IngressHasController";

pub struct IngressHasController;

impl Admit for IngressHasController {
    fn name(&self) -> &'static str {
        NAME
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        operation == Operation::Create
            && subresource.is_empty()
            && &*row.group == "networking.k8s.io"
            && &*row.resource == "ingresses"
    }
    fn needs(&self, _: &AdmissionAttributes<'_>) -> Vec<Need> {
        vec![Need::all(NAME, "networking.k8s.io", "ingressclasses")]
    }
    fn validate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let classes = review.found.all(NAME).iter();
        let classes: Vec<String> = classes
            .map(|class| text(&class.to_value(), "/metadata/name").to_owned())
            .collect();
        let missing = review.object.as_deref().and_then(|o| missing(o, &classes));
        review.warnings.extend(missing);
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Why no controller will act on an ingress, which has the default class if there is one.
fn missing(ingress: &Value, classes: &[String]) -> Option<String> {
    if classes.is_empty() {
        return Some(
            "no controller of this cluster acts on Ingress objects: there is no IngressClass"
                .to_owned(),
        );
    }
    let annotations = ingress.pointer("/metadata/annotations");
    if annotations.is_some_and(|a| a.get("kubernetes.io/ingress.class").is_some()) {
        // The older way names a controller, not an object.
        return None;
    }
    match text(ingress, "/spec/ingressClassName") {
        "" => Some(
            "spec.ingressClassName: it is not set, and no IngressClass is the default one: \
             controllers may leave this Ingress alone"
                .to_owned(),
        ),
        name if classes.iter().any(|c| c == name) => None,
        name => Some(format!(
            "spec.ingressClassName: there is no IngressClass {name:?}: no controller acts on this \
             Ingress before there is"
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_an_ingress_that_no_controller_means_is_warned_of() {
        let there = ["nginx".to_owned()];
        for (spec, annotations, classes, warned) in [
            (json!({}), json!({}), &[][..], true),
            (
                json!({ "ingressClassName": "nginx" }),
                json!({}),
                &[][..],
                true,
            ),
            (
                json!({ "ingressClassName": "nginx" }),
                json!({}),
                &there[..],
                false,
            ),
            (
                json!({ "ingressClassName": "other" }),
                json!({}),
                &there[..],
                true,
            ),
            (json!({}), json!({}), &there[..], true),
            (
                json!({}),
                json!({ "kubernetes.io/ingress.class": "any" }),
                &there[..],
                false,
            ),
        ] {
            let ingress = json!({ "metadata": { "annotations": annotations }, "spec": spec });
            let warning = missing(&ingress, classes);
            assert_eq!(
                warning.is_some(),
                warned,
                "{ingress} {classes:?} {warning:?}"
            );
        }
    }
}
