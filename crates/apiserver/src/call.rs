//! One request to a resource, as the verb functions see it: who asks, for what row and version,
//! in which form the answer is wanted.

use std::sync::Arc;

use api::{Fence, FieldError, GroupKind, GroupResource, GroupVersion, Status};
use http::HeaderMap;
use http::header::{CONTENT_TYPE, USER_AGENT};
use parking_lot::Mutex;
use registry::{Kinds, Row, ServedVersion, Subresource};
use schema::Type;
use serde_json::Value;

use crate::audit::Trail;
use crate::cache::{Object, ResourceCache};
use crate::errors::{from_store, resource_of};
use crate::filters::authn::UserInfo;
use crate::filters::authz;
use crate::hooks::Plugins;
use crate::http::body::Body;
use crate::http::negotiate::Accept;
use crate::http::options;
use crate::http::request::{Query, RequestInfo};
use crate::http::warnings::Warnings;
use crate::state::State;

/// A request to a resource.
pub struct Call {
    /// What rules see of the server.
    pub state: State,
    pub plugins: Arc<Plugins>,
    pub info: Arc<RequestInfo>,
    pub query: Query,
    pub user: UserInfo,
    pub headers: HeaderMap,
    pub accept: Accept,
    /// The kinds as they were when the request came.
    pub kinds: Arc<Kinds>,
    pub row: Arc<Row>,
    pub version: ServedVersion,
    /// Leadership that a write depends on; see [`crate::fence`].
    pub fence: Option<Fence>,
    /// Texts for `Warning` headers.
    pub warnings: Mutex<Warnings>,
    /// What the audit log will have of the request.
    pub audit: Trail,
}

/// What a verb function answers; the encoding is chosen afterwards, in one place.
pub enum Answer {
    /// A stored object.
    Object {
        code: u16,
        object: Arc<Object>,
    },
    /// A value that is not stored as it is, with its kind in `kind` and `apiVersion`.
    Value {
        code: u16,
        value: Value,
        /// None for what has no protobuf form.
        ty: Option<Type>,
    },
    List(List),
    Status(Status),
    /// Ready to send: watches and other streams.
    Response(http::Response<Body>),
}

/// Objects of a list, in order.
pub struct List {
    pub objects: Vec<Arc<Object>>,
    pub revision: u64,
    pub next: String,
    pub remaining: Option<u64>,
}

impl Call {
    /// The resource's name for messages.
    pub fn resource(&self) -> GroupResource {
        resource_of(&self.row)
    }
    pub fn group_version(&self) -> GroupVersion {
        GroupVersion::new(&self.row.group, &self.version.version)
    }
    /// The version of the request is the one in which objects are stored.
    pub fn in_storage_version(&self) -> bool {
        self.row.group == self.row.storage_group && self.version.version == self.row.storage_version
    }
    pub fn subresource(&self) -> Option<&Subresource> {
        self.row
            .subresource_of(&self.version, &self.info.subresource)
    }
    pub fn cache(&self) -> Result<Arc<ResourceCache>, Status> {
        self.state
            .cache()
            .of(&self.row)
            .ok_or_else(Status::no_such_path)
    }
    /// What it asks for, to be changed in a call of the server's own.
    pub fn info_mut(&mut self) -> &mut RequestInfo {
        Arc::make_mut(&mut self.info)
    }
    /// The key below the resource's prefix.
    pub fn key(&self, name: &str) -> String {
        self.row.key(&self.info.namespace, name)
    }
    /// The object of the path in the store's newest state.
    pub async fn stored(&self, name: &str) -> Result<Arc<Object>, Status> {
        let newest = self.state.cache().newest().await;
        let newest = newest.map_err(|e| from_store(&e))?;
        let (cache, key) = (self.cache()?, self.key(name));
        let found = self.state.object_in(newest, &cache, &key).await?;
        found.ok_or_else(|| Status::not_found(&self.resource(), name))
    }
    pub fn warn(&self, text: impl Into<String>) {
        self.warnings.lock().add(text.into());
    }
    /// Whether a request for one thing may also do another that it brings about: an apply or a
    /// replacement of what is missing creates. Asked for with the name, as upstream.
    pub async fn may_also(&self, verb: &str) -> Result<(), Status> {
        let mut info = (*self.info).clone();
        info.verb = verb.into();
        if !self.row.namespaced {
            // The path of a namespace names itself as the namespace, too; a role in it says
            // nothing of its own making.
            info.namespace = String::new();
        }
        let asked = authz::attributes(&info, &self.query);
        authz::authorize(&self.state, &self.user, &asked).await
    }
    /// The same call past all plugins of admission: for what the server does on its own behalf, or on
    /// behalf of a request that was admitted.
    pub fn unjudged(&self) -> Self {
        let mut call = self.same();
        call.plugins = Arc::new(Plugins::default());
        call
    }

