//! The hooks of a kind. All are synchronous, pure, and default to nothing: the verb functions of
//! the API server own the order in which they run and everything that is common to all kinds
//! (names, generation, finalizers, managed fields, preconditions).

use std::collections::BTreeMap;

use api::FieldError;
use api::cidr::{Families, IpFamily};
use serde_json::Value;

use crate::check::forgive;
use crate::status_writes::{keep_other_half, no_status};

/// What a hook may know besides the object.
pub struct Context<'a> {
    /// Seconds since the epoch.
    pub now: i64,
    pub namespace: &'a str,
    /// The user that the request is made as.
    pub user: &'a str,
    pub groups: &'a [String],
    /// The user's own identifier; empty where there is none.
    pub uid: &'a str,
    /// What the authenticator knows of the user besides.
    pub extra: &'a BTreeMap<String, Vec<String>>,
    /// Objects that [`Strategy::reads`] asked for, by the name it gave them; absent when they
    /// do not exist.
    pub read: BTreeMap<String, Value>,
    /// `status`, `scale`, … or empty for the object itself.
    pub subresource: &'a str,
    /// The version of the request (`v1`), which need not be that of the object.
    pub version: &'a str,
    pub dry_run: bool,
    /// Which families of addresses Services may have.
    pub families: Families,
}

impl Context<'static> {
    /// Of a request by nobody for an object of the version `v1` itself, outside of time and
    /// namespaces: for those to whom little of a request matters, who say what does.
    pub fn of_nobody() -> Self {
        Self {
            now: 0,
            namespace: "",
            user: "",
            groups: &[],
            uid: "",
            extra: no_extra(),
            read: BTreeMap::new(),
            subresource: "",
            version: "v1",
            dry_run: false,
            families: Families::default(),
        }
    }
}

/// Of a user of whom nothing besides is known.
pub fn no_extra() -> &'static BTreeMap<String, Vec<String>> {
    static NONE: BTreeMap<String, Vec<String>> = BTreeMap::new();
    &NONE
}

/// Another object that a hook needs. Its revision joins the transaction's comparisons.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// The name under which [`Context::read`] holds it.
    pub label: String,
    pub group: String,
    pub resource: String,
    pub namespace: String,
    pub name: String,
}

/// What must be unique or counted cluster-wide; object and claims are committed in one
/// transaction, so that several servers cannot give the same thing twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A cluster IP; `None` lets the server choose one and write it to `field` (a JSON pointer).
    ServiceIp {
        ip: Option<String>,
        family: IpFamily,
        field: String,
    },
    /// A node port of a protocol; `None` lets the server choose one.
    NodePort {
        port: Option<u16>,
        protocol: String,
        field: String,
    },
    /// The holder that leads by this Lease: when that changes, the fence of the leader before
    /// falls.
    Leadership { holder: String, transitions: i64 },
}

/// Where the scale of an object lies, as JSON pointers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    pub replicas: String,
    pub status_replicas: String,
    /// A text with the selector; none where `spec.selector` says it.
    pub selector: Option<String>,
}

impl Default for Scale {
    fn default() -> Self {
        Self {
            replicas: "/spec/replicas".into(),
            status_replicas: "/status/replicas".into(),
            selector: None,
        }
    }
}

/// What becomes of an object's dependents when its deletion does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependents {
    /// The garbage collector deletes them.
    Delete,
    /// They stay, without this owner.
    Orphan,
    /// There are none, whatever a deletion says of them.
    None,
}

