//! What judges a write: the plugins of admission, in their two steps, and what the kind's own
//! rules may know. What either relies on is compared when the write is committed.

use std::collections::BTreeMap;

use api::Status;
use registry::Context;
use serde_json::Value;
use store::Compare;

use crate::admission::{self, Found, Need, Operation, Review};
use crate::call::Call;
use crate::state::State;

/// The admission of one write.
pub struct Admission<'a> {
    call: &'a Call,
    operation: Operation,
    subresource: &'a str,
    name: &'a str,
    dry_run: bool,
    found: Found,
    relied: Vec<Compare>,
}

impl<'a> Admission<'a> {
    pub fn new(
        call: &'a Call,
        operation: Operation,
        subresource: &'a str,
        name: &'a str,
        dry_run: bool,
    ) -> Self {
        Self {
            call,
            operation,
            subresource,
            name,
            dry_run,
            found: Found::new(),
            relied: Vec::new(),
        }
    }

    /// What the kind's own rules may know, and the comparisons that keep true until the commit
    /// what they and the plugins rely on. Asked for once the plugins have changed the object.
    pub fn context(
        &mut self,
        object: &Value,
        old: Option<&Value>,
        subresource: &'a str,
    ) -> (Context<'a>, Vec<Compare>) {
        let call = self.call;
        let (mut read, mut compare) = (BTreeMap::new(), std::mem::take(&mut self.relied));
        for r in call.row.strategy.reads(object, old) {
            let Some(row) = call.kinds.resource(&r.group, &r.resource) else {
                continue;
            };
            let key = row.key(&r.namespace, &r.name);
            let found = call.server.cache().of(row).and_then(|c| c.get(&key));
            let revision = found.as_ref().map_or(0, |o| o.revision);
            compare.push(Compare::ModRevision(State::store_key(row, &key), revision));
            if let Some(o) = found {
                read.insert(r.label, o.to_value());
            }
        }
        let context = Context {
            now: call.server.now(),
            namespace: &call.info.namespace,
            user: &call.user.name,
            groups: &call.user.groups,
            read,
            subresource,
            dry_run: self.dry_run,
        };
        (context, compare)
    }

    /// Reads what the plugins need, once for both steps.
    async fn fetch(&mut self, needs: Vec<Need>) {
        for Need { read, relied } in needs {
            let server = &self.call.server;
            let (group, resource) = (&read.group, &read.resource);
            let found = server
                .fresh(group, resource, &read.namespace, &read.name)
                .await;
            if relied && let Some(row) = self.call.kinds.resource(group, resource) {
                let key = row.key(&read.namespace, &read.name);
                let revision = found.as_ref().map_or(0, |o| o.revision);
                let key = State::store_key(row, &key);
                self.relied.push(Compare::ModRevision(key, revision));
            }
            if let Some(object) = found {
                self.found.insert(read.label, object);
            }
        }
    }

    /// The plugins may change the object.
    pub async fn mutate(
        &mut self,
        object: Option<&mut Value>,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        self.run(object, old, false).await
    }

    /// The plugins may refuse it; they see it as it will be stored.
    pub async fn validate(
        &mut self,
        object: Option<&mut Value>,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        self.run(object, old, true).await
    }

    /// Runs one step; `validating` chooses which.
    async fn run(
        &mut self,
        object: Option<&mut Value>,
        old: Option<&Value>,
        validating: bool,
    ) -> Result<(), Status> {
        let call = self.call;
        let plugins = &call.plugins.admission;
        if plugins.is_empty() {
            return Ok(());
        }
        if !validating {
            let (row, operation) = (&call.row, self.operation);
            let asked = plugins
                .iter()
                .filter(|p| p.handles(operation, row, self.subresource))
                .flat_map(|p| p.needs(operation, row, &call.info.namespace));
            self.fetch(asked.collect()).await;
        }
        let mut warnings = Vec::new();
        let mut review = Review {
            operation: self.operation,
            row: &call.row,
            version: &call.version.version,
            subresource: self.subresource,
            namespace: &call.info.namespace,
            name: self.name,
            user: &call.user,
            dry_run: self.dry_run,
            object,
            old,
            found: &self.found,
            warnings: &mut warnings,
        };
        let done = if validating {
            admission::validate(plugins, &call.server, &mut review).await
        } else {
            admission::mutate(plugins, &call.server, &mut review).await
        };
        warnings.into_iter().for_each(|w| call.warn(w));
        done
    }
}
