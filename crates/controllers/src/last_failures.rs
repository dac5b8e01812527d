//! Why something could not be done for an object the last time that it was tried, for its status.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::common::Key;

/// By the object. Taken when it is looked at again, since every look is another try.
#[derive(Default)]
pub struct LastFailures(Mutex<HashMap<Key, String>>);

impl LastFailures {
    /// Of several, the first one counts.
    pub fn note(&self, key: &Key, error: &kube::Error) {
        let mut all = self.0.lock();
        all.entry(key.clone())
            .or_insert_with(|| client::said(error));
    }

    pub fn take(&self, key: &Key) -> Option<String> {
        self.0.lock().remove(key)
    }
}

/// Whether something of this name is there already, or another version of it.
pub fn is_taken(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(value: serde_json::Value) -> kube::Error {
        kube::Error::Api(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn the_first_failure_is_taken_once() {
        let failures = LastFailures::default();
        let key = ("a".to_owned(), "b".to_owned());
        for text in ["exceeded quota", "another"] {
            failures.note(
                &key,
                &error(serde_json::json!({ "message": text, "code": 403 })),
            );
        }
        assert_eq!(failures.take(&key).as_deref(), Some("exceeded quota"));
        assert_eq!(failures.take(&key), None);
    }

    #[test]
    fn refusals_that_need_not_be_told_are_known() {
        let taken = error(serde_json::json!({ "code": 409 }));
        let ends = error(serde_json::json!({ "code": 403,
            "details": { "causes": [{ "reason": "NamespaceTerminating" }] } }));
        let known = |e: &kube::Error| (is_taken(e), client::namespace_ends(e));
        assert_eq!(
            (known(&taken), known(&ends)),
            ((true, false), (false, true))
        );
    }
}
