//! AlwaysPullImages: every start of a container asks the registry, so that nobody runs an image
//! that only somebody else was given.

use api::{FieldError, FieldPath, Status};
use futures::future::BoxFuture;
use registry::Row;
use serde_json::Value;

use super::{Admit, Operation, Review, is_pod, joined, list, text};
use crate::state::State;

const ALWAYS: &str = "Always";
const CONTAINERS: &[&str] = &["initContainers", "containers", "ephemeralContainers"];

pub struct AlwaysPullImages;

impl Admit for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update) && is_pod(row, subresource)
    }
    fn mutate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let old = review.old;
        if let Some(pod) = review.object.as_deref_mut()
            && brings_images(pod, old)
        {
            always(pod);
        }
        Box::pin(std::future::ready(Ok(())))
    }
    fn validate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let done = match review.object.as_deref() {
            Some(pod) if brings_images(pod, review.old) => refused(review, pod),
            _ => Ok(()),
        };
        Box::pin(std::future::ready(done))
    }
}

/// Whether the pod is new, or names an image that it did not name before.
fn brings_images(pod: &Value, old: Option<&Value>) -> bool {
    let images = |pod: &Value| -> Vec<String> {
        let each = CONTAINERS
            .iter()
            .flat_map(|l| list(pod, &format!("/spec/{l}")));
        each.map(|c| text(c, "/image").to_owned()).collect()
    };
    let Some(old) = old.map(images) else {
        return true;
    };
    images(pod).iter().any(|image| !old.contains(image))
}

fn always(pod: &mut Value) {
    let members = |pod: &mut Value, field: &str, change: &dyn Fn(&mut Value)| {
        let all = pod.pointer_mut(&format!("/spec/{field}"));
        let all = all.and_then(Value::as_array_mut);
        all.into_iter().flatten().for_each(change);
    };
    for field in CONTAINERS {
        members(pod, field, &|c| c["imagePullPolicy"] = ALWAYS.into());
    }
    members(pod, "volumes", &|v| {
        if let Some(image) = v.get_mut("image").filter(|i| i.is_object()) {
            image["pullPolicy"] = ALWAYS.into();
        }
    });
}

fn refused(review: &Review<'_>, pod: &Value) -> Result<(), Status> {
    let spec = FieldPath::new("spec");
    let mut wrong = Vec::new();
    for field in CONTAINERS {
        for (n, c) in list(pod, &format!("/spec/{field}")).iter().enumerate() {
            let path = spec.child(field).index(n).child("imagePullPolicy");
            wrong.push((path, text(c, "/imagePullPolicy")));
        }
    }
    for (n, v) in list(pod, "/spec/volumes").iter().enumerate() {
        if v.get("image").is_some_and(Value::is_object) {
            let path = spec.child("volumes").index(n);
            let path = path.child("image").child("pullPolicy");
            wrong.push((path, text(v, "/image/pullPolicy")));
        }
    }
    wrong.retain(|(_, policy)| *policy != ALWAYS);
    if wrong.is_empty() {
        return Ok(());
    }
    let each = wrong.iter().map(|(path, policy)| {
        let why = FieldError::not_supported(path, policy, &[ALWAYS]);
        why.to_string()
    });
    Err(review.forbidden(&joined(each.collect())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_image_is_pulled() {
        let mut pod = json!({ "spec": {
            "containers": [{ "image": "a", "imagePullPolicy": "Never" }],
            "initContainers": [{ "image": "b" }],
            "volumes": [{ "image": { "reference": "c" } }, { "emptyDir": {} }],
        } });
        always(&mut pod);
        assert_eq!(
            pod["spec"],
            json!({
                "containers": [{ "image": "a", "imagePullPolicy": "Always" }],
                "initContainers": [{ "image": "b", "imagePullPolicy": "Always" }],
                "volumes": [{ "image": { "reference": "c", "pullPolicy": "Always" } }, { "emptyDir": {} }],
            })
        );
        assert!(brings_images(&pod, None) && !brings_images(&pod, Some(&pod)));
        let mut other = pod.clone();
        other["spec"]["containers"][0]["image"] = json!("d");
        assert!(brings_images(&other, Some(&pod)));
    }
}
