//! CronJobs in a pretended cluster.

use control::Plan;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::plan::{Observed, plan, wait_of};
use crate::testing::{World, merge};

struct Crons {
    world: World,
    wake: Option<u64>,
}

fn millis(time: &str) -> i64 {
    time.parse::<Timestamp>().unwrap().as_millisecond()
}

impl Crons {
    fn new(spec: Value) -> Self {
        let mut cron = json!({
            "metadata": { "name": "c", "creationTimestamp": "2024-05-01T10:00:30Z" },
            "spec": { "schedule": "*/5 * * * *", "concurrencyPolicy": "Allow", "suspend": false,
                "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1,
                "jobTemplate": { "metadata": { "labels": { "a": "b" } },
                    "spec": { "template": { "spec": { "containers": [] } } } } },
        });
        merge(&mut cron["spec"], &spec);
        let mut world = World::new();
        world.put("CronJob", cron);
        Self { world, wake: None }
    }

    fn at(&mut self, time: &str) -> Vec<String> {
        self.world.now_millis = millis(time);
        self.settle()
    }

    fn plan(&self) -> Plan {
        let seen = Observed {
            cron: self.world.one("CronJob", "c"),
            jobs: self.world.all("Job"),
        };
        plan(&seen, self.world.now_millis)
    }

    fn settle(&mut self) -> Vec<String> {
        for _ in 0..5 {
            let plan = self.plan();
            self.wake = plan.wake_after_millis;
            self.world.apply(plan);
        }
        let mut done = self.world.done();
        done.retain(|l| l.contains(" Job/"));
        done
    }

    fn end(&mut self, job: &str, how: &str) {
        let now = crate::common::time_text(self.world.now_millis);
        self.world.at("Job", job)["status"] = json!({ "startTime": now, "completionTime": now,
            "conditions": [{ "type": how, "status": "True" }] });
    }

    fn status(&self) -> Value {
        self.world.objects[&("CronJob".to_owned(), "c".to_owned())]["status"].clone()
    }

    fn name(time: &str) -> String {
        format!("c-{}", millis(time) / 60_000)
    }
}

#[test]
fn each_time_has_one_job() {
    let mut c = Crons::new(json!({}));
    assert_eq!(c.at("2024-05-01T10:03:00Z"), Vec::<String>::new());
    assert_eq!(c.wake, Some(120_100));
    let first = Crons::name("2024-05-01T10:05:00Z");
    assert_eq!(
        c.at("2024-05-01T10:05:00.1Z"),
        [format!("Create Job/{first}")]
    );
    let job = c.world.at("Job", &first).clone();
    assert_eq!(job["metadata"]["labels"], json!({ "a": "b" }));
    assert_eq!(
        job["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"],
        "2024-05-01T10:05:00Z"
    );
    assert_eq!(c.status()["active"][0]["name"], first);
    assert_eq!(c.status()["lastScheduleTime"], "2024-05-01T10:05:00Z");
    assert_eq!(c.at("2024-05-01T10:07:00Z"), Vec::<String>::new());
    // Jobs run side by side, and what ended is no longer active.
    c.at("2024-05-01T10:10:00.1Z");
    assert_eq!(c.status()["active"].as_array().unwrap().len(), 2);
    c.end(&first, "Complete");
    c.at("2024-05-01T10:11:00Z");
    assert_eq!(c.status()["active"].as_array().unwrap().len(), 1);
    assert!(c.status()["lastSuccessfulTime"].is_string());
    // One that is gone is forgotten, and not made again.
    let second = Crons::name("2024-05-01T10:10:00Z");
    c.world.objects.remove(&("Job".into(), second));
    assert_eq!(c.at("2024-05-01T10:12:00Z"), Vec::<String>::new());
    assert!(c.status()["active"].is_null());
}

