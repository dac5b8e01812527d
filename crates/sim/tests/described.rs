//! Clusters that a file describes: what is wrong with a file is said by field and line, the same file
//! gives the same report, and what does not fit is named with its reason.
#![expect(clippy::expect_used, reason = "a test may panic")]

use sim::described::{Description, Report, simulate};

fn play(text: &str) -> Report {
    let description = Description::read(text).expect("a description");
    simulate(&description).expect("a report")
}

fn refused(text: &str) -> String {
    let description = match Description::read(text) {
        Ok(description) => description,
        Err(e) => return e.to_string(),
    };
    match simulate(&description) {
        Ok(_) => panic!("{text} is played"),
        Err(e) => e.to_string(),
    }
}

const NODES: &str = "
nodes:
- { name: n, count: 2, capacity: { cpu: '4', memory: 8Gi, pods: '20' }, zones: [a, b] }
";

fn deployment(name: &str, replicas: u32, cpu: &str) -> String {
    format!(
        "{{ apiVersion: apps/v1, kind: Deployment, metadata: {{ name: {name} }}, spec: {{ \
         replicas: {replicas}, selector: {{ matchLabels: {{ app: {name} }} }}, \
         template: {{ metadata: {{ labels: {{ app: {name} }} }}, spec: {{ \
         terminationGracePeriodSeconds: 5, containers: [{{ name: c, image: i, resources: {{ \
         requests: {{ cpu: {cpu} }} }} }}] }} }} }} }}"
    )
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_place() {
    let event = |event: &str| format!("{NODES}\nevents:\n- {event}\n");
    let pod = "{ apiVersion: v1, kind: Pod, metadata: { name: p } }";
    let mut wrong = Vec::new();
    for (text, told) in [
        ("nodes: [".to_owned(), "at line 2 column 1"),
        (
            format!("{NODES}\nduratoin: 5m\n"),
            "unknown field `duratoin`",
        ),
        (
            format!("{NODES}\nduration: soon\n"),
            "\"soon\" is not a length of time, such as 90s or 1h30m, at line",
        ),
        (
            format!("{NODES}\nduration: 0s\n"),
            "duration: must be longer",
        ),
        (
            format!("{NODES}\nsampleEvery: 1us\n"),
            "sampleEvery: the cluster would be looked at",
        ),
        ("duration: 5m".to_owned(), "nodes: there is none"),
        (
            "nodes:\n- { name: n, count: 1, capacity: { cpu: '4', memory: 8Gii } }".to_owned(),
            "nodes[0].capacity: unable to parse quantity's suffix at line 2",
        ),
        (
            "nodes:\n- { name: n, count: 1, capacity: { cpu: '4', memory: 8Gi } }".to_owned(),
            "nodes[0].capacity: pods is missing",
        ),
        (
            "nodes:\n- { name: n, count: 90000, capacity: { cpu: 4, memory: 8Gi, pods: 1 } }"
                .to_owned(),
            "90000 are more than 20000",
        ),
        (
            "nodes:\n- { name: N_, count: 1, capacity: { cpu: 4, memory: 8Gi, pods: 1 } }"
                .to_owned(),
            "nodes[0]: Node \"N_-0\" is invalid: [metadata.name",
        ),
        (
            format!("{NODES}\nstart: 1926-01-01T00:00:00Z\n"),
            "start: must be in the years 2000 to 2199 at line 5 column 8",
        ),
        (
            event("{ at: 1m, every: 1us, times: 4000000000, add: { pool: n, count: 1 } }"),
            "nodes: 100003 are more than 20000",
        ),
        (event("{ at: 1m }"), "events[0]: must have exactly one of"),
        (
            event("{ at: 2h, fail: { nodes: [n-0] } }"),
            "events[0]: it, or its last time, is after",
        ),
        (
            event("{ at: 1m, times: 3, fail: { nodes: [n-0] } }"),
            "events[0]: every and times",
        ),
        (
            event("{ at: 1m, fail: { pool: m } }"),
            "events[0].fail.pool: there is no pool \"m\"",
        ),
        (event("{ at: 1m, fail: {} }"), "events[0].fail: say which"),
        (
            event("{ at: 1m, fail: { zone: c } }"),
            "events[0].fail.zone: no node is in zone \"c\" at line 6 column 27",
        ),
        (
            event("{ at: 1m, load: { selector: { app: web } } }"),
            "events[0].load: say how much: cpu, memory or both",
        ),
        (
            event("{ at: 1m, add: { pool: n, count: 0 } }"),
            "events[0].add.count: must be at least 1",
        ),
        ("null".to_owned(), "expected the description of a cluster"),
        (
            format!("{NODES}\nduration: -5m\n"),
            "duration: \"-5m\" is not a length of time, such as 90s or 1h30m, at line 5 column 11",
        ),
        (
            "nodes:\n- { name: n, count: 1, capacity: {}, taints: [{ key: a, efect: NoExecute }] }"
                .to_owned(),
            "unknown field `efect`",
        ),
        (
            format!(
                "{NODES}\nobjects:\n- {}\n",
                deployment("w", 2, "'1'").replace("replicas", "replcias")
            ),
            "unknown field \"spec.replcias\"",
        ),
        (
            format!(
                "{NODES}\nobjects:\n- {}\n",
                deployment("w", 2, "'1'").replace("replicas: 2", "replicas: 2, replicas: 3")
            ),
            "duplicate entry with key \"replicas\"",
        ),
        (
            format!("{NODES}\nfeatureGates: [Gangs=true]\n"),
            "featureGates: unrecognized feature gate: Gangs at line 5",
        ),
        (
            event("{ at: 1m, perHour: 0, fail: { pool: n } }"),
            "events[0].perHour: must be a number above 0",
        ),
        (
            event("{ at: 1m, until: 2m, fail: { pool: n } }"),
            "events[0].until: goes with perHour alone",
        ),
        (
            event("{ at: 1m, perHour: 1, until: 2h, fail: { pool: n } }"),
            "events[0]: it, or its last time, is after",
        ),
        (
            event("{ at: 1m, perHour: 900000000, fail: { pool: n } }"),
            "events: 100001 times are more than 100000",
        ),
        (
            event("{ at: 1m, fail: { pool: n }, lasts: { exponential: 1m, uniform: [1m, 2m] } }"),
            "events[0].lasts: must have exactly one of",
        ),
        (
            event("{ at: 1m, fail: { pool: n }, runsFor: { exponential: 1m } }"),
            "events[0].runsFor: goes with create alone",
        ),
        (
            event("{ at: 1m, fail: { nodes: [m] } }"),
            "events[0].fail.nodes: there is no node \"m\"",
        ),
        (
            event("{ at: 1m, create: { kind: Pod } }"),
            "events[0].create.apiVersion: is missing",
        ),
        (
            event(&format!("{{ at: 1m, create: {pod} }}")),
            "events[0].create: Pod p: ",
        ),
        (
            event("{ at: 1m, scale: { kind: Deployment, name: web, replicas: 3 } }"),
            "events[0].scale: Deployment web: ",
        ),
        (
            format!(
                "{NODES}\nobjects:\n- {{ apiVersion: v9, kind: Thing, metadata: {{ name: t }} }}\n"
            ),
            "objects[0]: no kind Thing in v9 is served at line 6 column 3",
        ),
    ] {
        let said = refused(&text);
        if !said.contains(told) {
            wrong.push(format!("{said:?}, not {told:?}, of {text}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// More than a number holds is as much as it holds.
#[test]
fn nodes_may_have_more_than_can_be_counted() {
    let nodes = NODES.replace("memory: 8Gi", "memory: 7E");
    let report = play(&format!("{nodes}\nduration: 1m\n"));
    let last = report.samples.last().expect("samples");
    assert_eq!(last.memory_allocatable_bytes, i64::MAX);
}

#[test]
fn what_does_not_fit_is_named_with_its_reason() {
    let web = deployment("web", 10, "'1'");
    let big = deployment("big", 1, "'9'");
    let report = play(&format!(
        "{NODES}\nduration: 5m\nobjects:\n- {web}\n- {big}\n"
    ));
    let web = report
        .pending
        .iter()
        .find(|p| p.owner == "Deployment/web")
        .expect("pending");
    assert_eq!((web.pods, web.namespace.as_str()), (2, "default"));
    assert!(web.cause.contains("Insufficient cpu"), "{}", web.cause);
    let big = report
        .pending
        .iter()
        .find(|p| p.owner == "Deployment/big")
        .expect("pending");
    assert!(
        big.change.as_ref().is_some_and(|c| c.contains("cpu")),
        "{big:?}"
    );
    let last = report.samples.last().expect("samples");
    assert_eq!((last.running, last.pending), (8, 3));
    assert_eq!(
        (last.cpu_requested_millis, last.cpu_allocatable_millis),
        (8_000, 8_000)
    );
    let web = report
        .workloads
        .iter()
        .find(|w| w.name == "web")
        .expect("web");
    assert_eq!((web.kind, web.ready, web.wanted), ("Deployment", 8, 10));
}

#[test]
fn pods_leave_nodes_that_fail_and_those_that_are_drained() {
    let web = deployment("web", 6, "500m");
    let report = play(&format!(
        "{NODES}
duration: 40m
sampleEvery: 1m
objects: [{web}]
events:
- {{ at: 5m, fail: {{ nodes: [n-0] }} }}
- {{ at: 20m, restore: {{ nodes: [n-0] }} }}
- {{ at: 30m, drain: {{ nodes: [n-1] }} }}
- {{ at: 35m, add: {{ pool: n, count: 2 }} }}
"
    ));
    let at = |minute: u64| {
        let found = report.samples.iter().find(|s| s.at_seconds == minute * 60);
        found
            .unwrap_or_else(|| panic!("no sample at {minute}"))
            .clone()
    };
    assert_eq!((at(4).running, at(4).nodes_ready), (6, 2));
    // They are elsewhere before the node is back, and nothing of it is left after.
    assert_eq!((at(7).nodes_ready, at(19).nodes_ready), (1, 1));
    assert!(report.evictions.by_taints >= 1, "{:?}", report.evictions);
    assert_eq!((at(25).running, at(25).nodes_ready), (6, 2));
    // All six were on the node that is drained, or came there.
    assert_eq!((at(34).running, at(39).nodes), (6, 4));
    assert!(report.evictions.by_request >= 1, "{:?}", report.evictions);
    assert_eq!(report.pending, []);
}

/// A node is back before its pods must go: they are ready again, though nothing about them has changed.
#[test]
fn the_pods_of_a_node_that_comes_back_are_ready_again() {
    let web = deployment("web", 6, "500m");
    let report = play(&format!(
        "{NODES}
duration: 15m
sampleEvery: 10s
objects: [{web}]
events:
- {{ at: 5m, fail: {{ nodes: [n-0] }} }}
- {{ at: 370s, restore: {{ nodes: [n-0] }} }}
"
    ));
    // It is taken for failed after 50 s, and its pods stay 30 s longer.
    let at = |seconds: u64| report.samples.iter().find(|s| s.at_seconds == seconds);
    assert_eq!(at(360).map(|s| s.nodes_ready), Some(1));
    assert_eq!(at(420).map(|s| (s.nodes_ready, s.running)), Some((2, 6)));
    assert_eq!(report.evictions.by_taints, 0);
    let web = report.workloads.iter().find(|w| w.name == "web");
    assert_eq!(web.map(|w| (w.ready, w.wanted)), Some((6, 6)));
    assert_eq!(report.pending, []);
}

/// Pods that a quota refuses are not there either; a drain that a budget holds is named, and an
/// autoscaler that learns nothing.
#[test]
fn what_is_refused_and_held_is_said() {
    let web = deployment("web", 5, "'1'").replace("name: web }", "name: web, namespace: team }");
    let api = deployment("api", 2, "500m");
    let report = play(&format!(
        "{NODES}
duration: 10m
objects:
- {{ apiVersion: v1, kind: ResourceQuota, metadata: {{ name: q, namespace: team }}, spec: {{ hard: {{ requests.cpu: '3' }} }} }}
- {web}
- {api}
- apiVersion: policy/v1
  kind: PodDisruptionBudget
  metadata: {{ name: api }}
  spec: {{ minAvailable: 2, selector: {{ matchLabels: {{ app: api }} }} }}
- apiVersion: autoscaling/v2
  kind: HorizontalPodAutoscaler
  metadata: {{ name: api }}
  spec: {{ maxReplicas: 4, scaleTargetRef: {{ apiVersion: apps/v1, kind: Deployment, name: api }} }}
- {{ apiVersion: v1, kind: Pod, metadata: {{ name: alone }}, spec: {{ containers: [{{ name: c, image: i }}] }} }}
events:
- {{ at: 5m, drain: {{ pool: n }} }}
"
    ));
    let of_web = report
        .pending
        .iter()
        .filter(|p| p.owner == "Deployment/web");
    let refused = of_web.clone().find(|p| p.cause.contains("exceeded quota"));
    assert_eq!(refused.map(|p| p.pods), Some(2), "{report:#?}");
    assert_eq!(of_web.map(|p| p.pods).sum::<usize>(), 5);
    let noted = |what: &str| report.notes.iter().any(|n| n.contains(what));
    for what in [
        "has not ended: pod default/api-",
        "pod default/alone was drained, and nothing makes it again",
        "HorizontalPodAutoscaler default/api: it does not know how many pods",
    ] {
        assert!(noted(what), "{what}: {:#?}", report.notes);
    }
}

/// An autoscaler learns what its pods have to do, as kubelets would measure it.
#[test]
fn autoscalers_follow_the_load() {
    let web = deployment("web", 1, "500m");
    let report = play(&format!(
        "{NODES}
duration: 40m
sampleEvery: 1m
objects:
- {web}
- apiVersion: autoscaling/v2
  kind: HorizontalPodAutoscaler
  metadata: {{ name: web }}
  spec:
    minReplicas: 1
    maxReplicas: 10
    scaleTargetRef: {{ apiVersion: apps/v1, kind: Deployment, name: web }}
    metrics:
    - type: Resource
      resource: {{ name: cpu, target: {{ type: Utilization, averageUtilization: 50 }} }}
events:
- {{ at: 1m, load: {{ selector: {{ app: web }}, cpu: '2' }} }}
- {{ at: 15m, load: {{ selector: {{ app: web }}, cpu: 500m }} }}
"
    ));
    let at = |minute: u64| {
        let found = report.samples.iter().find(|s| s.at_seconds == minute * 60);
        found.map(|s| s.running)
    };
    // Half of what they ask for: eight of them have two processors to do, two have a half.
    assert_eq!((at(14), at(39)), (Some(8), Some(2)), "{report:#?}");
    assert_eq!(report.notes, Vec::<String>::new());
}

/// A night's peak, in a quarter of an hour.
#[test]
fn cron_jobs_come_by_the_time_that_the_file_says() {
    let jobs = |start: &str| {
        let report = play(&format!(
            "{NODES}
start: {start}
duration: 15m
objects:
- apiVersion: batch/v1
  kind: CronJob
  metadata: {{ name: nightly }}
  spec:
    schedule: 0 2 * * *
    timeZone: Europe/Berlin
    jobTemplate:
      spec: {{ template: {{ spec: {{ restartPolicy: Never, containers: [{{ name: c, image: i }}] }} }} }}
"
        ));
        report.workloads.iter().filter(|w| w.kind == "Job").count()
    };
    assert_eq!(jobs("2026-03-03T00:55:00Z"), 1);
    assert_eq!(jobs("2026-03-03T01:55:00Z"), 0);
}

/// Objects that are there from the beginning are there in any order, and nodes of a List are nodes.
#[test]
fn objects_may_come_in_any_order() {
    let web = deployment("web", 2, "'1'").replace("name: web }", "name: web, namespace: team }");
    let report = play(&format!(
        "
duration: 2m
objects:
- {web}
- {{ apiVersion: v1, kind: Namespace, metadata: {{ name: team, labels: {{ a: b }} }} }}
- apiVersion: v1
  kind: List
  items:
  - {{ apiVersion: v1, kind: Node, metadata: {{ name: one }}, status: {{ allocatable: {{ cpu: '4', memory: 4Gi, pods: '9' }} }} }}
events:
- {{ at: 1m, create: {{ apiVersion: v1, kind: Node, metadata: {{ name: two }} }} }}
"
    ));
    let last = report.samples.last().expect("samples");
    assert_eq!((last.nodes_ready, last.running), (2, 2), "{report:#?}");
}

/// Volumes are where their first pods went: when the only node there has gone, its pod waits.
#[test]
fn the_pods_of_a_stateful_set_follow_their_volumes() {
    let report = play(
        "
nodes:
- { name: n, count: 3, capacity: { cpu: '4', memory: 8Gi, pods: '20' }, zones: [a, b, c] }
duration: 15m
sampleEvery: 1m
objects:
- apiVersion: storage.k8s.io/v1
  kind: StorageClass
  metadata: { name: fast }
  provisioner: csi.example.com
  volumeBindingMode: WaitForFirstConsumer
- apiVersion: apps/v1
  kind: StatefulSet
  metadata: { name: db }
  spec:
    replicas: 3
    serviceName: db
    selector: { matchLabels: { app: db } }
    volumeClaimTemplates:
    - metadata: { name: data }
      spec:
        storageClassName: fast
        accessModes: [ReadWriteOnce]
        resources: { requests: { storage: 10Gi } }
    template:
      metadata: { labels: { app: db } }
      spec:
        affinity:
          podAntiAffinity:
            requiredDuringSchedulingIgnoredDuringExecution:
            - topologyKey: topology.kubernetes.io/zone
              labelSelector: { matchLabels: { app: db } }
        containers:
        - { name: c, image: i, volumeMounts: [{ name: data, mountPath: /data }] }
events:
- { at: 5m, remove: { nodes: [n-0] } }
",
    );
    let at = |minute: u64| report.samples.iter().find(|s| s.at_seconds == minute * 60);
    assert_eq!(at(4).map(|s| s.running), Some(3), "{report:#?}");
    let last = report.samples.last().expect("samples");
    assert_eq!((last.running, last.pending), (2, 1));
    let [pending] = report.pending.as_slice() else {
        panic!("{:#?}", report.pending);
    };
    assert_eq!(pending.owner, "StatefulSet/db");
    assert!(
        pending.cause.contains("PersistentVolume's node affinity"),
        "{pending:?}"
    );
    let said = "volumes of csi.example.com are made at once";
    assert!(report.notes.iter().any(|n| n.contains(said)), "{report:#?}");
}

/// Jobs end, and pods of higher priority take the place of others.
#[test]
fn jobs_end_and_priorities_count() {
    let web = deployment("web", 8, "'1'");
    let urgent = deployment("urgent", 3, "'1'").replace(
        "terminationGracePeriodSeconds: 5",
        "priorityClassName: urgent, terminationGracePeriodSeconds: 5",
    );
    let report = play(&format!(
        "{NODES}
duration: 20m
objects:
- {{ apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {{ name: urgent }}, value: 1000 }}
- apiVersion: batch/v1
  kind: Job
  metadata: {{ name: sum, namespace: batch }}
  spec:
    completions: 6
    parallelism: 3
    template:
      metadata: {{ annotations: {{ simulate.tiphys.io/runs-for: 30s }} }}
      spec: {{ restartPolicy: Never, containers: [{{ name: c, image: i }}] }}
- {web}
events:
- {{ at: 5m, create: {urgent} }}
"
    ));
    let sum = report
        .workloads
        .iter()
        .find(|w| w.name == "sum")
        .expect("the Job");
    assert_eq!(
        (sum.ready, sum.wanted, sum.namespace.as_str()),
        (6, 6, "batch")
    );
    assert_eq!(report.evictions.preempted, 3, "{:?}", report.evictions);
    let web = report
        .pending
        .iter()
        .find(|p| p.owner == "Deployment/web")
        .expect("pending");
    assert_eq!(web.pods, 3);
}

/// The example of the documentation, with more nodes: 50 of them.
#[test]
fn fifty_nodes_give_the_same_report_for_the_same_seed() {
    let text = include_str!("../../../docs/simulate.yaml").replace("count: 12", "count: 47");
    let text = text.replace("pool: general, count: 1 }", "pool: general, count: 20 }");
    let (one, two) = (play(&text), play(&text));
    assert_eq!(one, two);
    assert_eq!(one.nodes, 50);
    let jobs: Vec<_> = one.workloads.iter().filter(|w| w.kind == "Job").collect();
    assert_eq!(jobs.len(), 5);
    assert!(jobs.iter().all(|j| j.ready == 8), "{jobs:?}");
    assert!(
        one.evictions.by_taints > 0 && one.evictions.by_request > 0,
        "{:?}",
        one.evictions
    );
}

/// The example of chance: as it is in the soak, else a third of its hour on few nodes.
#[test]
fn what_is_left_to_chance_is_drawn_from_the_seed() {
    let is_soak = std::env::var_os("TIPHYS_SOAK").is_some();
    let mut text = include_str!("../../../docs/simulate-random.yaml").to_owned();
    if !is_soak {
        for (long, short) in [
            ("duration: 1h", "duration: 20m"),
            ("count: 5000", "count: 12"),
            ("replicas: 60", "replicas: 12"),
            ("at: 5m", "at: 1m"),
            ("until: 50m", "until: 15m"),
            ("until: 40m", "until: 15m"),
            ("perHour: 10\n", "perHour: 30\n"),
            ("uniform: [5m, 20m]", "uniform: [2m, 5m]"),
        ] {
            assert!(text.contains(long), "{long}");
            text = text.replace(long, short);
        }
    }
    let (nodes, replicas) = if is_soak { (5_000, 60) } else { (12, 12) };
    let report = play(&text);
    assert_eq!(report.nodes, nodes);
    let named = |name: &str| {
        let jobs = report.workloads.iter().filter(|w| w.kind == "Job");
        jobs.filter(|w| w.name.starts_with(name)).count()
    };
    // On the average 98 of the one and 6 of the other; in the short form 28 and 7.
    let (work, reports) = (named("work-"), named("report-"));
    let likely = if is_soak { 50..150 } else { 10..60 };
    assert!(likely.contains(&work), "{work}");
    assert!((1..20).contains(&reports), "{reports}");
    // They end one after the other, nodes fail and come back.
    let finished: Vec<usize> = report.samples.iter().map(|s| s.finished).collect();
    assert!(
        finished.last() > finished.get(finished.len() / 2),
        "{finished:?}"
    );
    let ready: Vec<usize> = report.samples.iter().map(|s| s.nodes_ready).collect();
    assert!(ready.iter().any(|n| *n < nodes), "{ready:?}");
    assert!(ready.windows(2).any(|w| w[0] < w[1]), "{ready:?}");
    let shop = report.workloads.iter().find(|w| w.name == "shop");
    assert_eq!(shop.expect("the shop").wanted, replicas);
    if !is_soak {
        assert_eq!(report, play(&text), "the same seed");
        let other = play(&text.replace("seed: 7", "seed: 8"));
        assert_ne!(report.samples, other.samples, "another seed");
    }
}

/// Of a zone of which most is dark beside another, no more than the first nodes to be found out lose
/// their pods: the fault is more likely between them and the control plane.
#[test]
fn a_zone_that_is_half_dark_keeps_its_pods() {
    let web = deployment("web", 20, "'1'");
    let evicted = |failing: usize| {
        let names: Vec<String> = (0..failing).map(|n| format!("n-{n}")).collect();
        let report = play(&format!(
            "nodes:
- {{ name: n, count: 10, capacity: {{ cpu: '2', memory: 8Gi, pods: '20' }}, zones: [a] }}
- {{ name: m, count: 10, capacity: {{ cpu: '2', memory: 8Gi, pods: '20' }}, zones: [b] }}
duration: 20m
objects: [{web}]
events:
- {{ at: 5m, fail: {{ nodes: [{}] }} }}
",
            names.join(", ")
        ));
        report.evictions.by_taints
    };
    // Each node has one or two pods. One node after another loses them …
    let (few, most, all) = (evicted(5), evicted(7), evicted(10));
    assert!(few >= 4, "{few}");
    // … but not where much of a zone has gone …
    assert!(most < few, "{most} {few}");
    // … unless the whole zone has.
    assert!(all >= 8, "{all}");
}
