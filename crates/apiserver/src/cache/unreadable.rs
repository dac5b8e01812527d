//! Stored values that cannot be read: bytes that make up an object of no kind, and what no key opens.
//! They are not left out silently: who asks for one, or for a list that it would be in, gets an error
//! until the store has it mended or no longer. Who waits for that is not known here.

use std::sync::Arc;

use api::Status;
use api::status::{Cause, Details};
use registry::Row;
use store::{KeyValue, Revision};

use super::object::{BadValue, Object};
use super::select::Selection;
use crate::errors::resource_of;
use crate::metrics::watch_cache::undecoded;

/// How upstream's reads name an object below the root, and how a value begins that is encrypted.
const ROOT: &str = "/registry";
const ENCRYPTED: &[u8] = b"k8s:enc:";
/// Objects that the answer to a list names at most; as upstream.
const NAMED: usize = 100;

/// A stored value that cannot be read.
#[derive(Clone)]
pub struct Unreadable {
    /// Key below the resource's prefix.
    pub key: Arc<str>,
    /// The revision at which it was written.
    pub revision: Revision,
    why: String,
    is_encrypted: bool,
    /// The object as it was when it could be read, where this server has seen that.
    pub(super) last: Option<Arc<Object>>,
}

impl Unreadable {
    fn new(key: &str, value: &[u8], revision: Revision, error: &BadValue) -> Self {
        Self {
            key: key.into(),
            revision,
            why: error.why.clone(),
            is_encrypted: value.starts_with(ENCRYPTED),
            last: None,
        }
    }

    /// Whether a selection may ask for it: labels and fields are not known.
    pub(super) fn may_be_in(&self, selection: &Selection) -> bool {
        let (namespace, name) = self.key.split_once('/').unwrap_or(("", &self.key));
        let everywhere = selection.namespace.is_empty();
        (everywhere || selection.namespace == namespace)
            && selection.only_name().is_none_or(|only| only == name)
    }

    /// Upstream's words for what is wrong with it; `key` is as the reader names it.
    fn told(&self, key: &str) -> String {
        let why = match self.is_encrypted {
            // What the key service or the cipher said is in the log.
            true => "data from the storage is not transformable revision=0: no key opens it".into(),
            false => format!(
                "object not decodable revision={}: {}",
                self.revision, self.why
            ),
        };
        format!(
            "StorageError: corrupt object, Code: 7, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: {why}"
        )
    }

    /// The answer to who asks for this very object.
    pub fn status(&self, row: &Row) -> Status {
        let key = format!("{}/{}", row.storage_prefix, self.key);
        Status::internal(self.told(key.strip_prefix(ROOT).unwrap_or(&key)))
    }
}

/// The answer to who asks for objects of which these cannot be read; none where there are none.
pub(super) fn of_list<'a>(
    row: &Row,
    all: impl Iterator<Item = &'a Unreadable>,
) -> Result<(), Status> {
    let mut causes = Vec::new();
    for unreadable in all {
        if causes.len() == NAMED {
            causes.push(Cause {
                reason: "FieldValueTooMany".into(),
                message: "too many errors, the list is truncated".into(),
                field: String::new(),
            });
            break;
        }
        let key = format!("{}/{}", row.storage_prefix, unreadable.key);
        causes.push(Cause {
            reason: "UnexpectedServerResponse".into(),
            message: unreadable.told(&key),
            field: key,
        });
    }
    if causes.is_empty() {
        return Ok(());
    }
    let resource = resource_of(row);
    Err(Status {
        code: 500,
        status: "Failure".into(),
        reason: "StorageReadError".into(),
        message: format!("failed to read one or more {resource} from the storage"),
        details: Some(Details {
            name: "list".into(),
            group: row.group.to_string(),
            kind: row.resource.to_string(),
            causes,
            ..Details::default()
        }),
        ..Status::default()
    })
}

/// What lies in the store of one resource.
#[derive(Default)]
pub struct Contents {
    pub objects: Vec<Arc<Object>>,
    pub unreadable: Vec<Unreadable>,
}