#[test]
fn policies_for_jobs_that_still_run() {
    for (policy, jobs) in [("Allow", 2), ("Forbid", 1), ("Replace", 1)] {
        let mut c = Crons::new(json!({ "concurrencyPolicy": policy }));
        c.at("2024-05-01T10:05:00.1Z");
        c.at("2024-05-01T10:10:00.1Z");
        assert_eq!(c.world.names("Job").len(), jobs, "{policy}");
        let last = Crons::name("2024-05-01T10:10:00Z");
        assert_eq!(c.world.names("Job").contains(&last), policy != "Forbid");
        assert_eq!(c.status()["active"].as_array().unwrap().len(), jobs);
    }
    // What replaces another is made, and the other forgotten, once that was deleted.
    let mut c = Crons::new(json!({ "concurrencyPolicy": "Replace" }));
    c.at("2024-05-01T10:05:00.1Z");
    c.world.now_millis = millis("2024-05-01T10:10:00.1Z");
    let plan = c.plan();
    let stages = (plan.actions.len(), plan.then.len(), plan.last.len());
    assert_eq!(stages, (1, 2, 0), "{plan:?}");
    // What was forbidden is made up for when the one before has ended.
    let mut c = Crons::new(json!({ "concurrencyPolicy": "Forbid" }));
    c.at("2024-05-01T10:05:00.1Z");
    c.at("2024-05-01T10:10:00.1Z");
    c.end(&Crons::name("2024-05-01T10:05:00Z"), "Complete");
    let made = c.at("2024-05-01T10:11:00Z");
    assert_eq!(
        made,
        [format!(
            "Create Job/{}",
            Crons::name("2024-05-01T10:10:00Z")
        )]
    );
}

#[test]
fn of_missed_times_the_last_is_made_up_for() {
    let mut c = Crons::new(json!({}));
    let made = c.at("2024-05-01T12:33:00Z");
    assert_eq!(
        made,
        [format!(
            "Create Job/{}",
            Crons::name("2024-05-01T12:30:00Z")
        )]
    );
    let mut c = Crons::new(json!({ "startingDeadlineSeconds": 60 }));
    assert_eq!(c.at("2024-05-01T12:33:00Z"), Vec::<String>::new());
    assert_eq!(c.at("2024-05-01T12:35:59Z").len(), 1);
    // Years, without counting them one by one.
    let mut c = Crons::new(json!({ "schedule": "30 6-16/4 * * 1-5" }));
    let made = c.at("2034-05-01T12:33:00Z");
    assert_eq!(
        made,
        [format!(
            "Create Job/{}",
            Crons::name("2034-05-01T10:30:00Z")
        )]
    );
}

#[test]
fn every_so_often_and_in_a_zone() {
    let mut c = Crons::new(json!({ "schedule": "@every 90s" }));
    c.at("2024-05-01T10:02:10Z");
    assert_eq!(c.status()["lastScheduleTime"], "2024-05-01T10:02:00Z");
    let mut c = Crons::new(json!({ "schedule": "0 9 * * *", "timeZone": "Asia/Tokyo" }));
    let made = c.at("2024-05-02T00:00:01Z");
    let name = Crons::name("2024-05-02T00:00:00Z");
    assert_eq!(made, [format!("Create Job/{name}")]);
    let stamp = &c.world.at("Job", &name)["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"];
    assert_eq!(*stamp, "2024-05-02T09:00:00+09:00");
}

#[test]
fn suspended_or_wrong_it_starts_nothing() {
    for spec in [
        json!({ "suspend": true }),
        json!({ "timeZone": "No/Where" }),
        json!({ "schedule": "x" }),
        json!({ "schedule": "0 0 31 2 *" }),
    ] {
        let mut c = Crons::new(spec.clone());
        assert_eq!(c.at("2024-05-01T10:33:00Z"), Vec::<String>::new(), "{spec}");
        assert_eq!(c.wake, None);
    }
}

