//! Tokens of the pod's service account that a driver asks for.

use super::Csi;
use super::error::Error;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::storage::v1::CSIDriverSpec;
use serde_json::{Map, Value, json};

/// The key under which the driver finds them.
const KEY: &str = "csi.storage.k8s.io/serviceAccount.tokens";
/// How long one is good for where the driver does not say; the API's own default.
const SECONDS: i64 = 3600;

impl Csi {
    /// The tokens in the driver's form, if it wants some.
    pub(super) async fn tokens_for(
        &self,
        pod: &Pod,
        driver: Option<&CSIDriverSpec>,
    ) -> Result<Option<(&'static str, String)>, Error> {
        let wanted = driver.and_then(|d| d.token_requests.as_deref());
        let wanted = wanted.unwrap_or_default();
        let mut out = Map::new();
        for request in wanted {
            let audience = request.audience.as_str();
            let seconds = request.expiration_seconds.unwrap_or(SECONDS);
            let token = self.tokens.token(pod, Some(audience), seconds).await;
            let token = token.map_err(|e| Error::api("failed to get service account token", &e))?;
            let until = token.expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let value = json!({ "token": token.text, "expirationTimestamp": until });
            out.insert(audience.to_owned(), value);
        }
        Ok((!out.is_empty()).then(|| (KEY, Value::Object(out).to_string())))
    }
}
