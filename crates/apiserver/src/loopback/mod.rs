//! What the server writes itself, as a client of its own verbs: the objects that a cluster starts
//! with, its endpoints, what it publishes, uses of tokens.

pub mod addresses;
pub mod bootstrap;
mod bootstrap_policy;
pub mod conversion;
pub mod definitions;
pub mod endpoints;
mod events;
pub mod flow_control;
pub mod identity;
pub mod published;
pub mod service_range;
pub mod token_uses;

use std::sync::Arc;
use std::time::Duration;

use api::Status;
use serde_json::Value;

use crate::cache::Object;
use crate::call::Call;
use crate::filters::authn::{MASTERS, UserInfo};
use crate::hooks::Plugins;
use crate::http::negotiate::Accept;
use crate::http::request::RequestInfo;
use crate::object::meta_text;
use crate::state::State;
use crate::verbs::create::create_value;
use crate::verbs::decode::to_storage;
use crate::verbs::update::change;

/// The server as a client of itself: past authentication and authorization, not past admission.
#[derive(Clone)]
pub struct Loopback {
    pub state: State,
    pub plugins: Arc<Plugins>,
}

impl Loopback {
    /// Waits between two turns of what is kept up; false if the server stops meanwhile.
    pub async fn goes_on_after(&self, time: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.state.stop().cancelled() => false,
            () = tokio::time::sleep(time) => true,
        }
    }

    /// Creates an object.
    pub async fn create(
        &self,
        group: &str,
        resource: &str,
        object: Value,
    ) -> Result<Arc<Object>, Status> {
        let call = self.call(group, resource, meta_text(&object, "namespace"))?;
        self.create_by(&call, object).await
    }

    /// [`Loopback::create`] by a call that was changed.
    pub async fn create_by(&self, call: &Call, object: Value) -> Result<Arc<Object>, Status> {
        let object = to_storage(call, object);
        create_value(call, object, false, None).await
    }

    /// Changes the object, or the subresource, that a call is about; see [`Loopback::change`].
    pub async fn change_by(
        &self,
        call: &Call,
        mut make: impl FnMut(&Value) -> Value + Send,
    ) -> Result<Arc<Object>, Status> {
        let (name, subresource) = (&call.info.name, &call.info.subresource);
        change(call, name, subresource, false, |_, old| Ok(make(old))).await
    }

    /// An object as it would be stored: in the storage version, with defaults.
    pub fn as_stored(&self, group: &str, resource: &str, object: Value) -> Result<Value, Status> {
        let call = self.call(group, resource, meta_text(&object, "namespace"))?;
        Ok(to_storage(&call, object))
    }

    /// A call in the server's own name, to create.
    fn call(&self, group: &str, resource: &str, namespace: &str) -> Result<Call, Status> {
        let kinds = self.state.kinds();
        let row = kinds
            .resource(group, resource)
            .ok_or_else(Status::no_such_path)?
            .clone();
        let version = row.version(&row.storage_version).or(row.versions.first());
        let version = version.ok_or_else(Status::no_such_path)?.clone();
        let info = Arc::new(RequestInfo {
            is_resource: true,
            verb: "create".into(),
            group: group.into(),
            version: version.version.to_string(),
            resource: resource.into(),
            namespace: namespace.into(),
            ..RequestInfo::default()
        });
        let mut headers = http::HeaderMap::new();
        headers.insert(
            http::header::USER_AGENT,
            http::HeaderValue::from_static("tiphys-apiserver"),
        );
        Ok(Call {
            state: self.state.clone(),
            plugins: self.plugins.clone(),
            info,
            query: Default::default(),
            user: UserInfo::new("system:apiserver", &[MASTERS]),
            headers,
            accept: Accept::json(),
            kinds,
            row,
            version,
            fence: None,
            warnings: Default::default(),
            audit: Default::default(),
        })
    }

    /// A call in the server's own name for an object.
    pub fn call_of(
        &self,
        verb: &str,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Call, Status> {
        let mut call = self.call(group, resource, namespace)?;
        let info = call.info_mut();
        (info.verb, info.name) = (verb.into(), name.into());
        Ok(call)
    }

    /// [`Loopback::change`] of the status of an object that is in no namespace.
    pub async fn change_status(
        &self,
        group: &str,
        resource: &str,
        name: &str,
        mut make: impl FnMut(&Value) -> Value + Send,
    ) -> Result<Arc<Object>, Status> {
        let mut call = self.call_of("update", group, resource, "", name)?;
        call.info_mut().subresource = "status".into();
        change(&call, name, "status", false, |_, old| Ok(make(old))).await
    }

    /// Changes an object: `make` gets its value (storage version) and gives the new one; it runs
    /// again when the write raced with another.
    pub async fn change(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
        mut make: impl FnMut(&Value) -> Value + Send,
    ) -> Result<Arc<Object>, Status> {
        let mut call = self.call(group, resource, namespace)?;
        call.info_mut().verb = "update".into();
        call.info_mut().name = name.into();
        change(&call, name, "", false, |_, old| Ok(make(old))).await
    }
}