#[test]
fn history_is_limited() {
    let mut c = Crons::new(json!({ "successfulJobsHistoryLimit": 2, "failedJobsHistoryLimit": 1 }));
    for (minute, how) in [
        ("05", "Complete"),
        ("10", "Failed"),
        ("15", "Complete"),
        ("20", "Failed"),
        ("25", "Complete"),
    ] {
        c.at(&format!("2024-05-01T10:{minute}:00.1Z"));
        c.end(&Crons::name(&format!("2024-05-01T10:{minute}:00Z")), how);
    }
    c.at("2024-05-01T10:26:00Z");
    let left: Vec<_> = ["15", "20", "25"]
        .map(|m| Crons::name(&format!("2024-05-01T10:{m}:00Z")))
        .to_vec();
    assert_eq!(c.world.names("Job"), left);
}

#[test]
fn jobs_that_others_made_are_not_its_own_work() {
    let mut c = Crons::new(json!({}));
    let uid = c.world.at("CronJob", "c")["metadata"]["uid"].clone();
    c.world.put("Job", json!({ "metadata": { "name": "by-hand", "ownerReferences": [
        { "apiVersion": "batch/v1", "kind": "CronJob", "name": "c", "uid": uid, "controller": true }] } }));
    c.at("2024-05-01T10:01:00Z");
    assert!(c.status()["active"].is_null());
    assert_eq!(c.world.names("Job"), ["by-hand"]);
}

#[test]
fn it_is_looked_at_again_when_an_interval_ends() {
    let mut c = Crons::new(json!({ "schedule": "@every 90s" }));
    c.at("2024-05-01T10:02:10Z");
    // Made, and looked at at the same time once more.
    c.at("2024-05-01T10:02:10Z");
    assert_eq!(c.wake, Some(80_100));
    let made = c.at("2024-05-01T10:03:30.1Z");
    let name = Crons::name("2024-05-01T10:03:30Z");
    assert_eq!(made, [format!("Create Job/{name}")]);
}

#[test]
fn a_zone_in_the_schedule_is_warned_of() {
    for (schedule, warned) in [("TZ=Asia/Tokyo 0 9 * * *", true), ("0 9 * * *", false)] {
        let c = Crons::new(json!({ "schedule": schedule, "timeZone": "America/New_York" }));
        let is_it = |a: &control::action::Action| matches!(a, control::action::Action::Event { reason, .. } if *reason == "UnsupportedSchedule");
        assert_eq!(c.plan().last.iter().any(is_it), warned, "{schedule}");
    }
}

#[test]
fn a_new_schedule_makes_up_for_nothing() {
    let now = millis("2016-05-19T09:59:59Z");
    let cron = |uid: &str, spec: Value| {
        let mut all =
            json!({ "schedule": "30 * * * *", "jobTemplate": { "spec": { "template": {} } } });
        merge(&mut all, &spec);
        let cron = json!({ "metadata": { "name": "c", "uid": uid }, "spec": all,
            "status": { "lastScheduleTime": "2016-05-19T09:59:00Z" } });
        Some(std::sync::Arc::new(serde_json::from_value(cron).unwrap()))
    };
    let every = |minutes: i32| json!({ "schedule": format!("@every {minutes}m") });
    for (old, new, wait) in [
        (json!({}), json!({ "suspend": true }), 0),
        (json!({}), json!({ "schedule": "*/1 * * * *" }), 1_100),
        (every(1), every(3), 121_100),
        (every(3), every(1), 1_100),
        (json!({}), json!({ "timeZone": "Asia/Kolkata" }), 1_100),
        (json!({}), json!({ "schedule": "x" }), 0),
    ] {
        let change = client::Change {
            old: cron("u", old.clone()),
            new: cron("u", new.clone()),
        };
        let found = wait_of(&change, now).as_millis();
        assert_eq!(found, wait, "{old} {new}");
    }
    for (old, new) in [
        (None, cron("u", every(3))),
        (cron("u", json!({})), None),
        (cron("u", json!({})), cron("v", every(3))),
    ] {
        assert!(wait_of(&client::Change { old, new }, now).is_zero());
    }
}