/// The hooks of one kind. Objects are in the storage version, decoded and structurally valid.
pub trait Strategy: Send + Sync {
    /// Fills in the documented defaults.
    fn default(&self, _obj: &mut Value) {}
    /// Whether stored objects are looked at by [`Strategy::refresh`] when they are read.
    fn refreshes(&self) -> bool {
        false
    }
    /// Brings an object that was stored some time ago in line with what its kind is today (a custom
    /// kind's schema may have changed since); whether anything was changed.
    fn refresh(&self, _obj: &mut Value) -> bool {
        false
    }
    /// Removes from an object that somebody else has converted what its version does not know.
    fn converted(&self, _obj: &mut Value) {}
    /// Other objects that the following hooks need.
    fn reads(&self, _obj: &Value, _old: Option<&Value>) -> Vec<Read> {
        Vec::new()
    }
    /// Clears what a client may not set (status), sets what the server sets.
    fn prepare_create(&self, _obj: &mut Value, _cx: &Context<'_>) {}
    /// The same before an update, also of a subresource (`cx.subresource`): a write of the object
    /// keeps the old status, a write of `status` keeps the rest. The default does just that for
    /// kinds with a status subresource; a strategy that overrides it calls [`keep_other_half`].
    fn prepare_update(&self, obj: &mut Value, old: &Value, cx: &Context<'_>) {
        keep_other_half(obj, old, cx.subresource);
    }
    /// The fields of the metadata that a write of the status leaves as they were:
    /// [`METADATA`](crate::status_writes::METADATA), or fewer.
    fn status_leaves(&self) -> &'static [&'static str] {
        &[]
    }
    fn validate(&self, _obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        Vec::new()
    }
    /// In addition to [`Strategy::validate`]: immutable fields.
    fn validate_update(&self, _obj: &Value, _old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        Vec::new()
    }
    /// Whether [`Strategy::validate_update`] checks all that [`Strategy::validate`] does, which
    /// then is not asked on updates: what was wrong before may stay.
    fn validates_whole_update(&self) -> bool {
        false
    }
    /// Whether what [`Strategy::validate`] says of the old object, too, may stay: a rule that is newer
    /// than an object keeps nobody from changing the rest of it, or from letting it go.
    fn keeps_what_was_wrong(&self) -> bool {
        false
    }
    /// All that is wrong with an object that is to take the place of another.
    fn validate_change(&self, obj: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Vec::new();
        if !self.validates_whole_update() {
            errs = self.validate(obj, cx);
            if self.keeps_what_was_wrong() {
                forgive(&mut errs, || self.validate(old, cx));
            }
        }
        errs.extend(self.validate_update(obj, old, cx));
        errs
    }
    /// Whether the kind is that of a CustomResourceDefinition.
    fn is_custom(&self) -> bool {
        false
    }
    /// Definitions of OpenAPI, by name, of a served version of a kind that the schema table does
    /// not describe in full: a custom one.
    fn published(&self, _version: &str, _v3: bool) -> Vec<(String, Value)> {
        Vec::new()
    }
    /// Texts of `Warning` headers.
    fn warnings(&self, _obj: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }
    /// The same of a write of the status.
    fn status_warnings(&self, _obj: &Value) -> Vec<String> {
        Vec::new()
    }
    /// All that the object holds or wants, in the same order each time; what the old object
    /// held and the new one does not list is to be given back.
    fn claims(&self, _obj: &Value, _old: Option<&Value>) -> Vec<Claim> {
        Vec::new()
    }
    /// Runs when the server has written its choices to the fields of the claims: sets what
    /// follows from them (`clusterIPs` from `clusterIP`).
    fn after_claims(&self, _obj: &mut Value) {}
    /// What is wrong with a name (empty: nothing); `generate`: it is a prefix to which something
    /// will be appended. The default rule is a DNS subdomain.
    fn validate_name(&self, name: &str, generate: bool) -> Vec<String> {
        crate::meta::name_is_subdomain(name, generate)
    }
    /// Whether the spec's change counts up `metadata.generation`; kinds without a generation say
    /// no.
    fn has_generation(&self) -> bool {
        false
    }
    /// Whether a change of the labels counts it up, too.
    fn generation_counts_labels(&self) -> bool {
        false
    }
    /// Where the subresource `scale` of a version reads and writes.
    fn scale(&self, _version: &str) -> Scale {
        Scale::default()
    }
    /// Grace period of a deletion, in seconds, when the client gives none; `None`: at once.
    /// Pods answer with their terminationGracePeriodSeconds (0 when not yet bound).
    fn grace_seconds(&self, _obj: &Value) -> Option<i64> {
        None
    }
    /// The grace period of a deletion for which the client asked for `asked` seconds. A pod that
    /// is not bound or has ended goes at once, whatever was asked.
    fn effective_grace(&self, obj: &Value, asked: Option<i64>) -> Option<i64> {
        self.grace_seconds(obj).map(|own| asked.unwrap_or(own))
    }
    /// What becomes of dependents when a deletion does not say.
    fn dependents(&self) -> Dependents {
        Dependents::Delete
    }
    /// Text of a `Warning` header of a deletion that does not say what becomes of dependents.
    fn warns_on_delete(&self) -> Option<&'static str> {
        None
    }
    /// A number by which tables of a list are sorted, before the names; without it they are in the
    /// order of the list.
    fn table_rank(&self) -> Option<fn(&Value) -> i64> {
        None
    }
    /// Converts between served versions; the default only rewrites `apiVersion`.
    fn convert(&self, obj: &mut Value, to_version: &str, group: &str) {
        let v = if group.is_empty() {
            to_version.to_owned()
        } else {
            format!("{group}/{to_version}")
        };
        obj["apiVersion"] = Value::String(v);
    }
}

/// The strategy of a kind with a status subresource and nothing else of its own.
pub struct WithStatus;
impl Strategy for WithStatus {
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        no_status(obj);
    }
}

/// The strategy of a plain kind.
pub struct Plain;
impl Strategy for Plain {}