    /// The same call, with nothing to say yet.
    fn same(&self) -> Self {
        Self {
            state: self.state.clone(),
            plugins: self.plugins.clone(),
            info: self.info.clone(),
            query: self.query.clone(),
            user: self.user.clone(),
            headers: self.headers.clone(),
            accept: self.accept.clone(),
            kinds: self.kinds.clone(),
            row: self.row.clone(),
            version: self.version.clone(),
            fence: self.fence.clone(),
            warnings: Default::default(),
            audit: self.audit.clone(),
        }
    }

    /// The same call for another resource and object of the same namespace.
    pub fn sibling(&self, group: &str, resource: &str, name: &str) -> Result<Self, Status> {
        let row = self
            .kinds
            .resource(group, resource)
            .ok_or_else(Status::no_such_path)?;
        let version = row
            .versions
            .first()
            .ok_or_else(Status::no_such_path)?
            .clone();
        let mut call = self.same();
        let info = call.info_mut();
        (info.group, info.resource) = (group.to_owned(), resource.to_owned());
        (info.version, info.name) = (version.version.to_string(), name.to_owned());
        (call.row, call.version) = (row.clone(), version);
        Ok(call)
    }
    /// All errors of an object at once.
    pub fn check(&self, name: &str, errors: &[FieldError]) -> Result<(), Status> {
        if errors.is_empty() {
            return Ok(());
        }
        let kind = GroupKind::new(&self.row.group, &self.row.kind);
        Err(Status::invalid(&kind, name, errors))
    }
    /// Checks the options of a creation, an update or a patch; gives whether it is a dry run
    /// (`dryRun=All`; anything else is an error).
    pub fn write_options(&self) -> Result<bool, Status> {
        options::field_manager(&self.info.verb, self.query.get("fieldManager"))?;
        options::dry_run(&self.info.verb, self.query.all("dryRun"))
    }
    /// The media type of the body, without parameters; JSON when not given.
    pub fn content_type(&self) -> &str {
        let text = self.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
        match text.and_then(|t| t.split(';').next()).map(str::trim) {
            None | Some("") => "application/json",
            Some(t) => t,
        }
    }
    /// The name under which managed fields are recorded: given, or made from the user agent.
    pub fn field_manager(&self) -> String {
        if let Some(m) = self.query.get("fieldManager") {
            return m.to_owned();
        }
        let agent = self.headers.get(USER_AGENT).and_then(|v| v.to_str().ok());
        let head = agent
            .unwrap_or_default()
            .split('/')
            .next()
            .unwrap_or_default();
        head.chars().take(options::MANAGER_MAX).collect()
    }
}

/// Whether a name may be one of an object that is asked for: none that means something else in a path,
/// in upstream's words.
pub fn check_name(name: &str) -> Result<(), Status> {
    let wrong = api::names::is_path_segment_name(name);
    if wrong.is_empty() {
        return Ok(());
    }
    let why = wrong.join(";");
    Err(Status::bad_request(format!(
        "Name parameter invalid: {name:?}: {why}"
    )))
}
