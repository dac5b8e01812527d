//! PodGroupWorkloadExists: a group of pods that says which workload's template it was made of is made
//! only where there is that workload with that template.

use api::Status;
use futures::future::BoxFuture;
use registry::Row;
use serde_json::Value;

use super::{AdmissionAttributes, Admit, Need, Operation, Review, list, text};
use crate::state::State;

/// The label of the workload that a group names.
const WORKLOAD: &str = "workload of a group of pods";
const WORKLOAD_NAME: &str = "/spec/podGroupTemplateRef/workload/workloadName";
const TEMPLATE_NAME: &str = "/spec/podGroupTemplateRef/workload/podGroupTemplateName";

pub struct PodGroupWorkloadExists;

impl Admit for PodGroupWorkloadExists {
    fn name(&self) -> &'static str {
        "PodGroupWorkloadExists"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        operation == Operation::Create
            && subresource.is_empty()
            && &*row.group == "scheduling.k8s.io"
            && &*row.resource == "podgroups"
    }
    fn needs(&self, asked: &AdmissionAttributes<'_>) -> Vec<Need> {
        match asked.text(WORKLOAD_NAME) {
            "" => Vec::new(),
            name => vec![Need::relied(
                WORKLOAD,
                ("scheduling.k8s.io", "workloads"),
                asked.namespace,
                name,
            )],
        }
    }
    fn validate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let workload = review.found.get(WORKLOAD).map(|w| w.to_value());
        let group = review.object.as_deref();
        let done = group.map_or(Ok(()), |group| judge(group, workload.as_ref()));
        let done = done.map_err(|why| review.forbidden(&format!("PodGroup rejected: {why}")));
        Box::pin(std::future::ready(done))
    }
}

/// Whether a group may be made, where the workload that it names is this one, or not there. The words
/// are upstream's.
fn judge(group: &Value, workload: Option<&Value>) -> Result<(), String> {
    let (name, template) = (text(group, WORKLOAD_NAME), text(group, TEMPLATE_NAME));
    if name.is_empty() {
        return Ok(());
    }
    let Some(workload) = workload else {
        return Err(format!("Workload {name:?} not found"));
    };
    if !text(workload, "/metadata/deletionTimestamp").is_empty() {
        return Err(format!("Workload {name:?} is being deleted"));
    }
    let mut templates = list(workload, "/spec/podGroupTemplates").iter();
    match templates.any(|t| text(t, "/name") == template) {
        true => Ok(()),
        false => Err(format!(
            "PodGroupTemplate {template:?} not found in Workload {name:?}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_group_needs_what_it_names() {
        let of = |workload: &str, template: &str| {
            json!({ "spec": { "podGroupTemplateRef": { "workload": {
                "workloadName": workload, "podGroupTemplateName": template } } } })
        };
        let workload = json!({ "metadata": { "name": "w" },
            "spec": { "podGroupTemplates": [{ "name": "a" }, { "name": "b" }] } });
        let wrong = |text: &str| Err(text.to_owned());
        assert_eq!(judge(&json!({ "spec": {} }), None), Ok(()));
        assert_eq!(judge(&of("w", "b"), Some(&workload)), Ok(()));
        assert_eq!(
            judge(&of("w", "b"), None),
            wrong("Workload \"w\" not found")
        );
        assert_eq!(
            judge(&of("w", "c"), Some(&workload)),
            wrong("PodGroupTemplate \"c\" not found in Workload \"w\"")
        );
        let mut leaving = workload;
        leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert_eq!(
            judge(&of("w", "a"), Some(&leaving)),
            wrong("Workload \"w\" is being deleted")
        );
    }
}
