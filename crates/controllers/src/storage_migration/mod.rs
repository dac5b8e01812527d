//! StorageVersionMigration: everything of a resource is stored again, in the version and by the key in
//! which it is stored now, so that older ones can go. The kind is served where somebody asks for it, and
//! watched there.

pub mod plan;

use std::collections::HashMap;

use client::discovery::Discovery;
use client::{Informers, ServedKinds};
use clock::Random;
use control::action::Target;
use control::{Controller, Plan, Watches};
use kube::Client;
use kube::api::{Api, ListParams};
use kube::core::DynamicObject;
use parking_lot::Mutex;
use serde_json::Value;

use crate::common::value_of;
use crate::scales::name_of;
use crate::served_later;
use plan::{Item, Observed, Of, bound, has_ended, is_done, is_its_turn};

/// Objects of one answer.
const PAGE: u32 = 500;

/// Migrates.
pub struct Migrations {
    client: Client,
    random: Random,
    served: ServedKinds,
    discovery: Discovery,
    failures: Mutex<HashMap<String, String>>,
}

impl Migrations {
    /// `client` acts as [`Controller::ACCOUNT`].
    pub fn new(informers: &Informers, client: Client) -> Self {
        Self {
            served: informers.served(),
            discovery: Discovery::new(client.clone()),
            client,
            random: informers.random().clone(),
            failures: Mutex::default(),
        }
    }

    /// What a migration is about.
    async fn of(&self, client: &Client, migration: &Value) -> Result<Of, kube::Error> {
        let asked = |field: &str| migration["spec"]["resource"][field].as_str();
        let group = asked("group").unwrap_or_default();
        let plural = asked("resource").unwrap_or_default();
        let found = match self.discovery.ask().await {
            Ok(found) => found,
            Err(e) => return Err(kube::Error::Service(Box::new(e))),
        };
        let Some(served) = found.served.iter().find(|s| s.is(group, plural)) else {
            return Ok(Of::Nothing);
        };
        let resource = served.resource.clone();
        if !["list", "patch"].iter().all(|verb| served.can(verb)) {
            let name = name_of(&resource);
            return Ok(Of::Unfit(format!(
                "resource {name:?} cannot be listed and patched"
            )));
        }
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let runs = bound(migration).is_some();
        let (mut items, mut newest, mut next) = (Vec::new(), 0, None);
        loop {
            let mut params = ListParams::default().limit(if runs { PAGE } else { 1 });
            params.continue_token = next;
            let page = api.list_metadata(&params).await?;
            newest = number(page.metadata.resource_version.as_deref()).max(newest);
            if !runs {
                break;
            }
            items.extend(page.items.into_iter().map(|one| Item {
                version: number(one.metadata.resource_version.as_deref()),
                namespace: one.metadata.namespace.unwrap_or_default(),
                name: one.metadata.name.unwrap_or_default(),
                uid: one.metadata.uid.unwrap_or_default(),
            }));
            next = page.metadata.continue_.filter(|token| !token.is_empty());
            if next.is_none() {
                break;
            }
        }
        Ok(Of::Served {
            resource,
            newest,
            items,
        })
    }
}

fn number(version: Option<&str>) -> u64 {
    version.and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// The definition of what a migration is about; none where that is built in.
async fn definition(client: &Client, migration: &Value) -> Result<Option<Value>, kube::Error> {
    let asked = &migration["spec"]["resource"];
    let part = |field: &str| asked[field].as_str().unwrap_or_default();
    let (group, plural) = (part("group"), part("resource"));
    // Groups without a dot are built in.
    if !group.contains('.') {
        return Ok(None);
    }
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &plan::definitions());
    let found = api.get_opt(&format!("{plural}.{group}")).await?;
    Ok(found.map(|one| value_of(&one)))
}

/// Whether an object could be written another time.
fn may_pass(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => matches!(status.code, 409 | 429 | 500..),
        _ => true,
    }
}

impl Controller for Migrations {
    const NAME: &'static str = "storage-version-migrator-controller";
    const QUEUE: &'static str = "storage_version_migrator";
    const ACCOUNT: &'static str = "storage-version-migrator-controller";
    type Key = String;
    /// The name of a migration until it was asked for; then what is known.
    type Observed = Result<Observed, String>;

    fn watches(&self, watches: &mut Watches<String>) {
        let (random, served) = (self.random.clone(), self.served.clone());
        let resource = plan::resource();
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        watches.feed(|keys| {
            served_later::each(api, resource, random, served, move |one| {
                if !is_done(&value_of(&one)) {
                    keys.add(one.metadata.name);
                }
            })
        });
    }

    fn observe(&self, name: &String) -> Option<Self::Observed> {
        Some(Err(name.clone()))
    }

    async fn gather(
        &self,
        client: &Client,
        seen: Self::Observed,
    ) -> Result<Self::Observed, kube::Error> {
        let Err(name) = seen else { return Ok(seen) };
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &plan::resource());
        let failure = self.failures.lock().remove(&name);
        // There are few of them, and others of the same resource may come first.
        let all = match api.list(&ListParams::default()).await {
            // The kind is not served any more.
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Err(name)),
            listed => listed?.items,
        };
        let all: Vec<Value> = all.iter().map(value_of).collect();
        let found = all.iter().find(|one| one["metadata"]["name"] == *name);
        let Some(migration) = found.filter(|one| !is_done(one)).cloned() else {
            return Ok(Err(name));
        };
        let is_its_turn = is_its_turn(&migration, &all);
        let of = match has_ended(&migration) || !is_its_turn {
            true => Of::Nothing,
            false => self.of(client, &migration).await?,
        };
        let definition = definition(client, &migration).await?;
        Ok(Ok(Observed {
            migration,
            is_its_turn,
            definition,
            of,
            failure,
        }))
    }

    fn plan(&self, seen: &Self::Observed, now_millis: i64) -> Plan {
        match seen {
            Ok(seen) => plan::plan(seen, now_millis),
            Err(_) => Plan::nothing(),
        }
    }

    fn failed(&self, key: &String, target: &Target, error: &kube::Error) {
        if target.resource != plan::resource() && !may_pass(error) {
            let mut all = self.failures.lock();
            all.entry(key.clone())
                .or_insert_with(|| client::said(error));
        }
    }

    fn workers(&self) -> usize {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_tried_again() {
        let error = |code: u16| {
            let status = serde_json::json!({ "code": code, "message": "m" });
            kube::Error::Api(serde_json::from_value(status).unwrap())
        };
        for (code, passes) in [
            (409, true),
            (429, true),
            (503, true),
            (422, false),
            (403, false),
        ] {
            assert_eq!(may_pass(&error(code)), passes, "{code}");
        }
    }
}
