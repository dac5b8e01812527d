//! The course of a small storm: what was drawn is made, things happen, all is whole again, what is
//! wanted comes to be, and nothing is left in the end.

use std::time::Duration;

use kube::api::DeleteParams;
use rand::RngExt;
use serde_json::json;
use sim::{Cluster, Failed};

use crate::common::Admin;
use crate::deeds::{Story, ward};
use crate::drawn::Storm;
use crate::outcome::Looks;

/// Longest that it may take, in virtual time, until all is as wanted once all is whole: what crashes
/// waits for five minutes, and what a quota refuses is asked for again after less than seventeen.
const MOST: Duration = Duration::from_secs(1_200);

/// Longest that all of it may take: what people ask for is refused over and over then.
const LONGEST: Duration = Duration::from_secs(3 * 3_600);

pub async fn story(cluster: &Cluster, storm: Storm) -> Result<(), Failed> {
    tokio::select! {
        biased;
        failed = ward(cluster) => Err(failed),
        done = course(cluster, storm) => done,
        () = tokio::time::sleep(LONGEST) => Err(Failed(format!("no end after {LONGEST:?}"))),
    }
}

async fn course(cluster: &Cluster, storm: Storm) -> Result<(), Failed> {
    let admin = Admin {
        client: cluster.admin().clone(),
    };
    let mut story = Story {
        cluster,
        admin,
        storm,
        random: cluster.random().clone(),
    };
    begin(&story).await;
    for _ in 0..story.storm.deeds {
        let most = story.storm.pause_millis;
        let pause = story.random.random_range(50..most);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        story.happen().await?;
    }
    story.calm_down().await?;
    let looks = Looks { story: &story };
    looks.until("as wanted", MOST, Looks::lacking).await?;
    end(&story).await;
    looks.until("nothing is left", MOST, Looks::left).await
}

async fn begin(story: &Story<'_>) {
    let admin = &story.admin;
    let urgent = json!({ "metadata": { "name": "urgent" }, "value": 1_000 });
    admin.create("PriorityClass", urgent).await;
    let settings = json!({ "metadata": { "name": "settings" }, "data": { "a": "1" } });
    admin.create("ConfigMap", settings).await;
    if let Some(quota) = &story.storm.quota {
        admin.create("ResourceQuota", quota.clone()).await;
    }
    if let Some(budget) = &story.storm.budget {
        admin.create("PodDisruptionBudget", budget.clone()).await;
    }
    for (name, work) in &story.storm.works {
        story.make(name).await;
        if !work.is_replicated() {
            continue;
        }
        let service = json!({ "metadata": { "name": name },
            "spec": { "selector": { "app": name }, "ports": [{ "port": 80 }] } });
        admin.create("Service", service).await;
        // It goes with its owner, and not before.
        if let Some(owner) = admin.get(work.kind, name).await {
            let uid = owner.metadata.uid.unwrap_or_default();
            let owned = json!({ "metadata": { "name": format!("of-{name}"), "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": work.kind, "name": name, "uid": uid }] } });
            admin.create("ConfigMap", owned).await;
        }
    }
}

async fn end(story: &Story<'_>) {
    for (at, (name, work)) in story.storm.works.iter().enumerate() {
        let params = match at % 2 {
            0 => DeleteParams::background(),
            _ => DeleteParams::foreground(),
        };
        story.admin.delete(work.kind, name, &params).await;
        story
            .admin
            .delete("Service", name, &DeleteParams::default())
            .await;
    }
}