impl Contents {
    /// The objects of one row, read from below its prefix.
    pub fn of(row: &Row, stored: Vec<KeyValue>) -> Self {
        let below = row.storage_prefix.len() + 1;
        let mut contents = Self::default();
        for kv in stored {
            let key = kv.key.clone();
            let key = String::from_utf8_lossy(key.get(below..).unwrap_or_default());
            match read(row, &key, kv) {
                Ok(object) => contents.objects.push(object),
                Err(unreadable) => contents.unreadable.push(unreadable),
            }
        }
        contents
    }

    /// The objects, and of what cannot be read what it was.
    pub(super) fn known(&self) -> impl Iterator<Item = &Object> {
        let lost = self.unreadable.iter().filter_map(|u| u.last.as_deref());
        self.objects.iter().map(|o| &**o).chain(lost)
    }

    /// The objects, unless some cannot be read that a selection may ask for.
    pub fn selected(self, row: &Row, selection: &Selection) -> Result<Vec<Arc<Object>>, Status> {
        let asked = self.unreadable.iter().filter(|u| u.may_be_in(selection));
        of_list(row, asked)?;
        Ok(self.objects)
    }
}

/// The object of a stored value; `key` is below the row's prefix. One that cannot be read is said
/// and counted.
pub(super) fn read(row: &Row, key: &str, kv: KeyValue) -> Result<Arc<Object>, Unreadable> {
    let (value, revision) = (kv.value, kv.mod_revision);
    Object::parse(row, key, value.clone(), revision)
        .map(Arc::new)
        .map_err(|error| {
            tracing::error!("{error}");
            undecoded(row);
            Unreadable::new(key, &value, revision, &error)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(key: &str, value: &'static [u8]) -> KeyValue {
        KeyValue {
            key: format!("/registry/secrets/{key}").into(),
            value: value.into(),
            create_revision: 3,
            mod_revision: 7,
            version: 1,
        }
    }

    #[test]
    fn a_list_names_what_it_would_lack() {
        let row = registry::kinds().resource("", "secrets").expect("secrets");
        let stored = || {
            let other = br#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"c"}}"#;
            vec![
                broken("x/a", b"?"),
                broken("y/b", b"k8s:enc:aescbc:v1:1:..."),
                broken("y/c", other),
            ]
        };
        let of = |namespace: &str, fields: &str| {
            let selection = Selection::new(row, namespace, "", fields).expect("selection");
            Contents::of(row, stored()).selected(row, &selection)
        };
        let status = of("", "").err().expect("two cannot be read");
        assert_eq!(
            (status.code, &*status.reason),
            (500, "StorageReadError"),
            "{status}"
        );
        assert_eq!(
            status.message,
            "failed to read one or more secrets from the storage"
        );
        let causes = status.details.expect("details").causes;
        let keys: Vec<&str> = causes.iter().map(|c| &*c.field).collect();
        assert_eq!(keys, ["/registry/secrets/x/a", "/registry/secrets/y/b"]);
        assert!(
            causes[0]
                .message
                .contains("object not decodable revision=7")
        );
        assert!(causes[1].message.contains("is not transformable"));
        let names = |found: Result<Vec<Arc<Object>>, Status>| {
            let found = found.expect("all can be read");
            let keys = found.iter().map(|o| o.key.to_string());
            keys.collect::<Vec<_>>()
        };
        assert!(of("x", "").is_err() && of("y", "").is_err());
        assert_eq!(names(of("z", "")), ["y/c"]);
        assert_eq!(names(of("y", "metadata.name=c")), ["y/c"]);
        assert!(of("y", "metadata.name=b").is_err());
        assert!(of("", "metadata.name=a").is_err());
    }

    #[test]
    fn one_object_is_named_as_upstream_names_it() {
        let row = registry::kinds().resource("", "secrets").expect("secrets");
        let contents = Contents::of(row, vec![broken("x/a", b"?")]);
        let status = contents.unreadable[0].status(row);
        assert_eq!(
            (status.code, &*status.reason),
            (500, "InternalError"),
            "{status}"
        );
        let begin =
            "Internal error occurred: StorageError: corrupt object, Code: 7, Key: /secrets/x/a, ";
        assert!(status.message.starts_with(begin), "{status}");
    }
}
