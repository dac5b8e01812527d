//! The webhook of a CustomResourceDefinition, asked to convert objects. What it answers is read here,
//! as upstream reads it; whether the objects in it may be believed is `verbs/convert.rs`'s.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use clock::Instant;
use registry::Convert;
use serde_json::{Value, json};

use crate::egress::{self, Backend, Bounds};
use crate::object::meta_text;
use crate::state::{State, WeakState};

/// What a conversion may take. 30 s, as upstream; its answer holds all objects of a list.
const BOUNDS: Bounds = Bounds {
    within: Duration::from_secs(30),
    answer_bytes: 128 << 20,
};
const KIND: &str = "ConversionReview";
const GROUP: &str = "apiextensions.k8s.io";
/// Words of the figures for what goes wrong; upstream's.
const CALL: &str = "conversion_webhook_call_failure";
const MALFORMED: &str = "conversion_webhook_malformed_response_failure";

/// See the head of this file.
pub struct Webhook {
    state: WeakState,
    /// Of the definition.
    name: String,
    backend: Result<Backend, String>,
    /// The first version of reviews that the webhook takes and this server speaks.
    version: Option<&'static str>,
}

impl Webhook {
    pub fn new(state: &State, crd: &Value) -> Self {
        let webhook = &crd["spec"]["conversion"]["webhook"];
        let given = webhook["conversionReviewVersions"].as_array();
        let known = |v: &Value| ["v1", "v1beta1"].into_iter().find(|known| v == known);
        Self {
            state: state.downgrade(),
            name: meta_text(crd, "name").to_owned(),
            backend: Backend::read(&webhook["clientConfig"]).map_err(|e| e.to_string()),
            version: given.into_iter().flatten().find_map(known),
        }
    }

    /// Asks; the error says what the figures call it, and why.
    async fn ask(
        &self,
        state: &State,
        objects: Vec<Value>,
        api_version: &str,
    ) -> Result<Vec<Value>, (&'static str, String)> {
        let failed = |why: String| (CALL, why);
        let none = || failed("no supported conversion review versions".into());
        let version = self.version.ok_or_else(none)?;
        let backend = self.backend.as_ref().map_err(|e| failed(e.clone()))?;
        let uid = state.random().uuid();
        let review = json!({
            "kind": KIND, "apiVersion": format!("{GROUP}/{version}"),
            "request": { "uid": uid, "desiredAPIVersion": api_version, "objects": objects },
        });
        let body = Bytes::from(review.to_string());
        let answer = egress::post(state, backend, body, BOUNDS).await;
        let answer = answer.map_err(|e| failed(e.to_string()))?;
        let review: Value = serde_json::from_slice(&answer).map_err(|e| failed(e.to_string()))?;
        converted(review, version, &uid).map_err(|why| (MALFORMED, why))
    }
}

/// The objects of an answer; why it is none.
pub fn converted(mut review: Value, version: &str, uid: &str) -> Result<Vec<Value>, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    // Older reviews are not held against what they say of themselves.
    let is_strict = version == "v1";
    let (have, kind) = (text(&review["apiVersion"]), text(&review["kind"]));
    if is_strict && (have != format!("{GROUP}/{version}") || kind != KIND) {
        return Err(format!(
            "expected webhook response of {GROUP}/{version}, Kind={KIND}, got {have}, Kind={kind}"
        ));
    }
    let response = review.get_mut("response").filter(|r| r.is_object());
    let Some(response) = response else {
        return Err("no response provided".into());
    };
    let told = text(&response["uid"]);
    if is_strict && told != uid {
        return Err(format!("expected response.uid={uid:?}, got {told:?}"));
    }
    let result = &response["result"];
    let status = text(&result["status"]);
    if status != "Success" {
        return Err(match text(&result["message"]) {
            message if message.is_empty() => {
                format!("response.result.status was '{status}', not 'Success'")
            }
            message => message,
        });
    }
    match response["convertedObjects"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

impl Convert for Webhook {
    fn convert<'a>(
        &'a self,
        objects: Vec<Value>,
        api_version: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<Value>, String>> + Send + 'a>> {
        Box::pin(async move {
            let Some(state) = self.state.upgrade() else {
                return Err("the server is shutting down".into());
            };
            let began = Instant::now();
            let version = |api_version: &str| {
                let version = api_version.rsplit('/').next();
                version.unwrap_or_default().to_owned()
            };
            let from = objects.first().and_then(|o| o["apiVersion"].as_str());
            let (from, to) = (version(from.unwrap_or_default()), version(api_version));
            let done = self.ask(&state, objects, api_version).await;
            let failure = done.as_ref().err().map_or("", |(failure, _)| *failure);
            let metrics = &state.metrics().conversions;
            metrics.call(&self.name, (&from, &to), began.elapsed(), failure);
            done.map_err(|(_, why)| why)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_upstream_reads_them() {
        let review = |response: Value| json!({"kind": KIND, "apiVersion": "apiextensions.k8s.io/v1", "response": response});
        let good =
            json!({"uid": "u", "result": {"status": "Success"}, "convertedObjects": [{"a": 1}]});
        assert_eq!(
            converted(review(good.clone()), "v1", "u"),
            Ok(vec![json!({"a": 1})])
        );
        let mut other = review(good.clone());
        other["apiVersion"] = "apiextensions.k8s.io/v1beta1".into();
        assert!(converted(other.clone(), "v1", "u").is_err());
        assert!(converted(other, "v1beta1", "x").is_ok());
        for (response, want) in [
            (Value::Null, "no response provided"),
            (
                json!({"uid": "x", "result": {"status": "Success"}}),
                "expected response.uid=\"u\", got \"x\"",
            ),
            (
                json!({"uid": "u", "result": {"status": "Failed", "message": "no wind"}}),
                "no wind",
            ),
            (
                json!({"uid": "u", "result": {"status": "Failed"}}),
                "response.result.status was 'Failed', not 'Success'",
            ),
        ] {
            assert_eq!(converted(review(response), "v1", "u"), Err(want.to_owned()));
        }
        // These are not reviews at all.
        for none in [json!([]), json!("x"), Value::Null] {
            assert!(converted(none, "v1beta1", "u").is_err());
        }
    }
}
